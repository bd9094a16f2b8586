"""Significance of differences: paired tests over {query: value}, intervals, and corrections for several systems.

    compare(values, baseline)    difference of the means, its interval, a p-value, wins and losses
    holm(p_values)               adjusted p-values of several systems against one baseline
    compare_seeds(a, b)          like compare, for systems that were trained with several seeds
    bootstrap_interval(values)   interval of a mean over other samples of queries
    seeds_interval(values)       interval of a mean over other samples of queries and seeds
    most_different(a, b)         the queries that differ most

Smucker, Allan and Carterette (CIKM 2007) recommend the randomisation test and the t test for retrieval. With random
flips, p is estimated as (r + 1) / (samples + 1), which is never 0 (Phipson and Smyth 2010). The correction is Holm's
(1979). With seeds, both queries and seeds are samples (Clark 1973): the variance of a mean is the sum of their
contributions, and its degrees of freedom are Satterthwaite's (1946).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lsr.errors import DataError, MissingExtra

_AT_ONCE = 1 << 21  # numbers drawn at a time
_EQUAL = 1e-12  # smaller differences count as equal: the rounding error of a sum can be as large

Values = Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A comparison of two systems.

    Attributes:
        difference: Mean of the system's values minus the mean of the baseline's values.
        low: Lower end of the difference's 95 % interval.
        high: Upper end of this interval.
        p: Two-sided p-value: the probability of a difference at least as large if the systems are equally good.
        wins: Queries with a higher value than in the baseline.
        ties: Queries with the same value.
        losses: Queries with a lower value.
        n: Number of queries.
    """

    difference: float
    low: float
    high: float
    p: float
    wins: int
    ties: int
    losses: int
    n: int


