"""What outlasts a power cut: a file is written through before it takes its name, and its folder after that."""

from __future__ import annotations

import os
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


def take_name(partial: Path, path: Path) -> None:
    """Let a file, or a folder whose files are synced, that was written under another name take its own.

    Args:
        partial: Its name so far, in the same file system.
        path: Its name; another file of that name is replaced.

    Raises:
        OutputError: The disk refuses it.
    """
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)
