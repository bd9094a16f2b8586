"""Run a request against a snapshot and return hits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode.base import Encoder
from lsr.errors import DataError, EncoderError
from lsr.index.search.column_values import facet_order, require_columns
from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Hits, ShownDocuments
from lsr.index.search.hybrid_search import hybrid_top
from lsr.index.search.matches import Matcher, SnapshotRanking
from lsr.index.search.query_encoder import as_queries
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.selection import select
from lsr.index.search.settings import SearchSettings
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
        compared: Weights document vectors so that their products compare documents.
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
    """Return a query as the hits of its search explain it; one without a dense vector stays as it is."""
    query = _beside(snapshot, query)
    if query.dense is None:
        return query
    mask = snapshot.mask(criteria.where)
    return query._replace(fusion=hybrid_top(snapshot, query.vector, query.dense, 1, criteria.settings, mask).fusion)


def _beside(snapshot: Snapshot, query: EncodedQuery) -> EncodedQuery:
    if query.dense is None:
        return query  # without opening the stored encoder, which may need more than there is
    return query.beside(snapshot.shared.encoder if snapshot.shared.encoder_files else None)


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
    """Wrap {id: score} as hits of a query of one row, in the same order; unknown ids are skipped."""
    found = []
    for doc_id, score in scores.items():
        doc = snapshot.documents.find(doc_id)
        if doc is None and snapshot.has_passages:
            doc = _best_passage(snapshot, vector, doc_id)
        if doc is not None:
            found.append((doc, score))
    numbers, values = zip(*found, strict=True) if found else ((), ())
    return hits_of(snapshot, EncodedQuery(None, vector), numbers, values, explain)


def _best_passage(snapshot: Snapshot, query: SparseMatrix, doc_id: str) -> int | None:
    """Return the highest-scoring passage of a document; the first one on ties."""
    (terms, weights), searcher = query.row(0), snapshot.searcher
    passages = snapshot.documents.passages(doc_id)
    return max(passages, key=lambda doc: float(searcher.impacts_of(doc, terms) @ weights), default=None)


def known_queries(
    near: Sequence[NDArray[np.float32] | None], vectors: SparseMatrix, request: SearchRequest
) -> Sequence[NDArray[np.float32] | None]:
    """Drop the dense vectors of texts without a known word: by default these find nothing instead of anything."""
    if not request.automatic:
        return near
    return [one if length else None for one, length in zip(near, vectors.lengths().tolist(), strict=True)]


def dense_queries(
    width: Callable[[], int],
    encoder: Callable[[], Encoder],
    queries: Sequence[Any] | SparseMatrix,
    given: Sequence[ArrayLike] | None,
    settings: SearchSettings,
) -> Sequence[NDArray[np.float32] | None]:
    """Return the dense vectors of queries; None for each query of a sparse search.

    Args:
        width: Returns the width of the index's dense vectors, 0 if it has no documents yet; raises if it keeps none.
        encoder: Returns the encoder, called only if texts have to be encoded.
        queries: The queries.
        given: Their dense vectors; None to encode the texts.
        settings: How to search.

    Returns:
        For each query (width,) float32, or None.

    Raises:
        DataError: Queries that aren't texts come without vectors, vectors have another width, or the index has none.
    """
    if settings.mode == "sparse":
        if given is not None:
            raise ValueError('dense vectors of queries go with the modes "hybrid" and "dense"')
        return [None] * len(queries)
    wanted = width() or encoder().dense_width
    if given is None:
        texts = [] if isinstance(queries, SparseMatrix) else [q for q in as_queries(queries) if isinstance(q, str)]
        if len(texts) != len(queries):
            raise DataError(
                f'mode "{settings.mode}" takes texts, or a dense vector for each query; "sparse" takes any queries',
                "query",
            )
        try:
            given = list(encoder().encode_dense(texts, queries=True)) if texts else []
        except EncoderError as error:
            raise EncoderError(f'{error}; mode "sparse" searches without dense vectors') from None
    vectors = [np.asarray(vector, np.float32) for vector in given]
    if len(vectors) != len(queries) or any(v.shape != (wanted,) or not np.isfinite(v).all() for v in vectors):
        raise DataError(f"a dense vector for each query is needed, of {wanted} finite numbers", "query")
    return vectors
