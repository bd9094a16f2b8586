"""Hashes of strings, stable across processes and machines; documents are looked up by the hash of their id."""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.jit import kernel


@kernel
def hash_strings(offsets, content, hashes):
    """Compute 64-bit FNV-1a hashes, and XOR the upper half of each into its lower half.

    Args:
        offsets: (n + 1,) int32 or int64, start of each string, then the end of the last string.
        content: (size,) uint8, the strings' bytes.
        hashes: (n,) uint64, written.
    """
    for i in range(len(hashes)):
        state = np.uint64(14695981039346656037)
        for p in range(offsets[i], offsets[i + 1]):
            state = (state ^ np.uint64(content[p])) * np.uint64(1099511628211)
        hashes[i] = state ^ (state >> np.uint64(32))
