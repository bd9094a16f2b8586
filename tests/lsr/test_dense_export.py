"""DenseExport projects sparse vectors to dense vectors and changes inner products as little as possible."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lsr.arrays import write_arrays
from lsr.dense_export import DenseExport, beside
from lsr.encode.bm25 import BM25Encoder
from lsr.errors import DataError
from lsr.sparse import SparseMatrix

TERMS = 120


@pytest.fixture(scope="module")
def documents():
    """Documents on ten topics, each with its own words."""
    rng = np.random.default_rng(0)
    topics = rng.random((10, TERMS)) * (rng.random((10, TERMS)) < 0.3)
    shares = rng.random((150, 10)) * (rng.random((150, 10)) < 0.3)
    return SparseMatrix.from_dense(shares @ topics)


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(1)
    return SparseMatrix.from_dense(np.where(rng.random((20, TERMS)) < 0.05, rng.random((20, TERMS)), 0))


def test_enough_directions_keep_the_scores(documents, queries):
    """16 directions are enough, because the documents span only ten dimensions."""
    factors = np.random.default_rng(2).random(TERMS) + 0.5
    for given in (None, factors):
        export = DenseExport.fit(documents, 16, factors=given)
        assert export.width == 16
        found = export.queries(queries) @ export.documents(documents).T
        assert found == pytest.approx(queries.dot(documents), abs=1e-4)


def test_few_directions_are_as_good_as_the_truncated_svd(documents):
    export = DenseExport.fit(documents, 4)
    dense = documents.to_dense()
    u, s, v = np.linalg.svd(dense, full_matrices=False)
    best = (u[:, :4] * s[:4]) @ v[:4]
    found = export.documents(documents) @ export.directions.T
    assert np.linalg.norm(dense - found) == pytest.approx(np.linalg.norm(dense - best), rel=1e-3)


def test_inner_products_of_concatenated_vectors_add_up(documents, queries):
    export = DenseExport.fit(documents, 8)
    rng = np.random.default_rng(3)
    theirs, own = (rng.standard_normal((n, 5)).astype(np.float32) for n in (len(documents), len(queries)))
    both = beside(own, export.queries(queries), weights=[1, 0.7]) @ beside(theirs, export.documents(documents)).T
    parts = own @ theirs.T + 0.7 * export.queries(queries) @ export.documents(documents).T
    assert both == pytest.approx(parts, abs=1e-5)
    with pytest.raises(ValueError, match="don't fit"):
        beside(own, theirs)
    with pytest.raises(ValueError, match="don't fit"):
        beside(own, own, weights=[1])


def test_unknown_and_rare_terms_are_ignored(documents):
    export = DenseExport.fit(documents, 8)
    later = SparseMatrix.from_dicts([{TERMS + 5: 3.0}], TERMS + 10)
    assert not export.documents(later).any()
    assert not export.queries(later).any()
    rare = SparseMatrix.vstack([documents, SparseMatrix.from_dicts([{TERMS: 9.0}], TERMS + 1)])
    assert DenseExport.fit(rare, 8).scale[TERMS] == 0


def test_a_saved_export_is_read_back(documents, tmp_path):
    export = DenseExport.fit(documents, 8)
    export.save(tmp_path / "export.arrow")
    assert np.array_equal(DenseExport.load(tmp_path / "export.arrow").documents(documents), export.documents(documents))
    (tmp_path / "other.arrow").write_bytes(b"PK other")
    write_arrays(tmp_path / "wrong.arrow", "a dense export", {"directions": np.ones((3, 2)), "scale": np.ones(3)})
    for name in ("other.arrow", "wrong.arrow", "absent.arrow"):
        with pytest.raises(DataError, match="not a dense export"):
            DenseExport.load(tmp_path / name)
    with pytest.raises(ValueError, match="documents with terms"):
        DenseExport.fit(SparseMatrix.empty(5))


def test_an_export_embeds_texts():
    texts = [f"{topic} {word}" for topic in ("wing", "heart", "price") for word in ("one", "two", "three", "four")]
    encoder = BM25Encoder()
    encoder.fit(texts)
    factors = encoder.query_factors(np.arange(encoder.n_terms))
    export = DenseExport.fit(encoder.encode_document(texts), 7, factors=factors)
    documents = export.embed(encoder.encode_document)(texts)
    (query,) = export.embed(encoder.encode_query, queries=True)(["heart two"])
    assert int((documents @ query).argmax()) == texts.index("heart two")


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_dense_search_finds_what_bm25_finds(real_data):
    """On SciFact, vectors of 768 numbers find at least half of BM25's ten best documents."""
    from lsr.io.corpus import open_corpus

    folder = real_data("scifact")
    encoder, texts = BM25Encoder(), [doc.content for doc in open_corpus(str(folder))]
    encoder.fit(texts)
    asked = [query.content for query in open_corpus(str(folder), queries=True)][:200]
    documents, queries = encoder.encode_document(texts), encoder.encode_query(asked)
    export = DenseExport.fit(documents, 768, factors=encoder.query_factors(np.arange(encoder.n_terms)))
    found, exact = export.queries(queries) @ export.documents(documents).T, queries.dot(documents)
    shared = [len({*np.argsort(-a)[:10]} & {*np.argsort(-b)[:10]}) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(shared) > 0.5
