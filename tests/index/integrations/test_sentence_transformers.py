"""A SparseEncoder serves as an encoder, and its embeddings can be searched. The models are small and random."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lsr.encode.load import load_encoder
from lsr.errors import EncoderError, EncoderMismatch, RerankerError
from lsr.index.index import Index
from lsr.index.search.rerank import CrossEncoderReranker
from lsr.sparse import SparseMatrix

pytest.importorskip("sentence_transformers", reason='pip install "lsr-search[sentence-transformers]"')

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cats", "dogs", "sleep", "bark", "and", "birds"]
TEXTS = ["cats sleep", "", "dogs bark and bark", "cats and dogs", "birds sleep and sleep and sleep and sleep"]


def _tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({token: term for term, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=8, **names)


def _model(kind, folder, seed=0):
    """Make a SparseEncoder: "splade", "static" (a table of weights) or "autoencoder" (its dimensions aren't tokens)."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer import modules as dense
    from sentence_transformers.sparse_encoder import modules as sparse

    torch.manual_seed(seed)
    if kind == "static":
        table = sparse.SparseStaticEmbedding(_tokenizer(), weight=torch.arange(len(TOKENS), dtype=torch.float32))
        return SparseEncoder(modules=[table], device="cpu")
    if kind == "autoencoder":
        embedding = dense.StaticEmbedding(_tokenizer(), embedding_dim=8)
        return SparseEncoder(modules=[embedding, sparse.SparseAutoEncoder(8, hidden_dim=32, k=4)], device="cpu")
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(TOKENS), max_position_embeddings=8, initializer_range=0.5, **sizes)
    BertForMaskedLM(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    transformer = sparse.Transformer(str(folder), transformer_task="fill-mask")
    prompts = {"query": "cats ", "document": ""}
    return SparseEncoder(modules=[transformer, sparse.SpladePooling("max")], prompts=prompts, device="cpu")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Returns a function that gives an encoder with a model of the given kind. Each encoder is made once."""
    import torch

    made, threads = {}, torch.get_num_threads()

    def encoder(kind, seed=0):
        if (kind, seed) not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of sentence-transformers itself
                from lsr.index.integrations.sentence_transformers import SentenceTransformersEncoder

                made[kind, seed] = SentenceTransformersEncoder(_model(kind, tmp_path_factory.mktemp(kind), seed))
        return made[kind, seed]

    torch.set_num_threads(1)  # with small models, several threads mostly wait for each other
    yield encoder
    torch.set_num_threads(threads)


KINDS = pytest.mark.parametrize("kind", ["splade", "static", "autoencoder"])


@KINDS
def test_vectors_equal_those_of_the_model(adapter, kind):
    encoder = adapter(kind)
    for ours, theirs in (
        (encoder.encode_query, encoder.model.encode_query),
        (encoder.encode_document, encoder.model.encode_document),
    ):
        np.testing.assert_array_equal(ours(TEXTS).to_dense(), theirs(TEXTS).to_dense().numpy())
        assert len(ours("cats")) == 1
        assert ours([]).shape == (0, encoder.n_terms)


@KINDS
def test_an_index_can_use_a_sparse_encoder(adapter, kind, tmp_path):
    encoder = adapter(kind)
    documents = [{"_id": str(n), "text": text} for n, text in enumerate(TEXTS)]
    Index.build(tmp_path / "idx", documents, encoder=encoder, impacts="float32")
    index = Index.open(tmp_path / "idx", encoder=encoder)
    scores = encoder.encode_document(TEXTS).dot(encoder.encode_query("dogs sleep"))[:, 0]
    expected = [(str(doc), scores[doc]) for doc in np.argsort(-scores, kind="stable") if scores[doc] > 0]
    assert expected
    hits = index.search("dogs sleep")
    assert [hit.id for hit in hits] == [doc for doc, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected])
    assert hits[0].explain().score == pytest.approx(hits[0].score)
    with pytest.raises(EncoderError, match="built from vectors without their encoder"):
        Index.open(tmp_path / "idx").search("dogs sleep")
    with pytest.raises(EncoderMismatch):
        Index.open(tmp_path / "idx", encoder=adapter(kind, 1) if kind != "static" else adapter("splade"))


def test_terms_are_named_only_if_the_model_has_tokens(adapter):
    text = "dogs bark"
    assert adapter("splade").spans(text) == [(6, 0, 4), (8, 5, 9)]
    assert adapter("static").vocabulary == TOKENS
    autoencoder = adapter("autoencoder")
    assert autoencoder.vocabulary[:2] == ["[dim:0]", "[dim:1]"]
    assert len(autoencoder.vocabulary) == autoencoder.n_terms == 32
    assert autoencoder.spans(text) == []
    assert autoencoder.tokens(text) == adapter("splade").spans(text)


def test_truncated_texts_are_counted(adapter):
    assert adapter("splade").count_truncated(TEXTS) == 1


def test_the_fingerprint_depends_on_weights_and_prompts(adapter, tmp_path):
    fingerprint = adapter("splade").fingerprint
    assert (fingerprint.pooling, fingerprint.saturation, fingerprint.vocabulary_size) == ("max", "relu", len(TOKENS))
    same = type(adapter("splade"))(_model("splade", tmp_path))
    assert same.fingerprint.differences(fingerprint) == []
    same.model.prompts["query"] = "dogs "
    del same.fingerprint
    assert [d.split()[0] for d in same.fingerprint.differences(fingerprint)] == ["weights"]


def test_vectors_equal_those_of_load_encoder(adapter, tmp_path):
    encoder = adapter("splade")
    encoder.model.save_pretrained(str(tmp_path / "model"))
    loaded = load_encoder(tmp_path / "model")
    assert list(loaded.vocabulary) == list(encoder.vocabulary)
    for ours, theirs in (
        (encoder.encode_query, loaded.encode_query),
        (encoder.encode_document, loaded.encode_document),
    ):
        np.testing.assert_allclose(ours(TEXTS).to_dense(), theirs(TEXTS).to_dense(), rtol=1e-4, atol=1e-5)


def test_load_encoder_refuses_models_that_need_the_adapter(adapter, tmp_path):
    encoder = adapter("autoencoder")
    encoder.model.save_pretrained(str(tmp_path / "model"))
    with pytest.raises(EncoderError, match="SparseAutoEncoder"):
        load_encoder(tmp_path / "model")
    with pytest.raises(EncoderError, match="save_pretrained"):
        encoder.save(tmp_path / "model")


def test_tensors_of_any_layout_become_matrices(adapter):
    import torch

    adapter("static")  # imports the library with its warnings ignored
    from lsr.index.integrations.sentence_transformers import matrix

    dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]])
    expected = SparseMatrix.from_dense(dense.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that CSR tensors are in beta state
        tensors = [dense, dense.to_sparse(), dense.to_sparse_csr(), dense.bfloat16(), dense.requires_grad_()]
    for tensor in tensors:
        assert matrix(tensor) == expected
    assert matrix(dense[2]) == expected[2]
    with pytest.raises(ValueError, match="weight -1"):
        matrix(torch.tensor([-1.0]))
    with pytest.raises(TypeError, match="got list"):
        matrix([[("cats", 1.0)]])


@KINDS
def test_semantic_search_equals_brute_force(adapter, kind):
    model = adapter(kind).model
    from lsr.index.integrations.semantic_search import semantic_search_lsr

    queries, corpus = model.encode_query(["dogs sleep", "cats"]), model.encode_document(TEXTS)
    scores = (queries.to_dense() @ corpus.to_dense().T).numpy()
    results, seconds, index = semantic_search_lsr(
        queries, corpus, top_k=2, output_index=True, index_kwargs={"impacts": "float32"}
    )
    assert seconds > 0
    for row, hits in zip(scores, results, strict=True):
        best = [doc for doc in np.argsort(-row, kind="stable")[:2].tolist() if row[doc] > 0]
        assert [hit["corpus_id"] for hit in hits] == best
        assert [hit["score"] for hit in hits] == pytest.approx(row[best].tolist())
    again, _ = semantic_search_lsr(queries, corpus_index=index, top_k=2, search_kwargs={"threads": 1})
    assert again == results
    single, _ = semantic_search_lsr(queries[0], corpus_index=index.path, top_k=2)
    assert single == results[:1]
    folder = index.path
    del index
    import gc

    gc.collect()
    assert not folder.exists()


def test_semantic_search_needs_documents(adapter):
    from lsr.index.integrations.semantic_search import semantic_search_lsr

    with pytest.raises(ValueError, match="corpus_embeddings or corpus_index"):
        semantic_search_lsr(adapter("static").model.encode_query(["cats"]))


# --- re-ranking -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cross")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(TOKENS), max_position_embeddings=8, initializer_range=0.5, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def test_a_cross_encoder_can_rerank(cross_encoder, tmp_path):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(cross_encoder), device="cpu")
    documents = [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25")
    query = "cats dogs sleep"
    first = [hit.id for hit in index.search(query)]
    scores = dict(zip(first, model.predict([(query, TEXTS[int(i)]) for i in first]).tolist(), strict=True))
    expected = sorted(first, key=lambda i: -scores[i])
    for reranker in (model, CrossEncoderReranker(str(cross_encoder))):
        hits = index.search(query, 3, rerank=reranker)
        assert [hit.id for hit in hits] == expected[:3]
        assert [hit.score for hit in hits] == pytest.approx([scores[i] for i in expected[:3]], abs=1e-5)


def test_an_unsuitable_cross_encoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RerankerError, match="can't be loaded"):
        CrossEncoderReranker(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    with pytest.raises(RerankerError, match="is a BertForMaskedLM, not a cross-encoder"):
        CrossEncoderReranker(str(tmp_path))
