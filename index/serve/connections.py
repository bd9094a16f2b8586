"""Connections: requests to one server, over connections that are kept for the next."""

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
_IDLE = 4.0  # seconds after which a connection isn't used again: the server closes it after five


class Connections:
    """Requests to a server, from many threads.

    Attributes:
        idle: Connections that nobody uses, and since when.

    Args:
        url: Of the server.
        key: A reader's or a writer's, where the server wants one.
        timeout: Seconds to wait for an answer.

    Raises:
        ValueError: No URL of a server.
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
        """See `lsr.forks`: two processes on one connection would get each other's answers."""
        self.close()

    def close(self) -> None:
        """Close them; a later call makes new ones."""
        _close(self.idle)

    def call(self, method: str, path: str, asked: dict[str, Any] | None) -> dict[str, Any]:
        """What the server answers.

        Raises:
            DataError: What is asked can't be JSON.
            ServerError: There is no answer, or none of a server of indexes. What the server refuses raises what `Index`
                raises.
        """
        try:
            body = None if asked is None else json.dumps(asked, allow_nan=False, default=_plain).encode()
        except ValueError:
            raise DataError("numbers are finite: JSON has no NaN and no infinity") from None
        connection, used = self._connection()
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused while we send: the answer says why
                connection.request(method, self._at.path.rstrip("/") + path, body, self._headers)
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if used and path not in _CHANGES:
                return self.call(method, path, asked)  # the server closed it between two requests, or began anew
            raise ServerError(f"{self._url}: no answer: {error or type(error).__name__}") from None
        except BaseException:
            connection.close()
            raise
        self.idle.append((connection, time.monotonic()))
        try:
            found = json.loads(content)
            assert isinstance(found, dict)
        except (ValueError, AssertionError):
            raise ServerError(f"{self._url}: status {status}, and no JSON: is this lsr serve?") from None
        if status >= 400:
            detail = str(found.get("detail") or f"status {status}")
            raise client_error(str(found.get("type")), detail) or ServerError(f"{self._url}: {detail}")
        return found

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """A connection that nobody uses, and whether it was used before."""
        while self.idle:
            try:
                connection, since = self.idle.pop()
            except IndexError:  # another thread was faster
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
    """What JSON has no word for: numpy's numbers, times, decimals, sets."""
    if isinstance(value, set | frozenset):
        return list(value)
    with suppress(ValueError):
        return plain_value(value)
    raise TypeError(f"{value!r} can't be sent: values are texts, numbers, times, true, false, lists and mappings")
