"""A small index behind a server, and a client for tests."""

from __future__ import annotations

import http.client
import json
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from lsr.index.index import Index
from lsr.index.serve.server import Server
from lsr.index.serve.settings import ServeSettings

DOCS = [
    {
        "_id": "a",
        "title": "wings",
        "text": "wing flutter at high speed",
        "year": 1960,
        "lang": "en",
        "tags": ["x", "y"],
    },
    {"_id": "b", "text": "wing lift and the lift of a wing", "year": 1970, "lang": "de", "tags": ["y"]},
    {"_id": "c/1", "text": "boundary layer transition", "year": 1980.5, "lang": "en", "draft": True},
    {"_id": "d", "text": "flutter of panels", "draft": False},
]


class Reply(NamedTuple):
    """A response of the server."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Asking:
    """Sends requests to a server, each over a new connection."""

    def __init__(self, server):
        self.server, self.url, self.app = server, server.url, server.app

    def ask(self, method, path, values=None, headers=None):
        """Send a request. Its body is `values` as JSON; bytes are sent unchanged."""
        at = urlsplit(self.url)
        body = values if isinstance(values, bytes) or values is None else json.dumps(values).encode()
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
        try:
            sent = {"Content-Type": "application/json"} if values is not None else {}
            connection.request(method, path, body, sent | (headers or {}))
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, headers=headers)

    def post(self, path, values, **headers):
        return self.ask("POST", path, values, headers)

    def delete(self, path, values, **headers):
        return self.ask("DELETE", path, values, headers)


@pytest.fixture(scope="session")
def client_of():
    """The class `Asking`, as a fixture because test modules can't import this file."""
    return Asking


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """An index that tests must not change."""
    return Index.build(tmp_path_factory.mktemp("served") / "small", DOCS, encoder="bm25")


@pytest.fixture(scope="session")
def asking(small):
    """A client of a server that serves `small` with default settings."""
    with Server({"small": small}, ServeSettings(port=0)) as server:
        yield Asking(server)


@pytest.fixture
def serving():
    """Returns a function that serves indexes and returns a client. Servers stop when the test ends."""
    servers = []

    def start(indexes, **settings):
        named = indexes if isinstance(indexes, dict) else {"idx": indexes}
        server = Server(named, replace(ServeSettings(port=0), **settings))
        servers.append(server)
        return Asking(server.__enter__())

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def living(tmp_path):
    """An index that a test may change."""
    return Index.build(tmp_path / "idx", DOCS, encoder="bm25")
