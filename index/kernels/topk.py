"""Top-k selection and sorting, in place: by descending score, ties by ascending document."""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import inlined, kernel

_SMALL = 16  # runs up to this length are sorted by insertion
_MANY = 1000  # from this length, nine entries are compared to choose the pivot


@inlined
def _before(score_a, doc_a, score_b, doc_b):
    return (score_a > score_b) | ((score_a == score_b) & (doc_a < doc_b))


@inlined
def _swap(docs, scores, a, b):
    doc, score = docs[a], scores[a]
    docs[a], scores[a] = docs[b], scores[b]
    docs[b], scores[b] = doc, score


@inlined
def _order(docs, scores, a, b):
    if _before(scores[b], docs[b], scores[a], docs[a]):
        _swap(docs, scores, a, b)


@inlined
def _median(docs, scores, a, b, c):
    """Put the entries at a, b and c in order, so that their median is at b."""
    _order(docs, scores, a, b)
    _order(docs, scores, b, c)
    _order(docs, scores, a, b)


@kernel
def _partition(docs, scores, low, high):
    """Partition low..high around a pivot, and return the pivot's position.

    The pivot is the median of three entries, and in long runs the median of three such medians: with a simple median of
    three, scores that rise and then fall take quadratic time.

    Every entry is swapped to the boundary, and the boundary moves past it only if the entry belongs before the pivot.
    This avoids a branch that the processor would mispredict half of the time.
    """
    middle = (low + high) >> 1
    if high - low < _MANY:
        _median(docs, scores, low, middle, high)
    else:
        step = (high - low) >> 3
        _median(docs, scores, low, low + step, low + 2 * step)
        _median(docs, scores, middle - step, middle, middle + step)
        _median(docs, scores, high - 2 * step, high - step, high)
        _median(docs, scores, low + step, middle, high - step)
    _swap(docs, scores, middle, high)
    score, doc, boundary = scores[high], docs[high], low
    for i in range(low, high):
        there_doc, there_score = docs[i], scores[i]
        docs[i], scores[i] = docs[boundary], scores[boundary]
        docs[boundary], scores[boundary] = there_doc, there_score
        boundary += np.int64(_before(there_score, there_doc, score, doc))
    _swap(docs, scores, boundary, high)
    return boundary


@kernel
def select(docs, scores, n, k):
    """Move the k best of the first n entries to the front, with the k-th at position k - 1; the rest is unordered.

    Args:
        docs: (at least n,) int64.
        scores: (at least n,) of any comparable type.
        n: Number of entries to consider.
        k: From 1 to n.
    """
    low, high, wanted = 0, n - 1, k - 1
    while low < high:
        cut = _partition(docs, scores, low, high)
        if wanted == cut:
            return
        if wanted < cut:
            high = cut - 1
        else:
            low = cut + 1


@kernel
def sort(docs, scores, n):
    """Sort the first n entries by quicksort, with insertion sort for short runs; the stack's depth is logarithmic."""
    lows, highs = np.empty(64, np.int64), np.empty(64, np.int64)
    lows[0], highs[0] = 0, n - 1
    depth = 1
    while depth:
        depth -= 1
        low, high = lows[depth], highs[depth]
        while high - low >= _SMALL:
            cut = _partition(docs, scores, low, high)
            if cut - low < high - cut:
                lows[depth], highs[depth] = cut + 1, high
                high = cut - 1
            else:
                lows[depth], highs[depth] = low, cut - 1
                low = cut + 1
            depth += 1
        for i in range(low + 1, high + 1):
            doc, score = docs[i], scores[i]
            j = i
            while j > low and _before(score, doc, scores[j - 1], docs[j - 1]):
                docs[j], scores[j] = docs[j - 1], scores[j - 1]
                j -= 1
            docs[j], scores[j] = doc, score
