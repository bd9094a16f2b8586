"""Parse filters from mappings, and from conditions on a command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from lsr.errors import DataError
from lsr.index.segment.filters import OPERATORS, Condition, Filter, Where, WrittenValue
from lsr.io.metadata import plain_value

_DEEPEST = 100  # levels of nested filters
_MOST_BITS = 14_280  # bits of a whole number with 4,300 digits, the most that Python reads and writes
_WRITTEN_OPERATORS = {"=": "in", "==": "in", "!=": "not in", "^=": "prefix", "*=": "contains"}
_TEXT_CONDITION = re.compile(
    r"\s*(?P<name>.+?)\s*(?P<operator>==|!=|<=|>=|\^=|\*=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL
)
_WRITTEN_VALUE = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>[^,]*))(?P<comma>,|\Z)', re.DOTALL)


def parse_where(where: Where) -> Filter:
    """Parse a filter.

    Raises:
        DataError: `where` isn't a filter; the message lists every problem.
    """
    wrong: list[str] = []
    parsed = _parsed(where, wrong)
    if wrong:
        raise DataError("; ".join(wrong), "where")
    return parsed


def as_filter(where: Where | Filter) -> Filter:
    """Parse a filter, unless it is already parsed."""
    return where if isinstance(where, Filter) else parse_where(where)


def _parsed(where: Any, wrong: list[str], depth: int = _DEEPEST) -> Filter:
    if not depth:
        wrong.append(f"filters are nested more than {_DEEPEST} deep")
        return Filter("all", ())
    if not isinstance(where, Mapping):
        wrong.append(f'a filter is a mapping of column to condition, as {{"year": {{">=": 2020}}}}, got {where!r}')
        return Filter("all", ())
    parts: list[Condition | Filter] = []
    for key, condition in where.items():
        if key in ("and", "or"):
            if not isinstance(condition, list | tuple):
                wrong.append(f"{key} takes a list of filters, got {condition!r}")
                continue
            inner = tuple(_parsed(one, wrong, depth - 1) for one in condition)
            parts.append(Filter("all" if key == "and" else "any", inner))
        elif key == "not":
            parts.append(Filter("none", (_parsed(condition, wrong, depth - 1),)))
        elif condition == {}:
            wrong.append(f"{key}: no condition; there are {', '.join(OPERATORS)}")
        elif isinstance(condition, Mapping):
            parts += [c for op, value in condition.items() if (c := _condition(key, op, value, wrong))]
        else:
            plain = "in" if isinstance(condition, list | tuple | set | frozenset) else "=="
            parts += [c] if (c := _condition(key, plain, condition, wrong)) else []
    return Filter("all", tuple(parts))


def _condition(column: Any, name: Any, value: Any, wrong: list[str]) -> Condition | None:
    many = isinstance(value, list | tuple | set | frozenset)
    values = tuple(map(_plain, value if many else (value,)))
    problem = None
    if any(isinstance(one, int) and one.bit_length() > _MOST_BITS for one in values):
        problem = f"{column}: a whole number with more digits than Python can read"
    elif not isinstance(column, str):
        problem = f"a column's name is a string, got {column!r}"
    elif name not in OPERATORS:
        problem = f"{column}: unknown operator {name!r}; there are {', '.join(OPERATORS)}"
    elif many != (name in ("in", "not in")):
        problem = f"{column}: {name} takes {'one value' if many else 'a list'}, got {value!r}"
    elif name == "exists" and not isinstance(value, bool):
        problem = f"{column}: exists takes true or false, got {value!r}"
    elif not all(isinstance(one, bool | int | float | str) for one in values):
        lacking = '; {"exists": false} finds documents without a value' if None in values else ""
        problem = f"{column}: values are texts, numbers, times, true or false, got {value!r}{lacking}"
    if problem:
        wrong.append(problem)
        return None
    return Condition(column, name, values)


def _plain(value: Any) -> Any:
    """Convert a value to what metadata hold: times to texts; decimals and numpy numbers to Python numbers."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    return plain_value(value) if isinstance(value, date | np.datetime64 | Decimal | UUID) else value


def parse_where_text(texts: Sequence[str]) -> Filter | None:
    """Parse filters from a command line: JSON objects, or conditions such as "year>=2020" and "lang=en,de".

    A value in double quotes may contain commas: author="Smith, John". A quote inside it is doubled.

    Returns:
        A filter that requires all conditions; None if there are none.

    Raises:
        DataError: As for `parse_where`.
    """
    parts: list[Condition | Filter] = []
    wrong: list[str] = []
    for text in texts:
        if text.lstrip().startswith("{"):
            try:
                parts.append(_parsed(json.loads(text), wrong))
            except (ValueError, RecursionError) as error:
                wrong.append(f"{text[:80]}: not JSON: {error}")
        elif match := _TEXT_CONDITION.fullmatch(text):
            name, values = match["operator"], _written(match["value"])
            name = _WRITTEN_OPERATORS.get(name, name)
            if values is None:
                wrong.append(f"{text!r}: a double quote is not closed")
                continue
            if name not in ("in", "not in"):
                values = (WrittenValue(match["value"]),) if len(values) > 1 else values
            parts.append(Condition(match["name"], name, values))
        else:
            wrong.append(f"{text!r} is not a condition such as year>=2020 or lang=en,de, nor a JSON object")
    if wrong:
        raise DataError("; ".join(wrong), "--where")
    return Filter("all", tuple(parts)) if parts else None


def _written(text: str) -> tuple[WrittenValue, ...] | None:
    """Split values at commas; None if a quote isn't closed."""
    values: list[WrittenValue] = []
    at, more = 0, True
    while more:
        match = _WRITTEN_VALUE.match(text, at)
        assert match is not None  # the pattern matches any text
        if match["quoted"] is None and match["plain"].startswith('"'):
            return None
        quoted = match["quoted"]
        values.append(WrittenValue(match["plain"].strip() if quoted is None else quoted.replace('""', '"')))
        at, more = match.end(), match["comma"] == ","
    return tuple(values)
