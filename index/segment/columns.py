"""Metadata as typed columns for filters, one for each key.

Kinds are "truth", "number", "text", lists of each, and "empty list"; integers and floats are both numbers. Keys within
objects are joined by dots, as in "author.name". A key whose values differ in kind gets no column; the reason is
stored for messages about filters.

Numbers are exact: a column is int64, uint64 or float64 if this type can represent all of its values, else a dictionary
of their JSON texts. The field's metadata then says that the kind is "number".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lsr.errors import CorruptIndex
from lsr.index.storage.arrow_file import RESTORE, damage
from lsr.io.metadata import parse_time

COLUMNS_FILE = "columns.arrow"
MOST_COLUMNS = 1000  # with more keys, values are probably used as keys
_MOST_MIXED = 2 * MOST_COLUMNS  # maximum number of remembered keys that have no column; further keys are ignored
_DEEPEST = 30  # deeper objects are ignored
_MIXED = b"lsr.mixed"
_KIND = b"lsr.kind"
_EMPTY = pa.list_(pa.null())
_LARGEST_INT = 2**63
_WHOLE_FLOATS = 2**53  # whole numbers up to this are exact as floats


class ColumnsWriter:
    """Collects the metadata of documents as columns in memory, a few bytes for each value."""

    def __init__(self) -> None:
        self._n_docs = 0
        # {key: parts}, each part (number of the first document, values)
        self._parts: dict[str, list[tuple[int, pa.Array]]] = {}
        self._kinds: dict[str, str] = {}
        self._mixed: dict[str, str] = {}

    def write(self, metadata: pa.Array) -> None:
        """Append documents.

        Args:
            metadata: (n,) Arrow strings, a JSON object or null for each document.
        """
        if metadata.null_count == len(metadata):
            self._n_docs += len(metadata)
            return
        rows = [json.loads(text) if text else {} for text in metadata.to_pylist()]
        found: dict[str, list[Any]] = {}
        n_columns = len(self._parts)
        for number, row in enumerate(rows):
            for key, value in flat_items(row):
                if key in self._mixed:
                    continue
                if key in found and found[key][number] is not None:
                    self._mixed[key] = 'a document has it twice, as {"a.b": ...} and {"a": {"b": ...}}'
                    del found[key]
                    self._parts.pop(key, None)
                    continue
                if key not in found:  # checked before memory is allocated for the values
                    new, full = key not in self._parts, len(self._mixed) >= _MOST_MIXED
                    if new and (full or n_columns >= MOST_COLUMNS):
                        if not full:
                            self._mixed[key] = f"there are more than {MOST_COLUMNS} keys"
                        continue
                    n_columns += new
                    found[key] = [None] * len(rows)
                found[key][number] = value
        for key, values in found.items():
            earlier = self._parts.setdefault(key, [])
            kinds = {_kind(value) for value in values if value is not None}
            kind, why_not = joined(kinds | ({self._kinds[key]} if key in self._kinds else set()))
            if why_not:
                self._mixed[key] = why_not
                del self._parts[key]
                continue
            self._kinds[key] = kind
            earlier.append((self._n_docs, _array(values, kind)))
        self._n_docs += len(rows)

    def close(self, folder: Path) -> bool:
        """Write COLUMNS_FILE if there are any columns; return whether it was written."""
        if not self._parts and not self._mixed:
            return False
        columns, fields = [], []
        for key, parts in self._parts.items():
            columns.append(_whole(parts, _widest([array for _, array in parts]), self._n_docs))
            field = pa.field(key, columns[-1].type)
            if kind_of(field) != self._kinds[key]:
                field = field.with_metadata({_KIND: self._kinds[key]})
            fields.append(field)
        schema = pa.schema(fields, {_MIXED: json.dumps(self._mixed).encode()})
        with pa.ipc.new_file(str(folder / COLUMNS_FILE), schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        return True


class Kinds(Protocol):
    """The kinds of a segment's columns, which filters check."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """{column: kind}"""

    @property
    def mixed(self) -> Mapping[str, str]:
        """{key that isn't a column: reason}"""


