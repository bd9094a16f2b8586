"""What the processor can do."""

from __future__ import annotations

from functools import cache

from llvmlite.binding import get_host_cpu_features


def adds_bytes_exactly() -> bool:
    """Whether products of 8-bit integers are summed in 32 bits by one instruction (VNNI).

    Other x86 processors have one for 16 bits, where two products can overflow.
    """
    return sums_of_bytes() > 0


@cache
def sums_of_bytes() -> int:
    """How many sums of four byte products an instruction (VNNI) adds to: 16, 8, or 0 where there is none."""
    features = get_host_cpu_features()
    if features.get("avx512vnni", False):
        return 16
    return 8 if features.get("avxvnni", False) else 0
