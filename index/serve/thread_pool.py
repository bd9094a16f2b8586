"""Workers: threads that do what takes time, with so many places to wait for one, and an end to waiting.

Nobody gets all places: one caller may flood a server, and the others' requests still find room.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lsr.index.serve.problems import Problem

T = TypeVar("T")

SHARE = 0.75  # of the places, or of the connections, for one caller


class Deadline:
    """When an answer has to be there; work that can't be interrupted looks at it between its steps."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Go on.

        Raises:
            Problem: It is too late.
        """
        if time.monotonic() > self._end:
            raise self.missed()

    def missed(self) -> Problem:
        """What the client is told."""
        return Problem(
            503,
            f"this took longer than {self._seconds:g} s: ask for less at once, or again when there is less to do",
            retry_after=1,
        )


class ThreadPool:
    """Threads with a waiting room.

    Args:
        threads: How many.
        waiting: So many calls may wait for one.
        name: What it is called in messages.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"lsr-{name}")
        self._places, self._share, self._name = threads + waiting, math.ceil(SHARE * (threads + waiting)), name
        self._taken, self._lock = Counter[Hashable](), threading.Lock()

    @property
    def busy(self) -> int:
        """Calls that run or wait."""
        with self._lock:
            return self._taken.total()

    async def run(self, call: Callable[..., T], *args: Any, seconds: float | None = None, caller: Hashable = None) -> T:
        """Call something in a thread.

        Args:
            call: What; it gets `args`.
            args: Its arguments.
            seconds: How long to wait for it; a call that runs by then goes on, and keeps its place until it ends.
            caller: Whose share of the places it counts to; None for nobody's.

        Raises:
            Problem: There is no place to wait, or the caller has its share of them, or it took too long.
        """
        with self._lock:
            busy, own = self._taken.total(), self._taken[caller]
            if busy >= self._places:
                told = f"too many requests wait for a {self._name} thread ({busy}); come again"
                raise Problem(503, told, retry_after=1)
            if caller is not None and own >= self._share:
                told = f"too many requests of yours wait for a {self._name} thread ({own}); come again"
                raise Problem(429, told, retry_after=1)
            self._taken[caller] += 1
        work = self._pool.submit(call, *args)
        work.add_done_callback(lambda _: self._leave(caller))
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise Deadline(seconds or 0).missed() from None

    def _leave(self, caller: Hashable) -> None:
        with self._lock:
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]

    def stop(self) -> None:
        """Let what runs end, and drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)
