"""Writes that survive a power cut: fsync a file, rename it, then fsync its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lsr.errors import OutputError


def sync(path: Path) -> None:
    """fsync a file, or the entries of a folder.

    Raises:
        OutputError: The file system reports an error.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # fsync's error names no path
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error


def sync_tree(path: Path) -> None:
    """fsync a file, or a folder with everything in it.

    Raises:
        OutputError: The file system reports an error.
    """
    for inside in path.iterdir() if path.is_dir() else ():
        sync_tree(inside)
    sync(path)


def take_name(partial: Path, path: Path) -> None:
    """Rename a file or folder that was written under a temporary name.

    Args:
        partial: The temporary name, in the same file system.
        path: The final name; a file of that name is replaced.

    Raises:
        OutputError: The file system reports an error.
    """
    sync_tree(partial)
    os.replace(partial, path)
    sync(path.parent)


def replace_folder(new: Path, old: Path) -> None:
    """Replace a folder with another. If the process is killed halfway, `restore_folder` repairs the damage.

    Raises:
        OutputError: The file system reports an error.
    """
    aside = old.with_name(old.name + ".old")
    shutil.rmtree(aside, ignore_errors=True)
    sync_tree(new)
    if old.exists():
        os.replace(old, aside)
    os.replace(new, old)
    sync(old.parent)
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Undo a `replace_folder` that was killed halfway."""
    aside = folder.with_name(folder.name + ".old")
    if aside.is_dir() and not folder.exists():
        os.replace(aside, folder)
    shutil.rmtree(aside, ignore_errors=True)
