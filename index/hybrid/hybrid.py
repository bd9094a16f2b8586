"""Hybrid: fuses several rankings of the same documents.

    hybrid = Hybrid(index)                               # with a hybrid encoder: learned terms and BM25
    hybrid = Hybrid(index, dense=build_dense(index, "vectors", embed), method="interpolation", weights={"dense": 0.5})
    hits = hybrid.search("a question", k=10, where={"lang": "en"})

If the index's encoder is a `HybridEncoder`, its learned terms and its BM25 terms are searched separately. In contrast,
`Index.search` adds the two scores exactly, in one pass, with the weight that the index was built with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from os import PathLike
from typing import Any, Literal, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode.hybrid import HybridEncoder
from lsr.errors import EncoderError
from lsr.index.hybrid.dense import DenseVectors, Embed, Nearest
from lsr.index.hybrid.dense_files import Similarity
from lsr.index.hybrid.fusion import RRF_K, Normalization, interpolate, reciprocal_rank_fusion
from lsr.index.hybrid.visits import LABELLED, Visits, example, fitted
from lsr.index.search.explain import DensePart, Explanation, query_words
from lsr.index.search.feedback import DENSE_WEIGHT, DOCUMENTS, best_documents, mixed, rocchio
from lsr.index.search.find import hits_by_id
from lsr.index.search.hits import Hits
from lsr.index.search.query_encoder import Query, as_queries, checked_k
from lsr.index.search.reader import Reader
from lsr.index.search.request import EncodedQuery
from lsr.index.search.settings import BatchOptions
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.io.runs import Run
from lsr.sparse import SparseMatrix

Method = Literal["rrf", "interpolation"]
Feedback = Literal["none", "before", "after", "both"]
Queries = Iterable[str | Mapping[str, Any]] | SparseMatrix
Rows = NDArray[np.int64]
Pointed = tuple[NDArray[np.int64], NDArray[np.float64]]  # rows of a query's sparse results, and their scores


def build_dense(
    index: Reader,
    path: str | PathLike[str],
    embed: Embed,
    *,
    embed_documents: Embed | None = None,
    similarity: Similarity = "cosine",
    graph: bool = False,
    clusters: bool = False,
) -> DenseVectors:
    """Embed all documents (or passages) of an index; call it again after documents have changed.

    Args:
        index: The index with the texts.
        path: Folder for the vectors.
        embed: Maps n texts to (n, dimensions) numbers.
        embed_documents: Embeds documents, if `embed` is only for queries; see `DenseVectors.build`.
        similarity: "cosine", or "dot" for vectors with meaningful lengths.
        graph: Also write a usearch graph, for approximate search of large collections.
        clusters: Store the vectors by clusters, for `Hybrid(visit=…)`.
    """
    index = index.pinned()
    names = [part.entry["name"] for part in index.snapshot.parts]
    return DenseVectors.build(
        path,
        index.contents(),
        embed,
        embed_documents=embed_documents,
        segments=names,
        similarity=similarity,
        graph=graph,
        clusters=clusters,
    )


@dataclass(frozen=True)
class _Searched:
    """A query as it was searched: its text, if any, and {sparse part: query vector}."""

    text: Any
    rows: Mapping[str, SparseMatrix]

    @property
    def vector(self) -> SparseMatrix:
        """One row with the terms of all parts."""
        weights = {term: weight for row in self.rows.values() for term, weight in row.to_dicts()[0].items()}
        return SparseMatrix.from_dicts([weights], max(row.shape[1] for row in self.rows.values()))


class _DotPart(DensePart):
    def __str__(self) -> str:
        return f"dot product {self.cosine:.3f}"


class Hybrid:
    """Fuses rankings of an index's documents.

    Attributes:
        parts: Names of the rankings: "learned" and "lexical" with a hybrid encoder, else "sparse"; and "dense" with
            dense vectors.
        weights: {part: weight}.

    Args:
        index: The index.
        dense: Dense vectors of the same documents.
        method: "rrf" fuses ranks, "interpolation" fuses scores.
        weights: {part: weight}; missing parts have the weight 1.
        depth: Number of documents of each ranking to fuse; never below k.
        normalization: How "interpolation" normalizes scores.
        rrf_k: The smoothing constant of "rrf".
        feedback: Pseudo-relevance feedback (arXiv 2205.00235), with the defaults of `expand_query` and `expand_dense`.
            "after": each ranking's first documents expand its own query, and the new rankings are fused. "both": the
            fused ranking's first documents expand all queries, and the new rankings are fused. "before": queries are
            expanded as for "both", but the result is the new ranking of the last part alone.
        visit: Compare only the dense vectors that the sparse results point to (arXiv 2502.10639). Requires dense
            vectors built with `clusters=True`. By default all vectors are compared.

    Raises:
        ValueError: An unknown part, method or feedback, a negative weight, only one ranking, or missing clusters.
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
        feedback: Feedback = "none",
        visit: Visits | None = None,
    ) -> None:
        self._index, self._dense, self._method, self._depth = index, dense, method, depth
        self._feedback, self._visit = feedback, visit
        self._normalization, self._rrf_k = normalization, rrf_k
        sparse = ("learned", "lexical") if _hybrid_encoder(index) else ("sparse",)
        self.parts: tuple[str, ...] = sparse + (("dense",) if dense is not None else ())
        given = dict(weights or {})
        if any(name not in self.parts or not weight >= 0 for name, weight in given.items()):
            raise ValueError(f"weights are numbers of at least 0 for {', '.join(self.parts)}, got {given}")
        if len(self.parts) < 2:
            raise ValueError("there is only one ranking: pass dense vectors, or an index with a hybrid encoder")
        if method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
        if feedback not in get_args(Feedback):
            raise ValueError(f"feedback must be one of {', '.join(get_args(Feedback))}, got {feedback!r}")
        if visit is not None and (dense is None or dense.clusters is None):
            raise ValueError("visit needs dense vectors in clusters: build_dense(index, path, embed, clusters=True)")
        self.weights = {name: float(given.get(name, 1.0)) for name in self.parts}

    def with_weights(self, weights: Mapping[str, float]) -> Hybrid:
        """Return a copy with other weights."""
        return self._copy(weights, self._visit)

    def with_visit(self, visit: Visits | None) -> Hybrid:
        """Return a copy with another choice of clusters; None compares all vectors."""
        return self._copy(self.weights, visit)

    def _copy(self, weights: Mapping[str, float], visit: Visits | None) -> Hybrid:
        return Hybrid(
            self._index,
            self._dense,
            method=self._method,
            weights=weights,
            depth=self._depth,
            normalization=self._normalization,
            rrf_k=self._rrf_k,
            feedback=self._feedback,
            visit=visit,
        )

    def search(
        self, query: Query, k: int = 10, *, dense: ArrayLike | None = None, **settings: Unpack[BatchOptions]
    ) -> Hits:
        """Return the k best documents, with fused scores.

        A hit's explanation says what each ranking adds to the score and, for a sparse ranking, what each term adds.

        Args:
            query: As for `Index.search`. With dense vectors, a query that isn't a text needs `dense`.
            k: Maximum number of hits.
            dense: (dimensions,) the query's dense vector; by default its text is embedded.
            settings: Arguments of `Index.search` for the sparse rankings; `where` applies to the dense one, too.
        """
        if isinstance(query, SparseMatrix) and len(query) != 1:
            raise ValueError(f"search takes one query, got {len(query)}; search_batch takes many")
        queries = [query] if isinstance(query, str | Mapping) else query
        return self.search_batch(queries, k, dense=None if dense is None else [dense], **settings)[0]

    def search_batch(
        self,
        queries: Queries,
        k: int = 10,
        *,
        dense: Sequence[ArrayLike] | None = None,
        **settings: Unpack[BatchOptions],
    ) -> list[Hits]:
        """Return the k best documents for each query; arguments as for `search`, and `dense` has a vector per query."""
        checked_k(k)
        index = self._index.pinned()
        queries = queries if isinstance(queries, SparseMatrix) else as_queries(queries)
        vectors, near = index.query_vectors(queries), self._dense_queries(queries, dense)
        names = [str(number) for number in range(len(vectors))]
        runs, sparse = self._rankings(index, names, vectors, near, max(k, self._depth), settings)
        fused = runs[self.parts[-1]] if self._feedback == "before" else self.fuse(runs)
        found = []
        for i, name in enumerate(names):
            text = None if isinstance(queries, SparseMatrix) else queries[i]
            searched = _Searched(text, {part: rows[i] for part, rows in sparse.items()})
            explain = partial(self._explain, index, searched, {part: run[name] for part, run in runs.items()})
            best = dict(islice(fused[name].items(), k))
            found.append(hits_by_id(index.snapshot, searched.vector, best, explain))
        return found

    def _explain(
        self,
        index: Reader,
        searched: _Searched,
        rankings: Mapping[str, Mapping[str, float]],
        _query: EncodedQuery,
        doc: int,
        *,
        origins: bool = True,
    ) -> Explanation:
        """Explain a document's fused score by what each of the query's rankings adds."""
        documents = index.documents
        doc_id = documents.parent(doc) or documents.id(doc)
        added = {name: self._added(name, ranking).get(doc_id, 0.0) for name, ranking in rankings.items()}
        dense = None
        if self._dense is not None and doc_id in rankings["dense"]:
            made = DensePart if self._dense.similarity == "cosine" else _DotPart
            dense = made(rankings["dense"][doc_id], None, self.weights["dense"], added["dense"], 0.0)
        explanation = index.explain(searched.vector, documents.id(doc), origins=origins, mode="sparse")
        explanation = explanation.named(query_words(index.encoder, searched.text) if searched.text else {})
        return explanation.fused([(set(row.indices.tolist()), added[n]) for n, row in searched.rows.items()], dense)

    def _added(self, name: str, ranking: Mapping[str, float]) -> Mapping[str, float]:
        """Return {document: what a part's ranking adds to its fused score}."""
        if self._feedback == "before":
            return ranking if name == self.parts[-1] else {}
        return self._fused([{"": dict(ranking)}], [self.weights[name]])[""]

    def rankings(
        self, queries: Mapping[str, str], depth: int | None = None, **settings: Unpack[BatchOptions]
    ) -> dict[str, Run]:
        """Return the run of each part, after feedback if there is any.

        Args:
            queries: {query id: text}.
            depth: Number of documents in each ranking; by default the constructor's `depth`.
            settings: As for `search`.
        """
        index, texts = self._index.pinned(), list(queries.values())
        vectors, near = index.query_vectors(texts), self._dense_queries(texts, None)
        return self._rankings(index, list(queries), vectors, near, depth or self._depth, settings)[0]

    def _dense_queries(
        self, queries: list[Any] | SparseMatrix, dense: Sequence[ArrayLike] | None
    ) -> Sequence[str | ArrayLike]:
        """Return the queries for the dense vectors: the given vectors, or else the texts."""
        if self._dense is None:
            if dense is not None:
                raise ValueError("this hybrid has no dense vectors to compare `dense` with")
            return ()
        if dense is not None:
            if len(dense) != len(queries):
                raise ValueError(f"{len(dense)} dense vectors for {len(queries)} queries; give one for each")
            return list(dense)
        texts = [] if isinstance(queries, SparseMatrix) else [query for query in queries if isinstance(query, str)]
        if len(texts) != len(queries):
            raise TypeError("a query that isn't a text needs its dense vector, too: dense=...")
        return texts

    def _rankings(
        self,
        index: Reader,
        ids: list[str],
        vectors: SparseMatrix,
        near: Sequence[str | ArrayLike],
        depth: int,
        settings: BatchOptions,
    ) -> tuple[dict[str, Run], dict[str, SparseMatrix]]:
        """Return the run of each part, and the query vectors of the last search of each sparse part."""
        parts = dict(_sparse(index, vectors))
        if self._feedback != "none" and self._dense is not None:
            near = list(self._dense.vectors_of_queries(near))  # embed once for both searches
        found = self._searched(index, ids, parts, near, depth, settings)
        if self._feedback == "none":
            return found, parts
        first = dict.fromkeys(self.parts, self.fuse(found)) if self._feedback != "after" else found
        best = {name: [[*islice(run[query], DOCUMENTS)] for query in ids] for name, run in first.items()}
        wider = {
            name: SparseMatrix.vstack(
                [rocchio(index, part[i], self._documents(index, name, part[i], best[name][i])) for i in range(len(ids))]
            )
            for name, part in parts.items()
            if ids
        }
        if self._dense is not None:
            near = [self._expanded(index, vectors[i], np.asarray(near[i]), best["dense"][i]) for i in range(len(ids))]
        return self._searched(index, ids, wider, near, depth, settings), wider

    def _documents(self, index: Reader, name: str, vector: SparseMatrix, best: list[str]) -> SparseMatrix:
        """Return the vectors of the best documents, restricted to the terms of one part."""
        docs = best_documents(index, vector, DOCUMENTS, best, {})
        return dict(_sparse(index, index.document_vectors(docs)))[name]

    def _expanded(
        self, index: Reader, vector: SparseMatrix, query: NDArray[np.float32], best: list[str]
    ) -> NDArray[np.float32]:
        """Expand a query's dense vector by feedback; its length stays the same."""
        assert self._dense is not None
        snapshot, rows = index.snapshot, []
        for doc in best_documents(index, vector, DOCUMENTS, best, {}):
            number, within = snapshot.searcher.locate(doc)
            rows.append(int(self._dense.rows_of(snapshot.parts[number].documents)[within]))
        found = mixed(query, self._dense.vectors([row for row in rows if row >= 0]), DENSE_WEIGHT)
        return np.asarray(found * np.linalg.norm(query), np.float32)

    def _searched(
        self,
        index: Reader,
        ids: list[str],
        parts: Mapping[str, SparseMatrix],
        near: Sequence[str | ArrayLike],
        depth: int,
        settings: BatchOptions,
    ) -> dict[str, Run]:
        found, numbers = _sparse_runs(index, ids, parts, depth, settings)
        if self._dense is None:
            return found
        snapshot = index.snapshot
        rows = _among(self._dense, snapshot, settings.get("where"))
        if self._visit is None:
            nearest = self._dense.rankings(near, rows=rows)
        else:
            nearest = self._visited(snapshot, near, self._pointed(snapshot, found, numbers), rows)
        found["dense"] = {
            query: _near(self._dense, snapshot, best, depth) for query, best in zip(ids, nearest, strict=True)
        }
        return found

    def _visited(
        self, snapshot: Snapshot, near: Sequence[str | ArrayLike], pointed: Iterable[Pointed], among: Rows | None
    ) -> Iterator[Nearest]:
        """Yield, for each query, the ranking of the vectors that its sparse results point to."""
        assert self._dense is not None
        assert self._dense.clusters is not None
        assert self._visit is not None
        for vector, (results, scores) in zip(self._dense.vectors_of_queries(near), pointed, strict=True):
            rows = self._visit.rows(self._dense.clusters, vector, results, scores)
            rows = rows if among is None else np.intersect1d(rows, among, assume_unique=True)
            yield from self._dense.rankings([vector], rows=rows)

    def _pointed(
        self, snapshot: Snapshot, found: Mapping[str, Run], numbers: Mapping[str, Mapping[str, int]]
    ) -> Iterator[Pointed]:
        """Yield, for each query, the row of each sparse result (-1 if it has no vector) and the results' scores."""
        assert self._dense is not None
        every = [np.empty(0, np.int64), *(self._dense.rows_of(part.documents) for part in snapshot.parts)]
        rows = np.concatenate(every)
        for query, hits in self.fuse(found).items():
            docs = np.array([numbers[query][doc] for doc in hits], np.int64)
            yield rows[docs], np.array([*hits.values()], np.float64)

    def fit_visits(
        self,
        queries: Sequence[str],
        policy: Literal["logistic", "lstm"] = "lstm",
        *,
        share: float = 0.1,
        results: int = 50,
        dense: Sequence[ArrayLike] | None = None,
    ) -> Visits:
        """Train a policy that chooses clusters. It learns to find each query's ten nearest vectors, without judgments.

        Args:
            queries: A few hundred texts or more, such as a log of queries.
            policy: "lstm" needs the extra `torch` for training, but not for searching.
            share: The policy's `Visits.share`.
            results: The policy's `Visits.results`.
            dense: The queries' dense vectors; by default the texts are embedded.

        Raises:
            ValueError: There are no queries, or no clusters.
            MissingExtra: torch isn't installed.
        """
        if self._dense is None or self._dense.clusters is None or not queries:
            raise ValueError("training needs queries, and dense vectors that were built with clusters=True")
        index, ids = self._index.pinned(), [str(number) for number in range(len(queries))]
        vectors = index.query_vectors(as_queries(list(queries)))
        near = self._dense.vectors_of_queries(self._dense_queries(list(queries), dense))
        runs = _sparse_runs(index, ids, dict(_sparse(index, vectors)), self._depth, {})
        pointed = self._pointed(index.snapshot, *runs)
        best = [nearest(LABELLED)[0] for nearest in self._dense.rankings(list(near), exact=True)]
        examples = [
            example(self._dense.clusters, vector, rows, *found, results)
            for vector, rows, found in zip(near, best, pointed, strict=True)
        ]
        return fitted(examples, share, policy, results)

    def fuse(self, rankings: Mapping[str, Run]) -> Run:
        """Fuse the runs of the parts, weighted; parts without a run are left out."""
        parts = [name for name in self.parts if name in rankings]
        named = [name for name in parts if self.weights[name]] or parts
        return self._fused([rankings[name] for name in named], [self.weights[name] for name in named])

    def _fused(self, runs: Sequence[Run], weights: Sequence[float]) -> Run:
        if self._method == "rrf":
            return reciprocal_rank_fusion(runs, k=self._rrf_k, weights=weights)
        return interpolate(runs, weights=weights, normalization=self._normalization)


