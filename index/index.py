"""Index: built from documents or vectors, opened in milliseconds, searched exactly, changed while others read it.

    index = Index.build("idx", [{"_id": "a", "text": "..."}], encoder=load_encoder("bm25"))
    for hit in Index.open("idx").search("a question", k=10):
        print(hit.id, hit.score, hit.text)
    index.add([{"_id": "b", "text": "..."}])
    index.delete(["a"])
    index.commit()

A search reads a snapshot (lsr.index.search.snapshot) through a reader (lsr.index.search.reader); lsr.index.write.writer
makes the changes.
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
    """An index on disk, memory-mapped. Safe to search from many threads; searching releases the GIL.

    Threads may change it, too, one call at a time; their changes are one transaction, which any thread commits. A
    forked child can search; changes and merges in progress stay with its parent. A pickled index is opened again where
    it arrives, at the last commit.

    An open index is a snapshot: it doesn't change, whatever others commit, until `refresh` or until this object changes
    the index. `Reader` has the calls that search.

    Attributes:
        path: The folder.
        uri: Where it lies in object storage, of which `path` is a copy; else None.

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
        self._seen = (-1, 0, 0)  # no file's: the first look finds out what was committed since it was opened
        self._merging = MergeScheduler(self._changing)
        self._unsaved: weakref.finalize[Any, Index] | None = None  # tells of changes that are left behind
        self._left_with: int | None = None  # the process that made this one by a fork, with changes pending
        in_child(self)

    def __reduce__(self) -> Any:
        if self.pending:
            raise TypeError(f"{self.path}: changes that aren't committed stay in their process: commit, or roll back")
        where = self.uri or os.path.abspath(self.path)
        return partial(Index.open, encoder=self._given_encoder, skip_damaged=bool(self.damaged)), (where,)

    def after_fork(self) -> None:
        """See `lsr.forks`: what is pending, and what merges, is the parent's."""
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
        """Build an index; the folder holds either the whole new index or what it held before.

        Args:
            path: The folder; or a URI, then it is built in a temporary folder and uploaded.
            source: Documents ({"_id", "text", perhaps "title" and more; with "vector", {token: weight}, in all of them
                nothing is encoded), as mappings or as rows of a data frame or an Arrow table; a corpus, vectors, or a
                matrix; or a path or name of texts or vectors, as `lsr index` takes it. None at all makes an empty
                index to add to.
            encoder: Encodes documents, and later queries; by default `lsr.encode.base.DEFAULT_ENCODER`. For
                vectors, the one that made them. BM25, and lsr-mini's BM25 part, learn the words of whatever is added
                and weigh them by the documents that are there.
            ids: For a matrix, the ids of its rows; by default their numbers.
            impacts: "uint8", or "float32" for weights as they are at three times the size.
            passages: How long documents are cut into passages; a document's score is then that of its best one. None
                leaves them whole, so that what the encoder doesn't read of them is lost.
            store_text: Keep titles, texts and metadata.
            overwrite: Replace the index that is there.
            memory: Bytes to hold while building, roughly, without the encoder's.
            order: "bisection" stores similar documents side by side, so that search can skip more of them; "given"
                stores them as they come. "auto" is "bisection" from 20,000 documents on, or with clusters. Results are
                the same.
            clusters: Write clusters too, for approximate search: about twice the size without texts. Only with 8-bit
                impacts.
            summary_mass: The share of a cluster's largest impacts that its summary holds, above 0 and at most 1.
            hybrid: Keep the dense vectors, too, that the encoder gives of the same pass, in 8 bits: for
                `search(mode="hybrid")`.
            report: Filled in with what was met on the way.
            progress: Called with what is done, how many documents have been, and of how many, if that is known;
                instead of a bar on a terminal, or of a line every ten seconds.

        Returns:
            The index, open.

        Raises:
            OutputExists: The folder holds an index, or something else.
            DataError: A bad document or vector, a doubled id.
        """
        if not is_remote(path):
            path = Path(path).absolute()
        encoder = as_encoder(encoder)
        settings = BuildSettings(impacts, store_text, order, summary_mass if clusters else None, passages, hybrid)
        # Fitted or default, whatever encoded the documents encodes the queries.
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
        """Open an index; nothing is read but what is small.

        Args:
            path: The folder; a sharded one is opened as one index (lsr.index.sharding.local). Or a URI
                (s3://bucket/idx), of which a copy is kept in a cache (LSR_CACHE) and opened.
            encoder: For queries, instead of the one that the index carries; has to be the one that made it.
            skip_damaged: Read every byte first, and leave segments out whose files are missing, cut short or changed;
                `damaged` lists these files. What is left can be searched, not changed.

        Raises:
            IndexFormatError: Not an index, or one of a later format.
            CorruptIndex: A file is missing, cut short or, if small, changed.
            EncoderMismatch: Another encoder made the index, or shards of one folder.
            StorageError: A URI that can't be read, or is to be opened without what is damaged.
        """
        uri = str(path) if is_remote(path) else None
        if uri and skip_damaged:
            raise StorageError(
                f"{uri}: skip_damaged is for a folder: nothing damaged is ever downloaded; copy what is left to a "
                "folder, and open that"
            )
        path = (download_index(uri) if uri else Path(path)).absolute()  # whatever folder the process moves to
        encoder = as_encoder(encoder)
        index = cls(path, latest_snapshot(path, skip_damaged=skip_damaged), encoder, uri)
        if encoder is not None:
            index.fingerprint.require_same(encoder.fingerprint, f"the index {path}", "the query encoder")
            # Nobody knows what made it, but its tokens may tell.
            if index.fingerprint.tokenizer is None and not encoder.living:
                require_same_terms(index.vocabulary, encoder, f"the index {path}")
        return index

    def refresh(self) -> bool:
        """Move on to what was committed last, by whichever process.

        Returns:
            Whether there was anything new.

        Raises:
            IndexFormatError: The index is gone, or another one lies in its folder now.
            CorruptIndex: What was committed is damaged; what is open stays open.
        """
        before, stamp = self._snapshot, self._stamp()
        if self.uri:
            self.path = download_index(self.uri).absolute()
        found = latest_snapshot(self.path, before, skip_damaged=bool(before.damaged), same=not self.uri)
        self._adopt(found, before)
        self._seen = stamp  # what came after that is seen the next time
        return self._snapshot is not before

    @property
    def stale(self) -> bool:
        """Whether there may be something new for `refresh`, by one look at a file's date; not for object storage."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[int, int, int]:
        try:  # of a sharded folder a commit is whole when its own file says so
            found = os.stat(self.path / (SHARDS if is_sharded(self.path) else MANIFEST))
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _adopt(self, snapshot: Snapshot, before: Snapshot | None = None) -> None:
        """Move on to a snapshot; if that was `before`'s follower, only from there: a commit may have been faster."""
        with self._adopting:
            if before is not None and self._snapshot is not before:
                return
            if self._given_encoder is not None and snapshot.shared.fingerprint != self._snapshot.shared.fingerprint:
                self._given_encoder = None  # the index has been built again, or its encoder was fitted
            self._snapshot = snapshot

    # --- changing --------------------------------------------------------------------------------------------------

    def add(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents; they are found after `commit`.

        The first change locks the index against other writers, until `commit` or `rollback`. Documents are encoded, cut
        and stored like those that the index was built from. Each call adds all of its documents or none.

        Args:
            source: As of `build`: documents, a corpus, vectors of the index' encoder, or a matrix.
            ids: For a matrix, the ids of its rows; by default their numbers.
            skip_bad: Leave out bad documents and those whose ids exist already; the result lists them.

        Returns:
            What it changed.

        Raises:
            DataError: A bad document, an id that is in the index already or occurs twice.
            EncoderMismatch: Vectors of another encoder.
            EncoderError: Texts, but the index has no encoder.
            IndexLocked: Another process is writing; the message names it.
            IndexFormatError: Another index lies in the folder now.
            OutputError: The folder can't be written.
        """
        with self._writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=False, skip_bad=skip_bad)

    def upsert(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Put documents in the place of those of the same ids; where there are none, add them.

        A document that is replaced goes to the end, as if it had been deleted and added. Of several of one id the last
        counts. Arguments and errors are those of `add`; the result tells how many were updated and how many added.
        """
        with self._writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=True, skip_bad=skip_bad)

    def update(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """The same as `upsert`."""
        return self.upsert(source, ids=ids, skip_bad=skip_bad)

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """Delete documents, with their passages.

        Args:
            ids: Ids of documents; those that aren't there are listed in the result.
            where: Delete those that meet a filter (`lsr.index.segment.filters`) too, also such as were added just now.

        Raises:
            DataError: A filter on a column that no document has, or of another kind.
            OutputError: As of `add`.
        """
        parsed = None if where is None else as_filter(where)
        with self._writing() as writer:
            return writer.delete(as_ids(ids), parsed)

    def sync(self, source: str | PathLike[str] | FileCorpus, *, progress: Progress | None = None) -> Synced:
        """Bring the index up to date with a folder of files, by what they hold, and commit.

        Files that are new or have changed are read and encoded, those that are gone are deleted; one that was moved is
        both. Commits every half minute: what was interrupted goes on with the next call. Documents that were added in
        another way stay.

        Args:
            source: A folder or file, or what `lsr.files.documents.read_documents` gives: with the same `url` as before.
            progress: Called with what is done, how many documents have been, and of how many, if that is known.

        Returns:
            What it did, in files.

        Raises:
            DataError: There is no such folder; or nothing of what the index was made of is in it.
            OutputError: As of `add`; also if there are changes that aren't committed.
        """
        from lsr.files.documents import FileCorpus, read_documents
        from lsr.index.write.sync import sync  # built on this module

        if self.pending:
            raise OutputError(f"{self.path}: there are changes that aren't committed: commit, or roll back, first")
        with progress_to(progress):
            return sync(self, source if isinstance(source, FileCorpus) else read_documents(source))

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable and visible: here at once, elsewhere when the index is opened or refreshed.

        If it fails (a full disk, say), the index is unchanged and the changes are still pending. If it is interrupted,
        it has happened or not, as `refresh` tells; `commit` again makes it happen, `rollback` doesn't.

        Args:
            merge: Merge segments in the background afterwards, by the policy of lsr.index.write.merge, to keep them
                few. If more than 64 wait for that, the newest are merged before this returns.
        """
        with self._changing:
            if self._writer is None and self._left_with is not None:
                raise OutputError(
                    f"{self.path}: these changes are process {self._left_with}'s, which made them before it forked "
                    "this one: commit them there; rollback() forgets them here"
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
        """Whether there are changes that aren't committed."""
        return self._writer is not None and not self._writer.closed

    def rollback(self) -> None:
        """Forget the changes since the last commit, and unlock the index."""
        with self._changing:
            self._left_with = None
            if self._writer is not None:  # stays known until it is closed: what is interrupted here is ended later
                self._writer.close()
                self._writer = None
                self._committed()

    def _committed(self) -> None:
        """Nothing is left to be told of."""
        if self._unsaved is not None:
            self._unsaved.detach()
        self._unsaved = None

    def merge(self, *, everything: bool = True, background: bool = False) -> bool:
        """Commit, then merge segments. This frees the space of deleted documents and stores similar ones side by side
        again. Results don't change.

        Args:
            everything: Merge all segments into one; False merges what the policy says.
            background: Merge in a thread; meanwhile the index can be changed, by others too. `close` waits for it; a
                failure is logged as a warning. By default the merge is done on return, and others can't write
                meanwhile.

        Returns:
            Whether there was anything to merge; in the background, whether there is.

        Raises:
            OutputError: As of `add`.
        """
        self.commit(merge=False)
        if background:
            return self._merge_behind(everything=everything)
        self._merging.end()
        with self._changing:
            while self._writer is not None:  # other threads may have begun changes
                self.commit(merge=False)
            with self._writing() as writer:
                try:
                    return writer.merge(everything=everything)
                finally:
                    self._adopt(writer.snapshot)

    def close(self, *, wait: bool = True) -> None:
        """End merging in the background. The index stays usable. Changes that weren't committed are lost, and a warning
        says so: `commit` or `rollback` first, or change the index in a `with` block.

        A process that ends waits in the same way.

        Args:
            wait: Wait until merging is done; False gives it up as soon as possible, until the next commit.

        Raises:
            OutputError: Merging in the background has failed; what is committed is as it was.
            CorruptIndex: The same, as files are damaged.
        """
        if self.pending:
            warn(_unsaved(self.path), UncommittedChanges)
        self.rollback()
        if error := self._merging.end(wait=wait):
            raise error

    def __enter__(self) -> Self:
        """A block that commits its changes at the end; after an exception it rolls them back. Then it closes."""
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
        """Have segments merged by threads; tells whether there is anything to merge."""
        self._require_changeable()
        return self._merging.start(self._snapshot.by_folder(self.path), self._take, everything=everything)

    def _take(self, merged: Merged) -> bool:
        """Put what was merged in its place; False if somebody writes."""
        if self.pending:
            return False
        with suppress(IndexLocked), self._writing() as writer:
            writer.take(merged)
            self._adopt(writer.snapshot)
            return True
        return False

    def _require_changeable(self) -> None:
        """Refuse to change, or to merge, a copy of what lies in object storage."""
        if self.uri:
            raise OutputError(
                f"{self.uri}: an index in object storage isn't changed in place: change one in a folder and write it "
                "there with lsr.index.upload_index(folder, uri, overwrite=True)"
            )
        self._snapshot.require_changeable(self.path)

    @contextmanager
    def _writing(self) -> Iterator[Writer | ShardedWriter]:
        """The writer, which holds the lock as long as there are changes."""
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
    """Called when an index goes, or at the end of the process, with changes pending."""
    warnings.warn(_unsaved(path), UncommittedChanges, stacklevel=2)


if TYPE_CHECKING:  # the type checker compares the calls
    _: type[SearchIndex] = Index
