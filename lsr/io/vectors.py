"""Vectors: documents and their weights in batches, with the encoder's metadata.

The file formats are in lsr.io.vectors_parquet, lsr.io.jsonl, lsr.io.opensearch and lsr.io.ciff; lsr.io.open_vectors
opens files of any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.dense import DenseRows
from lsr.fingerprint import Fingerprint
from lsr.io.document import Document, document_batch, id_text
from lsr.sparse import SparseMatrix

BATCH = 4096  # rows of a batch
BEYOND_FLOAT32 = float(np.finfo(np.float32).max) * (1 + 2**-25)  # numbers below it round to a finite float32


@dataclass(frozen=True)
class VectorBatch:
    """Documents and their vectors, row by row.

    Attributes:
        documents: Record batch of lsr.io.document.DOCUMENT_SCHEMA.
        vectors: One row per document.
        dense: The documents' dense vectors, or None.
    """

    documents: pa.RecordBatch
    vectors: SparseMatrix
    dense: DenseRows | None = None

    @property
    def ids(self) -> list[str]:
        """The documents' ids."""
        return list(self.documents.column("id").to_pylist())


class Vectors:
    """Vectors in a file, in batches, with the encoder's metadata.

    `Vectors` can be iterated several times. For JSONL and CIFF, the vocabulary grows while reading and is complete
    after the first pass.

    Attributes:
        name: Name in messages.
        fingerprint: The encoder's fingerprint; empty if the file has none.
        vocabulary: Token of each term, or None.
        encoder_files: {file name: content} of the query encoder; empty if the file has none.
        bad: Messages about lines that the latest pass skipped.
        count: Number of vectors; None if unknown before reading.
        step: Every weight is a multiple of this number, as with 8-bit impacts; None if unknown.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[Vectors], Iterator[VectorBatch]],
        *,
        fingerprint: Fingerprint | None = None,
        vocabulary: list[str] | None = None,
        n_terms: int = 0,
        encoder_files: Mapping[str, bytes] | None = None,
        count: int | None = None,
        step: float | None = None,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint or Fingerprint()
        self.vocabulary = vocabulary
        self.encoder_files = dict(encoder_files or {})
        self.bad: list[str] = []
        self.count = count
        self.step = step
        self._n_terms = n_terms
        self._read = read

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary so far."""
        return max(self._n_terms, len(self.vocabulary or ()))

    def __iter__(self) -> Iterator[VectorBatch]:
        self.bad = []
        return self._read(self)


# --- reading ------------------------------------------------------------------------------------------------------


def decimals(weights: NDArray[np.float32]) -> list[float]:
    """(n,) weights as the shortest decimals that give the same float32."""
    return [float(str(weight)) for weight in weights]


def matrix_batches(matrix: SparseMatrix, ids: Sequence[str] | None = None) -> Iterator[VectorBatch]:
    """Yield a matrix in batches with ids, by default the row numbers.

    Raises:
        ValueError: The numbers of ids and rows differ, or an id is empty.
    """
    ids = None if ids is None else list(ids)
    if ids is not None and len(ids) != len(matrix):
        raise ValueError(f"{len(matrix)} rows but {len(ids)} ids")
    for doc_id in () if ids is None else ids:
        if not id_text(doc_id):
            raise ValueError(f"an id must be a string that is not empty, got {doc_id!r}")
    for start in range(0, len(matrix), BATCH):
        part = matrix[start : start + BATCH]
        numbers = range(start, start + len(part))
        documents = [Document(str(i if ids is None else ids[i]), "") for i in numbers]
        yield VectorBatch(document_batch(documents, with_text=False), part)
