"""Search on a device. The tests use PyTorch's "cpu", which runs the same code as a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.encode.passages import Passages
from lsr.errors import IndexFormatError
from lsr.index.index import Index
from lsr.io.document import Document
from lsr.sparse import SparseMatrix

pytest.importorskip("torch")


def random_matrix(rng, n_docs, weights, n_terms=60):
    """A matrix with terms of every frequency (dense rows, lists with maxima, short lists) and duplicate documents."""
    share = np.geomspace(0.9, 0.001, n_terms)
    dense = rng.choice(weights, (n_docs, n_terms)) * (rng.random((n_docs, n_terms)) < share)
    dense[::5] = dense[0]
    return SparseMatrix.from_dense(dense)


def require_equal(index, queries, ks=(1, 7, 300), **options):
    for k in ks:
        wanted = index.search_batch(queries, k, **options)
        found = index.search_batch(queries, k, device="cpu", **options)
        assert [[(hit.id, hit.score) for hit in hits] for hits in found] == [
            [(hit.id, hit.score) for hit in hits] for hits in wanted
        ]


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0], [0.1, 1 / 3, 1.7, 2.9]])
def test_results_equal_those_of_the_kernels(tmp_path, weights):
    rng = np.random.default_rng(3)
    matrix = random_matrix(rng, 1500, weights)
    index = Index.build(tmp_path / "index", matrix[:900], order="bisection")
    for first, end in ((900, 1400), (1400, 1500)):  # two more segments
        index.add(matrix[first:end], ids=[str(i) for i in range(first, end)])
        index.commit(merge=False)
    assert index.n_segments == 3
    queries = SparseMatrix.vstack(
        [random_matrix(rng, 12, [0.5, 1.0, 40.0]), SparseMatrix.from_dense(np.zeros((1, 60)))]
    )
    require_equal(index, queries)
    index.delete([str(i) for i in range(0, 1500, 3)])  # now with deletions
    index.commit(merge=False)
    require_equal(index, queries)


def test_results_are_exact_for_weights_of_any_scale(tmp_path):
    rng = np.random.default_rng(4)
    matrix = random_matrix(rng, 400, [1.0, 2.5])
    loud = SparseMatrix(matrix.indptr, matrix.indices, matrix.data.copy(), matrix.shape)
    loud.data[loud.row_numbers() == 7] *= 1000  # document 7 gets its own scale
    index = Index.build(tmp_path / "index", loud)
    far = SparseMatrix.from_dicts([{0: 1e-9, 1: 3e9}, {0: 1.0, 5: 2.0}], 60)  # too far apart for 32-bit integers
    require_equal(index, far)
    require_equal(index, matrix[:5])


def test_results_are_exact_with_filters_and_passages(tmp_path):
    texts = [f"{'wing ' * (i % 4 + 1)}tail{i % 7} " * 3 + f"flow{i % 5} " * 9 for i in range(60)]
    documents = [Document(str(i), "", text, {"n": i}) for i, text in enumerate(texts)]
    queries = ["wing tail3", "flow2", "nothing of it"]
    whole = Index.build(tmp_path / "whole", documents, encoder="bm25")
    require_equal(whole, queries)
    require_equal(whole, queries, where={"n": {"<": 20}})
    cut = Index.build(tmp_path / "cut", documents, encoder="bm25", passages=Passages(8))
    require_equal(cut, queries, ks=(1, 5, 100))
    require_equal(cut, queries, ks=(1, 5), best_passages=2)


def test_an_empty_index_gives_no_results(tmp_path):
    index = Index.build(tmp_path / "index", SparseMatrix.from_dicts([], 5))
    assert [list(hits) for hits in index.search_batch(SparseMatrix.from_dicts([{0: 1.0}], 5), device="cpu")] == [[]]


@pytest.mark.parametrize("options", [{"alpha": 0.8}, {"beta": 0.5}, {"offset": 3}, {"mode": "hybrid"}])
def test_approximate_and_other_unsupported_searches_are_refused(tmp_path, options):
    index = Index.build(tmp_path / "index", SparseMatrix.from_dicts([{0: 1.0}], 5))
    with pytest.raises(ValueError, match="exact"):
        index.search_batch(SparseMatrix.from_dicts([{0: 1.0}], 5), device="cpu", **options)


def test_unknown_devices_and_float_impacts_are_refused(tmp_path):
    matrix = SparseMatrix.from_dicts([{0: 1.0}], 5)
    index = Index.build(tmp_path / "index", matrix)
    with pytest.raises(ValueError, match="can't be used"):
        index.search_batch(matrix, device="no such thing")
    floats = Index.build(tmp_path / "floats", matrix, impacts="float32")
    with pytest.raises(IndexFormatError, match="8-bit"):
        floats.search_batch(matrix, device="cpu")
