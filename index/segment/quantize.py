"""Quantize weights to 8-bit impacts, and query weights to integers, so that scores are exact.

Document weights become impacts 1..255 with a scale per segment: weight ~ impact * scale. All segments of an index have
the first segment's scale times a power of two, so scores of different segments can be compared exactly. Impacts are
rounded to the nearest integer, but never to 0, so no document loses a term. The error is at most half a scale, or less
than a scale for weights below half a scale. Whole weights up to 255 are exact.

A document with a weight too large for the segment's scale gets its own scale: the segment's scale times 2^shift, with
the document's own shift. So only this document loses precision. Merging doesn't change the product of a document's
impacts and scale.

Query weights become integers large enough that scores have the precision of float32, and small enough that no sum
overflows int32: sum of weights * 255 < 2^31. If weights differ so much that the smallest would be rounded up too far,
they become whole float64 numbers with sums below 2^53, which are exact, too. So scores don't depend on the order of
addition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.index.kernels.quantize import to_integers

LEVELS = 255
_LARGEST_SUM = (2**31 - 1) // LEVELS
_LARGEST_WIDE = (2**53 - 1) // LEVELS


@dataclass(frozen=True)
class Quantizer:
    """Converts weights to impacts.

    Attributes:
        scale: Weight of one impact step.
        exact: Whether all weights are multiples of the scale.
    """

    scale: float
    exact: bool

    @classmethod
    def of(cls, largest: float, whole: bool, step: float | None = None) -> Quantizer:
        """Build a quantizer for weights up to `largest`.

        Args:
            largest: The largest weight.
            whole: Whether all weights are whole numbers.
            step: Every weight is a multiple of this number; None if unknown.
        """
        if whole and largest <= LEVELS:
            return cls(1.0, True)
        if step and largest <= (LEVELS + 0.5) * step:  # weights are float32
            return cls(step, False)
        return cls(largest / LEVELS if largest > 0 else 1.0, False)

    @classmethod
    def beside(cls, scale: float, largest: float, whole: bool) -> Quantizer:
        """Build a quantizer for documents that are added to others.

        Args:
            scale: The scale of the other documents.
            largest: The largest weight.
            whole: Whether all weights are whole numbers.

        Returns:
            A quantizer with the scale `scale` if the weights fit. Otherwise, its scale is `scale` times the smallest
            power of two with which the weights fit.

        """
        own = cls.of(largest, whole)
        if own.scale == scale or (scale != 1.0 and largest <= LEVELS * scale):
            return cls(scale, own.exact and own.scale == scale)
        return cls(scale * 2.0 ** math.ceil(math.log2(largest / LEVELS / scale)), False)

    @property
    def max_error(self) -> float:
        """Largest difference between a weight and its impact times the scale."""
        return 0.0 if self.exact else self.scale

    def impacts(self, weights: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return (n,) uint8 impacts of (n,) float32 weights above zero."""
        scaled = np.rint(weights.astype(np.float64) / self.scale)
        return np.clip(scaled, 1, LEVELS).astype(np.uint8)


def shifts_of(largest: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """Return (n_docs,) uint8: the smallest shift at which each document's largest weight fits an impact."""
    mantissa, exponent = np.frexp(largest.astype(np.float64) / (scale * (LEVELS + 0.5)))
    shifts: NDArray[np.uint8] = np.maximum(exponent - (mantissa == 0.5), 0).astype(np.uint8)
    return shifts


def weights_of(impacts: NDArray[Any], scale: float) -> NDArray[np.float32]:
    """Return (n,) float32 weights of (n,) impacts above zero; no weight becomes 0, even with a tiny scale."""
    weights = (impacts.astype(np.float64) * scale).astype(np.float32)
    return np.maximum(weights, np.finfo(np.float32).smallest_subnormal)


def query_integers(weights: NDArray[Any]) -> tuple[NDArray[np.int32], float]:
    """Convert a query's weights to integers.

    Args:
        weights: (n,) finite weights above zero.

    Returns:
        (n,) int32 of at least 1 whose sum times 255 is below 2^31; and the factor that weights were multiplied by, a
        power of two.

    Raises:
        ValueError: There are too many terms (over 8 million).
    """
    integers = np.empty(len(weights), np.int32)
    if not len(weights):
        return integers, 1.0
    if len(weights) >= _LARGEST_SUM:
        raise ValueError(f"a query of {len(weights)} terms; at most {_LARGEST_SUM - 1} can be scored exactly")
    return integers, float(to_integers(weights.astype(np.float64), _LARGEST_SUM, integers))


def query_numbers(weights: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Convert query weights for 8-bit impacts: `query_integers`, or whole float64 numbers if they differ too much.

    Args:
        weights: (n,) finite weights above zero.

    Returns:
        (n,) int32, or (n,) whole float64 of at least 1 whose sum times 255 is below 2^53; and the factor that weights
        were multiplied by, a power of two.

    Raises:
        ValueError: As for `query_integers`.
    """
    integers, factor = query_integers(weights)
    if not len(weights) or float(weights.min()) * factor >= 0.5:
        return integers, factor
    wide = weights.astype(np.float64)
    _, exponent = math.frexp((_LARGEST_WIDE - len(wide)) / float(wide.sum()))
    factor = 2.0 ** (exponent - 1)
    return np.maximum(np.rint(wide * factor), 1.0), factor
