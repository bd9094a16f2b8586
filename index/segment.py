"""A segment: the postings of some documents, in windows; written once, then memory-mapped.

    postings.arrow   one record batch per window: doc uint16 (within the window), impact uint8 | float32, both by
                     term and, within a term, by document
    starts.arrow     where each term's postings begin within each window, (n_windows, n_used + 1) uint32 in one column
    windows.arrow    first_doc int64, n_docs int64 of each window
    terms.arrow      the terms that occur, ascending, uint32, and in how many documents, df uint32

A window holds at most 65,536 documents, fewer where they are so long that the writer's memory would run over.
Writing takes one pass over the vectors and memory for one window: it is inverted and put aside with float weights;
once the largest weight is known, impacts are written.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex
from lsr.sparse import SparseMatrix

from .kernels.exhaustive import WINDOW, search_windows
from .kernels.invert import count_terms, invert
from .kernels.query import find_rows
from .quantize import Quantizer, query_integers
from .storage import ArrowFile, write_arrow

ImpactType = Literal["uint8", "float32"]
DEFAULT_MEMORY = 1 << 30  # bytes that the writer may hold, roughly
_BYTES_PER_POSTING = 24  # held while a window is gathered and inverted
_SPARE = 64  # room for the best documents beyond twice k, so that a small k is thinned out rarely, too
_DENSE_VOCABULARY = 1 << 22  # up to here terms are counted in an array over the vocabulary

_WINDOW_SCHEMA = pa.schema([("first_doc", pa.int64()), ("n_docs", pa.int64())])
_START_SCHEMA = pa.schema([("start", pa.uint32())])
_TERM_SCHEMA = pa.schema([("term", pa.uint32()), ("df", pa.uint32())])


def _posting_schema(impacts: ImpactType) -> pa.Schema:
    return pa.schema([("doc", pa.uint16()), ("impact", pa.uint8() if impacts == "uint8" else pa.float32())])


@dataclass(frozen=True)
class _Window:
    """A window put aside: its terms, where their lists begin, and where its arrays lie in the temporary file."""

    first_doc: int
    n_docs: int
    terms: NDArray[np.uint32]
    starts: NDArray[np.int64]
    at: int

    @property
    def n_postings(self) -> int:
        return int(self.starts[-1])


class SegmentWriter:
    """Writes a segment from matrices that come in document order.

    Args:
        folder: Where the files go.
        scratch: Where the temporary file goes.
        impacts: How weights are stored.
        memory: Bytes to hold, roughly.
    """

    def __init__(
        self, folder: Path, scratch: Path, impacts: ImpactType = "uint8", memory: int = DEFAULT_MEMORY
    ) -> None:
        self._folder = folder
        self._impacts: ImpactType = impacts
        self._max_postings = max(1, min(memory // _BYTES_PER_POSTING, 2**31))
        self._file = (scratch / "windows").open("w+b")
        self._waiting: list[SparseMatrix] = []
        self._n_waiting = 0
        self._nnz_waiting = 0
        self._windows: list[_Window] = []
        self._largest = 0.0
        self._whole = True
        self.n_docs = 0
        self.n_postings = 0

    def write(self, vectors: SparseMatrix) -> None:
        """Append documents."""
        while len(vectors):
            room = WINDOW - self._n_waiting
            fits = int(np.searchsorted(vectors.indptr[1:], self._max_postings - self._nnz_waiting, side="right"))
            take = min(room, max(fits, 0 if self._waiting else 1), len(vectors))
            if take:
                head = vectors[:take]
                self._waiting.append(head)
                self._n_waiting += take
                self._nnz_waiting += head.nnz
                vectors = vectors[take:]
            if len(vectors) or self._n_waiting == WINDOW:
                self._put_aside()

    def _put_aside(self) -> None:
        """Invert the documents that wait, as one window."""
        matrix = SparseMatrix.vstack(self._waiting)
        self._waiting = []
        first_doc, self.n_docs = self.n_docs, self.n_docs + len(matrix)
        self._n_waiting = self._nnz_waiting = 0
        if matrix.nnz:
            self._largest = max(self._largest, float(matrix.data.max()))
            self._whole = self._whole and bool((matrix.data == np.rint(matrix.data)).all())
        if matrix.shape[1] <= _DENSE_VOCABULARY:
            counts = np.zeros(matrix.shape[1], np.int64)
            count_terms(matrix.indices, counts)
            terms = np.flatnonzero(counts)
            starts = np.concatenate(([0], np.cumsum(counts[terms])))
            cursor = np.cumsum(counts) - counts
            rows: NDArray[Any] = matrix.indices
        else:
            terms, rows, counts = np.unique(matrix.indices, return_inverse=True, return_counts=True)
            starts = np.concatenate(([0], np.cumsum(counts)))
            cursor = starts[:-1].copy()
        docs = np.empty(matrix.nnz, np.uint16)
        weights = np.empty(matrix.nnz, np.float32)
        invert(matrix.indptr, rows, matrix.data, cursor, docs, weights)
        window = _Window(first_doc, len(matrix), terms.astype(np.uint32), starts.astype(np.int64), self._file.tell())
        self._windows.append(window)
        self._file.write(docs.data)
        self._file.write(weights.data)
        self.n_postings += window.n_postings

    def finish(self) -> Quantizer | None:
        """Write the files; returns how weights became impacts, None for float weights."""
        if self._n_waiting:
            self._put_aside()
        quantizer = Quantizer.of(self._largest, self._whole) if self._impacts == "uint8" else None
        used = _union([window.terms for window in self._windows])
        df = np.zeros(len(used), np.uint32)
        starts = np.empty((len(self._windows), len(used) + 1), np.uint32)
        schema = _posting_schema(self._impacts)
        with pa.ipc.new_file(str(self._folder / "postings.arrow"), schema) as writer:
            for window, row in zip(self._windows, starts, strict=True):
                counts = np.zeros(len(used), np.int64)
                counts[np.searchsorted(used, window.terms)] = np.diff(window.starts)
                df += counts.astype(np.uint32)
                row[0] = 0
                row[1:] = np.cumsum(counts)
                writer.write_batch(self._read_window(window, schema, quantizer))
        write_arrow(self._folder / "starts.arrow", {"start": starts.reshape(-1)})
        windows = {
            "first_doc": np.array([w.first_doc for w in self._windows], np.int64),
            "n_docs": np.array([w.n_docs for w in self._windows], np.int64),
        }
        write_arrow(self._folder / "windows.arrow", windows)
        write_arrow(self._folder / "terms.arrow", {"term": used, "df": df})
        return quantizer

    def _read_window(self, window: _Window, schema: pa.Schema, quantizer: Quantizer | None) -> pa.RecordBatch:
        n = window.n_postings
        self._file.seek(window.at)
        docs = np.frombuffer(self._file.read(2 * n), np.uint16)
        weights = np.frombuffer(self._file.read(4 * n), np.float32)
        impacts = quantizer.impacts(weights) if quantizer else weights
        return pa.RecordBatch.from_arrays([pa.array(docs), pa.array(impacts)], schema=schema)

    def close(self) -> None:
        """Give the temporary file up, finished or not."""
        self._file.close()


def _union(parts: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    union = np.empty(0, np.uint32)
    for part in parts:
        union = np.union1d(union, part)
    return union.astype(np.uint32)


class Segment:
    """Searches what SegmentWriter wrote. Opening maps the files and reads none of the postings.

    Attributes:
        terms: (n_used,) uint32, the terms that occur, ascending.
        df: (n_used,) uint32, in how many documents each occurs.
        n_windows: Number of windows.
        n_docs: Number of documents.

    Args:
        folder: Where the files lie.
        impacts: How weights are stored.
        scale: Weight of one impact; 1.0 for float weights.

    Raises:
        CorruptIndex: A file is damaged so that searching it would read outside of it.
    """

    def __init__(self, folder: Path, impacts: ImpactType, scale: float) -> None:
        self._impacts = impacts
        self._scale = scale
        postings = ArrowFile(folder / "postings.arrow", _posting_schema(impacts))
        windows = ArrowFile(folder / "windows.arrow", _WINDOW_SCHEMA)
        terms = ArrowFile(folder / "terms.arrow", _TERM_SCHEMA)
        starts = ArrowFile(folder / "starts.arrow", _START_SCHEMA)
        self.terms: NDArray[np.uint32] = terms.column("term")
        self.df: NDArray[np.uint32] = terms.column("df")
        self._first_doc, self._n_docs = windows.column("first_doc"), windows.column("n_docs")
        self.n_windows = len(self._first_doc)
        self.n_docs = int(self._n_docs.sum())
        shape = (self.n_windows, len(self.terms) + 1)
        flat = starts.column("start")
        if postings.n_batches != self.n_windows or len(flat) != shape[0] * shape[1]:
            raise CorruptIndex(f"{folder}: the files of the postings don't fit together; build the index again")
        if self.n_windows and (self._n_docs.min() < 0 or self._n_docs.max() > WINDOW):
            raise CorruptIndex(f"{folder / 'windows.arrow'}: a window of an impossible size; build the index again")
        self._starts = flat.reshape(shape)
        batches = [postings.batch(i) for i in range(self.n_windows)]
        impact_type = np.dtype(np.uint8 if impacts == "uint8" else np.float32)
        self._sizes = np.array([batch.num_rows for batch in batches], np.int64)
        self._doc_at = np.array([postings.offset(b.column(0)) // 2 for b in batches], np.int64)
        self._impact_at = np.array([postings.offset(b.column(1)) // impact_type.itemsize for b in batches], np.int64)
        whole = postings.bytes
        self._docs = whole[: len(whole) // 2 * 2].view(np.uint16)
        self._values = whole[: len(whole) // 4 * 4].view(np.float32) if impacts == "float32" else whole
        self._local = threading.local()

    @property
    def n_postings(self) -> int:
        """Number of postings."""
        return int(self._sizes.sum())

    def search(self, terms: NDArray[np.uint32], weights: NDArray[np.float32], k: int) -> tuple[Any, Any]:
        """The k best documents for a query vector, every posting of its terms scored.

        Args:
            terms: (n,) ascending term ids.
            weights: (n,) weights above zero.
            k: How many.

        Returns:
            (found,) int64 document numbers and (found,) float64 scores, descending, equal ones by document.
        """
        rows, query, factor = self.query(terms, weights)
        if not len(rows):
            return np.empty(0, np.int64), np.empty(0, np.float64)
        k = min(k, self.n_docs)
        docs = np.empty(2 * k + _SPARE, np.int64)
        scores = np.empty(len(docs), query.dtype)
        found = search_windows(
            self._docs, self._doc_at, self._values, self._impact_at, self._sizes, self._starts,
            self._first_doc, self._n_docs, rows, query, self._accumulator(query.dtype), k, docs, scores,
        )  # fmt: skip
        return docs[:found], scores[:found] * factor

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> tuple[Any, Any, float]:
        """A query's terms as rows, its weights as the kernel takes them, and what a score is to be multiplied with.

        Terms that no document has are left out.
        """
        rows, wide = np.empty(len(terms), np.int64), np.empty(len(terms))
        found = find_rows(self.terms, terms, weights, rows, wide)
        rows, wide = rows[:found], wide[:found]
        if self._impacts == "float32":
            return rows, wide, 1.0
        integers, factor = query_integers(wide)
        return rows, integers, self._scale / factor

    def impacts_of(self, doc: int, terms: NDArray[np.uint32]) -> NDArray[np.float64]:
        """(n,) float64, the stored weight of each term in a document, 0 where it doesn't occur."""
        w = int(np.searchsorted(self._first_doc, doc, side="right")) - 1
        local = doc - int(self._first_doc[w])
        found = np.zeros(len(terms))
        rows = np.searchsorted(self.terms, terms)
        for i, row in enumerate(rows.tolist()):
            if row >= len(self.terms) or self.terms[row] != terms[i]:
                continue
            begin, end = int(self._starts[w, row]), int(self._starts[w, row + 1])
            at = int(self._doc_at[w])
            place = begin + int(np.searchsorted(self._docs[at + begin : at + end], local))
            if place < end and self._docs[at + place] == local:
                found[i] = float(self._values[int(self._impact_at[w]) + place]) * self._scale
        return found

    def _accumulator(self, dtype: Any) -> Any:
        # One per thread, kept: the kernel leaves it zero.
        if getattr(self._local, "accumulator", None) is None:
            self._local.accumulator = np.zeros(WINDOW, dtype)
        return self._local.accumulator
