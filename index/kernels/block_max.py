"""Exact block-max search: compute upper bounds for all blocks, then score only blocks that can reach the top k.

Longer lists store the largest impact of each block of 128 documents, so the bounds of all blocks are sums of byte rows.
Shorter lists store no maxima, because reading their postings costs no more. A search has two steps:

1. the blocks with the highest bounds ("seeds") are scored, which yields a threshold close to the final one;
2. every other block whose bound reaches the threshold is a candidate. Each window is processed in the cheapest of three
   ways:
   - few candidates are scored term by term, heaviest first, by looking their postings up in the lists. After each
     term, a block is dropped if its best document so far, plus the bounds of the other terms, is below the threshold;
   - many candidates are scored as in MaxScore: terms that together can't reach the threshold (long lists with low
     weights) are set aside, and the lists of the other terms are scanned. The terms set aside are then looked up in the
     blocks where the best document so far, plus the bounds of these terms, reaches the threshold;
   - otherwise, the whole window is scanned, as in the exhaustive kernel.

Bounds and scores are sums of the same int32 products, so a bound is never rounded below a score. A block is dropped
only if its bound is strictly below the k-th best score, so ties are broken as in the exhaustive kernel.

Cache misses (about 0.2 µs each) take most of the time. So postings are looked up for many blocks at a time and
prefetched well before they are read.

Sources: Block-Max Pruning (Mallia, Suel, Tonellotto 2024, arXiv 2405.01117) for block bounds over learned impacts and
for alpha; superblock pruning (arXiv 2504.17045, 2602.02883) for scoring a number of blocks regardless of alpha;
MaxScore (Turtle, Flood 1995), and its windowed form in Lucene, for splitting the terms.
"""

from __future__ import annotations

import math

import numpy as np

from lsr.index.kernels.exhaustive import collect, finish, scatter, seed, thin_out
from lsr.index.kernels.gaps import add_gaps
from lsr.index.kernels.jit import inlined, kernel, prefetch
from lsr.index.kernels.layout import (
    BEGIN,
    BLOCK,
    BLOCKS_SCORED,
    BOUNDS,
    DENSE,
    DENSE_AT,
    DOCS_AT,
    END,
    FIRST_BLOCK,
    FIRST_DOC,
    GAP_IMPACTS_AT,
    GAPS,
    GAPS_AT,
    IMPACTS_AT,
    LOOKUPS,
    MAXIMA_AT,
    N_DOCS,
    POSTINGS,
    POSTINGS_SCORED,
    ROW,
    ROW_UNIT,
    SKIP,
    SKIP_UNIT,
    SKIPS_AT,
    WINDOWS_SCANNED,
    cost,
    count_blocks,
    count_skips,
    disallow,
)
from lsr.index.kernels.topk import select, sort

FOLD = 128  # the number of blocks is rounded up to a multiple of this, so that loops over bounds vectorize
_CHUNK = 64  # blocks scored together: their accumulators just fit the L1 cache
_AHEAD = 4  # rows of maxima between the row that is prefetched and the row that is read
_GROUP = 16  # windows whose bounds are computed together: their data fits the L2 cache
# The first three are costs in postings: looking up a term in a candidate block, looking it up in a seed, and clearing a
# window's accumulator. After lists are scanned, one of _LEFT_OVER candidates is expected to be left.
_LOOKUP, _SEED_LOOKUP, _SCAN, _LEFT_OVER = 60, 250, 8192, 4
# Rows of the scratch space: the bound of each block; then, for each chosen block, its number within the window, the
# window, the bound of the remaining terms, and the best score so far; and which blocks of the current chunk are alive.
_BOUND, _BLOCK, _WINDOW, _REST, _BEST, _ALIVE = range(6)


