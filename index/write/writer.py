"""Writer: changes of an index, gathered in memory, spilled as segments, committed as a whole.

A writer holds the index' lock. Documents that are added wait in a buffer; a full one becomes a segment that no manifest
names yet. Deleting marks a document, wherever it is; what is marked in segments goes into new files of alive bits.
`commit` lets a new manifest name all of it. Each call is taken as a whole or, if it fails, not at all.
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
from lsr.encode.lexicon import Lexicon
from lsr.encode.load import load_encoder_files
from lsr.errors import CorruptIndex, DataError, EncoderError, IndexLocked, LsrError, OutputError
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
    EncoderMetadata,
    Opened,
    Source,
    manifest_of,
    open_source,
    quantizer_of,
    read_batches,
    write_segment,
)
from lsr.index.write.merge import MOST, Merged, merge_parts, plan_merges
from lsr.index.write.term_mapper import TermMapper
from lsr.index.write.update_batch import Call, Change
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import SparseMatrix

_log = logging.getLogger(__name__)

_BUFFER = 1 << 28  # bytes of documents and vectors that wait in memory


class Writer:
    """Changes an index; one at a time.

    Attributes:
        snapshot: What is committed.
        closed: Whether `close` has begun.

    Args:
        path: The index' folder.
        snapshot: The latest snapshot that is open.
        others: Writers of the other parts of a whole: ids are unique over all of them, and an update deletes there.
        scale: Of the whole, if it has one already.
        tokens: Of the whole, if it has more than this part.

    Raises:
        IndexLocked: Somebody else is writing.
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
        read_manifest(path)  # refused before anything is made there
        self._tokens = tokens
        self._path, self._others, self._beside = path, tuple(others), scale
        self.closed = self._torn = False
        self._reading = False  # documents that are to be added
        self._transaction = Transaction(path)
        try:
            self.snapshot = Snapshot.latest(path, snapshot)
            if self.snapshot.damaged:
                raise CorruptIndex("\n".join(self.snapshot.damaged))
            if self._transaction.manifest != self.snapshot.manifest:  # what it doesn't know of, it would remove
                raise CorruptIndex(f"{path}: the manifest couldn't be read twice alike; try again")
            self._begin()
        except BaseException:
            self._transaction.close()
            raise

    def _begin(self) -> None:
        """Start from what is committed."""
        manifest, shared = self.snapshot.manifest, self.snapshot.shared
        self._settings = BuildSettings.of(manifest)
        self._scale = float(manifest["scale"]) or self._beside
        self._known = EncoderMetadata()
        self._known.fingerprint, self._known.encoder_files = shared.fingerprint, shared.encoder_files
        self._known.vocabulary = shared.vocabulary
        if self._tokens is not None and len(self._tokens) > len(shared.vocabulary or ()):
            self._known.vocabulary = self._tokens
        self._learned = False  # whether there is more known now than committed, apart from tokens that were appended
        self._n_tokens = len(shared.vocabulary or ())  # that are committed
        self._growing: Lexicon | None = None
        self._n_before = len(self._known.vocabulary or ())
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
        """Add documents, or with `replace` put them in the place of those of the same ids; see `Index.add`."""
        self.require_whole()
        self._require_idle()
        opened, change = open_source(source, skip_bad=skip_bad), Change()
        call = Call(self._buffer, replace, skip_bad, change)
        n_stored, known, scale, learned = len(self._stored), self._known, self._scale, self._learned
        n_tokens = len(known.vocabulary or ())
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
                        # What earlier calls brought is written as it was before this one, which may fail yet.
                        call.moved(self._buffer, self._spill(self._buffer, call.before))
                        self._buffer = Buffer()
                        self._spill(call.fresh, call.fresh.alive)
                        call.fresh = Buffer()
                if self._others and self._learned:
                    raise DataError(
                        f"{self._path}: a shard can't learn new tokens or fit an encoder by itself; build all anew"
                    )
        except BaseException:
            with self._in_one():
                call.undo()
                for stored in self._stored[n_stored:]:
                    if stored is not call.early:
                        self._transaction.drop(self._path / stored.entry["name"])
                self._stored = self._stored[:n_stored] + ([call.early] if call.early else [])
                self._buffer = Buffer() if call.early else self._buffer  # whose documents are in that segment
                self._scale = call.early.entry["scale"] if call.early and not scale else scale
                self._known, self._learned = known, learned
                if self._growing is not None:
                    self._growing.cut(n_tokens)
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
        """Delete documents by their ids, and the passages of documents, and those that meet a filter; see
        `Index.delete`. With `known`, the filter's columns were looked for already.
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
                    if parent in (None, keys[i]):  # not a passage by its own id
                        unit.mark(row, False)
                        found.add(i)
            n_filtered = self._delete_where(where) if where is not None else 0
            self.changed = self.changed or bool(found) or bool(n_filtered)
        missing = [key for i, key in enumerate(keys) if i not in found]
        return Change(deleted=len(found) + n_filtered, missing=missing)

    @contextmanager
    def _in_one(self) -> Iterator[None]:
        """What is done within is done whole; if it fails or is interrupted, all that is left is to roll back."""
        self._torn = True
        yield
        self._torn = False

    def require_whole(self) -> None:
        """Refuse to go on where a change was interrupted halfway.

        Raises:
            OutputError: One was.
        """
        if self._torn:
            raise OutputError(
                f"{self._path}: a change was interrupted halfway: roll back, and make the changes since the last "
                "commit again"
            )

    def columns(self) -> list[Columns]:
        """The metadata of all documents, also those that were added just now."""
        with output_errors(self._path):
            self._flush()  # metadata are columns once they are written
        return [s.documents.columns for s in self._stored if s.documents.columns is not None]

    def _delete_where(self, where: Filter) -> int:
        """Delete the documents that meet a filter; returns how many, passages of one document counted once."""
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
        """Documents of any source with vectors in the terms of the index; `doubled` ones too."""
        empty, known = not (self._stored or self._buffer.alive), self._known
        read = partial(
            read_batches,
            source,
            ids=ids,
            settings=self._settings,
            report=report,
            skip_bad=skip_bad,
            doubled=doubled,
        )
        if isinstance(source, SparseMatrix | Vectors):
            if empty and not (known.encoder_files or known.vocabulary or known.fingerprint.vocabulary_size):
                known = EncoderMetadata()  # nothing is known yet, so what comes first decides
            mapper = TermMapper(str(self._path), source, known, fresh=known is not self._known)
            if known is not self._known:
                self._known, self._learned = known, True
            yield from mapper.mapped(read(None))
            if mapper.grown is not None:
                self._known, self._growing = mapper.grown, None
            return
        if not known.encoder_files:
            if next(iter(source), None) is None:
                return
            raise EncoderError(
                f"{self._path}: this index was built from vectors without their encoder ({known.fingerprint}): "
                "add vectors of the same encoder"
            )
        model = encoder()
        if model.living:
            if self._growing is None:
                tokens, shared = list(known.vocabulary or ()), self.snapshot.shared
                term_of = dict(shared.term_of) if len(shared.term_of) == len(tokens) else None
                self._growing = Lexicon(tokens, term_of, grows=True)
                known.vocabulary = self._growing.tokens
            yield from read(model.over(self._growing))
            return
        unlearned = model.needs_fit  # so no document here has a word yet
        if unlearned:  # from what comes now; should the call fail, nothing is learned from it
            model = load_encoder_files(known.encoder_files)
        yield from read(model)
        if model.fingerprint != known.fingerprint:
            if not unlearned:
                known.fingerprint.require_same(model.fingerprint, f"the index {self._path}", "the encoder given")
            self._known, self._learned = EncoderMetadata(), True  # it was fitted just now
            self._known.take(model)

    def _flush(self) -> None:
        """Write what waits in memory as a segment."""
        stored = self._written(self._buffer, self._buffer.alive)
        # In one step: an interrupt finds the documents in one place or the other.
        self._stored, self._buffer = [*self._stored, *([stored] if stored else [])], Buffer()

    def _spill(self, buffer: Buffer, kept: Sequence[bool]) -> PendingSegment | None:
        """As `_written`, and take the segment."""
        stored = self._written(buffer, kept)
        if stored is not None:
            self._stored.append(stored)
        return stored

    def _written(self, buffer: Buffer, kept: Sequence[bool]) -> PendingSegment | None:
        """Write what a buffer holds as a segment; None if that is nothing."""
        scale = self._scale
        quantizer = quantizer_of(self._known.fingerprint, scale) or Quantizer.of
        if not any(kept):
            return None
        entry = write_segment(self._transaction, buffer.batches(kept), self._settings, quantizer=quantizer)
        assert entry is not None
        self._scale = scale or entry["scale"]
        documents = Documents(self._path / entry["name"], entry["n_docs"], entry["has_text"])
        return PendingSegment(entry, documents, None)

    # --- the end of a transaction -----------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make the changes durable, and visible to who opens or refreshes the index."""
        self.require_whole()
        self._require_idle()
        if not self.changed:
            return
        with output_errors(self._path):
            self._flush()
            self._replace([stored.write(self._transaction) for stored in self._stored])

    def merge(self, *, everything: bool) -> bool:
        """Merge what is committed: all segments into one, or those that the policy names.

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
        """Merge the newest of what is committed while there are more segments than a merger has time for.

        Should that fail, a warning is logged: what is committed stays as it is.

        Args:
            at_work: Segments that are being merged already.
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
        """Put what was merged aside in the place of what it was made of, without what was deleted since, and commit.

        Returns:
            False if somebody else has merged or replaced that meanwhile, and nothing is done.
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
        """Commit one segment, or none, in the place of some."""
        entries = [dict(part.entry) for part in self.snapshot.parts]
        entries[first:end] = [] if entry is None else [dict(entry)]
        self._replace(entries)

    def _replace(self, segments: list[dict[str, Any]]) -> None:
        """Commit a manifest of some segments."""
        names = ("fingerprint", "shared", "has_encoder", "has_vocabulary")
        shared = {name: self.snapshot.manifest[name] for name in names}
        tokens, grown = len(self._known.vocabulary or ()), self.snapshot.manifest.get("grown")
        if self._learned:
            shared = self._known.write(self._transaction)
        elif tokens > self._n_before:
            shared |= self._known.write_grown(self._transaction, grown or (), self._n_tokens)
        elif grown:
            shared["grown"] = grown
        segments = [segment for segment in segments if segment["n_alive"]]
        if segments:  # what comes next is written beside most of what there is
            self._scale = float(max(segments, key=lambda segment: segment["n_postings"])["scale"])
        manifest = manifest_of(shared, self._settings, self._scale, segments)
        whole = self._transaction.commit(manifest)
        self.snapshot = Snapshot(self._path, whole, self.snapshot)
        self._begin()

    def _require_idle(self) -> None:
        if self._reading:
            raise IndexLocked(
                f"{self._path}: what gives the documents that are being added changes this index itself: let it only "
                "give documents, and commit when `add` has returned"
            )

    def close(self) -> None:
        """Forget changes that weren't committed, and give the lock up."""
        self._require_idle()
        self.closed = True
        self._transaction.close()
