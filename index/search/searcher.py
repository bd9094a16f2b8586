"""Searcher: searches several segments as one, without deleted and filtered documents.

Windows of the same scale are searched in one kernel call, so ten segments cost little more than one and share the score
threshold. A query's weights are quantized to integers once, independently of the segments, and a window's scale is the
index's scale times a power of two. So scores of different segments can be compared exactly, and many segments give the
same results as one.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lsr.errors import CorruptIndex, IndexFormatError
from lsr.forks import cached_property
from lsr.index.kernels.block_max import FOLD
from lsr.index.kernels.layout import (
    BOUNDS,
    LOOKUPS,
    N_COUNTS,
    POSTINGS,
    POSTINGS_SCORED,
    WINDOW,
    WINDOWS_SCANNED,
    Space,
    find_live,
)
from lsr.index.kernels.queries import Batch
from lsr.index.search.segment_group import Group
from lsr.index.search.settings import Experience, Plan, SearchSettings, choose
from lsr.index.segment.clusters import document_of
from lsr.index.segment.postings import Run, Segment
from lsr.index.segment.quantize import query_numbers
from lsr.sparse import SparseMatrix

_SPARE = 64  # room for results beyond 2k, so that results are rarely pruned for a small k
# Costs of adding up a posting in a block search, looking up a term in a block, reading a block's bound for a term, and
# clearing and checking a document's score in a scanned window. The unit is the cost of adding one posting in a scan.
# The costs are fitted to timings of 176,408 real documents, and of one million and 8.8 million synthetic documents, for
# k from 10 to 1,000.
_SCORED, _LOOKUP, _BOUND, _DOCUMENT = 1.8, 350, 0.8, 0.2
_TOGETHER, _RESULTS = 16, 1 << 18  # maximum number of queries, and of results, in one kernel call
_TINY = float(np.finfo(np.float64).tiny)
EXACT = SearchSettings()
_EVERY = np.frombuffer(b"", np.uint8)  # the mask of all documents; read-only, as kernels expect

QueryVector = tuple[NDArray[np.uint32], NDArray[np.float32]]
Ranking = tuple[NDArray[np.int64], NDArray[np.float64]]


class Work(NamedTuple):
    """What a search did; see `Plan`."""

    algorithm: str
    reason: str
    counts: NDArray[np.int64]
    n_known: int


def estimate_costs(counts: NDArray[np.int64], n_docs: int, n_windows: int) -> tuple[float, float]:
    """Estimate what a block search cost and what a scan would have cost. The unit is adding one posting in a scan.

    Args:
        counts: (6,), what the block search did (`lsr.index.kernels.layout.Space.counts`).
        n_docs: Number of documents that a scan would score, added up over the queries.
        n_windows: Number of windows in the index.
    """
    docs_scanned = counts[WINDOWS_SCANNED] * n_docs / max(n_windows, 1)
    of_blocks = _SCORED * counts[POSTINGS_SCORED] + _LOOKUP * counts[LOOKUPS] + _BOUND * counts[BOUNDS]
    return float(of_blocks + _DOCUMENT * docs_scanned), float(counts[POSTINGS] + _DOCUMENT * n_docs)


@dataclass(frozen=True)
class Mask:
    """Which documents may be found. Made by `Searcher.mask`; usable for any number of queries.

    Attributes:
        allowed: (n_docs,) uint8, by place; empty if all documents may be found.
        live: For each group of segments (n_blocks,) uint8: whether any document of a block may be found.
        share: The fraction of documents that may be found.
    """

    allowed: NDArray[np.uint8]
    live: tuple[NDArray[np.uint8], ...]
    share: float = 1.0


class Searcher:
    """Searches a list of segments.

    Attributes:
        segments: The segments, in document order.
        bases: (n_segments + 1,) int64: the number of each segment's first document, then the number of documents.
        n_docs: Number of documents, including deleted ones.
        n_windows: Number of windows.
        n_blocks: Number of blocks.

    Args:
        segments: The segments.
        alive: For each segment, (n_docs,) bool, by document number, False for deleted documents; None if none are
            deleted.
    """

    def __init__(self, segments: Sequence[Segment], alive: Sequence[NDArray[np.bool_] | None] = ()) -> None:
        self.segments = tuple(segments)
        self._alive = tuple(alive) or (None,) * len(self.segments)
        self.bases = np.cumsum([0, *(segment.n_docs for segment in self.segments)], dtype=np.int64)
        self.n_docs = int(self.bases[-1])
        by_scale: dict[float, list[tuple[Run, int]]] = {}
        for segment, base in zip(self.segments, self.bases.tolist(), strict=False):
            for run in segment.runs():
                by_scale.setdefault(run.scale, []).append((run, base))
        self._groups = [Group(members) for members in by_scale.values()]
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
        threshold: float = 0.0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the k best documents for a query vector.

        Args:
            terms: (n,) ascending term ids.
            weights: (n,) weights above zero.
            k: Number of documents.
            settings: How to search.
            mask: Which documents may be found; by default all live documents.
            threshold: Documents that score less may be left out.

        Returns:
            (found,) int64 document numbers and (found,) float64 scores, descending; ties by document number.
        """
        return self._search([(terms, weights)], k, settings, mask, threshold)[0][0]

    def search_batch(
        self,
        queries: Sequence[QueryVector],
        k: int,
        settings: SearchSettings = EXACT,
        mask: Mask | None = None,
        *,
        threads: int = 0,
    ) -> list[Ranking]:
        """Search with each of many queries, as `search` does.

        Args:
            queries: For each query, (n,) ascending term ids and (n,) weights.
            k: Number of documents for each query.
            settings: How to search.
            mask: Which documents may be found; by default all live documents.
            threads: Number of threads; 0 for one per core.
        """
        threads = threads or os.cpu_count() or 1
        size = max(1, min(_TOGETHER, -(-len(queries) // threads), _RESULTS // max(1, min(k, self.n_docs))))
        parts = [queries[first : first + size] for first in range(0, len(queries), size)]
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(lambda part: self._search(part, k, settings, mask, 0.0)[0], parts)
            return [ranking for rankings in found for ranking in rankings]

    def plan(
        self,
        terms: NDArray[np.uint32],
        weights: NDArray[np.float32],
        k: int,
        settings: SearchSettings = EXACT,
        mask: Mask | None = None,
        threshold: float = 0.0,
    ) -> Plan:
        """Run `search` and report what it did."""
        if settings.beta < 1:
            terms, weights = _heaviest(terms, weights, settings.beta)
            settings = replace(settings, beta=1.0)
        algorithm, reason, counts, n_known = self._search([(terms, weights)], k, settings, mask, threshold)[1]
        blocks_scored, windows_scanned, postings_scored = counts[:POSTINGS].tolist()
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

    def _search(
        self, queries: Sequence[QueryVector], k: int, settings: SearchSettings, mask: Mask | None, threshold: float
    ) -> tuple[list[Ranking], Work]:
        quantized = all(segment.impacts == "uint8" for segment in self.segments)
        if settings.beta < 1:
            queries = [_heaviest(*query, settings.beta) for query in queries]
        numbers = [query_numbers(weights) if quantized else (weights.astype(np.float64), 1.0) for _, weights in queries]
        far = quantized and any(weights.dtype != np.int32 for weights, _ in numbers)
        if len(queries) > 1 and (far or settings.algorithm == "clusters"):
            alone = [self._search([query], k, replace(settings, beta=1.0), mask, threshold) for query in queries]
            return [rankings[0] for rankings, _ in alone], alone[0][1]
        k, mask = max(1, min(k, self.n_docs)), mask or self._all_alive
        if settings.algorithm == "clusters":
            self._require_clusters()
        algorithm, reason = choose(
            settings,
            k,
            self.n_blocks,
            self._experience,
            has_bounds=quantized and not far,
            ordered=self._ordered,
            n_live=sum(int(live.sum()) for live in mask.live) if mask.live else self.n_blocks,
            share=mask.share,
        )
        if far:
            reason = "the query's weights lie too far apart for 32-bit integers"
        terms, weights = (_joined(arrays) for arrays in ([q[0] for q in queries], [n[0] for n in numbers]))
        ends = np.array(list(accumulate(len(query[0]) for query in queries)))
        space, rankings, n_known = self._space(k, weights.dtype), [], 0
        for g, group in enumerate(self._groups):
            units = [group.scale / factor for _, factor in numbers]
            live = mask.live[g] if mask.live else _EVERY
            thresholds = _thresholds([threshold / unit for unit in units], weights.dtype)
            batch = Batch(terms, weights, ends, thresholds, mask.allowed, live)
            if algorithm == "clusters":
                found = group.search_clusters(batch, k, settings, space, self._scratch())
            else:
                found = group.search(algorithm, batch, k, settings, space)
            n_known = max(n_known, *found.known.tolist())
            rankings.append([
                (found.docs[q, :n], found.scores[q, :n] * unit)
                for q, (n, unit) in enumerate(zip(found.sizes.tolist(), units, strict=True))
            ])  # fmt: skip
        counts = space.counts.copy()
        if algorithm == "blocks" and not len(mask.allowed):
            self._experience.learn(k, *estimate_costs(counts, len(queries) * self.n_docs, self.n_windows))
        best = rankings[0] if len(rankings) == 1 else [_best([own[q] for own in rankings], k) for q in range(len(ends))]
        if any(len(docs) and docs.max() >= self.n_docs for docs, _ in best):
            raise CorruptIndex(f"{self.segments[0].folder.parent}: places.arrow is damaged; run lsr verify for details")
        return best, Work(algorithm, reason, counts, n_known)

    # --- masks ------------------------------------------------------------------------------------------------------

    def mask(self, allowed: NDArray[np.bool_]) -> Mask:
        """Make a mask from allowed documents; deleted documents are left out.

        Args:
            allowed: (n_docs,) bool, by document number.
        """
        if allowed.shape != (self.n_docs,):
            raise ValueError(f"a mask needs a value for each of {self.n_docs} documents, got shape {allowed.shape}")
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
            try:
                places[base : base + segment.n_docs] = both[segment.order] if len(segment.order) else both
            except IndexError:
                raise CorruptIndex(f"{segment.folder / 'places.arrow'}: damaged; run lsr verify for details") from None
        live = []
        for group in self._groups:
            blocks = np.zeros(group.n_blocks, np.uint8)
            find_live(group.files.windows, places, blocks)
            live.append(blocks)
        for array in (places, *live):
            array.flags.writeable = False  # kernels are compiled for read-only arrays
        return Mask(places, tuple(live), float(places.mean()) if len(places) else 1.0)

    def by_number(self, mask: Mask | None) -> NDArray[np.bool_] | None:
        """Convert a mask to (n_docs,) bool by document number; None if it allows all documents.

        Args:
            mask: The mask; None for all live documents.
        """
        mask = mask or self._all_alive
        if not len(mask.allowed):
            return None
        allowed = np.empty(self.n_docs, bool)
        for segment, base in zip(self.segments, self.bases, strict=False):
            here = mask.allowed[base : base + segment.n_docs].view(bool)
            if len(segment.order):
                allowed[base + segment.order.astype(np.int64)] = here
            else:
                allowed[base : base + segment.n_docs] = here
        return allowed

    # --- single documents -------------------------------------------------------------------------------------------

    def locate(self, doc: int) -> tuple[int, int]:
        """Return a document's segment and its number within the segment."""
        number = int(np.searchsorted(self.bases, doc, side="right")) - 1
        return number, doc - int(self.bases[number])

    def impacts_of(self, doc: int, terms: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return (n,) float64: the stored weight of each term in a document; 0 for terms that the document lacks."""
        number, within = self.locate(doc)
        try:
            return self.segments[number].impacts_of(within, terms)
        except IndexError:
            folder = self.segments[number].folder
            raise CorruptIndex(f"{folder}: postings or places.arrow are damaged; run lsr verify for details") from None

    def score_of(
        self, doc: int, terms: NDArray[np.uint32], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return a document's score as a search computes it, with weights rounded to integers.

        Returns:
            (n,) float64, the stored weight of each term; (n,) float64, each term's part of the score; and the score.
        """
        number, _ = self.locate(doc)
        impacts, scale = self.impacts_of(doc, terms), self.segments[number].scale
        wide = weights.astype(np.float64)
        if any(segment.impacts != "uint8" for segment in self.segments):
            return impacts, wide * impacts, float(wide @ impacts)
        numbers, factor = query_numbers(weights)
        sums: NDArray[np.float64] = numbers * np.rint(impacts / scale)
        return impacts, sums * (scale / factor), float(sums.sum() * (scale / factor))

    def sample(self, n: int, length: int) -> SparseMatrix:
        """Return random documents, cut to their heaviest terms; the same ones on every call.

        Args:
            n: Maximum number of documents.
            length: Maximum number of terms in each.

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
            raise CorruptIndex(f"{where}: the clusters are damaged; run lsr verify for details") from None

    def _require_clusters(self) -> None:
        for segment in self.segments:
            if segment.clusters is None:
                how = "build it again with --clusters or Index.build(..., clusters=True)"
                if segment.impacts == "float32":
                    how = f"weights stored as float32 can't have them; {how}, and with 8-bit impacts"
                raise IndexFormatError(f"{segment.folder.parent}: this index has no clusters: {how}")

    # --- buffers ----------------------------------------------------------------------------------------------------

    @cached_property
    def _ordered(self) -> bool:
        """Whether most documents are stored next to similar ones."""
        return 2 * sum(len(segment.order) for segment in self.segments) > self.n_docs

    def _space(self, k: int, dtype: Any) -> Space:
        """Return this thread's buffers. Except for the results, all searches of the thread share them."""
        if getattr(self._local, "space", None) is None:
            n_blocks = _folded(max((group.n_blocks for group in self._groups), default=0))
            self._local.space = np.empty((6, n_blocks), np.int32), np.zeros(N_COUNTS, np.int64)
            self._local.accumulators = {}
        blocks, counts = self._local.space
        counts[:] = 0
        accumulators = self._local.accumulators
        if dtype not in accumulators:
            accumulators[dtype] = np.zeros(WINDOW, dtype)
        size = 2 * k + _SPARE
        return Space(accumulators[dtype], blocks, np.empty(size, np.int64), np.empty(size, dtype), counts)

    def _scratch(self) -> NDArray[np.int32]:
        """Return this thread's additional buffers for a cluster search."""
        if getattr(self._local, "sums", None) is None:
            n_clusters = max(len(s.clusters.doc_ends) for s in self.segments if s.clusters is not None)
            self._local.sums = np.zeros((6, _folded(n_clusters)), np.int32)
        sums: NDArray[np.int32] = self._local.sums
        return sums


def _best(results: list[tuple[NDArray[np.int64], NDArray[np.float64]]], k: int) -> Any:
    """Merge results and keep the k best."""
    docs = np.concatenate([np.empty(0, np.int64), *(docs for docs, _ in results)])
    scores = np.concatenate([np.empty(0), *(scores for _, scores in results)])
    best = np.lexsort((docs, -scores))[:k]
    return docs[best], scores[best]


def _heaviest(terms: NDArray[np.uint32], weights: NDArray[np.float32], share: float) -> QueryVector:
    """Keep the heaviest terms of a query: a share of all terms, but at least one."""
    kept = np.sort(np.argsort(-weights, kind="stable")[: math.ceil(share * len(terms))])
    return terms[kept], weights[kept]


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _thresholds(scores: Sequence[float], dtype: Any) -> NDArray[Any]:
    """Convert starting thresholds to a kernel's score type, rounded down so that no tie is lost."""
    below = [score * (1 - 2.0**-40) for score in scores]
    if dtype == np.int32:
        return np.array([max(1, min(math.ceil(score), 2**31 - 1)) for score in below], np.int32)
    return np.array([max(score, _TINY) for score in below])


def _folded(n: int) -> int:
    return max(FOLD, -(-n // FOLD) * FOLD)
