"""Encode a corpus part by part, in this process or on many machines. A part's content depends only on the corpus.

A part has PART documents, or fewer if they are long, encoded CHUNK at a time. So memory is bounded, and every worker
produces the same bytes. Each part has a note, a JSON file that describes it; a later run reads the notes and encodes
only missing parts. The first part has the tokens and the encoder's files; the other parts refer to it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from lsr.console import note, progress
from lsr.distributed.pool import Workers, do_jobs, ready
from lsr.encode import corpus as encoding
from lsr.encode.base import Encoder
from lsr.encode.corpus import Report, encode_chunk, fit
from lsr.encode.load import EncoderOptions, load_encoder_files
from lsr.encode.passages import Passages
from lsr.errors import EncoderError, OutputExists, StorageError
from lsr.fingerprint import Fingerprint
from lsr.io.corpus import Corpus, chunks
from lsr.io.document import Block, Document, document_batch
from lsr.io.object_store import Place
from lsr.io.open_vectors import read_vectors
from lsr.io.vectors import VectorBatch
from lsr.io.vectors_parquet import FIRST_PART, ParquetWriter, pack_metadata, part_name
from lsr.sparse import SparseMatrix, usual_largest

PART = 8 * encoding.CHUNK  # documents; a kill or a lost worker costs at most this much work
PART_CHARACTERS = 32 << 20
PLAN = "plan.json"
_WHAT = "encoding workers"
_COUNTED = ("documents", "vectors", "empty", "no_terms", "truncated")

Job: TypeAlias = tuple[int, list[Document] | pa.RecordBatch]  # a part's number and its documents
Tell: TypeAlias = Callable[[int, Report], None]  # called with the number of new documents and their part's report


@dataclass(frozen=True)
class Part:
    """The note of a part.

    Attributes:
        number: The part's position, from 0.
        rows: Number of vectors.
        largest: The weight that the scale of impacts must cover, from `lsr.sparse.usual_largest`.
        whole: Whether all weights are whole numbers.
        file: {"bytes", "sha256"} of the file.
        report: A `Report` as a dictionary.
    """

    number: int
    rows: int
    largest: float
    whole: bool
    file: Mapping[str, Any]
    report: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the part's file."""
        return part_name(self.number)


@dataclass(frozen=True)
class Task:
    """How parts are encoded.

    Attributes:
        queries: Encode as queries.
        passages: Cut documents into passages first.
        with_text: Store titles, texts and metadata with the vectors.
        device: Where the workers' models run.
    """

    queries: bool = False
    passages: Passages | None = None
    with_text: bool = True
    device: str | None = None


# --- workers --------------------------------------------------------------------------------------------------------


def open_shared(where: str) -> Place:
    """Open the folder or URI that the driver writes to, and check its plan.

    Raises:
        StorageError: The plan is missing, so this machine's folder of that name isn't the driver's.
    """
    place = Place(where)
    if place.stat(PLAN) is None:
        raise StorageError(
            f"{where}: this folder isn't shared by all machines of the cluster; name one that is, or object storage "
            "(s3://bucket/folder)"
        )
    return place


def _open_worker(
    where: str,
    task: Task,
    together: tuple[int, int],
    encoder: Encoder | Mapping[str, bytes],
    tell: Tell | None,
) -> Callable[[Job], Part]:
    """Open the encoder (from its files, if this is another machine) and return the function that encodes a part."""
    place = open_shared(where)
    if isinstance(encoder, Mapping):
        options: EncoderOptions = {"device": task.device} if task.device else {}
        encoder = load_encoder_files(encoder, **options)
    metadata = pack_metadata(encoder.fingerprint, encoder.vocabulary, encoder.query_files())
    return partial(_encode_part, place, task, together, encoder, metadata, tell)


