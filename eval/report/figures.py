"""Figures of a report: choose and prepare the data, which `plots` draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from lsr.eval.latency import Latency
from lsr.eval.report import plots
from lsr.eval.report.formatting import milliseconds
from lsr.eval.report.plots import Bar, Curve, Look, Outline, Point, Spread
from lsr.eval.report.results import Lengths, Results
from lsr.eval.report.tables import SIGNIFICANT

_PERCENTILES = (5, 25, 50, 75, 95, 99)
_GRID = 50  # values are rounded to 1/50, which bounds the size of the picture


@dataclass(frozen=True)
class Figure:
    """An SVG picture and its heading.

    Attributes:
        heading: The heading.
        svg: The picture.
        swatch: The mark of the system, as SVG.
        wide: A wide version for large screens; "" if there is none.
    """

    heading: str
    svg: str
    swatch: str = ""
    wide: str = ""


def _look(results: Results, system: str) -> Look:
    return Look.of(results.systems.index(system))


def key(results: Results, names: list[str]) -> tuple[tuple[str, str], ...]:
    """Return systems with their marks, for a key beside a picture, which has room for only some of the names."""
    return tuple((name, _look(results, name).swatch()) for name in names)


def against_latency(results: Results) -> Figure | None:
    """Draw quality against the median search time, with the Pareto frontier."""
    measure = results.experiment.measures[0]
    some = _points(results, {name: results.mean_p50(name) for name in results.systems})
    labels = (f"median search time, ms, k = {results.experiment.k}", measure)
    title = f"{measure} against search time"
    return _points_figure(title, some, labels) if some else None


def against_size(results: Results) -> Figure | None:
    """Draw quality against the size of the index, with the Pareto frontier."""
    measure = results.experiment.measures[0]
    sizes = {name: results.mean_bytes(name) for name in results.systems}
    some = _points(results, {name: size / 1e6 if size else None for name, size in sizes.items()})
    title = f"{measure} against index size"
    return _points_figure(title, some, ("index size, MB", measure)) if some else None


def _points_figure(title: str, some: list[Point], labels: tuple[str, str], **how: Any) -> Figure:
    narrow, wide = (plots.points(title, some, labels, wide=wide, **how) for wide in (False, True))
    return Figure(title, narrow, wide=wide)


def _points(results: Results, across: dict[str, float | None]) -> list[Point]:
    measure = results.experiment.measures[0]
    return [
        Point(name, x, y, _look(results, name))
        for name, x in across.items()
        if x and (y := results.mean(name, measure)) is not None
    ]


def recall(results: Results) -> Figure | None:
    """Draw recall of approximate systems against search time, with lines from their exact counterparts."""
    some = []
    for system in results.experiment.systems:
        pairs = [
            (found.recall, found.search_ms.p50, exact.search_ms.p50)
            for found, exact in results.beside_exact(system)
            if found.search_ms and exact.search_ms and min(found.search_ms.p50, exact.search_ms.p50) > 0
        ]
        if pairs:
            reached, fast, slow = (float(np.mean(values)) for values in zip(*pairs, strict=True))
            some.append(Point(system.name, fast, reached, _look(results, system.name), (slow, 1.0)))
    k = results.experiment.k
    title = f"Recall at {k} against search time"
    labels = (f"median search time, ms, k = {k}", f"recall of the exact top {k}")
    return _points_figure(title, some, labels, top=1.0, front=False) if some else None


def recall_at(results: Results) -> Figure | None:
    """Draw recall against the depth of the runs."""
    found = {name: results.recall_at(name) for name in results.systems}
    some = [
        Curve(tuple(sorted((float(k), v) for k, v in values.items())), _look(results, name))
        for name, values in found.items()
        if len(values) > 1
    ]
    title = "Recall against depth"
    if not some:
        return None
    narrow, wide = (plots.curves(title, some, ("documents, k", "recall at k"), wide=wide) for wide in (False, True))
    return Figure(title, narrow, wide=wide)


def latency(results: Results) -> Figure | None:
    """Draw the distribution of search times by system."""
    some = []
    for system in results.systems:
        times = results.times(system)
        found = (
            dict(zip(_PERCENTILES, map(float, np.percentile(times, _PERCENTILES)), strict=True)) if len(times) else None
        )
        known = [r.search_ms for r in results.of_system(system) if r.search_ms]
        if found is None and known:
            found = {50: _mean(known, "p50"), 95: _mean(known, "p95"), 99: _mean(known, "p99")}
        if found and min(found.values()) > 0:
            n = len(known)
            partly = f" ({n} of {len(results.datasets)} datasets)" if n < len(results.datasets) else ""
            median = f"median {milliseconds(found[50]).text}"
            some.append(Spread(system + partly, median, found, _look(results, system)))
    title = "Search time by system"
    if not some:
        return None
    label = "search time, ms, one query at a time"
    narrow, wide = (plots.spreads(title, some, label, wide=wide) for wide in (False, True))
    return Figure(title, narrow, wide=wide)


def _mean(times: list[Latency], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in times]))


def differences(results: Results) -> list[Figure]:
    """Draw each system's differences from the baseline, by dataset."""
    measure, baseline = results.experiment.measures[0], results.experiment.baseline
    found = {
        system: [
            Bar(dataset, test.difference, test.low, test.high, test.p_corrected < SIGNIFICANT)
            for dataset in results.datasets
            if (test := results.comparison(dataset, system, measure))
        ]
        for system in results.systems
    }
    ends = [end for some in found.values() for bar in some for end in (bar.low, bar.high, bar.value, 0.0)]
    room = 0.06 * (max(ends, default=0) - min(ends, default=0)) or 0.01
    return [
        Figure(
            system,
            plots.bars(
                f"{measure}, {system} minus {baseline}",
                some,
                (min(ends) - room, max(ends) + room),
                _look(results, system),
            ),
            _look(results, system).swatch(),
        )
        for system, some in found.items()
        if some
    ]


