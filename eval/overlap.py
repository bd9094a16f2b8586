"""Similarity of two rankings: rank-biased overlap and Kendall's tau."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """Rank-biased overlap, extrapolated from finite lists (Webber, Moffat and Zobel 2010, equation 32).

    Args:
        first: Ids, best first, without duplicates.
        second: The other ranking; its length may differ.
        p: Persistence of the reader; with 0.9, the first ten ranks have 86 % of the weight.

    Returns:
        1 for equal rankings, 0 for disjoint rankings.

    Raises:
        ValueError: p is not between 0 and 1.

    Examples:
        >>> rank_biased_overlap(["a", "b"], ["a", "b"])
        1.0
    """
    if not 0 < p < 1:
        raise ValueError(f"p must be between 0 and 1, got {p}")
    short, long = sorted((first, second), key=len)
    if not short:
        return float(not long)
    seen_short, seen_long = set[str](), set[str]()
    shared = 0  # number of ids among the first `depth` of both
    at_short, total = 0, 0.0
    for depth, document in enumerate(long, start=1):
        seen_long.add(document)
        if depth <= len(short):
            seen_short.add(short[depth - 1])
            shared += (document in seen_short) + (short[depth - 1] in seen_long) - (document == short[depth - 1])
            at_short, more = shared, 0.0
        else:
            shared += document in seen_short
            more = at_short * (depth - len(short)) / len(short)
        total += (shared + more) / depth * p**depth
    rest = ((shared - at_short) / len(long) + at_short / len(short)) * p ** len(long)
    return (1 - p) / p * total + rest


def kendall_tau(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Kendall's tau over the documents that both rankings have; None if they share fewer than two.

    Args:
        first: Ids, best first, without duplicates.
        second: The other ranking.

    Examples:
        >>> kendall_tau(["a", "b", "c"], ["c", "b", "a"])
        -1.0
    """
    place = {document: i for i, document in enumerate(second)}
    places = np.array([place[document] for document in first if document in place])
    n = len(places)
    if n < 2:
        return None
    inversions = int(np.triu(places[:, None] > places, 1).sum())
    return 1 - 4 * inversions / (n * (n - 1))
