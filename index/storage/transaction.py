"""Transaction: the lock of an index folder, its new files, and the commit that adds them to the manifest.

Only the holder of the lock may commit, or remove files that dead processes left. A background merge writes to a folder
of its own under another lock (`MergeWorkspace`) while others commit; a transaction then takes over the merged segment.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import filelock

from lsr.durable import sync
from lsr.errors import IndexFormatError, IndexLocked, OutputError
from lsr.index.storage.manifest import (
    ASIDE,
    FORMAT,
    HOLDER,
    LOCK,
    MANIFEST,
    MERGING,
    MOVED,
    OURS,
    digest_file,
    make_folder,
    output_errors,
    read_manifest,
    replace_file,
    with_checksum,
)

_PATIENCE = 1.0  # seconds to wait for the lock; enough for another writer's commit


class StagedFiles:
    """New files of an index, not yet in a manifest.

    Attributes:
        root: Folder of the new files.
        scratch: Folder of temporary files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / f"segment-{secrets.token_hex(8)}.tmp"
        self._new: list[Path] = []
        self._owner = os.getpid()

    def folder(self, kind: str) -> Path:
        """Make a new folder, "segment" or "shared"."""
        folder = self.root / f"{kind}-{secrets.token_hex(8)}"
        self._new.append(folder)
        folder.mkdir()
        return folder

    def drop(self, path: Path) -> None:
        """Remove a new file or folder."""
        if path in self._new:
            self._new.remove(path)
            _remove(path)

    @property
    def is_ours(self) -> bool:
        """Whether this process created the files; after a fork, files and lock belong to the parent."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """Remove uncommitted files and release the lock; does nothing in a forked child."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transaction(StagedFiles):
    """The lock of an index, and new files: `commit` adds these to the index, `close` removes uncommitted ones.

    Attributes:
        manifest: The committed manifest; None if there is none or it can't be read.

    Args:
        index: The folder.

    Raises:
        IndexLocked: Another writer holds the lock for more than a second.
        OutputError: The folder can't be written.
    """

    def __init__(self, index: Path) -> None:
        super().__init__(index)
        self._made = not index.exists()
        self._received: dict[str, Mapping[str, Any]] = {}
        self._tried: dict[str, Any] | None = None  # a manifest that may or may not have been committed
        self._lock_file: tuple[int, int] | None = None
        make_folder(index)
        with output_errors(index, every=True):
            self._lock = _lock(index / LOCK, patience=_PATIENCE)
            try:
                self._lock.acquire()
                self._lock_file = _file_at(index / LOCK)
                self.manifest = _committed(index)
                _note_holder(index)
                if self.manifest is not None or not (index / MANIFEST).exists():
                    sweep(index, self.manifest)
                self.scratch.mkdir()
            except filelock.Timeout:
                raise IndexLocked(f"{index}: {_holder(index)}") from None
            except BaseException:
                self.close()
                raise

    def folder(self, kind: str) -> Path:
        """See `StagedFiles`.

        Raises:
            OutputError: The index was moved or deleted.
        """
        self._require_here()
        return super().folder(kind)

    def alive_file(self) -> Path:
        """Return the path for a new file of alive bits."""
        self._require_here()
        path = self.root / f"alive-{secrets.token_hex(8)}.arrow"
        self._new.append(path)
        return path

    def receive(self, folder: Path, files: Mapping[str, Any]) -> Path:
        """Take over a folder from a background merge.

        Args:
            folder: The folder.
            files: The folder's entries from `describe`.

        Returns:
            The folder's new path.
        """
        here = self.root / folder.name
        self._new.append(here)
        folder.rename(here)
        self._received[here.name] = files
        return here

    def commit(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Sync all new files to disk, write the manifest, and remove files that it no longer lists.

        Args:
            manifest: The manifest without its files.

        Returns:
            The complete manifest.

        Raises:
            OutputError: The manifest can't be written; the index was moved or deleted; or this is a forked child,
                which can't commit its parent's changes.
        """
        if not self.is_ours:
            raise OutputError(f"{self.root}: process {self._owner} is writing this; a forked child can't commit it")
        self._require_here()
        self._settle()
        segments = manifest["segments"]
        named = {manifest["shared"], *(s["name"] for s in segments), *(s["alive"] for s in segments)}
        named |= {piece["name"] for piece in manifest.get("grown", ())}
        old = self.manifest["files"] if self.manifest else {}
        files = {name: entry for name, entry in old.items() if name.split("/")[0] in named}
        for new in (path for path in self._new if path.name in named):
            files |= self._received.get(new.name) or describe(new)
        index_id = (self.manifest or {}).get("index_id") or secrets.token_hex(16)
        whole = {"format": FORMAT, "index_id": index_id, **manifest, "files": dict(sorted(files.items()))}
        self._tried = whole
        replace_file(self.root / MANIFEST, with_checksum(whole))
        self._take(whole)
        sync(self.root)
        sweep(self.root, whole, also={self.scratch, *self._new})
        return whole

    def close(self) -> None:
        """Remove uncommitted files and release the lock, also after an interrupted commit.

        Does nothing in a forked child.
        """
        if not self.is_ours or not self._lock.is_locked:
            return
        try:
            if self._is_here:
                self._settle()
                for path in [*self._new, self.scratch]:
                    _remove(path)
                _remove(self.root / HOLDER)
                if self._made and not (self.root / MANIFEST).exists():
                    with suppress(OSError):  # while holding the lock, so that no other writer's file is removed
                        (self.root / LOCK).unlink(missing_ok=True)
                        self.root.rmdir()
        finally:
            self._lock.release(force=True)

    def _take(self, whole: dict[str, Any]) -> None:
        """Record that a manifest was committed: its files are no longer new."""
        named = {name.split("/")[0] for name in whole["files"]}
        self.manifest, self._new = whole, [path for path in self._new if path.name not in named]
        self._tried = None

    def _settle(self) -> None:
        """Find out whether an interrupted or failed commit took effect."""
        if self._tried is not None and _committed(self.root) == self._tried:
            self._take(self._tried)

    @property
    def _is_here(self) -> bool:
        """Whether the folder is still the locked one; it may have been moved and replaced."""
        return self._lock_file is not None and _file_at(self.root / LOCK) == self._lock_file

    def _require_here(self) -> None:
        if not self._is_here:
            raise OutputError(f"{self.root}: {MOVED}")


class MergeWorkspace(StagedFiles):
    """A folder within an index's folder for background merges; `close` removes it.

    Raises:
        IndexLocked: Another process is merging in the background.
        OutputError: The folder can't be written.
    """

    def __init__(self, index: Path) -> None:
        super().__init__(index / f"merging-{secrets.token_hex(8)}")
        with output_errors(index, every=True):
            self._lock = _lock(index / MERGING)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise IndexLocked(f"{index}: another process is merging its segments") from None
            try:
                self.root.mkdir()
                self.scratch.mkdir()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Remove the folder and release the lock; does nothing in a forked child."""
        if not self.is_ours:
            return
        _remove(self.root)
        self._lock.release()


def describe(new: Path) -> dict[str, Any]:
    """Sync a new file or folder to disk; return the manifest entries of its files."""
    files = {}
    inside = sorted(new.rglob("*")) if new.is_dir() else [new]
    for path in (path for path in inside if path.is_file()):
        entry = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
        files[path.relative_to(new.parent).as_posix()] = entry
    for path in [*inside, new]:
        sync(path)
    return files


def _lock(path: Path, patience: float = 0.0) -> filelock.BaseFileLock:
    # The lock isn't thread-local: calls of asyncio run in any thread, so another thread may release the lock.
    return filelock.FileLock(path, timeout=patience, poll_interval=0.01, thread_local=False)


def _committed(index: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(index)
    except IndexFormatError:
        return None


def _note_holder(index: Path) -> None:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    (index / HOLDER).write_bytes(json.dumps(holder).encode())


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file or folder; None if it doesn't exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _holder(index: Path) -> str:
    """Describe who holds the lock and what to do, for messages."""
    try:
        holder = json.loads((index / HOLDER).read_bytes())
        pid, host, since = int(holder["pid"]), str(holder["host"])[:100], str(holder["since"])[:40]
    except (OSError, ValueError, KeyError, TypeError):
        return "another process is writing this index; wait until it is done"
    if (pid, host) == (os.getpid(), socket.gethostname()):
        mend = "commit or roll back its changes, or make all changes with one object"
        return f"another Index object of this process ({pid}) has been writing this index since {since}; {mend}"
    who = f"process {pid} on {host!r} since {since}"
    return f"another process is writing this index ({who}); wait until it is done"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def sweep(index: Path, manifest: Mapping[str, Any] | None, also: Collection[Path] = ()) -> None:
    """Remove an index's files and folders that the manifest doesn't list. The caller must hold the lock."""
    named = {name.split("/")[0] for name in manifest["files"]} if manifest else set()
    aside = []
    for path in index.iterdir():
        left = path.name not in named and (OURS.fullmatch(path.name) or path.name == MANIFEST + ".tmp")
        if left and path not in also:
            _remove(path)
        if ASIDE.fullmatch(path.name):
            aside.append(path)
    if aside:  # if the lock for merging is free, the process that made these folders is dead
        with suppress(filelock.Timeout), _lock(index / MERGING):
            for path in aside:
                _remove(path)
