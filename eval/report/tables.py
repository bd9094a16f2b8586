"""The tables of a report, for the page and for Markdown."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lsr.eval.report.formatting import (
    Cell,
    Table,
    bytes_cell,
    difference,
    milliseconds,
    number,
    p_value,
    part,
    score,
    seconds,
    table,
)
from lsr.eval.report.plots import Look
from lsr.eval.report.results import Result, Results, SystemFacts, Tested

SIGNIFICANT = 0.05
_SHOWN_QUERIES = 10
_SHOWN_TEXT = 160  # characters of a query


def quality(results: Results, measure: str) -> Table:
    """Table of systems by datasets; marks show significant differences from the baseline, and published values come
    last.
    """
    experiment = results.experiment
    several = len(results.datasets) > 1
    rows = []
    for name in results.systems:
        row = [system_cell(results, name)]
        if several:
            row.append(_spread(score(results.mean(name, measure)), results.spread(name, measure)))
        for dataset in results.datasets:
            result = results.result(dataset, name)
            test = results.comparison(dataset, name, measure)
            cell = _spread(
                score(result.measures.get(measure) if result else None), results.spread(name, measure, dataset)
            )
            row.append(_marked(cell, test))
        rows.append(row)
    for column in range(1, len(rows[0])):
        texts = [row[column].text for row in rows if row[column].text]
        for row in rows:
            row[column] = replace(row[column], best=len(texts) > 1 and row[column].text == max(texts))
    published: dict[str, dict[str, Cell]] = {}
    for reference in experiment.references:
        if reference.measure == measure:
            cell = score(reference.value)
            source = f"[{sources(results).index(reference.source) + 1}]"
            published.setdefault(reference.system, {})[reference.dataset] = replace(cell, aside=source)
    empty = [Cell()] if several else []
    return table(
        measure + (" by dataset" if several else f" on {results.datasets[0]}"),
        ["system", *(["mean"] if several else []), *results.datasets],
        rows,
        published=tuple(
            (Cell(name, aside="published"), *empty, *(values.get(dataset, Cell()) for dataset in results.datasets))
            for name, values in published.items()
        ),
        marked=True,
    )


def _spread(cell: Cell, value: float | None) -> Cell:
    return cell if value is None or not cell.text else replace(cell, aside=f"± {value:.3f}")


def sources(results: Results) -> list[str]:
    """Sources of the published values, in the order of their numbers."""
    return list(dict.fromkeys(reference.source for reference in results.experiment.references))


def _marked(cell: Cell, test: Tested | None) -> Cell:
    if test is None or test.p_corrected >= SIGNIFICANT or not cell.text:
        return cell
    better = test.difference > 0
    means = (
        f"significantly {'better' if better else 'worse'} than {test.baseline}, p = {p_value(test.p_corrected).text}"
    )
    return replace(cell, mark="▲" if better else "▼", mark_means=means)


def wins(results: Results) -> Table | None:
    """Table that counts datasets and queries on which a system is better than, equal to or worse than the baseline."""
    measure, rows = results.experiment.measures[0], []
    for name in results.systems:
        tests = [t for dataset in results.datasets if (t := results.comparison(dataset, name, measure))]
        if tests:
            clear = [t for t in tests if t.p_corrected < SIGNIFICANT]
            better = sum(t.difference > 0 for t in clear)
            worse = sum(t.difference < 0 for t in clear)
            queries = [sum(getattr(t, what) for t in tests) for what in ("wins", "ties", "losses")]
            mean = sum(t.difference for t in tests) / len(tests)
            counts = [better, len(tests) - better - worse, worse, *queries]
            rows.append([system_cell(results, name), difference(mean), *map(number, counts)])
    columns = ["system", "mean difference", "datasets better", "undecided", "worse"]
    columns += ["queries won", "tied", "lost"]
    return table(f"Against {results.experiment.baseline}, {measure}", columns, rows) if rows else None


def comparisons(results: Results) -> Table | None:
    """Table of all paired tests."""
    tests = results.experiment.comparisons
    against = len({test.baseline for test in tests}) > 1
    rows = [
        [
            Cell(test.dataset),
            system_cell(results, test.system),
            *([Cell(test.baseline)] if against else []),
            Cell(test.measure),
            _marked(difference(test.difference), test),
            difference(test.low),
            difference(test.high),
            p_value(test.p),
            p_value(test.p_corrected),
            *map(number, (test.wins, test.ties, test.losses)),
        ]
        for test in tests
    ]
    names = ["dataset", "system", *(["baseline"] if against else []), "measure"]
    columns = [*names, "difference", "from", "to", "p", "p corrected", "won", "tied", "lost"]
    return table("Paired tests", columns, rows, heads=len(names), marked=True) if rows else None


def pairs(results: Results) -> Table | None:
    """Table of the comparisons of all pairs of systems, by dataset."""
    tests = {(t.baseline, t.system, t.dataset): t for t in results.experiment.pairs}
    rows = []
    for other, name in dict.fromkeys((t.baseline, t.system) for t in results.experiment.pairs):
        found = [tests.get((other, name, dataset)) for dataset in results.datasets]
        cells = [_marked(difference(t.difference), t) if t else Cell() for t in found]
        known = [t.difference for t in found if t]
        mean = difference(sum(known) / len(known)) if len(known) == len(found) else Cell()
        rows.append([system_cell(results, name), Cell(other), mean, *cells])
    columns = ["system", "against", "mean difference", *results.datasets]
    return table(f"All pairs, {results.experiment.measures[0]}", columns, rows, heads=2, marked=True) if rows else None


def alike(results: Results) -> Table | None:
    """Table of the similarity of the systems' rankings; means over the datasets."""
    found: dict[tuple[str, str], list[tuple[float, float | None]]] = {}
    for one in results.experiment.alike:
        found.setdefault((one.other, one.system), []).append((one.rbo, one.tau))
    rows = []
    for (other, name), values in found.items():
        taus = [tau for _, tau in values if tau is not None]
        rbo = score(sum(rbo for rbo, _ in values) / len(values))
        rows.append([system_cell(results, name), Cell(other), rbo, score(sum(taus) / len(taus) if taus else None)])
    return table("Similarity of rankings", ["system", "and", "RBO", "Kendall's τ"], rows, heads=2) if rows else None


