"""The result of reading a file: title, text, blocks and metadata."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lsr.io.document import Block


@dataclass
class Parsed:
    """The content of a file.

    Attributes:
        title: The title; empty if the file has none.
        text: All of its text.
        blocks: Blocks of the text.
        metadata: The file's own metadata: front matter, author, and so on.
    """

    title: str = ""
    text: str = ""
    blocks: list[Block] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    def pieces(self) -> Iterator[tuple[Block, str]]:
        """The blocks and their texts."""
        for number, block in enumerate(self.blocks, start=1):
            end = self.blocks[number].start if number < len(self.blocks) else len(self.text)
            yield block, self.text[block.start : end]


class Headings:
    """The headings above the current position in a document."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []
        self.first = ""  # the first heading of the document

    def enter(self, level: int, heading: str) -> None:
        """Begin a section; this ends sections of the same or a deeper level."""
        heading = one_line(heading)
        self.first = self.first or heading
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, heading))

    def reset(self, path: tuple[str, ...]) -> None:
        """Set the headings."""
        self._open = list(enumerate(path, start=1))

    @property
    def path(self) -> tuple[str, ...]:
        """The headings, highest first."""
        return tuple(heading for _, heading in self._open)


class Extracted:
    """Collects the text of a file that isn't plain text, block by block."""

    def __init__(self) -> None:
        self.headings = Headings()
        self.anchor = ""
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0

    def heading(self, level: int, heading: str, anchor: str = "", *, line: int = 0, end_line: int = 0) -> None:
        """Add a heading for the blocks that follow."""
        if heading := one_line(heading):
            self.headings.enter(level, heading)
            self.anchor = anchor
            self.add(heading, line=line, end_line=end_line)

    def add(self, text: str, *, line: int = 0, end_line: int = 0, page: int = 0) -> None:
        """Add a block without white space at its ends; skip empty blocks."""
        text = text.strip("\n").rstrip()
        if not text.strip():
            return
        if self._parts:
            text = "\n\n" + text
        start = self._length + (2 if self._parts else 0)
        self._parts.append(text)
        self._blocks.append(Block(start, self.headings.path, self.anchor, line, end_line, page))
        self._length += len(text)

    def parsed(self, title: str = "", metadata: dict[str, Any] | None = None) -> Parsed:
        """The parsed file."""
        return Parsed(one_line(title) or self.headings.first, "".join(self._parts), self._blocks, metadata or {})


class Lines:
    """Cuts the text of plain text formats into blocks that start at given lines."""

    def __init__(self, text: str, first: int = 1) -> None:
        """Set the text, and the number of its first line in the file."""
        self.lines = text.split("\n")
        self.headings = Headings()
        self.anchor = ""
        self._text, self._first = text, first
        self._starts: list[int] = []
        at = 0
        for line in self.lines:
            self._starts.append(at)
            at += len(line) + 1
        self._found: list[tuple[int, tuple[str, ...], str]] = []

    def begin(self, number: int) -> None:
        """Start a block at a line, counted from 0."""
        if self._found and self._found[-1][0] >= number:
            self._found = [found for found in self._found if found[0] < number]
        self._found.append((number, self.headings.path, self.anchor))

    def parsed(self, title: str = "", metadata: dict[str, Any] | None = None) -> Parsed:
        """The parsed file."""
        if self._text.strip() and (not self._found or any(map(str.strip, self.lines[: self._found[0][0]]))):
            self._found.insert(0, (0, (), ""))
        blocks = []
        ends = [*(number for number, _, _ in self._found[1:]), len(self.lines)][: len(self._found)]
        for (number, path, anchor), end in zip(self._found, ends, strict=True):
            while end - 1 > number and not self.lines[end - 1].strip():
                end -= 1
            blocks.append(Block(self._starts[number], path, anchor, self._first + number, self._first + end - 1))
        return Parsed(one_line(title) or self.headings.first, self._text, blocks, metadata or {})


def one_line(text: str) -> str:
    """A text with single spaces for all white space."""
    return " ".join(text.split())


class Slugs:
    """Anchors of headings by the rules of GitHub and most site generators: "Set up a key" is "set-up-a-key"."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def of(self, heading: str) -> str:
        """The anchor of the next heading. If an equal heading came before, the anchor ends in -1, -2 and so on."""
        slug = re.sub(r"[^\w\- ]", "", one_line(heading).lower()).replace(" ", "-")
        number = self._taken.get(slug, 0)
        self._taken[slug] = number + 1
        return f"{slug}-{number}" if number else slug


def identifier(heading: str) -> str:
    """The anchor of a heading by docutils' rules: letters, digits and single hyphens, a letter first."""
    plain = unicodedata.normalize("NFKD", heading.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"^[-0-9]+|-+$", "", re.sub(r"[^a-z0-9]+", "-", plain))
