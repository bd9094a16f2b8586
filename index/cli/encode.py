"""The command `lsr encode`, and the options of all commands that encode texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from lsr.console import Number
from lsr.encode.analyzer import STOP_WORDS
from lsr.encode.base import DEFAULT_ENCODER

F = TypeVar("F", bound=Callable[..., Any])

_SETTINGS = (
    *("pooling", "saturation", "max_length", "top_k", "max_ratio", "device", "query_model", "lexical"),
    *("k1", "b", "language", "stop_words", "entities"),
)


def encoder_options(command: F) -> F:
    """Add --encoder and its settings. The command gets `encoder` and, if given, the settings."""
    options = [
        click.option(
            "--encoder",
            metavar="NAME|PATH",
            help="lsr-mini, bm25, or a checkpoint's folder or hub name. An index or a file of vectors stands for its "
            f"encoder. [default: {DEFAULT_ENCODER}; for an existing index, its own]",
        ),
        click.option("--pooling", type=click.Choice(["max", "sum"]), help="For masked-LM checkpoints."),
        click.option("--saturation", type=click.Choice(["log1p", "log1p_log1p"]), help="For masked-LM checkpoints."),
        click.option("--max-length", type=click.IntRange(min=2), help="Maximum number of tokens read from a text."),
        click.option("--top-k", type=click.IntRange(min=1), help="Keep the k heaviest terms of a document."),
        click.option("--max-ratio", type=Number(0, 1), help="Drop weights below this share of the largest weight."),
        click.option(
            "--lexical", type=Number(min=0), metavar="W", help="Add W times the BM25 score to the model's score."
        ),
        click.option("--k1", type=Number(min=0), help="For bm25: term frequency saturation. [default: 0.9]"),
        click.option("--b", type=Number(0, 1), help="For bm25: length normalization. [default: 0.4]"),
        click.option(
            "--language",
            metavar="NAME",
            help="For bm25: one language (english, de, ja, …) or several (de,en); auto to detect the language of each "
            "document; none; or lucene. [default: english]",
        ),
        click.option(
            "--stop-words",
            type=click.Choice(STOP_WORDS),
            help="For bm25: light gives stop words little weight in queries, drop and lucene leave them out, keep "
            "treats them like other words. [default: light]",
        ),
        click.option(
            "--query-model",
            metavar="NAME|PATH",
            help="A separate checkpoint for queries. For lsr-mini, splade-tiny adds words to queries.",
        ),
        click.option(
            "--entities",
            metavar="FILE",
            help="Add a term for each entity in this file, whose JSON lines have a name and aliases.",
        ),
        click.option("--device", help="Device of the model: cpu, cuda, cuda:1. [default: cuda if available]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def text_options(command: F) -> F:
    """Add the options of commands that read texts."""
    options = [
        click.option(
            "--passages",
            type=click.IntRange(min=1),
            metavar="N",
            help="Cut documents into N-token passages. [default: cut only long documents, and documents from files]",
        ),
        click.option(
            "--overlap",
            type=click.IntRange(min=0),
            default=0,
            help="Number of tokens that neighbouring passages share.",
        ),
        click.option("--whole", is_flag=True, help="Don't cut documents: text beyond the encoder's limit is ignored."),
        click.option("--no-text", is_flag=True, help="Don't store texts, titles and metadata."),
        click.option("--skip-bad", is_flag=True, help="Skip bad documents and count them."),
        left_out_option,
        click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


url_option = click.option(
    "--url",
    default="",
    metavar="URL",
    help="URL of the folder of documents: a prefix for the paths, or a pattern with {path} or {stem}.",
)


left_out_option = click.option(
    "--left-out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a line for each file or document that is left out, with the reason.",
)


def check_left_out(path: Path | None, source: Path | str) -> None:
    """Check, before anything is read, that the --left-out file can be written and isn't part of the source."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise click.UsageError(f"--left-out {path}: there is no folder {path.parent}")
    read = Path(source).resolve()
    if path.resolve() == read or (read.is_dir() and path.resolve().is_relative_to(read)):
        raise click.UsageError(f"--left-out {path}: this file is part of the source {source}: name another file")


