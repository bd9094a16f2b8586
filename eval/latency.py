"""Measure latency: one query at a time on one thread, after a warm-up. Encoding and searching are timed separately."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from lsr.index.search.settings import FilteredOptions
from lsr.sparse import SparseMatrix

if TYPE_CHECKING:
    from lsr.index.index import Index  # slow to import, and reports don't need it
    from lsr.index.search.settings import Mode

ROUNDS = 3  # a query's latency is the median of this many runs
_WHILE = 0.3  # shortest measurement of throughput, in seconds


@dataclass(frozen=True)
class Latency:
    """Percentiles over queries, in milliseconds.

    Attributes:
        p50: Median.
        mean: Mean.
        p95: 95th percentile.
        p99: 99th percentile.
    """

    p50: float
    mean: float
    p95: float
    p99: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """Compute percentiles from one value per query."""
        if not len(milliseconds):
            return cls(0.0, 0.0, 0.0, 0.0)
        p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
        return cls(float(p50), float(np.mean(milliseconds)), float(p95), float(p99))

    def to_json(self) -> dict[str, float]:
        """As a JSON object, rounded to the microsecond."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def time_together(calls: Sequence[Callable[[int], Any]], n: int, rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Time several systems on the same queries in turns; each round starts with a different system.

    Args:
        calls: Functions to call with 0 … n - 1.
        n: Number of queries.
        rounds: Number of timed rounds; a warm-up round comes first.

    Returns:
        (len(calls), n) float64, milliseconds: the median of the rounds.
    """
    times = np.empty((rounds + 1, len(calls), n))
    for r in range(rounds + 1):
        for turn in range(len(calls)):
            system = (r + turn) % len(calls)
            call = calls[system]
            for i in range(n):
                start = time.perf_counter_ns()
                call(i)
                times[r, system, i] = (time.perf_counter_ns() - start) / 1e6
    middle: NDArray[np.float64] = np.median(times[1:], axis=0)
    return middle


def time_each(call: Callable[[int], Any], n: int, rounds: int = ROUNDS) -> Latency:
    """Time call(0) … call(n - 1) in `rounds` rounds, after a warm-up round."""
    return Latency.of(time_together([call], n, rounds)[0].tolist())


class Rate(NamedTuple):
    """Queries per second, and energy per query in joules; None where energy can't be measured."""

    per_second: float
    joules: float | None


class PeakMemory:
    """Peak memory of this process within a `with`, in bytes, including resident pages of mapped files.

    Attributes:
        peak: Bytes; None on systems other than Linux.
    """

    _EVERY = 0.02  # seconds

    def __init__(self) -> None:
        self.peak: int | None = None
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            try:
                with open("/proc/self/statm", encoding="ascii") as file:
                    held = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                return
            self.peak = max(self.peak or 0, held)
            if self._done.wait(self._EVERY):
                return


class Energy:
    """Energy that the processors use within a `with`, in joules, from the RAPL counters (Linux on Intel and AMD).

    It includes the energy of other processes on the machine.

    Attributes:
        joules: Energy; None if there are no counters or no permission to read them (which usually needs root).
    """

    FOLDER = Path("/sys/class/powercap")

    def __init__(self) -> None:
        self.joules: float | None = None
        self._start: dict[Path, int] = {}

    def __enter__(self) -> Energy:
        self._start = self._read("energy_uj")
        return self

    def __exit__(self, *_: object) -> None:
        now, ranges = self._read("energy_uj"), self._read("max_energy_range_uj")
        if self._start and now.keys() == self._start.keys() == ranges.keys():
            # A counter that exceeds its range starts again from 0.
            used = [(now[one] - start) % (ranges[one] + 1) for one, start in self._start.items()]
            self.joules = sum(used) / 1e6

    def _read(self, name: str) -> dict[Path, int]:
        """Read a value of each processor package; {} if any value can't be read."""
        try:
            packages = sorted(self.FOLDER.glob("intel-rapl:*"))
            return {one: int((one / name).read_text()) for one in packages if one.name.count(":") == 1}
        except (OSError, ValueError):
            return {}


def search_latency(
    index: Index,
    vectors: SparseMatrix,
    k: int,
    *,
    dense: NDArray[np.float32] | None = None,
    **settings: Unpack[FilteredOptions],
) -> Latency:
    """Latency of `Index.search` by vector; `dense` and settings are those of `Index.search_batch`."""
    rows = [vectors[i] for i in range(len(vectors))]
    near = [None] * len(rows) if dense is None else list(dense)
    return time_each(lambda i: index.search(rows[i], k, dense=near[i], **settings), len(rows))


def encode_latency(index: Index, texts: Sequence[str], mode: Mode = "sparse") -> Latency:
    """Latency of encoding a query to its sparse vector, and to its dense vector if the mode needs it."""

    def encode(i: int) -> None:
        index.query_vectors([texts[i]])
        if mode != "sparse":
            index.encoder.encode_dense([texts[i]], queries=True)

    return time_each(encode, len(texts), rounds=1)


def throughput(
    index: Index,
    vectors: SparseMatrix,
    k: int,
    threads: int = 0,
    *,
    dense: NDArray[np.float32] | None = None,
    **settings: Unpack[FilteredOptions],
) -> Rate:
    """Measure batch search on all cores, or on a number of threads; settings are those of `Index.search`.

    All queries are searched repeatedly for at least 0.3 seconds; the median time counts.
    """
    first = None if dense is None else dense[:8]
    index.search_batch(vectors[:8], k, threads=threads, dense=first, **settings)
    took: list[float] = []
    with Energy() as energy:
        while not took or sum(took) < _WHILE:
            start = time.perf_counter()
            index.search_batch(vectors, k, threads=threads, dense=dense, **settings)
            took.append(max(time.perf_counter() - start, 1e-9))
    joules = None if energy.joules is None else energy.joules / max(1, len(vectors) * len(took))
    return Rate(len(vectors) / float(np.median(took)), joules)


def machine() -> str:
    """The processor, its cores and the system, in one line."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: use the platform's name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
