"""Documents of an index: ids, parents, and, if they are stored, titles, texts and metadata.

ids.arrow      id, parent           mapped, in batches of 65,536
texts.arrow    title, text, metadata   compressed, in batches of 64: a hit unpacks only its own
order.arrow    doc                  document numbers sorted by id: finds a document by its id
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsr.corpus import DOCUMENT_SCHEMA
from lsr.errors import DataError

from .storage import ArrowFile, write_arrow

_ID_SCHEMA = pa.schema([DOCUMENT_SCHEMA.field("id"), DOCUMENT_SCHEMA.field("parent")])
_TEXT_SCHEMA = pa.schema([DOCUMENT_SCHEMA.field(name) for name in ("title", "text", "metadata")])
_ORDER_SCHEMA = pa.schema([("doc", pa.uint32())])
_ID_BATCH = 1 << 16
_TEXT_BATCH = 64


class DocumentsWriter:
    """Writes the documents of an index, batch by batch.

    Attributes:
        has_text: Whether any document had a title, text or metadata.
        has_parents: Whether any document is a passage.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.has_text = False
        self.has_parents = False
        self.count = 0
        self._ids = _Rebatched(folder / "ids.arrow", _ID_SCHEMA, _ID_BATCH)
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._texts = _Rebatched(folder / "texts.arrow", _TEXT_SCHEMA, _TEXT_BATCH, options)

    def write(self, documents: pa.RecordBatch) -> None:
        """Append a batch of lsr.corpus.DOCUMENT_SCHEMA."""
        self.count += documents.num_rows
        self.has_parents |= documents.column("parent").null_count < documents.num_rows
        self.has_text |= any(documents.column(n).null_count < documents.num_rows for n in _TEXT_SCHEMA.names)
        self._ids.write(documents.select(_ID_SCHEMA.names))
        self._texts.write(documents.select(_TEXT_SCHEMA.names))

    def close(self) -> None:
        """Finish the files and sort the ids.

        Raises:
            DataError: An id occurs twice.
        """
        self._ids.close()
        self._texts.close()
        if not self.has_text:
            (self._folder / "texts.arrow").unlink()
        ids = ArrowFile(self._folder / "ids.arrow", _ID_SCHEMA)
        chunks = [ids.batch(i).column("id") for i in range(ids.n_batches)]
        column = pa.chunked_array(chunks, pa.string())
        order = pc.sort_indices(column).to_numpy()
        for start in range(0, len(order) - 1, _ID_BATCH):
            here = order[start : start + _ID_BATCH + 1]
            sorted_ids = column.take(here)
            same = pc.equal(sorted_ids[:-1], sorted_ids[1:]).to_numpy()
            if same.any():
                at = int(np.argmax(same))
                first, second = sorted(here[at : at + 2])
                raise DataError(
                    f"the id {sorted_ids[at].as_py()!r} occurs twice, as document {first + 1} and {second + 1}"
                )
        write_arrow(self._folder / "order.arrow", {"doc": order.astype(np.uint32)})


class _Rebatched:
    """An Arrow file whose batches all have the same number of rows, whatever comes in."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int, options: Any = None) -> None:
        self._writer = pa.ipc.new_file(str(path), schema, options=options)
        self._rows = rows
        self._waiting: list[pa.RecordBatch] = []
        self._n_waiting = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._n_waiting += batch.num_rows
        if self._n_waiting >= self._rows:
            self._flush(self._n_waiting - self._n_waiting % self._rows)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        for start in range(0, rows, self._rows):
            for batch in table.slice(start, min(self._rows, rows - start)).combine_chunks().to_batches():
                self._writer.write_batch(batch)
        self._waiting = table.slice(rows).to_batches()
        self._n_waiting -= rows

    def close(self) -> None:
        if self._n_waiting:
            self._flush(self._n_waiting)
        self._writer.close()


class Documents:
    """Reads what DocumentsWriter wrote; ids and texts by document number, numbers by id."""

    def __init__(self, folder: Path, n_docs: int, has_text: bool) -> None:
        self._n_docs = n_docs
        self._ids = ArrowFile(folder / "ids.arrow", _ID_SCHEMA)
        self._texts = ArrowFile(folder / "texts.arrow", _TEXT_SCHEMA) if has_text else None
        self._order = ArrowFile(folder / "order.arrow", _ORDER_SCHEMA)
        self._id_batch = lru_cache(maxsize=None)(self._ids.batch)  # mapped, so keeping them costs nothing
        self._text_batch = lru_cache(maxsize=64)(self._texts.batch) if self._texts else None

    def id(self, doc: int) -> str:
        """The id of a document."""
        return str(self._id_batch(doc // _ID_BATCH).column(0)[doc % _ID_BATCH].as_py())

    def parent(self, doc: int) -> str | None:
        """The id of the document that a passage was cut from."""
        value = self._id_batch(doc // _ID_BATCH).column(1)[doc % _ID_BATCH].as_py()
        return None if value is None else str(value)

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Title, text and metadata of a document; empty where they weren't stored."""
        if self._text_batch is None:
            return "", "", {}
        batch = self._text_batch(doc // _TEXT_BATCH)
        title, text, metadata = (column[doc % _TEXT_BATCH].as_py() for column in batch.columns)
        return title or "", text or "", json.loads(metadata) if metadata else {}

    def find(self, doc_id: str) -> int | None:
        """The number of the document with this id."""
        order = self._order.column("doc") if self._n_docs else ()
        wanted = doc_id.encode()  # Arrow sorts by UTF-8 bytes
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if self.id(int(order[middle])).encode() < wanted:
                low = middle + 1
            else:
                high = middle
        if low < len(order) and self.id(int(order[low])) == doc_id:
            return int(order[low])
        return None

    def all_ids(self, *, parents: bool = False) -> Iterable[str]:
        """All ids in document order; with `parents` a passage gives the id of its document, as hits do."""
        for i in range(self._ids.n_batches):
            ids, of = self._id_batch(i).columns
            yield from (pc.coalesce(of, ids) if parents else ids).to_pylist()
