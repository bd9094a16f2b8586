"""Ask replicas of shards: the first answer counts. Slow replicas are hedged, and failed replicas are replaced.

A request goes to one replica of each shard. If that replica fails, the next one is asked immediately; if it is slow,
another one is asked as well (a hedged request: Dean & Barroso, "The Tail at Scale", 2013). This goes on until there is
an answer, no replica is left, or time is up. A request that a replica refuses as invalid isn't retried, because all
replicas would refuse it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from lsr.errors import CorruptIndex, EncoderError, IndexFormatError

_AVOIDED = 10.0  # for this many seconds, a replica that fails or is overtaken by another one is asked last
_REFUSALS = (EncoderError, IndexFormatError, ValueError, TypeError)  # a DataError is a ValueError


class Replica(Protocol):
    """A process or thread that answers for a shard."""

    def ask(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of `lsr.index.distributed.shard_server.Shard`; returns immediately."""

    def close(self) -> None:
        """Stop the replica."""


@dataclass(frozen=True)
class Patience:
    """How long to wait.

    Attributes:
        hedge_after: Seconds after which another replica is asked, too.
        time_limit: Seconds after which a shard counts as lost.

    Raises:
        ValueError: A value isn't a positive number.
    """

    hedge_after: float = 0.1
    time_limit: float = 10.0

    def __post_init__(self) -> None:
        for name, value in (("hedge_after", self.hedge_after), ("time_limit", self.time_limit)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a number of seconds above 0, got {value!r}")

    def times(self, factor: float) -> Patience:
        """Scale both times, for a request that takes longer."""
        return Patience(self.hedge_after * factor, self.time_limit * factor)


@dataclass
class Outcome:
    """The result of a request to some shards.

    Attributes:
        answers: {shard: answer}.
        refused: {shard: the error that it found in the request}.
        lost: {shard: why there is no answer}.
        hedged: Number of replicas asked because another one was slow.
        retried: Number of replicas asked because another one had failed.
    """

    answers: dict[int, Any] = field(default_factory=dict)
    refused: dict[int, BaseException] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    hedged: int = 0
    retried: int = 0


class ReplicaSet:
    """The replicas of one shard, and the times until which they are avoided.

    Args:
        replicas: At least one.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)
        self._turn = 0
        self._avoided = [0.0] * len(self.replicas)  # avoided until this time

    def order(self) -> list[int]:
        """Return the order in which to ask: round robin, with avoided replicas last."""
        self._turn += 1
        now, n = time.monotonic(), len(self.replicas)
        by_turns = [(self._turn + i) % n for i in range(n)]
        return sorted(by_turns, key=lambda i: max(self._avoided[i] - now, 0.0))

    def avoid(self, replica: int) -> None:
        """Ask other replicas first for a while."""
        self._avoided[replica] = time.monotonic() + _AVOIDED


@dataclass
class _Asked:
    """A shard without an answer: the replicas to ask, those asked, when to ask the next one, and the last failure."""

    order: list[int]
    waiting: list[int] = field(default_factory=list)
    next_at: float = math.inf
    wrong: str = ""


def ask(sets: Mapping[int, ReplicaSet], method: str, args: Mapping[int, Sequence[Any]], patience: Patience) -> Outcome:
    """Ask some shards and wait for their answers.

    Args:
        sets: {shard: its replicas}.
        method: Method of `lsr.index.distributed.shard_server.Shard`.
        args: {shard: arguments}; other shards aren't asked.
        patience: How long to wait.
    """
    return _Request(sets, method, args, patience).run()


class _Request:
    """A request in progress."""

    def __init__(
        self, sets: Mapping[int, ReplicaSet], method: str, args: Mapping[int, Sequence[Any]], patience: Patience
    ) -> None:
        self._sets, self._method, self._args, self._patience = sets, method, args, patience
        self._outcome, self._done = Outcome(), SimpleQueue[tuple[int, int, Future[Any]]]()
        self._over_at = time.monotonic() + patience.time_limit
        self._wake_at = self._over_at  # when to act even without an answer
        self._open = {shard: _Asked(sets[shard].order()) for shard in args}

    def run(self) -> Outcome:
        for shard in self._args:
            self._start(shard)
        while self._open:
            try:
                shard, replica, future = self._done.get(timeout=max(self._wake_at - time.monotonic(), 0.0))
            except Empty:
                self._overdue()
                continue
            if shard in self._open:
                self._take(shard, replica, future)
        return self._outcome

    def _start(self, shard: int) -> None:
        """Ask the next replica of a shard."""
        asked = self._open[shard]
        replica = asked.order.pop(0)
        asked.waiting.append(replica)
        if asked.order:
            asked.next_at = time.monotonic() + self._patience.hedge_after
            self._wake_at = min(self._wake_at, asked.next_at)
        try:
            future = self._sets[shard].replicas[replica].ask(self._method, *self._args[shard])
        except Exception as error:  # some transports fail at once if the replica is gone
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda future: self._done.put((shard, replica, future)))

    def _take(self, shard: int, replica: int, future: Future[Any]) -> None:
        """Process a replica's answer; the first answer settles its shard."""
        asked, replicas = self._open[shard], self._sets[shard]
        asked_before = asked.waiting[: asked.waiting.index(replica)]
        asked.waiting.remove(replica)
        error = CancelledError() if future.cancelled() else future.exception()
        error = getattr(error, "cause", None) or error  # unwrap Ray's errors
        if error is None:
            self._outcome.answers[shard] = future.result()
            for slow in asked_before:
                replicas.avoid(slow)
            del self._open[shard]
        elif isinstance(error, _REFUSALS) and not isinstance(error, CorruptIndex):
            self._outcome.refused[shard] = error  # the request is invalid
            del self._open[shard]
        else:
            replicas.avoid(replica)
            asked.wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if asked.order:
                self._outcome.retried += 1
                self._start(shard)
            elif not asked.waiting:
                n = len(replicas.replicas)
                who = "its only replica" if n == 1 else f"all of its {n} replicas"
                self._outcome.lost[shard] = f"{who} failed ({asked.wrong})"
                del self._open[shard]

    def _overdue(self) -> None:
        """Hedge requests to slow shards, and give up shards whose time is up."""
        now = time.monotonic()
        for shard, asked in list(self._open.items()):
            if now >= self._over_at:
                also = f"; earlier, {asked.wrong}" if asked.wrong else ""
                self._outcome.lost[shard] = f"no answer within {self._patience.time_limit:g} s{also}"
                for slow in asked.waiting:
                    self._sets[shard].avoid(slow)
                del self._open[shard]
            elif asked.order and now >= asked.next_at:
                self._outcome.hedged += 1
                self._start(shard)
        waiting = [asked.next_at for asked in self._open.values() if asked.order]
        self._wake_at = min([self._over_at, *waiting])
