"""Write a result folder as one self-contained HTML page, as Markdown, and its tables as LaTeX and CSV."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from lsr.errors import DataError, MissingExtra
from lsr.eval.experiment.settings import file_name
from lsr.eval.report import figures, tables
from lsr.eval.report.figures import Figure
from lsr.eval.report.formatting import Table, escape_markdown, to_csv, to_latex, to_markdown
from lsr.eval.report.load_results import read_results
from lsr.eval.report.results import Results
from lsr.eval.report.tables import SIGNIFICANT
from lsr.io.text_files import new_text

_UPRIGHT_COLUMNS = 9  # largest number of columns that fits on paper in portrait format


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        heading: The title.
        text: Paragraphs of the page and of the Markdown.
        figures: Pictures.
        legend: Explanation of the pictures; Markdown has neither.
        key: Names and their marks in the pictures, as SVG.
        tables: Tables.
        facts: Names and values, one on each line.
    """

    heading: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    legend: str = ""
    key: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def wide(self) -> bool:
        """Whether the section is printed in landscape format."""
        return any(len(table.columns) > _UPRIGHT_COLUMNS for table in self.tables)


def write_report(folder: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Write the report of an experiment, and its tables as LaTeX and CSV.

    Args:
        folder: The result folder; see `load_results`.
        out: The page; by default `report.html` in the folder. The Markdown and the folder of tables, `report-tables`,
            are written next to the page. Existing files are replaced.

    Returns:
        Paths of the page and of the Markdown.

    Raises:
        DataError: A file of the folder is missing or damaged.
        MissingExtra: Jinja2 or matplotlib is not installed.
    """
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtra(package, "eval", "a report")
    page = folder / "report.html" if out is None else out
    if page.suffix == ".md":
        raise DataError("the page can't end in .md, the suffix of the Markdown report; use .html", str(page))
    results = read_results(folder)
    sections = list(_sections(results))
    html, markdown = render_html(results, sections), render_markdown(results, sections)
    text = page.with_suffix(".md")
    _write_tables(sections, page.with_name(f"{page.stem}-tables"))
    for path, content in ((page, html), (text, markdown)):
        with new_text(path) as file:
            file.write(content)
    return page, text


def _write_tables(sections: list[Section], folder: Path) -> None:
    """Write each table to files named after its caption; files of an older report are deleted."""
    folder.mkdir(exist_ok=True)
    for path in [*folder.glob("*.tex"), *folder.glob("*.csv")]:
        path.unlink()
    for table in (table for section in sections for table in section.tables):
        for suffix, content in ((".tex", to_latex(table)), (".csv", to_csv(table))):
            with new_text(folder / (file_name(table.caption)[:80] + suffix)) as file:
                file.write(content)


def render_html(results: Results, sections: list[Section]) -> str:
    """Render the page. Its Content-Security-Policy forbids all other scripts, and everything from other sites."""
    from jinja2 import Environment, StrictUndefined

    template, style, script = (_file(f"report.{suffix}") for suffix in ("html.j2", "css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        experiment=results.experiment, sections=sections, style=style, script=script, digest=digest
    )


def _file(name: str) -> str:
    return (files("lsr.eval.report") / name).read_text(encoding="utf-8")


def render_markdown(results: Results, sections: list[Section]) -> str:
    """Render the same text and tables in Markdown, without pictures."""
    blocks = [f"# {escape_markdown(results.experiment.title)}"]
    for section in sections:
        if not (section.text or section.tables or section.facts):
            continue
        blocks += [f"## {escape_markdown(section.heading)}", *map(escape_markdown, section.text)]
        blocks += ["\n".join(f"- {escape_markdown(f'{name}: {value}')}" for name, value in section.facts)]
        blocks += map(to_markdown, section.tables)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _sections(results: Results) -> Iterator[Section]:
    yield _quality(results)
    yield from _costs_of_quality(results)
    yield from _approximate(results)
    yield from _baseline(results)
    yield from _recall_at(results)
    yield from _each_other(results)
    yield from _per_query(results)
    yield from _lengths(results)
    measures = results.experiment.measures[1:]
    if measures:
        yield Section("Other measures", tables=tuple(tables.quality(results, measure) for measure in measures))
    found = (
        tables.everything(results),
        tables.ties(results),
        tables.costs(results),
        tables.parts(results),
        tables.comparisons(results),
    )
    yield Section("All figures", tables=tuple(table for table in found if table and table.rows))
    yield _conditions(results)


def _quality(results: Results) -> Section:
    experiment = results.experiment
    text = []
    measure, baseline, best = experiment.measures[0], experiment.baseline, results.best_other
    means = [(mean, name) for name in (best, baseline) if name and (mean := results.mean(name, measure)) is not None]
    if best and len(means) == 2:
        over = f"Mean {measure} over {len(results.datasets)} datasets" if len(results.datasets) > 1 else measure
        ranked = sorted(means, key=lambda pair: -pair[0])
        text.append(f"{over}: {'; '.join(f'{mean:.3f} for {name}' for mean, name in ranked)}.")
    if experiment.comparisons:
        text.append(
            f"▲ significantly better than {baseline}, ▼ significantly worse: p < {SIGNIFICANT} in a paired "
            f"{_test_name(experiment.test)} over queries, corrected for the number of comparisons"
            f" ({experiment.correction.capitalize()})."
        )
    if experiment.seeds:
        text.append(
            f"Systems that were trained with several seeds ({', '.join(map(str, experiment.seeds))}): mean ± standard "
            "deviation over the seeds. They are compared with a t-test over queries and seeds, which tests whether the "
            "difference generalizes to other queries and other seeds; the intervals are from the same test."
        )
    if len(results.datasets) > 1 and any(results.mean(name, measure) is None for name in results.systems):
        text.append("A system that lacks a dataset has no mean.")
    published = [f"[{n}] {source}" for n, source in enumerate(tables.sources(results), 1)]
    if published:
        text.append("Published values, not measured here: " + "; ".join(published) + ".")
    text += _ties(results, measure)
    if any(system.encoder == "bm25" for system in experiment.systems):
        text.append(
            "The BM25 of lsr removes stop words and stems with Snowball: on most collections it is a stronger baseline "
            "than the BM25 of Anserini and Lucene, which papers compare with. For the BM25 of Lucene, set language: "
            "lucene and pivot: mean."
        )
    found = (tables.quality(results, measure), tables.wins(results))
    return Section("Quality", tuple(text), tables=tuple(table for table in found if table))


def _ties(results: Results, measure: str) -> list[str]:
    """Return a note about equal scores, if there are any."""
    changes = [
        (abs(by_id - kept), result)
        for result in results.experiment.results
        if result.ties and (by_id := result.ties.by_id.get(measure)) is not None
        if (kept := result.measures.get(measure)) is not None
    ]
    if not any(r.ties.queries or change for change, r in changes if r.ties):
        return []
    most, where = max(changes, key=lambda pair: pair[0])
    return [
        "Equal scores keep the order of the search. Runs are written with strictly decreasing scores, so "
        f"that trec_eval gives the same values; with ties ordered by id, {measure} would change by at most {most:.4f} "
        f"({where.system} on {where.dataset})."
    ]


def _test_name(test: str) -> str:
    return {"t": "t-test", "randomization": "randomization test"}.get(test, test)


def _mean_note(results: Results) -> str:
    return f" Means over {len(results.datasets)} datasets." if len(results.datasets) > 1 else ""


def _costs_of_quality(results: Results) -> Iterator[Section]:
    found = [f for f in (figures.against_latency(results), figures.against_size(results)) if f]
    if found:
        legend = "Up and to the left is better; the grey line connects Pareto-optimal systems." + _mean_note(results)
        measure = results.experiment.measures[0]
        shown = [s for s in results.systems if results.mean_p50(s) and results.mean(s, measure) is not None]
        if missing := [name for name in results.systems if name not in shown]:
            legend += f" These systems lack a search time or a value on some dataset: {', '.join(missing)}."
        yield Section(
            "Quality, time and size", figures=tuple(found), legend=legend, key=figures.key(results, results.systems)
        )
    if times := figures.latency(results):
        legend = "Bold line: median. Mark: 99th percentile."
        if results.latencies is not None:
            legend = "Box: 25th to 75th percentile. Whiskers: 5th to 95th percentile. " + legend
            legend += " Queries of all datasets together." if len(results.datasets) > 1 else ""
        else:
            legend += " Line: up to the 95th percentile." + _mean_note(results)
        yield Section("Search time", figures=(times,), legend=legend)


def _approximate(results: Results) -> Iterator[Section]:
    figure, table = figures.recall(results), tables.approximate(results)
    if figure or table:
        k = results.experiment.k
        legend = f"Share of the exact top {k} that is found. Circles: the exact system." + _mean_note(results)
        shown = ((figure,) if figure else (), (table,) if table else ())
        known = figures.key(results, [s.name for s in results.experiment.systems if results.beside_exact(s)])
        text = (
            "An approximate system's values are from a search as deep as the measure; recall and "
            f"times are from a search for {k}.",
        )
        yield Section("Approximate search", text, shown[0], legend if figure else "", known if figure else (), shown[1])


def _baseline(results: Results) -> Iterator[Section]:
    if found := figures.differences(results):
        experiment = results.experiment
        legend = f"Bars: {experiment.measures[0]} minus the value of {experiment.baseline}. Full bars are significant,"
        legend += " hollow bars aren't; lines are 95 % intervals."
        yield Section(f"Difference from {experiment.baseline}", figures=tuple(found), legend=legend)


def _recall_at(results: Results) -> Iterator[Section]:
    figure, table = figures.recall_at(results), tables.recall_at(results)
    if table:
        shown = [name for name in results.systems if len(results.recall_at(name)) > 1]
        yield Section(
            "Recall by depth",
            figures=(figure,) if figure else (),
            legend=_mean_note(results).strip() if figure else "",
            key=figures.key(results, shown) if figure else (),
            tables=(table,),
        )


def _each_other(results: Results) -> Iterator[Section]:
    found = tuple(table for table in (tables.pairs(results), tables.alike(results)) if table)
    if found:
        text = []
        if results.experiment.pairs:
            over = f" of {len(results.datasets)} datasets" if len(results.datasets) > 1 else ""
            text.append(
                f"▲ the first of the two systems is significantly better, ▼ significantly worse: p < {SIGNIFICANT}, "
                f"corrected over all pairs{over} (Holm)."
            )
        if results.experiment.alike:
            text.append(
                "Rank-biased overlap (p = 0.9) is 1 for rankings that are the same and 0 for those that share nothing; "
                "Kendall's τ compares the order of the documents that both systems have among their first 100."
            )
        yield Section("All pairs of systems", tuple(text), tables=found)


def _per_query(results: Results) -> Iterator[Section]:
    other = results.best_other
    if other and (figure := figures.per_query(results, other)):
        legend = "▲ above the line: queries with a higher value; ▼ below: with a lower value; ● on it: no change. "
        legend += "Larger marks stand for more queries."
        table = tables.queries(results, other)
        heading = f"Query by query: {other} and {results.experiment.baseline}"
        yield Section(heading, figures=(figure,), legend=legend, tables=(table,) if table else ())


def _lengths(results: Results) -> Iterator[Section]:
    found, encoders = figures.lengths(results)
    if found:
        key = tuple((name, look.line()) for name, look in encoders.items())
        yield Section(
            "Documents' lengths",
            figures=tuple(found),
            legend="By encoder, in terms; the longest 1 % may lie beyond the edge.",
            key=key,
        )


def _conditions(results: Results) -> Section:
    experiment = results.experiment
    facts = [
        ("date", experiment.date.replace("T", " ")),
        ("machine", experiment.machine),
        *([("command", experiment.command)] if experiment.command else []),
        ("threads of timed searches", str(experiment.threads)),
        ("lsr", experiment.lsr),
        *experiment.versions.items(),
    ]
    found = (tables.datasets(results), tables.systems(results), tables.checksums(results))
    shown = tuple(table for table in found if table)
    return Section("Conditions", experiment.notes, tables=shown, facts=tuple(facts))
