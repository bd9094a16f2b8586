"""OpenSegment: a memory-mapped segment and the flags of its live documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.errors import CorruptIndex
from lsr.index.segment.clusters import CLUSTERS
from lsr.index.segment.columns import COLUMNS_FILE
from lsr.index.segment.doc_store import Documents
from lsr.index.segment.embeddings import Embeddings
from lsr.index.segment.postings import Segment
from lsr.index.storage.arrow_file import RESTORE, ArrowFile, write_arrow
from lsr.index.storage.manifest import CHANGED
from lsr.io.vectors import VectorBatch

_ALIVE_SCHEMA = pa.schema([("bits", pa.uint8())])
_ROWS = 4096  # documents per batch when vectors are read back


class OpenSegment(NamedTuple):
    """A segment of a snapshot.

    Attributes:
        entry: The segment's entry in the manifest.
        segment: The postings.
        documents: The documents.
        alive: (n_docs,) bool, False for deleted documents; None if none are deleted.
        files: The manifest's entries for the files of the whole index.
        embeddings: The dense vectors; None if there are none.
    """

    entry: Mapping[str, Any]
    segment: Segment
    documents: Documents
    alive: NDArray[np.bool_] | None
    files: Mapping[str, Any]
    embeddings: Embeddings | None = None

    @property
    def n_terms(self) -> int:
        """One more than the largest term id in the segment."""
        return 1 + int(self.segment.terms.max(initial=0))

    def batches(self, scratch: Path, n_terms: int) -> Iterator[VectorBatch]:
        """Yield the live documents, in order, with their 8-bit impacts, not yet multiplied by the scale.

        Args:
            scratch: Folder for a temporary file of 8 bytes per weight.
            n_terms: Size of the vocabulary.

        Raises:
            CorruptIndex: A file has changed since it was written. All files are hashed first, so that damage isn't
                copied into new files with valid checksums.
        """
        self.require_whole()
        n_docs = len(self.documents)
        kept = np.ones(n_docs, bool) if self.alive is None else self.alive
        with self.segment.rows(scratch, kept, n_terms) as rows:
            for first in range(0, n_docs, _ROWS):
                end = min(first + _ROWS, n_docs)
                here = kept[first:end]
                if here.any():
                    dense = None if self.embeddings is None else self.embeddings.rows(first, end)[here]
                    yield VectorBatch(self.documents.rows(first, end).filter(here), rows(first, end)[here], dense)

    def require_whole(self) -> None:
        """Hash the mapped files that merges and exports read.

        Raises:
            CorruptIndex: Files have changed since they were written; the message names each of them.

        """
        wrong = []
        dense = () if self.embeddings is None else (self.embeddings.source,)
        for file in (*self.segment.sources, *self.documents.sources, *dense):
            if file.digest() != self.files[f"{self.entry['name']}/{file.path.name}"]["sha256"]:
                wrong.append(f"{file.path}: {CHANGED}")
        if wrong:
            raise CorruptIndex("\n".join(wrong))


def open_segment(
    path: Path, manifest: Mapping[str, Any], entry: Mapping[str, Any], opened: OpenSegment | None
) -> OpenSegment:
    """Open a segment, or reuse it if it is already open as `opened`."""
    folder, n_docs = path / entry["name"], entry["n_docs"]
    if opened is None:
        has_clusters = f"{entry['name']}/{CLUSTERS}" in manifest["files"]
        segment = Segment(
            folder, manifest["impacts"], entry["scale"], clusters=has_clusters, gaps=entry.get("format", 3) > 3
        )
        has_columns = f"{entry['name']}/{COLUMNS_FILE}" in manifest["files"]
        documents = Documents(folder, n_docs, entry["has_text"], has_columns)
        embeddings = Embeddings(folder, n_docs, entry["dense"]) if entry.get("dense") else None
        if segment.n_docs != n_docs:
            raise CorruptIndex(f"{folder}: {segment.n_docs} documents, the manifest says {n_docs}; {RESTORE}")
    else:
        segment, documents, embeddings = opened.segment, opened.documents, opened.embeddings
        if opened.entry["alive"] == entry["alive"]:
            return OpenSegment(entry, segment, documents, opened.alive, manifest["files"], embeddings)
    alive = None
    if entry["alive"]:
        alive = read_alive(path / entry["alive"], n_docs, manifest["files"][entry["alive"]]["sha256"])
    return OpenSegment(entry, segment, documents, alive, manifest["files"], embeddings)


def frequencies(parts: Sequence[OpenSegment], counted: dict[int, int], terms: NDArray[Any]) -> NDArray[np.int64]:
    """Count the live documents that contain each term; counts are cached in `counted`."""
    if all(part.alive is None for part in parts):
        return sum((part.segment.count(terms) for part in parts), np.zeros(len(terms), np.int64))
    new = np.array([term for term in terms.tolist() if term not in counted], np.int64)
    if len(new):
        counts = sum((part.segment.count(new, part.alive) for part in parts), np.zeros(len(new), np.int64))
        counted.update(zip(new.tolist(), counts.tolist(), strict=True))
    return np.array([counted[term] for term in terms.tolist()], np.int64)


def read_alive(path: Path, n_docs: int, wanted: str | None = None) -> NDArray[np.bool_]:
    """Read (n_docs,) bool: which documents of a segment are live.

    Args:
        path: The file.
        n_docs: Number of documents in the segment.
        wanted: The file's expected SHA-256; None to skip the check.

    Raises:
        CorruptIndex: The file doesn't fit the segment or has changed since it was written.
    """
    file = ArrowFile(path, _ALIVE_SCHEMA)
    if wanted is not None and file.digest() != wanted:
        raise CorruptIndex(f"{path}: {CHANGED}")
    bits = file.column("bits")
    if len(bits) != -(-n_docs // 8):
        raise CorruptIndex(f"{path}: doesn't fit the documents; {RESTORE}")
    return np.unpackbits(bits, count=n_docs, bitorder="little").view(np.bool_)


def write_alive(path: Path, alive: NDArray[np.bool_]) -> None:
    """Write the flags of a segment's live documents."""
    write_arrow(path, {"bits": np.packbits(alive, bitorder="little")})
