"""Metadata as typed columns, which filters read: one for each key, whatever documents have it.

Kinds are "truth", "number", "text", lists of each, and "empty list"; whole numbers and others are both numbers. Keys
within objects are joined by dots, "author.name". A key whose values are of different kinds is no column, but is
remembered, so that a filter on it can say why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex

from .arrow_files import RESTORE

COLUMNS_FILE = "columns.arrow"
MOST_COLUMNS = 1000  # what has more keys than that uses values as keys
_MOST_MIXED = 2 * MOST_COLUMNS  # keys of which is remembered why they are no columns; then new ones are passed over
_DEEPEST = 30  # what objects further down hold is no column
_MIXED = b"lsr.mixed"
_EMPTY = pa.list_(pa.null())
_LARGEST_INT = 2**63


class ColumnsWriter:
    """Gathers the metadata of documents; in memory, as columns, a few bytes a value."""

    def __init__(self) -> None:
        self._n_docs = 0
        # Of each key: parts of (number of the first document, values of as many as there are).
        self._parts: dict[str, list[tuple[int, pa.Array]]] = {}
        self._mixed: dict[str, str] = {}

    def write(self, metadata: pa.Array) -> None:
        """Append documents.

        Args:
            metadata: Of each a JSON object, or null.
        """
        if metadata.null_count == len(metadata):
            self._n_docs += len(metadata)
            return
        rows = [json.loads(text) if text else {} for text in metadata.to_pylist()]
        found: dict[str, list[Any]] = {}
        n_columns = len(self._parts)
        for number, row in enumerate(rows):
            for key, value in _flat(row):
                if key in self._mixed:
                    continue
                if key not in found:  # looked at before there is room for the values
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
            kind, why_not = joined(kinds | {kind_of(array.type) for _, array in earlier})
            if why_not:
                self._mixed[key] = why_not
                del self._parts[key]
                continue
            earlier.append((self._n_docs, _array(values, kind)))
        self._n_docs += len(rows)

    def close(self, folder: Path) -> bool:
        """Write COLUMNS_FILE, if there is anything to write; tells whether there was."""
        if not self._parts and not self._mixed:
            return False
        columns, names = [], []
        for key, parts in self._parts.items():
            kinds = [array.type for _, array in parts if array.type != _EMPTY] or [_EMPTY]
            wider = [kind for kind in (pa.float64(), pa.list_(pa.float64())) if kind in kinds]
            columns.append(_whole(parts, (wider or kinds)[0], self._n_docs))
            names.append(key)
        metadata = {_MIXED: json.dumps(self._mixed).encode()}
        schema = pa.schema([pa.field(n, c.type) for n, c in zip(names, columns, strict=True)], metadata)
        with pa.ipc.new_file(str(folder / COLUMNS_FILE), schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        return True


class Kinds(Protocol):
    """What there is to be asked for: of each column its kind, and of each key that is no column, why."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """Of each column."""

    @property
    def mixed(self) -> Mapping[str, str]:
        """Of each key that is no column, why."""


class Columns:
    """Reads what ColumnsWriter wrote, mapped.

    Attributes:
        kinds: Of each column.
        mixed: Of each key that is no column, why.

    Raises:
        CorruptIndex: The file can't be read, or doesn't fit the documents.
    """

    def __init__(self, path: Path, n_docs: int) -> None:
        self._path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batch = reader.get_batch(0)
            mixed = json.loads((reader.schema.metadata or {}).get(_MIXED, b"{}"))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptIndex(f"{path}: damaged: {error}; build the index again") from None
        if self._batch.num_columns and self._batch.num_rows != n_docs:
            raise CorruptIndex(f"{path}: {self._batch.num_rows} documents where there are {n_docs}")
        self.kinds: dict[str, str] = {field.name: kind_of(field.type) for field in reader.schema}
        self.mixed: dict[str, str] = mixed
        self._sound: dict[str, pa.Array] = {}

    def column(self, name: str) -> pa.Array:
        """The values of a column, null where a document lacks it.

        Raises:
            CorruptIndex: They make no sense.
        """
        if name not in self._sound:
            column = self._batch.column(self._batch.schema.get_field_index(name))
            try:
                column.validate(full=True)  # once: a filter may have a thousand conditions
            except pa.ArrowException as error:
                raise CorruptIndex(f"{self._path}: damaged: {error}; {RESTORE}") from None
            self._sound[name] = column
        return self._sound[name]


def joined(kinds: Iterable[str]) -> tuple[str, str]:
    """The kind of a column whose parts are of these kinds; else "", and why they make none."""
    found = set(kinds)
    if any(kind.startswith("list of ") for kind in found):
        found.discard("empty list")
    if len(found) > 1 or "other" in found:
        return "", f"its values are of different kinds: {', '.join(sorted(found))}"
    return found.pop(), ""


def kinds_of(segments: Iterable[Kinds]) -> tuple[dict[str, str], dict[str, str]]:
    """Of the columns of many segments their kinds, as if they were merged; and of each key that is no column, why."""
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


def kind_of(column: pa.DataType) -> str:
    """ "truth", "number", "text", "list of …" or "empty list"."""
    if column == _EMPTY:
        return "empty list"
    if pa.types.is_list(column):
        return f"list of {kind_of(column.value_type)}"
    if pa.types.is_boolean(column):
        return "truth"
    return "text" if pa.types.is_dictionary(column) or pa.types.is_string(column) else "number"


def _flat(values: Mapping[str, Any], prefix: str = "", depth: int = _DEEPEST) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and depth:
            yield from _flat(value, f"{prefix}{key}.", depth - 1)
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
    """Whether a text is without halves of surrogate pairs, which JSON may escape but UTF-8 doesn't know."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _array(values: list[Any], kind: str) -> pa.Array:
    """A part of a column; whole numbers stay whole as long as all of them fit."""
    if kind == "empty list":
        return pa.array([None if value is None else [] for value in values], _EMPTY)
    listed = kind.startswith("list of ")
    values = [[item for item in value if item is not None] if listed and value else value for value in values]
    items = [item for value in values if value is not None for item in (value if listed else [value])]
    plain: pa.DataType = {"truth": pa.bool_(), "text": pa.string()}.get(kind.removeprefix("list of "), pa.int64())
    if plain == pa.int64() and not all(isinstance(i, int) and -_LARGEST_INT <= i < _LARGEST_INT for i in items):
        plain = pa.float64()
        values = [v if v is None else [_float(i) for i in v] if listed else _float(v) for v in values]
    return pa.array(values, pa.list_(plain) if listed else plain)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return math.inf if value > 0 else -math.inf


def _whole(parts: list[tuple[int, pa.Array]], kind: pa.DataType, n_docs: int) -> pa.Array:
    """The parts and what lies between them as one array."""
    arrays, at = [], 0
    for first, array in parts:
        arrays += [pa.nulls(first - at, kind), array.cast(kind, safe=False)]
        at = first + len(array)
    whole = pa.chunked_array([*arrays, pa.nulls(n_docs - at, kind)], kind).combine_chunks()
    if kind == pa.string():
        return whole.dictionary_encode()
    if kind == pa.list_(pa.string()):
        encoded = whole.values.dictionary_encode()
        return pa.ListArray.from_arrays(whole.offsets, encoded, mask=whole.is_null() if whole.null_count else None)
    return whole


def offsets_of(lists: pa.Array) -> NDArray[np.int64]:
    """(n + 1,) where the items of each list begin and end among `lists.values`."""
    found: NDArray[np.int64] = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return found
