"""What a server allows, and how long it waits: the defaults are safe on a machine that others use too."""

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
        host: The address to listen at. One that other machines reach needs keys, or `without_keys`.
        port: 0 for any that is free.
        writable: Let documents be added, updated and deleted.
        keys: Who may read and write; None lets everybody who reaches the server.
        without_keys: Listen beyond this machine without keys.
        max_k: The most documents that a query may ask for.
        max_query: Characters of a text, or terms or numbers of a vector, that a query may have.
        max_where: Values that a filter may have.
        max_hits: Of all queries of a request together.
        max_explained: The most documents that are explained at once: a model may have to read each of them.
        max_body: Bytes of a request.
        max_answer: Bytes of the texts in an answer.
        threads: That search; 0 for one a core.
        waiting: Searches that may wait for a thread; those beyond are told to come again.
        seconds: A search may take, waiting included.
        patience: Seconds that a client may take to send a request, and not read anything of an answer.
        connections: At once; one address may hold three quarters of them.
        refresh: Seconds between two looks for commits of other processes.
        stop: Seconds that requests may go on for when the server is stopped.
        rerank: The server's own re-ranker, which requests may ask for; as of `Index.search`.

    Raises:
        ValueError: Values out of range, or an open address without keys; all of them are named.
        TypeError: A `rerank` that is no re-ranker.
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
                f"at {self.host} everybody who reaches this machine could search: give keys (--keys FILE, LSR_KEYS), "
                "or say that this is meant (--without-keys)"
            )
        if wrong:
            raise ValueError("; ".join(wrong))
        if self.rerank is not None:
            as_reranker(self.rerank)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def workers(self) -> int:
        """Threads that search."""
        return self.threads or os.cpu_count() or 1


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
