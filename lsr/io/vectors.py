"""Vectors: documents and their weights in batches, with what is known about the encoder that made them.

Files of them: lsr.io.vectors_parquet, lsr.io.jsonl, lsr.io.opensearch, lsr.io.ciff; lsr.io.open_vectors opens any.
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

BATCH = 4096  # rows handed out together
BEYOND_FLOAT32 = float(np.finfo(np.float32).max) * (1 + 2**-25)  # what is below rounds to a finite float32


@dataclass(frozen=True)
class VectorBatch:
    """Some documents and their vectors, row for row.

    Attributes:
        documents: Record batch of lsr.io.document.DOCUMENT_SCHEMA.
        vectors: One row per document.
        dense: Dense vectors of them, if there are any.
    """

    documents: pa.RecordBatch
    vectors: SparseMatrix
    dense: DenseRows | None = None

    @property
    def ids(self) -> list[str]:
        """The documents' ids."""
        return list(self.documents.column("id").to_pylist())


class Vectors:
    """Vectors in a file, in batches, with what is known about the encoder that made them.

    Iterate as often as you like. For JSONL and CIFF the vocabulary grows while reading and is whole after the first
    pass.

    Attributes:
        name: What messages call it.
        fingerprint: Of the encoder; empty where the file doesn't tell.
        vocabulary: Token of each term, or None.
        encoder_files: File name -> content, what encoding a query takes; empty where the file doesn't hold it.
        bad: Messages about lines that were skipped, of the latest pass.
        count: Number of vectors, or None where that isn't known before reading.
        step: What all weights are whole multiples of, as those of 8-bit impacts are; None where that isn't known.
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
        """Size of the vocabulary, as far as it is known."""
        return max(self._n_terms, len(self.vocabulary or ()))

    def __iter__(self) -> Iterator[VectorBatch]:
        self.bad = []
        return self._read(self)


# --- reading ------------------------------------------------------------------------------------------------------


def decimals(weights: NDArray[np.float32]) -> list[float]:
    """(n,) weights as the shortest decimals that read back as the same float32."""
    return [float(str(weight)) for weight in weights]


def matrix_batches(matrix: SparseMatrix, ids: Sequence[str] | None = None) -> Iterator[VectorBatch]:
    """A matrix in batches with ids, which are the row numbers unless given.

    Raises:
        ValueError: Not as many ids as rows.
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
