"""Indexes in object storage: opened as local, cached copies, and uploaded with the manifest last.

An index in object storage has the usual files (lsr.index.storage.manifest): data files that never change, and a
manifest that lists these with their checksums. So a copy downloads only files that it lacks. A reader that opens an
index while a new version is uploaded gets either the old or the new version, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import filelock

from lsr.console import progress
from lsr.errors import IndexFormatError, OutputExists, StorageError
from lsr.index.sharding.manifest import SHARD_NAME, SHARDS, Shards
from lsr.index.storage.manifest import (
    FILE_NAME,
    MANIFEST,
    digest_file,
    output_errors,
    parse_manifest,
    read_manifest,
    replace_file,
)
from lsr.index.storage.transaction import sweep
from lsr.io.object_store import Place, cache_folder, is_remote

_THREADS = 8  # files copied in parallel
_CHECKED = ".checked.json"  # {file: its size and times when its checksum was last compared}
_TRIES = 3


def download_index(uri: str) -> Path:
    """Download an index or sharded folder to the cache (`lsr.io.object_store.cache_folder`); return the copy's folder.

    Files that are missing or changed are downloaded, and kept only if their checksums match the manifest. Files that
    the manifest no longer lists are removed.

    Raises:
        IndexFormatError: There is no index, or it has another format version.
        CorruptIndex: The index's manifest is damaged.
        StorageError: The index can't be read, or a file was changed or truncated.
        OutputError: The cache can't be written.
    """
    place, folder = Place(uri), _copy_of(uri)
    with output_errors(folder, every=True):
        folder.mkdir(parents=True, exist_ok=True)
    with output_errors(folder), filelock.FileLock(folder / ".lock"):
        for _ in range(_TRIES):
            name, content = _head(place)
            try:
                if name == SHARDS:
                    _complete_shards(folder, Shards.parse(content, uri))
                else:
                    manifest = parse_manifest(content, uri)
                    _complete(folder, place, manifest)
            except (StorageError, IndexFormatError):
                if place.read(name) == content:
                    raise
                continue  # the index was replaced meanwhile, and its files are gone
            replace_file(folder / name, content)
            if name == MANIFEST:
                sweep(folder, manifest)
            return folder
    raise StorageError(f"{uri}: replaced again and again while it was read; try again when no other process writes it")


def folder_of(location: str) -> Path:
    """Return the local folder of a shard; a shard at a URI is downloaded first."""
    return download_index(location) if is_remote(location) else Path(location)


def read_manifests(shards: Shards) -> dict[str, dict[str, Any]]:
    """Read the manifests of all shards, {path or URI: manifest}; an error lists the problems of all shards.

    Raises:
        IndexFormatError: Shards are missing, damaged, unreachable, or of another format or scale.
        EncoderMismatch: Shards of another encoder.
    """
    found, wrong = {}, []
    for location in map(shards.location, shards.entries):
        try:
            found[location] = read_manifest(folder_of(location))
        except (IndexFormatError, StorageError) as error:
            wrong.append(str(error))
    if wrong:
        raise IndexFormatError("\n".join([f"{len(wrong)} of {len(shards.entries)} shards can't be opened:", *wrong]))
    shards.require_fit(found)
    return found


def _copy_of(uri: str) -> Path:
    """Return the folder for the copy of an index; a shard's copy is inside the copy of its sharded folder."""
    base, mark, options = uri.partition("?")
    parent, _, name = base.rstrip("/").rpartition("/")
    is_shard = SHARD_NAME.fullmatch(name) is not None
    whole = parent + mark + options if is_shard else base.rstrip("/") + mark + options
    folder = cache_folder() / "indexes" / hashlib.sha256(whole.encode()).hexdigest()[:32]
    return folder / name if is_shard else folder


def _head(place: Place) -> tuple[str, bytes]:
    """Read the name and content of the file that is written last: the manifest, or shards.json."""
    for name in (MANIFEST, SHARDS):
        if (content := place.read(name)) is not None:
            return name, content
    raise IndexFormatError(f"{place.name}: not an index: it has no {MANIFEST}, which is written last")


