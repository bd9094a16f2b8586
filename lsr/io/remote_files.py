"""Texts and vectors in object storage, copied to a temporary folder of this process on first use."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from lsr.errors import DataError
from lsr.forks import here_only
from lsr.io.object_store import Place, with_suffix
from lsr.io.vectors_parquet import PART_NAME

# This file lists the files of a folder of vectors in object storage: {"parts": {file: {"bytes", "sha256"}}}. Folders
# can't be renamed there, so the list is written last: a folder that has it is complete.
PARTS_FILE = "vectors.json"
_copies: dict[tuple[str, str], Path] = {}  # {(URI, state): local copy}


@cache
def _scratch() -> str:
    folder = tempfile.mkdtemp(prefix="lsr-fetched-")
    atexit.register(here_only(shutil.rmtree), folder, ignore_errors=True)
    return folder


def file_in(uri: str, names: list[str]) -> str:
    """The URI of the first of `names` that exists in the folder `uri`; `uri` itself if it is a file.

    Raises:
        StorageError: The request fails.
        DataError: The folder has none of these files.
    """
    place = Place(uri)
    if place.stat() is not None:
        return uri
    for name in names:
        if place.stat(name) is not None:
            return with_suffix(uri, f"/{name}")
    raise DataError(f"no such file, nor a folder with {names[0]}, {names[1]} or the like", uri)


def fetched_file(uri: str) -> tuple[Path, str]:
    """A local copy of a file, and a text that changes with the file.

    Raises:
        StorageError: The file can't be read.
        DataError: There is no such file.
    """
    place = Place(uri)
    state = place.stat()
    if state is None:
        raise DataError("no such file", uri)
    if (uri, state) not in _copies:
        path = _new_folder() / PurePosixPath(urlsplit(uri).path).name
        place.fetch("", path)
        _copies[uri, state] = path
    return _copies[uri, state], f"{uri} {state}"


def fetched_vectors(uri: str) -> Path | None:
    """A local copy of a file, or of a folder of vectors with verified checksums.

    Returns:
        The copy; None if there is no file and no complete folder of vectors.

    Raises:
        StorageError: The file or folder can't be read, or a part was changed or cut short.
        DataError: The list of parts is damaged.
    """
    place = Place(uri)
    if place.stat() is not None:
        return fetched_file(uri)[0]
    state = place.stat(PARTS_FILE)
    if state is None:
        return None
    if (uri, state) not in _copies:
        folder = _new_folder()
        for name, wanted in _parts(place.read(PARTS_FILE) or b"", uri).items():
            place.fetch(name, folder / name, wanted)
        _copies[uri, state] = folder
    return _copies[uri, state]


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(dir=_scratch()))


def _parts(content: bytes, uri: str) -> dict[str, Any]:
    try:
        parts = dict(json.loads(content)["parts"])
        sound = bool(parts) and all(
            PART_NAME.fullmatch(name) and type(entry["bytes"]) is int and type(entry["sha256"]) is str
            for name, entry in parts.items()
        )
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise DataError(f"{PARTS_FILE} is damaged: it has no list of parts; encode again", uri)
    return parts
