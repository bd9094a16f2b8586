"""Relevance feedback adds terms to a query: the heaviest terms in the stored vectors of the best documents."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.index.hybrid.hybrid import Hybrid, build_dense
from lsr.index.index import Index
from lsr.index.search.feedback import expand_dense, expand_query, mixed, stored_dense
from lsr.sparse import SparseMatrix

N, TERMS = 400, 60


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(1)
    return SparseMatrix.from_dense(np.where(rng.random((N, TERMS)) < 0.25, rng.integers(1, 200, (N, TERMS)), 0))


@pytest.fixture(scope="module", params=["uint8", "float32", "ordered", "many segments"])
def index(request, matrix, tmp_path_factory):
    path = tmp_path_factory.mktemp("feedback") / "idx"
    how = {"impacts": "float32"} if request.param == "float32" else {}
    if request.param != "many segments":
        return Index.build(path, matrix, order="bisection" if request.param == "ordered" else "auto", **how)
    built = Index.build(path, matrix[:150])
    built.add(matrix[150:], ids=[str(i) for i in range(150, N)])
    built.commit(merge=False)
    return built


def test_stored_vectors_equal_the_indexed_vectors(index, matrix):
    assert index.document_vectors(range(N)).to_dense() == pytest.approx(matrix.to_dense())
    some = index.document_vectors([399, 0, 17])
    assert some.to_dense() == pytest.approx(matrix[np.array([399, 0, 17])].to_dense())


def test_expansion_equals_a_hand_worked_example(index, matrix):
    query = matrix[3]
    best = [hit.doc for hit in index.search(query, 4)]
    mean = matrix[np.array(best)].to_dense().mean(axis=0)
    kept = np.zeros(TERMS)
    heaviest = np.argsort(-mean, kind="stable")[:10]
    kept[heaviest] = mean[heaviest]
    own = query.to_dense()[0]
    expected = own + 0.5 * np.linalg.norm(own) / np.linalg.norm(kept) * kept
    found = expand_query(index, query, documents=4, terms=10, weight=0.5)
    assert found.to_dense()[0][:TERMS] == pytest.approx(expected, rel=1e-5)
    assert len(index.search(found, 10)) == 10


def test_without_weight_or_documents_the_query_is_unchanged(index, matrix):
    assert expand_query(index, matrix[3], weight=0) == matrix[3]
    nothing = SparseMatrix.empty(TERMS)
    nothing = SparseMatrix.from_dicts([{}], TERMS)
    assert expand_query(index, nothing).nnz == 0


def test_expansion_accepts_texts_and_filters(tmp_path):
    docs = [{"_id": str(i), "text": text, "n": i} for i, text in enumerate(["wing flutter", "wing lift", "plate heat"])]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    assert {hit.id for hit in index.search("flutter")} == {"0"}
    assert [hit.id for hit in index.search(expand_query(index, "flutter"))] == ["0", "1"]
    assert {hit.id for hit in index.search(expand_query(index, "wing", documents=1, where={"n": 1}))} == {"0", "1"}


@pytest.mark.parametrize("wrong", [{"documents": 0}, {"terms": 0}, {"weight": -1}, {"weight": float("nan")}])
def test_invalid_settings_are_refused(index, matrix, wrong):
    with pytest.raises(ValueError, match="documents and terms must be at least 1"):
        expand_query(index, matrix[3], **wrong)


def test_feedback_documents_may_come_from_another_ranking(index, matrix):
    query, other = matrix[3], index.search(matrix[7], 5)
    found = expand_query(index, query, source=other, documents=2, terms=10, weight=0.5)
    assert found == expand_query(index, query, source=[hit.id for hit in other], documents=2, terms=10, weight=0.5)
    assert found != expand_query(index, query, documents=2, terms=10, weight=0.5)
    own = index.search(query, 5)
    assert expand_query(index, query, source=own) == expand_query(index, query)
    assert expand_query(index, query, source=["no such document"]) == query


TOPICS = {"wing": "lift drag flow", "heart": "blood cell pulse", "price": "market trade bond"}


def near_topics(texts):
    """Dense vectors of texts: each topic has a dimension, and the words add a little noise."""
    found = np.zeros((len(texts), 8), np.float32)
    for row, text in zip(found, texts, strict=True):
        for word in text.split():
            for i, (topic, words) in enumerate(TOPICS.items()):
                row[i] += word == topic or word in words.split()
            row[3 + sum(word.encode()) % 5] += 0.2
    return found


@pytest.fixture(scope="module")
def topics(tmp_path_factory):
    """An index of documents on three topics, and their dense vectors."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("topics")
    docs = []
    for i in range(60):
        topic = list(TOPICS)[i % 3]
        docs.append(
            {
                "n": i,
                "_id": f"{topic}-{i}",
                "text": " ".join([topic] * (i % 2) + [*rng.choice(TOPICS[topic].split(), 2)]),
            }
        )
    index = Index.build(path / "idx", docs, encoder="bm25")
    return index, build_dense(index, path / "dense", near_topics)


