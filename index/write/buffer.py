"""Uncommitted changes: documents in a buffer, and segments with new deletions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.index.search.open_segment import write_alive
from lsr.index.segment.doc_store import Documents
from lsr.index.storage.transaction import Transaction
from lsr.io.vectors import VectorBatch


class PendingSegment:
    """A segment on disk, committed or not, with uncommitted deletions."""

    def __init__(self, entry: dict[str, Any], documents: Documents, alive: NDArray[np.bool_] | None) -> None:
        self.entry, self.documents, self._alive, self.changed = entry, documents, alive, False

    def matches(self, keys: Sequence[str]) -> Iterator[tuple[int, int, str | None]]:
        """Yield documents with given ids, and their passages: position in `keys`, row, and parent."""
        for i, row in self.documents.matches(keys):
            if self.is_alive(row):
                yield i, row, self.documents.parent(row)

    def is_alive(self, row: int) -> bool:
        """Whether a document is live."""
        return self._alive is None or bool(self._alive[row])

    def mark(self, row: int, alive: bool) -> None:
        """Mark a document as deleted or live."""
        if not self.changed:
            self._alive = np.ones(len(self.documents), bool) if self._alive is None else self._alive.copy()
            self.changed = True
        assert self._alive is not None
        self._alive[row] = alive

    def write(self, transaction: Transaction) -> dict[str, Any]:
        """Write the alive bits if they have changed; return the manifest entry."""
        if not self.changed or self._alive is None:
            return self.entry
        path = transaction.alive_file()
        write_alive(path, self._alive)
        return self.entry | {"alive": path.name, "n_alive": int(self._alive.sum())}


class Buffer:
    """Documents in memory."""

    def __init__(self) -> None:
        self._batches: list[VectorBatch] = []
        self._rows: dict[str, list[int]] = {}
        self._parents: list[str | None] = []
        self.alive: list[bool] = []
        self.n_bytes = 0

    def matches(self, keys: Sequence[str]) -> Iterator[tuple[int, int, str | None]]:
        """See `PendingSegment`."""
        for i, key in enumerate(keys):
            for row in self._rows.get(key, ()):
                if self.alive[row]:
                    yield i, row, self._parents[row]

    def mark(self, row: int, alive: bool) -> None:
        """See `PendingSegment`."""
        self.alive[row] = alive

    def append(self, batch: VectorBatch, parents: Sequence[str | None]) -> None:
        """Append documents."""
        for row, (doc_id, parent) in enumerate(zip(batch.ids, parents, strict=True), start=len(self.alive)):
            for key in {doc_id, parent or doc_id}:
                self._rows.setdefault(key, []).append(row)
        self._batches.append(batch)
        self._parents.extend(parents)
        self.alive.extend([True] * len(parents))
        dense = 0 if batch.dense is None else batch.dense.rows.nbytes
        self.n_bytes += batch.documents.nbytes + 8 * batch.vectors.nnz + dense

    def extend(self, other: Buffer) -> None:
        """Append another buffer's documents."""
        n = len(self.alive)
        for key, rows in other._rows.items():
            self._rows.setdefault(key, []).extend(n + row for row in rows)
        self._batches += other._batches
        self._parents += other._parents
        self.alive += other.alive
        self.n_bytes += other.n_bytes

    def batches(self, kept: Sequence[bool]) -> Iterator[VectorBatch]:
        """Yield the documents whose flag in `kept` is true."""
        first = 0
        for batch in self._batches:
            here = np.array(kept[first : first + len(batch.vectors)], bool)
            first += len(here)
            yield batch if here.all() else rows_of(batch, here)


Unit = PendingSegment | Buffer


def rows_of(batch: VectorBatch, kept: NDArray[np.bool_]) -> VectorBatch:
    """Return the rows of a batch whose flag in `kept`, (n,) bool, is true."""
    dense = None if batch.dense is None else batch.dense[kept]
    return VectorBatch(batch.documents.filter(pa.array(kept)), batch.vectors[kept], dense)
