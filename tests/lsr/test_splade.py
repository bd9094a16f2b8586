"""SpladeEncoder computes the same weights as pooling over all logits, but in bounded memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lsr.encode.load import load_encoder, load_encoder_files
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TextTokenizer
from lsr.encode.tower import Tower
from lsr.errors import EncoderError, EncoderMismatch, MissingExtra

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pooling = pytest.importorskip("lsr.encode.pooling")
dispatch = pytest.importorskip("torch.utils._python_dispatch")

KINDS = ["bert", "distilbert", "roberta", "xlm-roberta", "modernbert", "electra", "albert", "mobilebert"]


class LargestTensor(dispatch.TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else [result]:
            if isinstance(item, torch.Tensor):
                self.elements = max(self.elements, item.numel())
        return result


def plain_weights(folder, texts, pool="max", saturation="log1p", max_length=24):
    """The weights by their definition, computed with the `transformers` library, one text at a time."""
    from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            logits = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
            rows.append(pooling.pool_logits(logits, tokens["attention_mask"], pool, saturation)[0])
    return torch.stack(rows).numpy()


# --- pooling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["max", "sum"])
@pytest.mark.parametrize("saturation", ["log1p", "log1p_log1p"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_function_pool_states_equals_pool_logits(monkeypatch, pool, saturation, bias):
    monkeypatch.setattr(pooling, "TRANSIENT_BYTES", 4 * 1000)  # several chunks of documents and of the vocabulary
    monkeypatch.setattr(pooling, "_TERMS", 37)
    make = torch.Generator().manual_seed(3)
    states = torch.randn(5, 11, 8, generator=make)
    weight = torch.randn(101, 8, generator=make)
    offset = torch.randn(101, generator=make) if bias else None
    mask = torch.arange(11) < torch.tensor([[11], [1], [0], [7], [4]])
    expected = pooling.pool_logits(torch.nn.functional.linear(states, weight, offset), mask, pool, saturation)
    with LargestTensor() as seen:
        found = pooling.pool_states(states, mask, weight, offset, pool, saturation)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found[2] == 0).all()
    assert seen.elements <= 1000


@pytest.fixture
def exact():
    if not pooling.adds_bytes_exactly():
        pytest.skip("this processor has no exact 8-bit sums, so it doesn't use the screen")


@pytest.mark.parametrize("saturation", ["log1p", "log1p_log1p"])
@pytest.mark.parametrize("shift", [None, -30.0, -8.0, 50.0])  # terms that pass: some, none, few, all
def test_the_screen_equals_pool_states(monkeypatch, exact, saturation, shift):
    monkeypatch.setattr(pooling, "TRANSIENT_BYTES", 4 * 1000)
    monkeypatch.setattr(pooling, "_TERMS", 37)
    make = torch.Generator().manual_seed(4)
    states = torch.randn(5, 11, 8, generator=make)
    states[0, 3] *= 40  # a large token leaves few 8-bit levels for the other tokens
    weight = torch.randn(101, 8, generator=make)
    weight[7] *= 9
    bias = None if shift is None else torch.randn(101, generator=make) + shift
    mask = torch.arange(11) < torch.tensor([[11], [1], [0], [7], [4]])
    expected = pooling.pool_states(states, mask, weight, bias, "max", saturation)
    with torch.inference_mode(), LargestTensor() as seen:
        found = pooling.Screen(weight).pool(states, mask, bias, saturation)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found > 0, expected > 0)
    assert seen.elements <= 1000


def test_the_screen_keeps_no_term_by_chance(exact):
    """Rounding must not decide whether the screen keeps a term whose logit is very close to zero."""
    make = torch.Generator().manual_seed(6)
    states, weight = torch.randn(4, 9, 48, generator=make), torch.randn(3000, 48, generator=make)
    mask = torch.ones(4, 9)
    largest = pooling.max_logits(states, mask, weight, None)[0]
    bias = 1e-3 * torch.randn(3000, generator=make) - largest
    with torch.inference_mode():
        found = pooling.Screen(weight).pool(states, mask, bias, "log1p")
    expected = pooling.pool_states(states, mask, weight, bias, "max", "log1p")
    assert 1000 < (expected[0] > 0).sum() < 2000
    assert torch.allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_the_screen_does_not_change_results(monkeypatch, checkpoint, texts):
    found = []
    for exact in {pooling.adds_bytes_exactly(), False}:
        monkeypatch.setattr(pooling, "adds_bytes_exactly", lambda exact=exact: exact)
        encoder = SpladeEncoder(checkpoint, device="cpu")
        found.append(encoder.encode_document(texts).to_dense())
        assert (encoder._model(encoder.document).model.head._screen is not None) == exact
    assert found[-1].max() > 0.1
    np.testing.assert_allclose(found[0], found[-1], atol=1e-6)


def test_the_screen_follows_changed_weights(checkpoint, texts, exact):
    encoder = SpladeEncoder(checkpoint, device="cpu")
    before = encoder.encode_document(texts)
    network = encoder.network()
    with torch.no_grad():
        network.backbone.get_output_embeddings().weight.mul_(-1)
    assert encoder.encode_document(texts) != before
    with torch.no_grad():
        network.backbone.get_output_embeddings().weight.mul_(-1)
    assert encoder.encode_document(texts) == before


def test_saturation_equals_a_hand_worked_example():
    logits = torch.tensor([[[1.0, -2.0], [3.0, -1.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pooling.pool_logits(logits, mask, "max", "log1p").tolist() == [[pytest.approx(np.log(4)), 0]]
    expected = np.log1p(np.log(2)) + np.log1p(np.log(4))
    assert pooling.pool_logits(logits, mask, "sum", "log1p_log1p").tolist() == [[pytest.approx(expected), 0]]


def test_logits_are_never_materialized(make_checkpoint, tmp_path):
    vocab_size = 70_000
    encoder = SpladeEncoder(make_checkpoint(tmp_path / "large", vocab_size=vocab_size), device="cpu")
    text = "abc def ghij " * 20
    encoder.encode_document(text)  # loads the model
    with LargestTensor() as seen:
        found = encoder.encode_document([text] * 64)
    assert found.shape == (64, vocab_size)
    assert found.indices.max() > 65_535
    assert len(encoder.vocabulary) == vocab_size
    assert seen.elements <= pooling.TRANSIENT_BYTES // 4 < 64 * 24 * vocab_size


# --- encoding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_those_of_plain_logits(make_checkpoint, tmp_path, texts, kind):
    folder = make_checkpoint(tmp_path / kind, kind)
    how = {"max_length": 20, "pooling": "sum", "saturation": "log1p_log1p"}
    encoder = SpladeEncoder(Tower.open(folder, **how), batch_tokens=50, device="cpu")
    found = encoder.encode_document(texts)
    expected = plain_weights(folder, texts, "sum", "log1p_log1p", 20)
    assert expected.max() > 0.5
    np.testing.assert_allclose(found.to_dense(), expected, atol=1e-4)
    model = encoder._model(encoder.document)
    assert model.model.head.apart == (kind != "mobilebert")  # MobileBERT's head can't be split


def test_the_order_and_the_batch_of_texts_make_no_difference(checkpoint, texts):
    encoder = SpladeEncoder(checkpoint, batch_tokens=40, device="cpu")
    together = encoder.encode_document(texts).to_dense()
    for i, text in enumerate(texts):
        np.testing.assert_allclose(encoder.encode_document(text).to_dense()[0], together[i], atol=1e-5)
    backwards = encoder.encode_document(texts[::-1]).to_dense()[::-1]
    np.testing.assert_allclose(backwards, together, atol=1e-5)
    assert encoder.encode_document([]).shape == (0, encoder.n_terms)


def test_a_text_without_tokens_has_an_empty_row(make_checkpoint, tmp_path):
    folder = make_checkpoint(tmp_path / "bare")
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["post_processor"] = None  # without [CLS] and [SEP], an empty text has no tokens
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    encoder = SpladeEncoder(folder, device="cpu")
    found = encoder.encode_document(["", "the cat", ""])
    assert found.lengths()[[0, 2]].tolist() == [0, 0]
    assert found.lengths()[1] > 0
    assert encoder.encode_query("").nnz == 0


def test_only_documents_are_pruned(checkpoint, texts):
    plain = load_encoder(checkpoint, device="cpu")
    pruned = load_encoder(checkpoint, top_k=3, max_ratio=0.5, device="cpu")
    assert pruned.encode_document(texts) == plain.encode_document(texts).prune(0.5).top_k(3)
    assert pruned.encode_query(texts) == plain.encode_query(texts)
    assert pruned.fingerprint == plain.fingerprint


def test_texts_whose_tokens_were_counted_are_not_tokenized_again(checkpoint, texts, monkeypatch):
    encoder, read = SpladeEncoder(Tower.open(checkpoint, max_length=12), device="cpu"), []
    plain = TextTokenizer.ids

    def ids(self, texts, *args, **more):
        read.extend(texts)
        return plain(self, texts, *args, **more)

    expected = SpladeEncoder(Tower.open(checkpoint, max_length=12), device="cpu").encode_document(texts)
    monkeypatch.setattr(TextTokenizer, "ids", ids)
    room = encoder.room(texts)
    assert min(room) < 0 <= max(room)
    assert read == texts
    read.clear()
    vectors = encoder.encode_document(texts)
    assert read == [text for text, left in zip(texts, room, strict=True) if left < 0]  # texts that must be truncated
    assert (vectors.to_dense() == expected.to_dense()).all()
    assert encoder.room(texts) == room


def test_offsets_are_those_of_the_tokens(checkpoint, texts, monkeypatch):
    encoder = SpladeEncoder(checkpoint)
    expected = [[(start, end) for _, start, end in encoder.tokens(text)] for text in [*texts, ""]]
    assert any(expected)
    assert encoder.offsets([*texts, ""]) == expected
    monkeypatch.setattr("lsr.encode.tokenizer._AT_ONCE", 7)
    assert encoder.offsets([*texts, ""]) == expected


def test_an_encoder_has_spans_a_vocabulary_and_a_maximum_length(checkpoint, texts):
    encoder = SpladeEncoder(checkpoint)
    spans = encoder.spans("cats ? the")
    assert [(encoder.vocabulary[term], start, end) for term, start, end in spans] == [
        ("cat", 0, 3),
        ("##s", 3, 4),
        ("the", 7, 10),
    ]
    assert len(encoder.spans(texts[3])) > 24
    assert encoder.document.max_length == 24
    assert encoder.count_truncated(texts) == 1
    assert encoder.vocabulary[-1] == f"[unused:{encoder.n_terms - 1}]"
    assert encoder.vocabulary[:2] == ["[PAD]", "[UNK]"]


def test_values_that_are_not_text_are_refused(checkpoint):
    with pytest.raises(TypeError, match="text 1 is int"):
        SpladeEncoder(checkpoint).encode_query(["a", 1])


# --- on disk ----------------------------------------------------------------------------------------------------


def test_a_saved_encoder_gives_the_same_vectors(checkpoint, texts, tmp_path):
    encoder = load_encoder(checkpoint, pooling="sum", max_length=12, top_k=9, device="cpu")
    encoder.save(tmp_path / "saved")
    again = load_encoder(tmp_path / "saved", device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.fingerprint.model == "tiny-bert"
    assert again.encode_document(texts) == encoder.encode_document(texts)
    again.save(tmp_path / "saved")  # overwrites the files from which it was read
    assert load_encoder(tmp_path / "saved").fingerprint == encoder.fingerprint
    assert load_encoder(checkpoint, pooling="sum", max_length=12).fingerprint == encoder.fingerprint
    other = load_encoder(tmp_path / "saved", pooling="max", device="cpu")
    assert other.fingerprint.differences(encoder.fingerprint) == ["pooling max / sum"]
    expected = plain_weights(checkpoint, texts, max_length=12)
    np.testing.assert_allclose(other.encode_query(texts).to_dense(), expected, atol=1e-5)


def test_queries_and_documents_can_have_different_models(checkpoint, make_checkpoint, texts, tmp_path):
    other = make_checkpoint(tmp_path / "other", "distilbert", seed=5)
    encoder = load_encoder(checkpoint, query_model=other, pooling="sum", device="cpu")
    np.testing.assert_allclose(encoder.encode_query(texts).to_dense(), plain_weights(other, texts), atol=1e-5)
    expected = plain_weights(checkpoint, texts, "sum")
    np.testing.assert_allclose(encoder.encode_document(texts).to_dense(), expected, atol=1e-4)
    assert encoder.fingerprint.model == "tiny-bert + other"
    assert encoder.fingerprint.weights != load_encoder(checkpoint).fingerprint.weights
    encoder.save(tmp_path / "saved")
    again = load_encoder(tmp_path / "saved", device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.encode_query(texts) == encoder.encode_query(texts)
    assert again.encode_document(texts) == encoder.encode_document(texts)
    swapped = load_encoder(tmp_path / "saved", query_model=tmp_path / "saved")
    assert swapped.query == again.query


def test_query_files_refer_to_the_model_and_detect_changes(checkpoint, texts, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    encoder = load_encoder(folder, device="cpu")
    content = encoder.query_files()
    assert sum(map(len, content.values())) < 20_000  # a reference to the model, without weights
    again = load_encoder_files(content, device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.encode_query(texts) == encoder.encode_query(texts)

    shutil.copyfile(folder / "model.safetensors", tmp_path / "kept")
    data = bytearray((tmp_path / "kept").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(EncoderMismatch, match=r"no longer the model .*weights.*Build the index again"):
        load_encoder_files(content).encode_query("a")

    shutil.rmtree(folder)
    moved = load_encoder_files(content)
    assert moved.spans("cat")
    assert moved.fingerprint == encoder.fingerprint
    with pytest.raises(EncoderError, match="no folder has this name"):
        moved.encode_query("cat")


def test_truncation_settings_of_the_tokenizer_are_ignored(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "tiny-bert"))
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(settings, indent=7))
    assert load_encoder(folder).fingerprint == load_encoder(checkpoint).fingerprint
    assert len(load_encoder(folder).spans("a b c d e f g")) == 7


def test_a_checkpoint_may_have_vocab_txt_instead_of_tokenizer_json(checkpoint, texts, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "old"))
    (folder / "tokenizer.json").unlink()
    tokens = load_encoder(checkpoint).vocabulary[:-3]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    encoder = load_encoder(folder, device="cpu")
    assert list(encoder.vocabulary) == list(load_encoder(checkpoint).vocabulary)
    encoder.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    assert load_encoder(tmp_path / "saved").fingerprint == encoder.fingerprint
    np.testing.assert_allclose(encoder.encode_query(texts).to_dense(), plain_weights(checkpoint, texts), atol=1e-5)


def test_unused_weights_of_older_checkpoints_are_ignored(checkpoint, texts, tmp_path):
    """Older checkpoints hold a copy of the tied projection, a pooler, and buffers that are now computed."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(checkpoint, tmp_path / "old"))
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["bert.pooler.dense.weight"] = torch.zeros(16, 16)
    tensors["bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(folder, device="cpu")
    assert encoder.encode_query(texts) == load_encoder(checkpoint, device="cpu").encode_query(texts)


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "mean"}, "pooling must be one of max, sum"),
        ({"saturation": "relu"}, "saturation must be one of"),
        ({"max_length": 2}, "at least 3"),
        ({"max_length": 2.5}, "whole number"),
        ({"max_length": 25}, "reads 24 tokens at most"),
        ({"top_k": 0}, "top_k"),
        ({"max_ratio": 1.5}, "max_ratio"),
        ({"batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_settings_out_of_range_are_refused(checkpoint, settings, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(checkpoint, **settings)


def test_a_checkpoint_without_a_head_is_refused(checkpoint, tmp_path):
    from transformers import AutoModelForMaskedLM

    AutoModelForMaskedLM.from_pretrained(checkpoint).bert.save_pretrained(tmp_path)
    shutil.copyfile(checkpoint / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(EncoderError, match="trained masked-LM head"):
        load_encoder(tmp_path, device="cpu").encode_query("cat")


def test_a_causal_language_model_is_not_opened_as_a_masked_lm(checkpoint, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    shutil.copyfile(checkpoint / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(EncoderError, match="can't be opened as a masked language model"):
        load_encoder(tmp_path, device="cpu").encode_query("cat")


def test_pickled_weights_are_refused(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "old"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"no model\.safetensors.*convert"):
        load_encoder(folder)


def test_a_tokenizer_of_another_model_is_refused(checkpoint, make_checkpoint, tmp_path):
    small = make_checkpoint(tmp_path / "small", vocab_size=10)
    with pytest.raises(EncoderError, match="don't belong together"):
        SpladeEncoder(small, device="cpu").encode_query("cat")
    with pytest.raises(EncoderError, match="another vocabulary"):
        load_encoder(checkpoint, query_model=small)


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path):
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.bias[0] = float("nan")
    model.save_pretrained(tmp_path)
    shutil.copyfile(checkpoint / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(EncoderError, match="not numbers"):
        load_encoder(tmp_path, device="cpu").encode_query("cat")


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors"])
def test_damaged_files_are_refused(checkpoint, tmp_path, file):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "damaged"))
    (folder / file).write_bytes((folder / file).read_bytes()[:50])
    with pytest.raises(EncoderError, match=file if file.endswith("json") else "can't be opened"):
        load_encoder(folder, device="cpu").encode_query("cat")


def test_encoding_without_torch_names_the_extra(checkpoint):
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from lsr.encode import load_encoder
encoder = load_encoder({str(checkpoint)!r})
assert encoder.spans("the cat") and encoder.fingerprint.weights and encoder.vocabulary
encoder.count_truncated(["a"])
try:
    encoder.encode_query("cat")
except ImportError as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(MissingExtra.__name__)
    assert "lsr-search[torch]" in result.stdout
