"""Keep an index up to date with a folder of files; new, changed, moved and deleted files are found by content.

The state is in the index itself: each document's metadata has "source", its file, and "digest", a hash of the file. So
if a sync is killed, the next one resumes from the last commit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lsr.console import progress, progress_to
from lsr.encode.corpus import Report
from lsr.errors import DataError, MissingExtra
from lsr.files.documents import DIGEST, SOURCE, FileCorpus, LeftOutFiles
from lsr.files.rows import ROWS
from lsr.files.walk import Found, PassedOver
from lsr.index.search.snapshot import Snapshot
from lsr.index.write.update_batch import Change
from lsr.io.document import Document

_SECONDS = 30.0  # seconds between commits; a kill loses at most this much work
_FEW = 10  # an index of at most this many files may lose all of them in one sync


class Changeable(Protocol):
    """The part of an index's interface that sync needs."""

    @property
    def path(self) -> Path: ...

    @property
    def snapshot(self) -> Snapshot: ...

    def __len__(self) -> int: ...

    def refresh(self) -> bool: ...

    def upsert(self, source: Any, *, skip_bad: bool = ...) -> Change: ...

    def delete(self, ids: Any) -> Change: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


@dataclass
class Synced:
    """The result of `Index.sync`: numbers of files.

    Attributes:
        new: New files.
        changed: Files with other content.
        moved: New files with the content of a file that no longer exists.
        gone: Files that were deleted.
        unchanged: Files with the same content.
        bad: Messages about files that were skipped.
        report: Encoding counts.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    gone: int = 0
    unchanged: int = 0
    bad: list[str] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.moved or self.gone)

    def __str__(self) -> str:
        counts = [(getattr(self, name), name) for name in ("new", "changed", "moved", "gone", "unchanged")]
        return ", ".join(f"{n:,} {name}" for n, name in counts if n) or "no files"


def sync(index: Changeable, corpus: FileCorpus) -> Synced:
    """Bring an index up to date; see `Index.sync`."""
    index.refresh()
    known, synced, left_out = known_files(index.snapshot), Synced(), LeftOutFiles()
    if len(index) and not known and not all(part.entry["has_text"] for part in index.snapshot.parts):
        raise DataError("this index stores no metadata, so its files are unknown", str(index.path))
    found, bad = _look(corpus, left_out.passed_over)
    there = {file.name for file, _ in found} | {file.name for file in bad}
    gone = known.keys() - there
    _require_same_folder(index, corpus, known, found, gone)
    pending = deque((file, digest) for file, digest in found if known.get(file.name) != digest)
    synced.unchanged = len(found) - len(pending)
    synced.bad = list(bad.values())
    moved = _moved(known, gone, pending)
    try:
        if gone:
            index.delete(_documents_of(index.snapshot, gone))
        rows = any(file.path.suffix.lower() in ROWS for file, _ in pending)
        with progress(None if rows else len(pending), "encoding") as bar:
            while pending:
                _add_some(index, corpus, pending, known, moved, synced, left_out, bar)
                index.commit()
        index.commit()
    finally:
        index.rollback()
    synced.gone = len(gone) - synced.moved
    synced.bad += map(str, left_out.each())
    corpus.bad = synced.bad
    corpus.tell(synced.bad, left_out)
    return synced


def known_files(snapshot: Snapshot) -> dict[str, str]:
    """Return {file: digest} of an index; the digest is empty if a file's documents have different digests.

    Raises:
        DataError: Documents use the metadata keys "source" or "digest" for something else.
    """
    known: dict[str, str] = {}
    for part in snapshot.parts:
        columns = part.documents.columns
        if columns is None:
            continue
        for name in (SOURCE, DIGEST):
            if name in columns.mixed or columns.kinds.get(name, "text") != "text":
                raise DataError(f'documents have values other than texts as "{name}", which sync needs for files')
        if SOURCE not in columns.kinds or DIGEST not in columns.kinds:
            continue
        table = pa.table({name: columns.column(name).cast(pa.string()) for name in (SOURCE, DIGEST)})
        table = table if part.alive is None else table.filter(pa.array(part.alive))
        for row in table.group_by([SOURCE, DIGEST]).aggregate([]).to_pylist():
            source, digest = row[SOURCE], row[DIGEST]
            if source is not None and digest is not None:
                known[source] = digest if known.get(source, digest) == digest else ""
    return known


def _documents_of(snapshot: Snapshot, sources: Collection[str]) -> list[str]:
    """Return the ids of the documents of some files."""
    ids: dict[str, None] = {}
    wanted = pa.array(sorted(sources), pa.string())
    for part in snapshot.parts:
        columns = part.documents.columns
        if columns is None or SOURCE not in columns.kinds:
            continue
        met = pc.is_in(columns.column(SOURCE).cast(pa.string()), wanted).to_numpy(zero_copy_only=False)
        if part.alive is not None:
            met = met & part.alive
        for row in np.flatnonzero(met).tolist():
            ids[part.documents.parent(row) or part.documents.id(row)] = None
    return list(ids)


def _look(corpus: FileCorpus, passed_over: PassedOver) -> tuple[list[tuple[Found, str]], dict[Found, str]]:
    """Return the existing files with their digests, and the unreadable files with the reason."""
    found, bad = [], {}
    for file in corpus.files(passed_over):
        try:
            found.append((file, corpus.digest(file)))
        except DataError as error:
            bad[file] = str(error)
    return found, bad


def _require_same_folder(
    index: Changeable,
    corpus: FileCorpus,
    known: Mapping[str, str],
    found: list[tuple[Found, str]],
    gone: Collection[str],
) -> None:
    """Refuse to delete all documents: perhaps the folder isn't mounted, or is the wrong one.

    Raises:
        DataError: None of the index's files exists.
    """
    if not known or len(gone) < len(known) or (found and len(known) <= _FEW):
        return
    if {digest for _, digest in found} & set(known.values()):
        return
    raise DataError(
        f"none of the {len(known):,} files in the index {index.path} exists here: is this the right folder? "
        f"lsr index {corpus.root} --out {index.path} --overwrite builds the index again",
        str(corpus.root),
    )


def _moved(known: Mapping[str, str], gone: Collection[str], pending: Collection[tuple[Found, str]]) -> set[str]:
    """Return new files with the content of a file that no longer exists."""
    left: dict[str, int] = {}
    for name in gone:
        left[known[name]] = left.get(known[name], 0) + 1
    moved = set()
    for file, digest in pending:
        if file.name not in known and left.get(digest, 0):
            left[digest] -= 1
            moved.add(file.name)
    return moved


def _add_some(
    index: Changeable,
    corpus: FileCorpus,
    pending: deque[tuple[Found, str]],
    known: Mapping[str, str],
    moved: Collection[str],
    synced: Synced,
    left_out: LeftOutFiles,
    bar: Any,
) -> None:
    """Read and add files until a commit is due; `bar` continues across calls."""
    made: dict[str, set[str]] = {}  # {readable file: ids of its documents}

    def documents() -> Iterator[Document]:
        until = time.monotonic() + _SECONDS
        while pending:
            file, digest = pending.popleft()
            ids: set[str] = set()
            for document in left_out.tried(corpus, file, digest):
                if isinstance(document, DataError):
                    synced.bad.append(str(document))
                    continue
                ids.add(document.id)
                yield document
                bar.update()
            if ids or not left_out.failed:  # else the file may be half written: keep the old documents
                made[file.name] = ids
            if time.monotonic() >= until:
                break

    with progress_to(lambda *_: None):  # hide the bar of `upsert`, which would restart with each call
        change = index.upsert(documents(), skip_bad=True)
    synced.bad += change.bad
    _sum_up(synced.report, change.report)
    before = _documents_of(index.snapshot, [name for name in made if name in known])
    kept = set().union(*made.values())
    index.delete([doc_id for doc_id in before if doc_id not in kept])
    for name, ids in made.items():
        synced.changed += name in known
        synced.moved += name in moved
        synced.new += name not in known and name not in moved and bool(ids)


def _sum_up(report: Report, more: Report) -> None:
    for name in ("documents", "vectors", "empty", "no_terms", "truncated"):
        setattr(report, name, getattr(report, name) + getattr(more, name))
    report.max_length, report.told = more.max_length, max(report.told, more.told)


def watch(index: Changeable, corpus: FileCorpus, tell: Callable[[Synced], None]) -> None:
    """Sync an index whenever a file changes, until interrupted.

    Args:
        index: The index.
        corpus: The files.
        tell: Called after each sync that changed anything.

    Raises:
        MissingExtra: watchfiles isn't installed.
    """
    try:
        import watchfiles
    except ImportError:
        raise MissingExtra("watchfiles", "files", "--watch") from None
    root, own = corpus.root.resolve(), index.path.resolve()

    def counts(_change: object, path: str) -> bool:
        changed = Path(path)
        if changed.is_relative_to(own):
            return False
        inside = changed.relative_to(root).parts if changed.is_relative_to(root) else changed.parts[-1:]
        return not any(part.startswith(".") for part in inside) or changed.name == ".gitignore"

    first = True  # for changes made before the watch began
    for changes in watchfiles.watch(root, watch_filter=counts, yield_on_timeout=True, rust_timeout=1000):
        if (changes or first) and (synced := sync(index, corpus)):
            tell(synced)
        first = False