def _encode_part(
    place: Place,
    task: Task,
    together: tuple[int, int],
    encoder: Encoder,
    metadata: Mapping[str, str],
    tell: Tell | None,
    job: Job,
) -> Part:
    number, documents = job[0], job[1] if isinstance(job[1], list) else _unpack(job[1])
    report = Report(max_length=encoder.fingerprint.max_length, queries=task.queries)
    rows, largest, whole = 0, [np.empty(0, np.float32)], True
    if number:  # the tokens of a large corpus need more space than a part's vectors
        metadata = {"lsr.fingerprint": metadata["lsr.fingerprint"], FIRST_PART: part_name(0)}
    with tempfile.TemporaryDirectory(prefix="lsr-") as scratch:
        path = Path(scratch) / part_name(number)
        with ParquetWriter(path, metadata) as writer:
            if not documents:  # an empty corpus has a part, too
                writer.write(VectorBatch(document_batch([]), SparseMatrix.empty(encoder.n_terms)))
            for chunk in chunks(documents, *together):
                batch = encode_chunk(
                    chunk, encoder, report, queries=task.queries, passages=task.passages, with_text=task.with_text
                )
                writer.write(batch)
                weights = batch.vectors.data
                rows += len(batch.vectors)
                largest.append(batch.vectors.largest())
                whole = whole and bool((weights == weights.round()).all())
                if tell is not None:
                    tell(len(chunk), report)
        file = place.put(path, part_name(number))
    part = Part(number, rows, usual_largest(np.concatenate(largest)), whole, file, asdict(report))
    place.write(_note_name(number), json.dumps(asdict(part)).encode())
    return part


def _pack(documents: list[Document]) -> pa.RecordBatch:
    """Pack documents compactly, to send them to another machine."""
    blocks = pa.array([json.dumps(d.blocks) if d.blocks else None for d in documents], pa.string())
    return document_batch(documents).append_column("blocks", blocks)


def _unpack(batch: pa.RecordBatch) -> list[Document]:
    return [
        Document(
            row["id"],
            row["text"] or "",
            row["title"] or "",
            json.loads(row["metadata"] or "null"),
            row["parent"],
            blocks=tuple(map(Block.of, json.loads(row["blocks"] or "[]"))),
        )
        for row in batch.to_pylist()
    ]


# --- the driver -----------------------------------------------------------------------------------------------------


def encode_parts(
    corpus: Corpus,
    encoder: Encoder,
    place: Place,
    task: Task,
    *,
    identity: str,
    workers: Workers,
    overwrite: bool = False,
) -> tuple[list[Part], Report]:
    """Encode the parts of a corpus that are missing.

    Args:
        corpus: Documents or queries.
        encoder: The encoder. If it needs a fit, it is fitted here, before any worker starts.
        place: Where parts go; nothing else may write there meanwhile.
        task: How to encode.
        identity: All settings that determine the vectors, as text. Unfinished work is resumed only if this text is the
            same.
        workers: Where parts are encoded.
        overwrite: Drop unfinished work with other settings.

    Returns:
        The parts in order, and a report of counts and warnings.

    Raises:
        OutputExists: There is unfinished work with other settings.
        DataError: A document is invalid.
        ClusterError: As for `do_jobs`.
    """
    size, together = (PART, PART_CHARACTERS), (encoding.CHUNK, encoding.CHUNK_CHARACTERS)
    identity = f"{corpus.identity} | {identity} | (documents, characters): {size} a part, {together} together"
    plan, done = _read_plan(place, identity, overwrite)
    if plan.get("parts") == len(done):  # all parts are done, but the earlier run ended before it used them
        return _in_order(done, plan["bad"])
    n_done = sum(part.report["documents"] for part in done.values())
    if done:
        note(f"{place.name}: resuming after {n_done} documents that are encoded already")
        encoder = _same_encoder(encoder, place, plan, done)
    with ready(workers, _WHAT):
        fit(encoder, corpus)
        if done:
            _require_same(encoder, place, plan)
        plan = {"identity": identity, "fingerprint": encoder.fingerprint.to_json()}
        place.write(PLAN, json.dumps(plan).encode())
        here = workers.address is None
        sent = encoder if here else encoder.query_files()
        if not sent:
            raise EncoderError(f"an encoder of type {encoder.type} has no files, so it can't work on other machines")
        with progress(None, "encoding", done=n_done) as bar:
            bar.total = corpus.count() if not bar.disable else None
            warned = Report()

            def tell(n: int, current: Report) -> None:
                nonlocal warned
                bar.update(n)
                if current.truncated and not warned.told:
                    warned = _total([*(part.report for part in done.values()), asdict(current)])
                    warned.warn()

            open_worker = partial(_open_worker, place.name, task, together, sent, tell if here else None)
            for part in do_jobs(open_worker, _jobs(corpus, size, frozenset(done), pack=not here), workers, _WHAT):
                if not here:
                    tell(part.report["documents"], Report(**part.report))
                done[part.number] = part
    place.write(PLAN, json.dumps({**plan, "parts": len(done), "bad": corpus.bad}).encode())
    parts, report = _in_order(done, corpus.bad)
    report.told, report.bad_told = warned.told, corpus.tells_bad
    report.warn_empty()
    return parts, report