class Columns:
    """Reads the file of ColumnsWriter, memory-mapped.

    Attributes:
        kinds: {column: kind}
        mixed: {key that isn't a column: reason}

    Raises:
        CorruptIndex: The file can't be read, or doesn't fit the documents.
    """

    def __init__(self, path: Path, n_docs: int) -> None:
        self._path = path
        with damage(path, "damaged"):
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batch = reader.get_batch(0)
            mixed = json.loads((reader.schema.metadata or {}).get(_MIXED, b"{}"))
        if self._batch.num_columns and self._batch.num_rows != n_docs:
            raise CorruptIndex(f"{path}: {self._batch.num_rows} documents, the segment has {n_docs}")
        self.kinds: dict[str, str] = {field.name: kind_of(field) for field in reader.schema}
        self.mixed: dict[str, str] = mixed
        self._sound: dict[str, pa.Array] = {}
        self._times: dict[str, tuple[NDArray[np.bool_], NDArray[np.int64]]] = {}

    def column(self, name: str) -> pa.Array:
        """Return the values of a column, null where a document lacks it.

        Raises:
            CorruptIndex: The values are invalid.
        """
        if name not in self._sound:
            column = self._batch.column(self._batch.schema.get_field_index(name))
            with damage(self._path, "damaged"):
                column.validate(full=True)  # once, because a filter may have a thousand conditions
            self._sound[name] = column
        return self._sound[name]

    def times(self, name: str) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which texts of a column are times, and the times; see `parse_time`.

        The arrays have an entry for each value; in a column of lists, for each item; in a dictionary, for each text.
        """
        if name not in self._times:  # cached, because parsing costs more than the rest of a filter
            texts = self.column(name)
            texts = texts.values if pa.types.is_list(texts.type) else texts
            texts = texts.dictionary if pa.types.is_dictionary(texts.type) else texts
            there, found = np.zeros(len(texts), bool), np.zeros(len(texts), np.int64)
            dated = pc.match_substring_regex(texts, r"^\d{4}-\d\d-\d\d").fill_null(False)
            for place in np.flatnonzero(dated.to_numpy(zero_copy_only=False)):
                if (time := parse_time(texts[int(place)].as_py())) is not None:
                    there[place], found[place] = True, time
            self._times[name] = there, found
        return self._times[name]

    def texts(self, name: str) -> list[str]:
        """Return the distinct values of a column of texts, or of lists of texts."""
        column = self.column(name)
        values = column.values if pa.types.is_list(column.type) else column
        found = values.dictionary if pa.types.is_dictionary(values.type) else values.unique()
        return [text for text in found.to_pylist() if text is not None]


def joined(kinds: Iterable[str]) -> tuple[str, str]:
    """Merge the kinds of a column's parts: return (kind, ""), or ("", reason) if these can't form a column."""
    found = set(kinds)
    if any(kind.startswith("list of ") for kind in found):
        found.discard("empty list")
    if len(found) > 1 or "other" in found:
        return "", f"its values are of different kinds: {', '.join(sorted(found))}"
    return found.pop(), ""


def kinds_of(segments: Iterable[Kinds]) -> tuple[dict[str, str], dict[str, str]]:
    """Merge the columns of many segments: {column: kind}, and {key that isn't a column: reason}."""
    found: dict[str, set[str]] = {}
    mixed: dict[str, str] = {}
    for columns in segments:
        mixed |= columns.mixed
        for name, kind in columns.kinds.items():
            found.setdefault(name, set()).add(kind)
    kinds: dict[str, str] = {}
    for name in found.keys() - mixed.keys():
        kind, why_not = joined(found[name])
        (mixed if why_not else kinds)[name] = why_not or kind
    return kinds, mixed


def kind_of(field: pa.Field) -> str:
    """Return "truth", "number", "text", "list of …" or "empty list"."""
    column = field.type
    if column == _EMPTY:
        return "empty list"
    listed, plain = ("list of ", column.value_type) if pa.types.is_list(column) else ("", column)
    if pa.types.is_boolean(plain):
        return f"{listed}truth"
    is_text = pa.types.is_dictionary(plain) or pa.types.is_string(plain)
    if not is_text or (field.metadata or {}).get(_KIND) == f"{listed}number".encode():
        return f"{listed}number"
    return f"{listed}text"


def flat_items(values: Mapping[str, Any], prefix: str = "", depth: int = _DEEPEST) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) for all values that aren't None; keys within objects are joined by dots."""
    for key, value in values.items():
        if isinstance(value, dict) and depth:
            yield from flat_items(value, f"{prefix}{key}.", depth - 1)
        elif value is not None:
            yield prefix + key, value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text" if value.isascii() or is_unicode(value) else "other"
    if not isinstance(value, list):
        return "other"
    kinds = {"other" if isinstance(item, list) else _kind(item) for item in value if item is not None}
    if not kinds:
        return "empty list"
    kind = kinds.pop() if len(kinds) == 1 else "other"
    return f"list of {kind}" if kind in ("truth", "number", "text") else "other"


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can store a text. It can't store unpaired surrogates, which JSON can escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _array(values: list[Any], kind: str) -> pa.Array:
    """Build a part of a column; for numbers, use the first of int64, uint64, float64 and text that is exact."""
    if kind == "empty list":
        return pa.array([None if value is None else [] for value in values], _EMPTY)
    listed = kind.startswith("list of ")
    values = [[item for item in value if item is not None] if listed and value else value for value in values]
    items = [item for value in values if value is not None for item in (value if listed else [value])]
    plain: pa.DataType = {"truth": pa.bool_(), "text": pa.string()}.get(kind.removeprefix("list of "))
    if plain is None:
        whole = [item for item in items if isinstance(item, int)]
        plain = _number_type(min(whole, default=0), max(whole, default=0), fractions=len(whole) < len(items))
        if plain in (pa.float64(), pa.string()):
            as_it: Any = float if plain == pa.float64() else json.dumps
            values = [v if v is None else [as_it(i) for i in v] if listed else as_it(v) for v in values]
    return pa.array(values, pa.list_(plain) if listed else plain)


