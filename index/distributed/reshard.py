"""Reshard: write the documents of an index, or of a sharded folder, as a given number of equal shards.

Documents keep their order, and impacts keep their values, so results don't change. Resharding reads the latest commit
and writes a new folder. The old folder stays usable meanwhile, but later changes to it don't reach the new folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lsr.console import progress
from lsr.errors import IndexFormatError, OutputExists
from lsr.index.index import Index
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.postings_writer import DEFAULT_MEMORY
from lsr.index.segment.quantize import Quantizer
from lsr.index.sharding.manifest import SHARDS, Shards, is_sharded, shard_name, write_shards
from lsr.index.storage.manifest import make_folder, output_errors, require_name
from lsr.index.storage.transaction import Transaction
from lsr.index.write.buffer import rows_of
from lsr.index.write.builder import BuildSettings, EncoderMetadata, manifest_of, write_segment
from lsr.io.vectors import VectorBatch


def reshard_index(source: str | Path, out: str | Path, n_shards: int, *, memory: int = DEFAULT_MEMORY) -> Shards:
    """Write the documents of an index as shards of equal size.

    Args:
        source: An index, or a sharded folder.
        out: The new sharded folder.
        n_shards: Number of shards; passages of a document stay together.
        memory: Approximate memory limit in bytes.

    Raises:
        ValueError: Fewer than one shard.
        IndexFormatError: Not an index, or it has fewer documents than shards.
        OutputExists: `out` exists.
    """
    if isinstance(n_shards, bool) or not isinstance(n_shards, int) or n_shards < 1:
        raise ValueError(f"the number of shards must be a whole number of at least 1, got {n_shards!r}")
    snapshot, out = Index.open(source).snapshot, Path(out).absolute()
    require_name(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        left = "" if is_sharded(out) else f" but has no {SHARDS} (if an interrupted run left this folder, remove it)"
        raise OutputExists(f"{out}: exists already{left}; name a new folder")
    n_docs = sum(int(part.entry["n_alive"]) for part in snapshot.parts)
    if n_docs < n_shards:
        raise IndexFormatError(f"{source}: {n_docs} documents, too few for {n_shards} shards")
    settings = BuildSettings.of(snapshot.manifest)
    make_folder(out)
    with output_errors(out, every=True):
        with (
            tempfile.TemporaryDirectory(dir=out, prefix="reshard-") as scratch,
            progress(n_docs, "sharding") as bar,
        ):
            rows, names = _Rows(snapshot, Path(scratch)), list[str]()
            for number in range(n_shards):
                end = (number + 1) * n_docs // n_shards
                if end > rows.at:  # the passages of the last document may already fill this shard
                    names.append(shard_name(len(names)))
                    _write_shard(out / names[-1], snapshot, rows, end, settings, memory)
                bar.update(rows.at - bar.n)
        return write_shards(out, names)


def _write_shard(folder: Path, snapshot: Snapshot, rows: _Rows, end: int, settings: BuildSettings, memory: int) -> None:
    known = EncoderMetadata()
    known.fingerprint, known.encoder_files = snapshot.shared.fingerprint, snapshot.shared.encoder_files
    known.vocabulary = snapshot.shared.vocabulary
    with Transaction(folder) as transaction:
        shared, segments = known.write(transaction), []
        while (scale := rows.scale_until(end)) is not None:
            # The stored weights already are impacts, in units of their scale.
            segment = write_segment(
                transaction, rows.until(end), settings, memory, quantizer=lambda *_: Quantizer(1.0, True)
            )
            assert segment is not None
            errors = [part.entry["max_error"] for part in snapshot.parts if part.entry["scale"] == scale]
            segments.append(segment | {"scale": scale, "max_error": max(errors)})
        largest = max(segments, key=lambda segment: int(segment["n_postings"]))
        transaction.commit(manifest_of(shared, settings, largest["scale"], segments))


class _Rows:
    """A stream of a snapshot's documents. It is cut only between documents, never between passages of a document.

    Attributes:
        at: Number of documents taken so far.
    """

    def __init__(self, snapshot: Snapshot, scratch: Path) -> None:
        self.at = 0
        self._stream = self._read(snapshot, scratch)
        self._next = next(self._stream, None)
        self._parent: str | None = None  # the column `parent` of the last row taken

    @staticmethod
    def _read(snapshot: Snapshot, scratch: Path) -> Iterator[tuple[float, VectorBatch]]:
        n_terms = max(part.n_terms for part in snapshot.parts)
        for part in snapshot.parts:
            for batch in part.batches(scratch, n_terms):
                yield part.entry["scale"], batch

    def scale_until(self, end: int) -> float | None:
        """Return the scale of the documents that `until` would yield; None if there are none."""
        return None if self._next is None or not self._room(self._next[1], end) else self._next[0]

    def until(self, end: int) -> Iterator[VectorBatch]:
        """Take documents that have the same scale, up to document `end`, with all passages of the last one."""
        scale = self.scale_until(end)
        while self._next is not None and self._next[0] == scale and (n := self._room(self._next[1], end)):
            batch = self._next[1]
            self._parent = batch.documents.column("parent")[n - 1].as_py()
            self.at += n
            if n == len(batch.vectors):
                self._next = next(self._stream, None)
                yield batch
            else:
                first = np.arange(len(batch.vectors)) < n
                self._next = scale, rows_of(batch, ~first)
                yield rows_of(batch, first)

    def _room(self, batch: VectorBatch, end: int) -> int:
        """Return how many rows of a batch lie before the end, including all passages of the last document."""
        n, size = max(min(end - self.at, len(batch.vectors)), 0), len(batch.vectors)
        parents = batch.documents.column("parent")
        if parents.null_count == size:
            return n
        before = parents[n - 1].as_py() if n else self._parent
        while n < size and before is not None and parents[n].as_py() == before:
            n += 1
        return n
