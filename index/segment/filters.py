"""Filters on metadata: which documents a search may return.

    {"year": {">=": 2020, "<": 2024}, "lang": ["en", "de"], "draft": False}

Keys are columns, and all conditions have to hold. A plain value is "==", a list "in"; operators are == != < <= > >=,
in, not in, prefix and contains (of texts; case counts), and exists (true or false). "and" and "or" take lists of
filters, "not" takes one. Of a column of lists a condition holds if it does for any item; != and not in, if == and in
hold for none. A document that lacks the column meets no condition but {"exists": false}; within "not" it does. Numbers
compare exactly, whole ones of any size too.

Dates and times are texts in ISO 8601 ("2024-05-17", "2024-05-17T09:30:00+02:00"). A condition with such a text, a
`datetime` or a `date` compares them as times, to the microsecond, whatever their time zones: without one they are UTC,
and a date is its first moment. Texts that are no times don't meet it.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lsr.errors import DataError
from lsr.index.segment.columns import Columns, Kinds, is_unicode, kinds_of, numbers_of, offsets_of
from lsr.io.metadata import parse_time, plain_value

Where = Mapping[str, Any]
Mask = NDArray[np.bool_]

_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ORDER_OF_TEXTS = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
_COMPARED = 20_000  # texts, to find the nearest
_LISTED, _TOLD = 50, 20  # columns, and wrong conditions, that a message has
_DEEPEST = 100  # filters within filters
_MOST_BITS = 14_280  # of a whole number: it has 4,300 digits then, and Python reads and writes no more
_PARTS_OF_TEXTS = {"prefix": pc.starts_with, "contains": pc.match_substring}
_OPERATORS = ("==", "!=", *_ORDER, "in", "not in", *_PARTS_OF_TEXTS, "exists")
_WRITTEN_OPERATORS = {"=": "in", "==": "in", "!=": "not in", "^=": "prefix", "*=": "contains"}
_TEXT_CONDITION = re.compile(
    r"\s*(?P<name>.+?)\s*(?P<operator>==|!=|<=|>=|\^=|\*=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL
)
_WRITTEN_VALUE = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<plain>[^,]*))(?P<comma>,|\Z)', re.DOTALL)


class _Written(str):
    """A value as somebody wrote it on a command line: the column tells whether it is a number or a text."""

    def __repr__(self) -> str:
        return f"as written {super().__repr__()}"


@dataclass(frozen=True)
class _Condition:
    """One of a filter's leaves. `values` are those that it is compared with."""

    column: str
    operator: str
    values: tuple[Any, ...]

    def to_where(self) -> Where:
        """What it was parsed of."""
        if any(isinstance(value, _Written) for value in self.values):
            raise TypeError(f"{self.column}: a filter of a command line can't be sent: its columns tell what it means")
        value = list(self.values) if self.operator in ("in", "not in") else self.values[0]
        return {self.column: {self.operator: value}}

    def problem(self, kind: str) -> str | None:
        """Why it can't be asked of a column of this kind."""
        kind = kind.removeprefix("list of ")
        if self.operator == "exists" or kind == "empty list":
            return None
        if kind == "truth" and self.operator in _ORDER:
            return f"{self.column} is true or false, which {self.operator} can't compare"
        if kind != "text" and self.operator in _PARTS_OF_TEXTS:
            return f"{self.column} is a {kind}, {self.operator} is for texts"
        for value in self.values:
            if _matching(value, kind) is None:
                shown = str.__repr__(value) if isinstance(value, _Written) else repr(value)
                return f"{self.column} is a {kind}, it can't be compared with {_short(shown)}"
        return None

    def mask(self, columns: Columns) -> Mask:
        """Which documents meet it."""
        column = columns.column(self.column)
        there: Mask = column.is_valid().to_numpy(zero_copy_only=False)
        if self.operator == "exists":
            return there if self.values[0] else ~there
        kind = columns.kinds[self.column].removeprefix("list of ")
        if pa.types.is_list(column.type):
            items, offsets = np.flatnonzero(self._of(column.values, kind, columns)), offsets_of(column)
            items = items[(items >= offsets[0]) & (items < offsets[-1])]
            met = np.zeros(len(column), bool)
            met[np.searchsorted(offsets, items, side="right") - 1] = True
        else:
            met = self._of(column, kind, columns)
        return there & (~met if self.operator in ("!=", "not in") else met)

    def _of(self, array: pa.Array, kind: str, columns: Columns) -> Mask:
        """Which of some plain values meet it, != and not in taken for their opposites."""
        if not len(array):
            return np.zeros(0, bool)
        if pa.types.is_dictionary(array.type):  # each text is compared once, however often it occurs
            of_each = self._of(array.dictionary, kind, columns)
            indices = array.indices.fill_null(0).to_numpy()
            return of_each[indices] if len(of_each) else np.zeros(len(indices), bool)  # all of them missing
        values = [_matching(value, kind) for value in self.values]
        if kind == "text":
            return self._of_texts(array, values, columns)
        if kind == "truth":
            return np.isin(array.fill_null(False).to_numpy(zero_copy_only=False), values)
        numbers = numbers_of(array)
        met = np.zeros(len(numbers), bool)
        for value in values:
            met |= _compared(numbers, self.operator if self.operator in _ORDER else "==", value)
        return met

    def _of_texts(self, array: pa.Array, values: list[Any], columns: Columns) -> Mask:
        """Which texts meet it: compared by Arrow, whose UTF-8 has the order of code points as Python's texts have;
        a time with those texts that are times.
        """
        if part_of := _PARTS_OF_TEXTS.get(self.operator):
            if not is_unicode(values[0]):
                return np.zeros(len(array), bool)
            return _as_mask(part_of(array, str(values[0])).fill_null(False))
        times = {time for value in values if (time := parse_time(value)) is not None}
        if self.operator in _ORDER and times:
            there, found = columns.times(self.column)
            return np.asarray(there & _ORDER[self.operator](found, next(iter(times))), bool)
        texts = pa.array([value for value in values if isinstance(value, str) and is_unicode(value)], array.type)
        if self.operator not in _ORDER:
            met = _as_mask(pc.is_in(array, texts))
            if times:
                there, found = columns.times(self.column)
                met |= there & np.isin(found, list(times))
            return met
        if not len(texts):
            texts = pa.array([values[0].encode("utf-8", "surrogatepass")], pa.binary())
            array = array.cast(pa.binary())
        return _as_mask(_ORDER_OF_TEXTS[self.operator](array, texts[0]).fill_null(False))


