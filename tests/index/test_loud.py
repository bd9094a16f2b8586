"""A document with far larger weights doesn't reduce the precision of other documents, however the index was made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.index.distributed.reshard import reshard_index
from lsr.index.index import Index
from lsr.index.segment.quantize import LEVELS, shifts_of, weights_of
from lsr.sparse import SparseMatrix, usual_largest

N_TERMS = 60


def random_documents(rng, n, loudness=3.0):
    rows = [np.sort(rng.choice(N_TERMS, rng.integers(3, 12), replace=False)) for _ in range(n)]
    return SparseMatrix.from_rows([(terms, rng.random(len(terms)) * loudness + 0.05) for terms in rows], N_TERMS)


def queries(rng, n=8):
    return random_documents(rng, n, 1.0)


def found(index, vectors, k=10, **how):
    """The (id, score) pairs of each query's hits."""
    return [[(hit.id, hit.score) for hit in index.search(vectors[i : i + 1], k, **how)] for i in range(len(vectors))]


def names(letter, n):
    return [f"{letter}{i}" for i in range(n)]


def overlap(matrix, vectors, index, k=10):
    """The share of the exact top k documents that an index finds."""
    exact = np.argsort(-vectors.dot(matrix), axis=1, kind="stable")[:, :k]
    hits = [[hit.doc for hit in index.search(vectors[i : i + 1], k)] for i in range(len(vectors))]
    return np.mean([len(set(a.tolist()) & set(b)) / k for a, b in zip(exact, hits, strict=True)])


