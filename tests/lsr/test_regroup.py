"""External sort: rows come out in the order of their keys, for any memory limit."""

import numpy as np
import pytest

from lsr.io import external_sort
from lsr.io.external_sort import Regrouping


@pytest.mark.parametrize("memory", [1, 7, 1000, 1 << 21])
def test_rows_are_grouped(monkeypatch, memory):
    monkeypatch.setattr(external_sort, "_MEMORY", memory)
    rng = np.random.default_rng(1)
    keys, others = rng.integers(0, 40, 2000) ** 2 % 41, np.arange(2000)
    order = rng.permutation(41)
    with Regrouping() as regrouping:
        for at in range(0, 2000, 300):
            regrouping.add(keys[at : at + 300], others[at : at + 300], others[at : at + 300] / 4)
        counts = regrouping.counts(41)
        assert counts.tolist() == np.bincount(keys, minlength=41).tolist()
        found = {}
        for first, indptr, theirs, weights in regrouping.groups(order, counts):
            assert len(theirs) <= max(memory, counts.max())
            assert np.array_equal(weights, theirs / 4)
            for i in range(len(indptr) - 1):
                found[int(order[first + i])] = theirs[indptr[i] : indptr[i + 1]].tolist()
    assert list(found) == order.tolist()
    assert found == {key: np.flatnonzero(keys == key).tolist() for key in range(41)}


def test_an_input_without_rows_gives_empty_groups():
    with Regrouping() as regrouping:
        assert list(regrouping.groups(np.arange(0), regrouping.counts(0))) == []
        [(first, indptr, others, weights)] = regrouping.groups(np.arange(3), regrouping.counts(3))
    assert (first, indptr.tolist(), len(others), len(weights)) == (0, [0, 0, 0, 0], 0, 0)
