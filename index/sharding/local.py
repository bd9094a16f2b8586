"""Search and change a sharded folder as one index, in one process; `Index.open` does this for such a folder.

Kernels search the segments of all shards like the segments of one index: in one call, with one score threshold. New
documents go to the last shard, so they come after all others; documents are deleted in their own shard. So the order of
documents, and with it every result, is the same as in one index. A change is committed shard by shard, starting with
the last shard, which has the new documents. If the process is killed between two of these commits, the old version of a
document may remain next to the new one, and deleted documents may remain; repeating the change repairs both.
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
    """The documents of all shards, each at its latest commit.

    Attributes:
        shards: The content of shards.json.
        snapshots: The shards' snapshots, in document order.
        folders: The shards' folders on this machine.
    """

    def __init__(self, shards: Shards, snapshots: Sequence[Snapshot], folders: Sequence[Path]) -> None:
        self.shards, self.snapshots, self.folders = shards, tuple(snapshots), tuple(folders)
        shards.require_fit({s.path: snap.manifest for s, snap in zip(shards.entries, snapshots, strict=True)})
        files: dict[str, Any] = {}
        for entry, snapshot in zip(shards.entries, snapshots, strict=True):
            files |= {f"{entry.path}/{name}": file for name, file in snapshot.manifest["files"].items()}
        self.manifest: Mapping[str, Any] = {**snapshots[-1].manifest, "files": files}
        self.damaged = [message for snapshot in snapshots for message in snapshot.damaged]
        # Shards share the encoder, but a shard may lack tokens that others appended. The longest vocabulary has all.

        whole = [s for s in snapshots if not s.shared.damaged] or list(snapshots)
        self.shared = max(whole, key=lambda s: n_grown(s.manifest)).shared
        grown = {s.shared for s in whole if n_grown(s.manifest)} - {self.shared}
        require_one_line(str(folders[-1].parent), self.shared.vocabulary or [], [s.vocabulary or [] for s in grown])
        self._assemble([part for snapshot in snapshots for part in snapshot.parts])

    @property
    def manifests(self) -> Sequence[Mapping[str, Any]]:
        """The manifests, one for each shard."""
        return [snapshot.manifest for snapshot in self.snapshots]

    def by_folder(self, path: Path) -> list[tuple[Path, Snapshot]]:
        """Return the folder of each shard with its snapshot."""
        return list(zip(self.folders, self.snapshots, strict=True))

    def require_changeable(self, path: Path) -> None:
        """Refuse to change shards in object storage.

        Raises:
            OutputError: There are such shards; the message names each of them.
        """
        if remote := [entry.path for entry in self.shards.entries if "://" in entry.path]:
            raise OutputError(f"{path}: shards in object storage can't be changed: {', '.join(remote)}")

    @classmethod
    def of(
        cls, folder: Path, before: Snapshot | None = None, *, skip_damaged: bool = False, same: bool = True
    ) -> ShardedSnapshot:
        """Open the latest commit of each shard; arguments as for `Snapshot.latest`.

        Raises:
            IndexFormatError: Not a sharded folder; or shards are missing, have another format, or were replaced. The
                message names each of them.
            EncoderMismatch: Shards of another encoder.
            CorruptIndex: A file is missing or truncated, or a small file fails its checksum.
        """
        shards = Shards.read(folder)
        known = {}
        if isinstance(before, ShardedSnapshot):
            known = dict(zip((entry.path for entry in before.shards.entries), before.snapshots, strict=True))
        read_manifests(shards)  # reports all problems at once
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
    """Open the latest commit of an index or a sharded folder; arguments and errors as for `Snapshot.latest`."""
    sharded = is_sharded(path) if before is None else isinstance(before, ShardedSnapshot)
    kind = ShardedSnapshot.of if sharded else Snapshot.latest
    return kind(path, before, skip_damaged=skip_damaged, same=same)


def new_writer(path: Path, snapshot: Snapshot) -> Writer | ShardedWriter:
    """Return a writer for a folder, given its latest open snapshot."""
    return ShardedWriter(path, snapshot) if isinstance(snapshot, ShardedSnapshot) else Writer(path, snapshot)


class ShardedWriter:
    """Changes a sharded folder, holding the locks of all shards.

    Attributes:
        snapshot: The committed state.

    Args:
        folder: The sharded folder.
        before: The latest open snapshot.

    Raises:
        IndexLocked: Another writer holds a lock.
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
        """Whether `close` was called."""
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
        """Add documents to the last shard; with `replace`, replace documents with the same ids in all shards."""
        return self._writers[-1].add(source, encoder, ids, replace=replace, skip_bad=skip_bad)

    def delete(self, ids: Sequence[str], where: Filter | None = None) -> Change:
        """Delete documents in all shards."""
        change = Change()
        if where is not None:
            where.require_known(list(chain.from_iterable(writer.columns() for writer in self._writers)))
        changes = [writer.delete(ids, where, known=True) for writer in self._writers]
        change.deleted = sum(one.deleted for one in changes)
        change.missing = [i for i in changes[0].missing if all(i in one.missing for one in changes[1:])]
        return change

    def commit(self) -> None:
        """Commit the changes, last shard first, then update the document counts in shards.json."""
        for writer in self._writers:
            writer.require_whole()
        for writer in reversed(self._writers):
            writer.commit()
        self._adopt()

    def merge(self, *, everything: bool) -> bool:
        """Merge the segments of each shard; return whether there was anything to merge."""
        merged = [writer.merge(everything=everything) for writer in self._writers]
        self._adopt()
        return any(merged)

    def keep_pace(self, at_work: Collection[str]) -> None:
        """Merge the newest segments of shards that have too many; see `Writer.keep_pace`."""
        for writer in self._writers:
            writer.keep_pace(at_work)
        self._adopt()

    def take(self, merged: Merged) -> bool:
        """Replace segments by the result of a background merge, in the shard that they belong to; see `Writer.take`."""
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
        """Discard uncommitted changes and release the locks."""
        for writer in self._writers:
            writer.close()
