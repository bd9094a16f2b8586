"""Pseudo-relevance feedback: expand a query with terms that the best documents of a first search share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import numpy as np

from lsr.index.search.query_encoder import Query
from lsr.index.search.reader import Reader
from lsr.index.search.settings import FilteredOptions
from lsr.sparse import SparseMatrix


def expand_query(
    index: Reader,
    query: Query,
    *,
    documents: int = 5,
    terms: int = 30,
    weight: float = 0.3,
    **settings: Unpack[FilteredOptions],
) -> SparseMatrix:
    """Expand a query by Rocchio's method on sparse vectors: q + weight * |q| / |m| * m.

    m is the mean vector of the best documents, cut to its heaviest terms, and |.| the Euclidean norm (Rocchio, 1971,
    without the term for non-relevant documents). This helps where many documents are relevant and hurts where the
    first results are wrong.

    Args:
        index: The index to search.
        query: As for `Index.search`.
        documents: Number of best documents to average.
        terms: Number of heaviest terms to keep of the mean.
        weight: Weight of the mean relative to the query; 0 leaves the query unchanged.
        settings: Options of the first search, including `where`.

    Returns:
        (1, n_terms), a query for any search.

    Raises:
        ValueError: `documents` or `terms` is below 1, or `weight` is negative.
    """
    if documents < 1 or terms < 1 or not weight >= 0:
        raise ValueError(f"documents and terms are at least 1 and weight at least 0: {documents}, {terms}, {weight}")
    vector = index.query_vectors([query] if isinstance(query, str | Mapping) else query)
    index = index.pinned()  # document numbers are valid within one snapshot only
    found = index.document_vectors([hit.doc for hit in index.search(vector, documents, **settings)])
    if not found.nnz or not vector.nnz or not weight:
        return vector
    used, places = np.unique(found.indices, return_inverse=True)
    mean = np.bincount(places, weights=found.data.astype(np.float64)) / len(found) * index.query_factors(used)
    kept = np.sort(np.argsort(-mean, kind="stable")[:terms])
    used, mean = used[kept], mean[kept]
    own_terms, own = vector.row(0)
    mean *= weight * np.linalg.norm(own) / np.linalg.norm(mean)
    both, where = np.unique(np.concatenate((own_terms, used)), return_inverse=True)
    weights = np.bincount(where, weights=np.concatenate((own, mean)))
    return SparseMatrix.from_rows([(both, weights)], max(vector.shape[1], int(both[-1]) + 1))
