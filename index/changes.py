"""One call that changes an index: what it brings, what it changed, and how to undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from lsr.encode.stream import Report
from lsr.errors import DoubledId
from lsr.vectors import VectorBatch

from .pending import Buffer, Stored, Unit, rows_of


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


class Call:
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
            DoubledId: An id that is there already, or occurs twice.
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
            raise DoubledId(problem, f"document {number}")
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
