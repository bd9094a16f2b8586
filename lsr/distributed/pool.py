"""Run many jobs of one kind: one after the other in this process, or by the actors of a Ray cluster.

Each free actor gets one job, so the number of jobs in flight is bounded. If an actor dies, another one repeats its job,
so results must not depend on the actor. Workers are actors, not tasks, because each holds something expensive to load
(an encoder). Ray Data doesn't fit: its blocks depend on the number of processors, and its checkpoints depend on the
rows processed so far. Here, jobs depend on the input alone, and each result is reported on its own.
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

_PATIENCE = 120.0  # seconds for the first actor to start
_LOSSES = 3  # actors that may die while doing one job, or while starting


@dataclass(frozen=True)
class Workers:
    """Where jobs run.

    Attributes:
        address: A Ray cluster, for `lsr.distributed.ray_cluster.connect`; None for this process.
        count: Number of actors; None for as many as the cluster has room for, including room that other jobs still
            occupy.
        gpus: GPUs of each actor.
        memory: Bytes of memory reserved for each actor.
    """

    address: str | None = None
    count: int | None = None
    gpus: int = 0
    memory: int = 1 << 30


def do_jobs(
    open_worker: Callable[[], Callable[[Job], Result]], jobs: Iterable[Job], workers: Workers, what: str
) -> Iterator[Result]:
    """Run jobs and yield the results in the order in which they finish.

    Args:
        open_worker: Returns the function that does a job; each actor calls it once. It must be picklable, like the
            jobs.
        jobs: The jobs; each is read when an actor becomes free.
        workers: Where the jobs run.
        what: What the workers are, for messages ("encoding workers").

    Raises:
        ClusterError: There is no such cluster, it lacks the resources, a worker can't do its job, or several workers
            died while doing one job.
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
    """Connect to a cluster and check that it has room for the workers, before any long work begins.

    Yields:
        The module ray and the number of workers; (None, 1) for this process.

    Raises:
        ClusterError: The cluster doesn't answer, or lacks the resources.
        MissingExtra: ray isn't installed.
    """
    if workers.address is None:
        yield None, 1
        return
    known = sys.modules.get("ray")
    was_connected = known is not None and known.is_initialized()
    ray = connect(workers.address)
    try:
        # Without a count, require room for one worker: Ray may still count lost machines, and other jobs may use the
        # rest.
        require(ray, workers.count or 1, cpus=1, memory=workers.memory, gpus=workers.gpus, what=what)
        yield ray, workers.count or _room(ray, workers)
    finally:
        if not was_connected:
            ray.shutdown()


class _Failed:
    """A worker's error as a message, because not all of lsr's exceptions can be pickled."""

    def __init__(self, message: str) -> None:
        self.message = message


class _Worker:
    """The actor."""

    def __init__(self) -> None:
        self._work: Callable[[Any], Any] | None = None

    def start(self, open_worker: Callable[[], Callable[[Any], Any]]) -> _Failed | None:
        """Open the function that does jobs."""
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
    """A job in flight: a reference to its content, and how its actors died."""

    content: Any
    losses: list[str] = field(default_factory=list)


class _Pool:
    """The actors and their jobs."""

    def __init__(self, ray: Any, open_worker: Callable[[], Any], workers: Workers, count: int, what: str) -> None:
        self._ray, self._what = ray, what
        # No restarts: an actor whose machine is lost could wait forever for another machine, and block its job.
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
        """Run jobs, and yield results as they finish."""
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
                    f"{len(ticket.losses)} {self._what} died while doing the same part: {ticket.losses[-1]}; if they "
                    "ran out "
                    "of memory, run fewer on a machine"
                ) from None
            note(f"one of the {self._what} is lost ({ticket.losses[-1]}); another one repeats its part")
            self._again.append(ticket)
            with suppress(Exception):  # usually dead already; an unreachable actor must not come back
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
            with suppress(Exception):  # the actor may be dead already
                self._ray.kill(actor)


def _room(ray: Any, workers: Workers) -> int:
    """How many workers fit into the cluster, by Ray's latest count; at least one."""
    room = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        fits = [has.get("CPU", 0), has.get("memory", 0) / workers.memory]
        room += int(min([*fits, has.get("GPU", 0) / workers.gpus] if workers.gpus else fits))
    return max(room, 1)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
