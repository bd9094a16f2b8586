"""Opened: the commit that an open index shows, and the encoder that its caller gave."""

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
        encoder: The encoder that the caller gave for queries and documents; None if the index's own is used.
        uri: The index's location in object storage if `path` is a local copy of it; else None.
    """

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None, uri: str | None = None) -> None:
        self.path, self.snapshot, self.encoder, self.uri = path, snapshot, encoder, uri
        self._moving = threading.Lock()
        in_child(self)

    def after_fork(self) -> None:
        """Replace the lock; see `lsr.forks`."""
        self._moving = threading.Lock()

    def move(self, snapshot: Snapshot, before: Snapshot | None = None) -> None:
        """Show another snapshot.

        Args:
            snapshot: The snapshot.
            before: The snapshot that the new one was opened from. If `before` is no longer shown, nothing changes,
                because a newer snapshot may have replaced it. None to show the new snapshot in any case.
        """
        with self._moving:
            if before is not None and self.snapshot is not before:
                return
            if self.encoder is not None and snapshot.shared.fingerprint != self.snapshot.shared.fingerprint:
                self.encoder = None  # the index was rebuilt, or its encoder was fitted
            self.snapshot = snapshot