@dataclass(frozen=True)
class Filter:
    """A parsed filter.

    Attributes:
        how: "all" or "any" of its parts, or "none" of them.
        parts: Conditions and other filters.
    """

    how: str
    parts: tuple[_Condition | Filter, ...]

    def to_where(self) -> Where:
        """A mapping that is parsed to a filter that means the same."""
        parts = [part.to_where() for part in self.parts]
        if self.how == "none":
            return {"not": parts[0] if len(parts) == 1 else {"or": parts}}
        return {"and" if self.how == "all" else "or": parts}

    def require_known(self, segments: Sequence[Kinds]) -> None:
        """Refuse a filter that no document could be asked.

        Raises:
            DataError: Columns that none of the segments has, of mixed kinds, or compared with values of another kind.
        """
        known, mixed = kinds_of(segments)
        names = sorted(known)
        more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
        there_are = f"there are {', '.join(names[:_LISTED]) or 'none at all'}{more}"
        wrong: dict[str, None] = {}
        for condition in self.conditions():
            name, problem = condition.column, None
            if name in mixed:
                problem = f"{_short(name)} can't be filtered by: {mixed[name]}"
            elif name not in known:
                near = get_close_matches(name, names, 1)
                problem = f"there is no column {_short(name)!r}; {there_are}" + (
                    f"; did you mean {_short(near[0])!r}?" if near else ""
                )
            else:
                problem = condition.problem(known[name])
            if problem:
                wrong[problem] = None
            if len(wrong) > _TOLD:
                break
        if wrong:
            told = list(wrong)
            raise DataError("; ".join([*told[:_TOLD], *(["and more"] if len(told) > _TOLD else [])]), "where")

    def hints(self, segments: Sequence[Columns]) -> list[str]:
        """Texts that == or in asks for and that no document has, each with the nearest that there are.

        Args:
            segments: The columns of all documents, with deleted ones.
        """
        said: dict[str, None] = {}
        for condition in self.conditions():
            if condition.operator not in ("==", "in"):
                continue
            known: dict[str, None] = {}
            for columns in segments:
                if columns.kinds.get(condition.column, "").endswith("text"):
                    known |= dict.fromkeys(columns.texts(condition.column))
            for value in condition.values if known else ():
                if str(value) in known or parse_time(value) is not None:
                    continue
                near = _nearest(str(value), list(known))
                more = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
                said[f"{condition.column} has no value {_short(str(value))!r}{more}"] = None
        return list(said)[:_TOLD]

    def conditions(self) -> Iterable[_Condition]:
        """All leaves."""
        for part in self.parts:
            yield from part.conditions() if isinstance(part, Filter) else (part,)

    def mask(self, columns: Columns | None, n_docs: int) -> Mask:
        """(n_docs,) bool, which documents of a segment meet it.

        Args:
            columns: Of the segment; None if its documents have no metadata.
            n_docs: How many it has.
        """
        met = np.full(n_docs, self.how != "any")
        for part in self.parts:
            if isinstance(part, Filter):
                mine = part.mask(columns, n_docs)
            elif columns is None or part.column not in columns.kinds:
                mine = np.full(n_docs, part.operator == "exists" and not part.values[0])
            else:
                mine = part.mask(columns)
            met = met | mine if self.how == "any" else met & (~mine if self.how == "none" else mine)
        return met


