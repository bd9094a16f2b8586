"""ThreadPool: runs slow calls in threads, with a bounded queue and time limits.

No caller gets all places in the queue: if one caller floods the server, the requests of others still get through.
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

SHARE = 0.75  # largest share of the queue, or of the connections, for one caller


class Deadline:
    """The time limit of a request; work that can't be interrupted checks it between steps."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        """Raise if the time is up.

        Raises:
            Problem: The time is up.
        """
        if time.monotonic() > self._end:
            raise self.missed()

    def missed(self) -> Problem:
        """Return the problem that reports a missed deadline."""
        return Problem(
            503,
            f"this took longer than {self._seconds:g} s: ask for less at once, or try again later",
            retry_after=1,
        )


class ThreadPool:
    """Threads with a bounded queue.

    Args:
        threads: Number of threads.
        waiting: Maximum number of waiting calls.
        name: Name of the threads in messages.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"lsr-{name}")
        self._places, self._share, self._name = threads + waiting, math.ceil(SHARE * (threads + waiting)), name
        self._taken, self._lock = Counter[Hashable](), threading.Lock()

    @property
    def busy(self) -> int:
        """Number of running and waiting calls."""
        with self._lock:
            return self._taken.total()

    async def run(self, call: Callable[..., T], *args: Any, seconds: float | None = None, caller: Hashable = None) -> T:
        """Run a call in a thread.

        Args:
            call: The function.
            args: The function's arguments.
            seconds: How long to wait for the result. If the call is running when the time is up, it keeps its place
                until it ends.
            caller: The caller whose share of the queue the call uses; None to use no share.

        Raises:
            Problem: The queue is full, the caller has used up its share, or the call took too long.
        """
        with self._lock:
            busy, own = self._taken.total(), self._taken[caller]
            if busy >= self._places:
                told = f"too many requests are waiting for a {self._name} thread ({busy}); try again later"
                raise Problem(503, told, retry_after=1)
            if caller is not None and own >= self._share:
                told = f"too many of your requests are waiting for a {self._name} thread ({own}); try again later"
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
        """Finish running calls and drop waiting ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)
