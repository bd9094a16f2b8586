"""WritableIndex: the calls that change an index, on top of a reader; lsr.index.write.writer makes the changes."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from lsr.console import warn
from lsr.encode.base import Encoder
from lsr.errors import IndexLocked, OutputError, UncommittedChanges
from lsr.forks import in_child
from lsr.index.search.reader import Reader
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.sharding.local import ShardedWriter, new_writer
from lsr.index.write.background_merger import MergeScheduler
from lsr.index.write.builder import Source
from lsr.index.write.merge import Merged
from lsr.index.write.update_batch import Change
from lsr.index.write.writer import Writer
from lsr.io.document import as_ids


class WritableIndex(Reader):
    """A reader that can change its index; after a commit, it reads the new state.

    Threads may change it one call at a time; their changes form one transaction, which any thread can commit.

    Attributes:
        path: The folder.
        uri: Its location in object storage, of which `path` is a local copy; else None.
    """

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None, uri: str | None = None) -> None:
        super().__init__(path, snapshot, encoder)
        self.uri = uri
        self._writer: Writer | ShardedWriter | None = None
        self._changing = threading.Condition(threading.RLock())
        self._adopting = threading.Lock()
        self._merging = MergeScheduler(self._changing)
        self._unsaved: weakref.finalize[Any, WritableIndex] | None = None  # warns about uncommitted changes
        self._left_with: int | None = None  # parent process that has uncommitted changes, if a fork made this one
        in_child(self)

    def after_fork(self) -> None:
        """Leave uncommitted changes and merges to the parent process; see `lsr.forks`."""
        self._changing = threading.Condition(threading.RLock())
        self._left_with = os.getppid() if self._writer is not None else None
        self._committed()
        self._writer, self._merging = None, MergeScheduler(self._changing)

    def _adopt(self, snapshot: Snapshot, before: Snapshot | None = None) -> None:
        """Switch to a snapshot; if it was opened from `before`, only while that is current: a commit may be newer."""
        with self._adopting:
            if before is not None and self._snapshot is not before:
                return
            if self._given_encoder is not None and snapshot.shared.fingerprint != self._snapshot.shared.fingerprint:
                self._given_encoder = None  # the index was rebuilt, or its encoder was fitted
            self._snapshot = snapshot

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
