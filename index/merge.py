"""Merging: adjacent segments become one, without their deleted documents, in a new order of storage.

Only neighbours are merged, since documents keep their order. When is the policy of Lucene's LogMergePolicy: segments
are of a level by their size, each a multiple of the one below, and when a level has gathered enough of them they
become one of the next. So a document is written again once a level, and the number of segments grows with the logarithm
of the number of documents. A segment that has lost more than a third of its documents is written again by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lsr.vectors import VectorBatch

from .builder import BuildSettings, write_segment
from .quantize import LEVELS, Quantizer
from .snapshot import Part
from .storage import Transaction

_FACTOR = 8  # segments of a level that become one of the next, and how much larger those are
_FLOOR = 128  # all segments up to _FACTOR times so many documents are of the lowest level
_DEAD = 1 / 3


def plan_merges(entries: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Which segments to merge next, by size.

    Args:
        entries: What the manifest says of the segments.

    Returns:
        The first and the one behind the last; None if all is well. Ask again after merging.
    """
    for i, entry in enumerate(entries):
        if entry["n_docs"] - entry["n_alive"] > _DEAD * entry["n_docs"]:
            return i, i + 1
    levels = [int(math.log(max(entry["n_alive"] / _FLOOR, 1), _FACTOR)) for entry in entries]
    for level in sorted(set(levels)):
        mine: list[int] = []  # those of the level, without a larger one between them
        for i, other in enumerate(levels):
            mine = [] if other > level else [*mine, i] if other == level else mine
            if len(mine) == _FACTOR:
                return mine[0], mine[-1] + 1
    return None


def merge_parts(transaction: Transaction, parts: Sequence[Part], settings: BuildSettings) -> dict[str, Any] | None:
    """Write the documents of some segments that are alive as one segment.

    Impacts stay what they are where the segments have one scale. Else they get the finest that has room for all of
    them; what is finer still is rounded.

    Args:
        transaction: Where to.
        parts: The segments, neighbours.
        settings: How the index is written.

    Returns:
        What the manifest says of it; None if no document is alive.
    """
    scale = min(part.entry["scale"] for part in parts)
    while settings.impacts == "uint8" and any(
        float(part.segment.peaks.max(initial=0)) * part.entry["scale"] > LEVELS * scale for part in parts
    ):
        scale *= 2
    n_terms = max(part.n_terms for part in parts)

    def batches() -> Iterator[VectorBatch]:
        for part in parts:
            factor = np.float32(part.entry["scale"] / scale)
            for batch in part.batches(transaction.scratch, n_terms):
                batch.vectors.data *= factor
                yield batch

    # What is written are weights in units of the new scale.
    entry = write_segment(transaction, batches(), settings, quantizer=lambda *_: Quantizer(1.0, True))
    if entry is not None:
        rounded = [part.entry["scale"] < scale for part in parts]
        errors = [part.entry["max_error"] + (scale if off else 0) for part, off in zip(parts, rounded, strict=True)]
        entry |= {"scale": scale, "max_error": float(max(errors))}
    return entry
