"""The data that kernels search: the mapped files of one or many segments, and where a query's lists are in them.

Segments are searched together as if they were one. For each kind of file, a single array spans all segments: it begins
where the first of the files is mapped and ends with the last, and tables say where each segment's part begins. The gaps
between the parts are never read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lsr.index.kernels.jit import inlined, kernel, prefetch

# A window is a run of at most this many documents: document numbers fit 16 bits, and the accumulator fits the cache.
WINDOW = 1 << 16
# A block is a run of this many documents of a window that share an upper bound.
BLOCK = 128
SKIP = 1024  # documents between two skips of a list
ROW_UNIT = 64  # rows of maxima begin at multiples of this: a cache line
SKIP_UNIT = ROW_UNIT * BLOCK // SKIP
# Columns of the table of windows. The …_AT columns are positions in the arrays, in entries. FIRST_DOC is the place of a
# window's first document among the documents of all segments; BASE is the number of its segment's first document;
# ORDER_AT is -1 if documents are stored in the order in which they were added.
DOCS_AT, IMPACTS_AT, SIZE, DENSE_AT, N_DENSE, FIRST_DOC, N_DOCS, FIRST_BLOCK = range(8)
MAXIMA_AT, SKIPS_AT, ORDER_AT, BASE, GAPS_AT, GAP_IMPACTS_AT, N_GAPS = range(8, 15)
WINDOW_COLUMNS = 15
# Columns of the table of segments.
TERMS_AT, N_TERMS, TABLE_AT, TABLE_SIZE, MAX_IMPACTS_AT, ENDS_AT = range(6)
ENTRY_WINDOW_AT, ENTRY_BEGIN_AT, ENTRY_SIZE_AT, ENTRY_ROW_AT, ENTRY_DENSE_AT = range(6, 11)
N_ENTRIES, FIRST_WINDOW, N_WINDOWS, N_ROWS = range(11, 15)
SEGMENT_COLUMNS = 15
# A list within a window, (…, 4) int32. If DENSE is POSTINGS_LIST, the list is BEGIN..END of the window's postings; if
# DENSE is GAPS, it is BEGIN..END of the window's gaps; otherwise DENSE is the number of the window's dense row. The
# list's block maxima begin at MAXIMA_AT + ROW * ROW_UNIT, and its skips at SKIPS_AT + ROW * SKIP_UNIT; ROW is -1 if it
# has neither.
BEGIN, END, ROW, DENSE = range(4)
POSTINGS_LIST, GAPS = -1, -2
LAST_DOC = np.uint64(WINDOW - 1)
# Positions in `Space.counts`.
BLOCKS_SCORED, WINDOWS_SCANNED, POSTINGS_SCORED, POSTINGS, LOOKUPS, BOUNDS = range(6)
N_COUNTS = 6
_DENSE_COST = 8  # adding up this many entries of a dense row costs as much as one posting


class Files(NamedTuple):
    """The files of segments as arrays.

    Attributes:
        docs: uint16, the files of postings; window w's documents begin at windows[w, DOCS_AT].
        impacts: uint8 or float32, the files of postings again; window w's impacts begin at windows[w, IMPACTS_AT].
        dense: uint8, the files of dense rows: an impact for each document of the window, 0 if it lacks the term.
        gaps: uint8, the files of gaps (`lsr.index.kernels.gaps`); window w's gaps begin at windows[w, GAPS_AT], and
            their impacts at windows[w, GAP_IMPACTS_AT].
        maxima: uint8, the rows of block maxima, ordered by term and window.
        skips: uint16, for each 1024th document of a window, how many postings of the list precede it.
        windows: (n_windows, WINDOW_COLUMNS) int64, the table of windows.
        order: uint32, document numbers by place, for segments that don't store documents in the order of addition.
    """

    docs: Any
    impacts: Any
    dense: Any
    gaps: Any
    maxima: Any
    skips: Any
    windows: Any
    order: Any


class Lexicon(NamedTuple):
    """The terms of segments, and where their lists are, as arrays.

    Attributes:
        segments: (n_segments, SEGMENT_COLUMNS) int64, the table of segments.
        terms: uint32, the terms that occur, ascending within a segment.
        table: int32, the rank of each term among the segment's terms, -1 for terms that don't occur. Only segments
            with a TABLE_SIZE above 0 have a table; in other segments, terms are found by binary search.
        max_impacts: float32, the largest impact of each term.
        ends: uint64, end of each term's entries.
        entries: Five arrays with an entry for each list, ordered by term and window: window, begin and size (uint32),
            row and dense (int32).
    """

    segments: Any
    terms: Any
    table: Any
    max_impacts: Any
    ends: Any
    entries: Any


class Query(NamedTuple):
    """A query's terms, and the documents that may be found.

    Attributes:
        lists: (n, n_windows, 4) int32, the terms' lists.
        weights: (n,) int32, or float64 if impacts are float32.
        upper_bounds: (n,) of the same type, the largest contribution of each term to a score.
        allowed: (n_docs,) uint8 by place, 0 for documents that may not be found; empty if all documents are allowed.
        live: (n_blocks,) uint8, 0 for blocks without an allowed document; empty if all documents are allowed.
    """

    lists: Any
    weights: Any
    upper_bounds: Any
    allowed: Any
    live: Any


class Space(NamedTuple):
    """The buffers of a search.

    Attributes:
        accumulator: (65536,) int32, or float64 if impacts are float32; all zero before and after a search.
        blocks: (6, n_blocks rounded up) int32, with any content.
        docs: (more than k,) int64, the documents found. A longer buffer is pruned to k results less often; 2k is a
            good length.
        scores: (len(docs),) of the accumulator's type, the documents' scores.
        counts: (6,) int64, summed over searches: the numbers of blocks scored, windows scanned, postings scored,
            postings that a full scan reads, look-ups (one term in one block), and bounds added (one term in one block).
    """

    accumulator: Any
    blocks: Any
    docs: Any
    scores: Any
    counts: Any


@kernel
def find_terms(lexicon, terms, ranks, max_impacts):
    """Find a query's terms among the terms of each segment.

    Args:
        lexicon: `Lexicon`.
        terms: (n,) uint32.
        ranks: (n_segments, n) int64, written: the rank of each term among the segment's terms, -1 if it doesn't occur.
        max_impacts: (n,) float64, written: the largest impact of each term in any segment, 0 for unknown terms.

    Returns:
        (n_known,) int64, the positions of terms that occur.
    """
    segments, used, table = lexicon.segments, lexicon.terms, lexicon.table
    known = np.zeros(len(terms), np.bool_)
    max_impacts[:] = 0
    for s in range(len(segments)):
        first, size = segments[s, TERMS_AT], segments[s, N_TERMS]
        for i in range(len(terms)):
            if segments[s, TABLE_SIZE]:
                at = np.int64(table[segments[s, TABLE_AT] + terms[i]]) if terms[i] < segments[s, TABLE_SIZE] else -1
            else:
                at = np.searchsorted(used[first : first + size], terms[i])
                if at == size or used[first + at] != terms[i]:
                    at = -1
            ranks[s, i] = at
            if at >= 0:
                known[i] = True
                max_impacts[i] = max(max_impacts[i], lexicon.max_impacts[segments[s, MAX_IMPACTS_AT] + at])
    return np.flatnonzero(known)


@kernel
def find_lists(lexicon, windows, ranks, chosen, lists):
    """Find the lists of some terms in all windows.

    The lists lie within the arrays even if a file is damaged.

    Args:
        lexicon: `Lexicon`.
        windows: (n_windows, WINDOW_COLUMNS) int64, the table of windows.
        ranks: (n_segments, n) int64, from `find_terms`.
        chosen: (m,) int64, positions of the terms.
        lists: (m, n_windows, 4) int32, written.
    """
    segments, ends = lexicon.segments, lexicon.ends
    entry_window, entry_begin, entry_size, entry_row, entry_dense = lexicon.entries
    for j in range(len(chosen)):
        for w in range(len(windows)):
            lists[j, w, BEGIN], lists[j, w, END], lists[j, w, ROW], lists[j, w, DENSE] = 0, 0, -1, -1
    for s in range(len(segments)):
        ends_at, n_rows, n_entries = segments[s, ENDS_AT], segments[s, N_ROWS], segments[s, N_ENTRIES]
        window_at, begin_at, size_at = (
            segments[s, ENTRY_WINDOW_AT], segments[s, ENTRY_BEGIN_AT], segments[s, ENTRY_SIZE_AT],
        )  # fmt: skip
        row_at, dense_at = segments[s, ENTRY_ROW_AT], segments[s, ENTRY_DENSE_AT]
        for i in chosen:
            prefetch(ends, ends_at + max(ranks[s, i] - 1, 0))
        for i in chosen:
            if ranks[s, i] >= 0:
                first = np.int64(ends[ends_at + ranks[s, i] - 1]) if ranks[s, i] else 0
                prefetch(entry_window, window_at + first)
                prefetch(entry_begin, begin_at + first)
                prefetch(entry_size, size_at + first)
                prefetch(entry_row, row_at + first)
                prefetch(entry_dense, dense_at + first)
        for j in range(len(chosen)):
            rank = ranks[s, chosen[j]]
            if rank < 0:
                continue
            first, last = run_of(ends, ends_at, rank, n_entries)
            for e in range(first, last):
                w = np.int64(entry_window[window_at + e])
                if w < segments[s, N_WINDOWS]:
                    w += segments[s, FIRST_WINDOW]
                    row, dense = np.int64(entry_row[row_at + e]), entry_dense[dense_at + e]
                    if row >= 0 and row + (count_blocks(windows, w) + ROW_UNIT - 1) // ROW_UNIT <= n_rows:
                        lists[j, w, ROW] = row
                    if dense == GAPS:
                        begin = min(np.int64(entry_begin[begin_at + e]), windows[w, N_GAPS])
                        if lists[j, w, ROW] >= 0 and begin >= count_skips(windows, w):
                            lists[j, w, BEGIN], lists[j, w, DENSE] = begin, GAPS
                            lists[j, w, END] = min(begin + entry_size[size_at + e], windows[w, N_GAPS])
                    elif dense < 0:
                        begin = min(np.int64(entry_begin[begin_at + e]), windows[w, SIZE])
                        lists[j, w, BEGIN] = begin
                        lists[j, w, END] = min(begin + entry_size[size_at + e], windows[w, SIZE])
                    elif dense < windows[w, N_DENSE] and lists[j, w, ROW] >= 0:
                        lists[j, w, DENSE] = dense


@kernel
def run_of(ends, at, number, size):
    """Return start and end of a run, both within 0..size even if the file is damaged.

    Args:
        ends: uint64, ends of runs.
        at: Position in `ends` of the first run.
        number: The run.
        size: Total number of entries in all runs.
    """
    begin = min(max(np.int64(ends[at + number - 1]), 0), size) if number else 0
    return begin, min(max(np.int64(ends[at + number]), begin), size)


@kernel
def find_live(windows, allowed, live):
    """Find the blocks that hold an allowed document.

    Args:
        windows: (n_windows, WINDOW_COLUMNS) int64, the table of windows.
        allowed: (n_docs,) uint8 by place.
        live: (n_blocks,) uint8, written.
    """
    for w in range(len(windows)):
        for b in range(count_blocks(windows, w)):
            first = windows[w, FIRST_DOC] + b * BLOCK
            last = min(first + BLOCK, windows[w, FIRST_DOC] + windows[w, N_DOCS])
            some = np.uint8(0)
            for place in range(first, last):
                some |= allowed[place]
            live[windows[w, FIRST_BLOCK] + b] = some != 0


@kernel
def is_live(query, windows, w):
    """Whether a window holds an allowed document."""
    if len(query.live) == 0:
        return True
    first = windows[w, FIRST_BLOCK]
    return np.any(query.live[first : first + count_blocks(windows, w)])


@kernel
def disallow(query, place, n, scores):
    """Set the scores of documents that aren't allowed to 0.

    Args:
        query: `Query`.
        place: The place of the first document.
        n: Number of documents.
        scores: (at least n,), changed.
    """
    allowed = query.allowed[place : place + n]
    for x in range(len(allowed)):  # empty if all are allowed
        scores[x] *= allowed[x]


@inlined
def number_of(order, windows, w, doc):
    """Return the number of a window's document."""
    at = windows[w, ORDER_AT]
    return windows[w, BASE] + np.int64(order[at + doc]) if at >= 0 else windows[w, FIRST_DOC] + doc


@kernel
def cost(query, windows, i, w):
    """Return the cost of scanning a list, in postings; 0 if the window has no list of the term."""
    if query.lists[i, w, DENSE] >= 0:
        return windows[w, N_DOCS] // _DENSE_COST + 1
    return np.int64(query.lists[i, w, END]) - query.lists[i, w, BEGIN]


@inlined
def count_blocks(windows, w):
    """Return the number of blocks in a window."""
    return (windows[w, N_DOCS] + BLOCK - 1) // BLOCK


@inlined
def count_skips(windows, w):
    """Return the number of skips of a list in a window."""
    return (windows[w, N_DOCS] + SKIP - 1) // SKIP
