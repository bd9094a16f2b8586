"""Responses of the server equal results of the index, and conform to the API's schema."""

from __future__ import annotations

import json
import math
from urllib.parse import unquote

import pytest

from lsr.encode.passages import Passages
from lsr.index.hybrid.hybrid import Hybrid
from lsr.index.index import Index
from lsr.index.search.settings import SearchSettings
from lsr.index.serve import answers, schemas
from lsr.index.serve.client import Client
from lsr.index.serve.routes import ROUTES
from lsr.sparse import SparseMatrix

DOCS = [{"_id": "p", "text": "The aeroplane shook in gusts of wind."}, {"_id": "w", "text": "a wing of an aircraft"}]
VECTOR = {"flutter": 2.0, "wing": 1.0, "never": 1.0}


def test_results_equal_those_of_the_index(asking, small):
    found = asking.post("/v1/search", {"query": "wing flutter", "k": 3}).json
    answers.Found.model_validate(found)
    hits = small.search("wing flutter", 3)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [(hit.id, hit.score) for hit in hits]
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, len(hits) + 1))
    first = found["hits"][0]
    assert (first["title"], first["text"], first["metadata"]) == (hits[0].title, hits[0].text, hits[0].metadata)
    assert found["index"] == "small"
    assert found["snapshot"] == small.snapshot.id
    assert set(found["query"]["vector"]) == {"wing", "flutter"}
    assert found["query"]["unknown"] == []


def test_a_query_may_be_a_vector_and_unknown_tokens_are_reported(asking, small):
    found = asking.post("/v1/search", {"vector": VECTOR}).json
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in small.search(VECTOR)]
    weights = {"flutter": 2.0, "wing": 1.0}
    assert found["query"] == {"vector": weights, "words": weights, "unknown": ["never"]}


def test_searches_accept_filters_settings_and_fields(asking, small):
    where = {"year": {">=": 1965}}
    found = asking.post(
        "/v1/search", {"query": "wing", "where": where, "settings": {"algorithm": "exhaustive"}, "fields": False}
    ).json
    assert found["hits"] == [
        {"id": hit.id, "rank": rank, "score": hit.score}
        for rank, hit in enumerate(small.search("wing", where=where), start=1)
    ]


def test_all_search_settings_are_accepted(small):
    described = schemas.Search.model_json_schema()["$defs"]["SearchSettings"]["properties"]
    assert set(described) == set(vars(SearchSettings()))


def test_explanations_and_plans_equal_those_of_the_index(asking, small):
    found = asking.post("/v1/search", {"query": "wing flutter", "explain": True, "plan": True}).json
    answers.Found.model_validate(found)
    for hit in found["hits"]:
        assert hit["explanation"] == json.loads(json.dumps(small.explain("wing flutter", hit["id"]).to_json()))
    assert found["plan"] == small.explain_plan("wing flutter").to_json()


def test_any_document_can_be_explained(asking, small):
    found = asking.post("/v1/explain", {"query": "wing flutter", "id": "b"}).json
    answers.Explained.model_validate(found)
    why = small.explain("wing flutter", "b")
    assert (found["score"], found["content"]) == (why.score, why.content)
    unknown = asking.post("/v1/explain", {"query": "wing", "id": "zzz"})
    assert (unknown.status, unknown.json["detail"]) == (422, "small: no document has the id 'zzz'")
    assert str(small.path.parent) not in unknown.body.decode()


def test_a_batch_may_contain_texts_and_vectors(asking, small):
    found = asking.post("/v1/search/batch", {"queries": ["wing", VECTOR, ""], "k": 2}).json
    answers.FoundBatch.model_validate(found)
    assert [[hit["id"] for hit in row] for row in found["results"]] == [
        [hit.id for hit in small.search(query, 2)] for query in ("wing", VECTOR, "")
    ]


