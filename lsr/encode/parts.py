"""Encode a corpus part by part, on many machines if there are: what a part holds follows from the corpus alone.

A part is the next PART documents, encoded CHUNK at a time, fewer long ones of either: so memory is bounded, and a part
has the same bytes whoever encodes it, and however often. Parts are written whole, and beside each a note of what it is;
a run that finds notes does only what is missing. The first part has the tokens and the encoder's files, the others
refer to it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from lsr.console import note, progress
from lsr.distributed.pool import Workers, do_jobs, ready
from lsr.encode import corpus as encoding
from lsr.encode.base import Encoder
from lsr.encode.corpus import Report, encode_chunk, finish, finish_killed, fit, work_folder
from lsr.encode.load import EncoderOptions, load_encoder_files
from lsr.encode.passages import Passages
from lsr.errors import DataError, EncoderError, OutputExists, StorageError
from lsr.fingerprint import Fingerprint
from lsr.io.convert import Form, check_out
from lsr.io.corpus import Corpus, chunks
from lsr.io.document import Block, Document, document_batch
from lsr.io.object_store import Place, is_remote
from lsr.io.open_vectors import read_vectors
from lsr.io.remote_files import PARTS_FILE
from lsr.io.vectors import VectorBatch
from lsr.io.vectors_parquet import FIRST_PART, ParquetWriter, pack_metadata, part_name
from lsr.sparse import SparseMatrix, usual_largest

PART = 16 * encoding.CHUNK  # minutes of work for a processor: what a lost worker costs
PART_CHARACTERS = 16 * encoding.CHUNK_CHARACTERS
PLAN = "plan.json"
_WHAT = "encoding workers"
_COUNTED = ("documents", "vectors", "empty", "no_terms", "truncated")


@dataclass(frozen=True)
class Part:
    """What is known of a part.

    Attributes:
        number: Its place among the parts.
        rows: Vectors in it.
        largest: The weight that impacts are to have room for, as of `lsr.sparse.usual_largest`.
        whole: Whether all weights are whole numbers.
        file: {"bytes", "sha256"} of the file.
        report: What encoding met on its way, as of `Report`.
    """

    number: int
    rows: int
    largest: float
    whole: bool
    file: Mapping[str, Any]
    report: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its file."""
        return part_name(self.number)


@dataclass(frozen=True)
class Task:
    """How parts are encoded.

    Attributes:
        queries: Encode as queries.
        passages: Cut documents into passages first.
        with_text: Let titles, texts and metadata travel with the vectors.
        device: Where the workers' models run.
    """

    queries: bool = False
    passages: Passages | None = None
    with_text: bool = True
    device: str | None = None


# --- what workers do ------------------------------------------------------------------------------------------------


def open_shared(where: str) -> Place:
    """A place in which the plan lies already.

    Raises:
        StorageError: It doesn't, so this is another machine's folder of the same name.
    """
    place = Place(where)
    if place.stat(PLAN) is None:
        raise StorageError(
            f"{where}: this folder isn't shared by all machines of the cluster; name one that is, or object storage "
            "(s3://bucket/folder)"
        )
    return place


def _open_worker(
    where: str, task: Task, together: tuple[int, int], encoder: Encoder | Mapping[str, bytes]
) -> Callable[[tuple[int, pa.RecordBatch]], Part]:
    """What encodes parts, given as their numbers and documents; encoders travel as their files."""
    place = open_shared(where)
    if isinstance(encoder, Mapping):
        options: EncoderOptions = {"device": task.device} if task.device else {}
        encoder = load_encoder_files(encoder, **options)
    metadata = pack_metadata(encoder.fingerprint, encoder.vocabulary, encoder.query_files())
    return partial(_encode_part, place, task, together, encoder, metadata)


def _encode_part(
    place: Place,
    task: Task,
    together: tuple[int, int],
    encoder: Encoder,
    metadata: Mapping[str, str],
    job: tuple[int, pa.RecordBatch],
) -> Part:
    number, documents = job[0], _documents(job[1])
    report = Report(max_length=encoder.fingerprint.max_length, queries=task.queries)
    rows, largest, whole = 0, [np.empty(0, np.float32)], True
    if number:  # the tokens of a large corpus take more room than a part's vectors
        metadata = {"lsr.fingerprint": metadata["lsr.fingerprint"], FIRST_PART: part_name(0)}
    with tempfile.TemporaryDirectory(prefix="lsr-") as scratch:
        path = Path(scratch) / part_name(number)
        with ParquetWriter(path, metadata) as writer:
            if not documents:  # an empty corpus still makes a part
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
        file = place.put(path, part_name(number))
    part = Part(number, rows, usual_largest(np.concatenate(largest)), whole, file, asdict(report))
    place.write(_note_name(number), json.dumps(asdict(part)).encode())
    return part


