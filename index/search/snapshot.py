"""Snapshot: an immutable, memory-mapped view of one commit.

A snapshot keeps its files mapped, so it stays readable after a later commit deletes them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lsr.dense import DenseRows
from lsr.encode.base import Encoder
from lsr.encode.lexicon import Counts, Lexicon
from lsr.errors import CorruptIndex
from lsr.forks import cached_property, in_child
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.open_segment import OpenSegment, frequencies, open_segment
from lsr.index.search.searcher import Mask, Searcher
from lsr.index.search.settings import Plan, SearchSettings
from lsr.index.segment.doc_store import AllDocuments
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.storage.arrow_file import damage
from lsr.index.storage.manifest import check_files, read_manifest, require_same_index
from lsr.sparse import MAX_TERMS, SparseMatrix

T = TypeVar("T")
_MASKS = 16  # number of filter masks to cache; a mask takes a byte per document
_PASSAGES = 4  # passages to fetch per requested document
_REST = " (--skip-damaged or Index.open(..., skip_damaged=True) searches what is left)"


class Like(NamedTuple):
    """What a search for similar documents needs to know about a document.

    Attributes:
        vectors: The document's vector, or the vectors of all its passages.
        id: The document's id, even if the search was given the id of a passage.
        content: Title and text of the document, or of its first passage.
        dense: (width,) float32, the document's dense vector, or the mean of its passages; None if the index has no
            dense vectors.
    """

    vectors: SparseMatrix
    id: str
    content: str
    dense: NDArray[np.float32] | None


class Snapshot:
    """The documents of an index at one commit.

    Attributes:
        manifest: The manifest.
        parts: The segments, in document order.
        documents: Ids and texts.
        searcher: The searcher over the postings.
        frequencies: Maps (n,) terms to (n,) int64: the number of live documents that contain each term.
        shared: Encoder and vocabulary.
        damaged: Messages about damaged files; their segments (or the encoder, or the tokens) are left out.

    Args:
        path: The index's folder.
        manifest: The manifest to open.
        before: An earlier snapshot of the same index; its open files are reused.
        skip_damaged: Leave out damaged segments; reads every byte to find them.

    Raises:
        CorruptIndex: A file is missing or truncated, or a small file fails its checksum.
    """

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        before: Snapshot | None = None,
        *,
        skip_damaged: bool = False,
    ) -> None:
        self.manifest = manifest
        # With skip_damaged, every byte is verified; otherwise, large files are only checked for their size.
        known = before.manifest["files"] if before else None
        wrong = check_files(path, manifest, every_byte=skip_damaged, known=known)
        if wrong and not skip_damaged:
            raise CorruptIndex("\n".join(wrong.values()) + _REST)
        self.damaged = list(wrong.values())
        left_out = {name.split("/")[0] for name in wrong}
        opened: dict[str, OpenSegment] = {part.entry["name"]: part for part in before.parts} if before else {}
        parts = []
        for entry in manifest["segments"]:
            if entry["name"] in left_out or entry["alive"] in left_out:
                continue
            try:
                parts.append(open_segment(path, manifest, entry, opened.get(entry["name"])))
            except CorruptIndex as error:
                if not skip_damaged:
                    raise
                self.damaged.append(str(error))
        self._assemble(parts)
        folders = [piece["name"] for piece in manifest.get("grown", ())]
        known = before if before and before.manifest["shared"] == manifest["shared"] and not before.damaged else None
        if known and known.manifest.get("grown") == manifest.get("grown"):
            self.shared: IndexEncoder = known.shared
        else:
            lost = [name for name in wrong if name.split("/")[0] in (manifest["shared"], *folders)]
            tokens_whole = all("/encoder/" in name for name in lost)
            base = (
                known.shared.base
                if known
                else IndexEncoder.of(path, manifest, whole=not lost, tokens_whole=tokens_whole)
            )
            self.shared = base.grown(path, manifest, known.shared if known else None) if tokens_whole else base

    def _assemble(self, parts: Sequence[OpenSegment]) -> None:
        self.parts: tuple[OpenSegment, ...] = tuple(parts)
        alive = [part.alive for part in self.parts]
        self.documents = AllDocuments([part.documents for part in self.parts], alive)
        self._masks: dict[str, Mask] = {}
        self._kept: dict[str, Any] = {}
        self._masking = threading.Lock()
        in_child(self)
        self.searcher = Searcher([part.segment for part in self.parts], alive)
        self.frequencies: Counts = partial(frequencies, self.parts, {})
        self._bound: tuple[Encoder, Encoder] | None = None

    def after_fork(self) -> None:
        """Replace the lock; see `lsr.forks`."""
        self._masking = threading.Lock()

    @classmethod
    def latest(
        cls, path: Path, before: Snapshot | None = None, *, skip_damaged: bool = False, same: bool = True
    ) -> Snapshot:
        """Open the latest commit.

        Args:
            path: The index's folder.
            before: An open snapshot; returned if it is still the latest.
            skip_damaged: As above.
            same: Refuse to open the folder if it now holds another index than that of `before`. False for a local copy
                of an index in object storage, because others may replace the original.

        Raises:
            IndexFormatError: Not an index, an unknown format, or another index.
            CorruptIndex: As above.
        """
        manifest = read_manifest(path)
        while True:
            if before is not None and manifest == before.manifest:
                return before
            if before is not None and same:
                require_same_index(path, before.manifest, manifest)
            try:
                snapshot = cls(path, manifest, before, skip_damaged=skip_damaged)
                now = read_manifest(path) if snapshot.damaged else manifest
                if now == manifest:
                    return snapshot
            except CorruptIndex:
                now = read_manifest(path)
                if now == manifest:
                    raise
            manifest = now  # another commit has replaced the manifest

    @property
    def manifests(self) -> Sequence[Mapping[str, Any]]:
        """The manifests that name the snapshot's files."""
        return (self.manifest,)

    def by_folder(self, path: Path) -> list[tuple[Path, Snapshot]]:
        """Return the folders and their snapshots; only segments of one folder are merged with each other."""
        return [(path, self)]

    def require_changeable(self, path: Path) -> None:
        """Raise if the index is read-only; a single index is never read-only."""

    @cached_property
    def id(self) -> str:
        """A hash of the manifest, 16 hexadecimal digits, that identifies the commit."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Number of live documents."""
        return sum(int(part.entry["n_alive"]) for part in self.parts)

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """Return a value that is computed once per snapshot; concurrent threads may each compute it."""
        if name not in self._kept:
            self._kept[name] = make()
        return cast(T, self._kept[name])

    @cached_property
    def lexicon(self) -> Lexicon:
        """The vocabulary, with the counts of live documents."""
        shared = self.shared
        return Lexicon(shared.vocabulary or [], shared.term_of, n_docs=len(self), counts=self.frequencies)

    def encoder(self, given: Encoder | None = None) -> Encoder:
        """Return the encoder, bound to the vocabulary and counts of these documents.

        Args:
            given: Used instead of the stored encoder.
        """
        encoder = given or self.shared.encoder
        if not encoder.living or self.shared.vocabulary is None:
            return encoder
        bound = self._bound
        if bound is None or bound[0] is not encoder:
            self._bound = bound = encoder, encoder.over(self.lexicon)
        return bound[1]

    @cached_property
    def has_passages(self) -> bool:
        """Whether documents are cut into passages."""
        return any(part.entry["has_parents"] for part in self.parts)

    def depth(self, k: int) -> int:
        """Return how many vectors the first search for k documents fetches."""
        return _PASSAGES * k if self.has_passages else k

    def vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """Return the stored vectors of the documents with these numbers; takes a few milliseconds each."""
        rows = []
        for doc in docs:
            number, within = self.searcher.locate(doc)
            segment = self.searcher.segments[number]
            with damage(segment.folder, "the postings are damaged"):
                terms, weights = segment.vector(within)
                SparseMatrix.from_rows([(terms, weights)], MAX_TERMS)
                rows.append((terms, weights))
        n_terms = max((int(terms[-1]) for terms, _ in rows if len(terms)), default=0) + 1
        return SparseMatrix.from_rows(rows, max(n_terms, self.shared.fingerprint.vocabulary_size or 0))

    def like(self, doc_id: str) -> Like | None:
        """Return what a search for similar documents needs, or None if the id is unknown."""
        doc = self.documents.find(doc_id)
        docs = self.documents.passages(doc_id) if doc is None else [doc]
        if not docs:
            return None
        parent = self.documents.parent(docs[0]) or doc_id
        return Like(self.vectors(docs), parent, self.documents.content(docs[0]), self._dense(docs))

    def _dense(self, docs: Sequence[int]) -> NDArray[np.float32] | None:
        """Return the mean of documents' dense vectors, normalized; None if there are none."""
        rows = []
        for number, within in map(self.searcher.locate, docs):
            if (embeddings := self.parts[number].embeddings) is None:
                return None
            rows.append(embeddings.rows(within, within + 1))
        found = DenseRows.concat(rows)
        mean = (found.rows * found.scales[:, None]).mean(0)
        return np.asarray(mean / (float(np.linalg.norm(mean)) or 1.0), np.float32)

    def count(self, where: Where | Filter | None, *, known: bool = False) -> int:
        """Count the live documents that match a filter; arguments and errors as for `mask`."""
        if where is None:
            return len(self)
        mask = self.mask(where, known=known)
        return int(mask.allowed.sum()) if mask is not None else len(self)

    def numbers(self, where: Where | Filter | None = None, first: int = 0, *, known: bool = False) -> Iterator[int]:
        """Return the numbers of the live documents that match a filter, ascending, from `first` on.

        Other arguments and errors as for `mask`.
        """
        allowed = None if where is None else self.searcher.by_number(self.mask(where, known=known))
        return (doc for doc in self.documents.numbers(first) if allowed is None or allowed[doc])

    def mask(self, where: Where | Filter | None, *, known: bool = False) -> Mask | None:
        """Return the mask of a filter; None for no filter. The latest masks are cached.

        Args:
            where: The filter.
            known: Skip the check of the filter's columns, because the caller has made it over all shards.

        Raises:
            DataError: `where` isn't a filter, or it doesn't fit the documents' columns.
        """
        if where is None:
            return None
        parsed = as_filter(where)
        key = repr(parsed)  # repr distinguishes 1 and True, which are equal
        with self._masking:
            kept = self._masks.get(key)
        if kept is None:  # computed outside the lock, so that other searches don't wait
            kept = self.searcher.mask(self.documents.allowed(parsed, known=known))
            with self._masking:
                while len(self._masks) >= _MASKS:
                    self._masks.pop(next(iter(self._masks)))
                self._masks[key] = kept
        return kept

    def top(
        self,
        vector: SparseMatrix,
        k: int,
        settings: SearchSettings,
        mask: Mask | None = None,
        *,
        threshold: float = 0.0,
        accept: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
        first: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
        passages: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the k best documents and their scores; a document that is cut is scored by its passages.

        Args:
            vector: The query, one row.
            k: Number of documents.
            settings: How to search.
            mask: Which documents may be found.
            threshold: Documents that score less may be left out.
            accept: A filter that is too slow to run on all documents. It maps (n,) document (or passage) numbers to
                (n,) bool, and is run only until k documents are found.
            first: The result of a search for `depth(k)` vectors, if the caller has run one.
            passages: Find passages instead of documents.

        Returns:
            (n,) int64 document numbers and (n,) float64 scores, descending.
        """
        terms, weights = vector.row(0)
        rolled_up = self.has_passages and not passages
        depth = self.depth(k) if rolled_up else k
        while True:
            # The ranking is by score, so a document's first passage in it is its best; the first k documents are
            # therefore exact.
            docs, scores = first or self.searcher.search(terms, weights, depth, settings, mask, threshold)
            first = None
            last = len(docs) < depth or depth >= self.searcher.n_docs
            least = float(scores[-1]) if len(scores) else 0.0
            if accept is not None:
                accepted = accept(docs)
                docs, scores = docs[accepted], scores[accepted]
            if not rolled_up:
                if len(docs) >= k or last:
                    return docs[:k], scores[:k]
                depth *= _PASSAGES
                continue
            best: dict[str, int] = {}
            for place, doc in enumerate(docs.tolist()):
                best.setdefault(self.documents.parent(doc) or self.documents.id(doc), place)
                if len(best) == k and settings.best_passages == 1:
                    break
            places = list(best.values())
            if settings.best_passages == 1:
                if len(best) == k or last:
                    return docs[places], scores[places]
            elif (found := self._means(vector, list(best), docs[places], least, k, settings, last=last)) is not None:
                return found
            depth *= _PASSAGES

    def plan(
        self,
        vector: SparseMatrix,
        k: int,
        settings: SearchSettings,
        where: Where | Filter | None = None,
        *,
        known: bool = False,
    ) -> Plan:
        """Report what a search does; if documents are cut into passages, only what its first round does.

        Arguments and errors are as for `top` and `mask`.
        """
        terms, weights = vector.row(0)
        return self.searcher.plan(terms, weights, self.depth(k), settings, self.mask(where, known=known))

    def _means(
        self,
        vector: SparseMatrix,
        ids: list[str],
        docs: NDArray[np.int64],
        least: float,
        k: int,
        settings: SearchSettings,
        *,
        last: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Return the k documents with the highest mean score of their best passages; None if documents not found yet
        could beat them.

        Args:
            vector: The query.
            ids: Ids of the n documents found.
            docs: (n,) int64, the best passage of each document.
            least: The lowest passage score found.
            k: Number of documents.
            settings: How to search; `best_passages` says how many passages count.
            last: Whether no other passage matches the query.
        """
        terms, weights = vector.row(0)
        means = np.empty(len(ids))
        for i, doc_id in enumerate(ids):
            mine = [float(self.searcher.impacts_of(p, terms) @ weights) for p in self.documents.passages(doc_id)]
            means[i] = np.mean(sorted(mine, reverse=True)[: settings.best_passages])
        order = np.lexsort((docs, -means))[:k]
        # A mean can't exceed the best passage's score, so the means of other documents are at most `least`.
        if last or (len(order) == k and means[order[-1]] > least):
            return docs[order], means[order]
        return None
