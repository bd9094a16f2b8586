"""lsr search, explain, warmup."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any

import click

from lsr.index.cli.encode import PathOrURI, encoder_options, given_settings, open_encoder
from lsr.index.cli.result_options import given_options, result_options, tell_facets

_PREVIEW = 90  # characters of a text in a table


where_option = click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help='Documents with such metadata: "year>=2020", "lang=en,de", "day<2024-05-17", \'author="Smith, John"\', '
    '"path^=docs/" (begins with), "path*=api" (contains), or a filter in JSON. Several: all of them.',
)


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The settings of a search, by the names of `SearchSettings`; those not given are None."""
    for option in reversed(
        [
            click.option(
                "--mode", metavar="NAME", help="sparse, or of an index built with --hybrid: hybrid or dense. [sparse]"
            ),
            click.option("--dense-weight", type=float, help="Of the dense score in a hybrid one. [default: 1]"),
            click.option("--algorithm", metavar="NAME", help="auto, exhaustive, blocks, maxscore or clusters. [auto]"),
            click.option("--alpha", type=float, help="Below 1: skip more, perhaps miss some. [default: 1, exact]"),
            click.option("--beta", type=float, help="Share of the query's terms to use. [default: 1]"),
            click.option("--guaranteed", type=int, help="Best blocks to score whatever alpha says. [default: 0]"),
            click.option("--cut", type=int, help="Heaviest terms that choose clusters. [default: 8]"),
            click.option("--heap-factor", type=float, help="Lower: look into more clusters. [default: 1]"),
            click.option("--best-passages", type=int, help="Passages whose mean is a document's score. [default: 1]"),
        ]
    ):
        command = option(command)
    return command


