"""Approximate search by clusters: runs of similar documents, a summary of each, and a forward index cluster by cluster.

A summary holds the largest impact of each term in a cluster, as far as the larger ones make up a given share of the
sum of all; it tells what the cluster's documents may score, without being a bound. Summaries are kept as lists by term:
for the heaviest terms of a query they are added up over all clusters. The clusters of the highest sums are scored
first, which gives a score to reach; then all those whose sums reach `heap_factor` times that score.

A cluster is scored exactly, with the whole query, in the integers of all other algorithms: its terms are searched for
those of the query, and their postings are added up over its documents. What this costs is cache misses, so it is done
for several clusters at a time, and what the next step reads is asked for in the one before.

Sources: Seismic (Bruch, Nardini, Rulli, Venturini 2024, arXiv 2404.18812) for summaries, their pruning, `cut` and
`heap_factor`; Block-Max Pruning (arXiv 2405.01117) for the forward index by runs of documents. Seismic clusters each
list on its own: where similar documents are stored side by side, the same few summaries serve all lists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .blocks import highest
from .exhaustive import finish, thin_out
from .jit import kernel, prefetch
from .lists import BEGIN, BLOCKS_SCORED, DENSE, END, POSTINGS_SCORED

CLUSTER = 32  # documents of a cluster; at most 256, since a document within its cluster is a byte
_BATCH = 8  # clusters that are scored together
_SUM, _CHOSEN, _REACHED = range(3)  # rows of the scratch space; `highest` uses others


class Clusters(NamedTuple):
    """The files of clusters as arrays. Nothing of what they say is trusted to lie within them.

    Attributes:
        doc_ends: (n_clusters,) uint64, where the documents of each cluster end, in the order of storage.
        term_ends: (n_clusters,) uint64, where its terms end.
        posting_ends: (n_clusters,) uint64, where its postings end.
        terms: (n,) uint16 or uint32, the terms of each cluster, ascending, as places among the terms of the index.
        ends: (n,) uint32, where each term's postings end among those of the cluster.
        docs: (n_postings,) uint8, documents within their clusters, by cluster and term.
        impacts: (n_postings,) uint8.
        summary_ends: (n_used,) uint64, where the summaries' entries of each term end.
        summary_clusters: (n_entries,) uint32, the cluster of each.
        summary_maxima: (n_entries,) uint8, the largest impact there.
    """

    doc_ends: Any
    term_ends: Any
    posting_ends: Any
    terms: Any
    ends: Any
    docs: Any
    impacts: Any
    summary_ends: Any
    summary_clusters: Any
    summary_maxima: Any


# --- building ---------------------------------------------------------------------------------------------------------


@kernel
def group(ranks, lists, docs, impacts, dense, n_docs, term_ends, posting_ends, terms, ends, maxima, out_docs, out):
    """Group the postings of a window by cluster and, within a cluster, by term and document.

    Called twice: with empty outputs it only counts.

    Args:
        ranks: (n,) int64, the window's terms, ascending.
        lists: (n, 4) int64, their lists.
        docs: (n_postings,) uint16, the window's.
        impacts: (n_postings,) uint8.
        dense: (n_dense * n_docs,) uint8.
        n_docs: The window's documents.
        term_ends: (n_clusters,) int64, when counting zero, and what is counted is written; else where the terms of each
            cluster begin, and where they end is written.
        posting_ends: (n_clusters,) int64, the same of its postings.
        terms: (sum of terms,) written; as are the following.
        ends: (sum of terms,) uint32.
        maxima: (sum of terms,) uint8, the largest impact of each term of a cluster.
        out_docs: (sum of postings,) uint8.
        out: (sum of postings,) uint8, their impacts.
    """
    latest, first = np.full(len(term_ends), -1, np.int64), posting_ends.copy()
    counting = len(terms) == 0
    for i in range(len(ranks)):
        row = lists[i, DENSE]
        for p in range(0 if row >= 0 else lists[i, BEGIN], n_docs if row >= 0 else lists[i, END]):
            doc = p if row >= 0 else np.int64(docs[p])
            impact = dense[row * n_docs + p] if row >= 0 else impacts[p]
            if impact == 0:
                continue
            c = doc // CLUSTER
            if latest[c] != i:
                latest[c] = i
                if not counting:
                    terms[term_ends[c]], maxima[term_ends[c]] = ranks[i], 0
                term_ends[c] += 1
            if not counting:
                out_docs[posting_ends[c]], out[posting_ends[c]] = doc % CLUSTER, impact
                ends[term_ends[c] - 1] = posting_ends[c] + 1 - first[c]
                maxima[term_ends[c] - 1] = max(maxima[term_ends[c] - 1], impact)
            posting_ends[c] += 1


@kernel
def summarize(term_ends, maxima, mass, kept):
    """Choose the largest maxima of each cluster, as many as make up a share of their sum, and those that equal them.

    Args:
        term_ends: (n_clusters,) int64.
        maxima: (n,) uint8.
        mass: The share, above 0 and at most 1.
        kept: (n,) bool, written.
    """
    begin = 0
    for end in term_ends:
        counts, total = np.zeros(256, np.int64), 0
        for i in range(begin, end):
            counts[maxima[i]] += 1
            total += maxima[i]
        least, reached = 256, 0
        while least > 1 and reached < mass * total:
            least -= 1
            reached += least * counts[least]
        for i in range(begin, end):
            kept[i] = maxima[i] >= least
        begin = end


# --- searching --------------------------------------------------------------------------------------------------------


@kernel
def search_clusters(clusters, ranks, weights, heaviest, order, n_docs, scratch, space, k, heap_factor, seeds):
    """The k best documents of those in the clusters that are looked into; their scores are exact.

    Args:
        clusters: `Clusters`.
        ranks: (n,) int64, the query's terms, ascending.
        weights: (n,) int32.
        heaviest: (cut,) int64, the places in the query of the terms whose summaries are added up.
        order: (n_docs,) uint32, document numbers by place, or empty.
        n_docs: Documents of the index.
        scratch: (6, n_clusters rounded up to a multiple of FOLD) int32, the first row zero, and again afterwards.
        space: `Space`; of it docs and scores hold the result, by descending score, equal ones by ascending number.
        k: How many.
        heap_factor: Clusters are left out whose sums fall short of so many times the k-th best score.
        seeds: How many clusters of the highest sums are scored first, at least 1.

    Returns:
        How many were found.
    """
    sums = scratch[_SUM]
    space.counts[:] = 0
    add_summaries(clusters, ranks, weights, heaviest, sums)
    found, least = 0, np.int32(1)
    positions = np.empty((_BATCH, len(ranks)), np.int64)
    scores = np.zeros((_BATCH, 256), np.int32)
    chosen = choose(sums, highest(sums, seeds, scratch), scratch)
    for at in range(0, chosen, _BATCH):
        n = min(_BATCH, chosen - at)
        found, least = score_clusters(
            clusters, ranks, weights, scratch[_CHOSEN, at : at + n], order, n_docs, positions, scores, space, k, found, least
        )
    if found >= k:
        found, least = thin_out(space, k, found, least)
    chosen = choose(sums, max(heap_factor * least, 1.0), scratch)
    at = 0
    while at < chosen:
        n, need = 0, heap_factor * least
        while at < chosen and n < _BATCH:
            if scratch[_REACHED, at] >= need:
                scratch[_CHOSEN, n] = scratch[_CHOSEN, at]
                n += 1
            at += 1
        found, least = score_clusters(
            clusters, ranks, weights, scratch[_CHOSEN, :n], order, n_docs, positions, scores, space, k, found, least
        )
    sums[:] = 0
    return finish(space, k, found)


@kernel
def add_summaries(clusters, ranks, weights, heaviest, sums):
    """Add up over all clusters what the summaries hold of some terms of a query; sums: (n,) int32, changed."""
    n_clusters, n_entries = len(clusters.doc_ends), len(clusters.summary_maxima)
    for i in heaviest:
        rank, weight = ranks[i], weights[i]
        begin = np.int64(clusters.summary_ends[rank - 1]) if rank else 0
        end = min(np.int64(clusters.summary_ends[rank]), n_entries)
        for e in range(max(begin, 0), end):
            c = np.int64(clusters.summary_clusters[e])
            if c < n_clusters:
                sums[c] += weight * np.int32(clusters.summary_maxima[e])


@kernel
def choose(sums, need, scratch):
    """List the clusters whose sums reach `need`, and set these sums to zero; returns how many there are."""
    chosen, least = 0, np.int32(min(np.ceil(need), 2.0**31 - 1))
    for run in range(0, len(sums), 16):
        reached = np.int32(0)
        part = sums[run : run + 16]
        for i in range(16):
            reached |= np.int32(part[i] >= least)
        if reached:
            for c in range(run, run + 16):
                if sums[c] >= least:
                    scratch[_CHOSEN, chosen], scratch[_REACHED, chosen] = c, sums[c]
                    sums[c] = 0
                    chosen += 1
    return chosen


@kernel
def score_clusters(clusters, ranks, weights, chosen, order, n_docs, positions, scores, space, k, found, least):
    """Score all documents of some clusters, at most _BATCH; append those that reach `least`.

    Args:
        clusters: `Clusters`.
        ranks: (n,) int64, the query's terms, ascending.
        weights: (n,) int32.
        chosen: (at most _BATCH,) int32, the clusters.
        order: (n_docs,) uint32, or empty.
        n_docs: Documents of the index.
        positions: (_BATCH, n) int64, scratch.
        scores: (_BATCH, 256) int32, zero; zero again afterwards.
        space: `Space`; docs and scores are those found.
        k: How many documents are wanted.
        found: How many there are so far.
        least: The score to reach, above zero.

    Returns:
        How many there are now, and the score to reach.
    """
    size = len(clusters.docs)
    for c in chosen:
        begin, end = run_of(clusters.term_ends, c, len(clusters.terms))
        for at in range(begin, end, 64 // clusters.terms.itemsize):
            prefetch(clusters.terms, at)
    for x in range(len(chosen)):
        begin, end = run_of(clusters.term_ends, chosen[x], len(clusters.terms))
        for i in range(len(ranks)):
            at, n = begin, end - begin
            while n > 1:  # by halves, without a branch
                half = n >> 1
                at = at + half if clusters.terms[at + half] <= ranks[i] else at
                n -= half
            positions[x, i] = at if n == 1 and clusters.terms[at] == ranks[i] else -1
            prefetch(clusters.ends, at)
    for x in range(len(chosen)):
        begin, _ = run_of(clusters.posting_ends, chosen[x], size)
        for i in range(len(ranks)):
            if positions[x, i] > 0:
                at = begin + clusters.ends[positions[x, i] - 1]
                prefetch(clusters.docs, at)
                prefetch(clusters.impacts, at)
    for x in range(len(chosen)):
        c, sums = chosen[x], scores[x]
        first_term, _ = run_of(clusters.term_ends, c, len(clusters.terms))
        first, last = run_of(clusters.posting_ends, c, size)
        for i in range(len(ranks)):
            at, weight = positions[x, i], weights[i]
            if at >= 0:
                begin = first + (np.int64(clusters.ends[at - 1]) if at > first_term else 0)
                end = min(first + np.int64(clusters.ends[at]), last)
                for p in range(begin, end):
                    sums[clusters.docs[p]] += weight * np.int32(clusters.impacts[p])
                space.counts[POSTINGS_SCORED] += max(end - begin, 0)
        begin, end = run_of(clusters.doc_ends, c, n_docs)
        for place in range(begin, min(end, begin + CLUSTER)):
            if sums[place - begin] >= least:
                space.docs[found] = order[place] if len(order) else place
                space.scores[found] = sums[place - begin]
                found += 1
                if found == len(space.docs):
                    found, least = thin_out(space, k, found, least)
        sums[:] = 0
    space.counts[BLOCKS_SCORED] += len(chosen)
    if found > k + k // 4:
        found, least = thin_out(space, k, found, least)
    return found, least


@kernel
def run_of(ends, number, size):
    """Where a run begins and where it ends, both within 0..size; ends: (n,) uint64."""
    begin = min(max(np.int64(ends[number - 1]), 0), size) if number else 0
    return begin, min(max(np.int64(ends[number]), begin), size)