def recall_at(results: Results) -> Table | None:
    """Table of recall at several depths, up to the depth of the runs; means over the datasets."""
    found = {name: results.recall_at(name) for name in results.systems}
    depths = sorted({k for values in found.values() for k in values})
    rows = [[system_cell(results, name), *(score(found[name].get(k)) for k in depths)] for name in results.systems]
    return table("Recall by depth", ["system", *(f"R@{k}" for k in depths)], rows) if depths else None


def approximate(results: Results) -> Table | None:
    """Table of approximate systems and their exact counterparts; means over the datasets that both have."""
    measure, rows = results.experiment.measures[0], []
    for system in results.experiment.systems:
        if pairs := results.beside_exact(system):
            recalls = [found.recall for found, _ in pairs if found.recall is not None]
            lost = [
                found.measures[measure] - exact.measures[measure]
                for found, exact in pairs
                if measure in found.measures and measure in exact.measures
            ]
            times = [
                (found.search_ms.p50, exact.search_ms.p50)
                for found, exact in pairs
                if found.search_ms and exact.search_ms
            ]
            fast, slow = (sum(some) / len(times) for some in zip(*times, strict=True)) if times else (None, None)
            faster = slow / fast if slow is not None and fast else None
            rows.append(
                [
                    system_cell(results, system.name),
                    Cell(system.exact_name or ""),
                    number(len(pairs)),
                    part(sum(recalls) / len(recalls)),
                    part(min(recalls)),
                    difference(sum(lost) / len(lost)) if lost else Cell(),
                    milliseconds(fast),
                    milliseconds(slow),
                    Cell(f"{faster:.2f}×", faster) if faster is not None else Cell(),
                ]
            )
    columns = ["system", "exact system", "datasets", f"recall at {results.experiment.k}", "lowest"]
    columns += [f"{measure} difference", "p50, ms", "exact p50, ms", "times as fast"]
    return table("Approximate and exact systems", columns, rows, heads=2) if rows else None


def queries(results: Results, other: str) -> Table | None:
    """Table of the queries with the largest gains and losses of a system over the baseline."""
    measure = results.experiment.measures[0]
    before = results.query_values(results.experiment.baseline, measure)
    after = results.query_values(other, measure)
    gains = sorted((after[key] - before[key], key) for key in before.keys() & after.keys())
    shown = [g for g in gains[:_SHOWN_QUERIES] if g[0] < 0] + [g for g in gains[-_SHOWN_QUERIES:] if g[0] > 0]
    known = {
        key: Cell(textwrap.shorten(text, _SHOWN_TEXT, placeholder=" …"), aside=key[1])
        for key, text in results.texts.items()
        if text.strip()
    }
    rows = [
        [Cell(key[0]), known.get(key, Cell(key[1])), score(before[key]), score(after[key]), difference(gain)]
        for gain, key in sorted(shown, key=lambda pair: (-pair[0], pair[1]))
    ]
    columns = ["dataset", "query", results.experiment.baseline, other, "difference"]
    return table(f"Queries that differ most, {measure}", columns, rows, heads=2) if rows else None


def everything(results: Results) -> Table:
    """Table of all measures with their intervals, and the times."""
    measures = results.experiment.measures

    def row(result: Result) -> list[Cell]:
        cells = []
        for measure in measures:
            span = result.intervals.get(measure)
            aside = f"{span[0]:.3f}–{span[1]:.3f}" if span else ""
            cells.append(replace(score(result.measures.get(measure)), aside=aside))
        for times, names in ((result.search_ms, ("p50", "mean", "p95", "p99")), (result.encode_ms, ("p50", "p99"))):
            cells += [milliseconds(getattr(times, name) if times else None) for name in names]
        return [*cells, number(result.queries_per_second), part(result.recall)]

    columns = [*measures, "search p50, ms", "mean", "p95", "p99", "encode p50, ms", "p99", "queries/s, all cores"]
    columns.append(f"recall at {results.experiment.k}")
    return _by_result("Every result; intervals are 95 %", columns, results, row)


