"""What outlasts a power cut: a file is written through before it takes its name, and its folder after that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lsr.errors import OutputError


def sync(path: Path) -> None:
    """Write a file, or the entries of a folder, through to the disk.

    Raises:
        OutputError: The disk refuses it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # of a descriptor it names no path
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error


def sync_tree(path: Path) -> None:
    """Write a file, or all that a folder holds, through to the disk.

    Raises:
        OutputError: The disk refuses it.
    """
    for inside in path.iterdir() if path.is_dir() else ():
        sync_tree(inside)
    sync(path)


def take_name(partial: Path, path: Path) -> None:
    """Let a file, or a folder, that was written under another name take its own.

    Args:
        partial: Its name so far, in the same file system.
        path: Its name; another file of that name is replaced.

    Raises:
        OutputError: The disk refuses it.
    """
    sync_tree(partial)
    os.replace(partial, path)
    sync(path.parent)


def replace_folder(new: Path, old: Path) -> None:
    """Put a folder into another's place; a kill in between is undone by `restore_folder`.

    Raises:
        OutputError: The disk refuses it.
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
    """Undo what a kill in the middle of `replace_folder` left."""
    aside = folder.with_name(folder.name + ".old")
    if aside.is_dir() and not folder.exists():
        os.replace(aside, folder)
    shutil.rmtree(aside, ignore_errors=True)
