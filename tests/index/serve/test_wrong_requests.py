"""Every wrong request gets a problem document that says what is wrong and where."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsr.errors import OutputError
from lsr.index.index import Index
from lsr.index.serve import answers, problems


def problem(reply, status):
    """Check that a reply has this status and a valid problem document; return the document."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/problem+json"
    answers.ProblemDocument.model_validate(reply.json)
    return reply.json


@pytest.mark.parametrize(
    ("asked", "where", "message"),
    [
        ({"query": "wing", "k": 10**9}, "k", "at most 1,000"),
        ({"query": "wing", "k": 10**30}, "k", "at most 1,000"),
        ({"query": "wing", "k": 0}, "k", "greater than or equal to 1"),
        ({"query": "wing", "k": "ten"}, "k", "got 'ten'"),
        ({"query": "wing", "k": True}, "k", "integer"),
        ({"query": "wing", "K": 3}, "K", "did you mean k?"),
        ({"qurey": "wing"}, "qurey", "did you mean query?"),
        ({"query": "wing", "zzz": 1}, "zzz", "known are"),
        ({"query": "wing", "settings": {"alhpa": 0.5}}, "settings.alhpa", "did you mean alpha?"),
        ({"query": "wing", "settings": {"alpha": 2}}, "settings", "alpha must be above 0 and at most 1"),
        ({"query": "wing", "settings": {"algorithm": "magic"}}, "settings.algorithm", "'blocks'"),
        ({"query": "wing", "hybrid": {"depht": 5}}, "hybrid.depht", "did you mean depth?"),
        ({"query": "wing", "hybrid": {"depth": 10**6}}, "hybrid.depth", "at most 1,000"),
        ({}, "query", "either a query or a vector"),
        ({"query": "wing", "vector": {"wing": 1}}, "query", "either a query or a vector"),
        ({"query": "x" * 10_001}, "query", "10,001 characters"),
        ({"query": 7}, "query", "string"),
        ({"vector": {"wing": -1.0}}, "vector.wing", "got -1.0"),
        ({"vector": {"wing": "heavy"}}, "vector.wing", "got 'heavy'"),
        ({"vector": {str(i): 1.0 for i in range(10_001)}}, "vector", "10,001 terms"),
        ({"query": "wing", "where": {"yaer": 1960}}, "where", "there are draft, lang, tags, year"),
        ({"query": "wing", "where": {"year": "old"}}, "where", "can't be compared with 'old'"),
        ({"query": "wing", "where": {"year": {"~": 3}}}, "where", "unknown operator '~'"),
        ({"query": "wing", "where": {"year": list(range(1001))}}, "where", "has 1,001 values"),
        ({"query": "wing", "where": {"or": [{"year": 1}] * 1001}}, "where", "has 1,001 values"),
        ({"query": "wing", "where": [1]}, "where", "should be an object, got [1]"),
        ({"query": "wing", "explain": True, "k": 101}, "explain", "at most 100 documents are explained"),
        ({"query": "wing", "settings": {"algorithm": "clusters"}}, "", "clusters"),
    ],
)
def test_wrong_values_are_reported_with_their_field(asking, asked, where, message):
    told = problem(asking.post("/v1/search", asked), 422)
    if where:
        assert where in [one["where"] for one in told["errors"]]
    assert message in told["detail"]


def test_all_wrong_values_are_reported_at_once(asking):
    told = problem(asking.post("/v1/search", {"qurey": "wing", "k": 0, "settings": {"cut": "x"}}), 422)
    assert [one["where"] for one in told["errors"]] == ["k", "settings.cut", "query", "qurey"]
    asked = {"vector": {"x": -1}, "k": 500, "explain": True, "where": {"or": [1] * 2000}, "hybrid": {"depth": 10**9}}
    told = problem(asking.post("/v1/search", asked | {"zzz": 1}), 422)
    assert [one["where"] for one in told["errors"]] == ["where", "hybrid.depth", "vector.x", "explain", "zzz"]
    told = problem(asking.post("/v1/search/batch", {"queries": ["wing"] * 300, "k": 500, "zzz": 1}), 422)
    assert [one["where"] for one in told["errors"]] == ["queries", "zzz"]


def test_defaults_above_a_limit_are_refused(serving, small):
    asking = serving(small, max_k=5)
    told = problem(asking.post("/v1/search", {"query": "wing", "hybrid": {}}), 422)
    assert [one["where"] for one in told["errors"]] == ["k", "hybrid.depth"]


