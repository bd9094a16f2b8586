"""lsr evaluate, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsr.encode.base import DEFAULT_ENCODER
from lsr.encode.commands import encoder_options
from lsr.index.commands import open_index

if TYPE_CHECKING:
    from .checks import Findings
    from .evaluate import Quality


@click.command()
@click.argument("index_path", metavar="[INDEX]", required=False, type=click.Path(path_type=Path))
@click.option("--run", "run_path", metavar="FILE", type=click.Path(path_type=Path), help="A TREC run instead of INDEX.")
@click.option("--dataset", required=True, metavar="FOLDER|NAME", help="A BEIR folder or an ir-datasets name.")
@click.option("--split", default="test", show_default=True, help="Which judgments.")
@click.option("--measures", default="nDCG@10 RR@10 R@100", show_default=True, help="As ir-measures names them.")
@click.option("--queries", metavar="FILE", help="Texts or encoded vectors instead of the dataset's queries.")
@click.option("--per-query", metavar="FILE", type=click.Path(path_type=Path), help="Values of each query, as JSONL.")
@click.option("--json", "as_json", is_flag=True, help="JSON, also on a terminal.")
@encoder_options
def evaluate(
    index_path: Path | None,
    run_path: Path | None,
    dataset: str,
    split: str,
    measures: str,
    queries: str | None,
    per_query: Path | None,
    as_json: bool,
    encoder: str | None,
    **options: Any,
) -> None:
    """Quality and latency of an index on a judged dataset; of a run, whatever engine made it, quality.

    Latency is that of one query at a time on one thread, after a warm-up; encoding is timed apart.

    \b
    Examples:
      lsr evaluate idx --dataset beir/scifact
      lsr evaluate idx --dataset scifact/ --measures "nDCG@10 R@1000" --json
      lsr evaluate --run other.trec --dataset scifact/ --per-query values.jsonl
    """  # fmt: skip
    from lsr.console import emit_json, is_terminal, table

    if (index_path is None) == (run_path is None):
        raise click.UsageError("give either INDEX or --run FILE")
    if run_path:
        if queries or encoder or any(value is not None for value in options.values()):
            raise click.UsageError("a run is measured as it is: --run goes with no option of queries or encoders")
        result, what = _of_run(run_path, dataset, split, measures), {"run": str(run_path)}
    else:
        assert index_path is not None
        result = _of_index(index_path, dataset, split, measures, queries, encoder, options)
        what = {"index": str(index_path)}
    if per_query:
        result.write_per_query(per_query)
    if as_json or not is_terminal():
        emit_json({"dataset": dataset, "split": split, **what, **result.to_json()})
        return
    click.echo(table(result.rows(), (f"{result.n_queries} queries", "value"), "<>"))


def _of_run(path: Path, dataset: str, split: str, measures: str) -> Quality:
    from lsr.errors import DataErrors
    from lsr.runs import read_run

    from .checks import check_run
    from .datasets import open_dataset
    from .evaluate import evaluate_run
    from .measures import parse_measures

    problems = DataErrors()
    with problems:
        judged = open_dataset(dataset, split)
    if problems.count:  # then all that can be checked without it
        with problems:
            parse_measures(measures)
        with problems:
            read_run(path)
        problems.settle()
    findings = check_run(path, judged, measures=measures)
    _tell(findings)
    return evaluate_run(findings.run or {}, judged, measures)


def _of_index(
    path: Path,
    dataset: str,
    split: str,
    measures: str,
    queries: str | None,
    encoder: str | None,
    options: dict[str, Any],
) -> Quality:
    from lsr.errors import DataErrors
    from lsr.index.queries import read_queries

    from .checks import check_dataset
    from .datasets import open_dataset
    from .evaluate import evaluate
    from .measures import parse_measures

    problems = DataErrors()
    with problems:
        parse_measures(measures)
    with problems:
        judged = open_dataset(dataset, split)
    problems.settle()
    index = open_index(path, encoder, options)
    asked = read_queries(queries or judged.query_source, index)
    ids = index.documents.all_ids(parents=True)
    _tell(check_dataset(judged, document_ids=ids, query_ids=asked.ids))
    return evaluate(index, judged, measures, asked)


def _tell(findings: Findings) -> None:
    """Notes on stderr, or an error."""
    from lsr.console import note

    findings.raise_errors()
    for warning in findings.warnings:
        note(f"note: {warning}")


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
