"""Group: all windows of one scale, searched in one kernel call. To kernels, each kind of file is a single array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex
from lsr.index.kernels.clustered import Docs, search_clusters
from lsr.index.kernels.exhaustive import finish
from lsr.index.kernels.layout import (
    BASE,
    BLOCK,
    DENSE_AT,
    DOCS_AT,
    FIRST_BLOCK,
    FIRST_DOC,
    GAP_IMPACTS_AT,
    GAPS_AT,
    IMPACTS_AT,
    MAXIMA_AT,
    N_DOCS,
    ORDER_AT,
    SKIPS_AT,
    WINDOW_COLUMNS,
    Files,
    Lexicon,
    Space,
    find_terms,
)
from lsr.index.kernels.queries import Batch, Found, run_blocks, run_maxscore, run_windows
from lsr.index.search.settings import SearchSettings
from lsr.index.segment.postings import Run

# Score this many blocks or clusters first, plus a share of k. They are the ones with the highest bounds.
_SEEDS = 2


class Group:
    """Windows of one scale, from one or more segments, searched in one kernel call.

    Args:
        members: Runs of windows, each with the number of its segment's first document.
    """

    def __init__(self, members: list[tuple[Run, int]]) -> None:
        self._members = members
        segments = [run.segment for run, _ in members]
        self.scale = members[0][0].scale
        *arrays, offsets = _side_by_side([segment.files for segment in segments])
        docs, impacts, dense, gaps, maxima, skips = arrays
        order, order_at = _span([segment.order for segment in segments])
        tables, n_blocks = [], 0
        for i, (run, base) in enumerate(members):
            segment = run.segment
            windows = segment.windows[run.first : run.end].copy()
            run_blocks = int((-(-windows[:, N_DOCS] // BLOCK)).sum())
            windows[:, FIRST_BLOCK] -= windows[:1, FIRST_BLOCK]
            windows[:, ORDER_AT] = order_at[i] + windows[:, FIRST_DOC] if len(segment.order) else -1
            windows[:, [DOCS_AT, IMPACTS_AT, DENSE_AT, GAPS_AT, MAXIMA_AT, SKIPS_AT]] += offsets[:, i]
            windows[:, GAP_IMPACTS_AT] += offsets[3, i]
            windows[:, FIRST_DOC] += base
            windows[:, BASE] = base
            windows[:, FIRST_BLOCK] += n_blocks
            n_blocks += run_blocks
            tables.append(windows)
        self.n_blocks = n_blocks
        windows = np.concatenate([np.empty((0, WINDOW_COLUMNS), np.int64), *tables])
        self.files = Files(docs, impacts, dense, gaps, maxima, skips, windows, order)
        (terms, terms_at), (table, table_at) = _span([s.terms for s in segments]), _span([s.table for s in segments])
        max_impacts, max_impacts_at = _span([s.max_impacts for s in segments])
        ends, ends_at = _span([s.ends for s in segments])
        *entries, entries_at = _side_by_side([_entries(run) for run, _ in members])
        n_windows = np.array([run.end - run.first for run, _ in members])
        columns = [
            terms_at, [len(s.terms) for s in segments], table_at, [len(s.table) for s in segments], max_impacts_at,
            ends_at, *entries_at, [len(s.entries[0]) for s in segments], np.cumsum(n_windows) - n_windows, n_windows,
            [s.n_rows for s in segments],
        ]  # fmt: skip
        self._lexicon = Lexicon(np.array(columns, np.int64).T.copy(), terms, table, max_impacts, ends, tuple(entries))

    def search(self, algorithm: str, batch: Batch, k: int, settings: SearchSettings, space: Space) -> Found:
        """Search with a batch of queries.

        Args:
            algorithm: The algorithm to run, neither "auto" nor "clusters".
            batch: The queries.
            k: Number of documents.
            settings: The algorithm's settings.
            space: Buffers.
        """
        n = len(batch.ends)
        docs, scores = np.empty((n, k), np.int64), np.empty((n, k), batch.weights.dtype)
        found = Found(docs, scores, np.empty(n, np.int64), np.empty(n, np.int64))
        if algorithm == "blocks":
            seeds = min(max(_SEEDS + k // 4, settings.guaranteed), max(self.n_blocks, 1))
            run_blocks(self._lexicon, self.files, batch, space, k, settings.alpha, seeds, found)
        elif algorithm == "maxscore":
            run_maxscore(self._lexicon, self.files, batch, space, k, found)
        else:
            run_windows(self._lexicon, self.files, batch, space, k, found)
        return found

    def search_clusters(
        self, batch: Batch, k: int, settings: SearchSettings, space: Space, scratch: NDArray[np.int32]
    ) -> Found:
        """Search the clusters segment by segment; each segment starts with the threshold reached so far.

        Args:
            batch: One query.
            k: Number of documents.
            settings: The algorithm's settings.
            space: Buffers.
            scratch: Further buffers.
        """
        weights = batch.weights
        ranks, max_impacts = np.empty((len(self._members), len(weights)), np.int64), np.empty(len(weights))
        known = find_terms(self._lexicon, batch.terms, ranks, max_impacts)
        found, threshold = 0, 1
        # Terms that no segment has don't count toward the cut.
        anywhere = known[np.argsort(-weights[known], kind="stable")[: settings.cut]]
        for i, (run, base) in enumerate(self._members):
            segment = run.segment
            assert segment.clusters is not None
            heaviest, there, wide = anywhere, ranks[i], weights
            if len(known) < len(weights) or len(self._members) > 1:
                here = ranks[i] >= 0
                heaviest = (np.cumsum(here) - 1)[anywhere[here[anywhere]]]
                there, wide = ranks[i][here], weights[here]
            seeds = min(max(_SEEDS + k // 5, settings.guaranteed), max(len(segment.clusters.doc_ends), 1))
            allowed = _within(run, batch.allowed[base : base + segment.n_docs])
            docs = Docs(segment.order, segment.n_docs, base, allowed)
            found, threshold = search_clusters(
                segment.clusters, (there, wide), heaviest, docs, scratch, space, k,
                float(settings.heap_factor), seeds, found, np.int32(threshold),
            )  # fmt: skip
        n = int(finish(space, k, found))
        return Found(space.docs[None, :n].copy(), space.scores[None, :n], np.array([n]), np.array([len(known)]))


def _entries(run: Run) -> tuple[NDArray[Any], ...]:
    """Return the entries of a segment's lists, with windows counted from the first window of the run.

    Windows outside the run get numbers beyond the run's end.
    """
    window, *rest = run.segment.entries
    if run.first:
        window = window - np.uint32(run.first)  # windows before the run wrap around to very large numbers
        window.flags.writeable = False
    return window, *rest


def _within(run: Run, allowed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Restrict a segment's mask to the windows of a run; empty if all documents of the run may be found."""
    segment = run.segment
    if (run.first, run.end) == (0, segment.n_windows):
        return allowed
    mask = np.zeros(segment.n_docs, np.uint8)
    begin, last = segment.windows[run.first, FIRST_DOC], segment.windows[run.end - 1]
    here = slice(begin, last[FIRST_DOC] + last[N_DOCS])
    mask[here] = allowed[here] if len(allowed) else 1
    mask.flags.writeable = False
    return mask


