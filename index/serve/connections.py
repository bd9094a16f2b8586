"""Connections: requests to one server over reused connections."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from lsr.errors import DataError, ServerError
from lsr.forks import in_child
from lsr.index.serve.problems import client_error
from lsr.io.metadata import plain_value

_CHANGES = ("/v1/documents", "/v1/commit", "/v1/rollback", "/v1/merge", "/v1/duplicates")
_IDLE = 4.0  # seconds after which an idle connection isn't reused; the server closes it after five


class Connections:
    """Sends requests to a server, from many threads.

    Attributes:
        idle: Idle connections, each with the time when it became idle.

    Args:
        url: The server's URL.
        key: A reader's or writer's key, if the server requires one.
        timeout: Seconds to wait for an answer.

    Raises:
        ValueError: `url` isn't a server's URL.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self._url, self._at, self._timeout = url, urlsplit(url), timeout
        if self._at.scheme not in ("http", "https") or not self._at.hostname:
            raise ValueError(f"a server's URL is http://HOST:PORT, got {url!r}")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.idle: list[tuple[http.client.HTTPConnection, float]] = []
        weakref.finalize(self, _close, self.idle)
        in_child(self)

    def after_fork(self) -> None:
        """Drop the connections: two processes on one connection would mix up their answers; see `lsr.forks`."""
        self.close()

    def close(self) -> None:
        """Close the connections; later calls open new ones."""
        _close(self.idle)

    def call(self, method: str, path: str, asked: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request and return the answer.

        Raises:
            DataError: The request can't be represented as JSON.
            ServerError: There is no answer, or the answer doesn't come from an index server.
            LsrError, ValueError: The server refused the request; the same exceptions as from `Index`.
        """
        try:
            body = None if asked is None else json.dumps(asked, allow_nan=False, default=_plain).encode()
        except ValueError:
            raise DataError("numbers must be finite: JSON has no NaN and no infinity") from None
        connection, used = self._connection()
        try:
            # A server may refuse a request before all of it is sent; then its answer says why.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._at.path.rstrip("/") + path, body, self._headers)
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if used and path not in _CHANGES:
                return self.call(method, path, asked)  # the server has closed the idle connection, or was restarted
            raise ServerError(f"{self._url}: no answer: {error or type(error).__name__}") from None
        except BaseException:
            connection.close()
            raise
        self.idle.append((connection, time.monotonic()))
        try:
            found = json.loads(content)
            assert isinstance(found, dict)
        except (ValueError, AssertionError):
            raise ServerError(f"{self._url}: status {status} without JSON: is this lsr serve?") from None
        if status >= 400:
            detail = str(found.get("detail") or f"status {status}")
            raise client_error(str(found.get("type")), detail) or ServerError(f"{self._url}: {detail}")
        return found

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return an idle or new connection, and whether it was used before."""
        while self.idle:
            try:
                connection, since = self.idle.pop()
            except IndexError:  # another thread took the last connection
                break
            if time.monotonic() - since < _IDLE and connection.sock is not None:
                return connection, True
            connection.close()
        make: Any = http.client.HTTPConnection
        if self._at.scheme == "https":
            make = partial(http.client.HTTPSConnection, context=ssl.create_default_context())
        return make(self._at.hostname, self._at.port, timeout=self._timeout), False


def _close(idle: list[tuple[http.client.HTTPConnection, float]]) -> None:
    while idle:
        idle.pop()[0].close()


def _plain(value: Any) -> Any:
    """Convert what json doesn't know: numpy numbers, times, decimals, sets."""
    if isinstance(value, set | frozenset):
        return list(value)
    with suppress(ValueError):
        return plain_value(value)
    raise TypeError(f"{value!r} can't be sent: values are strings, numbers, times, booleans, lists and mappings")
