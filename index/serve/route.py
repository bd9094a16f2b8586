"""Route: an entry of the route table."""

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
    """How a method at a path is handled.

    Attributes:
        handler: Handles the request.
        role: The role that a key needs; None if no key is needed.
        asked: Model of the body; None if there is no body.
        given: Model of the response.
        summary: One-line description.
    """

    handler: Handler
    role: Role | None
    asked: Any
    given: Any
    summary: str
