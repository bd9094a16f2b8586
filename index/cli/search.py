"""The commands `lsr search`, `lsr explain` and `lsr warmup`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any

import click

from lsr.console import Number
from lsr.index.cli.encode import PathOrURI, encoder_options, given_settings, open_encoder
from lsr.index.cli.result_options import as_options, given_options, result_options, tell_facets

_PREVIEW = 90  # characters of text in a table


where_option = click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help='Filter by metadata: "year>=2020", "lang=en,de", "day<2024-05-17", \'author="Smith, John"\', '
    '"path^=docs/" (begins with), "path*=api" (contains), or a JSON filter. Repeat to combine filters.',
)


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field of `SearchSettings`; those that aren't given are None."""
    for option in reversed(
        [
            click.option(
                "--mode",
                metavar="NAME",
                help="sparse, hybrid or dense; the last two need an index built with --hybrid. [hybrid if possible]",
            ),
            click.option("--dense-weight", type=float, help="Weight of the dense score in hybrid mode. [default: 1]"),
            click.option("--algorithm", metavar="NAME", help="auto, exhaustive, blocks, maxscore or clusters. [auto]"),
            click.option(
                "--alpha", type=float, help="Below 1, search is faster but may miss hits. [default: 1, exact]"
            ),
            click.option("--beta", type=float, help="Share of the query's terms to use. [default: 1]"),
            click.option("--guaranteed", type=int, help="Number of best blocks that are always scored. [default: 0]"),
            click.option("--cut", type=int, help="Number of heaviest terms used to choose clusters. [default: 8]"),
            click.option("--heap-factor", type=float, help="A lower value searches more clusters. [default: 1]"),
            click.option(
                "--best-passages",
                type=int,
                help="Score a document by the mean of this many of its best passages. [default: 1]",
            ),
        ]
    ):
        command = option(command)
    return command


def given_search_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of `search_options` from a command's options; return those that were given."""
    from lsr.index.search.settings import SearchSettings

    names = tuple(field.name for field in fields(SearchSettings))
    given = {name: value for name in names if (value := options.pop(name, None)) is not None}
    try:
        SearchSettings(**given)
    except ValueError as error:
        raise click.UsageError(as_options(str(error), names)) from None
    return given


damaged_option = click.option(
    "--skip-damaged",
    is_flag=True,
    help="Verify every byte, leave out damaged segments, name them, and continue with the rest.",
)


def size_of(index: Any) -> str:
    """Return the number of an index's documents, or of its passages if documents were cut, as in "12 documents"."""
    from lsr.console import counted

    return counted(len(index), "passage" if index.has_passages else "document")


