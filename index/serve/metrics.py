"""Metrics of a server, in Prometheus's format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from lsr.index.serve.service import Served
from lsr.index.serve.thread_pool import ThreadPool

KIND = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "lsr_requests", "Requests, by path and status.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "lsr_request_seconds",
            "Seconds from the end of a request's headers to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._searching = Gauge("lsr_searching", "Searches that are running or waiting.", registry=self._registry)
        self._documents = Gauge("lsr_documents", "Documents of an index.", ("index",), registry=self._registry)
        self._segments = Gauge("lsr_segments", "Segments of an index.", ("index",), registry=self._registry)
        self._trouble = Gauge(
            "lsr_refresh_failing",
            "1 while another process's commit can't be opened.",
            ("index",),
            registry=self._registry,
        )

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            path: A path of the route table. (The paths that clients send could create any number of metrics.)
            status: Status of the response.
            seconds: Duration of the request.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self, indexes: Mapping[str, Served], workers: Iterable[ThreadPool]) -> bytes:
        """Return all metrics, with current values for the indexes."""
        self._searching.set(sum(one.busy for one in workers))
        for name, served in indexes.items():
            self._documents.labels(name).set(len(served.index))
            self._segments.labels(name).set(served.index.n_segments)
            self._trouble.labels(name).set(bool(served.trouble))
        return generate_latest(self._registry)
