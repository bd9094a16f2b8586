"""The weights of a query model are averaged with the weights of the query table."""

from __future__ import annotations

import numpy as np
import pytest

from lsr import Index
from lsr.encode.entities import Entity, EntityEncoder
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.load import load_encoder, load_encoder_files
from lsr.encode.onnx_export import compress
from lsr.encode.pruning import save_with_graph
from lsr.encode.splade import SpladeEncoder
from lsr.errors import EncoderError
from lsr.train.teachers import SparseTeacher

QUERIES = ["doctor medicine pain", "what is an endpoint", "ORA-12541", "", "qwrtpsdf"]
TEXTS = [
    "Sparse vectors have a weight for each word of a vocabulary.",
    "The physician prescribed aspirin against the headache.",
    "Cats sleep for most of the day.",
    "Query parameters are parts of the URL of an endpoint, to which requests go.",
    "Glue and other adhesives have a melting point.",
    "ORA-12541 means that there is no listener.",
]


@pytest.fixture(scope="module")
def plain() -> HybridEncoder:
    """lsr-tiny, fitted; queries get their weights from tables."""
    encoder = load_encoder("lsr-tiny")
    encoder.fit(TEXTS)
    assert isinstance(encoder, HybridEncoder)
    return encoder


@pytest.fixture(scope="module")
def modelled() -> HybridEncoder:
    """lsr-tiny, fitted; queries get their weights from tables and from splade-tiny."""
    encoder = load_encoder("lsr-tiny", query_model="splade-tiny")
    encoder.fit(TEXTS)
    assert isinstance(encoder, HybridEncoder)
    return encoder


def _weights(vectors, row: int) -> dict[int, float]:
    terms, weights = vectors.row(row)
    return dict(zip(terms.tolist(), weights.tolist(), strict=True))


def test_weights_are_the_mean_of_the_table_and_the_model(plain, modelled):
    model = load_encoder("splade-tiny").encode_query(QUERIES[:1]).top_k(32)
    table, found = plain.learned.encode_query(QUERIES[:1]), modelled.learned.encode_query(QUERIES[:1])
    expected = (table.to_scipy() + model.to_scipy()).toarray() / 2
    np.testing.assert_allclose(found.to_scipy().toarray(), expected, rtol=1e-6)
    assert found.nnz > table.nnz


def test_a_query_model_leaves_documents_and_the_fingerprint_unchanged(plain, modelled):
    assert modelled.fingerprint == plain.fingerprint
    ours, theirs = modelled.encode_document(TEXTS), plain.encode_document(TEXTS)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_array_equal(ours.data, theirs.data)


def test_a_query_without_weights_in_the_table_stays_empty(modelled):
    """Otherwise the model would guess terms from the pieces of an unknown word."""
    found = modelled.encode_query(QUERIES)
    assert [bool(length) for length in found.lengths()] == [True, True, True, False, False]
    assert load_encoder("splade-tiny").encode_query(["qwrtpsdf"]).nnz


def test_the_model_does_not_weight_pieces_that_the_table_ignores(plain, modelled):
    """In the table and in the model, pieces of a known word count only if the query has other words."""
    pieces = {term for term, _, _ in plain.learned.spans("endpoint")}
    assert len(pieces) == 2
    text = "endpoint"  # BM25 knows this word, and the query has no other words
    for encoder in (plain, modelled):
        found = _weights(encoder.encode_query([text]), 0)
        assert pieces.isdisjoint(found)


def test_one_index_can_be_searched_with_and_without_the_query_model(plain, tmp_path):
    Index.build(tmp_path / "idx", [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)], encoder="lsr-tiny")
    query = "doctor"
    without = Index.open(tmp_path / "idx").search(query)
    encoder = load_encoder("lsr-tiny", query_model="splade-tiny")
    hits = Index.open(tmp_path / "idx", encoder=encoder).search(query)
    assert hits[0].id == "1"
    assert hits[0].score > max([hit.score for hit in without if hit.id == "1"], default=0.0)
    explanation = hits[0].explain()
    assert sum(term.score for term in explanation) == pytest.approx(hits[0].score, rel=1e-5)
    assert not Index.open(tmp_path / "idx", encoder=encoder).search("qwrtpsdf")


def test_an_index_keeps_the_query_model(tmp_path):
    encoder = load_encoder("lsr-tiny", query_model="splade-tiny")
    index = Index.build(tmp_path / "idx", [{"_id": "a", "text": TEXTS[1]}], encoder=encoder)
    learned = Index.open(tmp_path / "idx").encoder.learned
    assert learned.query_model.query.checkpoint == "splade-tiny"  # the index stores the model's name, not its files
    assert [hit.id for hit in Index.open(tmp_path / "idx").search("doctor")] == [
        hit.id for hit in index.search("doctor")
    ]


