"""A segment: the postings of some documents, in windows; written once, then memory-mapped.

    postings.arrow   one record batch per window: doc uint16 (within the window), impact uint8 | float32, both by
                     term and, within a term, by document
    lists.arrow      one record batch per window: its terms, ascending, and where the postings of each end, uint32 both
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

from .kernels.exhaustive import (
    DOCS_AT,
    ENDS_AT,
    FIRST_DOC,
    IMPACTS_AT,
    N_DOCS,
    N_TERMS,
    SIZE,
    TERMS_AT,
    WINDOW,
    find_list,
    search_windows,
)
from .kernels.invert import count_terms, invert
from .kernels.query import keep_known
from .quantize import Quantizer, query_integers
from .storage import ArrowFile, write_arrow

ImpactType = Literal["uint8", "float32"]
DEFAULT_MEMORY = 1 << 30  # bytes that the writer may hold, roughly
_BYTES_PER_POSTING = 24  # held while a window is gathered and inverted
_SPARE = 64  # room for the best documents beyond twice k, so that a small k is thinned out rarely, too
_DENSE_VOCABULARY = 1 << 22  # up to here terms are counted in an array over the vocabulary

_WINDOW_SCHEMA = pa.schema([("first_doc", pa.int64()), ("n_docs", pa.int64())])
_LIST_SCHEMA = pa.schema([("term", pa.uint32()), ("end", pa.uint32())])
_TERM_SCHEMA = pa.schema([("term", pa.uint32()), ("df", pa.uint32())])


def _posting_schema(impacts: ImpactType) -> pa.Schema:
    return pa.schema([("doc", pa.uint16()), ("impact", pa.uint8() if impacts == "uint8" else pa.float32())])


@dataclass(frozen=True)
class _Window:
    """A window put aside: its documents, and where its arrays lie in the temporary file."""

    first_doc: int
    n_docs: int
    n_terms: int
    n_postings: int
    at: int


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
        self._terms = np.empty(0, np.int64)
        self._df = np.empty(0, np.int64)
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
            dense = np.zeros(matrix.shape[1], np.int64)
            count_terms(matrix.indices, dense)
            terms = np.flatnonzero(dense)
            counts, cursor = dense[terms], np.cumsum(dense) - dense
            rows: NDArray[Any] = matrix.indices
        else:
            terms, rows, counts = np.unique(matrix.indices, return_inverse=True, return_counts=True)
            cursor = np.cumsum(counts) - counts
        docs = np.empty(matrix.nnz, np.uint16)
        weights = np.empty(matrix.nnz, np.float32)
        invert(matrix.indptr, rows, matrix.data, cursor, docs, weights)
        self._windows.append(_Window(first_doc, len(matrix), len(terms), matrix.nnz, self._file.tell()))
        for array in (terms.astype(np.uint32), np.cumsum(counts).astype(np.uint32), docs, weights):
            self._file.write(array.data)
        self.n_postings += matrix.nnz
        self._count(terms, counts)

    def _count(self, terms: NDArray[Any], counts: NDArray[Any]) -> None:
        """Add a window's document frequencies to those of the windows before."""
        self._terms, places = np.unique(np.concatenate((self._terms, terms)), return_inverse=True)
        both = np.concatenate((self._df, counts))
        self._df = np.bincount(places, weights=both, minlength=len(self._terms)).astype(np.int64)

    def finish(self) -> Quantizer | None:
        """Write the files; returns how weights became impacts, None for float weights."""
        if self._n_waiting:
            self._put_aside()
        quantizer = Quantizer.of(self._largest, self._whole) if self._impacts == "uint8" else None
        schema = _posting_schema(self._impacts)
        with (
            pa.ipc.new_file(str(self._folder / "postings.arrow"), schema) as postings,
            pa.ipc.new_file(str(self._folder / "lists.arrow"), _LIST_SCHEMA) as lists,
        ):
            for window in self._windows:
                self._file.seek(window.at)
                terms, ends = self._read(window.n_terms, np.uint32), self._read(window.n_terms, np.uint32)
                lists.write_batch(pa.RecordBatch.from_arrays([terms, ends], schema=_LIST_SCHEMA))
                docs, weights = self._read(window.n_postings, np.uint16), self._read(window.n_postings, np.float32)
                impacts = quantizer.impacts(weights) if quantizer else weights
                postings.write_batch(pa.RecordBatch.from_arrays([docs, impacts], schema=schema))
        windows = {
            "first_doc": np.array([w.first_doc for w in self._windows], np.int64),
            "n_docs": np.array([w.n_docs for w in self._windows], np.int64),
        }
        write_arrow(self._folder / "windows.arrow", windows)
        write_arrow(
            self._folder / "terms.arrow", {"term": self._terms.astype(np.uint32), "df": self._df.astype(np.uint32)}
        )
        return quantizer

    def _read(self, n: int, dtype: Any) -> NDArray[Any]:
        return np.frombuffer(self._file.read(n * np.dtype(dtype).itemsize), dtype)

    def close(self) -> None:
        """Give the temporary file up, finished or not."""
        self._file.close()


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
        lists = ArrowFile(folder / "lists.arrow", _LIST_SCHEMA)
        self.terms: NDArray[np.uint32] = terms.column("term")
        self.df: NDArray[np.uint32] = terms.column("df")
        first_doc, n_docs = windows.column("first_doc"), windows.column("n_docs")
        self.n_windows = len(first_doc)
        if not self.n_windows == postings.n_batches == lists.n_batches:
            raise CorruptIndex(f"{folder}: the files of the postings don't fit together; build the index again")
        if self.n_windows and (n_docs.min() < 0 or n_docs.max() > WINDOW):
            raise CorruptIndex(f"{folder / 'windows.arrow'}: a window of an impossible size; build the index again")
        self.n_docs = int(n_docs.sum())
        impact_type = np.dtype(np.uint8 if impacts == "uint8" else np.float32)
        self._windows = np.empty((self.n_windows, 8), np.int64)
        for w in range(self.n_windows):
            batch, entries = postings.batch(w), lists.batch(w)
            self._windows[w, DOCS_AT] = postings.offset(batch.column(0)) // 2
            self._windows[w, IMPACTS_AT] = postings.offset(batch.column(1)) // impact_type.itemsize
            self._windows[w, SIZE] = batch.num_rows
            self._windows[w, TERMS_AT] = lists.offset(entries.column(0)) // 4
            self._windows[w, ENDS_AT] = lists.offset(entries.column(1)) // 4
            self._windows[w, N_TERMS] = entries.num_rows
        self._windows[:, FIRST_DOC], self._windows[:, N_DOCS] = first_doc, n_docs
        self._docs = _view(postings.bytes, np.uint16)
        self._values = _view(postings.bytes, impact_type)
        self._lists = _view(lists.bytes, np.uint32)
        self._local = threading.local()

    @property
    def n_postings(self) -> int:
        """Number of postings."""
        return int(self._windows[:, SIZE].sum())

    def search(self, terms: NDArray[np.uint32], weights: NDArray[np.float32], k: int) -> tuple[Any, Any]:
        """The k best documents for a query vector, every posting of its terms scored.

        Args:
            terms: (n,) ascending term ids.
            weights: (n,) weights above zero.
            k: How many.

        Returns:
            (found,) int64 document numbers and (found,) float64 scores, descending, equal ones by document.
        """
        known, query, factor = self.query(terms, weights)
        if not len(known):
            return np.empty(0, np.int64), np.empty(0, np.float64)
        k = min(k, self.n_docs)
        docs = np.empty(2 * k + _SPARE, np.int64)
        scores = np.empty(len(docs), query.dtype)
        accumulator = self._accumulator(query.dtype)
        found = search_windows(
            self._docs, self._values, self._lists, self._windows, known, query, accumulator, k, docs, scores
        )
        return docs[:found], scores[:found] * factor

    def query(self, terms: NDArray[np.uint32], weights: NDArray[np.float32]) -> tuple[Any, Any, float]:
        """A query's known terms, its weights as the kernel takes them, and what a score is to be multiplied with.

        Terms that no document has are left out.
        """
        known, wide = np.empty(len(terms), np.uint32), np.empty(len(terms))
        found = keep_known(self.terms, terms, weights, known, wide)
        known, wide = known[:found], wide[:found]
        if self._impacts == "float32":
            return known, wide, 1.0
        integers, factor = query_integers(wide)
        return known, integers, self._scale / factor

    def impacts_of(self, doc: int, terms: NDArray[np.uint32]) -> NDArray[np.float64]:
        """(n,) float64, the stored weight of each term in a document, 0 where it doesn't occur."""
        w = int(np.searchsorted(self._windows[:, FIRST_DOC], doc, side="right")) - 1
        local = doc - int(self._windows[w, FIRST_DOC])
        docs_at, impacts_at = int(self._windows[w, DOCS_AT]), int(self._windows[w, IMPACTS_AT])
        found = np.zeros(len(terms))
        for i, term in enumerate(terms):
            begin, end = find_list(self._lists, self._windows, w, term)
            place = begin + int(np.searchsorted(self._docs[docs_at + begin : docs_at + end], local))
            if place < end and self._docs[docs_at + place] == local:
                found[i] = float(self._values[impacts_at + place]) * self._scale
        return found

    def _accumulator(self, dtype: Any) -> Any:
        # One per thread, kept: the kernel leaves it zero.
        if getattr(self._local, "accumulator", None) is None:
            self._local.accumulator = np.zeros(WINDOW, dtype)
        return self._local.accumulator


def _view(whole: NDArray[np.uint8], dtype: Any) -> NDArray[Any]:
    """A mapped file as an array of another type; a rest that doesn't fill an entry is left out."""
    return whole[: len(whole) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize].view(dtype)
