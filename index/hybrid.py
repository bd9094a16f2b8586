"""Hybrid search: several rankings of the same documents made into one.

    hybrid = Hybrid(index)                               # of a hybrid encoder: its learned terms, and BM25's
    hybrid = Hybrid(index, dense=dense_of(index, "vectors", embed), method="interpolation", weights={"dense": 0.5})
    hits = hybrid.search("a question", k=10, where={"lang": "en"})

Of an index whose encoder is a `HybridEncoder` the two halves of the vectors are searched one by one. Their sum, with
the weight that the index was built with, is what `Index.search` itself gives, exactly and in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, get_args

from lsr.encode.hybrid import HybridEncoder
from lsr.runs import Run
from lsr.sparse import SparseMatrix

from .dense import DenseVectors, Embed
from .fusion import RRF_K, Normalization, interpolate, reciprocal_rank_fusion
from .hits import Hit
from .reader import Reader

Method = Literal["rrf", "interpolation"]


def dense_of(index: Reader, path: str | PathLike[str], embed: Embed, **settings: Any) -> DenseVectors:
    """Dense vectors of all documents of an index, of passages each; call it again when documents have changed.

    Args:
        index: What holds the texts.
        path: The folder of the vectors.
        embed: Texts to (n, dimensions) numbers.
        settings: Of `DenseVectors.build`: similarity, graph.
    """
    return DenseVectors.build(path, index.contents(), embed, **settings)


class Hybrid:
    """Rankings of one index' documents, fused.

    Attributes:
        parts: Names of the rankings: "learned" and "lexical", or "sparse"; and "dense".
        weights: One for each part.

    Args:
        index: What holds the documents.
        dense: Dense vectors of the same documents.
        method: "rrf" fuses ranks, "interpolation" scores.
        weights: By part; 1 for those that aren't named.
        depth: Documents of each ranking that are fused, at least as many as are wanted.
        normalization: Of scores that are interpolated.
        rrf_k: The constant of "rrf".

    Raises:
        ValueError: Weights of other parts, or negative ones; an unknown method; only one ranking.
    """

    def __init__(
        self,
        index: Reader,
        dense: DenseVectors | None = None,
        *,
        method: Method = "rrf",
        weights: Mapping[str, float] | None = None,
        depth: int = 100,
        normalization: Normalization = "min-max",
        rrf_k: int = RRF_K,
    ) -> None:
        self._index, self._dense, self._method, self._depth = index, dense, method, depth
        self._normalization, self._rrf_k = normalization, rrf_k
        halves = ("learned", "lexical") if isinstance(index.encoder, HybridEncoder) else ("sparse",)
        self.parts: tuple[str, ...] = halves + (("dense",) if dense is not None else ())
        given = dict(weights or {})
        if any(name not in self.parts or not weight >= 0 for name, weight in given.items()):
            raise ValueError(f"weights are numbers of at least 0 for {', '.join(self.parts)}, got {given}")
        if len(self.parts) < 2:
            raise ValueError("there is only one ranking: give dense vectors, or an index of a hybrid encoder")
        if method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
        self.weights = {name: float(given.get(name, 1.0)) for name in self.parts}

    def with_weights(self, weights: Mapping[str, float]) -> Hybrid:
        """The same with other weights."""
        return Hybrid(
            self._index,
            self._dense,
            method=self._method,
            weights=weights,
            depth=self._depth,
            normalization=self._normalization,
            rrf_k=self._rrf_k,
        )

    def search(self, query: str, k: int = 10, **settings: Any) -> list[Hit]:
        """The k best documents; their scores are the fused ones, their explanations those of the sparse vectors.

        Args:
            query: A text.
            k: How many at most.
            settings: Of `Index.search`, for the sparse rankings; its `where` for all.
        """
        return self.search_batch([query], k, **settings)[0]

    def search_batch(self, queries: Sequence[str], k: int = 10, **settings: Any) -> list[list[Hit]]:
        """The k best documents of each query."""
        names = [str(number) for number in range(len(queries))]
        fused = self.fuse(self.rankings(dict(zip(names, queries, strict=True)), max(k, self._depth), **settings))
        vectors = self._index.query_vectors(list(queries))
        found = []
        for number, name in enumerate(names):
            best = self._index.hits(vectors[number], fused[name])
            found.append(best[:k])
        return found

    def rankings(self, queries: Mapping[str, str], depth: int | None = None, **settings: Any) -> dict[str, Run]:
        """The run of each part.

        Args:
            queries: {query id: text}.
            depth: Documents of each ranking; by default that of the constructor.
            settings: As of `search`.
        """
        ids, texts, depth = list(queries), list(queries.values()), depth or self._depth
        found: dict[str, Run] = {}
        for name, vectors in self._sparse(texts):
            rows = self._index.search_batch(vectors, depth, **settings)
            found[name] = {q: {hit.id: hit.score for hit in hits} for q, hits in zip(ids, rows, strict=True)}
        if self._dense is not None:
            parents = self._index.parents(settings.get("where"))  # of what may be found, and is there still
            near = self._dense.search_batch(texts, depth, allowed=parents)
            found["dense"] = {}
            for query, hits_ in zip(ids, near, strict=True):
                best: dict[str, float] = {}
                for hit in hits_:
                    best.setdefault(parents[hit.id], hit.score)
                found["dense"][query] = best
        return found

    def _sparse(self, texts: list[str]) -> Iterator[tuple[str, SparseMatrix]]:
        vectors, encoder = self._index.query_vectors(texts), self._index.encoder
        if isinstance(encoder, HybridEncoder):
            yield from zip(("learned", "lexical"), encoder.halves(vectors), strict=True)
        else:
            yield "sparse", vectors

    def fuse(self, rankings: Mapping[str, Run]) -> Run:
        """One run of those of the parts, as the weights say."""
        named = [name for name in self.parts if self.weights[name]] or list(self.parts)
        runs, weights = [rankings[name] for name in named], [self.weights[name] for name in named]
        if self._method == "rrf":
            return reciprocal_rank_fusion(runs, k=self._rrf_k, weights=weights)
        return interpolate(runs, weights=weights, normalization=self._normalization)