def compare(
    values: Values,
    baseline: Values,
    *,
    test: Literal["randomization", "t"] = "randomization",
    samples: int = 100_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same queries; the test is two-sided.

    Args:
        values: {query_id: value} of a system.
        baseline: {query_id: value} of the baseline.
        test: "randomization" flips the signs of the differences, in all combinations if there are at most `samples`,
            otherwise at random; "t" is Student's paired test.
        samples: Number of random sign flips.
        seed: Seed of the flips and the bootstrap.

    Raises:
        DataError: The queries differ from the baseline's, there are none, or a value is not finite.
        MissingExtra: scipy, which the t test needs, is not installed.
    """
    differences = np.array([a - b for _, a, b in _paired(values, baseline)])
    differences[np.abs(differences) <= _EQUAL] = 0
    if test == "t":
        p = _t_test(differences)
    elif test == "randomization":
        p = _randomization(differences, _positive(samples, "samples"), seed)
    else:
        raise ValueError(f'test must be "randomization" or "t", got {test!r}')
    low, high = _interval(differences, 0.95, 10_000, seed)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    n = len(differences)
    return Comparison(float(differences.mean()), low, high, p, wins, n - wins - losses, losses, n)


def compare_seeds(values: Sequence[Values], baseline: Sequence[Values]) -> Comparison:
    """Compare two systems of which at least one was trained with several seeds; the test is two-sided.

    A t test shows whether the difference generalizes to other queries and other seeds. It counts the interaction of
    query and seed twice, so it is conservative: it may miss differences, but doesn't find too many.

    Args:
        values: {query_id: value} for each seed of a system; a single mapping in the list for a system without seeds.
        baseline: {query_id: value} for each seed of the baseline. Seeds of both systems count as independent, even if
            their numbers are equal.

    Returns:
        The comparison. Wins, ties and losses compare each query's mean over the seeds; the interval is from the t test.

    Raises:
        DataError: The queries differ from the baseline's, there are none, or a value is not finite.
        MissingExtra: scipy is not installed.
    """
    pairs = _paired(_mean_of(values), _mean_of(baseline))
    differences = np.array([a - b for _, a, b in pairs])
    differences[np.abs(differences) <= _EQUAL] = 0
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    n = len(differences)
    half, p = _over_seeds(differences, [values, baseline])
    mean = float(differences.mean())
    return Comparison(mean, mean - half, mean + half, p, wins, n - wins - losses, losses, n)


def seeds_interval(values: Sequence[Values]) -> tuple[float, float]:
    """95 % interval of a mean, with both queries and seeds as samples; raises the errors of `compare_seeds`."""
    by_query = _mean_of(values)
    array = np.array([value for _, value, _ in _paired(by_query, by_query)])
    half, _ = _over_seeds(array, [values])
    return float(array.mean()) - half, float(array.mean()) + half


def _mean_of(seeds: Sequence[Values]) -> dict[str, float]:
    """{query: mean over the seeds}."""
    if not seeds:
        raise DataError("a comparison over seeds needs at least one seed")
    for other in seeds[1:]:
        _paired(other, seeds[0])  # raises an error if the queries differ
    return {query: sum(one[query] for one in seeds) / len(seeds) for query in seeds[0]}


def _over_seeds(by_query: NDArray[np.float64], systems: Sequence[Sequence[Values]]) -> tuple[float, float]:
    """Return half the width of the 95 % interval of the mean of (n,) values, and the mean's two-sided p-value against
    0.
    """
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingExtra("scipy", "eval", "a test over seeds") from None
    means = [[sum(one.values()) / len(one) for one in seeds] for seeds in systems if len(seeds) > 1]
    samples = [by_query, *map(np.array, means)]
    parts = [(float(values.var(ddof=1)) / len(values), len(values) - 1) for values in samples if len(values) > 1]
    variance = sum(part for part, _ in parts)
    mean = float(by_query.mean())
    if variance <= _EQUAL**2:
        return 0.0, 0.0 if parts and abs(mean) > _EQUAL else 1.0
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    error = math.sqrt(variance)
    return error * float(t.ppf(0.975, freedom)), float(2 * t.sf(abs(mean) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several systems against one baseline to control the family-wise error rate (Holm).

    Args:
        p_values: One p-value for each system.

    Returns:
        The adjusted p-values in the same order; values of at most 0.05 are significant at 5 % over all systems.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def bootstrap_interval(
    values: Values, *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean, with queries drawn with replacement.

    Args:
        values: {query_id: value}.
        level: Between 0 and 1.
        samples: Number of samples.
        seed: Seed of the draws.

    Raises:
        DataError: There are no values, or a value is not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not values:
        raise DataError("an interval needs at least one query")
    for query, value in values.items():
        _finite(query, value)
    # Queries are ordered by id, so that the interval doesn't depend on the order of reading.
    array = np.array([values[query] for query in sorted(values)], np.float64)
    return _interval(array, level, _positive(samples, "samples"), seed)


def most_different(values: Values, baseline: Values, n: int = 10) -> list[tuple[str, float, float]]:
    """Return the queries that differ most as (query, value, baseline's value), largest difference first.

    Queries without a difference are left out; queries with equal differences are ordered by id.

    Raises:
        DataError: As for `compare`.
    """
    differing = [row for row in _paired(values, baseline) if abs(row[1] - row[2]) > _EQUAL]
    return sorted(differing, key=lambda row: -abs(row[1] - row[2]))[: _positive(n, "n")]


def _paired(values: Values, baseline: Values) -> list[tuple[str, float, float]]:
    """(query, value, baseline's value), ordered by id."""
    if unpaired := sorted(values.keys() ^ baseline.keys()):
        raise DataError(
            f"the queries are not the baseline's: {len(values)} and {len(baseline)} queries, of which {len(unpaired)} "
            f"have one value only: {', '.join(unpaired[:5])}{', …' if len(unpaired) > 5 else ''}"
        )
    if not values:
        raise DataError("no queries to compare on")
    for query in values:
        _finite(query, values[query])
        _finite(query, baseline[query])
    return [(query, values[query], baseline[query]) for query in sorted(values)]


def _finite(query: str, value: float) -> None:
    if not math.isfinite(value):
        raise DataError(f"the value {value!r} is not a finite number", f"query {query!r}")


def _positive(number: int, name: str) -> int:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def _randomization(differences: NDArray[np.float64], samples: int, seed: int) -> float:
    """Return the share of sign flips whose sum is at least as far from 0 as the observed sum."""
    moved = differences[differences != 0]  # flipping the sign of 0 changes nothing
    bound = abs(moved.sum()) - _EQUAL * np.abs(moved).sum()  # rounding depends on the order of a sum
    exact = len(moved) < 63 and 2 ** len(moved) <= samples
    count = 2 ** len(moved) if exact else samples
    reached = 0
    for flips in _all_flips(len(moved)) if exact else _random_flips(len(moved), samples, seed):
        reached += int((np.abs(moved.sum() - 2 * (flips @ moved)) >= bound).sum())
    return reached / count if exact else (reached + 1) / (count + 1)


def _all_flips(n: int) -> Iterator[NDArray[np.uint8]]:
    """Yield all (2^n, n) combinations of n signs, in parts."""
    rows = max(1, _AT_ONCE // max(n, 1))
    for start in range(0, 2**n, rows):
        numbers = np.arange(start, min(start + rows, 2**n), dtype=np.int64)
        yield ((numbers[:, None] >> np.arange(n)) & 1).astype(np.uint8)


def _random_flips(n: int, samples: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield (samples, n) random bits, in parts."""
    rng = np.random.default_rng(seed)
    for rows in _parts(samples, n):
        packed = rng.integers(0, 256, (rows, (n + 7) // 8), np.uint8)
        yield np.unpackbits(packed, axis=1, count=n)


def _parts(samples: int, n: int) -> Iterator[int]:
    """Divide samples of n numbers each into parts that fit in memory, and yield the parts' sizes."""
    rows = max(1, _AT_ONCE // n)
    for start in range(0, samples, rows):
        yield min(rows, samples - start)


def _t_test(differences: NDArray[np.float64]) -> float:
    try:
        from scipy.stats import ttest_rel
    except ImportError:
        raise MissingExtra("scipy", "eval", "a t test") from None
    if not differences.any() or len(differences) < 2:
        return 1.0  # there is no difference; the formula would be 0 / 0
    if np.ptp(differences) <= _EQUAL * np.abs(differences).max():
        return 0.0  # all differences are equal: t is infinite
    return float(ttest_rel(differences, np.zeros_like(differences)).pvalue)


def _interval(array: NDArray[np.float64], level: float, samples: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    n = len(array)
    means = np.concatenate([array[rng.integers(0, n, (rows, n))].mean(axis=1) for rows in _parts(samples, n)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
