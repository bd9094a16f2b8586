"""Merging: combine adjacent segments into one, without deleted documents and in a new storage order.

Only neighbours are merged, so documents keep their order. The policy is as in Lucene's LogMergePolicy: segments have
levels by size, and 8 segments of one level are merged into a segment of the next level. So each document is rewritten
once per level, and the number of segments grows with the logarithm of the number of documents. A segment that has lost
more than a third of its documents is rewritten by itself.

A writer merges within its transaction, or a `Merger` merges in a background thread while others commit. If documents
are deleted meanwhile, they are deleted in the merged segment, too, when this segment replaces its sources. If segments
accumulate faster than they are merged (a large merge takes minutes), a commit merges the newest segments itself.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.index.search.open_segment import OpenSegment
from lsr.index.segment.quantize import Quantizer
from lsr.index.storage.manifest import FORMAT
from lsr.index.storage.transaction import MergeWorkspace, StagedFiles, describe
from lsr.index.write.builder import BuildSettings, write_segment
from lsr.io.vectors import VectorBatch
from lsr.sparse import MOST_SHIFT

MOST = 64  # with more segments, a commit merges the newest segments itself
_FACTOR = 8  # number of segments of a level that are merged, and the size ratio between levels
_FLOOR = 128  # segments of up to _FACTOR times this many documents are on the lowest level
_DEAD = 1 / 3  # segments with a larger share of deleted documents are rewritten


class Abandoned(Exception):
    """Raised to stop a merge on request."""


@dataclass(frozen=True)
class Merged:
    """The result of a background merge.

    Attributes:
        parts: The source segments, as they were when the merge started.
        entry: The merged segment's manifest entry; None if no document was live.
        folder: The merged segment's folder.
        files: The folder's files, from `describe`.
    """

    parts: tuple[OpenSegment, ...]
    entry: Mapping[str, Any] | None
    folder: Path
    files: Mapping[str, Any]

    def alive(self, now: Sequence[OpenSegment]) -> NDArray[np.bool_]:
        """Return (n_docs,) bool: which documents haven't been deleted since the merge started.

        Args:
            now: The source segments as they are now.
        """
        left = [np.empty(0, bool)]
        for before, after in zip(self.parts, now, strict=True):
            alive = np.ones(len(after.documents), bool) if after.alive is None else after.alive
            left.append(alive if before.alive is None else alive[before.alive])
        return np.concatenate(left)


def plan_merges(
    entries: Sequence[Mapping[str, Any]], *, everything: bool = False, newest: bool = False
) -> tuple[int, int] | None:
    """Choose the segments to merge next, by size.

    Args:
        entries: The segments' manifest entries.
        everything: Merge all segments into one segment of the latest format, without deleted documents.
        newest: Within the lowest level with enough segments, choose the last run instead of the first. A segment with
            many deleted documents is then not rewritten by itself.

    Returns:
        Start and end (exclusive); None if there is nothing to merge. Call again after merging.
    """
    if everything:
        whole = len(entries) == 1 and entries[0]["n_alive"] == entries[0]["n_docs"]
        whole = whole and entries[0].get("format", 3) == FORMAT
        return None if whole or not entries else (0, len(entries))
    for i, entry in enumerate(entries):
        if entry["n_docs"] - entry["n_alive"] > _DEAD * entry["n_docs"] and not newest:
            return i, i + 1
    levels = [int(math.log(max(entry["n_alive"] / _FLOOR, 1), _FACTOR)) for entry in entries]
    for level in sorted(set(levels)):
        mine: list[int] = []  # segments of the level, without a larger segment between them
        runs: list[tuple[int, int]] = []
        for i, other in enumerate(levels):
            mine = [] if other > level else [*mine, i] if other == level else mine
            if len(mine) == _FACTOR:
                runs.append((mine[0], mine[-1] + 1))
                mine = []
        if runs:
            return runs[-1 if newest else 0]
    return None


def merge_parts(
    files: StagedFiles, parts: Sequence[OpenSegment], settings: BuildSettings, stop: threading.Event | None = None
) -> dict[str, Any] | None:
    """Write the live documents of several segments as one segment.

    Stored weights don't change: the merged segment gets the finest scale, and documents whose weights don't fit get a
    shift (lsr.index.segment.quantize).

    Args:
        files: The transaction's files.
        parts: Adjacent segments.
        settings: The index's build settings.
        stop: Checked between batches of documents.

    Returns:
        The segment's manifest entry; None if no document is live.

    Raises:
        Abandoned: `stop` was set.
    """
    scale, coarsest = min(part.entry["scale"] for part in parts), max(float(part.segment.scales[-1]) for part in parts)
    while coarsest > scale * 2.0**MOST_SHIFT:  # a larger shift can't be represented: use a coarser scale and round
        scale *= 2
    n_terms = max(part.n_terms for part in parts)

    def batches() -> Iterator[VectorBatch]:
        for part in parts:
            factor = np.float32(part.entry["scale"] / scale)
            for batch in part.batches(files.scratch, n_terms):
                if stop is not None and stop.is_set():
                    raise Abandoned
                batch.vectors.data *= factor
                yield batch

    # Express weights in units of the new scale.
    entry = write_segment(files, batches(), settings, quantizer=lambda *_: Quantizer(1.0, True))
    if entry is not None:
        rounded = [part.entry["scale"] < scale for part in parts]
        errors = [part.entry["max_error"] + (scale if off else 0) for part, off in zip(parts, rounded, strict=True)]
        entry |= {"scale": scale, "max_error": float(max(errors))}
    return entry


def merge_aside(
    aside: MergeWorkspace, parts: Sequence[OpenSegment], settings: BuildSettings, stop: threading.Event
) -> Merged:
    """Run `merge_parts` in a workspace and sync the result to disk, so that committing it is quick."""
    entry = merge_parts(aside, parts, settings, stop)
    if entry is None:
        return Merged(tuple(parts), None, aside.root, {})
    folder = aside.root / str(entry["name"])
    return Merged(tuple(parts), entry, folder, describe(folder))
