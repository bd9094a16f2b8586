"""Serving: the indexes of a server, their search and writer threads, and its metrics."""

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
    """The state that request handlers share.

    Attributes:
        settings: Limits and permissions.
        indexes: {name: index}; the first one is the default.
        searches: The search threads.
        writes: {name: the single thread that changes this index}.
        metrics: The metrics.
        page: {file name: (content, content type)} of the search page.
        ready: Whether the server has started completely and isn't stopping.
        started: When the server started, from time.monotonic().
    """

    def __init__(self, indexes: Mapping[str, Index], settings: ServeSettings) -> None:
        self.settings, self.metrics, self.page = settings, Metrics(), page_files("page")
        self.indexes = {name: Served(name, index, settings) for name, index in indexes.items()}
        self.searches = ThreadPool(settings.workers, settings.waiting, "search")
        self.writes = {name: ThreadPool(1, _WRITES_WAITING, "write") for name in indexes}
        self.ready, self.started = False, time.monotonic()


def page_files(folder: str) -> dict[str, tuple[bytes, str]]:
    """Load the files of a page, {name: (content, content type)}; only these can be requested."""
    return {
        file.name: (file.read_bytes(), _KINDS[kind])
        for file in (files(__package__) / folder).iterdir()
        if (kind := file.name.rpartition(".")[2]) in _KINDS and file.is_file()
    }
