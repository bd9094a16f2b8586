"""Merging in threads, while an index is searched and changed: Merger for one folder, MergeScheduler for an index."""

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
_LOOK = 0.1  # seconds until one who waits for the turn looks whether it is still wanted
_RETRY = 0.1  # seconds until a merger that finds somebody else writing looks again


class Merger:
    """Merges until the policy is content, each time starting from what is committed by then.

    Where several have one turn, one at a time merges: each takes as much memory as a build, and all cores.

    Attributes:
        stop: Set to give up what is being merged.
        closing: Set to finish, but without waiting for other writers.
        error: Why it failed, if it did.
        at_work: The segments that are being merged.
        turn: As below.

    Args:
        path: The index' folder.
        snapshot: The latest snapshot that is open.
        put: Puts what was merged in the place of what it was made of; waits until nobody else writes.
        turn: Held while segments are merged.
        everything: Merge all segments into one first.
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
        """See `lsr.forks`: it is the parent that merges."""
        self._lock, self._ended = threading.Lock(), True
        _running.discard(self)

    def ask(self, *, everything: bool) -> bool:
        """Have it look again when it is done; False if it has ended already."""
        with self._lock:
            self._wanted, self._everything = True, self._everything or everything
            return self.is_alive

    @property
    def is_alive(self) -> bool:
        """Whether it still merges, or is about to."""
        return not self._ended and self._thread.is_alive()

    def end(self, *, wait: bool = True) -> None:
        """Return when it has ended: done, or with `wait=False` as soon as it can give up."""
        self.closing.set()
        if not wait:
            self.stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._is_wanted():
                with output_errors(self._path), suppress(IndexLocked), MergeWorkspace(self._path) as aside:
                    while self._merge(aside):  # one who merges is enough
                        pass
        except Abandoned:
            pass
        except Exception as error:  # of a thread nobody else would hear it; what is committed stays as it is
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
        """Merge what is to be merged next; False if there was nothing."""
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
        aside.drop(merged.folder)  # if it was of no use
        return not self.stop.is_set()


class MergeScheduler:
    """Has the segments of an index merged in threads, one for each folder, and puts what they make in its place.

    Args:
        changing: Held by whoever changes the index.
    """

    def __init__(self, changing: threading.Condition) -> None:
        self._changing = changing
        self._mergers: dict[Path, Merger] = {}
        self._waiting = 0  # for their turn to write

    @property
    def at_work(self) -> set[str]:
        """The segments that are being merged."""
        return {name for merger in self._mergers.values() for name in merger.at_work}

    def start(
        self, folders: Sequence[tuple[Path, Snapshot]], take: Callable[[Merged], bool], *, everything: bool
    ) -> bool:
        """Have the segments of folders merged by threads; tells whether there is anything to merge.

        Args:
            folders: The folders, and what is committed in each.
            take: Puts what was merged in its place; False if somebody writes.
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
        """Called by whoever has just committed: lets a merge that waits for that be put in its place."""
        if self._waiting:
            self._changing.notify_all()
            self._changing.wait(1.0)

    def end(self, *, wait: bool = True) -> Exception | None:
        """Return when nothing is merged any more; gives what went wrong there."""
        mergers, self._mergers = list(self._mergers.values()), {}
        for merger in mergers:
            merger.end(wait=wait)
        return next((merger.error for merger in mergers if merger.error), None)

    def _put(self, take: Callable[[Merged], bool], merged: Merged, merger: Merger) -> None:
        """Put what a merger has made in its place, when nobody else writes.

        Raises:
            Abandoned: Somebody writes, and there is no time to wait.
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
    """At the end of the process: wait until all are done, at an interrupt until they have given up."""
    for merger in list(_running):
        try:
            merger.end()
        except KeyboardInterrupt:
            merger.end(wait=False)


# Merging needs executors, which are shut down before atexit's functions are called. Where this hook, the executors'
# own, should be gone, merges that aren't done at the end are given up.
getattr(threading, "_register_atexit", atexit.register)(_finish)
