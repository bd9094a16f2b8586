"""Feedback, densified vectors, verified candidates, clusters, comparisons and late interaction in experiments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.console import note
from lsr.dense_export import DenseExport, beside
from lsr.densified import DensifiedVectors, Slices
from lsr.encode.base import Encoder
from lsr.encode.late import LateEncoder
from lsr.encode.load import load_encoder
from lsr.encode.token_vectors import LateReranker, TokenVectors
from lsr.errors import EncoderError
from lsr.eval.datasets import Dataset
from lsr.eval.experiment.artifact_cache import Artifacts, Facts, remove
from lsr.eval.experiment.settings import (
    ComparisonSettings,
    DensifySettings,
    FeedbackSettings,
    ImitateSettings,
    LateSettings,
    VerifySettings,
    VisitSettings,
)
from lsr.index.coarse import CoarseIndex
from lsr.index.hybrid.dense import DenseVectors
from lsr.index.hybrid.hybrid import Hybrid
from lsr.index.hybrid.visits import Visits
from lsr.index.index import Index
from lsr.index.search.feedback import expand_dense, expand_query, stored_dense
from lsr.io.corpus import open_corpus
from lsr.io.runs import Run
from lsr.lexical_head import HeadSettings, LexicalHead
from lsr.pairwise import AGGREGATORS, SAMPLERS, compared
from lsr.sparse import SparseMatrix

_STEEP = 10.0  # slope of the logistic function that turns a difference of scores (each 0 to 1) into a probability


def with_feedback(
    index: Index,
    queries: SparseMatrix,
    dense: NDArray[np.float32] | None,
    best: Sequence[Sequence[str]] | None,
    how: FeedbackSettings,
    search: Mapping[str, Any],
) -> tuple[SparseMatrix, NDArray[np.float32] | None]:
    """Expand queries and their dense vectors by feedback.

    Args:
        index: The index to search.
        queries: (n, n_terms).
        dense: (n, width) float32, or None.
        best: For each query, the ids of the feedback documents; None to take the documents of a first search.
        how: Settings of the feedback.
        search: Settings of the first search.
    """
    rows, near = [SparseMatrix.empty(queries.shape[1])], []
    for i in range(len(queries)):
        vector, first = queries[i], dict(search)
        if dense is not None:
            first["dense"] = dense[i]
        source = index.search(vector, how.documents, **first) if best is None else best[i]
        common: dict[str, Any] = {"documents": how.documents, "source": source}
        rows.append(expand_query(index, vector, terms=how.terms, weight=how.weight, **common))
        if dense is not None:
            near.append(expand_dense(index, dense[i], weight=how.dense_weight, **common))
    return SparseMatrix.vstack(rows), None if dense is None else np.reshape(near, dense.shape).astype(np.float32)


def densified_search(
    how: DensifySettings, index: Index, queries: SparseMatrix, dense: NDArray[np.float32] | None, k: int
) -> Iterator[list[tuple[str, float]]]:
    """Yield (id, score) of the best documents of each query."""
    docs = list(range(len(index)))
    documents = index.document_vectors(docs)
    n_terms = max(documents.shape[1], queries.shape[1])
    documents = SparseMatrix(
        documents.indptr, documents.indices, documents.data, (len(documents), n_terms), check=False
    )
    beside = stored_dense(index, docs) if how.dense_weight else None
    if how.by == "projection":
        export = DenseExport.fit(documents, how.width, factors=index.query_factors(np.arange(n_terms)))
        found = _nearest(export.queries(queries) @ export.documents(documents).T, beside, dense, how.dense_weight, k)
    else:
        found = DensifiedVectors.of(documents, _slices(how, documents), beside).search(
            queries,
            k,
            threshold=how.threshold,
            dense=dense if how.dense_weight else None,
            dense_weight=how.dense_weight,
        )
    for numbers, scores in found:
        kept = scores > 0
        pairs = zip(numbers[kept].tolist(), scores[kept].tolist(), strict=True)
        yield [(index.documents.id(number), score) for number, score in pairs]


def verified_search(
    how: VerifySettings, index: Index, queries: SparseMatrix, dense: NDArray[np.float32] | None, k: int
) -> Iterator[list[tuple[str, float]]]:
    """Yield (id, score) of the best documents of each query; the coarse index is built in a temporary folder."""
    docs = list(range(len(index)))
    documents = index.document_vectors(docs)
    factors = index.query_factors(np.arange(documents.shape[1]))
    exact = stored_dense(index, docs) if how.dense else None
    with tempfile.TemporaryDirectory() as temporary:
        ids = [index.documents.id(doc) for doc in docs]
        coarse = CoarseIndex.build(
            Path(temporary) / "coarse", documents, ids=ids, terms=how.terms, factors=factors, dense=exact
        )
        for i in range(len(queries)):
            beside = None if dense is None or not how.dense else dense[i]
            found = coarse.search(queries[i], k, candidates=how.candidates, dense=beside)
            yield [(doc, score) for doc, score in found if score > 0]


def visited_search(
    how: VisitSettings, index: Index, queries: SparseMatrix, dense: NDArray[np.float32], k: int
) -> Iterator[list[tuple[str, float]]]:
    """Yield (id, score) of the best documents of each query; the clusters are stored in a temporary folder."""
    docs = list(range(len(index)))
    ids = [index.documents.id(doc) for doc in docs]
    stored = iter(stored_dense(index, docs))
    with tempfile.TemporaryDirectory() as temporary:
        near = DenseVectors.build(
            temporary,
            ((doc, "") for doc in ids),
            lambda texts: [next(stored) for _ in texts],
            clusters=True,
            segments=[part.entry["name"] for part in index.snapshot.parts],
        )
        hybrid = Hybrid(index, near, method="interpolation", visit=Visits(how.share, how.policy, how.results))
        for i in range(len(queries)):
            hits = hybrid.search(queries[i], k, dense=dense[i])
            yield list(zip(hits.ids, hits.scores.tolist(), strict=True))


def imitated_search(
    how: ImitateSettings,
    teacher: Encoder,
    dataset: Dataset,
    identity: Mapping[str, str],
    queries: Sequence[str],
    artifacts: Artifacts,
    k: int,
) -> Iterator[list[tuple[str, float]]]:
    """Yield (id, score) of each query's best documents according to a head that imitates an encoder.

    Args:
        how: Settings.
        teacher: The encoder.
        dataset: The collection.
        identity: Digests of the collection's texts.
        queries: Ids of the queries.
        artifacts: The cache, for the vectors.
        k: Number of documents.
    """
    ids, texts = zip(*((doc.id, doc.content) for doc in dataset.corpus()), strict=True)
    known = {query.id: query.content for query in open_corpus(dataset.query_source, queries=True)}
    asked, model = [known[query] for query in queries], load_encoder(how.model)
    key = {**identity, "queries of": list(queries), "model": model.fingerprint.to_json()}

    def train(path: Path) -> Facts:
        remove(path)
        path.mkdir()
        head = LexicalHead.fit(texts, model, teacher=teacher, settings=HeadSettings(width=how.width))
        np.save(path / "documents.npy", head.documents(texts))
        np.save(path / "queries.npy", head.queries(asked))
        return {}

    def encode(path: Path) -> Facts:
        remove(path)
        path.mkdir()
        np.save(path / "documents.npy", model.encode_dense(texts))
        np.save(path / "queries.npy", model.encode_dense(asked, queries=True))
        return {}

    by_head = {**key, "teacher": teacher.fingerprint.to_json(), "width": how.width}
    if (asks := teacher.query_fingerprint) is not None:
        by_head["teacher's query model"] = asks.to_json()
    folders = [artifacts.get("imitation", by_head, train)[0]]
    if how.own:
        folders.insert(0, artifacts.get("dense", key, encode)[0])
    parts = {name: [np.load(folder / f"{name}.npy") for folder in folders] for name in ("queries", "documents")}
    weights = (how.own, 1.0) if how.own else (1.0,)
    scores = beside(*parts["queries"], weights=weights) @ beside(*parts["documents"]).T
    for numbers, found in _nearest(scores, None, None, 0.0, k):
        yield [(ids[number], float(score)) for number, score in zip(numbers.tolist(), found, strict=True) if score > 0]


def late_run(
    how: LateSettings, first: Run, dataset: Dataset, identity: Mapping[str, str], artifacts: Artifacts, depth: int
) -> Run:
    """Re-rank the first documents of a run by late interaction; the other documents follow in their order.

    Args:
        how: Settings.
        first: The run.
        dataset: The collection.
        identity: Digests of the collection's texts.
        artifacts: The cache, for the token vectors of all documents.
        depth: Number of documents in the new run.

    Raises:
        EncoderError: The encoder has no token vectors.
    """
    encoder = load_encoder(how.encoder, top_k=how.top_k)
    if not isinstance(encoder, LateEncoder):
        raise EncoderError(f"late: {how.encoder} has no token vectors: late:lsr-mini has them")

    def build(path: Path) -> Facts:
        remove(path)
        return {"bytes": TokenVectors.build(path, dataset.corpus(), encoder).bytes_per_document}

    key = {"documents": identity["documents"], "encoder": encoder.fingerprint.to_json()}
    path, facts, _ = artifacts.get("tokens", key, build, ".arrow")
    note(f"token vectors: {facts['bytes']:,.0f} bytes a document")
    reranker = LateReranker(encoder, TokenVectors(path))
    wanted = {doc for hits in first.values() for doc in list(hits)[: how.depth]}
    texts = {doc.id: doc.content for doc in dataset.corpus() if doc.id in wanted}
    queries = {query.id: query.content for query in open_corpus(dataset.query_source, queries=True)}
    found: Run = {}
    for query, hits in first.items():
        ids = list(hits)[:depth]
        some = ids[: how.depth]
        scores = np.array(reranker.scores(queries[query], [texts[doc] for doc in some]))
        ranked = [*(some[i] for i in np.argsort(-scores, kind="stable")), *ids[how.depth :]]
        found[query] = {doc: float(len(ranked) - place) for place, doc in enumerate(ranked)}
    return found


def _slices(how: DensifySettings, documents: SparseMatrix) -> Slices:
    if how.by == "coloured":
        return Slices.coloured(documents, how.width)
    make = Slices.random if how.by == "random" else Slices.striped
    return make(documents.shape[1], how.width)


def _nearest(
    scores: NDArray[np.float32],
    beside: NDArray[np.float32] | None,
    dense: NDArray[np.float32] | None,
    weight: float,
    k: int,
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Return numbers and scores of each query's best documents."""
    if beside is not None and dense is not None:
        scores = scores + np.float32(weight) * (dense @ beside.T)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [(best, row[best]) for best, row in zip(order, scores, strict=True)]


def compared_run(how: ComparisonSettings, first: Run, judge: Run, depth: int) -> Run:
    """Re-rank the first documents of a run by comparisons; the other documents follow in their order."""
    found: Run = {}
    for query, hits in first.items():
        ids, scores = list(hits)[:depth], judge.get(query, {})
        some, rest = ids[: how.depth], ids[how.depth :]
        top = max(scores.values(), default=0.0) or 1.0
        judged = np.array([scores.get(doc, 0.0) / top for doc in some])
        pairs = SAMPLERS[how.sampler](len(some), how.share)
        at = np.array(pairs, np.int64).reshape(-1, 2)
        chances = 1 / (1 + np.exp(_STEEP * (judged[at[:, 1]] - judged[at[:, 0]])))
        order = np.argsort(-AGGREGATORS[how.aggregator](compared(len(some), pairs, chances)), kind="stable")
        ranked = [*(some[i] for i in order), *rest]
        found[query] = {doc: float(len(ranked) - place) for place, doc in enumerate(ranked)}
    return found
