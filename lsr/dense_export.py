"""Convert sparse vectors to dense ones, for programs that only store dense vectors.

    export = DenseExport.fit(documents, 768)               # sparse vectors of some documents
    export.documents(documents), export.queries(queries)   # (n, 768) float32; inner products approximate the scores

The projection is a truncated singular value decomposition of the documents' vectors, as in latent semantic indexing.
Before the decomposition, each term is scaled by the square root of its query weight, so that rare terms matter more.
The inner product of concatenated vectors is the sum of the parts' inner products, so one vector can also hold a hybrid
of several models (SPAR, arXiv 2110.06918): see `beside`.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.arrays import Layout, read_arrays, write_arrays
from lsr.errors import DataError
from lsr.sparse import SparseMatrix

_ROWS = 512  # documents multiplied per batch
_MORE = 32  # extra directions (oversampling), for accuracy
_ROUNDS = 2  # power iterations
_FEWEST = 2  # documents in which a term must occur
_KIND = "a dense export"
_LAYOUT: Layout = {"directions": (2, "float32"), "scale": (1, "float32")}


class DenseExport:
    """A projection of sparse vectors to dense ones.

    Attributes:
        directions: (n_terms, width) float32.
        scale: (n_terms,) float32. Document weights are multiplied by it, and query weights divided by it; 0 for terms
            that are left out.
    """

    def __init__(self, directions: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
        if directions.ndim != 2 or scale.shape != directions.shape[:1]:
            raise ValueError(f"directions of shape {directions.shape} and a scale of {scale.shape}")
        self.directions, self.scale = directions, scale

    @classmethod
    def fit(
        cls, documents: SparseMatrix, width: int = 768, *, factors: ArrayLike | None = None, seed: int = 0
    ) -> DenseExport:
        """Find the directions.

        Args:
            documents: (n, n_terms), documents of the collection.
            width: Dimensions of a vector.
            factors: (n_terms,) query weight of each term, as `Encoder.query_factors` returns it, such as IDF for BM25;
                by default 1 for all.
            seed: Seed of the random start.

        Raises:
            ValueError: There are no documents, or the width is below 1.
        """
        if width < 1 or not documents.nnz:
            raise ValueError(f"a width of at least 1 and documents with terms are needed: {width}, {documents}")
        n_terms = documents.shape[1]
        given = np.ones(n_terms) if factors is None else np.asarray(factors, np.float64)
        scale = np.sqrt(np.maximum(given, 0))
        counts = np.bincount(documents.indices, minlength=n_terms)
        scale[counts < min(_FEWEST, len(documents))] = 0
        scaled = _scaled(documents, scale.astype(np.float32))
        used, places = np.unique(scaled.indices[scaled.data > 0], return_inverse=True)  # only these are decomposed
        kept = np.concatenate(([0], np.cumsum(scaled.data > 0)))[scaled.indptr]
        data = scaled.data[scaled.data > 0]
        scaled = SparseMatrix(kept, places, data, (len(scaled), max(len(used), 1)), check=False)
        size = min(width + _MORE, *scaled.shape)
        start = np.random.default_rng(seed).standard_normal((scaled.shape[1], size)).astype(np.float32)
        found = np.linalg.qr(start)[0]
        for _ in range(_ROUNDS):  # subspace iteration on X^T X, which is never computed
            found = np.linalg.qr(_gram(scaled, found))[0]
        values, turned = np.linalg.eigh(found.T @ _gram(scaled, found))
        best = np.argsort(-values, kind="stable")[:width]
        directions = np.zeros((n_terms, width), np.float32)
        directions[used, : len(best)] = (found @ turned[:, best])[: len(used)]
        return cls(directions, scale.astype(np.float32))

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self.directions.shape[1])

    def documents(self, vectors: SparseMatrix) -> NDArray[np.float32]:
        """(n, width) float32, vectors of documents."""
        return _times(_scaled(self._known(vectors), self.scale), self.directions)

    def queries(self, vectors: SparseMatrix) -> NDArray[np.float32]:
        """(n, width) float32, vectors of queries."""
        inverse = np.divide(1, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)
        return _times(_scaled(self._known(vectors), inverse), self.directions)

    def embed(self, encode: Callable[[list[str]], SparseMatrix], *, queries: bool = False) -> Any:
        """Return a function from texts to dense vectors, for `build_dense` and vector databases.

        Args:
            encode: `encoder.encode_document`, or `encoder.encode_query`.
            queries: Whether the texts are queries.
        """
        project = self.queries if queries else self.documents
        return lambda texts: project(encode(list(texts)))

    def _known(self, vectors: SparseMatrix) -> SparseMatrix:
        """The vectors without terms that are newer than the projection."""
        return vectors.within(len(self.scale)) if vectors.shape[1] > len(self.scale) else vectors

    def save(self, path: str | PathLike[str]) -> None:
        """Write one Arrow file.

        Raises:
            OutputError: The file can't be written.
        """
        write_arrays(path, _KIND, {"directions": self.directions, "scale": self.scale})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> DenseExport:
        """Open a file written by `save`; it is memory-mapped.

        Raises:
            DataError: The file can't be read, is damaged, or is another kind of file.
        """
        arrays = read_arrays(path, _KIND, _LAYOUT)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise DataError("damaged: numbers that aren't finite", str(path))
        try:
            return cls(arrays["directions"], arrays["scale"])
        except ValueError as error:
            raise DataError(f"damaged: {error}", str(path)) from None


def beside(*parts: NDArray[np.float32], weights: ArrayLike | None = None) -> NDArray[np.float32]:
    """Concatenate several dense vectors of the same texts to (n, sum of widths) float32; their inner products add up.

    Args:
        parts: (n, width) each.
        weights: Weight of each part. Give weights only for queries, or only for documents.

    Raises:
        ValueError: The parts differ in their number of rows, or there isn't one weight for each part.
    """
    factors = np.ones(len(parts)) if weights is None else np.asarray(weights, np.float64)
    if len({len(part) for part in parts}) != 1 or factors.shape != (len(parts),):
        raise ValueError(f"parts of {[part.shape for part in parts]} and weights of {factors.shape} don't fit")
    return np.concatenate([part * np.float32(w) for part, w in zip(parts, factors, strict=True)], axis=1)


def _scaled(vectors: SparseMatrix, scale: NDArray[np.float32]) -> SparseMatrix:
    return SparseMatrix(
        vectors.indptr, vectors.indices, vectors.data * scale[vectors.indices], vectors.shape, check=False
    )


def _times(vectors: SparseMatrix, directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, width) float32, the product."""
    found = np.zeros((len(vectors), directions.shape[1]), np.float32)
    for first in range(0, len(vectors), _ROWS):
        some = vectors[first : first + _ROWS]
        terms, at = np.unique(some.indices, return_inverse=True)
        dense = np.zeros((len(some), len(terms)), np.float32)
        dense[some.row_numbers(), at] = some.data
        found[first : first + _ROWS] = dense @ directions[terms]
    return found


def _gram(vectors: SparseMatrix, directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n_terms, width) float32, X^T X times the directions."""
    found = np.zeros_like(directions)
    for first in range(0, len(vectors), _ROWS):
        some = vectors[first : first + _ROWS]
        terms, at = np.unique(some.indices, return_inverse=True)
        dense = np.zeros((len(some), len(terms)), np.float32)
        dense[some.row_numbers(), at] = some.data
        found[terms] += dense.T @ (dense @ directions[terms])
    return found
