"""k-means clusters of dense vectors; the vectors of a cluster are stored side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex
from lsr.index.storage.arrow_file import ArrowFile, write_arrow

_ROUNDS = 10
_SAMPLE = 64  # vectors per cluster in the sample that determines the centroids
_AT_ONCE = 1 << 14  # vectors compared with the centroids at a time


@dataclass(frozen=True)
class DenseClusters:
    """Clusters of the rows of a matrix: cluster c has the rows from starts[c] to starts[c + 1].

    Attributes:
        centroids: (n, width) float32, the mean of each cluster's vectors.
        starts: (n + 1,) int64.
    """

    centroids: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], n: int | None = None) -> tuple[DenseClusters, NDArray[np.int64]]:
        """Cluster vectors by k-means.

        Args:
            vectors: (rows, width) float32.
            n: Number of clusters; by default twice the square root of the number of rows.

        Returns:
            The clusters, and the order in which to store the rows: by cluster, and within a cluster as given.
        """
        n = max(1, min(len(vectors), int(2 * len(vectors) ** 0.5) if n is None else n))
        rng = np.random.default_rng(0)
        sample = vectors[np.sort(rng.permutation(len(vectors))[: _SAMPLE * n])]
        centroids = np.array(sample[rng.permutation(len(sample))[:n]], np.float32)
        centroids = centroids if len(centroids) else np.zeros((n, vectors.shape[1]), np.float32)
        for _ in range(_ROUNDS):
            centroids = _means(sample, _nearest(sample, centroids), centroids)
        nearest = _nearest(vectors, centroids)
        order = np.argsort(nearest, kind="stable")
        starts = np.concatenate(([0], np.cumsum(np.bincount(nearest, minlength=n))))
        return cls(_means(vectors, nearest, centroids), starts.astype(np.int64)), order

    def __len__(self) -> int:
        return len(self.centroids)

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) int64: the cluster of each of n rows."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def rows(self, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) int64, ascending: the rows of the given clusters."""
        spans = [np.arange(self.starts[c], self.starts[c + 1]) for c in np.sort(clusters)]
        return np.concatenate([np.empty(0, np.int64), *spans])

    def write(self, path: Path) -> None:
        """Write the clusters to one file."""
        width = self.centroids.shape[1]
        centroids = pa.FixedSizeListArray.from_arrays(pa.array(self.centroids.reshape(-1)), width)
        write_arrow(path, {"centroid": centroids, "end": pa.array(self.starts[1:])})

    @classmethod
    def read(cls, path: Path, width: int, n_rows: int, mend: str) -> DenseClusters:
        """Read the file of `write`.

        Args:
            path: The file.
            width: Dimensions of a vector.
            n_rows: Number of vectors.
            mend: How to repair damage, for messages.

        Raises:
            CorruptIndex: The file is damaged, or belongs to other vectors.
        """
        schema = pa.schema([("centroid", pa.list_(pa.float32(), width)), ("end", pa.int64())])
        batch = ArrowFile(path, schema, mend).batch(0)
        nulls = sum(column.null_count for column in (*batch.columns, batch.column(0).flatten()))
        ends = batch.column(1).to_numpy(zero_copy_only=False)
        starts = np.concatenate(([0], ends)).astype(np.int64)
        if nulls or not len(batch) or (starts[1:] < starts[:-1]).any() or starts[-1] != n_rows:
            raise CorruptIndex(f"{path}: damaged: clusters that don't fit the {n_rows} vectors; {mend}")
        return cls(batch.column(0).flatten().to_numpy().reshape(-1, width), starts)


def _nearest(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return (n,) int64, the nearest centroid of each vector."""
    halves = (centroids**2).sum(1) / 2
    found = [np.empty(0, np.int64)]
    for i in range(0, len(vectors), _AT_ONCE):
        found.append((vectors[i : i + _AT_ONCE] @ centroids.T - halves).argmax(1))
    return np.concatenate(found)


def _means(
    vectors: NDArray[np.float32], nearest: NDArray[np.int64], before: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the mean of each cluster's vectors; a cluster without vectors keeps its row of `before`."""
    order = np.argsort(nearest, kind="stable")
    used, starts = np.unique(nearest[order], return_index=True)
    found = before.copy()
    if len(used):
        sums = np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float32)
        found[used] = sums / np.diff(np.append(starts, len(order)))[:, None]
    return found