def test_encode_returns_the_vector_of_a_text(asking):
    encoded = asking.post("/v1/encode", {"text": "wing wing flutter the"}).json
    answers.Encoded.model_validate(encoded)
    assert list(encoded["vector"]) == ["wing", "flutter", "the"]
    # "wing" and "flutter" are each in two of the four documents. "the" is in one document, and the weight of a stop
    # word is multiplied by at most 0.3.
    assert encoded["vector"] == {
        "wing": pytest.approx(2 * math.log(2)),
        "flutter": pytest.approx(math.log(2)),
        "the": pytest.approx(0.3 * math.log1p(3.5 / 1.5)),
    }


def test_documents_are_found_by_id(asking):
    stored = asking.get("/v1/documents/a").json
    answers.Stored.model_validate(stored)
    assert stored["metadata"]["year"] == 1960
    for path in ("/v1/documents/c/1", "/v1/documents/c%2F1"):
        assert asking.get(path + "?index=small").json["text"] == "boundary layer transition"
    for path in ("nobody", "nobody%0A", "no%0Abody/"):
        missing = asking.get("/v1/documents/" + path)
        assert missing.status == 404
        assert f"no document {unquote(path)!r}" in missing.json["detail"]


def test_passages_have_their_own_ids(tmp_path, serving):
    text = "wing flutter at speed. " * 8
    index = Index.build(tmp_path / "p", [{"_id": "long", "text": text}], encoder="bm25", passages=Passages(8))
    asking = serving(index)
    hit = asking.post("/v1/search", {"query": "wing"}).json["hits"][0]
    assert hit["id"] == "long"
    assert hit["passage"].startswith("long#")
    assert asking.get("/v1/documents/" + hit["passage"].replace("#", "%23")).json["parent"] == "long"
    whole = asking.get("/v1/documents/long").json
    answers.Stored.model_validate(whole)
    assert hit["passage"] in whole["passages"]
    index.add([{"_id": "other", "text": text}])
    index.commit()
    index.delete(["long#1"])
    index.commit()
    (facts,) = serving(index).get("/v1/indexes").json["indexes"]
    assert (facts["documents"], facts["whole_documents"]) == (len(index), 2)


def test_example_queries_are_titles_or_beginnings_of_texts(tmp_path, serving):
    documents = [
        {"_id": "a", "title": "Flutter of swept wings.", "text": "x"},
        {"_id": "b", "text": "A wind tunnel blows air, at a model of an aeroplane. More."},
        {"_id": "c", "title": "Wing", "text": "one word is no query"},
        {"_id": "d", "title": "flutter of swept wings", "text": "told already"},
        {"_id": "e", "text": ""},
    ]
    index = Index.build(tmp_path / "e", documents, encoder="bm25")
    examples = lambda one: serving(one).get("/v1/indexes").json["indexes"][0]["examples"]  # noqa: E731
    assert examples(index) == ["Flutter of swept wings", "A wind tunnel blows air, at a model"]
    index.delete(["a", "d"])
    index.commit()
    assert examples(index) == ["A wind tunnel blows air, at a model"]
    vectors = Index.build(tmp_path / "v", SparseMatrix.from_dicts([{0: 1.0}], 1))
    assert examples(vectors) == []


def test_queries_and_explanations_are_returned_as_words(tmp_path, serving):
    index = Index.build(tmp_path / "w", [{"_id": "a", "text": "Uploading pictures"}], encoder="lsr-tiny")
    asked = {"query": "upload pictures", "explain": True, "origins": False, "total": True}
    found = serving(index).post("/v1/search", asked).json
    answers.Found.model_validate(found)
    assert found["total"] == 1
    assert sorted(found["query"]["words"]) == ["pictures", "upload"]
    assert sum(found["query"]["words"].values()) == pytest.approx(sum(found["query"]["vector"].values()))
    assert {term["word"] for term in found["hits"][0]["explanation"]["terms"]} == {"pictures", "upload"}
    assert all(term["origin"] is None for term in found["hits"][0]["explanation"]["terms"])


