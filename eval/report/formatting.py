"""Format tables, cells and numbers; `tables` has their content."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The text.
        value: Sort key of a number; None for text, which is sorted alphabetically. Empty cells come last.
        best: Whether the value is the best of its column.
        mark: ▲ or ▼.
        mark_means: Meaning of the mark.
        aside: Smaller text after the text, such as an interval.
        swatch: SVG before the text.
    """

    text: str = ""
    value: float | None = None
    best: bool = False
    mark: str = ""
    mark_means: str = ""
    aside: str = ""
    swatch: str = ""


@dataclass(frozen=True)
class Table:
    """A table. The first `heads` columns name the row; `numeric` columns are aligned to the right.

    `published` has rows that weren't measured here; when the table is sorted, they stay below the other rows.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    heads: int = 1
    marked: bool = False
    published: tuple[tuple[Cell, ...], ...] = ()


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], heads: int = 1, **more: Any) -> Table:
    """Make a table; columns with a number in any row are numeric."""
    numeric = tuple(any(row[i].value is not None for row in rows) for i in range(len(columns)))
    return Table(caption, tuple(columns), tuple(map(tuple, rows)), numeric, heads, **more)


def score(value: float | None) -> Cell:
    """A measure's value."""
    return Cell() if value is None else Cell(f"{value:.3f}", value)


def part(value: float | None) -> Cell:
    """A share; the text is "1" only if the share is exactly 1."""
    if value is None:
        return Cell()
    return Cell("1" if value == 1 else f"{min(value, 0.9999):.4f}", value)


def difference(value: float) -> Cell:
    """A difference of two values, with its sign."""
    text = f"{value:+.3f}".replace("-", "−")
    return Cell("0.000" if text.strip("+−0.") == "" else text, value)


def p_value(value: float) -> Cell:
    """A probability."""
    return Cell("<0.001" if value < 0.001 else f"{value:.3f}", value)


def number(value: float | None) -> Cell:
    """A count, or another number with three significant digits, but with all digits before the point."""
    if value is None:
        return Cell()
    whole = isinstance(value, int) or value >= 100
    return Cell(f"{value:,.0f}" if whole else _three(value), value)


def milliseconds(value: float | None) -> Cell:
    """A time in milliseconds, to the microsecond at most."""
    return Cell() if value is None else Cell(f"{value:.3f}" if value < 1 else _three(value), value)


def seconds(value: float | None) -> Cell:
    """A time with its unit."""
    if value is None:
        return Cell()
    if value >= 60:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return Cell(f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s", value)
    return Cell(f"{value * 1000:.0f} ms" if value < 0.1 else f"{_three(value)} s", value)


def bytes_cell(value: float | None) -> Cell:
    """Bytes with a decimal unit."""
    if value is None:
        return Cell()
    shown, units = float(value), ["B", "kB", "MB", "GB", "TB"]
    while shown >= 999.5 and len(units) > 1:
        shown /= 1000
        units.pop(0)
    return Cell(f"{shown:.0f} B" if units[0] == "B" else f"{_three(shown)} {units[0]}", value)


def _three(value: float) -> str:
    """Format with three significant digits, but with all digits before the point."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    value = float(f"{value:.3g}") if abs(value) < 100 else value
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))}f}"


def to_markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown."""
    lines = [f"**{escape_markdown(table.caption)}**", "", _line(map(escape_markdown, table.columns))]
    lines.append(_line("---:" if right else "---" for right in table.numeric))
    for row in (*table.rows, *table.published):
        lines.append(_line(map(_markdown_cell, row)))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    text = f"**{text}**" if cell.best else text
    return " ".join(part for part in (text, cell.mark, escape_markdown(cell.aside)) if part)


def escape_markdown(text: str) -> str:
    """Escape text for Markdown."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", " ".join(text.split()))


def to_csv(table: Table) -> str:
    """Write a table as CSV: numbers with all digits, marks and intervals in separate columns."""
    rows = (*table.rows, *table.published)
    beside = [any(row[i].mark or row[i].aside for row in rows) for i in range(len(table.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([name for i, column in enumerate(table.columns) for name in _twice(column, beside[i])])
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            cells.append(cell.text if cell.value is None else repr(cell.value))
            if beside[i]:
                cells.append(" ".join(part for part in (cell.mark, cell.aside) if part))
        writer.writerow(cells)
    return file.getvalue()


def _twice(column: str, beside: bool) -> list[str]:
    return [column, f"{column}, note"] if beside else [column]


_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "[": "{[}", "*": "{*}",  # at the start of a row, LaTeX would read them as an option of the previous row
    "\N{MINUS SIGN}": "$-$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$",
    "≈": r"$\approx$", "∞": r"$\infty$", "→": r"$\rightarrow$", "←": r"$\leftarrow$", "·": r"$\cdot$",
    "°": r"$^{\circ}$", "▲": r"$^{\uparrow}$", "▼": r"$^{\downarrow}$", "µ": r"$\mu$", "ς": r"$\varsigma$",
    "‐": "-", "‑": "-", "⁄": "/", "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "„": ",,", "«": "\"",
    "»": "\"", "…": r"\dots{}", "•": r"$\bullet$", "£": r"$\pounds$", "§": r"\S{}", "ß": r"\ss{}", "æ": r"\ae{}",
    "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip
_TEX_ACCENTS = {
    "GRAVE ACCENT": "`", "ACUTE ACCENT": "'", "CIRCUMFLEX ACCENT": "^", "TILDE": "~", "DIAERESIS": '"', "MACRON": "=",
    "DOT ABOVE": ".", "BREVE": "u", "CARON": "v", "RING ABOVE": "r", "CEDILLA": "c", "DOUBLE ACUTE ACCENT": "H",
    "DOT BELOW": "d",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_TEX |= {a: f"$\\{name}$" for a, name in zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ", _GREEK.split(), strict=True)}
_TEX |= dict(zip("οΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "oABEZHIKMNOPTYX", strict=True))  # LaTeX has no commands for these letters


def to_latex(table: Table) -> str:
    """Write a table as LaTeX with the rules of booktabs, for \\input within your own `table` environment."""
    lines = [
        f"% {' '.join(table.caption.split())}; needs \\usepackage{{booktabs}}",
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.numeric)}}}",
        r"\toprule",
        _tex_line(map(escape_latex, table.columns)),
    ]
    for rows in (table.rows, table.published):
        if rows:
            lines += [r"\midrule", *(_tex_line(map(_tex_cell, row)) for row in rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    return " ".join(part for part in (text + escape_latex(cell.mark), escape_latex(cell.aside)) if part)


def escape_latex(text: str) -> str:
    """Escape text for LaTeX, in ASCII, so that no package is needed.

    Letters that pdflatex's default fonts lack, such as Chinese characters, become question marks; Markdown and CSV keep
    them.
    """
    return "".join(map(_tex_letter, unicodedata.normalize("NFC", " ".join(text.split()))))


def _tex_letter(letter: str) -> str:
    if letter in _TEX:
        return _TEX[letter]
    if letter.isascii():
        return letter if letter.isprintable() else "?"
    parts = unicodedata.normalize("NFD", letter)
    base, names = parts[0], [unicodedata.name(mark, "").removeprefix("COMBINING ") for mark in parts[1:]]
    if base.isascii() and names and all(one in _TEX_ACCENTS for one in names):
        for one in names:
            base = rf"\{_TEX_ACCENTS[one]}{{{base}}}"
        return base
    plain = [one for one in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(one)]
    return "?" if plain == [letter] else "".join(map(_tex_letter, plain))
