"""Dense vectors in 8 bits: whole numbers of -127 to 127, and a scale for each vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 127


@dataclass(frozen=True)
class DenseRows:
    """Some vectors; row i is `scales[i] * rows[i]`.

    Attributes:
        rows: (n, width) int8.
        scales: (n,) float32.
    """

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> DenseRows:
        """Round vectors, (n, width) float, to 8 bits: each number is off by at most half a scale."""
        largest = np.abs(vectors).max(1, initial=0).astype(np.float32)
        scales = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LEVELS)
        return cls(np.rint(vectors / scales[:, None]).astype(np.int8), scales)

    @classmethod
    def concat(cls, parts: Sequence[DenseRows]) -> DenseRows:
        """Vectors one after the other; at least one part."""
        return cls(np.concatenate([part.rows for part in parts]), np.concatenate([part.scales for part in parts]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> DenseRows:
        """Some of them, by a slice, a mask or numbers."""
        return DenseRows(self.rows[which], self.scales[which])

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.rows.shape[1])
