"""The files of a folder in a fixed order, without hidden, ignored and non-text files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lsr.errors import DataError
from lsr.files.ignore import Ignored

_OF_AN_INDEX = re.compile(r"(segment|shared)-[0-9a-f]{16}|shard-[0-9]{5}")
_TOOLS = {"node_modules", "__pycache__", "site-packages", "venv"}  # folders of third-party files


@dataclass(frozen=True)
class Found:
    """A file.

    Attributes:
        path: Path of the file.
        name: Path within the folder, with "/".
        size: Size in bytes.
        changed: Time of the last change, in nanoseconds.
    """

    path: Path
    name: str
    size: int
    changed: int


@dataclass
class PassedOver:
    """Files of a folder that were skipped.

    Attributes:
        links: Symbolic links.
        unreadable: Folders and files that can't be opened, with the reason.
        unsupported: Files with an unsupported suffix.
    """

    links: list[str] = field(default_factory=list)
    unreadable: list[DataError] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)

    def each(self) -> list[DataError]:
        """An error for each skipped file."""
        return [
            *self.unreadable,
            *(DataError("a symbolic link, which isn't followed", name) for name in self.links),
            *(DataError(f"{_ending(name)} files aren't supported", name) for name in self.unsupported),
        ]

    def messages(self) -> list[str]:
        """Messages about the skipped files, one for each kind."""
        said = [str(error) for error in self.unreadable]
        if self.links:
            said.append(f"symbolic links, which aren't followed: {len(self.links):,} ({some(self.links)})")
        if self.unsupported:
            kinds = [f"{n:,} {ending}" for ending, n in Counter(map(_ending, self.unsupported)).most_common(6)]
            said.append(f"unsupported files, by suffix: {len(self.unsupported):,} ({some(kinds, 5)})")
        return said


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, separated by commas."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def walk(root: Path, passed_over: PassedOver) -> Iterator[Found]:
    """Yield the files below a folder, sorted by name; files of a folder come before its subfolders.

    Hidden files, files that git ignores, and files in an index, a virtual environment or node_modules are skipped.
    Symbolic links aren't followed, since they may form cycles or leave the folder.

    Args:
        root: The folder.
        passed_over: Skipped files are added to it.
    """
    ignored, folders = Ignored(root), [(root, "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            passed_over.unreadable.append(DataError(f"can't be read: {error.strerror}", str(folder)))
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
                elif entry.is_file(follow_symlinks=False):  # not a device or pipe: reading one may never end
                    status = entry.stat(follow_symlinks=False)
                    yield Found(folder / entry.name, name, status.st_size, status.st_mtime_ns)
            except UnicodeEncodeError:
                shown = f"{folder}/{os.fsencode(entry.name)!r}"
                passed_over.unreadable.append(DataError("the name isn't UTF-8", shown))
            except OSError as error:
                where = str(folder / entry.name)
                passed_over.unreadable.append(DataError(f"can't be read: {error.strerror}", where))
        folders.extend(reversed(below))


def is_made(names: set[str]) -> bool:
    """Whether a folder with these names in it is an index, a sharded index, or a virtual environment."""
    return "pyvenv.cfg" in names or any(map(_OF_AN_INDEX.fullmatch, names))
