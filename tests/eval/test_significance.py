"""Paired tests agree with hand-worked examples and scipy; p-values are uniform under the null hypothesis."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.eval.significance import bootstrap_interval, compare, compare_seeds, holm, most_different, seeds_interval

stats = pytest.importorskip("scipy.stats")


def by_query(values):
    return {f"q{i:03}": float(value) for i, value in enumerate(values)}


def zeros(n):
    return by_query(np.zeros(n))


def test_the_randomization_test_equals_a_hand_worked_example():
    # The 8 ways to flip the signs of 1, 2, 3 give the sums 6 4 2 0 0 -2 -4 -6. Two of the
    # absolute values are at least 6, and four are at least 4.
    assert compare(by_query([1, 2, 3]), zeros(3)).p == 2 / 8
    assert compare(by_query([-1, 2, 3]), zeros(3)).p == 4 / 8
    assert compare(by_query([-1, -2, 3]), zeros(3)).p == 1


def test_a_comparison_counts_wins_ties_and_losses():
    found = compare(by_query([0.5, 0.1, 0.7, 0.3]), by_query([0.25, 0.1, 0.2, 0.8]))
    assert (found.wins, found.ties, found.losses, found.n) == (2, 1, 1, 4)
    assert found.difference == pytest.approx(0.0625)
    assert found.low <= found.difference <= found.high
    assert found == compare(by_query([0.5, 0.1, 0.7, 0.3]), by_query([0.25, 0.1, 0.2, 0.8]))


@pytest.mark.parametrize("test", ["randomization", "t"])
def test_identical_values_have_a_p_value_of_one(test):
    found = compare(zeros(5), zeros(5), test=test)
    assert (found.p, found.low, found.high, found.ties) == (1, 0, 0, 5)
    rounded = by_query([0.1 + 0.2] * 5), by_query([0.3] * 5)
    assert compare(*rounded, test=test).p == 1


def test_the_t_test_handles_constant_differences_and_single_queries():
    assert compare(by_query([0.3] * 5), by_query([0.2] * 5), test="t").p == 0
    assert compare(by_query([0.3]), by_query([0.2]), test="t").p == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_t_test_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(40), rng.random(40)
    assert compare(by_query(a), by_query(b), test="t").p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


def permutation_test(a, b, **settings):
    def mean_difference(x, y, axis):
        return np.mean(x - y, axis=axis)

    return stats.permutation_test(
        (a, b), mean_difference, permutation_type="samples", vectorized=True, **settings
    ).pvalue


@pytest.mark.parametrize("seed", range(8))
def test_the_exact_randomization_test_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, (2, 10)) / 3  # thirds give tied sums, which rounding errors must not separate
    assert compare(by_query(a), by_query(b)).p == pytest.approx(permutation_test(a, b, n_resamples=np.inf), abs=1e-12)


def test_sampled_sign_flips_estimate_the_exact_p_value():
    rng = np.random.default_rng(3)
    a, b = rng.random(14) + 0.15, rng.random(14)
    exact = compare(by_query(a), by_query(b)).p
    assert compare(by_query(a), by_query(b), samples=2**14 - 1).p == pytest.approx(exact, abs=0.015)
    a, b = rng.random(200) + 0.03, rng.random(200)
    theirs = permutation_test(a, b, n_resamples=20_000, rng=np.random.default_rng(1))
    assert compare(by_query(a), by_query(b), samples=20_000).p == pytest.approx(theirs, abs=0.015)


def test_a_sampled_p_value_is_never_zero():
    found = compare(by_query(np.ones(100)), zeros(100), samples=999)
    assert found.p == 1 / 1000


@pytest.mark.parametrize("test", ["randomization", "t"])
def test_p_values_are_uniform_if_the_systems_are_equally_good(test):
    rng = np.random.default_rng(11)
    p = [
        compare(by_query(a), by_query(b), test=test, samples=200, seed=i).p
        for i, (a, b) in enumerate(rng.random((300, 2, 20)))
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_holm_correction_equals_a_hand_worked_example():
    # Holm 1979: 0.01 * 4, 0.02 * 3, 0.03 * 2 and 0.04 * 1; then each value is raised to at least the previous value.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, float("nan")])


def test_bootstrap_intervals_equal_normal_intervals_for_many_queries():
    values = by_query(np.random.default_rng(5).normal(0.5, 0.1, 400))
    low, high = bootstrap_interval(values)
    half = 1.96 * np.std(list(values.values())) / np.sqrt(400)
    mean = np.mean(list(values.values()))
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    assert (low, high) == bootstrap_interval(dict(reversed(values.items())))
    inner = bootstrap_interval(values, level=0.5)
    assert low < inner[0] < inner[1] < high
    assert bootstrap_interval({"q": 0.3}) == (0.3, 0.3)


def test_the_function_most_different_sorts_queries_by_absolute_difference():
    values, baseline = {"a": 0.5, "b": 1, "c": 0.2, "d": 0.2}, {"a": 0.4, "b": 0.5, "c": 0.7, "d": 0.2}
    assert most_different(values, baseline) == [("b", 1, 0.5), ("c", 0.2, 0.7), ("a", 0.5, 0.4)]
    assert most_different(values, baseline, 1) == [("b", 1, 0.5)]


def test_the_error_for_invalid_input_names_the_query_or_argument():
    with pytest.raises(DataError, match=r"2 and 2 queries, of which 2 have one value only: b, c"):
        compare({"a": 1, "b": 1}, {"a": 1, "c": 1})
    with pytest.raises(DataError, match="no queries"):
        compare({}, {})
    with pytest.raises(DataError, match="query 'a': the value nan"):
        most_different({"a": float("nan")}, {"a": 1})
    with pytest.raises(DataError, match="query 'a': the value inf"):
        bootstrap_interval({"a": float("inf")})
    with pytest.raises(ValueError, match="samples"):
        compare({"a": 1}, {"a": 2}, samples=0)
    with pytest.raises(ValueError, match='"randomization" or "t"'):
        compare({"a": 1}, {"a": 2}, test="wilcoxon")


def test_the_test_over_seeds_equals_a_hand_worked_example():
    # The mean differences per query are 2 and 4: their variance is 2, so the variance of their mean is 1. The means per
    # seed are also 2 and 4, which adds another variance of 1. The baseline has one seed and adds no variance. The
    # standard error is sqrt(1 + 1), with (1 + 1)^2 / (1 + 1) = 2 degrees of freedom.
    seeds = [by_query([1, 3]), by_query([3, 5])]
    found = compare_seeds(seeds, [zeros(2)])
    assert (found.difference, found.wins, found.n) == (3, 2, 2)
    assert found.p == pytest.approx(2 * stats.t.sf(3 / np.sqrt(2), 2))
    half = stats.t.ppf(0.975, 2) * np.sqrt(2)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert seeds_interval(seeds) == pytest.approx((3 - half, 3 + half))


def test_without_variance_over_seeds_the_test_is_a_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.random(40)
    assert compare_seeds([by_query(a)] * 3, [by_query(b)]).p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert compare_seeds([by_query(a)] * 3, [by_query(a)]).p == 1
    assert compare_seeds([by_query([0.3])], [by_query([0.2])]).p == 1


def test_differences_due_to_seeds_are_not_significant():
    """A test over queries alone often finds significant differences between systems that differ only in their seed."""
    rng = np.random.default_rng(1)
    over_seeds, over_queries = [], []
    for _ in range(200):
        hardness = rng.normal(0, 0.3, 150)
        systems = [
            [by_query(hardness + rng.normal(0, 0.02) + rng.normal(0, 0.1, 150)) for _ in range(3)] for _ in range(2)
        ]
        over_seeds.append(compare_seeds(*systems).p)
        over_queries.append(stats.ttest_rel(*(list(one[0].values()) for one in systems)).pvalue)
    assert np.mean(np.array(over_queries) < 0.05) > 0.3
    assert np.mean(np.array(over_seeds) < 0.05) <= 0.08


def test_seeds_with_different_queries_are_refused():
    with pytest.raises(DataError, match="the queries are not the baseline's"):
        compare_seeds([zeros(2), zeros(3)], [zeros(2)])
    with pytest.raises(DataError, match="at least one seed"):
        compare_seeds([], [zeros(2)])
