"""What kernels search: the mapped files of one segment or of many, and where the lists of a query's terms lie in them.

Segments are searched together, as if they were one. For that, an array stands for the same file of all of them: it
begins where the first of these files is mapped and reaches to the end of the last, and tables tell where in it each
segment's part begins. What lies between the parts is never touched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lsr.index.kernels.jit import inlined, kernel, prefetch

# A window is a run of at most so many consecutive documents: a document fits 16 bits, the accumulator the cache.
WINDOW = 1 << 16
# A block is a run of so many documents of a window, for which upper bounds are known.
BLOCK = 128
SKIP = 1024  # documents between two places that a list's skips name
ROW_UNIT = 64  # rows of maxima begin at multiples of it, a cache line
SKIP_UNIT = ROW_UNIT * BLOCK // SKIP
# Columns of the table of windows. Places count in entries of the arrays; FIRST_DOC is the place of a window's first
# document among those of all segments, BASE the number of its segment's first document, ORDER_AT is -1 where documents
# are stored as they came.
DOCS_AT, IMPACTS_AT, SIZE, DENSE_AT, N_DENSE, FIRST_DOC, N_DOCS, FIRST_BLOCK = range(8)
MAXIMA_AT, SKIPS_AT, ORDER_AT, BASE, GAPS_AT, GAP_IMPACTS_AT, N_GAPS = range(8, 15)
WINDOW_COLUMNS = 15
# Columns of the table of segments.
TERMS_AT, N_TERMS, TABLE_AT, TABLE_SIZE, MAX_IMPACTS_AT, ENDS_AT = range(6)
ENTRY_WINDOW_AT, ENTRY_BEGIN_AT, ENTRY_SIZE_AT, ENTRY_ROW_AT, ENTRY_DENSE_AT = range(6, 11)
N_ENTRIES, FIRST_WINDOW, N_WINDOWS, N_ROWS = range(11, 15)
SEGMENT_COLUMNS = 15
# Of a list within a window, (…, 4) int32: its postings are BEGIN..END of the window's, or, if DENSE is GAPS, of the
# window's gaps, or, if DENSE isn't below zero, the window's dense row of this number; the maxima of its blocks begin at
# MAXIMA_AT + ROW * ROW_UNIT, its skips at SKIPS_AT + ROW * SKIP_UNIT; it has neither if ROW is -1.
BEGIN, END, ROW, DENSE = range(4)
POSTINGS_LIST, GAPS = -1, -2
LAST_DOC = np.uint64(WINDOW - 1)
# Places of a search's counts.
BLOCKS_SCORED, WINDOWS_SCANNED, POSTINGS_SCORED, POSTINGS, LOOKUPS = range(5)
N_COUNTS = 5
_DENSE_COST = 8  # adding up so many documents of a dense row costs as much as one posting


class Files(NamedTuple):
    """The files of segments as arrays.

    Attributes:
        docs: uint16, the files of postings; window w's documents begin at windows[w, DOCS_AT].
        impacts: uint8 or float32, the same files; window w's impacts begin at windows[w, IMPACTS_AT].
        dense: uint8, the files of dense rows: an impact for each document of the window, 0 if it lacks the term.
        gaps: uint8, the files of gaps (`lsr.index.kernels.gaps`); window w's begin at windows[w, GAPS_AT], their
            impacts at windows[w, GAP_IMPACTS_AT].
        maxima: uint8, block maxima, row by row, rows by term.
        skips: uint16: how many postings of a list come before each 1024th document.
        windows: (n_windows, WINDOW_COLUMNS) int64, the table of windows.
        order: uint32, of segments that store documents in another order, the number of each by place.
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
        table: int32, of each term its place among those of the segment, -1 for those that don't occur; for segments
            with a TABLE_SIZE above 0. In others terms are searched for.
        max_impacts: float32, the largest impact of each term.
        ends: uint64, where the entries of each term end.
        entries: five arrays, of each list by term and window: window, begin and size uint32, row and dense int32.
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
        lists: (n, n_windows, 4) int32, their lists.
        weights: (n,) int32, or float64 where impacts are float32.
        upper_bounds: (n,) of the same type, the most that each can add to a score.
        allowed: (n_docs,) uint8 by place, 0 for documents that may not be found; empty if all may.
        live: (n_blocks,) uint8, 0 for blocks without a document that may be found; empty if all may.
    """

    lists: Any
    weights: Any
    upper_bounds: Any
    allowed: Any
    live: Any


class Space(NamedTuple):
    """What a search writes to.

    Attributes:
        accumulator: (65536,) int32, or float64 where impacts are float32: all zero before and after a search.
        blocks: (6, n_blocks rounded up) int32, of any content.
        docs: (more than k,) int64: the documents found. The longer it is, the more rarely it is thinned out; twice k
            is a good length.
        scores: (len(docs),) of the accumulator's type: their scores.
        counts: (5,) int64: blocks scored one by one, windows scanned whole, what scoring cost in postings, what a scan
            would have cost, and how often a term was looked up in a block.
    """

    accumulator: Any
    blocks: Any
    docs: Any
    scores: Any
    counts: Any


@kernel
def find_terms(lexicon, terms, ranks, max_impacts):
    """Find a query's terms among those of each segment.

    Args:
        lexicon: `Lexicon`.
        terms: (n,) uint32.
        ranks: (n_segments, n) int64, written: the places of the terms among those of the segment, -1 for the unknown.
        max_impacts: (n,) float64, written: the largest impact of each term in any segment, 0 for the unknown.

    Returns:
        (n_known,) int64, which of the terms occur.
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
    """Find the lists of some terms in all windows; in each segment one look-up a term, then its entries in a row.

    Whatever the files say, what is found lies within them.

    Args:
        lexicon: `Lexicon`.
        windows: (n_windows, WINDOW_COLUMNS) int64, the table of windows.
        ranks: (n_segments, n) int64, from `find_terms`.
        chosen: (m,) int64, which of the terms.
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
    """Where a run begins and where it ends, both within 0..size whatever the file says.

    Args:
        ends: uint64, where runs end, those from `at` on.
        at: The place of the first run's.
        number: Which run.
        size: Of what runs are runs of.
    """
    begin = min(max(np.int64(ends[at + number - 1]), 0), size) if number else 0
    return begin, min(max(np.int64(ends[at + number]), begin), size)


@kernel
def find_live(windows, allowed, live):
    """Tell which blocks hold a document that may be found.

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
    """Whether a window holds a document that may be found."""
    if len(query.live) == 0:
        return True
    first = windows[w, FIRST_BLOCK]
    return np.any(query.live[first : first + count_blocks(windows, w)])


@kernel
def disallow(query, place, n, scores):
    """Set the scores of those of some documents to 0 that may not be found.

    Args:
        query: `Query`.
        place: The place of the first document.
        n: How many there are.
        scores: (at least n,), changed.
    """
    allowed = query.allowed[place : place + n]
    for x in range(len(allowed)):  # with no mask there is nothing to go through
        scores[x] *= allowed[x]


@inlined
def number_of(order, windows, w, doc):
    """The number of a window's document."""
    at = windows[w, ORDER_AT]
    return windows[w, BASE] + np.int64(order[at + doc]) if at >= 0 else windows[w, FIRST_DOC] + doc


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


@inlined
def count_skips(windows, w):
    """Skips of a list of a window."""
    return (windows[w, N_DOCS] + SKIP - 1) // SKIP
