"""Index: build an index from documents or vectors, open it in milliseconds, search it exactly, change it while in use.

    index = Index.build("idx", [{"_id": "a", "text": "..."}], encoder=load_encoder("bm25"))
    for hit in Index.open("idx").search("a question", k=10):
        print(hit.id, hit.score, hit.text)
    index.add([{"_id": "b", "text": "..."}])
    index.delete(["a"])
    index.commit()

Searches read a snapshot (lsr.index.search.snapshot) through a reader (lsr.index.search.reader); lsr.index.write.writer
makes changes.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lsr.console import Progress, progress_to, warn
from lsr.encode.base import Encoder
from lsr.encode.corpus import Report
from lsr.encode.load import as_encoder
from lsr.encode.passages import AS_NEEDED, Passages
from lsr.errors import IndexLocked, OutputError, StorageError, UncommittedChanges
from lsr.forks import in_child
from lsr.index.protocols import SearchIndex
from lsr.index.search.hits import Hit as Hit
from lsr.index.search.reader import Reader
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.clusters import SUMMARY_MASS
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.segment.postings import ImpactType
from lsr.index.segment.postings_writer import DEFAULT_MEMORY, Order
from lsr.index.sharding.local import ShardedWriter, latest_snapshot, new_writer
from lsr.index.sharding.manifest import SHARDS, is_sharded
from lsr.index.sharding.remote import download_index, folder_for
from lsr.index.storage.manifest import MANIFEST
from lsr.index.write.background_merger import MergeScheduler
from lsr.index.write.builder import BuildSettings, Source, build_index, require_same_terms
from lsr.index.write.merge import Merged
from lsr.index.write.update_batch import Change
from lsr.index.write.writer import Writer
from lsr.io.document import as_ids
from lsr.io.object_store import is_remote

if TYPE_CHECKING:
    from lsr.files.documents import FileCorpus
    from lsr.index.write.sync import Synced


class Index(Reader):
    """A memory-mapped index on disk. Safe to search from many threads; searching releases the GIL.

    Threads may change it, too, one call at a time; their changes form one transaction, which any thread can commit. A
    forked child can search; uncommitted changes and running merges stay with its parent. Unpickling opens the index
    again, at its latest commit.

    An open index is a snapshot: it doesn't change, whatever others commit, until `refresh` or a commit of this object.
    `Reader` has the calls that search.

    Attributes:
        path: The folder.
        uri: Its location in object storage, of which `path` is a local copy; else None.

    Examples:
        >>> docs = [{"_id": "a", "text": "Ice on the wing costs lift."}, {"_id": "b", "text": "Water cools a tube."}]
        >>> index = Index.build("idx", docs, encoder="bm25")
        >>> [hit.id for hit in index.search("wings", k=3)]
        ['a']
        >>> index.delete(["a"]).deleted
        1
        >>> index.commit()
        >>> index.search("wings")
        []
    """

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None, uri: str | None = None) -> None:
        """Use `Index.open` or `Index.build`."""
        super().__init__(path, snapshot, encoder)
        self.uri = uri
        self._writer: Writer | ShardedWriter | None = None
        self._changing = threading.Condition(threading.RLock())
        self._adopting = threading.Lock()
        self._seen = (-1, 0, 0)  # matches no file, so that the first look finds commits made since opening
        self._merging = MergeScheduler(self._changing)
        self._unsaved: weakref.finalize[Any, Index] | None = None  # warns about uncommitted changes
        self._left_with: int | None = None  # parent process that has uncommitted changes, if a fork made this one
        in_child(self)

    def __reduce__(self) -> Any:
        if self.pending:
            raise TypeError(f"{self.path}: uncommitted changes can't be sent to another process: commit, or roll back")
        where = self.uri or os.path.abspath(self.path)
        return partial(Index.open, encoder=self._given_encoder, skip_damaged=bool(self.damaged)), (where,)

    def after_fork(self) -> None:
        """Leave uncommitted changes and merges to the parent process; see `lsr.forks`."""
        self._changing = threading.Condition(threading.RLock())
        self._left_with = os.getppid() if self._writer is not None else None
        self._committed()
        self._writer, self._merging = None, MergeScheduler(self._changing)

    # --- building --------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        source: Source,
        *,
        encoder: Encoder | str | PathLike[str] | None = None,
        ids: Sequence[str] | None = None,
        impacts: ImpactType = "uint8",
        passages: Passages | None = AS_NEEDED,
        store_text: bool = True,
        overwrite: bool = False,
        memory: int = DEFAULT_MEMORY,
        order: Order = "auto",
        clusters: bool = False,
        summary_mass: float = SUMMARY_MASS,
        hybrid: bool = False,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> Index:
        """Build an index. If it fails, the folder is unchanged.

        Args:
            path: The folder; or a URI, to which the index is uploaded from a temporary folder.
            source: Documents as mappings, data frame rows or an Arrow table ({"_id", "text", and optionally "title" and
                metadata}; if all have "vector", {token: weight}, none is encoded); a corpus, vectors, or a matrix; or a
                path or name of texts or vectors, as for `lsr index`. May be empty.
            encoder: Encodes documents, and later queries; by default `lsr.encode.base.DEFAULT_ENCODER`. For vectors,
                the encoder that made them. BM25, and lsr-mini's BM25 part, learn new words as documents are added, and
                weight them by current document frequencies.
            ids: For a matrix, the ids of its rows; by default their numbers.
            impacts: "uint8", or "float32" to store exact weights at three times the size.
            passages: How to cut long documents into passages; a document's score is that of its best passage. None
                doesn't cut them, and text beyond the encoder's limit is ignored.
            store_text: Store titles, texts and metadata.
            overwrite: Replace an existing index.
            memory: Approximate memory limit for building, in bytes, not counting the encoder.
            order: "bisection" stores similar documents next to each other, so that search can skip more of them;
                "given" keeps their order. "auto" is "bisection" from 20,000 documents on, or with clusters. Results are
                the same.
            clusters: Also write clusters, for approximate search; takes about twice the space, not counting texts.
                Requires 8-bit impacts.
            summary_mass: Fraction of the sum of a cluster's largest impacts that its summary keeps, above 0 and at most
                1.
            hybrid: Also store the encoder's dense vectors, in 8 bits, for `search(mode="hybrid")`; they come from the
                same forward pass.
            report: Receives the encoding counts.
            progress: Called with the current step, the number of documents done, and the total if known; replaces the
                progress bar on a terminal and the line every ten seconds elsewhere.

        Returns:
            The index, open.

        Raises:
            OutputExists: The folder contains an index or something else.
            DataError: A bad document or vector, or a repeated id.
        """
        if not is_remote(path):
            path = Path(path).absolute()
        encoder = as_encoder(encoder)
        settings = BuildSettings(impacts, store_text, order, summary_mass if clusters else None, passages, hybrid)
        # The encoder that encoded the documents, fitted or chosen by default, encodes queries, too.
        with folder_for(path, overwrite=overwrite) as folder, progress_to(progress):
            encoder = build_index(
                folder,
                source,
                encoder=encoder,
                ids=ids,
                settings=settings,
                overwrite=overwrite,
                memory=memory,
                report=report if report is not None else Report(),
            )
        return cls.open(path, encoder=encoder)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        encoder: Encoder | str | PathLike[str] | None = None,
        skip_damaged: bool = False,
    ) -> Index:
        """Open an index, reading only small files.

        Args:
            path: The folder; a sharded folder is opened as one index (lsr.index.sharding.local). Or a URI
                (s3://bucket/idx), which is copied to a cache (LSR_CACHE).
            encoder: For queries, instead of the stored encoder; has to be the one that made the index.
            skip_damaged: Read every byte, and leave out segments with missing, truncated or changed files, which
                `damaged` lists. The remaining documents can be searched, but not changed.

        Raises:
            IndexFormatError: Not an index, or one of a later format.
            CorruptIndex: A file is missing or truncated, or a small file fails its checksum.
            EncoderMismatch: Another encoder made the index, or shards have different ones.
            StorageError: The URI can't be read, or is used with `skip_damaged`.
        """
        uri = str(path) if is_remote(path) else None
        if uri and skip_damaged:
            raise StorageError(
                f"{uri}: skip_damaged is for a folder, as damaged files are never downloaded: copy the index to "
                "a folder and open that"
            )
        path = (download_index(uri) if uri else Path(path)).absolute()  # the process may change its working directory
        encoder = as_encoder(encoder)
        index = cls(path, latest_snapshot(path, skip_damaged=skip_damaged), encoder, uri)
        if encoder is not None:
            index.fingerprint.require_same(encoder.fingerprint, f"the index {path}", "the query encoder")
            # The fingerprint doesn't name an encoder, but its tokens may contradict this one.
            if index.fingerprint.tokenizer is None and not encoder.living:
                require_same_terms(index.vocabulary, encoder, f"the index {path}")
        return index

    def refresh(self) -> bool:
        """Move to the latest commit, by any process.

        Returns:
            Whether there was a new one.

        Raises:
            IndexFormatError: The index is gone, or another one has replaced it.
            CorruptIndex: The latest commit is damaged; the current snapshot stays open.
        """
        before, stamp = self._snapshot, self._stamp()
        if self.uri:
            self.path = download_index(self.uri).absolute()
        found = latest_snapshot(self.path, before, skip_damaged=bool(before.damaged), same=not self.uri)
        self._adopt(found, before)
        self._seen = stamp  # taken before opening, so later commits are noticed
        return self._snapshot is not before

    @property
    def stale(self) -> bool:
        """Whether `refresh` may find a new commit; checks only a file's date, and not object storage."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[int, int, int]:
        try:  # a sharded folder's commit is complete when its own file changes
            found = os.stat(self.path / (SHARDS if is_sharded(self.path) else MANIFEST))
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _adopt(self, snapshot: Snapshot, before: Snapshot | None = None) -> None:
        """Switch to a snapshot; if it was opened from `before`, only while that is current: a commit may be newer."""
        with self._adopting:
            if before is not None and self._snapshot is not before:
                return
            if self._given_encoder is not None and snapshot.shared.fingerprint != self._snapshot.shared.fingerprint:
                self._given_encoder = None  # the index was rebuilt, or its encoder was fitted
            self._snapshot = snapshot

    # --- changing --------------------------------------------------------------------------------------------------

    def add(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents; searches find them after `commit`.

        The first change locks the index against other writers until `commit` or `rollback`. Documents are encoded, cut
        and stored like those that the index was built from. A call adds all of its documents or none.

        Args:
            source: As for `build`: documents, a corpus, vectors of the index's encoder, or a matrix.
            ids: For a matrix, the ids of its rows; by default their numbers.
            skip_bad: Skip bad documents and existing ids; `Change.bad` lists them.

        Returns:
            The changes made by this call.

        Raises:
            DataError: A bad document, or an id that already exists or is repeated.
            EncoderMismatch: Vectors of another encoder.
            EncoderError: Texts, but the index has no encoder.
            IndexLocked: Another process is writing; the message names it.
            IndexFormatError: Another index has replaced this one.
            OutputError: The folder can't be written.
        """
        with self._writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=False, skip_bad=skip_bad)

    def upsert(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents, replacing those with the same ids.

        A replaced document moves to the end, as if deleted and added. If an id is repeated, its last document counts.
        Arguments and errors as for `add`; the result counts updated and added documents.
        """
        with self._writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=True, skip_bad=skip_bad)

    def update(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Same as `upsert`."""
        return self.upsert(source, ids=ids, skip_bad=skip_bad)

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """Delete documents, with their passages.

        Args:
            ids: Document ids; `Change.missing` lists unknown ones.
            where: Also delete documents that match a filter (`lsr.index.segment.filters`), including uncommitted ones.

        Returns:
            The changes made by this call.

        Raises:
            DataError: The filter names a column that doesn't exist or has another kind.
            OutputError: As for `add`.
        """
        parsed = None if where is None else as_filter(where)
        with self._writing() as writer:
            return writer.delete(as_ids(ids), parsed)

    def sync(self, source: str | PathLike[str] | FileCorpus, *, progress: Progress | None = None) -> Synced:
        """Bring the index up to date with a folder of files, and commit.

        Files are compared by content. New and changed files are read and encoded, documents of deleted files are
        deleted; a moved file is both. Commits every 30 seconds; after an interruption, the next call continues from
        there. Documents that were added otherwise stay.

        Args:
            source: A folder or file, or the result of `lsr.files.documents.read_documents` with the same `url` as
                before.
            progress: Called with the current step, the number of documents done, and the total if known.

        Returns:
            The numbers of new, changed, moved and deleted files.

        Raises:
            DataError: The folder doesn't exist, or contains none of the index's files.
            OutputError: As for `add`; or there are uncommitted changes.
        """
        from lsr.files.documents import FileCorpus, read_documents
        from lsr.index.write.sync import sync  # imports this module

        if self.pending:
            raise OutputError(f"{self.path}: there are uncommitted changes: commit, or roll back, first")
        with progress_to(progress):
            return sync(self, source if isinstance(source, FileCorpus) else read_documents(source))

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable, and visible here at once; other readers see them when they open or refresh the index.

        If it fails (on a full disk, say), the index is unchanged and the changes are still pending. If it is
        interrupted, it may or may not have taken effect, as `refresh` tells; calling it again commits, `rollback`
        doesn't undo.

        Args:
            merge: Afterwards merge segments in the background to limit their number (lsr.index.write.merge). If more
                than 64 are waiting to be merged, the newest are merged before this returns.
        """
        with self._changing:
            if self._writer is None and self._left_with is not None:
                raise OutputError(
                    f"{self.path}: these changes were made by process {self._left_with} before it forked: commit them "
                    "there; rollback() discards them here"
                )
            if self._writer is None or not self.pending:
                self.rollback()
                return
            self._writer.commit()
            if merge:
                self._writer.keep_pace(self._merging.at_work)
            self._adopt(self._writer.snapshot)
            self.rollback()
            self._merging.let_in()
        if merge:
            self._merge_behind(everything=False)

    @property
    def pending(self) -> bool:
        """Whether there are uncommitted changes."""
        return self._writer is not None and not self._writer.closed

    def rollback(self) -> None:
        """Discard the changes since the last commit, and unlock the index."""
        with self._changing:
            self._left_with = None
            if self._writer is not None:  # kept until closed, so that an interrupted rollback can be repeated
                self._writer.close()
                self._writer = None
                self._committed()

    def _committed(self) -> None:
        """Drop the warning about uncommitted changes."""
        if self._unsaved is not None:
            self._unsaved.detach()
        self._unsaved = None

    def merge(self, *, everything: bool = True, background: bool = False) -> bool:
        """Commit, then merge segments.

        Merging frees the space of deleted documents and reorders documents for faster search. Results don't change.

        Args:
            everything: Merge all segments into one; False merges those that the policy chooses.
            background: Merge in a thread, while this index and others can make changes. `close` waits for it; a failure
                is logged as a warning. By default the call returns when the merge is done, and others can't write
                meanwhile.

        Returns:
            Whether there was anything to merge.

        Raises:
            OutputError: As for `add`.
        """
        self.commit(merge=False)
        if background:
            return self._merge_behind(everything=everything)
        self._merging.end()
        with self._changing:
            while self._writer is not None:  # other threads may have started changes
                self.commit(merge=False)
            with self._writing() as writer:
                try:
                    return writer.merge(everything=everything)
                finally:
                    self._adopt(writer.snapshot)

    def close(self, *, wait: bool = True) -> None:
        """Finish background merges and discard uncommitted changes. The index stays usable.

        Discarding changes warns: call `commit` or `rollback` first, or use a `with` block. At exit, a process also
            waits
        for merges.

        Args:
            wait: Wait for merges to finish; False abandons them as soon as possible, until the next commit.

        Raises:
            OutputError: A background merge failed; committed data is unchanged.
            CorruptIndex: A background merge failed because files are damaged.
        """
        if self.pending:
            warn(_unsaved(self.path), UncommittedChanges)
        self.rollback()
        if error := self._merging.end(wait=wait):
            raise error

    def __enter__(self) -> Self:
        """Enter a block that commits on a clean exit and rolls back on an exception; then it closes the index."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.pending:
                self.commit()
        finally:
            self.rollback()
            self.close()

    # --- writing ---------------------------------------------------------------------------------------------------

    def _merge_behind(self, *, everything: bool) -> bool:
        """Start merging in the background; returns whether there is anything to merge."""
        self._require_changeable()
        return self._merging.start(self._snapshot.by_folder(self.path), self._take, everything=everything)

    def _take(self, merged: Merged) -> bool:
        """Commit a merge result; False if there are uncommitted changes or another process is writing."""
        if self.pending:
            return False
        with suppress(IndexLocked), self._writing() as writer:
            writer.take(merged)
            self._adopt(writer.snapshot)
            return True
        return False

    def _require_changeable(self) -> None:
        """Refuse to change a local copy of an index in object storage."""
        if self.uri:
            raise OutputError(
                f"{self.uri}: an index in object storage can't be changed in place: change it in a folder and write it "
                "there with lsr.index.upload_index(folder, uri, overwrite=True)"
            )
        self._snapshot.require_changeable(self.path)

    @contextmanager
    def _writing(self) -> Iterator[Writer | ShardedWriter]:
        """Provide the writer, which holds the lock as long as there are changes."""
        self._require_changeable()
        with self._changing:
            if not self.pending:
                self.rollback()
                self._writer = new_writer(self.path, self._snapshot)
                self._unsaved = weakref.finalize(self, _tell_unsaved, self.path)
            assert self._writer is not None
            try:
                yield self._writer
            finally:
                if not self._writer.changed:
                    self.rollback()


def _unsaved(path: Path) -> str:
    return f"{path}: changes weren't committed and are lost: call commit(), or use `with Index.open(...) as index:`"


def _tell_unsaved(path: Path) -> None:
    """Warn when an index is collected, or at exit, while changes are pending."""
    warnings.warn(_unsaved(path), UncommittedChanges, stacklevel=2)


if TYPE_CHECKING:  # has the type checker compare the calls
    _: type[SearchIndex] = Index
