"""Queries and documents may be any iterable, which is read only once. Errors about other types name the type."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.load import load_encoder
from lsr.errors import DataError
from lsr.index.hybrid.fusion import reciprocal_rank_fusion
from lsr.index.index import Index
from lsr.sparse import SparseMatrix

DOCS = [
    {"_id": "a", "title": "Cats", "text": "purr loudly"},
    {"_id": "b", "text": "dogs bark loudly"},
    {"_id": "c", "text": "text of a column"},
]


class Once:
    """An iterable that can be read only once, although it isn't an iterator."""

    def __init__(self, items):
        self._items = iter(items)

    def __iter__(self):
        return self._items


class Generated:
    """Like `Once`, but each call of iter() returns a new iterator object."""

    def __init__(self, items):
        self._items = iter(items)

    def __iter__(self):
        yield from self._items


SHAPES = [iter, Once, Generated, lambda items: (i for i in items), lambda items: map(dict, items)]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("inputs") / "idx", DOCS, encoder="bm25")


def ids(hits):
    return [hit.id for hit in hits]


@pytest.mark.parametrize("shape", SHAPES)
def test_documents_may_be_a_one_time_iterator(tmp_path, shape):
    index = Index.build(tmp_path / "idx", shape(DOCS), encoder="bm25")
    assert len(index) == 3
    index.add(shape([{"_id": "d", "text": "cats bark"}, {"_id": "e", "text": "dogs"}]))
    index.update(shape([{"_id": "a", "text": "loudly"}]))
    index.delete(name for name in "b")
    index.commit()
    assert sorted(ids(index.search("cats dogs loudly"))) == ["a", "d", "e"]


@pytest.mark.parametrize("shape", [iter, Once, Generated])
def test_vectors_may_be_a_one_time_iterator(tmp_path, shape):
    vectors = [{"_id": name, "text": "", "vector": {name: 1.0}} for name in "xyz"]
    assert len(Index.build(tmp_path / "idx", shape(vectors))) == 3
    matrix = SparseMatrix.from_rows([([0], [1.0]), ([1], [1.0])], 2)
    named = Index.build(tmp_path / "matrix", matrix, ids=shape(["one", "two"]))
    assert ids(named.search(SparseMatrix.from_rows([([1], [1.0])], 2))) == ["two"]


@pytest.mark.parametrize("shape", [iter, Once, Generated, tuple])
def test_queries_may_be_a_one_time_iterator(index, shape):
    queries = ["cats", "dogs bark"]
    assert [ids(hits) for hits in index.search_batch(shape(queries))] == [["a"], ["b"]]
    weighted = [{"cat": 1.0}, {"dog": 1.0}]
    assert [ids(hits) for hits in index.search_batch(shape(weighted))] == [["a"], ["b"]]
    assert index.recall(shape(queries)) == 1.0


def test_runs_may_be_a_one_time_iterator():
    runs = [{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 2.0, "a": 1.0}}]
    assert reciprocal_rank_fusion(iter(runs), weights=iter([1.0, 2.0])) == reciprocal_rank_fusion(
        runs, weights=[1.0, 2.0]
    )


def test_a_query_may_be_a_mapping_with_id_and_text(index):
    query = {"_id": "q", "text": "cats"}
    assert ids(index.search(query)) == ["a"]
    assert [ids(hits) for hits in index.search_batch([query, "dogs"])] == [["a"], ["b"]]
    assert index.explain(query, "a").contributions[0].token == "cat"
    assert ids(index.search({"text": 1.5})) == ["c"]  # here "text" is a token with a weight


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ({"_id": "q", "query": "cats"}, DataError, "the weight of '_id' is 'q', not a number"),
        ({"cat": None}, DataError, "the weight of 'cat' is None"),
        ({"cat": [1.0]}, DataError, "the weight of 'cat' is"),
        (pa.table({"text": ["cats"]}), TypeError, "queries are a table"),
        ({"cats", "dogs"}, TypeError, "ordered iterable of texts, not set"),
        (7, TypeError, "a query is a text, a mapping of token to weight or a matrix, got int"),
        ("caf\udce9", DataError, "isn't UTF-8, 0xe9, at character 3"),
    ],
)
def test_the_error_about_an_invalid_query_names_its_type_or_weight(index, query, error, message):
    with pytest.raises(error, match=message):
        index.search(query)
    with pytest.raises(error, match=message):
        index.search_batch([query] if isinstance(query, dict | str) else query)


def test_a_text_is_not_a_list_of_queries(tmp_path):
    index = Index.build(tmp_path / "idx", DOCS, encoder="bm25")
    for call in (index.search_batch, index.query_vectors):
        for one in ("cats", {"_id": "q", "text": "cats"}):
            with pytest.raises(TypeError, match="queries are a list or a matrix, got a single query"):
                call(one)


def test_encoders_may_be_given_as_a_folder(tmp_path):
    load_encoder("bm25").save(tmp_path / "encoder")
    index = Index.build(tmp_path / "idx", DOCS, encoder=tmp_path / "encoder")
    assert ids(Index.open(tmp_path / "idx", encoder=tmp_path / "encoder").search("cats")) == ids(index.search("cats"))
    for wrong in (5, BM25Encoder, {"a": 1}):
        with pytest.raises(TypeError, match="an encoder, or its name or folder, is needed, got"):
            Index.build(tmp_path / "other", DOCS, encoder=wrong)
