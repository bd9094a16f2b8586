"""The storage order is a permutation, doesn't depend on threads, and puts similar documents side by side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.console import progress_to
from lsr.index.segment import reorder
from lsr.index.segment.reorder import Reduced, document_order, reduce_documents


@pytest.fixture(scope="module", params=[0, 1 << 18], ids=["clusters", "bisection"], autouse=True)
def ordering(request):
    """Run every test twice: once documents are clustered before the bisection, and once they aren't."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reorder, "_CLUSTERED_FROM", request.param)
        yield request.param


def reduced(rows, n_terms):
    indptr = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    return Reduced(indptr, np.concatenate([np.empty(0, np.int64), *rows]).astype(np.uint16), n_terms)


def clustered_rows(rng, n_clusters, size):
    """Documents in the order of their clusters. Each has 10 of its cluster's 14 terms and 4 lighter random terms."""
    n_terms = n_clusters * 14
    return [
        np.concatenate((cluster * 14 + rng.permutation(14)[:10], rng.integers(0, n_terms, 4)))
        for cluster in range(n_clusters)
        for _ in range(size)
    ], n_terms


def pairs(rows, order, block=128):
    """The number of distinct terms in each block, summed over all blocks of an order."""
    return sum(
        len(np.unique(np.concatenate([rows[i] for i in order[at : at + block]]))) for at in range(0, len(order), block)
    )


@pytest.mark.parametrize("n", [0, 50, 2000])
def test_progress_counts_up_to_its_total(n):
    rows, n_terms = clustered_rows(np.random.default_rng(0), 20, n // 20)
    calls = []
    with progress_to(lambda *call: calls.append(call)):
        document_order(reduced(rows, n_terms))
    assert [call[0] for call in calls] == ["ordering"] * len(calls)
    done = [call[1] for call in calls]
    assert done == sorted(set(done))
    assert len(calls) > 4 or n < 2000
    assert not rows or done[-1] == calls[-1][2]


@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(1, 60), st.sampled_from([1, 4, 128]))
@settings(max_examples=40)
def test_the_order_is_a_permutation(seed, n, n_terms, align):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, n_terms, rng.integers(0, 6)) for _ in range(n)]
    order = document_order(reduced(rows, n_terms), align=align)
    assert np.sort(order).tolist() == list(range(n))
    empty = [i for i, row in enumerate(rows) if not len(row)]
    assert order[n - len(empty) :].tolist() == empty


@pytest.mark.parametrize("size", [30, 90])
def test_planted_clusters_are_recovered(size, ordering):
    rng = np.random.default_rng(0)
    rows, n_terms = clustered_rows(rng, 120, size)
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    order = document_order(reduced(shuffled, n_terms))
    planted, found, random = (
        pairs(rows, range(len(rows))), pairs(shuffled, order), pairs(shuffled, range(len(rows))),
    )  # fmt: skip
    assert found < planted + (0.5 if ordering else 0.35) * (random - planted)


def test_the_order_does_not_depend_on_threads():
    rng = np.random.default_rng(1)
    rows, n_terms = clustered_rows(rng, 100, 60)
    documents = reduced([rows[i] for i in rng.permutation(len(rows))], n_terms)
    orders = [document_order(documents, threads=threads).tolist() for threads in (1, 2, 5)]
    assert orders[0] == orders[1] == orders[2]


def test_the_order_of_equal_documents_is_a_permutation():
    order = document_order(reduced([np.array([1, 2])] * 1000, 3))
    assert np.sort(order).tolist() == list(range(1000))


def test_reducing_keeps_the_heaviest_informative_terms():
    rng = np.random.default_rng(2)
    n_docs, n_terms = 2000, 3000
    rows = [np.sort(rng.choice(n_terms - 2, 40, replace=False)) for _ in range(n_docs)]
    rows = [np.append(row, n_terms - 2) for row in rows]  # a term that all documents have
    rows[5] = np.append(rows[5], n_terms - 1)  # a term that only one document has
    weights = [rng.permutation(len(row)).astype(np.float32) + 1 for row in rows]
    terms = np.concatenate(rows).astype(np.uint32)
    df = np.bincount(terms, minlength=n_terms)
    used = np.flatnonzero(df)
    indptr = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    documents = reduce_documents(indptr, terms, np.concatenate(weights), used, df[used])
    telling = used[(df[used] >= 4) & (df[used] * 50 <= n_docs)]
    for i in (0, 5, 1999):
        kept = telling[documents.terms[documents.indptr[i] : documents.indptr[i + 1]]]
        by_weight = [t for t in rows[i][np.argsort(-weights[i])] if t in set(telling.tolist())]
        assert kept.tolist() == by_weight[:32]
    assert documents.n_terms == len(telling)
