"""Searcher: some segments searched as if they were one, but for the documents that are deleted or left out.

Segments of one scale go through the kernels together, in one call, so that ten of them cost little more than one and
share the score that is to be reached. A query's weights become integers once, from all of its terms and whatever the
segments know of them; a segment's scale is that of the index times a power of two; so scores of different segments
compare exactly, and results over many segments equal those over one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex, IndexFormatError
from lsr.sparse import SparseMatrix

from .clusters import document_of
from .kernels.blocks import FOLD, search_blocks
from .kernels.clusters import Docs, search_clusters
from .kernels.exhaustive import finish, search_windows
from .kernels.lists import (
    BASE,
    DENSE_AT,
    DOCS_AT,
    FIRST_BLOCK,
    FIRST_DOC,
    IMPACTS_AT,
    MAXIMA_AT,
    ORDER_AT,
    POSTINGS,
    POSTINGS_SCORED,
    SKIPS_AT,
    WINDOW,
    WINDOW_COLUMNS,
    Files,
    Lexicon,
    Query,
    Space,
    find_lists,
    find_live,
    find_terms,
)
from .kernels.maxscore import search_daat, search_maxscore
from .plan import Experience, Plan, SearchSettings, choose
from .quantize import query_integers
from .segment import Segment

_SPARE = 64  # room for the best documents beyond twice k, so that a small k is thinned out rarely, too
_SEEDS = 2  # blocks of the highest bounds that are scored first, apart from a quarter of k
_PAYS = 0.6  # skipping pays where less than this share of the postings is scored
EXACT = SearchSettings()
_EVERY = np.frombuffer(b"", np.uint8)  # a mask that leaves nothing out; read-only, as all that kernels search


@dataclass(frozen=True)
class Mask:
    """Which documents may be found; made by `Searcher.mask`, good for any number of queries.

    Attributes:
        allowed: (n_docs,) uint8 by place; empty if all may.
        live: Of each group of segments (n_blocks,) uint8, whether any document of a block may.
    """

    allowed: NDArray[np.uint8]
    live: tuple[NDArray[np.uint8], ...]


class Searcher:
    """Searches segments.

    Attributes:
        segments: The segments, in document order.
        bases: (n_segments + 1,) int64, the number of the first document of each, and how many there are.
        n_docs: Number of documents, the deleted ones too.
        n_windows: Number of windows.
        n_blocks: Number of blocks.

    Args:
        segments: The segments.
        alive: For each segment None or (n_docs,) bool, by document: False for the deleted ones.
    """

    def __init__(self, segments: Sequence[Segment], alive: Sequence[NDArray[np.bool_] | None] = ()) -> None:
        self.segments = tuple(segments)
        self._alive = tuple(alive) or (None,) * len(self.segments)
        self.bases = np.cumsum([0, *(segment.n_docs for segment in self.segments)], dtype=np.int64)
        self.n_docs = int(self.bases[-1])
        scales = list(dict.fromkeys(segment.scale for segment in self.segments))
        self._groups = [
            _Group([(s, int(base)) for s, base in zip(self.segments, self.bases, strict=False) if s.scale == scale])
            for scale in scales
        ]
        self.n_windows = sum(segment.n_windows for segment in self.segments)
        self.n_blocks = sum(segment.n_blocks for segment in self.segments)
        self._experience = Experience()
        self._local = threading.local()

    def search(
        self,
        terms: NDArray[np.uint32],
        weights: NDArray[np.float32],
        k: int,
        settings: SearchSettings = EXACT,
        mask: Mask | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k best documents for a query vector.

        Args:
            terms: (n,) ascending term ids.
            weights: (n,) weights above zero.
            k: How many.
            settings: How to search.
            mask: Which documents may be found; by default all that aren't deleted.

        Returns:
            (found,) document numbers and (found,) scores, descending, equal ones by document.
        """
        return self._search(terms, weights, k, settings, mask)[:2]

    def plan(
        self,
        terms: NDArray[np.uint32],
        weights: NDArray[np.float32],
        k: int,
        settings: SearchSettings = EXACT,
        mask: Mask | None = None,
    ) -> Plan:
        """Search as `search` does, and tell what that took."""
        return self._search(terms, weights, k, settings, mask)[2]()

    def _search(
        self,
        terms: NDArray[np.uint32],
        weights: NDArray[np.float32],
        k: int,
        settings: SearchSettings,
        mask: Mask | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], Callable[[], Plan]]:
        k = max(1, min(k, self.n_docs))
        mask = mask or self._all_alive
        quantized = all(segment.impacts == "uint8" for segment in self.segments)
        if settings.algorithm == "clusters":
            self._require_clusters()
        if settings.beta < 1 and len(terms):
            kept = np.sort(np.argsort(-weights, kind="stable")[: math.ceil(settings.beta * len(terms))])
            terms, weights = terms[kept], weights[kept]
        wide, factor = query_integers(weights) if quantized else (weights.astype(np.float64), 1.0)
        n_live = sum(int(live.sum()) for live in mask.live) if mask.live else self.n_blocks
        algorithm, reason = choose(
            settings, k, self.n_blocks, self._experience, has_bounds=quantized, ordered=self._ordered, n_live=n_live
        )
        results, counts, n_known = [], np.zeros(4, np.int64), 0
        for g, group in enumerate(self._groups):
            live = mask.live[g] if mask.live else _EVERY
            space = self._space(k, wide.dtype)
            scratch = self._scratch() if algorithm == "clusters" else None
            docs, scores, known = group.search(algorithm, terms, wide, space, k, settings, mask.allowed, live, scratch)
            counts += space.counts
            n_known = max(n_known, known)
            results.append((docs, scores * (group.scale / factor)))
        if algorithm == "blocks" and not len(mask.allowed):
            self._experience.learn(k, paid=bool(counts[POSTINGS_SCORED] < _PAYS * counts[POSTINGS]))
        docs, scores = results[0] if len(results) == 1 else _best(results, k)
        if len(docs) and self._ordered and docs.max() >= self.n_docs:
            raise CorruptIndex(f"{self.segments[0].folder.parent}: places.arrow is damaged; lsr verify tells more")

        def plan() -> Plan:
            blocks_scored, windows_scanned, postings_scored, _ = counts.tolist()
            clusters = [len(s.clusters.doc_ends) for s in self.segments if s.clusters is not None]
            return Plan(
                algorithm=algorithm,
                reason=reason,
                terms=n_known,
                documents=self.n_docs,
                postings=sum(int(s.df[np.isin(s.terms, terms)].sum()) for s in self.segments),
                postings_scored=postings_scored,
                blocks=sum(clusters) if algorithm == "clusters" else self.n_blocks,
                blocks_scored=blocks_scored,
                windows=self.n_windows,
                windows_scanned=windows_scanned,
            )

        return docs, scores, plan

    # --- masks ------------------------------------------------------------------------------------------------------

    def mask(self, allowed: NDArray[np.bool_]) -> Mask:
        """A mask of documents that may be found, without those that are deleted.

        Args:
            allowed: (n_docs,) bool, by document number.
        """
        if allowed.shape != (self.n_docs,):
            raise ValueError(f"a mask over {self.n_docs} documents, got shape {allowed.shape}")
        return self._masked([allowed[first:end] for first, end in zip(self.bases[:-1], self.bases[1:], strict=True)])

    @cached_property
    def _all_alive(self) -> Mask:
        if all(alive is None for alive in self._alive):
            return Mask(_EVERY, ())
        return self._masked([np.ones(segment.n_docs, bool) for segment in self.segments])

    def _masked(self, parts: Sequence[NDArray[np.bool_]]) -> Mask:
        places = np.empty(self.n_docs, np.uint8)
        for segment, part, alive, base in zip(self.segments, parts, self._alive, self.bases, strict=False):
            both = part if alive is None else part & alive
            places[base : base + segment.n_docs] = both[segment.order] if len(segment.order) else both
        live = []
        for group in self._groups:
            blocks = np.zeros(group.n_blocks, np.uint8)
            find_live(group.files.windows, places, blocks)
            live.append(blocks)
        for array in (places, *live):
            array.flags.writeable = False  # kernels are compiled for one kind of array
        return Mask(places, tuple(live))

    # --- single documents -------------------------------------------------------------------------------------------

    def locate(self, doc: int) -> tuple[int, int]:
        """The segment that a document is in, and its number there."""
        number = int(np.searchsorted(self.bases, doc, side="right")) - 1
        return number, doc - int(self.bases[number])

    def impacts_of(self, doc: int, terms: NDArray[np.uint32]) -> NDArray[np.float64]:
        """(n,) float64, the stored weight of each term in a document, 0 where it doesn't occur."""
        number, within = self.locate(doc)
        return self.segments[number].impacts_of(within, terms)

    def sample(self, n: int, length: int) -> SparseMatrix:
        """At most n documents, drawn at random but always the same, cut to their heaviest terms.

        Args:
            n: How many documents.
            length: How many terms to keep of each at most.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        self._require_clusters()
        rows = []
        try:
            for drawn in np.random.default_rng(0).permutation(self.n_docs)[:n].tolist():
                number, place = self.locate(drawn)
                segment = self.segments[number]
                assert segment.clusters is not None
                ranks, impacts = document_of(segment.clusters, place)
                heaviest = np.sort(np.argsort(impacts, kind="stable")[-length:])
                rows.append((segment.terms[ranks[heaviest]], impacts[heaviest]))
            largest = max((int(s.terms.max(initial=0)) for s in self.segments), default=0)
            return SparseMatrix.from_rows(rows, largest + 1)
        except (IndexError, ValueError):
            where = self.segments[number].folder
            raise CorruptIndex(f"{where}: the clusters are damaged; lsr verify tells more") from None

    def _require_clusters(self) -> None:
        for segment in self.segments:
            if segment.clusters is None:
                how = "build it again with --clusters, Index.build(..., clusters=True)"
                if segment.impacts == "float32":
                    how = f"weights stored as float32 can't have them; {how} and 8-bit impacts"
                raise IndexFormatError(f"{segment.folder.parent}: this index has no clusters: {how}")

    # --- what a search writes to ------------------------------------------------------------------------------------

    @cached_property
    def _ordered(self) -> bool:
        """Whether most documents are stored beside similar ones."""
        return 2 * sum(len(segment.order) for segment in self.segments) > self.n_docs

    def _space(self, k: int, dtype: Any) -> Space:
        """What a search of this thread writes to: kept from search to search, but for the result."""
        if getattr(self._local, "space", None) is None:
            n_blocks = _folded(max(group.n_blocks for group in self._groups))
            self._local.space = np.zeros(WINDOW, dtype), np.empty((6, n_blocks), np.int32), np.zeros(4, np.int64)
        accumulator, blocks, counts = self._local.space
        size = 2 * k + _SPARE
        return Space(accumulator, blocks, np.empty(size, np.int64), np.empty(size, dtype), counts)

    def _scratch(self) -> NDArray[np.int32]:
        """What a search by clusters of this thread writes to besides."""
        if getattr(self._local, "sums", None) is None:
            n_clusters = max(len(s.clusters.doc_ends) for s in self.segments if s.clusters is not None)
            self._local.sums = np.zeros((6, _folded(n_clusters)), np.int32)
        sums: NDArray[np.int32] = self._local.sums
        return sums


class _Group:
    """Segments of one scale, searched in one call of a kernel.

    Args:
        members: The segments, and the number of the first document of each.
    """

    def __init__(self, members: list[tuple[Segment, int]]) -> None:
        self._members = members
        segments = [segment for segment, _ in members]
        self.scale = segments[0].scale
        self.n_blocks = sum(segment.n_blocks for segment in segments)
        *arrays, offsets = _side_by_side([segment.files for segment in segments])
        docs, impacts, dense, maxima, skips = arrays
        order, order_at = _span([segment.order for segment in segments])
        tables, n_blocks = [], 0
        for i, (segment, base) in enumerate(members):
            windows = segment.windows.copy()
            windows[:, ORDER_AT] = order_at[i] + windows[:, FIRST_DOC] if len(segment.order) else -1
            windows[:, [DOCS_AT, IMPACTS_AT, DENSE_AT, MAXIMA_AT, SKIPS_AT]] += offsets[:, i]
            windows[:, FIRST_DOC] += base
            windows[:, BASE] = base
            windows[:, FIRST_BLOCK] += n_blocks
            n_blocks += segment.n_blocks
            tables.append(windows)
        windows = np.concatenate([np.empty((0, WINDOW_COLUMNS), np.int64), *tables])
        self.files = Files(docs, impacts, dense, maxima, skips, windows, order)
        (terms, terms_at), (table, table_at) = _span([s.terms for s in segments]), _span([s.table for s in segments])
        (peaks, peaks_at), (ends, ends_at) = _span([s.peaks for s in segments]), _span([s.ends for s in segments])
        *entries, entries_at = _side_by_side([segment.entries for segment in segments])
        n_windows = np.array([segment.n_windows for segment in segments])
        columns = [
            terms_at, [len(s.terms) for s in segments], table_at, [len(s.table) for s in segments], peaks_at, ends_at,
            *entries_at, [len(s.entries[0]) for s in segments], np.cumsum(n_windows) - n_windows, n_windows,
            [s.n_rows for s in segments],
        ]  # fmt: skip
        self._lexicon = Lexicon(np.array(columns, np.int64).T.copy(), terms, table, peaks, ends, tuple(entries))

    def search(
        self,
        algorithm: str,
        terms: NDArray[np.uint32],
        weights: NDArray[Any],
        space: Space,
        k: int,
        settings: SearchSettings,
        allowed: NDArray[np.uint8],
        live: NDArray[np.uint8],
        scratch: NDArray[np.int32] | None,
    ) -> tuple[NDArray[np.int64], NDArray[Any], int]:
        """The k best documents of these segments, their scores in integers, and how many terms occur."""
        ranks, peaks = np.empty((len(self._members), len(terms)), np.int64), np.empty(len(terms))
        known = find_terms(self._lexicon, terms, ranks, peaks)
        if scratch is not None:
            found = self._search_clusters(ranks, weights, space, k, settings, allowed, scratch)
            return space.docs[:found], space.scores[:found], len(known)
        if algorithm == "blocks":
            known = known[np.argsort(-weights[known], kind="stable")]
        files, chosen = self.files, weights[known]
        lists = np.empty((len(known), len(files.windows), 4), np.int32)
        find_lists(self._lexicon, files.windows, ranks, known, lists)
        most = (chosen * peaks[known]).astype(weights.dtype) if algorithm != "exhaustive" else chosen
        query = Query(lists, chosen, most, allowed, live)
        if algorithm == "blocks":
            seeds = min(max(_SEEDS + k // 4, settings.guaranteed), max(self.n_blocks, 1))
            found = search_blocks(files, query, space, k, settings.alpha, seeds)
        elif algorithm == "maxscore":
            found = search_maxscore(files, query, space, k)
        elif algorithm == "daat":
            found = search_daat(files, query, space, k)
        else:
            quantized = weights.dtype == np.int32
            least = weights.dtype.type(1 if quantized else np.finfo(np.float64).tiny)
            found = search_windows(files, query, space, k, least)
        return space.docs[:found], space.scores[:found], len(known)

    def _search_clusters(
        self,
        ranks: NDArray[np.int64],
        weights: NDArray[Any],
        space: Space,
        k: int,
        settings: SearchSettings,
        allowed: NDArray[np.uint8],
        scratch: NDArray[np.int32],
    ) -> int:
        space.counts[:] = 0
        found, least = 0, 1
        by_weight = np.argsort(-weights, kind="stable")
        known = np.any(ranks >= 0, axis=0)
        anywhere = by_weight[known[by_weight]][: settings.cut]
        for i, (segment, base) in enumerate(self._members):
            assert segment.clusters is not None
            here = ranks[i] >= 0
            number = np.cumsum(here) - 1
            heaviest = number[anywhere[here[anywhere]]]
            seeds = min(max(_SEEDS + k // 5, settings.guaranteed), max(len(segment.clusters.doc_ends), 1))
            docs = Docs(segment.order, segment.n_docs, base, allowed[base : base + segment.n_docs])
            found, least = search_clusters(
                segment.clusters, (ranks[i][here], weights[here]), heaviest, docs, scratch, space, k,
                float(settings.heap_factor), seeds, found, np.int32(least),
            )  # fmt: skip
        return int(finish(space, k, found))


def _side_by_side(columns: Sequence[tuple[NDArray[Any], ...]]) -> Any:
    """For some arrays of each segment, what `_span` gives for the first of each, the second, and so on; and last the
    offsets, (n_arrays, n_segments).
    """
    spans = [_span(list(arrays)) for arrays in zip(*columns, strict=True)]
    return *(whole for whole, _ in spans), np.stack([offsets for _, offsets in spans])


def _span(arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """One array from where the first of some arrays of one type lies to the end of the last, read-only.

    Only what lies within the given arrays may be read of it. It keeps them alive.

    Returns:
        The array, and where in it each begins; 0 for empty ones.
    """
    dtype, offsets = arrays[0].dtype, np.zeros(len(arrays), np.int64)
    places = [array.__array_interface__["data"][0] for array in arrays]
    filled = [i for i, array in enumerate(arrays) if array.size]
    if not filled:
        return np.frombuffer(b"", dtype), offsets
    low = min(places[i] for i in filled)
    size = max(places[i] + arrays[i].nbytes for i in filled) - low
    if any((places[i] - low) % dtype.itemsize for i in filled):
        raise CorruptIndex("a file's values aren't aligned; build the index again")
    for i in filled:
        offsets[i] = (places[i] - low) // dtype.itemsize
    return np.frombuffer(pa.foreign_buffer(low, size, base=list(arrays)), dtype), offsets


def _best(results: list[tuple[NDArray[np.int64], NDArray[np.float64]]], k: int) -> Any:
    """The k best of several results: documents and scores."""
    docs = np.concatenate([np.empty(0, np.int64), *(docs for docs, _ in results)])
    scores = np.concatenate([np.empty(0), *(scores for _, scores in results)])
    best = np.lexsort((docs, -scores))[:k]
    return docs[best], scores[best]


def _folded(n: int) -> int:
    return max(FOLD, -(-n // FOLD) * FOLD)
