"""All pairs of matrix rows whose products reach a threshold.

Each row is compared with the rows before it through an inverted index that grows row by row. The index leaves out the
most frequent terms of each row, as long as these alone can't reach the threshold with any row. So two rows that share
no indexed term can't reach the threshold.

Source: All-Pairs (Bayardo, Ma, Srikant 2007, "Scaling Up All Pairs Similarity Search").
"""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import kernel

_SLACK = 1e-9  # tolerance for rounding of sums


@kernel
def similar_pairs(indptr, terms, weights, counts, threshold):
    """Find all pairs of rows whose products reach the threshold.

    Args:
        indptr: (n + 1,) int64, start of each row.
        terms: (nnz,) int64, ascending in each row; smaller terms are in more rows.
        weights: (nnz,) float64 above zero; each row has the Euclidean length 1.
        counts: (n_terms,) int64, number of rows with each term.
        threshold: Above 0.

    Returns:
        (pairs, 2) int64: the numbers of two rows, the larger number first; and (pairs,) float64: their products, at
        least threshold - 1e-9.
    """
    n, n_terms = len(indptr) - 1, len(counts)
    largest = np.zeros(n_terms)
    for p in range(len(terms)):
        largest[terms[p]] = max(largest[terms[p]], weights[p])
    ends = np.cumsum(counts) - counts  # current end of each term's list; the lists grow
    starts = ends.copy()
    rows, stored = np.empty(len(terms), np.int32), np.empty(len(terms))
    left_out = np.zeros(n, np.int64)  # start of the indexed part of each row
    sums, row = np.zeros(n), np.zeros(n_terms)
    touched = np.empty(n, np.int64)
    pairs, products, found = np.empty((64, 2), np.int64), np.empty(64), 0
    for x in range(n):
        n_touched = 0
        for p in range(indptr[x], indptr[x + 1]):
            row[terms[p]] = weights[p]
            for q in range(starts[terms[p]], ends[terms[p]]):
                y = rows[q]
                if sums[y] == 0:
                    touched[n_touched] = y
                    n_touched += 1
                sums[y] += weights[p] * stored[q]
        for i in range(n_touched):
            y = touched[i]
            total = sums[y]
            sums[y] = 0
            for p in range(indptr[y], left_out[y]):
                total += row[terms[p]] * weights[p]
            if total >= threshold - _SLACK:
                if found == len(products):
                    more, longer = np.empty((2 * found, 2), np.int64), np.empty(2 * found)
                    more[:found], longer[:found] = pairs, products
                    pairs, products = more, longer
                pairs[found, 0], pairs[found, 1], products[found] = x, y, total
                found += 1
        bound = 0.0
        left_out[x] = indptr[x + 1]
        for p in range(indptr[x], indptr[x + 1]):
            row[terms[p]] = 0
            bound += weights[p] * largest[terms[p]]
            if bound >= threshold - _SLACK:
                left_out[x] = min(left_out[x], p)
                rows[ends[terms[p]]], stored[ends[terms[p]]] = x, weights[p]
                ends[terms[p]] += 1
    return pairs[:found], products[:found]
