"""The commands `lsr serve` and `lsr mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lsr.index.cli.encode import PathOrURI
from lsr.index.cli.result_options import rerank_option, reranker_of
from lsr.index.cli.search import damaged_option, given_search_settings, open_index, search_options, size_of
from lsr.io.object_store import is_remote


@click.command()
@click.argument("indexes", metavar="INDEX...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free port.")
@click.option("--writable", is_flag=True, help="Allow adding, updating and deleting documents.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='File with a key per line, as "reader KEY" or "writer KEY". [default: the variable LSR_KEYS, if set]',
)
@click.option("--without-keys", is_flag=True, help="Allow access from other machines without keys.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Search threads. [default: one per core]")
@click.option("--waiting", type=int, help="Maximum number of searches waiting for a thread. [default: 256]")
@click.option("--seconds", type=float, help="Time limit of a search. [default: 10]")
@click.option("--max-k", type=int, help="Maximum number of documents per query. [default: 1000]")
@click.option("--max-body", type=click.IntRange(min=1), metavar="MB", help="Maximum size of a request. [default: 8]")
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
    """Serve indexes over HTTP: a search page, and a JSON API described by /openapi.json.

    An INDEX is a folder or a URI, or NAME=FOLDER. Requests search the first index unless they name another. By default,
    only this machine can reach the server, and nothing can be changed.

    \b
    Examples:
      lsr serve idx
      lsr serve papers=idx/papers news=idx/news --port 8080 --writable
      lsr serve idx --host 0.0.0.0 --keys keys.txt
      curl localhost:8000/v1/search -H "Content-Type: application/json" -d '{"query": "wing flutter", "k": 3}'
    """  # fmt: skip
    import logging

    from lsr.console import note
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
            raise click.UsageError(f"two indexes have the name {name!r}: give them different names, as in papers=idx")
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
        raise click.UsageError(f"--writable: indexes in object storage can't be changed in place: {', '.join(fixed)}")
    for name, index in named.items():
        note(f"{name}: {size_of(index)}, {index.fingerprint}")
    server = Server(named, settings)
    may = "can be changed" if settings.writable else "read-only"
    who = f"keys: {len(settings.keys)}" if settings.keys else "no keys"
    note(f"{server.url} ({may}, {who}); Ctrl-C stops")
    server.run()


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.option("--writable", is_flag=True, help="Allow agents to add and delete documents.")
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve over HTTP at this address instead of over stdin and stdout; port 0 is any free port.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --http: file of keys, as for lsr serve; with --writable, clients need a writer's key.",
)
@click.option("--without-keys", is_flag=True, help="With --http: allow access from other machines without keys.")
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

    An agent starts this command and talks to the server over stdin and stdout; with --http, agents connect to /mcp.
    Without --writable, agents can't change the index. Texts of documents are marked as quotations.

    \b
    Examples:
      lsr mcp idx
      lsr mcp idx --mode sparse
      lsr mcp idx --http 8080 --keys keys.txt
    """
    from lsr.console import note
    from lsr.index.integrations.mcp import http_app, mcp_server

    if http is None and (keys or without_keys):
        raise click.UsageError("--keys and --without-keys need --http")
    searching = given_search_settings(options) | reranker_of(rerank)
    index = open_index(index_path, None, {}, skip_damaged=skip_damaged)
    if writable and index.uri:
        raise click.UsageError("--writable: an index in object storage can't be changed in place")
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
        note(f"{listener.url}/mcp: {size_of(index)} ({may}); Ctrl-C stops")
        listener.run()


def _named(index: str) -> tuple[str, Path | str]:
    """Split NAME=FOLDER into name and path; without NAME, the name is the last part of the path.

    A "=" in the path of an existing folder, or in the options of a URI, doesn't end a name.
    """
    name, equals, path = index.partition("=")
    if not (equals and name) or is_remote(index) or Path(index).exists():
        name, path = "", index
    if is_remote(path):
        return name or path.partition("?")[0].rstrip("/").rpartition("/")[2], path
    return name or Path(path).resolve().name, Path(path).resolve()
