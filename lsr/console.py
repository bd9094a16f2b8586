"""What people see: progress on stderr, quiet when piped; tables on a terminal and JSON lines when piped."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from tqdm import tqdm

from lsr.errors import LsrWarning


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


def warn(message: str, category: type[LsrWarning]) -> None:
    """A warning at the line that called lsr, whatever of lsr lies between."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "lsr":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Warnings of lsr are lines for people for as long as this lasts: on the command line."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Any, category: type[Warning], *where: Any, **how: Any) -> None:
            if issubclass(category, LsrWarning):
                note(str(message))
            else:
                show(message, category, *where, **how)

        warnings.showwarning = tell
        warnings.simplefilter("default", LsrWarning)
        yield


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
