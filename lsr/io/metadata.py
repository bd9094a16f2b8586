"""Convert metadata to JSON values: numbers, texts, true and false, and lists and objects of these.

Dates and times become ISO 8601 texts, which filters compare as times (`parse_time`). Decimals and numpy numbers become
numbers, UUIDs become texts. NaN, NaT and pandas' NA count as missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from lsr.errors import DataError

_ABSENT = object()
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?\s?(?:Z|[+-]\d\d(?::?\d\d){0,2})?)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEPTH = 300  # levels of nested lists and objects; some versions of Python can't read more


def metadata_text(metadata: Mapping[str, Any], doc_id: str, where: str) -> str:
    """Convert metadata to JSON.

    Raises:
        DataError: JSON can't hold a value; the message names its key and type.
    """
    try:
        return _json(metadata)
    except (TypeError, ValueError, RecursionError):
        return _json(plain_metadata(metadata, doc_id, where))


def checked_metadata(metadata: Mapping[str, Any], doc_id: str, where: str) -> Mapping[str, Any]:
    """Return the metadata unchanged if JSON can hold it, else the result of `plain_metadata`."""
    try:
        _json(metadata)
        return metadata
    except (TypeError, ValueError, RecursionError):
        return plain_metadata(metadata, doc_id, where)


def _json(metadata: Mapping[str, Any]) -> str:
    text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    text.encode()
    if text.count("{") + text.count("[") > _DEPTH:
        _require_depth(metadata)
    return text


def _require_depth(metadata: Mapping[str, Any]) -> None:
    level: list[Any] = [metadata]
    for _ in range(_DEPTH):
        items = (x.values() if isinstance(x, Mapping) else x for x in level)
        level = [x for inner in items for x in inner if isinstance(x, Mapping | list | tuple)]
    if level:
        raise RecursionError


def plain_metadata(metadata: Mapping[str, Any], doc_id: str, where: str) -> dict[str, Any]:
    """Convert metadata to JSON values; missing values are left out.

    Raises:
        DataError: JSON can't hold a value; the message names its key and type.
    """
    try:
        plain = dict(_plain(metadata))
        _json(plain)
    except _Unknown as unknown:
        key, what = ".".join(reversed(unknown.path)), unknown.what
        raise DataError(
            f"document {doc_id!r}: the metadata {key!r} is {what}; metadata are numbers, texts, true or false, dates, "
            "times, and lists or objects of them: leave it out, or make it one of these",
            where,
        ) from None
    except UnicodeEncodeError:
        raise DataError(f"document {doc_id!r}: metadata holds an unpaired surrogate", where) from None
    except RecursionError:
        raise DataError(f"document {doc_id!r}: metadata is nested too deeply", where) from None
    return plain


def plain_value(value: Any) -> Any:
    """Convert a value to a JSON value; None if it is missing.

    Raises:
        ValueError: JSON can't hold the value.
    """
    made = _plain(value)
    return None if made is _ABSENT else made


class _Unknown(ValueError):
    """A value that JSON can't hold, and the keys that lead to it, innermost first."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []


def is_absent(value: Any) -> bool:
    """Whether a value is missing: None, NaN, NaT, NA."""
    if value is None or isinstance(value, str):
        return value is None
    return type(value).__name__ in ("NaTType", "NAType") or (isinstance(value, float | Decimal) and math.isnan(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        found = {}
        for key, item in value.items():
            try:
                if not isinstance(key, str | int | float | np.integer):
                    raise _Unknown(f"under a key of type {type(key).__name__}")
                if (made := _plain(item)) is not _ABSENT:
                    found[str(key)] = made
            except _Unknown as unknown:
                unknown.path.append(str(key))
                raise
        return found
    if isinstance(value, np.ndarray):
        value = list(value)
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return [None if item is _ABSENT else item for item in items]
    if isinstance(value, np.datetime64):
        return _ABSENT if np.isnat(value) else str(np.datetime_as_string(value))
    if isinstance(value, np.generic) and not isinstance(value, np.timedelta64):
        value = value.item()
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return _ABSENT
        if not math.isfinite(value):
            raise _Unknown(f"{value}, not a finite number")
        return int(value) if isinstance(value, Decimal) and value == int(value) else float(value)
    if is_absent(value):
        return _ABSENT
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise _Unknown(f"of type {type(value).__name__}")


def parse_time(value: Any) -> int | None:
    """Convert a date or time to microseconds since 1970, UTC; None if the value is neither.

    A time without a time zone is taken as UTC, and a date as its first moment.

    Args:
        value: A `datetime` or `date`, or a text in ISO 8601 with at least year, month and day.
    """
    if isinstance(value, str):
        if not _TIME.fullmatch(value):
            return None
        try:
            value = datetime.fromisoformat(value)
        except ValueError:  # the 31st of February
            return None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    try:
        since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
    except (OverflowError, ValueError):
        return None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
