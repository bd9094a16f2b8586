"""Order a segment's documents so that similar ones are stored next to each other and search can skip more blocks.

Documents are ordered by recursive graph bisection. On a million documents, bisection takes long, and it spreads groups
of similar documents over both halves because all terms of a document count equally. So documents of a large segment are
clustered first; bisection then orders the clusters, and the documents within runs of neighbouring clusters.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.console import progress
from lsr.index.kernels.bisection import average, halve, nearest, order_run, reduce_rows
from lsr.index.kernels.layout import BLOCK

# Number of heaviest terms used per document, and per cluster. Terms in more than 1/_COMMON of the documents, or in
# fewer than _RARE documents, don't help to place a document.
_KEEP, _KEEP_OF_CLUSTER = 32, 48
_COMMON, _RARE = 50, 4
_PER_CLUSTER, _MOST_CLUSTERS = 64, 1 << 15  # average number of documents per cluster; maximum number of clusters
_CLUSTERED_FROM = 1 << 18  # segments with at least this many documents are clustered first
_SAMPLED = 16  # documents sampled per cluster to learn the centres
_DEPTHS = (16, 24, 24)  # terms per document used in each round; the last round assigns all documents
_RUN = 32  # blocks that bisection refines together
_ITERATIONS = 10
_PART = 1 << 14  # documents per thread at a time
_DENSE_VOCABULARY = 1 << 22  # for a smaller vocabulary, an array has an entry for each term


@dataclass(frozen=True)
class Reduced:
    """Documents reduced to their heaviest terms.

    Attributes:
        indptr: (n_docs + 1,) int64.
        terms: (nnz,) uint16 or uint32, each document's heaviest terms, heaviest first.
        n_terms: Upper bound of terms, exclusive.
    """

    indptr: NDArray[np.int64]
    terms: NDArray[Any]
    n_terms: int


def reduce_documents(
    indptr: NDArray[np.int64],
    terms: NDArray[np.uint32],
    weights: NDArray[np.float32],
    used: NDArray[np.int64],
    df: NDArray[np.int64],
    *,
    threads: int = 0,
) -> Reduced:
    """Reduce documents to their heaviest terms; a term takes 2 or 4 bytes.

    Args:
        indptr: (n_docs + 1,).
        terms: (nnz,), may be mapped from a file.
        weights: (nnz,), may be mapped from a file.
        used: (n_used,), the terms that occur, ascending.
        df: (n_used,), their document frequencies.
        threads: Number of threads; 0 for one per core.
    """
    n_docs = len(indptr) - 1
    telling = (df >= _RARE) & (df * _COMMON <= n_docs)
    n_terms = int(telling.sum())
    # The new number of each term, -1 if it is dropped. For a large vocabulary, only terms that occur have an entry.
    sparse = len(used) > 0 and int(used[-1]) >= _DENSE_VOCABULARY
    number = np.full(len(used) if sparse else int(used.max(initial=-1)) + 1, -1, np.int32)
    number[telling if sparse else used[telling]] = np.arange(n_terms, dtype=np.int32)
    dtype = np.uint16 if n_terms <= 1 << 16 else np.uint32

    def part(begin: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        rows = indptr[begin : begin + _PART + 1]
        out_indptr = np.zeros(len(rows), np.int64)
        out = np.empty(int(np.minimum(np.diff(rows), _KEEP).sum()), dtype)
        at = slice(rows[0], rows[-1])
        here = np.searchsorted(used, terms[at]).astype(np.uint32) if sparse else terms[at]
        reduce_rows(rows - rows[0], here, weights[at], number, _KEEP, out_indptr, out)
        return np.diff(out_indptr), out[: out_indptr[-1]]

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        parts = list(pool.map(part, range(0, n_docs, _PART)))
    lengths = [np.zeros(1, np.int64), *(lengths for lengths, _ in parts)]
    return Reduced(
        np.cumsum(np.concatenate(lengths)), np.concatenate([np.empty(0, dtype), *(rows for _, rows in parts)]), n_terms
    )


def document_order(documents: Reduced, *, align: int = BLOCK, threads: int = 0) -> NDArray[np.int64]:
    """Order documents so that similar ones are near each other; the result doesn't depend on the number of threads.

    Args:
        documents: The documents.
        align: Order within runs of this length doesn't matter.
        threads: Number of threads; 0 for one per core.

    Returns:
        (n_docs,) int64, documents in their new order; documents without terms are at the end.
    """
    filled = np.diff(documents.indptr) > 0
    docs, empty = np.flatnonzero(filled), np.flatnonzero(~filled)
    n_clusters = min(len(docs) // _PER_CLUSTER, _MOST_CLUSTERS) if len(docs) >= _CLUSTERED_FROM else 0
    clustered = n_clusters > 1
    # The progress bar has a step for each document assigned to a cluster (several for sampled documents), and one for
    # each document ordered.
    steps = len(docs) * (1 + clustered) + clustered * (len(_DEPTHS) - 1) * _n_sampled(docs, n_clusters)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool, progress(steps, "ordering", "steps") as bar:
        if clustered:
            docs = _by_cluster(documents, docs, n_clusters, pool, bar.update)
        _bisect(documents, docs, align, _RUN * align if clustered else len(docs), pool, bar.update)
    return np.concatenate((docs, empty))


def _by_cluster(
    documents: Reduced, docs: NDArray[np.int64], n_clusters: int, pool: ThreadPoolExecutor, done: Callable[[int], Any]
) -> NDArray[np.int64]:
    """Return documents by cluster, with similar clusters near each other."""
    rng = np.random.default_rng(0)
    centres = np.sort(rng.choice(docs, n_clusters, replace=False))
    sample = np.sort(rng.choice(docs, _n_sampled(docs, n_clusters), replace=False))
    clusters = _averages(documents, centres, np.arange(n_clusters, dtype=np.int32), n_clusters)
    for depth in _DEPTHS[:-1]:
        clusters = _averages(documents, sample, _nearest(documents, sample, clusters, depth, pool, done), n_clusters)
    nearest_of = _nearest(documents, docs, clusters, _DEPTHS[-1], pool, done)
    layout = np.arange(n_clusters)
    _bisect(clusters[0], layout, 1, n_clusters, pool, lambda _: None)
    place = np.empty(n_clusters, np.int64)
    place[layout] = np.arange(n_clusters)
    return docs[np.argsort(place[nearest_of], kind="stable")]


def _n_sampled(docs: NDArray[np.int64], n_clusters: int) -> int:
    return min(_SAMPLED * n_clusters, len(docs))


def _nearest(
    documents: Reduced,
    docs: NDArray[np.int64],
    clusters: tuple[Reduced, NDArray[np.float32]],
    depth: int,
    pool: ThreadPoolExecutor,
    done: Callable[[int], Any],
) -> NDArray[np.int32]:
    """Return (n,) int32: the nearest cluster of each document. `done` is called with numbers of documents done."""
    centres, values = clusters
    size = len(centres.indptr) - 1
    by_term = np.argsort(centres.terms, kind="stable")
    ends = np.cumsum(np.bincount(centres.terms, minlength=documents.n_terms))
    owners = np.repeat(np.arange(size, dtype=np.int32), np.diff(centres.indptr))[by_term]
    sorted_values = values[by_term]
    out = np.empty(len(docs), np.int32)

    def part(begin: int) -> int:
        at = slice(begin, begin + _PART)
        nearest(documents.indptr, documents.terms, docs[at], ends, owners, sorted_values, size, depth, out[at])
        return len(docs[at])

    for n in pool.map(part, range(0, len(docs), _PART)):
        done(n)
    return out


def _averages(
    documents: Reduced, docs: NDArray[np.int64], cluster: NDArray[np.int32], n_clusters: int
) -> tuple[Reduced, NDArray[np.float32]]:
    """Return the mean document of each cluster, and the weights of its terms."""
    by_cluster = docs[np.argsort(cluster, kind="stable")]
    ends = np.cumsum(np.bincount(cluster, minlength=n_clusters))
    indptr = np.zeros(n_clusters + 1, np.int64)
    terms = np.empty(n_clusters * _KEEP_OF_CLUSTER, np.int32)
    values = np.empty(n_clusters * _KEEP_OF_CLUSTER, np.float32)
    average(
        documents.indptr, documents.terms, by_cluster, ends, documents.n_terms, _KEEP_OF_CLUSTER, indptr, terms, values
    )
    return Reduced(indptr, terms[: indptr[-1]], documents.n_terms), values[: indptr[-1]]


def _bisect(
    documents: Reduced,
    places: NDArray[np.int64],
    align: int,
    run: int,
    pool: ThreadPoolExecutor,
    done: Callable[[int], Any],
) -> None:
    """Order each run of documents by bisection, in place. `done` is called with numbers of documents done."""
    n = len(documents.indptr) - 1
    logs = np.log2(np.maximum(np.arange(n + 3), 1)).astype(np.float32)
    sides, keys = np.empty(n, np.uint8), np.empty(n, np.float32)
    local = threading.local()
    # A run of up to this size is ordered by one thread; a longer run is halved first.
    small = max(len(places) // 16, align)

    def order(begin: int, end: int) -> list[tuple[int, int]]:
        if not hasattr(local, "scratch"):
            size = documents.n_terms
            local.scratch = np.zeros((2, size), np.int32), np.empty((2, size), np.float32), np.empty(size, np.int32)
        arguments = (documents.indptr, documents.terms, places, begin, end, align, _ITERATIONS, sides)
        if end - begin <= small:
            order_run(*arguments, *local.scratch, keys, logs)
            return []
        middle = int(halve(*arguments, *local.scratch, keys, logs))
        return [(begin, middle), (middle, end)]

    running: deque[tuple[int, Future[list[tuple[int, int]]]]] = deque()

    def submit(begin: int, end: int) -> None:
        running.append((end - begin, pool.submit(order, begin, end)))

    for begin in range(0, len(places), max(run, 1)):
        submit(begin, min(begin + run, len(places)))
    while running:
        n, result = running.popleft()
        halves = result.result()
        for half in halves:
            submit(*half)
        if not halves:
            done(n)