def _sparse_runs(
    index: Reader, ids: list[str], parts: Mapping[str, SparseMatrix], depth: int, settings: BatchOptions
) -> tuple[dict[str, Run], dict[str, dict[str, int]]]:
    """Return the run of each sparse part, and the number of each document found: {query: {id: number}}."""
    found: dict[str, Run] = {}
    numbers: dict[str, dict[str, int]] = {query: {} for query in ids}
    for name, part in parts.items():
        rows = dict(zip(ids, index.search_batch(part, depth, **settings), strict=True))
        found[name] = {query: dict(zip(hits.ids, hits.scores.tolist(), strict=True)) for query, hits in rows.items()}
        for query, hits in rows.items():
            numbers[query].update(zip(hits.ids, hits.docs.tolist(), strict=True))
    return found, numbers


def _among(dense: DenseVectors, snapshot: Snapshot, where: Where | Filter | None) -> NDArray[np.int64] | None:
    """Return (n,) int64, ascending: the rows of documents that match a filter; None for all rows."""
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
    """Return {document: similarity} of the `depth` nearest vectors.

    Documents that were deleted or changed after they were embedded are left out.
    """
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
    """Whether a vector was computed from a document's current text."""
    number, _ = snapshot.searcher.locate(doc)
    if snapshot.parts[number].entry["name"] in dense.segments:  # segments never change
        return True
    return dense.is_of(row, snapshot.documents.content(doc))


def _hybrid_encoder(index: Reader) -> HybridEncoder | None:
    """Return the index's encoder if it is a `HybridEncoder`, else None."""
    with suppress(EncoderError):
        if isinstance(encoder := index.encoder, HybridEncoder):
            return encoder
    return None


def _sparse(index: Reader, vectors: SparseMatrix) -> Iterator[tuple[str, SparseMatrix]]:
    """Yield the query vectors of each sparse part."""
    if encoder := _hybrid_encoder(index):
        yield from zip(("learned", "lexical"), encoder.split_by_encoder(vectors), strict=True)
    else:
        yield "sparse", vectors
