"""Pairwise re-ranking with fewer comparisons than there are pairs (arXiv 2207.04470).

A comparison gives the probability that document i belongs before document j. A sampler chooses pairs of the ranks
0 to n - 1, and an aggregator turns the probabilities into a score for each document:

    pairs = windows(50, 16)
    preferences = compared(50, pairs, [compare(query, texts[i], texts[j]) for i, j in pairs])
    order = np.argsort(-greedy(preferences), kind="stable")

Preferences are an (n, n) float64 matrix. Entry [i, j] is the probability that i belongs before j, or NaN if the two
weren't compared. Ties are broken by the first ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pairs = list[tuple[int, int]]
Preferences = NDArray[np.float64]
_DAMPING = 0.85
_PENALTY = 0.2  # squared penalty on the strengths of Bradley-Terry
_TIE = 0.05  # probabilities this close to 0.5 are ties
_NEWTON_STEPS = 50

# --- samplers: from the number of documents to pairs of ranks ---------------------------------------------------------


def all_pairs(n: int) -> Pairs:
    """Every document against every other, in both orders: n (n - 1) pairs."""
    return [(i, j) for i in range(n) for j in range(n) if i != j]


def random_pairs(n: int, share: float, seed: int = 0) -> Pairs:
    """A share of all pairs, drawn at random."""
    pairs = all_pairs(n)
    _check_share(share)
    drawn = np.random.default_rng(seed).permutation(len(pairs))[: math.ceil(share * len(pairs))]
    return [pairs[i] for i in np.sort(drawn)]


def windows(n: int, width: int, skip: int = 1) -> Pairs:
    """Compare each document with `width` others: those 1, 1 + skip, 1 + 2 skip, … ranks after it, wrapping around."""
    if width < 0 or skip < 1:
        raise ValueError(f"width must be at least 0 and skip at least 1, got {width} and {skip}")
    found: dict[tuple[int, int], None] = {}
    for i in range(n):
        for step in range(width):
            if (j := (i + 1 + step * skip) % n) != i:
                found[i, j] = None
    return list(found)


def near_pairs(n: int, share: float, seed: int = 0) -> Pairs:
    """A share of all pairs, drawn with probabilities that fall exponentially with the distance of the ranks."""
    pairs = all_pairs(n)
    _check_share(share)
    count = math.ceil(share * len(pairs))
    distances = np.array([abs(i - j) for i, j in pairs], np.float64)
    # The largest sums of a Gumbel variable and a log probability are a sample without replacement.
    keys = np.random.default_rng(seed).gumbel(size=len(pairs)) - distances / max(share * n, 1)
    return [pairs[i] for i in np.sort(np.argsort(-keys, kind="stable")[:count])]


def groups(n: int, count: int) -> Pairs:
    """All pairs within groups; rank i belongs to group i modulo `count`."""
    if count < 1:
        raise ValueError(f"at least one group is needed, got {count}")
    return [(i, j) for i, j in all_pairs(n) if i % count == j % count]


def compared(n: int, pairs: Pairs, probabilities: ArrayLike) -> Preferences:
    """The matrix of preferences.

    Args:
        n: Number of documents.
        pairs: The pairs compared.
        probabilities: (len(pairs),) float, the probability that the first of a pair belongs before the second.

    Raises:
        ValueError: There isn't exactly one probability from 0 to 1 for each pair.
    """
    values = np.asarray(probabilities, np.float64)
    if values.shape != (len(pairs),) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"one probability from 0 to 1 is needed for each of {len(pairs)} pairs, got {values.shape}")
    found = np.full((n, n), np.nan)
    if pairs:
        found[tuple(np.array(pairs).T)] = values
    return found


# --- aggregators: preferences to scores -------------------------------------------------------------------------------


def additive(preferences: Preferences) -> NDArray[np.float64]:
    """(n,) float64: sum over j of p_ij + (1 - p_ji)."""
    p = preferences
    return np.asarray(np.nansum(p, axis=1) + np.nansum(1 - p, axis=0))


def mean(preferences: Preferences) -> NDArray[np.float64]:
    """(n,) float64, 0 to 1: `additive` divided by the document's number of comparisons; 0.5 without comparisons."""
    counts = (~np.isnan(preferences)).sum(1) + (~np.isnan(preferences)).sum(0)
    return np.where(counts > 0, additive(preferences) / np.maximum(counts, 1), 0.5)


