"""Patterns of .gitignore files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    folders_only: bool
    ignores: bool


class Ignored:
    """Tells which paths git ignores.

    Args:
        root: The folder that is read. .gitignore files in its parent folders, up to the repository's root, also apply.
    """

    def __init__(self, root: Path) -> None:
        self._rules: dict[Path, list[_Rule]] = {}
        self._top = root
        above = [root, *root.parents]
        repository = next((folder for folder in above if (folder / ".git").exists()), None)
        if repository is not None:
            between = above[: above.index(repository) + 1]
            if not any(self._is_ignored(folder, True, repository) for folder in reversed(between[:-1])):
                self._top = repository

    def is_ignored(self, path: Path, is_folder: bool) -> bool:
        """Whether a path below the root is ignored. Don't call it for paths in an ignored folder."""
        return self._is_ignored(path, is_folder, self._top)

    def _is_ignored(self, path: Path, is_folder: bool, top: Path) -> bool:
        for folder in path.parents:
            name = path.relative_to(folder).as_posix()
            for rule in reversed(self._of(folder)):
                if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(name):
                    return rule.ignores
            if folder == top:
                break
        return False

    def _of(self, folder: Path) -> list[_Rule]:
        """The rules of a folder's .gitignore."""
        if folder not in self._rules:
            try:
                lines = (folder / ".gitignore").read_text("utf-8", "replace").splitlines()
            except OSError:
                lines = []
            self._rules[folder] = [rule for line in lines if (rule := _rule(line)) is not None]
        return self._rules[folder]


def _rule(line: str) -> _Rule | None:
    line = re.sub(r"(?<!\\) +$", "", line)
    if not line or line.startswith("#"):
        return None
    ignores = not line.startswith("!")
    line = line if ignores else line[1:]
    folders_only = line.endswith("/")
    line = line.rstrip("/") if folders_only else line
    anywhere = "" if "/" in line else "(?:.*/)?"
    try:
        pattern = re.compile(anywhere + _translated(line.removeprefix("/")))
    except re.error:  # git doesn't match such a pattern either
        return None
    return _Rule(pattern, folders_only, ignores)


def _translated(pattern: str) -> str:
    """A pattern of git as a regular expression."""
    parts, at = [], 0
    while at < len(pattern):
        character = pattern[at]
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            parts.append("(?:.*/)?")
            at += 3
        elif pattern[at:] == "**" and at and pattern[at - 1] == "/":
            parts.append(".+")
            at += 2
        elif character == "*":
            while pattern[at : at + 1] == "*":
                at += 1
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
            at += 1
        elif character == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            negated, inside = inside[:1] in "!^", inside.lstrip("!^") if inside[:1] in "!^" else inside
            parts.append(f"(?!/)[{'^' if negated else ''}{inside}]")
            at = end + 1
        elif character == "\\" and at + 1 < len(pattern):
            parts.append(re.escape(pattern[at + 1]))
            at += 2
        else:
            parts.append(re.escape(character))
            at += 1
    return "".join(parts)