def per_query(results: Results, other: str) -> Figure | None:
    """Draw a system's values against the baseline's values, by query."""
    measure, baseline = results.experiment.measures[0], results.experiment.baseline
    before, after = results.query_values(baseline, measure), results.query_values(other, measure)
    counts = Counter(
        (round(before[key] * _GRID) / _GRID, round(after[key] * _GRID) / _GRID) for key in before.keys() & after.keys()
    )
    title = f"{measure} of {other} against {baseline}, query by query"
    heading = f"{measure} by query"
    return (
        Figure(heading, plots.bubbles(title, counts, (f"{measure}, {baseline}", f"{measure}, {other}")))
        if counts
        else None
    )


def lengths(results: Results) -> tuple[list[Figure], dict[str, Look]]:
    """Draw histograms of the number of terms per document by encoder, for each dataset; also return the encoders'
    marks.
    """
    encoders: dict[str, Look] = {}
    figures = []
    for dataset in results.datasets:
        some: dict[str, Outline] = {}
        for system in results.experiment.systems:
            result = results.result(dataset, system.name)
            if result is not None and result.lengths and sum(result.lengths.counts) and system.encoder not in some:
                encoder = system.encoder or system.name
                look = encoders.setdefault(encoder, Look.of(len(encoders)))
                some.setdefault(encoder, _outline(result.lengths, look))
        if some:
            title = f"Terms of a document, {dataset}"
            figures.append(Figure(dataset, plots.outlines(title, list(some.values()), "terms of a document")))
    return figures, encoders


def _outline(lengths: Lengths, look: Look) -> Outline:
    """Convert counts to densities, so that bins of different widths can be compared."""
    counts = np.asarray(lengths.counts, np.float64)
    densities = counts / counts.sum() / np.diff(lengths.edges)
    return Outline(lengths.edges, tuple(map(float, densities)), look)