def _jobs(corpus: Corpus, size: tuple[int, int], done: frozenset[int], *, pack: bool) -> Iterator[Job]:
    """The documents of each missing part."""
    parts = chunks(corpus, *size)
    for number, part in enumerate(chain([next(parts, [])], parts)):  # an empty corpus has a part, too
        if number not in done:
            yield number, _pack(part) if pack else part


def _same_encoder(encoder: Encoder, place: Place, plan: Mapping[str, Any], done: Mapping[int, Part]) -> Encoder:
    """Return the encoder to resume with. If it needs a fit, the fitted encoder is read from the first part."""
    if encoder.living:  # equal settings don't imply equal vocabularies
        _require_same(encoder, place, plan)
    if not (encoder.needs_fit or encoder.living) or 0 not in done:
        return encoder
    with tempfile.TemporaryDirectory(prefix="lsr-") as scratch:
        path = Path(scratch) / done[0].name
        place.fetch(done[0].name, path, done[0].file)
        return load_encoder_files(read_vectors(path).encoder_files)


def _require_same(encoder: Encoder, place: Place, plan: Mapping[str, Any]) -> None:
    before = Fingerprint.from_json(plan["fingerprint"], place.name)
    before.require_same(encoder.fingerprint, place.name, "the rest")


def _read_plan(place: Place, identity: str, overwrite: bool) -> tuple[dict[str, Any], dict[int, Part]]:
    """The plan of unfinished work and {number: part} of finished parts; both empty for new work."""
    sizes = place.sizes()
    ours = sorted(name for name in sizes if name.startswith("part-") or name == PLAN)
    plan = _read_json(place, PLAN)
    if ours and plan.get("identity") != identity:
        if not overwrite:
            raise OutputExists(
                f"{place.name}: holds unfinished work from another source or with other settings; "
                "use the same source and settings to resume, or --overwrite to start again"
            )
        place.delete(*ours)
        return {}, {}
    done = {}
    for name in ours:
        values = _read_json(place, name) if name.startswith("part-") and name.endswith(".json") else {}
        # Parts and notes that a full disk truncated are written again.
        if (
            values.keys() == {f.name for f in fields(Part)}
            and sizes.get(Part(**values).name) == values["file"]["bytes"]
        ):
            done[values["number"]] = Part(**values)
    return plan, done


def _note_name(number: int) -> str:
    return part_name(number).removesuffix(".parquet") + ".json"


def _read_json(place: Place, name: str) -> dict[str, Any]:
    try:
        values = json.loads(place.read(name) or b"{}")
    except ValueError:
        values = {}
    return values if isinstance(values, dict) else {}


def _in_order(done: Mapping[int, Part], bad: list[str]) -> tuple[list[Part], Report]:
    """The parts, and the sum of their reports."""
    parts = [done[number] for number in sorted(done)]
    report = _total([part.report for part in parts])
    report.bad = list(bad)
    return parts, report


def _total(reports: list[Mapping[str, Any]]) -> Report:
    sums = {name: sum(report[name] for report in reports) for name in _COUNTED}
    return Report(**sums, **{name: reports[0][name] for name in ("max_length", "queries")})
