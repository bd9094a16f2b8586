"""Plain text and source code."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

from lsr.files.parsed import Lines, Parsed


def read_text(text: str) -> Parsed:
    """Read plain text; paragraphs end at empty lines."""
    found = Lines(text)
    before = ""
    for number, line in enumerate(found.lines):
        if line.strip() and not before.strip():
            found.begin(number)
        before = line
    return found.parsed()


def read_code(text: str) -> Parsed:
    """Read source code. A block ends at an empty line, unless an indented line follows."""
    found = Lines(text)
    before = ""
    for number, line in enumerate(found.lines):
        if line.strip() and not before.strip() and not line[0].isspace() and line[0] not in "})]":
            found.begin(number)
        before = line
    return found.parsed()


def read_python(text: str) -> Parsed:
    """Read Python: a block for each class and function, with the comments above it. Invalid files are read like other
    source code.

    Anchors are line numbers as on GitHub, "L17".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about string literals of the file
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return read_code(text)
    if "\f" in text:  # with form feeds, Python may count lines differently
        return read_code(text)
    definitions = list(_definitions(tree, (), ""))
    begins = {end: (outer, anchor) for _, end, _, outer, anchor in reversed(definitions)}
    begins |= {first: (path, f"L{first + 1}") for first, _, path, _, _ in definitions}
    found = Lines(text)
    starts = True
    for number, line in enumerate(found.lines):
        if number in begins:
            path, found.anchor = begins[number]
            found.headings.reset(path)
            starts = True
        if starts and line.strip():
            found.begin(number)
        starts = not line.strip()
    return found.parsed(_first_line(ast.get_docstring(tree)))


def _definitions(
    node: ast.AST, outer: tuple[str, ...], anchor: str
) -> Iterator[tuple[int, int, tuple[str, ...], tuple[str, ...], str]]:
    """Yield (first line from 0, end line, path of names, path of the enclosing names, their anchor) of definitions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)]) - 1
            kind = "class" if isinstance(child, ast.ClassDef) else "def"
            path = (*outer, f"{kind} {child.name}")
            yield first, child.end_lineno or first + 1, path, outer, anchor
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, path, f"L{first + 1}")


def _first_line(docstring: str | None) -> str:
    line = (docstring or "").strip().split("\n")[0]
    return line if len(line) <= 120 else ""
