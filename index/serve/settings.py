"""Server settings: limits and timeouts, with defaults that are safe on a shared machine."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, fields
from functools import lru_cache

from lsr.index.search.rerank import AnyReranker, as_reranker
from lsr.index.serve.keys import Keys


@dataclass(frozen=True)
class ServeSettings:
    """How indexes are served.

    Attributes:
        host: The address to listen on. An address that other machines can reach requires keys, or `without_keys`.
        port: The port; 0 for any free port.
        writable: Allow adding, updating and deleting documents.
        keys: Keys for readers and writers; None lets in everyone who can reach the server.
        without_keys: Allow access from other machines without keys.
        max_k: Maximum number of documents per query.
        max_query: Maximum length of a query: characters of a text, or terms or dimensions of a vector.
        max_where: Maximum number of values in a filter.
        max_hits: Maximum number of hits of all queries in a request.
        max_explained: Maximum number of documents to explain at once, because a model may have to read each of them.
        max_body: Maximum size of a request body, in bytes.
        max_answer: Maximum size of the texts in a response, in bytes.
        threads: Number of search threads; 0 for one per core.
        waiting: Maximum number of searches waiting for a thread; further searches are refused, to be retried later.
        seconds: Time limit of a search, including waiting.
        patience: Seconds that a client may take to send a request, or may pause while reading a response.
        connections: Maximum number of connections; one client may have at most three quarters of them.
        refresh: Seconds between checks for commits of other processes.
        stop: Seconds that running requests get to finish when the server stops.
        rerank: A re-ranker that requests may ask for, as for `Index.search`.

    Raises:
        ValueError: Values out of range, or an open address without keys; the message lists every problem.
        TypeError: `rerank` isn't a re-ranker.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    writable: bool = False
    keys: Keys | None = None
    without_keys: bool = False
    max_k: int = 1000
    max_query: int = 10_000
    max_where: int = 1000
    max_hits: int = 20_000
    max_explained: int = 100
    max_body: int = 8 << 20
    max_answer: int = 64 << 20
    threads: int = 0
    waiting: int = 256
    seconds: float = 10.0
    patience: float = 20.0
    connections: int = 512
    refresh: float = 1.0
    stop: float = 30.0
    rerank: AnyReranker | None = None

    def __post_init__(self) -> None:
        wrong = []
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("port", "threads", "waiting") else 1
            if field.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                wrong.append(f"{field.name} must be a whole number of at least {least}, got {value!r}")
            if field.type == "float" and not (isinstance(value, int | float) and 0 < value < float("inf")):
                wrong.append(f"{field.name} must be a number of seconds above 0, got {value!r}")
        if isinstance(self.port, int) and self.port > 65535:
            wrong.append(f"port must be at most 65535, got {self.port}")
        if not (self.on_loopback or self.keys or self.without_keys):
            wrong.append(
                f"at {self.host} everyone who reaches this machine could search: give keys (--keys FILE, LSR_KEYS), "
                "or confirm that this is intended (--without-keys)"
            )
        if wrong:
            raise ValueError("; ".join(wrong))
        if self.rerank is not None:
            as_reranker(self.rerank)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def workers(self) -> int:
        """Number of search threads."""
        return self.threads or os.cpu_count() or 1


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a host name or address belongs to this machine only."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
