"""An index folder: a manifest, which is replaced atomically, and the files it lists, which never change.

    INDEX/
      manifest.json       format, a random id of the index, fingerprint, segments in document order, size and SHA-256
                          of every file, and the SHA-256 of the manifest itself
      shared-1f3a…/       shared by all segments: vocabulary.arrow, and encoder/ for queries and documents
      shared-20c7…/       tokens appended by later commits, if any: vocabulary.arrow
      segment-77c0…/      postings and documents
      alive-90be….arrow   for a segment with deletions, a bit for each document: whether the document is live
      merging-5d02…/      a segment that a background merge is writing
      .lock, .writer      the writer's lock, and who holds it
      .merging            the background merger's lock

A manifest is written after all of its files are complete. So a process killed at any moment leaves either the old or
the new manifest, with all of its files; the next writer removes files that no manifest lists. Opening an index checks
the manifest, the size of every file and the content of small files; `verify` checks every byte.
lsr.index.storage.transaction changes the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lsr.durable import sync
from lsr.errors import CorruptIndex, IndexFormatError, LsrError, OutputError, OutputExists
from lsr.index.storage.arrow_file import RESTORE, damage

MANIFEST = "manifest.json"
FORMAT = 4  # from 4 on, segments have gaps.arrow
_READ = (3, FORMAT)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Opening hashes files of up to 4 MB, the smallest first, and stops at 32 MB in total.
CHECKED_AT_OPEN, _CHECKED_IN_ALL = 1 << 22, 1 << 25
# With 16 digits, the pattern doesn't match a user's dated folders. Earlier formats used data-….
_FOLDER = r"(segment|shared|data)-[0-9a-f]{16}"
_ALIVE = r"alive-[0-9a-f]{16}\.arrow"
OURS = re.compile(rf"{_FOLDER}(\.tmp)?|{_ALIVE}")
ASIDE = re.compile(r"merging-[0-9a-f]{16}")
_WIDEST = 1 << 16  # largest dimension of a dense vector
_SCALES = 2.0**-300, 2.0**128  # bounds of valid scales; scales of float32 weights are well within
_SEGMENT = re.compile(r"segment-[0-9a-f]{16}")
FILE_NAME = re.compile(rf"{_FOLDER}/(encoder/)?[A-Za-z0-9_][A-Za-z0-9_.-]*|{_ALIVE}")
MOVED = "the index was moved or deleted while it was changed: move it back and try again, or roll back"
# The .arrow files that each segment has.
_ALWAYS = ("postings", "dense", "maxima", "skips", "places", "windows", "terms", "lists", "ids", "keys")
CHANGED = f"damaged: the content doesn't match its checksum; {RESTORE}"
LOCK, HOLDER, MERGING = ".lock", ".writer", ".merging"


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_checksum(manifest: Mapping[str, Any]) -> bytes:
    """Serialize a manifest; its last value is the SHA-256 of the other values."""
    body = json.dumps(manifest, indent=1).encode()
    return json.dumps({**manifest, "sha256": hashlib.sha256(body).hexdigest()}, indent=1).encode() + b"\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and validate the manifest of an index.

    Raises:
        IndexFormatError: There is no index, or it has another format version.
        CorruptIndex: The manifest was changed or truncated.
    """
    path = folder / MANIFEST
    require_name(folder)
    if folder.is_file():
        raise IndexFormatError(f"{folder}: this is a file, not an index; lsr index {folder.name} --out idx makes one")
    if not folder.is_dir():
        raise IndexFormatError(f"{folder}: no such index: check the path; lsr index or Index.build makes one")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        begun = any(is_ours(inside.name) for inside in folder.iterdir())
        mend = "its build was interrupted or still runs: build it again" if begun else "check the path"
        raise IndexFormatError(f"{folder}: not an index: it has no {MANIFEST}; {mend}") from None
    return parse_manifest(content, folder)


def require_name(folder: Path) -> None:
    """Refuse a folder whose name breaks the libraries that open its files.

    Raises:
        IndexFormatError: The name isn't UTF-8 or is too long.
    """
    try:
        str(folder).encode()
        os.lstat(folder)
    except UnicodeEncodeError:
        raise IndexFormatError(f"{os.fsencode(folder)!r}: the name of the folder isn't UTF-8: rename it") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise IndexFormatError(f"{str(folder)[:80]}…: the name of the folder is too long") from None


