"""Features of the processor."""

from __future__ import annotations

from functools import cache

from llvmlite.binding import get_host_cpu_features


def adds_bytes_exactly() -> bool:
    """Whether 8-bit products are summed exactly, in 32 bits (VNNI).

    Other x86 processors sum two products in 16 bits, which can overflow.
    """
    return sums_of_bytes() > 0


@cache
def sums_of_bytes() -> int:
    """Number of sums (of four products of bytes each) that one VNNI instruction computes: 16 or 8; 0 without VNNI."""
    features = get_host_cpu_features()
    if features.get("avx512vnni", False):
        return 16
    return 8 if features.get("avxvnni", False) else 0