def _side_by_side(columns: Sequence[tuple[NDArray[Any], ...]]) -> Any:
    """Apply `_span` to each kind of array over all segments.

    Returns:
        The array of each kind, then the offsets: (n_arrays, n_segments) int64.
    """
    spans = [_span(list(arrays)) for arrays in zip(*columns, strict=True)]
    return *(whole for whole, _ in spans), np.stack([offsets for _, offsets in spans])


def _span(arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return one read-only array that covers the memory from the start of the first array to the end of the last.

    Only the parts inside the given arrays may be read. The result keeps the given arrays alive.

    Returns:
        The array, and the offset of each given array in it; 0 for empty arrays.
    """
    dtype, offsets = arrays[0].dtype, np.zeros(len(arrays), np.int64)
    places = [array.__array_interface__["data"][0] for array in arrays]
    filled = [i for i, array in enumerate(arrays) if array.size]
    if not filled:
        return np.frombuffer(b"", dtype), offsets
    low = min(places[i] for i in filled)
    size = max(places[i] + arrays[i].nbytes for i in filled) - low
    if any((places[i] - low) % dtype.itemsize for i in filled):
        raise CorruptIndex("a file's values aren't aligned: build the index again")
    for i in filled:
        offsets[i] = (places[i] - low) // dtype.itemsize
    return np.frombuffer(pa.foreign_buffer(low, size, base=list(arrays)), dtype), offsets