def test_indexes_are_listed_with_their_columns(asking, serving, small, tmp_path):
    (facts,) = asking.get("/v1/indexes").json["indexes"]
    assert facts["documents"] == 4
    assert facts["takes_text"]
    assert not facts["writable"]
    assert not facts["has_hybrid"]
    columns = facts["columns"]
    assert columns["year"] == {"kind": "number", "documents": 3, "distinct": 3, "min": 1960, "max": 1980.5}
    assert columns["lang"] == {"kind": "text", "documents": 3, "distinct": 2, "values": ["en", "de"]}
    assert columns["tags"] == {"kind": "list of text", "documents": 2, "distinct": 2, "values": ["y", "x"]}
    assert sorted(columns["draft"]["values"]) == [False, True]

    other = Index.build(tmp_path / "other", [], encoder="bm25")
    two = serving({"first": other, "second": small})
    answers.Indexes.model_validate(two.get("/v1/indexes").json)
    assert [one["name"] for one in two.get("/v1/indexes").json["indexes"]] == ["first", "second"]
    assert two.post("/v1/search", {"query": "wing"}).json["hits"] == []
    assert len(two.post("/v1/search", {"query": "wing", "index": "second"}).json["hits"]) == 2
    unknown = two.post("/v1/search", {"query": "wing", "index": "third"})
    assert unknown.status == 404
    assert "first, second" in unknown.json["detail"]


def test_columns_exclude_deleted_documents(living, serving):
    living.delete(["b"])
    living.commit()
    columns = serving(living).get("/v1/indexes").json["indexes"][0]["columns"]
    assert columns["lang"]["values"] == ["en"]
    assert columns["year"]["max"] == 1980.5


def test_a_metadata_key_of_mixed_kinds_is_not_a_column(living, serving):
    asking = serving(living, writable=True)
    for number, year in enumerate(["new", [], True]):
        documents = [{"id": f"x{number}", "text": "wing", "metadata": {"year": year, "tags": []}}]
        assert asking.post("/v1/documents", {"documents": documents}).status == 200
    for _ in ("in their segments", "merged"):
        columns = asking.get("/v1/indexes").json["indexes"][0]["columns"]
        assert columns.keys() == {"draft", "lang", "tags"}
        assert columns["tags"]["kind"] == "list of text"
        refused = asking.post("/v1/search", {"query": "wing", "where": {"year": 1960}})
        assert "year can't be filtered by: its values are of different kinds" in refused.json["detail"]
        assert asking.post("/v1/merge", {}).status == 200


def test_an_index_without_an_encoder_refuses_texts(tmp_path, serving):
    index = Index.build(tmp_path / "v", SparseMatrix.from_dicts([{0: 1.0}, {1: 2.0}], 2))
    asking = serving(index)
    assert not asking.get("/v1/indexes").json["indexes"][0]["takes_text"]
    refused = asking.post("/v1/search", {"query": "wing"})
    assert refused.status == 422
    assert "built from vectors" in refused.json["detail"]
    assert str(tmp_path) not in refused.body.decode()


def test_hybrid_searches_equal_those_of_the_index(tmp_path, serving):
    index = Index.build(tmp_path / "mini", DOCS, encoder="lsr-mini")
    asking = serving(index)
    assert asking.get("/v1/indexes").json["indexes"][0]["has_hybrid"]
    how = {"method": "interpolation", "weights": {"lexical": 0.5}, "depth": 3}
    expected = [(hit.id, hit.score) for hit in Hybrid(index, **how).search("aircraft wing", 2)]
    found = asking.post("/v1/search", {"query": "aircraft wing", "k": 2, "hybrid": how, "explain": True}).json
    answers.Found.model_validate(found)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == expected
    batch = asking.post("/v1/search/batch", {"queries": ["aircraft wing"], "k": 2, "hybrid": how}).json
    assert [(hit["id"], hit["score"]) for hit in batch["results"][0]] == expected
    assert [(hit.id, hit.score) for hit in Client(asking.url).search("aircraft wing", 2, hybrid=how)] == expected
    kinds = {term["kind"] for hit in found["hits"] for term in hit["explanation"]["terms"]}
    assert {"match", "expansion"} <= kinds
    assert any(term["origin"] for hit in found["hits"] for term in hit["explanation"]["terms"])
    vector = asking.post("/v1/encode", {"text": "aircraft wing"}).json["vector"]
    same = asking.post("/v1/search", {"vector": vector, "k": 2, "hybrid": how}).json
    assert [(hit["id"], hit["score"]) for hit in same["hits"]] == expected
    refused = asking.post("/v1/search", {"query": "wing", "hybrid": {"weights": {"dense": 1}}})
    assert "learned, lexical" in refused.json["detail"]


