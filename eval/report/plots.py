"""Draw pictures as small SVG files that use the fonts and the dark or light colours of the page.

`figures` prepares the data. Colours are Okabe and Ito's (jfly.uni-koeln.de/color, 2008); every system also has a shape
and a dash, so that colours aren't the only difference.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders for the page's colours of text and lines, grid, and background.
_INK, _GRID, _PAPER = "#010203", "#040506", "#070809"
_PAGE = {_INK: "currentColor", _GRID: "var(--grid)", _PAPER: "var(--paper)"}
_COLOURS = (_INK, "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # eight markers and seven colours: 56 different pairs
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)))
_TEXT = 10.5
_NAME_COLUMNS = 28, 48  # maximum length of names next to points, in narrow and in wide pictures
_WIDTHS = 5.8, 10.6  # inches of narrow pictures (for phones) and wide pictures
_BAR_COLUMNS = 26  # maximum length of names next to bars
_UNIT = 72  # SVG units per inch
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": _TEXT,
    "text.parse_math": False,  # dollar signs in names don't mark formulas
    "svg.fonttype": "none",
    "svg.hashsalt": "lsr",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True)
class Look:
    """A system's appearance in all pictures."""

    colour: str
    marker: str
    dash: Any

    @classmethod
    def of(cls, number: int) -> Look:
        """The appearance of the n-th system, from 0."""
        return cls(_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)])

    def swatch(self) -> str:
        """The marker as an inline SVG."""
        from matplotlib.markers import MarkerStyle

        style = MarkerStyle(self.marker)
        corners: Any = style.get_path().transformed(style.get_transform()).to_polygons()[0]
        points = " ".join(f"{14 * x:.1f},{-14 * y:.1f}" for x, y in corners)
        colour = _PAGE.get(self.colour, self.colour)
        shape = f'<polygon points="{points}" fill="{colour}" stroke="currentColor" stroke-width="1.2"/>'
        return f'<svg class="swatch" viewBox="-10.5 -10.5 21 21" aria-hidden="true">{shape}</svg>'

    def line(self) -> str:
        """The dash as an inline SVG."""
        colour = _PAGE.get(self.colour, self.colour)
        dash = "" if self.dash == "-" else f' stroke-dasharray="{" ".join(str(2 * d) for d in self.dash[1])}"'
        shape = f'<line x2="44" y1="6" y2="6" stroke="{colour}" stroke-width="3"{dash}/>'
        return f'<svg class="line" viewBox="0 0 44 12" aria-hidden="true">{shape}</svg>'


@dataclass(frozen=True)
class Point:
    """A named point; `start` is the start of a line to the point."""

    name: str
    x: float
    y: float
    look: Look
    start: tuple[float, float] | None = None


@dataclass(frozen=True)
class Spread:
    """Percentiles of a distribution, {50: value, ...}; `aside` is a text on the right."""

    name: str
    aside: str
    percentiles: dict[int, float]
    look: Look


@dataclass(frozen=True)
class Bar:
    """A difference with its interval."""

    name: str
    value: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True)
class Outline:
    """A histogram as densities between edges."""

    edges: tuple[float, ...]
    densities: tuple[float, ...]
    look: Look


def points(
    title: str,
    some: Sequence[Point],
    labels: tuple[str, str],
    top: float | None = None,
    front: bool = True,
    wide: bool = False,
) -> str:
    """Draw points over a logarithmic axis, with names where there is room.

    Args:
        title: Alternative text of the picture.
        some: The points; larger y and smaller x are better.
        labels: Labels of the x axis and the y axis.
        top: Upper end of the y axis; None to fit the points.
        front: Draw a line through the Pareto-optimal points.
        wide: Draw the wide version.
    """

    def draw(axes: Axes) -> None:
        _log_axis(axes, [p.x for p in some] + [p.start[0] for p in some if p.start])
        ys = [p.y for p in some] + [p.start[1] for p in some if p.start]
        room = max(0.12 * (max(ys) - min(ys)), 0.004)
        limits = (min(ys) - room, max(ys) + room if top is None else top + 0.3 * room)
        axes.set_ylim(*limits)
        best = [p for p in some if not any(_beats(q, p) for q in some)]
        lines = [[p.start, (p.x, p.y)] for p in some if p.start]
        if front:
            ends = sorted((p.x, p.y) for p in best)
            corners = [(x, y) for (_, y), (x, _) in pairwise(ends)]
            between = [end for pair in zip(ends, corners, strict=False) for end in pair]
            line = [*between, ends[-1], (axes.get_xlim()[1], ends[-1][1])]
            axes.plot([x for x, _ in line], [y for _, y in line], color=_GRID, lw=5, zorder=1)
            lines.append(line)
        for p in some:
            if p.start:
                axes.plot([p.start[0], p.x], [p.start[1], p.y], color=_INK, lw=0.8, ls=(0, (3, 2)), zorder=2)
                axes.plot(*p.start, "o", mfc=_PAPER, mec=_INK, ms=5, mew=0.9, zorder=3)
            axes.plot(p.x, p.y, p.look.marker, color=p.look.colour, ms=8, mec=_INK, mew=0.9, zorder=4)
        _name_points(axes, some, lines, _NAME_COLUMNS[wide])
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_yticks([tick for tick in axes.get_yticks() if top is None or tick <= top + 1e-9])
        axes.set_ylim(*limits)
        axes.grid(True)

    return _svg(title, _WIDTHS[wide], 4.0, draw, left=0.78, bottom=0.55)


