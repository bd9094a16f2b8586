"""The server keeps working under load, with slow clients and with long requests. The last test is a short soak test."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lsr.encode.base import Encoder
from lsr.errors import ServerError
from lsr.index.serve import server as module
from lsr.index.serve.client import Client
from lsr.index.serve.keys import Keys
from lsr.index.serve.problems import Problem
from lsr.index.serve.server import Server, network_of
from lsr.index.serve.settings import ServeSettings
from lsr.index.serve.thread_pool import Deadline, ThreadPool

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def connected(asking):
    at = urlsplit(asking.url)
    return socket.create_connection((at.hostname, at.port), timeout=20)


def test_a_full_queue_answers_503_with_retry_after():
    async def come():
        workers, free = ThreadPool(1, 1, "search"), threading.Event()
        try:
            first, second = (asyncio.create_task(workers.run(free.wait, 10)) for _ in range(2))
            await asyncio.sleep(0)
            assert workers.busy == 2
            with pytest.raises(Problem, match="too many requests are waiting") as refused:
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


def test_one_caller_cannot_fill_the_queue():
    async def come():
        workers, free = ThreadPool(1, 3, "search"), threading.Event()
        try:
            running = [asyncio.create_task(workers.run(free.wait, 10, caller="a")) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Problem, match="too many of your requests") as refused:
                await workers.run(free.wait, 10, caller="a")
            running.append(asyncio.create_task(workers.run(free.wait, 10, caller="b")))
            await asyncio.sleep(0)
            with pytest.raises(Problem, match="too many requests are waiting"):
                await workers.run(free.wait, 10, caller="c")
            free.set()
            assert all(await asyncio.gather(*running))
            assert await workers.run(free.wait, 10, caller="a")
            assert workers.busy == 0
        finally:
            free.set()
            workers.stop()
        return refused.value

    refused = asyncio.run(come())
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")


def test_one_key_cannot_starve_another_key(serving, small, monkeypatch):
    one, other = "one-key-0123456789", "other-key-0123456789"
    asking = serving(small, threads=1, waiting=3, keys=Keys({one: "reader", other: "reader"}))
    free = threading.Event()

    def ask(key, scheme="Bearer"):
        return asking.post("/v1/search", {"query": "wing"}, Authorization=f"{scheme} {key}")

    monkeypatch.setattr(asking.app.serving.indexes["idx"], "search", lambda *_: free.wait(10) and {})
    with ThreadPoolExecutor(4) as pool:
        try:
            running = [pool.submit(ask, one) for _ in range(3)]
            end = time.monotonic() + 10
            while asking.app.serving.searches.busy < 3:
                assert time.monotonic() < end
                time.sleep(0.01)
            refused = ask(one, "bearer  ")
            running.append(pool.submit(ask, other))
            while asking.app.serving.searches.busy < 4:
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            free.set()
    assert [reply.result().status for reply in running] == [200] * 4
    assert refused.status == 429
    assert refused.headers["retry-after"] == "1"
    assert "of your requests" in refused.json["detail"]


def test_models_for_explanations_load_in_the_background(serving, small, monkeypatch):
    loading, free = threading.Event(), threading.Event()

    def origins(*_):
        loading.set()
        free.wait(10)
        return {}

    monkeypatch.setattr(Encoder, "origins", origins)
    asking = serving(small, threads=1)
    try:
        assert loading.wait(10)
        assert asking.get("/ready").status == 200
        assert len(asking.post("/v1/search", {"query": "wing"}).json["hits"]) == 2
    finally:
        free.set()


def test_a_timed_out_job_is_answered_and_keeps_its_slot():
    async def come():
        workers, free = ThreadPool(1, 1, "search"), threading.Event()
        try:
            with pytest.raises(Problem, match=r"longer than 0\.05 s"):
                await workers.run(free.wait, 10, seconds=0.05)
            assert workers.busy == 1  # the job still runs
            with pytest.raises(Problem, match="longer than"):
                await workers.run(free.wait, 10, seconds=0.05)
            assert workers.busy == 1  # the second job never began and has left the queue
        finally:
            free.set()
            workers.stop()
        assert workers.busy == 0

    asyncio.run(come())


def test_a_check_after_the_deadline_raises_an_error():
    Deadline(10).check()
    with pytest.raises(Problem, match="longer than 1e-09 s"):
        Deadline(1e-9).check()


def test_a_slow_search_times_out(serving, small, monkeypatch):
    asking, free = serving(small, seconds=0.1, threads=1, waiting=0), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(asking.app.serving.indexes["idx"], "search", lambda *_: free.wait(10) and {})
        slow = asking.post("/v1/search", {"query": "wing"})
        busy = asking.post("/v1/search", {"query": "wing"})
        assert asking.get("/health").status == 200  # other requests are still answered
        free.set()
    assert (slow.status, busy.status) == (503, 503)
    assert "longer than 0.1 s" in slow.json["detail"]
    assert "try again later" in busy.json["detail"]
    assert busy.headers["retry-after"] == "1"


@pytest.mark.parametrize("sent", [b"", b"POST /v1/sea", b"GET /health HTTP/1.1\r\nHost: local", b"\r\n"])
def test_an_incomplete_request_head_closes_the_connection(serving, small, sent):
    asking = serving(small, patience=0.2)
    with connected(asking) as sock:
        sock.sendall(sent)
        assert sock.recv(1000) == b""
    assert asking.get("/health").status == 200


def trickle(sock, piece, pause, times):
    """Send a piece repeatedly. Sending raises a ConnectionError after the other end has closed."""
    for _ in range(times):
        sock.sendall(piece)
        time.sleep(pause)


def test_a_request_head_sent_byte_by_byte_closes_the_connection(serving, small):
    asking = serving(small, patience=0.3)
    with connected(asking) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            trickle(sock, b"x", 0.02, 200)


def test_later_requests_of_a_connection_have_a_time_limit(serving, small):
    asking = serving(small, patience=1.0)
    with connected(asking) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4000).startswith(b"HTTP/1.1 200")
        sock.sendall(b"GET /hea")
        assert sock.recv(1000) == b""


def test_an_endless_request_head_is_refused(asking):
    with connected(asking) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionError):
            trickle(sock, b"x-filler: " + b"x" * 1000 + b"\r\n", 0.0005, 5000)


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"\x16\x03\x01\x02\x00 a greeting of TLS\r\n\r\n", 400, "isn't an HTTP/1.1 request"),
        (b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n{}", 400, "HTTP/1.1 request"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: " + b"x" * 65_600 + b"\r\n\r\n", 431, "at most 65,536 bytes"),
    ],
)
def test_invalid_http_gets_a_problem_document(asking, sent, status, detail):
    with connected(asking) as sock:
        sock.sendall(sent)
        reply = sock.makefile("rb").read()
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    for header in (b"content-type: application/problem+json", b"connection: close", b"x-frame-options: DENY"):
        assert header in head
    assert b"content-length: %d" % len(body) in head
    assert (json.loads(body)["status"], detail in json.loads(body)["detail"]) == (status, True)


def test_a_missing_body_is_answered_with_a_timeout(serving, small):
    asking = serving(small, patience=1.0)
    with connected(asking) as sock:
        sock.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        sock.sendall(b'Content-Length: 100\r\n\r\n{"query"')
        reply = sock.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"didn't arrive within 1 s" in reply
    assert b"connection: close" in reply


def test_all_request_bodies_share_a_memory_limit(serving, small):
    asking, held = serving(small, max_body=1 << 20), []
    head = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
    )
    try:
        for _ in range(16):
            held.append(connected(asking))
            held[-1].sendall(head + b"\r\n{")
        end = time.monotonic() + 20
        while asking.app._held < 16_000_000:
            assert time.monotonic() < end
            time.sleep(0.01)
        with connected(asking) as sock:
            sock.sendall(head + b"\r\n{")
            reply = sock.makefile("rb").read()
        assert reply.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in reply
        assert asking.post("/v1/search", {"query": "wing"}).status == 200  # a small body still fits
    finally:
        for sock in held:
            sock.close()
    while asking.app._held:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_closed_connections_log_no_error(serving, small, caplog, size):
    asking = serving(small)
    asking.app.serving.page["big.js"] = (b"x" * size, "text/javascript")
    for head in (b"HTTP/1.1\r\nConnection: close", b"HTTP/1.0"):
        with connected(asking) as sock:
            sock.sendall(b"GET /page/big.js " + head + b"\r\nHost: localhost\r\n\r\n")
            assert len(sock.makefile("rb").read()) > size
    with connected(asking) as sock:
        sock.sendall(b"GET /page/big.js HTTP/1.1\r\nHost: localhost\r\n\r\n")  # the client closes before the response
    assert asking.get("/health").status == 200
    assert caplog.text == ""


def test_a_client_that_reads_nothing_is_disconnected(serving, small):
    asking = serving(small, patience=0.2)
    asking.app.serving.page["big.js"] = (b"x" * 20_000_000, "text/javascript")
    with connected(asking) as sock:
        sock.sendall(b"GET /page/big.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connections = asking.server._uvicorn.server_state.connections
        end = time.monotonic() + 10
        while not connections and time.monotonic() < end:
            time.sleep(0.01)
        while connections and time.monotonic() < end:
            time.sleep(0.01)
        assert not connections


def test_too_many_connections_are_asked_to_retry(serving, small):
    asking = serving(small, connections=2)
    held = [connected(asking) for _ in range(2)]
    for sock in held:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4000).startswith(b"HTTP/1.1 200")
    with connected(asking) as sock:
        reply = sock.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1" in reply
    assert b"x-content-type-options: nosniff" in reply
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["detail"] == "too many connections at once; try again later"
    with pytest.raises(ServerError, match="too many connections"):
        Client(asking.url).search("wing")
    for sock in held:
        sock.close()


def test_connections_per_address_are_limited(serving, small, monkeypatch):
    asking = serving(small, connections=4)
    held = [connected(asking) for _ in range(3)]
    for sock in held:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4000).startswith(b"HTTP/1.1 200")
    with connected(asking) as sock:
        reply = sock.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 429 ")
    told = json.loads(reply.partition(b"\r\n\r\n")[2])["detail"]
    assert told == "too many connections of yours at once (3); try again later"
    ports = {sock.getsockname()[1] for sock in held}
    monkeypatch.setattr(module, "_network", lambda client: "one" if client[1] in ports else "another")
    with connected(asking) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4000).startswith(b"HTTP/1.1 200")
    for sock in held:
        sock.close()


@pytest.mark.parametrize(
    ("host", "whose"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_are_grouped_by_network(host, whose):
    assert network_of(host) == whose


def test_repeated_invalid_requests_are_logged_at_most_once(serving, small, caplog):
    asking = serving(small)
    with caplog.at_level("WARNING"):
        for _ in range(5):
            with connected(asking) as sock:
                sock.sendall(b"junk\r\n\r\n")
                assert sock.makefile("rb").read().startswith(b"HTTP/1.1 400")
    assert sum("Invalid HTTP" in record.getMessage() for record in caplog.records) <= 1


def test_running_requests_are_finished_when_the_server_stops(small, monkeypatch):
    began, free, replies = threading.Event(), threading.Event(), []
    with Server({"idx": small}, ServeSettings(port=0)) as server:
        at = urlsplit(server.url)

        def slow(*_):
            began.set()
            free.wait(10)
            return {"done": True}

        monkeypatch.setattr(server.app.serving.indexes["idx"], "search", slow)

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


def test_readers_under_load_see_only_whole_commits(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("serve")
    facts = module.load(tmp_path / "idx", float(os.environ.get("LSR_LONG_TESTS", "1.5")), connections=8, encoder="bm25")
    assert facts["failures"] == []
    assert facts["requests"] > 0
    assert facts["pairs_committed"] > 0
    assert facts["answers_checked"] > 0
