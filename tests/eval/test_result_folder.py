"""A result folder is checked before use, and one error lists all problems of experiment.json."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsr.errors import DataError
from lsr.eval.report.load_results import read_results


def change(folder, **values):
    """Set values in experiment.json; a callable computes the new value from the old one."""
    path = folder / "experiment.json"
    experiment = json.loads(path.read_text())
    for key, value in values.items():
        experiment[key] = value(experiment[key]) if callable(value) else value
    path.write_text(json.dumps(experiment))


def first(**values):
    """Return a function that copies a list of dicts and changes values of the first dict."""
    return lambda items: [{**items[0], **values}, *items[1:]]


def test_a_written_folder_is_read_back(hostile):
    folder, written = hostile
    results = read_results(folder)
    experiment = results.experiment
    assert results.systems == [system["name"] for system in written["systems"]]
    assert experiment.results[3].measures == written["results"][3]["measures"]
    assert experiment.results[0].lengths.counts == tuple(written["results"][0]["lengths"]["counts"])
    assert results.result(results.datasets[1], results.systems[3]) is None
    # A mean covers all datasets; a system that lacks a result for one dataset has no mean.
    of_baseline = [r["measures"]["RR@10"] for r in written["results"] if r["system"] == results.systems[0]]
    assert results.mean(results.systems[0], "RR@10") == pytest.approx(sum(of_baseline) / 3)
    assert results.mean(results.systems[3], "RR@10") is None
    values = results.query_values(results.systems[1], "nDCG@10")
    assert len(values) == 300 + 225 + 190
    assert len(results.times(results.systems[3])) == 300 + 190


def test_the_best_other_system_is_the_best_system_besides_the_baseline(hostile):
    folder, written = hostile
    change(folder, baseline=written["systems"][5]["name"])
    results = read_results(folder)
    assert results.best_other not in (None, results.experiment.baseline)
    change(folder, baseline=written["systems"][0]["name"])
    assert read_results(folder).best_other == written["systems"][5]["name"]


def test_optional_values_may_be_missing(hostile):
    folder, _ = hostile
    empty = ["intervals", "measures"]
    change(
        folder,
        results=lambda all_: [{k: {} if k in empty else r[k] for k in ("dataset", "system", *empty)} for r in all_],
    )
    (folder / "latencies.parquet").unlink()
    results = read_results(folder)
    assert (results.experiment.results[0].search_ms, results.latencies) == (None, None)
    assert len(results.times(results.systems[0])) == 0


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({"format": 2}, ["format 2; this version of lsr reads format 1"]),
        ({"title": None, "k": "ten"}, ["title must be text, got 'None'", "k must be a whole number, got 'ten'"]),
        ({"threads": True}, ["threads must be a whole number, got 'True'"]),
        ({"measures": []}, ["measures is empty"]),
        ({"baseline": "BM52"}, ["baseline: there is no system 'BM52'"]),
        ({"systems": first(exact_name="none such")}, ["systems[0].exact_name: there is no system 'none such'"]),
        ({"systems": lambda all_: [*all_, all_[0]]}, ["occurs 2 times"]),
        ({"results": lambda all_: [*all_, all_[0]]}, ["result of (dataset, system)", "occurs 2 times"]),
        ({"results": first(search_ms={"p50": 1, "mean": 1, "p95": 1})}, ["results[0].search_ms.p99 is missing"]),
        ({"results": first(measures={"nDCG@10": float("nan")})}, ["results[0].measures['nDCG@10'] must be a number"]),
        ({"results": first(measures={"AP": 0.5})}, ["results[0].measures: there is no measure 'AP'"]),
        ({"results": first(intervals={"nDCG@10": [0.5]})}, ["intervals['nDCG@10'] must be a list of 2"]),
        ({"results": first(recall=1.5)}, ["results[0].recall must be from 0 to 1, got 1.5"]),
        ({"results": first(index_bytes=-1)}, ["results[0].index_bytes must not be negative"]),
        ({"results": first(lengths={"edges": [0, 2, 1], "counts": [1, 2]})}, ["results[0].lengths must have rising"]),
        ({"results": first(lengths={"edges": [0, 1], "counts": [1, 2]})}, ["results[0].lengths must have rising"]),
        ({"comparisons": first(p=2, baseline="x")}, ["comparisons[0]: p and p_corrected", "there is no system 'x'"]),
        ({"references": first(dataset="x")}, ["references[0].dataset: there is no dataset 'x'"]),
        ({"results": {}}, ["results must be a list"]),
        ({"notes": [1]}, ["notes[0] must be text, got '1'"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_error_lists_the_problems_of_experiment_json(hostile, values, problems):
    folder, _ = hostile
    change(folder, **values)
    with pytest.raises(DataError) as raised:
        read_results(folder)
    assert all(problem in str(raised.value) for problem in ["experiment.json", *problems])


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_damaged_json_is_refused(hostile, text):
    folder, _ = hostile
    (folder / "experiment.json").write_bytes(text)
    with pytest.raises(DataError, match=r"experiment\.json: "):
        read_results(folder)


@pytest.mark.parametrize("name", ["experiment.json", "per-query.parquet"])
def test_the_error_names_a_missing_file(hostile, name):
    folder, _ = hostile
    (folder / name).unlink()
    with pytest.raises(DataError, match="no such file: is this the result folder"):
        read_results(folder)


def rows(**columns):
    good = {
        "dataset": ["scifact"],
        "system": ["lsr-mini, clusters"],
        "query": ["q"],
        "measure": ["RR@10"],
        "value": [0.5],
    }
    return pa.table({name: values for name, values in {**good, **columns}.items() if values})


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (rows(value=None), "no column value"),
        (rows(value=["x"]), "not a readable Parquet file"),
        (rows(value=[float("inf")]), "empty or infinite values in value"),
        (rows(query=pa.array([None], pa.string())), "empty or infinite values in query"),
        (rows(system=["x"]), "system 'x' is not in experiment.json"),
        (rows(measure=["x"]), "measure 'x' is not in experiment.json"),
    ],
)
def test_damaged_values_per_query_are_refused(hostile, table, problem):
    folder, _ = hostile
    pq.write_table(table, folder / "per-query.parquet")
    with pytest.raises(DataError, match=r"per-query\.parquet: ") as raised:
        read_results(folder)
    assert problem in str(raised.value)


def test_a_truncated_parquet_file_is_refused_but_an_empty_file_is_read(hostile):
    folder, _ = hostile
    path = folder / "latencies.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"latencies\.parquet: not a whole Parquet file"):
        read_results(folder)
    path.unlink()
    pq.write_table(rows().slice(0, 0), folder / "per-query.parquet")
    assert read_results(folder).query_values("lsr-mini, clusters", "RR@10") == {}
