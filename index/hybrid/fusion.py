"""Rank fusion: merge several runs over the same documents into one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lsr.io.runs import Run

Normalization = Literal["min-max", "none"]
RRF_K = 60  # the paper's value
_Hits = Mapping[str, float]


def reciprocal_rank_fusion(runs: Sequence[Run], *, k: int = RRF_K, weights: Sequence[float] = ()) -> Run:
    """Fuse runs by rank: the sum over runs of weight / (k + rank), ranks from 1 (Cormack et al., SIGIR 2009).

    Args:
        runs: Each {query: {document: score}}; ties are ranked in the order in which they are listed.
        k: Smoothing constant; a larger k reduces the advantage of the top ranks.
        weights: One for each run; by default all 1.

    Returns:
        A run over all queries, documents by descending score; ties by the best rank in any run, then by the order of
        the runs.

    Raises:
        ValueError: There are no runs, k is below 0, the numbers of runs and weights differ, or a score or weight isn't
            finite.

    Examples:
        >>> learned = {"q": {"a": 9.1, "b": 3.0}}
        >>> lexical = {"q": {"b": 7.5, "c": 7.0}}
        >>> list(reciprocal_rank_fusion([learned, lexical])["q"])
        ['b', 'a', 'c']
    """
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}")

    def scores(hits: _Hits) -> dict[str, float]:
        return {doc: 1 / (k + rank) for rank, doc in enumerate(_ranked(hits), start=1)}

    return _summed(runs, weights, scores)


def interpolate(runs: Sequence[Run], *, weights: Sequence[float] = (), normalization: Normalization = "min-max") -> Run:
    """Fuse runs by score: the weighted sum of their scores.

    Args:
        runs: Each {query: {document: score}}. A document missing from a run gets the run's lowest score.
        weights: One for each run; by default all 1.
        normalization: "min-max" scales the scores of each query and run to 0..1. "none" leaves them unchanged; a
            missing document still gets the run's lowest score.

    Returns:
        As for `reciprocal_rank_fusion`.

    Raises:
        ValueError: As for `reciprocal_rank_fusion`; or an unknown normalization.
    """
    if normalization not in ("min-max", "none"):
        raise ValueError(f"normalization must be min-max or none, got {normalization!r}")

    def scores(hits: _Hits) -> dict[str, float]:
        # The scale starts at the lowest score, since missing documents scored at most as much.
        low, high = min(hits.values(), default=0.0), max(hits.values(), default=0.0)
        scale = (high - low) if normalization == "min-max" else 1.0
        return {doc: (score - low) / scale if scale else 1.0 for doc, score in hits.items()}

    return _summed(runs, weights, scores)


def _summed(runs: Sequence[Run], weights: Sequence[float], scores: Callable[[_Hits], dict[str, float]]) -> Run:
    runs, weights = list(runs), list(weights)
    if not runs:
        raise ValueError("there are no runs to fuse")
    if weights and len(weights) != len(runs):
        raise ValueError(f"{len(weights)} weights for {len(runs)} runs; give one for each")
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights must be finite numbers, got {weights}")
    fused: Run = {}
    for query in dict.fromkeys(query for run in runs for query in run):
        total: dict[str, float] = {}
        best: dict[str, int] = {}
        for run, weight in zip(runs, weights or [1.0] * len(runs), strict=True):
            hits = run.get(query, {})
            if not all(map(math.isfinite, hits.values())):
                raise ValueError(f"query {query!r} has a score that isn't a finite number, so it can't be ranked")
            for rank, doc in enumerate(_ranked(hits)):
                best[doc] = min(best.get(doc, rank), rank)
            for doc, score in scores(hits).items():
                total[doc] = total.get(doc, 0.0) + weight * score
        fused[query] = {doc: total[doc] for doc in sorted(best, key=lambda doc: (-total[doc], best[doc]))}
    return fused


def _ranked(hits: _Hits) -> list[str]:
    return sorted(hits, key=hits.__getitem__, reverse=True)
