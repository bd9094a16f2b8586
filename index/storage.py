"""An index folder: one manifest, replaced atomically, and the data files it names.

    INDEX/
      manifest.json          format, fingerprint, counts, size and SHA-256 of every file, and its own SHA-256
      data-1f3a…/            written whole before the manifest names it, never changed afterwards
      .lock                  held by whoever writes

A kill at any moment leaves the old manifest with its data or the new one with its own; data folders that no manifest
names are removed by the next writer. Arrays are Arrow IPC files, memory-mapped. Opening checks the manifest, the size
of every file and the content of the small ones; `verify` checks every byte.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa

from lsr.errors import CorruptIndex, IndexFormatError, OutputError, OutputExists

MANIFEST = "manifest.json"
FORMAT = 2
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHECKED_AT_OPEN = 1 << 22  # files up to this size are hashed whenever an index is opened
_DATA_NAME = re.compile(r"data-[0-9a-f]{16}")  # so long that no dated folder of a user's looks like one
_STAGED_NAME = re.compile(_DATA_NAME.pattern + r"(\.tmp)?")
_FILE_NAME = re.compile(r"(encoder/)?[A-Za-z0-9_][A-Za-z0-9_.-]*")


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dump(manifest: Mapping[str, Any]) -> bytes:
    body = json.dumps(manifest, indent=1).encode()
    return json.dumps({**manifest, "sha256": hashlib.sha256(body).hexdigest()}, indent=1).encode() + b"\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of an index.

    Raises:
        IndexFormatError: There is no index, or one of another format version.
        CorruptIndex: The manifest was changed or cut short.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise IndexFormatError(f"{folder}: no such index")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IndexFormatError(f"{folder}: not an index: it has no {MANIFEST}") from None
    try:
        manifest = json.loads(content)
        version = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise CorruptIndex(f"{path}: damaged: not a manifest; {_RESTORE}") from None
    if isinstance(version, int) and version > FORMAT:
        raise IndexFormatError(
            f"{folder}: index format {version}, written by lsr {manifest.get('lsr', '?')}; this version reads "
            f"format {FORMAT}: upgrade with pip install -U lsr-search"
        )
    if isinstance(version, int) and version < FORMAT:
        raise IndexFormatError(
            f"{folder}: index format {version}, written by lsr {manifest.get('lsr', '?')}; this version reads "
            f"format {FORMAT}: build the index again from its documents or vectors"
        )
    manifest.pop("sha256", None)
    if _dump(manifest) != content:
        raise CorruptIndex(f"{path}: damaged: the content doesn't match its checksum; {_RESTORE}")
    _require_sound(manifest, path)
    return dict(manifest)


def _require_sound(manifest: Mapping[str, Any], path: Path) -> None:
    """Refuse a manifest whose checksum is right but whose values make no sense: somebody else wrote it."""
    try:
        impacts = manifest["impacts"]
        sound = (
            isinstance(manifest["fingerprint"], str)
            and all(type(manifest[name]) is int and manifest[name] >= 0 for name in ("n_docs", "n_postings"))
            and all(type(manifest[name]) is bool for name in ("has_text", "has_parents", "has_vocabulary"))
            and impacts["type"] in ("uint8", "float32")
            and all(type(impacts[name]) is float and impacts[name] >= 0 for name in ("scale", "max_error"))
            and isinstance(manifest["encoder"], str | None)
            and _DATA_NAME.fullmatch(manifest["data"])
            and all(_FILE_NAME.fullmatch(name) for name in manifest["files"])
            and all(type(entry["bytes"]) is int for entry in manifest["files"].values())
            and all(isinstance(entry["sha256"], str) for entry in manifest["files"].values())
        )
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise CorruptIndex(f"{path}: damaged: values are missing or make no sense; {_RESTORE}")


_RESTORE = "restore it from a copy or build the index again"


def check_files(folder: Path, manifest: Mapping[str, Any], *, every_byte: bool = False) -> list[str]:
    """What is wrong with the files of an index, a message each; empty if nothing is.

    Args:
        folder: The index.
        manifest: Its manifest.
        every_byte: Hash all files, not only the small ones.
    """
    wrong = []
    for name, entry in manifest["files"].items():
        path = folder / manifest["data"] / name
        try:
            size = path.stat().st_size
            if size != entry["bytes"]:
                wrong.append(f"{path}: {size} bytes, {entry['bytes']} were written; {_RESTORE}")
            elif (every_byte or size <= _CHECKED_AT_OPEN) and _digest_file(path) != entry["sha256"]:
                wrong.append(f"{path}: damaged: the content doesn't match its checksum; {_RESTORE}")
        except OSError as error:
            wrong.append(f"{path}: {'missing' if isinstance(error, FileNotFoundError) else error}; {_RESTORE}")
    return wrong


class Staging:
    """A new data folder that becomes the index's with `commit`; left without it, everything written is removed.

    Attributes:
        folder: Where to write the files. Subfolder `encoder/` may be made.
        scratch: Where temporary files go; removed in either case.
    """

    def __init__(self, index: Path) -> None:
        self._index = index
        self._name = f"data-{secrets.token_hex(8)}"
        self.folder = index / self._name
        self.scratch = index / (self._name + ".tmp")
        self.folder.mkdir()
        self.scratch.mkdir()

    def commit(self, manifest: Mapping[str, Any]) -> None:
        """Write everything through to the disk, then let the manifest name it, then drop what it no longer names."""
        files = {}
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": _digest_file(path)}
            _sync(path)
        for folder in {path.parent for path in self.folder.rglob("*")} | {self.folder}:
            _sync(folder)
        content = _dump({"format": FORMAT, **manifest, "data": self._name, "files": files})
        partial = self._index / (MANIFEST + ".tmp")
        partial.write_bytes(content)
        _sync(partial)
        _sync(self._index)
        partial.replace(self._index / MANIFEST)
        _sync(self._index)
        sweep(self._index, keep=self._name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(index: Path, keep: str | None) -> None:
    """Remove data folders and temporary files that no manifest names; only for who holds the lock."""
    for path in index.iterdir():
        if _STAGED_NAME.fullmatch(path.name) and path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def staged(index: Path, *, overwrite: bool) -> Iterator[Staging]:
    """Hold the lock of an index folder and give a place to write the new data.

    Args:
        index: The folder; made if it isn't there.
        overwrite: Whether an index may be there already; it is kept until the new one is committed.

    Raises:
        OutputExists: An index, or anything else, is there already.
        OutputError: Somebody else is writing, or the folder can't be written.
    """
    made = not index.exists()
    if not made:
        if not index.is_dir():
            raise OutputExists(f"{index}: a file of this name exists already")
        if (index / MANIFEST).exists():
            if not overwrite:
                raise OutputExists(f"{index}: an index exists already (--overwrite, overwrite=True replaces it)")
        elif any(not _ours(path.name) for path in index.iterdir()):
            raise OutputExists(f"{index}: this folder holds something other than an index; name a new folder")
    try:
        index.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(index / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise OutputError(f"{index}: another process is writing this index; wait until it is done") from None
    except OSError as error:
        raise OutputError(f"{index}: can't be written: {error.strerror or error}") from error
    try:
        current = None
        with suppress(IndexFormatError):
            current = str(read_manifest(index)["data"])
        if current is not None or not (index / MANIFEST).exists():
            sweep(index, keep=current)
        staging = Staging(index)
        try:
            yield staging
        except OSError as error:
            shutil.rmtree(staging.folder, ignore_errors=True)
            if error.errno in _NO_ROOM:
                raise OutputError(f"{index}: can't be written: {os.strerror(error.errno)}") from error
            raise
        except BaseException:
            shutil.rmtree(staging.folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(staging.scratch, ignore_errors=True)
            (index / (MANIFEST + ".tmp")).unlink(missing_ok=True)
    finally:
        if made and not (index / MANIFEST).exists():
            with suppress(OSError):  # while the lock is still held, so that nobody's own is taken away
                (index / ".lock").unlink(missing_ok=True)
                index.rmdir()
        lock.release()


def _ours(name: str) -> bool:
    return name in (".lock", MANIFEST + ".tmp") or bool(_STAGED_NAME.fullmatch(name))


# --- Arrow files --------------------------------------------------------------------------------------------------


class ArrowFile:
    """A memory-mapped Arrow IPC file.

    Attributes:
        path: Where it lies.
        bytes: The whole file as (size,) uint8, mapped.
        n_batches: Number of record batches.

    Raises:
        CorruptIndex: Not a whole Arrow file, or one of other columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import numpy as np

        self.path = path
        try:
            with pa.memory_map(str(path)) as source:
                self._buffer = source.read_buffer()
            self._reader = pa.ipc.open_file(self._buffer)
        except (pa.ArrowException, OSError) as error:
            raise CorruptIndex(f"{path}: not a whole Arrow file: {error}; {_RESTORE}") from None
        if self._reader.schema.names != schema.names or self._reader.schema.types != schema.types:
            raise CorruptIndex(f"{path}: unexpected columns {self._reader.schema.names}; {_RESTORE}")
        self.bytes = np.frombuffer(self._buffer, np.uint8)
        self.n_batches = int(self._reader.num_record_batches)

    def batch(self, number: int) -> pa.RecordBatch:
        """One record batch, mapped unless it is compressed."""
        try:
            return self._reader.get_batch(number)
        except (pa.ArrowException, OSError) as error:
            raise CorruptIndex(f"{self.path}: batch {number} can't be read: {error}; {_RESTORE}") from None

    def column(self, name: str) -> Any:
        """A column of the only batch as a numpy array, mapped."""
        return self.batch(0).column(name).to_numpy(zero_copy_only=True)

    def offset(self, column: pa.Array) -> int:
        """Where in the file the values of a numeric column begin, in bytes.

        Raises:
            CorruptIndex: They lie outside of it.
        """
        buffer = column.buffers()[1]
        start = int(buffer.address - self._buffer.address) if len(column) else 0
        if start < 0 or start + len(column) * (column.type.bit_width // 8) > self._buffer.size or column.offset:
            raise CorruptIndex(f"{self.path}: a column lies outside of the file; {_RESTORE}")
        return start


def write_arrow(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as an Arrow file of one record batch."""
    batch = pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)


def read_encoder_files(folder: Path) -> dict[str, bytes]:
    """The files of an encoder that an index carries.

    Raises:
        CorruptIndex: One can't be read.
    """
    try:
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    except OSError as error:
        raise CorruptIndex(f"{folder}: the index's encoder can't be read: {error}; {_RESTORE}") from None