@dataclass(frozen=True)
class Curve:
    """A line through (x, y) points with increasing x."""

    values: tuple[tuple[float, float], ...]
    look: Look


def curves(title: str, some: Sequence[Curve], labels: tuple[str, str], wide: bool = False) -> str:
    """Draw lines over a logarithmic axis, with the marks of the page's legend."""

    def draw(axes: Axes) -> None:
        _log_axis(axes, [x for one in some for x, _ in one.values])
        for one in some:
            xs, ys = zip(*one.values, strict=True)
            how: Any = {"color": one.look.colour, "ls": one.look.dash, "marker": one.look.marker}
            axes.plot(xs, ys, lw=1.6, ms=6, mec=_INK, mew=0.7, **how)
        axes.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, None))
        axes.grid(True)

    return _svg(title, _WIDTHS[wide], 4.0, draw, left=0.65, bottom=0.55)


def _beats(q: Point, p: Point) -> bool:
    return q.x <= p.x and q.y >= p.y and (q.x, q.y) != (p.x, p.y)


def spreads(title: str, some: Sequence[Spread], label: str, wide: bool = False) -> str:
    """Draw boxes from the 25th to the 75th percentile, whiskers from the 5th to the 95th, marks at the median and the
    99th.

    Names are above the boxes, so that long names fit on a phone. Unknown percentiles aren't drawn.
    """

    def draw(axes: Axes) -> None:
        _log_axis(axes, [value for one in some for value in one.percentiles.values()])
        for row, one in enumerate(some):
            at = one.percentiles
            low, high = at.get(5, at[50]), at.get(95, at[50])
            axes.plot([low, high], [row, row], color=_INK, lw=1, zorder=2)
            if 25 in at and 75 in at:
                axes.barh(row, at[75] - at[25], 0.36, at[25], color=_PAPER, zorder=3)
                axes.barh(
                    row, at[75] - at[25], 0.36, at[25], color=one.look.colour, ec=_INK, lw=0.8, alpha=0.6, zorder=3
                )
            axes.plot([at[50], at[50]], [row - 0.24, row + 0.24], color=_INK, lw=2.4, zorder=4)
            if 99 in at:
                axes.plot(at[99], row, one.look.marker, color=one.look.colour, ms=6, mec=_INK, mew=0.8, zorder=5)
            for x, side, text in ((0, "left", _cut(one.name, 120 if wide else 52)), (1, "right", one.aside)):
                axes.text(x, row - 0.44, text, transform=axes.get_yaxis_transform(), ha=side, va="center", zorder=6)
        axes.set(ylim=(len(some) - 0.5, -0.75), yticks=[], xlabel=label)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")

    return _svg(title, _WIDTHS[wide], 0.75 + 0.5 * len(some), draw, left=0.25, bottom=0.55)


