"""Pseudo-relevance feedback: expand a query with what the best documents of a first search share.

    vector = expand_query(index, "ice on the wing")                  # sparse
    near = expand_dense(index, "ice on the wing")                    # dense, for an index with dense vectors
    hits = index.search(vector, dense=near)

With `source`, the documents come from another ranking, such as a fused one (feedback after interpolation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.errors import DataError
from lsr.index.search.hits import Hit
from lsr.index.search.hybrid_search import dense_width, require_dense
from lsr.index.search.query_encoder import Query
from lsr.index.search.reader import Reader
from lsr.index.search.settings import FilteredOptions
from lsr.sparse import SparseMatrix

# Chosen on the training queries of five collections (benchmarks/feedback.py): averaging more documents finds a few more
# relevant documents, but ranks them worse.
DOCUMENTS, TERMS, WEIGHT, DENSE_WEIGHT = 1, 30, 0.2, 0.2
Source = Iterable[str | Hit]  # best first


def expand_query(
    index: Reader,
    query: Query,
    *,
    documents: int = DOCUMENTS,
    terms: int = TERMS,
    weight: float = WEIGHT,
    source: Source | None = None,
    **settings: Unpack[FilteredOptions],
) -> SparseMatrix:
    """Expand a query by Rocchio's method on sparse vectors: q + weight * |q| / |m| * m.

    m is the mean vector of the best documents, cut to its heaviest terms, and |.| is the Euclidean norm (Rocchio, 1971,
    without the term for non-relevant documents). This helps if many documents are relevant, and hurts if the first
    results are wrong.

    Args:
        index: The index to search.
        query: As for `Index.search`.
        documents: How many of the best documents to average.
        terms: How many of the mean's heaviest terms to keep.
        weight: Weight of the mean relative to the query; 0 leaves the query unchanged.
        source: Hits, or ids of documents or passages, best first, to use instead of a first search.
        settings: Options of the first search, including `where`.

    Returns:
        (1, n_terms), a query for any search.

    Raises:
        ValueError: `documents` or `terms` is below 1, or `weight` is negative.
    """
    _check(documents, weight, terms)
    vector = index.query_vectors([query] if isinstance(query, str | Mapping) else query)
    index = index.pinned()  # document numbers are valid within one snapshot only
    found = index.document_vectors(best_documents(index, vector, documents, source, settings))
    return rocchio(index, vector, found, terms, weight)


def rocchio(
    index: Reader, vector: SparseMatrix, found: SparseMatrix, terms: int = TERMS, weight: float = WEIGHT
) -> SparseMatrix:
    """Expand a query by documents' vectors; see `expand_query`.

    Args:
        index: The index of the documents.
        vector: The query, one row.
        found: (n, n_terms), the documents.
        terms: How many of the mean's heaviest terms to keep.
        weight: Weight of the mean relative to the query.
    """
    if not found.nnz or not vector.nnz or not weight:
        return vector
    used, places = np.unique(found.indices, return_inverse=True)
    mean = np.bincount(places, weights=found.data.astype(np.float64)) / len(found) * index.query_factors(used)
    kept = np.sort(np.argsort(-mean, kind="stable")[:terms])
    used, mean = used[kept], mean[kept]
    own_terms, own = vector.row(0)
    mean *= weight * np.linalg.norm(own) / (np.linalg.norm(mean) or 1.0)
    both, where = np.unique(np.concatenate((own_terms, used)), return_inverse=True)
    weights = np.bincount(where, weights=np.concatenate((own, mean)))
    return SparseMatrix.from_rows([(both, weights)], max(vector.shape[1], int(both[-1]) + 1))


def expand_dense(
    index: Reader,
    query: str | ArrayLike,
    *,
    documents: int = DOCUMENTS,
    weight: float = DENSE_WEIGHT,
    source: Source | None = None,
    **settings: Unpack[FilteredOptions],
) -> NDArray[np.float32]:
    """Move a query's dense vector towards the best documents: q / |q| + weight * m / |m|, scaled to length 1.

    m is the mean vector of the documents. A weight of 3 gives roughly the same as the average of the query and three
    documents in arXiv 2205.00235, and a weight of 1.5 gives roughly the same as the Rocchio method there.

    Args:
        index: An index with dense vectors (`hybrid=True`).
        query: A text, or its (width,) dense vector.
        documents: How many of the best documents by dense vectors to average.
        weight: Weight of the mean relative to the query; 0 leaves the direction unchanged.
        source: As for `expand_query`.
        settings: As for `expand_query`.

    Returns:
        (width,) float32, for the argument `dense` of `Index.search`.

    Raises:
        ValueError: `documents` is below 1, or `weight` is negative.
        DataError: The index has no dense vectors, or the query has another width.
    """
    _check(documents, weight)
    index = index.pinned()
    width = require_dense(dense_width(index.snapshot), index.path)
    if isinstance(query, str):
        (query,) = index.encoder.encode_dense([query], queries=True)
    own = np.asarray(query, np.float32)
    if own.shape != (width,) or not np.isfinite(own).all():
        raise DataError(f"a dense vector of {width} finite numbers is needed, got shape {own.shape}", "query")
    nothing = SparseMatrix.from_dicts([{}], 1)
    docs = best_documents(index, nothing, documents, source, {**settings, "mode": "dense", "dense": own})
    return mixed(own, stored_dense(index, docs), weight)


def mixed(query: NDArray[np.float32], documents: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Move a query towards the mean of (n, width) documents; return (width,) float32 of length 1."""
    found = _unit(query) + weight * _unit(documents.mean(0)) if len(documents) and weight else query
    return _unit(found)


def stored_dense(index: Reader, docs: Iterable[int]) -> NDArray[np.float32]:
    """Return (n, width) float32: the stored dense vectors of the documents with these numbers."""
    snapshot = index.snapshot
    rows = [np.zeros((0, require_dense(dense_width(snapshot), index.path)), np.float32)]
    for doc in docs:
        number, within = snapshot.searcher.locate(doc)
        embeddings = snapshot.parts[number].embeddings
        assert embeddings is not None  # `require_dense` has checked this
        one = embeddings.rows(within, within + 1)
        rows.append(one.rows * one.scales[:, None])
    return np.concatenate(rows)


def best_documents(
    index: Reader, vector: SparseMatrix, documents: int, source: Source | None, settings: Mapping[str, Any]
) -> list[int]:
    """Return the numbers of the documents to expand by; arguments as for `expand_query`."""
    if source is None:
        return [hit.doc for hit in index.search(vector, documents, **settings)]
    ids = [one if isinstance(one, str) else one.passage for one in islice(source, documents)]
    return [hit.doc for hit in index.hits(vector, dict.fromkeys(ids, 0.0))]


def _check(documents: int, weight: float, terms: int = 1) -> None:
    if documents < 1 or terms < 1 or not 0 <= weight < np.inf:
        raise ValueError(
            f"documents and terms must be at least 1 and weight at least 0, got {documents}, {terms} and {weight}"
        )


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / (float(np.linalg.norm(vector)) or 1.0), np.float32)