@pytest.mark.parametrize("feedback", ["after", "both", "before"])
def test_feedback_makes_a_hybrid_find_more_documents(topics, feedback):
    index, dense = topics
    plain, wider = (Hybrid(index, dense, feedback=how, depth=30) for how in ("none", feedback))
    assert {hit.id.partition("-")[0] for hit in wider.search("wing", 20)} == {"wing"}
    sparse = {how: len(Hybrid(index, dense, feedback=how, depth=30).rankings({"q": "wing"})["sparse"]["q"])
              for how in ("none", feedback)}  # fmt: skip
    assert sparse["none"] == 10 < sparse[feedback]
    assert plain.with_weights({"dense": 0.5}).weights == wider.with_weights({"dense": 0.5}).weights
    found = [hit.id for hit in wider.search("wing", 20, where={"n": {"<": 4}})]
    assert {*found[:2]} == {"wing-0", "wing-3"}
    assert {*found} <= {"wing-0", "wing-3", "heart-1", "price-2"}


def test_feedback_before_gives_the_dense_ranking_and_feedback_both_gives_the_fused_ranking(topics):
    index, dense = topics
    before, both = (Hybrid(index, dense, feedback=how) for how in ("before", "both"))
    rankings = before.rankings({"q": "wing"})
    assert rankings == both.rankings({"q": "wing"})
    assert [hit.id for hit in before.search("wing", 9)] == [*rankings["dense"]["q"]][:9]
    assert [hit.id for hit in both.search("wing", 9)] == [*both.fuse(rankings)["q"]][:9]
    with pytest.raises(ValueError, match="feedback must be one of none, before, after, both"):
        Hybrid(index, dense, feedback="around")


@pytest.mark.parametrize("feedback", ["none", "after", "both", "before"])
@pytest.mark.parametrize("how", [{}, {"method": "interpolation", "weights": {"dense": 0.4}, "normalization": "none"}])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_hybrid_explains_the_scores_of_all_its_rankings(topics, tmp_path, feedback, how, similarity):
    index, dense = topics
    if similarity == "dot":
        dense = build_dense(index, tmp_path / "dot", near_topics, similarity="dot")
    hybrid = Hybrid(index, dense, feedback=feedback, depth=12, **how)
    found, rankings = hybrid.search("wing", 12), hybrid.rankings({"q": "wing"})
    kinds = set()
    for hit in found:
        why = hit.explain()
        in_sparse, in_dense = hit.id in rankings["sparse"]["q"], hit.id in rankings["dense"]["q"]
        kinds.add((in_sparse, in_dense))
        assert why.score == pytest.approx(hit.score)
        parts = [*(part.score for part in why), why.dense.score if why.dense else 0.0]
        assert sum(parts) == pytest.approx(hit.score)
        assert all(part.score == pytest.approx(part.query_weight * part.impact) for part in why)
        assert (why.dense is not None) == in_dense
        if not in_sparse or feedback == "before":
            assert not any(part.score for part in why)
        if in_dense:
            assert (why.dense.cosine, why.dense.z) == (rankings["dense"]["q"][hit.id], None)
            assert f"{'cosine' if similarity == 'cosine' else 'dot product'} {why.dense.cosine:.3f}" in str(why)
    assert len(kinds) > 1 or feedback != "none"