def bars(title: str, some: Sequence[Bar], limits: tuple[float, float], look: Look) -> str:
    """Draw a difference with its interval in each row; hollow bars aren't significant."""

    def draw(axes: Axes) -> None:
        for row, bar in enumerate(some):
            face = look.colour if bar.significant else "none"
            axes.barh(row, bar.value, 0.56, color=face, ec=_INK, lw=0.8, zorder=2)
            axes.plot([bar.low, bar.high], [row, row], color=_PAPER, lw=3, zorder=3)
            axes.plot([bar.low, bar.high], [row, row], color=_INK, lw=1.2, zorder=3)
        axes.axvline(0, color=_INK, lw=1)
        axes.set(ylim=(len(some) - 0.4, -0.6), xlim=limits)
        axes.set_yticks(range(len(some)), [_cut(bar.name, _BAR_COLUMNS) for bar in some])
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.2g}".replace("-", "−") if value else "0")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")

    left = 0.25 + 0.088 * max(columns_of(_cut(bar.name, _BAR_COLUMNS)) for bar in some)
    return _svg(title, _WIDTHS[0], 0.55 + 0.3 * len(some), draw, left=left, bottom=0.32)


def bubbles(title: str, counts: dict[tuple[float, float], int], labels: tuple[str, str]) -> str:
    """Draw two systems' values for the same queries: a bubble's area shows how many queries have this pair of values.

    Queries on the diagonal are ties.
    """

    def draw(axes: Axes) -> None:
        top = max(1.0, *(max(at) for at in counts))
        axes.plot([0, top], [0, top], color=_INK, lw=1, zorder=1)
        looks = {0: (_COLOURS[3], "o"), 1: (_COLOURS[1], "^"), -1: (_COLOURS[2], "v")}
        groups: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for (x, y), n in sorted(counts.items()):
            groups.setdefault(((y > x) - (y < x), n), []).append((x, y))
        for (gain, n), places in sorted(groups.items(), key=lambda group: (group[0][0] != 0, -group[0][1])):
            colour, marker = looks[gain]
            size = max(4.0, 22 * math.sqrt(n / max(50, *counts.values())))
            xs, ys = zip(*places, strict=True)
            axes.plot(xs, ys, marker, color=colour, ms=size, alpha=0.7, mec=_INK, mew=0.5, ls="", zorder=2)
        axes.set(xlabel=_cut(labels[0], 40), ylabel=_cut(labels[1], 40), aspect="equal")
        axes.set(xlim=(-0.04 * top, 1.04 * top), ylim=(-0.04 * top, 1.04 * top))
        axes.grid(True)

    return _svg(title, 5.8, 5.5, draw, left=0.65, bottom=0.55)


def outlines(title: str, some: Sequence[Outline], label: str) -> str:
    """Draw overlaid histograms, each with its own dash."""

    def draw(axes: Axes) -> None:
        for one in some:
            axes.stairs(one.densities, one.edges, color=one.look.colour, ls=one.look.dash, lw=1.8)
        axes.set(xlabel=label, ylabel="share of documents", yticks=[], ylim=(0, None), xlim=(0, max(map(_most, some))))
        axes.grid(True, axis="x")

    return _svg(title, 4.2, 2.5, draw, left=0.35, bottom=0.5)


def _most(one: Outline) -> float:
    """Return the end of the axis: the 99th percentile, because a few very long documents would compress the rest."""
    share = 0.0
    for start, end, density in zip(one.edges, one.edges[1:], one.densities, strict=False):
        share += density * (end - start)
        if share >= 0.99:
            return end
    return one.edges[-1]


def _svg(title: str, width: float, height: float, draw: Callable[[Axes], None], left: float, bottom: float) -> str:
    """Draw on axes with a width and height in inches, and margins at the left and at the bottom."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # Text stays text in the SVG, so glyphs that matplotlib's font lacks don't matter.
        warnings.filterwarnings("ignore", message="(?s).*Glyph|.*Matplotlib currently does not support")
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, bottom / height, 1 - (left + 0.15) / width, 1 - (bottom + 0.12) / height))
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _for_page(file.getvalue(), title)


def _for_page(svg: str, title: str) -> str:
    """Convert an SVG file to a part of a page: without head, with a title, the page's font and colours, and unique
    names.
    """
    svg = svg[svg.index("<svg") :]
    for colour, name in _PAGE.items():
        svg = svg.replace(colour, name)
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', svg)
    assert box is not None
    name = re.sub(r"\W+", "-", title.lower()) + "-" + box[1].partition(".")[0]
    svg = re.sub(r"""font: ([\d.]+)px [^;"]+""", r"font-size: \1px", svg)
    svg = re.sub(r"\n *<g id=\"[a-z]+\w*_\d+\">", "\n<g>", svg)
    svg = re.sub(r'(id="|url\(#|href="#)(\w)', rf"\g<1>{name}-\2", svg)
    # Limit the width, so that letters aren't much larger than the page's text.
    head = f'<svg {box[0]} style="max-width: {1.35 * float(box[1]):.0f}px" role="img" aria-labelledby="{name}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r"^<svg[^>]*>", f'{head}<title id="{name}">{escape(title)}</title>'.replace("\\", r"\\"), svg)


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Set a logarithmic x axis around the values, wide enough that small differences look small."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(values), max(values)
    spare = max(math.sqrt(2.5 * low / high), (high / low) ** 0.08, 1.12)
    low, high = low / spare, high * spare
    choice: tuple[tuple[float, tuple[float, ...]], ...] = (
        (7, (1, 1.5, 2, 3, 4, 5, 7)),
        (60, (1, 2, 5)),
        (2000, (1, 3)),
    )
    steps = next((steps for up_to, steps in choice if high / low < up_to), (1,))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")


