"""The command `lsr index`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lsr.index.cli.encode import (
    PathOrURI,
    check_left_out,
    document_encoder,
    encoder_options,
    given_settings,
    listing_left_out,
    open_encoder,
    passages_of,
    text_options,
    url_option,
    worker_options,
    workers_of,
    write_left_out,
)
from lsr.index.cli.search import size_of


@click.command()
@click.argument("source")
@click.option("--out", required=True, type=PathOrURI(), help="The index's folder, or a URI.")
@click.option(
    "--impacts",
    type=click.Choice(["uint8", "float32"]),
    default="uint8",
    show_default=True,
    help="How to store weights; float32 keeps them unchanged.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="MB",
    help="Approximate memory limit for building.",
)
@click.option(
    "--order",
    type=click.Choice(["auto", "given", "bisection"]),
    default="auto",
    show_default=True,
    help="bisection stores similar documents next to each other: building is slower, searching is faster, and results "
    "are the same. auto chooses bisection for 20,000 documents or more.",
)
@click.option("--clusters", is_flag=True, help="Also write clusters, for search with --algorithm clusters.")
@click.option(
    "--summary-mass",
    type=float,
    help="A cluster's summary keeps only the largest of its terms' impacts, until they reach this share of the sum of "
    "all. A larger share slows search down and finds more. [default: 0.6]",
)
@click.option(
    "--hybrid",
    is_flag=True,
    help="Also store the encoder's dense vectors, in 8 bits, for hybrid search.",
)
@click.option("--shards", type=click.IntRange(min=1), metavar="N", help="Split the index into N shards.")
@url_option
@worker_options
@encoder_options
@text_options
def index(
    source: str,
    out: Path | str,
    impacts: Any,
    memory: int,
    order: Any,
    clusters: bool,
    summary_mass: float | None,
    hybrid: bool,
    shards: int | None,
    url: str,
    ray: str | None,
    workers: int | None,
    encoder: str | None,
    **options: Any,
) -> None:
    """Build an index from vectors, or from texts and an encoder.

    SOURCE is what `lsr encode` reads or writes: a BEIR folder, a .jsonl, .json, .tsv, .csv or .parquet file, a folder
    of documents (Markdown, HTML, PDF and more) or one such document, a folder of vectors, "-" for JSONL on standard
    input, or an ir-datasets name; files and folders may be URIs. With --ray, the machines of a cluster encode the
    documents and build the shards; OUT must then be on a disk that all machines share, or a URI. If the command is
    killed, run it again to resume.

    \b
    Examples:
      lsr index docs.jsonl --out idx
      lsr index docs/ --out idx
      lsr index vectors.parquet --out idx --overwrite
      lsr index vectors.parquet --out idx --clusters
      lsr index docs.jsonl --out idx --hybrid
      lsr index docs.jsonl.gz --ray auto --shards 16 --out s3://bucket/idx
    """  # fmt: skip
    from lsr.console import counted, note
    from lsr.encode.corpus import Report
    from lsr.files.documents import open_texts
    from lsr.index.index import Index
    from lsr.index.segment.clusters import SUMMARY_MASS
    from lsr.index.write.builder import BuildSettings, open_source

    check_left_out(options["left_out"], source)
    working = workers_of(ray, workers, options["device"])
    if clusters and impacts != "uint8":
        raise click.UsageError("--clusters needs 8-bit impacts: leave out --impacts float32")
    if summary_mass is not None and not (clusters and 0 < summary_mass <= 1):
        raise click.UsageError("--summary-mass needs --clusters, and a value above 0 and at most 1")
    passages = passages_of(options["passages"], options["overlap"], options["whole"])
    settings = given_settings(options)
    if hybrid and (ray or shards):
        raise click.UsageError(
            "--hybrid makes a single index: leave --shards and --ray out; lsr reshard cuts it into shards"
        )
    if ray or shards:
        mass = (summary_mass or SUMMARY_MASS) if clusters else None
        how = BuildSettings(impacts, not options["no_text"], order, mass, passages)
        _index_shards(source, out, shards or 1, how, working, memory << 20, encoder, settings, options | {"url": url})
        return
    texts = open_texts(source, skip_bad=options["skip_bad"], url=url)
    read: Any = texts
    if texts is None:
        if hybrid:
            raise click.UsageError("--hybrid makes dense vectors from texts; these are sparse vectors already")
        if options["passages"]:
            raise click.UsageError("--passages cuts texts; these are vectors already")
        model = open_encoder(encoder, settings) if encoder else None
        read = open_source(source, model, skip_bad=options["skip_bad"])
    else:
        model = document_encoder(encoder, settings)
    report = Report()
    with listing_left_out(options["left_out"], read):
        built = Index.build(
            out,
            read,
            encoder=model,
            impacts=impacts,
            passages=passages,
            store_text=not options["no_text"],
            overwrite=options["overwrite"],
            memory=memory << 20,
            order=order,
            clusters=clusters,
            summary_mass=summary_mass or SUMMARY_MASS,
            hybrid=hybrid,
            report=report,
        )
    report.tell()
    write_left_out(options["left_out"], report.bad)
    if not len(built):
        note(f"{source}: no documents, so the index is empty; lsr add adds some")
    size = sum(built.file_sizes().values())
    much = f"{size_of(built)}, {counted(built.n_postings, 'posting')}, {size / 1e6:.1f} MB"
    note(f"{out}: {much}, {built.fingerprint}" + (", hybrid" if built.has_dense else ""))
    if clusters:
        note(
            f"clusters: recall@10 {built.recall(algorithm='clusters'):.3f} against exact search; the queries were "
            "documents cut to their heaviest terms. A larger --cut or a lower --heap-factor raises the recall"
        )


def _index_shards(
    source: str,
    out: Path | str,
    shards: int,
    how: Any,
    workers: Any,
    memory: int,
    encoder: str | None,
    settings: dict[str, Any],
    options: dict[str, Any],
) -> None:
    from lsr.console import counted, note
    from lsr.files.documents import open_texts
    from lsr.index.distributed.build import build_shards

    texts = open_texts(source, skip_bad=options["skip_bad"], url=options["url"])
    asked = {"passages": options["passages"], "encoder": encoder, **settings}
    if texts is None and (given := [name for name, value in asked.items() if value]):
        raise click.UsageError(f"--{given[0].replace('_', '-')}: {source} holds vectors already")
    decided_by = {"encoder": encoder, **settings, "skip_bad": options["skip_bad"]}
    with listing_left_out(options["left_out"], texts):
        made, report = build_shards(
            out,
            source if texts is None else texts,
            shards=shards,
            encoder=None if texts is None else document_encoder(encoder, settings),
            settings=how,
            identity=f"{decided_by} {how.passages} {how.store_text}",
            device=options["device"],
            workers=workers,
            memory=memory,
            overwrite=options["overwrite"],
        )
    report.tell()
    write_left_out(options["left_out"], report.bad)
    size = sum(entry.bytes for entry in made.entries)
    much = f"{counted(made.documents, 'document')} in {counted(shards, 'shard')}, {size / 1e6:.1f} MB"
    note(f"{out}: {much}, {made.fingerprint}")
