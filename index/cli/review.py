"""The command `lsr review`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lsr.console import Number

if TYPE_CHECKING:
    from lsr.index.index import Index
    from lsr.review import Review
    from lsr.sparse import SparseMatrix

_SHOWN = 600  # characters of a text
_ANSWERS = {"y": True, "n": False, "q": None}


@click.command()
@click.argument("index_path", metavar="INDEX", type=click.Path(path_type=Path))
@click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path),
    help="File for the judgments; if it exists, the review continues from it.",
)
@click.option("--query", help="Begin with the results of this search instead of random documents.")
@click.option("--target", type=Number(0, 1, min_open=True, max_open=True), help="Recall to reach. [default: 0.8]")
@click.option("--batch", type=click.IntRange(min=1), help="Documents read between two trainings. [default: 20]")
@click.option("--rule", type=click.Choice(["hypergeometric", "quantile", "knee", "budget"]), help="When to stop. "
              "[default: hypergeometric]")  # fmt: skip
@click.option(
    "--strategy",
    type=click.Choice(["relevance", "uncertainty"]),
    help="Which documents to read next. [default: relevance]",
)
@click.option("--budget", type=click.IntRange(min=1), help="Maximum number of documents to read.")
@click.option(
    "--judgments",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take the answers from a file instead of asking: a line has an id, a tab, and 1 or 0. Documents that "
    "aren't in the file are irrelevant.",
)
@click.option("--page", metavar="PORT", type=click.IntRange(0, 65535), help="Ask in the browser, on a page "
              "served at this port, instead of in the terminal; 0 for any free port.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="File for the ids of the relevant documents.")
def review(
    index_path: Path,
    state: Path,
    query: str | None,
    judgments: Path | None,
    page: int | None,
    out: Path | None,
    **options: float | str | None,
) -> None:
    """Find nearly all relevant documents of an index by reading only a part of the documents.

    The command shows one document after the other and asks whether it is relevant. A model learns from the answers
    which documents to show next, and the review stops when the target recall is probably reached. Answer q to pause;
    run the command with the same index and --state to continue. Settings can only be given at the start. All vectors
    of the index are held in memory.

    \b
    Examples:
      lsr review idx --state wings.json --query "flutter of wings" --target 0.9
      lsr review idx --state wings.json --page 8000
      lsr review idx --state wings.json --out relevant.txt
    """
    from lsr.console import counted, note
    from lsr.index.index import Index
    from lsr.review import Review, ReviewSettings

    if judgments and page is not None:
        raise click.UsageError("--judgments answers all questions, so there is nothing to ask on a page")
    for option, file in (("--state", state), ("--out", out)):
        if file is not None and not file.parent.is_dir():
            raise click.UsageError(f"{option} {file}: there is no folder {file.parent}")
    index = Index.open(index_path)
    if not len(index):
        raise click.UsageError(f"{index_path}: the index has no documents")
    ids, vectors = _documents(index)
    given = {name: value for name, value in options.items() if value is not None}
    if state.exists():
        if given or query:
            raise click.UsageError(
                f"{state}: this review exists and keeps its settings: leave out --query and the other settings"
            )
        going = Review.load(state, ids, vectors)
    else:
        numbers = {doc_id: number for number, doc_id in enumerate(ids)}
        first = [numbers[hit.passage] for hit in index.search(query, 10)] if query else []
        try:
            settings = ReviewSettings(**given)  # type: ignore[arg-type]
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        going = Review(ids, vectors, settings, first)
    if page is not None:
        complete = _on_a_page(going, state, index, page)
    else:
        complete = _read(going, state, _from_file(judgments) if judgments else _asking(index))
    read, found = len(going.judged), going.found
    note(f"{counted(found, 'relevant document')} among {read:,} read, of {len(ids):,}")
    if complete:
        note(_why(going))
    else:
        going.save(state)
        note(f"paused: lsr review {index_path} --state {state} continues")
    if out is not None:
        out.write_text("".join(f"{ids[doc]}\n" for doc, relevant in going.judged.items() if relevant), encoding="utf-8")


def _documents(index: Index) -> tuple[list[str], list[SparseMatrix]]:
    """Return the ids of the live documents or passages, and their vectors: two matrices for a hybrid encoder, else
    one."""
    from lsr.encode.hybrid import HybridEncoder
    from lsr.index.cli.export import index_vectors
    from lsr.sparse import SparseMatrix

    ids: list[str] = []
    parts = []
    for batch in index_vectors(index):
        ids += batch.ids
        parts.append(batch.vectors)
    vectors = SparseMatrix.vstack(parts)
    encoder = index.encoder if index.shared.encoder_files else None
    return ids, [*encoder.split_by_encoder(vectors)] if isinstance(encoder, HybridEncoder) else [vectors]


def _why(going: Review) -> str:
    """Say why the review is complete, and what that means for the recall."""
    how, read = going.settings, len(going.judged)
    if read >= len(going.ids):
        return "all documents have been read"
    if how.budget and read >= how.budget:
        return f"the budget of {how.budget} documents is used up; unread documents may be relevant, too"
    if how.rule == "knee":
        return "new relevant documents have become rare; the rule 'knee' doesn't estimate the recall"
    return f"the rule {how.rule!r} says to stop: recall is probably at least {how.target:g}"


def _read(going: Review, state: Path, answer: Callable[[str], bool | None]) -> bool:
    """Judge batch after batch; return whether the review is complete."""
    while not going.stops():
        for doc in going.batch():
            relevant = answer(going.ids[doc])
            if relevant is None:
                return False
            going.judge(doc, relevant)
            going.save(state)
            if going.settings.budget and len(going.judged) >= going.settings.budget:
                break
    going.save(state)
    return True


def _on_a_page(going: Review, state: Path, index: Index, port: int) -> bool:
    """Serve the page until the server is stopped; return whether the review is complete."""
    from lsr.console import note
    from lsr.errors import MissingExtra

    try:
        from lsr.index.serve.review_app import ReviewApp
        from lsr.index.serve.server import Listener
        from lsr.index.serve.settings import ServeSettings
    except ImportError as error:
        raise MissingExtra(str(error.name), "serve", "lsr review --page") from None
    settings = ServeSettings(port=port)
    server = Listener(ReviewApp(going, state, index.get, _why, settings), settings)
    note(f"{server.url}: y and n answer, b goes back; Ctrl-C stops")
    server.run()
    return going.stops()


def _from_file(path: Path) -> Callable[[str], bool | None]:
    from lsr.errors import DataError

    known: dict[str, bool] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError("the file isn't UTF-8 text", str(path)) from None
    for number, line in enumerate(lines, start=1):
        doc_id, _, value = line.rpartition("\t")
        if value not in ("0", "1") or not doc_id:
            raise DataError("a line must have an id, a tab, and 1 or 0", f"{path}:{number}")
        known[doc_id] = value == "1"
    return lambda doc_id: known.get(doc_id, False)


def _asking(index: Index) -> Callable[[str], bool | None]:
    def ask(doc_id: str) -> bool | None:
        document = index.get(doc_id)
        text = "" if document is None else document.content
        click.echo(f"\n{doc_id}\n{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}")
        return _ANSWERS[
            click.prompt("relevant? y, n or q to pause", type=click.Choice([*_ANSWERS]), show_choices=False)
        ]

    return ask
