"""Latency as users feel it: one query at a time on one thread after a warm-up, encoding apart from searching."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lsr.index.index import Index
from lsr.sparse import SparseMatrix

ROUNDS = 3  # a query's latency is the median of so many runs


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
        """From one value per query."""
        if not len(milliseconds):
            return cls(0.0, 0.0, 0.0, 0.0)
        p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
        return cls(float(p50), float(np.mean(milliseconds)), float(p95), float(p99))

    def to_json(self) -> dict[str, float]:
        """As JSON can hold it, rounded to the microsecond."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def time_each(call: Callable[[int], Any], n: int, rounds: int = ROUNDS) -> Latency:
    """Time call(0) … call(n - 1), `rounds` times over, after one round that doesn't count."""
    times = np.empty((rounds + 1, n))
    for r in range(rounds + 1):
        for i in range(n):
            start = time.perf_counter_ns()
            call(i)
            times[r, i] = (time.perf_counter_ns() - start) / 1e6
    return Latency.of(np.median(times[1:], axis=0).tolist())


def search_latency(index: Index, vectors: SparseMatrix, k: int) -> Latency:
    """Latency of exact search by vector, hits included."""
    rows = [vectors[i] for i in range(len(vectors))]
    return time_each(lambda i: index.search(rows[i], k), len(rows))


def encode_latency(index: Index, texts: Sequence[str]) -> Latency:
    """Latency of encoding a query."""
    return time_each(lambda i: index.query_vectors([texts[i]]), len(texts), rounds=1)


def throughput(index: Index, vectors: SparseMatrix, k: int, threads: int = 0) -> float:
    """Queries per second of batch search on all cores (or so many threads)."""
    index.search_batch(vectors[:8], k, threads=threads)
    start = time.perf_counter()
    index.search_batch(vectors, k, threads=threads)
    return len(vectors) / max(time.perf_counter() - start, 1e-9)


def machine() -> str:
    """The processor, its cores and the system, in one line."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux: the platform's own name will do
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
