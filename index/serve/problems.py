"""Errors as the client sees them: problem documents (RFC 9457) that say what is wrong, where, and how to mend it."""

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

_LISTED = 20  # wrong values that are told
_repr = reprlib.Repr()  # of a large value, only what is shown
_NAMESPACE = "urn:lsr:"
_NO_FILES = {number: os.strerror(number) for number in (errno.EMFILE, errno.ENFILE)}
# What Python raises, and what HTTP calls it: the first that fits.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.IndexLocked, 409),
    (errors.OutputError, 507),
    (errors.CorruptIndex, 503),
    (errors.RerankerError, 500),
    (errors.LsrError, 422),
    (ValueError, 422),
    (MemoryError, 503),
)
# Names travel as the problem's type, and the client raises the same again.
_RAISED: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), ValueError)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not errors.MissingExtra
}


class Problem(Exception):
    """An answer that tells of an error.

    Attributes:
        status: Of HTTP.
        detail: What is wrong, and the mend.
        kind: The exception's name in Python, if there is one.
        errors: [(where, message)], the values that are wrong.
        headers: More headers of the answer.
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
        """The problem document."""
        return {
            "type": _NAMESPACE + self.kind if self.kind else "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "errors": [{"where": where, "message": message} for where, message in self.errors],
        }


def wrong_values(wrong: Sequence[tuple[str, str]], count: int | None = None) -> Problem:
    """What to answer to values that make no sense; all of them at once, or the first of `count`."""
    shown = [f"{where}: {message}" if where else message for where, message in wrong[:_LISTED]]
    count = len(wrong) if count is None else count
    more = [f"and {count - _LISTED:,} more"] if count > _LISTED else []
    return Problem(422, "; ".join([*shown, *more]), kind="ValueError", errors=wrong[:_LISTED])


def problem_of(error: Exception, names: Mapping[str, str]) -> Problem | None:
    """What to answer to an exception; None for a fault of ours.

    Args:
        error: The exception.
        names: As of `without_paths`.
    """
    if isinstance(error, Problem):
        return error
    if _too_many_files(error):
        return Problem(
            503,
            "the server has too many files open; come again. Whoever runs it raises the limit (ulimit -n), or merges "
            "the index' segments",
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
    """Whether an exception, or what it came of, is a want of file descriptors; pyarrow tells that in words alone."""
    while error is not None:
        if isinstance(error, OSError) and (error.errno in _NO_FILES or any(map(str(error).count, _NO_FILES.values()))):
            return True
        error = error.__cause__
    return False


def without_paths(text: str, names: Mapping[str, str]) -> str:
    """A message for clients, who have no business with the machine's folders.

    Args:
        text: The message.
        names: {folder of an index: its name}.
    """
    for path, name in names.items():
        text = text.replace(path, name)
    return text


def client_error(kind: str, detail: str) -> Exception | None:
    """The exception that a problem document's type stands for; None if it names none."""
    raised = _RAISED.get(kind.removeprefix(_NAMESPACE))
    return raised(detail) if raised is not None and kind.startswith(_NAMESPACE) else None


# --- what pydantic says -----------------------------------------------------------------------------------------------


def invalid(found: Sequence[Mapping[str, Any]], model: Any) -> Problem:
    """What to answer to a body that isn't what a model says.

    Args:
        found: The errors of a pydantic.ValidationError; the first of them are told.
        model: The model.
    """
    if found[0]["type"] == "json_invalid":
        return Problem(400, str(found[0]["msg"]).replace("Invalid JSON", "the body is no JSON"))
    return wrong_values([_told(one, model) for one in found[:_LISTED]], len(found))


def _told(one: Mapping[str, Any], model: Any) -> tuple[str, str]:
    """Where something is wrong, and what; a body of 8 MB may be a single name or value."""
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
    """The fields of what stands at a place within a model."""
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
    """A type, and what it is made of."""
    return [kind, *(part for inner in typing.get_args(kind) for part in _parts(inner))]
