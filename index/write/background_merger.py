"""Merger: merges the segments of an index in a thread of its own, while it is searched and changed."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
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
