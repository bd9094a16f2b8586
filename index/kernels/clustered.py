"""Approximate search by clusters: runs of similar documents with a summary each, and a forward index by cluster.

A summary holds the largest impact of each term in a cluster. Only the largest of these maxima are kept, until they
reach a given share of the sum of all, so a summary estimates the scores of the cluster's documents without being an
upper bound. Summaries are stored as lists by term. For the heaviest terms of a query, these lists are added up. The
clusters with the highest sums are scored first, which gives a threshold; then all clusters whose sums reach
`heap_factor` times the threshold are scored.

A cluster is scored exactly, with the whole query, in the same integers as in other algorithms: the query's terms are
looked up among the cluster's terms, and their postings are added to the scores of its documents. Most of the cost is
cache misses. Therefore terms are stored in groups that fill a cache line, and several clusters are scored together,
step by step, with prefetches one step ahead.

Sources: Seismic (Bruch, Nardini, Rulli, Venturini 2024, arXiv 2404.18812) for summaries, their pruning, `cut` and
`heap_factor`; Block-Max Pruning (arXiv 2405.01117) for the forward index by runs of documents. Seismic clusters each
list separately. Here, similar documents are stored side by side, so the same few summaries serve all lists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lsr.index.kernels.block_max import FOLD, highest
from lsr.index.kernels.exhaustive import thin_out
from lsr.index.kernels.jit import kernel, prefetch
from lsr.index.kernels.layout import BEGIN, BLOCKS_SCORED, DENSE, END, POSTINGS_SCORED, run_of

CLUSTER = 64  # documents of a cluster; at most 256, because a document's number within its cluster is a byte
GROUP = 16  # entries of a group: the start of its postings, and 15 terms; a group fills a cache line
_FURTHEST = (1 << 16) - 2  # largest distance of a term from its group's first term; this plus 1 marks an unused entry
_BATCH = 8  # clusters scored together
_SUM, _CHOSEN, _REACHED = range(3)  # rows of the scratch space; `highest` uses other rows


class Clusters(NamedTuple):
    """The files of clusters as arrays. The kernels check positions in the files before they use them.

    Attributes:
        doc_ends: (n_clusters,) uint64, end of each cluster's documents, in the order of storage.
        group_ends: (n_clusters,) uint64, end of each cluster's groups of terms.
        posting_ends: (n_clusters,) uint64, end of each cluster's postings.
        firsts: (n_groups,) uint32, the first term of each group, as a rank among the terms of the segment. Ascending
            within a cluster.
        groups: (n_groups * GROUP,) uint32. A group begins with the position of its first posting within the cluster's
            postings. Its terms follow, ascending. Each is 65536 times its distance from the group's first term, plus
            the end of its postings, counted from the group's first posting.
        postings: (n_postings,) uint16, by cluster, term and document: impact times 256 plus document within the
            cluster.
        summary_ends: (n_used,) uint64, end of each term's entries in the summaries.
        summary_clusters: (n_entries,) uint32, the cluster of each entry.
        summary_maxima: (n_entries,) uint8, the term's largest impact in this cluster.
    """

    doc_ends: Any
    group_ends: Any
    posting_ends: Any
    firsts: Any
    groups: Any
    postings: Any
    summary_ends: Any
    summary_clusters: Any
    summary_maxima: Any


# --- building ---------------------------------------------------------------------------------------------------------


@kernel
def group(ranks, lists, docs, impacts, dense, n_docs, group_ends, posting_ends, firsts, groups, maxima, postings):
    """Group the postings of a window by cluster and, within a cluster, by term and document.

    The kernel is called twice: with empty outputs, it only counts.

    Args:
        ranks: (n,) int64, the window's terms, ascending.
        lists: (n, 4) int64, their lists.
        docs: (n_postings,) uint16, the window's postings.
        impacts: (n_postings,) uint8.
        dense: (n_dense * n_docs,) uint8.
        n_docs: Number of documents in the window.
        group_ends: (n_clusters,) int64, start of each cluster's groups, changed to their end. In the counting
            call, zeros, changed to counts.
        posting_ends: (n_clusters,) int64, the same for each cluster's postings.
        firsts: (n_groups,) uint32, written; so are the following arrays.
        groups: (n_groups * GROUP,) uint32.
        maxima: (n_groups * GROUP,) uint8, the largest impact of each term in its cluster, 0 at unused places.
        postings: (n_postings,) uint16.
    """
    counting = len(firsts) == 0
    latest, first = np.full(len(group_ends), -1, np.int64), np.zeros(len(group_ends), np.int64)
    used, before = np.full(len(group_ends), GROUP, np.int64), posting_ends.copy()
    for i in range(len(ranks)):
        row = lists[i, DENSE]
        for p in range(0 if row >= 0 else lists[i, BEGIN], n_docs if row >= 0 else lists[i, END]):
            doc = p if row >= 0 else np.int64(docs[p])
            impact = np.int64(dense[row * n_docs + p] if row >= 0 else impacts[p])
            if impact == 0:
                continue
            c = doc // CLUSTER
            if latest[c] != i:
                latest[c] = i
                if used[c] == GROUP or ranks[i] - first[c] > _FURTHEST:
                    first[c], used[c] = ranks[i], 1
                    if not counting:
                        g = group_ends[c]
                        firsts[g] = ranks[i]
                        groups[g * GROUP : (g + 1) * GROUP] = (_FURTHEST + 1) << 16
                        groups[g * GROUP] = posting_ends[c] - before[c]
                    group_ends[c] += 1
                used[c] += 1
            if not counting:
                line = (group_ends[c] - 1) * GROUP
                at = line + used[c] - 1
                postings[posting_ends[c]] = impact << 8 | doc % CLUSTER
                maxima[at] = max(maxima[at], impact)
                end = posting_ends[c] + 1 - before[c] - groups[line]
                groups[at] = (ranks[i] - first[c]) << 16 | end
            posting_ends[c] += 1


@kernel
def summarize(group_ends, maxima, mass, kept):
    """Choose each cluster's largest maxima, up to a share of the sum of its maxima; equal maxima are chosen together.

    Args:
        group_ends: (n_clusters,) int64.
        maxima: (n_groups * GROUP,) uint8, 0 at unused places.
        mass: The share, above 0 and at most 1.
        kept: (n_groups * GROUP,) bool, written.
    """
    begin = 0
    for end in group_ends * GROUP:
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


class Docs(NamedTuple):
    """The documents of a segment with clusters.

    Attributes:
        order: (n_docs,) uint32, the number of the document at each place; empty if places and numbers are the same.
        n_docs: Number of documents.
        base: Number of the first document.
        allowed: (n_docs,) uint8 by place, 0 for documents to exclude; empty to exclude none.
    """

    order: Any
    n_docs: Any
    base: Any
    allowed: Any


@kernel
def search_clusters(clusters, query, heaviest, docs, scratch, space, k, heap_factor, seeds, found, threshold):
    """Append the best documents of the clusters that are visited; their scores are exact.

    Args:
        clusters: `Clusters`.
        query: (ranks, weights): (n,) int64, the query's terms, ascending, and (n,) int32.
        heaviest: (at most cut,) int64, positions in the query of the terms whose summaries are added up.
        docs: `Docs`.
        scratch: (6, n_clusters rounded up to a multiple of FOLD, or more) int32; its first row is all zero before and
            after.
        space: `Space`; docs and scores are the results so far.
        k: Number of documents.
        heap_factor: Clusters whose sums are below heap_factor times the k-th best score are skipped.
        seeds: Number of clusters with the highest sums that are scored first, at least 1.
        found: Number of results so far, from earlier segments.
        threshold: Smallest score of a result.

    Returns:
        The new number of results, and the new threshold.
    """
    sums, chosen = scratch[_SUM], scratch[_CHOSEN]
    positions = np.empty((_BATCH, len(query[0])), np.int64)
    scores = np.zeros((_BATCH, 256), np.int32)
    add_summaries(clusters, query, heaviest, sums)
    if len(docs.allowed):
        disallow_clusters(clusters, docs, sums)
    waiting = choose(sums, highest(sums, seeds, scratch), scratch)
    for at in range(0, waiting, _BATCH):
        part = chosen[at : min(at + _BATCH, waiting)]
        found, threshold = score_clusters(clusters, query, part, docs, positions, scores, space, k, found, threshold)
    if found >= k:
        found, threshold = thin_out(space, k, found, threshold)
    waiting = choose(sums, max(heap_factor * threshold, 1.0), scratch)
    at = 0
    while at < waiting:
        n = 0
        while at < waiting and n < _BATCH:
            if scratch[_REACHED, at] >= heap_factor * threshold:
                chosen[n] = chosen[at]
                n += 1
            at += 1
        part = chosen[:n]
        found, threshold = score_clusters(clusters, query, part, docs, positions, scores, space, k, found, threshold)
    sums[:] = 0
    return found, threshold


@kernel
def disallow_clusters(clusters, docs, sums):
    """Set the sums of clusters without allowed documents to 0; sums: (n,) int32, changed."""
    for c in range(len(clusters.doc_ends)):
        if sums[c]:
            begin, end = run_of(clusters.doc_ends, 0, c, docs.n_docs)
            if not np.any(docs.allowed[begin:end]):
                sums[c] = 0


@kernel
def add_summaries(clusters, query, heaviest, sums):
    """Add up the summaries of some query terms over all clusters; sums: (n,) int32, changed."""
    ranks, weights = query
    n_clusters, n_entries = len(clusters.doc_ends), len(clusters.summary_maxima)
    for i in heaviest:
        begin, end = run_of(clusters.summary_ends, 0, ranks[i], n_entries)
        for e in range(begin, end, 16):
            prefetch(clusters.summary_clusters, e)
        for e in range(begin, end, 64):
            prefetch(clusters.summary_maxima, e)
    for i in heaviest:
        begin, end = run_of(clusters.summary_ends, 0, ranks[i], n_entries)
        weight, owners, maxima = weights[i], clusters.summary_clusters[begin:end], clusters.summary_maxima[begin:end]
        for e in range(len(maxima)):
            if owners[e] < n_clusters:
                sums[owners[e]] += weight * np.int32(maxima[e])


@kernel
def choose(sums, required, scratch):
    """List the clusters whose sums reach `required`, and set these sums to zero; return the number of clusters."""
    chosen, threshold = 0, np.int32(min(np.ceil(required), 2.0**31 - 1))
    for run in range(0, len(sums), FOLD):
        s, reached = sums[run : run + FOLD], np.int32(0)
        for i in range(16):
            a = max(max(s[i], s[i + 16]), max(s[i + 32], s[i + 48]))
            b = max(max(s[i + 64], s[i + 80]), max(s[i + 96], s[i + 112]))
            reached |= np.int32(max(a, b) >= threshold)
        if reached:
            for i in range(FOLD):
                if s[i] >= threshold:
                    scratch[_CHOSEN, chosen], scratch[_REACHED, chosen] = run + i, s[i]
                    s[i] = 0
                    chosen += 1
    return chosen


@kernel
def score_clusters(clusters, query, chosen, docs, positions, scores, space, k, found, threshold):
    """Score all documents of some clusters, at most _BATCH; append those that reach `threshold`.

    Args:
        clusters: `Clusters`.
        query: As for `search_clusters`.
        chosen: (at most _BATCH,) int32, the clusters.
        docs: `Docs`.
        positions: (_BATCH, n) int64, scratch.
        scores: (_BATCH, 256) int32, zero before and after.
        space: `Space`; docs and scores are the results so far.
        k: Number of documents.
        found: Number of results so far.
        threshold: Smallest score of a result, above zero.

    Returns:
        The new number of results, and the new threshold.
    """
    ranks, weights = query
    firsts, groups, postings = clusters.firsts, clusters.groups, clusters.postings
    n_groups, n_postings, scored = min(len(firsts), len(groups) // GROUP), len(postings), 0
    order, allowed, n_docs, base = docs.order, docs.allowed, docs.n_docs, docs.base
    for c in chosen:
        prefetch(clusters.group_ends, c)
        prefetch(clusters.posting_ends, c)
        prefetch(clusters.doc_ends, c)
    for c in chosen:
        begin, end = run_of(clusters.group_ends, 0, c, n_groups)
        for g in range(begin, end, 16):
            prefetch(firsts, g)
    # Find the group that may contain each term: the last group that begins at or before the term.
    for x in range(len(chosen)):
        begin, end = run_of(clusters.group_ends, 0, chosen[x], n_groups)
        for i in range(len(ranks)):
            g, n = begin, end - begin
            while n > 1:  # branch-free binary search
                half = n >> 1
                g = g + half if firsts[g + half] <= ranks[i] else g
                n -= half
            there = n == 1 and firsts[g] <= ranks[i] and ranks[i] - firsts[g] <= _FURTHEST
            positions[x, i] = g * GROUP if there else -1
            prefetch(groups, g * GROUP)
    for x in range(len(chosen)):
        first, last = run_of(clusters.posting_ends, 0, chosen[x], n_postings)
        for i in range(len(ranks)):
            at = positions[x, i]
            if at >= 0:
                start, distance = first + groups[at], ranks[i] - firsts[at // GROUP]
                for half in (8, 4, 2, 1):
                    at = at + half if groups[at + half] >> 16 <= distance else at
                positions[x, i] = at if groups[at] >> 16 == distance else -1
                prefetch(postings, start + (groups[at - 1] & 0xFFFF if at % GROUP > 1 else 0))
    for x in range(len(chosen)):
        sums = scores[x]
        first, last = run_of(clusters.posting_ends, 0, chosen[x], n_postings)
        for i in range(len(ranks)):
            at, weight = positions[x, i], weights[i]
            if at >= 0:
                start = first + groups[at - at % GROUP]
                begin = start + (groups[at - 1] & 0xFFFF if at % GROUP > 1 else 0)
                end = min(start + (groups[at] & 0xFFFF), last)
                for p in range(begin, end):
                    sums[postings[p] & 0xFF] += weight * np.int32(postings[p] >> 8)
                scored += max(end - begin, 0)
        begin, end = run_of(clusters.doc_ends, 0, chosen[x], n_docs)
        for place in range(begin, min(end, begin + CLUSTER)):
            if sums[place - begin] >= threshold and (len(allowed) == 0 or allowed[place]):
                space.docs[found] = base + (np.int64(order[place]) if len(order) else place)
                space.scores[found] = sums[place - begin]
                found += 1
                if found == len(space.docs):
                    found, threshold = thin_out(space, k, found, threshold)
        sums[:] = 0
    space.counts[BLOCKS_SCORED] += len(chosen)
    space.counts[POSTINGS_SCORED] += scored
    if found > k + k // 4:
        found, threshold = thin_out(space, k, found, threshold)
    return found, threshold
