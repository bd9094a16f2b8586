"""The transformers and the indexer for PyTerrier work in pipelines and experiments. Only Terrier itself needs Java."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unittest
from importlib.util import find_spec

import pytest

from lsr.encode.load import load_encoder
from lsr.eval.measures import parse_measures, score_run
from lsr.index.index import Index

pytest.importorskip("pyterrier", reason='pip install "lsr-search[pyterrier]"')
pytest.importorskip("ir_measures")

import pandas as pd
import pyterrier as pt
import pyterrier.testing

from lsr.index.integrations.pyterrier import LsrIndexer, LsrReranker, LsrRetriever

pytestmark = pytest.mark.filterwarnings("ignore:.*inplace:DeprecationWarning")  # a warning of PyTerrier itself
TOPICS = pd.DataFrame({"qid": ["7", "8", "9"], "query": ["flutter of wings", "unheard", "plates"], "user": [1, 2, 3]})


def test_results_equal_those_of_the_index(folder):
    index = Index.open(folder)
    expected = [
        (qid, query, user, hit.id, hit.score, rank, hit.text)
        for qid, query, user in TOPICS.itertuples(index=False)
        for rank, hit in enumerate(index.search(query, k=2))
    ]
    assert [row[3] for row in expected] == ["flutter", "wing", "plate"]
    for retriever in (LsrRetriever(index, 2), LsrRetriever(folder, 2)):
        found = retriever(TOPICS)
        assert list(found.columns) == ["qid", "query", "user", "docno", "score", "rank", "text"]
        assert list(found.itertuples(index=False, name=None)) == expected
    assert "text" not in LsrRetriever(index, text=False)(TOPICS).columns


def test_a_search_without_hits_gives_an_empty_frame(folder):
    full = LsrRetriever(folder)(TOPICS)
    for topics in (TOPICS[:0], TOPICS[1:2]):
        empty = LsrRetriever(folder)(topics)
        assert len(empty) == 0
        assert dict(empty.dtypes) == dict(full.dtypes)
    assert pt.inspect.transformer_outputs(LsrRetriever(folder), ["qid", "query"]) == [
        "qid", "query", "docno", "score", "rank", "text",
    ]  # fmt: skip


def test_search_takes_one_query_and_refuses_invalid_settings(folder):
    assert LsrRetriever(folder).search("flat plates")["docno"].tolist() == ["plate"]
    with pytest.raises(ValueError, match="alpha must be above 0"):
        LsrRetriever(folder, alpha=7).search("wing")
    with pytest.raises(pt.validate.InputValidationError):
        LsrRetriever(folder)(pd.DataFrame({"qid": ["1"]}))


def test_encoded_queries_are_searched(folder):
    index = Index.open(folder)
    topics = pd.DataFrame({"qid": ["1"], "query_toks": [{"wing": 2.0, "panel": 0.5}]})
    (expected,) = index.search_batch([{"wing": 2.0, "panel": 0.5}])
    found = LsrRetriever(index)(topics)
    assert list(zip(found["docno"], found["score"], strict=True)) == [(hit.id, hit.score) for hit in expected]


def test_retrievers_work_in_pipelines(folder):
    retriever = LsrRetriever(folder)
    shouted = pt.apply.query(lambda topic: topic["query"].upper()) >> retriever
    assert shouted(TOPICS)["docno"].tolist() == ["flutter", "wing", "plate"]
    first = retriever % 1
    assert first(TOPICS)["docno"].tolist() == ["flutter", "plate"]
    compiled = first.compile()
    assert isinstance(compiled, LsrRetriever)
    assert compiled.k == 1
    pd.testing.assert_frame_equal(compiled(TOPICS), first(TOPICS).reset_index(drop=True))
    assert (LsrRetriever(folder, 1) % 5).compile()(TOPICS)["docno"].tolist() == ["flutter", "plate"]
    reranked = retriever >> pt.apply.doc_score(lambda row: len(row["text"]))
    assert reranked(TOPICS)["score"].tolist()[:2] == [38.0, 35.0]


def test_a_reranker_reorders_the_results_of_another_retriever(folder):
    index = Index.open(folder)
    found = LsrRetriever(folder)(TOPICS)
    again = (pt.apply.doc_score(lambda row: -row["score"]) >> LsrReranker(index))(found)
    encoder = index.encoder
    pairs = zip(again["query"], again["text"], again["score"], strict=True)
    for query, text, score in pairs:
        assert score == pytest.approx(
            encoder.encode_document([text]).dot(encoder.encode_query([query])).item(), rel=1e-6
        )
    assert again["rank"].tolist() == found["rank"].tolist()
    assert set(again["docno"]) == set(found["docno"])
    assert len(LsrReranker(index)(found[:0])) == 0
    with pytest.raises(pt.validate.InputValidationError):
        LsrReranker(index)(TOPICS)
    tiny = LsrReranker(load_encoder("lsr-tiny", lexical=0))
    both = pd.DataFrame({"qid": ["1", "1"], "query": ["cat"] * 2, "docno": ["d", "c"], "text": ["a dog", "my cat"]})
    assert tiny(both)["docno"].tolist() == ["c", "d"]


@pytest.mark.parametrize("kind", [LsrRetriever, lambda folder: LsrReranker(Index.open(folder))])
def test_frames_follow_pyterriers_conventions(folder, kind, monkeypatch):
    monkeypatch.setenv("PT_TEST_TRANSFORMER_REPORTS", "0")
    case = pt.testing.transformer_test_class(lambda: kind(folder))
    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(outcome)
    offline = [
        trace for _, trace in outcome.errors if "URLError" in trace
    ]  # before PyTerrier draws a pipeline, it looks up its newest version on the internet
    assert (outcome.testsRun, len(outcome.errors), outcome.failures) == (2, len(offline), [])
    assert case.io_configs


# An experiment on Cranfield, as users of PyTerrier write it: the retriever `first`, alone and followed by a re-ranker.
CRANFIELD = """
import json, re, warnings
from importlib.resources import files
import pandas as pd, pyterrier as pt
from lsr import Index, load_encoder
from lsr.eval.datasets import open_dataset
from lsr.index.integrations.pyterrier import LsrReranker, LsrRetriever
from lsr.io.corpus import open_corpus