def _complete_shards(folder: Path, shards: Shards) -> None:
    """Complete the copy of a sharded folder: download missing shards, and remove unlisted shards."""
    for entry in shards.entries:
        download_index(shards.location(entry))
    named = {entry.path for entry in shards.entries}
    for path in folder.glob("shard-*"):
        if path.name not in named and SHARD_NAME.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _complete(folder: Path, place: Place, manifest: Mapping[str, Any]) -> None:
    """Complete a copy: download the files of a manifest that are missing or changed."""
    for left in folder.rglob(".fetched-*"):  # a killed process left these files
        left.unlink(missing_ok=True)
    known = _checked(folder)
    files = manifest["files"]
    missing = [name for name in files if not _is_same(folder / name, files[name], known.get(name))]
    sizes = [files[name]["bytes"] for name in missing]
    with progress(sum(sizes), "downloading", "B") as bar:

        def fetch(name: str) -> None:
            place.fetch(name, folder / name, files[name])
            bar.update(files[name]["bytes"])

        _all(fetch, missing)
    states = {name: _state(folder / name) for name in files}
    replace_file(folder / _CHECKED, json.dumps(states).encode())


def _is_same(path: Path, wanted: Mapping[str, Any], known: Any) -> bool:
    """Whether a file has the expected content; a file unchanged since its last check is trusted."""
    try:
        state = _state(path)
        return bool(state[0] == wanted["bytes"] and (state == known or digest_file(path) == wanted["sha256"]))
    except OSError:
        return False


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _checked(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / _CHECKED).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def upload_index(folder: str | PathLike[str], uri: str, *, overwrite: bool = False) -> None:
    """Upload an index to object storage: missing files first, then the manifest.

    Finally, files that the manifest doesn't list are removed from the destination. No other process may change either
    index meanwhile.

    Args:
        folder: The index's folder.
        uri: The destination.
        overwrite: Replace an existing index.

    Raises:
        OutputExists: An index, or something else, exists at the destination.
        StorageError: The destination can't be written.
    """
    folder, place = Path(folder), Place(uri)
    refuse_remote(place, overwrite=overwrite)
    files = read_manifest(folder)["files"]
    there = place.sizes()
    content = place.read(MANIFEST)
    old = _files_of(content)
    missing = [name for name in files if old.get(name) != files[name] or there.get(name) != files[name]["bytes"]]
    with progress(sum(files[name]["bytes"] for name in missing), "uploading", "B") as bar:

        def put(name: str) -> None:
            if place.put(folder / name, name) != files[name]:
                raise StorageError(f"{folder / name}: damaged: it doesn't match the manifest; lsr verify {folder}")
            bar.update(files[name]["bytes"])

        _all(put, missing)
    place.put(folder / MANIFEST, MANIFEST)
    place.delete(*(name for name in there if name not in files and FILE_NAME.fullmatch(name)))


def refuse_remote(place: Place, *, overwrite: bool) -> None:
    """Do what `lsr.index.storage.manifest.check_output_empty` does, for object storage."""
    there = place.sizes()
    if MANIFEST in there and not overwrite:
        raise OutputExists(f"{place.name}: an index exists already; --overwrite or overwrite=True replaces it")
    if strange := sorted(name for name in there if name != MANIFEST and not FILE_NAME.fullmatch(name)):
        raise OutputExists(f"{place.name}: something other than an index is here ({strange[0]}); name a new folder")


@contextmanager
def folder_for(path: str | PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Provide a local folder to build an index in; for a URI, a temporary one that is uploaded at the end.

    Raises:
        OutputExists: An index, or something else, exists at the URI.
        StorageError: The URI can't be written.
    """
    if not is_remote(path):
        yield Path(path).absolute()
        return
    refuse_remote(Place(path), overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="lsr-") as scratch:
        folder = Path(scratch) / "index"
        yield folder
        upload_index(folder, str(path), overwrite=overwrite)


def _files_of(content: bytes | None) -> Mapping[str, Any]:
    try:
        return dict(parse_manifest(content or b"", "")["files"])
    except IndexFormatError:
        return {}


def _all(copy: Callable[[str], None], names: Iterable[str]) -> None:
    """Copy files in parallel; stop at the first failure."""
    with ThreadPoolExecutor(_THREADS) as pool:
        running = [pool.submit(copy, name) for name in names]
        try:
            for one in running:
                one.result()
        finally:
            pool.shutdown(cancel_futures=True)
