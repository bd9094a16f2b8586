"""Write documents or vectors as a segment, and build a new index with one segment, for `Index.build`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from lsr._version import __version__
from lsr.console import Progress, progress
from lsr.encode.base import DEFAULT_ENCODER, Encoder
from lsr.encode.corpus import Report, encode_corpus, fit
from lsr.encode.lexicon import Lexicon
from lsr.encode.load import load_encoder
from lsr.encode.passages import Passages
from lsr.errors import DataError, EncoderError, EncoderMismatch
from lsr.files.documents import open_texts
from lsr.fingerprint import Fingerprint
from lsr.index.segment.cluster_writer import write_clusters
from lsr.index.segment.doc_store import DocumentsWriter
from lsr.index.segment.embeddings import EmbeddingsWriter
from lsr.index.segment.postings import ImpactType, Segment
from lsr.index.segment.postings_writer import DEFAULT_MEMORY, Order, SegmentWriter
from lsr.index.segment.quantize import LEVELS, Quantizer
from lsr.index.storage.arrow_file import write_arrow
from lsr.index.storage.manifest import FORMAT, check_output_empty, output_errors
from lsr.index.storage.transaction import StagedFiles, Transaction
from lsr.io.corpus import Corpus, documents_corpus
from lsr.io.document import Document
from lsr.io.jsonl import given_documents
from lsr.io.open_vectors import read_vectors
from lsr.io.vectors import VectorBatch, Vectors, matrix_batches
from lsr.sparse import SparseMatrix

Opened = Iterable[Mapping[str, Any] | Document] | Corpus | Vectors | SparseMatrix
Source = Opened | str | PathLike[str]


class BuildOptions(TypedDict, total=False):
    """Keyword arguments of `Index.build`, which describes them."""

    encoder: Encoder | str | None
    impacts: ImpactType
    passages: Passages | None
    store_text: bool
    overwrite: bool
    memory: int
    order: Order
    clusters: bool
    summary_mass: float
    hybrid: bool
    report: Report | None
    progress: Progress | None


@dataclass(frozen=True)
class BuildSettings:
    """How an index is written; stored in the manifest for later additions.

    Attributes:
        impacts: "uint8" or "float32".
        store_text: Whether titles, texts and metadata are stored.
        order: Order of storage, see `SegmentWriter`.
        summary_mass: Summary mass of clusters; None for no clusters.
        passages: How documents are cut; None for whole documents.
        hybrid: Whether the encoder's dense vectors are stored, too.

    Raises:
        ValueError, TypeError: Invalid values.
    """

    impacts: ImpactType = "uint8"
    store_text: bool = True
    order: Order = "auto"
    summary_mass: float | None = None
    passages: Passages | None = None
    hybrid: bool = False

    def __post_init__(self) -> None:
        if self.impacts not in ("uint8", "float32"):
            raise ValueError(f'impacts must be "uint8" or "float32", got {self.impacts!r}')
        if not isinstance(self.passages, Passages | None):
            raise TypeError(f"passages must be Passages(size, overlap), got {self.passages!r}")
        if self.summary_mass is not None and self.impacts != "uint8":
            raise ValueError("clusters need 8-bit impacts: float32 weights are always searched exhaustively")
        if self.summary_mass is not None and not 0 < self.summary_mass <= 1:
            raise ValueError(f"summary_mass must be above 0 and at most 1, got {self.summary_mass!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's entry for these settings; impacts have an entry of their own."""
        passages = None if self.passages is None else [self.passages.size, self.passages.overlap]
        kept = {"store_text": self.store_text, "order": self.order, "summary_mass": self.summary_mass}
        # "hybrid" is written only if true, so that earlier versions open indexes without dense vectors.
        return kept | {"passages": passages} | ({"hybrid": True} if self.hybrid else {})

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> BuildSettings:
        """Return the settings of an index."""
        kept = dict(manifest["settings"])
        passages = kept.pop("passages")
        return cls(manifest["impacts"], passages=None if passages is None else Passages(*passages), **kept)


