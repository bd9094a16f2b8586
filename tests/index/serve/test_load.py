"""Too much at once, too slow, too long: everything has an end, and the server goes on. And a soak, for some seconds."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lsr.index.serve.problems import Problem
from lsr.index.serve.server import Server
from lsr.index.serve.settings import ServeSettings
from lsr.index.serve.work import Deadline, Workers

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def connected(asking):
    at = urlsplit(asking.url)
    return socket.create_connection((at.hostname, at.port), timeout=20)


def test_a_full_waiting_room_tells_to_come_again():
    async def come():
        workers, free = Workers(1, 1, "search"), threading.Event()
        try:
            first, second = (asyncio.create_task(workers.run(free.wait, 10)) for _ in range(2))
            await asyncio.sleep(0)
            assert workers.busy == 2
            with pytest.raises(Problem, match="too many requests wait") as refused:
                await workers.run(free.wait, 10)
            free.set()
            assert await first
            assert await second
            assert workers.busy == 0
        finally:
            free.set()
            workers.stop()
        return refused.value

    refused = asyncio.run(come())
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")


def test_what_takes_too_long_is_answered_and_keeps_its_place():
    async def come():
        workers, free = Workers(1, 1, "search"), threading.Event()
        try:
            with pytest.raises(Problem, match=r"longer than 0\.05 s"):
                await workers.run(free.wait, 10, seconds=0.05)
            assert workers.busy == 1  # it still runs
            with pytest.raises(Problem, match="longer than"):
                await workers.run(free.wait, 10, seconds=0.05)
            assert workers.busy == 1  # what never began has left
        finally:
            free.set()
            workers.stop()
        assert workers.busy == 0

    asyncio.run(come())


def test_work_that_looks_at_its_deadline_ends():
    Deadline(10).check()
    with pytest.raises(Problem, match="longer than 1e-09 s"):
        Deadline(1e-9).check()


def test_a_search_that_is_too_slow(serving, small, monkeypatch):
    asking, free = serving(small, seconds=0.1, threads=1, waiting=0), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(asking.app.indexes["idx"], "search", lambda *_: free.wait(10) and {})
        slow = asking.post("/v1/search", {"query": "wing"})
        busy = asking.post("/v1/search", {"query": "wing"})
        assert asking.get("/health").status == 200  # the server itself isn't held up
        free.set()
    assert (slow.status, busy.status) == (503, 503)
    assert "longer than 0.1 s" in slow.json["detail"]
    assert "come again" in busy.json["detail"]
    assert busy.headers["retry-after"] == "1"


@pytest.mark.parametrize("sent", [b"", b"POST /v1/sea", b"GET /health HTTP/1.1\r\nHost: local", b"\r\n"])
def test_a_head_that_does_not_arrive_ends_the_connection(serving, small, sent):
    asking = serving(small, patience=0.2)
    with connected(asking) as sock:
        sock.sendall(sent)
        assert sock.recv(1000) == b""
    assert asking.get("/health").status == 200


def trickle(sock, piece, pause, times):
    """Send a piece again and again, until the other end has gone."""
    for _ in range(times):
        sock.sendall(piece)
        time.sleep(pause)


def test_a_head_that_comes_byte_by_byte_ends_too(serving, small):
    asking = serving(small, patience=0.3)
    with connected(asking) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            trickle(sock, b"x", 0.02, 200)


def test_a_second_head_has_to_arrive_as_well(serving, small):
    asking = serving(small, patience=0.3)
    with connected(asking) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4000).startswith(b"HTTP/1.1 200")
        sock.sendall(b"GET /hea")
        assert sock.recv(1000) == b""


def test_a_head_without_end_is_refused(asking):
    with connected(asking) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionError):
            trickle(sock, b"x-filler: " + b"x" * 1000 + b"\r\n", 0.0005, 5000)


def test_a_body_that_does_not_arrive_is_answered(serving, small):
    asking = serving(small, patience=0.2)
    with connected(asking) as sock:
        sock.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        sock.sendall(b'Content-Length: 100\r\n\r\n{"query"')
        reply = sock.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"didn't arrive within 0.2 s" in reply
    assert b"connection: close" in reply


def test_a_client_that_reads_nothing_is_shown_out(serving, small):
    asking = serving(small, patience=0.2)
    asking.app.page["big.js"] = (b"x" * 20_000_000, "text/javascript")
    with connected(asking) as sock:
        sock.sendall(b"GET /page/big.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connections = asking.server._uvicorn.server_state.connections
        end = time.monotonic() + 10
        while not connections and time.monotonic() < end:
            time.sleep(0.01)
        while connections and time.monotonic() < end:
            time.sleep(0.01)
        assert not connections


def test_more_connections_than_allowed_are_told_to_come_again(serving, small):
    asking = serving(small, connections=2)
    held = [connected(asking) for _ in range(2)]
    for sock in held:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4000).startswith(b"HTTP/1.1 200")
    with connected(asking) as sock:
        reply = sock.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in reply
    for sock in held:
        sock.close()


def test_a_stop_finishes_what_runs(small, monkeypatch):
    began, free, replies = threading.Event(), threading.Event(), []
    with Server({"idx": small}, ServeSettings(port=0)) as server:
        at = urlsplit(server.url)

        def slow(*_):
            began.set()
            free.wait(10)
            return {"done": True}

        monkeypatch.setattr(server.app.indexes["idx"], "search", slow)

        def search():
            with socket.create_connection((at.hostname, at.port), timeout=20) as sock:
                sock.sendall(
                    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b'Content-Length: 13\r\n\r\n{"query":"a"}'
                )
                replies.append(sock.makefile("rb").read())

        client = threading.Thread(target=search)
        client.start()
        assert began.wait(10)
        threading.Timer(0.3, free.set).start()
    client.join()
    assert replies[0].startswith(b"HTTP/1.1 200")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((at.hostname, at.port), timeout=1)


def test_readers_under_load_see_whole_commits_only(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("serve")
    facts = module.load(tmp_path / "idx", float(os.environ.get("LSR_SOAK_SECONDS", "3")), connections=8, encoder="bm25")
    assert facts["failures"] == []
    assert facts["requests"] > 0
    assert facts["pairs_committed"] > 0
    assert facts["answers_checked"] > 0
