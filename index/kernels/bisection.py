"""Reorder documents so that similar ones are near each other: clustering, then bisection.

Clustering is spherical k-means with short sparse vectors for documents and centres; an inverted index of the centres
finds the centre of a document. Weights aren't stored: a document's terms are sorted by weight, and the r-th gets the
weight DECAY^r, which approximates learned sparse vectors.

Recursive graph bisection halves a run of documents and moves documents that fit the other half better, so that few
terms are spread over both halves; then it halves each half. In a half of n documents, a term that occurs in d of
them costs d * log2(n / (d + 1)): the bits of its gaps.

Sources: Dhulipala et al. 2016 (arXiv 1602.08820); Mackenzie, Petri, Moffat 2021 for fast bisection. These papers sort
    each half by gain and swap pairs whose gains add up to more than zero. Here, all documents are split at the median
    of one key: how much more a document costs on the right side than on the left. The result is the same, and a
    selection is faster than a sort.
"""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import kernel
from lsr.index.kernels.topk import select, sort

DECAY = np.float32(0.976)
_SETTLED = 200  # stop when less than 1/200 of a run's documents change sides


@kernel
def reduce_rows(indptr, terms, weights, number, keep, out_indptr, out_terms):
    """Keep the heaviest terms of each row, among the terms that have a new number.

    Args:
        indptr: (n_docs + 1,) int64.
        terms: (nnz,) uint32.
        weights: (nnz,) float32.
        number: (n_terms,) int32, the new number of each term, -1 to leave it out.
        keep: Largest number of terms to keep.
        out_indptr: (n_docs + 1,) int64, written except for the first entry, which is given.
        out_terms: (enough,) uint16 or uint32, written from out_indptr[0] on.
    """
    places, values = np.empty(keep + 1, np.int64), np.empty(keep + 1, np.float32)
    at = out_indptr[0]
    for doc in range(len(indptr) - 1):
        n = 0
        for p in range(indptr[doc], indptr[doc + 1]):
            if number[terms[p]] < 0 or (n == keep and weights[p] <= values[n - 1]):
                continue
            i = min(n, keep - 1)
            while i > 0 and values[i - 1] < weights[p]:
                places[i], values[i] = places[i - 1], values[i - 1]
                i -= 1
            places[i], values[i] = p, weights[p]
            n = min(n + 1, keep)
        for i in range(n):
            out_terms[at + i] = number[terms[places[i]]]
        at += n
        out_indptr[doc + 1] = at


@kernel
def order_run(indptr, terms, places, begin, end, align, iterations, sides, degrees, prices, touched, keys, logs):
    """Order a run of documents by bisection, down to runs of `align` documents.

    Args:
        indptr: (n_docs + 1,) int64.
        terms: (nnz,) uint16 or uint32, the documents' terms.
        places: (n_docs,) int64, the documents in their current order; the run's documents are reordered.
        begin: The run's first place.
        end: The run's end, exclusive.
        align: Runs of this length aren't split; halves begin at multiples of this length.
        iterations: Largest number of rounds in which documents change sides.
        sides: (n_docs,) uint8, scratch for the run's documents.
        degrees: (2, n_terms) int32, zero before and after.
        prices: (2, n_terms) float32, scratch.
        touched: (n_terms,) int32, scratch.
        keys: (n_docs,) float32, scratch for the run.
        logs: (n_docs + 3,) float32, the binary logarithm of each number; 0 for 0.
    """
    begins, ends = np.empty(64, np.int64), np.empty(64, np.int64)
    begins[0], ends[0] = begin, end
    depth = 1
    while depth:
        depth -= 1
        a, b = begins[depth], ends[depth]
        if b - a <= align:
            continue
        middle = halve(indptr, terms, places, a, b, align, iterations, sides, degrees, prices, touched, keys, logs)
        begins[depth], ends[depth] = a, middle
        begins[depth + 1], ends[depth + 1] = middle, b
        depth += 2


