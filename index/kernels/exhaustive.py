"""The exhaustive kernel: every posting of the query's terms, window by window. What all other algorithms must equal.

A window is a run of at most 65,536 consecutive documents, so that a document fits 16 bits within it and the
accumulator stays in the cache. Each window holds its postings by term; see lsr.index.segment for the layout.

Scores are exact: with 8-bit impacts, sums of int32 products that cannot overflow (lsr.index.quantize scales the query
so); with float weights, float64 sums in ascending term order.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel
from .ranking import select, sort

WINDOW = 1 << 16
_SCANNED = 128  # accumulator entries that are passed over together where none beats the threshold
_SAMPLE = 256  # scores from which the first threshold is guessed
_SEEDED_K, _SEEDED_SHARE = _SAMPLE // 2, 8  # for k from here on, where a window holds so many times k documents


# Columns of the table of windows that the kernels take: (n_windows, 8) int64. Places count in entries of the file.
DOCS_AT, IMPACTS_AT, SIZE, TERMS_AT, ENDS_AT, N_TERMS, FIRST_DOC, N_DOCS = range(8)


@kernel
def search_windows(docs, impacts, lists, windows, terms, weights, accumulator, k, best_doc, best_score):
    """The k best documents of one query.

    Args:
        docs: (file,) uint16, the file of postings; window w's documents begin at windows[w, DOCS_AT].
        impacts: (file,) uint8 or float32, the same file; window w's impacts begin at windows[w, IMPACTS_AT].
        lists: (file,) uint32, the file of lists; see `find_list`.
        windows: (n_windows, 8) int64, the table of windows.
        terms: (n,) uint32, the query's terms, ascending.
        weights: (n,) of the accumulator's type, the query's weights.
        accumulator: (65536,) int32 or float64, all zero; zero again afterwards.
        k: How many.
        best_doc: (more than k,) int64, written: documents by descending score, equal ones by ascending number. The
            longer it is, the more rarely it is thinned out; twice k is a good length.
        best_score: (len(best_doc),) of the accumulator's type, written.

    Returns:
        How many were found; only documents that share a term with the query count.
    """
    found = 0
    threshold = accumulator.dtype.type(0)
    for w in range(len(windows)):
        docs_at, impacts_at = windows[w, DOCS_AT], windows[w, IMPACTS_AT]
        n, first = windows[w, N_DOCS], windows[w, FIRST_DOC]
        touched = False
        for i in range(len(terms)):
            begin, end = find_list(lists, windows, w, terms[i])
            if begin >= end:
                continue
            touched = True
            weight = weights[i]
            list_docs = docs[docs_at + begin : docs_at + end]
            list_impacts = impacts[impacts_at + begin : impacts_at + end]
            for p in range(len(list_docs)):
                accumulator[list_docs[p]] += weight * list_impacts[p]
        if touched:
            if found == 0:
                threshold = seed(accumulator, n, k, best_doc, best_score)
            found, threshold = collect(accumulator, n, first, k, best_doc, best_score, found, threshold)
    if found > k:
        select(best_doc, best_score, found, k)
        found = k
    sort(best_doc, best_score, found)
    return found


@kernel
def find_list(lists, windows, w, term):
    """Where a term's postings lie within a window.

    Args:
        lists: (file,) uint32; from windows[w, TERMS_AT] on the window's terms, ascending, from windows[w, ENDS_AT] on
            where the postings of each end.
        windows: (n_windows, 8) int64, the table of windows.
        w: The window.
        term: The term.

    Returns:
        Begin and end, within the window's postings whatever the file says; the same where it has none.
    """
    terms_at, ends_at = windows[w, TERMS_AT], windows[w, ENDS_AT]
    low, high = 0, windows[w, N_TERMS]
    while low < high:
        middle = (low + high) >> 1
        if lists[terms_at + middle] < term:
            low = middle + 1
        else:
            high = middle
    if low == windows[w, N_TERMS] or lists[terms_at + low] != term:
        return 0, 0
    begin = np.int64(lists[ends_at + low - 1]) if low > 0 else 0
    return begin, min(np.int64(lists[ends_at + low]), windows[w, SIZE])


@kernel
def seed(accumulator, n, k, best_doc, best_score):
    """A threshold to begin with: a score that at least k documents of the window beat, or 0.

    Guessed from a sample, then checked by counting. Without it most of a large k's time goes into documents that
    are soon thrown out again.

    Args:
        accumulator: (65536,), the window's scores.
        n: Its documents.
        k: How many are wanted.
        best_doc: Scratch.
        best_score: Scratch.
    """
    if k < _SEEDED_K or n < _SEEDED_SHARE * k:
        return accumulator.dtype.type(0)
    step = n // _SAMPLE + 1
    size = 0
    for i in range(0, n, step):
        best_doc[size], best_score[size] = i, accumulator[i]
        size += 1
    rank = 2 * k * size // n + 2
    while rank < size:
        select(best_doc, best_score, size, rank)
        guess = best_score[rank - 1]
        above = 0
        for i in range(n):
            above += accumulator[i] > guess
        if above >= k:
            return guess
        rank *= 2
    return accumulator.dtype.type(0)


@kernel
def collect(accumulator, n, first, k, best_doc, best_score, found, threshold):
    """Append the window's documents that beat the threshold to the best so far, and clear the accumulator.

    Written so that the compiler makes vector instructions of it: of 128 scores, 8 runs of 16 are folded into one run
    of maxima, which is compared at once. When there is no room left, only the k best are kept, and the k-th becomes
    the threshold. Documents come in ascending order, so one that only equals the k-th best score loses the tie.

    Returns:
        How many there are now, and the threshold.
    """
    for block in range((n + _SCANNED - 1) // _SCANNED):  # what lies behind the last document is zero
        scores = accumulator[block * _SCANNED : (block + 1) * _SCANNED]
        any_above = np.int32(0)
        for i in range(16):
            a = max(max(scores[i], scores[i + 16]), max(scores[i + 32], scores[i + 48]))
            b = max(max(scores[i + 64], scores[i + 80]), max(scores[i + 96], scores[i + 112]))
            any_above |= np.int32(max(a, b) > threshold)
        if any_above:
            for run in range(0, _SCANNED, 16):
                any_above = np.int32(0)
                for i in range(16):
                    any_above |= np.int32(scores[run + i] > threshold)
                if any_above:
                    for i in range(run, run + 16):
                        if scores[i] > threshold:
                            best_doc[found] = first + block * _SCANNED + i
                            best_score[found] = scores[i]
                            found += 1
                            if found == len(best_doc):
                                select(best_doc, best_score, found, k)
                                found = k
                                threshold = best_score[k - 1]
        scores[:] = 0
    return found, threshold
