"""MaxScore, window by window. Exact, ties included, for 8-bit impacts.

Query terms are split by their upper bounds, the largest contributions that they can make to a score. Terms whose bounds
add up to less than the k-th best score so far can't lift a document into the top k by themselves. So only the lists of
the other, essential terms are scanned. The non-essential terms are then looked up in the documents found, as long as
these can still reach the threshold.

Like Lucene's bulk scorer, this kernel adds up the essential lists of a window in the accumulator, one after the other,
and then looks up the other terms, one by one, in the remaining documents.

Integer sums don't depend on the order of additions, and a bound is never below a score. So a document is dropped only
if it scores below the k-th best; on a tie it can still win by its number. Float sums have neither property.

Sources: Turtle, Flood 1995 (Query Evaluation: Strategies and Optimizations); MaxScoreBulkScorer of Apache Lucene 9.9,
also for the order in which terms become non-essential: by the smallest contribution per posting.
"""

from __future__ import annotations

import numpy as np

from lsr.index.kernels.block_max import by_cost
from lsr.index.kernels.exhaustive import collect, finish, scatter, seed, thin_out
from lsr.index.kernels.jit import inlined, kernel
from lsr.index.kernels.layout import (
    BEGIN,
    BLOCK,
    DENSE,
    DENSE_AT,
    DOCS_AT,
    END,
    FIRST_DOC,
    GAP_IMPACTS_AT,
    GAPS,
    GAPS_AT,
    IMPACTS_AT,
    N_DOCS,
    POSTINGS_SCORED,
    WINDOW,
    WINDOWS_SCANNED,
    disallow,
    is_live,
    number_of,
)

# Terms are non-essential while their bounds add up to less than 1 / _ASIDE of the threshold. Lucene uses the whole
# threshold; but then nearly every document in the essential lists can still reach it, and look-ups cost more than
# scans.
_ASIDE = 4


@kernel
def search_maxscore(files, query, space, k):
    """Find the k best documents for a query.

    Args:
        files: `Files` with 8-bit impacts.
        query: `Query`.
        space: `Space`; docs and scores receive the results by descending score, ties by ascending number.
        k: Number of documents.

    Returns:
        The number of results.
    """
    windows, upper_bounds, counts = files.windows, query.upper_bounds, space.counts
    n_terms = len(upper_bounds)
    cheap_first, heavy_first = by_cost(files, query, space), np.argsort(-upper_bounds)
    is_aside = np.empty(n_terms, np.bool_)
    essential, aside = np.empty(n_terms, np.int64), np.empty(n_terms, np.int64)
    docs, scores = np.empty(WINDOW, np.int64), np.empty(WINDOW, np.int32)
    found, threshold = 0, np.int32(1)
    for w in range(len(windows)):
        if not is_live(query, windows, w):
            continue
        rest = np.int64(0)
        for i in cheap_first:
            is_aside[i] = _ASIDE * (rest + upper_bounds[i]) < threshold
            if is_aside[i]:
                rest += upper_bounds[i]
        n_essential, n_aside = 0, 0
        for i in heavy_first:
            if is_aside[i]:
                aside[n_aside] = i
                n_aside += 1
            else:
                essential[n_essential] = i
                n_essential += 1
        touched = scatter(files, query, essential[:n_essential], w, space.accumulator)
        counts[POSTINGS_SCORED] += touched
        counts[WINDOWS_SCANNED] += n_aside == 0
        n = windows[w, N_DOCS]
        if touched:
            disallow(query, windows[w, FIRST_DOC], n, space.accumulator)
        if touched and n_aside:
            n = reaching(space.accumulator, n, threshold - rest, docs, scores)
            n = complete(files, query, aside[:n_aside], rest, w, threshold, docs, scores, n, counts)
            found, threshold = append(space, files.order, windows, w, docs, scores, n, k, found, threshold)
        elif touched:
            if found == 0:
                threshold = seed(space, n, k, threshold)
            found, threshold = collect(space, space.accumulator, files.order, windows, w, 0, n, k, found, threshold)
        if found > k + k // 4:
            found, threshold = thin_out(space, k, found, threshold)
    return finish(space, k, found)


@kernel
def reaching(accumulator, n_docs, required, docs, scores):
    """Collect the documents whose scores reach `required`, and clear the accumulator.

    Args:
        accumulator: (WINDOW,) int32, the window's scores.
        n_docs: Number of documents in the window.
        required: The score to reach, above zero.
        docs: (WINDOW,) int64, written: the documents, within the window, ascending.
        scores: (WINDOW,) int32, written.

    Returns:
        The number of documents collected.
    """
    n = 0
    for first in range(0, n_docs, BLOCK):  # vectorized, like `collect`
        sums = accumulator[first : first + BLOCK]
        reached = np.int32(0)
        for i in range(16):
            a = max(max(sums[i], sums[i + 16]), max(sums[i + 32], sums[i + 48]))
            b = max(max(sums[i + 64], sums[i + 80]), max(sums[i + 96], sums[i + 112]))
            reached |= np.int32(max(a, b) >= required)
        if reached:
            for run in range(0, BLOCK, 16):
                reached = np.int32(0)
                for i in range(16):
                    reached |= np.int32(sums[run + i] >= required)
                if reached:
                    for i in range(run, run + 16):
                        docs[n], scores[n] = first + i, sums[i]
                        n += np.int64((sums[i] >= required) & (first + i < n_docs))
        sums[:] = 0
    return n


