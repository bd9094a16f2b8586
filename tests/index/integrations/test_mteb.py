"""MTEB's harness evaluates an encoder on a local task, and gets the same measures as `lsr evaluate`."""

from __future__ import annotations

import json
import warnings

import pytest

pytest.importorskip("mteb", reason='too large for the extra dev: pip install "lsr-search[mteb]"')

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings of MTEB itself on import
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import EncoderProtocol, SearchProtocol

from lsr import Index
from lsr.encode.load import load_encoder
from lsr.errors import DataError
from lsr.eval.datasets import open_dataset
from lsr.eval.evaluate import evaluate_index
from lsr.index.integrations.mteb import LsrModel

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness warns about the small task

TEXTS = {
    "a": ("Cats", "the cat sat on the mat and slept"),
    "b": ("", "a dog chased the cat around the garden"),
    "c": ("Dogs", "dogs like long walks and short naps"),
    "d": ("", "rain in spain falls mainly on the plain"),
    "e": ("", "gardens need rain and sun"),
}
QUERIES = {"1": "cat on a mat", "2": "dogs walk in the rain", "3": "rain for the garden"}
QRELS = {"1": {"a": 1}, "2": {"c": 1, "b": 1}, "3": {"e": 1, "d": 0}}


def task(ranked=None):
    class Small(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="SmallLocalRetrieval", description="A test.", reference=None, type="Retrieval", category="t2t",
            dataset={"path": "none", "revision": "1"}, modalities=["text"], eval_splits=["test"],
            eval_langs=["eng-Latn"], main_score="ndcg_at_10", date=("2020-01-01", "2020-01-02"), domains=[],
            task_subtypes=[], license="not specified", annotations_creators="derived", dialect=[],
            sample_creation="found", bibtex_citation="",
        )  # fmt: skip

        def load_data(self, *args, **kwargs):
            corpus = [{"id": name, "title": title, "text": text} for name, (title, text) in TEXTS.items()]
            queries = [{"id": name, "text": text} for name, text in QUERIES.items()]
            of_split = {"corpus": Dataset.from_list(corpus), "queries": Dataset.from_list(queries)}
            self.dataset = {"default": {"test": of_split | {"relevant_docs": dict(QRELS), "top_ranked": ranked}}}
            self.data_loaded = True

    return Small()


def scores(model, ranked=None):
    (result,) = mteb.evaluate(model, task(ranked), cache=None, co2_tracker=False, show_progress_bar=False).task_results
    return result.scores["test"][0]


def test_the_model_implements_the_search_protocol_of_the_harness():
    model = LsrModel("bm25")
    assert isinstance(model, SearchProtocol)
    assert not isinstance(model, EncoderProtocol)
    assert model.mteb_model_meta.name == "lsr/bm25(k1=0.9, b=0.4, english)"
    assert LsrModel("lsr-tiny", "team/tiny").mteb_model_meta.name == "team/tiny"
    encoders = [load_encoder("lsr-tiny", query_model=model) for model in (None, "splade-tiny")]
    assert len({LsrModel(encoder).mteb_model_meta.revision for encoder in encoders}) == 2


def test_measures_equal_those_of_lsr_evaluate(tmp_path):
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": name, "title": title, "text": text} for name, (title, text) in TEXTS.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": name, "text": text} for name, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{query}\t{doc}\t{value}" for query, judged in QRELS.items() for doc, value in judged.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines, ""]))
    index = Index.build(tmp_path / "idx", folder, encoder="bm25")
    ours = evaluate_index(index, open_dataset(str(folder)), "nDCG@10 R@1").measures
    theirs = scores(LsrModel("bm25"))
    assert theirs["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=1e-5)
    assert theirs["recall_at_1"] == pytest.approx(ours["R@1"], abs=1e-5)
    assert 0 < ours["R@1"] < 1


def test_only_the_given_candidates_are_ranked():
    ranked = {"1": ["b", "d"], "2": ["c", "a"], "3": ["e"]}
    model = LsrModel("bm25")
    model.index([{"id": name, "text": text} for name, (_, text) in TEXTS.items()])
    found = model.search([{"id": "1", "text": QUERIES["1"]}], top_k=5, top_ranked=ranked)
    assert list(found) == ["1"]
    assert set(found["1"]) == {"b", "d"}
    assert found["1"]["b"] > found["1"]["d"]
    assert scores(model, ranked)["recall_at_1"] < 1


def test_instructions_are_added_to_queries_but_conversations_are_refused():
    model = LsrModel("bm25")
    with pytest.raises(RuntimeError, match=r"call index\(\) first"):
        model.search([], top_k=1)
    model.index([{"id": name, "text": text} for name, (_, text) in TEXTS.items()])
    found = model.search([{"id": "1", "text": "spain", "instruction": "garden"}], top_k=5)
    assert {"b", "d"} <= set(found["1"])
    with pytest.raises(DataError, match="query 1: it is list, not text"):
        model.search([{"id": "1", "text": [{"role": "user", "content": "x"}]}], top_k=1)
