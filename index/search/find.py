"""Run a request against a snapshot and return hits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode.base import Encoder
from lsr.errors import DataError, EncoderError
from lsr.index.search.column_values import facet_order, require_columns
from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Hits, ShownDocuments
from lsr.index.search.hybrid_search import beside_dense, cosine_of, hybrid_top, require_dense
from lsr.index.search.matches import Matcher, SnapshotRanking
from lsr.index.search.query_encoder import as_queries
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.selection import select
from lsr.index.search.snapshot import Snapshot
from lsr.sparse import SparseMatrix

Explain = Callable[..., Explanation]  # takes an `EncodedQuery` and a document number


def find(
    snapshot: Snapshot,
    query: EncodedQuery,
    request: SearchRequest,
    criteria: Criteria,
    *,
    compared: Callable[[SparseMatrix], SparseMatrix],
    explain: Explain,
    encoder: Callable[[], Encoder],
) -> Hits:
    """Search for one query.

    Args:
        snapshot: The snapshot to search.
        query: The query.
        request: k and the options that apply to the ranking as a whole.
        criteria: The conditions that each document has to meet.
        compared: Weights document vectors so that the dot product of two is their similarity.
        explain: Explains a hit.
        encoder: Returns the encoder; called if titles are boosted.
    """
    query = _beside(snapshot, query)
    if request.options.plain and not criteria.conditions:
        return _plain(snapshot, query, request.k, criteria, explain)
    options = request.options
    require_columns(options, snapshot.documents.columns)
    matcher = Matcher(snapshot, query, criteria, encoder)
    ranking = SnapshotRanking(matcher, lambda docs: compared(snapshot.vectors(docs)))
    found = select(ranking, query.given, request.k, options)
    facets, total = None, None
    if options.counts:
        total, counts = matcher.facets(options.faceted)
        facets = {name: facet_order(counted) for name, counted in counts.items()}
    documents = snapshot.documents if options.shown is None else ShownDocuments(snapshot.documents, options.shown)
    told = partial(explain, query._replace(fusion=matcher.fusion))
    return found.hits(documents, told, boosted=bool(options.boost), facets=facets, total=total)


def searched(snapshot: Snapshot, query: EncodedQuery, criteria: Criteria) -> EncodedQuery:
    """Search with a query that has a dense vector, and return the query with the `fusion` that explanations need.

    A query without a dense vector is returned unchanged.
    """
    query = _beside(snapshot, query)
    if query.dense is None:
        return query
    mask = snapshot.mask(criteria.where)
    return query._replace(fusion=hybrid_top(snapshot, query.vector, query.dense, 1, criteria.settings, mask).fusion)


def _beside(snapshot: Snapshot, query: EncodedQuery) -> EncodedQuery:
    if query.dense is None:
        return query  # without opening the stored encoder, which may need packages that aren't installed
    stored = snapshot.shared.encoder if snapshot.shared.encoder_files else None
    return query._replace(vector=beside_dense(stored, query.vector))


def _plain(snapshot: Snapshot, query: EncodedQuery, k: int, criteria: Criteria, explain: Explain) -> Hits:
    mask = snapshot.mask(criteria.where)
    if query.dense is None:
        return hits_of(snapshot, query, *snapshot.top(query.vector, k, criteria.settings, mask), explain)
    found = hybrid_top(snapshot, query.vector, query.dense, k, criteria.settings, mask)
    return hits_of(snapshot, query._replace(fusion=found.fusion), found.docs, found.scores, explain)


def hits_of(
    snapshot: Snapshot,
    query: EncodedQuery,
    docs: ArrayLike,
    scores: ArrayLike,
    explain: Explain,
) -> Hits:
    """Wrap document numbers and scores as hits."""
    return Hits(snapshot.documents, docs, scores, partial(explain, query))


def hits_by_id(snapshot: Snapshot, vector: SparseMatrix, scores: Mapping[str, float], explain: Explain) -> Hits:
    """Wrap {id: score} as hits, in the same order; unknown ids are skipped. `vector` is the query, one row."""
    found = []
    for doc_id, score in scores.items():
        if (doc := place_of(snapshot, EncodedQuery(None, vector), doc_id)) is not None:
            found.append((doc, score))
    numbers, values = zip(*found, strict=True) if found else ((), ())
    return hits_of(snapshot, EncodedQuery(None, vector), numbers, values, explain)


def place_of(snapshot: Snapshot, query: EncodedQuery, doc_id: str) -> int | None:
    """Return the number of a document or passage.

    For a document that was cut into passages, this is the number of the passage that a search finds: its best one.

    Args:
        snapshot: The snapshot.
        query: The query.
        doc_id: The id.

    Returns:
        The number, or None if the id is unknown.
    """
    doc = snapshot.documents.find(doc_id)
    if doc is not None or not snapshot.has_passages:
        return doc
    (terms, weights), searcher = query.vector.row(0), snapshot.searcher
    near, by_words = query.dense, query.fusion is None or query.fusion.mode != "dense"

    def score(passage: int) -> tuple[float, float]:
        words = float(searcher.impacts_of(passage, terms) @ weights) if by_words else 0.0
        return words, 0.0 if near is None else cosine_of(snapshot, near, passage, passages=True)

    return max(snapshot.documents.passages(doc_id), key=score, default=None)


def with_dense(
    request: SearchRequest,
    queries: Sequence[Any] | SparseMatrix,
    vectors: Callable[[], SparseMatrix],
    given: Sequence[ArrayLike] | None,
    *,
    width: int | None,
    path: str | PathLike[str],
    encoder: Callable[[], Encoder],
) -> tuple[SearchRequest, Sequence[NDArray[np.float32] | None]]:
    """Choose the mode of a search, and get the dense vectors of its queries.

    Args:
        request: The request; its mode may be "auto".
        queries: The queries.
        vectors: Returns the queries' sparse vectors; called only if the mode was "auto" and becomes "hybrid".
        given: The queries' dense vectors; None to encode the texts.
        width: Width of the index's dense vectors, 0 if it has no documents yet; None if it stores no dense vectors.
        path: The index, for messages.
        encoder: Returns the encoder; called only if texts have to be encoded.

    Returns:
        The request, whose mode is no longer "auto"; and for each query (width,) float32, or None for a sparse search.
        With "auto", a text without any known word gets a sparse search, which finds nothing; a dense search would
        return arbitrary documents.

    Raises:
        ValueError: Dense vectors for a sparse search.
        DataError: A query has no dense vector and isn't a text, a dense vector has another width, or the index has no
            dense vectors.
        EncoderError: The encoder's model can't be run.
    """
    request = request.with_mode(queries, given, has_dense=width is not None)
    mode = request.settings.mode
    if mode == "sparse":
        if given is not None:
            raise ValueError('dense vectors of queries need the mode "hybrid" or "dense"')
        return request, [None] * len(queries)
    wanted = require_dense(width, path) or encoder().dense_width
    near = _encoded(queries, mode, encoder) if given is None else [np.asarray(vector, np.float32) for vector in given]
    if len(near) != len(queries) or any(v.shape != (wanted,) or not np.isfinite(v).all() for v in near):
        raise DataError(f"each query needs a dense vector of {wanted} finite numbers", "query")
    if given is None and request.automatic:
        known = vectors().lengths().tolist()
        return request, [vector if length else None for vector, length in zip(near, known, strict=True)]
    return request, near


def _encoded(
    queries: Sequence[Any] | SparseMatrix, mode: str, encoder: Callable[[], Encoder]
) -> Sequence[NDArray[np.float32]]:
    texts = [] if isinstance(queries, SparseMatrix) else [q for q in as_queries(queries) if isinstance(q, str)]
    if len(texts) != len(queries):
        raise DataError(
            f'mode "{mode}" takes texts, or a dense vector for each query; "sparse" takes any queries', "query"
        )
    try:
        return list(encoder().encode_dense(texts, queries=True)) if texts else []
    except EncoderError as error:
        raise EncoderError(f'{error}; mode "sparse" searches without dense vectors') from None
