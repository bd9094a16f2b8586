"""Putting documents in order: by descending score, equal scores by ascending document. Arrays are changed in place."""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import kernel

_SMALL = 16  # runs up to here are sorted by insertion


@kernel
def _before(score_a, doc_a, score_b, doc_b):
    return score_a > score_b or (score_a == score_b and doc_a < doc_b)


@kernel
def _swap(docs, scores, a, b):
    docs[a], docs[b] = docs[b], docs[a]
    scores[a], scores[b] = scores[b], scores[a]


@kernel
def _partition(docs, scores, low, high):
    """Hoare's partition of low..high around the median of three: what stands up to the returned place comes first."""
    middle = (low + high) >> 1
    if _before(scores[middle], docs[middle], scores[low], docs[low]):
        _swap(docs, scores, middle, low)
    if _before(scores[high], docs[high], scores[low], docs[low]):
        _swap(docs, scores, high, low)
    if _before(scores[high], docs[high], scores[middle], docs[middle]):
        _swap(docs, scores, high, middle)
    score, doc = scores[middle], docs[middle]
    i, j = low - 1, high + 1
    while True:
        i += 1
        while _before(scores[i], docs[i], score, doc):
            i += 1
        j -= 1
        while _before(score, doc, scores[j], docs[j]):
            j -= 1
        if i >= j:
            return j
        _swap(docs, scores, i, j)


@kernel
def select(docs, scores, n, k):
    """Bring the k best of the first n to the front, the k-th of them to place k - 1; the others in any order.

    Args:
        docs: (at least n,) int64.
        scores: As many, of any type that compares.
        n: How many to look at.
        k: From 1 to n.
    """
    low, high, wanted = 0, n - 1, k - 1
    while low < high:
        cut = _partition(docs, scores, low, high)
        if wanted <= cut:
            high = cut
        else:
            low = cut + 1


@kernel
def sort(docs, scores, n):
    """Sort the first n: quicksort, the shorter side first so that the stack stays small, insertion for short runs."""
    lows, highs = np.empty(64, np.int64), np.empty(64, np.int64)
    lows[0], highs[0] = 0, n - 1
    depth = 1
    while depth:
        depth -= 1
        low, high = lows[depth], highs[depth]
        while high - low >= _SMALL:
            cut = _partition(docs, scores, low, high)
            if cut - low < high - cut - 1:
                lows[depth], highs[depth] = cut + 1, high
                high = cut
            else:
                lows[depth], highs[depth] = low, cut
                low = cut + 1
            depth += 1
        for i in range(low + 1, high + 1):
            doc, score = docs[i], scores[i]
            j = i
            while j > low and _before(score, doc, scores[j - 1], docs[j - 1]):
                docs[j], scores[j] = docs[j - 1], scores[j - 1]
                j -= 1
            docs[j], scores[j] = doc, score
