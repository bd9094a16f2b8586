"""`examine` names each kind of collapse, and finds none in a healthy model."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.sparse import SparseMatrix
from lsr.train.collapse_check import effective_rank, examine

VOCABULARY = ["[CLS]", "the", "of", *(f"word{i}" for i in range(397))]
N_DOCS = 50


@pytest.fixture
def healthy():
    """Documents with 20 random terms each."""
    draw = np.random.default_rng(0)
    dense = np.zeros((N_DOCS, len(VOCABULARY)), np.float32)
    for row in dense:
        row[draw.choice(np.arange(3, len(VOCABULARY)), 20, replace=False)] = draw.uniform(0.1, 2, 20)
    return dense


def found(dense):
    return [finding.what for finding in examine(SparseMatrix.from_dense(dense), VOCABULARY, special=[0])]


def test_a_healthy_model_has_no_findings(healthy):
    assert found(healthy) == []
    assert found(healthy[:0]) == []


@pytest.mark.parametrize("dead", [3, N_DOCS])
def test_empty_vectors_are_reported(healthy, dead):
    healthy[:dead] = 0
    assert found(healthy) == ["dead rows"]
    (finding,) = examine(SparseMatrix.from_dense(healthy), VOCABULARY)
    assert f"{dead / N_DOCS:.0%} of the documents have no term" in str(finding)


def test_dense_vectors_are_reported(healthy):
    assert "everything dense" in found(healthy + 0.01)


def test_weight_on_special_tokens_and_function_words_is_reported(healthy):
    special = healthy.copy()
    special[:, 0] = 1
    assert found(special) == ["weight on special tokens"]
    healthy[:, 1:3] = 6
    assert found(healthy) == ["weight on function words"]


def test_nearly_equal_vectors_are_reported(healthy):
    healthy[:, :] = 0
    healthy[:, 100:120] = 1
    assert found(healthy) == ["the same terms everywhere"]
    healthy[:, 100:120] = np.random.default_rng(0).random((N_DOCS, 20)) < 0.8
    assert found(healthy) == ["vocabulary never used"]


@pytest.mark.parametrize("seed", range(5))
def test_shared_terms_are_reported_by_their_mass(healthy, seed):
    """All documents share 40 terms, which are a minority of each document's terms but have nearly all its weight."""
    draw = np.random.default_rng(seed)
    healthy = healthy * 0.02
    for row in healthy:  # 100 light terms that differ from row to row
        row[draw.choice(np.arange(50, len(VOCABULARY)), 100, replace=False)] = 0.01
    healthy[:, 3:43] = draw.uniform(0.2, 4, (N_DOCS, 40))
    assert found(healthy) == ["the same terms everywhere"]


@pytest.mark.parametrize("noise", [0, 0.02])
def test_similar_documents_are_reported(healthy, noise):
    draw = np.random.default_rng(1)

    def noisy(dense):
        return dense * draw.uniform(1 - noise, 1 + noise, dense.shape).astype(np.float32)

    half = healthy.copy()
    half[: N_DOCS // 2] = half[0]
    assert found(noisy(half)) == ["documents alike"]
    clusters = np.zeros_like(healthy)
    clusters[np.arange(N_DOCS), 100 + np.arange(N_DOCS) % 3] = 1
    assert found(noisy(clusters)) == ["documents alike"]
    several = healthy[np.arange(N_DOCS) % 4]  # only four different vectors
    assert found(noisy(several)) == ["documents alike"]
    few = healthy.copy()
    few[:10] = few[0]  # a few copies of one text aren't a collapse
    assert found(noisy(few)) == []


def test_common_function_words_are_not_a_collapse(healthy):
    healthy[:, 1:3] = 0.3
    assert found(healthy) == []


def test_the_rank_counts_different_directions():
    """The rank is n for n vectors without common terms, 1 for equal vectors, and n for n clusters of equal vectors."""
    alone = np.eye(20, dtype=np.float32) * 3
    assert effective_rank(SparseMatrix.from_dense(alone)) == pytest.approx(20, abs=1e-3)
    assert effective_rank(SparseMatrix.from_dense(np.ones((20, 5)))) == pytest.approx(1, abs=1e-3)
    assert effective_rank(SparseMatrix.from_dense(alone[np.arange(20) % 4])) == pytest.approx(4, abs=1e-3)
    dense = np.random.default_rng(0).random((12, 30))
    values = np.linalg.svd(dense / np.linalg.norm(dense, axis=1, keepdims=True), compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(SparseMatrix.from_dense(dense)) == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum()), rel=1e-4
    )
    assert effective_rank(SparseMatrix.from_dicts([{}, {}], 5)) == 0


def test_the_rank_falls_in_a_collapse(healthy):
    ranks = [
        examine(SparseMatrix.from_dense(rows), VOCABULARY).rank for rows in (healthy, healthy[np.arange(N_DOCS) % 4])
    ]
    assert ranks[0] > 5 * ranks[1] > 5
