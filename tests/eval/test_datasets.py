"""Judged datasets: BEIR folders and ir-datasets names."""

from __future__ import annotations

from typing import ClassVar

import pytest

from lsr.errors import DataError
from lsr.eval.datasets import open_dataset


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "one"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    return tmp_path


def test_a_folder_has_splits(folder):
    dataset = open_dataset(str(folder))
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}}
    assert [d.id for d in dataset.corpus()] == ["d1"]
    assert open_dataset(str(folder), "dev").qrels == {"q2": {"d1": 1}}


def test_a_split_that_is_not_there_names_those_that_are(folder):
    with pytest.raises(DataError, match=r"'train'; there are: dev, test"):
        open_dataset(str(folder), "train")


def test_a_folder_without_judgments(tmp_path):
    with pytest.raises(DataError, match="there are: none"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query-id\tcorpus-id\tscore\n", "no judgment"),
        ("q1\td1\thigh\n", "test.tsv:1: .*'high'"),
        ("q1\td1\n", "test.tsv:1: "),
        ("q1\td1\t1\nq1\td1\t2\n", "test.tsv:2: .*twice"),
    ],
)
def test_bad_judgments_are_named(folder, text, message):
    (folder / "qrels" / "test.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(str(folder))


@pytest.fixture
def registered():
    """A dataset that ir-datasets knows by the name lsr-test, with judgments under lsr-test/test."""
    datasets = pytest.importorskip("ir_datasets")
    formats = pytest.importorskip("ir_datasets.formats")
    doc, query, qrel = formats.GenericDoc, formats.GenericQuery, formats.TrecQrel

    class Docs(formats.BaseDocs):
        items: ClassVar = [doc("d1", "flutter of wings"), doc("d2", "flat plates")]

        def docs_iter(self):
            return iter(self.items)

        def docs_count(self):
            return len(self.items)

        def docs_cls(self):
            return doc

    class Queries(formats.BaseQueries):
        def queries_iter(self):
            return iter([query("q1", "flutter"), query("q2", "plates")])

        def queries_count(self):
            return 2

        def queries_cls(self):
            return query

    class Qrels(formats.BaseQrels):
        def qrels_iter(self):
            return iter([qrel("q1", "d1", 1, "0"), qrel("q2", "d2", 2, "0")])

        def qrels_cls(self):
            return qrel

    names = {"lsr-test": (Docs(), Queries()), "lsr-test/test": (Docs(), Queries(), Qrels())}
    for name, parts in names.items():
        datasets.registry.register(name, datasets.Dataset(*parts))
    yield "lsr-test"
    for name in names:
        datasets.registry._registered.pop(name)


@pytest.mark.parametrize("name", ["lsr-test", "irds:lsr-test", "lsr-test/test"])
def test_datasets_by_name(registered, name, tmp_path, lsr_command):
    assert open_dataset(name).qrels == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    assert lsr_command("index", name, "--out", tmp_path / "idx").code == 0
    (evaluated,) = lsr_command("evaluate", tmp_path / "idx", "--dataset", name, "--measures", "RR@10").lines()
    assert (evaluated["queries"], evaluated["RR@10"], evaluated["missing_queries"]) == (2, 1.0, 0)


def test_names_that_nobody_knows(registered):
    with pytest.raises(DataError, match="lsr-tset"):
        open_dataset("lsr-tset")
    with pytest.raises(DataError, match="lsr-test/dev"):
        open_dataset("lsr-test", "dev")
