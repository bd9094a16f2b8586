"""Re-ranking by comparisons: samplers choose pairs, aggregators turn the results into an order."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.pairwise import (
    AGGREGATORS,
    SAMPLERS,
    additive,
    all_pairs,
    bradley_terry,
    compared,
    greedy,
    mean,
    random_pairs,
    windows,
)

N = 50


def kendall(order, truth):
    place = np.argsort(order)
    pairs = [(i, j) for i in range(N) for j in range(i)]
    agree = sum((place[i] - place[j]) * (truth[i] - truth[j]) > 0 for i, j in pairs)
    return 2 * agree / len(pairs) - 1


@pytest.fixture(scope="module")
def strengths():
    """The documents' true strengths, which roughly follow the first ranking."""
    rng = np.random.default_rng(3)
    return np.linspace(12, 0, N) + rng.normal(0, 1.5, N)


def chances(strengths, pairs, noise=0.0):
    at = np.array(pairs)
    apart = strengths[at[:, 0]] - strengths[at[:, 1]] + np.random.default_rng(5).normal(0, noise, len(at))
    return 1 / (1 + np.exp(-2 * apart))


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_all_comparisons_recover_the_order(strengths, aggregator):
    preferences = compared(N, all_pairs(N), chances(strengths, all_pairs(N)))
    order = np.argsort(-AGGREGATORS[aggregator](preferences), kind="stable")
    assert order.tolist() == np.argsort(-strengths, kind="stable").tolist()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("share", [0.1, 1 / 3, 1.0])
def test_samplers_take_the_given_share(sampler, share):
    pairs = SAMPLERS[sampler](N, share)
    assert len(set(pairs)) == len(pairs)
    assert all(0 <= i < N and 0 <= j < N and i != j for i, j in pairs)
    assert len(pairs) == pytest.approx(share * N * (N - 1), rel=0.2)
    assert SAMPLERS[sampler](N, share) == pairs
    assert SAMPLERS[sampler](1, share) == SAMPLERS[sampler](0, share) == []


def test_a_third_of_the_comparisons_is_nearly_as_good_as_all_comparisons(strengths):
    truth = -strengths
    for sampler, aggregator in (
        ("skipping windows", "greedy"),
        ("windows", "bradley-terry"),
        ("random", "bradley-terry"),
    ):
        pairs = SAMPLERS[sampler](N, 1 / 3)
        preferences = compared(N, pairs, chances(strengths, pairs, noise=0.3))
        assert (
            kendall(np.argsort(-AGGREGATORS[aggregator](preferences), kind="stable"), np.argsort(np.argsort(truth)))
            >= 0.9
        )


def test_windows_equal_a_hand_worked_example():
    assert windows(5, 2) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 0), (4, 0), (4, 1)]
    assert windows(5, 2, skip=2) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 3), (2, 0), (3, 4), (3, 1), (4, 0), (4, 2)]


def test_aggregators_equal_a_hand_worked_example():
    preferences = compared(3, [(0, 1), (1, 0), (2, 0)], [0.9, 0.3, 0.9])
    assert additive(preferences) == pytest.approx([0.9 + 0.7 + 0.1, 0.3 + 0.1, 0.9])
    assert mean(preferences) == pytest.approx([1.7 / 3, 0.4 / 2, 0.9])
    # Potentials are 0.2, -0.6 and 0.4, so document 2 comes first. Without document 2, document 0
    # has the potential 0.6.
    assert greedy(preferences).tolist() == [2, 1, 3]


def test_bradley_terry_finds_the_strengths():
    preferences = compared(2, [(0, 1)], [0.8])
    s = bradley_terry(preferences)
    # The gradient of the penalised likelihood is zero: sigmoid(s0 - s1) - 0.8 + 0.4 s0 = 0.
    assert 1 / (1 + np.exp(s[1] - s[0])) - 0.8 + 0.4 * s[0] == pytest.approx(0, abs=1e-9)
    assert s.sum() == pytest.approx(0, abs=1e-9)
    assert bradley_terry(compared(2, [(0, 1)], [0.53])).tolist() == [0, 0]  # too close to call: a tie


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_without_comparisons_the_first_ranking_is_kept(aggregator):
    scores = AGGREGATORS[aggregator](compared(5, [], []))
    assert np.argsort(-scores, kind="stable").tolist() == [0, 1, 2, 3, 4]
    assert len(AGGREGATORS[aggregator](compared(0, [], []))) == 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="one probability from 0 to 1"):
        compared(3, [(0, 1)], [1.5])
    with pytest.raises(ValueError, match="one probability from 0 to 1"):
        compared(3, [(0, 1)], [float("nan")])
    with pytest.raises(ValueError, match="share must be above 0"):
        random_pairs(5, 0)
    with pytest.raises(ValueError, match="skip at least 1"):
        windows(5, 2, skip=0)
