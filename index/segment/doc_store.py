"""Documents of a segment: ids, parents, and, optionally, titles, texts and metadata.

ids.arrow      id, parent           mapped, in batches of 65,536
texts.arrow    title, text, metadata   compressed, in batches of 64: a hit decompresses only its own batch
keys.arrow     hash, doc            hashes of ids and of parents, ascending, to find documents by either
columns.arrow  metadata again, as typed columns for filters, if there is any (lsr.index.segment.columns)
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lsr.errors import CorruptIndex, DataError
from lsr.index.kernels.hashing import hash_strings
from lsr.index.segment.columns import COLUMNS_FILE, Columns, ColumnsWriter
from lsr.index.segment.filters import Filter
from lsr.index.storage.arrow_file import RESTORE, ArrowFile, damage, write_arrow
from lsr.io.document import DOCUMENT_SCHEMA, Document

_ID_SCHEMA = pa.schema([DOCUMENT_SCHEMA.field("id"), DOCUMENT_SCHEMA.field("parent")])
_TEXT_SCHEMA = pa.schema([DOCUMENT_SCHEMA.field(name) for name in ("title", "text", "metadata")])
_KEY_SCHEMA = pa.schema([("hash", pa.uint64()), ("doc", pa.uint32())])
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
        self._hashes: list[NDArray[np.uint64]] = []
        self._parents: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._ids = _Rebatched(folder / "ids.arrow", _ID_SCHEMA, _ID_BATCH)
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._texts = _Rebatched(folder / "texts.arrow", _TEXT_SCHEMA, _TEXT_BATCH, options)
        self._columns = ColumnsWriter()

    def write(self, documents: pa.RecordBatch) -> None:
        """Append a batch of lsr.io.document.DOCUMENT_SCHEMA."""
        self._hashes.append(hashes_of(documents.column("id")))
        if documents.column("parent").null_count < documents.num_rows:
            has_one = documents.column("parent").is_valid().to_numpy(zero_copy_only=False)
            parents = documents.column("parent").drop_null()
            self._parents.append((hashes_of(parents), self.count + np.flatnonzero(has_one)))
        self.count += documents.num_rows
        self.has_parents |= documents.column("parent").null_count < documents.num_rows
        self.has_text |= any(documents.column(n).null_count < documents.num_rows for n in _TEXT_SCHEMA.names)
        self._ids.write(documents.select(_ID_SCHEMA.names))
        self._texts.write(documents.select(_TEXT_SCHEMA.names))
        self._columns.write(documents.column("metadata"))

    def close(self) -> None:
        """Finish the files and sort the hashes.

        Raises:
            DataError: An id occurs twice.
        """
        self._ids.close()
        self._texts.close()
        self._columns.close(self._folder)
        if not self.has_text:
            (self._folder / "texts.arrow").unlink()
        hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes])
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        if len(again):
            self._refuse_doubled(np.unique(np.concatenate((order[again], order[again + 1]))))
        if self._parents:
            docs = np.concatenate([np.arange(self.count), *(docs for _, docs in self._parents)])
            hashes = np.concatenate([hashes, *(parents for parents, _ in self._parents)])
            order = np.lexsort((docs, hashes))
            hashes, docs = hashes[order], docs[order]
        else:
            hashes, docs = hashes[order], order
        write_arrow(self._folder / "keys.arrow", {"hash": hashes, "doc": docs.astype(np.uint32)})

    def _refuse_doubled(self, suspects: NDArray[np.int64]) -> None:
        """Refuse repeated ids among documents with the same hash."""
        ids, first = ArrowFile(self._folder / "ids.arrow", _ID_SCHEMA), dict[str, int]()
        for doc in suspects.tolist():
            doc_id = ids.batch(doc // _ID_BATCH).column(0)[doc % _ID_BATCH].as_py()
            if doc_id in first:
                raise DataError(f"the id {doc_id!r} occurs twice, as document {first[doc_id] + 1} and {doc + 1}")
            first[doc_id] = doc


def hashes_of(strings: pa.Array) -> NDArray[np.uint64]:
    """Return (n,) uint64: the hashes of an Arrow array of n strings without nulls."""
    hashes = np.empty(len(strings), np.uint64)
    if len(strings):
        _, offsets, content = strings.buffers()
        starts = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1]
        hash_strings(starts, np.frombuffer(content or b"", np.uint8), hashes)
    return hashes


class _Rebatched:
    """Writes an Arrow file whose batches all have the same number of rows."""

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
    """Reads the files of DocumentsWriter: ids and texts by document number, numbers by id.

    Attributes:
        columns: Metadata for filters; None if no document has any.
        sources: The primary files. `rows` reads these; the other files are derived from them.
    """

    def __init__(self, folder: Path, n_docs: int, has_text: bool, has_columns: bool | None = None) -> None:
        self._n_docs = n_docs
        self._ids = ArrowFile(folder / "ids.arrow", _ID_SCHEMA)
        self._texts = ArrowFile(folder / "texts.arrow", _TEXT_SCHEMA) if has_text else None
        self._keys = ArrowFile(folder / "keys.arrow", _KEY_SCHEMA)
        self.sources = (self._ids, self._texts) if self._texts else (self._ids,)
        self._id_batch = lru_cache(maxsize=None)(self._ids.batch)  # batches are mapped, so caching costs nothing
        self._text_batch = lru_cache(maxsize=64)(self._texts.batch) if self._texts else None
        columns = folder / COLUMNS_FILE
        if has_columns is None:  # new files, not in a manifest yet
            has_columns = columns.exists()
        self.columns = Columns(columns, n_docs) if has_columns else None

    def __len__(self) -> int:
        return self._n_docs

    def id(self, doc: int) -> str:
        """Return the id of a document."""
        if (value := self._key(doc, 0)) is None:
            raise CorruptIndex(f"{self._ids.path}: damaged: document {doc} has no id; {RESTORE}")
        return value

    def parent(self, doc: int) -> str | None:
        """Return the id of the document that a passage was cut from; None if it isn't a passage."""
        return self._key(doc, 1)

    def _key(self, doc: int, column: int) -> str | None:
        try:
            value: str | None = self._id_batch(doc // _ID_BATCH).column(column)[doc % _ID_BATCH].as_py()
            return value
        except IndexError:
            raise CorruptIndex(f"{self._ids.path}: damaged: there is no document {doc}; {RESTORE}") from None

    def ids_of(self, docs: NDArray[np.int64], *, parents: bool = False) -> list[str]:
        """Return the ids of documents; with `parents`, the id of a passage's document instead of its own id, as in
        hits.
        """
        batches = docs // _ID_BATCH
        found = np.empty(len(docs), object)
        for number in np.unique(batches).tolist():
            here = np.flatnonzero(batches == number)
            try:
                ids, of = (column.take(docs[here] % _ID_BATCH) for column in self._id_batch(number).columns)
            except IndexError:
                raise CorruptIndex(f"{self._ids.path}: damaged: documents are missing; {RESTORE}") from None
            if ids.null_count:
                raise CorruptIndex(f"{self._ids.path}: damaged: a document has no id; {RESTORE}")
            found[here] = (pc.coalesce(of, ids) if parents else ids).to_pylist()
        return list(found)

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Return title, text and metadata of a document; empty if they weren't stored."""
        if self._texts is None or self._text_batch is None:
            return "", "", {}
        batch = self._text_batch(doc // _TEXT_BATCH)
        with damage(self._texts.path, f"damaged: document {doc}"):
            title, text, metadata = (column[doc % _TEXT_BATCH].as_py() for column in batch.columns)
            values = json.loads(metadata) if metadata else {}
            if not isinstance(values, dict):
                raise ValueError("its metadata is not a JSON object")
        return title or "", text or "", values

    def find(self, doc_id: str) -> int | None:
        """Return the number of the document with this id; None if there is none."""
        return next((doc for _, doc in self.matches([doc_id]) if self.id(doc) == doc_id), None)

    def matches(self, keys: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yield (position in `keys`, document number) for the documents with these ids, and for their passages."""
        if not self._n_docs or not keys:
            return
        hashes, docs = self.keys()
        wanted = hashes_of(pa.array(keys, pa.string()))
        first, last = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, side="right")
        for i in np.flatnonzero(first < last).tolist():
            for doc in np.unique(docs[first[i] : last[i]]).tolist():
                if keys[i] in (self.id(doc), self.parent(doc)):
                    yield i, doc

    def keys(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Return the hashes of all ids and of passages' parents, ascending, and their documents."""
        if not self._n_docs:
            return np.empty(0, np.uint64), np.empty(0, np.uint32)
        return self._keys.column("hash"), self._keys.column("doc")

    def ids(self) -> pa.ChunkedArray:
        """Return all ids in document order, mapped."""
        return pa.chunked_array([self._id_batch(i).column(0) for i in range(self._ids.n_batches)], pa.string())

    def all_ids(self, *, parents: bool = False) -> Iterable[str]:
        """Iterate over all ids in document order; `parents` as for `ids_of`."""
        for i in range(self._ids.n_batches):
            ids, of = self._id_batch(i).columns
            yield from (pc.coalesce(of, ids) if parents else ids).to_pylist()

    def rows(self, first: int, end: int) -> pa.RecordBatch:
        """Read documents first..end as a batch of lsr.io.document.DOCUMENT_SCHEMA."""
        columns = _rows_of(self._ids, _ID_BATCH, first, end).columns
        if self._texts is None:
            columns += [pa.nulls(end - first, field.type) for field in _TEXT_SCHEMA]
        else:
            columns += _rows_of(self._texts, _TEXT_BATCH, first, end).columns
        return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT_SCHEMA)


def _rows_of(file: ArrowFile, size: int, first: int, end: int) -> pa.RecordBatch:
    """Read rows first..end of a file whose batches have equal size. The range must not be empty."""
    with damage(file.path, f"damaged: documents {first} to {end}"):
        table = pa.Table.from_batches([file.batch(i) for i in range(first // size, -(-end // size))])
        (batch,) = table.slice(first % size, end - first).combine_chunks().to_batches()
        if len(batch) != end - first:
            raise ValueError(f"found only {len(batch)} of {end - first}")
        return batch


class AllDocuments:
    """The documents of several segments, by number; deleted documents can't be found by id.

    Args:
        parts: The documents of each segment.
        alive: For each segment, (n_docs,) bool, False for deleted documents; None if none are deleted.
    """

    def __init__(self, parts: Sequence[Documents], alive: Sequence[NDArray[np.bool_] | None]) -> None:
        self._parts, self._alive = tuple(parts), tuple(alive)
        self._bases = [0, *accumulate(map(len, parts))]

    def _at(self, doc: int) -> tuple[Documents, int]:
        number = bisect_right(self._bases, doc) - 1
        return self._parts[number], doc - self._bases[number]

    def id(self, doc: int) -> str:
        """Return the id of a document."""
        part, within = self._at(doc)
        return part.id(within)

    def parent(self, doc: int) -> str | None:
        """Return the id of the document that a passage was cut from; None if it isn't a passage."""
        part, within = self._at(doc)
        return part.parent(within)

    def ids_of(self, docs: Sequence[int], *, parents: bool = False) -> list[str]:
        """Return the ids of documents; for `parents` see `Documents.ids_of`."""
        wanted = np.asarray(docs, np.int64)
        number = np.searchsorted(self._bases, wanted, side="right") - 1
        found = np.empty(len(wanted), object)
        for n in np.unique(number).tolist():
            here = np.flatnonzero(number == n)
            found[here] = self._parts[n].ids_of(wanted[here] - self._bases[n], parents=parents)
        return list(found)

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Return title, text and metadata of a document; empty if they weren't stored."""
        part, within = self._at(doc)
        return part.fields(within)

    def stored(self, doc: int) -> Document:
        """Return a document or passage as it is stored."""
        title, text, metadata = self.fields(doc)
        return Document(self.id(doc), text, title, metadata or None, self.parent(doc))

    def get_many(self, ids: Sequence[str], *, passages: bool) -> list[Document | None]:
        """Return the documents with given ids, in order; None for unknown ids.

        Args:
            ids: Ids of documents or passages.
            passages: For the id of a document that was cut, return the document, joined from its passages; otherwise
                such an id is unknown.
        """
        found: list[Document | None] = []
        for doc_id, doc in zip(ids, self.find_all(ids).tolist(), strict=True):
            if doc >= 0:
                found.append(self.stored(doc))
                continue
            parts = [self.stored(passage) for passage in self.passages(doc_id)] if passages else []
            text = "\n\n".join(part.text for part in parts)
            found.append(replace(parts[0], id=doc_id, text=text, parent=None) if parts else None)
        return found

    def content(self, doc: int) -> str:
        """Return title and text of a document, as encoders read them."""
        title, text, _ = self.fields(doc)
        return Document("", text, title).content

    def find(self, doc_id: str) -> int | None:
        """Return the number of the document with this id; None if there is none."""
        for part, alive, base in zip(self._parts, self._alive, self._bases, strict=False):
            doc = part.find(doc_id)
            if doc is not None and (alive is None or alive[doc]):
                return doc + base
        return None

    def find_all(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return (n,) int64: the numbers of the documents with given ids, -1 for unknown ids."""
        found = np.full(len(ids), -1, np.int64)
        for part, alive, base in zip(self._parts, self._alive, self._bases, strict=False):
            for i, doc in part.matches(ids):
                if (alive is None or alive[doc]) and part.id(doc) == ids[i]:
                    found[i] = base + doc
        return found

    def passages(self, doc_id: str) -> list[int]:
        """Return the numbers of a document's passages, in order."""
        found = []
        for part, alive, base in zip(self._parts, self._alive, self._bases, strict=False):
            found += [base + doc for _, doc in part.matches([doc_id]) if alive is None or alive[doc]]
        return found

    @property
    def columns(self) -> list[Columns]:
        """The columns of the segments that have any."""
        return [part.columns for part in self._parts if part.columns is not None]

    def allowed(self, where: Filter, *, known: bool = False) -> NDArray[np.bool_]:
        """Return (n,) bool: which documents match a filter; deleted documents may match, too.

        Args:
            where: The filter.
            known: Skip the check of the filter's columns, because the caller has made it.

        Raises:
            DataError: A column doesn't exist, or its values have another kind.
        """
        if not known:
            where.require_known(self.columns)
        return np.concatenate([np.empty(0, bool), *(where.mask(part.columns, len(part)) for part in self._parts)])

    def numbers(self, first: int = 0) -> Iterator[int]:
        """Iterate over the numbers of live documents, ascending, from `first` on."""
        for part, alive, base in zip(self._parts, self._alive, self._bases, strict=False):
            begin = max(0, min(first - base, len(part)))
            here = range(begin, len(part)) if alive is None else (begin + np.flatnonzero(alive[begin:])).tolist()
            yield from (base + doc for doc in here)

    def all_ids(self, *, parents: bool = False) -> Iterable[str]:
        """Iterate over the ids of live documents, in document order; for `parents` see `Documents.all_ids`."""
        for part, alive in zip(self._parts, self._alive, strict=True):
            ids = part.all_ids(parents=parents)
            yield from ids if alive is None else (doc_id for doc_id, here in zip(ids, alive, strict=True) if here)
