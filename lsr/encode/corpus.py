"""Encode a corpus of any size in bounded memory, and go on after a kill where it stopped.

Vectors are written in parts into `OUT.partial/`; each part is a whole Parquet file that also says how many documents
of the source it has used up. Once the source is through, the parts become one file or the folder OUT in one rename,
so OUT is either whole or not there (or still the old one). A run that finds `OUT.partial/` of the same source and
settings goes on after its last part.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from lsr.console import counted, note, progress, warn
from lsr.dense import DenseRows
from lsr.durable import take_name
from lsr.encode.base import Encoder
from lsr.encode.passages import Passages, split_passages
from lsr.errors import CutTexts, NoTerms, OutputExists
from lsr.io.convert import Form, check_out, convert
from lsr.io.corpus import Corpus, chunks
from lsr.io.document import Document, document_batch
from lsr.io.open_vectors import read_vectors
from lsr.io.text_files import new_text
from lsr.io.vectors import VectorBatch
from lsr.io.vectors_parquet import ParquetWriter, pack_metadata
from lsr.sparse import SparseMatrix

_LOCK = ".lock"
_WHOLE, _MARK = "whole", "finished.json"  # a folder in that of the parts, where a file waits for its name
CHUNK = 512  # documents encoded together: enough to sort by length, little enough for a lively progress bar
CHUNK_CHARACTERS = 4 << 20  # long ones fewer: what a tokenizer makes of a text takes many times the text's room
_PART_SECONDS = 30.0  # a kill loses at most this much work
_PART_DOCS = 200_000


@dataclass
class Report:
    """What encoding met on its way.

    Attributes:
        documents: Documents read.
        vectors: Vectors made (passages, where documents are cut).
        empty: Documents without text.
        no_terms: Vectors without any term.
        truncated: Vectors whose text lost its end.
        max_length: Tokens that the encoder reads.
        bad: Messages about documents that were skipped.
        queries: Whether these are queries.
        told: Vectors that there were when a warning told of texts that are cut; 0 for none yet.
        bad_told: Whether a warning told what was skipped.
        told_empty: Whether a warning told of texts without terms.
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
        """Warn, once, of texts that are cut: while the rest is still to come."""
        if self.truncated and not self.told:
            self.told = self.vectors
            warn(cut_texts(self.truncated, self.vectors, self.max_length, queries=self.queries), CutTexts)

    def warn_empty(self) -> None:
        """Warn of texts that have no terms, when all have come."""
        if said := self._without_terms():
            self.told_empty = True
            warn("; ".join(said), NoTerms)

    def _without_terms(self) -> list[str]:
        said = []
        if self.empty:
            have = "has" if self.empty == 1 else "have"
            said.append(f"{self.empty} of {counted(self.documents, 'document')} {have} no text to be found by")
        if more := max(self.no_terms - self.empty, 0):
            said.append(f"texts in which the encoder finds no term, so that they match nothing: {more}")
        return said

    def tell(self) -> None:
        """Say on stderr, once, what a user should know."""
        if self.bad and not self.bad_told:
            note(f"skipped {counted(len(self.bad), 'bad document')}, the first: {self.bad[0]}")
        for said in [] if self.told_empty else self._without_terms():
            note(said)
        if self.truncated and self.vectors > self.told:
            note(cut_texts(self.truncated, self.vectors, self.max_length, queries=self.queries))


def cut_texts(cut: int, n: int, max_length: int | None, *, queries: bool = False) -> str:
    """What to say of texts that are longer than the encoder reads."""
    what = ("query" if queries else "document") if n == 1 else ("queries" if queries else "documents")
    said = (
        f"{cut:,} of {n:,} {what} ({cut / n:.1%}) {'is' if cut == 1 else 'are'} longer than the {max_length} tokens "
        "that the encoder reads: what comes after them is left out"
    )
    if queries:
        return said
    return f"{said}. passages=Passages({max_length}), --passages {max_length}, encodes all of it, in passages"


