"""Sparse codes of dense vectors are trained, named, steered, saved and indexed."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lsr.encode.codes import CODES_FILE, Codes, CsrEncoder
from lsr.encode.load import load_encoder, load_encoder_files
from lsr.errors import EncoderError
from lsr.index.index import Index

torch = pytest.importorskip("torch")
from lsr.encode.autoencoder import CodeSettings, train_codes  # noqa: E402

WIDTH, TOPICS = 24, 40
SMALL = CodeSettings(latents=96, top_k=8, steps=300, batch=128, rate=3e-3)


def mixtures(n, seed, noise=0.05):
    """Unit vectors. Each vector is a noisy sum of a few of 40 directions."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((TOPICS, WIDTH))
    shares = (
        np.where(rng.random((n, TOPICS)) < 0.08, rng.random((n, TOPICS)), 0)
        + np.eye(TOPICS)[rng.integers(TOPICS, size=n)]
    )
    found = shares @ directions + noise * rng.standard_normal((n, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    torch.set_num_threads(1)
    return mixtures(3000, 0)


@pytest.fixture(scope="module")
def trained(vectors):
    return train_codes(vectors, SMALL)


def embed(texts):
    """Dense vectors of texts: a random direction for each word, so texts that share words are similar."""
    found = np.zeros((len(texts), WIDTH), np.float32)
    for row, text in zip(found, texts, strict=True):
        for word in text.lower().split():
            row += np.random.default_rng(sum(word.encode())).standard_normal(WIDTH)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def test_more_latents_reconstruct_better(trained):
    errors = [trained.error(mixtures(500, 1), k) for k in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.3
    assert trained.dead < 0.05


def test_codes_and_vectors_give_similar_rankings(vectors, trained):
    documents, queries = mixtures(800, 2), mixtures(60, 3)
    codes = Codes(trained.weight, trained.bias, trained.query_bias, ("",) * 96)
    found = codes.encode(queries, 16).dot(codes.encode(documents, 16))
    exact = queries @ documents.T
    kept = [len({*np.argsort(-a)[:10]} & {*np.argsort(-b)[:50]}) for a, b in zip(exact, found, strict=True)]
    assert np.mean(kept) > 9


def test_ncl_learns_from_pairs_without_reconstruction(vectors):
    queries = vectors + 0.05 * np.random.default_rng(4).standard_normal(vectors.shape).astype(np.float32)
    found = train_codes(
        vectors, replace(SMALL, objective="ncl", temperature=0.05), queries=queries, positives=np.arange(len(vectors))
    )
    codes = Codes(found.weight, found.bias, found.query_bias, ("",) * 96)
    own = codes.encode(queries[:200], 16, queries=True).dot(codes.encode(vectors[:200], 16))
    assert (own.argmax(1) == np.arange(200)).mean() > 0.8
    assert set(found.losses) == {"loss", "contrast"}


def test_training_is_repeatable(vectors):
    short = replace(SMALL, steps=5)
    one, other = train_codes(vectors, short), train_codes(vectors, short)
    assert np.array_equal(one.weight, other.weight)
    assert not np.array_equal(one.weight, train_codes(vectors, replace(short, seed=1)).weight)


TEXTS = [
    *(f"wing flow number{i} lift. The wing of an aircraft in shock" for i in range(20)),
    *(f"heart cell number{i} blood. A cell of the heart needs blood" for i in range(20)),
    *(f"market price number{i} trade. Prices rise on the market" for i in range(20)),
]


@pytest.fixture(scope="module")
def encoder():
    made = CsrEncoder(embed, settings=replace(SMALL, latents=64, top_k=6, steps=120, batch=32))
    assert made.needs_fit
    made.fit(TEXTS)
    return made


def test_an_index_of_codes_finds_similar_documents(encoder, tmp_path):
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    index = Index.build(tmp_path / "idx", docs, encoder=encoder)
    assert index.n_postings <= 6 * len(TEXTS)
    hits = index.search("blood of the heart cell", 10)
    assert {int(hit.id) // 20 for hit in hits} == {1}
    explained = index.explain("blood of the heart cell", hits[0].id)
    assert "latent:" in str(explained)
    with pytest.raises(EncoderError, match="codes over a function"):
        Index.open(tmp_path / "idx").search("blood")
    again = Index.open(tmp_path / "idx", encoder=encoder).search("blood of the heart cell", 10)
    assert [hit.id for hit in again] == [hit.id for hit in hits]


def test_latents_are_named_by_words_of_their_texts(encoder):
    names = [name for name in encoder.codes.names if name]
    assert len(names) > 10
    assert any(word in name for name in names for word in ("heart", "blood", "cell"))
    assert len(set(encoder.vocabulary)) == encoder.n_terms == 64


def test_steering_changes_a_search(encoder, tmp_path):
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    index = Index.build(tmp_path / "idx", docs, encoder=encoder)
    query = encoder.encode_query("blood of the heart cell")
    terms, weights = encoder.encode_query("prices rise on the market").row(0)
    other = int(terms[weights.argmax()])
    steered = encoder.steer(query, {other: 5.0})
    assert int(index.search(query, 1)[0].id) // 20 == 1
    assert int(index.search(steered, 1)[0].id) // 20 == 2
    without = encoder.steer(query, {int(term): -9.0 for term in query.row(0)[0]})
    assert without.nnz == 0
    with pytest.raises(EncoderError, match="there is no latent 64"):
        encoder.steer(query, {64: 1.0})


def test_codes_over_a_function_cannot_be_opened_without_the_function(encoder, tmp_path):
    encoder.save(tmp_path / "codes")
    with pytest.raises(EncoderError, match="codes over a function"):
        load_encoder(tmp_path / "codes")
    opened = CsrEncoder(embed, Codes.read(tmp_path / "codes" / CODES_FILE), settings=encoder.settings)
    assert opened.encode_document(TEXTS) == encoder.encode_document(TEXTS)
    assert opened.fingerprint == encoder.fingerprint
    assert opened.vocabulary == encoder.vocabulary
    assert pickle.loads(pickle.dumps(encoder)).encode_query("wing") == encoder.encode_query("wing")


@pytest.fixture(scope="module")
def over_model():
    made = load_encoder("csr:lsr-mini", top_k=5, latents=32)
    made.settings = replace(made.settings, steps=20, batch=16)
    made.fit(TEXTS[::4])
    return made


def test_codes_over_a_model_are_saved_and_opened(over_model, tmp_path):
    assert over_model.dense_width == 384
    documents = over_model.encode_document(TEXTS[:6])
    assert documents.lengths().max() <= 5
    assert np.linalg.norm(documents.to_dense(), axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    both, dense = over_model.encode_both(TEXTS[:6])
    assert both == documents
    assert dense == pytest.approx(over_model.encode_dense(TEXTS[:6]), abs=1e-6)
    over_model.save(tmp_path / "codes")
    opened = load_encoder(tmp_path / "codes")
    assert opened.encode_document(TEXTS[:6]) == documents
    assert opened.fingerprint == over_model.fingerprint
    assert load_encoder(tmp_path / "codes", top_k=2).encode_document(TEXTS[:6]).lengths().max() <= 2
    carried = load_encoder_files(over_model.query_files())
    assert carried.encode_query("wing flow") == over_model.encode_query("wing flow")
    again = pickle.loads(pickle.dumps(over_model))
    assert again.encode_query("wing flow") == over_model.encode_query("wing flow")
    with pytest.raises(EncoderError, match="no setting 'pooling'"):
        load_encoder(tmp_path / "codes", pooling="max")


def test_a_hybrid_index_of_codes_can_be_searched(over_model, tmp_path):
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS[::6])]
    index = Index.build(tmp_path / "idx", docs, encoder=over_model, hybrid=True)
    assert len(Index.open(tmp_path / "idx").search("wing flow", 3, mode="hybrid")) == 3
    assert len(index.search("wing flow", 3, mode="dense")) == 3


def test_encoding_before_fit_is_reported(tmp_path):
    unfitted = load_encoder("ncl:lsr-mini")
    assert unfitted.settings.objective == "ncl"
    with pytest.raises(EncoderError, match="no codes yet"):
        unfitted.encode_query("wing")
    with pytest.raises(EncoderError, match="at least two texts"):
        unfitted.fit(["one"])
    assert load_encoder_files(unfitted.query_files()).needs_fit


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_codes_keep_most_of_the_quality_on_scifact(real_data):
    """After training on the documents for a minute, codes keep most of the dense vectors' nDCG."""
    from lsr.eval.datasets import open_dataset
    from lsr.eval.measures import parse_measures, score_run
    from lsr.io.corpus import open_corpus

    dataset = open_dataset(str(real_data("scifact")))
    docs, texts = zip(*((doc.id, doc.content) for doc in dataset.corpus()), strict=True)
    asked = {query.id: query.content for query in open_corpus(dataset.query_source, queries=True)}
    asked = {query: asked[query] for query in dataset.qrels}
    encoder = load_encoder("csr:lsr-mini")
    encoder.fit(texts)

    def measured(scores):
        best = [np.argsort(-row, kind="stable")[:10] for row in scores]
        run = {q: {docs[d]: float(row[d]) for d in top} for q, top, row in zip(asked, best, scores, strict=True)}
        return score_run(dataset.qrels, run, parse_measures("nDCG@10"))[0]["nDCG@10"]

    queries = encoder.encode_dense(list(asked.values()), queries=True)
    dense, found = measured(queries @ encoder.encode_dense(texts).T), {}
    for top_k in (32, 64):
        encoder.settings = replace(encoder.settings, top_k=top_k)
        codes = encoder.encode_query(list(asked.values())), encoder.encode_document(texts)
        found[top_k] = measured((codes[0].to_scipy() @ codes[1].to_scipy().T).toarray()) / dense
    print(dense, found)
    assert found[32] > 0.8
    assert found[64] > 0.9


def test_damaged_codes_are_reported(encoder, tmp_path):
    path = tmp_path / CODES_FILE
    whole = encoder.codes.to_bytes()
    for content in (
        b"",
        whole[:-40],
        b"x" * 100,
        replace(encoder.codes, bias=np.full(64, np.nan, np.float32)).to_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(EncoderError, match=r"not the codes|not numbers"):
            Codes.read(Path(path))


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"latents": 4, "top_k": 8}, {"steps": 0}, {"temperature": 0}, {"objective": "other"}]
)
def test_invalid_settings_are_refused(wrong):
    with pytest.raises(EncoderError):
        CodeSettings(**wrong)


def test_wrong_output_of_a_model_is_reported(encoder):
    with pytest.raises(EncoderError, match="has no dense vectors"):
        CsrEncoder(load_encoder("bm25"))
    with pytest.raises(EncoderError, match="a row of finite numbers"):
        CsrEncoder(lambda texts: [[np.nan] * WIDTH] * len(texts), encoder.codes).encode_document("a")
    with pytest.raises(EncoderError, match="dimensions"):
        CsrEncoder(lambda texts: np.ones((len(texts), 3)), encoder.codes).encode_document("a")
    with pytest.raises(EncoderError, match="24 dimensions"):
        CsrEncoder(load_encoder("lsr-mini"), encoder.codes)
    with pytest.raises(EncoderError, match="at least two finite vectors"):
        train_codes(np.ones((1, 4), np.float32))
    with pytest.raises(EncoderError, match="must be given together"):
        train_codes(np.ones((5, 4), np.float32), queries=np.ones((2, 4), np.float32))
