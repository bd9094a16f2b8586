"""Jupyter notebooks: Markdown, code and printed text in the order of the cells."""

from __future__ import annotations

import json
from typing import Any

from lsr.errors import DataError
from lsr.files.markdown import read_markdown
from lsr.files.parsed import Extracted, Parsed

_MOST_OUTPUT = 2000  # characters of a cell's output


def read_notebook(text: str) -> Parsed:
    """Read a notebook of format 3 or later.

    Raises:
        DataError: The text isn't a notebook.
        MissingExtra: markdown-it-py isn't installed.
    """
    try:
        notebook = json.loads(text)
        cells = notebook.get("cells") or [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a notebook: {error!r}") from None
    if not isinstance(cells, list):
        raise DataError("not a notebook: its cells are not a list")
    about = notebook.get("metadata")
    about = about if isinstance(about, dict) else {}
    out = Extracted()
    for cell in cells:
        if not isinstance(cell, dict):
            raise DataError("not a notebook: a cell is not an object")
        source = _text(cell.get("source", cell.get("input")))
        kind = cell.get("cell_type")
        if kind == "markdown":
            _add_markdown(source, out)
        elif kind == "heading":
            out.heading(int(cell.get("level", 1)), source, source.replace(" ", "-"))
        else:
            out.add(source)
            for output in cell.get("outputs") or ():
                out.add(_printed(output))
    language = about.get("kernelspec", {}).get("language") if isinstance(about.get("kernelspec"), dict) else None
    metadata = {"language": language} if isinstance(language, str) else {}
    title = about.get("title")
    return out.parsed(title if isinstance(title, str) else "", metadata)


def _add_markdown(source: str, out: Extracted) -> None:
    """Add a cell's Markdown. Its headings also apply to the cells that follow, and get Jupyter's anchors."""
    cell = read_markdown("\n" + source)  # with an empty first line, nothing is read as front matter
    before: tuple[str, ...] = ()
    for block, text in cell.pieces():
        if block.headings and block.headings != before:
            level = len(text) - len(text.lstrip("#"))
            heading = block.headings[-1]
            out.headings.enter(level or 1, heading)
            out.anchor = heading.replace(" ", "-")
        before = block.headings
        out.add(text)


def _text(value: Any) -> str:
    """The text of a cell, which may be a list of lines."""
    text = "".join(map(str, value)) if isinstance(value, list) else str(value or "")
    return text.encode("utf-8", "replace").decode()  # an escape in JSON can be half of a surrogate pair


def _printed(output: Any) -> str:
    """A cell's output as text, without pictures and HTML."""
    if not isinstance(output, dict):
        return ""
    data = output.get("data")
    text = _text(output.get("text") or (data.get("text/plain") if isinstance(data, dict) else None))
    return text[:_MOST_OUTPUT]
