"""The exhaustive kernel: scans every posting of the query's terms, window by window.

Other exact kernels must return the same results.

Scores are exact. With 8-bit impacts, they are sums of int32 products that can't overflow (lsr.index.segment.quantize
scales the query accordingly). With float weights, they are float64 sums in ascending term order.

Kernels see documents by place, in storage order; results hold document numbers. Documents that may not be found
(deleted, or filtered out) get a score of 0 before results are collected.
"""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.gaps import scan_gaps
from lsr.index.kernels.jit import inlined, kernel, lowest_bit, prefetch, reaching
from lsr.index.kernels.layout import (
    BEGIN,
    DENSE,
    DENSE_AT,
    DOCS_AT,
    END,
    FIRST_DOC,
    GAP_IMPACTS_AT,
    GAPS,
    GAPS_AT,
    IMPACTS_AT,
    N_DOCS,
    POSTINGS,
    POSTINGS_SCORED,
    WINDOWS_SCANNED,
    cost,
    disallow,
    is_live,
    number_of,
)
from lsr.index.kernels.topk import select, sort

_SCANNED = 128  # accumulator entries that are skipped together if none reaches the threshold
_RUN = 32  # entries that `reaching` compares at once
_STRIP = 4096  # documents whose scores are added up together from dense rows
_ASKED = 512  # postings prefetched at the beginning of a list
_SAMPLE = 256  # scores sampled to guess the first threshold
# The first threshold is guessed for k >= 128, in windows of at least 8 * k documents.
_SEEDED_K, _SEEDED_SHARE = _SAMPLE // 2, 8


@kernel
def search_windows(files, query, space, k, threshold):
    """Find the k best documents for a query.

    Args:
        files: `Files`.
        query: `Query`.
        space: `Space`; docs and scores receive the results by descending score, ties by ascending number.
        k: Number of documents.
        threshold: Initial threshold, above zero, of the scores' type; lower scores are left out.

    Returns:
        The number of results, all of which share a term with the query.
    """
    found, windows = 0, files.windows
    every = np.arange(len(query.weights))
    for w in range(len(windows)):
        if not is_live(query, windows, w):
            continue
        space.counts[WINDOWS_SCANNED] += 1
        touched = scatter(files, query, every, w, space.accumulator)
        space.counts[POSTINGS_SCORED] += touched
        space.counts[POSTINGS] += touched
        if touched:
            n = windows[w, N_DOCS]
            disallow(query, windows[w, FIRST_DOC], n, space.accumulator)
            if found == 0:
                threshold = seed(space, n, k, threshold)
            found, threshold = collect(space, space.accumulator, files.order, windows, w, 0, n, k, found, threshold)
    return finish(space, k, found)


@kernel
def scatter(files, query, terms, w, accumulator):
    """Add a window's postings of some query terms to the accumulator; returns the cost, in postings."""
    # Unpack the tuples once: each access counts references.
    all_docs, all_impacts, dense, gaps, windows = files.docs, files.impacts, files.dense, files.gaps, files.windows
    lists, weights = query.lists, query.weights
    touched, n, n_dense = 0, windows[w, N_DOCS], 0
    places = np.empty(len(terms), np.int64)
    for i in terms:
        touched += cost(query, windows, i, w)
        if lists[i, w, DENSE] >= 0:
            places[n_dense] = i
            n_dense += 1
    # Add dense rows two at a time, and strip by strip, so that a strip's scores stay in the L1 cache.
    for first in range(0, n if n_dense else 0, _STRIP):
        scores = accumulator[first : min(first + _STRIP, n)]
        for j in range(0, n_dense, 2):
            i = places[j]
            at = windows[w, DENSE_AT] + lists[i, w, DENSE] * n + first
            weight, row = weights[i], dense[at : at + len(scores)]
            if j + 1 < n_dense:
                i = places[j + 1]
                at = windows[w, DENSE_AT] + lists[i, w, DENSE] * n + first
                other_weight, other_row = weights[i], dense[at : at + len(scores)]
                for x in range(len(scores)):
                    scores[x] += weight * row[x] + other_weight * other_row[x]
            else:
                for x in range(len(scores)):
                    scores[x] += weight * row[x]
    for j in range(-1, len(terms)):
        if j + 1 < len(terms):
            ask(all_docs, all_impacts, gaps, windows, lists, terms[j + 1], w)
        if j < 0:
            continue
        i = terms[j]
        begin, end = np.int64(lists[i, w, BEGIN]), np.int64(lists[i, w, END])
        weight = weights[i]
        if lists[i, w, DENSE] == GAPS:
            at, impacts_at = windows[w, GAPS_AT] + begin, windows[w, GAP_IMPACTS_AT] + begin
            size = max(end - begin, 0)
            scan_gaps(gaps[at : at + size], gaps[impacts_at : impacts_at + size], weight, accumulator)
            continue
        docs = all_docs[windows[w, DOCS_AT] + begin : windows[w, DOCS_AT] + end]
        impacts = all_impacts[windows[w, IMPACTS_AT] + begin : windows[w, IMPACTS_AT] + end]
        for p in range(len(docs)):
            accumulator[docs[p]] += weight * impacts[p]
    return touched


