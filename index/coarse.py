"""Two grains (after BiDR, arXiv 2201.05409): a small index of cut sparse vectors in memory finds candidates, and exact
vectors on disk verify them.

    coarse = CoarseIndex.build("two-grained", matrix, ids=ids, terms=32)
    coarse.search(query, k=10, candidates=100)

The coarse index keeps the heaviest terms of each document in 8 bits; the exact vectors, sparse or dense, are mapped, so
a search reads those of its candidates alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.errors import DataError
from lsr.index.index import Index
from lsr.mapped import open_arrays, require_starts, write_arrays
from lsr.sparse import SparseMatrix

_KIND, _COARSE = "exact vectors", "coarse"
_IDS = {"ids": "1 |u1", "id_starts": "1 <i8"}
_SPARSE = {"starts": "1 <i8", "terms": "1 <u4", "weights": "1 <f4"}
_DENSE = {"vectors": "2 <f4"}


class CoarseIndex:
    """A coarse index and the exact vectors of its documents. It is built as a whole, not changed.

    Attributes:
        coarse: The index of the cut vectors; its ids are row numbers.
        dense_width: Dimensions of exact vectors that are dense; 0 for sparse ones.

    Args:
        path: The folder written by `build`.

    Raises:
        DataError: A file is missing or damaged.
        CorruptIndex: The same, of the index.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.coarse = Index.open(self.path / _COARSE)
        self._arrays, record = open_arrays(self.path, _KIND, _IDS)
        self.dense_width = int(record["dense_width"])
        types = _DENSE if self.dense_width else _SPARSE
        self._arrays |= open_arrays(self.path, _KIND, types)[0]
        if self.dense_width:
            if self._arrays["vectors"].shape != (len(self.coarse), self.dense_width):
                raise DataError("damaged: not one vector for each document", str(self.path))
        else:
            require_starts(self._arrays["starts"], len(self.coarse), len(self._arrays["terms"]), self.path)
            require_starts(np.array([0, len(self._arrays["weights"])]), 1, len(self._arrays["terms"]), self.path)
        self.n_terms = int(record["n_terms"])
        require_starts(self._arrays["id_starts"], len(self.coarse), len(self._arrays["ids"]), self.path)

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
            vectors: (n_docs, n_terms), the documents' vectors.
            ids: The documents' ids; by default their numbers.
            terms: Terms kept of a document in the coarse index.
            factors: (n_terms,) query weight of each term, as `Encoder.query_factors` returns it: a term's weight times
                its factor decides whether it is kept. By default 1.
            dense: (n_docs, width) float32, exact vectors of a dense model instead of the sparse ones.
            overwrite: Replace an existing index.

        Raises:
            OutputExists: The folder has a coarse index, or something else.
            ValueError: `terms` below 1, or not as many ids or dense vectors as documents.
        """
        names = [str(i) for i in range(len(vectors))] if ids is None else list(ids)
        shape = (len(names), 1) if dense is None else dense.shape
        if terms < 1 or len(names) != len(vectors) or len(shape) != 2 or shape[0] != len(names) or not shape[1]:
            raise ValueError(
                f"terms is at least 1, and there is an id and a vector for each document: {terms}, {len(names)} ids, "
                f"{vectors}, dense {None if dense is None else dense.shape}"
            )
        folder = Path(path).absolute()
        given = np.ones(vectors.shape[1]) if factors is None else np.asarray(factors, np.float64)
        Index.build(folder / _COARSE, cut(vectors, terms, given), overwrite=overwrite)
        encoded = [name.encode() for name in names]
        starts = np.concatenate(([0], np.cumsum([len(name) for name in encoded], dtype=np.int64)))
        arrays: dict[str, NDArray[Any]] = {"ids": np.frombuffer(b"".join(encoded), np.uint8), "id_starts": starts}
        if dense is None:
            arrays |= {"starts": vectors.indptr, "terms": vectors.indices, "weights": vectors.data}
        else:
            arrays |= {"vectors": np.asarray(dense, np.float32)}
        width = 0 if dense is None else int(dense.shape[1])
        write_arrays(folder, _KIND, arrays, {"n_terms": vectors.shape[1], "dense_width": width})
        return cls(folder)

    def __len__(self) -> int:
        return len(self.coarse)

    @property
    def coarse_bytes(self) -> int:
        """Size of the coarse index."""
        return sum(self.coarse.file_sizes().values())

    @property
    def exact_bytes(self) -> int:
        """Size of the exact vectors on disk."""
        return sum(self._arrays[name].nbytes for name in self._arrays if name not in _IDS)

    def search(
        self, query: SparseMatrix, k: int = 10, *, candidates: int = 100, dense: ArrayLike | None = None
    ) -> list[tuple[str, float]]:
        """The k best of the coarse index's best documents, by their exact vectors.

        Args:
            query: A matrix of one row.
            k: Number of documents.
            candidates: Documents that are verified.
            dense: (width,) the query's dense vector, if the exact vectors are dense.

        Returns:
            (id, exact score), by descending score; ties in the order of the coarse search.

        Raises:
            ValueError: A dense vector is missing, not needed, or of another width.
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
        lookup = np.zeros(max(self.n_terms, query.shape[1]), np.float32)
        terms, weights = query.row(0)
        lookup[terms] = weights
        starts, found = self._arrays["starts"], np.zeros(len(rows), np.float32)
        for i, row in enumerate(rows):
            some = slice(int(starts[row]), int(starts[row + 1]))
            found[i] = lookup[self._arrays["terms"][some]] @ self._arrays["weights"][some]
        return found

    def _id(self, row: int) -> str:
        starts = self._arrays["id_starts"]
        return bytes(self._arrays["ids"][starts[row] : starts[row + 1]]).decode()


def cut(vectors: SparseMatrix, terms: int, factors: NDArray[np.float64]) -> SparseMatrix:
    """Keep the terms of each row whose weights times factors are the largest; weights stay the same."""
    worth = np.maximum(vectors.data * factors[vectors.indices], 1e-30)
    ranked = SparseMatrix(vectors.indptr, vectors.indices, np.float32(worth), vectors.shape, check=False).top_k(terms)
    # `top_k` keeps the order within rows, so positions of kept terms are found by (row, term).
    keys = vectors.row_numbers() * vectors.shape[1] + vectors.indices
    kept = np.searchsorted(keys, ranked.row_numbers() * vectors.shape[1] + ranked.indices)
    return SparseMatrix(ranked.indptr, ranked.indices, vectors.data[kept], vectors.shape, check=False)
