"""Judged datasets come from BEIR folders, ir-datasets, single files and suites."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsr.errors import DataError
from lsr.eval.datasets import SUITES, Dataset, open_dataset, open_datasets, suite_entries
from lsr.eval.evaluate import evaluate_index
from lsr.eval.experiment.experiment import named
from lsr.index.index import Index


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


def test_the_error_for_an_unknown_split_lists_the_known_splits(folder):
    with pytest.raises(DataError, match=r"'train'; there are: dev, test"):
        open_dataset(str(folder), "train")


def test_a_folder_without_judgments_is_refused(tmp_path):
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
def test_the_error_for_bad_judgments_names_the_line(folder, text, message):
    (folder / "qrels" / "test.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(str(folder))


@pytest.fixture
def registered():
    """An ir-datasets dataset called lsr-test, with judgments under lsr-test/test."""
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
def test_datasets_of_ir_datasets_are_opened_by_name(registered, name, tmp_path, lsr_command):
    assert open_dataset(name).qrels == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    assert lsr_command("index", name, "--out", tmp_path / "idx").code == 0
    (evaluated,) = lsr_command("evaluate", tmp_path / "idx", "--dataset", name, "--measures", "RR@10").lines()
    assert (evaluated["queries"], evaluated["RR@10"], evaluated["missing_queries"]) == (2, 1.0, 0)


def test_unknown_names_are_refused(registered):
    with pytest.raises(DataError, match="lsr-tset"):
        open_dataset("lsr-tset")
    with pytest.raises(DataError, match="lsr-test/dev"):
        open_dataset("lsr-test", "dev")


# --- parts, Parquet, own documents, suites ------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    """Documents, queries and judgments in the formats of MS MARCO and TREC."""
    files = {"documents": "collection.tsv", "queries": "queries.dev.tsv", "qrels": "qrels.dev.txt"}
    (tmp_path / files["documents"]).write_text("10\tflutter of wings\n20\tflat plates\n")
    (tmp_path / files["queries"]).write_text("1\tflutter\n2\tplates\n")
    (tmp_path / files["qrels"]).write_text("1 0 10 1\n2 0 20 1\n")
    return {key: str(tmp_path / name) for key, name in files.items()}


def test_a_dataset_can_be_given_by_its_files(parts, tmp_path):
    dataset = open_dataset("ours", "dev", **parts)
    assert (dataset.name, dataset.split, dataset.qrels) == ("ours", "dev", {"1": {"10": 1}, "2": {"20": 1}})
    assert [d.id for d in dataset.corpus()] == ["10", "20"]
    index = Index.build(tmp_path / "idx", dataset.corpus(), encoder="bm25")
    assert evaluate_index(index, dataset, "RR@10").measures == {"RR@10": 1.0}


def test_parts_of_a_folder_can_be_replaced(folder, parts):
    dataset = open_dataset(str(folder), queries=parts["queries"])
    assert (dataset.source, dataset.query_source) == (str(folder), parts["queries"])
    dataset = open_dataset(str(folder), documents=parts["documents"])
    assert (dataset.source, dataset.query_source) == (parts["documents"], str(folder))
    assert open_dataset(str(folder), qrels=parts["qrels"]).qrels["1"] == {"10": 1}


def test_the_error_names_all_missing_parts(folder):
    with pytest.raises(DataError) as error:
        open_dataset(str(folder), "train", documents="no.jsonl", queries="no.tsv")
    assert all(text in str(error.value) for text in ("'train'; there are: dev, test", "no.jsonl", "no.tsv"))
    with pytest.raises(DataError, match=r"^ours: no such file or folder"):
        open_dataset("ours", documents=str(folder / "corpus.jsonl"), qrels=str(folder / "qrels" / "test.tsv"))


@pytest.mark.parametrize(
    "columns",
    [
        {"query-id": ["q1", "q2"], "corpus-id": ["d1", "d2"], "score": [2, 1]},
        {"query_id": ["q1", "q2"], "doc_id": ["d1", "d2"], "relevance": [2.0, 1.0]},
    ],
)
def test_a_dataset_folder_may_contain_parquet_files(tmp_path, columns):
    (tmp_path / "qrels").mkdir()
    texts = {"corpus": ["d1", "d2"], "queries": ["q1", "q2"]}
    for name, ids in texts.items():
        table = pa.table({"_id": ids, "title": [None, ""], "text": ["wings", "plates"]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    pq.write_table(pa.table(columns), tmp_path / "qrels" / "test.parquet")
    dataset = open_dataset(str(tmp_path))
    assert dataset.qrels == {"q1": {"d1": 2}, "q2": {"d2": 1}}
    index = Index.build(tmp_path / "idx", dataset.corpus(), encoder="bm25")
    assert evaluate_index(index, dataset, "RR@10").measures == {"RR@10": 1.0}


def test_invalid_parquet_judgments_are_refused(tmp_path):
    (tmp_path / "qrels").mkdir()
    path = tmp_path / "qrels" / "test.parquet"
    pq.write_table(pa.table({"query-id": ["a", "b"], "corpus-id": ["x", None], "score": [0.5, 1.0]}), path)
    with pytest.raises(DataError, match=r"2 bad lines:") as error:
        open_dataset(str(tmp_path))
    assert "test.parquet:1: the grade 0.5 is not a whole number" in str(error.value)
    assert "test.parquet:2: expected the columns query-id, corpus-id, score" in str(error.value)


@pytest.mark.parametrize(("name", "drops"), [("ArguAna", True), ("quora", True), ("scifact", False)])
def test_own_documents_are_dropped_for_arguana_and_quora(folder, name, drops, monkeypatch):
    place = folder.rename(folder.parent / "data").rename(folder.parent / name)
    assert open_dataset(str(place)).drop_own is drops
    assert open_dataset(str(place), drop_own=not drops).drop_own is not drops
    monkeypatch.chdir(place)
    assert open_dataset(".").drop_own is drops


def test_own_documents_are_dropped_before_the_cut_at_k(tmp_path, parts):
    (tmp_path / "collection.tsv").write_text("1\tflutter flutter\n10\tflutter of wings\n2\tflutter\n")
    (tmp_path / "qrels.dev.txt").write_text("1 0 10 1\n2 0 1 1\n")
    kept, dropped = (open_dataset("ours", **parts, drop_own=drop) for drop in (False, True))
    index = Index.build(tmp_path / "idx", kept.corpus(), encoder="bm25")
    assert list(evaluate_index(index, kept, "R@2").run["1"]) == ["1", "2"]
    result = evaluate_index(index, dropped, "R@2")
    assert list(result.run["1"]) == ["2", "10"]
    assert (result.dropped, result.per_query["R@2"]["1"]) == (1, 1.0)
    assert len(evaluate_index(index, dropped, "R@1").run["1"]) == 1
    own = Dataset("arguana", "test", "", {"1": {"2": 1}}, drop_own=True)
    assert own.kept({"1": {"1": 2.0, "2": 1.0}, "2": {}}) == {"1": {"2": 1.0}, "2": {}}
    run = {"1": {"1": 2.0, "2": 1.0}}
    assert Dataset("other", "test", "", {"1": {"1": 0}}).kept(run) == run


def test_documents_that_the_judgments_exclude_are_left_out(folder):
    """Excluded documents (grade -100, as in BRIGHT) are removed from the ranking, and lower documents move up."""
    (folder / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "one {i}"}}\n' for i in range(4)))
    index = Index.build(folder / "idx", open_dataset(str(folder)).corpus(), encoder="bm25")
    found = [hit.id for hit in index.search("one")]
    lines = [f"q1\t{found[0]}\t-100\n", f"q1\t{found[1]}\t1\n"]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    dataset = open_dataset(str(folder))
    assert (dataset.most_dropped, dataset.drops("q1", found[0]), dataset.drops("q1", found[1])) == (1, True, False)
    quality = evaluate_index(index, dataset, "RR@1 R@1")
    assert quality.measures == {"RR@1": 1, "R@1": 1}
    assert (quality.dropped, found[0] in quality.run["q1"]) == (1, False)


def test_a_suite_is_read_from_a_file(folder, parts, tmp_path):
    path = tmp_path / "suite.yaml"
    listed = "".join(f", {key}: '{value}'" for key, value in parts.items())
    path.write_text(f"datasets:\n  - '{folder}'\n  - {{name: '{folder}', split: dev}}\n  - {{name: ours{listed}}}\n")
    assert [(d.name, d.split) for d in open_datasets(suite_entries(str(path)))] == [
        (str(folder), "test"),
        (str(folder), "dev"),
        ("ours", "test"),
    ]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("datasets:\n  - no/such\n  - {name: nor/this}\n", ["2 datasets", "no/such", "nor/this"]),
        ("datasets:\n  - {name: a, splt: b}\n", ["suite.yaml:2: ", "splt", "split"]),
        ("datasets: []\n", ["suite.yaml:1: ", "datasets is empty"]),
    ],
)
def test_bad_suites_are_refused(tmp_path, text, messages):
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(DataError) as error:
        open_datasets(suite_entries(str(tmp_path / "suite.yaml")))
    assert all(message in str(error.value) for message in messages)


def test_unknown_suites_are_refused():
    with pytest.raises(DataError, match="bier: no such file, and no such suite; there are: beir, beir-small"):
        open_datasets(suite_entries("bier"))


def test_every_dataset_of_a_suite_has_judgments():
    datasets = pytest.importorskip("ir_datasets")
    for name in {name for suite in SUITES.values() for name in suite} - set(SUITES["limit"]):
        found = datasets.load(name)
        assert found.has_qrels(), name
        assert found.has_queries(), name
        assert found.has_docs(), name


@pytest.mark.parametrize("suite", SUITES)
def test_local_folders_replace_the_datasets_of_a_suite(suite, tmp_path, monkeypatch):
    """Local datasets need no network, and have the same names in tables as datasets of ir-datasets."""
    monkeypatch.chdir(tmp_path)
    for name in SUITES[suite]:
        (tmp_path / name / "qrels").mkdir(parents=True)
        (tmp_path / name / "corpus.jsonl").write_text('{"_id": "d", "text": "wing"}\n{"_id": "q", "text": "tube"}\n')
        (tmp_path / name / "queries.jsonl").write_text('{"_id": "q", "text": "wing"}\n')
        (tmp_path / name / "qrels" / "test.jsonl").write_text(
            '{"query-id": "q", "corpus-id": "d", "score": 1}\n{"query-id": "q", "corpus-id": "q", "score": -100}\n'
        )
    datasets = named(open_datasets(suite_entries(suite)))
    assert [dataset.name for dataset in datasets.values()] == list(SUITES[suite])
    online = [replace(dataset, name=f"irds:{dataset.name}") for dataset in datasets.values()]
    assert list(datasets) == list(named(online))
    for name, dataset in datasets.items():
        assert dataset.corpus().count() == 2
        assert dataset.drop_own == any(part in name for part in ("arguana", "quora"))
        assert dataset.drops("q", "q")


def test_the_error_for_a_missing_suite_says_how_to_get_its_datasets(tmp_path, monkeypatch):
    pytest.importorskip("ir_datasets")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"limit-small: no such file .*a BEIR folder has corpus.jsonl, "):
        open_datasets(suite_entries("limit"))
    with pytest.raises(DataError, match=r"mteb: no such .* MTEB's harness runs its tasks: lsr.index.integrations.mteb"):
        suite_entries("mteb")