def given_search_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Those of `search_options` that were given, taken out of a command's options."""
    from lsr.index.search.settings import SearchSettings

    names = tuple(field.name for field in fields(SearchSettings))
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    try:
        SearchSettings(**given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return given


damaged_option = click.option(
    "--skip-damaged",
    is_flag=True,
    help="Verify every byte, leave damaged segments out, name them, and go on with the rest.",
)


def open_index(
    path: Path | str,
    encoder: str | None,
    options: dict[str, Any],
    *,
    ray: str | None = None,
    cpus: float = 1.0,
    skip_damaged: bool = False,
) -> Any:
    """The index of a command's --encoder and its settings, here or on a Ray cluster; what was left out as it is
    damaged is told.
    """
    from lsr.console import counted, note

    settings = given_settings(options)
    if settings and not encoder:
        raise click.UsageError(
            f"--{next(iter(settings)).replace('_', '-')} goes with --encoder: an index carries its own"
        )
    model = open_encoder(encoder, settings) if encoder else None
    if ray is not None:
        from lsr.index.distributed.sharded_index import ShardedIndex

        sharded = ShardedIndex.open(path, ray=ray, cpus=cpus, encoder=model)
        click.get_current_context().call_on_close(sharded.close)
        return sharded
    from lsr.index.index import Index

    index = Index.open(path, encoder=model, skip_damaged=skip_damaged)
    for message in index.damaged:
        note(f"left out: {message}")
    if index.damaged:
        note(f"{path}: {counted(len(index), 'document')} left")
    return index


def _one_word(_context: click.Context, _option: click.Parameter, tag: str) -> str:
    if tag.split() != [tag]:
        raise click.BadParameter(f"a run's tag is one word without white space, got {tag!r}")
    return tag


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("text", required=False)
@click.option("--queries", metavar="FILE", help="Many queries: texts or encoded vectors, .jsonl(.gz) or .parquet.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits per query.")
@click.option(
    "--run",
    "run_path",
    type=click.Path(path_type=Path),
    metavar="OUT.trec",
    help="Write a TREC run. Of equal scores the next ones are written a trace lower: trec_eval keeps their order.",
)
@click.option("--tag", default="lsr", show_default=True, callback=_one_word, help="Last column of the run.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Cores for --queries. [default: all]")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, also on a terminal.")
@click.option("--skip-bad", is_flag=True, help="Count bad queries and go on.")
@click.option(
    "--highlight",
    type=click.IntRange(min=1),
    metavar="N",
    help='Characters of a text that are shown, those that count most; in JSON under "highlights", if it is given. '
    f"[default: {_PREVIEW}]",
)
@click.option("--plan", is_flag=True, help="Print what the search touches instead of what it finds.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Search a sharded folder on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT.",
)
@click.option(
    "--cpus",
    type=click.FloatRange(min=0, min_open=True),
    help="Cores that each shard gets of a Ray cluster; below 1 several share one. [default: 1]",
)
@where_option
@click.option("--operators", is_flag=True, help='Take "exact phrase", +must and -not out of the query.')
@damaged_option
@result_options
@search_options
@encoder_options
def search(
    index_path: Path | str,
    text: str | None,
    queries: str | None,
    k: int,
    run_path: Path | None,
    as_json: bool,
    tag: str,
    threads: int,
    skip_bad: bool,
    highlight: int | None,
    plan: bool,
    ray: str | None,
    cpus: float | None,
    where: tuple[str, ...],
    operators: bool,
    skip_damaged: bool,
    encoder: str | None,
    **options: Any,
) -> None:
    """Search an index with a text or a file of queries.

    Prints a table on a terminal and JSON lines when piped; with --run a TREC run.

    \b
    Examples:
      lsr search idx "boundary layer transition" -k 5
      lsr search idx "boundary layer transition" --where "year>=1960" --where "lang=en,de"
      lsr search idx --queries queries.jsonl -k 1000 --run out.trec
      lsr search idx "boundary layer transition" --json --highlight 200
      lsr search idx '"boundary layer" -turbulent' --operators --group-by source --facet lang
      lsr search idx "boundary layer transition" --boost "day=0.5,30" --offset 10
      lsr search idx "boundary layer transition" --alpha 0.8 --plan
      lsr search idx --queries queries.jsonl --run out.trec --algorithm clusters --cut 12
      lsr search shards --queries queries.jsonl --run out.trec --ray auto
    """  # fmt: skip
    from lsr.console import emit_json, is_terminal, note
    from lsr.index.segment.parse_filters import parse_where_text

    if (text is None) == (queries is None):
        raise click.UsageError("give either a text or --queries FILE")
    if plan and (text is None or ray):
        raise click.UsageError("--plan takes a text, and no --ray")
    if cpus and not ray:
        raise click.UsageError("--cpus needs --ray")
    given = given_options(options) | ({"syntax": "operators"} if operators else {})
    settings = given_search_settings(options) | {"where": parse_where_text(where)}
    if given and plan:
        raise click.UsageError(f"--plan is of a search without --{next(iter(given)).replace('_', '-')}")
    if {"facets", "total"} & given.keys() and (queries is not None or run_path):
        raise click.UsageError("--facet and --total take a text, and no --run")
    if "passages" in given and run_path:
        raise click.UsageError("--passages doesn't go with --run: a run has a document once")
    settings |= given
    if ray and skip_damaged:
        raise click.UsageError("--skip-damaged is for a search in this process: leave --ray out")
    index = open_index(index_path, encoder, options, ray=ray, cpus=cpus or 1.0, skip_damaged=skip_damaged)
    if queries is not None:
        _search_file(index, queries, k, run_path, tag, threads, skip_bad, highlight, settings)
        return
    assert text is not None
    if plan:
        made = index.explain_plan(text, k, **settings)
        if as_json or not is_terminal():
            emit_json(made.to_json())
        else:
            click.echo(str(made))
        return
    hits = index.search(text, k, **settings)
    told = not hits and _tell_filter(index, settings["where"])
    as_json, first = as_json or not is_terminal(), given.get("offset", 0) + 1
    if run_path:
        _write_run(run_path, [("1", hits)], tag)
    elif hits or as_json:
        print_hits(hits, as_json=as_json, first=first, highlight=highlight)
        tell_facets(hits, as_json=as_json)
    elif not told:
        click.echo(_nothing_found(settings, given))
    if not ray and (instead := index.did_you_mean(text)) is not None:
        note(f"did you mean: {instead}")


def _nothing_found(settings: dict[str, Any], given: dict[str, Any]) -> str:
    if {"offset", "min_score", "syntax"} & given.keys():
        return "no document meets all that is asked for"
    some = "no document that meets --where" if settings["where"] else "no document"
    return f"{some} shares a term with this query"


def print_hits(hits: Any, *, as_json: bool, first: int = 1, highlight: int | None = None) -> None:
    """Print hits as a table, or as JSON lines.

    Args:
        hits: As a search gives them.
        as_json: Which of both.
        first: Rank of the first.
        highlight: Characters of a text that are shown.
    """
    if as_json:
        _print_json(None, hits, highlight, first)
    elif hits:
        _print_table(hits, highlight or _PREVIEW, first)


def _search_file(
    index: Any,
    queries: str,
    k: int,
    run_path: Path | None,
    tag: str,
    threads: int,
    skip_bad: bool,
    highlight: int | None,
    settings: dict[str, Any],
) -> None:
    from lsr.console import counted, note, progress
    from lsr.index.search.query_file import read_queries
    from lsr.io.text_files import new_text

    read = read_queries(queries, index, skip_bad=skip_bad)
    if read.bad:
        note(f"skipped {counted(len(read.bad), 'bad query')}, the first: {read.bad[0]}")
    if read.unknown:
        note(f"{read.unknown} weights of the queries are for tokens that no document has")
    texts = read.texts if {"syntax", "rerank"} & settings.keys() else None
    if texts is None and {"syntax", "rerank"} & settings.keys():
        raise click.UsageError("--operators and --rerank take queries that are texts")
    asked: Any = read.encoded(index) if texts is None else texts
    nothing = True
    with ExitStack() as stack:
        out = stack.enter_context(new_text(run_path)) if run_path else None
        bar = stack.enter_context(progress(len(read.ids), "searching", "queries"))
        for start in range(0, len(read.ids), 256):
            ids = read.ids[start : start + 256]
            found = index.search_batch(asked[start : start + 256], k, threads=threads, **settings)
            nothing = nothing and not any(found)
            for query_id, hits in zip(ids, found, strict=True):
                if out:
                    _write_lines(out, query_id, hits, tag)
                else:
                    _print_json(query_id, hits, highlight, settings.get("offset", 0) + 1)
            bar.update(len(ids))

    if nothing:
        _tell_filter(index, settings["where"])


def _tell_filter(index: Any, where: Any) -> bool:
    """Say on stderr if a filter left no document; tells whether it did. Of shards on other machines nobody knows."""
    from lsr.console import note
    from lsr.index.search.reader import Reader

    mask = index.snapshot.mask(where) if isinstance(index, Reader) else None
    if mask is None or mask.share:
        return False
    note(f"the filter left nothing: none of the {len(index)} documents meets --where")
    for hint in where.hints(index.documents.columns):
        note(hint)
    return True


def _write_run(path: Path, results: list[tuple[str, Any]], tag: str) -> None:
    from lsr.io.text_files import new_text

    with new_text(path) as file:
        for query_id, hits in results:
            _write_lines(file, query_id, hits, tag)


def _write_lines(file: IO[str], query_id: str, hits: Any, tag: str) -> None:
    from lsr.io.runs import run_lines

    file.writelines(line + "\n" for line in run_lines(query_id, zip(hits.ids, hits.scores.tolist(), strict=True), tag))


def _print_json(query_id: str | None, hits: Any, highlight: int | None, first: int) -> None:
    from lsr.console import emit_json

    for rank, hit in enumerate(hits, start=first):
        values: dict[str, Any] = {"query": query_id} if query_id is not None else {}
        values |= {"rank": rank, "_id": hit.id, "score": hit.score}
        if hit.passage != hit.id:
            values["passage"] = hit.passage
        if hit.moved is not None:
            values["moved"] = asdict(hit.moved)
        values |= {key: value for key in ("title", "text", "metadata") if (value := getattr(hit, key))}
        if highlight:
            values["highlights"] = hit.highlight(highlight)
        emit_json(values)


def _print_table(hits: Any, highlight: int, first: int) -> None:
    from lsr.console import table

    before, after = click.style("", bold=True, reset=False), click.style("")
    rows = []
    for rank, hit in enumerate(hits, start=first):
        why = hit.explain(origins=False)  # without waiting for the documents' model
        text = " ".join(why.highlight(highlight, before=before, after=after, between=" — ").split())
        rows.append((str(rank), f"{hit.score:.3f}", hit.passage, text, why.words(3)))
    click.echo(table(rows, ("", "score", "id", "text", "because of"), ">><<<"))


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("text")
@click.argument("doc_id")
@click.option("--json", "as_json", is_flag=True, help="JSON, also on a terminal.")
@damaged_option
@encoder_options
def explain(
    index_path: Path | str,
    text: str,
    doc_id: str,
    as_json: bool,
    skip_damaged: bool,
    encoder: str | None,
    **options: Any,
) -> None:
    """Show why a document scores as it does for a query, term by term.

    \b
    Example:
      lsr explain idx "boundary layer transition" 184
    """
    from lsr.console import emit_json, is_terminal

    index = open_index(index_path, encoder, options, skip_damaged=skip_damaged)
    explanation = index.explain(text, doc_id)
    if as_json or not is_terminal():
        emit_json(explanation.to_json())
    else:
        click.echo(str(explanation))


@click.command()
def warmup() -> None:
    """Compile the search kernels now, once per machine, so that no first query has to wait for it.

    \b
    Example:
      lsr warmup
    """
    import time

    from lsr.index.kernels.jit import cache_folder
    from lsr.index.warmup import compile_kernels

    start = time.perf_counter()
    compile_kernels()
    seconds = time.perf_counter() - start
    if cache_folder is None:
        click.echo(f"compiled in {seconds:.1f} s, but there is no folder to keep that in: set NUMBA_CACHE_DIR")
    else:
        click.echo(f"compiled in {seconds:.1f} s, kept in {cache_folder}")
