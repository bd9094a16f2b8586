"""An index as vectors, to write it in any form that lsr.convert knows; and `lsr export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from lsr.convert import FORMATS, Form, check_out, convert
from lsr.corpus import Document, document_batch
from lsr.errors import CorruptIndex
from lsr.regroup import Regrouping
from lsr.sparse import SparseMatrix
from lsr.vectors import VectorBatch, Vectors, holds_vectors, read_vectors

from .index import Index

_BATCH = 4096  # rows handed out together


def index_vectors(index: Index) -> Vectors:
    """The documents of an index in their order, with the weights that are stored, in bounded memory.

    Raises:
        CorruptIndex: While it is read: the postings are damaged.
    """
    scale = float(index._manifest["impacts"]["scale"])
    quantized = index._manifest["impacts"]["type"] == "uint8"
    tokens = index.vocabulary
    segment = index.segment
    return Vectors(
        str(index.path),
        lambda _: _read_index(index, scale),
        fingerprint=index.fingerprint,
        vocabulary=tokens,
        n_terms=max(index.fingerprint.vocabulary_size or 0, int(segment.terms.max(initial=0)) + 1),
        encoder_files=index._encoder_files,
        count=len(index),
        step=scale if quantized else None,
    )


def _read_index(index: Index, scale: float) -> Iterator[VectorBatch]:
    n_terms = max(index.fingerprint.vocabulary_size or 0, int(index.segment.terms.max(initial=0)) + 1)
    with Regrouping() as regrouping:
        try:
            for docs, term, impacts in _lists(index.segment):
                regrouping.add(docs, term, impacts)
            counts = regrouping.counts(len(index))
            for first, indptr, terms, impacts in regrouping.groups(np.arange(len(index)), counts):
                weights = (impacts.astype(np.float64) * scale).astype(np.float32)
                for start in range(0, len(indptr) - 1, _BATCH):
                    ptr = indptr[start : start + _BATCH + 1]
                    inside, rows = slice(int(ptr[0]), int(ptr[-1])), len(ptr) - 1
                    matrix = SparseMatrix(ptr - ptr[0], terms[inside], weights[inside], (rows, n_terms))
                    yield VectorBatch(_documents(index, first + start, rows), matrix)
        except (IndexError, ValueError):
            raise CorruptIndex(f"{index.path}: the postings are damaged; lsr verify tells more") from None


def _lists(segment: Any) -> Iterator[tuple[NDArray[np.int64], int, NDArray[Any]]]:
    """Of each list of each window the documents, the term and the impacts."""
    first = 0
    for w in range(segment.n_windows):
        ranks, lists, docs, impacts, dense, n_docs = segment.postings_of(w)
        numbers = np.arange(first, first + n_docs)
        if len(segment._places):  # the document at each place
            numbers = segment._files.order[first : first + n_docs].astype(np.int64)
        rows = dense.reshape(-1, n_docs)
        for term, (begin, end, _, row) in zip(segment.terms[ranks].tolist(), lists.tolist(), strict=True):
            if row >= 0:
                local, values = np.flatnonzero(rows[row]), rows[row][rows[row] > 0]
            else:
                local, values = docs[begin:end], impacts[begin:end]
            yield numbers[local], term, values
        first += n_docs


def _documents(index: Index, first: int, count: int) -> Any:
    documents = []
    for doc in range(first, first + count):
        title, text, metadata = index.documents.fields(doc)
        documents.append(Document(index.documents.id(doc), text, title, metadata or None, index.documents.parent(doc)))
    return document_batch(documents, with_text=bool(index._manifest["has_text"]))


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file; its ending names the format.")
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), help="Where the ending isn't enough.")
@click.option(
    "--levels",
    type=click.IntRange(min=1, max=65535),
    help="CIFF: the largest impact. [default: as stored; 255 for other weights]",
)
@click.option("--name", metavar="NAME", help="OpenSearch: the index. [default: the file's name]")
@click.option("--field", default="vector", show_default=True, help="OpenSearch: the field of the vector.")
@click.option("--skip-bad", is_flag=True, help="Count bad lines and go on.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def export(
    source: Path,
    out: Path,
    format_name: str | None,
    levels: int | None,
    name: str | None,
    field: str,
    skip_bad: bool,
    overwrite: bool,
) -> None:
    """Write an index, or vectors, as a file that another engine reads.

    \b
    .parquet                everything: ids, texts, weights, tokens, the encoder of queries
    .jsonl(.gz)             {"_id", "vector"}, or Anserini's with --format anserini
    .ndjson(.gz)            OpenSearch's bulk requests, with NAME.mapping.json to create the index: a field of
                            rank_features, or with --format opensearch-ann of sparse_vector, whose keys are term ids
    .ciff(.gz)              Common Index File Format, for PISA, BMP, JASS, Terrier and others

    `lsr index` and `lsr encode` read all of them. Temporary files take up to 36 bytes a weight (in TMPDIR).

    \b
    Examples:
      lsr export idx --out idx.ciff
      lsr export idx --out docs.ndjson --name docs
      lsr index docs.ndjson --out again
    """  # fmt: skip
    from lsr.console import note

    form = Form(format_name, levels, name, field)
    check_out(out, overwrite, form)
    vectors = read_vectors(source, skip_bad=skip_bad) if holds_vectors(source) else index_vectors(Index.open(source))
    convert(vectors, out, form)
    skipped = f", skipped {len(vectors.bad)} bad lines" if vectors.bad else ""
    note(f"{', '.join(map(str, form.files(out)))}: {out.stat().st_size / 1e6:.1f} MB from {source}{skipped}")
