"""Information about an index: sizes, columns to filter by, example queries."""

from __future__ import annotations

import re
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

_VALUES = 50  # number of most frequent values listed per column
_COLUMNS = 200
_EXAMPLES, _EXAMPLE = 6, 60  # number of example queries, and their maximum length in characters
_LOOKED_AT = 60  # documents that are searched for examples
_BEGINNING = re.compile(r"(?:[\w'’-]+[ ,:]*){3,8}")


def facts_of(name: str, reader: Reader, *, writable: bool, reranks: bool) -> dict[str, Any]:
    """Return what the search page shows about an index."""
    snapshot = reader.snapshot
    encoder: Any = None
    with suppress(LsrError):  # an index without an encoder can still be searched with vectors
        encoder = reader.encoder
    return {
        "name": name,
        "documents": len(reader),
        "whole_documents": sum(map(_whole, snapshot.parts)) if reader.has_passages else len(reader),
        "segments": reader.n_segments,
        "bytes": sum(reader.file_sizes().values()),
        "encoder": str(reader.fingerprint),
        "takes_text": encoder is not None,
        "has_passages": reader.has_passages,
        "has_clusters": bool(snapshot.parts) and reader.has_clusters,
        "has_dense": bool(snapshot.parts) and all(part.embeddings is not None for part in snapshot.parts),
        "has_reranker": reranks,
        "has_hybrid": isinstance(encoder, HybridEncoder),
        "writable": writable,
        "columns": columns_of(snapshot),
        "examples": examples_of(snapshot) if encoder is not None else [],
    }


def _whole(part: OpenSegment) -> int:
    """Count the documents of a segment; all passages of a document count once."""
    hashes, docs = part.documents.keys()  # the hash of each document's id, and for passages also of the parent's id
    alive = len(part.documents)
    if part.alive is not None:
        hashes, alive = hashes[part.alive[docs]], int(part.alive.sum())
    return alive - len(hashes) + len(np.unique(hashes))


def examples_of(snapshot: Snapshot) -> list[str]:
    """Return example queries: titles of documents from all over the index, or the beginnings of their texts."""
    documents, alive = snapshot.documents, snapshot.searcher.by_number(None)
    numbers = np.arange(snapshot.searcher.n_docs) if alive is None else np.flatnonzero(alive)
    found: dict[str, str] = {}
    spread = np.linspace(0, max(0, len(numbers) - 1), min(_LOOKED_AT, len(numbers)), dtype=int)
    for doc in numbers[spread].tolist():
        if len(found) == _EXAMPLES:
            break
        title, text, _ = documents.fields(doc)
        text = title.rpartition(" > ")[2] or text
        begins = _BEGINNING.match(text.strip())
        example = text.rstrip(" .") if title else begins[0].rstrip(" ,:") if begins else ""
        if len(example.split()) >= 2 and len(example) <= _EXAMPLE:
            found.setdefault(example.casefold(), example)
    return list(found.values())


def columns_of(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Describe the columns of live documents, for filters."""
    kinds, _ = kinds_of(part.documents.columns for part in snapshot.parts if part.documents.columns is not None)
    return {name: _column(snapshot.parts, name, kind) for name, kind in sorted(kinds.items())[:_COLUMNS]}


def _column(parts: tuple[OpenSegment, ...], name: str, kind: str) -> dict[str, Any]:
    found = [values for part in parts if (values := _alive_values(part, name)) is not None]
    arrays = [array for _, array in found if len(array)]
    known: dict[str, Any] = {"kind": kind, "documents": sum(count for count, _ in found), "distinct": 0}
    if kind.removeprefix("list of ") == "number":
        numbers = [numbers_of(array) for array in arrays]
        known["distinct"] = len(np.unique(np.concatenate(numbers))) if numbers else 0
        ends = [np.asarray(end).item() for some in numbers for end in (some.min(), some.max())]
        if ends:
            known |= {"min": min(ends), "max": max(ends)}
    elif kind != "empty list":
        times: Counter[Any] = Counter()
        for array in arrays:
            for counted in pc.value_counts(array).to_pylist():
                times[counted["values"]] += counted["counts"]
        known["distinct"] = len(times)
        known["values"] = [value for value, _ in times.most_common(_VALUES)]
    return known


def _alive_values(part: OpenSegment, name: str) -> tuple[int, pa.Array] | None:
    """Return how many live documents have a column, and its values without nulls, with lists flattened."""
    columns = part.documents.columns
    if columns is None or name not in columns.kinds:
        return None
    array = columns.column(name)
    if part.alive is not None:
        array = array.filter(pa.array(part.alive))
    count = len(array) - array.null_count
    if pa.types.is_list(array.type):
        array = array.flatten()
    if pa.types.is_dictionary(array.type):
        array = array.cast(pa.string())
    return None if pa.types.is_null(array.type) else (count, array.drop_null())
