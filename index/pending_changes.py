"""Changes: the uncommitted changes of an open index, their writer, and its background merges."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lsr.console import warn
from lsr.errors import IndexLocked, OutputError, UncommittedChanges
from lsr.forks import in_child
from lsr.index.search.opened import Opened
from lsr.index.sharding.local import ShardedWriter, new_writer
from lsr.index.write.background_merger import MergeScheduler
from lsr.index.write.merge import Merged
from lsr.index.write.writer import Writer


class Changes:
    """Makes changes to an open index, in one transaction at a time; the index moves to each commit.

    Threads make changes one call at a time; any thread can commit.

    Args:
        opened: The index's current commit.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._writer: Writer | ShardedWriter | None = None
        self._changing = threading.Condition(threading.RLock())
        self._merging = MergeScheduler(self._changing)
        self._unsaved: weakref.finalize[Any, Changes] | None = None  # warns about uncommitted changes
        self._left_with: int | None = None  # in a forked child: id of the parent process, if it has uncommitted changes
        in_child(self)

    def after_fork(self) -> None:
        """Leave uncommitted changes and merges to the parent process; see `lsr.forks`."""
        self._changing = threading.Condition(threading.RLock())
        self._left_with = os.getppid() if self._writer is not None else None
        self._drop_warning()
        self._writer, self._merging = None, MergeScheduler(self._changing)

    @property
    def pending(self) -> bool:
        """Whether there are uncommitted changes."""
        return self._writer is not None and not self._writer.closed

    @contextmanager
    def writing(self) -> Iterator[Writer | ShardedWriter]:
        """Provide the writer, which holds the index's lock while there are uncommitted changes."""
        self._require_changeable()
        with self._changing:
            if not self.pending:
                self.rollback()
                self._writer = new_writer(self._opened.path, self._opened.snapshot)
                self._unsaved = weakref.finalize(self, _tell_unsaved, self._opened.path)
            assert self._writer is not None
            try:
                yield self._writer
            finally:
                if not self._writer.changed:
                    self.rollback()

    def commit(self, *, merge: bool) -> None:
        """See `Index.commit`."""
        with self._changing:
            if self._writer is None and self._left_with is not None:
                raise OutputError(
                    f"{self._opened.path}: process {self._left_with} made these changes before it forked: commit "
                    "them there; rollback() discards them here"
                )
            if self._writer is None or not self.pending:
                self.rollback()
                return
            self._writer.commit()
            if merge:
                self._writer.keep_pace(self._merging.at_work)
            self._opened.move(self._writer.snapshot)
            self.rollback()
            self._merging.let_in()
        if merge:
            self.merge_in_background(everything=False)

    def rollback(self) -> None:
        """See `Index.rollback`."""
        with self._changing:
            self._left_with = None
            # The writer is kept until it is closed, so that an interrupted rollback can be repeated.
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                self._drop_warning()

    def merge(self, *, everything: bool) -> bool:
        """Commit, then merge segments; returns whether there was anything to merge."""
        self.commit(merge=False)
        self._merging.end()
        with self._changing:
            while self._writer is not None:  # other threads may have started changes
                self.commit(merge=False)
            with self.writing() as writer:
                try:
                    return writer.merge(everything=everything)
                finally:
                    self._opened.move(writer.snapshot)

    def merge_in_background(self, *, everything: bool) -> bool:
        """Start merging in the background; returns whether there is anything to merge."""
        self._require_changeable()
        folders = self._opened.snapshot.by_folder(self._opened.path)
        return self._merging.start(folders, self._take, everything=everything)

    def close(self, *, wait: bool) -> None:
        """See `Index.close`."""
        if self.pending:
            warn(_unsaved(self._opened.path), UncommittedChanges)
        self.rollback()
        if error := self._merging.end(wait=wait):
            raise error

    def _take(self, merged: Merged) -> bool:
        """Commit a merge result; return False if there are uncommitted changes or another process is writing."""
        if self.pending:
            return False
        with suppress(IndexLocked), self.writing() as writer:
            writer.take(merged)
            self._opened.move(writer.snapshot)
            return True
        return False

    def _drop_warning(self) -> None:
        """Cancel the warning about uncommitted changes."""
        if self._unsaved is not None:
            self._unsaved.detach()
        self._unsaved = None

    def _require_changeable(self) -> None:
        """Raise OutputError if the index is read-only, for instance because it is a copy from object storage."""
        if self._opened.uri:
            raise OutputError(
                f"{self._opened.uri}: an index in object storage can't be changed in place: change it in a folder and "
                "write it there with lsr.index.upload_index(folder, uri, overwrite=True)"
            )
        self._opened.snapshot.require_changeable(self._opened.path)


def _unsaved(path: Path) -> str:
    return f"{path}: changes weren't committed and are lost: call commit(), or use `with Index.open(...) as index:`"


def _tell_unsaved(path: Path) -> None:
    """Warn about pending changes when an index is garbage-collected, or at exit."""
    warnings.warn(_unsaved(path), UncommittedChanges, stacklevel=2)
