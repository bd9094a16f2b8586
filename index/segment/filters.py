"""Filters on metadata: which documents a search may return.

    {"year": {">=": 2020, "<": 2024}, "lang": ["en", "de"], "draft": False}

Keys are columns, and all conditions must hold. A plain value means "==", a list means "in". Operators are == != < <= >
>=, in, not in, prefix and contains (for texts, case-sensitive), and exists (true or false). "and" and "or" take lists
of filters, "not" takes one filter. In a column of lists, a condition holds if it holds for any item; "!=" and "not in"
hold if no item meets "==" or "in". A document without the column matches only {"exists": false}, and conditions within
"not". Numbers are compared exactly, including integers of any size.

Dates and times are texts in ISO 8601 ("2024-05-17", "2024-05-17T09:30:00+02:00"). A condition with such a text, a
`datetime` or a `date` compares times, to the microsecond and across time zones. Times without a time zone are UTC, and
a date means its first moment. Texts that aren't times don't match.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lsr.errors import DataError
from lsr.index.segment.columns import Columns, Kinds, is_unicode, kinds_of, numbers_of, offsets_of
from lsr.io.metadata import parse_time

Where = Mapping[str, Any]
Mask = NDArray[np.bool_]

ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ORDER_OF_TEXTS = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
_COMPARED = 20_000  # maximum number of texts that are compared to find similar texts
_LISTED, _TOLD = 50, 20  # maximum number of columns, and of problems, in a message
_PARTS_OF_TEXTS = {"prefix": pc.starts_with, "contains": pc.match_substring}
OPERATORS = ("==", "!=", *ORDER, "in", "not in", *_PARTS_OF_TEXTS, "exists")


class WrittenValue(str):
    """A value from a command line; the column decides whether it is a number or a text."""

    def __repr__(self) -> str:
        return f"as written {super().__repr__()}"


@dataclass(frozen=True)
class Condition:
    """Compares a column with `values`."""

    column: str
    operator: str
    values: tuple[Any, ...]

    def to_where(self) -> Where:
        """Return the condition as a mapping."""
        if any(isinstance(value, WrittenValue) for value in self.values):
            raise TypeError(f"{self.column}: a filter from a command line can't be sent: it depends on the columns")
        value = list(self.values) if self.operator in ("in", "not in") else self.values[0]
        return {self.column: {self.operator: value}}

    def problem(self, kind: str) -> str | None:
        """Explain why a column of this kind can't be compared; None if it can."""
        kind = kind.removeprefix("list of ")
        if self.operator == "exists" or kind == "empty list":
            return None
        if kind == "truth" and self.operator in ORDER:
            return f"{self.column} is true or false, which {self.operator} can't compare"
        if kind != "text" and self.operator in _PARTS_OF_TEXTS:
            return f"{self.column} is a {kind}, {self.operator} is for texts"
        for value in self.values:
            if _matching(value, kind) is None:
                shown = str.__repr__(value) if isinstance(value, WrittenValue) else repr(value)
                return f"{self.column} is a {kind}, it can't be compared with {_short(shown)}"
        return None

    def mask(self, columns: Columns) -> Mask:
        """Return (n_docs,) bool: which documents match."""
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
        """Return (n,) bool: which of n values match; "!=" and "not in" are treated like "==" and "in"."""
        if not len(array):
            return np.zeros(0, bool)
        if pa.types.is_dictionary(array.type):  # compare each distinct text once
            of_each = self._of(array.dictionary, kind, columns)
            indices = array.indices.fill_null(0).to_numpy()
            return of_each[indices] if len(of_each) else np.zeros(len(indices), bool)  # all are missing
        values = [_matching(value, kind) for value in self.values]
        if kind == "text":
            return self._of_texts(array, values, columns)
        if kind == "truth":
            return np.isin(array.fill_null(False).to_numpy(zero_copy_only=False), values)
        numbers = numbers_of(array)
        met = np.zeros(len(numbers), bool)
        for value in values:
            met |= _compared(numbers, self.operator if self.operator in ORDER else "==", value)
        return met

    def _of_texts(self, array: pa.Array, values: list[Any], columns: Columns) -> Mask:
        """Return which texts match.

        Arrow compares UTF-8, which sorts like Python's strings. Times are compared only with other times.
        """
        if part_of := _PARTS_OF_TEXTS.get(self.operator):
            if not is_unicode(values[0]):
                return np.zeros(len(array), bool)
            return _as_mask(part_of(array, str(values[0])).fill_null(False))
        times = {time for value in values if (time := parse_time(value)) is not None}
        if self.operator in ORDER and times:
            there, found = columns.times(self.column)
            return np.asarray(there & ORDER[self.operator](found, next(iter(times))), bool)
        texts = pa.array([value for value in values if isinstance(value, str) and is_unicode(value)], array.type)
        if self.operator not in ORDER:
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
        how: "all", "any" or "none" of its parts.
        parts: Conditions and other filters.
    """

    how: str
    parts: tuple[Condition | Filter, ...]

    def to_where(self) -> Where:
        """Return the filter as a mapping, which can be parsed again."""
        parts = [part.to_where() for part in self.parts]
        if self.how == "none":
            return {"not": parts[0] if len(parts) == 1 else {"or": parts}}
        return {"and" if self.how == "all" else "or": parts}

    def require_known(self, segments: Sequence[Kinds]) -> None:
        """Check a filter's columns.

        Raises:
            DataError: Unknown columns, columns of mixed kinds, or values of another kind.
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
        """Return a hint for each text that a condition with "==" or "in" asks for, but that no document has.

        A hint also names similar texts.

        Args:
            segments: The columns of all segments, including deleted documents.
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

    def conditions(self) -> Iterable[Condition]:
        """Iterate over all conditions, including the conditions of inner filters."""

        for part in self.parts:
            yield from part.conditions() if isinstance(part, Filter) else (part,)

    def mask(self, columns: Columns | None, n_docs: int) -> Mask:
        """Return (n_docs,) bool: which documents of a segment match.

        Args:
            columns: Columns of the segment; None if its documents have no metadata.
            n_docs: Number of documents in the segment.
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


