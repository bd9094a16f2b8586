"""Sparse vectors as dense arrays of one width (densified lexical representations, arXiv 2112.04666).

The vocabulary is cut into M slices. In each slice a vector keeps only its heaviest term, as a weight and the term's
place within the slice. The score is the gated inner product,

    sum over slices m of  value_m(q) value_m(d) [place_m(q) = place_m(d)]

A vector keeps one term per slice, so `Slices.coloured` groups terms that are seldom heavy in the same document. The
gated inner product equals the inner product of the sparse vectors that `Slices.keep` returns.

    slices = Slices.coloured(documents, 768)
    densified = DensifiedVectors.of(documents, slices, dense=embeddings)
    best = densified.search(queries, 10, dense=query_embeddings)
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.arrays import Layout, read_arrays, write_arrays
from lsr.errors import DataError
from lsr.sparse import SparseMatrix

FIRST_WORD = 570  # id of the first word in BERT's vocabulary; smaller ids are unused tokens and punctuation
_SAMPLE = 4000  # documents from which slices are coloured
_FULLEST = 1.6  # terms of the fullest slice, relative to the average
_BALANCE = 0.01  # cost of a full slice, as a share of the term's total weight
CANDIDATES = 10_000  # documents scored again after a search without light query terms
_KIND = "densified vectors"
_LAYOUT: Layout = {"of_term": (1, "int32"), "values": (2, "float16"), "which": (2, "uint8", "uint16")}
_WITH_DENSE: Layout = {**_LAYOUT, "dense": (2, "float32")}


@dataclass(frozen=True)
class Slices:
    """The slice of each term.

    Attributes:
        of_term: (n_terms,) int32, -1 for terms that are left out.
        count: Number of slices.
    """

    of_term: NDArray[np.int32]
    count: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.of_term.ndim != 1:
            raise ValueError(
                f"slices need a count of at least 1 and a number for each term, got {self.count} and "
                f"{self.of_term.shape}"
            )
        if len(self.of_term) and not -1 <= self.of_term.min() <= self.of_term.max() < self.count:
            raise ValueError(f"slices are numbered 0 to {self.count - 1}, -1 for none")

    @classmethod
    def striped(cls, n_terms: int, count: int = 768, first: int = FIRST_WORD) -> Slices:
        """Put every count-th term into one slice, as in the paper; terms before `first` are left out."""
        terms = np.arange(n_terms)
        return cls(np.where(terms < first, -1, (terms - first) % count).astype(np.int32), count)

    @classmethod
    def random(cls, n_terms: int, count: int = 768, seed: int = 0) -> Slices:
        """Terms shuffled into slices of equal size."""
        shuffled = np.empty(n_terms, np.int32)
        shuffled[np.random.default_rng(seed).permutation(n_terms)] = np.arange(n_terms) % count
        return cls(shuffled, count)

    @classmethod
    def coloured(cls, documents: SparseMatrix, count: int = 768) -> Slices:
        """Slices whose terms seldom occur together.

        Terms are placed by descending total weight, each in the slice that loses the least. The loss is a sum over the
        documents with the term: the smaller of the term's weight and the slice's heaviest weight so far. This takes a
        few seconds.

        Args:
            documents: Documents of the collection; if there are more than 4,000, a sample of them is used.
            count: Number of slices.
        """
        rows = np.arange(len(documents))
        if len(rows) > _SAMPLE:
            rows = np.sort(np.random.default_rng(0).choice(len(rows), _SAMPLE, replace=False))
        some = documents[rows]
        n_terms = documents.shape[1]
        totals = np.bincount(some.indices, weights=some.data, minlength=n_terms)
        order = np.argsort(some.indices, kind="stable")
        holders, weights = some.row_numbers()[order], some.data[order]
        starts = np.searchsorted(some.indices[order], np.arange(n_terms + 1))
        present = np.flatnonzero(totals > 0)
        room = int(np.ceil(_FULLEST * max(len(present), 1) / count))
        heaviest = np.zeros((len(some), count), np.float32)
        sizes, of_term = np.zeros(count, np.int64), np.full(n_terms, -1, np.int32)
        for term in present[np.argsort(-totals[present], kind="stable")].tolist():
            docs, own = holders[starts[term] : starts[term + 1]], weights[starts[term] : starts[term + 1]]
            lost = np.minimum(heaviest[docs], own[:, None]).sum(0) + _BALANCE * totals[term] * sizes / room
            lost[sizes >= room] = np.inf
            best = int(lost.argmin())
            of_term[term] = best
            sizes[best] += 1
            heaviest[docs, best] = np.maximum(heaviest[docs, best], own)
        rest = np.flatnonzero(of_term < 0)
        of_term[rest] = np.argsort(sizes, kind="stable")[np.arange(len(rest)) % count]
        return cls(of_term, count)

    def keep(self, vectors: SparseMatrix) -> SparseMatrix:
        """Keep only the heaviest term of each slice; among equally heavy terms, the first."""
        if vectors.shape[1] > len(self.of_term):
            vectors = vectors.within(len(self.of_term))
        rows, slices = vectors.row_numbers(), self.of_term[vectors.indices]
        order = np.lexsort((vectors.indices, -vectors.data, slices, rows))
        rows, slices = rows[order], slices[order]
        first = np.ones(len(order), bool)
        first[1:] = (rows[1:] != rows[:-1]) | (slices[1:] != slices[:-1])
        kept = np.sort(order[first & (slices >= 0)])
        indptr = np.searchsorted(kept, vectors.indptr)
        return SparseMatrix(indptr, vectors.indices[kept], vectors.data[kept], vectors.shape, check=False)

    def places(self) -> NDArray[np.uint16]:
        """(n_terms,) uint16, the place of each term within its slice.

        Raises:
            ValueError: A slice has more than 65,536 terms.
        """
        order = np.argsort(self.of_term, kind="stable")
        sizes = np.bincount(self.of_term + 1, minlength=self.count + 1)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        if sizes[1:].max(initial=0) > 1 << 16:
            raise ValueError(f"a slice has {sizes[1:].max()} terms, at most 65,536 fit: take more slices")
        return np.where(self.of_term < 0, 0, places).astype(np.uint16)


class DensifiedVectors:
    """Documents as dense arrays.

    Attributes:
        slices: The slices.
        values: (M, n_docs) float16, the heaviest weight of each slice; 0 for none.
        which: (M, n_docs) uint8, or uint16 for large slices: the place of that term within its slice.
        dense: (n_docs, width) float32, vectors of a dense model, or None.
    """

    def __init__(
        self,
        slices: Slices,
        values: NDArray[np.float16],
        which: NDArray[np.uint8] | NDArray[np.uint16],
        dense: NDArray[np.float32] | None = None,
    ) -> None:
        if values.shape != which.shape or values.ndim != 2 or len(values) != slices.count:
            raise ValueError(f"{slices.count} slices, values of {values.shape} and places of {which.shape}")
        if dense is not None and (dense.ndim != 2 or len(dense) != values.shape[1]):
            raise ValueError(f"dense vectors of shape {dense.shape} for {values.shape[1]} documents")
        self.slices, self.values, self.which, self.dense = slices, values, which, dense
        self._places = slices.places()

    @classmethod
    def of(cls, documents: SparseMatrix, slices: Slices, dense: NDArray[np.float32] | None = None) -> DensifiedVectors:
        """Densify documents.

        Args:
            documents: Any sparse vectors.
            slices: The slices of their terms.
            dense: (n_docs, width) float32, vectors of a dense model, which are also scored.
        """
        kept, places = slices.keep(documents), slices.places()
        shape = (slices.count, len(documents))
        values = np.zeros(shape, np.float16)
        which = np.zeros(shape, np.uint8 if places.max(initial=0) < 256 else np.uint16)
        at = slices.of_term[kept.indices], kept.row_numbers()
        values[at], which[at] = kept.data, places[kept.indices]
        return cls(slices, values, which, dense)

    def __len__(self) -> int:
        return int(self.values.shape[1])

    @property
    def bytes_per_document(self) -> int:
        """Bytes per document, without its dense vector."""
        return self.slices.count * (self.values.itemsize + self.which.itemsize)

    def scores(
        self, queries: SparseMatrix, *, dense: NDArray[np.float32] | None = None, dense_weight: float = 1.0
    ) -> NDArray[np.float32]:
        """(n_queries, n_docs) float32, gated inner products plus `dense_weight` times the dense inner products.

        Args:
            queries: Queries as sparse vectors.
            dense: (n_queries, width) float32, their dense vectors.
            dense_weight: Weight of the dense scores.
        """
        rows = [self._lexical(terms, weights, 0.0) for terms, weights in self.slices.keep(queries).rows()]
        found = np.stack(rows) if rows else np.zeros((0, len(self)), np.float32)
        return found if dense is None else found + self._dense(dense, queries, dense_weight)

    def search(
        self,
        queries: SparseMatrix,
        k: int = 10,
        *,
        threshold: float = 0.0,
        candidates: int = CANDIDATES,
        dense: NDArray[np.float32] | None = None,
        dense_weight: float = 1.0,
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The k best documents of each query.

        Args:
            queries: Queries as sparse vectors.
            k: Largest number of documents.
            threshold: Query terms of at most this weight are left out at first; then the best candidates are scored
                with all terms. 0 is exact.
            candidates: Number of documents scored with all terms.
            dense: As for `scores`.
            dense_weight: As for `scores`.

        Returns:
            For each query the documents' numbers, (n,) int64, and scores, (n,) float32, descending; ties by number.
        """
        if k < 1 or candidates < 1 or threshold < 0:
            raise ValueError(
                f"k and candidates must be at least 1, threshold at least 0, got {k}, {candidates} and {threshold}"
            )
        near = None if dense is None else self._dense(dense, queries, dense_weight)
        found = []
        for number, (terms, weights) in enumerate(self.slices.keep(queries).rows()):
            scores = self._lexical(terms, weights, threshold)
            scores = scores if near is None else scores + near[number]
            if threshold:
                some = np.sort(_first(scores, max(k, candidates)))
                rest = self._lexical(terms, weights, 0.0, some)
                scores = rest if near is None else rest + near[number, some]
            best = _first(scores, k)
            found.append((some[best] if threshold else best, scores[best]))
        return found

    def _lexical(
        self,
        terms: NDArray[np.uint32],
        weights: NDArray[np.float32],
        threshold: float,
        docs: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """(n,) float32, gated inner products of some documents with a query that has at most one term per slice."""
        scores = np.zeros(len(self) if docs is None else len(docs), np.float32)
        for term, weight in zip(terms.tolist(), weights.tolist(), strict=True):
            if weight > threshold:
                at = self.slices.of_term[term]
                which, values = self.which[at], self.values[at]
                if docs is not None:
                    which, values = which[docs], values[docs]
                hit = np.flatnonzero(which == self._places[term])
                scores[hit] += np.float32(weight) * values[hit].astype(np.float32)
        return scores

    def _dense(self, dense: NDArray[np.float32], queries: SparseMatrix, weight: float) -> NDArray[np.float32]:
        if self.dense is None:
            raise ValueError("these documents have no dense vectors")
        if dense.shape != (len(queries), self.dense.shape[1]):
            raise ValueError(f"{len(queries)} dense vectors of {self.dense.shape[1]} numbers are needed")
        return np.asarray(np.float32(weight) * (dense @ self.dense.T), np.float32)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write one Arrow file.

        Raises:
            OutputError: The file can't be written.
        """
        arrays: dict[str, NDArray[Any]] = {"of_term": self.slices.of_term, "values": self.values, "which": self.which}
        write_arrays(path, _KIND, arrays if self.dense is None else {**arrays, "dense": self.dense})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> DensifiedVectors:
        """Open a file written by `save`; it is memory-mapped.

        Raises:
            DataError: The file can't be read, is damaged, or is another kind of file.
        """
        arrays = read_arrays(path, _KIND, _LAYOUT, _WITH_DENSE)
        try:
            slices = Slices(arrays["of_term"], len(arrays["values"]))
            return cls(slices, arrays["values"], arrays["which"], arrays.get("dense"))
        except ValueError as error:
            raise DataError(f"damaged: {error}", str(path)) from None


def _first(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The positions of the k largest scores, descending; ties by position."""
    found = np.arange(len(scores))
    if k < len(found):
        found = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return found[np.argsort(-scores[found], kind="stable")][:k]
