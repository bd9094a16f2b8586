"""EASE is BM25 whose queries are expanded by a term-term matrix. The matrix has a closed form."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.ease import TABLE_FILE, EaseEncoder
from lsr.encode.load import load_encoder, load_encoder_files
from lsr.errors import EncoderError
from lsr.index.index import Index
from lsr.sparse import SparseMatrix

TEXTS = [
    *("flutter wing wind", "wing flutter lift", "lift wing", "wind wing"),
    *("heat plate", "plate heat transfer", "transfer heat", "plate steel"),
    *("blood heart", "heart cell", "cell blood", "heart blood pulse"),
    *("market price", "price trade", "trade bond", "market bond price"),
]


@pytest.fixture(scope="module")
def encoder():
    made = load_encoder("ease")
    made.fit(iter(TEXTS))
    return made


def test_the_matrix_equals_the_closed_form(encoder):
    bm25 = BM25Encoder()
    bm25.fit(TEXTS)
    documents = bm25.encode_document(TEXTS)
    counts = np.bincount(documents.indices, minlength=bm25.n_terms)
    terms = np.flatnonzero((counts > 1) & (counts <= 0.3 * len(TEXTS)))
    x = documents.to_dense()[:, terms] * bm25.query_factors(terms)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    p = np.linalg.inv(x.T @ x + np.eye(len(terms)))
    b = np.eye(len(terms)) - p / np.diag(p)
    found = encoder.table.to_dense()  # [j, i]: how strongly term i predicts term j
    assert np.diag(found).max() == 0
    assert found[np.ix_(terms, terms)] == pytest.approx(np.maximum(b, 0).T, abs=1e-5)
    # B minimizes |X - XB|^2 + |B|^2 with a zero diagonal, so the gradient is zero off the diagonal.
    gradient = x.T @ (x @ b - x) + b
    np.fill_diagonal(gradient, 0)
    assert np.abs(gradient).max() < 1e-5


def test_a_query_is_expanded_with_related_terms(encoder, tmp_path):
    bm25 = BM25Encoder()
    bm25.fit(TEXTS)
    query, plain = encoder.encode_query("flutter"), bm25.encode_query("flutter")
    weights = query.to_dicts(encoder.vocabulary)[0]
    assert weights["flutter"] == pytest.approx(plain.data[0])
    assert {*sorted(weights, key=weights.get)[-3:]} <= {"flutter", "wing", "wind", "lift"}
    assert encoder.encode_document(TEXTS) == bm25.encode_document(TEXTS)
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    index = Index.build(tmp_path / "idx", docs, encoder="ease")
    found = [hit.id for hit in Index.open(tmp_path / "idx").search("flutter", 10)]
    assert set(found[:2]) == {"0", "1"}
    assert {int(i) for i in found[:4]} == {0, 1, 2, 3}
    assert {one.token for one in index.explain("flutter", "2") if one.score > 0} & {"wing", "lift"}


def test_scores_with_weight_0_equal_bm25(encoder):
    bm25 = BM25Encoder()
    bm25.fit(TEXTS)
    plain = EaseEncoder(bm25, encoder.table, weight=0)
    assert plain.encode_query(["flutter", "heat blood", ""]) == bm25.encode_query(["flutter", "heat blood", ""])
    few = EaseEncoder(bm25, encoder.table, expansions=1).encode_query(["flutter"])
    assert few.nnz == 2


def test_a_saved_encoder_is_read_back(encoder, tmp_path):
    encoder.save(tmp_path / "ease")
    copies = (
        load_encoder(tmp_path / "ease"),
        load_encoder_files(encoder.query_files()),
        pickle.loads(pickle.dumps(encoder)),
    )
    for opened in copies:
        assert opened.encode_query("flutter blood") == encoder.encode_query("flutter blood")
        assert opened.fingerprint == encoder.fingerprint
    unfitted = load_encoder_files(load_encoder("ease", k1=1.2).query_files())
    assert unfitted.needs_fit
    assert unfitted.bm25.k1 == 1.2
    with pytest.raises(EncoderError, match="no corpus yet"):
        unfitted.encode_query("wing")
    with pytest.raises(EncoderError, match="no setting 'top_k'"):
        load_encoder(tmp_path / "ease", top_k=3)


def test_damaged_tables_are_reported(encoder, tmp_path):
    encoder.save(tmp_path / "ease")
    path = tmp_path / "ease" / TABLE_FILE
    whole = path.read_bytes()
    large = SparseMatrix.from_dicts([{0: 1.0}] * 500, 500)
    other = EaseEncoder(encoder.bm25, large).query_files()[TABLE_FILE]
    for content in (b"", whole[:-50], other):
        path.write_bytes(content)
        with pytest.raises(EncoderError, match="not a table of expansions"):
            load_encoder(tmp_path / "ease")


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"expansions": 0}, {"penalty": 0}])
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(EncoderError, match="ease needs weight"):
        EaseEncoder(**wrong)
