"""What there is to know of an index: sizes, columns to filter by, numbers for whoever runs it."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsr.encode.hybrid import HybridEncoder
from lsr.errors import LsrError
from lsr.index.search.open_segment import OpenSegment
from lsr.index.search.reader import Reader
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.columns import kinds_of, numbers_of

_VALUES = 50  # of a column, the most frequent
_COLUMNS = 200


def facts_of(name: str, reader: Reader, *, writable: bool) -> dict[str, Any]:
    """What a page has to know of an index."""
    snapshot = reader.snapshot
    encoder: Any = None
    with suppress(LsrError):  # an index of vectors, or a model that isn't here: searched with vectors all the same
        encoder = reader.encoder
    return {
        "name": name,
        "documents": len(reader),
        "segments": reader.n_segments,
        "bytes": sum(reader.file_sizes().values()),
        "encoder": str(reader.fingerprint),
        "takes_text": encoder is not None,
        "has_passages": reader.has_passages,
        "has_clusters": bool(snapshot.parts) and reader.has_clusters,
        "has_dense": False,
        "has_hybrid": isinstance(encoder, HybridEncoder),
        "writable": writable,
        "columns": columns_of(snapshot),
    }


def columns_of(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """The columns that filters read, with what stands in them, of documents that aren't deleted."""
    kinds, _ = kinds_of(part.documents.columns for part in snapshot.parts if part.documents.columns is not None)
    return {name: _column(snapshot.parts, name, kind) for name, kind in sorted(kinds.items())[:_COLUMNS]}


def _column(parts: tuple[OpenSegment, ...], name: str, kind: str) -> dict[str, Any]:
    known: dict[str, Any] = {"kind": kind}
    arrays = [array for part in parts if (array := _alive_values(part, name)) is not None and len(array)]
    if kind.removeprefix("list of ") == "number":
        numbers = [numbers_of(array) for array in arrays]
        ends = [np.asarray(end).item() for some in numbers for end in (some.min(), some.max())]
        if ends:
            known |= {"min": min(ends), "max": max(ends)}
    elif kind != "empty list":
        times: Counter[Any] = Counter()
        for array in arrays:
            for counted in pc.value_counts(array).to_pylist():
                times[counted["values"]] += counted["counts"]
        known["values"] = [value for value, _ in times.most_common(_VALUES)]
    return known


def _alive_values(part: OpenSegment, name: str) -> pa.Array | None:
    """The values of a column, lists taken apart, without nulls."""
    columns = part.documents.columns
    if columns is None or name not in columns.kinds:
        return None
    array = columns.column(name)
    if part.alive is not None:
        array = array.filter(pa.array(part.alive))
    if pa.types.is_list(array.type):
        array = array.flatten()
    if pa.types.is_dictionary(array.type):
        array = array.cast(pa.string())
    return None if pa.types.is_null(array.type) else array.drop_null()
