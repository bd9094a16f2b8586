"""Segment: the postings of some documents, in windows; written once, then memory-mapped and never changed.

    postings.arrow   one record batch per window: doc uint16 (within the window), impact uint8 | float32, both by
                     term and, within a term, by document
    dense.arrow      one record batch per window, uint8: rows for the most frequent terms, with an impact for each
                     document, 0 if it lacks the term; these terms have no list in postings.arrow
    gaps.arrow       one record batch per window: longer lists without a dense row, as distances to the previous
                     document and impacts, uint8 (lsr.index.kernels.gaps); these lists aren't in postings.arrow
    maxima.arrow     for the longer lists, by term and window, the largest impact in each block of documents, uint8;
                     each row begins at a multiple of 64
    skips.arrow      for the same lists, the number of postings before each 1024th document, uint16; each row begins at
                     an eighth of the offset of its maxima
    places.arrow     if documents aren't stored in the order of addition: the document at each place, and the place of
                     each document, uint32; else no rows. All other files here are ordered by place.
    windows.arrow    first_doc int64, n_docs int64 of each window; and, if weights of some documents are too large for
                     the segment's scale, shift uint8, ascending: a window's scale is the segment's scale times 2^shift
    terms.arrow      the terms that occur, ascending, uint32; their document frequencies, df uint32; and where each
                     term's entries in lists.arrow end, uint64
    lists.arrow      an entry for each list, by term and window. uint32: the window, and the list's start and size
                     among the window's postings or gaps. int32: where its maxima begin, in units of 64, -1 if it has
                     none; and its row in dense.arrow, or -1 for postings.arrow, -2 for gaps.arrow

A window holds at most 65,536 documents, or fewer if long documents would exceed the writer's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex
from lsr.index.kernels.gaps import find_in_gaps, read_gaps
from lsr.index.kernels.invert import count_rows, find_row, gather, transpose
from lsr.index.kernels.layout import (
    BEGIN,
    BLOCK,
    DENSE,
    DENSE_AT,
    DOCS_AT,
    END,
    FIRST_BLOCK,
    FIRST_DOC,
    GAP_IMPACTS_AT,
    GAPS,
    GAPS_AT,
    IMPACTS_AT,
    N_DENSE,
    N_DOCS,
    N_GAPS,
    POSTINGS_LIST,
    ROW_UNIT,
    SIZE,
    SKIP,
    SKIP_UNIT,
    WINDOW,
    WINDOW_COLUMNS,
)
from lsr.index.segment.clusters import open_clusters
from lsr.index.segment.quantize import weights_of
from lsr.index.storage.arrow_file import ArrowFile
from lsr.sparse import SparseMatrix

ImpactType = Literal["uint8", "float32"]
# A segment has a table of terms if all its term ids are below _TABLED, and at least 1 in _TABLED_SHARE of them occurs.
_TABLED, _TABLED_SHARE = 1 << 20, 8

DENSE_SCHEMA = pa.schema([("impact", pa.uint8())])
GAPS_SCHEMA = pa.schema([("gap", pa.uint8()), ("impact", pa.uint8())])
MAXIMA_SCHEMA = pa.schema([("maximum", pa.uint8())])
SKIPS_SCHEMA = pa.schema([("skip", pa.uint16())])
ENTRY_SCHEMA = pa.schema(
    [("window", pa.uint32()), ("begin", pa.uint32()), ("size", pa.uint32()), ("row", pa.int32()), ("dense", pa.int32())]
)
PLACE_SCHEMA = pa.schema([("doc", pa.uint32()), ("place", pa.uint32())])
_WINDOW_SCHEMA = pa.schema([("first_doc", pa.int64()), ("n_docs", pa.int64())])
_SHIFTED_SCHEMA = _WINDOW_SCHEMA.append(pa.field("shift", pa.uint8()))
_TERM_SCHEMA = pa.schema([("term", pa.uint32()), ("df", pa.uint32()), ("peak", pa.float32()), ("end", pa.uint64())])


def posting_schema(impacts: ImpactType) -> pa.Schema:
    """Return the schema of postings.arrow."""
    return pa.schema([("doc", pa.uint16()), ("impact", pa.uint8() if impacts == "uint8" else pa.float32())])


class Run(NamedTuple):
    """Consecutive windows of a segment with the same scale.

    Attributes:
        segment: The segment.
        first: The first window.
        end: The end, exclusive.
        scale: Weight of one impact step.
    """

    segment: Segment
    first: int
    end: int
    scale: float


class Segment:
    """A segment on disk. Opening maps the files and reads no postings; `Searcher` searches them.

    Attributes:
        folder: The segment's folder.
        impacts: How weights are stored, "uint8" or "float32".
        scale: Weight of one impact step in a window without a shift; 1.0 for float weights.
        scales: (n_windows,) float64, weight of one impact step in each window.
        terms: (n_used,) uint32, the terms that occur, ascending.
        df: (n_used,) uint32, their document frequencies.
        max_impacts: (n_used,) float32, their largest impacts.
        ends: (n_used,) uint64, where the entries of each term end.
        entries: The columns of lists.arrow.
        table: (n,) int32, the rank of each term in `terms`, -1 for terms that don't occur; or empty.
        windows: (n_windows, WINDOW_COLUMNS) int64, the table of windows of this segment alone.
        files: The files that windows point into, as arrays: docs, impacts, dense, gaps, maxima, skips.
        order: (n_docs,) uint32, the document number at each place; empty if numbers and places are the same.
        places: (n_docs,) uint32, the place of each document; empty if numbers and places are the same.
        n_docs: Number of documents.
        n_blocks: Number of blocks.
        n_rows: Size of the maxima, in units of ROW_UNIT.
        clusters: The mapped files of clusters; None if there are none.
        sources: The primary files. `rows` reads these; the other files are derived from them.

    Args:
        folder: The segment's folder.
        impacts: How weights are stored.
        scale: Weight of one impact step; 1.0 for float weights.
        clusters: Whether there are files of clusters.
        gaps: Whether there is a file of gaps, as from format 4 on.

    Raises:
        CorruptIndex: A file is so damaged that searches would read outside its bounds.
    """

    def __init__(
        self, folder: Path, impacts: ImpactType, scale: float, *, clusters: bool = False, gaps: bool = True
    ) -> None:
        self.folder = folder
        self.impacts: ImpactType = impacts
        self.scale = scale
        postings = ArrowFile(folder / "postings.arrow", posting_schema(impacts))
        dense = ArrowFile(folder / "dense.arrow", DENSE_SCHEMA)
        gap_file = ArrowFile(folder / "gaps.arrow", GAPS_SCHEMA) if gaps else None
        maxima = ArrowFile(folder / "maxima.arrow", MAXIMA_SCHEMA)
        skips = ArrowFile(folder / "skips.arrow", SKIPS_SCHEMA)
        places = ArrowFile(folder / "places.arrow", PLACE_SCHEMA)
        windows = ArrowFile(folder / "windows.arrow", _WINDOW_SCHEMA, others=(_SHIFTED_SCHEMA,))
        terms = ArrowFile(folder / "terms.arrow", _TERM_SCHEMA)
        lists = ArrowFile(folder / "lists.arrow", ENTRY_SCHEMA)
        self.sources = postings, dense, *([gap_file] if gap_file else []), places, windows, terms, lists
        self.terms: NDArray[np.uint32] = terms.column("term")
        self.df: NDArray[np.uint32] = terms.column("df")
        # With a small table of terms, a look-up costs one cache miss instead of a binary search.
        size = int(self.terms.max(initial=0)) + 1
        tabled = len(self.terms) > 0 and size <= min(_TABLED, _TABLED_SHARE * len(self.terms))
        self.table = np.full(size if tabled else 0, -1, np.int32)
        if tabled:
            self.table[self.terms] = np.arange(len(self.terms), dtype=np.int32)
        self.max_impacts: NDArray[np.float32] = terms.column("peak")
        self.ends: NDArray[np.uint64] = terms.column("end")
        self.entries: tuple[NDArray[Any], ...] = tuple(lists.column(name) for name in ENTRY_SCHEMA.names)
        first_doc, n_docs = windows.column("first_doc"), windows.column("n_docs")
        self.n_windows = len(first_doc)
        of_windows = postings, dense, *([gap_file] if gap_file else [])
        if any(file.n_batches != self.n_windows for file in of_windows):
            raise CorruptIndex(f"{folder}: the postings files don't fit together; build the index again")
        if self.n_windows and (
            n_docs.min() < 1 or n_docs.max() > WINDOW or (np.cumsum(n_docs) - n_docs != first_doc).any()
        ):
            raise CorruptIndex(f"{folder / 'windows.arrow'}: a window has an impossible size; build the index again")
        shifts = windows.column("shift") if "shift" in windows.names else np.zeros(self.n_windows, np.uint8)
        self.scales = scale * 2.0 ** shifts.astype(np.float64)
        if (np.diff(self.scales) < 0).any() or not np.isfinite(self.scales).all():
            raise CorruptIndex(f"{windows.path}: invalid shifts; build the index again")
        self.n_docs = int(n_docs.sum())
        self.order: NDArray[np.uint32] = places.column("doc")
        self.places: NDArray[np.uint32] = places.column("place")
        if len(self.places) not in (0, self.n_docs):
            raise CorruptIndex(f"{places.path}: doesn't fit the documents; build the index again")
        impact_type = np.dtype(np.uint8 if impacts == "uint8" else np.float32)
        self.windows = np.zeros((self.n_windows, WINDOW_COLUMNS), np.int64)
        n_blocks = -(-n_docs // BLOCK)
        for w in range(self.n_windows):
            batch, rows = postings.batch(w), dense.batch(w)
            self.windows[w, DOCS_AT] = postings.offset(batch.column(0)) // 2
            self.windows[w, IMPACTS_AT] = postings.offset(batch.column(1)) // impact_type.itemsize
            self.windows[w, SIZE] = batch.num_rows
            self.windows[w, DENSE_AT] = dense.offset(rows.column(0))
            self.windows[w, N_DENSE] = rows.num_rows // n_docs[w]
            if gap_file is not None:
                in_gaps = gap_file.batch(w)
                self.windows[w, GAPS_AT] = gap_file.offset(in_gaps.column(0))
                self.windows[w, GAP_IMPACTS_AT] = gap_file.offset(in_gaps.column(1))
                self.windows[w, N_GAPS] = in_gaps.num_rows
        self.windows[:, FIRST_DOC], self.windows[:, N_DOCS] = first_doc, n_docs
        self.windows[:, FIRST_BLOCK] = np.cumsum(n_blocks) - n_blocks
        self.n_blocks = int(n_blocks.sum())
        self.files: tuple[NDArray[Any], ...] = (
            _view(postings.bytes, np.uint16),
            _view(postings.bytes, impact_type),
            dense.bytes,
            gap_file.bytes if gap_file else np.empty(0, np.uint8),
            maxima.column("maximum"),
            skips.column("skip"),
        )
        self.n_rows = min(len(self.files[-2]) // ROW_UNIT, len(self.files[-1]) // SKIP_UNIT)
        self.clusters = open_clusters(folder, len(self.terms)) if clusters else None

    def runs(self) -> list[Run]:
        """Return the runs of windows with the same scale, ascending."""
        if not self.n_windows:
            return [Run(self, 0, 0, self.scale)]
        scales, firsts = np.unique(self.scales, return_index=True)
        return [
            Run(self, int(first), int(end), float(scale))
            for scale, first, end in zip(scales, firsts, [*firsts[1:], self.n_windows], strict=True)
        ]

    def postings_of(self, w: int) -> tuple[Any, ...]:
        """Return the postings of a window.

        Returns:
            (n,) int64, the window's terms as ranks in `terms`, ascending; (n, 4) int64, the terms' lists; the documents
            and impacts of the postings; the dense rows; and the number of documents.
        """
        ranks, lists, docs, impacts, dense, n_docs = self._stored(w)
        in_gaps = np.flatnonzero(lists[:, DENSE] == GAPS)
        if len(in_gaps):
            begins, ends, (gaps, gap_impacts) = lists[in_gaps, BEGIN], lists[in_gaps, END], self._gaps(w)
            room = int(np.maximum(np.minimum(ends, len(gaps)) - begins, 0).sum())
            found, weights, found_ends = np.empty(room, np.uint16), np.empty(room, np.uint8), np.empty_like(ends)
            read_gaps(begins, ends, gaps, gap_impacts, found, weights, found_ends)
            lists[in_gaps, BEGIN] = len(docs) + np.concatenate(([0], found_ends[:-1]))
            lists[in_gaps, END] = len(docs) + found_ends
            lists[in_gaps, DENSE] = POSTINGS_LIST
            n = int(found_ends[-1])
            docs, impacts = np.concatenate((docs, found[:n])), np.concatenate((impacts, weights[:n]))
        return ranks, lists, docs, impacts, dense, n_docs

    def _gaps(self, w: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return a window's gaps and their impacts."""
        window, gaps = self.windows[w], self.files[3]
        return gaps[window[GAPS_AT] :][: window[N_GAPS]], gaps[window[GAP_IMPACTS_AT] :][: window[N_GAPS]]

    def _stored(self, w: int) -> tuple[Any, ...]:
        """Return the same as `postings_of`, but without turning gaps into postings."""
        window, (docs, impacts, dense, *_) = self.windows[w], self.files
        number, begin, size, row, dense_row = self.entries
        at = np.flatnonzero(number == w)
        ranks = np.searchsorted(self.ends, at.astype(np.uint64), side="right")
        # In a damaged file, entries may belong to no term.
        at, ranks = at[ranks < len(self.terms)], ranks[ranks < len(self.terms)]
        lists = np.stack((begin[at], begin[at].astype(np.int64) + size[at], row[at], dense_row[at]), axis=1)
        return (
            ranks,
            lists,
            docs[window[DOCS_AT] :][: window[SIZE]],
            impacts[window[IMPACTS_AT] :][: window[SIZE]],
            dense[window[DENSE_AT] :][: window[N_DENSE] * window[N_DOCS]],
            int(window[N_DOCS]),
        )

    def impacts_of(self, doc: int, terms: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return (n,) float64: the stored weight of each term in a document; 0 for terms that the document lacks."""
        found = np.zeros(len(terms))
        ranks = np.searchsorted(self.terms, terms)
        place = int(self.places[doc]) if len(self.places) else doc
        w = int(np.searchsorted(self.windows[:, FIRST_DOC], place, side="right")) - 1
        window, local = self.windows[w], place - int(self.windows[w, FIRST_DOC])
        docs, impacts, dense, *_ = self.files
        for i, rank in enumerate(ranks.tolist()):
            if rank == len(self.terms) or self.terms[rank] != terms[i]:
                continue
            entries = slice(int(self.ends[rank - 1]) if rank else 0, int(self.ends[rank]))
            for number, begin, size, _, row in zip(*(column[entries] for column in self.entries), strict=True):
                if number != w:
                    continue
                if row >= 0:
                    found[i] = dense[window[DENSE_AT] + row * window[N_DOCS] + local]
                    continue
                if row == GAPS:
                    gaps, gap_impacts = (column[int(begin) :][: int(size)] for column in self._gaps(w))
                    at = int(np.searchsorted(places := np.cumsum(gaps, dtype=np.int64), local))
                    if at < len(places) and places[at] == local:
                        found[i] = gap_impacts[at]
                    continue
                here = docs[int(window[DOCS_AT]) + int(begin) :][: int(size)]
                at = int(np.searchsorted(here, local))
                if at < len(here) and here[at] == local:
                    found[i] = impacts[int(window[IMPACTS_AT]) + int(begin) + at]
        return np.asarray(found * self.scales[w], np.float64)

    def count(self, terms: NDArray[Any], alive: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Return (n,) int64: how many documents contain each of (n,) terms.

        Args:
            terms: (n,) term ids.
            alive: (n_docs,) bool, by document number: the documents to count; then whole lists are read. None counts
                all documents.

        Raises:
            CorruptIndex: A list that is read lies outside its window.
        """
        counts = np.zeros(len(terms), np.int64)
        ranks = np.searchsorted(self.terms, terms)
        known = np.flatnonzero(ranks < len(self.terms))
        known = known[self.terms[ranks[known]] == terms[known]]
        if alive is None:
            counts[known] = self.df[ranks[known]]
            return counts
        try:
            here = alive[self.order] if len(self.order) else alive
            for i, rank in zip(known.tolist(), ranks[known].tolist(), strict=True):
                entries = slice(int(self.ends[rank - 1]) if rank else 0, int(self.ends[rank]))
                for entry in zip(*(column[entries].tolist() for column in self.entries), strict=True):
                    counts[i] += self._count(entry, here)
        except IndexError:
            raise CorruptIndex(
                f"{self.folder}: lists, postings or places.arrow are damaged; run lsr verify for details"
            ) from None
        return counts

    def _count(self, entry: tuple[int, ...], alive: NDArray[np.bool_]) -> int:
        """Count a list's live documents; `alive` is by place. IndexError if the list lies outside its window."""
        (number, begin, size, _, row), (docs, _, dense, *_) = entry, self.files
        window = self.windows[number].tolist()
        left = alive[window[FIRST_DOC] :][: window[N_DOCS]]
        if row == GAPS:
            gaps, impacts = (column[begin:][:size] for column in self._gaps(number))
            if len(gaps) < size:
                raise IndexError
            return int(left[np.cumsum(gaps, dtype=np.int64)[impacts > 0]].sum())
        if row < 0:
            if begin + size > window[SIZE]:
                raise IndexError
            return int(left[docs[window[DOCS_AT] + begin :][:size]].sum())
        if row >= window[N_DENSE]:
            raise IndexError
        return int((dense[window[DENSE_AT] + row * window[N_DOCS] :][: window[N_DOCS]][left] > 0).sum())

    def vector(self, doc: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Return a document's terms, ascending, and their stored weights."""
        place = int(self.places[doc]) if len(self.places) else doc
        w = int(np.searchsorted(self.windows[:, FIRST_DOC], place, side="right")) - 1
        postings, local = self._stored(w), place - int(self.windows[w, FIRST_DOC])
        impacts = np.empty(len(postings[0]), np.float32)
        find_row(*postings, local, impacts)
        in_gaps = np.flatnonzero(postings[1][:, DENSE] == GAPS)
        if len(in_gaps):
            found, n_skips = np.empty(len(in_gaps), np.float32), -(-int(self.windows[w, N_DOCS]) // SKIP)
            find_in_gaps(postings[1][in_gaps], *self._gaps(w), self.files[-1], n_skips, local, found)
            impacts[in_gaps] = found
        there = np.flatnonzero(impacts)
        return self.terms[postings[0][there]], weights_of(impacts[there], self.scales[w])

    @contextmanager
    def rows(
        self, scratch: Path, kept: NDArray[np.bool_], n_terms: int
    ) -> Iterator[Callable[[int, int], SparseMatrix]]:
        """Transpose the postings into a temporary file, and give access to the vectors in document order.

        Args:
            scratch: Folder for the temporary file, which has 8 bytes per weight and is removed at the end.
            kept: (n_docs,) bool, documents to read; the rows of other documents are empty.
            n_terms: Size of the vocabulary.

        Yields:
            A function that returns rows first..end as a SparseMatrix of impacts, not yet multiplied by the segment's
            scale. In windows with a shift, impacts are multiplied by 2^shift and may exceed 255.

        Raises:
            CorruptIndex: The stored order isn't a permutation of the documents.
        """
        number = self.order if len(self.order) else np.arange(self.n_docs, dtype=np.uint32)
        if (np.sort(number) != np.arange(self.n_docs)).any():
            raise CorruptIndex(f"{self.folder / 'places.arrow'}: damaged; run lsr verify for details")
        place_of = np.empty(self.n_docs, np.int64)
        place_of[number] = np.arange(self.n_docs)
        path = scratch / f"{self.folder.name}.rows"
        indptr = np.zeros(self.n_docs + 1, np.int64)  # by place
        try:
            # Write the file from front to back, one window after another, so that a full disk raises an error.
            with path.open("wb") as terms_file, path.with_suffix(".weights").open("wb") as weights_file:
                for w in range(self.n_windows):
                    first, n = self.windows[w, [FIRST_DOC, N_DOCS]].tolist()
                    postings, here = self.postings_of(w), kept[number[first : first + n]]
                    counts = np.zeros(n, np.int64)
                    count_rows(*postings, counts)
                    ends = np.cumsum(np.where(here, counts, 0))
                    indptr[first + 1 : first + n + 1] = indptr[first] + ends
                    cursor = np.where(here, ends - counts, -1)
                    terms, weights = np.empty(int(ends[-1]), np.uint32), np.empty(int(ends[-1]), np.float32)
                    transpose(*postings, self.terms, cursor, terms, weights)
                    weights *= np.float32(self.scales[w] / self.scale)
                    terms_file.write(terms.data)
                    weights_file.write(weights.data)
            terms, weights = mapped(path, np.uint32), mapped(path.with_suffix(".weights"), np.float32)

            def part(first: int, end: int) -> SparseMatrix:
                places = place_of[first:end]
                rows = np.zeros(len(places) + 1, np.int64)
                np.cumsum(indptr[places + 1] - indptr[places], out=rows[1:])
                out = np.empty(int(rows[-1]), np.uint32), np.empty(int(rows[-1]), np.float32)
                gather(places, indptr, terms, weights, *out)
                return SparseMatrix(rows, *out, (end - first, n_terms), check=False)

            yield part
        finally:
            for file in (path, path.with_suffix(".weights")):
                file.unlink(missing_ok=True)


def mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """Map a complete file for reading; an empty array for an empty file."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _view(whole: NDArray[np.uint8], dtype: Any) -> NDArray[Any]:
    """View a mapped file as another type; an incomplete last entry is left out."""
    return whole[: len(whole) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize].view(dtype)
