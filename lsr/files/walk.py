"""The files of a folder, in one order, without what is hidden, ignored, or no text."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lsr.files.ignore import Ignored

_OF_AN_INDEX = re.compile(r"(segment|shared)-[0-9a-f]{16}|shard-[0-9]{5}")
_TOOLS = {"node_modules", "__pycache__", "site-packages", "venv"}  # folders that hold what others wrote


@dataclass(frozen=True)
class Found:
    """A file.

    Attributes:
        path: Where it lies.
        name: Its path within the folder, with "/".
        size: Bytes.
        changed: When, in nanoseconds.
    """

    path: Path
    name: str
    size: int
    changed: int


@dataclass
class PassedOver:
    """What wasn't read of a folder.

    Attributes:
        links: Symbolic links.
        unreadable: Folders and files that can't be opened, and why.
        endings: How many files there are of each ending that isn't read.
    """

    links: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)

    def messages(self) -> list[str]:
        """All of it, in a few lines."""
        said = list(self.unreadable)
        if self.links:
            said.append(f"symbolic links, which aren't followed: {len(self.links):,} ({some(self.links)})")
        if self.endings:
            kinds = [f"{n:,} {ending}" for ending, n in self.endings.most_common(6)]
            said.append(f"files that aren't read, by their endings: {self.endings.total():,} ({some(kinds, 5)})")
        return said


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of some names."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def walk(root: Path, passed_over: PassedOver) -> Iterator[Found]:
    """The files below a folder, by name, those of a folder before those of the folders in it.

    Hidden ones, those that git ignores, and what lies in an index, a virtual environment or node_modules are left out.
    Symbolic links aren't followed: they may lead in circles, or out of the folder.

    Args:
        root: The folder.
        passed_over: Filled in.
    """
    ignored, folders = Ignored(root), [(root, "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            passed_over.unreadable.append(f"{folder}: can't be read: {error.strerror}")
            continue
        if prefix and is_made({entry.name for entry in found}):
            continue
        below = []
        for entry in found:
            if entry.name.startswith("."):
                continue
            name = f"{prefix}{entry.name}"
            try:
                name.encode()
                is_folder = entry.is_dir(follow_symlinks=False)
                if ignored.is_ignored(folder / entry.name, is_folder):
                    continue
                if entry.is_symlink():
                    passed_over.links.append(name)
                elif is_folder and entry.name not in _TOOLS:
                    below.append((folder / entry.name, f"{name}/"))
                elif entry.is_file(follow_symlinks=False):  # no device, no pipe: reading one may never end
                    status = entry.stat(follow_symlinks=False)
                    yield Found(folder / entry.name, name, status.st_size, status.st_mtime_ns)
            except UnicodeEncodeError:
                passed_over.unreadable.append(f"{folder}/{os.fsencode(entry.name)!r}: the name isn't UTF-8")
            except OSError as error:
                passed_over.unreadable.append(f"{folder / entry.name}: can't be read: {error.strerror}")
        folders.extend(reversed(below))


def is_made(names: set[str]) -> bool:
    """Whether a folder that holds such names is an index, shards of one, or a virtual environment."""
    return "pyvenv.cfg" in names or any(map(_OF_AN_INDEX.fullmatch, names))
