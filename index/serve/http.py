"""A request as handlers see it, and the answers they give."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import pydantic
import pydantic_core

from .problems import Problem, invalid, wrong_values

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
M = TypeVar("M", bound=pydantic.BaseModel)

_DRAINED = 2.0  # seconds that are spent on the rest of a body that is too long, so that its sender reads the answer


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def answer(values: Any, status: int = 200) -> Answer:
    """Something as JSON."""
    return Answer(status, to_json(values))


def problem(what: Problem) -> Answer:
    """A problem document."""
    return Answer(what.status, to_json(what.to_json()), "application/problem+json", tuple(what.headers.items()))


def to_json(values: Any) -> bytes:
    """JSON as every parser reads it: metadata of files may hold NaN, which becomes null, and halves of surrogates."""
    try:
        return pydantic_core.to_json(values, inf_nan_mode="null")
    except ValueError:  # half of a surrogate pair, which UTF-8 doesn't know
        return json.dumps(_finite(values)).encode()


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


class Request:
    """A request.

    Attributes:
        method: GET, POST, DELETE; HEAD is GET.
        path: Decoded.
        headers: By lower-case name.
        rest: What follows a path that ends in "/".
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method = "GET" if scope["method"] == "HEAD" else str(scope["method"])
        self.path = str(scope["path"])
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.rest = ""
        self._query_string, self._receive = bytes(scope["query_string"]), receive

    def parameters(self, *known: str) -> dict[str, str]:
        """What stands behind the question mark.

        Raises:
            Problem: Something that isn't known.
        """
        given = dict(parse_qsl(self._query_string.decode("latin-1"), keep_blank_values=True))
        wrong = [(name[:80], f"unknown parameter; known are {', '.join(known)}") for name in given if name not in known]
        if wrong:
            raise wrong_values(wrong)
        return given

    async def asked(self, model: type[M], most: int, patience: float) -> M:
        """The body.

        Args:
            model: What it has to be.
            most: Bytes.
            patience: Seconds that sending it may take.

        Raises:
            Problem: It is something else, too long, or doesn't arrive.
        """
        kind = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            got = kind.decode("latin-1")[:80] or "none"
            raise Problem(415, f"the body has to be JSON, with the content type application/json, got {got}")
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Problem(415, "compressed bodies aren't taken; send it as it is")
        body = await self._body(most, patience)
        try:
            found: M = model.model_validate_json(body or b"{}")
            return found
        except pydantic.ValidationError as error:
            raise invalid(error.errors(include_url=False), model) from None

    async def _body(self, most: int, patience: float) -> bytes:
        declared = int(self.headers.get(b"content-length", b"0"))
        too_long = Problem(413, f"the body is larger than {most:,} bytes: send less at once", close=True)
        if declared > most and b"expect" in self.headers:  # nothing is sent before we ask for it
            raise too_long
        chunks: list[bytes] = []
        size, over, until = 0, False, asyncio.timeout(patience)
        try:
            async with until:
                more = True
                while more and size <= 2 * most:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "the client is gone", close=True)
                    chunk = message.get("body", b"")
                    size, more = size + len(chunk), bool(message.get("more_body"))
                    if max(size, declared) <= most:
                        chunks.append(chunk)
                    elif not over:
                        over = True
                        chunks.clear()
                        until.reschedule(asyncio.get_running_loop().time() + _DRAINED)
        except TimeoutError:
            if not over:
                raise Problem(408, f"the body didn't arrive within {patience:g} s", close=True) from None
        if over:
            raise too_long
        return b"".join(chunks)
