"""Writer: changes of an index, gathered in memory, spilled as segments, committed as a whole.

A writer holds the index' lock. Documents that are added wait in a buffer; a full one becomes a segment that no manifest
names yet. Deleting marks a document, wherever it is; what is marked in segments goes into new files of alive bits.
`commit` lets a new manifest name all of it. Each call is taken as a whole or, if it fails, not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lsr.encode.base import Encoder
from lsr.encode.hub import load_encoder_files
from lsr.encode.stream import Report
from lsr.errors import CorruptIndex, DataError, EncoderError
from lsr.fingerprint import Fingerprint
from lsr.sparse import MAX_TERMS, SparseMatrix
from lsr.vectors import VectorBatch, Vectors

from .builder import BuildSettings, Known, Source, manifest_of, read_batches, write_segment
from .columns import Columns
from .documents import Documents
from .filters import Filter
from .merge import merge_parts, plan_merges
from .pending import Buffer, Stored, Unit, rows_of
from .quantize import Quantizer
from .snapshot import Snapshot
from .storage import Transaction, output_errors, read_manifest

_BUFFER = 1 << 28  # bytes of documents and vectors that wait in memory


@dataclass
class Change:
    """What a call changed, from the next commit on.

    Attributes:
        added: Documents that weren't there before.
        updated: Documents that replaced one of the same id.
        deleted: Documents that were deleted.
        missing: Ids that were to be deleted but aren't there.
        bad: Messages about documents that were left out.
        report: What encoding met on its way.
    """

    added: int = 0
    updated: int = 0
    deleted: int = 0
    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.deleted)

    def __str__(self) -> str:
        said = [f"{n} {what}" for n, what in ((self.added, "added"), (self.updated, "updated")) if n]
        said += [f"{self.deleted} deleted"] if self.deleted else []
        said += [f"{len(self.missing)} not there ({', '.join(self.missing[:3])})"] if self.missing else []
        return ", ".join(said) or "nothing changed"


class Writer:
    """Changes an index; one at a time.

    Attributes:
        snapshot: What is committed.

    Args:
        path: The index' folder.
        snapshot: The latest snapshot that is open.
        others: Writers of the other parts of a whole: ids are unique over all of them, and an update deletes there.
        scale: Of the whole, if it has one already.

    Raises:
        OutputError: Somebody else is writing, or the folder can't be written.
        CorruptIndex: Files are damaged.
    """

    def __init__(self, path: Path, snapshot: Snapshot, others: Sequence[Writer] = (), scale: float = 0.0) -> None:
        read_manifest(path)  # refused before anything is made there
        self._path, self._others, self._beside = path, tuple(others), scale
        self._transaction = Transaction(path)
        try:
            self.snapshot = Snapshot.latest(path, snapshot)
            if self.snapshot.damaged:
                raise CorruptIndex("\n".join(self.snapshot.damaged))
            self._begin()
        except BaseException:
            self._transaction.close()
            raise

    def _begin(self) -> None:
        """Start from what is committed."""
        manifest, shared = self.snapshot.manifest, self.snapshot.shared
        self._settings = BuildSettings.of(manifest)
        self._scale = float(manifest["scale"]) or self._beside
        self._known = Known()
        self._known.fingerprint, self._known.encoder_files = shared.fingerprint, shared.encoder_files
        self._known.vocabulary = shared.vocabulary
        self._learned = False  # whether there is more known now than committed
        self._stored = [Stored(dict(p.entry), p.documents, p.alive) for p in self.snapshot.parts]
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
        change = Change()
        call = _Call(self._buffer, replace, skip_bad, change)
        n_stored, known, scale, learned = len(self._stored), self._known, self._scale, self._learned
        try:
            with output_errors(self._path):
                elsewhere = [stored for other in self._others for stored in other._stored]
                for batch in self._batches(source, encoder, ids, change.report, skip_bad):
                    call.take(batch, [*elsewhere, *self._stored, self._buffer, call.fresh])
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
            call.undo()
            for stored in self._stored[n_stored:]:
                if stored is not call.early:
                    self._transaction.drop(self._path / stored.entry["name"])
            self._stored = self._stored[:n_stored] + ([call.early] if call.early else [])
            self._scale = call.early.entry["scale"] if call.early and not scale else scale
            self._known, self._learned = known, learned
            raise
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
        if where is not None and not known:
            where.require_known(self.columns())
        keys = list(dict.fromkeys(ids))
        for key in keys:
            if not isinstance(key, str):
                raise DataError(f"an id to delete must be a string, got {key!r}")
        found = set()
        units: list[Unit] = [*self._stored, self._buffer]
        for unit in units:
            for i, row, parent in list(unit.matches(keys)):
                if parent in (None, keys[i]):  # not a passage by its own id
                    unit.mark(row, False)
                    found.add(i)
        n_filtered = self._delete_where(where) if where is not None else 0
        self.changed = self.changed or bool(found) or bool(n_filtered)
        missing = [key for i, key in enumerate(keys) if i not in found]
        return Change(deleted=len(found) + n_filtered, missing=missing)

    def columns(self) -> list[Columns]:
        """The metadata of all documents, also those that were added just now."""
        with output_errors(self._path):
            if self._buffer.alive:  # metadata are columns once they are written
                self._spill(self._buffer, self._buffer.alive)
                self._buffer = Buffer()
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
        source: Source,
        encoder: Callable[[], Encoder],
        ids: Sequence[str] | None,
        report: Report,
        skip_bad: bool,
    ) -> Iterator[VectorBatch]:
        """Documents of any source with vectors in the terms of the index."""
        empty, known = not (self._stored or self._buffer.alive), self._known
        read = partial(read_batches, source, ids=ids, settings=self._settings, report=report, skip_bad=skip_bad)
        if isinstance(source, SparseMatrix | Vectors):
            if empty and not (known.encoder_files or known.vocabulary or known.fingerprint.vocabulary_size):
                known = Known()  # nothing is known yet, so what comes first decides
            yield from self._in_our_terms(read(None), source, known)
            return
        if not known.encoder_files:
            raise EncoderError(
                f"{self._path}: this index was built from vectors without their encoder ({known.fingerprint}): "
                "add vectors of the same encoder"
            )
        model = encoder()
        if model.needs_fit:  # on what comes now; should the call fail, nothing is learned from it
            model = load_encoder_files(known.encoder_files)
        yield from read(model)
        if model.fingerprint != known.fingerprint:
            if not empty:
                known.fingerprint.require_same(model.fingerprint, f"the index {self._path}", "the encoder given")
            self._known, self._learned = Known(), True  # it was fitted just now
            self._known.take(model)

    def _in_our_terms(
        self, batches: Iterator[VectorBatch], source: SparseMatrix | Vectors, known: Known
    ) -> Iterator[VectorBatch]:
        """Vectors checked, and brought into the terms of the index."""
        where, tokens = "the matrix", None
        if isinstance(source, Vectors):
            where, tokens = source.name, source.vocabulary
            known.fingerprint.require_same(source.fingerprint, f"the index {self._path}", where)
        if known is not self._known:
            if isinstance(source, Vectors):
                known.fingerprint, known.encoder_files = source.fingerprint, dict(source.encoder_files)
                known.vocabulary = None if tokens is None else []
            else:
                known.fingerprint = Fingerprint(vocabulary_size=source.shape[1])
            self._known, self._learned = known, True
        ours = None if known.vocabulary is None else list(known.vocabulary)
        if tokens is not None and ours is None:
            raise DataError(f"these vectors have tokens, but the index {self._path} doesn't know its own", where)
        closed = bool(ours) and (bool(known.encoder_files) or known.fingerprint.vocabulary_size is not None)
        term_of = {token: term for term, token in enumerate(ours or ())}
        terms: list[int] = []  # of each of their tokens
        for batch in batches:
            vectors = batch.vectors
            if tokens is not None and ours is not None:
                for token in tokens[len(terms) :]:
                    if token not in term_of:
                        if closed:
                            raise DataError(f"the token {token!r} isn't in the index' vocabulary", where)
                        term_of[token] = len(ours)
                        ours.append(token)
                    terms.append(term_of[token])
                if terms != list(range(len(terms))):
                    there = np.array(terms, np.int64)[vectors.indices]
                    shape = (len(vectors), max(len(ours), 1))
                    vectors = SparseMatrix(vectors.indptr, there, vectors.data, shape)
            size = known.fingerprint.vocabulary_size or (len(ours) if ours is not None else MAX_TERMS)
            if vectors.nnz and int(vectors.indices.max()) >= size:
                raise DataError(
                    f"term {int(vectors.indices.max())}: the index {self._path} has {size} terms; "
                    "another encoder made these vectors",
                    where,
                )
            yield VectorBatch(batch.documents, vectors)
        if ours is not None and len(ours) > len(known.vocabulary or ()):
            grown = Known()
            grown.fingerprint, grown.encoder_files = known.fingerprint, known.encoder_files
            grown.vocabulary = ours
            self._known, self._learned = grown, True

    def _spill(self, buffer: Buffer, kept: Sequence[bool]) -> Stored | None:
        """Write what a buffer holds as a segment."""
        scale = self._scale
        quantizer = partial(Quantizer.beside, scale) if scale else Quantizer.of
        if not any(kept):
            return None
        entry = write_segment(self._transaction, buffer.batches(kept), self._settings, quantizer=quantizer)
        assert entry is not None
        self._scale = scale or entry["scale"]
        documents = Documents(self._path / entry["name"], entry["n_docs"], entry["has_text"])
        self._stored.append(Stored(entry, documents, None))
        return self._stored[-1]

    # --- the end of a transaction -----------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make the changes durable, and visible to who opens or refreshes the index."""
        if not self.changed:
            return
        with output_errors(self._path):
            if self._buffer.alive:
                self._spill(self._buffer, self._buffer.alive)
                self._buffer = Buffer()
            self._replace([stored.write(self._transaction) for stored in self._stored])

    def merge(self, *, everything: bool) -> bool:
        """Merge what is committed: all segments into one, or those that the policy names.

        Returns:
            Whether there was anything to merge.
        """
        merged = False
        with output_errors(self._path):
            while True:
                parts = self.snapshot.parts
                run = plan_merges([part.entry for part in parts])
                if everything:
                    whole = len(parts) == 1 and parts[0].alive is None
                    run = None if not parts or whole else (0, len(parts))
                if run is None:
                    return merged
                first, end = run
                entry = merge_parts(self._transaction, parts[first:end], self._settings)
                before, after = parts[:first], parts[end:]
                new = [] if entry is None else [entry]
                self._replace([*(dict(p.entry) for p in before), *new, *(dict(p.entry) for p in after)])
                merged = True

    def _replace(self, segments: list[dict[str, Any]]) -> None:
        """Commit a manifest of some segments."""
        names = ("fingerprint", "shared", "has_encoder", "has_vocabulary")
        shared = {name: self.snapshot.manifest[name] for name in names}
        if self._learned:
            shared = self._known.write(self._transaction)
        segments = [segment for segment in segments if segment["n_alive"]]
        if segments:  # what comes next is written beside most of what there is
            self._scale = float(max(segments, key=lambda segment: segment["n_postings"])["scale"])
        manifest = manifest_of(shared, self._settings, self._scale, segments)
        whole = self._transaction.commit(manifest)
        self.snapshot = Snapshot(self._path, whole, self.snapshot)
        self._begin()

    def close(self) -> None:
        """Forget changes that weren't committed, and give the lock up."""
        self._transaction.close()


