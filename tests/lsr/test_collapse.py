"""examine: each way to collapse is named, and a healthy model isn't accused."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.sparse import SparseMatrix
from lsr.train.collapse import examine

VOCABULARY = ["[CLS]", "the", "of", *(f"word{i}" for i in range(397))]
N_DOCS = 50


@pytest.fixture
def healthy():
    """Documents of 20 terms each, from everywhere."""
    draw = np.random.default_rng(0)
    dense = np.zeros((N_DOCS, len(VOCABULARY)), np.float32)
    for row in dense:
        row[draw.choice(np.arange(3, len(VOCABULARY)), 20, replace=False)] = draw.uniform(0.1, 2, 20)
    return dense


def found(dense):
    return [finding.what for finding in examine(SparseMatrix.from_dense(dense), VOCABULARY, special=[0])]


def test_a_healthy_model(healthy):
    assert found(healthy) == []
    assert found(healthy[:0]) == []


@pytest.mark.parametrize("dead", [3, N_DOCS])
def test_dead_rows(healthy, dead):
    healthy[:dead] = 0
    assert found(healthy) == ["dead rows"]
    (finding,) = examine(SparseMatrix.from_dense(healthy), VOCABULARY)
    assert f"{dead / N_DOCS:.0%} of the documents have no term" in str(finding)


def test_everything_dense(healthy):
    assert "everything dense" in found(healthy + 0.01)


def test_weight_where_it_is_of_no_use(healthy):
    special = healthy.copy()
    special[:, 0] = 1
    assert found(special) == ["weight on special tokens"]
    healthy[:, 1:3] = 6
    assert found(healthy) == ["weight on function words"]


def test_vectors_that_hardly_differ(healthy):
    healthy[:, :] = 0
    healthy[:, 100:120] = 1
    assert found(healthy) == ["the same terms everywhere"]
    healthy[:, 100:120] = np.random.default_rng(0).random((N_DOCS, 20)) < 0.8
    assert found(healthy) == ["vocabulary never used"]
