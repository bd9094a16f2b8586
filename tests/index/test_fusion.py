"""Runs are fused by ranks or scores, with weights, missing documents and ties."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.index.hybrid.fusion import interpolate, reciprocal_rank_fusion

BM25 = {"q": {"a": 9.0, "b": 6.0, "c": 3.0}}
SPLADE = {"q": {"c": 2.0, "d": 1.0}}


def test_reciprocal_rank_fusion_equals_a_hand_worked_example():
    fused = reciprocal_rank_fusion([BM25, SPLADE])["q"]
    expected = {"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62}
    assert fused == pytest.approx(expected)
    assert list(fused) == ["c", "a", "b", "d"]


def test_weights_and_k_change_reciprocal_ranks():
    fused = reciprocal_rank_fusion([BM25, SPLADE], k=0, weights=[1, 0.5])["q"]
    assert fused == pytest.approx({"a": 1, "c": 1 / 3 + 0.5, "b": 1 / 2, "d": 0.25})


def test_interpolation_equals_a_hand_worked_example():
    fused = interpolate([BM25, SPLADE], weights=[0.4, 0.6])["q"]
    assert fused == pytest.approx({"a": 0.4, "b": 0.2, "c": 0.6, "d": 0.0})
    assert list(fused) == ["c", "a", "b", "d"]


def test_a_missing_document_gets_the_lowest_score_of_the_run():
    fused = interpolate([BM25, SPLADE], normalization="none")["q"]
    # Each run's lowest score is subtracted from its scores. A missing document counts as having the lowest score.
    assert fused == pytest.approx({"a": 6.0, "b": 3.0, "c": 1.0, "d": 0.0})


def test_single_documents_and_equal_scores_normalize_to_one():
    assert interpolate([{"q": {"a": 3.0}}, {"q": {"b": 5.0, "c": 5.0}}])["q"] == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_queries_of_all_runs_are_fused():
    fused = reciprocal_rank_fusion([{"p": {"a": 1.0}}, {"q": {"b": 1.0}, "empty": {}}])
    assert list(fused) == ["p", "q", "empty"]
    assert fused["empty"] == {}


@pytest.mark.parametrize("fuse", [reciprocal_rank_fusion, interpolate])
def test_a_single_run_keeps_its_order_with_ties(fuse):
    rng = np.random.default_rng(0)
    scores = sorted(rng.integers(0, 5, 30).astype(float).tolist(), reverse=True)
    run = {"q": {f"d{i}": score for i, score in enumerate(scores)}}
    assert list(fuse([run])["q"]) == list(run["q"])


@pytest.mark.parametrize("fuse", [reciprocal_rank_fusion, interpolate])
def test_missing_runs_and_missing_weights_are_refused(fuse):
    with pytest.raises(ValueError, match="no run"):
        fuse([])
    with pytest.raises(ValueError, match="1 weights for 2 runs"):
        fuse([BM25, SPLADE], weights=[1])


def test_an_invalid_k_or_normalization_is_refused():
    with pytest.raises(ValueError, match="k must be at least 0"):
        reciprocal_rank_fusion([BM25], k=-1)
    with pytest.raises(ValueError, match="'z-score'"):
        interpolate([BM25], normalization="z-score")


@pytest.mark.parametrize("fuse", [reciprocal_rank_fusion, interpolate])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_and_weights_must_be_finite(fuse, bad):
    with pytest.raises(ValueError, match="query 'q' has a score that isn't a finite number"):
        fuse([BM25, {"q": {"a": bad, "b": 1.0}}])
    with pytest.raises(ValueError, match="weights must be finite"):
        fuse([BM25, SPLADE], weights=[1, bad])