def _batch(documents: list[Document]) -> pa.RecordBatch:
    """Documents as they travel."""
    blocks = pa.array([json.dumps(d.blocks) if d.blocks else None for d in documents], pa.string())
    return document_batch(documents).append_column("blocks", blocks)


def _documents(batch: pa.RecordBatch) -> list[Document]:
    """What `_batch` was made of."""
    rows = batch.to_pylist()
    return [
        Document(
            row["id"],
            row["text"] or "",
            row["title"] or "",
            json.loads(row["metadata"] or "null"),
            row["parent"],
            blocks=tuple(map(Block.of, json.loads(row["blocks"] or "[]"))),
        )
        for row in rows
    ]


# --- what the driver does -------------------------------------------------------------------------------------------


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
    """Encode a corpus into parts, those that are missing.

    Args:
        corpus: What to encode.
        encoder: What encodes; fitted here, if it has to be, before any worker starts.
        place: Where parts go; nobody else writes there.
        task: How.
        identity: Everything that decides the result, as text; work that was cut off goes on only under the same.
        workers: Who encodes.
        overwrite: Drop what other settings left.

    Returns:
        The parts in order, and what was met on the way.

    Raises:
        OutputExists: Unfinished work of another kind is there.
        DataError: A bad document.
        ClusterError: As of `do_jobs`.
    """
    size, together = (PART, PART_CHARACTERS), (encoding.CHUNK, encoding.CHUNK_CHARACTERS)
    identity = f"{corpus.identity} | {identity} | (documents, characters): {size} a part, {together} together"
    plan, done = _found(place, identity, overwrite)
    if plan.get("parts") == len(done):  # all of them; something was left to do with them
        return _in_order(done, plan["bad"])
    if done:
        note(f"{place.name}: going on, {len(done)} parts are encoded already")
    if done and encoder.living:  # the same settings, but perhaps other words
        before = Fingerprint.from_json(plan["fingerprint"], place.name)
        before.require_same(encoder.fingerprint, place.name, "what is to follow")
    if (encoder.needs_fit or encoder.living) and 0 in done:
        encoder = _encoder_of(place, done[0])
    with ready(workers, _WHAT):
        fit(encoder, corpus)
        if done:
            before = Fingerprint.from_json(plan["fingerprint"], place.name)
            before.require_same(encoder.fingerprint, place.name, "what is to follow")
        plan = {"identity": identity, "fingerprint": encoder.fingerprint.to_json()}
        place.write(PLAN, json.dumps(plan).encode())
        travels = encoder if workers.address is None else encoder.query_files()
        if not travels:
            raise EncoderError(
                f"an encoder of type {encoder.type} has no files to travel with: it can't work on other machines"
            )
        open_worker = partial(_open_worker, place.name, task, together, travels)
        jobs = _jobs(corpus, size, frozenset(done))
        with progress(None, "encoding") as bar:
            bar.total = corpus.count() if not bar.disable else None
            bar.update(sum(part.report["documents"] for part in done.values()))
            told = 0
            for part in do_jobs(open_worker, jobs, workers, _WHAT):
                done[part.number] = part
                bar.update(part.report["documents"])
                if part.report["truncated"] and not told:
                    _, so_far = _in_order(done, [])
                    so_far.warn()
                    told = so_far.told
    place.write(PLAN, json.dumps({**plan, "parts": len(done), "bad": corpus.bad}).encode())
    parts, report = _in_order(done, corpus.bad)
    report.told, report.bad_told = told, corpus.tells_bad
    report.warn_empty()
    return parts, report


