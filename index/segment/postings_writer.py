"""Write a segment in bounded memory: one pass spools the vectors to disk, a second one inverts them by window."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.index.kernels.block_max import summarize
from lsr.index.kernels.gaps import count_gaps, write_gaps
from lsr.index.kernels.invert import count_terms, gather, invert
from lsr.index.kernels.layout import BLOCK, GAPS, POSTINGS_LIST, ROW_UNIT, SKIP, SKIP_UNIT, WINDOW
from lsr.index.segment.postings import (
    DENSE_SCHEMA,
    ENTRY_SCHEMA,
    GAPS_SCHEMA,
    MAXIMA_SCHEMA,
    SKIPS_SCHEMA,
    ImpactType,
    mapped,
    posting_schema,
)
from lsr.index.segment.quantize import Quantizer, shifts_of
from lsr.index.segment.reorder import document_order, reduce_documents
from lsr.index.storage.arrow_file import write_arrow
from lsr.sparse import SparseMatrix, usual_largest

Order = Literal["auto", "given", "bisection"]
DEFAULT_MEMORY = 1 << 30  # approximate limit for the writer, in bytes
# A list with at least 1/400 of its window's documents has block maxima. A list with at least 1/5 of them is stored as a
# dense row of impacts, which takes hardly more space and is faster to add up and to look up.
_SUMMARIZED, _DENSE = 400, 5
# Other lists with block maxima are stored as gaps, unless they need more than this many gaps per posting. A gap takes
# two bytes, a posting three.
_MOST_GAPS = 1.25
_BYTES_PER_POSTING = 24  # memory while a window is gathered and inverted
_ORDERED_FROM = 20_000  # minimum number of documents that "auto" orders
_UNITS = 1 << 18  # units of rows that are reordered at a time
_DENSE_VOCABULARY = 1 << 22  # for vocabularies up to this size, terms are counted in an array


@dataclass(frozen=True)
class _Window:
    """A window ready to write: its postings by term, its lists, and the maxima and skips of its longer lists."""

    n_docs: int
    docs: NDArray[np.uint16]
    impacts: NDArray[Any]
    terms: NDArray[np.int64]
    largest: NDArray[np.float32]
    begins: NDArray[np.int64]
    sizes: NDArray[np.int64]
    dense_numbers: NDArray[np.int32]
    dense: NDArray[np.uint8]
    gaps: NDArray[np.uint8]
    gap_impacts: NDArray[np.uint8]
    rows: NDArray[np.int32]
    maxima: NDArray[np.uint8]
    skips: NDArray[np.uint16]


class SegmentWriter:
    """Writes a segment from matrices of consecutive documents.

    Args:
        folder: Folder of the segment's files.
        scratch: Folder of temporary files, which hold the vectors: 8 bytes per weight.
        impacts: How weights are stored.
        memory: Approximate memory limit in bytes.
        order: "bisection" stores similar documents next to each other, so that search can skip more; results don't
            change. "given" keeps the order. "auto" means "bisection" for 20,000 documents or more, else "given".
        quantizer: Builds the quantizer for 8-bit impacts from the largest weight and whether all weights are whole.
    """

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        impacts: ImpactType = "uint8",
        memory: int = DEFAULT_MEMORY,
        order: Order = "auto",
        quantizer: Callable[[float, bool], Quantizer] = Quantizer.of,
    ) -> None:
        if order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
        self._order = order
        self._quantizer = quantizer
        self._folder = folder
        self._impacts: ImpactType = impacts
        self._threads = os.cpu_count() or 1
        self._max_postings = max(1, min(memory // (_BYTES_PER_POSTING * self._threads), 2**31 - 1))
        self._files = [(scratch / name).open("w+b") for name in ("terms", "weights", "maxima", "skips")]
        self._lengths: list[NDArray[np.int64]] = []
        self._largest: list[NDArray[np.float32]] = []  # largest weight of each document
        self._whole = True
        self._counts = np.zeros(0, np.int64)  # document frequency by term, for small vocabularies
        self._terms = np.empty(0, np.int64)  # for large vocabularies: the terms that occur,
        self._df = np.empty(0, np.int64)  # and their document frequencies
        self.n_docs = 0
        self.n_postings = 0
        self.max_error = 0.0

    def write(self, vectors: SparseMatrix) -> None:
        """Append documents."""
        self._lengths.append(vectors.lengths())
        self.n_docs += len(vectors)
        self.n_postings += vectors.nnz
        self._largest.append(vectors.largest())
        if not vectors.nnz:
            return
        terms, weights = vectors.indices.astype(np.uint32, copy=False), vectors.data.astype(np.float32, copy=False)
        self._files[0].write(np.ascontiguousarray(terms).data)
        self._files[1].write(np.ascontiguousarray(weights).data)
        self._whole = self._whole and bool((weights == np.rint(weights)).all())
        if vectors.shape[1] <= _DENSE_VOCABULARY:
            if len(self._counts) < vectors.shape[1]:
                self._counts = np.concatenate((self._counts, np.zeros(vectors.shape[1] - len(self._counts), np.int64)))
            count_terms(terms, self._counts)
        else:
            self._count(*np.unique(terms, return_counts=True))

    def _count(self, terms: NDArray[Any], counts: NDArray[Any]) -> None:
        """Add document frequencies to those counted so far."""
        self._terms, places = np.unique(np.concatenate((self._terms, terms)), return_inverse=True)
        both = np.concatenate((self._df, counts))
        self._df = np.bincount(places, weights=both, minlength=len(self._terms)).astype(np.int64)

    def finish(self) -> Quantizer | None:
        """Write the files; return the quantizer, or None for float weights."""
        used = np.flatnonzero(self._counts)
        self._count(used, self._counts[used])
        quantizer, shifts = self._quantized()
        indptr = np.zeros(self.n_docs + 1, np.int64)
        np.cumsum(np.concatenate([np.empty(0, np.int64), *self._lengths]), out=indptr[1:])
        terms, weights = self._spooled()
        places = self._places(indptr, terms, weights, shifts)
        firsts = self._window_bounds(indptr, places, shifts)
        window_shifts = shifts[places[firsts[:-1]]]
        schema = posting_schema(self._impacts)
        entries: list[tuple[NDArray[Any], ...]] = []
        max_impacts, n_units = np.zeros(len(self._terms), np.float32), 0
        with (
            pa.ipc.new_file(str(self._folder / "postings.arrow"), schema) as postings,
            pa.ipc.new_file(str(self._folder / "dense.arrow"), DENSE_SCHEMA) as dense,
            pa.ipc.new_file(str(self._folder / "gaps.arrow"), GAPS_SCHEMA) as gaps,
        ):
            for window in self._inverted(indptr, terms, weights, places, firsts, quantizer, window_shifts):
                postings.write_batch(pa.RecordBatch.from_arrays([window.docs, window.impacts], schema=schema))
                dense.write_batch(pa.RecordBatch.from_arrays([window.dense.reshape(-1)], schema=DENSE_SCHEMA))
                gaps.write_batch(pa.RecordBatch.from_arrays([window.gaps, window.gap_impacts], schema=GAPS_SCHEMA))
                ranks = np.searchsorted(self._terms, window.terms)
                number = np.full(len(ranks), len(entries), np.uint32)
                max_impacts[ranks] = np.maximum(max_impacts[ranks], window.largest)
                begins, sizes = window.begins.astype(np.uint32), window.sizes.astype(np.uint32)
                units = -(-window.n_docs // (BLOCK * ROW_UNIT))
                rows = np.where(window.rows < 0, -1, n_units + window.rows * units)
                n_units += window.maxima.size // ROW_UNIT
                self._files[2].write(window.maxima.data)
                self._files[3].write(window.skips.data)
                entries.append((ranks, number, begins, sizes, rows, window.dense_numbers))
        write_arrow(
            self._folder / "windows.arrow",
            {"first_doc": firsts[:-1].astype(np.int64), "n_docs": np.diff(firsts).astype(np.int64)}
            | ({"shift": window_shifts} if shifts.any() else {}),
        )
        self._write_lists(entries, max_impacts, -(-np.diff(firsts) // (BLOCK * ROW_UNIT)))
        return quantizer

    def _quantized(self) -> tuple[Quantizer | None, NDArray[np.uint8]]:
        """Return the quantizer, and (n_docs,) the shift of each document."""
        largest = np.concatenate([np.empty(0, np.float32), *self._largest])
        if self._impacts != "uint8":
            return None, np.zeros(self.n_docs, np.uint8)
        quantizer = self._quantizer(usual_largest(largest), self._whole)
        shifts = shifts_of(largest, quantizer.scale)
        self.max_error = quantizer.scale * 2.0 ** int(shifts.max(initial=0)) if shifts.any() else quantizer.max_error
        return quantizer, shifts

    def _spooled(self) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Map the spooled terms and weights."""
        for file in self._files:
            file.flush()
        if not self.n_postings:
            return np.empty(0, np.uint32), np.empty(0, np.float32)
        return np.memmap(self._files[0].name, np.uint32, "r"), np.memmap(self._files[1].name, np.float32, "r")

    def _places(
        self,
        indptr: NDArray[np.int64],
        terms: NDArray[np.uint32],
        weights: NDArray[np.float32],
        shifts: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """Write places.arrow; return (n_docs,) int64, the documents in storage order: by shift first."""
        ordered = self._order == "bisection" or (self._order == "auto" and self.n_docs >= _ORDERED_FROM)
        # Float weights have no block bounds, so they don't benefit from the order.
        ordered = ordered and self._impacts == "uint8" and self.n_postings > 0
        places = np.arange(self.n_docs)
        if ordered:
            places = document_order(reduce_documents(indptr, terms, weights, self._terms, self._df))
        places = places[np.argsort(shifts[places], kind="stable")]
        inverse = np.empty(self.n_docs if ordered or shifts.any() else 0, np.uint32)
        inverse[places[: len(inverse)]] = np.arange(len(inverse), dtype=np.uint32)
        columns = {"doc": places[: len(inverse)].astype(np.uint32), "place": inverse}
        write_arrow(self._folder / "places.arrow", columns)
        return places

    def _window_bounds(
        self, indptr: NDArray[np.int64], places: NDArray[np.int64], shifts: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Return where each window starts, and where the last one ends.

        A window has documents of one shift and fits the memory.
        """
        ends = np.cumsum(np.diff(indptr)[places])
        of_shift = np.cumsum(np.bincount(shifts, minlength=1))
        bounds = [0]
        while bounds[-1] < len(places):
            first = bounds[-1]
            before = int(ends[first - 1]) if first else 0
            fits = int(np.searchsorted(ends, before + self._max_postings, side="right"))
            same = int(of_shift[np.searchsorted(of_shift, first, side="right")])
            bounds.append(min(max(fits, first + 1), first + WINDOW, same))
        return np.array(bounds, np.int64)

    def _inverted(
        self,
        indptr: NDArray[np.int64],
        terms: NDArray[np.uint32],
        weights: NDArray[np.float32],
        places: NDArray[np.int64],
        firsts: NDArray[np.int64],
        quantizer: Quantizer | None,
        shifts: NDArray[np.uint8],
    ) -> Iterator[_Window]:
        """Yield the windows in order, inverted on all cores."""
        with ThreadPoolExecutor(self._threads) as pool:
            running: deque[Any] = deque()
            for (first, end), shift in zip(pairwise(firsts), shifts.tolist(), strict=True):
                own = quantizer and replace(quantizer, scale=quantizer.scale * 2.0**shift)
                running.append(pool.submit(_invert, places[first:end], indptr, terms, weights, own))
                if len(running) >= self._threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()

    def _write_lists(
        self, entries: list[tuple[NDArray[Any], ...]], max_impacts: NDArray[np.float32], units: NDArray[np.int64]
    ) -> None:
        """Write the list entries of all windows, and the rows of maxima and skips, by term.

        Args:
            entries: For each window, the columns rank, window, begin, size, row and dense.
            max_impacts: (n_used,) the largest impact of each term.
            units: (n_windows,) the length of a row of maxima.
        """
        columns = [np.concatenate(column) for column in zip(*entries, strict=True)] if entries else []
        if columns:
            by_term = np.argsort(columns[0], kind="stable")
            ends = np.cumsum(np.bincount(columns[0], minlength=len(self._terms)))
            columns = [column[by_term] for column in columns[1:]]
            # Rows are stored in the order in which a query reads them: by term, then by window.
            has_row = columns[3] >= 0
            lengths = units[columns[0][has_row]]
            begins = np.cumsum(lengths) - lengths
            self._write_rows(columns[3][has_row] - begins, lengths)
            columns[3] = np.where(has_row, 0, -1).astype(np.int32)
            columns[3][has_row] = begins
        else:
            self._write_rows(np.empty(0, np.int64), np.empty(0, np.int64))
            ends, columns = np.zeros(0, np.int64), [np.empty(0, np.uint32)] * 3 + [np.empty(0, np.int32)] * 2
        write_arrow(self._folder / "lists.arrow", dict(zip(ENTRY_SCHEMA.names, columns, strict=True)))
        write_arrow(
            self._folder / "terms.arrow",
            {
                "term": self._terms.astype(np.uint32),
                "df": self._df.astype(np.uint32),
                "peak": max_impacts,
                "end": ends.astype(np.uint64),
            },
        )

    def _write_rows(self, shifts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Write the rows of maxima and skips in a new order.

        Args:
            shifts: (n,) how many units each row's old place lies after its new place.
            lengths: (n,) the length of each row, in units.
        """
        n = int(lengths.sum())
        source = np.repeat(shifts, lengths) + np.arange(n)
        for name, file, unit, schema in (
            ("maxima", self._files[2], ROW_UNIT, MAXIMA_SCHEMA),
            ("skips", self._files[3], SKIP_UNIT, SKIPS_SCHEMA),
        ):
            dtype = schema.field(0).type.to_pandas_dtype()
            values = np.empty((0, unit), dtype)
            if n:
                file.flush()
                given, path = np.memmap(file.name, dtype, "r").reshape(-1, unit), Path(file.name + ".sorted")
                # The file is written, not mapped, because writing to a map on a full disk kills the process.
                with path.open("wb") as rows:
                    for at in range(0, n, _UNITS):
                        rows.write(given[source[at : at + _UNITS]].data)
                values = mapped(path, dtype)
            write_arrow(self._folder / f"{name}.arrow", {schema.field(0).name: values.reshape(-1)})

    def close(self) -> None:
        """Remove the temporary files, finished or not."""
        for file in self._files:
            file.close()


def _invert(
    places: NDArray[np.int64],
    indptr: NDArray[np.int64],
    terms: NDArray[np.uint32],
    weights: NDArray[np.float32],
    quantizer: Quantizer | None,
) -> _Window:
    """Invert some documents as one window."""
    rows = np.zeros(len(places) + 1, np.int64)
    np.cumsum(indptr[places + 1] - indptr[places], out=rows[1:])
    size = int(rows[-1])
    row_terms, row_weights = np.empty(size, np.uint32), np.empty(size, np.float32)
    gather(places, indptr, terms, weights, row_terms, row_weights)
    values: NDArray[Any] = quantizer.impacts(row_weights) if quantizer else row_weights
    del row_weights
    if not size or int(row_terms.max()) < _DENSE_VOCABULARY:
        counts = np.zeros(int(row_terms.max()) + 1 if size else 0, np.int64)
        count_terms(row_terms, counts)
        used = np.flatnonzero(counts)
        cursor, counts = np.cumsum(counts) - counts, counts[used]
        by: NDArray[Any] = row_terms
    else:
        used, by, counts = np.unique(row_terms, return_inverse=True, return_counts=True)
        cursor = np.cumsum(counts) - counts
    docs, impacts = np.empty(size, np.uint16), np.empty(size, values.dtype)
    invert(rows, by, values, cursor, docs, impacts)
    ends = np.cumsum(counts)
    begins = ends - counts
    # Only 8-bit impacts have bounds; float weights are searched exhaustively.
    longer = np.flatnonzero(counts * _SUMMARIZED >= len(places)) if quantizer else np.empty(0, np.int64)
    numbers = np.full(len(used), -1, np.int32)
    numbers[longer] = np.arange(len(longer), dtype=np.int32)
    units = -(-len(places) // (BLOCK * ROW_UNIT))
    maxima = np.zeros((len(longer), units * ROW_UNIT), np.uint8)
    skips = np.empty((len(longer), units * SKIP_UNIT), np.uint16)
    if len(longer):
        summarize(docs, impacts, begins[longer], ends[longer], len(places), maxima, skips)
    largest = np.maximum.reduceat(impacts, begins) if size else np.empty(0)
    is_dense = (counts * _DENSE >= len(places)) & (quantizer is not None)
    long = longer[~is_dense[longer]]
    in_gaps, gaps, gap_impacts, starts, lengths = _gaps(docs, impacts, begins, ends, long, len(places), numbers, skips)
    dense = np.zeros((int(is_dense.sum()), len(places)), np.uint8)
    for row, at in zip(dense, np.flatnonzero(is_dense), strict=True):
        row[docs[begins[at] : ends[at]]] = impacts[begins[at] : ends[at]]
    elsewhere = is_dense.copy()
    elsewhere[in_gaps] = True
    if elsewhere.any():
        kept = np.repeat(~elsewhere, counts)
        docs, impacts = docs[kept], impacts[kept]
        begins = np.cumsum(np.where(elsewhere, 0, counts)) - np.where(elsewhere, 0, counts)
    dense_numbers = np.full(len(used), POSTINGS_LIST, np.int32)
    dense_numbers[is_dense] = np.arange(len(dense), dtype=np.int32)
    dense_numbers[in_gaps], begins[in_gaps], counts[in_gaps] = GAPS, starts, lengths
    return _Window(
        len(places), docs, impacts, used.astype(np.int64), largest.astype(np.float32), begins, counts, dense_numbers,
        dense, gaps, gap_impacts, numbers, maxima, skips,
    )  # fmt: skip


def _gaps(
    docs: NDArray[np.uint16],
    impacts: NDArray[Any],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    among: NDArray[np.int64],
    n_docs: int,
    rows: NDArray[np.int32],
    skips: NDArray[np.uint16],
) -> tuple[NDArray[Any], ...]:
    """Choose the lists of a window that are stored as gaps; make their gaps, and write their skips.

    Args:
        docs: (n,) uint16, the window's postings.
        impacts: (n,) uint8, the impact of each posting.
        begins: (n_lists,) int64, start of each list.
        ends: (n_lists,) int64, end of each list.
        among: Which lists may be stored as gaps.
        n_docs: Number of documents in the window.
        rows: (n_lists,) int32, each list's row of skips.
        skips: (n_rows, …) uint16, the skips.

    Returns:
        Which lists are stored as gaps; the gaps and impacts; and each list's start and size among these.
    """
    if not len(among):
        return among, np.empty(0, np.uint8), np.empty(0, np.uint8), among, among
    n_skips, sizes = -(-n_docs // SKIP), np.empty(len(among), np.int64)
    count_gaps(docs, begins[among], ends[among], sizes)
    fit = sizes + n_skips <= _MOST_GAPS * (ends - begins)[among]
    chosen, sizes = among[fit], sizes[fit]
    at = np.cumsum(sizes + n_skips) - sizes
    gaps = np.zeros((2, int((sizes + n_skips).sum())), np.uint8)
    write_gaps(docs, impacts, begins[chosen], ends[chosen], rows[chosen], n_skips, at, *gaps, skips)
    return chosen, *gaps, at, sizes
