"""The shards of a folder in one process, searched and changed as one index; what `Index.open` gives for such a folder.

Kernels see the segments of all shards as those of one index, in one call, so that they share the score to be reached.
New documents go to the last shard, the end of the whole; a document is deleted where it is. So the order of documents,
and with it every result, is what it would be in one index. A change is committed shard by shard, the last one, which
has what is new, first. A kill between two of them may leave the old version of a document beside the new one, and
documents that were to be deleted: the same change once more mends it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from lsr.encode.base import Encoder
from lsr.errors import OutputError
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.filters import Filter
from lsr.index.sharding.manifest import ShardEntry, Shards, is_sharded, n_grown, require_one_line, save_shards
from lsr.index.sharding.remote import folder_of, read_manifests
from lsr.index.write.builder import Source
from lsr.index.write.merge import Merged
from lsr.index.write.update_batch import Change
from lsr.index.write.writer import Writer
from lsr.io.object_store import is_remote


class ShardedSnapshot(Snapshot):
    """The documents of all shards, as each of them was committed last.

    Attributes:
        shards: What shards.json says.
        snapshots: Of the shards, in document order.
        folders: Of the shards, on this machine.
    """

    def __init__(self, shards: Shards, snapshots: Sequence[Snapshot], folders: Sequence[Path]) -> None:
        self.shards, self.snapshots, self.folders = shards, tuple(snapshots), tuple(folders)
        shards.require_fit({s.path: snap.manifest for s, snap in zip(shards.entries, snapshots, strict=True)})
        files: dict[str, Any] = {}
        for entry, snapshot in zip(shards.entries, snapshots, strict=True):
            files |= {f"{entry.path}/{name}": file for name, file in snapshot.manifest["files"].items()}
        self.manifest: Mapping[str, Any] = {**snapshots[-1].manifest, "files": files}
        self.damaged = [message for snapshot in snapshots for message in snapshot.damaged]
        # All carry the same, but for tokens that were appended; so the one with the most that is whole will do.
        whole = [s for s in snapshots if not s.shared.damaged] or list(snapshots)
        self.shared = max(whole, key=lambda s: n_grown(s.manifest)).shared
        grown = {s.shared for s in whole if n_grown(s.manifest)} - {self.shared}
        require_one_line(str(folders[-1].parent), self.shared.vocabulary or [], [s.vocabulary or [] for s in grown])
        self._assemble([part for snapshot in snapshots for part in snapshot.parts])

    @property
    def manifests(self) -> Sequence[Mapping[str, Any]]:
        """One for each shard."""
        return [snapshot.manifest for snapshot in self.snapshots]

    def by_folder(self, path: Path) -> list[tuple[Path, Snapshot]]:
        """The folder of each shard, and what is committed in it."""
        return list(zip(self.folders, self.snapshots, strict=True))

    def require_changeable(self, path: Path) -> None:
        """Refuse to change shards in object storage.

        Raises:
            OutputError: There are some; the message names them.
        """
        if remote := [entry.path for entry in self.shards.entries if "://" in entry.path]:
            raise OutputError(f"{path}: shards in object storage can't be changed: {', '.join(remote)}")

    @classmethod
    def of(
        cls, folder: Path, before: Snapshot | None = None, *, skip_damaged: bool = False, same: bool = True
    ) -> ShardedSnapshot:
        """Open what was committed last in each shard; arguments are those of `Snapshot.latest`.

        Raises:
            IndexFormatError: No sharded folder; shards are missing, of another format, or others; all are named.
            EncoderMismatch: Shards of another encoder.
            CorruptIndex: A file is missing, cut short or, if small, changed.
        """
        shards = Shards.read(folder)
        known = {}
        if isinstance(before, ShardedSnapshot):
            known = dict(zip((entry.path for entry in before.shards.entries), before.snapshots, strict=True))
        read_manifests(shards)  # all that is wrong at once
        folders = [folder_of(shards.location(entry)) for entry in shards.entries]
        snapshots = [
            Snapshot.latest(
                path, known.get(entry.path), skip_damaged=skip_damaged, same=same and not is_remote(entry.path)
            )
            for path, entry in zip(folders, shards.entries, strict=True)
        ]
        if isinstance(before, ShardedSnapshot) and list(before.snapshots) == snapshots:
            return before
        return cls(shards, snapshots, folders)


def latest_snapshot(
    path: Path, before: Snapshot | None = None, *, skip_damaged: bool = False, same: bool = True
) -> Snapshot:
    """What was committed last in a folder, an index or a sharded one; arguments and errors as of `Snapshot.latest`."""
    sharded = is_sharded(path) if before is None else isinstance(before, ShardedSnapshot)
    kind = ShardedSnapshot.of if sharded else Snapshot.latest
    return kind(path, before, skip_damaged=skip_damaged, same=same)


def new_writer(path: Path, snapshot: Snapshot) -> Writer | ShardedWriter:
    """The writer of a folder whose latest open snapshot this is."""
    return ShardedWriter(path, snapshot) if isinstance(snapshot, ShardedSnapshot) else Writer(path, snapshot)


class ShardedWriter:
    """Changes the shards of a folder, whose locks it holds.

    Attributes:
        snapshot: What is committed.

    Args:
        folder: The sharded folder.
        before: The latest snapshot that is open.

    Raises:
        IndexLocked: Somebody else is writing.
        OutputError: A folder can't be written.
        CorruptIndex: Files are damaged.
    """

    def __init__(self, folder: Path, before: ShardedSnapshot) -> None:
        self._folder, self.snapshot = folder, ShardedSnapshot.of(folder, before)
        shards, opened = self.snapshot.shards, self.snapshot.snapshots
        self._writers: list[Writer] = []
        with ExitStack() as stack:
            for path, snapshot in zip(self.snapshot.folders, opened, strict=True):
                tokens = self.snapshot.shared.vocabulary
                writer = Writer(path, snapshot, others=self._writers[:], scale=shards.scale, tokens=tokens)
                stack.callback(writer.close)
                self._writers.append(writer)
            stack.pop_all()

    @property
    def closed(self) -> bool:
        """Whether `close` has begun."""
        return any(writer.closed for writer in self._writers)

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return any(writer.changed for writer in self._writers)

    def add(
        self,
        source: Source,
        encoder: Callable[[], Encoder],
        ids: Sequence[str] | None,
        *,
        replace: bool,
        skip_bad: bool,
    ) -> Change:
        """Add documents at the end of the last shard; with `replace` those of the same ids vanish from any."""
        return self._writers[-1].add(source, encoder, ids, replace=replace, skip_bad=skip_bad)

    def delete(self, ids: Sequence[str], where: Filter | None = None) -> Change:
        """Delete documents, wherever they are."""
        change = Change()
        if where is not None:
            where.require_known(list(chain.from_iterable(writer.columns() for writer in self._writers)))
        changes = [writer.delete(ids, where, known=True) for writer in self._writers]
        change.deleted = sum(one.deleted for one in changes)
        change.missing = [i for i in changes[0].missing if all(i in one.missing for one in changes[1:])]
        return change

    def commit(self) -> None:
        """Commit what has changed, the last shard first, then say in shards.json how many documents there are."""
        for writer in self._writers:
            writer.require_whole()
        for writer in reversed(self._writers):
            writer.commit()
        self._adopt()

    def merge(self, *, everything: bool) -> bool:
        """Merge the segments of each shard; returns whether there was anything to merge."""
        merged = [writer.merge(everything=everything) for writer in self._writers]
        self._adopt()
        return any(merged)

    def keep_pace(self, at_work: Collection[str]) -> None:
        """Merge the newest segments of shards that have too many; see `Writer.keep_pace`."""
        for writer in self._writers:
            writer.keep_pace(at_work)
        self._adopt()

    def take(self, merged: Merged) -> bool:
        """Put what was merged aside in its place in whichever shard it was made of, and commit that shard."""
        taken = any(writer.take(merged) for writer in self._writers)
        self._adopt()
        return taken

    def _adopt(self) -> None:
        snapshots = [writer.snapshot for writer in self._writers]
        if list(self.snapshot.snapshots) == snapshots:
            return
        entries = tuple(
            ShardEntry(entry.path, len(snapshot), sum(file["bytes"] for file in snapshot.manifest["files"].values()))
            for entry, snapshot in zip(self.snapshot.shards.entries, snapshots, strict=True)
        )
        shards = replace(self.snapshot.shards, entries=entries)
        self.snapshot = ShardedSnapshot(shards, snapshots, self.snapshot.folders)
        save_shards(self._folder, shards)

    def close(self) -> None:
        """Forget changes that weren't committed, and give the locks up."""
        for writer in self._writers:
            writer.close()
