"""Workers: threads that do what takes time, with so many places to wait for one, and an end to waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .problems import Problem

T = TypeVar("T")


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


class Workers:
    """Threads with a waiting room.

    Args:
        threads: How many.
        waiting: So many calls may wait for one.
        name: What it is called in messages.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"lsr-{name}")
        self._places, self._name = threads + waiting, name
        self._taken, self._lock = 0, threading.Lock()

    @property
    def busy(self) -> int:
        """Calls that run or wait."""
        return self._taken

    async def run(self, call: Callable[..., T], *args: Any, seconds: float | None = None) -> T:
        """Call something in a thread.

        Args:
            call: What; it gets `args`.
            args: Its arguments.
            seconds: How long to wait for it; a call that runs by then goes on, and keeps its place until it ends.

        Raises:
            Problem: There is no place to wait, or it took too long.
        """
        work = self.submit(call, *args)
        if work is None:
            raise Problem(
                503, f"too many requests wait for a {self._name} thread ({self._taken}); come again", retry_after=1
            )
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise Deadline(seconds or 0).missed() from None

    def submit(self, call: Callable[..., T], *args: Any) -> Future[T] | None:
        """Have something called without waiting for it; None if there is no place."""
        with self._lock:
            if self._taken >= self._places:
                return None
            self._taken += 1
        work = self._pool.submit(call, *args)
        work.add_done_callback(self._leave)
        return work

    def _leave(self, _: object) -> None:
        with self._lock:
            self._taken -= 1

    def stop(self) -> None:
        """Let what runs end, and drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)
