"""Query weights as integers, for exact scores."""

from __future__ import annotations

import math

import numpy as np

from lsr.index.kernels.jit import kernel


@kernel
def to_integers(weights, largest_sum, out):
    """Convert weights to integers of at least 1 whose sum is at most `largest_sum`; see lsr.index.segment.quantize.

    Args:
        weights: (n,) float64 above zero, n below largest_sum.
        largest_sum: int64.
        out: (n,) int32, written.

    Returns:
        The factor that the weights were multiplied by, a power of two.
    """
    total = 0.0
    for weight in weights:
        total += weight
    _, exponent = math.frexp((largest_sum - len(weights)) / total)
    factor = 2.0 ** (exponent - 1)  # the largest power of two up to the quotient
    for i in range(len(weights)):
        out[i] = max(1, np.int64(np.rint(weights[i] * factor)))
    return factor