def test_wrong_values_in_a_batch_are_reported_with_their_position(asking):
    told = problem(asking.post("/v1/search/batch", {"queries": ["wing", {"wing": -1}, 3]}), 422)
    assert [one["where"] for one in told["errors"]] == ["queries.1.vector.wing", "queries.2.vector"]
    told = problem(asking.post("/v1/search/batch", {"queries": ["wing", "x" * 10_001], "k": 10**6}), 422)
    assert [one["where"] for one in told["errors"]] == ["k", "queries.1"]
    told = problem(asking.post("/v1/search/batch", {"queries": ["wing"] * 21, "k": 1000}), 422)
    assert "at most 20,000 in all" in told["detail"]


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[1]", b"null", b'{"query": "\xff"}', b'{"query": "\\ud800"}', b"[" * 100_000, b'{"k": NaN}']
)
def test_invalid_json_is_refused(asking, body):
    reply = asking.post("/v1/search", body)
    assert reply.status in (400, 422)
    problem(reply, reply.status)


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-Infinity", "1e999", "1e300"])
def test_weights_that_are_not_finite_are_refused(asking, weight):
    body = b'{"vector": {"wing": ' + weight.encode() + b"}}"
    told = problem(asking.post("/v1/search", body), 422)
    assert "vector.wing" in told["detail"] or "weights are finite" in told["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_other_content_types_are_refused(asking, kind):
    reply = asking.post("/v1/search", b'{"query": "wing"}', **{"Content-Type": kind})
    assert "application/json" in problem(reply, 415)["detail"]


def test_a_charset_is_allowed_in_the_content_type(asking):
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert asking.post("/v1/search", {"query": "wing"}, **kind).status == 200


def test_many_wrong_values_are_summarized(asking):
    told = problem(asking.post("/v1/search", {"vector": {f"t{i}": -1 for i in range(20_000)}}), 422)
    assert len(told["errors"]) == 20
    assert told["detail"].endswith("and 19,980 more")


LARGE_AND_WRONG = (
    ("POST", "/v1/search/batch", b'{"queries":[' + b"0," * 300_000 + b"0]}", "300,001 queries of 10 documents"),
    ("POST", "/v1/search/batch", b'{"k":[],"queries":[' + b"0," * 300_000 + b"0]}", "300,001 queries of 1 doc"),
    ("POST", "/v1/documents", b'{"documents":[' + b"{}," * 300_000 + b"{}]}", "documents.0.id: is missing"),
    ("DELETE", "/v1/documents", b'{"ids":[' + b"0," * 300_000 + b"0]}", "ids.0: "),
    ("POST", "/v1/search", json.dumps({str(i): 0 for i in range(50_000)}).encode(), "50,001 values are wrong"),
    ("POST", "/v1/search", b'{"' + b"x" * 3_000_000 + b'":0,"query":"wing"}', "xxx...: unknown field"),
    ("POST", "/v1/search", b'{"query":["' + b"x" * 3_000_000 + b'"]}', "should be a valid string, got ['xxx"),
    ("POST", "/v1/search", b'{"query":"wing","k":"' + b"x" * 3_000_000 + b'"}', "got 'xxx"),
    ("POST", "/v1/search", b'{"query":"wing","where":{"a":[' + b"{}," * 300_000 + b"{}]}}", "has 300,001 values"),
    ("POST", "/v1/search", b'{"query":"wing","where":{"lang":{">":3}}}', "lang"),
    ("POST", "/v1/search", b'{"query":"wing","where":{"year":"' + b"x" * 3_000_000 + b'"}}', "be compared with"),
)


def test_error_messages_are_bounded(serving, living, monkeypatch):
    made, real = [], problems._told
    monkeypatch.setattr(problems, "_told", lambda one, model: made.append(one) or real(one, model))
    writing = serving(living, writable=True)
    for method, path, body, told in LARGE_AND_WRONG:
        made.clear()
        reply = writing.ask(method, path, body, {"Content-Type": "application/json"})
        assert told in problem(reply, 422)["detail"], body[:40]
        assert len(reply.body) < 20_000, body[:40]
        assert len(made) <= 20, body[:40]


def test_compressed_bodies_are_refused(asking):
    problem(asking.post("/v1/search", b"{}", **{"Content-Encoding": "gzip"}), 415)


def test_unknown_paths_and_methods_are_refused(asking):
    assert "/v1/search" in problem(asking.get("/v1/serach"), 404)["detail"]
    reply = asking.get("/v1/search")
    problem(reply, 405)
    assert reply.headers["allow"] == "POST"
    assert "index" in problem(asking.get("/v1/stats?indx=small"), 422)["detail"]


def test_a_huge_body_is_refused(serving, small):
    asking = serving(small, max_body=1000)
    body = json.dumps({"query": "x" * 1500}).encode()
    assert "1,000 bytes" in problem(asking.post("/v1/search", body), 413)["detail"]
    at = urlsplit(asking.url)
    with socket.create_connection((at.hostname, at.port)) as sock:  # the client asks before it sends the body
        sock.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        sock.sendall(b"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n")
        assert sock.makefile("rb").readline().split()[1] == b"413"
    with socket.create_connection((at.hostname, at.port)) as sock:  # the body has no declared length
        sock.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        sock.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + b"200\r\n" + b"x" * 512 + b"\r\n")
        sock.sendall(b"200\r\n" + b"x" * 512 + b"\r\n0\r\n\r\n")
        assert sock.makefile("rb").readline().split()[1] == b"413"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [{"id": "x"}]}, "documents.0: needs a text or a vector"),
        ({"documents": [{"text": "x"}]}, "documents.0.id: is missing"),
        ({"documents": [{"id": "", "text": "x"}]}, "documents.0.id"),
        ({"documents": [{"id": "x", "txet": "x"}]}, "did you mean text?"),
        ({"documents": [{"id": "x", "text": "x"}, {"id": "y", "vector": {}}]}, "either all have vectors, or none"),
        ({"documents": [{"id": "a", "text": "again"}]}, "'a' is in the index already"),
        ({"documents": [{"id": "x", "text": "1"}, {"id": "x", "text": "2"}]}, "'x' occurs twice"),
        ({"documents": [{"id": "x", "vector": {"zebra": 1.0}}]}, "'zebra' isn't in the index's vocabulary"),
        ({"documents": [{"id": "x", "vector": {"wing": -1}}]}, "documents.0.vector.wing"),
        ({"documents": [{"id": "x", "text": "t", "metadata": 3}]}, "documents.0.metadata"),
    ],
)
def test_wrong_documents_are_reported_and_change_nothing(serving, living, asked, message):
    asking = serving(living, writable=True)
    assert message in problem(asking.post("/v1/documents", asked), 422)["detail"]
    assert asking.get("/v1/stats").json["documents"] == 4
    assert not asking.get("/v1/stats").json["pending"]