def greedy(preferences: Preferences) -> NDArray[np.float64]:
    """(n,) float64, n for the first, 1 for the last, by greedy ordering (Cohen, Schapire & Singer 1999).

    The next document is always the one with the largest sum of p_ij - p_ji over the remaining documents.
    """
    net = _net(preferences)
    potential, left = net.sum(1), np.ones(len(net), bool)
    scores = np.zeros(len(net))
    for place in range(len(net)):
        best = int(np.flatnonzero(left)[potential[left].argmax()])
        scores[best], left[best] = len(net) - place, False
        potential -= net[:, best]
    return scores


def bradley_terry(preferences: Preferences) -> NDArray[np.float64]:
    """(n,) float64 strengths s with p_ij = sigmoid(s_i - s_j), fitted by maximum likelihood with a squared penalty."""
    first, second = np.nonzero(~np.isnan(preferences))
    p = preferences[first, second]
    p = np.where(np.abs(p - 0.5) <= _TIE, 0.5, p)
    n = len(preferences)
    s = np.zeros(n)
    for _ in range(_NEWTON_STEPS):
        guess = 1 / (1 + np.exp(s[second] - s[first]))
        gradient = 2 * _PENALTY * s
        np.add.at(gradient, first, guess - p)
        np.add.at(gradient, second, p - guess)
        curve = guess * (1 - guess)
        hessian = np.diag(np.full(n, 2 * _PENALTY))
        for at, sign in (((first, first), 1), ((second, second), 1), ((first, second), -1), ((second, first), -1)):
            np.add.at(hessian, at, sign * curve)
        step = np.linalg.solve(hessian, gradient) if n else gradient
        s = s - step
        if np.abs(step).max(initial=0) < 1e-10:
            break
    return s


def pagerank(preferences: Preferences) -> NDArray[np.float64]:
    """(n,) float64: PageRank. A document passes its rank to other documents in proportion to the probability that these
    belong before it.
    """
    n = len(preferences)
    known, ahead = ~np.isnan(preferences), np.nan_to_num(preferences)
    to = ahead.T + np.where(known, 1 - ahead, 0)  # [j, i]: what j passes on to i
    sums = to.sum(1, keepdims=True)
    to = np.where(sums > 0, to / np.where(sums > 0, sums, 1), 1 / max(n, 1))
    rank = np.full(n, 1 / max(n, 1))
    for _ in range(200):
        new = (1 - _DAMPING) / max(n, 1) + _DAMPING * (rank @ to)
        if np.abs(new - rank).max(initial=0) < 1e-12:
            break
        rank = new
    return rank


def kwiksort(preferences: Preferences, seed: int = 0) -> NDArray[np.float64]:
    """(n,) float64, n for the first, 1 for the last: quicksort with random pivots (Ailon, Charikar & Newman 2008).

    Documents that weren't compared with the pivot stay before or after it, as in the first ranking.
    """
    net, rng = _net(preferences), np.random.default_rng(seed)

    def ordered(some: list[int]) -> list[int]:
        if len(some) < 2:
            return some
        pivot = some[int(rng.integers(len(some)))]
        rest = [i for i in some if i != pivot]
        before = [i for i in rest if net[i, pivot] > 0 or (net[i, pivot] == 0 and i < pivot)]
        after = [i for i in rest if i not in set(before)]
        return [*ordered(before), pivot, *ordered(after)]

    scores = np.zeros(len(net))
    scores[ordered(list(range(len(net))))] = np.arange(len(net), 0, -1)
    return scores


def _net(preferences: Preferences) -> Preferences:
    """(n, n) float64: how much i is preferred to j; 0 if the two weren't compared."""
    known = np.nan_to_num(preferences - 0.5)
    return np.asarray(known - known.T)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")


SAMPLERS: dict[str, Callable[[int, float], Pairs]] = {
    "random": random_pairs,
    "windows": lambda n, share: windows(n, math.ceil(share * max(n - 1, 0))),
    "skipping windows": lambda n, share: windows(n, math.ceil(share * max(n - 1, 0)), max(1, int(1 / share))),
    "near": near_pairs,
    "groups": lambda n, share: groups(n, max(1, round(1 / share))),
}
AGGREGATORS: dict[str, Callable[[Preferences], NDArray[np.float64]]] = {
    "additive": additive,
    "mean": mean,
    "bradley-terry": bradley_terry,
    "greedy": greedy,
    "pagerank": pagerank,
    "kwiksort": kwiksort,
}
