"""What kernels search: the mapped files of a segment, and where the lists of a query's terms lie in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .jit import inlined, kernel, prefetch

# A window is a run of at most so many consecutive documents: a document fits 16 bits, the accumulator the cache.
WINDOW = 1 << 16
# A block is a run of so many documents of a window, for which upper bounds are known.
BLOCK = 128
SKIP = 1024  # documents between two places that a list's skips name
ROW_UNIT = 64  # rows of maxima begin at multiples of it, a cache line
SKIP_UNIT = ROW_UNIT * BLOCK // SKIP
# Columns of the table of windows. Places count in entries of the file.
DOCS_AT, IMPACTS_AT, SIZE, DENSE_AT, N_DENSE, FIRST_DOC, N_DOCS, FIRST_BLOCK = range(8)
# Of a list within a window, (…, 4) int32: its postings are BEGIN..END of the window's, or, if DENSE isn't -1, the
# window's dense row of this number; the maxima of its blocks begin at ROW * ROW_UNIT, its skips at ROW * SKIP_UNIT; it
# has neither if ROW is -1.
BEGIN, END, ROW, DENSE = range(4)
# Places of a search's counts.
BLOCKS_SCORED, WINDOWS_SCANNED, POSTINGS_SCORED, POSTINGS = range(4)
_DENSE_COST = 8  # adding up so many documents of a dense row costs as much as one posting


class Files(NamedTuple):
    """A segment's files as arrays.

    Attributes:
        docs: (file,) uint16, the file of postings; window w's documents begin at windows[w, DOCS_AT].
        impacts: (file,) uint8 or float32, the same file; window w's impacts begin at windows[w, IMPACTS_AT].
        dense: (file,) uint8, the file of dense rows: an impact for each document of the window, 0 if it lacks the term.
        maxima: (n,) uint8, block maxima, row by row, rows by term.
        skips: (n * SKIP_UNIT / ROW_UNIT,) uint16: how many postings of a list come before each 1024th document.
        windows: (n_windows, 8) int64, the table of windows.
        order: (n_docs,) uint32, document numbers by place, or empty if these are the same.
    """

    docs: Any
    impacts: Any
    dense: Any
    maxima: Any
    skips: Any
    windows: Any
    order: Any


class Query(NamedTuple):
    """A query's terms.

    Attributes:
        lists: (n, n_windows, 4) int32, their lists.
        weights: (n,) int32, or float64 where impacts are float32.
        peaks: (n,) of the same type, the most that each can add to a score.
    """

    lists: Any
    weights: Any
    peaks: Any


class Space(NamedTuple):
    """What a search writes to.

    Attributes:
        accumulator: (65536,) int32, or float64 where impacts are float32: all zero before and after a search.
        blocks: (6, n_blocks rounded up) int32, of any content.
        docs: (more than k,) int64: the documents found. The longer it is, the more rarely it is thinned out; twice k
            is a good length.
        scores: (len(docs),) of the accumulator's type: their scores.
        counts: (4,) int64: blocks scored one by one, windows scanned whole, what scoring cost in postings, and what a
            scan would have cost.
    """

    accumulator: Any
    blocks: Any
    docs: Any
    scores: Any
    counts: Any


@kernel
def find_lists(ends, entries, n_rows, windows, ranks, lists):
    """Find the lists of some terms in all windows; one look-up a term, then its entries in a row.

    Whatever the files say, what is found lies within them.

    Args:
        ends: (n_used,) uint64, where the entries of each term end.
        entries: Five (n_entries,) arrays, by term and window: window, begin and size uint32, row and dense int32.
        n_rows: Maxima, in units of ROW_UNIT.
        windows: (n_windows, 8) int64, the table of windows.
        ranks: (n,) int64, the terms, as places in `ends`.
        lists: (n, n_windows, 4) int32, written.
    """
    entry_window, entry_begin, entry_size, entry_row, entry_dense = entries
    for rank in ranks:
        prefetch(ends, max(rank - 1, 0))
    for rank in ranks:
        first = np.int64(ends[rank - 1]) if rank else 0
        prefetch(entry_window, first)
        prefetch(entry_begin, first)
        prefetch(entry_size, first)
        prefetch(entry_row, first)
        prefetch(entry_dense, first)
    for i in range(len(ranks)):
        for w in range(len(windows)):
            lists[i, w, BEGIN], lists[i, w, END], lists[i, w, ROW], lists[i, w, DENSE] = 0, 0, -1, -1
        first = np.int64(ends[ranks[i] - 1]) if ranks[i] else 0
        for e in range(max(first, 0), min(np.int64(ends[ranks[i]]), len(entry_window))):
            w = np.int64(entry_window[e])
            if w < len(windows):
                row = np.int64(entry_row[e])
                if row >= 0 and row + (count_blocks(windows, w) + ROW_UNIT - 1) // ROW_UNIT <= n_rows:
                    lists[i, w, ROW] = row
                if entry_dense[e] < 0:
                    begin = min(np.int64(entry_begin[e]), windows[w, SIZE])
                    lists[i, w, BEGIN] = begin
                    lists[i, w, END] = min(begin + entry_size[e], windows[w, SIZE])
                elif entry_dense[e] < windows[w, N_DENSE] and lists[i, w, ROW] >= 0:
                    lists[i, w, DENSE] = entry_dense[e]


@kernel
def cost(query, windows, i, w):
    """What scanning a list costs, in postings; 0 if the window has none."""
    if query.lists[i, w, DENSE] >= 0:
        return windows[w, N_DOCS] // _DENSE_COST + 1
    return np.int64(query.lists[i, w, END]) - query.lists[i, w, BEGIN]


@inlined
def count_blocks(windows, w):
    """Blocks of a window."""
    return (windows[w, N_DOCS] + BLOCK - 1) // BLOCK
