"""A page that shows a run in progress: curves of losses, lengths, FLOPS and validation, in one HTML file."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path

from lsr.durable import take_name
from lsr.train.watch import Line, Watcher, numbers

PAGE = "watch.html"
_EVERY = 2.0  # seconds between two versions of the page
_POINTS = 200  # largest number of points per curve
_WIDTH, _HEIGHT = 360, 150
_FIRST = ("loss", "validation/", "flops", "documents_terms", "queries_terms")  # other curves follow, sorted by name
_ABOUT = {
    "flops": "flops: expected shared terms of a query and a document of the batch",
    "documents_terms": "documents_terms: terms of a document, mean",
    "queries_terms": "queries_terms: terms of a query, mean",
    "norm": "norm of the gradient",
    "rate": "learning rate, share of the full rate",
}
_STYLE = """
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem; max-width: 78rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(23rem, 1fr)); gap: 1rem; }
figure { margin: 0; } svg { width: 100%; height: auto; } polyline { fill: none; stroke: #0b6bcb; stroke-width: 1.5; }
circle { fill: #0b6bcb; } text { font-size: 11px; fill: currentColor; } .frame { fill: none; stroke: #8888; }
"""

Curve = list[tuple[int, float]]


def page(folder: Path, steps: int) -> Watcher:
    """Make a watcher that keeps `watch.html` in the run's folder up to date.

    The page reloads itself every few seconds until the run ends. If the run was resumed, it includes the earlier part
    of the log.

    Args:
        folder: The run's folder.
        steps: Number of updates of the whole run.
    """
    curves: dict[str, Curve] = {}
    told: list[str] = []
    state = {"step": 0, "seconds": 0.0, "written": -_EVERY, "loaded": False}

    def take(line: Line) -> None:
        state["step"] = max(int(state["step"]), line["step"])
        if line.get("collapse"):
            told.append(f"step {line['step']}: {', '.join(line['collapse'])}")
        for name, value in numbers(line).items():
            if name == "seconds":
                state["seconds"] = value
            else:
                curves.setdefault(name, []).append((line["step"], value))

    def watch(line: Line) -> None:
        finished = bool(line.get("finished"))
        log = folder / "log.jsonl"
        if not state["loaded"] and log.is_file():  # the log has this line already
            for text in log.read_text(encoding="utf-8").splitlines():
                take(json.loads(text))
        elif not finished:
            take(line)
        state["loaded"] = True
        now = time.monotonic()
        if finished or "validation" in line or now - state["written"] >= _EVERY:
            state["written"] = now
            work = folder / f"{PAGE}.partial"
            left = None if finished else state["seconds"] * (steps - int(state["step"]))
            work.write_text(_html(folder.name, int(state["step"]), steps, left, curves, told), encoding="utf-8")
            take_name(work, folder / PAGE)

    return watch


def _html(name: str, step: int, steps: int, left: float | None, curves: dict[str, Curve], told: list[str]) -> str:
    """Return the page; `left` is the number of seconds to the end, None for a finished run."""
    state = "finished" if left is None else f"about {_duration(left)} left"
    reload = "" if left is None else '<meta http-equiv="refresh" content="4">'
    warnings = "".join(f"<li>{html.escape(one)}</li>" for one in told[-5:])
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8">{reload}',
            f"<title>{html.escape(name)}: step {step:,} of {steps:,}</title><style>{_STYLE}</style>",
            f"<h1>{html.escape(name)}</h1><p>Step {step:,} of {steps:,}, {state}.</p>",
            f"<h2>Signs of collapse</h2><ul>{warnings}</ul>" if warnings else "",
            "<main>",
            *(_chart(_ABOUT.get(one, one), curves[one]) for one in sorted(curves, key=_order)),
            "</main></html>",
        ]
    )


def _order(name: str) -> tuple[int, str]:
    return next((i for i, first in enumerate(_FIRST) if name.startswith(first)), len(_FIRST)), name


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def _chart(title: str, curve: Curve) -> str:
    """Return a curve as a figure with the ranges of both axes and the last value."""
    size = -(-len(curve) // _POINTS)
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    points = [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]
    left, top, right, bottom = 48, 8, _WIDTH - 8, _HEIGHT - 20
    wide, tall = max(last - first, 1), high - low or 1.0
    at = [(left + (x - first) / wide * (right - left), bottom - (y - low) / tall * (bottom - top)) for x, y in points]
    drawn = f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}"/>'
    if len(at) <= 30:
        drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in at)
    label = html.escape(f"{title}; now {curve[-1][1]:.4g}")
    return (
        f'<figure><figcaption>{label}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{label}"><rect class="frame" x="{left}" y="{top}" width="{right - left}" '
        f'height="{bottom - top}"/>{drawn}<text x="{left - 4}" y="{top + 9}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{left}" y="{_HEIGHT - 6}">{first:,}</text>'
        f'<text x="{right}" y="{_HEIGHT - 6}" text-anchor="end">step {last:,}</text></svg></figure>'
    )