@pytest.mark.parametrize("lexical", [0, 0.5])
def test_an_encoder_with_a_query_model_is_saved_and_opened(tmp_path, lexical):
    encoder = load_encoder("lsr-tiny", query_model="splade-tiny", lexical=lexical)
    if lexical:
        encoder.fit(TEXTS)
    encoder.save(tmp_path / "saved")
    again = load_encoder(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / "moved")
    moved = load_encoder(tmp_path / "moved")
    expected = encoder.encode_query(QUERIES)
    for one in (again, moved):
        learned = one.learned if isinstance(one, HybridEncoder) else one
        assert isinstance(learned, InferenceFreeEncoder)
        assert isinstance(learned.query_model, SpladeEncoder)
    found = moved.encode_query(QUERIES)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-6)
    assert "splade-tiny" in (tmp_path / "moved" / "README.md").read_text()


def test_any_checkpoint_with_a_query_table_can_have_a_query_model(checkpoint, query_weights, tmp_path):
    import json
    import shutil

    shutil.copytree(checkpoint, tmp_path / "doc")
    vocabulary = load_encoder(checkpoint).vocabulary
    weights = {token: float(weight) for token, weight in zip(vocabulary, query_weights, strict=False)}
    (tmp_path / "doc" / "idf.json").write_text(json.dumps(weights))
    encoder = load_encoder(tmp_path / "doc", query_model=checkpoint)
    table, model = load_encoder(tmp_path / "doc"), load_encoder(checkpoint)
    text = ["the cat sat"]
    expected = (table.encode_query(text).to_scipy() + model.encode_query(text).top_k(32).to_scipy()).toarray() / 2
    np.testing.assert_allclose(encoder.encode_query(text).to_scipy().toarray(), expected, rtol=1e-5)


@pytest.mark.parametrize("opened", [lambda: "lsr-tiny", lambda: load_encoder("lsr-tiny").query_files()])
def test_a_model_of_another_vocabulary_is_refused(checkpoint, opened):
    """The test checks a named encoder, and the encoder files that an index stores."""
    given = opened()
    load = load_encoder if isinstance(given, str) else load_encoder_files
    with pytest.raises(EncoderError, match="has another vocabulary than the document model"):
        load(given, query_model=checkpoint)


def test_a_query_model_must_be_a_masked_lm_checkpoint():
    with pytest.raises(EncoderError, match="query_model lsr-tiny: a hybrid encoder; a masked-LM checkpoint is needed"):
        load_encoder("lsr-mini", query_model="lsr-tiny")


@pytest.mark.parametrize("over", ["csr", "latent", "late"])
def test_other_encoders_refuse_a_query_model(over):
    with pytest.raises(EncoderError, match=f"{over}:lsr-mini: no setting 'query_model'"):
        load_encoder(f"{over}:lsr-mini", query_model="splade-tiny")


def test_a_query_model_has_its_own_fingerprint(plain, modelled):
    """Caches of query vectors need this fingerprint: the encoder's fingerprint leaves the query model out."""
    assert plain.query_fingerprint is None
    assert modelled.query_fingerprint == load_encoder("splade-tiny").fingerprint
    entities = EntityEncoder(modelled.learned, [Entity("Aspirin")])
    assert entities.query_fingerprint == modelled.query_fingerprint


def test_a_teacher_caches_queries_separately_for_each_query_model(tmp_path):
    weights = []
    for name in (None, "splade-tiny"):
        encoder = load_encoder("lsr-tiny", lexical=0, query_model=name)
        teacher = SparseTeacher(encoder, cache=tmp_path)
        weights.append(teacher.vectors(["doctor"], queries=True))
        expected = encoder.encode_query(["doctor"])
        np.testing.assert_array_equal(weights[-1].indices, expected.indices)
    assert weights[1].nnz > weights[0].nnz
    assert len(list(tmp_path.glob("sparse-documents-*"))) == 1  # both teachers share the cached document vectors


def test_replacing_the_document_graph_keeps_the_query_model(modelled, tmp_path):
    graph = modelled.learned.document.document.folder() / "model.onnx"
    save_with_graph(modelled.learned, graph.read_bytes(), tmp_path / "small")
    small = load_encoder(tmp_path / "small")
    assert small.encode_query(QUERIES) == modelled.learned.encode_query(QUERIES)


def test_a_torch_query_model_runs_on_the_device_of_the_document_model(opensearch, checkpoint):
    """A query model that is an ONNX graph always runs on the CPU."""
    assert load_encoder(opensearch, query_model=checkpoint, device="cpu").query_model.device == "cpu"
    assert load_encoder("lsr-tiny", query_model="splade-tiny", lexical=0, device="cpu").query_model.device is None


def test_compression_turns_the_query_model_into_a_graph(opensearch, checkpoint, tmp_path):
    pytest.importorskip("onnx")
    encoder = load_encoder(opensearch, query_model=checkpoint, device="cpu")
    compress(encoder, tmp_path / "small")
    small = load_encoder(tmp_path / "small")
    assert small.query_model.query.head == "onnx"
    text = ["the cat sat"]
    expected = encoder.encode_query(text).to_scipy().toarray()
    assert np.count_nonzero(expected) > encoder.beside(None).encode_query(text).nnz
    np.testing.assert_allclose(small.encode_query(text).to_scipy().toarray(), expected, atol=0.1)