def test_a_hybrid_explains_learned_terms_and_bm25(tmp_path):
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(["wing flutter", "wing lift", "plate heat"])]
    hybrid = Hybrid(Index.build(tmp_path / "idx", docs, encoder="lsr-tiny"), weights={"lexical": 3.0})
    hit = hybrid.search("flutter of wings", 1)[0]
    why = hit.explain()
    lexical = sum(part.score for part in why if part.token.startswith("bm25:"))
    assert (hit.score, lexical) == pytest.approx((4 / 61, 3 / 61))
    assert why.score == pytest.approx(hit.score)
    assert "wings" in {part.word for part in why}


def test_feedback_expands_learned_terms_and_bm25(tmp_path):
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(["wing flutter", "wing lift", "plate heat"])]
    index = Index.build(tmp_path / "idx", docs, encoder="lsr-tiny")
    found = Hybrid(index, feedback="after").rankings({"q": "flutter"})
    assert set(found) == {"learned", "lexical"}
    assert set(found["lexical"]["q"]) == {"0", "1"}


WINGS = ["wing flutter in strong wind", "lift of a wing", "heat in a plate", "wind tunnel", "heart and blood"]


@pytest.fixture(scope="module")
def with_dense(tmp_path_factory):
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(WINGS)]
    return Index.build(tmp_path_factory.mktemp("dense") / "idx", docs, encoder="lsr-mini", hybrid=True)


def test_dense_expansion_equals_a_hand_worked_example(with_dense):
    (own,) = with_dense.encoder.encode_dense(["aircraft"], queries=True)
    best = [hit.doc for hit in with_dense.search("aircraft", 2, mode="dense")]
    rows = stored_dense(with_dense, best)
    theirs = with_dense.encoder.encode_dense(WINGS)[[int(with_dense.documents.id(doc)) for doc in best]]
    assert rows == pytest.approx(theirs, abs=0.01)
    mean = rows.mean(0) / np.linalg.norm(rows.mean(0))
    expected = own + 0.7 * mean
    found = expand_dense(with_dense, "aircraft", documents=2, weight=0.7)
    assert found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert expand_dense(with_dense, own, documents=2, weight=0.7) == pytest.approx(found, abs=1e-6)
    assert expand_dense(with_dense, own, weight=0) == pytest.approx(own, abs=1e-6)
    assert expand_dense(with_dense, own, source=["no such document"]) == pytest.approx(own, abs=1e-6)
    assert len(with_dense.search("aircraft", 3, mode="hybrid", dense=found)) == 3


def test_dense_expansion_ignores_the_norm_of_the_mean_document():
    query, docs = np.array([3.0, 0], np.float32), np.array([[0, 2.0], [0, 4.0]], np.float32)
    assert mixed(query, docs, 1.0) == pytest.approx([0.5**0.5, 0.5**0.5])
    assert mixed(query, docs, 0.0) == pytest.approx([1, 0])


def test_dense_feedback_refuses_invalid_input(with_dense, index):
    with pytest.raises(DataError, match="has no dense vectors"):
        expand_dense(index, np.ones(384))
    with pytest.raises(DataError, match="a dense vector of 384 finite numbers"):
        expand_dense(with_dense, np.ones(3))
    with pytest.raises(ValueError, match="weight at least 0"):
        expand_dense(with_dense, "wing", weight=-1)
