"""Folders of what is made once and used often: text stores, training sources as Arrow.

A folder's name is a digest of what it was made from, so nothing in it grows old: a changed file gets a folder of its
own. Any of them may be deleted whenever nothing is training.
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
    """Where they lie unless a caller says otherwise: "train" in the user's cache directory of lsr."""
    return cache_folder() / "train"


def made_once(cache: Path, kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of something; made now if it isn't there yet. Processes that want the same wait for the first.

    Args:
        cache: Where such folders lie.
        kind: Front of the folder's name, for people.
        key: Text that differs whenever the content would.
        make: Fills an empty folder; if it fails, nothing is left behind.
    """
    folder = cache / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = unfinished(folder)
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir()
            try:
                make(partial)
                take_name(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder
