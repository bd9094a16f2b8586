"""The recall of approximate search against exact search."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.index.search.searcher import Searcher
from lsr.index.search.settings import SearchSettings
from lsr.sparse import SparseMatrix

_SAMPLE = (200, 24)  # number of documents used as queries, and of terms in each query


def recall(searcher: Searcher, queries: SparseMatrix, k: int, settings: SearchSettings) -> float:
    """Return the recall over all queries; 1.0 if exact search finds nothing.

    The recall is the number of returned documents whose scores reach the k-th best score, divided by the number of
    documents that exact search returns.
    """

    def count(i: int) -> tuple[int, int]:
        terms, weights = queries.row(i)
        _, exact = searcher.search(terms, weights, k)
        _, found = searcher.search(terms, weights, k, settings)
        return int((found >= exact[-1]).sum()) if len(exact) else 0, len(exact)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hits, places = np.array(list(pool.map(count, range(len(queries)))), np.int64).reshape(-1, 2).sum(axis=0)
    return float(hits / places) if places else 1.0


def sample_queries(searcher: Searcher, factors_of: Callable[[NDArray[Any]], NDArray[np.float64]]) -> SparseMatrix:
    """Return 200 documents, cut to their 24 heaviest terms, as queries; the same ones on every call.

    Args:
        searcher: Holds the documents.
        factors_of: Returns the factors that turn document weights of given terms into query weights.

    Raises:
        IndexFormatError: The index has no clusters.
    """
    drawn = searcher.sample(*_SAMPLE)
    factors = factors_of(np.arange(drawn.shape[1]))
    rows = [(terms[factors[terms] > 0], weights[factors[terms] > 0]) for terms, weights in drawn.rows()]
    return SparseMatrix.from_rows([(terms, weights * factors[terms]) for terms, weights in rows], drawn.shape[1])
