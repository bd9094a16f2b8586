"""Replicas of shards as threads of this process."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from lsr.forks import in_child
from lsr.index.distributed.shard_server import Shard

_THREADS = 4  # requests that a replica handles at a time


class ThreadReplica:
    """A shard searched by threads of this process.

    Args:
        location: The shard's index, a path or a URI.
    """

    def __init__(self, location: str) -> None:
        self._shard = Shard(location)
        self.after_fork()
        in_child(self)

    def after_fork(self) -> None:
        """Start new threads; see `lsr.forks`."""
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lsr-shard")

    def ask(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of the shard; returns immediately."""
        return self._pool.submit(getattr(self._shard, method), *args)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
