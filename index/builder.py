"""Building an index: documents or vectors in, a committed folder out; `Index.build` is the way to call it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

import lsr
from lsr.console import progress
from lsr.corpus import Corpus, Document, documents_corpus
from lsr.encode.base import DEFAULT_ENCODER, Encoder
from lsr.encode.hub import load_encoder
from lsr.encode.stream import Passages, Report, encode_corpus, fit
from lsr.fingerprint import Fingerprint
from lsr.sparse import SparseMatrix
from lsr.vectors import VectorBatch, Vectors, matrix_batches

from .clusters import write_clusters
from .documents import DocumentsWriter
from .segment import ImpactType, Segment
from .segment_writer import Order, SegmentWriter
from .storage import staged, write_arrow

Source = Iterable[Mapping[str, Any] | Document] | Corpus | Vectors | SparseMatrix


def build_index(
    path: Path,
    source: Source,
    *,
    encoder: Encoder | None,
    ids: Sequence[str] | None,
    impacts: ImpactType,
    passages: Passages | None,
    store_text: bool,
    overwrite: bool,
    memory: int,
    order: Order,
    clusters: bool,
    summary_mass: float,
    report: Report,
) -> Encoder | None:
    """Build an index; arguments and errors are those of `Index.build`.

    Returns:
        What encoded the documents, None if they came as vectors.
    """
    if impacts not in ("uint8", "float32"):
        raise ValueError(f'impacts must be "uint8" or "float32", got {impacts!r}')
    if clusters and impacts != "uint8":
        raise ValueError("clusters are for 8-bit impacts: search of float32 weights is always a scan")
    if not 0 < summary_mass <= 1:
        raise ValueError(f"summary_mass must be above 0 and at most 1, got {summary_mass!r}")
    if clusters and order == "auto":
        order = "bisection"  # clusters of documents that have nothing in common are of no use
    with staged(path, overwrite=overwrite) as staging:
        known = _Known()
        if isinstance(source, SparseMatrix):
            known.fingerprint = Fingerprint(vocabulary_size=source.shape[1])
            batches = matrix_batches(source, ids)
        elif isinstance(source, Vectors):
            batches = _vector_batches(source, known, report)
        else:
            encoder = encoder or load_encoder(DEFAULT_ENCODER)
            corpus = source if isinstance(source, Corpus) else documents_corpus(source, replay=encoder.needs_fit)
            fit(encoder, corpus)
            batches = encode_corpus(corpus, encoder, report, passages=passages, with_text=store_text)
        known.take(encoder)
        documents = DocumentsWriter(staging.folder)
        with closing(SegmentWriter(staging.folder, staging.scratch, impacts, memory, order)) as postings:
            for batch in batches:
                documents.write(batch.documents if store_text else _without_text(batch.documents))
                postings.write(batch.vectors)
            documents.close()
            quantizer = postings.finish()
        scale = quantizer.scale if quantizer else 1.0
        if clusters:
            write_clusters(Segment(staging.folder, impacts, scale), staging.folder, staging.scratch, summary_mass)
        known.write(staging.folder)
        staging.commit(
            {
                "lsr": lsr.__version__,
                "fingerprint": known.fingerprint.to_json(),
                "encoder": f"{staging.folder.name}/encoder" if known.encoder_files else None,
                "n_docs": postings.n_docs,
                "n_postings": postings.n_postings,
                "has_text": documents.has_text,
                "has_parents": documents.has_parents,
                "has_vocabulary": known.vocabulary is not None,
                "impacts": {
                    "type": impacts,
                    "scale": scale,
                    "max_error": quantizer.max_error if quantizer else 0.0,
                },
            }
        )
    return encoder


class _Known:
    """What an index will know of the encoder: fingerprint, tokens, and the files that encode queries."""

    def __init__(self) -> None:
        self.fingerprint = Fingerprint()
        self.vocabulary: Sequence[str] | None = None
        self.encoder_files: dict[str, bytes] = {}

    def take(self, encoder: Encoder | None) -> None:
        if encoder is None:
            return
        self.fingerprint.require_same(encoder.fingerprint, "the vectors", "the encoder given")
        self.fingerprint = encoder.fingerprint
        self.vocabulary = encoder.vocabulary
        self.encoder_files = encoder.query_files()

    def write(self, folder: Path) -> None:
        if self.vocabulary is not None:
            write_arrow(folder / "vocabulary.arrow", {"token": pa.array(list(self.vocabulary), pa.string())})
        if self.encoder_files:
            (folder / "encoder").mkdir()
            for name, content in self.encoder_files.items():
                (folder / "encoder" / name).write_bytes(content)


def _vector_batches(vectors: Vectors, known: _Known, report: Report) -> Iterator[VectorBatch]:
    """Batches of a file of vectors; what is known of their encoder is whole after the last."""
    known.fingerprint, known.vocabulary = vectors.fingerprint, vectors.vocabulary
    known.encoder_files = vectors.encoder_files

    def batches() -> Iterator[VectorBatch]:
        with progress(vectors.count, "indexing") as bar:
            for batch in vectors:
                report.documents += len(batch.vectors)
                report.vectors += len(batch.vectors)
                report.no_terms += int((batch.vectors.lengths() == 0).sum())
                yield batch
                bar.update(len(batch.vectors))
        report.bad = vectors.bad

    return batches()


def _without_text(documents: pa.RecordBatch) -> pa.RecordBatch:
    kept = [
        column if field.name in ("id", "parent") else pa.nulls(documents.num_rows, field.type)
        for field, column in zip(documents.schema, documents.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(kept, schema=documents.schema)
