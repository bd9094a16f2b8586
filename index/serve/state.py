"""Serving: the indexes of a server, the threads that search and change them, and its counters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.resources import files

from lsr.index.index import Index
from lsr.index.serve.metrics import Metrics
from lsr.index.serve.service import Served
from lsr.index.serve.settings import ServeSettings
from lsr.index.serve.thread_pool import ThreadPool

_WRITES_WAITING = 64
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class Serving:
    """What the handlers of a server work with.

    Attributes:
        settings: What is allowed.
        indexes: By name; the first is the default.
        searches: Threads that search.
        writes: Of each index, the one thread that changes it.
        metrics: What was counted.
        page: {file name: (content, content type)} of the page.
        ready: Whether requests are answered as they should be: a search has nothing to wait for.
        started: When, as of time.monotonic().
    """

    def __init__(self, indexes: Mapping[str, Index], settings: ServeSettings) -> None:
        self.settings, self.metrics, self.page = settings, Metrics(), _page_files()
        self.indexes = {name: Served(name, index, settings) for name, index in indexes.items()}
        self.searches = ThreadPool(settings.workers, settings.waiting, "search")
        self.writes = {name: ThreadPool(1, _WRITES_WAITING, "write") for name in indexes}
        self.ready, self.started = False, time.monotonic()


def _page_files() -> dict[str, tuple[bytes, str]]:
    """The files of the page; what isn't in this list can't be asked for."""
    return {
        file.name: (file.read_bytes(), _KINDS[kind])
        for file in (files(__package__) / "page").iterdir()
        if (kind := file.name.rpartition(".")[2]) in _KINDS and file.is_file()
    }
