"""lsr demo: encode, index, search, evaluate and explain the Cranfield collection, which is part of the package."""

from __future__ import annotations

import shutil
import time
from importlib.resources import as_file, files
from pathlib import Path

import click

from lsr.console import note, table
from lsr.encode.base import DEFAULT_ENCODER
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.load import load_encoder
from lsr.errors import OutputExists
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.evaluate import LATENCY_K, Evaluation, evaluate_index
from lsr.eval.latency import machine
from lsr.eval.measures import DEFAULT_MEASURES, parse_measures
from lsr.index.index import Index
from lsr.index.search.query_file import QuerySet, read_queries

_SHOWN_QUERIES = 3
_MARK = "made-by-lsr-demo"


def run_demo(out: Path, encoder: str = DEFAULT_ENCODER) -> None:
    """Encode, index, search, evaluate and explain, and print the results.

    Args:
        out: Folder for the indexes; a folder of an earlier demo is replaced.
        encoder: The encoder to compare with BM25.

    Raises:
        OutputExists: The folder exists and isn't from a demo.
    """
    parse_measures(DEFAULT_MEASURES)  # reports a missing package before any work
    if out.exists():
        if not (out / _MARK).exists():
            raise OutputExists(f"{out}: exists already and isn't from a demo (choose another folder with --out)")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARK).touch()
    with as_file(files("lsr.data") / "cranfield") as folder:
        dataset = open_dataset(str(folder))
        click.echo("Cranfield: 1,400 abstracts on aerodynamics, 225 queries with human judgments.\n")
        results = {}
        for name in dict.fromkeys((encoder, "bm25")):
            started, made = time.perf_counter(), load_encoder(name)
            hybrid = made.dense_width > 0
            index = Index.build(out / Path(name).name, dataset.corpus(), encoder=made, hybrid=hybrid, passages=None)
            note(f"{name}: {len(index)} documents encoded and indexed in {time.perf_counter() - started:.1f} s")
            results[name] = evaluate_index(index, dataset, DEFAULT_MEASURES, mode="sparse")
            if hybrid:
                results[f"{name}, hybrid"] = evaluate_index(index, dataset, DEFAULT_MEASURES, mode="hybrid")
            if isinstance(index.encoder, HybridEncoder):
                queries = read_queries(dataset.query_source, index)
                learned, _ = index.encoder.split_by_encoder(queries.encoded(index))
                half = QuerySet(queries.ids, None, learned)
                results[f"{name}, learned half"] = evaluate_index(index, dataset, DEFAULT_MEASURES, half)
        click.echo(_quality_table(results))
        click.echo(f"\nLatency in ms per query, k = {LATENCY_K}, one thread, on {machine()}.\n")
        first = Index.open(out / Path(encoder).name)
        _show_queries(first, dataset)
        _what_next(first.path)


def _quality_table(results: dict[str, Evaluation]) -> str:
    rows = []
    for name, result in results.items():
        quality = [f"{value:.3f}" for value in result.measures.values()]
        speed = [f"{v:.3f}" for v in (result.search.p50, result.search.p95, result.search.p99)]
        encode = f"{result.encode.p50:.3f}" if result.encode else "-"
        rows.append((name, *quality, *speed, encode))
    measures = list(next(iter(results.values())).measures)
    header = ("encoder", *measures, "search p50", "p95", "p99", "encode p50")
    return table(rows, header, "<" + ">" * (len(header) - 1))


def _show_queries(index: Index, dataset: Dataset) -> None:
    queries = read_queries(dataset.query_source, index)
    for text in (queries.texts or [])[:_SHOWN_QUERIES]:
        click.echo(f"“{text}”")
        for hit in index.search(text, k=3):
            title = " ".join((hit.title or hit.text).split())
            click.echo(
                f"  {hit.score:7.3f}  {hit.id:>5}  {title[:80]}\n                  because of {hit.explain().words(5)}"
            )
        click.echo()


def _what_next(index: Path) -> None:
    click.echo(
        "Try next:\n"
        f'  lsr search {index} "heat transfer in hypersonic flow"\n'
        f'  lsr explain {index} "heat transfer in hypersonic flow" 5\n'
        '  lsr index YOUR.jsonl --out my-index        lines of {"_id": ..., "text": ...}\n'
        "  lsr --help"
    )
