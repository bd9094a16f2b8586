"""lsr compare compares runs and systems of experiments."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsr.errors import DataError
from lsr.eval.compare import compare_values, read_values
from lsr.eval.datasets import open_dataset

pytest.importorskip("ir_measures")

MEASURES = "RR@10 R@10"


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": d, "text": d}) + "\n" for d in "abc"))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": f"q{i}", "text": "a"}) + "\n" for i in range(6)))
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i}\ta\t1\n" for i in range(6)))
    return open_dataset(str(folder))


@pytest.fixture
def runs(tmp_path):
    """Three runs. "best" always ranks the relevant document first, "middle" sometimes does, "worst" never finds it."""
    orders = {"best": ["ab"] * 6, "middle": ["ab", "ba", "ab", "ba", "ab", "bc"], "worst": ["bc"] * 6}
    for name, docs in orders.items():
        lines = [f"q{i} Q0 {doc} {r + 1} {9 - r} {name}\n" for i, row in enumerate(docs) for r, doc in enumerate(row)]
        (tmp_path / f"{name}.trec").write_text("".join(lines))
    return {name: str(tmp_path / f"{name}.trec") for name in orders}


@pytest.fixture
def results(tmp_path):
    """A result folder with only the file that `lsr compare` reads."""
    rows = [
        {"dataset": "data", "system": s, "query": f"q{i}", "measure": m, "value": v}
        for s, v in (("BM25", 0.2), ("mini", 0.7))
        for i in range(6)
        for m in ("RR@10", "AP")
    ]
    (tmp_path / "results").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "results" / "per-query.parquet")
    return tmp_path / "results"


def test_runs_are_compared_with_the_first_run(dataset, runs):
    found = compare_values(read_values(list(runs.values()), dataset, MEASURES))
    assert [one.system for one in found] == list(runs.values()) * 2
    best, middle, worst = found[:3]
    assert best.comparison is None
    assert (best.mean, middle.mean, worst.mean) == pytest.approx((1, 4 / 6, 0))
    assert (middle.comparison.wins, middle.comparison.ties, middle.comparison.losses) == (0, 3, 3)
    assert worst.comparison.difference == pytest.approx(-1)
    assert worst.p_corrected == pytest.approx(2 * worst.comparison.p)
    assert middle.p_corrected >= middle.comparison.p
    assert middle.most == [("q5", 0.0, 1.0), ("q1", 0.5, 1.0), ("q3", 0.5, 1.0)]


def test_the_baseline_can_be_chosen(dataset, runs):
    values = read_values(list(runs.values()), dataset, MEASURES)
    found = compare_values(values, runs["worst"], most=0)
    assert [one.system for one in found[:3]] == [runs["worst"], runs["best"], runs["middle"]]
    assert all(one.most == () for one in found)
    with pytest.raises(DataError, match="'nobody' is none of"):
        compare_values(values, "nobody")


def test_systems_of_a_result_folder_are_compared(results):
    found = compare_values(read_values([str(results)], None, MEASURES))
    assert [(one.system, one.measure) for one in found] == [("BM25", "RR@10"), ("mini", "RR@10")]
    assert found[1].comparison.difference == pytest.approx(0.5)


def test_a_system_of_a_folder_is_compared_with_a_run(results, runs, dataset):
    values = read_values([f"{results}:mini", runs["worst"]], dataset, MEASURES)
    assert list(values) == ["mini", runs["worst"]]
    found = compare_values(values)
    assert found[1].comparison.difference == pytest.approx(-0.7)


def test_all_problems_are_reported_together(results, runs, dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.trec").write_text("q0 Q0 a 1 high x\n")
    names = [f"{results}:nobody", str(tmp_path / "empty"), str(tmp_path / "bad.trec")]
    with pytest.raises(DataError) as error:
        read_values(names, dataset, MEASURES)
    text = str(error.value)
    assert "no system 'nobody'" in text
    assert "not a result of lsr experiment" in text
    assert "bad.trec:1" in text


def test_runs_are_checked_against_judgments_and_measures(runs, dataset, lsr_command, tmp_path):
    (tmp_path / "doubled.trec").write_text("q0 Q0 a 1 2 x\nq0 Q0 a 2 1 x\n")
    (tmp_path / "others.trec").write_text("x1 Q0 a 1 2 x\n")
    names = [runs["best"], tmp_path / "doubled.trec", tmp_path / "others.trec", tmp_path / "none.trec"]
    ran = lsr_command("compare", *names, "--dataset", dataset.name, "--measures", "RR@10 nDGC@10")
    assert (ran.code, ran.out) == (1, "")
    for text in ("'nDGC@10'", "doubled.trec:2: ", "others.trec: none of its queries is judged", "none.trec"):
        assert text in ran.err
    ran = lsr_command("compare", runs["best"], runs["worst"], "--dataset", dataset.name, "--measures", "R@100")
    assert (ran.code, len(ran.lines())) == (0, 2)
    assert f"note: {runs['best']}: the measures look at 100 hits, but no query has more than 2" in ran.err
    assert f"note: {runs['worst']}: none of its hits is judged" in ran.err


def test_a_file_of_judgments_is_enough_to_compare_runs(runs, dataset, tmp_path):
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("".join(f"q{i} 0 a 1\n" for i in range(6)))
    found = read_values(list(runs.values()), open_dataset(str(qrels)), MEASURES)
    assert found == {
        name: {("qrels", measure): values for (_, measure), values in of_one.items()}
        for name, of_one in read_values(list(runs.values()), dataset, MEASURES).items()
    }


def test_runs_need_judgments(runs):
    with pytest.raises(DataError, match="--dataset"):
        read_values(list(runs.values()), None, MEASURES)


def test_measures_that_are_missing_in_the_folder_are_refused(results):
    with pytest.raises(DataError, match=r"there are no values of any of R@5 \(--measures\)"):
        read_values([str(results)], None, "R@5")


def test_a_single_system_is_refused(results):
    with pytest.raises(DataError, match="only mini"):
        read_values([f"{results}:mini"], None, MEASURES)


def test_systems_with_nothing_in_common_are_refused(results, dataset, runs):
    values = read_values([f"{results}:mini", runs["best"]], dataset, MEASURES)
    values["mini"] = {("other", "RR@10"): {"q0": 1.0}}
    with pytest.raises(DataError, match="no dataset and measure in common"):
        compare_values(values)


def test_the_error_names_a_damaged_result_folder(results):
    (results / "per-query.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"per-query.parquet: not a whole Parquet file"):
        read_values([str(results)], None, MEASURES)


def test_the_command_prints_one_row_per_run(results, runs, dataset, lsr_command):
    ran = lsr_command("compare", *runs.values(), "--dataset", dataset.name, "--measures", "RR@10")
    assert ran.code == 0
    rows = ran.lines()
    assert [row["system"] for row in rows] == list(runs.values())
    assert rows[2]["comparison"]["losses"] == 6
    ran = lsr_command("compare", runs["best"], runs["worst"])
    assert (ran.code, "--dataset" in ran.err) == (1, True)


def test_a_warning_about_the_dataset_is_reported_once(runs, dataset):
    for path in runs.values():
        with open(path, "a", encoding="utf-8") as file:
            file.write("stray Q0 a 1 1 t\n")
    notes = []
    read_values(list(runs.values()), dataset, MEASURES, notes)
    assert sum("stray" in text for text in notes) == 1