@kernel
def complete(files, query, terms, rest, w, threshold, docs, scores, n, counts):
    """Look up terms in documents, and drop documents that can no longer reach the threshold.

    Args:
        files: `Files`.
        query: `Query`.
        terms: (n_terms,) int64, positions in the query, highest upper bound first.
        rest: The sum of the terms' upper bounds.
        w: The window.
        threshold: Smallest score of a result.
        docs: (WINDOW,) int64, documents within the window, ascending; changed to the remaining ones.
        scores: (WINDOW,) int32, their scores without these terms; changed.
        n: Number of documents.
        counts: `Space.counts`, changed.

    Returns:
        The number of remaining documents; their scores are complete.
    """
    windows, lists, weights, upper_bounds = files.windows, query.lists, query.weights, query.upper_bounds
    for i in terms:
        if n == 0:
            break
        counts[POSTINGS_SCORED] += n
        rest -= upper_bounds[i]
        if lists[i, w, DENSE] >= 0:
            row = windows[w, DENSE_AT] + lists[i, w, DENSE] * windows[w, N_DOCS]
            impacts = files.dense[row : row + windows[w, N_DOCS]]
            n = add_from_dense(impacts, weights[i], threshold - rest, docs, scores, n)
        elif lists[i, w, DENSE] == GAPS:
            begin, size = np.int64(lists[i, w, BEGIN]), np.int64(lists[i, w, END]) - lists[i, w, BEGIN]
            at, impacts_at = windows[w, GAPS_AT] + begin, windows[w, GAP_IMPACTS_AT] + begin
            gaps, impacts = files.gaps[at : at + size], files.gaps[impacts_at : impacts_at + size]
            n = add_from_gaps(gaps, impacts, weights[i], threshold - rest, docs, scores, n)
        else:
            begin, end = np.int64(lists[i, w, BEGIN]), np.int64(lists[i, w, END])
            list_docs = files.docs[windows[w, DOCS_AT] + begin : windows[w, DOCS_AT] + end]
            impacts = files.impacts[windows[w, IMPACTS_AT] + begin : windows[w, IMPACTS_AT] + end]
            n = add_from_list(list_docs, impacts, weights[i], threshold - rest, docs, scores, n)
    return n


@kernel
def add_from_dense(impacts, weight, required, docs, scores, n):
    """Add a dense row, (n_docs,) uint8, to the scores of n documents; keep and count those that reach `required`."""
    kept = 0
    for c in range(n):
        doc = docs[c]
        score = scores[c] + weight * np.int32(impacts[doc])
        docs[kept], scores[kept] = doc, score
        kept += np.int64(score >= required)
    return kept


@kernel
def add_from_list(list_docs, impacts, weight, required, docs, scores, n):
    """Add a list, (size,) uint16 and uint8, to the scores of n documents; otherwise like `add_from_dense`."""
    kept, at = 0, 0
    for c in range(n):
        doc, score = docs[c], scores[c]
        at = seek(list_docs, at, len(list_docs), doc)
        if at < len(list_docs) and list_docs[at] == doc:
            score += weight * np.int32(impacts[at])
        docs[kept], scores[kept] = doc, score
        kept += np.int64(score >= required)
    return kept


@kernel
def add_from_gaps(gaps, impacts, weight, required, docs, scores, n):
    """Add a list of gaps, (size,) uint8 and uint8, to the scores of n documents; otherwise like `add_from_dense`."""
    kept, at, there = 0, -1, np.int64(-1)
    for c in range(n):
        doc, score = docs[c], scores[c]
        while there < doc and at + 1 < len(gaps):
            at += 1
            there = max(there, 0) + np.int64(gaps[at])
        if there == doc:
            score += weight * np.int32(impacts[at])
        docs[kept], scores[kept] = doc, score
        kept += np.int64(score >= required)
    return kept


@kernel
def append(space, order, windows, w, docs, scores, n, k, found, threshold):
    """Append documents of window w if their scores reach `threshold`; arguments and result as for `collect`."""
    for c in range(n):
        if scores[c] >= threshold:
            space.docs[found] = number_of(order, windows, w, docs[c])
            space.scores[found] = scores[c]
            found += 1
            if found == len(space.docs):
                found, threshold = thin_out(space, k, found, threshold)
    return found, threshold


@inlined
def seek(docs, at, end, doc):
    """Return the position of the first document in docs[at:end] (ascending) that is at least `doc`, or `end`.

    Uses galloping search.
    """
    step = 1
    while at + step <= end and docs[at + step - 1] < doc:
        at += step
        step <<= 1
    size = min(step - 1, end - at)
    while size > 0:
        half = size >> 1
        if docs[at + half] < doc:
            at += half + 1
            size -= half + 1
        else:
            size = half
    return at
