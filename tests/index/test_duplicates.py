"""The search for near-duplicates finds the same pairs as a comparison of all pairs of documents."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.encode.corpus import Passages
from lsr.errors import DataError
from lsr.index.distributed.reshard import reshard_index
from lsr.index.index import Index
from lsr.index.search.duplicates import Duplicate
from lsr.sparse import SparseMatrix

N, TERMS = 160, 60


def brute_force(index, threshold):
    docs = list(index.documents.numbers())
    rows = index.compared_vectors(docs).to_dense().astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    products = rows @ rows.T
    ids = [index.documents.id(doc) for doc in docs]
    return {
        (ids[i], ids[j]): products[i, j]
        for i in range(len(ids))
        for j in range(i)
        if products[i, j] >= threshold - 1e-9 and products[i, j] > 0
    }


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = np.random.default_rng(3)
    dense = rng.integers(1, 200, (N, TERMS)) * (rng.random((N, TERMS)) < 0.15)
    for i in range(40):  # slightly changed copies of ten documents
        dense[N - 1 - i] = dense[i % 10]
        dense[N - 1 - i, rng.integers(0, TERMS, i % 4)] = 7
    dense[17] = 0
    matrix = SparseMatrix.from_dense(dense)
    index = Index.build(tmp_path_factory.mktemp("duplicates") / "idx", matrix[:70], order="bisection")
    index.add(matrix[70:], ids=[str(i) for i in range(70, N)])
    index.delete(["3", "155"])
    index.commit(merge=False)
    assert index.n_segments == 2
    return index


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8, 0.95, 1])
def test_pairs_equal_brute_force(index, threshold):
    found = index.duplicates(threshold)
    expected = brute_force(index, threshold)
    assert {(one.id, one.of) for one in found} == set(expected)
    assert len(found) == len(expected) > 0
    for one in found:
        assert one.similarity == pytest.approx(expected[one.id, one.of], abs=1e-6)
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


def test_shards_give_the_same_pairs_as_one_index(index, tmp_path):
    reshard_index(index.path, tmp_path / "shards", 3)
    found = Index.open(tmp_path / "shards").duplicates(0.8)
    assert [(one.id, one.of) for one in found] == [(one.id, one.of) for one in index.duplicates(0.8)]


TEXTS = [
    {"_id": "a", "text": "wing flutter at high speed", "lang": "en"},
    {"_id": "b", "text": "heat transfer in pipes", "lang": "en"},
    {"_id": "c", "text": "Wing flutter, at high speed!", "lang": "de"},
    {"_id": "d", "text": "wing flutter at high speed", "lang": "en"},
    {"_id": "e", "text": ""},
]


def test_texts_with_the_same_words_are_duplicates(tmp_path):
    index = Index.build(tmp_path / "idx", TEXTS, encoder="bm25")
    found = index.duplicates(1)
    assert [(one.id, one.of) for one in found] == [("c", "a"), ("d", "a"), ("d", "c")]
    assert {one.similarity for one in found} == {1.0}
    assert index.duplicates(0.9, where={"lang": "en"}) == [Duplicate("d", "a", 1.0)]
    with pytest.raises(DataError, match="no column"):
        index.duplicates(where={"x": 1})


def test_passages_of_one_document_are_not_duplicates(tmp_path):
    documents = [{"_id": "a", "text": "heat jet heat jet"}, {"_id": "b", "text": "heat jet"}]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25", passages=Passages(2, 0))
    assert [(one.id, one.of) for one in index.duplicates(0.99)] == [("b#0", "a#0"), ("b#0", "a#1")]


def test_an_empty_index_has_no_duplicates_and_invalid_thresholds_are_refused(tmp_path):
    index = Index.build(tmp_path / "idx", [], encoder="bm25")
    assert index.duplicates() == []
    for threshold in (0, 1.5, True, "1", float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            index.duplicates(threshold)
