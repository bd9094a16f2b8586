"""Output: progress on stderr (a bar on a terminal, lines in a log), tables on a terminal, JSON lines in a pipe."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from lsr.errors import LsrWarning

if TYPE_CHECKING:
    from typing import Self

_LOG_SECONDS = 10.0  # between two lines of a log
Progress = Callable[[str, int, int | None], None]  # label, units done, total if known
_told: ContextVar[Progress | None] = ContextVar("lsr.progress", default=None)


def progress(total: int | None, label: str, unit: str = "docs", *, done: int = 0) -> Any:
    """Progress with rate and remaining time on stderr: a bar on a terminal, else a line every ten seconds. Only the
    main thread shows progress. Units `done` by an earlier run count towards the total, but not in the rate.
    """
    if (call := _told.get()) is not None:
        return _Calls(total, label, call, done)
    if threading.current_thread() is not threading.main_thread():
        return tqdm(disable=True)
    if not sys.stderr.isatty():
        return _LogLines(total, label, unit, done)
    return tqdm(total=total, desc=label, unit=f" {unit}", leave=False, smoothing=0.1, initial=done)


@contextmanager
def progress_to(call: Progress | None) -> Iterator[None]:
    """Report progress to a function instead of showing it; None changes nothing."""
    if call is None:
        yield
        return
    token = _told.set(call)
    try:
        yield
    finally:
        _told.reset(token)


class _LogLines:
    """Progress for a log; has the part of tqdm's interface that we use."""

    disable = False

    def __init__(self, total: int | None, label: str, unit: str, done: int) -> None:
        self._label, self._unit, self._before = label, unit, done
        self.reset(total)

    def reset(self, total: int | None = None) -> None:
        """Start counting now."""
        self.total, self.n = total, self._before
        self._told = self._started = time.monotonic()

    def update(self, n: int = 1) -> None:
        """Count n more; print a line if the last one is ten seconds old."""
        self.n += n
        now = time.monotonic()
        if now - self._told < _LOG_SECONDS:
            return
        self._told = now
        rate = (self.n - self._before) / (now - self._started)
        of = f" of {self.total:,}" if self.total else ""
        left = f", {(self.total - self.n) / rate:,.0f} s left" if self.total and rate and self.n <= self.total else ""
        note(f"{self._label}: {self.n:,}{of} {self._unit}, {rate:,.1f} a second{left}")

    def close(self) -> None:
        """Does nothing: there is no bar to remove."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Calls:
    """Progress for a function; has the part of tqdm's interface that we use."""

    disable = False

    def __init__(self, total: int | None, label: str, call: Progress, done: int) -> None:
        self.total, self.n = total, done
        self._label, self._call = label, call

    def update(self, n: int = 1) -> None:
        """Count n more and call the function."""
        self.n += n
        if n:
            self._call(self._label, self.n, self.total)

    def reset(self, total: int | None = None) -> None:
        """Set the total."""
        self.total = total

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Number(click.FloatRange):
    """The type of options that take a finite number, optionally in a range; click's own type accepts NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a value."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} isn't a finite number.", param, ctx)
        return number


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def counted(n: int, what: str) -> str:
    """A number with a noun: "1 document", "2,000 documents"."""
    plural = f"{what[:-1]}ies" if what.endswith("ry") else f"{what}s"
    return f"{n:,} {what if n == 1 else plural}"


def note(message: str) -> None:
    """Print a line on stderr, even if stdout is piped, so that users notice skipped or cut documents."""
    click.echo(message, err=True)


def warn(message: str | LsrWarning, category: type[LsrWarning]) -> None:
    """Issue a warning that points at the line of user code that called lsr. `message` may be a `category` instance."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "lsr":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print lsr's warnings as plain lines within the block; for the command line."""
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
    """A table in plain text. Cells may be styled; `align` has "<" or ">" for each column."""
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
    """Print one line of JSON on stdout."""
    click.echo(json.dumps(values, ensure_ascii=False))
