"""SparseMatrix: rows of (term, weight), the output of encoders and the input of indexes.

It is a CSR matrix with fixed dtypes. Every matrix is canonical: the terms of a row ascend without repeats, and weights
are finite and above zero. The constructor checks this, so other code can rely on it. lsr.io reads and writes files of
matrices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr._moved import moved_function
from lsr.notebook import html_table

if TYPE_CHECKING:
    from typing import Self

MAX_TERMS = 2**31
_SHOWN_ROWS, _SHOWN_TERMS = 5, 8  # in a notebook
MOST_SHIFT = 60  # weights of a matrix may differ by a factor of up to 2^60
# One document in _LOUD may exceed the quantization scale if that makes the scale finer by more than the factor _WORTH.
_LOUD, _WORTH = 64, 4.0
_DENSE_TERMS = 1 << 22  # up to this vocabulary size, `dot` uses a dense row; above it, binary search


class SparseMatrix:
    """Sparse rows over a vocabulary.

    Attributes:
        indptr: (n_rows + 1,) int64, row i occupies `indptr[i]:indptr[i + 1]`.
        indices: (nnz,) uint32, term ids, ascending within a row.
        data: (nnz,) float32, weights, finite and > 0.
        shape: (n_rows, n_terms).

    Args:
        indptr: Row boundaries.
        indices: Term ids; unsorted rows are sorted.
        data: Weights; zeros are dropped.
        shape: (n_rows, n_terms), n_terms at most 2^31.
        check: False skips all checks; only for arrays that are canonical already.

    Raises:
        ValueError: Boundaries are invalid, a term is outside the vocabulary or twice in a row, or a weight is negative,
            infinite or not a number. The message names the first bad row.
    """

    __slots__ = ("data", "indices", "indptr", "shape")

    def __init__(
        self,
        indptr: ArrayLike,
        indices: ArrayLike,
        data: ArrayLike,
        shape: tuple[int, int],
        *,
        check: bool = True,
    ) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        if check:
            self.indptr, self.indices, self.data = _canonical(indptr, indices, data, self.shape)
        else:
            self.indptr = np.asarray(indptr, dtype=np.int64)
            self.indices = np.asarray(indices, dtype=np.uint32)
            self.data = np.asarray(data, dtype=np.float32)

    # --- made from -------------------------------------------------------------------------------------------------

    @classmethod
    def from_dicts(cls, rows: Iterable[Mapping[int, float]], n_terms: int) -> Self:
        """Build from one {term: weight} mapping per row.

        Examples:
            >>> matrix = SparseMatrix.from_dicts([{2: 0.5, 0: 1.5}, {}], n_terms=4)
            >>> matrix.shape, matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
            ((2, 4), [0, 2, 2], [0, 2], [1.5, 0.5])
        """
        indptr: list[int] = [0]
        indices: list[int] = []
        data: list[float] = []
        for row in rows:
            indices.extend(row.keys())
            data.extend(row.values())
            indptr.append(len(indices))
        return cls(indptr, indices, data, (len(indptr) - 1, n_terms))

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[ArrayLike, ArrayLike]], n_terms: int) -> Self:
        """Build from one (terms, weights) pair of arrays per row."""
        pairs = [(np.atleast_1d(terms), np.atleast_1d(weights)) for terms, weights in rows]
        for i, (terms, weights) in enumerate(pairs):
            if terms.shape != weights.shape:
                raise ValueError(f"row {i}: term ids have shape {terms.shape}, but weights {weights.shape}")
        indptr = np.cumsum([0] + [len(terms) for terms, _ in pairs])
        filled = [pair for pair in pairs if len(pair[0])]  # numpy makes an empty list a float array
        indices: ArrayLike = np.concatenate([terms for terms, _ in filled]) if filled else []
        data: ArrayLike = np.concatenate([weights for _, weights in filled]) if filled else []
        return cls(indptr, indices, data, (len(pairs), n_terms))

    @classmethod
    def from_dense(cls, array: ArrayLike) -> Self:
        """Build from an (n_rows, n_terms) array without its zeros."""
        dense = np.atleast_2d(np.asarray(array))
        rows, terms = np.nonzero(dense)
        indptr = np.searchsorted(rows, np.arange(dense.shape[0] + 1))
        return cls(indptr, terms, dense[rows, terms], (dense.shape[0], dense.shape[1]))

    @classmethod
    def from_scipy(cls, matrix: Any) -> Self:
        """Build from any scipy.sparse matrix or array; duplicate entries are summed, as in scipy."""
        csr = matrix.tocsr().copy()
        csr.sum_duplicates()
        return cls(csr.indptr, csr.indices, csr.data, csr.shape)

    @classmethod
    def empty(cls, n_terms: int) -> Self:
        """A matrix without rows."""
        return cls([0], np.empty(0, np.uint32), np.empty(0, np.float32), (0, n_terms))

    @classmethod
    def vstack(cls, matrices: Sequence[SparseMatrix]) -> Self:
        """Concatenate the rows of matrices; the result has the largest vocabulary.

        Raises:
            ValueError: There is no matrix.
        """
        if not matrices:
            raise ValueError("vstack needs at least one matrix")
        starts = np.cumsum([0] + [m.nnz for m in matrices])
        indptr = np.concatenate([[0]] + [m.indptr[1:] + start for m, start in zip(matrices, starts, strict=False)])
        return cls(
            indptr,
            np.concatenate([m.indices for m in matrices]),
            np.concatenate([m.data for m in matrices]),
            (sum(len(m) for m in matrices), max(m.shape[1] for m in matrices)),
            check=False,
        )

    def to_scipy(self) -> Any:
        """Convert to scipy.sparse.csr_array (needs scipy)."""
        from scipy.sparse import csr_array

        return csr_array((self.data, self.indices.astype(np.int64), self.indptr), shape=self.shape)

    def to_dense(self) -> NDArray[np.float32]:
        """Convert to an (n_rows, n_terms) float32 array."""
        dense = np.zeros(self.shape, np.float32)
        dense[self.row_numbers(), self.indices] = self.data
        return dense

    # --- read ------------------------------------------------------------------------------------------------------

    @property
    def nnz(self) -> int:
        """Number of stored weights."""
        return int(self.indices.shape[0])

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, i: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Terms and weights of one row, as views."""
        a, b = self.indptr[i], self.indptr[i + 1]
        return self.indices[a:b], self.data[a:b]

    def rows(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.float32]]]:
        """Terms and weights row by row, as views."""
        for i in range(len(self)):
            yield self.row(i)

    def lengths(self) -> NDArray[np.int64]:
        """(n_rows,) int64, the number of terms of each row."""
        return np.diff(self.indptr)

    def largest(self) -> NDArray[np.float32]:
        """(n_rows,) float32, the largest weight of each row; 0 for rows without terms."""
        filled, largest = self.lengths() > 0, np.zeros(len(self), np.float32)
        if self.nnz:
            largest[filled] = np.maximum.reduceat(self.data, self.indptr[:-1][filled])
        return largest

    def row_numbers(self) -> NDArray[np.int64]:
        """(nnz,) int64, the row of each stored weight."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths())

    def __getitem__(self, key: int | slice | ArrayLike) -> SparseMatrix:
        """Select rows by number, slice, list of numbers or boolean mask; returns a matrix, with views for slices."""
        if isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(len(self))
            stop = max(start, stop)
            a, b = self.indptr[start], self.indptr[stop]
            indptr = self.indptr[start : stop + 1] - a
            shape = (stop - start, self.shape[1])
            return SparseMatrix(indptr, self.indices[a:b], self.data[a:b], shape, check=False)
        picked = key if isinstance(key, slice) else np.asarray(key)
        if not isinstance(picked, slice) and not picked.size:
            picked = picked.astype(np.int64)  # numpy makes an empty list a float array
        numbers = np.atleast_1d(np.arange(len(self))[picked])
        lengths = self.lengths()[numbers]
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        at = np.arange(indptr[-1]) + np.repeat(self.indptr[numbers] - indptr[:-1], lengths)
        return SparseMatrix(indptr, self.indices[at], self.data[at], (len(numbers), self.shape[1]), check=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseMatrix):
            return NotImplemented
        return (
            self.shape == other.shape
            and np.array_equal(self.indptr, other.indptr)
            and np.array_equal(self.indices, other.indices)
            and np.array_equal(self.data, other.data)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SparseMatrix({self.shape[0]} x {self.shape[1]}, {self.nnz} weights)"

    def to_dicts(self, vocabulary: Sequence[str] | None = None) -> list[dict[Any, float]]:
        """Each row as {term: weight}, or {token: weight} with the vocabulary's tokens."""
        names = range(self.shape[1]) if vocabulary is None else vocabulary
        return [
            {names[term]: weight for term, weight in zip(terms.tolist(), weights.tolist(), strict=True)}
            for terms, weights in self.rows()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Shape and arrays as lists for JSON; the arguments of `SparseMatrix`."""
        arrays = {name: getattr(self, name).tolist() for name in ("indptr", "indices", "data")}
        return arrays | {"shape": list(self.shape)}

    def _repr_html_(self) -> str:
        """The first rows with their heaviest terms."""
        rows = [("row", "weights", "heaviest terms")]
        for number, (terms, weights) in enumerate(self[:_SHOWN_ROWS].rows()):
            best = np.argsort(-weights, kind="stable")[:_SHOWN_TERMS]
            shown = ", ".join(f"{terms[i]}: {weights[i]:.3f}" for i in best)
            rows.append((str(number), str(len(terms)), shown + (", …" if len(terms) > _SHOWN_TERMS else "")))
        return html_table(rows, repr(self))

    # --- compute ---------------------------------------------------------------------------------------------------

    def top_k(self, k: int) -> SparseMatrix:
        """Keep the k heaviest terms of each row; equal weights are ordered by term id."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if self.nnz == 0 or self.lengths().max() <= k:
            return self
        rows = self.row_numbers()
        order = np.lexsort((self.indices, -self.data, rows))
        rank = np.arange(self.nnz) - self.indptr[rows]  # rank within the row: `order` keeps rows together
        keep = np.zeros(self.nnz, bool)
        keep[order[rank < k]] = True
        return self._masked(keep)

    def prune(self, max_ratio: float) -> SparseMatrix:
        """Keep the weights that are at least `max_ratio` times the largest of their row."""
        if not 0.0 <= max_ratio <= 1.0:
            raise ValueError(f"max_ratio must lie between 0 and 1, got {max_ratio}")
        return self._masked(self.data >= np.float32(max_ratio) * self.largest()[self.row_numbers()])

    def within(self, n_terms: int) -> SparseMatrix:
        """Drop weights of terms from `n_terms` on, and set the vocabulary size to `n_terms`."""
        kept = self._masked(self.indices < n_terms)
        return SparseMatrix(kept.indptr, kept.indices, kept.data, (len(self), n_terms), check=False)

    def beyond(self, n_terms: int) -> SparseMatrix:
        """Drop weights of the first `n_terms` terms; term ids stay the same."""
        return self._masked(self.indices >= n_terms)

    def dot(self, other: SparseMatrix) -> NDArray[np.float64]:
        """Inner products of all rows with all rows of `other`, (n_rows, n_other) float64.

        Products are summed in float64, over terms in ascending order. This method is the reference for search.
        """
        rows = self.row_numbers()
        n_terms = max(self.shape[1], other.shape[1])
        scores = np.zeros((len(self), len(other)))
        for j, (terms, weights) in enumerate(other.rows()):
            if n_terms <= _DENSE_TERMS:
                dense = np.zeros(n_terms)
                dense[terms] = weights
                products = dense[self.indices] * self.data
            else:
                at = np.minimum(np.searchsorted(terms, self.indices), max(len(terms) - 1, 0))
                found = terms[at] == self.indices if len(terms) else np.zeros(self.nnz, bool)
                products = np.where(found, weights[at].astype(np.float64) * self.data if len(terms) else 0, 0)
            scores[:, j] = np.bincount(rows, weights=products, minlength=len(self))
        return scores

    def expected_overlap(self, other: SparseMatrix) -> float:
        """The mean number of terms that a row of this matrix and a row of `other` share: sum_j p_j p'_j.

        p_j is the share of rows in which term j is active. Between queries and documents, this is the "FLOPS" that
        papers report for learned sparse models (arXiv 2004.05665). It is 0 if either matrix has no rows.
        """
        if not (len(self) and len(other)):
            return 0.0
        terms, counts = self._occurrences()
        other_terms, other_counts = other._occurrences()
        _, at, other_at = np.intersect1d(terms, other_terms, assume_unique=True, return_indices=True)
        shared = counts[at].astype(np.float64) @ other_counts[other_at].astype(np.float64)
        return float(shared / (len(self) * len(other)))

    def _occurrences(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The terms that occur, ascending, and the number of rows with each of them."""
        if self.shape[1] > _DENSE_TERMS:
            terms, counts = np.unique(self.indices, return_counts=True)
            return terms.astype(np.int64), counts.astype(np.int64)
        counts = np.bincount(self.indices, minlength=1)
        return np.flatnonzero(counts), counts[counts > 0]

    def _masked(self, keep: NDArray[np.bool_]) -> SparseMatrix:
        kept = np.concatenate(([0], np.cumsum(keep)))
        return SparseMatrix(kept[self.indptr], self.indices[keep], self.data[keep], self.shape, check=False)

    # --- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str], ids: Sequence[str] | None = None) -> None:
        """Deprecated: `lsr.save_matrix(path, matrix, ids)`."""
        moved_function("SparseMatrix.save", "lsr.io.vectors_parquet", "save_matrix")(path, self, ids)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SparseMatrix:
        """Deprecated: `lsr.load_matrix(path)`."""
        matrix = moved_function("SparseMatrix.load", "lsr.io.open_vectors", "load_matrix")(path)
        assert isinstance(matrix, SparseMatrix)
        return matrix


def usual_largest(largest: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> float:
    """The largest weight that a quantization scale must cover, leaving out a few documents with far larger weights.

    Args:
        largest: (n,) the largest weight of each document; 0 for documents without terms.
        rows: (n,) the number of documents that each entry stands for; 1 by default.
    """
    order = np.argsort(largest)[::-1]
    order = order[largest[order] > 0]
    if not len(order):
        return 0.0
    above = np.arange(1, len(order) + 1) if rows is None else np.cumsum(rows[order])
    top, usual = float(largest[order[0]]), float(largest[order[np.searchsorted(above, above[-1] // _LOUD, "right")]])
    return max(usual, top / 2.0**MOST_SHIFT) if top > _WORTH * usual else top


def _canonical(
    indptr: ArrayLike, indices: ArrayLike, data: ArrayLike, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32]]:
    """Check, sort and clean the three arrays of a matrix; see SparseMatrix for what is refused."""
    n_rows, n_terms = shape
    ptr = np.asarray(indptr, dtype=np.int64)
    terms = np.asarray(indices)
    with np.errstate(over="ignore"):  # a weight beyond float32 becomes infinite and is refused below
        weights = np.asarray(data, dtype=np.float32)
    if n_rows < 0:
        raise ValueError(f"a matrix of {n_rows} rows")
    if not 0 <= n_terms <= MAX_TERMS:
        raise ValueError(f"a vocabulary holds 0 to 2^31 terms, got {n_terms}")
    if terms.size == 0:
        terms = terms.astype(np.uint32)
    if terms.dtype.kind not in "iu":
        raise ValueError(f"term ids must be integers, got {terms.dtype}")
    if ptr.shape != (n_rows + 1,) or ptr[0] != 0 or ptr[-1] != len(terms) or (np.diff(ptr) < 0).any():
        raise ValueError(f"indptr doesn't divide {len(terms)} weights into {n_rows} rows")
    if weights.shape != terms.shape or terms.ndim != 1:
        raise ValueError(f"term ids have shape {terms.shape}, but weights {weights.shape}")

    def first_bad(bad: NDArray[np.bool_]) -> tuple[int, int]:
        at = int(np.argmax(bad))
        return at, int(np.searchsorted(ptr, at, side="right")) - 1

    bad = ~np.isfinite(weights) | (weights < 0)
    if bad.any():
        at, row = first_bad(bad)
        weight = np.asarray(data)[at]  # the given value: in `weights`, a value beyond float32 is infinite
        raise ValueError(f"row {row}: weight {weight} of term {terms[at]}; weights are finite and not negative")
    bad = (terms < 0) | (terms >= n_terms)
    if bad.any():
        at, row = first_bad(bad)
        raise ValueError(f"row {row}: term {terms[at]} is outside the vocabulary of {n_terms} terms")
    ids = terms.astype(np.uint32)

    def descents() -> NDArray[np.bool_]:
        falls = np.zeros(len(ids), bool)
        falls[1:] = ids[1:] <= ids[:-1]
        falls[ptr[:-1][ptr[:-1] < len(ids)]] = False  # a row's first term has no predecessor
        return falls

    if descents().any():
        rows = np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(ptr))
        order = np.lexsort((ids, rows))
        ids, weights = ids[order], weights[order]
        doubled = descents()
        if doubled.any():
            at, row = first_bad(doubled)
            raise ValueError(f"row {row}: term {ids[at]} occurs twice")
    keep = weights > 0
    if not keep.all():
        kept = np.concatenate(([0], np.cumsum(keep)))
        return kept[ptr], ids[keep], weights[keep]
    return ptr, np.ascontiguousarray(ids), np.ascontiguousarray(weights)
