"""Folders in which text stores and training sources are cached in Arrow.

A folder's name is a digest of its sources, so a folder is never stale: a changed file gets a new folder. Folders may be
deleted at any time when no training runs.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import filelock

from lsr.durable import take_name
from lsr.io.object_store import cache_folder
from lsr.io.text_files import unfinished


def default_cache() -> Path:
    """The default folder: "train" in the user's cache directory of lsr."""
    return cache_folder() / "train"


def made_once(cache: Path, kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """A cache folder, made if needed. If several processes need the same folder, the first makes it and the others
    wait.

    Args:
        cache: Folder of the cache.
        kind: Beginning of the folder's name.
        key: Text that identifies the content.
        make: Function that fills an empty folder; if it fails, nothing is left behind.
    """
    folder = cache / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = unfinished(folder)
            shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
            partial.mkdir()
            try:
                make(partial)
                take_name(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder
