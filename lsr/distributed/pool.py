"""The same work on many jobs: one after the other in this process, or by the actors of a Ray cluster.

Jobs are dealt out as actors are free for them, one each, so that what is under way stays bounded. A job whose actor
dies, with its machine or alone, is done again by another; who does it must not matter. Actors rather than tasks,
because each holds something that is dear to open (an encoder); not Ray Data, because jobs have to be what the input
alone makes of them, in its order, and what is done has to be told job by job: its blocks follow from the number of
processors, and its checkpoints from the rows that a run got to.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lsr.console import note
from lsr.distributed.ray_cluster import connect, require
from lsr.errors import ClusterError, LsrError

Job = TypeVar("Job")
Result = TypeVar("Result")

_PATIENCE = 120.0  # seconds until the first actor has started
_LOSSES = 3  # actors that a job, or a start, may cost


@dataclass(frozen=True)
class Workers:
    """Who works.

    Attributes:
        address: A Ray cluster, as `lsr.distributed.ray_cluster.connect` takes it; None for this process.
        count: Actors; None for as many as there is room for, those that have to wait for others included.
        gpus: Graphics processors of each.
        memory: Bytes of memory that each is given room for.
    """

    address: str | None = None
    count: int | None = None
    gpus: int = 0
    memory: int = 1 << 30


def do_jobs(
    open_worker: Callable[[], Callable[[Job], Result]], jobs: Iterable[Job], workers: Workers, what: str
) -> Iterator[Result]:
    """Do jobs; the results come as they are ready.

    Args:
        open_worker: Opens what does a job; called by each actor once. It and the jobs travel to other machines.
        jobs: Read as they are dealt out.
        workers: Who does them.
        what: What the workers are, for messages ("encoding workers").

    Raises:
        ClusterError: There is no such cluster, it hasn't what the workers need, a worker can't do its job, or a job has
            cost several of them.
    """
    if workers.address is None:
        work = open_worker()
        yield from map(work, jobs)
        return
    with ready(workers, what) as (ray, count):
        pool = _Pool(ray, open_worker, workers, count, what)
        try:
            yield from pool.do(jobs)
        finally:
            pool.close()


@contextmanager
def ready(workers: Workers, what: str) -> Iterator[tuple[Any, int]]:
    """Connect to a cluster that has room for some workers: to be told before long work that it hasn't.

    Yields:
        The module ray, and how many workers there may be; (None, 1) for this process.

    Raises:
        ClusterError: Nobody answers, or it hasn't what the workers need.
        MissingExtra: ray isn't installed.
    """
    if workers.address is None:
        yield None, 1
        return
    known = sys.modules.get("ray")
    was_connected = known is not None and known.is_initialized()
    ray = connect(workers.address)
    try:
        # Who names no number takes what there is: machines may be lost that Ray still counts, or others may use them.
        require(ray, workers.count or 1, cpus=1, memory=workers.memory, gpus=workers.gpus, what=what)
        yield ray, workers.count or _room(ray, workers)
    finally:
        if not was_connected:
            ray.shutdown()


class _Failed:
    """Why a worker can't go on, as a message: errors of our own don't all survive the way between processes."""

    def __init__(self, message: str) -> None:
        self.message = message


class _Worker:
    """What runs in an actor."""

    def __init__(self) -> None:
        self._work: Callable[[Any], Any] | None = None

    def start(self, open_worker: Callable[[], Callable[[Any], Any]]) -> _Failed | None:
        """Open what does the work."""
        try:
            self._work = open_worker()
        except (LsrError, OSError) as error:
            return _Failed(f"on {socket.gethostname()}: {error}")
        return None

    def do(self, job: Any) -> Any:
        """Do a job."""
        assert self._work is not None
        try:
            return self._work(job)
        except (LsrError, OSError) as error:
            return _Failed(f"on {socket.gethostname()}: {error}")


@dataclass
class _Ticket:
    """A job on its way: where its content lies, and the actors it has cost."""

    content: Any
    losses: list[str] = field(default_factory=list)


class _Pool:
    """The actors, and what each of them does."""

    def __init__(self, ray: Any, open_worker: Callable[[], Any], workers: Workers, count: int, what: str) -> None:
        self._ray, self._what = ray, what
        # No restarts: an actor whose machine has gone might wait for another one forever, and its job with it.
        options = {"num_cpus": 1, "num_gpus": workers.gpus, "memory": workers.memory, "max_restarts": 0}
        self._actor = ray.remote(**options)(_Worker)
        self._open_worker = ray.put(open_worker)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Any, _Ticket]] = {}
        self._again: deque[_Ticket] = deque()
        self._failed_starts: list[str] = []
        for _ in range(count):
            self._start()

    def do(self, jobs: Iterable[Any]) -> Iterator[Any]:
        """Do jobs; yields results as they come."""
        waiting = iter(jobs)
        while True:
            while self._idle and (ticket := self._next(waiting)) is not None:
                actor = self._idle.pop()
                self._running[actor.do.remote(ticket.content)] = actor, ticket
            if not self._running and self._idle:
                return
            patience = None if self._running else _PATIENCE
            ready, _ = self._ray.wait([*self._starting, *self._running], num_returns=1, timeout=patience)
            if not ready:
                raise ClusterError(
                    f"none of the {self._what} could start within {_PATIENCE:g} s: others "
                    'use the cluster ("ray status" shows what is free), or its machines can\'t run lsr'
                )
            if ready[0] in self._starting:
                self._started(ready[0])
            else:
                yield from self._done(ready[0])

    def _next(self, waiting: Iterator[Any]) -> _Ticket | None:
        if self._again:
            return self._again.popleft()
        for job in waiting:
            return _Ticket(self._ray.put(job))
        return None

    def _start(self) -> None:
        actor = self._actor.remote()
        self._starting[actor.start.remote(self._open_worker)] = actor

    def _started(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            failed = self._ray.get(ref)
        except self._lost as error:
            self._failed_starts.append(_short(error))
            if len(self._failed_starts) >= _LOSSES and not (self._idle or self._running or self._starting):
                raise ClusterError(f"{self._what} die while they start: {self._failed_starts[-1]}") from None
            if len(self._failed_starts) < _LOSSES:
                self._start()
            return
        if failed is not None:
            raise ClusterError(failed.message)
        self._failed_starts.clear()
        self._idle.append(actor)

    def _done(self, ref: Any) -> Iterator[Any]:
        actor, ticket = self._running.pop(ref)
        try:
            result = self._ray.get(ref)
        except self._lost as error:
            ticket.losses.append(_short(error))
            if len(ticket.losses) >= _LOSSES:
                raise ClusterError(
                    f"{len(ticket.losses)} {self._what} died over the same part: {ticket.losses[-1]}; if they ran out "
                    "of memory, take fewer for a machine"
                ) from None
            note(f"one of the {self._what} is lost ({ticket.losses[-1]}); its part is done again")
            self._again.append(ticket)
            with suppress(Exception):  # mostly it is dead; if it is only out of reach, it must not come back
                self._ray.kill(actor)
            self._start()
            return
        if isinstance(result, _Failed):
            raise ClusterError(result.message)
        self._idle.append(actor)
        yield result

    @property
    def _lost(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError

    def close(self) -> None:
        """End the actors."""
        for actor in [*self._idle, *self._starting.values(), *(actor for actor, _ in self._running.values())]:
            with suppress(Exception):  # one that is gone already
                self._ray.kill(actor)


def _room(ray: Any, workers: Workers) -> int:
    """How many workers fit into the cluster, as it was told last; at least one."""
    room = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        fits = [has.get("CPU", 0), has.get("memory", 0) / workers.memory]
        room += int(min([*fits, has.get("GPU", 0) / workers.gpus] if workers.gpus else fits))
    return max(room, 1)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
