"""The transformer and the indexer for PyTerrier, in its pipelines and experiments; without Java."""

from __future__ import annotations

import subprocess
import sys
import unittest

import pytest

from lsr.encode.load import load_encoder
from lsr.index.index import Index

pytest.importorskip("pyterrier", reason='heavy, so not among dev: pip install "lsr-search[pyterrier]"')

import pandas as pd
import pyterrier as pt
import pyterrier.testing

from lsr.index.integrations.pyterrier import LsrIndexer, LsrReranker, LsrRetriever

pytestmark = pytest.mark.filterwarnings("ignore:.*inplace:DeprecationWarning")  # in PyTerrier itself
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


def test_no_hits_give_an_empty_frame(folder):
    full = LsrRetriever(folder)(TOPICS)
    for topics in (TOPICS[:0], TOPICS[1:2]):
        empty = LsrRetriever(folder)(topics)
        assert len(empty) == 0
        assert dict(empty.dtypes) == dict(full.dtypes)
    assert pt.inspect.transformer_outputs(LsrRetriever(folder), ["qid", "query"]) == [
        "qid", "query", "docno", "score", "rank", "text",
    ]  # fmt: skip


def test_one_query_and_settings(folder):
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


def test_pipelines(folder):
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


def test_reranks_the_results_of_another_retriever(folder):
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
    ]  # drawing asks for PyTerrier's newest version
    assert (outcome.testsRun, len(outcome.errors), outcome.failures) == (2, len(offline), [])
    assert case.io_configs


def test_reranks_the_results_of_terrier(folder, tmp_path):
    """Terrier itself needs Java and its jars, which PyTerrier fetches: in a process of its own, as Java stays."""
    code = f"""
import pandas as pd, pyterrier as pt
try:
    pt.java.init()
except BaseException as error:
    print("SKIP", repr(error)[:200])
    raise SystemExit
from lsr import load_encoder
from lsr.index.integrations.pyterrier import LsrReranker
documents = [{{"docno": "a", "text": "flat plates"}}, {{"docno": "b", "text": "wings flutter"}}]
index = pt.IterDictIndexer({str(tmp_path / "terrier")!r}, meta={{"docno": 8, "text": 99}}).index(documents)
found = pt.terrier.Retriever(index, metadata=["docno", "text"]) >> LsrReranker(load_encoder("lsr-tiny", lexical=0))
print(found(pd.DataFrame({{"qid": ["1"], "query": ["wings"]}}))["docno"].tolist())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    if ran.stdout.startswith("SKIP"):
        pytest.skip(f"Terrier can't start here: {ran.stdout[5:].strip()}")
    assert ran.stdout.splitlines()[-1:] == ["['b']"], ran.stderr


def test_an_experiment(folder):
    qrels = pd.DataFrame({"qid": ["7", "9"], "docno": ["wing", "plate"], "label": [1, 1]})
    systems = [LsrRetriever(folder), LsrRetriever(folder) % 1]
    results = pt.Experiment(systems, TOPICS, qrels, ["recip_rank", "P_5"], names=["all", "first"])
    assert results.set_index("name").loc["all", "recip_rank"] == 0.75
    assert results.set_index("name").loc["first", "recip_rank"] == 0.5


def test_indexer(tmp_path):
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
