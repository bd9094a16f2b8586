"""lsr evaluate, report, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lsr.encode.base import DEFAULT_ENCODER
from lsr.encode.commands import encoder_options
from lsr.index.commands import open_index


@click.command()
@click.argument("index_path", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, metavar="FOLDER|NAME", help="A BEIR folder or an ir-datasets name.")
@click.option("--split", default="test", show_default=True, help="Which judgments.")
@click.option("--measures", default="nDCG@10 RR@10 R@100", show_default=True, help="As ir-measures names them.")
@click.option("--queries", metavar="FILE", help="Texts or encoded vectors instead of the dataset's queries.")
@click.option("--json", "as_json", is_flag=True, help="JSON, also on a terminal.")
@encoder_options
def evaluate(
    index_path: Path,
    dataset: str,
    split: str,
    measures: str,
    queries: str | None,
    as_json: bool,
    encoder: str | None,
    **options: Any,
) -> None:
    """Quality and latency of an index on a judged dataset.

    Latency is that of one query at a time on one thread, after a warm-up; encoding is timed apart.

    \b
    Examples:
      lsr evaluate idx --dataset beir/scifact
      lsr evaluate idx --dataset scifact/ --measures "nDCG@10 R@1000" --json
    """  # fmt: skip
    from lsr.console import emit_json, is_terminal, note, table
    from lsr.index.queries import read_queries

    from .datasets import open_dataset
    from .evaluate import LATENCY_K
    from .evaluate import evaluate as run_evaluation
    from .measures import parse_measures

    parse_measures(measures)
    judged = open_dataset(dataset, split)
    index = open_index(index_path, encoder, options)
    result = run_evaluation(index, judged, measures, read_queries(queries, index) if queries else None)
    if result.missing:
        note(f"{len(result.missing)} judged queries are not among the queries and count as 0: {result.missing[0]}, …")
    if as_json or not is_terminal():
        emit_json({"dataset": dataset, "split": split, "index": str(index_path), **result.to_json()})
        return
    rows = [(name, f"{value:.4f}") for name, value in result.measures.items()]
    for label, latency in (("search", result.search), ("encode", result.encode)):
        if latency:
            rows += [(f"{label} {name}, ms", f"{value:.3f}") for name, value in latency.to_json().items()]
    rows.append(("queries/s, all cores", f"{result.queries_per_second:.0f}"))
    click.echo(table(rows, (f"{result.n_queries} queries, search k = {LATENCY_K}", "value"), "<>"))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.html", help="Not in the folder.")
def report(folder: Path, out: Path | None) -> None:
    """An experiment's results as one HTML page, which needs nothing but itself, and as Markdown beside it.

    Quality with significance, quality against time and size, distributions of search times, recall of approximate
    search, values query by query, costs and conditions. An earlier report is replaced.

    \b
    Examples:
      lsr report results/
      lsr report results/ --out scifact.html
    """
    from .report import write_report

    for path in write_report(folder, out):
        click.echo(path)


@click.command()
@click.option("--encoder", default=DEFAULT_ENCODER, show_default=True, metavar="NAME|PATH", help="Compared with BM25.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("lsr-demo"), show_default=True, help="Folder.")
def demo(encoder: str, out: Path) -> None:
    """See it work: a small real collection encoded, indexed, searched, evaluated and explained.

    \b
    Example:
      lsr demo
    """
    from .demo import run_demo

    run_demo(out, encoder)