def ties(results: Results) -> Table | None:
    """Table of queries with equal scores, and the change of the measures if equal scores are ordered by id."""
    measures = results.experiment.measures

    def row(result: Result) -> list[Cell]:
        if result.ties is None or not (result.ties.queries or result.ties.by_id != result.measures):
            return [Cell() for _ in range(len(measures) + 1)]
        by_id, kept = result.ties.by_id, result.measures
        changes = [difference(by_id[m] - kept[m]) if m in by_id and m in kept else Cell() for m in measures]
        return [part(result.ties.queries), *changes]

    columns = [f"queries with a tie among the first {results.experiment.k + 1}", *measures]
    found = _by_result("Ties: how measures change with equal scores ordered by id", columns, results, row)
    return found if found.rows else None


def costs(results: Results) -> Table:
    """Table of time, space and energy for building an index and for searching."""
    documents = {dataset.name: dataset.documents for dataset in results.experiment.datasets}

    def row(result: Result) -> list[Cell]:
        size, count = result.index_bytes, documents[result.dataset]
        return [
            seconds(result.encode_seconds),
            seconds(result.build_seconds),
            bytes_cell(result.peak_bytes),
            bytes_cell(size),
            number(size / count if size is not None and count else None),
            number(result.document_terms),
            number(result.query_terms),
            number(result.flops),
            number(result.encode_joules),
            number(result.build_joules),
            number(result.query_joules),
        ]

    columns = ["encoding", "build", "peak memory of the process", "index size", "bytes a document", "terms a document"]
    columns += ["terms a query", "FLOPS", "encoding, J", "build, J", "search, J a query"]
    return _by_result("Costs", columns, results, row)


def parts(results: Results) -> Table | None:
    """Table of index sizes by part."""
    names = list(dict.fromkeys(part for r in results.experiment.results for part in r.index_parts or {}))

    def row(result: Result) -> list[Cell]:
        return [bytes_cell((result.index_parts or {}).get(name)) for name in names]

    return _by_result("Index size by part", names, results, row) if names else None


def _by_result(caption: str, columns: Sequence[str], results: Results, row: Callable[[Result], list[Cell]]) -> Table:
    """Make a table with a row for each result, without empty rows and columns."""
    found = [r for name in results.datasets for s in results.systems if (r := results.result(name, s))]
    cells_of = [(result, row(result)) for result in found]
    found = [result for result, cells in cells_of if any(cell.text for cell in cells)]
    rows = [cells for _, cells in cells_of if any(cell.text for cell in cells)]
    kept = [i for i in range(len(columns)) if any(cells[i].text for cells in rows)]
    names = [[Cell(result.dataset), system_cell(results, result.system)] for result in found]
    return table(
        caption,
        ["dataset", "system", *(columns[i] for i in kept)],
        [[*name, *(cells[i] for i in kept)] for name, cells in zip(names, rows, strict=True)],
        heads=2,
    )


def datasets(results: Results) -> Table:
    """Table of the judged collections."""
    rows = [
        [
            Cell(d.name),
            Cell(d.split),
            number(d.documents),
            number(d.queries),
            number(d.judgments),
            Cell(" ".join(d.notes)),
        ]
        for d in results.experiment.datasets
    ]
    return table("Datasets", ["dataset", "split", "documents", "queries", "judgments", "notes"], rows)


def systems(results: Results) -> Table:
    """Table of the systems with all their settings."""

    def row(system: SystemFacts) -> list[Cell]:
        exact = (
            "exact" if system.exact else f"approximate, of {system.exact_name}" if system.exact_name else "approximate"
        )
        settings = ", ".join(f"{key} = {_plain(value)}" for key, value in system.settings.items())
        return [system_cell(results, system.name), *map(Cell, (system.kind, system.encoder or "", exact, settings))]

    columns = ["system", "kind", "encoder", "search", "settings"]
    return table("Systems", columns, [row(system) for system in results.experiment.systems])


def checksums(results: Results) -> Table | None:
    """Table of checksums: of collections, of given vectors and runs, and of the measured runs."""
    experiment = results.experiment
    of_datasets = ((d.name, "", d.checksums) for d in experiment.datasets)
    of_results = ((r.dataset, r.system, r.checksums) for r in experiment.results)
    rows = [
        [Cell(dataset), Cell(system), Cell(what), Cell(digest)]
        for dataset, system, found in (*of_datasets, *of_results)
        for what, digest in (found or {}).items()
    ]
    return table("Checksums", ["dataset", "system", "of", "SHA-256"], rows, heads=3) if rows else None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def system_cell(results: Results, name: str) -> Cell:
    """Make a cell of a system's name with its mark."""
    return Cell(name, swatch=Look.of(results.systems.index(name)).swatch())