@kernel
def halve(indptr, terms, places, begin, end, align, iterations, sides, degrees, prices, touched, keys, logs):
    """Split a run of documents, longer than `align`, in two; arguments as for `order_run`.

    Returns:
        The place where the second half begins.
    """
    middle = begin + max((end - begin) // 2 // align, 1) * align
    n_touched = 0
    for place in range(begin, end):
        doc = places[place]
        sides[doc] = place >= middle
        for p in range(indptr[doc], indptr[doc + 1]):
            t = terms[p]
            if degrees[0, t] + degrees[1, t] == 0:
                touched[n_touched] = t
                n_touched += 1
            degrees[sides[doc], t] += 1
    n_left, n_right = middle - begin, end - middle
    for _ in range(iterations):
        for i in range(n_touched):
            t = touched[i]
            left, right = degrees[0, t], degrees[1, t]
            prices[0, t] = _step(right, n_right, logs) - _step(left - 1, n_left, logs)
            prices[1, t] = _step(right - 1, n_right, logs) - _step(left, n_left, logs)
        for place in range(begin, end):
            doc = places[place]
            side, key = sides[doc], np.float32(0)
            for p in range(indptr[doc], indptr[doc + 1]):
                key += prices[side, terms[p]]
            keys[place] = key
        select(places[begin:end], keys[begin:end], end - begin, n_left)
        changed = 0
        for place in range(begin, end):
            doc = places[place]
            side = np.uint8(place >= middle)
            if sides[doc] != side:
                changed += 1
                for p in range(indptr[doc], indptr[doc + 1]):
                    degrees[sides[doc], terms[p]] -= 1
                    degrees[side, terms[p]] += 1
                sides[doc] = side
        if changed * _SETTLED < end - begin:
            break
    for i in range(n_touched):
        degrees[0, touched[i]] = 0
        degrees[1, touched[i]] = 0
    return middle


@kernel
def _step(degree, n, logs):
    """Return what another document adds to the cost of a term that `degree` of n documents contain."""
    degree = max(degree, 0)
    after = np.float32(degree + 1) * (logs[n] - logs[degree + 2])
    return after - np.float32(degree) * (logs[n] - logs[degree + 1])


@kernel
def nearest(indptr, terms, docs, ends, centres, values, size, depth, out):
    """Find the most similar centre of each document.

    Args:
        indptr: (n_docs + 1,) int64.
        terms: (nnz,) uint16 or uint32, the documents' terms, the heaviest first.
        docs: (n,) int64, the documents, each with at least one term.
        ends: (n_terms,) int64, end of each term's list of centres.
        centres: (n_entries,) int32, centres by term.
        values: (n_entries,) float32, the weight of the term in each of these centres.
        size: Number of centres.
        depth: Number of a document's terms to use.
        out: (n,) int32, written: the centres, ties by number; 0 if none shares a term.
    """
    sums, touched = np.zeros(size, np.float32), np.empty(size, np.int32)
    for i in range(len(docs)):
        begin, n_touched, weight = indptr[docs[i]], 0, np.float32(1)
        for p in range(begin, min(begin + depth, indptr[docs[i] + 1])):
            t = terms[p]
            for e in range(ends[t - 1] if t else 0, ends[t]):
                c = centres[e]
                if sums[c] == 0:
                    touched[n_touched] = c
                    n_touched += 1
                sums[c] += weight * values[e]
            weight *= DECAY
        best, largest = np.int32(0), np.float32(0)
        for j in range(n_touched):
            c = touched[j]
            if sums[c] > largest or (sums[c] == largest and c < best):
                best, largest = c, sums[c]
            sums[c] = 0
        out[i] = best


@kernel
def average(indptr, terms, docs, ends, n_terms, keep, out_indptr, out_terms, out_values):
    """Average each cluster's documents; the mean is cut to its heaviest terms and normalized to length 1.

    Args:
        indptr: (n_docs + 1,) int64.
        terms: (nnz,) uint16 or uint32, the documents' terms, the heaviest first.
        docs: (n,) int64, documents by cluster.
        ends: (n_clusters,) int64, end of each cluster.
        n_terms: Upper bound of terms, exclusive.
        keep: Number of terms to keep.
        out_indptr: (n_clusters + 1,) int64, written.
        out_terms: (n_clusters * keep,) int32, written, the heaviest first.
        out_values: (n_clusters * keep,) float32, written.
    """
    sums, touched = np.zeros(n_terms, np.float32), np.empty(n_terms, np.int64)
    found = np.empty(n_terms, np.float32)
    begin, at = 0, 0
    out_indptr[0] = 0
    for c in range(len(ends)):
        n_touched = 0
        for i in range(begin, ends[c]):
            weight = np.float32(1)
            for p in range(indptr[docs[i]], indptr[docs[i] + 1]):
                if sums[terms[p]] == 0:
                    touched[n_touched] = terms[p]
                    n_touched += 1
                sums[terms[p]] += weight
                weight *= DECAY
        begin = ends[c]
        for j in range(n_touched):
            found[j] = sums[touched[j]]
            sums[touched[j]] = 0
        kept = min(keep, n_touched)
        if kept:
            select(touched, found, n_touched, kept)
            sort(touched, found, kept)
        length = np.float32(0)
        for j in range(kept):
            length += found[j] * found[j]
        for j in range(kept):
            out_terms[at + j], out_values[at + j] = touched[j], found[j] / np.sqrt(length)
        at += kept
        out_indptr[c + 1] = at
