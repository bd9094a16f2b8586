"""Inner products of 8-bit vectors with a 16-bit query, in integers: the same on every machine."""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import kernel


@kernel
def inner_products(rows, query, found):
    """Compute the inner product of each row with the query.

    Args:
        rows: (n, width) int8.
        query: (width,) int16, small enough that a sum fits into 32 bits.
        found: (n,) int32, written.
    """
    for i in range(rows.shape[0]):
        total = np.int32(0)
        for j in range(rows.shape[1]):
            total += np.int32(rows[i, j]) * np.int32(query[j])
        found[i] = total
