"""Vectors in many files, numbered consecutively: scan all of them, and read ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from lsr.console import progress
from lsr.encode.corpus import Report
from lsr.errors import DataError
from lsr.fingerprint import Fingerprint
from lsr.index.segment.doc_store import hashes_of
from lsr.index.storage.manifest import digest_file
from lsr.io.object_store import Place, is_remote, with_suffix
from lsr.io.open_vectors import read_vectors
from lsr.io.remote_files import fetched_vectors
from lsr.io.text_files import file_identity
from lsr.io.vectors import VectorBatch, Vectors
from lsr.io.vectors_parquet import parquet_files, read_parquets
from lsr.sparse import usual_largest


@dataclass(frozen=True)
class Stretch:
    """A Parquet file of vectors.

    Attributes:
        path: A path that all workers can read, or a URI.
        rows: Number of vectors.
        wanted: For a file at a URI, its {"bytes", "sha256"}, which every download must match.
    """

    path: str
    rows: int
    wanted: Mapping[str, Any] | None = None

    def local(self, scratch: Path) -> Path:
        """Return the local path; a file at a URI is copied into `scratch`.

        Raises:
            DataError: The file doesn't exist.
            StorageError: The URI can't be read.
        """
        if not is_remote(self.path):
            if not Path(self.path).is_file():
                raise DataError(
                    "no such file on this machine: all machines of a cluster have to share it, or it has to be in "
                    "object storage (s3://bucket/folder)",
                    self.path,
                )
            return Path(self.path)
        folder, mark, options = self.path.partition("?")
        folder, _, name = folder.rpartition("/")
        if not (scratch / name).is_file():
            Place(folder + mark + options).fetch(name, scratch / name, self.wanted)
        return scratch / name


@dataclass(frozen=True)
class Scanned:
    """All vectors of a collection, and their common properties.

    Attributes:
        stretches: The files, in order; the first has the tokens.
        largest: The largest weight that impacts have to represent, from `lsr.sparse.usual_largest`.
        whole: Whether all weights are whole numbers.
        identity: A text that changes when the vectors change.
        fingerprint: The fingerprint of the encoder that made the vectors.
    """

    stretches: Sequence[Stretch]
    largest: float
    whole: bool
    identity: str
    fingerprint: Fingerprint


def scan(source: str | Path) -> tuple[Scanned, Report]:
    """Read vectors once: a Parquet file or a folder of them, or a URI of either.

    Raises:
        DataError: The source isn't vectors in Parquet, a vector is bad, or an id is repeated.
        StorageError: A URI can't be read.
    """
    copy = fetched_vectors(str(source)) if is_remote(source) else Path(source).absolute()
    if copy is None:
        raise DataError("no such file, and no complete folder of vectors", str(source))
    files, vectors = parquet_files(copy), read_vectors(copy)
    stretches, hashes = [], [np.empty(0, np.uint64)]
    report, largest, whole = Report(), [np.empty(0, np.float32)], True
    with progress(vectors.count, "reading") as bar:
        for path in files:
            rows = 0
            for batch in read_parquets([path], vectors):
                weights = batch.vectors.data
                rows += len(batch.vectors)
                largest.append(batch.vectors.largest())
                whole = whole and bool((weights == weights.round()).all())
                report.no_terms += int((batch.vectors.lengths() == 0).sum())
                hashes.append(hashes_of(batch.documents.column("id")))
                bar.update(len(batch.vectors))
            if is_remote(source):
                at = with_suffix(source, f"/{path.name}") if copy.is_dir() else str(source)
                wanted = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
                stretches.append(Stretch(at, rows, wanted))
            else:
                stretches.append(Stretch(str(path), rows))
            report.documents = report.vectors = report.vectors + rows
    ordered = np.sort(np.concatenate(hashes))
    if len(again := ordered[1:][ordered[1:] == ordered[:-1]]):
        _refuse_doubled(files, vectors, again)
    # A downloaded copy has another path each time, so its hash identifies it; a local file's modification time shows
    # changes.
    states = [str(s.wanted) if s.wanted else file_identity(Path(s.path)) for s in stretches]
    return Scanned(
        stretches, usual_largest(np.concatenate(largest)), whole, f"{source} {states}", vectors.fingerprint
    ), report


def _refuse_doubled(files: Sequence[Path], vectors: Vectors, hashes: NDArray[np.uint64]) -> None:
    """Refuse repeated ids among vectors with the same id hash."""
    first: dict[str, str] = {}
    for path in files:
        row = 0
        for batch in read_parquets([path], vectors):
            ids = batch.documents.column("id")
            for i in np.flatnonzero(np.isin(hashes_of(ids), hashes)).tolist():
                where = f"{path}: row {row + i + 1}"
                if (doc_id := ids[i].as_py()) in first:
                    raise DataError(f"the id {doc_id!r} occurs twice, first in {first[doc_id]}", where)
                first[doc_id] = where
            row += len(ids)


def rows_between(
    stretches: Sequence[Stretch], first: int, end: int, vectors: Vectors, scratch: Path
) -> Iterator[VectorBatch]:
    """Yield the vectors of documents that begin at or after `first` and before `end`, with all their passages.

    Args:
        stretches: All files, in order.
        first: Number of the first vector.
        end: The end, exclusive.
        vectors: Describes what the files have in common.
        scratch: Folder for copies of remote files, one at a time.
    """
    at, begin, parent = 0, 0, None
    for stretch in stretches:
        # The vector before `first` shows whether `first` begins a document.
        if at + stretch.rows < first or not stretch.rows:
            at = begin = at + stretch.rows
            continue
        path = stretch.local(scratch)
        for batch in read_parquets([path], vectors):
            begins, parent = _begins(batch.documents.column("parent"), at, begin, parent)
            at, begin = at + len(begins), int(begins[-1])
            kept = np.flatnonzero((begins >= first) & (begins < end))
            if len(kept):  # always a consecutive run
                low, high = int(kept[0]), int(kept[-1]) + 1
                yield VectorBatch(batch.documents.slice(low, high - low), batch.vectors[low:high])
            if begin >= end:
                return
        if path.parent == scratch:
            path.unlink()


def _begins(parents: Any, at: int, begin: int, before: str | None) -> tuple[NDArray[np.int64], str | None]:
    """Find where documents begin.

    Args:
        parents: (n,) Arrow array, for each row the id of the document that it was cut from.
        at: Number of the first row.
        begin: Where the document of the preceding row begins.
        before: The parent of the preceding row.

    Returns:
        (n,) int64: for each row, the number of its document's first row; and the parent of the last row.
    """
    own = np.ones(len(parents), bool)
    if parents.null_count < len(parents):
        own[1:] = ~pc.fill_null(pc.equal(parents[1:], parents[:-1]), False).to_numpy(zero_copy_only=False)
        own[0] = before is None or parents[0].as_py() != before
    begins = np.where(own, at + np.arange(len(parents)), begin)
    return np.maximum.accumulate(begins), parents[-1].as_py()
