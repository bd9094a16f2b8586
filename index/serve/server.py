"""Server: runs an app in this thread or in the background, and disconnects slow clients.

with Server({"idx": Index.open("idx")}, ServeSettings(port=0)) as server:
    print(server.url)
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lsr.errors import OutputError
from lsr.index.index import Index
from lsr.index.serve.app import SECURITY_HEADERS, App
from lsr.index.serve.problems import Problem
from lsr.index.serve.responses import problem
from lsr.index.serve.settings import ServeSettings
from lsr.index.serve.thread_pool import SHARE
from lsr.index.warmup import compile_kernels

_SELDOM = 60.0  # seconds between warnings of one kind, because anyone may send junk
_KEEP_ALIVE = 5  # seconds for which a connection may be idle between requests
_MOST_HEAD = 1 << 16  # maximum size of a request's first line and headers, in bytes


class Listener:
    """Runs an ASGI application on a port.

    Attributes:
        url: The URL of the server.

    Args:
        app: The application.
        settings: Address, limits and permissions.

    Raises:
        OutputError: The port is taken, or the address doesn't belong to this machine.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        try:
            family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
        except OSError as error:
            raise OutputError(f"can't listen at {settings.host}:{settings.port}: {_why(error)}") from None
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                http=_patient(settings),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=SECURITY_HEADERS,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(settings.stop)),
            )
        )
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; running requests are finished."""
        self._uvicorn.run(sockets=[self._socket])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="lsr-serve")
        self._thread.start()
        while not self._uvicorn.started and self._thread.is_alive():
            self._thread.join(0.01)
        if not self._uvicorn.started:
            raise OutputError(f"{self.url}: the server didn't start; its log says why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uvicorn.should_exit = True
        if self._thread is not None:
            self._thread.join()


class Server(Listener):
    """Serves indexes over HTTP.

    Attributes:
        app: The application.

    Args:
        indexes: {name: index}; the first one is the default.
        settings: Address, limits and permissions.

    Raises:
        OutputError: The port is taken, or the address doesn't belong to this machine.
    """

    def __init__(self, indexes: Mapping[str, Index], settings: ServeSettings | None = None) -> None:
        settings = settings or ServeSettings()
        self.app = App(indexes, settings)
        super().__init__(self.app, settings)
        try:
            compile_kernels()  # compiling during the first search would block all others
            for served in self.app.serving.indexes.values():
                served.warm_up()
        except BaseException:
            self._socket.close()
            raise


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "this port is taken; port 0 finds a free one"
    return error.strerror or str(error)


class _Seldom(logging.Filter):
    """Logs one warning of each kind per interval, and counts the warnings in between."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record."""
        if record.levelno != logging.WARNING:
            return True
        since, missed = self._last.get(record.msg, (-math.inf, 0))
        if time.monotonic() - since < _SELDOM:
            self._last[record.msg] = since, missed + 1
            return False
        self._last[record.msg] = time.monotonic(), 0
        if missed:
            record.msg = f"{record.msg} ({missed:,} more since the last time)"
        return True


logging.getLogger("uvicorn.error").addFilter(_Seldom())


class _Uvicorn(uvicorn.Server):
    """A uvicorn server that doesn't raise a stop signal again after a clean stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _network(client: tuple[str, int] | None) -> str:
    return network_of(client[0]) if client else ""


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """Return an address's network; connections are counted by network. An IPv6 customer has 2^64 addresses."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return host


class _Patient(HttpToolsProtocol):
    """A connection that is closed if its client sends headers too slowly or too many, or doesn't read responses."""

    settings: ServeSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_due: asyncio.TimerHandle | None = None
        self._head_size = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            self._refuse(Problem(503, "too many connections at once; try again later", retry_after=1, close=True))
            return
        mine = _network(self.client)
        theirs = sum(_network(getattr(other, "client", None)) == mine for other in self.connections)
        share = math.ceil(SHARE * self.settings.connections)
        if theirs > share:
            told = f"too many connections of yours at once ({share}); try again later"
            self._refuse(Problem(429, told, retry_after=1, close=True))
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_due is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_size = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if unread := self.transport.get_write_buffer_size():
            self.loop.call_later(self.settings.patience, self._require_reading, unread)

    def send_400_response(self, msg: str) -> None:
        if self._head_size > _MOST_HEAD:
            self._refuse(Problem(431, f"a request's line and headers have at most {_MOST_HEAD:,} bytes", close=True))
        else:
            self._refuse(Problem(400, "this isn't an HTTP/1.1 request", close=True))

    def _refuse(self, what: Problem) -> None:
        """Answer a connection without a valid request, and close it."""
        answer = problem(what)
        lines = [b"HTTP/1.1 %d %s" % (what.status, HTTPStatus(what.status).phrase.encode())]
        lines += [b"%s: %s" % header for header in (*self.server_state.default_headers, *answer.raw_headers)]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MOST_HEAD:
            raise ValueError("too many headers")  # answered by send_400_response

    def _expect_head(self) -> None:
        self._head_due = self.loop.call_later(self.settings.patience, self.transport.close)

    def _head_is_here(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _require_reading(self, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread >= before:
            self.transport.abort()
        elif unread:
            self.loop.call_later(self.settings.patience, self._require_reading, unread)


def _patient(settings: ServeSettings) -> type[asyncio.Protocol]:
    """Return a connection class with these settings, because uvicorn creates the instances."""
    return type("Patient", (_Patient,), {"settings": settings})
