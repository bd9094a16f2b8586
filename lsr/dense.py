"""Dense vectors in 8 bits: integers from -127 to 127, and a scale for each vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 127


@dataclass(frozen=True)
class DenseRows:
    """Dense vectors; row i is `scales[i] * rows[i]`.

    Attributes:
        rows: (n, width) int8.
        scales: (n,) float32.
    """

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> DenseRows:
        """Round (n, width) float vectors to 8 bits; the error of each number is at most half a scale."""
        largest = np.abs(vectors).max(1, initial=0).astype(np.float32)
        scales = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LEVELS)
        return cls(np.rint(vectors / scales[:, None]).astype(np.int8), scales)

    @classmethod
    def concat(cls, parts: Sequence[DenseRows]) -> DenseRows:
        """Concatenate at least one part."""
        return cls(np.concatenate([part.rows for part in parts]), np.concatenate([part.scales for part in parts]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> DenseRows:
        """Select rows by a slice, a mask or row numbers."""
        return DenseRows(self.rows[which], self.scales[which])

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self.rows.shape[1])
