"""The server checks keys, roles, host names and cross-site requests. It never shows or logs keys."""

from __future__ import annotations

import pytest

from lsr.errors import DataError
from lsr.index.serve.keys import Keys, find_keys
from lsr.index.serve.routes import ROUTES
from lsr.index.serve.settings import ServeSettings, is_loopback

READER, WRITER = "reader-key-0123456789", "writer-key-0123456789"
KEYS = Keys({READER: "reader", WRITER: "writer"})


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def guarded(serving, living):
    return serving(living, keys=KEYS, writable=True)


def test_without_a_key_only_health_and_the_page_are_served(guarded):
    for path, methods in ROUTES.items():
        for method, route in methods.items():
            reply = guarded.ask(method, path.replace("{id}", "a").replace("{file}", "page.js"), {})
            assert (reply.status == 401) == (route.role is not None), path
            if reply.status == 401:
                assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer wrong", f"Basic {READER}", READER, "Bearer \xe9", f"Bearer {READER}x"]
)
def test_wrong_keys_are_refused(guarded, value):
    assert guarded.post("/v1/search", {"query": "wing"}, Authorization=value).status == 401


def test_reader_keys_read_and_writer_keys_write(guarded):
    add = {"documents": [{"id": "x", "text": "wing"}]}
    assert guarded.post("/v1/search", {"query": "wing"}, **bearer(READER)).status == 200
    refused = guarded.post("/v1/documents", add, **bearer(READER))
    assert refused.status == 403
    assert "a writer's" in refused.json["detail"]
    assert guarded.post("/v1/documents", add, **bearer(WRITER)).json["added"] == 1
    assert len(guarded.post("/v1/search", {"query": "wing"}, **bearer(WRITER)).json["hits"]) == 3


def test_a_server_is_read_only_by_default(asking):
    for method, path in (("POST", "/v1/documents"), ("DELETE", "/v1/documents"), ("POST", "/v1/merge")):
        reply = asking.ask(method, path, {"documents": []})
        assert reply.status == 403
        assert "--writable" in reply.json["detail"]


def test_keys_are_never_logged_or_shown(guarded, caplog, monkeypatch):
    caplog.set_level(0)
    monkeypatch.setattr(guarded.app.serving.indexes["idx"], "search", lambda *_: 1 / 0)
    assert guarded.post("/v1/search", {"query": "wing"}, **bearer(READER)).status == 500
    guarded.post("/v1/search", {"query": "wing"}, **bearer("not-a-key-of-this-server"))
    assert "ZeroDivisionError" in caplog.text
    for shown in (caplog.text, repr(KEYS), repr(vars(KEYS)), repr(guarded.app.serving.settings)):
        assert READER not in shown
        assert "not-a-key" not in shown


def test_all_answers_have_security_headers(asking):
    for path in ("/", "/health", "/v1/indexes", "/nothing", "/v1/search"):
        headers = asking.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1"])
def test_other_host_names_are_refused(asking, host):
    assert asking.get("/v1/indexes", Host=host).status == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:80", "[::1]", "127.8.9.1:1"])
def test_host_names_of_this_machine_are_accepted(asking, host):
    assert asking.get("/v1/indexes", Host=host).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://proxy.example"}, 200),
        ({"Origin": "http://localhost:8000", "Host": "localhost:8000"}, 200),
        ({}, 200),
    ],
)
def test_cross_site_requests_are_refused(asking, headers, status):
    assert asking.post("/v1/search", {"query": "wing"}, **headers).status == status


def test_an_address_that_others_can_reach_needs_keys():
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(ValueError, match="give keys"):
            ServeSettings(host=host)
        assert ServeSettings(host=host, without_keys=True).host == host
        assert ServeSettings(host=host, keys=KEYS).host == host
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))


def test_an_error_names_all_invalid_settings():
    with pytest.raises(ValueError, match="max_k") as error:
        ServeSettings(max_k=0, seconds=-1.0, port=70_000)
    assert "seconds" in str(error.value)
    assert "port" in str(error.value)


def test_keys_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text(f"# who may\nreader {READER}\n\nwriter   {WRITER}  # ours\n")
    keys = find_keys(path)
    assert [keys.role(key.encode()) for key in (READER, WRITER, "other")] == ["reader", "writer", None]
    monkeypatch.setenv("LSR_KEYS", f"reader {READER}, writer {WRITER}")
    assert find_keys(None).role(WRITER.encode()) == "writer"
    monkeypatch.delenv("LSR_KEYS")
    assert find_keys(None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no key"),
        ("# nothing", "contains no key"),
        (READER, ":1: a line must be 'reader KEY'"),
        (f"reader {READER}\nadmin secret-that-is-long", ":2: a line must be 'reader KEY'"),
        ("reader secret", ":1: a key must have at least 16 characters"),
        ("reader secret-wïth-umlauts-in-it", ":1: a line must be"),
    ],
)
def test_invalid_key_files_are_refused_without_showing_their_content(tmp_path, text, message):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        find_keys(path)
    assert "secret" not in str(error.value)
    assert READER not in str(error.value)


def test_unreadable_key_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        find_keys(tmp_path / "none")
