"""Lists as gaps: two bytes a posting instead of three.

A posting is stored as two bytes: the distance from the previous document, and the impact. If two documents are more
than 255 apart, postings with an impact of 0 are stored between them. A list is preceded by one byte for each of its
skips: the distance from the last posting before the skip to the skip's own document. With this distance, a look-up
can begin at the skip.
"""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import inlined, kernel
from lsr.index.kernels.layout import BEGIN, BLOCK, END, LAST_DOC, ROW, SKIP, SKIP_UNIT

_FURTHEST = 255


@kernel
def count_gaps(docs, begins, ends, sizes):
    """Count the postings of lists stored as gaps, including those with an impact of 0.

    Args:
        docs: (n,) uint16, a window's postings.
        begins: (n_lists,) int64, start of each list.
        ends: (n_lists,) int64, end of each list.
        sizes: (n_lists,) int64, written.
    """
    for i in range(len(begins)):
        before, size = 0, 0
        for p in range(begins[i], ends[i]):
            size += 1 + max(np.int64(docs[p]) - before - 1, 0) // _FURTHEST
            before = np.int64(docs[p])
        sizes[i] = size


@kernel
def write_gaps(docs, impacts, begins, ends, rows, n_skips, at, gaps, gap_impacts, skips):
    """Write lists as gaps.

    Args:
        docs: (n,) uint16, a window's postings.
        impacts: (n,) uint8.
        begins: (n_lists,) int64, start of each list.
        ends: (n_lists,) int64, end of each list.
        rows: (n_lists,) int32, each list's row of skips.
        n_skips: Number of skips of a list.
        at: (n_lists,) int64, start of each list's gaps, with room for n_skips bytes before it.
        gaps: (size,) uint8, written.
        gap_impacts: (size,) uint8, all zero, written.
        skips: (n_rows, n_skips or more) uint16, written.
    """
    for i in range(len(begins)):
        before, to, skip = 0, at[i], 0
        for p in range(begins[i], ends[i]):
            doc = np.int64(docs[p])
            while doc - before > _FURTHEST:
                skip = _skipped(before + _FURTHEST, before, skip, to, at[i], rows[i], n_skips, gaps, skips)
                gaps[to] = _FURTHEST
                before += _FURTHEST
                to += 1
            skip = _skipped(doc, before, skip, to, at[i], rows[i], n_skips, gaps, skips)
            gaps[to], gap_impacts[to] = doc - before, impacts[p]
            before = doc
            to += 1
        for s in range(skip, skips.shape[1]):
            skips[rows[i], s] = to - at[i]
            if s < n_skips:
                gaps[at[i] - n_skips + s] = 0


@inlined
def _skipped(doc, before, skip, to, at, row, n_skips, gaps, skips):
    """Write the skips up to a document; return the next skip."""
    while skip <= doc // SKIP:
        skips[row, skip] = to - at
        gaps[at - n_skips + skip] = skip * SKIP - before
        skip += 1
    return skip


@kernel
def read_gaps(begins, ends, gaps, impacts, out_docs, out_impacts, out_ends):
    """Turn lists of gaps into postings.

    Args:
        begins: (n_lists,) int64, start of each list.
        ends: (n_lists,) int64, end of each list.
        gaps: (n,) uint8, a window's gaps.
        impacts: (n,) uint8.
        out_docs: (sum of the lists' sizes,) uint16, written.
        out_impacts: (sum of the lists' sizes,) uint8, written.
        out_ends: (n_lists,) int64, written: the end of each list's postings.
    """
    to = 0
    for i in range(len(begins)):
        doc = 0
        for p in range(max(begins[i], 0), min(ends[i], len(gaps))):
            doc = (doc + np.int64(gaps[p])) & np.int64(LAST_DOC)
            out_docs[to], out_impacts[to] = doc, impacts[p]
            to += np.int64(impacts[p] != 0)
        out_ends[i] = to


@kernel
def find_in_gaps(lists, gaps, impacts, skips, n_skips, doc, out):
    """Find one document's impacts in lists of gaps.

    Args:
        lists: (n, 4) int64, the lists.
        gaps: (n_gaps,) uint8, the window's gaps.
        impacts: (n_gaps,) uint8.
        skips: uint16, the segment's skips.
        n_skips: Number of skips of a list.
        doc: The document, within the window.
        out: (n,) float32, written; 0 for terms that the document lacks.
    """
    skip = doc // SKIP
    for i in range(len(lists)):
        out[i] = 0
        row, begin = lists[i, ROW] * SKIP_UNIT + skip, lists[i, BEGIN]
        if lists[i, ROW] < 0 or row >= len(skips) or begin < n_skips or begin > len(gaps):
            continue
        here = skip * SKIP - np.int64(gaps[begin - n_skips + skip])
        for p in range(begin + skips[row], min(lists[i, END], len(gaps))):
            here += np.int64(gaps[p])
            if here >= doc:
                if here == doc:
                    out[i] = impacts[p]
                break


@inlined
def scan_gaps(gaps, impacts, weight, scores):
    """Add a list to the scores of a window.

    Args:
        gaps: (n,) uint8, the list's gaps.
        impacts: (n,) uint8.
        weight: The term's weight.
        scores: (WINDOW,), changed.
    """
    doc = np.uint64(0)
    for p in range(len(gaps)):
        doc = (doc + np.uint64(gaps[p])) & LAST_DOC
        scores[doc] += weight * impacts[p]


@inlined
def add_gaps(gaps, gaps_at, impacts_at, begin, end, before, first, weight, scores, base):
    """Find a block's postings within a range of postings, and add them to the block's scores.

    Args:
        gaps: (file,) uint8.
        gaps_at: Where the window's gaps begin.
        impacts_at: Where the impacts of these gaps begin.
        begin: The range's first posting, counted from the window's first.
        end: The range's end, exclusive.
        before: The document before the range's first posting.
        first: The block's first document.
        weight: The term's weight.
        scores: int32, changed.
        base: Where the block's scores begin in `scores`.

    Returns:
        The best score that changed, the largest impact, and the number of postings.
    """
    best, largest, doc = np.int32(0), np.int32(0), before - first
    while begin < end:
        doc += np.int64(gaps[gaps_at + begin])
        if doc >= 0:
            break
        begin += 1
    start = begin
    while begin < end and doc < BLOCK:
        impact = np.int32(gaps[impacts_at + begin])
        at = base + (doc & (BLOCK - 1))
        score = scores[at] + weight * impact
        scores[at] = score
        best, largest = max(best, score), max(largest, impact)
        begin += 1
        if begin < end:
            doc += np.int64(gaps[gaps_at + begin])
    return best, largest, begin - start
