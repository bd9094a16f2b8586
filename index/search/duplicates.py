"""Near-duplicates: all pairs of documents whose vectors have at least a given cosine, computed exactly."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.index.kernels.self_join import similar_pairs
from lsr.index.search.snapshot import Snapshot
from lsr.sparse import SparseMatrix


@dataclass(frozen=True)
class Duplicate:
    """Two near-duplicate documents, or passages of two documents.

    Attributes:
        id: Id of the document (or passage) that was added later.
        of: Id of the document (or passage) that was added earlier.
        similarity: The cosine of their vectors, at most 1.
    """

    id: str
    of: str
    similarity: float


def duplicates(
    snapshot: Snapshot,
    threshold: float,
    compared: Callable[[SparseMatrix], SparseMatrix],
    allowed: NDArray[np.bool_] | None = None,
) -> list[Duplicate]:
    """Return all pairs of near-duplicates.

    Args:
        snapshot: The snapshot; all its vectors are loaded into memory.
        threshold: The minimum cosine, above 0 and at most 1. Because of rounding, a pair's cosine may be lower by 1e-9.
        compared: Weights vectors so that the dot product of two is their similarity.
        allowed: (n_docs,) bool, true for documents to compare; None for all.

    Returns:
        Pairs by descending similarity; ties in the order in which documents were added.

    Raises:
        ValueError: The threshold is out of range.
        CorruptIndex: A file has changed since it was written.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a number above 0 and at most 1, got {threshold!r}")
    docs, matrix = _vectors(snapshot, allowed)
    matrix = compared(matrix)
    counts = np.bincount(matrix.indices[matrix.data > 0], minlength=matrix.shape[1])
    labels = np.empty(len(counts), np.int64)
    labels[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    indptr, terms, weights = _normalized(matrix, labels)
    in_order = np.bincount(terms, minlength=len(counts)).astype(np.int64)
    pairs, products = similar_pairs(indptr, terms, weights, in_order, float(threshold))
    documents, found = snapshot.documents, []
    later, earlier = docs[pairs[:, 0]], docs[pairs[:, 1]]
    for i in np.lexsort((earlier, later, -products)).tolist():
        one, other = int(later[i]), int(earlier[i])
        if (parent := documents.parent(one)) is None or parent != documents.parent(other):
            found.append(Duplicate(documents.id(one), documents.id(other), min(1.0, float(products[i]))))
    return found


def _vectors(snapshot: Snapshot, allowed: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], SparseMatrix]:
    """Return the numbers of the live and allowed documents, ascending, and their vectors."""
    n_terms = max((part.n_terms for part in snapshot.parts), default=1)
    matrices, numbers = [SparseMatrix.empty(n_terms)], np.fromiter(snapshot.documents.numbers(), np.int64)
    with tempfile.TemporaryDirectory(prefix="lsr-duplicates-") as folder:
        for part in snapshot.parts:
            scale = np.float32(part.segment.scale)
            for batch in part.batches(Path(folder), n_terms):
                rows = batch.vectors
                matrices.append(SparseMatrix(rows.indptr, rows.indices, rows.data * scale, rows.shape, check=False))
    matrix = SparseMatrix.vstack(matrices)
    if allowed is None:
        return numbers, matrix
    kept = np.flatnonzero(allowed[numbers])
    return numbers[kept], matrix[kept]


def _normalized(matrix: SparseMatrix, labels: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Scale rows to length 1 and order their terms by label; return indptr, labels and weights."""
    terms, weights = labels[matrix.indices], matrix.data.astype(np.float64)
    rows = np.repeat(np.arange(len(matrix)), matrix.lengths())
    there = weights > 0
    terms, weights, rows = terms[there], weights[there], rows[there]
    norms = np.sqrt(np.bincount(rows, weights=weights**2, minlength=len(matrix)))
    order = np.lexsort((terms, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))]).astype(np.int64)
    return indptr, terms[order], (weights / norms[rows])[order]
