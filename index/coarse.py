"""Search in two steps, after BiDR (arXiv 2201.05409): a small index of each document's heaviest terms finds candidates,
which are then ranked by their exact vectors.

    coarse = CoarseIndex.build("two-step", matrix, ids=ids, terms=32)
    coarse.search(query, k=10, candidates=100)

The index stores weights in 8 bits. The exact vectors, sparse or dense, are memory-mapped, and a search reads only the
vectors of its candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.arrays import Layout, read_arrays, require_starts, write_arrays
from lsr.errors import DataError
from lsr.index.index import Index
from lsr.sparse import SparseMatrix

_KIND, _COARSE, _EXACT = "exact vectors", "coarse", "exact.arrow"
_IDS: Layout = {"ids": (1, "uint8"), "id_starts": (1, "int64")}  # ids in UTF-8, and where each id begins
_SPARSE: Layout = {**_IDS, "starts": (1, "int64"), "terms": (1, "uint32"), "weights": (1, "float32")}
_DENSE: Layout = {**_IDS, "vectors": (2, "float32")}


class CoarseIndex:
    """An index of cut vectors, and the exact vectors of its documents. To change it, build it again.

    Attributes:
        path: The folder.
        coarse: The index of the cut vectors; its ids are row numbers.
        dense_width: Dimensions of the exact vectors if they are dense; 0 if they are sparse.

    Args:
        path: A folder written by `build`.

    Raises:
        DataError: The exact vectors are missing or damaged.
        CorruptIndex: The index is damaged.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.coarse = Index.open(self.path / _COARSE)
        file, n = self.path / _EXACT, len(self.coarse)
        self._arrays = read_arrays(file, _KIND, _SPARSE, _DENSE)
        vectors = self._arrays.get("vectors")
        self.dense_width = 0 if vectors is None else vectors.shape[1]
        if vectors is None:
            require_starts(file, self._arrays["starts"], n, self._arrays["terms"], self._arrays["weights"])
        elif len(vectors) != n or not self.dense_width:
            raise DataError(f"damaged: vectors {vectors.shape} of {n} documents", str(file))
        require_starts(file, self._arrays["id_starts"], n, self._arrays["ids"])

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        vectors: SparseMatrix,
        *,
        ids: Sequence[str] | None = None,
        terms: int = 32,
        factors: ArrayLike | None = None,
        dense: NDArray[np.float32] | None = None,
        overwrite: bool = False,
    ) -> CoarseIndex:
        """Write the coarse index and the exact vectors.

        Args:
            path: The folder.
            vectors: (n_docs, n_terms), the documents' sparse vectors.
            ids: The documents' ids; by default their row numbers.
            terms: Number of terms of each document that the coarse index keeps: those with the largest products of
                weight and factor.
            factors: (n_terms,) query weight of each term, from `Encoder.query_factors`; by default 1.
            dense: (n_docs, width) float32, a dense model's vectors, which rank candidates instead of `vectors`.
            overwrite: Replace an existing index.

        Raises:
            OutputExists: The folder contains a coarse index or something else.
            OutputError: The folder can't be written.
            ValueError: `terms` is below 1, or ids or dense vectors don't match the documents.
        """
        names = [str(i) for i in range(len(vectors))] if ids is None else list(ids)
        shape = (len(names), 1) if dense is None else dense.shape
        if terms < 1 or len(names) != len(vectors) or len(shape) != 2 or shape[0] != len(names) or not shape[1]:
            raise ValueError(
                f"terms must be at least 1, and each document needs an id and a vector: terms {terms}, {len(names)} "
                f"ids, {vectors}, dense {None if dense is None else dense.shape}"
            )
        folder = Path(path).absolute()
        given = np.ones(vectors.shape[1]) if factors is None else np.asarray(factors, np.float64)
        if overwrite:  # so that a process killed halfway doesn't leave the old vectors beside the new index
            (folder / _EXACT).unlink(missing_ok=True)
        Index.build(folder / _COARSE, cut(vectors, terms, given), overwrite=overwrite)
        encoded = [name.encode() for name in names]
        starts = np.concatenate(([0], np.cumsum([len(name) for name in encoded], dtype=np.int64)))
        arrays: dict[str, NDArray[Any]] = {"ids": np.frombuffer(b"".join(encoded), np.uint8), "id_starts": starts}
        if dense is None:
            arrays |= {"starts": vectors.indptr, "terms": vectors.indices, "weights": vectors.data}
        else:
            arrays |= {"vectors": np.asarray(dense, np.float32)}
        write_arrays(folder / _EXACT, _KIND, arrays)
        return cls(folder)

    def __len__(self) -> int:
        return len(self.coarse)

    @property
    def coarse_bytes(self) -> int:
        """Size of the coarse index in bytes."""
        return sum(self.coarse.file_sizes().values())

    @property
    def exact_bytes(self) -> int:
        """Size of the exact vectors in bytes."""
        return sum(self._arrays[name].nbytes for name in self._arrays if name not in _IDS)

    def search(
        self, query: SparseMatrix, k: int = 10, *, candidates: int = 100, dense: ArrayLike | None = None
    ) -> list[tuple[str, float]]:
        """Find candidates in the coarse index, and rank them by their exact vectors.

        Args:
            query: The query's sparse vector, a matrix of one row.
            k: Maximum number of documents.
            candidates: Number of documents that the coarse index finds.
            dense: (width,) the query's dense vector, if the exact vectors are dense; else None.

        Returns:
            At most k pairs (id, exact score), by descending score; ties in the order of the coarse search.

        Raises:
            ValueError: `dense` is missing, is given for sparse vectors, or has another width.
        """
        vector = None if dense is None else np.asarray(dense, np.float32)
        if (vector is None) != (self.dense_width == 0) or (vector is not None and vector.shape != (self.dense_width,)):
            raise ValueError(f"the exact vectors have {self.dense_width or 'no'} dense dimensions, got {dense!r:.60}")
        hits = self.coarse.search(query, max(k, candidates))
        rows = [int(hit.id) for hit in hits]
        scores = self._sparse_scores(query, rows) if vector is None else self._arrays["vectors"][rows] @ vector
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self._id(rows[i]), float(scores[i])) for i in best]

    def _sparse_scores(self, query: SparseMatrix, rows: list[int]) -> NDArray[np.float32]:
        weights = query.to_dense()[0]
        starts, found = self._arrays["starts"], np.zeros(len(rows), np.float32)
        for i, row in enumerate(rows):
            some = slice(int(starts[row]), int(starts[row + 1]))
            terms = self._arrays["terms"][some]
            known = terms < len(weights)
            found[i] = weights[terms[known]] @ self._arrays["weights"][some][known]
        return found

    def _id(self, row: int) -> str:
        starts = self._arrays["id_starts"]
        return bytes(self._arrays["ids"][starts[row] : starts[row + 1]]).decode(errors="replace")


def cut(vectors: SparseMatrix, terms: int, factors: NDArray[np.float64]) -> SparseMatrix:
    """Keep the terms of each row that have the largest products of weight and factor; weights stay unchanged.

    Args:
        vectors: (n_docs, n_terms).
        terms: Terms kept per row.
        factors: (n_terms,) float64.
    """
    worth = np.maximum(vectors.data * factors[vectors.indices], 1e-30)
    ranked = SparseMatrix(vectors.indptr, vectors.indices, np.float32(worth), vectors.shape, check=False).top_k(terms)
    # `top_k` keeps the order within rows, so a binary search by (row, term) finds the original weights.
    keys = vectors.row_numbers() * vectors.shape[1] + vectors.indices
    kept = np.searchsorted(keys, ranked.row_numbers() * vectors.shape[1] + ranked.indices)
    return SparseMatrix(ranked.indptr, ranked.indices, vectors.data[kept], vectors.shape, check=False)
