"""Route: what a server does at one of its paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lsr.index.serve.keys import Role
from lsr.index.serve.state import Serving

Handler = Callable[[Serving, Request, Any], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """What a method does at a path.

    Attributes:
        handler: Does it.
        role: Whose key it takes; None for nobody's.
        asked: What the body has to be, if there is one.
        given: What the answer is.
        summary: In a line.
    """

    handler: Handler
    role: Role | None
    asked: Any
    given: Any
    summary: str
