"""A segment: the postings of some documents, in windows; written once, then memory-mapped.

    postings.arrow   one record batch per window: doc uint16 (within the window), impact uint8 | float32, both by
                     term and, within a term, by document
    dense.arrow      one record batch per window: of the lists that most documents are on, row by row, an impact for
                     each document, uint8, 0 where it isn't on it; these aren't in postings.arrow
    maxima.arrow     of the longer lists, by term and window, the largest impact in each block of documents, uint8; each
                     row begins at a multiple of 64
    skips.arrow      of the same lists, how many postings come before each 1024th document, uint16; each row begins at
                     an eighth of the place of its maxima
    places.arrow     where documents are stored in another order than they came: the document at each place and the
                     place of each document, uint32; else no rows. Everything else here goes by places.
    windows.arrow    first_doc int64, n_docs int64 of each window
    terms.arrow      the terms that occur, ascending, uint32; in how many documents, df uint32; and where the entries
                     of each in lists.arrow end, uint64
    lists.arrow      the lists, by term and window: window, begin and size among its postings uint32, where its
                     maxima begin in units of 64, and its row of dense.arrow, int32, -1 if it has none

A window holds at most 65,536 documents, fewer where they are so long that the writer's memory would run over.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex, IndexFormatError
from lsr.sparse import SparseMatrix

from .clusters import document_of, open_clusters
from .kernels.blocks import FOLD, search_blocks
from .kernels.clusters import Clusters, search_clusters
from .kernels.exhaustive import search_windows
from .kernels.lists import (
    BLOCK,
    DENSE_AT,
    DOCS_AT,
    FIRST_BLOCK,
    FIRST_DOC,
    IMPACTS_AT,
    N_DENSE,
    N_DOCS,
    POSTINGS,
    POSTINGS_SCORED,
    ROW_UNIT,
    SIZE,
    SKIP_UNIT,
    WINDOW,
    Files,
    Query,
    Space,
    find_lists,
)
from .kernels.maxscore import search_daat, search_maxscore
from .kernels.query import keep_known
from .plan import Experience, Plan, SearchSettings, choose
from .quantize import query_integers
from .storage import ArrowFile

ImpactType = Literal["uint8", "float32"]
_SPARE = 64  # room for the best documents beyond twice k, so that a small k is thinned out rarely, too
_SEEDS = 2  # blocks of the highest bounds that are scored first, apart from a quarter of k
_TABLED = 1 << 20  # terms up to here have their ranks in a table
_PAYS = 0.6  # skipping pays where less than this share of the postings is scored
EXACT = SearchSettings()

DENSE_SCHEMA = pa.schema([("impact", pa.uint8())])
MAXIMA_SCHEMA = pa.schema([("maximum", pa.uint8())])
SKIPS_SCHEMA = pa.schema([("skip", pa.uint16())])
ENTRY_SCHEMA = pa.schema(
    [("window", pa.uint32()), ("begin", pa.uint32()), ("size", pa.uint32()), ("row", pa.int32()), ("dense", pa.int32())]
)
PLACE_SCHEMA = pa.schema([("doc", pa.uint32()), ("place", pa.uint32())])
_WINDOW_SCHEMA = pa.schema([("first_doc", pa.int64()), ("n_docs", pa.int64())])
_TERM_SCHEMA = pa.schema([("term", pa.uint32()), ("df", pa.uint32()), ("peak", pa.float32()), ("end", pa.uint64())])


def posting_schema(impacts: ImpactType) -> pa.Schema:
    """Of the file of postings."""
    return pa.schema([("doc", pa.uint16()), ("impact", pa.uint8() if impacts == "uint8" else pa.float32())])


class Segment:
    """Searches what SegmentWriter wrote. Opening maps the files and reads none of the postings.

    Attributes:
        terms: (n_used,) uint32, the terms that occur, ascending.
        df: (n_used,) uint32, in how many documents each occurs.
        n_windows: Number of windows.
        n_docs: Number of documents.
        clusters: The mapped files of clusters, None if the index was built without.

    Args:
        folder: Where the files lie.
        impacts: How weights are stored.
        scale: Weight of one impact; 1.0 for float weights.
        clusters: Whether there are files of clusters.

    Raises:
        CorruptIndex: A file is damaged so that searching it would read outside of it.
    """

    def __init__(self, folder: Path, impacts: ImpactType, scale: float, *, clusters: bool = False) -> None:
        self._folder = folder
        self._impacts = impacts
        self._scale = scale
        postings = ArrowFile(folder / "postings.arrow", posting_schema(impacts))
        dense = ArrowFile(folder / "dense.arrow", DENSE_SCHEMA)
        maxima = ArrowFile(folder / "maxima.arrow", MAXIMA_SCHEMA)
        skips = ArrowFile(folder / "skips.arrow", SKIPS_SCHEMA)
        places = ArrowFile(folder / "places.arrow", PLACE_SCHEMA)
        windows = ArrowFile(folder / "windows.arrow", _WINDOW_SCHEMA)
        terms = ArrowFile(folder / "terms.arrow", _TERM_SCHEMA)
        lists = ArrowFile(folder / "lists.arrow", ENTRY_SCHEMA)
        self.terms: NDArray[np.uint32] = terms.column("term")
        self.df: NDArray[np.uint32] = terms.column("df")
        # Of each term its rank, where that is a small table: one cache miss instead of a search.
        tabled = len(self.terms) > 0 and int(self.terms.max()) < _TABLED
        self._ranks = np.full(int(self.terms.max()) + 1 if tabled else 0, -1, np.int32)
        if tabled:
            self._ranks[self.terms] = np.arange(len(self.terms), dtype=np.int32)
        self._peaks: NDArray[np.float32] = terms.column("peak")
        self._ends: NDArray[np.uint64] = terms.column("end")
        self._entries = tuple(lists.column(name) for name in ENTRY_SCHEMA.names)
        first_doc, n_docs = windows.column("first_doc"), windows.column("n_docs")
        self.n_windows = len(first_doc)
        if not self.n_windows == postings.n_batches == dense.n_batches:
            raise CorruptIndex(f"{folder}: the files of the postings don't fit together; build the index again")
        if self.n_windows and (
            n_docs.min() < 1 or n_docs.max() > WINDOW or (np.cumsum(n_docs) - n_docs != first_doc).any()
        ):
            raise CorruptIndex(f"{folder / 'windows.arrow'}: a window of an impossible size; build the index again")
        self.n_docs = int(n_docs.sum())
        self._places: NDArray[np.uint32] = places.column("place")
        if len(self._places) not in (0, self.n_docs):
            raise CorruptIndex(f"{places.path}: doesn't fit the documents; build the index again")
        impact_type = np.dtype(np.uint8 if impacts == "uint8" else np.float32)
        self._windows = np.zeros((self.n_windows, 8), np.int64)
        n_blocks = -(-n_docs // BLOCK)
        for w in range(self.n_windows):
            batch, rows = postings.batch(w), dense.batch(w)
            self._windows[w, DOCS_AT] = postings.offset(batch.column(0)) // 2
            self._windows[w, IMPACTS_AT] = postings.offset(batch.column(1)) // impact_type.itemsize
            self._windows[w, SIZE] = batch.num_rows
            self._windows[w, DENSE_AT] = dense.offset(rows.column(0))
            self._windows[w, N_DENSE] = rows.num_rows // n_docs[w]
        self._windows[:, FIRST_DOC], self._windows[:, N_DOCS] = first_doc, n_docs
        self._windows[:, FIRST_BLOCK] = np.cumsum(n_blocks) - n_blocks
        self.n_blocks = int(n_blocks.sum())
        self._files = Files(
            docs=_view(postings.bytes, np.uint16),
            impacts=_view(postings.bytes, impact_type),
            dense=dense.bytes,
            maxima=maxima.column("maximum"),
            skips=skips.column("skip"),
            windows=self._windows,
            order=places.column("doc"),
        )
        self._n_rows = min(len(self._files.maxima) // ROW_UNIT, len(self._files.skips) // SKIP_UNIT)
        self.clusters = open_clusters(folder, len(self.terms)) if clusters else None
        self._experience = Experience()
        self._local = threading.local()

    @property
    def n_postings(self) -> int:
        """Number of postings."""
        return int(self.df.sum(dtype=np.int64))

    def search(
        self, terms: NDArray[np.uint32], weights: NDArray[np.float32], k: int, settings: SearchSettings = EXACT
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k best documents for a query vector.

        Args:
            terms: (n,) ascending term ids.
            weights: (n,) weights above zero.
            k: How many.
            settings: How to search.

        Returns:
            (found,) document numbers and (found,) scores, descending, equal ones by document.
        """
        return self._search(terms, weights, k, settings)[:2]

    def plan(
        self, terms: NDArray[np.uint32], weights: NDArray[np.float32], k: int, settings: SearchSettings = EXACT
    ) -> Plan:
        """Search as `search` does, and tell what that took."""
        return self._search(terms, weights, k, settings)[2]()

    def _search(
        self, terms: NDArray[np.uint32], weights: NDArray[np.float32], k: int, settings: SearchSettings
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], Callable[[], Plan]]:
        quantized = self._impacts == "uint8"
        clusters = self._require_clusters() if settings.algorithm == "clusters" else None
        k = max(1, min(k, self.n_docs))
        algorithm, reason = choose(
            settings, k, self.n_blocks, self._experience, has_bounds=quantized, ordered=len(self._places) > 0
        )
        ranks, weights, factor = self._query(terms, weights, settings.beta)
        space = self._space(k)
        if clusters is not None:
            found, n_blocks = (
                self._search_clusters(clusters, ranks, weights, space, k, settings),
                len(clusters.doc_ends),
            )
        else:
            found, n_blocks = self._search_postings(algorithm, ranks, weights, space, k, settings), self.n_blocks

        def plan() -> Plan:
            blocks_scored, windows_scanned, postings_scored, _ = space.counts.tolist()
            return Plan(
                algorithm=algorithm,
                reason=reason,
                terms=len(ranks),
                documents=self.n_docs,
                postings=int(self.df[ranks].sum()),
                postings_scored=postings_scored,
                blocks=n_blocks,
                blocks_scored=blocks_scored,
                windows=self.n_windows,
                windows_scanned=windows_scanned,
            )

        if found and len(self._places) and space.docs[:found].max() >= self.n_docs:
            raise CorruptIndex(f"{self._folder / 'places.arrow'}: damaged; lsr verify tells more")
        return space.docs[:found], space.scores[:found] * factor, plan

    def _search_postings(
        self, algorithm: str, ranks: NDArray[np.int64], weights: Any, space: Space, k: int, settings: SearchSettings
    ) -> int:
        if algorithm == "blocks":
            weightiest_first = np.argsort(-weights, kind="stable")
            ranks, weights = ranks[weightiest_first], weights[weightiest_first]
        lists = np.empty((len(ranks), self.n_windows, 4), np.int32)
        find_lists(self._ends, self._entries, self._n_rows, self._windows, ranks, lists)
        peaks = (weights * self._peaks[ranks]).astype(weights.dtype) if algorithm != "exhaustive" else weights
        query = Query(lists, weights, peaks)
        if algorithm == "blocks":
            seeds = min(max(_SEEDS + k // 4, settings.guaranteed), max(self.n_blocks, 1))
            found = search_blocks(self._files, query, space, k, settings.alpha, seeds)
            self._experience.learn(k, paid=bool(space.counts[POSTINGS_SCORED] < _PAYS * space.counts[POSTINGS]))
        elif algorithm == "maxscore":
            found = search_maxscore(self._files, query, space, k)
        elif algorithm == "daat":
            found = search_daat(self._files, query, space, k)
        else:
            least = weights.dtype.type(1 if self._impacts == "uint8" else np.finfo(np.float64).tiny)
            found = search_windows(self._files, query, space, k, least)
        return int(found)

    def _search_clusters(
        self, clusters: Clusters, ranks: NDArray[np.int64], weights: Any, space: Space, k: int, settings: SearchSettings
    ) -> int:
        n_clusters = len(clusters.doc_ends)
        if getattr(self._local, "sums", None) is None:
            self._local.sums = np.zeros((6, max(FOLD, -(-n_clusters // FOLD) * FOLD)), np.int32)
        heaviest = np.argsort(-weights, kind="stable")[: settings.cut]
        seeds = min(max(_SEEDS + k // 5, settings.guaranteed), max(n_clusters, 1))
        order, scratch, factor = self._files.order, self._local.sums, float(settings.heap_factor)
        query = (ranks, weights)
        return int(search_clusters(clusters, query, heaviest, order, self.n_docs, scratch, space, k, factor, seeds))

    def _require_clusters(self) -> Clusters:
        if self.clusters is None:
            how = "build it again with --clusters, Index.build(..., clusters=True)"
            if self._impacts == "float32":
                how = f"weights stored as float32 can't have them; {how} and 8-bit impacts"
            raise IndexFormatError(f"{self._folder.parent}: this index has no clusters: {how}")
        return self.clusters

    def sample(self, n: int, length: int) -> SparseMatrix:
        """At most n documents, drawn at random but always the same, cut to their heaviest terms.

        Args:
            n: How many documents.
            length: How many terms to keep of each at most.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        clusters, rows = self._require_clusters(), []
        try:
            for place in np.random.default_rng(0).permutation(self.n_docs)[:n].tolist():
                ranks, impacts = document_of(clusters, place)
                heaviest = np.sort(np.argsort(impacts, kind="stable")[-length:])
                rows.append((self.terms[ranks[heaviest]], impacts[heaviest]))
            return SparseMatrix.from_rows(rows, int(self.terms.max(initial=0)) + 1)
        except (IndexError, ValueError):
            raise CorruptIndex(f"{self._folder}: the clusters are damaged; lsr verify tells more") from None

    def postings_of(self, w: int) -> tuple[Any, ...]:
        """The postings of a window.

        Returns:
            (n,) int64, its terms as places in `terms`, ascending; (n, 4) int64, their lists; its documents, impacts
            and dense rows; and how many documents it has.
        """
        window, files = self._windows[w], self._files
        number, begin, size, row, dense = self._entries
        at = np.flatnonzero(number == w)
        ranks = np.searchsorted(self._ends, at.astype(np.uint64), side="right")
        lists = np.stack((begin[at], begin[at].astype(np.int64) + size[at], row[at], dense[at]), axis=1)
        return (
            ranks,
            lists,
            files.docs[window[DOCS_AT] :][: window[SIZE]],
            files.impacts[window[IMPACTS_AT] :][: window[SIZE]],
            files.dense[window[DENSE_AT] :][: window[N_DENSE] * window[N_DOCS]],
            int(window[N_DOCS]),
        )

    def _query(
        self, terms: NDArray[np.uint32], weights: NDArray[np.float32], beta: float
    ) -> tuple[NDArray[np.int64], NDArray[Any], float]:
        """A query's known terms as places in `terms`, its weights as the kernels take them, and what a score is to be
        multiplied with. Terms that no document has are left out.
        """
        ranks, wide = np.empty(len(terms), np.int64), np.empty(len(terms))
        found = keep_known(self.terms, self._ranks, terms, weights, ranks, wide)
        ranks, wide = ranks[:found], wide[:found]
        if beta < 1 and found:
            kept = np.sort(np.argsort(-wide, kind="stable")[: math.ceil(beta * found)])
            ranks, wide = ranks[kept], wide[kept]
        if self._impacts == "float32":
            return ranks, wide, 1.0
        integers, factor = query_integers(wide)
        return ranks, integers, self._scale / factor

    def impacts_of(self, doc: int, terms: NDArray[np.uint32]) -> NDArray[np.float64]:
        """(n,) float64, the stored weight of each term in a document, 0 where it doesn't occur."""
        found = np.zeros(len(terms))
        places = np.searchsorted(self.terms, terms)
        known = np.flatnonzero(places < len(self.terms))
        known = known[self.terms[places[known]] == terms[known]]
        lists = np.empty((len(known), self.n_windows, 4), np.int32)
        find_lists(self._ends, self._entries, self._n_rows, self._windows, places[known], lists)
        place = int(self._places[doc]) if len(self._places) else doc
        w = int(np.searchsorted(self._windows[:, FIRST_DOC], place, side="right")) - 1
        window, local = self._windows[w], place - int(self._windows[w, FIRST_DOC])
        for i, (begin, end, _, dense) in zip(known, lists[:, w].tolist(), strict=True):
            if dense >= 0:
                found[i] = self._files.dense[window[DENSE_AT] + dense * window[N_DOCS] + local]
                continue
            docs = self._files.docs[window[DOCS_AT] + begin : window[DOCS_AT] + end]
            at = int(np.searchsorted(docs, local))
            if at < len(docs) and docs[at] == local:
                found[i] = self._files.impacts[window[IMPACTS_AT] + begin + at]
        return found * self._scale

    def _space(self, k: int) -> Space:
        """What a search of this thread writes to: kept from search to search, but for the result."""
        dtype = np.int32 if self._impacts == "uint8" else np.float64
        if getattr(self._local, "space", None) is None:
            n_blocks = max(FOLD, -(-self.n_blocks // FOLD) * FOLD)
            self._local.space = np.zeros(WINDOW, dtype), np.empty((6, n_blocks), np.int32), np.zeros(4, np.int64)
        accumulator, blocks, counts = self._local.space
        size = 2 * k + _SPARE
        return Space(accumulator, blocks, np.empty(size, np.int64), np.empty(size, dtype), counts)


def _view(whole: NDArray[np.uint8], dtype: Any) -> NDArray[Any]:
    """A mapped file as an array of another type; a rest that doesn't fill an entry is left out."""
    return whole[: len(whole) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize].view(dtype)
