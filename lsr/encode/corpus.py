"""Encode a corpus of any size in bounded memory, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lsr.console import counted, note, progress, warn
from lsr.dense import DenseRows
from lsr.encode.base import Encoder
from lsr.encode.passages import Passages, split_passages
from lsr.errors import CutTexts, NoTerms
from lsr.io.corpus import Corpus, chunks
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch

CHUNK = 512  # documents encoded together: enough to sort by length, few enough for a lively progress bar
CHUNK_CHARACTERS = 1 << 18  # limit for long documents: a tokenizer's output takes many times the memory of the text


@dataclass
class Report:
    """Counts and warnings of an encoding run.

    Attributes:
        documents: Documents read.
        vectors: Vectors made; if documents are cut into passages, one per passage.
        empty: Documents without text.
        no_terms: Vectors without any term.
        truncated: Vectors whose text was cut at `max_length`.
        max_length: Tokens that the encoder reads of a text; None for no limit.
        bad: Messages about documents that were skipped.
        queries: Whether queries are encoded.
        told: Number of vectors made when the warning about cut texts was given; 0 before the warning.
        bad_told: Whether a warning about skipped documents was given.
        told_empty: Whether a warning about texts without terms was given.
    """

    documents: int = 0
    vectors: int = 0
    empty: int = 0
    no_terms: int = 0
    truncated: int = 0
    max_length: int | None = None
    bad: list[str] = field(default_factory=list)
    queries: bool = False
    told: int = 0
    bad_told: bool = field(default=False, compare=False)
    told_empty: bool = field(default=False, compare=False)

    def warn(self) -> None:
        """Warn once about cut texts, as soon as there are any."""
        if self.truncated and not self.told:
            self.told = self.vectors
            warn(cut_texts(self.truncated, self.vectors, self.max_length, queries=self.queries), CutTexts)

    def warn_empty(self) -> None:
        """Warn about texts without terms, after all texts were encoded."""
        if said := self._without_terms():
            self.told_empty = True
            warn("; ".join(said), NoTerms)

    def _without_terms(self) -> list[str]:
        said = []
        if self.empty:
            have = "has" if self.empty == 1 else "have"
            said.append(f"{self.empty} of {counted(self.documents, 'document')} {have} no text")
        if more := max(self.no_terms - self.empty, 0):
            said.append(f"texts without a term of the encoder, which match nothing: {more}")
        return said

    def tell(self) -> None:
        """Print on stderr the problems that no warning has reported yet."""
        if self.bad and not self.bad_told:
            more = " (--left-out FILE lists all)" if len(self.bad) > 1 else ""
            note(f"skipped {counted(len(self.bad), 'bad document')}, the first: {self.bad[0]}{more}")
        for said in [] if self.told_empty else self._without_terms():
            note(said)
        if self.truncated and self.vectors > self.told:
            note(cut_texts(self.truncated, self.vectors, self.max_length, queries=self.queries))


def cut_texts(cut: int, n: int, max_length: int | None, *, queries: bool = False) -> str:
    """The message about texts that are longer than the encoder reads."""
    what = ("query" if queries else "document") if n == 1 else ("queries" if queries else "documents")
    said = (
        f"{cut:,} of {n:,} {what} ({cut / n:.1%}) {'is' if cut == 1 else 'are'} longer than the {max_length} tokens "
        "that the encoder reads: the rest is ignored"
    )
    if queries:
        return said
    return f"{said}. passages=Passages({max_length}) (or --passages {max_length}) encodes all of the text, in passages"


def encode_corpus(
    corpus: Corpus,
    encoder: Encoder,
    report: Report,
    *,
    queries: bool = False,
    passages: Passages | None = None,
    with_text: bool = True,
    dense: bool = False,
    progress_label: str = "encoding",
) -> Iterator[VectorBatch]:
    """Encode a corpus batch by batch, in the order of its documents.

    Args:
        corpus: Documents or queries.
        encoder: A fitted encoder.
        report: Updated with every batch.
        queries: Encode as queries.
        passages: Cut documents into passages first.
        with_text: Include titles, texts and metadata.
        dense: Include the encoder's dense vectors of documents.
        progress_label: Label of the progress bar.
    """
    report.queries, report.told = queries, 0
    with progress(None, progress_label) as bar:
        if not bar.disable:
            bar.reset(corpus.count())  # the count may have to read a large file
        for chunk in chunks(corpus, CHUNK, CHUNK_CHARACTERS):
            how: dict[str, Any] = {"queries": queries, "passages": passages, "with_text": with_text, "dense": dense}
            batch = encode_chunk(chunk, encoder, report, **how)
            report.warn()
            yield batch
            bar.update(len(chunk))
    report.warn_empty()
    report.bad, report.bad_told = corpus.bad, corpus.tells_bad


def encode_chunk(
    documents: list[Document],
    encoder: Encoder,
    report: Report,
    *,
    queries: bool = False,
    passages: Passages | None = None,
    with_text: bool = True,
    dense: bool = False,
) -> VectorBatch:
    """Encode some documents together, optionally as passages; see `encode_corpus`."""
    report.documents += len(documents)
    report.empty += sum(not document.content.strip() for document in documents)
    if passages is not None:
        documents = list(split_passages(documents, encoder, passages.size, passages.overlap))
    texts = [document.content for document in documents]
    beside = None
    if dense:
        vectors, floats = encoder.encode_both(texts)
        beside = DenseRows.of(floats)
    else:
        vectors = encoder.encode_query(texts) if queries else encoder.encode_document(texts)
    report.vectors += len(documents)
    report.no_terms += int((vectors.lengths() == 0).sum())
    if passages is None:  # passages are never cut
        report.truncated += encoder.count_truncated(texts, queries=queries)
    report.max_length = read_length(encoder, queries=queries)
    return VectorBatch(document_batch(documents, with_text=with_text), vectors, beside)


def read_length(encoder: Encoder, *, queries: bool = False) -> int | None:
    """Tokens that an encoder reads of a text, for messages. Special tokens of queries aren't counted. None for no
    limit.
    """
    if not queries:
        return encoder.fingerprint.max_length
    room = encoder.room([""], queries=True)
    return None if room is None else room[0]


def fit(encoder: Encoder, corpus: Corpus) -> None:
    """Fit an encoder to the corpus in one pass, if the encoder needs a fit."""
    if not encoder.needs_fit:
        return
    with progress(None, f"fitting {encoder.type}") as bar:

        def texts() -> Iterator[str]:
            for document in corpus:
                bar.update(1)
                yield document.content

        encoder.fit(texts())
