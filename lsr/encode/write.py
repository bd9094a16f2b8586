"""Encode a corpus into a file or a folder of parts; an interrupted run resumes with the next part.

`lsr.encode.parts` writes the parts into `OUT.partial/`, or in object storage into the final folder. When all parts are
there, one rename turns them into the file or folder OUT, so OUT is always complete, unchanged or absent. In object
storage, a folder is complete once PARTS_FILE, which is written last, exists.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import filelock

from lsr.distributed.pool import Workers
from lsr.durable import take_name
from lsr.encode.base import Encoder
from lsr.encode.corpus import Report
from lsr.encode.parts import PLAN, Part, Task, encode_parts
from lsr.encode.passages import Passages
from lsr.errors import DataError, OutputExists
from lsr.io.convert import Form, check_out, convert
from lsr.io.corpus import Corpus
from lsr.io.object_store import Place, is_remote
from lsr.io.open_vectors import read_vectors
from lsr.io.remote_files import PARTS_FILE
from lsr.io.text_files import new_text

_LOCK = ".lock"
_WHOLE, _MARK = "whole", "finished.json"  # the finished file waits in this folder for its rename


def encode_to(
    corpus: Corpus,
    open_encoder: Callable[[], Encoder],
    out: Path | str,
    *,
    settings: str,
    queries: bool = False,
    passages: Passages | None = None,
    with_text: bool = True,
    device: str | None = None,
    workers: Workers | None = None,
    overwrite: bool = False,
    anserini: bool = False,
) -> Report:
    """Encode a corpus into a file, a folder of Parquet parts, or a folder in object storage.

    Args:
        corpus: Documents or queries.
        open_encoder: Opens the encoder, once `out` has been checked. If the encoder must be fitted and the first part
            exists, the fitted encoder is read from that part.
        out: A file of any format that `lsr.io.convert` writes, a folder (no suffix), or the URI of a folder.
        settings: All settings that determine the vectors, as text. Unfinished work is resumed only if this text is the
            same.
        queries: Encode as queries.
        passages: Cut documents into passages first.
        with_text: Store titles, texts and metadata with the vectors.
        device: The device for models on other machines.
        workers: Where parts are encoded; by default in this process.
        overwrite: Replace an existing `out`, and drop unfinished work with other settings. The old `out` stays until
            the new one is complete; in object storage, it can't be read any more once the work starts.
        anserini: Write JSONL in Anserini's form.

    Returns:
        A report of counts and warnings.

    Raises:
        OutputExists: `out` exists and `overwrite` is false, or it holds something other than vectors; or there is
            unfinished work with other settings.
        DataError: A document is invalid, or the name of `out` fits no format.
        ClusterError: As for `lsr.distributed.pool.do_jobs`.
    """
    task, workers = Task(queries, passages, with_text, device), workers or Workers()
    if is_remote(out):
        return _encode_remote(corpus, open_encoder, Place(out), task, settings, workers, overwrite)
    form = Form("anserini" if anserini else None)
    out, identity = Path(out), f"{corpus.identity} | {settings}"
    if (killed := _finish_killed(out, form, identity)) is not None:
        return killed
    check_out(out, overwrite, form)
    encoder = open_encoder()
    with work_folder(out) as work:
        place = Place(work.absolute())
        parts, report = encode_parts(
            corpus, encoder, place, task, identity=settings, workers=workers, overwrite=overwrite
        )
        _finish(work, out, form, identity, report)
    if not out.suffix:
        _delete_other_files(Place(out), parts)
    return report


def _encode_remote(
    corpus: Corpus,
    open_encoder: Callable[[], Encoder],
    place: Place,
    task: Task,
    settings: str,
    workers: Workers,
    overwrite: bool,
) -> Report:
    if ending := PurePosixPath(urlsplit(place.name).path).suffix:
        raise DataError(f"vectors go to object storage as a folder of parts: leave {ending} out", place.name)
    sizes = place.sizes()
    if PARTS_FILE in sizes and not overwrite:
        raise OutputExists(f"{place.name}: exists already (--overwrite replaces it)")
    if others := sorted(name for name in sizes if not name.startswith("part-") and name not in (PLAN, PARTS_FILE)):
        raise OutputExists(f"{place.name}: holds something other than vectors ({others[0]}); write elsewhere")
    place.delete(PARTS_FILE)
    parts, report = encode_parts(
        corpus, open_encoder(), place, task, identity=settings, workers=workers, overwrite=overwrite
    )
    place.write(PARTS_FILE, json.dumps({"parts": {part.name: part.file for part in parts}}, indent=1).encode())
    _delete_other_files(place, parts)
    return report


def _delete_other_files(place: Place, parts: list[Part]) -> None:
    """Delete the plan, the notes of the parts, and files that killed workers left behind."""
    kept = {part.name for part in parts}
    place.delete(*(name for name in place.sizes() if name == PLAN or (name.startswith("part-") and name not in kept)))


# --- from parts to the output -------------------------------------------------------------------------------------


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Lock the folder in which `out` is prepared. If it holds parts at the end, it is kept.

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
        if work.is_dir() and not any(work.glob("part-*")):  # nothing to resume
            shutil.rmtree(work, ignore_errors=True)


def _finish(work: Path, out: Path, form: Form, identity: str, report: Report) -> None:
    """Turn the parts into `out`, a file or a folder, in one rename."""
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
    _rename_whole(work, out, form)


def _finish_killed(out: Path, form: Form, identity: str) -> Report | None:
    """Finish the renames of a run that was killed while it renamed files; None if there is no such run.

    `out` may be the new file already, so call this before checking that `out` doesn't exist.
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
        _rename_whole(work, out, form)
    return report


def _rename_whole(work: Path, out: Path, form: Form) -> None:
    for file in reversed(form.files(out)):
        if (work / _WHOLE / file.name).exists():  # otherwise the killed run has already renamed it
            take_name(work / _WHOLE / file.name, file)
    for part in sorted(work.glob("part-*"), reverse=True):
        part.unlink()
    shutil.rmtree(work)
