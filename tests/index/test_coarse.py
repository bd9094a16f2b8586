"""A coarse index in memory finds candidates, and exact vectors on disk verify them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lsr.arrays import read_arrays, write_arrays
from lsr.errors import DataError, OutputExists
from lsr.index import Index, read_queries
from lsr.index.coarse import _SPARSE, CoarseIndex, cut
from lsr.sparse import SparseMatrix

TERMS = 400


def zipfian(n, seed, length):
    """Rows of random terms, with Zipf-like frequencies and exponential weights."""
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(3, TERMS + 3)
    rows = [rng.choice(TERMS, length, replace=False, p=chances / chances.sum()) for _ in range(n)]
    return SparseMatrix.from_dicts(
        [dict(zip(r.tolist(), rng.exponential(1, length), strict=True)) for r in rows], TERMS
    )


@pytest.fixture(scope="module")
def documents():
    return zipfian(500, 0, 60)


@pytest.fixture(scope="module")
def queries():
    return zipfian(30, 1, 8)


@pytest.fixture(scope="module")
def built(documents, tmp_path_factory):
    ids = [f"dök {i}" for i in range(len(documents))]
    return CoarseIndex.build(tmp_path_factory.mktemp("coarse") / "idx", documents, ids=ids, terms=20)


def exact(queries, documents, k):
    return [np.argsort(-row, kind="stable")[:k] for row in queries.dot(documents)]


def test_the_search_is_exact_if_all_documents_are_candidates(built, documents, queries):
    """Only documents that share a coarse term with the query can be found, so only the first five hits are compared."""
    found = [built.search(queries[i], 10, candidates=len(documents)) for i in range(len(queries))]
    for hits, best, scores in zip(found, exact(queries, documents, 10), queries.dot(documents), strict=True):
        assert [score for _, score in hits[:5]] == pytest.approx(scores[best[:5]].tolist(), rel=1e-5)
        assert hits[0][0] == f"dök {best[0]}"


def test_more_candidates_and_terms_increase_recall(documents, queries, tmp_path):
    best = exact(queries, documents, 10)

    def recall(terms, candidates):
        index = CoarseIndex.build(tmp_path / "idx", documents, terms=terms, overwrite=True)
        found = [index.search(queries[i], 10, candidates=candidates) for i in range(len(queries))]
        return np.mean(
            [len({int(doc) for doc, _ in hits} & {*b.tolist()}) / 10 for hits, b in zip(found, best, strict=True)]
        )

    low, some, high = recall(10, 10), recall(10, 40), recall(25, 100)
    assert low < some < high
    assert high > 0.95


def test_the_coarse_index_stores_only_the_given_number_of_terms(built, documents):
    assert built.coarse.n_postings == 20 * len(documents)
    assert built.exact_bytes >= 8 * documents.nnz
    assert len(built) == len(documents)


def test_the_terms_with_the_largest_weight_times_factor_are_kept():
    rows = SparseMatrix.from_dicts([{0: 3.0, 1: 2.0, 2: 1.0}], 3)
    assert cut(rows, 2, np.ones(3)).to_dicts() == [{0: 3.0, 1: 2.0}]
    assert cut(rows, 2, np.array([0.1, 1, 5])).to_dicts() == [{1: 2.0, 2: 1.0}]
    assert cut(rows, 9, np.ones(3)) == rows


def test_dense_vectors_verify_sparse_codes(documents, queries, tmp_path):
    rng = np.random.default_rng(2)
    projection = rng.standard_normal((TERMS, 48)).astype(np.float32)
    dense, asked = documents.to_dense() @ projection, queries.to_dense() @ projection
    index = CoarseIndex.build(tmp_path / "idx", documents, terms=30, dense=dense)
    hits = CoarseIndex(tmp_path / "idx").search(queries[0], 5, candidates=len(documents), dense=asked[0])
    rows = [int(doc) for doc, _ in hits]
    assert [score for _, score in hits] == pytest.approx((dense[rows] @ asked[0]).tolist(), rel=1e-5)
    assert hits[0][1] == max(score for _, score in hits)
    with pytest.raises(ValueError, match="48 dense dimensions"):
        index.search(queries[0])


def test_wrong_arguments_and_damaged_files_are_refused(built, documents, queries, tmp_path):
    for wrong in ({"terms": 0}, {"ids": ["a"]}, {"dense": np.ones((3, 2))}):
        with pytest.raises(ValueError, match="terms must be at least 1"):
            CoarseIndex.build(tmp_path / "x", documents, **wrong)
    with pytest.raises(ValueError, match="no dense dimensions"):
        built.search(queries[0], dense=np.ones(3))
    path = tmp_path / "idx"
    CoarseIndex.build(path, documents)
    with pytest.raises(OutputExists):
        CoarseIndex.build(path, documents)
    file = path / "exact.arrow"
    arrays, content = read_arrays(file, "exact vectors", _SPARSE), file.read_bytes()
    vectors = {name: arrays[name] for name in ("ids", "id_starts")} | {"vectors": np.ones((3, 2), np.float32)}
    for changed, message in (
        (arrays | {"starts": arrays["starts"][::-1]}, "lengths don't fit"),
        (arrays | {"terms": arrays["terms"][:-1]}, "lengths don't fit"),
        (arrays | {"id_starts": arrays["id_starts"][:-1]}, "lengths don't fit"),
        (arrays | {"weights": arrays["weights"].astype(np.float64)}, "unexpected arrays"),
        (vectors, r"vectors \(3, 2\) of 500 documents"),
    ):
        write_arrays(file, "exact vectors", changed)
        with pytest.raises(DataError, match=message):
            CoarseIndex(path)
    for size in (0, len(content) // 2, len(content) - 5):
        file.write_bytes(content[:size])
        with pytest.raises(DataError, match="damaged, or not exact vectors"):
            CoarseIndex(path)


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_a_quarter_of_the_terms_finds_the_best_documents_of_real_vectors(real_data, tmp_path):
    """SPLADE-v3's vectors of NFCorpus have 251 terms per document. With 64 terms, the first 100 candidates contain
    98 % of the ten best documents.
    """
    folder = real_data("nfcorpus-splade-v3")
    index = Index.build(tmp_path / "whole", str(folder / "corpus.splade-v3.jsonl.gz"), impacts="float32")
    queries = read_queries(str(folder / "queries.splade-v3.jsonl.gz"), index).encoded(index)
    docs = list(range(len(index)))
    ids = [index.documents.id(doc) for doc in docs]
    coarse = CoarseIndex.build(tmp_path / "idx", index.document_vectors(docs), ids=ids, terms=64)
    shared = []
    for i in range(len(queries)):
        best = {hit.id for hit in index.search(queries[i], 10)}
        shared.append(len(best & {doc for doc, _ in coarse.search(queries[i], 10)}) / max(len(best), 1))
    assert np.mean(shared) > 0.97
    assert coarse.coarse_bytes < 0.25 * coarse.exact_bytes