class EncoderMetadata:
    """The encoder of an index: its fingerprint, tokens and files."""

    def __init__(self) -> None:
        self.fingerprint = Fingerprint()
        self.vocabulary: Sequence[str] | None = None
        self.encoder_files: dict[str, bytes] = {}

    def take(self, encoder: Encoder | None) -> None:
        """Store the encoder of the documents or vectors; None changes nothing."""
        if encoder is None:
            return
        self.fingerprint.require_same(encoder.fingerprint, "the vectors", "the encoder given")
        self.fingerprint = encoder.fingerprint
        if not encoder.living or self.vocabulary is None:  # otherwise keep the vectors' own term ids
            self.vocabulary = encoder.vocabulary
        self.encoder_files = encoder.query_files()

    def write(self, transaction: Transaction) -> dict[str, Any]:
        """Write the files that segments share; return the manifest's entries."""
        folder = None
        if self.vocabulary is not None or self.encoder_files:
            folder = transaction.folder("shared")
        if folder and self.vocabulary is not None:
            write_arrow(folder / "vocabulary.arrow", {"token": pa.array(list(self.vocabulary), pa.string())})
        if folder and self.encoder_files:
            (folder / "encoder").mkdir()
            for name, content in self.encoder_files.items():
                (folder / "encoder" / name).write_bytes(content)
        return {
            "fingerprint": self.fingerprint.to_json(),
            "shared": folder.name if folder else None,
            "has_encoder": bool(self.encoder_files),
            "has_vocabulary": self.vocabulary is not None,
        }

    def write_grown(self, transaction: Transaction, grown: Sequence[Mapping[str, Any]], n_known: int) -> dict[str, Any]:
        """Write appended tokens; return the manifest's entry.

        Pieces are joined so that each one is at least twice as large as the next, which keeps their number small.

        Args:
            transaction: The commit.
            grown: The last manifest's entry.
            n_known: Number of committed tokens.
        """
        tokens, pieces = list(self.vocabulary or ()), list(grown)
        first = n_known
        while pieces and pieces[-1]["n_terms"] < 2 * (len(tokens) - first):
            first -= int(pieces.pop()["n_terms"])
        folder = transaction.folder("shared")
        write_arrow(folder / "vocabulary.arrow", {"token": pa.array(tokens[first:], pa.string())})
        return {"grown": [*pieces, {"name": folder.name, "n_terms": len(tokens) - first}]}


def growing(encoder: Encoder, tokens: Sequence[str] | None = None) -> Encoder:
    """Let a living encoder append new terms to its own or given tokens; other encoders are returned unchanged."""
    known = list(encoder.vocabulary if tokens is None else tokens) if encoder.living else []
    return encoder.over(Lexicon(known, grows=True)) if encoder.living else encoder


def quantizer_of(fingerprint: Fingerprint, scale: float = 0.0) -> Callable[[float, bool], Quantizer] | None:
    """Return a function that builds quantizers for a given scale, or else for the encoder's largest weight.

    Returns None if neither is known.
    """
    scale = scale or (fingerprint.max_weight or 0.0) / LEVELS
    return partial(Quantizer.beside, scale) if scale else None


def require_same_terms(vocabulary: Sequence[str] | None, encoder: Encoder, what: str) -> None:
    """Refuse an encoder whose term ids differ from the term ids of given vectors.

    Args:
        vocabulary: The tokens of the vectors; None if unknown.
        encoder: The encoder.
        what: What the vectors belong to, for messages.

    Raises:
        EncoderMismatch: A term has another token, or the encoder lacks it.
    """
    theirs = encoder.vocabulary
    for term, token in enumerate(vocabulary or ()):
        if term >= len(theirs) or theirs[term] != token:
            has = repr(theirs[term]) if term < len(theirs) else "nothing"
            raise EncoderMismatch(
                f"term {term} is {token!r} in {what} and {has} in the encoder {encoder.fingerprint}: they don't fit. "
                "For JSONL, read_vectors(..., vocabulary=encoder.vocabulary) uses the encoder's terms"
            )