class _Call:
    """One call of `Writer.add`: what it brings, and how to undo what it did to earlier documents.

    Attributes:
        fresh: The documents that it brought and that aren't spilled yet.
        before: Which documents of the buffer were alive when it began.
        early: The segment that this buffer became meanwhile, if it did.
    """

    def __init__(self, buffer: Buffer, replace: bool, skip_bad: bool, change: Change) -> None:
        self._buffer, self._replace, self._skip_bad, self._change = buffer, replace, skip_bad, change
        self.fresh, self.before = Buffer(), list(buffer.alive)
        self.early: Stored | None = None
        self._marked: list[tuple[Unit, int]] = []
        self._parents: set[str] = set()  # of passages that this call brought
        self._number = 0

    def take(self, batch: VectorBatch, units: Sequence[Unit]) -> None:
        """Take some documents, and mark those that they replace.

        Raises:
            DataError: An id that is there already, or occurs twice.
        """
        ids, parents = batch.ids, list(batch.documents.column("parent").to_pylist())
        owners = [parent or doc_id for doc_id, parent in zip(ids, parents, strict=True)]
        firsts = {parent for parent in parents if parent is not None and parent not in self._parents}
        # Of an id that occurs twice the first is added, but the last replaces.
        chosen = {doc_id: i for i, doc_id in (enumerate(ids) if self._replace else reversed(list(enumerate(ids))))}
        keys = list(dict.fromkeys(chain(ids, firsts)))
        owner_of = dict(zip(ids, owners, strict=True)) | {parent: parent for parent in firsts}
        there: dict[str, str] = {}  # documents that can't be taken, and why
        replaced = set()
        for unit in units:
            for i, row, _ in list(unit.matches(keys)):
                owner = owner_of[keys[i]]
                if self._replace:
                    unit.mark(row, False)
                    self._marked.append((unit, row))
                    replaced.add(owner)
                elif unit is self.fresh:
                    there.setdefault(owner, f"the id {keys[i]!r} occurs twice")
                else:
                    how = "update, lsr add --update replaces it"
                    there.setdefault(owner, f"the id {owner!r} is in the index already; {how}")
        kept = np.ones(len(ids), bool)
        for i, (doc_id, owner) in enumerate(zip(ids, owners, strict=True)):
            kept[i] = chosen[doc_id] == i and owner not in there
            if not kept[i] and not self._replace:
                self._refuse(there.get(owner, f"the id {doc_id!r} occurs twice"), self._number + i + 1)
        self._number += len(ids)
        here = np.flatnonzero(kept).tolist()
        taken_now = {owners[i] for i in here} - self._parents
        self._change.updated += len(taken_now & replaced)
        self._change.added += len(taken_now - replaced)
        self._parents |= firsts
        if here:
            self.fresh.append(rows_of(batch, kept), [parents[i] for i in here])

    def _refuse(self, problem: str, number: int) -> None:
        if not self._skip_bad:
            raise DataError(problem, f"document {number}")
        self._change.bad.append(f"document {number}: {problem}")

    def moved(self, buffer: Buffer, stored: Stored | None) -> None:
        """Note that earlier documents are in a segment now."""
        if stored is None:
            return
        self.early = stored
        for row, (before, now) in enumerate((b, n) for b, n in zip(self.before, buffer.alive, strict=True) if b):
            if before and not now:
                stored.mark(row, False)
        self.before = []

    def undo(self) -> None:
        """Make all documents alive again that this call marked."""
        for unit, row in self._marked:
            unit.mark(row, True)
        if self.early is not None:
            for row in range(len(self.early.documents)):
                self.early.mark(row, True)