def write_left_out(path: Path | None, bad: Sequence[str]) -> None:
    """Write messages about what was left out, a line each, if --left-out was given."""
    from lsr.io.text_files import new_text

    if path is not None:
        with new_text(path) as file:
            file.writelines(" ".join(message.split("\n")) + "\n" for message in bad)


@contextmanager
def listing_left_out(path: Path | None, read: Any) -> Iterator[None]:
    """Write the messages in `read.bad` even if the data are refused, for instance because nothing could be read.

    `read` is None if workers read the vectors; the file is then empty.
    """
    from lsr.errors import DataError

    try:
        yield
    except DataError:
        write_left_out(path, [] if read is None else read.bad)
        raise


class PathOrURI(click.ParamType[Any]):
    """A parameter that is a path or a URI: local paths become a Path, URIs stay strings."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert local paths, and refuse an empty string, which Path would take for the current folder.

        URIs stay strings, because Path would merge the two slashes in s3://.
        """
        from lsr.io.object_store import is_remote

        if not value:
            self.fail("a path is needed, got an empty text.", param, ctx)

        return value if is_remote(value) else Path(value)


def worker_options(command: F) -> F:
    """Add --ray and --workers; `workers_of` converts them."""
    options = [
        click.option("--ray", metavar="ADDRESS", help="Use a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT."),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Number of workers with --ray. [default: all free cores]"
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def workers_of(ray: str | None, workers: int | None, device: str | None) -> Any:
    """Convert --ray, --workers and --device to workers of `lsr.distributed.pool`."""
    from lsr.distributed.pool import Workers

    if ray is None and workers is not None:
        raise click.UsageError("--workers needs --ray")
    return Workers(ray, workers, gpus=int(device is not None and device.startswith("cuda") and ray is not None))


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the encoder settings that were given."""
    return {name: options[name] for name in _SETTINGS if options.get(name) is not None}


def open_encoder(name: str | None, settings: dict[str, Any]) -> Any:
    """Open an encoder by name or path, or open the encoder that an index or a file of vectors stores."""
    from lsr.encode.load import load_encoder, load_encoder_files

    if name is None:
        return load_encoder(DEFAULT_ENCODER, **settings)
    path = Path(name)
    if path.is_file() or (path.is_dir() and any(path.glob("part-*.parquet"))):
        from lsr.errors import EncoderError
        from lsr.io.open_vectors import read_vectors

        files = read_vectors(path).encoder_files
        if not files:
            raise EncoderError(f"{path}: these vectors carry no encoder: name the one that made them")
        return load_encoder_files(files, **settings)
    from lsr.index.sharding.manifest import is_sharded
    from lsr.index.storage.manifest import MANIFEST

    if (path / MANIFEST).is_file() or is_sharded(path):
        from lsr.index.index import Index

        index = Index.open(path)
        own = index.encoder
        if not settings:
            return own
        return index.snapshot.encoder(load_encoder_files(index.shared.encoder_files, **settings))
    return load_encoder(name, **settings)


def document_encoder(name: str | None, settings: dict[str, Any]) -> Any:
    """Open an encoder for new documents: like `open_encoder`, but BM25 forgets the words that it learned elsewhere."""
    encoder = open_encoder(name, settings)
    return encoder.over(None)


def passages_of(size: int | None, overlap: int, whole: bool) -> Any:
    """Convert --passages, --overlap and --whole."""
    from lsr.encode.passages import AS_NEEDED, Passages

    if whole and size is not None:
        raise click.UsageError("--whole doesn't cut documents: leave --passages out")
    if size is None:
        if overlap:
            raise click.UsageError("--overlap needs --passages")
        return None if whole else AS_NEEDED
    if overlap >= size:
        raise click.UsageError(f"--overlap {overlap} must be below --passages {size}")
    return Passages(size, overlap)


@click.command()
@click.argument("source")
@click.option(
    "--out",
    required=True,
    type=PathOrURI(),
    help="A folder, .parquet, .jsonl(.gz), .ndjson(.gz) or .ciff(.gz); a folder may be a URI.",
)
@click.option("--queries", is_flag=True, help="Encode the queries of a BEIR folder or dataset, or the texts of a file.")
@click.option("--anserini", is_flag=True, help="Write Anserini's JSONL.")
@worker_options
@encoder_options
@text_options
def encode(
    source: str,
    out: Path | str,
    queries: bool,
    anserini: bool,
    ray: str | None,
    workers: int | None,
    encoder: str | None,
    **options: Any,
) -> None:
    """Encode texts as sparse vectors, or convert a SOURCE of vectors.

    SOURCE is a BEIR folder, a .jsonl, .json, .tsv, .csv or .parquet file, a folder of documents or one such document,
    "-" for JSONL on standard input, or an ir-datasets name. Files and folders may be URIs (s3://bucket/docs.jsonl).
    If the command is killed, run it again to resume. With --ray, the machines of a cluster encode the documents in
    parts; OUT must then be a folder that all machines share, or a URI. The result doesn't depend on the number of
    machines.

    \b
    Examples:
      lsr encode docs.jsonl.gz --out vectors.parquet --encoder naver/splade-v3
      lsr encode beir/scifact/test --queries --encoder vectors.parquet --out queries.jsonl
      lsr encode docs.jsonl.gz --ray auto --device cuda --out s3://bucket/vectors --encoder naver/splade-v3
    """
    from lsr.console import note
    from lsr.encode.write import encode_to
    from lsr.files.documents import open_texts
    from lsr.io.convert import Form, check_out, convert
    from lsr.io.open_vectors import read_vectors

    check_left_out(options["left_out"], source)
    working = workers_of(ray, workers, options["device"])
    if queries and options["passages"]:
        raise click.UsageError("--passages cuts documents, not queries")
    passages = passages_of(options["passages"], options["overlap"], options["whole"] or queries)
    corpus = open_texts(source, queries=queries, skip_bad=options["skip_bad"])
    if corpus is None:
        given = options | {"encoder": encoder}
        if unused := [name for name in ("encoder", "passages", "whole", "no_text", *_SETTINGS) if given[name]]:
            raise click.UsageError(f"--{unused[0].replace('_', '-')}: {source} holds vectors, which are only converted")
        if ray or isinstance(out, str):
            raise click.UsageError(f"{source} holds vectors: convert them without --ray, and to a local file")
        form = Form("anserini" if anserini else None)
        check_out(out, options["overwrite"], form)
        vectors = read_vectors(source, skip_bad=options["skip_bad"])
        convert(vectors, out, form)
        write_left_out(options["left_out"], vectors.bad)
        note(f"converted {source} to {out}" + (f", skipped {len(vectors.bad)} bad lines" if vectors.bad else ""))
        return
    settings = given_settings(options)
    decided_by = {"encoder": encoder, **settings, "passages": str(passages), "queries": queries}
    opened = partial(_query_encoder if queries else document_encoder, encoder, settings)
    how: dict[str, Any] = {
        "settings": json.dumps(decided_by | {"text": not options["no_text"], "skip_bad": options["skip_bad"]}),
        "overwrite": options["overwrite"],
        "anserini": anserini,
        "queries": queries,
        "passages": passages,
        "with_text": not options["no_text"],
        "device": options["device"],
    }
    with listing_left_out(options["left_out"], corpus):
        report = encode_to(corpus, opened, out, workers=working, **how)
    report.tell()
    write_left_out(options["left_out"], report.bad)
    note(f"{report.vectors} vectors in {out}")


def _query_encoder(name: str | None, settings: dict[str, Any]) -> Any:
    encoder = open_encoder(name, settings)
    if encoder.needs_fit:
        raise click.UsageError(
            f"{encoder.type} learns from the documents: name the index or the vectors that the queries are for "
            "(--encoder INDEX or --encoder VECTORS)"
        )
    return encoder