def parse_where(where: Where) -> Filter:
    """Read a filter.

    Raises:
        DataError: Something that is no filter; all that is wrong at once.
    """
    wrong: list[str] = []
    parsed = _parse(where, wrong)
    if wrong:
        raise DataError("; ".join(wrong), "where")
    return parsed


def as_filter(where: Where | Filter) -> Filter:
    """A filter, parsed if it isn't yet."""
    return where if isinstance(where, Filter) else parse_where(where)


def _parse(where: Any, wrong: list[str], depth: int = _DEEPEST) -> Filter:
    if not depth:
        wrong.append(f"filters within filters, more than {_DEEPEST} deep")
        return Filter("all", ())
    if not isinstance(where, Mapping):
        wrong.append(f"a filter is a mapping of column to condition, got {where!r}")
        return Filter("all", ())
    parts: list[_Condition | Filter] = []
    for key, condition in where.items():
        if key in ("and", "or"):
            if not isinstance(condition, list | tuple):
                wrong.append(f"{key} takes a list of filters, got {condition!r}")
                continue
            inner = tuple(_parse(one, wrong, depth - 1) for one in condition)
            parts.append(Filter("all" if key == "and" else "any", inner))
        elif key == "not":
            parts.append(Filter("none", (_parse(condition, wrong, depth - 1),)))
        elif condition == {}:
            wrong.append(f"{key}: no condition; there are {', '.join(_OPERATORS)}")
        elif isinstance(condition, Mapping):
            parts += [c for op, value in condition.items() if (c := _condition(key, op, value, wrong))]
        else:
            plain = "in" if isinstance(condition, list | tuple | set | frozenset) else "=="
            parts += [c] if (c := _condition(key, plain, condition, wrong)) else []
    return Filter("all", tuple(parts))


def _condition(column: Any, name: Any, value: Any, wrong: list[str]) -> _Condition | None:
    many = isinstance(value, list | tuple | set | frozenset)
    values = tuple(map(_plain, value if many else (value,)))
    problem = None
    if any(isinstance(one, int) and one.bit_length() > _MOST_BITS for one in values):
        problem = f"{column}: a whole number of more digits than Python reads"
    elif not isinstance(column, str):
        problem = f"a column's name is a text, got {column!r}"
    elif name not in _OPERATORS:
        problem = f"{column}: unknown operator {name!r}; there are {', '.join(_OPERATORS)}"
    elif many != (name in ("in", "not in")):
        problem = f"{column}: {name} takes {'one value' if many else 'a list'}, got {value!r}"
    elif name == "exists" and not isinstance(value, bool):
        problem = f"{column}: exists takes true or false, got {value!r}"
    elif not all(isinstance(one, bool | int | float | str) for one in values):
        lacking = '; {"exists": false} finds what lacks it' if None in values else ""
        problem = f"{column}: values are texts, numbers, times, true or false, got {value!r}{lacking}"
    if problem:
        wrong.append(problem)
        return None
    return _Condition(column, name, values)