def parse_manifest(content: bytes, index: Path | str) -> dict[str, Any]:
    """Parse and validate a manifest; raises the errors of `read_manifest`."""
    path = f"{index}/{MANIFEST}"
    try:
        manifest = json.loads(content)
        version = manifest["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptIndex(f"{path}: damaged: not a manifest; {RESTORE}") from None
    if isinstance(version, int) and version not in _READ:
        mend = "build the index again from its documents or vectors"
        if version > FORMAT:
            mend = "upgrade with pip install -U lsr-search"
        raise IndexFormatError(
            f"{index}: index format {version}, written by lsr {str(manifest.get('lsr', '?'))[:40]}; this version reads "
            f"formats {_READ[0]} to {FORMAT}: {mend}"
        )
    manifest.pop("sha256", None)
    if with_checksum(manifest) != content:
        raise CorruptIndex(f"{path}: {CHANGED}")
    _require_sound(manifest, path)
    return dict(manifest)


def require_same_index(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse another index that has replaced the opened one. Indexes of earlier versions can't be told apart.

    Args:
        path: The folder.
        before: The manifest of the opened index.
        now: The folder's current manifest.

    Raises:
        IndexFormatError: The manifests belong to different indexes.
    """
    known, found = before.get("index_id"), now.get("index_id")
    if None not in (known, found) and known != found:
        raise IndexFormatError(f"{path}: another index has replaced the one that was opened; open it again")


def _require_sound(manifest: Mapping[str, Any], path: str) -> None:
    """Refuse a manifest whose values are invalid although its checksum is correct: lsr can't have written it."""
    try:
        settings, shared = manifest["settings"], manifest["shared"]
        named = [segment["name"] for segment in manifest["segments"]]
        sound = (
            isinstance(manifest["fingerprint"], str)
            and isinstance(manifest.get("index_id", ""), str)
            and manifest["impacts"] in ("uint8", "float32")
            and _is_amount(manifest["scale"], float)
            and all(type(manifest[name]) is bool for name in ("has_encoder", "has_vocabulary"))
            and (shared is None or re.fullmatch(_FOLDER, shared) is not None)
            and (shared is not None or not (manifest["has_encoder"] or manifest["has_vocabulary"]))
            and type(settings["store_text"]) is bool
            and settings["order"] in ("auto", "given", "bisection")
            and (settings["summary_mass"] is None or 0 < settings["summary_mass"] <= 1.0)
            and type(settings.get("hybrid", False)) is bool
            and (settings["passages"] is None or [type(number) for number in settings["passages"]] == [int, int])
            and all(re.fullmatch(_FOLDER, piece["name"]) for piece in manifest.get("grown", ()))
            and all(_is_amount(piece["n_terms"], int) for piece in manifest.get("grown", ()))
            and len(set(named)) == len(named)
            and all(map(_is_sound_segment, manifest["segments"]))
            and _named(manifest) <= manifest["files"].keys()
            and all(FILE_NAME.fullmatch(name) for name in manifest["files"])
            and all(_is_amount(entry["bytes"], int) for entry in manifest["files"].values())
            and all(isinstance(entry["sha256"], str) for entry in manifest["files"].values())
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError):
        sound = False
    if not sound:
        raise CorruptIndex(f"{path}: damaged: values are missing or invalid; {RESTORE}")


def _named(manifest: Mapping[str, Any]) -> set[str]:
    """Return the files that the rest of a manifest refers to."""
    files = {f"{manifest['shared']}/vocabulary.arrow"} if manifest["has_vocabulary"] else set()
    files |= {f"{piece['name']}/vocabulary.arrow" for piece in manifest.get("grown", ())}
    for segment in manifest["segments"]:
        files |= {f"{segment['name']}/{name}.arrow" for name in (*_ALWAYS, *["texts"] * segment["has_text"])}
        files |= {f"{segment['name']}/gaps.arrow"} if segment.get("format", 3) > 3 else set()
        files |= {segment["alive"]} if segment["alive"] else set()
        files |= {f"{segment['name']}/embeddings.arrow"} if "dense" in segment else set()
    return files


def _is_amount(value: Any, kind: type[int] | type[float]) -> bool:
    return isinstance(value, kind) and type(value) is kind and math.isfinite(value) and value >= 0


def _is_sound_segment(segment: Mapping[str, Any]) -> bool:
    alive = segment["alive"]
    return (
        _SEGMENT.fullmatch(segment["name"]) is not None
        and segment.get("format", 3) in _READ
        and all(_is_amount(segment[name], int) for name in ("n_docs", "n_alive", "n_postings"))
        and segment["n_alive"] <= segment["n_docs"] > 0
        and all(type(segment[name]) is bool for name in ("has_text", "has_parents"))
        and all(_is_amount(segment[name], float) for name in ("scale", "max_error"))
        and _SCALES[0] < segment["scale"] < _SCALES[1]
        and (alive is None or re.fullmatch(_ALIVE, alive) is not None)
        and ("dense" not in segment or (_is_amount(segment["dense"], int) and 0 < segment["dense"] <= _WIDEST))
    )


def check_files(
    folder: Path, manifest: Mapping[str, Any], *, every_byte: bool = False, known: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Check the files of an index.

    Args:
        folder: The index.
        manifest: Its manifest.
        every_byte: Hash all files, not only the small ones.
        known: Files of an earlier manifest; unchanged entries aren't checked again.

    Returns:
        {name of a damaged file: message}
    """
    wrong, room = dict[str, str](), _CHECKED_IN_ALL
    for name, entry in sorted(manifest["files"].items(), key=lambda item: item[1]["bytes"]):
        if known is not None and known.get(name) == entry:
            continue
        path = folder / name
        try:
            with damage(path, "can't be read"):
                size = path.stat().st_size
                if size != entry["bytes"]:
                    wrong[name] = f"{path}: {size} bytes instead of {entry['bytes']}; {RESTORE}"
                elif every_byte or size <= min(CHECKED_AT_OPEN, room):
                    room -= size
                    if digest_file(path) != entry["sha256"]:
                        wrong[name] = f"{path}: {CHANGED}"
        except CorruptIndex as error:
            wrong[name] = str(error) if path.exists() else f"{path}: missing; {RESTORE}"
    return wrong


@contextmanager
def output_errors(index: Path, *, every: bool = False) -> Iterator[None]:
    """Turn OS errors about a full or read-only disk into OutputError; with `every`, all OS errors."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not isinstance(error, LsrError) and not index.exists():
            raise OutputError(f"{index}: {MOVED}") from error
        # Other errors may come from reading files; callers handle these.
        ours = error.errno in _NO_ROOM or (error.errno in _REFUSED and str(index) in str(error))
        if isinstance(error, LsrError) or not (every or ours):
            raise
        raise OutputError(f"{index}: can't be written: {error.strerror or error}") from error


def make_folder(folder: Path) -> None:
    """Make a folder for an index or shards, if there is none.

    Raises:
        OutputError: The folder can't be made.
    """
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{error.strerror or error}; name another folder"
        raise OutputError(f"{folder}: the folder can't be made: {why}") from error


def check_output_empty(index: Path, *, overwrite: bool) -> None:
    """Check that an index can be built in a folder.

    Args:
        index: The folder; it need not exist.
        overwrite: Whether the folder may contain an index.

    Raises:
        OutputExists: The folder contains an index that may not be replaced, or something else.
        IndexFormatError: As for `require_name`.
    """
    require_name(index)
    if not index.exists():
        return
    if not index.is_dir():
        raise OutputExists(f"{index}: a file of this name exists already")
    if (index / MANIFEST).exists():
        if not overwrite:
            raise OutputExists(f"{index}: an index exists already; --overwrite or overwrite=True replaces it")
    elif any(not is_ours(path.name) for path in index.iterdir()):
        raise OutputExists(f"{index}: this folder contains something other than an index; choose a new folder")


def read_encoder_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Read the files of an index's encoder, {name: content}.

    Raises:
        CorruptIndex: A file can't be read or was changed.
    """
    inside, files = f"{manifest['shared']}/encoder/", {}
    for name in (name for name in manifest["files"] if name.startswith(inside)):
        with damage(folder / name, "the index's encoder can't be read"):
            files[name[len(inside) :]] = content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["files"][name]["sha256"]:
            raise CorruptIndex(f"{folder / name}: {CHANGED}")
    return files


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically. To survive a power cut, sync the folder afterwards."""
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_bytes(content)
        sync(partial)
        sync(path.parent)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_ours(name: str) -> bool:
    """Whether a file or folder with this name, in an index's folder, belongs to the index."""
    fixed = (LOCK, HOLDER, MERGING, MANIFEST + ".tmp")
    return name in fixed or bool(OURS.fullmatch(name) or ASIDE.fullmatch(name))