@inlined
def ask(docs, impacts, gaps, windows, lists, i, w):
    """Prefetch the beginning of a list; the hardware prefetches the rest."""
    begin, size = np.int64(lists[i, w, BEGIN]), np.int64(lists[i, w, END]) - lists[i, w, BEGIN]
    if lists[i, w, DENSE] == GAPS:
        for p in range(0, min(size, _ASKED), 64):
            prefetch(gaps, windows[w, GAPS_AT] + begin + p)
            prefetch(gaps, windows[w, GAP_IMPACTS_AT] + begin + p)
        return
    for p in range(0, min(size, _ASKED), 32):
        prefetch(docs, windows[w, DOCS_AT] + begin + p)
    for p in range(0, min(size, _ASKED), 64):
        prefetch(impacts, windows[w, IMPACTS_AT] + begin + p)


@kernel
def seed(space, n, k, threshold):
    """Return a starting score that at least k documents of the window reach, or `threshold`.

    The score is guessed from a sample and checked by counting. Without this score, a search for a large k spends most
    of its time on documents that are soon dropped again.

    Args:
        space: `Space`; docs and scores are overwritten.
        n: Number of documents in the window.
        k: Number of documents to find.
        threshold: The smallest allowed score, above zero.
    """
    if k < _SEEDED_K or n < _SEEDED_SHARE * k:
        return threshold
    step = n // _SAMPLE + 1
    size = 0
    for i in range(0, n, step):
        space.docs[size], space.scores[size] = i, space.accumulator[i]
        size += 1
    rank = 2 * k * size // n + 2
    while rank < size:
        select(space.docs, space.scores, size, rank)
        guess = space.scores[rank - 1]
        reached = 0
        for i in range(n):
            reached += space.accumulator[i] >= guess
        if reached >= k:
            return max(guess, threshold)
        rank *= 2
    return threshold


@kernel
def collect(space, accumulator, order, windows, w, first, n, k, found, threshold):
    """Append the documents whose scores reach `threshold` to the results, and clear the accumulator.

    The loops are written to be vectorized: 128 scores are folded into 16 maxima, which are compared at once. When the
    room for results runs out, only the k best are kept, and the k-th score becomes the threshold. A document with an
    equal score is still collected, because it may win the tie by its number.

    Args:
        space: `Space`; docs and scores hold the results.
        accumulator: Scores of consecutive documents; at least n, rounded up to a multiple of 128.
        order: From `Files`.
        windows: The table of windows.
        w: The documents' window.
        first: The first document, within the window.
        n: Number of documents.
        k: Number of documents to find.
        found: Number of results so far.
        threshold: The score to reach, above zero.

    Returns:
        The new number of results, and the new threshold.
    """
    docs, best, room = space.docs, space.scores, len(space.docs) - _RUN  # unpacked once, as in `scatter`
    for block in range((n + _SCANNED - 1) // _SCANNED):
        scores = accumulator[block * _SCANNED : (block + 1) * _SCANNED]
        reached = np.int32(0)
        for i in range(16):
            a = max(max(scores[i], scores[i + 16]), max(scores[i + 32], scores[i + 48]))
            b = max(max(scores[i + 64], scores[i + 80]), max(scores[i + 96], scores[i + 112]))
            reached |= np.int32(max(a, b) >= threshold)
        if reached:
            for run in range(0, _SCANNED, _RUN):
                bits = reaching(scores, run, threshold)
                if bits and found > room:
                    found, threshold = thin_out(space, k, found, threshold)
                    bits = reaching(scores, run, threshold)
                begin = block * _SCANNED + run
                while bits:
                    i = lowest_bit(bits)
                    bits &= bits - 1
                    if begin + i < n:
                        docs[found], best[found] = number_of(order, windows, w, first + begin + i), scores[run + i]
                        found += 1
        scores[:] = 0
    return found, threshold


@kernel
def thin_out(space, k, found, threshold):
    """Keep the k best of at least k results; return k and the new threshold."""
    select(space.docs, space.scores, found, k)
    return k, max(threshold, space.scores[k - 1])


@kernel
def finish(space, k, found):
    """Keep the k best results and sort them; returns their number."""
    if found > k:
        select(space.docs, space.scores, found, k)
        found = k
    sort(space.docs, space.scores, found)
    return found
