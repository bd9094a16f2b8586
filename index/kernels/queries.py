"""Search with a batch of queries in one call: look up the terms of each query, then run an algorithm.

A call from Python takes microseconds, and holds the GIL for most of this time. So threads run in parallel only if each
call searches with many queries.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lsr.index.kernels.block_max import search_blocks
from lsr.index.kernels.exhaustive import search_windows
from lsr.index.kernels.jit import kernel
from lsr.index.kernels.layout import Query, find_lists, find_terms
from lsr.index.kernels.maxscore import search_maxscore
from lsr.index.kernels.topk import sort


class Batch(NamedTuple):
    """Queries, and the documents that may be found.

    Attributes:
        terms: uint32, the terms of all queries, one query after another; ascending within each query.
        weights: The terms' weights: int32, or float64 if impacts are float32.
        ends: (n,) int64, where each query's terms end.
        thresholds: (n,) of the weights' type, above zero: documents that score less may be left out.
        allowed: (n_docs,) uint8 by place, 0 for documents that may not be found; empty if all documents are allowed.
        live: (n_blocks,) uint8, 0 for blocks without an allowed document; empty if all documents are allowed.
    """

    terms: Any
    weights: Any
    ends: Any
    thresholds: Any
    allowed: Any
    live: Any


class Found(NamedTuple):
    """Results of a batch.

    Attributes:
        docs: (n, k) int64, document numbers, best first.
        scores: (n, k) of the weights' type.
        sizes: (n,) int64, the number of documents found for each query.
        known: (n,) int64, the number of each query's terms that occur in the index.
    """

    docs: Any
    scores: Any
    sizes: Any
    known: Any


@kernel
def query_of(lexicon, files, batch, q, heaviest_first):
    """Look up the terms of a query; see `Query`.

    Args:
        lexicon: `Lexicon`.
        files: `Files`.
        batch: `Batch`.
        q: Number of the query.
        heaviest_first: Order the terms by weight, instead of by number.
    """
    begin = batch.ends[q - 1] if q else 0
    terms, weights = batch.terms[begin : batch.ends[q]], batch.weights[begin : batch.ends[q]]
    ranks, max_impacts = np.empty((len(lexicon.segments), len(terms)), np.int64), np.empty(len(terms))
    known = find_terms(lexicon, terms, ranks, max_impacts)
    if heaviest_first:
        sort(known, weights[known], len(known))
    lists = np.empty((len(known), len(files.windows), 4), np.int32)
    find_lists(lexicon, files.windows, ranks, known, lists)
    chosen, upper_bounds = weights[known], weights[known]
    for i in range(len(known)):
        upper_bounds[i] *= max_impacts[known[i]]
    return Query(lists, chosen, upper_bounds, batch.allowed, batch.live)


@kernel
def run_blocks(lexicon, files, batch, space, k, alpha, seeds, found):
    """Run `search_blocks` for each query; found: `Found`, written."""
    for q in range(len(batch.ends)):
        query = query_of(lexicon, files, batch, q, True)
        n = search_blocks(files, query, space, k, alpha, seeds, batch.thresholds[q])
        _keep(query, space, n, q, found)


@kernel
def run_windows(lexicon, files, batch, space, k, found):
    """Run `search_windows` for each query; found: `Found`, written."""
    for q in range(len(batch.ends)):
        query = query_of(lexicon, files, batch, q, False)
        _keep(query, space, search_windows(files, query, space, k, batch.thresholds[q]), q, found)


@kernel
def run_maxscore(lexicon, files, batch, space, k, found):
    """Run `search_maxscore` for each query; found: `Found`, written."""
    for q in range(len(batch.ends)):
        query = query_of(lexicon, files, batch, q, False)
        _keep(query, space, search_maxscore(files, query, space, k), q, found)


@kernel
def _keep(query, space, n, q, found):
    found.docs[q, :n], found.scores[q, :n] = space.docs[:n], space.scores[:n]
    found.sizes[q], found.known[q] = n, len(query.weights)
