"""Searches and document calls give the same results over HTTP as on the index, with any options."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lsr.errors import DataError, ServerError
from lsr.index.index import Index
from lsr.index.serve.client import Client

DOCS = [
    {
        "_id": f"d{i}",
        "text": f"wing {'flutter lift ' * (i % 3)}{'drag' * (i % 4 == 0)}",
        "title": "Panel" * (i % 5 == 0),
        "meta": {"source": f"s{i % 6}"},
        "stars": i,
        "day": f"2024-03-{i + 1:02d}",
    }
    for i in range(30)
]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("options") / "idx", DOCS, encoder="bm25")


@pytest.fixture
def client(serving, one):
    return Client(serving(one).url)


def told(hits):
    return [(hit.id, hit.score, hit.title, hit.text, hit.metadata) for hit in hits], hits.facets, hits.total


RECENT = {"day": {"weight": 2, "half_life": timedelta(days=3), "origin": "2024-03-10"}}


@pytest.mark.parametrize(
    "how",
    [
        {"offset": 3},
        {"min_score": 0.2},
        {"group_by": "meta.source", "per_group": 2, "offset": 1},
        {"sort": ["-stars"], "offset": 2},
        {"boost": {"stars": 0.3}, "facets": ["meta.source", "stars"]},
        {"boost": RECENT},
        {"boost": {"title": 2}},
        {"boost": {"title": 3, "stars": 0.1}, "total": True, "offset": 1},
        {"diversity": 0.4, "depth": 20},
        {"syntax": "operators"},
    ],
    ids=str,
)
def test_searches_equal_those_of_the_index(client, one, how):
    query = '"flutter lift" wing -drag' if "syntax" in how else "wing flutter drag panel"
    found, expected = client.search(query, 4, **how), one.search(query, 4, **how)
    assert told(found) == told(expected)
    assert found[0].explain() == expected[0].explain()
    batch, others = client.search_batch([query, "lift"], 4, **how), one.search_batch([query, "lift"], 4, **how)
    assert [told(hits) for hits in batch] == [told(hits) for hits in others]


@pytest.mark.parametrize(
    "how", [{}, {"offset": 2}, {"group_by": "meta.source"}, {"boost": {"stars": 1}, "facets": "stars"}]
)
def test_a_reranker_runs_in_the_client(client, one, how):
    def longest(query, texts):
        assert query == "wing flutter"
        return [len(text) for text in texts]

    found = client.search("wing flutter", 3, rerank=longest, depth=12, **how)
    expected = one.search("wing flutter", 3, rerank=longest, depth=12, **how)
    assert told(found) == told(expected)
    assert found[0].explain().moved == expected[0].explain().moved is not None
    with pytest.raises(ValueError, match="diversity"):
        client.search("wing", rerank=longest, diversity=0.5)


def test_similar_documents_equal_those_of_the_index(client, one):
    how = {"where": {"stars": {"<": 20}}, "offset": 1}
    found = client.similar("d4", 5, **how)
    assert told(found) == told(one.similar("d4", 5, **how))
    with pytest.raises(DataError, match="can't explain"):
        found[0].explain()
    with pytest.raises(DataError, match="no document has the id 'x'"):
        client.similar("x")


def test_document_calls_equal_those_of_the_index(client, one, monkeypatch):
    monkeypatch.setattr("lsr.index.serve.client._AT_ONCE", 7)
    assert client.get("d3") == one.get("d3")
    assert client.get("never") is None
    ids = ["d9", "never", *(f"d{i}" for i in range(20))]
    assert client.get_many(ids) == one.get_many(ids)
    assert list(client) == list(one)
    assert ["d3" in client, "never" in client, None in client] == [True, False, False]
    assert client.count() == 30
    assert client.count({"stars": {">": 24}}) == 5


def test_listing_after_an_unknown_document_is_refused(client):
    with pytest.raises(ServerError, match="start again"):
        client._post("/v1/list", {"after": "never"})


def test_upsert_adds_and_replaces_documents(serving, living):
    client = Client(serving(living, writable=True).url)
    change = client.upsert([{"_id": "a", "text": "anew"}, {"_id": "new", "text": "more"}], commit=True)
    assert (change.added, change.updated) == (1, 1)
    assert client.get("a").text == "anew"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"offset": -1}, "offset"),
        ({"offset": 10**9}, "offset"),
        ({"per_group": 2}, "per_group needs group_by"),
        ({"k": 600, "group_by": "stars", "per_group": 2}, "at most 1,000 documents"),
        ({"boost": {"stars": -1}}, "weight must be a number of at least 0"),
        ({"facets": ["stas"]}, "did you mean 'stars'"),
        ({"sort": ["stars"], "diversity": 0.5}, "sort can't be combined with"),
        ({"offset": 2, "hybrid": {}}, "offset can't be combined with hybrid"),
        ({"syntax": "operators", "query": '"wing'}, "isn't closed"),
        ({"rerank": "x"}, "rerank should be a valid boolean"),
        ({"rerank": True}, "this server has no re-ranker"),
        ({"rerank_unit": "sentence"}, "rerank_unit needs rerank"),
        ({"fields": ["stas"]}, "did you mean 'stars'"),
        ({"fields": 3}, "fields"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(serving, one, given, told):
    reply = serving(one).post("/v1/search", {"query": "wing"} | given)
    assert reply.status == 422
    assert any(told in f"{one['where']} {one['message']}" for one in reply.json["errors"])


def test_ranks_start_after_the_offset(serving, one):
    hits = serving(one).post("/v1/search", {"query": "wing", "k": 2, "offset": 4}).json["hits"]
    assert [hit["rank"] for hit in hits] == [5, 6]


def test_suggestions_and_corrections_equal_those_of_the_index(client, one):
    assert client.suggest("pan") == one.suggest("pan")
    assert client.suggest("fl", 1) == one.suggest("fl", 1) != []
    assert client.corrections("wing fluter") == {"fluter": ["flutter"]}
    assert client.did_you_mean("wing fluter") == "wing flutter"
    assert client.did_you_mean("wing flutter") is None