def open_source(source: Source, encoder: Encoder | None = None, *, skip_bad: bool = False) -> Opened:
    """Open a path or name as vectors or texts. Documents with vectors become `Vectors`; the rest stays unchanged.

    If an encoder is given, vectors in JSONL get its term ids.
    """
    if isinstance(source, Corpus | Vectors | SparseMatrix):
        return source
    if not isinstance(source, str | PathLike):
        return given_documents(source, vocabulary=encoder.vocabulary if encoder else None, skip_bad=skip_bad)
    name = str(source)
    if (texts := open_texts(name, skip_bad=skip_bad)) is not None:
        return texts
    return read_vectors(name, vocabulary=encoder.vocabulary if encoder else None, skip_bad=skip_bad)


def build_index(
    path: Path,
    source: Source,
    *,
    encoder: Encoder | None,
    ids: Sequence[str] | None,
    settings: BuildSettings,
    overwrite: bool,
    memory: int,
    report: Report,
    quantizer: Callable[[float, bool], Quantizer] | None = None,
) -> Encoder | None:
    """Build an index; arguments and errors as for `Index.build`, and `quantizer` as for `write_segment`.

    By default, impacts that were quantized before keep their values.

    Returns:
        The documents' encoder; None if they came as vectors.
    """
    check_output_empty(path, overwrite=overwrite)
    opened = open_source(source, encoder)
    with Transaction(path) as transaction, output_errors(path):
        check_output_empty(path, overwrite=overwrite)  # again, now with the lock
        known = EncoderMetadata()
        if isinstance(opened, SparseMatrix):
            known.fingerprint = Fingerprint(vocabulary_size=opened.shape[1])
        elif isinstance(opened, Vectors):
            known.fingerprint, known.encoder_files = opened.fingerprint, opened.encoder_files
        else:
            encoder = growing(encoder or load_encoder(DEFAULT_ENCODER))
        quantizer = quantizer or quantizer_of(encoder.fingerprint if encoder else known.fingerprint)
        quantizer = quantizer or partial(Quantizer.of, step=opened.step if isinstance(opened, Vectors) else None)
        batches = read_batches(opened, encoder, ids, settings, report)
        segment = write_segment(transaction, batches, settings, memory, quantizer)
        if isinstance(opened, Vectors):
            known.vocabulary = opened.vocabulary  # the vocabulary of a JSONL file is complete only after reading
        if encoder is not None and not encoder.living and known.fingerprint.tokenizer is None:
            require_same_terms(known.vocabulary, encoder, "the vectors")
        known.take(encoder)
        shared = known.write(transaction)
        transaction.commit(manifest_of(shared, settings, segment["scale"] if segment else 0.0, [segment]))
    return encoder


def manifest_of(
    shared: Mapping[str, Any], settings: BuildSettings, scale: float, segments: Iterable[Mapping[str, Any] | None]
) -> dict[str, Any]:
    """Return a manifest without the entries of its files.

    Args:
        shared: The entries from `EncoderMetadata.write`.
        settings: How the index is written.
        scale: Scale of the largest segment; 0 if there is no segment yet.
        segments: The entries from `write_segment`, in document order.
    """
    return {
        "lsr": __version__,
        **shared,
        "impacts": settings.impacts,
        "scale": scale,
        "settings": settings.to_json(),
        "segments": [segment for segment in segments if segment is not None],
    }