warnings.simplefilter("ignore")
place = str(files("lsr.data") / "cranfield")
documents = [{"docno": d.id, "text": d.content} for d in open_corpus(place)]
topics = pd.DataFrame(  # without characters that Terrier's query language would interpret
    [{"qid": q.id, "query": re.sub(r"\\W+", " ", q.text)} for q in open_corpus(place, queries=True)][:40]
)
judged = open_dataset(place).qrels
qrels = pd.DataFrame(
    [{"qid": q, "docno": d, "label": g} for q in topics["qid"] for d, g in judged.get(q, {}).items()]
)

def experiment(first):
    systems = [first, first >> LsrReranker(load_encoder("lsr-tiny", lexical=0))]
    return pt.Experiment(systems, topics, qrels, ["ndcg_cut_10"], names=["first", "re-ranked"])

def values(first):
    return experiment(first).set_index("name")["ndcg_cut_10"].to_dict()
"""


def test_a_pipeline_of_two_stages_works_on_cranfield(tmp_path):
    names = {}
    exec(CRANFIELD, names)
    place, topics, qrels = names["place"], names["topics"], names["qrels"]
    index = Index.build(tmp_path / "idx", place, encoder="bm25")
    found = names["values"](LsrRetriever(index, 10))
    run = {q: dict(zip(hits.ids, hits.scores, strict=True)) for q, hits in zip(
        topics["qid"], index.search_batch(topics["query"].tolist(), 10), strict=True
    )}  # fmt: skip
    judged = {q: dict(zip(rows["docno"], rows["label"], strict=True)) for q, rows in qrels.groupby("qid")}
    means, _ = score_run(judged, run, parse_measures("nDCG@10"))
    assert found["first"] == pytest.approx(means["nDCG@10"], abs=1e-9)
    assert found["re-ranked"] > 0.3
    assert found["re-ranked"] != found["first"]


def test_a_reranker_reorders_the_results_of_terrier(tmp_path):
    """Terrier needs Java and downloaded jars. Terrier runs in its own process, because Java can't be unloaded."""
    if find_spec("jnius") is None or not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip('Terrier needs Java and pip install "pyterrier[java]"')
    code = f"""
import pyterrier as pt
try:
    pt.java.init()
except BaseException as error:
    print("SKIP", repr(error)[:200])
    raise SystemExit
{CRANFIELD}
index = pt.IterDictIndexer({str(tmp_path / "terrier")!r}, meta={{"docno": 8, "text": 4096}}).index(iter(documents))
first = pt.terrier.Retriever(index, wmodel="BM25", metadata=["docno", "text"], num_results=10)
print(json.dumps(values(first)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    if ran.stdout.startswith("SKIP"):
        pytest.skip(f"Terrier can't start here: {ran.stdout[5:].strip()}")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["first"] > 0.3
    assert found["re-ranked"] > 0.3


def test_an_experiment_compares_retrievers(folder):
    qrels = pd.DataFrame({"qid": ["7", "9"], "docno": ["wing", "plate"], "label": [1, 1]})
    systems = [LsrRetriever(folder), LsrRetriever(folder) % 1]
    results = pt.Experiment(systems, TOPICS, qrels, ["recip_rank", "P_5"], names=["all", "first"])
    assert results.set_index("name").loc["all", "recip_rank"] == 0.75
    assert results.set_index("name").loc["first", "recip_rank"] == 0.5


def test_an_indexer_builds_and_overwrites_an_index(tmp_path):
    corpus = [
        {"docno": "a", "title": "Cats", "text": "They sleep.", "year": 2001},
        {"docno": "b", "text": "Dogs bark."},
    ]
    index = LsrIndexer(tmp_path / "idx", encoder="bm25").index(iter(corpus))
    assert LsrRetriever(index).search("cats")["docno"].tolist() == ["a"]
    assert index.search("cats")[0].metadata == {"year": 2001}
    again = LsrIndexer(tmp_path / "idx", encoder="bm25").index(corpus[1:], overwrite=True)
    assert len(again) == 1
    lower = pt.apply.text(lambda document: "birds") >> LsrIndexer(tmp_path / "birds", encoder="bm25")
    lower.index(corpus)
    assert LsrRetriever(tmp_path / "birds").search("birds")["docno"].tolist() == ["b", "a"]


def test_java_is_not_needed():
    assert "jnius" not in sys.modules
