"""The command `lsr export`; `index_vectors` reads an index as vectors, which lsr.io.convert writes in any format."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from lsr.index.cli.encode import PathOrURI
from lsr.index.cli.search import damaged_option, open_index
from lsr.index.index import Index
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.quantize import weights_of
from lsr.io.convert import FORMATS, Form, check_out, convert
from lsr.io.open_vectors import holds_vectors, read_vectors
from lsr.io.vectors import VectorBatch, Vectors


def index_vectors(index: Index) -> Vectors:
    """Read the documents of an index, in order, with their stored weights, in bounded memory.

    Raises:
        CorruptIndex: The postings are damaged; raised while reading, or at once if terms have to be counted.
    """
    snapshot = index.snapshot
    scales = {part.segment.scale for part in snapshot.parts}
    n_terms = max([index.fingerprint.vocabulary_size or 0, *(part.n_terms for part in snapshot.parts)])
    quantized = len(scales) == 1 and snapshot.manifest["impacts"] == "uint8"
    return Vectors(
        str(index.path),
        lambda _: _read(snapshot, n_terms),
        fingerprint=index.fingerprint,
        vocabulary=index.vocabulary,
        n_terms=n_terms,
        encoder_files=_encoder_files(index),
        count=len(index),
        step=scales.pop() if quantized else None,
    )


def _encoder_files(index: Index) -> dict[str, bytes]:
    """Return the files of the query encoder.

    For an encoder that grows with the index, these files have the current vocabulary and counts.
    """
    files = index.shared.encoder_files
    if not files or not index.encoder.living:
        return files
    for part in index.snapshot.parts:
        part.require_whole()  # don't export counts of damaged postings
    return index.encoder.query_files()


def _read(snapshot: Snapshot, n_terms: int) -> Iterator[VectorBatch]:
    with tempfile.TemporaryDirectory() as scratch:
        for part in snapshot.parts:
            for batch in part.batches(Path(scratch), n_terms):
                if snapshot.manifest["impacts"] == "uint8":
                    batch.vectors.data[:] = weights_of(batch.vectors.data, part.segment.scale)
                yield batch


@click.command()
@click.argument("source", type=PathOrURI())
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file; its extension sets the format.")
@click.option(
    "--format", "format_name", type=click.Choice(list(FORMATS)), help="Format, if the extension stands for several."
)
@click.option(
    "--levels",
    type=click.IntRange(min=1, max=65535),
    help="CIFF: the largest impact. [default: as stored; 255 for float weights]",
)
@click.option("--name", metavar="NAME", help="OpenSearch: the index's name. [default: the file's name]")
@click.option("--field", default="vector", show_default=True, help="OpenSearch: the field for vectors.")
@click.option("--skip-bad", is_flag=True, help="Skip bad lines and count them.")
@damaged_option
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def export(
    source: Path | str,
    out: Path,
    format_name: str | None,
    levels: int | None,
    name: str | None,
    field: str,
    skip_bad: bool,
    skip_damaged: bool,
    overwrite: bool,
) -> None:
    """Write an index, or vectors, as a file for another engine.

    \b
    .parquet                everything: ids, texts, weights, tokens, the query encoder
    .jsonl(.gz)             {"_id", "vector"}, or Anserini's with --format anserini
    .ndjson(.gz)            OpenSearch's bulk requests, and NAME.mapping.json to create the index. The field's type is
                            rank_features; with --format opensearch-ann, it is sparse_vector, and the keys are term ids
    .ciff(.gz)              Common Index File Format, for PISA, BMP, JASS, Terrier and others

    `lsr index` and `lsr encode` read all of these. Temporary files take up to 36 bytes per weight (in TMPDIR).

    \b
    Examples:
      lsr export idx --out idx.ciff
      lsr export idx --out docs.ndjson --name docs
      lsr index docs.ndjson --out again
      lsr export idx --out rescued.parquet --skip-damaged
    """  # fmt: skip
    from lsr.console import note

    form = Form(format_name, levels, name, field)
    check_out(out, overwrite, form)
    if holds_vectors(source):
        vectors = read_vectors(source, skip_bad=skip_bad)
    else:
        vectors = index_vectors(open_index(source, None, {}, skip_damaged=skip_damaged))
    convert(vectors, out, form)
    skipped = f", skipped {len(vectors.bad)} bad lines" if vectors.bad else ""
    note(f"{', '.join(map(str, form.files(out)))}: {out.stat().st_size / 1e6:.1f} MB from {source}{skipped}")