def _jobs(corpus: Corpus, size: tuple[int, int], done: frozenset[int]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The documents of each part that isn't there yet."""
    parts = chunks(corpus, *size)
    for number, part in enumerate(chain([next(parts, [])], parts)):  # an empty corpus has a part too
        if number not in done:
            yield number, _batch(part)


def _found(place: Place, identity: str, overwrite: bool) -> tuple[dict[str, Any], dict[int, Part]]:
    """The plan that lies in a place, and the parts that are done; both empty for a new one."""
    sizes = place.sizes()
    ours = sorted(name for name in sizes if name.startswith("part-") or name == PLAN)
    plan = _json(place, PLAN)
    if ours and plan.get("identity") != identity:
        if not overwrite:
            raise OutputExists(
                f"{place.name}: unfinished work from another source or with other settings is here; "
                "give the same ones to go on, or --overwrite to start again"
            )
        place.delete(*ours)
        return {}, {}
    done = {}
    for name in ours:
        values = _json(place, name) if name.startswith("part-") and name.endswith(".json") else {}
        # What a full disk cut short is made again.
        if (
            values.keys() == {f.name for f in fields(Part)}
            and sizes.get(Part(**values).name) == values["file"]["bytes"]
        ):
            done[values["number"]] = Part(**values)
    return plan, done


def _note_name(number: int) -> str:
    return part_name(number).removesuffix(".parquet") + ".json"


def _json(place: Place, name: str) -> dict[str, Any]:
    try:
        values = json.loads(place.read(name) or b"{}")
    except ValueError:
        values = {}
    return values if isinstance(values, dict) else {}


def _encoder_of(place: Place, part: Part) -> Encoder:
    """The fitted encoder that the first part carries."""
    with tempfile.TemporaryDirectory(prefix="lsr-") as scratch:
        path = Path(scratch) / part.name
        place.fetch(part.name, path, part.file)
        return load_encoder_files(read_vectors(path).encoder_files)


def _in_order(done: Mapping[int, Part], bad: list[str]) -> tuple[list[Part], Report]:
    """The parts, and their reports as one."""
    parts = [done[number] for number in sorted(done)]
    sums = {name: sum(part.report[name] for part in parts) for name in _COUNTED}
    kept = {name: parts[0].report[name] for name in ("max_length", "queries") if name in parts[0].report}
    return parts, Report(**sums, **kept, bad=list(bad))


def _leave_alone(place: Place, parts: list[Part]) -> None:
    """Remove what lies beside parts for as long as they aren't all there, and what killed workers left."""
    kept = {part.name for part in parts}
    place.delete(*(name for name in place.sizes() if name == PLAN or (name.startswith("part-") and name not in kept)))


def encode_parts_to(
    corpus: Corpus,
    open_encoder: Callable[[], Encoder],
    out: Path | str,
    task: Task,
    *,
    settings: str,
    workers: Workers,
    overwrite: bool = False,
    anserini: bool = False,
) -> Report:
    """As `lsr.encode.corpus.encode_to`, by workers or into object storage.

    There it is PARTS_FILE, written last, that makes a folder whole, and `overwrite` removes the old one first.
    """
    how: dict[str, Any] = {"identity": settings, "workers": workers, "overwrite": overwrite}
    if not is_remote(out):
        form = Form("anserini" if anserini else None)
        out, identity = Path(out), f"{corpus.identity} | {settings}"
        if (killed := finish_killed(out, form, identity)) is not None:
            return killed
        check_out(out, overwrite, form)
        with work_folder(out) as work:
            parts, report = encode_parts(corpus, open_encoder(), Place(work.absolute()), task, **how)
            finish(work, out, form, identity, report)
        if not out.suffix:
            _leave_alone(Place(out), parts)
        return report
    if ending := PurePosixPath(urlsplit(str(out)).path).suffix:
        raise DataError(f"vectors go to object storage as a folder of parts: leave {ending} out", str(out))
    place = Place(out)
    sizes = place.sizes()
    if PARTS_FILE in sizes and not overwrite:
        raise OutputExists(f"{out}: exists already (--overwrite replaces it)")
    if strange := sorted(name for name in sizes if not name.startswith("part-") and name not in (PLAN, PARTS_FILE)):
        raise OutputExists(f"{out}: holds something else than vectors ({strange[0]}); write elsewhere")
    place.delete(PARTS_FILE)
    parts, report = encode_parts(corpus, open_encoder(), place, task, **how)
    place.write(PARTS_FILE, json.dumps({"parts": {part.name: part.file for part in parts}}, indent=1).encode())
    _leave_alone(place, parts)
    return report