def test_hybrid_search_needs_a_hybrid_encoder(asking):
    refused = asking.post("/v1/search", {"query": "wing", "hybrid": {"method": "rrf"}})
    assert refused.status == 422
    assert "only one ranking" in refused.json["detail"]


def test_unusual_characters_and_huge_numbers_are_returned_unchanged(tmp_path, serving):
    docs = [{"_id": "é/ü", "text": "wing \u2028 \U0001f600", "ratio": None, "big": 10**400}]
    asking = serving(Index.build(tmp_path / "odd", docs, encoder="bm25"))
    (hit,) = asking.post("/v1/search", {"query": "wing"}).json["hits"]
    assert hit["id"] == "é/ü"
    assert hit["metadata"] == {"ratio": None, "big": 10**400}
    assert hit["text"] == docs[0]["text"]
    assert asking.get("/v1/documents/%C3%A9/%C3%BC").status == 200


def test_health_readiness_and_statistics_are_served(asking):
    assert asking.get("/health").json == {"status": "alive"}
    assert asking.get("/ready").json == {"status": "ready"}
    stats = asking.get("/v1/stats").json
    answers.Stats.model_validate(stats)
    assert stats["documents"] == 4
    asking.post("/v1/search", {"query": "wing"})
    for path in ("/v1/documents/a", "/v1/search", "/made-up"):
        asking.get(path)
    metrics = asking.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    text = metrics.body.decode()
    counted = [("/v1/search", 200), ("/v1/search", 405), ("/v1/documents/{id}", 200), ("unknown", 404)]
    for path, status in counted:
        assert f'lsr_requests_total{{path="{path}",status="{status}"}}' in text
    assert "made-up" not in text
    assert 'lsr_documents{index="small"} 4.0' in text
    assert "process_resident_memory_bytes" in text


def test_a_head_request_gets_the_response_of_get_without_its_body(asking):
    reply = asking.ask("HEAD", "/health")
    assert (reply.status, reply.body) == (200, b"")


def test_openapi_json_describes_every_path(asking):
    described = asking.get("/openapi.json").json
    assert described["openapi"].startswith("3.1")
    operations = {(path, method.upper()) for path, at in described["paths"].items() for method in at}
    operations = {one for one in operations if one[1] != "PARAMETERS"}
    assert operations == {(path, method) for path, methods in ROUTES.items() for method in methods}
    schemas = described["components"]["schemas"]

    def references(value):
        if isinstance(value, dict):
            yield from ([value["$ref"]] if "$ref" in value else [])
            yield from (one for inner in value.values() for one in references(inner))
        elif isinstance(value, list):
            yield from (one for inner in value for one in references(inner))

    used = set(references(described))
    assert used
    assert {one.removeprefix("#/components/schemas/") for one in used} <= set(schemas)
    search = described["paths"]["/v1/search"]["post"]
    assert search["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Search")
    assert schemas["ProblemDocument"]["required"] == ["type", "title", "status", "detail", "errors"]


@pytest.mark.parametrize(
    "path", ["/page/../settings.py", "/page/%2e%2e/settings.py", "/page//etc/passwd", "/page/x.py"]
)
def test_only_files_of_the_page_are_served(asking, path):
    reply = asking.get(path)
    assert reply.status == 404
    assert b"ServeSettings" not in reply.body


def test_the_page_is_served(asking):
    asking.app.serving.page["index.html"] = (b"<!doctype html>", "text/html; charset=utf-8")
    reply = asking.get("/")
    assert (reply.status, reply.body) == (200, b"<!doctype html>")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert asking.get("/page/index.html").body == reply.body
