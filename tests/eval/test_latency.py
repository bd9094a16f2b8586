"""Latency is measured in percentiles after a warm-up; throughput and energy per query are measured, too."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lsr.eval.latency import Energy, Latency, machine, throughput, time_each
from lsr.index.index import Index
from lsr.sparse import SparseMatrix


def test_latencies_are_summarized_as_percentiles():
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
    assert throughput(Index.build(tmp_path / "idx", matrix), matrix, 3, threads).per_second > 0


def test_the_description_of_the_machine_has_its_cores():
    assert f"{os.cpu_count()} cores" in machine()


def counters(folder, **packages):
    for name, (value, largest) in packages.items():
        (folder / name.replace("_", ":").replace("rapl", "intel-rapl")).mkdir(exist_ok=True)
        place = folder / name.replace("_", ":").replace("rapl", "intel-rapl")
        (place / "energy_uj").write_text(f"{value}\n")
        (place / "max_energy_range_uj").write_text(f"{largest}\n")


def test_energy_is_summed_over_processor_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(Energy, "FOLDER", tmp_path)
    counters(tmp_path, rapl_0=(2_000_000, 9_999_999), rapl_1=(9_000_000, 9_999_999), rapl_0_0=(1, 9_999_999))
    with Energy() as energy:
        assert energy.joules is None
        counters(tmp_path, rapl_0=(2_500_000, 9_999_999), rapl_1=(1_000_000, 9_999_999), rapl_0_0=(7, 9_999_999))
    # rapl_1 wrapped around. rapl_0_0 isn't added, because rapl_0 includes it.
    assert energy.joules == pytest.approx(0.5 + 2.0)


def test_energy_is_none_without_readable_counters(tmp_path, monkeypatch):
    monkeypatch.setattr(Energy, "FOLDER", tmp_path / "none")
    with Energy() as energy:
        pass
    assert energy.joules is None
    monkeypatch.setattr(Energy, "FOLDER", tmp_path)
    counters(tmp_path, rapl_0=(1, 9))
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("not a number")
    with Energy() as energy:
        pass
    assert energy.joules is None


def test_throughput_reports_the_energy_per_query(tmp_path, monkeypatch):
    monkeypatch.setattr(Energy, "FOLDER", tmp_path)
    monkeypatch.setattr("lsr.eval.latency._WHILE", 0.0)  # one pass over the queries
    counters(tmp_path, rapl_0=(0, 99_999_999))
    matrix = SparseMatrix.from_dense(np.ones((5, 3)))
    index = Index.build(tmp_path / "idx", matrix)
    search = index.search_batch

    def use(vectors, *args, **how):
        if len(vectors) == 5:
            counters(tmp_path, rapl_0=(int((tmp_path / "intel-rapl:0" / "energy_uj").read_text()) + 10**6, 99_999_999))
        return search(vectors, *args, **how)

    monkeypatch.setattr(index, "search_batch", use)
    assert throughput(index, matrix, 3).joules == pytest.approx(1 / 5)
