"""lsr bench tries a grid of settings, finds the Pareto frontier and recommends settings."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.eval import bench as module
from lsr.eval.bench import bench_index, recommended, settings_grid
from lsr.eval.latency import Rate
from lsr.index.index import Index
from lsr.sparse import SparseMatrix


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    return SparseMatrix.from_dense(np.where(rng.random((300, 40)) < 0.3, rng.random((300, 40)), 0))


@pytest.fixture(scope="module")
def index(matrix, tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("bench") / "idx", matrix, clusters=True)


def test_the_grid_has_every_combination():
    grid = settings_grid({"alpha": [0.7, 0.8], "cut": [3], "heap_factor": [0.9, 0.8]}, clusters=True)
    assert grid == [
        {},
        {"algorithm": "blocks", "alpha": 0.7},
        {"algorithm": "blocks", "alpha": 0.8},
        {"algorithm": "clusters", "cut": 3, "heap_factor": 0.9},
        {"algorithm": "clusters", "cut": 3, "heap_factor": 0.8},
    ]


def test_without_values_there_is_a_default_grid():
    assert all(one.get("algorithm") != "clusters" for one in settings_grid({}, clusters=False))
    assert any(one.get("algorithm") == "clusters" for one in settings_grid({}, clusters=True))


def test_all_invalid_values_are_reported():
    with pytest.raises(ValueError, match=r"alpha must be .* got 2.0.*cut must be .* got 0"):
        settings_grid({"alpha": [2.0], "cut": [0]}, clusters=True)
    with pytest.raises(ValueError, match="--clusters"):
        settings_grid({"cut": [3]}, clusters=False)


def test_exact_search_has_full_recall(index, matrix):
    grid = settings_grid({"cut": [1], "alpha": [0.1]}, clusters=True)
    found = bench_index(index, matrix[:5], [2, 10], grid, rounds=1, threads=[1, 0])
    assert [(one.k, one.label) for one in found[::3]] == [(2, "exact"), (10, "exact")]
    assert found[0].recall == found[3].recall == 1
    for one in found:
        assert one.recall == (1 if one.label == "exact" else index.recall(matrix[:5], one.k, **one.settings))
        assert set(one.per_second) == {1, 0}
        assert one.to_json()["recall"] == round(one.recall, 4)
    for k in (2, 10):
        assert recommended(found, k, 1.0).recall == 1


def test_the_frontier_has_the_pareto_optimal_settings(index, matrix, monkeypatch):
    times = {"exact": 4.0, "a": 1.0, "b": 2.0, "c": 3.0}
    recalls = {1: 0.9, 2: 0.95, 3: 0.95}
    monkeypatch.setattr(module, "time_together", lambda calls, n, rounds: np.array([[t] for t in times.values()]))
    monkeypatch.setattr(module, "throughput", lambda *_, **__: Rate(1.0, None))
    monkeypatch.setattr(index, "recall", lambda queries, k, cut, algorithm: recalls[cut])
    grid = [{}, *({"algorithm": "clusters", "cut": cut} for cut in recalls)]
    found = bench_index(index, matrix[:1], [10], grid)
    assert [one.on_frontier for one in found] == [True, True, True, False]
    assert recommended(found, 10, 0.95).settings["cut"] == 2
    assert recommended(found, 10, 0.96).settings == {}


def test_an_empty_set_of_queries_is_an_error(index, matrix):
    with pytest.raises(DataError, match="no queries"):
        bench_index(index, matrix[:0], [10], [{}])


def test_the_command_prints_all_settings_and_a_recommendation(index, lsr_command, tmp_path):
    ran = lsr_command("bench", index.path, "--cut", "2,4", "--heap-factor", "1", "-k", "5", "--rounds", "1")
    assert ran.code == 0
    assert [(row["k"], row.get("cut")) for row in ran.lines()] == [(5, None), (5, 2), (5, 4)]
    assert sum(row["recommended"] for row in ran.lines()) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--alpha", "1.5"], "alpha must be"),
        (["--cut", "x"], "not a list of numbers"),
        (["-k", "0"], "k is at least 1"),
    ],
)
def test_bad_values_are_reported(index, lsr_command, args, message):
    ran = lsr_command("bench", index.path, *args)
    assert ran.code == 2
    assert message in ran.err
