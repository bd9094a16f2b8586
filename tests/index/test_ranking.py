"""Selection and sorting give the same order as numpy: by descending score, then by document number."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.index.kernels.exhaustive import collect, seed
from lsr.index.kernels.layout import N_COUNTS, ORDER_AT, WINDOW, WINDOW_COLUMNS, Space
from lsr.index.kernels.topk import select, sort


def space_of(accumulator, size):
    return Space(
        accumulator,
        np.empty((6, 128), np.int32),
        np.empty(size, np.int64),
        np.empty(size, accumulator.dtype),
        np.zeros(N_COUNTS, np.int64),
    )


def in_order(docs, scores):
    return np.lexsort((docs, -scores.astype(np.float64)))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.booleans(), st.data())
def test_selection_moves_the_k_best_to_the_front(values, shuffled, data):
    k = data.draw(st.integers(1, len(values)))
    docs, scores = np.arange(len(values)), np.array(values, np.int32)
    if shuffled:
        docs = np.random.default_rng(0).permutation(docs)
    best = in_order(docs, scores)[:k]
    wanted = list(zip(scores[best].tolist(), docs[best].tolist(), strict=True))
    select(docs, scores, len(docs), k)
    found = list(zip(scores[:k].tolist(), docs[:k].tolist(), strict=True))
    assert sorted(found) == sorted(wanted)
    assert found[-1] == wanted[-1]


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 16, 17, 100, 5000])
@pytest.mark.parametrize("distinct", [1, 3, 10**6])
def test_any_number_of_scores_with_any_ties_is_sorted(dtype, n, distinct):
    rng = np.random.default_rng(n)
    docs, scores = rng.permutation(n), rng.integers(0, distinct, n).astype(dtype)
    best = in_order(docs, scores)
    wanted = docs[best].tolist(), scores[best].tolist()
    sort(docs, scores, n)
    assert (docs.tolist(), scores.tolist()) == wanted


def shaped(pattern, n):
    scores = np.arange(n, dtype=np.int32)
    if pattern == "ascending":
        return scores
    return scores[::-1].copy() if pattern == "descending" else np.minimum(scores, scores[::-1])


@pytest.mark.parametrize("pattern", ["ascending", "descending", "organ pipe"])
def test_sorting_of_sorted_input_takes_less_than_quadratic_time(pattern):
    n = 200_000
    scores = shaped(pattern, n)
    docs = np.arange(n)
    wanted = docs[in_order(docs, scores)]
    sort(docs.copy(), scores.copy(), 20)  # compiles the kernel
    started = time.thread_time()
    sort(docs, scores, n)
    assert time.thread_time() - started < 1  # takes 0.02 s; quadratic sorting would take 9 s
    np.testing.assert_array_equal(docs, wanted)


@pytest.mark.parametrize("pattern", ["ascending", "descending", "organ pipe"])
def test_selection_from_sorted_input_takes_less_than_quadratic_time(pattern):
    n = 200_000
    scores = shaped(pattern, n)
    docs = np.arange(n)
    wanted = docs[in_order(docs, scores)][:10]
    select(docs.copy(), scores.copy(), 20, 10)  # compiles the kernel
    started = time.thread_time()
    select(docs, scores, n, 10)
    assert time.thread_time() - started < 1
    assert sorted(docs[:10]) == sorted(wanted)


@pytest.mark.parametrize("distinct", [2, 40, 10**6])
@pytest.mark.parametrize("n", [1024, 5000, WINDOW])
def test_the_first_threshold_is_reached_by_k_documents(n, distinct):
    k = 128
    accumulator = np.zeros(WINDOW, np.int32)
    accumulator[:n] = np.random.default_rng(n).integers(0, distinct, n)
    least = seed(space_of(accumulator, 2 * k + 64), n, k, np.int32(1))
    assert least == 1 or (accumulator >= least).sum() >= k
    assert least > 1 or distinct == 2  # with many distinct scores, a threshold must be found


@pytest.mark.parametrize("order", [[], list(range(1999, -1, -1))], ids=["as given", "reversed"])
def test_collecting_clears_the_accumulator_and_breaks_ties_by_number(order):
    accumulator = np.zeros(WINDOW, np.int32)
    accumulator[:1000] = 7
    accumulator[1000:1024] = 9  # beyond the last document, so never a hit
    space = space_of(accumulator, 70)
    windows = np.zeros((1, WINDOW_COLUMNS), np.int64)
    windows[0, ORDER_AT] = 0 if order else -1
    order = np.array(order, np.uint32)
    found, least = collect(space, accumulator, order, windows, 0, 5, 1000, 3, 0, np.int32(1))
    assert not accumulator.any()
    assert least == 7
    select(space.docs, space.scores, found, 3)
    assert sorted(space.docs[:3].tolist()) == ([995, 996, 997] if len(order) else [5, 6, 7])
