"""Feedback: stored document vectors, and queries expanded by the common terms of the best documents."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.index.index import Index
from lsr.index.search.feedback import expand_query
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


def test_stored_vectors_equal_the_given_ones(index, matrix):
    assert index.document_vectors(range(N)).to_dense() == pytest.approx(matrix.to_dense())
    some = index.document_vectors([399, 0, 17])
    assert some.to_dense() == pytest.approx(matrix[np.array([399, 0, 17])].to_dense())


def test_a_hand_worked_example(index, matrix):
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


def test_texts_and_filters(tmp_path):
    docs = [{"_id": str(i), "text": text, "n": i} for i, text in enumerate(["wing flutter", "wing lift", "plate heat"])]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25")
    assert {hit.id for hit in index.search("flutter")} == {"0"}
    assert [hit.id for hit in index.search(expand_query(index, "flutter"))] == ["0", "1"]
    assert {hit.id for hit in index.search(expand_query(index, "wing", documents=1, where={"n": 1}))} == {"0", "1"}


@pytest.mark.parametrize("wrong", [{"documents": 0}, {"terms": 0}, {"weight": -1}, {"weight": float("nan")}])
def test_invalid_settings_are_refused(index, matrix, wrong):
    with pytest.raises(ValueError, match="documents and terms are at least 1"):
        expand_query(index, matrix[3], **wrong)
