"""The evaluation of an index counts all judged queries, even queries without text or results."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.passages import Passages
from lsr.errors import DataError
from lsr.eval.datasets import open_dataset
from lsr.eval.evaluate import evaluate_index
from lsr.index.index import Index

pytest.importorskip("ir_measures")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "wing"}\n{"_id": "d2", "text": "plate"}\n')
    queries = {"q1": "wing", "q2": "zebra", "unjudged": "plate"}
    (tmp_path / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in queries.items())
    )
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td1\t1\nq2\td2\t1\nabsent\td1\t1\n")
    return tmp_path


def test_queries_without_text_or_results_count_as_zero(folder):
    dataset = open_dataset(str(folder))
    result = evaluate_index(Index.build(folder / "idx", dataset.corpus(), encoder="bm25"), dataset, "RR@10")
    assert result.measures == {"RR@10": pytest.approx(1 / 3)}
    assert (result.n_queries, result.missing) == (3, ("absent",))
    assert set(result.run) == {"q1", "q2"}
    assert result.encode is not None
    assert json.dumps(result.to_json())


class DenseBM25(BM25Encoder):
    """BM25 with the same dense vector for every text."""

    dense_width = 4

    def encode_dense(self, texts, *, queries=False):
        return np.full((len(texts), 4), 0.5, np.float32)

    def encode_both(self, texts):
        return self.encode_document(texts), self.encode_dense(texts)


def test_queries_without_known_words_get_the_same_hits_as_in_search(folder):
    dataset = open_dataset(str(folder))
    index = Index.build(folder / "idx", dataset.corpus(), encoder=DenseBM25(), hybrid=True)
    found = {query: index.search(text).ids for query, text in (("q1", "wing"), ("q2", "zebra"))}
    assert (len(found["q1"]), found["q2"]) == (2, [])
    result = evaluate_index(index, dataset, "RR@10")
    assert {query: [*hits] for query, hits in result.run.items()} == found
    assert [*evaluate_index(index, dataset, "RR@10", mode="hybrid").run["q2"]] == ["d1", "d2"]
    (folder / "queries.jsonl").write_text('{"_id": "q2", "text": "zebra"}\n')
    assert evaluate_index(index, open_dataset(str(folder)), "RR@10").run == {"q2": {}}


def test_queries_of_another_dataset_are_refused(folder):
    dataset = open_dataset(str(folder))
    index = Index.build(folder / "idx", dataset.corpus(), encoder="bm25")
    (folder / "queries.jsonl").write_text('{"_id": "other", "text": "wing"}\n')
    with pytest.raises(DataError, match="none of the queries is judged"):
        evaluate_index(index, dataset, "RR@10")


@pytest.mark.parametrize("args", [["--measures", "nDGC@10"], ["--split", "train"], ["--dataset", "no/such/thing"]])
def test_bad_input_gives_a_one_line_error(folder, lsr_command, args):
    Index.build(folder / "idx", open_dataset(str(folder)).corpus(), encoder="bm25")
    ran = lsr_command("evaluate", folder / "idx", "--dataset", folder, *args)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert args[1].split("/")[0] in ran.err


def test_the_command_checks_an_index_and_writes_values_per_query(folder, lsr_command):
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\nq2\tgone\t1\nabsent\td1\t1\n")
    Index.build(folder / "idx", open_dataset(str(folder)).corpus(), encoder="bm25", passages=Passages(8))
    ran = lsr_command(
        "evaluate", folder / "idx", "--dataset", folder, "--measures", "RR@10", "--per-query", folder / "v.jsonl"
    )
    assert ran.lines()[0]["RR@10"] == pytest.approx(1 / 3, abs=1e-5)
    assert "1 judged document (gone), 1 of them relevant" in ran.err
    assert "1 judged query (absent) is not among the queries" in ran.err
    assert len((folder / "v.jsonl").read_text().splitlines()) == 3
