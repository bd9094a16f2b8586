"""Documents are found, iterated and counted in one index, in shards that open as one index, and in a ShardedIndex."""

from __future__ import annotations

import asyncio

import pytest

from lsr.encode.corpus import Passages
from lsr.errors import DataError
from lsr.index.async_index import AsyncIndex
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.index import Index
from lsr.io.document import Document

DOCS = [{"_id": f"d{i}", "title": "t" * (i % 2), "text": f"wing number{i}", "n": i} for i in range(12)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lookup")
    one = Index.build(folder / "one", DOCS[:7], encoder="bm25")
    one.add([*DOCS[7:], {"_id": "gone", "text": "wing", "n": 99}])
    one.commit(merge=False)
    one.delete("gone")
    one.commit(merge=False)
    reshard_index(one.path, folder / "shards", 3)
    with ShardedIndex.open(folder / "shards") as sharded:
        yield {"one": one, "joined": Index.open(folder / "shards"), "sharded": sharded}


@pytest.fixture(params=["one", "joined", "sharded"])
def index(request, built):
    return built[request.param]


def stored(i):
    return Document(f"d{i}", DOCS[i]["text"], DOCS[i]["title"], {"n": i})


def test_the_call_get_returns_stored_documents_by_id(index):
    assert index.get("d3") == stored(3)
    assert index.get("gone") is None
    assert index.get("never") is None
    assert index.get_many(["d11", "never", "d0", "d11"]) == [stored(11), None, stored(0), stored(11)]
    assert index.get_many([]) == []


def test_invalid_ids_are_refused(index):
    with pytest.raises(TypeError, match="get takes one"):
        index.get_many("d1")
    with pytest.raises(DataError, match="an id is a text or a whole number"):
        index.get(2.5)


def test_the_in_operator_finds_ids(index):
    assert [one in index for one in ("d0", "d11", "gone", "never", 5, None, True, ["d0"])] == [True, True] + [False] * 6


def test_iteration_yields_all_documents(index):
    assert [document.id for document in index] == [f"d{i}" for i in range(12)]
    assert list(index) == [stored(i) for i in range(12)]


def test_iteration_reads_shards_in_batches(built, monkeypatch):
    monkeypatch.setattr("lsr.index.distributed.sharded_index._STORED", 2)
    assert list(built["sharded"]) == [stored(i) for i in range(12)]


def test_the_call_count_accepts_a_filter(index):
    assert index.count() == len(index) == 12
    assert index.count({"n": {">=": 4}}) == 8
    assert index.count({"n": 99}) == 0
    with pytest.raises(DataError, match="no column"):
        index.count({"x": 1})


def test_integers_are_accepted_as_ids(tmp_path):
    index = Index.build(tmp_path / "idx", [{"_id": 7, "text": "wing"}], encoder="bm25")
    assert 7 in index
    assert index.get(7).id == "7"


def test_an_index_can_be_built_from_an_index(index, tmp_path):
    again = Index.build(tmp_path / "again", index, encoder="bm25")
    assert list(again) == list(index)


def test_documents_are_found_by_their_id_and_by_passage_ids(tmp_path):
    text = "wing one. wing two. wing three."
    index = Index.build(
        tmp_path / "idx",
        [{"_id": "a", "text": text, "title": "T", "n": 1}, {"_id": "b", "text": "x"}],
        encoder="bm25",
        passages=Passages(2, 0),
    )
    assert index.get("a#1") == Document("a#1", "wing two.", "T", {"n": 1}, "a")
    assert index.get("a") == Document("a", "wing one.\n\nwing two.\n\nwing three.", "T", {"n": 1})
    assert "a" in index
    assert "a#2" in index
    assert "a#3" not in index
    assert [document.id for document in index] == ["a#0", "a#1", "a#2", "b#0"]
    assert index.count({"n": 1}) == 3


def test_upsert_returns_what_changed(tmp_path):
    index = Index.build(tmp_path / "idx", DOCS[:2], encoder="bm25")
    change = index.upsert([{"_id": "d1", "text": "new"}, {"_id": "d2", "text": "more"}])
    assert (change.added, change.updated, change.refused) == (1, 1, 0)
    change = index.add([{"_id": "d1", "text": "again"}, {"_id": "d3", "text": "more"}], skip_bad=True)
    assert (change.added, change.updated, change.refused) == (1, 0, 1)
    index.commit()
    assert index.get("d1").text == "new"
    assert index.update([{"_id": "d1", "text": "old name"}]).updated == 1
    index.rollback()


def test_async_calls_give_the_same_results(built):
    async def ask():
        index = AsyncIndex(built["one"])
        return (
            await index.get("d1"), await index.get_many(["d1", "x"]), await index.count({"n": 1}),
            await index.similar("d1", 2),
        )  # fmt: skip

    one, many, count, like = asyncio.run(ask())
    assert (one, many, count) == (stored(1), [stored(1), None], 1)
    assert [hit.id for hit in like] == [hit.id for hit in built["one"].similar("d1", 2)]


# --- similar documents ------------------------------------------------------------------------------------------------


def test_the_call_similar_is_a_search_that_leaves_out_the_document(index, built):
    one = built["one"]
    doc = one.documents.find("d3")
    whole = one.search(one.as_query(one.document_vectors([doc])), 12)
    assert whole[0].id == "d3"
    expected = [(hit.id, hit.score) for hit in whole if hit.id != "d3"]
    assert [(hit.id, hit.score) for hit in index.similar("d3", 5)] == expected[:5]
    assert [(hit.id, hit.score) for hit in index.similar("d3", 5, offset=2)] == expected[2:7]
    few = index.similar("d3", where={"n": {"<": 6}})
    assert {hit.id for hit in few} == {"d0", "d1", "d2", "d4", "d5"}
    with pytest.raises(DataError, match="no document has the id 'gone'"):
        index.similar("gone")


def test_the_call_similar_accepts_ids_of_documents_and_of_passages(tmp_path):
    texts = {"a": "wing lift drag flow heat", "b": "heat jet shock", "c": "panel", "d": "lift drag"}
    documents = [{"_id": doc_id, "text": text} for doc_id, text in texts.items()]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25", passages=Passages(2, 0))
    assert {hit.id for hit in index.similar("a")} == {"b", "d"}
    assert {hit.id for hit in index.similar("a#0")} == {"d"}
