"""Snapshot: what one manifest names, mapped and ready to be searched; it never changes.

Files that a later commit removes stay usable as long as they are mapped, so a snapshot answers alike for as long as it
is held.
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
_MASKS = 16  # of so many filters, a byte a document each
_PASSAGES = 4  # so many times the wanted documents are looked for where documents are cut into passages
_REST = " (--skip-damaged, Index.open(..., skip_damaged=True) searches what is left)"


class Like(NamedTuple):
    """What stands for a document in a search for what is like it.

    Attributes:
        vectors: Its vector, or those of all of its passages.
        id: The document's id, if this is a passage's.
        content: Its title and text, of the first passage.
        dense: (width,) float32, its dense vector, of passages their mean; None where none is kept.
    """

    vectors: SparseMatrix
    id: str
    content: str
    dense: NDArray[np.float32] | None


class Snapshot:
    """The documents of an index as they were at one commit.

    Attributes:
        manifest: What names them.
        parts: The segments, in document order.
        documents: Ids and texts.
        searcher: Postings.
        frequencies: Gives, of (n,) terms, (n,) int64: how many documents that aren't deleted have each.
        shared: Encoder and vocabulary.
        damaged: Messages about files that are damaged; what they belong to is left out.

    Args:
        path: The index' folder.
        manifest: What is to be opened.
        before: A snapshot of the same index: what it has open isn't opened again.
        skip_damaged: Leave damaged segments out; every byte is read.

    Raises:
        CorruptIndex: A file is missing, cut short or, if small, changed.
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
        # Who wants what is left wants it whole: of large files, too, every byte is looked at.
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
        """See `lsr.forks`."""
        self._masking = threading.Lock()

    @classmethod
    def latest(
        cls, path: Path, before: Snapshot | None = None, *, skip_damaged: bool = False, same: bool = True
    ) -> Snapshot:
        """Open what was committed last.

        Args:
            path: The index' folder.
            before: A snapshot that is open.
            skip_damaged: As above.
            same: Whether it has to be of the very index that `before` is of; an index in object storage, of which
                `path` is a copy, is replaced by others.

        Raises:
            IndexFormatError: Not an index, one of another format, or another one.
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
            manifest = now  # it was replaced while we looked at it

    @property
    def manifests(self) -> Sequence[Mapping[str, Any]]:
        """What names its files: of an index one manifest."""
        return (self.manifest,)

    def by_folder(self, path: Path) -> list[tuple[Path, Snapshot]]:
        """The folders whose segments are merged with each other, here the index' own, and what is committed in each."""
        return [(path, self)]

    def require_changeable(self, path: Path) -> None:
        """Refuse to change what can only be read; here nothing."""

    @cached_property
    def id(self) -> str:
        """Tells this commit from others: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """How many documents there are, without the deleted ones."""
        return sum(int(part.entry["n_alive"]) for part in self.parts)

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """What is made once for this snapshot; threads that come at once may each make it."""
        if name not in self._kept:
            self._kept[name] = make()
        return cast(T, self._kept[name])

    @cached_property
    def lexicon(self) -> Lexicon:
        """The tokens, and the counts of the documents that are there."""
        shared = self.shared
        return Lexicon(shared.vocabulary or [], shared.term_of, n_docs=len(self), counts=self.frequencies)

    def encoder(self, given: Encoder | None = None) -> Encoder:
        """What encodes queries and documents, over these documents' terms and counts.

        Args:
            given: An encoder instead of the one that the index carries.
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
        """Whether documents were cut into passages."""
        return any(part.entry["has_parents"] for part in self.parts)

    def depth(self, k: int) -> int:
        """How many vectors are looked for first, to find k documents."""
        return _PASSAGES * k if self.has_passages else k

    def vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """The stored vectors of some documents, by their numbers; a few milliseconds each."""
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
        """What stands for a document in a search for what is like it; None if there is none of this id."""
        doc = self.documents.find(doc_id)
        docs = self.documents.passages(doc_id) if doc is None else [doc]
        if not docs:
            return None
        parent = self.documents.parent(docs[0]) or doc_id
        return Like(self.vectors(docs), parent, self.documents.content(docs[0]), self._dense(docs))

    def _dense(self, docs: Sequence[int]) -> NDArray[np.float32] | None:
        """The mean of the dense vectors of some documents, as long as 1; None where there are none."""
        rows = []
        for number, within in map(self.searcher.locate, docs):
            if (embeddings := self.parts[number].embeddings) is None:
                return None
            rows.append(embeddings.rows(within, within + 1))
        found = DenseRows.concat(rows)
        mean = (found.rows * found.scales[:, None]).mean(0)
        return np.asarray(mean / (float(np.linalg.norm(mean)) or 1.0), np.float32)

    def count(self, where: Where | Filter | None, *, known: bool = False) -> int:
        """How many documents that aren't deleted meet a filter; arguments and errors are those of `mask`."""
        if where is None:
            return len(self)
        mask = self.mask(where, known=known)
        return int(mask.allowed.sum()) if mask is not None else len(self)

    def numbers(self, where: Where | Filter | None = None, first: int = 0, *, known: bool = False) -> Iterator[int]:
        """The numbers of the documents that aren't deleted and meet a filter, ascending, from `first` on; other
        arguments and errors are those of `mask`.
        """
        allowed = None if where is None else self.searcher.by_number(self.mask(where, known=known))
        return (doc for doc in self.documents.numbers(first) if allowed is None or allowed[doc])

    def mask(self, where: Where | Filter | None, *, known: bool = False) -> Mask | None:
        """Which documents a filter lets be found; None for all. The latest ones are kept.

        Args:
            where: The filter.
            known: Its columns were looked for already, in a whole of which this is a part.

        Raises:
            DataError: Something that is no filter, or that these documents can't be asked.
        """
        if where is None:
            return None
        parsed = as_filter(where)
        key = repr(parsed)  # 1 and True are equal, but not as a filter's values
        with self._masking:
            kept = self._masks.get(key)
        if kept is None:  # made without the lock, which searches with other filters would wait for
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
        """Documents and scores of one query; passages rolled up to their documents.

        Args:
            vector: The query, one row.
            k: How many documents.
            settings: How to search.
            mask: Which may be found.
            threshold: Documents that score less may be left out.
            accept: Tells of (n,) documents, of passages each, which of them may be found: for what is too slow to be
                asked of all. As many are looked at as it takes to find k.
            first: What a search for `depth(k)` of them found, if there was one already.
            passages: Find passages, not their documents.
        """
        terms, weights = vector.row(0)
        rolled_up = self.has_passages and not passages
        depth = self.depth(k) if rolled_up else k
        while True:
            # A document's best passage is the first of it in the ranking, so the first k documents are exact.
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
        """What a search does; of passages, its first step. Arguments and errors are those of `top` and `mask`."""
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
        """The k documents with the highest means of their best passages; None if others may have higher ones.

        Args:
            vector: The query.
            ids: Documents, by their best passages.
            docs: (n,) the best passage of each.
            least: The score of the worst passage that was found.
            k: How many documents.
            settings: How many passages count.
            last: Whether no other passage has a term of the query.
        """
        terms, weights = vector.row(0)
        means = np.empty(len(ids))
        for i, doc_id in enumerate(ids):
            mine = [float(self.searcher.impacts_of(p, terms) @ weights) for p in self.documents.passages(doc_id)]
            means[i] = np.mean(sorted(mine, reverse=True)[: settings.best_passages])
        order = np.lexsort((docs, -means))[:k]
        # No mean is above its best passage: what wasn't found stays below the worst passage that was.
        if last or (len(order) == k and means[order[-1]] > least):
            return docs[order], means[order]
        return None