def encode_corpus(
    corpus: Corpus,
    encoder: Encoder,
    report: Report,
    *,
    queries: bool = False,
    passages: Passages | None = None,
    with_text: bool = True,
    dense: bool = False,
    skip: int = 0,
    progress_label: str = "encoding",
) -> Iterator[VectorBatch]:
    """Encode a corpus batch by batch, in the order of its documents.

    Args:
        corpus: What to encode.
        encoder: A fitted encoder.
        report: Filled in on the way.
        queries: Encode as queries.
        passages: Cut documents into passages first.
        with_text: Let titles, texts and metadata travel with the vectors.
        dense: Give the encoder's dense vectors of documents, too.
        skip: Documents at the front that are done already.
        progress_label: Stands before the progress bar.
    """
    report.queries, report.told = queries, 0
    with progress(None, progress_label) as bar:
        bar.total = corpus.count() if not bar.disable else None
        bar.update(skip)
        for chunk in chunks(islice(corpus, skip, None), CHUNK, CHUNK_CHARACTERS):
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
    """Encode some documents together, cut into passages first where that is asked for."""
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
    if passages is None:  # which the encoder reads to their ends
        report.truncated += encoder.count_truncated(texts, queries=queries)
    report.max_length = read_length(encoder, queries=queries)
    return VectorBatch(document_batch(documents, with_text=with_text), vectors, beside)


def read_length(encoder: Encoder, *, queries: bool = False) -> int | None:
    """Tokens that an encoder reads of a text, for messages; of a query without the special ones. None for all."""
    if not queries:
        return encoder.fingerprint.max_length
    room = encoder.room([""], queries=True)
    return None if room is None else room[0]


def fit(encoder: Encoder, corpus: Corpus) -> None:
    """Let an encoder that needs it see the corpus; one pass."""
    if not encoder.needs_fit:
        return
    with progress(None, f"fitting {encoder.type}") as bar:

        def texts() -> Iterator[str]:
            for document in corpus:
                bar.update(1)
                yield document.content

        encoder.fit(texts())


# --- into files ---------------------------------------------------------------------------------------------------