@kernel
def search_blocks(files, query, space, k, alpha, seeds, threshold):
    """Find the k best documents for a query; exact if alpha is 1.

    Args:
        files: `Files` with 8-bit impacts.
        query: `Query`, heaviest term first.
        space: `Space`; docs and scores receive the results by descending score, ties by ascending number.
        k: Number of documents.
        alpha: Blocks are dropped if alpha times their bound is below the threshold. With an alpha below 1, search is
            approximate.
        seeds: Number of blocks that are always scored, at least 1: the blocks with the highest bounds.
        threshold: Initial threshold, int32, at least 1; lower scores are left out.

    Returns:
        The number of results.
    """
    windows, scratch, bounds = files.windows, space.blocks, space.blocks[_BOUND]
    n_windows, n_terms = len(windows), len(query.weights)
    every = np.arange(n_terms)
    bounds[:] = 0
    for first in range(0, n_windows, _GROUP):
        add_bounds(files, query, first, min(first + _GROUP, n_windows), bounds)
    for b in range(len(query.live)):  # blocks without an allowed document are never candidates
        bounds[b] *= query.live[b]

    whole = np.zeros(n_windows, np.int64)  # cost of scanning each window
    for w in range(n_windows):
        for i in range(n_terms):
            whole[w] += cost(query, windows, i, w)
    space.counts[POSTINGS] += whole.sum()
    for w in range(n_windows):
        space.counts[BOUNDS] += n_terms * count_blocks(windows, w)
    order = most_promising(windows, seeds, scratch)
    found, waiting = 0, 0
    # For a large k, it is cheaper to start by scanning the window with most of the seeds.
    if n_windows and (alpha < 1 or seeds * n_terms * _SEED_LOOKUP < whole[order[0]]):
        waiting = choose_highest(windows, seeds, scratch)
    for at in range(0, waiting, _CHUNK):
        n = min(_CHUNK, waiting - at)
        found, threshold = score_blocks(files, query, space, every, at, n, k, 1.0, found, threshold)
    if found >= k:
        found, threshold = thin_out(space, k, found, threshold)

    cheap_first = by_cost(files, query, space)
    scanned, looked_up = np.empty(n_terms, np.int64), np.empty(n_terms, np.int64)
    waiting = 0
    for x in range(n_windows):
        w = order[x]
        required = np.int32(min(math.ceil(min(threshold / alpha, 2.0**31)), 2**31 - 1))
        before = waiting
        waiting = choose(windows, w, required, waiting, len(bounds), scratch)
        n = waiting - before
        if n:
            part, n_scanned = split(files, query, w, required, cheap_first, scanned, looked_up)
            n_others = n_terms - n_scanned
            as_blocks = n * n_terms * _LOOKUP
            as_split = part + _SCAN + n * n_others * _LOOKUP // _LEFT_OVER
            as_whole = whole[w] + _SCAN
            if as_split < min(as_blocks, as_whole):
                found, threshold = score_split(
                    files,
                    query,
                    space,
                    scanned[:n_scanned],
                    looked_up[:n_others],
                    before,
                    n,
                    w,
                    k,
                    alpha,
                    found,
                    threshold,
                )
                waiting = before
            elif as_whole < as_blocks:
                found, threshold = score_window(files, query, space, every, w, k, found, threshold)
                waiting = before
        # Score the candidates of several windows together, and check the remaining ones against the new threshold.
        done = 0
        while waiting - done >= _CHUNK or (x == n_windows - 1 and done < waiting):
            n = min(_CHUNK, waiting - done)
            found, threshold = score_blocks(files, query, space, every, done, n, k, alpha, found, threshold)
            done += n
        if done:
            kept = 0
            for c in range(done, waiting):
                if scratch[_REST, c] * alpha >= threshold:
                    scratch[_BLOCK, kept], scratch[_WINDOW, kept] = scratch[_BLOCK, c], scratch[_WINDOW, c]
                    scratch[_REST, kept] = scratch[_REST, c]
                    kept += 1
            waiting = kept
    return finish(space, k, found)


# --- bounds -----------------------------------------------------------------------------------------------------------


@kernel
def add_bounds(files, query, first, last, bounds):
    """Add the query's upper bounds for the blocks of some windows.

    Args:
        files: `Files`.
        query: `Query`.
        first: The first window.
        last: The end of the windows, exclusive.
        bounds: (n_blocks,) int32, changed.
    """
    windows, lists = files.windows, query.lists
    for i in range(len(query.weights)):
        for w in range(first, last):
            if lists[i, w, ROW] < 0:
                for p in range(lists[i, w, BEGIN], lists[i, w, END], 32):
                    prefetch(files.docs, windows[w, DOCS_AT] + p)
                for p in range(lists[i, w, BEGIN], lists[i, w, END], 64):
                    prefetch(files.impacts, windows[w, IMPACTS_AT] + p)
    for i in range(len(query.weights)):
        for w in range(first, last):
            ahead = w - first + _AHEAD
            later, v = i + ahead // (last - first), first + ahead % (last - first)
            if later < len(query.weights) and lists[later, v, ROW] >= 0:
                n = count_blocks(windows, v)
                for x in range(0, n, 64):
                    prefetch(files.maxima, windows[v, MAXIMA_AT] + np.int64(lists[later, v, ROW]) * ROW_UNIT + x)
            if lists[i, w, ROW] >= 0:
                begin = windows[w, FIRST_BLOCK]
                add_row(files, query, i, w, bounds[begin : begin + count_blocks(windows, w)])
    for i in range(len(query.weights)):
        for w in range(first, last):
            if lists[i, w, ROW] < 0 and lists[i, w, BEGIN] < lists[i, w, END]:
                begin = windows[w, FIRST_BLOCK]
                add_list(files, query, i, w, bounds[begin : begin + count_blocks(windows, w)])


