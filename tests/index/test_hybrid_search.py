"""Hybrid search: halves of a hybrid encoder's vectors and dense vectors, fused; filters, passages, tuning."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lsr.encode.hub import load_encoder
from lsr.encode.stream import Passages
from lsr.errors import DataError
from lsr.index.fusion import reciprocal_rank_fusion
from lsr.index.hybrid import Hybrid, dense_of
from lsr.index.index import Index

DOCS = [
    {"_id": "plane", "text": "The aeroplane shook in strong gusts of wind.", "lang": "en"},
    {"_id": "mill", "text": "A mill grinds grain with the power of wind.", "lang": "en"},
    {"_id": "ship", "text": "Ships cross the ocean with cargo.", "lang": "de"},
    {"_id": "bread", "text": "Bread is baked from flour, which is ground grain.", "lang": "de"},
]


def embed(texts):
    """A dense model of sorts: letters."""
    return np.array([[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("hybrid") / "idx"
    Index.build(path, DOCS, encoder="lsr-mini")
    return path


@pytest.fixture
def index(path):
    return Index.open(path)


@pytest.fixture
def plain(tmp_path):
    return Index.build(tmp_path / "plain", DOCS, encoder="bm25")


def test_the_halves_add_up_to_the_whole(index):
    hybrid = Hybrid(index)
    assert hybrid.parts == ("learned", "lexical")
    query = "aircraft in the wind"
    runs = hybrid.rankings({"q": query})
    whole = {hit.id: hit.score for hit in index.search(query)}
    halves = {doc: sum(runs[part]["q"].get(doc, 0.0) for part in hybrid.parts) for doc in whole}
    assert halves == pytest.approx(whole, rel=1e-6)
    words = load_encoder("bm25")
    words.fit(doc["text"] for doc in DOCS)
    assert set(runs["lexical"]["q"]) == {"plane", "mill"}


def test_hits_are_those_of_the_fused_run(index):
    hybrid = Hybrid(index)
    hits = hybrid.search("aircraft in the wind", k=3)
    fused = reciprocal_rank_fusion(list(hybrid.rankings({"q": "aircraft in the wind"}).values()))
    assert [(hit.id, hit.score) for hit in hits] == list(fused["q"].items())[:3]
    assert hits[0].text == DOCS[0]["text"]
    assert hits[0].explain().contributions


def test_dense_vectors_beside(plain, tmp_path):
    dense = dense_of(plain, tmp_path / "dense", embed)
    hybrid = Hybrid(plain, dense)
    assert hybrid.parts == ("sparse", "dense")
    hits = hybrid.search("wind", k=4)
    assert {hit.id for hit in hits} == {doc["_id"] for doc in DOCS}  # dense search ranks all of them
    only = hybrid.with_weights({"sparse": 0}).search("ocean cargo", k=4)
    assert [hit.id for hit in only] == [hit.id for hit in dense.search("ocean cargo", 4)]


def test_interpolation_weighs_scores(plain, tmp_path):
    dense = dense_of(plain, tmp_path / "dense", embed)
    hybrid = Hybrid(plain, dense, method="interpolation", weights={"sparse": 0.25, "dense": 0.75})
    expected = dict.fromkeys((doc["_id"] for doc in DOCS), 0.0)
    for part, run in hybrid.rankings({"q": "gusts of wind"}).items():
        low, high = min(run["q"].values()), max(run["q"].values())
        for doc, score in run["q"].items():
            expected[doc] += hybrid.weights[part] * (score - low) / (high - low)
    assert {hit.id: hit.score for hit in hybrid.search("gusts of wind")} == pytest.approx(expected)


def test_filters_hold_for_every_part(plain, tmp_path):
    hybrid = Hybrid(plain, dense_of(plain, tmp_path / "dense", embed))
    assert {hit.id for hit in hybrid.search("wind and cargo", where={"lang": "de"})} == {"ship", "bread"}
    with pytest.raises(DataError, match="no column 'x'"):
        hybrid.search("wind", where={"x": 1})


def test_documents_that_are_gone_are_not_found(plain, tmp_path):
    dense = dense_of(plain, tmp_path / "dense", embed)
    plain.delete("mill")
    plain.commit()
    assert "mill" not in {hit.id for hit in Hybrid(plain, dense).search("mill wind")}
    again = dense_of(plain, tmp_path / "dense", embed)
    assert len(again) == 3


def test_passages_are_rolled_up(tmp_path):
    long = {"_id": "long", "text": "Grain and flour. " * 5 + "Wind and gusts. " * 5}
    index = Index.build(tmp_path / "idx", [long, *DOCS], encoder="bm25", passages=Passages(6))
    dense = dense_of(index, tmp_path / "dense", embed)
    assert len(dense) == len(list(index.contents())) > len(DOCS) + 1
    hits = Hybrid(index, dense).search("gusts of wind", k=5)
    assert len({hit.id for hit in hits}) == len(hits) == 5
    assert next(hit for hit in hits if hit.id == "long").text.startswith("Wind")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"dense": 1}}, "weights are numbers of at least 0 for learned, lexical"),
        ({"weights": {"learned": -1}}, "weights are numbers"),
        ({"method": "vote"}, "method must be one of rrf, interpolation"),
    ],
)
def test_settings_that_make_no_sense(index, settings, message):
    with pytest.raises(ValueError, match=message):
        Hybrid(index, **settings)


def test_one_ranking_is_no_hybrid(plain):
    with pytest.raises(ValueError, match="only one ranking"):
        Hybrid(plain)


def test_weights_are_tuned_on_judged_queries(plain, tmp_path):
    pytest.importorskip("ir_measures")
    from lsr.eval.datasets import open_dataset
    from lsr.eval.tuning import tune

    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "wind"}\n{"_id": "other", "text": "x"}\n')
    (folder / "qrels" / "test.tsv").write_text("q\tmill\t1\n")
    hybrid = Hybrid(plain, dense_of(plain, tmp_path / "dense", embed), method="interpolation")
    found = tune(hybrid, open_dataset(str(folder)), "RR@10")
    assert len(found.tried) == 21
    assert found.value == max(value for _, value in found.tried)
    assert found.hybrid.weights in [weights for weights, value in found.tried if value == found.value]
    (folder / "qrels" / "test.tsv").write_text("nobody\tmill\t1\n")
    with pytest.raises(DataError, match="none of the queries is judged"):
        tune(hybrid, open_dataset(str(folder)))