def open_index(
    path: Path | str,
    encoder: str | None,
    options: dict[str, Any],
    *,
    ray: str | None = None,
    cpus: float = 1.0,
    skip_damaged: bool = False,
) -> Any:
    """Open an index, with the encoder of --encoder and its settings, in this process or on a Ray cluster.

    Damaged segments that are left out are reported.
    """
    from lsr.console import note

    settings = given_settings(options)
    if settings and not encoder:
        raise click.UsageError(
            f"--{next(iter(settings)).replace('_', '-')} needs --encoder: otherwise the index's own encoder is used"
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
        note(f"{path}: {size_of(index)} left")
    return index


def _one_word(_context: click.Context, _option: click.Parameter, tag: str) -> str:
    if tag.split() != [tag]:
        raise click.BadParameter(f"a run's tag is one word without whitespace, got {tag!r}")
    return tag


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("text", required=False)
@click.option("--queries", metavar="FILE", help="A file of queries: texts or vectors, .jsonl(.gz) or .parquet.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits per query.")
@click.option(
    "--run",
    "run_path",
    type=click.Path(path_type=Path),
    metavar="OUT.trec",
    help="Write a TREC run. Ties get slightly decreasing scores, so that trec_eval keeps their order.",
)
@click.option("--tag", default="lsr", show_default=True, callback=_one_word, help="Last column of the run.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads for --queries. [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal, too.")
@click.option("--skip-bad", is_flag=True, help="Skip bad queries and count them.")
@click.option(
    "--highlight",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show the N characters of text that match best. Without this option, JSON has no highlights. "
    f"[default: {_PREVIEW}]",
)
@click.option("--plan", is_flag=True, help="Instead of results, print what the search reads and skips.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Search a sharded folder on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT.",
)
@click.option(
    "--cpus",
    type=Number(min=0, min_open=True),
    help="Cores of each shard on a Ray cluster; below 1, several shards share a core. [default: 1]",
)
@where_option
@click.option("--operators", is_flag=True, help='Parse "exact phrase", +must and -not in the query.')
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

    Prints a table on a terminal and JSON lines when piped; --run writes a TREC run.

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
        raise click.UsageError(f"--plan can't be combined with --{next(iter(given)).replace('_', '-')}")
    if {"facets", "total"} & given.keys() and (queries is not None or run_path):
        raise click.UsageError("--facet and --total take a text, and no --run")
    if "passages" in given and run_path:
        raise click.UsageError("--passages can't be combined with --run: a run lists each document once")
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
    if not hits and not told:
        note(_nothing_found(text, settings, given))
    if not ray and (instead := index.did_you_mean(text)) is not None:
        note(f"did you mean: {instead}")


def _nothing_found(text: str, settings: dict[str, Any], given: dict[str, Any]) -> str:
    if not text.strip():
        return "the query is empty"
    if {"offset", "min_score", "syntax"} & given.keys():
        return "no document meets all conditions"
    some = "no document that matches --where" if settings["where"] else "no document"
    return f"{some} shares a term with this query"


def print_hits(hits: Any, *, as_json: bool, first: int = 1, highlight: int | None = None) -> None:
    """Print hits as a table, or as JSON lines.

    Args:
        hits: The hits.
        as_json: Print JSON lines.
        first: Rank of the first hit.
        highlight: Maximum number of characters of text.
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
        note(f"{counted(read.unknown, 'query weight')} left out: no document has the token")
    of_texts = bool({"syntax", "rerank"} & settings.keys())
    if of_texts and read.texts is None:
        raise click.UsageError("--operators and --rerank take queries that are texts")
    of_texts = of_texts or (index.has_dense and settings.get("mode") != "sparse")
    texts = read.texts if of_texts else None
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
    """If no document matches the filter, say so on stderr and return True. Shards on a cluster aren't checked."""
    from lsr.console import note
    from lsr.index.search.reader import Reader

    mask = index.snapshot.mask(where) if isinstance(index, Reader) else None
    if mask is None or mask.share:
        return False
    note(f"none of the {len(index)} documents matches --where")
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
        why = hit.explain(origins=False)  # without loading the document encoder
        text = " ".join(why.highlight(highlight, before=before, after=after, between=" — ").split())
        rows.append((str(rank), f"{hit.score:.3f}", hit.passage, text, why.words(3)))
    click.echo(table(rows, ("", "score", "id", "text", "because of"), ">><<<"))


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("text")
@click.argument("doc_id")
@click.option("--mode", metavar="NAME", help="As for lsr search.")
@click.option("--dense-weight", type=float, help="As for lsr search.")
@where_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON on a terminal, too.")
@damaged_option
@encoder_options
def explain(
    index_path: Path | str,
    text: str,
    doc_id: str,
    where: tuple[str, ...],
    as_json: bool,
    skip_damaged: bool,
    encoder: str | None,
    **options: Any,
) -> None:
    """Show what each term adds to a document's score for a query.

    \b
    Examples:
      lsr explain idx "boundary layer transition" 184
      lsr explain idx "boundary layer transition" 184 --mode sparse
    """
    from lsr.console import emit_json, is_terminal
    from lsr.index.segment.parse_filters import parse_where_text

    settings = given_search_settings(options)
    index = open_index(index_path, encoder, options, skip_damaged=skip_damaged)
    explanation = index.explain(text, doc_id, where=parse_where_text(where), **settings)
    if as_json or not is_terminal():
        emit_json(explanation.to_json())
    else:
        click.echo(str(explanation))


@click.command()
def warmup() -> None:
    """Compile the search kernels, once per machine, so that the first query doesn't have to wait.

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
        click.echo(f"compiled in {seconds:.1f} s, but there is no folder to keep the result in: set NUMBA_CACHE_DIR")
    else:
        click.echo(f"compiled in {seconds:.1f} s, kept in {cache_folder}")
