"""The origin of a term is the word with the term's largest logit. Brute force confirms this."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lsr import Index, load_encoder
from lsr.encode import HybridEncoder, SpladeEncoder
from lsr.encode import model_files as files
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.load import load_encoder_files
from lsr.encode.onnx_runner import OnnxRunner
from lsr.encode.tower import Tower
from lsr.errors import EncoderError

FLUTTER = "The aeroplane's flutter at mach numbers above one was examined in a wind tunnel with swept wings."


# --- words of tokens --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini():
    return load_encoder("lsr-mini")


@pytest.fixture(scope="module")
def tokenizer(mini):
    return mini.learned.document._tokenizer(mini.learned.document.document)


def test_each_token_has_the_span_of_its_word(tokenizer):
    text = "Café aeroplanes, 東京"
    ids, words = tokenizer.words(text, None)
    assert ids == tokenizer.ids([text], None, special=True)[0]
    assert words[0] is words[-1] is None
    found = [text[slice(*word)] for word in words[1:-1]]
    assert list(dict.fromkeys(found)) == ["Café", "aeroplanes", ",", "東", "京"]
    assert found.count("aeroplanes") > 1  # each of its tokens has the span of the whole word


def test_words_end_where_the_text_is_truncated(tokenizer):
    ids, words = tokenizer.words("wing flutter heat", 4)
    assert ids == tokenizer.ids(["wing flutter heat"], 4, special=True)[0]
    assert words == [None, (0, 4), (5, 12), None]


def test_tokens_of_a_prompt_have_no_span(tokenizer):
    assert tokenizer.words("wing", None, "text: ")[1] == [None, None, None, (0, 4), None]
    assert tokenizer.words("wing", None, "a")[1][1:-1] == [(0, 4)] * len(tokenizer.words("wing", None, "a")[1][1:-1])


# --- against all logits -----------------------------------------------------------------------------------------------


def brute_force(model, tower, tokenizer, text, saturation):
    """{term: span of its word}, from the (seq, n_terms) logits of all tokens."""
    import torch

    ids, words = tokenizer.words(text, tower.max_length, tower.prompt)
    with model.head.restored(), torch.inference_mode():
        logits = model.backbone(input_ids=torch.tensor([ids])).logits[0]
    weights = torch.log1p(torch.relu(logits))
    weights = torch.log1p(weights) if saturation == "log1p_log1p" else weights
    places = weights.argmax(0)
    return {t: words[p] for t, p in enumerate(places.tolist()) if weights[p, t] > 0 and words[p] is not None}


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("saturation", ["log1p", "log1p_log1p"])
def test_the_origin_is_the_word_with_the_largest_logit(checkpoint, texts, pooling, saturation):
    pytest.importorskip("torch")
    tower = Tower.open(checkpoint, pooling=pooling, saturation=saturation, prompt="the ")
    encoder = SpladeEncoder(tower, device="cpu")
    everything = range(-1, encoder.n_terms + 5)
    apart = [encoder.origins(text, everything) for text in texts]
    for text, found in zip(texts, apart, strict=True):
        assert found == brute_force(encoder.network(), tower, encoder._tokenizer(tower), text, saturation)
        assert set(found) <= set(encoder.encode_document(text).row(0)[0].tolist())
    assert len({span for found in apart for span in found.values()}) > 5
    some = [20, 3, 30]
    assert encoder.origins(texts[0], some) == {t: span for t, span in apart[0].items() if t in some}
    assert encoder.origins(texts[0], []) == {}


def test_origins_are_found_if_the_head_cannot_be_split(make_checkpoint, tmp_path, texts):
    pytest.importorskip("torch")
    encoder = SpladeEncoder(make_checkpoint(tmp_path / "m", "mobilebert"), device="cpu")
    model, everything = encoder.network(), range(encoder.n_terms)
    apart = {text: encoder.origins(text, everything) for text in texts}
    assert any(apart.values())
    for text in texts:
        expected = brute_force(model, encoder.document, encoder._tokenizer(encoder.document), text, "log1p")
        assert apart[text] == expected


@pytest.mark.parametrize("kind", ["expansion", "lexical", "gated"])
def test_heads_take_the_maximum_over_tokens(checkpoint, kind):
    torch = pytest.importorskip("torch")
    from lsr.encode import model, pooling

    torch.manual_seed(5)
    rows = [[2, 23, 24, 25, 3], [2, 8, 9, 10, 3], [2, 26, 27, 28, 29, 3]]
    sparse = model.start_model(checkpoint, kind, "max", "log1p", 36, rows, [0, 1, 2, 3, 4]).eval()
    ids, terms = torch.tensor([[2, 23, 24, 23, 30, 3]]), torch.arange(5, 36)
    with torch.inference_mode():
        whole = sparse(ids, torch.ones_like(ids), terms)[0]
        said = sparse.head.token_logits(sparse.states(ids, torch.ones_like(ids)), ids, terms)[0]
        assert said.shape == (6, 31)
        if kind == "lexical":
            assert torch.equal(said.amax(0), whole)
            return
        # The other parts of a weight are the same for all tokens.
        states, mask = sparse.states(ids, torch.ones_like(ids)), torch.ones_like(ids)
        if kind == "gated":
            output = sparse.head._output[0]
            top = pooling.max_logits(states, mask, output.weight[terms], output.bias[terms])[0]
        else:
            top = pooling.max_logits(sparse.head.transform(states), mask, sparse.head._projection(terms), None)[0]
        assert torch.allclose(said.amax(0), top, atol=1e-5)


def test_a_hybrid_encoder_has_the_origins_of_its_learned_part(checkpoint, query_weights, texts):
    pytest.importorskip("torch")
    from lsr.encode import InferenceFreeEncoder

    splade, lexical = SpladeEncoder(checkpoint, device="cpu"), BM25Encoder()
    lexical.fit(texts)
    hybrid = HybridEncoder(InferenceFreeEncoder(splade, query_weights), lexical, 0.7)
    assert hybrid.origins(texts[0], range(hybrid.n_terms)) == splade.origins(texts[0], range(splade.n_terms)) != {}
    assert lexical.origins(texts[0], range(3)) == {}


def test_a_missing_model_gives_no_origins_and_no_download(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import shutil

    folder = tmp_path / "moved"
    shutil.copytree(checkpoint, folder)
    kept = SpladeEncoder(folder, device="cpu").query_files()
    opened = load_encoder_files(kept)
    shutil.rmtree(folder)
    assert opened.origins("the cat", range(5, 20)) == {}
    assert not files.is_here(str(folder))
    assert files.is_here(str(checkpoint))
    assert files.is_here("lsr-mini")

    def local(name, local_files_only=False, **_):
        assert local_files_only
        if name != "here/model":
            raise OSError("not in the cache")
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", local)
    assert files.is_here("here/model")
    assert not files.is_here("elsewhere/model")


def test_a_replaced_model_gives_no_origins(make_checkpoint, tmp_path, query_weights):
    pytest.importorskip("torch")
    from lsr.encode import InferenceFreeEncoder

    encoder = InferenceFreeEncoder(SpladeEncoder(make_checkpoint(tmp_path / "m"), device="cpu"), query_weights)
    Index.build(tmp_path / "idx", [{"_id": "a", "text": "the cat sat on the mat ."}], encoder=encoder)
    query = "a b c d e f g h i j dog the on"

    def origins():
        why = Index.open(tmp_path / "idx").explain(query, "a")
        assert any(c.kind == "expansion" for c in why)
        return [c.origin for c in why if c.origin]

    assert origins()
    make_checkpoint(tmp_path / "m", seed=1)
    assert not origins()


# --- the shipped encoder ----------------------------------------------------------------------------------------------


def test_the_shipped_encoder_finds_origins(mini):
    terms, _ = mini.learned.encode_document(FLUTTER).row(0)
    origins = mini.origins(FLUTTER, range(mini.learned.n_terms))
    assert set(origins) <= set(terms.tolist())
    assert len(origins) > 0.8 * len(terms)
    words = {mini.learned.vocabulary[t]: FLUTTER[slice(*span)] for t, span in origins.items()}
    expected = {"aircraft": "aeroplane", "wing": "wings"}
    assert {token: words[token] for token in expected} == expected
    assert (words["flutter"], words["plane"]) == ("flutter", "aeroplane")


def test_the_shipped_encoder_explains_and_highlights(tmp_path, lsr_command):
    Index.build(tmp_path / "idx", [{"_id": "a", "text": FLUTTER}, {"_id": "b", "text": "Heat."}], encoder="lsr-mini")
    hit = Index.open(tmp_path / "idx").search("aircraft flutter")[0]
    assert "aircraft*(aeroplane)" in hit.explain().words()
    assert hit.highlight(30).startswith("The _aeroplane_'s **flutter**")
    ran = lsr_command("explain", tmp_path / "idx", "aircraft", "a").lines()[0]
    assert [FLUTTER[slice(*t["origin"])] for t in ran["terms"] if t["kind"] == "expansion"] == ["aeroplane"]


@settings(max_examples=15)
@given(st.text(max_size=40))
@example("")
@example(" \n")
@example("[CLS] [SEP] [MASK]")
@example(unicodedata.normalize("NFD", "Café über Ångström"))
@example("東京 \U0001f600 e\u0301\u0327 \u200b")
@example("wing " * 400)
def test_origins_in_any_text_are_whole_words(text):
    encoder = _shipped()
    for span in set(encoder.origins(text, range(1996, 3996)).values()):  # the most common words of the vocabulary
        start, end = span
        assert 0 <= start < end <= len(text)
        assert text[start:end].strip() == text[start:end] != ""


_opened = {}


def _shipped():
    """The shipped encoder, opened once for all examples."""
    if not _opened:
        _opened["lsr-mini"] = load_encoder("lsr-mini")
    return _opened["lsr-mini"]


def test_unknown_tokens_are_refused(mini):
    runner = mini.learned.document._model(mini.learned.document.document)
    with pytest.raises(EncoderError, match="knows 30522"):
        runner.origins([30522], [5])


def test_a_graph_of_another_model_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Cast", ["ids"], ["weights"], to=1)],
        "none of ours",
        [helper.make_tensor_value_info("ids", kinds.INT64, [7])],
        [helper.make_tensor_value_info("weights", kinds.FLOAT, [7])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    runner = OnnxRunner(tmp_path, 7, threads=1)
    with pytest.raises(EncoderError, match="isn't one that lsr wrote"):
        runner.origins([1, 2, 3], [5])
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(EncoderError, match=r"model\.onnx: can't be read"):
        runner.origins([1, 2, 3], [5])
