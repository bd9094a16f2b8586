"""Searches of densified vectors use slices and the gated inner product, and can add a dense vector."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import pytest

from lsr.arrays import write_arrays
from lsr.densified import DensifiedVectors, Slices
from lsr.errors import DataError
from lsr.io.runs import read_qrels
from lsr.sparse import SparseMatrix

TERMS = 300


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return SparseMatrix.from_dense(np.where(rng.random((200, TERMS)) < 0.1, rng.random((200, TERMS)) * 3, 0))


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(1)
    return SparseMatrix.from_dense(np.where(rng.random((9, TERMS)) < 0.05, rng.random((9, TERMS)) * 2, 0))


def gated(slices, query, document):
    """The gated inner product, by its definition."""

    def heaviest(row):
        found = {}
        for term, weight in zip(*row, strict=True):
            slice_ = slices.of_term[term]
            if slice_ >= 0 and weight > found.get(slice_, (None, 0))[1]:
                found[slice_] = term, weight
        return found

    mine, theirs = heaviest(query), heaviest(document)
    return sum(w * theirs[m][1] for m, (term, w) in mine.items() if m in theirs and theirs[m][0] == term)


@pytest.mark.parametrize("made", ["coloured", "random", "striped", "large slices"])
def test_scores_are_gated_inner_products(documents, queries, made):
    slices = {
        "coloured": lambda: Slices.coloured(documents, 32),
        "random": lambda: Slices.random(TERMS, 32),
        "striped": lambda: Slices.striped(TERMS, 32, first=20),
        "large slices": lambda: Slices.random(TERMS, 1),
    }[made]()
    found = DensifiedVectors.of(documents, slices)
    expected = [[gated(slices, query, doc) for doc in documents.rows()] for query in queries.rows()]
    assert found.scores(queries) == pytest.approx(np.array(expected), rel=2e-3, abs=1e-4)  # the store is float16
    assert slices.keep(queries).dot(slices.keep(documents)) == pytest.approx(np.array(expected), rel=1e-5, abs=1e-5)


def test_a_slice_for_each_term_gives_exact_scores(documents, queries):
    for slices in (Slices.coloured(documents, TERMS), Slices.striped(TERMS, TERMS, first=0)):
        assert len(set(slices.of_term.tolist())) == TERMS
        assert slices.keep(documents) == documents
        found = DensifiedVectors.of(documents, slices).search(queries, 10)
        exact = queries.dot(documents)
        for i, (docs, scores) in enumerate(found):
            assert exact[i][docs] == pytest.approx(np.sort(exact[i])[::-1][:10], rel=2e-3)
            assert scores == pytest.approx(exact[i][docs], rel=2e-3)


def test_scores_of_dense_vectors_are_added(documents, queries):
    rng = np.random.default_rng(2)
    dense, theirs = (rng.standard_normal((n, 8)).astype(np.float32) for n in (len(queries), len(documents)))
    slices = Slices.coloured(documents, 64)
    found = DensifiedVectors.of(documents, slices, theirs)
    both = found.scores(queries) + 0.7 * dense @ theirs.T
    assert found.scores(queries, dense=dense, dense_weight=0.7) == pytest.approx(both, abs=1e-5)
    for i, (docs, scores) in enumerate(found.search(queries, 5, dense=dense, dense_weight=0.7)):
        assert docs.tolist() == np.argsort(-both[i], kind="stable")[:5].tolist()
        assert scores == pytest.approx(both[i][docs], abs=1e-5)


def test_candidates_above_a_threshold_are_scored_with_all_terms(documents, queries):
    found = DensifiedVectors.of(documents, Slices.coloured(documents, 64))
    exact, some = found.search(queries, 5), found.search(queries, 5, threshold=1.0, candidates=20)
    scores = found.scores(queries)
    for i, (docs, own) in enumerate(some):
        assert own == pytest.approx(scores[i][docs], rel=1e-5)
        assert own[0] <= exact[i][1][0] + 1e-5
    everything = found.search(queries, 5, threshold=1.0, candidates=len(documents))
    assert [docs.tolist() for docs, _ in everything] == [docs.tolist() for docs, _ in exact]


def test_coloured_slices_lose_less_than_random_slices(documents):
    kept = [slices.keep(documents).data.sum() for slices in (Slices.coloured(documents, 48), Slices.random(TERMS, 48))]
    assert kept[0] > 1.01 * kept[1]
    assert np.bincount(Slices.coloured(documents, 48).of_term).max() <= np.ceil(1.6 * TERMS / 48)


def test_terms_without_documents_are_spread_over_the_slices(documents):
    wider = SparseMatrix.vstack([documents, SparseMatrix.empty(TERMS + 100)])
    sizes = np.bincount(Slices.coloured(wider, 20).of_term, minlength=20)
    assert sizes.sum() == TERMS + 100
    assert sizes.max() <= np.ceil(1.6 * TERMS / 20) + 5


def test_saved_vectors_are_read_back(documents, queries, tmp_path):
    dense = np.ones((len(documents), 3), np.float32)
    made = DensifiedVectors.of(documents, Slices.coloured(documents, 64), dense)
    made.save(tmp_path / "vectors.arrow")
    opened = DensifiedVectors.load(tmp_path / "vectors.arrow")
    assert np.array_equal(opened.scores(queries), made.scores(queries))
    assert np.array_equal(opened.dense, dense)
    assert made.bytes_per_document == 64 * 3
    (tmp_path / "vectors.arrow").write_bytes(b"PK other")
    with pytest.raises(DataError, match="not densified vectors"):
        DensifiedVectors.load(tmp_path / "vectors.arrow")
    arrays = {"of_term": np.array([0, 9], np.int32), "values": made.values, "which": made.which[:3]}
    write_arrays(tmp_path / "wrong.arrow", "densified vectors", arrays)
    with pytest.raises(DataError, match="damaged: 64 slices, values of"):
        DensifiedVectors.load(tmp_path / "wrong.arrow")


@pytest.mark.parametrize("wrong", [{"k": 0}, {"candidates": 0}, {"threshold": -1}])
def test_invalid_settings_are_refused(documents, queries, wrong):
    found = DensifiedVectors.of(documents, Slices.random(TERMS, 8))
    with pytest.raises(ValueError, match="at least"):
        found.search(queries, **wrong)


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_768_slices_keep_the_quality_of_splade_v3(real_data):
    """On NFCorpus, 768 coloured slices lose nothing, and 256 or 384 coloured slices beat as many random slices."""
    measures = pytest.importorskip("lsr.eval.measures", reason="needs the extra eval")
    folder, tokens = real_data("nfcorpus-splade-v3"), {}

    def read(name):
        ids, rows = [], []
        with gzip.open(folder / name, "rt") as lines:
            for line in map(json.loads, lines):
                ids.append(line["_id"])
                rows.append({tokens.setdefault(t, len(tokens)): w for t, w in line["vector"].items()})
        return ids, rows

    (doc_ids, docs), (query_ids, asked) = read("corpus.splade-v3.jsonl.gz"), read("queries.splade-v3.jsonl.gz")
    docs, asked = SparseMatrix.from_dicts(docs, len(tokens)), SparseMatrix.from_dicts(asked, len(tokens))
    qrels = read_qrels(folder / "qrels" / "test.tsv")

    def measured(slices):
        found = DensifiedVectors.of(docs, slices).search(asked, 100)
        run = {
            query: {doc_ids[doc]: float(score) for doc, score in zip(*hits, strict=True)}
            for query, hits in zip(query_ids, found, strict=True)
        }
        return measures.score_run(qrels, run, measures.parse_measures("nDCG@10"))[0]["nDCG@10"]

    full = measured(Slices.striped(len(tokens), len(tokens), first=0))
    assert full == pytest.approx(0.3536, abs=0.001)
    assert measured(Slices.coloured(docs, 768)) >= full - 0.001
    for count in (256, 384):
        assert measured(Slices.coloured(docs, count)) > measured(Slices.random(len(tokens), count))
