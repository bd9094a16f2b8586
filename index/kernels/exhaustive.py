"""The exhaustive kernel: every posting of the query's terms, window by window. What all other algorithms must equal.

A window is a run of at most 65,536 consecutive documents, so that a document fits 16 bits within it and the
accumulator stays in the cache. Each window holds its postings by term; see lsr.index.segment for the layout.

Scores are exact: with 8-bit impacts, sums of int32 products that cannot overflow (lsr.index.quantize scales the query
so); with float weights, float64 sums in ascending term order.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel

WINDOW = 1 << 16
_SCANNED = 64  # accumulator entries whose maximum is taken before any is compared on its own


@kernel
def search_windows(
    docs,
    doc_at,
    impacts,
    impact_at,
    sizes,
    starts,
    first_doc,
    n_docs,
    rows,
    weights,
    accumulator,
    out_doc,
    out_score,
):
    """The k best documents of one query, k = len(out_doc).

    Args:
        docs: (file,) uint16, the file of postings; window w's documents begin at doc_at[w].
        doc_at: (n_windows,) int64.
        impacts: (file,) uint8 or float32, the same file; window w's impacts begin at impact_at[w].
        impact_at: (n_windows,) int64.
        sizes: (n_windows,) int64, postings of each window.
        starts: (n_windows, n_used + 1) uint32, where each term's postings begin within a window.
        first_doc: (n_windows,) int64.
        n_docs: (n_windows,) int64.
        rows: (n,) int64, the query's terms as rows of `starts`, ascending.
        weights: (n,) of the accumulator's type, the query's weights.
        accumulator: (65536,) int32 or float64, all zero; zero again afterwards.
        out_doc: (k,) int64, written: documents by descending score, equal ones by ascending number.
        out_score: (k,) of the accumulator's type, written.

    Returns:
        How many were found; only documents that share a term with the query count.
    """
    k = len(out_doc)
    found = 0
    threshold = accumulator.dtype.type(0)
    for w in range(len(doc_at)):
        n = n_docs[w]
        touched = False
        for i in range(len(rows)):
            begin = np.int64(starts[w, rows[i]])
            end = min(np.int64(starts[w, rows[i] + 1]), sizes[w])  # a damaged file must not lead outside
            if begin >= end:
                continue
            touched = True
            weight = weights[i]
            list_docs = docs[doc_at[w] + begin : doc_at[w] + end]
            list_impacts = impacts[impact_at[w] + begin : impact_at[w] + end]
            for p in range(len(list_docs)):
                accumulator[list_docs[p]] += weight * list_impacts[p]
        if touched:
            found, threshold = _collect(accumulator, n, first_doc[w], out_doc, out_score, found, threshold, k)
    _sort_best(out_doc, out_score, found)
    return found


@kernel
def _collect(accumulator, n, first, out_doc, out_score, found, threshold, k):
    """Put the window's documents that beat the threshold into the heap of the k best; clear the accumulator.

    Documents come in ascending order, so one that only equals the k-th best score loses the tie.
    """
    for block in range(0, n, _SCANNED):
        stop = min(block + _SCANNED, n)
        best = accumulator[block]
        for i in range(block + 1, stop):
            best = max(best, accumulator[i])
        if best <= threshold:
            accumulator[block:stop] = 0
            continue
        for i in range(block, stop):
            score = accumulator[i]
            if score > threshold:
                if found < k:
                    _sift_up(out_doc, out_score, found, first + i, score)
                    found += 1
                else:
                    _sift_down(out_doc, out_score, found, first + i, score)
                if found == k:
                    threshold = out_score[0]
        accumulator[block:stop] = 0
    return found, threshold


@kernel
def _worse(score_a, doc_a, score_b, doc_b):
    return score_a < score_b or (score_a == score_b and doc_a > doc_b)


@kernel
def _sift_up(docs, scores, at, doc, score):
    """Add to a heap of `at` entries whose root is the worst."""
    while at > 0:
        parent = (at - 1) >> 1
        if not _worse(score, doc, scores[parent], docs[parent]):
            break
        docs[at], scores[at] = docs[parent], scores[parent]
        at = parent
    docs[at], scores[at] = doc, score


@kernel
def _sift_down(docs, scores, size, doc, score):
    """Replace the root of a heap of `size` entries."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores[child + 1], docs[child + 1], scores[child], docs[child]):
            child += 1
        if not _worse(scores[child], docs[child], score, doc):
            break
        docs[at], scores[at] = docs[child], scores[child]
        at = child
    docs[at], scores[at] = doc, score


@kernel
def _sort_best(docs, scores, size):
    """Turn a heap into the list of its entries, best first (heap sort: the worst goes to the end)."""
    for last in range(size - 1, 0, -1):
        doc, score = docs[last], scores[last]
        docs[last], scores[last] = docs[0], scores[0]
        _sift_down(docs, scores, last, doc, score)
