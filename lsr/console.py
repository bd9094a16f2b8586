"""What people see: progress on stderr, quiet when piped; tables on a terminal and JSON lines when piped."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from tqdm import tqdm


def progress(total: int | None, label: str, unit: str = "docs") -> Any:
    """A progress bar with rate and time left, on stderr; nothing where stderr is no terminal, or in the background."""
    seen = sys.stderr.isatty() and threading.current_thread() is threading.main_thread()
    return tqdm(total=total, desc=label, unit=f" {unit}", disable=not seen, leave=False, smoothing=0.1)


def is_terminal() -> bool:
    """Whether people read stdout."""
    return sys.stdout.isatty()


def note(message: str) -> None:
    """A line for people, on stderr, also when piped: what was skipped or cut must not go unseen."""
    click.echo(message, err=True)


def table(rows: Iterable[Sequence[str]], header: Sequence[str], align: str) -> str:
    """A table in plain text, cells may be styled; `align` has "<" or ">" for each column."""
    lines = [list(map(str, row)) for row in (header, *rows)]
    seen = [[len(click.unstyle(cell)) for cell in line] for line in lines]
    widths = [max(line[i] for line in seen) for i in range(len(header))]
    text = []
    for line, lengths in zip(lines, seen, strict=True):
        spaces = [" " * (width - length) for width, length in zip(widths, lengths, strict=True)]
        cells = [cell + s if a == "<" else s + cell for cell, s, a in zip(line, spaces, align, strict=True)]
        text.append("  ".join(cells).rstrip())
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([text[0], rule, *text[1:]])


def emit_json(values: Mapping[str, Any]) -> None:
    """One line of JSON on stdout."""
    click.echo(json.dumps(values, ensure_ascii=False))
