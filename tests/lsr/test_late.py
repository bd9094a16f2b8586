"""Late interaction stores token vectors. Its scores equal those of plain NumPy."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from lsr.arrays import read_arrays, write_arrays
from lsr.encode.late import LateEncoder, fused
from lsr.encode.load import load_encoder, load_encoder_files
from lsr.encode.token_vectors import _LAYOUT, LateReranker, TokenVectors
from lsr.errors import DataError, EncoderError, EncoderMismatch
from lsr.index import Index
from lsr.index.search.late import search_late
from lsr.io.corpus import open_corpus
from lsr.io.runs import read_qrels
from lsr.sparse import SparseMatrix

QUERIES = ["flow over a swept wing", "heat transfer in a boundary layer", "buckling of thin shells", "ice"]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("late:lsr-tiny")


@pytest.fixture(scope="module")
def documents(cranfield):
    return cranfield[:80]


@pytest.fixture(scope="module")
def cranfield():
    import lsr.data

    return list(open_corpus(next(iter(lsr.data.__path__)) + "/cranfield"))


@pytest.fixture(scope="module")
def vectors(encoder, documents, tmp_path_factory):
    return TokenVectors.build(tmp_path_factory.mktemp("late") / "tokens.arrow", documents, encoder)


@pytest.fixture(scope="module")
def index(encoder, documents, tmp_path_factory):
    path = tmp_path_factory.mktemp("late") / "idx"
    return Index.build(path, documents, encoder=encoder, impacts="float32")


def max_sim(query, document):
    """MaxSim by its definition, with dense matrices."""
    products = query.to_dense() @ document.to_dense().T
    return products.max(1, initial=0).sum()


def test_the_maximum_over_tokens_is_the_vector_of_the_text(documents):
    """For terms that occur in the text, both give the same weight. For other terms, special tokens can make the text's
    weight higher.
    """
    model = load_encoder("lsr-tiny").learned.document
    texts = [doc.content for doc in documents[:5]]
    found = fused(LateEncoder(model, top_k=model.n_terms).token_vectors(texts), model.n_terms).to_dense()
    whole = model.encode_document(texts).to_dense()
    assert (found <= whole + 1e-4).all()
    own = np.zeros(found.shape, bool)
    for row, text in enumerate(texts):
        own[row, [term for term, _, _ in model.spans(text)]] = True
    assert np.abs(found - whole)[own & (whole > 0)].max() < 1e-4


def test_token_vectors_of_a_torch_model_equal_its_logits(checkpoint):
    torch = pytest.importorskip("torch")
    encoder = LateEncoder(load_encoder(checkpoint), top_k=3)
    (matrix,), ids = encoder.token_vectors(["abc def ghij"]), encoder.model._ids
    model, tower = encoder.model.network(), encoder.model.document
    (row,) = ids(tower, ["abc def ghij"], tower.max_length)
    with torch.inference_mode():
        tokens = torch.tensor([row])
        states = model.states(tokens, torch.ones_like(tokens))
        logits = model.head.token_logits(states, tokens, torch.arange(model.n_terms))[0].numpy()
    expected = SparseMatrix.from_dense(np.log1p(np.maximum(logits, 0))[1:-1]).top_k(3)
    assert len(matrix) == len(row) - 2
    assert matrix.to_dense() == pytest.approx(expected.to_dense(), abs=1e-5)
    assert matrix.lengths().max() <= 3


def test_stored_scores_equal_the_definition(encoder, documents, vectors):
    numbers = np.arange(len(documents))[::-1]
    for query in [*encoder.token_vectors(QUERIES, queries=True), SparseMatrix.empty(encoder.n_terms)]:
        found = vectors.scores(query, numbers)
        assert found == pytest.approx([max_sim(query, vectors.matrix(n)) for n in numbers], abs=1e-4)


def test_the_store_rounds_down_by_less_than_a_step(encoder, documents, vectors):
    for number, exact in enumerate(encoder.token_vectors(documents[:5])):
        lost = exact.to_dense() - vectors.matrix(number).to_dense()
        assert -1e-6 < lost.min() <= lost.max() < vectors.step + 1e-6
    assert 3 * 8 * 40 < vectors.bytes_per_document < 26 * 512
    assert len(vectors) == len(documents)


def test_scores_of_fused_vectors_are_at_least_the_late_scores(encoder, documents, vectors, index):
    for text in QUERIES:
        first = index.search(text, len(documents))
        late = LateReranker(encoder, vectors).scores(text, [f"{hit.title} {hit.text}".strip() for hit in first])
        assert all(hit.score >= score - 1e-5 for hit, score in zip(first, late, strict=True))


def test_a_search_deepens_until_the_bound_is_met(encoder, documents, vectors, index, monkeypatch):
    reranker, searched = LateReranker(encoder, vectors), []
    search = type(index).search
    monkeypatch.setattr(type(index), "search", lambda i, q, k, **how: searched.append((q, k)) or search(i, q, k, **how))
    for text in QUERIES:
        hits = search_late(index, text, 3, reranker=reranker, depth=3)
        assert len(hits) == 3
        scores = np.array(reranker.scores(text, [doc.content for doc in documents]))
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:3].tolist(), abs=1e-4)
    assert len(searched) == len(set(searched)) > len(QUERIES)  # no search is repeated, but some go deeper
    other = LateReranker(LateEncoder(encoder.model, top_k=2))
    with pytest.raises(EncoderMismatch, match="don't bound"):
        search_late(index, "ice", reranker=other)
    with pytest.raises(EncoderMismatch, match="token vectors were made by"):
        LateReranker(other.encoder, vectors)


def test_the_reranker_encodes_only_texts_without_stored_vectors(encoder, documents, vectors, index):
    reranker = LateReranker(encoder, vectors)
    hits = index.search(QUERIES[0], 5, rerank=reranker, depth=20)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    texts = [documents[0].content, "a new text on the flow over a wing"]
    assert vectors.find(texts).tolist() == [0, -1]
    known, new = reranker.scores(QUERIES[0], texts)
    first, second = LateReranker(encoder).scores(QUERIES[0], texts)
    assert new == pytest.approx(second)
    assert known == pytest.approx(first, rel=0.02)


def test_empty_texts_score_zero(encoder, tmp_path):
    vectors = TokenVectors.build(tmp_path / "tokens.arrow", ["", "a wing"], encoder)
    assert vectors.matrix(0).nnz == 0
    assert LateReranker(encoder, vectors).scores("wing", ["", "a wing"])[0] == 0
    assert LateReranker(encoder, vectors).scores("", ["a wing"]) == [0]
    nothing = TokenVectors.build(tmp_path / "nothing.arrow", [], encoder)
    assert len(nothing) == 0
    assert nothing.find(["x"]).tolist() == [-1]


def test_damaged_files_are_refused(encoder, tmp_path):
    path = tmp_path / "tokens.arrow"
    TokenVectors.build(path, ["a wing", "ice"], encoder)
    content, arrays = path.read_bytes(), read_arrays(path, "token vectors", _LAYOUT)
    for size in (0, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"tokens\.arrow.*damaged, or not token vectors"):
            TokenVectors(path)
    path.unlink()
    with pytest.raises(DataError, match=r"not token vectors: .*No such file"):
        TokenVectors(path)
    for changes, message in (
        ({"tokens": np.array([0, 9, 2])}, "lengths don't fit"),
        ({"weights": arrays["weights"][1:]}, "lengths don't fit"),
        ({"terms": arrays["terms"].astype(np.int16)}, "unexpected arrays"),
        ({"keys": arrays["keys"][:, 1:]}, r"keys \(2, 15\)"),
        ({"step": np.array(np.nan)}, "step nan"),
    ):
        write_arrays(path, "token vectors", arrays | changes)
        with pytest.raises(DataError, match=message):
            TokenVectors(path)
    # Sizes beyond the end of the file and terms beyond the vocabulary still give finite scores.
    wrong = {"sizes": np.full_like(arrays["sizes"], 60_000), "terms": np.full_like(arrays["terms"], 65_000)}
    (query,) = encoder.token_vectors(["ice"], queries=True)
    for name, array in wrong.items():
        write_arrays(path, "token vectors", arrays | {name: array})
        assert np.isfinite(TokenVectors(path).scores(query, np.arange(2))).all()


def test_a_saved_late_encoder_is_read_back(encoder, tmp_path):
    encoder.save(tmp_path / "saved")
    for again in (
        load_encoder(tmp_path / "saved"),
        load_encoder_files(encoder.query_files()),
        pickle.loads(pickle.dumps(encoder)),
    ):
        assert again.fingerprint == encoder.fingerprint
        assert again.encode_query("ice on a wing") == encoder.encode_query("ice on a wing")
    assert load_encoder("late:lsr-tiny", top_k=4).top_k == 4
    with pytest.raises(EncoderError, match="has no token vectors"):
        load_encoder("late:bm25")
    with pytest.raises(EncoderError, match="at least 1"):
        load_encoder("late:lsr-tiny", top_k=0)


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
@pytest.mark.parametrize("name", ["scifact", "msmarco-dl19-pool"])
def test_late_scores_rank_no_worse_on_real_collections(real_data, tmp_path, name):
    """No late score of a query and a document is above their first score, and the best 100 documents in the order of
    their late scores are ranked no worse. Prints the bytes per document.
    """
    measures = pytest.importorskip("lsr.eval.measures", reason="needs the extra eval")
    folder, encoder = real_data(name), load_encoder("late:splade-tiny")
    qrels, documents = read_qrels(folder / "qrels" / "test.tsv"), list(open_corpus(str(folder)))
    asked = [query for query in open_corpus(str(folder), queries=True) if query.id in qrels]
    tokens = encoder.token_vectors([query.content for query in asked], queries=True)
    stored = TokenVectors.build(tmp_path / "tokens.arrow", documents, encoder)
    numbers = np.arange(len(documents))
    whole = fused([stored.matrix(number) for number in numbers], encoder.n_terms)
    first = fused(tokens, encoder.n_terms, total=True).dot(whole)
    late = np.array([stored.scores(query, numbers) for query in tokens])
    assert (late <= first + 1e-4).all()
    runs = {"first": {}, "late": {}}
    for query, before, after in zip(asked, first, late, strict=True):
        best = np.argsort(-before, kind="stable")[:100]
        for kind, scores in (("first", before), ("late", after)):
            runs[kind][query.id] = {documents[doc].id: float(scores[doc]) for doc in best}
    parsed = measures.parse_measures("nDCG@10")
    found = {kind: measures.score_run(qrels, run, parsed)[0]["nDCG@10"] for kind, run in runs.items()}
    print(name, found, f"{stored.bytes_per_document:.0f} bytes per document")
    assert found["late"] >= found["first"]
