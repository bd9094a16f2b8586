"""Background merging while an index is searched and changed: Merger for one folder, MergeScheduler for an index."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from lsr.errors import IndexLocked
from lsr.forks import in_child
from lsr.index.search.snapshot import Snapshot
from lsr.index.storage.manifest import output_errors
from lsr.index.storage.transaction import MergeWorkspace
from lsr.index.write.builder import BuildSettings
from lsr.index.write.merge import Abandoned, Merged, merge_aside, plan_merges

_log = logging.getLogger(__name__)
_LOOK = 0.1  # seconds between checks whether a waiting merge is still wanted
_RETRY = 0.1  # seconds between attempts to get a lock that another writer holds


class Merger:
    """Merges in a thread until the policy has nothing left to merge; each merge starts from the latest commit.

    Mergers that share a `turn` merge one at a time, because a merge takes the memory of a build and all cores.

    Attributes:
        stop: Set to abandon the current merge.
        closing: Set to finish without waiting for other writers.
        error: The exception that ended the thread; None if it succeeded.
        at_work: Names of the segments being merged.
        turn: Lock that is held while merging.

    Args:
        path: The index's folder.
        snapshot: The latest open snapshot.
        put: Commits a merge result, after waiting until no other writer holds the lock.
        turn: Lock that is held while merging.
        everything: First merge all segments into one.
    """

    def __init__(
        self,
        path: Path,
        snapshot: Snapshot,
        put: Callable[[Merged, Merger], None],
        turn: threading.Lock,
        *,
        everything: bool,
    ) -> None:
        self._path, self._snapshot, self._put, self.turn = path, snapshot, put, turn
        self._lock = threading.Lock()
        self._wanted, self._everything, self._ended = True, everything, False
        self.stop, self.closing = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.at_work: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._run, name="lsr-merger")
        in_child(self)
        _running.add(self)
        self._thread.start()

    def after_fork(self) -> None:
        """Forget the merge: the parent process continues it; see `lsr.forks`."""
        self._lock, self._ended = threading.Lock(), True
        _running.discard(self)

    def ask(self, *, everything: bool) -> bool:
        """Request another round; return False if the thread has already ended."""
        with self._lock:
            self._wanted, self._everything = True, self._everything or everything
            return self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether the thread is merging or about to start."""
        return not self._ended and self._thread.is_alive()

    def end(self, *, wait: bool = True) -> None:
        """Wait until the thread has ended; with `wait=False`, abandon the current merge."""
        self.closing.set()
        if not wait:
            self.stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._is_wanted():
                # IndexLocked means that another process is already merging this folder.
                with output_errors(self._path), suppress(IndexLocked), MergeWorkspace(self._path) as aside:
                    while self._merge(aside):
                        pass
        except Abandoned:
            pass
        except Exception as error:  # `end` reports the error; committed data stays unchanged
            self.error = error
            _log.warning("%s: merging in the background failed: %s", self._path, error)
        finally:
            self._ended = True
            _running.discard(self)

    def _is_wanted(self) -> bool:
        with self._lock:
            wanted, self._wanted = self._wanted and not self.stop.is_set(), False
            self._ended = not wanted
            return wanted

    def _merge(self, aside: MergeWorkspace) -> bool:
        """Run the next merge; return False if there is nothing left to merge, or if the merger is stopped."""
        self._snapshot = Snapshot.latest(self._path, self._snapshot)
        parts, everything = self._snapshot.parts, self._everything
        self._everything = False
        run = plan_merges([part.entry for part in parts], everything=everything)
        if run is None:
            return False
        settings = BuildSettings.of(self._snapshot.manifest)
        self.at_work = frozenset(part.entry["name"] for part in parts[slice(*run)])
        while not self.turn.acquire(timeout=_LOOK):
            if self.stop.is_set():
                raise Abandoned
        try:
            merged = merge_aside(aside, parts[slice(*run)], settings, self.stop)
        finally:
            self.turn.release()
        self._put(merged, self)
        aside.drop(merged.folder)  # does nothing if the segment was committed
        return not self.stop.is_set()


class MergeScheduler:
    """Merges the segments of an index in background threads, one for each folder, and commits the results.

    Args:
        changing: Lock held while the index is changed.
    """

    def __init__(self, changing: threading.Condition) -> None:
        self._changing = changing
        self._mergers: dict[Path, Merger] = {}
        self._waiting = 0  # mergers waiting to commit

    @property
    def at_work(self) -> set[str]:
        """Names of the segments being merged."""
        return {name for merger in self._mergers.values() for name in merger.at_work}

    def start(
        self, folders: Sequence[tuple[Path, Snapshot]], take: Callable[[Merged], bool], *, everything: bool
    ) -> bool:
        """Start merging in the background; return whether there is anything to merge.

        Args:
            folders: The folders with their latest snapshots.
            take: Commits a merge result; returns False if another writer holds the lock.
            everything: Merge all segments of a folder into one.
        """
        found, put = False, partial(self._put, take)
        with self._changing:
            turn = next((merger.turn for merger in self._mergers.values() if merger.is_alive), threading.Lock())
            for path, snapshot in folders:
                if plan_merges([part.entry for part in snapshot.parts], everything=everything) is None:
                    continue
                found, merger = True, self._mergers.get(path)
                if merger is None or not merger.ask(everything=everything):
                    self._mergers[path] = Merger(path, snapshot, put, turn, everything=everything)
        return found

    def let_in(self) -> None:
        """Let a waiting merge commit its result; call this after each commit."""
        if self._waiting:
            self._changing.notify_all()
            self._changing.wait(1.0)

    def end(self, *, wait: bool = True) -> Exception | None:
        """Wait until no merge is running; return the exception of a merge that failed, else None."""
        mergers, self._mergers = list(self._mergers.values()), {}
        for merger in mergers:
            merger.end(wait=wait)
        return next((merger.error for merger in mergers if merger.error), None)

    def _put(self, take: Callable[[Merged], bool], merged: Merged, merger: Merger) -> None:
        """Commit a merge result as soon as no other writer holds the lock.

        Raises:
            Abandoned: Another writer holds the lock and the merger is closing.
        """
        with self._changing:
            self._waiting += 1
            try:
                while not merger.stop.is_set():
                    if take(merged):
                        return
                    if merger.closing.is_set():
                        break
                    self._changing.wait(_RETRY)
                raise Abandoned
            finally:
                self._waiting -= 1
                self._changing.notify_all()


_running: set[Merger] = set()


def _finish() -> None:
    """At exit, wait for all mergers. On an interrupt, abandon their merges."""
    for merger in list(_running):
        try:
            merger.end()
        except KeyboardInterrupt:
            merger.end(wait=False)


# Merging needs executors, and executors shut down before atexit handlers run. So `_finish` uses the private hook of
# executors, which runs earlier. If Python lacks the hook, unfinished merges are abandoned.
getattr(threading, "_register_atexit", atexit.register)(_finish)
