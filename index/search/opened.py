"""Opened: the commit that an open index shows, and the encoder that was given for its queries."""

from __future__ import annotations

import threading
from pathlib import Path

from lsr.encode.base import Encoder
from lsr.forks import in_child
from lsr.index.search.snapshot import Snapshot


class Opened:
    """The snapshot of an open index, replaced as a whole when the index moves to a later commit.

    Attributes:
        path: The index's folder.
        snapshot: The snapshot to search.
        encoder: The encoder given for queries and documents; None for the one that the index stores.
        uri: The index's location in object storage, of which `path` is a local copy; else None.
    """

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None, uri: str | None = None) -> None:
        self.path, self.snapshot, self.encoder, self.uri = path, snapshot, encoder, uri
        self._moving = threading.Lock()
        in_child(self)

    def after_fork(self) -> None:
        """Renew the lock; see `lsr.forks`."""
        self._moving = threading.Lock()

    def move(self, snapshot: Snapshot, before: Snapshot | None = None) -> None:
        """Show another snapshot; if it was opened from `before`, only while that is shown: a commit may be newer."""
        with self._moving:
            if before is not None and self.snapshot is not before:
                return
            if self.encoder is not None and snapshot.shared.fingerprint != self.snapshot.shared.fingerprint:
                self.encoder = None  # the index was rebuilt, or its encoder was fitted
            self.snapshot = snapshot
