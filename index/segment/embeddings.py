"""Dense vectors of a segment's documents, in 8 bits, in document order.

embeddings.arrow   vector, scale    mapped, in batches of 65,536

A similarity is an integer sum times both scales, so it doesn't depend on where a document is stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.dense import LEVELS, DenseRows
from lsr.errors import CorruptIndex
from lsr.index.kernels.inner_product import inner_products
from lsr.index.storage.arrow_file import RESTORE, ArrowFile, damage

EMBEDDINGS_FILE = "embeddings.arrow"
_BATCH = 1 << 16


def _schema(width: int) -> pa.Schema:
    vector = pa.list_(pa.field("item", pa.int8(), nullable=False), width)
    return pa.schema([pa.field("vector", vector, nullable=False), pa.field("scale", pa.float32(), nullable=False)])


class EmbeddingsWriter:
    """Writes dense vectors in document order.

    Args:
        folder: The segment's folder.
        width: Dimensions of a vector.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self._schema = _schema(width)
        self._file = pa.ipc.new_file(str(folder / EMBEDDINGS_FILE), self._schema)
        self._waiting: list[DenseRows] = []
        self._n_waiting = 0

    def write(self, vectors: DenseRows) -> None:
        """Append vectors."""
        self._waiting.append(vectors)
        self._n_waiting += len(vectors)
        if self._n_waiting >= _BATCH:
            self._flush(self._n_waiting - self._n_waiting % _BATCH)

    def _flush(self, n: int) -> None:
        together = DenseRows.concat(self._waiting)
        for start in range(0, n, _BATCH):
            part = together[start : min(start + _BATCH, n)]
            vectors = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(part.rows).reshape(-1)), type=self._schema.field("vector").type
            )
            columns = [vectors, pa.array(np.ascontiguousarray(part.scales))]
            self._file.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._waiting = [together[n:]]
        self._n_waiting -= n

    def close(self) -> None:
        """Write the remaining vectors."""
        if self._n_waiting:
            self._flush(self._n_waiting)
        self._file.close()


class Embeddings:
    """Reads the file of EmbeddingsWriter.

    Attributes:
        width: Dimensions of a vector.
        source: The file, which a merge hashes before reading.

    Args:
        folder: The segment's folder.
        n_docs: Number of documents in the segment.
        width: As above.

    Raises:
        CorruptIndex: The file is damaged, or doesn't fit the documents.
    """

    def __init__(self, folder: Path, n_docs: int, width: int) -> None:
        self.width = width
        self.source = ArrowFile(folder / EMBEDDINGS_FILE, _schema(width))
        self._parts: list[DenseRows] = []
        for number in range(self.source.n_batches):
            batch = self.source.batch(number)
            with damage(self.source.path, "vectors can't be read"):
                rows = batch.column(0).flatten().to_numpy(zero_copy_only=True).reshape(-1, width)
                self._parts.append(DenseRows(rows, batch.column(1).to_numpy(zero_copy_only=True)))
        sizes = [len(part) for part in self._parts]
        if sum(sizes) != n_docs or any(size != _BATCH for size in sizes[:-1]):
            raise CorruptIndex(f"{self.source.path}: {sum(sizes)} vectors for {n_docs} documents; {RESTORE}")

    def similarities(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n_docs,) float32: the dot products of the documents' vectors with the query's vector.

        Args:
            query: (width,) float32; for unit vectors, the products are cosines.
        """
        integers, scale = _as_integers(query)
        found = [np.empty(0, np.float32)]
        for part in self._parts:
            sums = np.empty(len(part), np.int32)
            inner_products(part.rows, integers, sums)
            found.append((sums * (part.scales.astype(np.float64) * scale)).astype(np.float32))
        return np.concatenate(found)

    def similarity(self, doc: int, query: NDArray[np.float32]) -> float:
        """Return the dot product of one document's vector with a query, exactly as in `similarities`."""
        integers, scale = _as_integers(query)
        one = self.rows(doc, doc + 1)
        return float(np.float32(int(one.rows[0].astype(np.int64) @ integers) * (float(one.scales[0]) * scale)))

    def rows(self, first: int, end: int) -> DenseRows:
        """Return the vectors of documents first..end (at least one document)."""
        numbers = range(first // _BATCH, -(-end // _BATCH))
        together = DenseRows.concat([self._parts[i] for i in numbers])
        return together[first % _BATCH :][: end - first]


def _as_integers(query: NDArray[np.float32]) -> tuple[NDArray[np.int16], float]:
    """Convert a query to integers, as large as 32-bit inner products with 8-bit vectors allow; return the unit, too."""
    most = min(2**15 - 1, (2**31 - 1) // (LEVELS + 1) // max(len(query), 1))
    largest = float(np.abs(query).max(initial=0)) or 1.0
    return np.rint(query * (most / largest)).astype(np.int16), largest / most