def encode_to(
    corpus: Corpus,
    open_encoder: Callable[[], Encoder],
    out: Path,
    *,
    settings: str,
    queries: bool = False,
    passages: Passages | None = None,
    with_text: bool = True,
    overwrite: bool = False,
    anserini: bool = False,
) -> Report:
    """Encode a corpus into `out`: a file of any form that `lsr.io.convert` writes, or a folder of Parquet parts.

    Args:
        corpus: What to encode.
        open_encoder: Gives the encoder. One that needs a fit and had it before a kill is taken from `OUT.partial/`.
        out: Where the vectors go.
        settings: Everything that decides the result, as text; work that was cut off goes on only under the same.
        queries: Encode as queries.
        passages: Cut documents into passages first.
        with_text: Let titles, texts and metadata travel with the vectors.
        overwrite: Replace `out`, once the new one is whole; drop unfinished work of other settings.
        anserini: For JSONL, Anserini's shape.

    Raises:
        OutputExists: `out` is there and `overwrite` was not given or it is no vectors; or unfinished work of
            another kind is.
    """
    form = Form("anserini" if anserini else None)
    identity = f"{corpus.identity} | {settings}"
    if (killed := finish_killed(out, form, identity)) is not None:
        return killed
    check_out(out, overwrite, form)
    encoder = open_encoder()
    with work_folder(out) as work:
        how = {"queries": queries, "passages": passages, "with_text": with_text}
        report = _encode_parts(corpus, encoder, work, identity, overwrite, **how)
        finish(work, out, form, identity, report)
        return report


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """The folder in which `out` is prepared, locked against other writers; it stays if parts of it are there.

    Raises:
        OutputExists: Another process is writing there.
    """
    work = out.with_name(out.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work / _LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OutputExists(f"{work}: another process is writing here; wait until it is done") from None
    try:
        yield work
    finally:
        lock.release()
        if work.is_dir() and not any(work.glob("part-*")):  # nothing that could be continued
            shutil.rmtree(work, ignore_errors=True)


def _encode_parts(
    corpus: Corpus,
    encoder: Encoder,
    work: Path,
    identity: str,
    overwrite: bool,
    **how: Any,
) -> Report:
    """Encode into the parts of a work folder, after those that are there."""
    parts, report = _find_parts(work, identity, overwrite)
    if parts:
        note(f"{work}: going on after {report.documents} documents that are encoded already")
        done = read_vectors(work)
        if encoder.living:  # the same settings, but perhaps other words
            done.fingerprint.require_same(encoder.fingerprint, str(work), "what is to follow")
        if encoder.needs_fit or encoder.living:
            from lsr.encode.load import load_encoder_files

            encoder = load_encoder_files(done.encoder_files)
        done.fingerprint.require_same(encoder.fingerprint, str(work), "what is to follow")
    fit(encoder, corpus)
    batches = encode_corpus(corpus, encoder, report, skip=report.documents, **how)
    _write_parts(work, batches, encoder, report, identity, parts)
    return report


def _find_parts(work: Path, identity: str, overwrite: bool) -> tuple[int, Report]:
    """How many parts lie in a work folder, and the report as it stood after the last."""
    parts = sorted(work.glob("part-*.parquet"))
    if not parts:
        return 0, Report()
    try:
        last = json.loads(pq.read_metadata(parts[-1]).metadata[b"lsr.part"])
        if last["identity"] == identity and len(parts) == last["number"] + 1:
            return len(parts), Report(**last["report"])
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        pass  # not a part that can be continued, whatever it is: told below
    if not overwrite:
        raise OutputExists(
            f"{work}: unfinished work from another source or with other settings is here; "
            "give the same ones to go on, or --overwrite to start again"
        )
    for part in parts:
        part.unlink()
    shutil.rmtree(work / _WHOLE, ignore_errors=True)
    return 0, Report()


def _write_parts(
    work: Path, batches: Iterable[VectorBatch], encoder: Encoder, report: Report, identity: str, number: int
) -> None:
    """Write batches into parts, from part `number` on."""
    metadata = pack_metadata(encoder.fingerprint, encoder.vocabulary, encoder.query_files())
    iterator = iter(batches)
    batch = next(iterator, None)
    if batch is None and number == 0:  # an empty corpus still makes a file
        empty = pa.RecordBatch.from_pylist([], schema=document_batch([]).schema)
        batch = VectorBatch(empty, SparseMatrix.empty(encoder.n_terms))
    while batch is not None:
        writer = ParquetWriter(work / f"part-{number:05d}.parquet", metadata)
        started, rows = time.monotonic(), 0
        with writer:
            while batch is not None:
                writer.write(batch)
                rows += len(batch.vectors)
                so_far = replace(report)  # the next batch changes it, and may not make it into this part
                batch = next(iterator, None)
                if rows >= _PART_DOCS or time.monotonic() - started >= _PART_SECONDS:
                    break
            part = {"identity": identity, "number": number, "report": asdict(so_far)}
            writer.add_metadata({"lsr.part": json.dumps(part)})
        number += 1


def finish(work: Path, out: Path, form: Form, identity: str, report: Report) -> None:
    """Turn the parts into `out`, in one rename.

    Args:
        work: Where the parts are.
        out: A file, or a folder, which `work` then becomes.
        form: Of the file.
        identity: What decides the result, as text.
        report: What was met on the way.
    """
    if not out.suffix:
        old = out.with_name(out.name + ".old")
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        (work / _LOCK).unlink()
        take_name(work, out)
        shutil.rmtree(old, ignore_errors=True)
        return
    whole = work / _WHOLE
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    convert(read_vectors(work), whole / out.name, form)
    with new_text(whole / _MARK) as mark:
        json.dump({"identity": identity, "report": asdict(report)}, mark)
    _take_names(work, out, form)


def finish_killed(out: Path, form: Form, identity: str) -> Report | None:
    """Finish what a run of the same identity had only to give its name when it was killed; None if there is nothing.

    What is at `out` may be the new file already, so nobody is to be told that it exists.
    """
    work = out.with_name(out.name + ".partial")
    try:
        mark = json.loads((work / _WHOLE / _MARK).read_bytes())
        report = Report(**mark["report"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if mark["identity"] != identity:
        return None
    with work_folder(out):
        _take_names(work, out, form)
    return report


def _take_names(work: Path, out: Path, form: Form) -> None:
    for file in reversed(form.files(out)):
        if (work / _WHOLE / file.name).exists():  # else a run that was killed came that far
            take_name(work / _WHOLE / file.name, file)
    for part in sorted(work.glob("part-*"), reverse=True):
        part.unlink()
    shutil.rmtree(work)
