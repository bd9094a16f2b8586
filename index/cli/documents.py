"""The commands `lsr get`, `lsr similar` and `lsr duplicates`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lsr.console import Number
from lsr.index.cli.encode import PathOrURI
from lsr.index.cli.result_options import given_options, result_options, tell_facets
from lsr.index.cli.search import print_hits, where_option


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("doc_ids", metavar="ID...", nargs=-1)
@where_option
def get(index_path: Path | str, doc_ids: tuple[str, ...], where: tuple[str, ...]) -> None:
    """Print stored documents as JSON lines: by id, by filter, or all.

    \b
    Examples:
      lsr get idx 184 185
      lsr get idx --where "year>=1960"
      lsr get idx > documents.jsonl
    """
    from lsr.console import counted, emit_json, note
    from lsr.index.index import Index
    from lsr.index.segment.parse_filters import parse_where_text

    parsed = parse_where_text(where)
    if doc_ids and parsed is not None:
        raise click.UsageError("give either ids or --where")
    index = Index.open(index_path)
    missing = []
    documents = index.get_many(doc_ids) if doc_ids else index.stored(parsed)
    for number, document in enumerate(documents):
        if document is None:
            missing.append(doc_ids[number])
            continue
        row = {"_id": document.id, "title": document.title, "text": document.text, "parent": document.parent}
        emit_json({key: value for key, value in row.items() if value} | dict(document.metadata or {}))
    if missing:
        note(f"{counted(len(missing), 'id')} not found: {', '.join(missing[:10])}")
        raise SystemExit(1)


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("doc_id", metavar="ID")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Number of documents.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal, too.")
@where_option
@result_options
def similar(index_path: Path | str, doc_id: str, k: int, as_json: bool, where: tuple[str, ...], **options: Any) -> None:
    """Find the documents most similar to a given one, by stored vectors.

    \b
    Example:
      lsr similar idx 184 -k 5
    """
    from lsr.console import is_terminal
    from lsr.index.index import Index
    from lsr.index.segment.parse_filters import parse_where_text

    given = given_options(options)
    as_json = as_json or not is_terminal()
    hits = Index.open(index_path).similar(doc_id, k, where=parse_where_text(where), **given)
    print_hits(hits, as_json=as_json, first=given.get("offset", 0) + 1)
    tell_facets(hits, as_json=as_json)


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.option(
    "--threshold",
    type=Number(0, 1, min_open=True),
    default=0.9,
    show_default=True,
    help="Minimum cosine of two vectors.",
)
@where_option
def duplicates(index_path: Path | str, threshold: float, where: tuple[str, ...]) -> None:
    """Print all pairs of near-duplicates as JSON lines, most similar first.

    \b
    Example:
      lsr duplicates idx --threshold 0.95
    """
    from dataclasses import asdict

    from lsr.console import counted, emit_json, note
    from lsr.index.index import Index
    from lsr.index.segment.parse_filters import parse_where_text

    found = Index.open(index_path).duplicates(threshold, where=parse_where_text(where))
    for pair in found:
        emit_json(asdict(pair))
    note(f"{index_path}: {counted(len(found), 'pair')} with a cosine of at least {threshold:g}")
