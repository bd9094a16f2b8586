"""HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """An escaped HTML table; the first row is the header, unless it is empty."""
    header, *rest = rows
    lines = [f"<caption>{escape(caption)}</caption>"] if caption else []
    if any(header):
        lines.append("<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rest]
    return "<table>" + "".join(lines) + "</table>"