def test_nan_is_refused_in_metadata(serving, living):
    asking = serving(living, writable=True)
    body = b'{"documents": [{"id": "x", "text": "t", "metadata": {"deep": [{"x": NaN}]}}]}'
    assert "documents.0.metadata" in problem(asking.post("/v1/documents", body), 422)["detail"]


def test_an_empty_filter_deletes_nothing(serving, living):
    asking = serving(living, writable=True)
    for asked in ({}, {"where": {}}, {"ids": []}):
        assert "ids" in problem(asking.delete("/v1/documents", asked), 422)["detail"]
    assert asking.get("/v1/stats").json["documents"] == 4


def test_internal_errors_reveal_no_path(serving, tmp_path, monkeypatch, caplog):
    index = Index.build(tmp_path / "idx", [{"_id": "a", "text": "wing"}], encoder="bm25")
    asking = serving(index)
    monkeypatch.setattr(asking.app.serving.indexes["idx"], "search", lambda *_: {}[str(tmp_path)])
    told = problem(asking.post("/v1/search", {"query": "wing"}), 500)
    assert str(tmp_path) not in json.dumps(told)
    assert told["detail"].split()[-4] in caplog.text  # the number of the error


def too_many_files(path, how):
    try:
        if how == "pyarrow":  # pyarrow's error has no errno, only a message
            raise OSError(f"Failed to open local file '{path}'. Detail: [errno 24] Too many open files")
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
    except OSError as error:
        if how == "while writing":
            raise OutputError(f"{path}: can't be written") from error
        raise


@pytest.mark.parametrize("how", ["python", "pyarrow", "while writing"])
def test_too_many_open_files_give_advice_and_retry_after(serving, tmp_path, monkeypatch, caplog, how):
    index = Index.build(tmp_path / "idx", [{"_id": "a", "text": "wing"}], encoder="bm25")
    asking = serving(index)
    monkeypatch.setattr(asking.app.serving.indexes["idx"], "search", lambda *_: too_many_files(tmp_path, how))
    answer = asking.post("/v1/search", {"query": "wing"})
    told = problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert re.search("too many files open.*ulimit -n", told["detail"])
    assert str(tmp_path) not in json.dumps(told)
    assert how == "while writing" or str(tmp_path) in caplog.text  # the log has the path
    monkeypatch.undo()
    assert asking.post("/v1/search", {"query": "wing"}).status == 200


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["query", "vector", "k", "where", "settings", "explain", "plan", "hybrid", "fields", "index"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.dictionaries(st.sampled_from(NAMES), values, max_size=4) | values)
def test_random_bodies_cause_no_internal_error(asking, asked):
    reply = asking.post("/v1/search", json.dumps(asked).encode())
    assert reply.status in (200, 400, 404, 422), reply.body
    assert reply.json is not None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.dictionaries(
        st.sampled_from(["year", "lang", "draft", "tags", "and", "or", "not"]),
        values
        | st.dictionaries(st.sampled_from(["==", "!=", "<", ">=", "in", "not in", "exists"]), values, max_size=2),
        max_size=3,
    )
)
def test_random_filters_cause_no_internal_error(asking, where):
    reply = asking.post("/v1/search", json.dumps({"query": "wing", "where": where}).encode())
    assert reply.status in (200, 400, 422), reply.body
