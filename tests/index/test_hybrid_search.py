"""Hybrid search: halves of a hybrid encoder's vectors and dense vectors, fused; filters, passages, tuning."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from lsr.encode.corpus import Passages
from lsr.encode.load import load_encoder
from lsr.errors import DataError, OutputError
from lsr.index.hybrid.dense import DenseVectors
from lsr.index.hybrid.fusion import reciprocal_rank_fusion
from lsr.index.hybrid.hybrid import Hybrid, dense_of
from lsr.index.index import Index
from lsr.index.segment.filters import as_filter
from lsr.sparse import SparseMatrix

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
    query = "aircraft wind"
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


def scored(hits):
    return [(hit.id, hit.score) for hit in hits]


def test_queries_that_are_encoded_already(index, plain, tmp_path):
    halves, texts = Hybrid(index), ["aircraft in the wind", "grain"]
    expected = [scored(hits) for hits in halves.search_batch(texts)]
    vectors = index.query_vectors(texts)
    assert [scored(hits) for hits in halves.search_batch(vectors)] == expected
    terms, weights = vectors.row(0)
    tokens = {index.vocabulary[term]: weight for term, weight in zip(terms, weights, strict=True)}
    assert scored(halves.search(tokens)) == expected[0]
    with pytest.raises(ValueError, match="no dense vectors"):
        halves.search("wind", dense=[1.0])

    beside = Hybrid(plain, dense_of(plain, tmp_path / "dense", embed))
    near, expected = embed(["wind"])[0], scored(beside.search("wind"))
    for query in ("wind", {"wind": 1.0}, plain.query_vectors(["wind"])):
        assert scored(beside.search(query, dense=near)) == expected
    with pytest.raises(ValueError, match="1 dense vectors for 2 queries"):
        beside.search_batch(texts, dense=[near])


def test_an_index_of_vectors_that_has_no_encoder(tmp_path):
    matrix = SparseMatrix.from_dense([[3, 0, 1], [0, 2, 0], [1, 1, 0]])
    index = Index.build(tmp_path / "idx", matrix, ids=["a", "b", "c"])
    near = {"a": [1, 0], "b": [0, 1], "c": [1, 1]}
    dense = DenseVectors.build(tmp_path / "dense", ((doc, "") for doc in near), lambda texts: list(near.values()))
    hits = Hybrid(index, dense).search(SparseMatrix.from_dense([[1, 0, 0]]), dense=[0, 1])
    assert [hit.id for hit in hits] == ["a", "c", "b"]  # 1st and 3rd; 2nd and 2nd; not found and 1st


# --- dense vectors beside, as brute force would find them -------------------------------------------------------------


def letters(rng, n=6):
    return "".join(rng.choice(list("abcdefgh"), n))


def near(index, embedded, query, depth, where):
    """What the dense part is to find, of all documents one by one: {id: dot product}, best first.

    Args:
        index: What is searched.
        embedded: {id: text} as they were embedded, in that order.
        query: A text.
        depth: So many vectors.
        where: A filter, or None.
    """
    documents, places = index.documents, {doc_id: i for i, doc_id in enumerate(embedded)}
    allowed = None if where is None else documents.allowed(as_filter(where))
    found = []
    for doc in documents.numbers():
        doc_id = documents.id(doc)
        if embedded.get(doc_id) == documents.content(doc) and (allowed is None or allowed[doc]):
            score = float(embed([query])[0] @ embed([embedded[doc_id]])[0])
            found.append((-score, places[doc_id], documents.parent(doc) or doc_id))
    best = {}
    for score, _, doc_id in sorted(found)[:depth]:
        best.setdefault(doc_id, -score)
    return best


def require_near(index, dense, embedded):
    hybrid = Hybrid(index, dense)
    for query in ("abcabc", "hhh", "d"):
        for depth in (1, 3, 10, 1000):
            for where in (None, {"n": {"<": 15}}, {"n": {">=": 1}}, {"n": -1}):
                settings = {} if where is None else {"where": where}
                found = hybrid.rankings({"q": query}, depth, **settings)["dense"]["q"]
                assert list(found.items()) == list(near(index, embedded, query, depth, where).items())


@pytest.mark.parametrize("passages", [None, Passages(4)])
def test_dense_search_is_brute_force_through_a_history(tmp_path, passages):
    rng = np.random.default_rng(0)

    def document(i):
        return {"_id": f"d{i}", "text": " ".join(letters(rng) for _ in range(6)), "n": i}

    index = Index.build(tmp_path / "idx", [document(i) for i in range(20)], encoder="bm25", passages=passages)
    index.add([document(i) for i in range(20, 30)])
    index.commit(merge=False)
    dense = dense_of(index, tmp_path / "dense", embed, similarity="dot")
    embedded = dict(index.contents())
    require_near(index, dense, embedded)
    index.delete(["d3", "d17", "d25"])
    index.update([document(4), {"_id": "d5", "text": "abc def", "n": 5}])
    index.add([document(i) for i in range(30, 33)])
    index.commit(merge=False)
    require_near(index, dense, embedded)
    same = {doc: index.documents.fields(doc) for doc in index.documents.numbers()}
    doc = next(doc for doc in same if index.documents.id(doc) in ("d8", "d8#0"))
    if passages is None:  # put again as it was: its vector is of this text still
        index.update([{"_id": "d8", "text": same[doc][1], "n": 8}])
        index.commit(merge=False)
        assert "d8" in Hybrid(index, dense).rankings({"q": "a"}, 1000)["dense"]["q"]
        require_near(index, dense, embedded)
    index.merge()
    require_near(index, dense, embedded)
    again = dense_of(index, tmp_path / "dense", embed, similarity="dot")
    require_near(index, again, dict(index.contents()))
    require_near(index, DenseVectors(tmp_path / "dense", embed), dict(index.contents()))


def test_most_documents_are_gone(tmp_path):
    """The nearest vectors are all of documents that were deleted: those behind them have to be found."""
    rng = np.random.default_rng(0)
    docs = [{"_id": f"d{i}", "text": "a" * (300 - i) + letters(rng), "n": i} for i in range(300)]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    dense = dense_of(index, tmp_path / "dense", embed, similarity="dot")
    embedded = dict(index.contents())
    index.delete([f"d{i}" for i in range(280)])
    index.commit(merge=False)
    require_near(index, dense, embedded)
    hits = Hybrid(index, dense, depth=5).search("aaa", k=3)
    assert [hit.id for hit in hits] == list(near(index, embedded, "aaa", 3, None))


def test_a_graph_leaves_out_what_is_gone(tmp_path):
    pytest.importorskip("usearch")
    rng = np.random.default_rng(0)
    docs = [{"_id": f"d{i}", "text": letters(rng, 12), "n": i} for i in range(60)]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    dense = dense_of(index, tmp_path / "dense", embed, graph=True)
    index.delete([f"d{i}" for i in range(0, 60, 2)])
    index.commit(merge=False)
    found = Hybrid(index, dense).rankings({"q": "abcd"}, 10)["dense"]["q"]
    exact = [hit.id for hit in dense.search("abcd", 60, exact=True) if int(hit.id[1:]) % 2]
    assert len(set(found) & set(exact[:10])) >= 9
    assert all(int(doc_id[1:]) % 2 for doc_id in found)


def test_ids_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    def few(strings):
        return np.array([len(text.as_py()) for text in strings], np.uint64)

    monkeypatch.setattr("lsr.index.segment.doc_store.hashes_of", few)
    monkeypatch.setattr("lsr.index.hybrid.dense.hashes_of", few)
    rng = np.random.default_rng(0)
    docs = [{"_id": f"d{i}", "text": letters(rng), "n": i} for i in range(30)]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    dense = dense_of(index, tmp_path / "dense", embed, similarity="dot")
    embedded = dict(index.contents())
    index.add([{"_id": "other", "text": "abc", "n": 7}, {"_id": "d99", "text": "abc", "n": 8}])
    index.delete("d12")
    index.commit(merge=False)
    require_near(index, dense, embedded)


def test_only_hits_are_looked_at_without_a_filter(plain, tmp_path, monkeypatch):
    dense = dense_of(plain, tmp_path / "dense", embed)
    monkeypatch.setattr(type(plain.documents), "numbers", lambda self: pytest.fail("all documents were listed"))
    monkeypatch.setattr(type(plain.documents), "all_ids", lambda self, **_: pytest.fail("all ids were listed"))
    monkeypatch.setattr(DenseVectors, "rows_of", lambda *_: pytest.fail("all ids were looked for"))
    looked_at = []
    ids = DenseVectors.ids
    monkeypatch.setattr(DenseVectors, "ids", lambda self, rows: looked_at.extend(rows.tolist()) or ids(self, rows))
    Hybrid(plain, dense, depth=2).search("wind", k=2)
    assert len(looked_at) == 2


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


@pytest.mark.parametrize(
    ("query", "settings", "error", "message"),
    [
        ("wind", {"k": 0}, ValueError, "k must be a whole number of at least 1, got 0"),
        ("wind", {"where": {"long": 1}}, DataError, "there is no column 'long'; there are lang"),
        ("wind", {"where": {"lang": 1}}, DataError, "lang is a text, it can't be compared with 1"),
        ("wind", {"where": "lang=en"}, DataError, "a filter is a mapping"),
        ("wind", {"speed": 1}, TypeError, "settings of a search are"),
        ({"wind": 1.0}, {}, TypeError, "a query that is no text needs its dense vector, too"),
        ({"wind": 1.0}, {"dense": [1.0]}, DataError, "a query of 1 numbers, documents have 26"),
        (SparseMatrix.empty(5), {}, ValueError, "search takes one query, got 0"),
        (None, {}, TypeError, "a query is a text, a mapping of token to weight or a matrix, got NoneType"),
    ],
)
def test_bad_searches_are_refused(plain, tmp_path, query, settings, error, message):
    hybrid = Hybrid(plain, dense_of(plain, tmp_path / "dense", embed))
    with pytest.raises(error, match=message):
        hybrid.search(query, **settings)


def test_vectors_of_another_model_are_refused(plain, tmp_path):
    dense = dense_of(plain, tmp_path / "dense", embed)
    other = DenseVectors(dense.path, lambda texts: np.ones((len(texts), 3)))
    with pytest.raises(DataError, match="a query of 3 numbers, documents have 26"):
        Hybrid(plain, other).search("wind")
    broken = DenseVectors(dense.path, lambda texts: np.full((len(texts), 26), np.nan))
    with pytest.raises(DataError, match="not finite"):
        Hybrid(plain, broken).search("wind")
    with pytest.raises(DataError, match="not finite"):
        dense.search(np.full(26, np.inf))
    with pytest.raises(DataError, match="a query of 2x26 numbers"):
        dense.search(np.ones((2, 26)))


def test_vectors_that_cannot_be_written_leave_those_that_are_there(plain, tmp_path, monkeypatch):
    dense_of(plain, tmp_path / "dense", embed)
    plain.update([{"_id": "ship", "text": "Boats cross the sea.", "lang": "de"}])
    plain.commit()
    before = sorted(path.name for path in (tmp_path / "dense").iterdir())

    def refuse(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OutputError, match=f"^{tmp_path / 'dense'}: can't be written: No space left"):
            dense_of(plain, tmp_path / "dense", embed)
    assert sorted(path.name for path in (tmp_path / "dense").iterdir()) == before
    assert DenseVectors(tmp_path / "dense", embed).verify() == []
    assert "ship" not in Hybrid(plain, DenseVectors(tmp_path / "dense", embed)).rankings({"q": "sea"})["dense"]["q"]
    assert "ship" in Hybrid(plain, dense_of(plain, tmp_path / "dense", embed)).rankings({"q": "sea"})["dense"]["q"]


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