@kernel
def add_row(files, query, i, w, bounds):
    """Add a term's bounds to the blocks of a window, from its row of maxima; bounds: (n_blocks,) int32."""
    at = files.windows[w, MAXIMA_AT] + np.int64(query.lists[i, w, ROW]) * ROW_UNIT
    weight, row = query.weights[i], files.maxima[at : at + len(bounds)]
    for x in range(len(bounds)):
        bounds[x] += weight * np.int32(row[x])


@kernel
def add_list(files, query, i, w, bounds):
    """Add a term's bounds to the blocks of a window, from its postings; bounds: (n_blocks,) int32."""
    weight, docs, impacts = query.weights[i], files.docs, files.impacts
    docs_at, impacts_at = files.windows[w, DOCS_AT], files.windows[w, IMPACTS_AT]
    block, largest, last = -1, np.int32(0), len(bounds) - 1
    for p in range(query.lists[i, w, BEGIN], query.lists[i, w, END]):  # branch-free
        at = min(np.int64(docs[docs_at + p]) // BLOCK, last)
        before = largest if at == block else np.int32(0)
        largest = max(before, np.int32(impacts[impacts_at + p]))
        bounds[at] += weight * (largest - before)
        block = at


@kernel
def highest(bounds, m, scratch):
    """Return a bound that at least m blocks reach, or 1.

    Blocks are taken in groups of 8. The bound is the m-th largest of the groups' maxima; 1 if this maximum is below 1,
    or if there are fewer than m groups.

    Args:
        bounds: (n_blocks,) int32; the number of blocks is a multiple of FOLD.
        m: Number of blocks, at least 1.
        scratch: The scratch space; two rows are overwritten.
    """
    place, largest = scratch[_ALIVE], scratch[_BEST]
    n = len(bounds) // FOLD * 16
    if m > n:
        return np.int32(1)
    for fold in range(len(bounds) // FOLD):
        b = bounds[fold * FOLD : (fold + 1) * FOLD]
        for i in range(16):
            x = max(max(b[i], b[i + 16]), max(b[i + 32], b[i + 48]))
            y = max(max(b[i + 64], b[i + 80]), max(b[i + 96], b[i + 112]))
            largest[fold * 16 + i] = max(x, y)
    for i in range(n):
        place[i] = i
    select(place, largest, n, m)
    return max(largest[m - 1], np.int32(1))


@kernel
def most_promising(windows, m, scratch):
    """Return (n_windows,) int64: the windows, ordered by how many of the (roughly) m highest bounds they hold."""
    bounds, required = scratch[_BOUND], highest(scratch[_BOUND], m, scratch)
    order, counts = np.arange(len(windows)), np.zeros(len(windows), np.int64)
    for w in range(len(windows)):
        for b in range(windows[w, FIRST_BLOCK], windows[w, FIRST_BLOCK] + count_blocks(windows, w)):
            counts[w] += bounds[b] >= required
    sort(order, counts, len(order))
    return order


@kernel
def choose_highest(windows, m, scratch):
    """Choose the m blocks with the highest bounds, or up to _CHUNK more; return their number.

    Blocks with a bound of zero aren't chosen. The bounds of chosen blocks are set to -1 to mark them as scored.
    """
    bounds, chosen = scratch[_BOUND], 0
    required, most = highest(bounds, m, scratch), min(m + _CHUNK, len(bounds))
    for w in range(len(windows)):
        chosen = choose(windows, w, required, chosen, len(bounds), scratch)
    if chosen > most:  # take bounds above the m-th bound, then bounds equal to it while there is room
        for c in range(chosen):
            scratch[_ALIVE, c], scratch[_BEST, c] = c, scratch[_REST, c]
        select(scratch[_ALIVE], scratch[_BEST], chosen, m)
        required, chosen = scratch[_BEST, m - 1], 0
        for w in range(len(windows)):
            chosen = choose(windows, w, np.int32(required + 1), chosen, most, scratch)
        done_with(windows, chosen, scratch)
        for w in range(len(windows)):
            chosen = choose(windows, w, required, chosen, most, scratch)
    done_with(windows, chosen, scratch)
    return chosen


@kernel
def done_with(windows, chosen, scratch):
    """Mark the chosen blocks as scored: set their bounds to -1."""
    for c in range(chosen):
        scratch[_BOUND, windows[scratch[_WINDOW, c], FIRST_BLOCK] + scratch[_BLOCK, c]] = -1


@kernel
def choose(windows, w, required, chosen, most, scratch):
    """Append a window's blocks whose bounds reach `required`, up to a total of `most`; returns the new total."""
    bounds = scratch[_BOUND]
    begin = windows[w, FIRST_BLOCK]
    end = begin + count_blocks(windows, w)
    for run in range(begin, end, 16):
        reached = np.int32(0)
        if run + 16 <= len(bounds):
            b = bounds[run : run + 16]
            for i in range(16):
                reached |= np.int32(b[i] >= required)
        if reached or run + 16 > len(bounds):
            for i in range(run, min(run + 16, end)):
                if bounds[i] >= required and chosen < most:
                    scratch[_BLOCK, chosen], scratch[_WINDOW, chosen] = i - begin, w
                    scratch[_REST, chosen] = bounds[i]
                    chosen += 1
    return chosen


# --- three ways to score ----------------------------------------------------------------------------------------------


@kernel
def by_cost(files, query, space):
    """Return (n,) int64: the query's terms by upper bound per posting, lowest first."""
    values = np.empty(len(query.upper_bounds))
    for i in range(len(query.upper_bounds)):
        total = 1
        for w in range(len(files.windows)):
            total += cost(query, files.windows, i, w)
        values[i] = -query.upper_bounds[i] / total
    places = np.arange(len(query.upper_bounds))
    sort(places, values, len(places))
    return places


@kernel
def split(files, query, w, required, cheap_first, scanned, looked_up):
    """Split a query's terms as MaxScore does: terms that together can't reach `required` needn't be scanned.

    Args:
        files: `Files`.
        query: `Query`.
        w: The window.
        required: The score to reach.
        cheap_first: (n,) int64, from `by_cost`.
        scanned: (n,) int64, written: the terms whose lists are to be scanned.
        looked_up: (n,) int64, written: the other terms, in query order.

    Returns:
        The cost of the scans, and the number of terms to scan.
    """
    part, n_scanned, n_others = 0, 0, 0
    total = np.int64(0)
    aside = np.zeros(len(cheap_first), np.bool_)
    for i in cheap_first:
        size = cost(query, files.windows, i, w)
        if query.lists[i, w, ROW] >= 0 and total + query.upper_bounds[i] < required:
            total += query.upper_bounds[i]
            aside[i] = True
        else:
            part += size
    for i in range(len(aside)):
        if aside[i]:
            looked_up[n_others] = i
            n_others += 1
        else:
            scanned[n_scanned] = i
            n_scanned += 1
    return part, n_scanned


@kernel
def score_blocks(files, query, space, terms, at, n, k, alpha, found, threshold):
    """Score up to _CHUNK chosen blocks, at..at + n; append the documents that reach `threshold`.

    Args:
        files: `Files`.
        query: `Query`.
        space: `Space`.
        terms: (n_terms,) int64, all positions in the query.
        at: The first of the blocks.
        n: Number of blocks.
        k: Number of documents to find.
        alpha: As for `search_blocks`.
        found: Number of results so far.
        threshold: The score to reach.

    Returns:
        The new number of results, and the new threshold.
    """
    space.blocks[_BEST, at : at + n] = 0
    found, threshold = look_up(files, query, space, terms, np.arange(n), at, n, k, alpha, found, threshold)
    space.accumulator[: n * BLOCK] = 0
    return found, threshold


@kernel
def score_split(files, query, space, scanned, looked_up, at, n, w, k, alpha, found, threshold):
    """Score the chosen blocks at..at + n of window w: scan some lists and look up the others.

    Args:
        files: `Files`.
        query: `Query`.
        space: `Space`.
        scanned: (n_scanned,) int64, the terms whose lists are scanned.
        looked_up: (n_others,) int64, the terms that are looked up in blocks that can still reach `threshold`.
        at: The first of the blocks.
        n: Number of blocks.
        w: The window.
        k: Number of documents to find.
        alpha: As for `search_blocks`.
        found: Number of results so far.
        threshold: The score to reach.

    Returns:
        As for `score_blocks`.
    """
    scratch, accumulator = space.blocks, space.accumulator
    space.counts[POSTINGS_SCORED] += scatter(files, query, scanned, w, accumulator)
    rest = np.zeros(count_blocks(files.windows, w), np.int32)
    for i in looked_up:
        add_row(files, query, i, w, rest)
    kept = at
    for c in range(at, at + n):
        block = scratch[_BLOCK, c]
        scores = accumulator[block * BLOCK : (block + 1) * BLOCK]
        best = np.int32(0)
        for x in range(BLOCK):
            best = max(best, scores[x])
        if best + alpha * rest[block] >= threshold:
            scratch[_BLOCK, kept], scratch[_WINDOW, kept] = block, w
            scratch[_REST, kept], scratch[_BEST, kept] = rest[block], best
            kept += 1
    for first in range(at, kept, _CHUNK):
        size = min(_CHUNK, kept - first)
        slots = scratch[_BLOCK, first : first + size].astype(np.int64)
        found, threshold = look_up(files, query, space, looked_up, slots, first, size, k, alpha, found, threshold)
    accumulator[: len(rest) * BLOCK] = 0
    return found, threshold


@kernel
def score_window(files, query, space, terms, w, k, found, threshold):
    """Scan window w, except for blocks that are already scored; arguments and result as for `score_blocks`."""
    windows, bounds = files.windows, space.blocks[_BOUND]
    space.counts[POSTINGS_SCORED] += scatter(files, query, terms, w, space.accumulator)
    space.counts[WINDOWS_SCANNED] += 1
    for b in range(count_blocks(windows, w)):
        if bounds[windows[w, FIRST_BLOCK] + b] < 0:
            space.accumulator[b * BLOCK : (b + 1) * BLOCK] = 0
    n = windows[w, N_DOCS]
    disallow(query, windows[w, FIRST_DOC], n, space.accumulator)
    if found == 0:
        threshold = seed(space, n, k, threshold)
    found, threshold = collect(space, space.accumulator, files.order, windows, w, 0, n, k, found, threshold)
    if found >= k + k // 4:
        found, threshold = thin_out(space, k, found, threshold)
    return found, threshold


@kernel
def look_up(files, query, space, terms, slots, at, n, k, alpha, found, threshold):
    """Look up some terms in some blocks, and add their contributions to the scores.

    Blocks that can no longer reach the threshold are dropped. Documents that reach it are appended to the results.

    Args:
        files: `Files`.
        query: `Query`.
        space: `Space`; for each block in at..at + n, it holds the bound of these terms and the best score so far.
        terms: (n_terms,) int64, positions in the query.
        slots: (n,) int64, where each block's scores are in the accumulator, in units of blocks.
        at: The first of the blocks.
        n: Number of blocks, at most _CHUNK.
        k: Number of documents to find.
        alpha: As for `search_blocks`.
        found: Number of results so far.
        threshold: The score to reach.

    Returns:
        As for `score_blocks`.
    """
    # Unpack the tuples once: each access counts references, which would cost more than the loops.
    docs, impacts, dense, gaps, maxima, skips, windows = (
        files.docs, files.impacts, files.dense, files.gaps, files.maxima, files.skips, files.windows,
    )  # fmt: skip
    lists, weights, accumulator, counts = query.lists, query.weights, space.accumulator, space.counts
    order = files.order
    blocks, owners = space.blocks[_BLOCK, at : at + n], space.blocks[_WINDOW, at : at + n]
    rest, bests, alive = space.blocks[_REST, at : at + n], space.blocks[_BEST, at : at + n], space.blocks[_ALIVE, :n]
    begins, ends = np.empty((2, _CHUNK), np.int64), np.empty((2, _CHUNK), np.int64)
    for c in range(n):
        alive[c] = c
    counts[BLOCKS_SCORED] += n
    lookups = 0
    # A pipeline of three terms: add up the first term's postings; locate and prefetch the second term's postings;
    # prefetch the skips that locate the third term's postings.
    for i in range(-2, len(terms)):
        kept = 0
        for j in range(n):
            c = alive[j]
            w, base = owners[c], slots[c] * BLOCK
            if i + 2 < len(terms):
                ask(dense, gaps, skips, windows, lists, terms[i + 2], w, blocks[c])
            if 0 <= i + 1 < len(terms):
                begin, end = find(maxima, skips, windows, lists, terms[i + 1], w, blocks[c])
                begins[(i + 1) & 1, c], ends[(i + 1) & 1, c] = begin, end
                if begin < end and lists[terms[i + 1], w, DENSE] == GAPS:
                    for x in range(begin, end + 63, 64):
                        prefetch(gaps, windows[w, GAPS_AT] + min(x, end - 1))
                        prefetch(gaps, windows[w, GAP_IMPACTS_AT] + min(x, end - 1))
                elif begin < end:
                    prefetch(docs, windows[w, DOCS_AT] + begin)
                    prefetch(docs, windows[w, DOCS_AT] + (begin + end) // 2)
                    prefetch(docs, windows[w, DOCS_AT] + end - 1)
                    prefetch(impacts, windows[w, IMPACTS_AT] + begin)
                    prefetch(impacts, windows[w, IMPACTS_AT] + end - 1)
            if i < 0:
                alive[kept] = c
                kept += 1
                continue
            weight = weights[terms[i]]
            if lists[terms[i], w, DENSE] >= 0:
                row = windows[w, DENSE_AT] + lists[terms[i], w, DENSE] * windows[w, N_DOCS] + blocks[c] * BLOCK
                size = min(BLOCK, windows[w, N_DOCS] - blocks[c] * BLOCK)
                best = add_dense(dense, row, size, weight, accumulator, base)
                row = windows[w, MAXIMA_AT] + np.int64(lists[terms[i], w, ROW]) * ROW_UNIT
                largest, touched = np.int32(maxima[row + blocks[c]]), BLOCK // 8
            elif lists[terms[i], w, DENSE] == GAPS:
                first = np.int64(blocks[c]) * BLOCK
                at = windows[w, GAPS_AT] + lists[terms[i], w, BEGIN] - count_skips(windows, w)
                before = first // SKIP * SKIP - np.int64(gaps[at + first // SKIP])
                best, largest, touched = add_gaps(
                    gaps, windows[w, GAPS_AT], windows[w, GAP_IMPACTS_AT], begins[i & 1, c], ends[i & 1, c],
                    before, first, weight, accumulator, base,
                )  # fmt: skip
            else:
                best, largest, touched = add_postings(
                    docs, windows[w, DOCS_AT], impacts, windows[w, IMPACTS_AT], begins[i & 1, c], ends[i & 1, c],
                    np.int64(blocks[c]) * BLOCK, weight, accumulator, base,
                )  # fmt: skip
            bests[c] = max(bests[c], best)
            rest[c] -= weight * largest
            counts[POSTINGS_SCORED] += touched
            alive[kept] = c
            kept += np.int64(bests[c] + alpha * rest[c] >= threshold)
        lookups += n if i >= 0 else 0
        n = kept
    counts[LOOKUPS] += lookups
    for j in range(n):
        c = alive[j]
        first = np.int64(blocks[c]) * BLOCK
        n_docs = min(BLOCK, windows[owners[c], N_DOCS] - first)
        scores = accumulator[slots[c] * BLOCK : (slots[c] + 1) * BLOCK]
        disallow(query, windows[owners[c], FIRST_DOC] + first, n_docs, scores)
        found, threshold = collect(space, scores, order, windows, owners[c], first, n_docs, k, found, threshold)
    if found >= k + k // 4:
        found, threshold = thin_out(space, k, found, threshold)
    return found, threshold


# --- a term in a block ------------------------------------------------------------------------------------------------


@inlined
def ask(dense, gaps, skips, windows, lists, i, w, block):
    """Prefetch what `find` reads for term i in a block of window w: its skips, or its dense row."""
    if lists[i, w, DENSE] >= 0:
        row = windows[w, DENSE_AT] + lists[i, w, DENSE] * windows[w, N_DOCS] + np.int64(block) * BLOCK
        prefetch(dense, row)
        prefetch(dense, row + BLOCK // 2)
        prefetch(dense, row + BLOCK - 1)
    elif lists[i, w, ROW] >= 0:
        at = windows[w, SKIPS_AT] + np.int64(lists[i, w, ROW]) * SKIP_UNIT
        prefetch(skips, at + np.int64(block) * BLOCK // SKIP)
        if lists[i, w, DENSE] == GAPS:
            begin = lists[i, w, BEGIN] - count_skips(windows, w)
            prefetch(gaps, windows[w, GAPS_AT] + begin + np.int64(block) * BLOCK // SKIP)


@inlined
def find(maxima, skips, windows, lists, i, w, block):
    """Locate the postings of term i in a block of window w.

    Returns:
        Start and end of a range that contains the postings; empty if there are none, or if the list is a dense row. The
        range is within the window's postings or gaps even if the file is damaged.
    """
    begin, end, row = np.int64(lists[i, w, BEGIN]), np.int64(lists[i, w, END]), np.int64(lists[i, w, ROW])
    if row < 0 or begin == end:
        return begin, end
    if maxima[windows[w, MAXIMA_AT] + row * ROW_UNIT + block] == 0:
        return np.int64(0), np.int64(0)
    n_skips = count_skips(windows, w)
    skip = np.int64(block) * BLOCK // SKIP
    at = windows[w, SKIPS_AT] + row * SKIP_UNIT + skip
    if skip + 1 < n_skips:
        end = min(begin + skips[at + 1], end)
    return begin + skips[at], end


@inlined
def add_postings(docs, docs_at, impacts, impacts_at, begin, end, first, weight, scores, base):
    """Find a block's postings within a range of postings, and add them to the block's scores.

    Args:
        docs: (file,) uint16.
        docs_at: Where the window's postings begin in `docs`.
        impacts: (file,) uint8.
        impacts_at: Where the window's postings begin in `impacts`.
        begin: The range's first posting, counted from the window's first.
        end: The range's end, exclusive.
        first: The block's first document.
        weight: The term's weight.
        scores: int32, changed.
        base: Where the block's scores begin in `scores`.

    Returns:
        The best score that changed, the largest impact, and the number of postings.
    """
    best, largest = np.int32(0), np.int32(0)
    if begin >= end:
        return best, largest, 0
    size = end - begin
    while size > 1:  # binary search without a branch, which the processor would mispredict
        half = size >> 1
        begin += half * np.int64(docs[docs_at + begin + half - 1] < first)
        size -= half
    begin += np.int64(docs[docs_at + begin] < first)
    start = begin
    while begin < end:
        doc = np.int64(docs[docs_at + begin]) - first
        if doc >= BLOCK:
            break
        impact = np.int32(impacts[impacts_at + begin])
        at = base + (doc & (BLOCK - 1))
        score = scores[at] + weight * impact
        scores[at] = score
        best, largest = max(best, score), max(largest, impact)
        begin += 1
    return best, largest, begin - start


@inlined
def add_dense(dense, row, size, weight, scores, base):
    """Add `size` impacts of a dense row to a block's scores; returns the best of these scores."""
    best = np.int32(0)
    for x in range(size):
        score = scores[base + x] + weight * np.int32(dense[row + x])
        scores[base + x] = score
        best = max(best, score)
    return best


# --- building ---------------------------------------------------------------------------------------------------------


@kernel
def summarize(docs, impacts, begins, ends, n_docs, maxima, skips):
    """Compute the block maxima and skips of a window's longer lists.

    Args:
        docs: (n,) uint16, the window's postings.
        impacts: (n,) uint8.
        begins: (n_rows,) int64, start of each list.
        ends: (n_rows,) int64, end of each list.
        n_docs: Number of documents in the window.
        maxima: (n_rows, at least the number of blocks) uint8, all zero, written.
        skips: (n_rows, at least the number of skips) uint16, written.
    """
    for r in range(len(begins)):
        skip = 0
        for p in range(begins[r], ends[r]):
            doc = np.int64(docs[p])
            maxima[r, doc // BLOCK] = max(maxima[r, doc // BLOCK], impacts[p])
            while skip <= doc // SKIP:
                skips[r, skip] = p - begins[r]
                skip += 1
        while skip < skips.shape[1]:
            skips[r, skip] = ends[r] - begins[r]
            skip += 1