def _number_type(least: int, most: int, *, fractions: bool) -> pa.DataType:
    """Return the type that represents numbers exactly.

    Args:
        least: The smallest integer.
        most: The largest integer.
        fractions: Whether there are floats.
    """
    if fractions:
        return pa.float64() if least >= -_WHOLE_FLOATS and most <= _WHOLE_FLOATS else pa.string()
    if least >= -_LARGEST_INT and most < _LARGEST_INT:
        return pa.int64()
    return pa.uint64() if least >= 0 and most < 2 * _LARGEST_INT else pa.string()


def _widest(arrays: list[pa.Array]) -> pa.DataType:
    """Return the type that represents the values of all parts of a column exactly."""
    arrays = [array for array in arrays if array.type != _EMPTY]
    types = {array.type for array in arrays}
    if len(types) <= 1:
        return types.pop() if types else _EMPTY
    listed = pa.types.is_list(arrays[0].type)
    plain = [array.values if listed else array for array in arrays]
    widest = pa.string()
    if pa.string() not in {array.type for array in plain}:
        ends = [pc.min_max(array).as_py() for array in plain if array.type != pa.float64()]
        whole = [end for pair in ends for end in pair.values() if end is not None]
        fractions = any(array.type == pa.float64() for array in plain)
        widest = _number_type(min(whole, default=0), max(whole, default=0), fractions=fractions)
    return pa.list_(widest) if listed else widest


def _whole(parts: list[tuple[int, pa.Array]], kind: pa.DataType, n_docs: int) -> pa.Array:
    """Join the parts of a column, with nulls in the gaps."""
    arrays, at = [], 0
    for first, array in parts:
        arrays += [pa.nulls(first - at, kind), _as(array, kind)]
        at = first + len(array)
    whole = pa.chunked_array([*arrays, pa.nulls(n_docs - at, kind)], kind).combine_chunks()
    if kind == pa.string():
        return whole.dictionary_encode()
    if kind == pa.list_(pa.string()):
        encoded = whole.values.dictionary_encode()
        return pa.ListArray.from_arrays(whole.offsets, encoded, mask=whole.is_null() if whole.null_count else None)
    return whole


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert a part of a column to a wider type."""
    if array.type == kind or kind not in (pa.string(), pa.list_(pa.string())) or array.type == _EMPTY:
        return array.cast(kind)
    values = array.to_pylist()
    if pa.types.is_list(kind):
        return pa.array([v if v is None else [json.dumps(item) for item in v] for v in values], kind)
    return pa.array([v if v is None else json.dumps(v) for v in values], kind)


def numbers_of(values: pa.Array) -> NDArray[Any]:
    """Return (n,) numbers of a column, as a numpy type or as Python objects; missing values are 0.

    Args:
        values: Values of the column, or items of its lists; for numbers stored as texts, the dictionary.

    Raises:
        CorruptIndex: A text is not a number.
    """
    if not pa.types.is_string(values.type):
        found: NDArray[Any] = values.fill_null(0).to_numpy(zero_copy_only=False)
        return found
    try:
        numbers = [json.loads(text) for text in values.to_pylist()]
    except (ValueError, TypeError, RecursionError):
        numbers = [None]
    if not all(type(number) in (int, float) for number in numbers):
        raise CorruptIndex(f"{COLUMNS_FILE}: damaged: a text where a number should be; {RESTORE}")
    return np.array([*numbers, None], object)[:-1]  # always objects


def offsets_of(lists: pa.Array) -> NDArray[np.int64]:
    """Return (n + 1,) int64: offsets of each list's items in `lists.values`."""
    found: NDArray[np.int64] = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return found
