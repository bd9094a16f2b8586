"""reStructuredText: sections, paragraphs, list items and indented parts.

The markup is scanned, not run, so directives of Sphinx extensions, which docutils doesn't know, stay in the text.
"""

from __future__ import annotations

import re

from lsr.files.parsed import Lines, Parsed, identifier

_LINE = re.compile(r"([!-/:-@[-`{-~])\1*\s*$")
_TARGET = re.compile(r"\.\. _`?([^`:]+)`?:\s*$")
_FIELD = re.compile(r":([^:\s][^:]*):\s+(\S.*)$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\(?(?:\d+|[a-zA-Z#])[.)])\s+\S")
_ROLE = re.compile(r":[\w.:+-]+:`([^`<]*?)(?:\s*<[^`>]*>)?`|`{1,2}([^`]+?)(?:\s*<[^`>]*>)?`{1,2}_{0,2}")
_MARKS = re.compile(r"(?<!\w)\*{1,2}(?=\S)|(?<=\S)\*{1,2}(?!\w)|\\(?=[\W_])")


def read_rst(text: str) -> Parsed:
    """Read reStructuredText; the text is unchanged.

    A section's anchor is the target above it (`.. _install:`), or else the anchor that docutils makes of its title.
    """
    found, levels, metadata = Lines(text), [], {}
    lines, target = found.lines, ""
    number, docinfo = 0, True
    while number < len(lines):
        line = lines[number]
        begins = number == 0 or not lines[number - 1].strip()
        heading = _heading(lines, number) if begins and line.strip() else None
        if heading is not None:
            title, style, n_lines = heading
            if style not in levels:
                levels.append(style)
            found.headings.enter(levels.index(style), plain(title))
            found.anchor, target = identifier(target) or identifier(plain(title)), ""
            found.begin(number)
            number += n_lines
            docinfo = docinfo and len(levels) == 1
            continue
        if line.strip():
            if target_line := _TARGET.match(line):
                target = target_line[1]
            else:
                if docinfo and (field := _FIELD.match(line)):
                    metadata[field[1].strip().lower()] = field[2].strip()
                else:
                    docinfo = False
                target = ""
            # Indented parts stay with their directive or list item.
            if (begins and not line[0].isspace()) or _ITEM.match(line):
                found.begin(number)
        number += 1
    return found.parsed(metadata=metadata)


def _heading(lines: list[str], number: int) -> tuple[str, str, int] | None:
    """The title that begins at a line, the style of its underline, and its number of lines."""
    line, below = lines[number], lines[number + 1 : number + 3]
    if not below:
        return None
    over = _LINE.match(line)
    if over and len(below) == 2 and below[0].strip() and _LINE.match(below[1]) and below[1][0] == line[0]:
        return (below[0].strip(), line[0] * 2, 3) if len(below[0].rstrip()) <= len(line.rstrip()) + 1 else None
    under = _LINE.match(below[0])
    if over or not under or line[0].isspace() or len(below[0].rstrip()) < min(len(line.rstrip()), 4):
        return None
    # docutils requires underlines as long as the title, but many in practice are a little shorter.
    return (line.strip(), below[0][0], 2) if len(below[0].rstrip()) >= 0.7 * len(line.rstrip()) else None


def plain(title: str) -> str:
    """A title without markup: roles, literals, emphasis."""
    return _MARKS.sub("", _ROLE.sub(lambda found: found[1] or found[2] or "", title)).strip()
