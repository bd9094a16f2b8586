"""Rank-biased overlap and Kendall's tau agree with hand-worked examples, with their definitions and with scipy."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.eval.overlap import kendall_tau, rank_biased_overlap


def direct(first, second, p):
    """Equation 32 of Webber, Moffat and Zobel, computed term by term."""
    short, long = sorted((first, second), key=len)
    s, n = len(short), len(long)
    shared = [len(set(short[:d]) & set(long[:d])) for d in range(n + 1)]
    total = sum(shared[d] / d * p**d for d in range(1, n + 1))
    total += sum(shared[s] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * total + ((shared[n] - shared[s]) / n + shared[s] / s) * p**n


def test_values_equal_hand_worked_examples():
    # The lists share nothing at depth 1 and everything at depth 2: (1 - p) / p (0 p + p^2) + p^2 = p.
    assert rank_biased_overlap(["a", "b"], ["b", "a"], 0.8) == pytest.approx(0.8)
    assert rank_biased_overlap(["a", "b", "c"], ["a", "b", "c"]) == pytest.approx(1)
    assert rank_biased_overlap(["a"], ["b"]) == 0
    assert (rank_biased_overlap([], []), rank_biased_overlap([], ["a"])) == (1, 0)
    assert (kendall_tau(["a", "b", "c"], ["a", "c", "b"]), kendall_tau(["a"], ["a"])) == (pytest.approx(1 / 3), None)


@pytest.mark.parametrize("seed", range(10))
def test_values_equal_the_definition_and_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    first, second = (list(map(str, rng.permutation(30)[: rng.integers(2, 25)])) for _ in range(2))
    assert rank_biased_overlap(first, second, 0.7) == pytest.approx(direct(first, second, 0.7))
    assert rank_biased_overlap(second, first, 0.7) == pytest.approx(direct(first, second, 0.7))
    both = [document for document in first if document in second]
    if len(both) > 1:
        expected = stats.kendalltau(range(len(both)), [second.index(document) for document in both]).statistic
        assert kendall_tau(first, second) == pytest.approx(expected)


def test_an_invalid_persistence_is_refused():
    with pytest.raises(ValueError, match="p must be between 0 and 1, got 1"):
        rank_biased_overlap(["a"], ["a"], 1)
