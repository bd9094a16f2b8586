"""A query made ready for scoring: known terms, weights as integers."""

from __future__ import annotations

import math

import numpy as np

from .jit import kernel


@kernel
def keep_known(used, table, terms, weights, ranks, kept):
    """Keep those of a query's terms that occur in an index.

    Args:
        used: (n_used,) uint32, ascending.
        table: (n,) int32, of each term its place in `used`, -1 for those that don't occur; or empty, then the terms are
            searched for.
        terms: (n,) uint32, ascending.
        weights: (n,) float32.
        ranks: (n,) int64, written: the places of the terms in `used`.
        kept: (n,) float64, written: their weights.

    Returns:
        How many there are.
    """
    found = 0
    for i in range(len(terms)):
        if len(table):
            at = np.int64(table[terms[i]]) if terms[i] < len(table) else -1
        else:
            at = np.searchsorted(used, terms[i])
            if at == len(used) or used[at] != terms[i]:
                at = -1
        if at >= 0:
            ranks[found] = at
            kept[found] = weights[i]
            found += 1
    return found


@kernel
def to_integers(weights, largest_sum, out):
    """Weights as integers of at least 1 whose sum is at most `largest_sum`; see lsr.index.quantize.

    Args:
        weights: (n,) float64 above zero, n below largest_sum.
        largest_sum: int64.
        out: (n,) int32, written.

    Returns:
        What they were multiplied with, a power of two.
    """
    total = 0.0
    for weight in weights:
        total += weight
    _, exponent = math.frexp((largest_sum - len(weights)) / total)
    factor = 2.0 ** (exponent - 1)  # the largest power of two that is not above the quotient
    for i in range(len(weights)):
        out[i] = max(1, np.int64(np.rint(weights[i] * factor)))
    return factor