@pytest.mark.parametrize("how", ["built", "added", "merged", "merged in clusters", "in shards"])
def test_a_document_with_large_weights_does_not_reduce_the_precision_of_other_documents(tmp_path, how):
    rng = np.random.default_rng(0)
    matrix, loud = random_documents(rng, 1500), SparseMatrix.from_rows([([3, 7], [300.0, 2.0])], N_TERMS)
    both, vectors = SparseMatrix.vstack([matrix, loud]), queries(rng, 12)
    if how in ("built", "in shards"):
        index = Index.build(tmp_path / "idx", both)
        if how == "in shards":
            reshard_index(tmp_path / "idx", tmp_path / "shards", 2)
            index = Index.open(tmp_path / "shards")
    else:
        index = Index.build(tmp_path / "idx", matrix, clusters="clusters" in how)
        index.add(loud, ids=["loud"])
        index.commit(merge=False)
        if "merged" in how:
            assert index.merge()
            assert index.n_segments == 1
    assert overlap(both, vectors, index) > 0.95
    (first, *_) = index.search(SparseMatrix.from_rows([([3], [1.0])], N_TERMS), 3)
    assert first.score == pytest.approx(300, rel=0.005)
    if "clusters" in how:
        assert found(index, vectors, algorithm="clusters", guaranteed=100) == found(index, vectors)
    # Explanations and stored vectors agree with the scores.
    explained = index.explain(SparseMatrix.from_rows([([3], [1.0])], N_TERMS), first.id)
    assert explained.score == pytest.approx(first.score, rel=1e-6)
    stored = index.document_vectors([first.doc]).row(0)
    assert dict(zip(*stored, strict=True))[3] == pytest.approx(first.score, rel=1e-6)


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([1e-3, 0.7, 3.0, 3.1, 6.5, 50.0, 400.0, 1e7])),
        min_size=2, max_size=4,
    ),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_merge_does_not_change_results(tmp_path_factory, parts, seed):
    path, rng = tmp_path_factory.mktemp("merge"), np.random.default_rng(seed)
    index = None
    for number, (n, loudness) in enumerate(parts):
        matrix, ids = random_documents(rng, n, loudness), names("abcd"[number], n)
        if index is None:
            index = Index.build(path / "idx", matrix, ids=ids)
        else:
            index.add(matrix, ids=ids)
        index.commit(merge=False)
    index.delete([name for name in index.documents.all_ids() if rng.random() < 0.2])
    index.commit(merge=False)
    if not len(index):
        return
    vectors = queries(rng)
    settings_of = [{"algorithm": name} for name in ("exhaustive", "blocks", "maxscore")]
    before = [found(index, vectors, 15, **how) for how in settings_of]
    weights = index.document_vectors(list(index.documents.numbers()))
    error = index.max_error
    index.merge()
    assert index.n_segments == 1
    assert index.verify() == []
    assert [found(index, vectors, 15, **how) for how in settings_of] == before
    assert index.document_vectors(list(index.documents.numbers())) == weights
    assert index.max_error <= error
    masked = index.search(vectors[:1], 5, algorithm="blocks")
    assert [hit.score for hit in masked] == [score for _, score in before[0][0][:5]]
    index.delete(list(index.documents.all_ids())[: len(index) // 2])  # masks deleted documents in windows of all scales
    index.commit(merge=False)
    assert found(index, vectors, 9, algorithm="blocks") == found(index, vectors, 9, algorithm="exhaustive")


def test_shifts_are_as_small_as_possible():
    scale = 0.25
    largest = np.array([0, 1e-9, 1, 255, 255.4, 256, 510, 512, 2**20], np.float64) * scale
    shifts = shifts_of(largest.astype(np.float32), scale)
    assert shifts.tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 13]
    assert (largest <= (LEVELS + 0.5) * scale * 2.0**shifts).all()


def test_documents_with_large_weights_get_their_own_scale_if_they_are_few():
    usual = np.full(128, 3, np.float32)
    assert usual_largest(usual) == 3
    assert usual_largest(np.append(usual, np.float32(300))) == 3
    assert usual_largest(np.append(usual, np.full(20, 300, np.float32))) == 300
    assert usual_largest(np.append(usual, np.float32(9))) == 9  # too close to the others for a scale of its own
    assert usual_largest(np.append(usual, np.float32(3e38))) >= 3e38 / 2**60
    assert usual_largest(np.zeros(3, np.float32)) == 0
    assert usual_largest(np.array([3, 300], np.float32), np.array([128, 1])) == 3
    assert usual_largest(np.array([3, 300], np.float32), np.array([128, 20])) == 300


@pytest.mark.parametrize("largest", [1e-44, 1e-40, 1e38])
def test_no_small_weight_becomes_zero(tmp_path, largest):
    matrix = SparseMatrix.from_rows([([1, 2, 3], np.array([1.0, 0.5, 0.25]) * largest)], 5)
    index = Index.build(tmp_path / "idx", matrix)
    terms, weights = index.document_vectors([0]).row(0)
    assert terms.tolist() == [1, 2, 3]
    assert np.abs(weights - matrix.data).max() <= max(index.max_error, 1.5e-45)
    assert (weights_of(np.ones(2, np.uint8), 1e-60) > 0).all()


@pytest.mark.parametrize("light", [1e-3, 1e-6, 1e-9, 1e-20])
def test_scores_of_very_different_query_weights_equal_explanations(tmp_path, light):
    matrix = SparseMatrix.from_rows([([0], [2.0]), ([0, 1], [1.0, 3.0]), ([1], [3.0]), ([1], [1.0])], 3)
    index = Index.build(tmp_path / "idx", matrix, ids=list("abcd"))
    query = SparseMatrix.from_rows([([0, 1], [1e5, light])], 3)
    hits = index.search(query, 4)
    assert [hit.id for hit in hits] == ["a", "b", "c", "d"]
    for hit in hits:
        assert hit.score == pytest.approx(hit.explain().score, rel=0.01)
    for algorithm in ("exhaustive", "blocks", "maxscore"):
        assert [(h.id, h.score) for h in index.search(query, 4, algorithm=algorithm)] == [(h.id, h.score) for h in hits]


def test_lists_and_dense_rows_give_equal_sums_of_very_different_weights(tmp_path):
    """A term may be a dense row in one window and a list in another. Both must give bit-identical scores."""
    rng = np.random.default_rng(3)
    document = (np.arange(5), np.array([1.0, 7.0, 3.0, 100.0, 255.0]))
    rows = [(document[0][1:], document[1][1:]) if rng.random() < 0.9 else ([7], [1.0]) for _ in range(300)]
    rows += [document] * 300
    matrix = SparseMatrix.from_rows(rows, 8)
    index = Index.build(tmp_path / "idx", matrix[:100])
    for first in range(100, 600, 100):
        index.add(matrix[first : first + 100], ids=[str(i) for i in range(first, first + 100)])
        index.commit(merge=False)
    query = SparseMatrix.from_rows([(np.arange(5), [0.1, 3.3e7, 1 / 3, 0.7, 1e-4])], 8)
    hits = index.search(query, 600)
    assert len({hit.score for hit in hits}) == 2
    assert all(hit.explain().score == hit.score for hit in hits[::50])
    index.merge()
    assert [(hit.id, hit.score) for hit in index.search(query, 600)] == [(hit.id, hit.score) for hit in hits]
