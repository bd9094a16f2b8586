"""Latency: percentiles in milliseconds, after a warm-up."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lsr.eval.latency import Latency, machine, throughput, time_each
from lsr.index.index import Index
from lsr.sparse import SparseMatrix


def test_percentiles():
    latency = Latency.of(list(range(101)))
    assert (latency.p50, latency.mean, latency.p95, latency.p99) == (50, 50, 95, 99)
    assert Latency.of([]).to_json() == {"p50": 0.0, "mean": 0.0, "p95": 0.0, "p99": 0.0}


def test_the_first_round_is_a_warm_up(monkeypatch):
    clock = iter(np.cumsum([0, 9_000_000, *[0, 1_000_000] * 3, *[0, 5_000_000]]).tolist())
    monkeypatch.setattr("lsr.eval.latency.time.perf_counter_ns", lambda: next(clock))
    calls = []
    assert time_each(calls.append, 1, rounds=4) == Latency(1.0, 1.0, 1.0, 1.0)
    assert calls == [0] * 5


def test_every_query_is_timed():
    calls = []
    time_each(calls.append, 3, rounds=2)
    assert calls == [0, 1, 2] * 3


@pytest.mark.parametrize("threads", [1, 2, 0])
def test_throughput_is_positive(tmp_path, threads):
    matrix = SparseMatrix.from_dense(np.ones((5, 3)))
    assert throughput(Index.build(tmp_path / "idx", matrix), matrix, 3, threads) > 0


def test_the_machine_is_named():
    assert f"{os.cpu_count()} cores" in machine()