def read_batches(
    source: Opened,
    encoder: Encoder | None,
    ids: Sequence[str] | None,
    settings: BuildSettings,
    report: Report,
    *,
    skip_bad: bool = False,
    doubled: bool = False,
) -> Iterator[VectorBatch]:
    """Yield documents with their vectors from any source; encodes texts, and fits an encoder first if needed.

    Args:
        source: An opened source of `Index.build`.
        encoder: Encodes texts.
        ids: For a matrix, the ids of its rows.
        settings: How the index is written.
        report: Updated while documents are read.
        skip_bad: Skip and report bad documents that are passed as objects; a corpus or a file has its own setting.
        doubled: Yield texts with repeated ids, too, instead of refusing them.
    """
    if settings.hybrid and isinstance(source, SparseMatrix | Vectors):
        raise DataError("a hybrid index makes dense vectors from texts: it can't take sparse vectors alone")
    if isinstance(source, SparseMatrix):
        yield from matrix_batches(source, ids)
    elif isinstance(source, Vectors):
        with progress(source.count, "indexing") as bar:
            for batch in source:
                report.documents += len(batch.vectors)
                report.vectors += len(batch.vectors)
                report.no_terms += int((batch.vectors.lengths() == 0).sum())
                kept = batch.documents if settings.store_text else _without_text(batch.documents)
                yield VectorBatch(kept, batch.vectors)
                bar.update(len(batch.vectors))
        report.bad = source.bad
    else:
        assert encoder is not None
        corpus = source
        if not isinstance(corpus, Corpus):
            corpus = documents_corpus(corpus, replay=encoder.needs_fit, skip_bad=skip_bad)
        corpus = corpus.with_doubled() if doubled else corpus
        # Without documents, there is nothing to fit to; the encoder is fitted to the first documents that are added.
        if encoder.needs_fit and next(iter(corpus), None) is not None:
            fit(encoder, corpus)
        if settings.hybrid and not encoder.dense_width:
            raise EncoderError(f"hybrid: {encoder.fingerprint.model} has no dense vectors; lsr-mini has them")
        how: dict[str, Any] = {"passages": settings.passages, "with_text": settings.store_text}
        yield from encode_corpus(corpus, encoder, report, dense=settings.hybrid, **how)


def write_segment(
    files: StagedFiles,
    batches: Iterable[VectorBatch],
    settings: BuildSettings,
    memory: int = DEFAULT_MEMORY,
    quantizer: Callable[[float, bool], Quantizer] = Quantizer.of,
) -> dict[str, Any] | None:
    """Write documents as a segment.

    Args:
        files: The transaction's files.
        batches: The documents.
        settings: How the index is written.
        memory: Approximate memory limit in bytes.
        quantizer: Builds the quantizer from the largest weight and whether all weights are whole numbers.

    Returns:
        The manifest's entry; None if there were no documents, so that nothing was written.
    """
    folder = files.folder("segment")
    clusters = settings.summary_mass is not None
    # Clusters of unrelated documents are useless, so with clusters, "auto" means "bisection".
    order = "bisection" if clusters and settings.order == "auto" else settings.order
    try:
        documents = DocumentsWriter(folder)
        writer = SegmentWriter(folder, files.scratch, settings.impacts, memory, order, quantizer)
        embeddings: EmbeddingsWriter | None = None
        with closing(writer) as postings:
            for batch in batches:
                documents.write(batch.documents)
                postings.write(batch.vectors)
                if batch.dense is not None:
                    width = batch.dense.width
                    embeddings = embeddings or EmbeddingsWriter(folder, width)
                    embeddings.write(batch.dense)
            documents.close()
            if embeddings is not None:
                embeddings.close()
            chosen = postings.finish() if postings.n_docs else None
        if not postings.n_docs:
            files.drop(folder)
            return None
        scale = chosen.scale if chosen else 1.0
        if settings.summary_mass is not None:
            written = Segment(folder, settings.impacts, scale)
            write_clusters(written, folder, files.scratch, settings.summary_mass)
    except BaseException:
        files.drop(folder)
        raise
    return {
        "name": folder.name,
        "format": FORMAT,
        "n_docs": postings.n_docs,
        "n_alive": postings.n_docs,
        "n_postings": postings.n_postings,
        "has_text": documents.has_text,
        "has_parents": documents.has_parents,
        "scale": scale,
        "max_error": postings.max_error,
        "alive": None,
    } | ({"dense": width} if embeddings is not None else {})


def _without_text(documents: pa.RecordBatch) -> pa.RecordBatch:
    kept = [
        column if field.name in ("id", "parent") else pa.nulls(documents.num_rows, field.type)
        for field, column in zip(documents.schema, documents.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(kept, schema=documents.schema)
