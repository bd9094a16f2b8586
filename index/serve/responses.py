"""Read requests and write responses."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic
import pydantic_core
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from lsr.index.serve.problems import Problem, invalid, wrong_values
from lsr.index.serve.settings import ServeSettings

M = TypeVar("M", bound=pydantic.BaseModel)

LARGE = 1 << 16  # bodies with more bytes are parsed in a thread, so that they don't block the event loop
_ERRORS = 20_000  # with more invalid values than this, only their number is reported
_DRAINED = 2.0  # seconds for which an oversized body is still read, because a client reads no answer while it sends


class Answer(Response):
    """A JSON response that every parser accepts: NaN in metadata becomes null, unpaired surrogates are replaced."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialize the content."""
        try:
            return pydantic_core.to_json(content, inf_nan_mode="null")
        except ValueError:  # an unpaired surrogate, which UTF-8 can't encode
            return json.dumps(finite(content)).encode()


def problem(what: Problem) -> Response:
    """Make a response from a problem."""
    return Answer(what.to_json(), what.status, what.headers, "application/problem+json")


def finite(values: Any) -> Any:
    """Replace NaN and infinity by null."""
    if isinstance(values, Mapping):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def parameter(request: Request, name: str) -> str | None:
    """Return the only allowed query parameter; None if it isn't given.

    Raises:
        Problem: There are other parameters.
    """
    wrong = [(given[:80], f"unknown parameter; known are {name}") for given in request.query_params if given != name]
    if wrong:
        raise wrong_values(wrong)
    return request.query_params.get(name)


def length(request: Request, most: int) -> int:
    """Return the declared length of the body; `most` if it isn't declared."""
    return most if "transfer-encoding" in request.headers else int(request.headers.get("content-length", "0"))


async def read(request: Request, model: type[M], settings: ServeSettings) -> M:
    """Read and validate the body.

    Args:
        request: The request.
        model: The expected model.
        settings: Limits on size, time and content.

    Raises:
        Problem: The body doesn't fit the model, is too long, or doesn't arrive.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        got = kind[:80] or "none"
        raise Problem(415, f"the body has to be JSON, with the content type application/json, got {got}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "compressed bodies aren't accepted; send the body uncompressed")
    body = await _body(request, settings.max_body, settings.patience)
    if len(body) > LARGE:
        return await asyncio.to_thread(_parsed, model, body, settings)
    return _parsed(model, body, settings)


async def _body(request: Request, most: int, patience: float) -> bytes:
    declared = length(request, 0)
    too_long = Problem(413, f"the body is larger than {most:,} bytes: send less at once", close=True)
    if declared > most and "expect" in request.headers:  # the client waits for permission to send the body
        raise too_long
    chunks: list[bytes] = []
    size, over = 0, False
    try:
        async with asyncio.timeout(patience) as until:
            async for chunk in request.stream():
                size += len(chunk)
                if max(size, declared) <= most:
                    chunks.append(chunk)
                elif not over:
                    over = True
                    chunks.clear()
                    until.reschedule(asyncio.get_running_loop().time() + _DRAINED)
                if size > 2 * most:
                    break
    except TimeoutError:
        if not over:
            raise Problem(408, f"the body didn't arrive within {patience:g} s", close=True) from None
    except ClientDisconnect:
        raise Problem(400, "the client has disconnected", close=True) from None
    if over:
        raise too_long
    return b"".join(chunks)


def _parsed(model: type[M], body: bytes, settings: ServeSettings) -> M:
    try:
        found: M = model.model_validate_json(body or b"{}", context=settings)
        return found
    except pydantic.ValidationError as error:
        if (count := error.error_count()) > _ERRORS:  # listing them would take longer than finding them
            raise wrong_values([("", f"{count:,} values are wrong: send fewer at once to see which")]) from None
        raise invalid(error.errors(include_url=False, include_context=False), model) from None
