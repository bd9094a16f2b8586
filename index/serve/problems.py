"""Errors for clients: problem documents (RFC 9457) that say what is wrong, where, and how to fix it."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import os
import reprlib
import typing
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from lsr import errors

_LISTED = 20  # invalid values listed in a message
_repr = reprlib.Repr()  # abbreviates large values
_NAMESPACE = "urn:lsr:"
_NO_FILES = {number: os.strerror(number) for number in (errno.EMFILE, errno.ENFILE)}
# HTTP status for each Python exception; the first match counts.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.IndexLocked, 409),
    (errors.OutputError, 507),
    (errors.CorruptIndex, 503),
    (errors.RerankerError, 500),
    (errors.LsrError, 422),
    (ValueError, 422),
    (MemoryError, 503),
)
# A problem's type is the name of the exception, so that the client can raise the same exception.
_RAISED: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), ValueError)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not errors.MissingExtra
}


class Problem(Exception):
    """An error response.

    Attributes:
        status: HTTP status.
        detail: What is wrong and how to fix it.
        kind: Name of the Python exception, if there is one.
        errors: [(where, message)], the invalid values.
        headers: Additional response headers.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str = "",
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        retry_after: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.kind, self.errors = status, detail, kind, list(errors)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)
        if close:
            self.headers["connection"] = "close"

    def to_json(self) -> dict[str, Any]:
        """Return the problem document."""
        return {
            "type": _NAMESPACE + self.kind if self.kind else "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "errors": [{"where": where, "message": message} for where, message in self.errors],
        }


def wrong_values(wrong: Sequence[tuple[str, str]], count: int | None = None) -> Problem:
    """Make the problem for invalid values; `count` is the number of all invalid values if only some are passed."""
    shown = [f"{where}: {message}" if where else message for where, message in wrong[:_LISTED]]
    count = len(wrong) if count is None else count
    more = [f"and {count - _LISTED:,} more"] if count > _LISTED else []
    return Problem(422, "; ".join([*shown, *more]), kind="ValueError", errors=wrong[:_LISTED])


def problem_of(error: Exception, names: Mapping[str, str]) -> Problem | None:
    """Convert an exception to a problem, or return None for an internal error.

    Args:
        error: The exception.
        names: As for `without_paths`.
    """
    if isinstance(error, Problem):
        return error
    if _too_many_files(error):
        return Problem(
            503,
            "the server has too many files open; try again later. Its operator can raise the limit (ulimit -n) or "
            "merge the index's segments",
            retry_after=1,
        )
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return None

    detail = without_paths(str(error), names) or type(error).__name__
    if isinstance(error, MemoryError):
        detail = "not enough memory for this; ask for less at once"
    where = []
    if isinstance(error, errors.DataError):
        where = [(without_paths(error.where, names), without_paths(error.problem, names))]
    kind = next((c.__name__ for c in type(error).__mro__ if c.__name__ in _RAISED), "")
    return Problem(status, detail, kind=kind, errors=where, retry_after=1 if status in (409, 503) else None)


def _too_many_files(error: BaseException | None) -> bool:
    """Whether an exception was caused by a lack of file descriptors; pyarrow says so only in its message."""
    while error is not None:
        if isinstance(error, OSError) and (error.errno in _NO_FILES or any(map(str(error).count, _NO_FILES.values()))):
            return True
        error = error.__cause__
    return False


def without_paths(text: str, names: Mapping[str, str]) -> str:
    """Replace index folders in a message by names, because clients shouldn't see the machine's paths.

    Args:
        text: The message.
        names: {folder of an index: its name}.
    """
    for path, name in names.items():
        text = text.replace(path, name)
    return text


def client_error(kind: str, detail: str) -> Exception | None:
    """Return the exception that a problem's type names, or None if it names none."""
    raised = _RAISED.get(kind.removeprefix(_NAMESPACE))
    return raised(detail) if raised is not None and kind.startswith(_NAMESPACE) else None


# --- validation errors ------------------------------------------------------------------------------------------------


def invalid(found: Sequence[Mapping[str, Any]], model: Any) -> Problem:
    """Make the problem for a body that doesn't fit its model.

    Args:
        found: The errors of a pydantic.ValidationError; the first ones are listed.
        model: The model.
    """
    if found[0]["type"] == "json_invalid":
        return Problem(400, str(found[0]["msg"]).replace("Invalid JSON", "the body isn't JSON"))
    return wrong_values([_told(one, model) for one in found[:_LISTED]], len(found))


def _told(one: Mapping[str, Any], model: Any) -> tuple[str, str]:
    """Return (where, message) for an error, abbreviated because a single name or value may fill a body of 8 MB."""
    place = [part if isinstance(part, int) else _short(part) for part in one["loc"]]
    where = ".".join(map(str, place))
    if one["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known(model, place[:-1])
        near = difflib.get_close_matches(str(place[-1]).lower(), known, n=1, cutoff=0.5)
        return where, "unknown field; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
    if one["type"] == "value_error":
        return where, _short(str(one["msg"]).removeprefix("Value error, "), 1000)
    if one["type"] in ("missing", "missing_argument"):
        return where, "is missing"
    value = one["input"]
    shown = _short(repr(_short(value)) if isinstance(value, str) else _repr.repr(value))
    return where, f"{str(one['msg']).replace('Input should', 'should')}, got {shown}"


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _known(model: Any, place: Sequence[str | int]) -> list[str]:
    """Return the field names at a location within a model."""
    fields = _fields(model)
    for part in place:
        if part in fields:
            inner = [kind for kind in _parts(fields[str(part)]) if _fields(kind)]
            fields = _fields(inner[0]) if inner else fields
    return list(fields)


def _fields(model: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(model) and isinstance(model, type):
        return typing.get_type_hints(model)
    return {name: field.annotation for name, field in getattr(model, "model_fields", {}).items()}


def _parts(kind: Any) -> list[Any]:
    """Return a type and its type arguments, recursively."""
    return [kind, *(part for inner in typing.get_args(kind) for part in _parts(inner))]
