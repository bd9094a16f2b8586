"""lsr serve, mcp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lsr.index.cli.encode import PathOrURI
from lsr.index.cli.result_options import rerank_option, reranker_of
from lsr.index.cli.search import damaged_option, given_search_settings, open_index, search_options
from lsr.io.object_store import is_remote


@click.command()
@click.argument("indexes", metavar="INDEX...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any that is free.")
@click.option("--writable", is_flag=True, help="Let documents be added, updated and deleted.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keys that clients need, a line each: reader KEY, or writer KEY. Without it those of the variable LSR_KEYS.",
)
@click.option("--without-keys", is_flag=True, help="Listen beyond this machine without keys.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads that search. [default: one a core]")
@click.option("--waiting", type=int, help="Searches that may wait for a thread. [default: 256]")
@click.option("--seconds", type=float, help="Time limit of a search. [default: 10]")
@click.option("--max-k", type=int, help="Documents that a query may ask for. [default: 1000]")
@click.option("--max-body", type=click.IntRange(min=1), metavar="MB", help="Size of a request. [default: 8]")
@click.option("--refresh", type=float, help="Seconds between checks for commits of other processes. [default: 1]")
@rerank_option
@damaged_option
def serve(
    indexes: tuple[str, ...],
    keys: Path | None,
    max_body: int | None,
    rerank: str | None,
    skip_damaged: bool,
    **options: Any,
) -> None:
    """Serve indexes over HTTP: a page to search in, and a JSON API that /openapi.json describes.

    An INDEX is a folder or a URI, or NAME=FOLDER. The first one is searched unless a request names another. By default
    only this machine can reach it, and nothing can be changed.

    \b
    Examples:
      lsr serve idx
      lsr serve papers=idx/papers news=idx/news --port 8080 --writable
      lsr serve idx --host 0.0.0.0 --keys keys.txt
      curl localhost:8000/v1/search -H "Content-Type: application/json" -d '{"query": "wing flutter", "k": 3}'
    """  # fmt: skip
    import logging

    from lsr.console import counted, note
    from lsr.errors import MissingExtra
    from lsr.index.index import Index
    from lsr.index.serve.keys import find_keys

    try:
        from lsr.index.serve.server import Server
        from lsr.index.serve.settings import ServeSettings
    except ImportError as error:
        raise MissingExtra(str(error.name), "serve", "lsr serve") from None
    known = find_keys(keys)
    named: dict[str, Index] = {}
    for name, path in map(_named, indexes):
        if name in named:
            raise click.UsageError(f"two indexes are called {name!r}: give them names, as in papers=idx")
        named[name] = open_index(path, None, {}, skip_damaged=skip_damaged)
    given = {name: value for name, value in options.items() if value is not None} | reranker_of(rerank)
    if max_body is not None:
        given["max_body"] = max_body << 20
    try:
        settings = ServeSettings(keys=known, **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("lsr.serve").setLevel(logging.INFO)
    if settings.writable and (fixed := [name for name, index in named.items() if index.uri]):
        raise click.UsageError(f"--writable: indexes in object storage aren't changed in place: {', '.join(fixed)}")
    for name, index in named.items():
        note(f"{name}: {counted(len(index), 'document')}, {index.fingerprint}")
    server = Server(named, settings)
    may = "can be changed" if settings.writable else "read-only"
    who = f"keys: {len(settings.keys)}" if settings.keys else "no keys"
    note(f"{server.url} ({may}, {who}); Ctrl-C stops")
    server.run()


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.option("--writable", is_flag=True, help="Let agents add and delete documents.")
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Speak HTTP there instead of using stdin and stdout; port 0 is any that is free.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --http: keys that clients need, as of lsr serve; a writer's with --writable.",
)
@click.option("--without-keys", is_flag=True, help="With --http: listen beyond this machine without keys.")
@search_options
@rerank_option
@damaged_option
def mcp(
    index_path: Path | str,
    writable: bool,
    http: str | None,
    keys: Path | None,
    without_keys: bool,
    rerank: str | None,
    skip_damaged: bool,
    **options: Any,
) -> None:
    """Serve an index to agents, as tools of the Model Context Protocol: search, get_document, explain, list_columns.

    An agent starts this command and speaks to it over stdin and stdout; with --http it finds it at /mcp. Nothing can
    be changed unless --writable says so. Texts of documents come marked as quotations.

    \b
    Examples:
      lsr mcp idx
      lsr mcp idx --mode hybrid
      lsr mcp idx --http 8080 --keys keys.txt
    """
    from lsr.console import counted, note
    from lsr.index.integrations.mcp import http_app, mcp_server

    if http is None and (keys or without_keys):
        raise click.UsageError("--keys and --without-keys go with --http")
    searching = given_search_settings(options) | reranker_of(rerank)
    index = open_index(index_path, None, {}, skip_damaged=skip_damaged)
    if writable and index.uri:
        raise click.UsageError("--writable: an index in object storage isn't changed in place")
    with index:
        server = mcp_server(index, writable=writable, **searching)
        if http is None:
            return server.run()
        from lsr.index.serve.keys import find_keys
        from lsr.index.serve.server import Listener
        from lsr.index.serve.settings import ServeSettings

        host, _, port = http.rpartition(":")
        if not port.isdecimal():
            raise click.UsageError(f"--http takes a port, or HOST:PORT, got {http!r}")
        host = host.strip("[]") or "127.0.0.1"
        try:
            settings = ServeSettings(
                host=host, port=int(port), writable=writable, keys=find_keys(keys), without_keys=without_keys
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        listener = Listener(http_app(server, settings), settings)
        may = "can be changed" if writable else "read-only"
        note(f"{listener.url}/mcp: {counted(len(index), 'document')} ({may}); Ctrl-C stops")
        listener.run()


def _named(index: str) -> tuple[str, Path | str]:
    """Name and folder, or URI, of an argument; a folder may have = in its name, a URI in its options."""
    name, equals, path = index.partition("=")
    if not (equals and name) or is_remote(index) or Path(index).exists():
        name, path = "", index
    if is_remote(path):
        return name or path.partition("?")[0].rstrip("/").rpartition("/")[2], path
    return name or Path(path).resolve().name, Path(path).resolve()
