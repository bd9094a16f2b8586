"""Writer: buffers changes of an index in memory, writes them as segments, and commits them together.

A writer holds the index's lock. Added documents go to a buffer; a full buffer becomes a segment that isn't in the
manifest yet. Deleted documents are only marked; for existing segments, the marks are written as new files of alive
bits. `commit` writes a manifest with all of this. A call takes effect completely, or not at all if it fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lsr.encode.base import Encoder
from lsr.encode.corpus import Report
from lsr.errors import CorruptIndex, DataError, IndexLocked, LsrError, OutputError
from lsr.index.search.open_segment import write_alive
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.columns import Columns
from lsr.index.segment.doc_store import Documents
from lsr.index.segment.filters import Filter
from lsr.index.segment.quantize import Quantizer
from lsr.index.storage.manifest import output_errors, read_manifest
from lsr.index.storage.transaction import Transaction
from lsr.index.write.buffer import Buffer, PendingSegment, Unit
from lsr.index.write.builder import (
    BuildSettings,
    Opened,
    Source,
    manifest_of,
    open_source,
    quantizer_of,
    read_batches,
    write_segment,
)
from lsr.index.write.encoder_state import EncoderState
from lsr.index.write.merge import MOST, Merged, merge_parts, plan_merges
from lsr.index.write.update_batch import Call, Change
from lsr.io.vectors import VectorBatch

_log = logging.getLogger(__name__)

_BUFFER = 1 << 28  # largest buffer of documents and vectors, in bytes


class Writer:
    """Changes an index. An index has only one writer at a time.

    Attributes:
        snapshot: The committed state.
        closed: Whether `close` was called.

    Args:
        path: The index's folder.
        snapshot: The latest open snapshot.
        others: Writers of the other shards. Ids are unique over all shards, so an update deletes in these, too.
        scale: The scale of the sharded index; 0 if it has none yet.
        tokens: All tokens of the sharded index, which may be more than this shard has; None for a single index.

    Raises:
        IndexLocked: Another writer holds the lock.
        OutputError: The folder can't be written.
        CorruptIndex: Files are damaged.
    """

    def __init__(
        self,
        path: Path,
        snapshot: Snapshot,
        others: Sequence[Writer] = (),
        scale: float = 0.0,
        tokens: Sequence[str] | None = None,
    ) -> None:
        read_manifest(path)  # fail before creating any file
        self._tokens = tokens
        self._path, self._others, self._beside = path, tuple(others), scale
        self.closed = self._torn = False
        self._reading = False  # whether `add` is consuming its source
        self._transaction = Transaction(path)
        try:
            self.snapshot = Snapshot.latest(path, snapshot)
            if self.snapshot.damaged:
                raise CorruptIndex("\n".join(self.snapshot.damaged))
            if self._transaction.manifest != self.snapshot.manifest:  # changes must start from the locked commit
                raise CorruptIndex(f"{path}: the manifest keeps changing; try again")
            self._begin()
        except BaseException:
            self._transaction.close()
            raise

    def _begin(self) -> None:
        """Start from the committed state."""
        manifest = self.snapshot.manifest
        self._settings = BuildSettings.of(manifest)
        self._scale = float(manifest["scale"]) or self._beside
        self._encoder = EncoderState(self._path, self.snapshot, self._tokens)
        self._stored = [PendingSegment(dict(p.entry), p.documents, p.alive) for p in self.snapshot.parts]
        self._buffer = Buffer()
        self.changed = False

    # --- changes ----------------------------------------------------------------------------------------------------

    def add(
        self,
        source: Source,
        encoder: Callable[[], Encoder],
        ids: Sequence[str] | None,
        *,
        replace: bool,
        skip_bad: bool,
    ) -> Change:
        """Add documents; with `replace`, replace existing documents with the same ids. See `Index.add`."""
        self.require_whole()
        self._require_idle()
        opened, change = open_source(source, skip_bad=skip_bad), Change()
        call = Call(self._buffer, replace, skip_bad, change)
        n_stored, scale, saved = len(self._stored), self._scale, self._encoder.saved()
        self._reading = True
        try:
            with output_errors(self._path):
                elsewhere = [stored for other in self._others for stored in other._stored]
                for batch in self._batches(opened, encoder, ids, change.report, skip_bad, replace):
                    before: list[Unit] = [*elsewhere, *self._stored[:n_stored], self._buffer]
                    before += [call.early] if call.early else []
                    own = [stored for stored in self._stored[n_stored:] if stored is not call.early]
                    call.take(batch, before, [*own, call.fresh])
                    if self._buffer.n_bytes + call.fresh.n_bytes > _BUFFER:
                        # This call may still fail, so write earlier documents in their state before the call.
                        call.moved(self._buffer, self._spill(self._buffer, call.before))
                        self._buffer = Buffer()
                        self._spill(call.fresh, call.fresh.alive)
                        call.fresh = Buffer()
                if self._others and self._encoder.learned:
                    raise DataError(
                        f"{self._path}: a single shard can't learn new tokens or fit an encoder: build all shards again"
                    )
        except BaseException:
            with self._in_one():
                call.undo()
                for stored in self._stored[n_stored:]:
                    if stored is not call.early:
                        self._transaction.drop(self._path / stored.entry["name"])
                self._stored = self._stored[:n_stored] + ([call.early] if call.early else [])
                self._buffer = Buffer() if call.early else self._buffer  # its documents are in `early` now
                self._scale = call.early.entry["scale"] if call.early and not scale else scale
                self._encoder.restore(saved)
            raise
        finally:
            self._reading = False
        with self._in_one():
            self._buffer.extend(call.fresh)
            self.changed = self.changed or bool(change)
            for other in self._others:
                other.changed = other.changed or any(stored.changed for stored in other._stored)
        change.bad = change.report.bad + change.bad
        return change

    def delete(self, ids: Iterable[str], where: Filter | None = None, *, known: bool = False) -> Change:
        """Delete documents by id with their passages, and documents that match a filter; see `Index.delete`.

        With `known`, the check of the filter's columns is skipped, because the caller has made it.
        """
        self.require_whole()
        self._require_idle()
        keys = list(dict.fromkeys(ids))
        if where is not None and not any(where.conditions()):
            raise DataError("a filter without a condition would delete all documents", "where")
        if where is not None and not known:
            where.require_known(self.columns())
        found = set()
        units: list[Unit] = [*self._stored, self._buffer]
        with self._in_one():
            for unit in units:
                for i, row, parent in list(unit.matches(keys)):
                    if parent in (None, keys[i]):  # count documents, not passages
                        unit.mark(row, False)
                        found.add(i)
            n_filtered = self._delete_where(where) if where is not None else 0
            self.changed = self.changed or bool(found) or bool(n_filtered)
        missing = [key for i, key in enumerate(keys) if i not in found]
        return Change(deleted=len(found) + n_filtered, missing=missing)

    @contextmanager
    def _in_one(self) -> Iterator[None]:
        """Mark a change as in progress; if it is interrupted, the writer can only roll back."""
        self._torn = True
        yield
        self._torn = False

    def require_whole(self) -> None:
        """Refuse further changes after an interrupted one.

        Raises:
            OutputError: A change was interrupted.
        """
        if self._torn:
            raise OutputError(
                f"{self._path}: a change was interrupted: roll back, and repeat the changes since the last commit"
            )

    def columns(self) -> list[Columns]:
        """Return the columns of all documents, including uncommitted documents."""
        with output_errors(self._path):
            self._flush()  # only segments have columns
        return [s.documents.columns for s in self._stored if s.documents.columns is not None]

    def _delete_where(self, where: Filter) -> int:
        """Delete the documents that match a filter; return their number. Passages of a document count once."""
        gone = set()
        for stored in self._stored:
            for row in np.flatnonzero(where.mask(stored.documents.columns, len(stored.documents))).tolist():
                if stored.is_alive(row):
                    stored.mark(row, False)
                    gone.add(stored.documents.parent(row) or stored.documents.id(row))
        return len(gone)

    def _batches(
        self,
        source: Opened,
        encoder: Callable[[], Encoder],
        ids: Sequence[str] | None,
        report: Report,
        skip_bad: bool,
        doubled: bool,
    ) -> Iterator[VectorBatch]:
        """Read documents from any source, with vectors in the index's terms; with `doubled`, ids may be repeated."""
        read = partial(
            read_batches,
            source,
            ids=ids,
            settings=self._settings,
            report=report,
            skip_bad=skip_bad,
            doubled=doubled,
        )
        return self._encoder.batches(source, encoder, read, empty=not (self._stored or self._buffer.alive))

    def _flush(self) -> None:
        """Write the buffer as a segment."""
        stored = self._written(self._buffer, self._buffer.alive)
        # One statement, so that an interrupt can't lose the documents.
        self._stored, self._buffer = [*self._stored, *([stored] if stored else [])], Buffer()

    def _spill(self, buffer: Buffer, kept: Sequence[bool]) -> PendingSegment | None:
        """Write a buffer as a segment, and append the segment to the stored segments."""
        stored = self._written(buffer, kept)
        if stored is not None:
            self._stored.append(stored)
        return stored

    def _written(self, buffer: Buffer, kept: Sequence[bool]) -> PendingSegment | None:
        """Write a segment with the documents of a buffer whose flag in `kept` is true; return None if none is true."""

        scale = self._scale
        quantizer = quantizer_of(self._encoder.fingerprint, scale) or Quantizer.of
        if not any(kept):
            return None
        entry = write_segment(self._transaction, buffer.batches(kept), self._settings, quantizer=quantizer)
        assert entry is not None
        self._scale = scale or entry["scale"]
        documents = Documents(self._path / entry["name"], entry["n_docs"], entry["has_text"])
        return PendingSegment(entry, documents, None)

    # --- the end of a transaction -----------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make the changes durable, and visible to readers that open or refresh the index."""
        self.require_whole()
        self._require_idle()
        if not self.changed:
            return
        with output_errors(self._path):
            self._flush()
            self._replace([stored.write(self._transaction) for stored in self._stored])

    def merge(self, *, everything: bool) -> bool:
        """Merge committed segments: all into one, or the segments that the policy chooses.

        Returns:
            Whether there was anything to merge.
        """
        merged = False
        with output_errors(self._path):
            while (run := plan_merges([p.entry for p in self.snapshot.parts], everything=everything)) is not None:
                parts = self.snapshot.parts[slice(*run)]
                self._swap(*run, merge_parts(self._transaction, parts, self._settings))
                merged = True
            return merged

    def keep_pace(self, at_work: Collection[str]) -> None:
        """Merge the newest committed segments, while the background merger is behind and there are too many segments.


        A failure is logged as a warning and leaves the committed state unchanged.

        Args:
            at_work: Segments that are being merged in the background.
        """
        try:
            with output_errors(self._path):
                while len(parts := self.snapshot.parts) > MOST:
                    run = plan_merges([part.entry for part in parts], newest=True)
                    if run is None or any(part.entry["name"] in at_work for part in parts[slice(*run)]):
                        break
                    self._swap(*run, merge_parts(self._transaction, parts[slice(*run)], self._settings))
        except LsrError as error:
            _log.warning("%s: merging failed: %s", self._path, error)

    def take(self, merged: Merged) -> bool:
        """Replace segments by the result of a background merge, without documents that were deleted since, and commit.


        Returns:
            Whether segments were replaced; False if the source segments were merged or replaced meanwhile.
        """
        names = [part.entry["name"] for part in merged.parts]
        here = [part.entry["name"] for part in self.snapshot.parts]
        first = here.index(names[0]) if names[0] in here else 0
        end = first + len(names)
        if here[first:end] != names:
            return False
        entry = merged.entry
        with output_errors(self._path):
            if entry is not None:
                alive = merged.alive(self.snapshot.parts[first:end])
                self._transaction.receive(merged.folder, merged.files)
                if not alive.all():
                    file = self._transaction.alive_file()
                    write_alive(file, alive)
                    entry = {**entry, "alive": file.name, "n_alive": int(alive.sum())}
            self._swap(first, end, entry)
        return True

    def _swap(self, first: int, end: int, entry: Mapping[str, Any] | None) -> None:
        """Replace a run of segments by one segment, or none, and commit."""
        entries = [dict(part.entry) for part in self.snapshot.parts]
        entries[first:end] = [] if entry is None else [dict(entry)]
        self._replace(entries)

    def _replace(self, segments: list[dict[str, Any]]) -> None:
        """Commit a manifest with these segments."""
        shared = self._encoder.write(self._transaction)
        segments = [segment for segment in segments if segment["n_alive"]]
        if segments:  # later segments use the scale of the largest one
            self._scale = float(max(segments, key=lambda segment: segment["n_postings"])["scale"])
        manifest = manifest_of(shared, self._settings, self._scale, segments)
        whole = self._transaction.commit(manifest)
        self.snapshot = Snapshot(self._path, whole, self.snapshot)
        self._begin()

    def _require_idle(self) -> None:
        if self._reading:
            raise IndexLocked(
                f"{self._path}: the iterator of the documents changes this index: let it only yield documents, "
                "and commit after `add` has returned"
            )

    def close(self) -> None:
        """Discard uncommitted changes and release the lock."""
        self._require_idle()
        self.closed = True
        self._transaction.close()