def _plain(value: Any) -> Any:
    """A value as metadata have it: times as texts, decimals and numpy's numbers as numbers."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    return plain_value(value) if isinstance(value, date | np.datetime64 | Decimal | UUID) else value


def parse_where_text(texts: Sequence[str]) -> Filter | None:
    """Read filters of a command line: JSON objects, or conditions such as "year>=2020" and "lang=en,de".

    A value in double quotes may hold commas: author="Smith, John"; a quote within it is written twice.

    Returns:
        All of them together; None if there are none.

    Raises:
        DataError: As for `parse_where`.
    """
    parts: list[_Condition | Filter] = []
    wrong: list[str] = []
    for text in texts:
        if text.lstrip().startswith("{"):
            try:
                parts.append(_parse(json.loads(text), wrong))
            except (ValueError, RecursionError) as error:
                wrong.append(f"{text[:80]}: not JSON: {error}")
        elif match := _TEXT_CONDITION.fullmatch(text):
            name, values = match["operator"], _written(match["value"])
            name = _WRITTEN_OPERATORS.get(name, name)
            if values is None:
                wrong.append(f"{text!r}: a value in double quotes is not closed")
                continue
            if name not in ("in", "not in"):
                values = (_Written(match["value"]),) if len(values) > 1 else values
            parts.append(_Condition(match["name"], name, values))
        else:
            wrong.append(f"{text!r} is no condition such as year>=2020 or lang=en,de, and no JSON object")
    if wrong:
        raise DataError("; ".join(wrong), "--where")
    return Filter("all", tuple(parts)) if parts else None


def _written(text: str) -> tuple[_Written, ...] | None:
    """Values with commas between them; None if one begins with a quote that isn't closed."""
    values: list[_Written] = []
    at, more = 0, True
    while more:
        match = _WRITTEN_VALUE.match(text, at)
        assert match is not None  # anything matches
        if match["quoted"] is None and match["plain"].startswith('"'):
            return None
        quoted = match["quoted"]
        values.append(_Written(match["plain"].strip() if quoted is None else quoted.replace('""', '"')))
        at, more = match.end(), match["comma"] == ","
    return tuple(values)


def _compared(numbers: NDArray[Any], name: str, value: int | float) -> Mask:
    """(n,) bool, how numbers of any type compare with one; exactly, where numpy would make floats of whole ones."""
    if value != value:  # no number
        return np.zeros(len(numbers), bool)
    compare: Callable[[Any, Any], Any] = _ORDER.get(name, operator.eq)
    if numbers.dtype == object:  # Python's own, which compare exactly
        return np.asarray(compare(numbers, value), bool)
    below, above = _neighbours(value, numbers.dtype)
    if name == "==" and below != above:  # between two numbers of the type
        return np.zeros(len(numbers), bool)
    bound = above if name in ("<", ">=") else below
    if bound is None:  # beyond all that the type holds
        return np.full(len(numbers), name in ("<", ">"))
    return np.asarray(compare(numbers, bound), bool)


def _neighbours(value: int | float, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The largest number of a type that isn't above a value, and the least that isn't below; None without one."""
    if dtype.kind == "f":
        try:
            near = float(value)
        except OverflowError:
            near = math.copysign(math.inf, value > 0 or -1)
        return (
            near if near <= value else math.nextafter(near, -math.inf),
            near if near >= value else math.nextafter(near, math.inf),
        )
    least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    if value in (math.inf, -math.inf):
        value = most + 1 if value > 0 else least - 1
    floor, ceiling = math.floor(value), math.ceil(value)
    below = dtype.type(min(floor, most)) if floor >= least else None
    return below, dtype.type(max(ceiling, least)) if ceiling <= most else None


def _as_mask(met: pa.Array) -> Mask:
    found: Mask = met.to_numpy(zero_copy_only=False).astype(bool, copy=False)
    return found


def _nearest(text: str, known: list[str]) -> list[str]:
    """At most three texts that are nearest to one, whatever their case; of many only those that begin alike."""
    if len(known) > _COMPARED:
        known = [one for one in known if one[:1].casefold() == text[:1].casefold()][:_COMPARED]
    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(one.casefold(), one)
    return [folded[one] for one in get_close_matches(text.casefold(), folded, 3)]


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _matching(value: Any, kind: str) -> Any:
    """A value as a column of a kind compares it; None if it can't."""
    if isinstance(value, _Written) and kind != "text":
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, bool):
        return value if kind == "truth" else None
    if isinstance(value, int | float):
        return value if kind == "number" else None
    return value if kind == "text" else None
