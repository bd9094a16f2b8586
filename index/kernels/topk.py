"""Top-k selection and sorting, in place: by descending score, ties by ascending document."""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import inlined, kernel

_SMALL = 16  # runs up to this length are sorted by insertion


@inlined
def _before(score_a, doc_a, score_b, doc_b):
    return (score_a > score_b) | ((score_a == score_b) & (doc_a < doc_b))


@inlined
def _swap(docs, scores, a, b):
    doc, score = docs[a], scores[a]
    docs[a], scores[a] = docs[b], scores[b]
    docs[b], scores[b] = doc, score


@kernel
def _partition(docs, scores, low, high):
    """Partition low..high around the median of three; returns the median's position, before which all come first.

    Every entry is swapped to the boundary, and the boundary moves or doesn't: this avoids a branch that the processor
    would mispredict half of the time.
    """
    middle = (low + high) >> 1
    if _before(scores[middle], docs[middle], scores[low], docs[low]):
        _swap(docs, scores, middle, low)
    if _before(scores[high], docs[high], scores[low], docs[low]):
        _swap(docs, scores, high, low)
    if _before(scores[high], docs[high], scores[middle], docs[middle]):
        _swap(docs, scores, high, middle)
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
    """Sort the first n entries: quicksort with insertion sort for short runs; the stack stays logarithmic."""
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
