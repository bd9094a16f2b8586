"""Hybrid search: several rankings of the same documents made into one.

    hybrid = Hybrid(index)                               # of a hybrid encoder: its learned terms, and BM25's
    hybrid = Hybrid(index, dense=dense_of(index, "vectors", embed), method="interpolation", weights={"dense": 0.5})
    hits = hybrid.search("a question", k=10, where={"lang": "en"})

Of an index whose encoder is a `HybridEncoder` the two halves of the vectors are searched one by one. Their sum, with
the weight that the index was built with, is what `Index.search` itself gives, exactly and in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lsr.encode.hybrid import HybridEncoder
from lsr.runs import Run
from lsr.sparse import SparseMatrix

from .dense import DenseVectors, Embed, Nearest
from .filters import Filter, Where, as_filter
from .fusion import RRF_K, Normalization, interpolate, reciprocal_rank_fusion
from .hits import Hit
from .query_side import checked_k
from .reader import Reader
from .snapshot import Snapshot

Method = Literal["rrf", "interpolation"]


def dense_of(index: Reader, path: str | PathLike[str], embed: Embed, **settings: Any) -> DenseVectors:
    """Dense vectors of all documents of an index, of passages each; call it again when documents have changed.

    Args:
        index: What holds the texts.
        path: The folder of the vectors.
        embed: Texts to (n, dimensions) numbers.
        settings: Of `DenseVectors.build`: similarity, graph.
    """
    index = index.pinned()
    names = [part.entry["name"] for part in index.snapshot.parts]
    return DenseVectors.build(path, index.contents(), embed, segments=names, **settings)


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
        checked_k(k)
        index = self._index.pinned()
        names = [str(number) for number in range(len(queries))]
        runs = self._rankings(index, dict(zip(names, queries, strict=True)), max(k, self._depth), settings)
        fused = self.fuse(runs)
        vectors = index.query_vectors(list(queries))
        return [index.hits(vectors[i], dict(islice(fused[name].items(), k))) for i, name in enumerate(names)]

    def rankings(self, queries: Mapping[str, str], depth: int | None = None, **settings: Any) -> dict[str, Run]:
        """The run of each part.

        Args:
            queries: {query id: text}.
            depth: Documents of each ranking; by default that of the constructor.
            settings: As of `search`.
        """
        return self._rankings(self._index.pinned(), queries, depth or self._depth, settings)

    def _rankings(
        self, index: Reader, queries: Mapping[str, str], depth: int, settings: Mapping[str, Any]
    ) -> dict[str, Run]:
        ids, texts = list(queries), list(queries.values())
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a query of a hybrid search is a text, got {type(text).__name__}")
        found: dict[str, Run] = {}
        for name, vectors in _sparse(index, texts):
            rows = index.search_batch(vectors, depth, **settings)
            found[name] = {q: {hit.id: hit.score for hit in hits} for q, hits in zip(ids, rows, strict=True)}
        if self._dense is not None:
            snapshot = index.snapshot
            among = _among(self._dense, snapshot, settings.get("where"))
            nearest = self._dense.rankings(texts, rows=among)
            found["dense"] = {
                query: _near(self._dense, snapshot, best, depth) for query, best in zip(ids, nearest, strict=True)
            }
        return found

    def fuse(self, rankings: Mapping[str, Run]) -> Run:
        """One run of those of the parts, as the weights say."""
        named = [name for name in self.parts if self.weights[name]] or list(self.parts)
        runs, weights = [rankings[name] for name in named], [self.weights[name] for name in named]
        if self._method == "rrf":
            return reciprocal_rank_fusion(runs, k=self._rrf_k, weights=weights)
        return interpolate(runs, weights=weights, normalization=self._normalization)


def _among(dense: DenseVectors, snapshot: Snapshot, where: Where | Filter | None) -> NDArray[np.int64] | None:
    """(n,) ascending, the vectors of the documents that a filter lets be found; None for all."""
    if where is None:
        return None
    allowed, first = snapshot.documents.allowed(as_filter(where)), 0
    rows = [np.empty(0, np.int64)]
    for part in snapshot.parts:
        here = allowed[first : first + len(part.documents)]
        first += len(here)
        mine = dense.rows_of(part.documents)[here if part.alive is None else here & part.alive]
        rows.append(mine[mine >= 0])
    return np.sort(np.concatenate(rows))


def _near(dense: DenseVectors, snapshot: Snapshot, nearest: Nearest, depth: int) -> dict[str, float]:
    """The documents of the `depth` nearest vectors that are there still, with the very texts that were embedded."""
    documents, wanted = snapshot.documents, depth
    while True:
        rows, scores = nearest(wanted)
        docs = documents.find_all(dense.ids(rows))
        kept: list[tuple[int, float]] = []
        for row, doc, score in zip(rows.tolist(), docs.tolist(), scores.tolist(), strict=True):
            if doc >= 0 and len(kept) < depth and _is_current(dense, snapshot, row, doc):
                kept.append((doc, score))
        if len(kept) == depth or len(rows) < wanted:
            break
        wanted *= 4
    best: dict[str, float] = {}
    for doc, score in kept:
        best.setdefault(documents.parent(doc) or documents.id(doc), score)
    return best


def _is_current(dense: DenseVectors, snapshot: Snapshot, row: int, doc: int) -> bool:
    """Whether a vector was made of the text that a document has now."""
    number, _ = snapshot.searcher.locate(doc)
    if snapshot.parts[number].entry["name"] in dense.segments:  # segments never change
        return True
    return dense.is_of(row, snapshot.documents.content(doc))


def _sparse(index: Reader, texts: list[str]) -> Iterator[tuple[str, SparseMatrix]]:
    """The vectors of each sparse part."""
    vectors, encoder = index.query_vectors(texts), index.encoder
    if isinstance(encoder, HybridEncoder):
        yield from zip(("learned", "lexical"), encoder.halves(vectors), strict=True)
    else:
        yield "sparse", vectors