_Box = tuple[float, float, float, float]  # left, bottom, right, top


def _name_points(
    axes: Axes, some: Sequence[Point], lines: Sequence[Sequence[tuple[float, float]]], columns: int
) -> None:
    """Write names next to points without overlapping names, points or lines.

    A name is left out if there is no room, or if another name is cut to the same text; the page's legend has all names.
    """
    names = Counter(_cut(p.name, columns) for p in some)
    scale = axes.figure.dpi / _UNIT
    frame = axes.bbox
    places = [axes.transData.transform((p.x, p.y)) for p in some]
    taken = [_around(x, y, 5 * scale) for x, y in places]
    starts = [axes.transData.transform(p.start) for p in some if p.start]
    taken += [_around(x, y, 3 * scale) for x, y in starts]
    for line in lines:
        corners = [axes.transData.transform(corner) for corner in line]
        for (ax, ay), (bx, by) in pairwise(corners):
            steps = max(1, round(math.hypot(bx - ax, by - ay) / (4 * scale)))
            parts = [i / steps for i in range(steps + 1)]
            taken += [_around(ax + (bx - ax) * part, ay + (by - ay) * part, 3 * scale) for part in parts]
    for (x, y), p in sorted(zip(places, some, strict=True), key=lambda pair: (-pair[0][1], pair[0][0])):
        text = _cut(p.name, columns)
        width, height = 0.62 * _TEXT * scale * columns_of(text), 1.25 * _TEXT * scale
        for dx, dy, align in _offsets(scale) if names[text] == 1 else ():
            left = x + dx - {"left": 0, "center": width / 2, "right": width}[align]
            box = (left, y + dy - height / 2, left + width, y + dy + height / 2)
            far = math.hypot(dx, dy) > 22 * scale
            pointer = [_around(x + dx * part, y + dy * part, 1) for part in (0.3, 0.45, 0.6, 0.75)] if far else []
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(_overlap(new, old) for new in (box, *pointer) for old in taken):
                taken += [box, *pointer]
                arrow = {"arrowstyle": "-", "color": _INK, "lw": 0.5, "shrinkA": 0, "shrinkB": 4} if far else None
                style: Any = {"ha": align, "va": "center", "zorder": 5, "arrowprops": arrow}
                axes.annotate(text, (p.x, p.y), (dx / scale, dy / scale), textcoords="offset points", **style)
                break


def _around(x: float, y: float, by: float) -> _Box:
    return x - by, y - by, x + by, y + by


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _offsets(scale: float) -> Iterator[tuple[float, float, str]]:
    """Yield positions for a name around a point, nearest first."""
    for away in (9, 14, 20, 28, 38):
        for x, y, align in (
            (1, 0, "left"), (-1, 0, "right"), (0, 1.3, "center"), (0, -1.3, "center"),
            (0.8, 0.9, "left"), (0.8, -0.9, "left"), (-0.8, 0.9, "right"), (-0.8, -0.9, "right"),
        ):  # fmt: skip
            yield scale * away * x, scale * away * y, align


def columns_of(text: str) -> int:
    """Width of a text in terminal columns; wide East Asian letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _cut(text: str, columns: int) -> str:
    """Cut a text to one line and a number of columns."""
    text = " ".join(text.split())
    if columns_of(text) <= columns:
        return text
    while columns_of(text) >= columns:
        text = text[:-1]
    return text.rstrip() + "…"
