"""One call that adds documents: finds existing documents with the same ids, and undoes its changes on failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lsr.encode.corpus import Report
from lsr.errors import DoubledId
from lsr.index.write.buffer import Buffer, PendingSegment, Unit, rows_of
from lsr.io.vectors import VectorBatch


@dataclass
class Change:
    """The changes made by a call; they take effect with the next commit.

    Attributes:
        added: Number of new documents.
        updated: Number of documents that replaced a document with the same id.
        deleted: Number of deleted documents.
        missing: Ids to delete that don't exist.
        bad: Messages about skipped documents.
        report: Encoding counts.
    """

    added: int = 0
    updated: int = 0
    deleted: int = 0
    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    @property
    def refused(self) -> int:
        """Number of skipped documents."""
        return len(self.bad)

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.deleted)

    def __str__(self) -> str:
        said = [f"{n} {what}" for n, what in ((self.added, "added"), (self.updated, "updated")) if n]
        said += [f"{self.deleted} deleted"] if self.deleted else []
        said += [f"{len(self.missing)} not found ({', '.join(self.missing[:3])})"] if self.missing else []
        return ", ".join(said) or "nothing changed"


class Call:
    """One call of `Writer.add`: its documents, and how to undo its changes to earlier documents.

    Attributes:
        fresh: The call's documents that aren't in a segment yet.
        before: For each document of the writer's buffer, whether it was live when the call started.
        early: The segment that the writer's buffer was written to during the call; None if it wasn't written.
    """

    def __init__(self, buffer: Buffer, replace: bool, skip_bad: bool, change: Change) -> None:
        self._buffer, self._replace, self._skip_bad, self._change = buffer, replace, skip_bad, change
        self.fresh, self.before = Buffer(), list(buffer.alive)
        self.early: PendingSegment | None = None
        self._marked: list[tuple[Unit, int]] = []
        self._parents: set[str] = set()  # documents whose passages this call added
        self._number = 0

    def take(self, batch: VectorBatch, before: Sequence[Unit], own: Sequence[Unit]) -> None:
        """Add documents, and mark the documents that they replace as deleted.

        Args:
            batch: The documents.
            before: Documents from before the call.
            own: Documents that this call has added so far.

        Raises:
            DoubledId: An id already exists or occurs twice.
        """
        ids, parents = batch.ids, list(batch.documents.column("parent").to_pylist())
        owners = [parent or doc_id for doc_id, parent in zip(ids, parents, strict=True)]
        take = self._replacing if self._replace else self._adding
        kept = take(ids, parents, owners, before, own)
        self._number += len(ids)
        here = np.flatnonzero(kept).tolist()
        self._parents -= {owners[i] for i in here if parents[i] is None}
        self._parents |= {owners[i] for i in here if parents[i] is not None}
        if here:
            self.fresh.append(rows_of(batch, kept), [parents[i] for i in here])

    def _adding(
        self,
        ids: list[str],
        parents: list[str | None],
        owners: list[str],
        before: Sequence[Unit],
        own: Sequence[Unit],
    ) -> NDArray[np.bool_]:
        """Return (n,) bool: which documents to add. Of a repeated id, the first document is added."""
        first_of = {doc_id: i for i, doc_id in reversed(list(enumerate(ids)))}
        firsts = {parent for parent in parents if parent is not None and parent not in self._parents}
        keys = list(dict.fromkeys(chain(ids, firsts)))
        owner_of = dict(zip(ids, owners, strict=True)) | {parent: parent for parent in firsts}
        there: dict[str, str] = {}  # {refused document: reason}
        for unit in before:
            for i, _, _ in unit.matches(keys):
                owner = owner_of[keys[i]]
                how = "upsert (lsr add --update) replaces it"
                there.setdefault(owner, f"the id {owner!r} is in the index already; {how}")
        for unit in own:
            for i, _, _ in unit.matches(keys):
                there.setdefault(owner_of[keys[i]], f"the id {keys[i]!r} occurs twice")
        kept = np.ones(len(ids), bool)
        for i, (doc_id, owner) in enumerate(zip(ids, owners, strict=True)):
            kept[i] = first_of[doc_id] == i and owner not in there
            if not kept[i]:
                self._refuse(there.get(owner, f"the id {doc_id!r} occurs twice"), self._number + i + 1)
        self._change.added += len({owners[i] for i in np.flatnonzero(kept)} - self._parents)
        return kept

    def _replacing(
        self,
        ids: list[str],
        parents: list[str | None],
        owners: list[str],
        before: Sequence[Unit],
        own: Sequence[Unit],
    ) -> NDArray[np.bool_]:
        """Mark replaced documents as deleted; return (n,) bool: which documents to keep.

        Of a repeated id, the last document is kept.
        """
        kept, anew = _last_versions(ids, parents, owners)
        here = np.flatnonzero(kept).tolist()
        # If this call has added passages of the same document, a passage belongs to them or starts the next version.
        more = [i for i in here if owners[i] in self._parents and owners[i] not in anew]
        more_ids = [ids[i] for i in more]
        again = sorted({more[i] for unit in own for i, _, _ in unit.matches(more_ids)}, reverse=True)
        begins = {owners[i]: i for i in [*(i for i in more if parents[i] is None), *again]}
        for i in more:
            kept[i] = i >= begins.get(owners[i], 0)
        anew |= begins.keys()
        here = np.flatnonzero(kept).tolist()
        owner_of = {ids[i]: owners[i] for i in here}
        owner_of |= {owners[i]: owners[i] for i in here if owners[i] in anew or owners[i] not in self._parents}
        keys, replaced, counted = list(owner_of), set[str](), set(self._parents)
        for units, owners_met in ((before, replaced), (own, counted)):
            for unit in units:
                for i, row, _ in list(unit.matches(keys)):
                    unit.mark(row, False)
                    self._marked.append((unit, row))
                    owners_met.add(owner_of[keys[i]])
        taken = {owners[i] for i in here} - counted
        self._change.updated += len(taken & replaced)
        self._change.added += len(taken - replaced)
        return kept

    def _refuse(self, problem: str, number: int) -> None:
        if not self._skip_bad:
            raise DoubledId(problem, f"document {number}")
        self._change.bad.append(f"document {number}: {problem}")

    def moved(self, buffer: Buffer, stored: PendingSegment | None) -> None:
        """Record that the writer's buffer from before the call was written as a segment."""
        if stored is None:
            return
        self.early = stored
        for row, (before, now) in enumerate((b, n) for b, n in zip(self.before, buffer.alive, strict=True) if b):
            if before and not now:
                stored.mark(row, False)
        self.before = []

    def undo(self) -> None:
        """Restore all documents that this call marked as deleted."""
        for unit, row in self._marked:
            unit.mark(row, True)
        if self.early is not None:
            for row in range(len(self.early.documents)):
                self.early.mark(row, True)


def _last_versions(ids: list[str], parents: list[str | None], owners: list[str]) -> tuple[NDArray[np.bool_], set[str]]:
    """Find the rows that belong to the last version of their document, (n,) bool, and the ids with several versions.

    A new version starts where a passage's id repeats, or where a document changes between whole and cut.
    """
    kept, anew = np.ones(len(ids), bool), set[str]()
    versions: dict[str, dict[str, int]] = {}
    for i, (doc_id, parent, owner) in enumerate(zip(ids, parents, owners, strict=True)):
        version = versions.setdefault(owner, {})
        first = next(iter(version.values()), i)
        if doc_id in version or (parent is None) != (parents[first] is None):
            kept[list(version.values())] = False
            version.clear()
            anew.add(owner)
        version[doc_id] = i
    return kept, anew