def _compared(numbers: NDArray[Any], name: str, value: int | float) -> Mask:
    """Compare (n,) numbers with a value exactly and return (n,) bool; numpy would convert integers to floats."""
    if value != value:  # NaN
        return np.zeros(len(numbers), bool)
    compare: Callable[[Any, Any], Any] = ORDER.get(name, operator.eq)
    if numbers.dtype == object:  # Python numbers, which compare exactly
        return np.asarray(compare(numbers, value), bool)
    below, above = _neighbours(value, numbers.dtype)
    if name == "==" and below != above:  # the value lies between two numbers of the type
        return np.zeros(len(numbers), bool)
    bound = above if name in ("<", ">=") else below
    if bound is None:  # beyond the range of the type
        return np.full(len(numbers), name in ("<", ">"))
    return np.asarray(compare(numbers, bound), bool)


def _neighbours(value: int | float, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return a type's nearest numbers below and above a value, or the value itself twice; None where there is none."""
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
    """Return up to three similar texts, ignoring case. If there are many, the first letters must be the same."""
    if len(known) > _COMPARED:
        known = [one for one in known if one[:1].casefold() == text[:1].casefold()][:_COMPARED]
    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(one.casefold(), one)
    return [folded[one] for one in get_close_matches(text.casefold(), folded, 3)]


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _matching(value: Any, kind: str) -> Any:
    """Convert a value for comparison with a column of a kind; None if it can't be compared."""
    if isinstance(value, WrittenValue) and kind != "text":
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, bool):
        return value if kind == "truth" else None
    if isinstance(value, int | float):
        return value if kind == "number" else None
    return value if kind == "text" else None
