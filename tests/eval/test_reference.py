"""The means of published scores equal the published means, and every name of a dataset finds its scores."""

from __future__ import annotations

import pytest

from lsr.eval.datasets import SUITES
from lsr.eval.published_scores import reference, references


def test_column_means_equal_the_published_means():
    systems = {r.system for r in reference("scifact", "nDCG@10")}
    assert len(systems) == 16
    for system in systems:
        own = [r for r in references() if r.system == system and r.measure == "nDCG@10"]
        sets = [r.value for r in own if r.dataset != "beir"]
        (mean,) = {r.value for r in own if r.dataset == "beir"}
        assert len(sets) == 13
        assert sum(sets) / 13 == pytest.approx(mean, abs=0.000501), system


def test_the_beir_suite_has_the_datasets_of_the_published_table():
    tabled = {r.dataset for r in references()} - {"beir", "msmarco"}
    found = [reference(name, "nDCG@10") for name in SUITES["beir"]]
    assert all(len(rows) == 16 for rows in found)
    assert {row.dataset for rows in found for row in rows} == tabled
    assert set(SUITES["beir-small"]) < set(SUITES["beir"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scifact", 0.71),
        ("data/SciFact/", 0.71),
        ("beir/scifact", 0.71),
        ("irds:beir/scifact/test", 0.71),
        ("webis-touche2020", 0.293),
        ("irds:beir/webis-touche2020/v2", 0.293),
        ("touche-2020", 0.293),
        ("beir/dbpedia-entity/test", 0.45),
        ("beir/trec-covid", 0.748),
        ("beir", 0.517),
    ],
)
def test_all_forms_of_a_dataset_name_find_its_scores(name, value):
    (found,) = [r for r in reference(name, "nDCG@10") if r.system == "SPLADE-v3"]
    assert (found.value, found.measure) == (value, "nDCG@10")


@pytest.mark.parametrize("name", ["msmarco-passage/dev/small", "irds:beir/msmarco/dev", "msmarco"])
def test_names_of_ms_marco_find_its_scores(name):
    found = reference(name, "MRR@10")
    assert found == reference(name, "RR@10") == sorted(found, key=lambda r: -r.value)
    assert (found[0].system, found[0].value, found[0].trust) == ("CSPLADE-Bi-8B", 0.413, "paper-text")
    assert [r.value for r in reference(name, "R@1000")] == [0.9846, 0.9831, 0.98, 0.978]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("beir/scifact/train", None),
        ("scifact", "train"),
        ("beir/msmarco/test", None),
        ("msmarco", "test"),
        ("msmarco-passage/dev", None),
        ("beir/webis-touche2020", None),
        ("cranfield", None),
    ],
)
def test_other_splits_have_no_published_scores(name, split):
    assert reference(name, "nDCG@10", split) == reference(name, "RR@10", split) == []


def test_a_folder_is_recognized_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "nq").mkdir()
    monkeypatch.chdir(tmp_path / "nq")
    assert reference(".", "nDCG@10") == reference("nq", "nDCG@10", "test")
    assert reference("nq", "P@7") == []


def test_every_published_score_has_a_source_and_a_trust_level():
    for found in references():
        assert 0 < found.value < 1
        assert found.source
        assert found.trust in {"repo", "paper-text", "derived", "secondary", "unmarked"}
    assert [r.note for r in reference("beir", "nDCG@10") if r.system == "Li-LSR Big"] == ["approximately"]
