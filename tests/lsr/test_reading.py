"""Settings outside tokenizer.json work as in transformers and sentence-transformers, or are refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from lsr.encode.load import load_encoder, load_encoder_files
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TextTokenizer
from lsr.errors import CheckpointWarning, EncoderError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = [
    "the cat sat on the mat .",
    "The CAT Sat",
    "\u00e7at c\u0327at d\u00d6g",
    "ab\u4e2dcd cat",
    "cat,dog(the)",
    "abc def ghij cat dog the sat on mat jihg fed",
    " a",
    "",
]


def change(folder: Path, name: str, **settings) -> Path:
    """Change values in a JSON file of a checkpoint; None removes a key."""
    path = folder / name
    content = (json.loads(path.read_bytes()) if path.is_file() else {}) | settings
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


# --- tokenizer_config.json --------------------------------------------------------------------------------------------


def word_pieces(vocabulary):
    return {"vocab": {token: i for i, token in enumerate(vocabulary)}}


def byte_pairs(_):
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
        *sorted(ByteLevel.alphabet()),
        "at",
        "cat",
        "\u0120c",
        "\u0120cat",
    ]
    return {
        "vocab": {t: i for i, t in enumerate(tokens)},
        "merges": [("a", "t"), ("c", "at"), ("\u0120", "c"), ("\u0120c", "at")],
    }


def unigrams(_):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]", "<mask>"]
    tokens += [
        *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,()",
        "\u2581",
        "\u2581the",
        "\u2581cat",
        "cat",
        "\u00e7",
    ]
    return {"vocab": [(token, -1.0 - 0.01 * i) for i, token in enumerate(tokens)]}


CLASSES = {
    "BertTokenizer": ("bert", word_pieces),
    "DistilBertTokenizer": ("distilbert", word_pieces),
    "MPNetTokenizer": ("mpnet", word_pieces),
    "RobertaTokenizer": ("roberta", byte_pairs),
    "XLMRobertaTokenizer": ("xlm-roberta", unigrams),
    "AlbertTokenizer": ("albert", unigrams),
    "DebertaV2Tokenizer": ("deberta-v2", unigrams),
}
# Unsupported settings, which are refused if they would change the tokens.
REFUSED = {
    "AlbertTokenizer": {"do_lower_case", "keep_accents"},
    "DebertaV2Tokenizer": {"split_by_punct"},
}
SETTINGS = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": True},
    {"do_lower_case": None},
    {"strip_accents": False},
    {"strip_accents": True},
    {"tokenize_chinese_chars": False},
    {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"keep_accents": True},
    {"split_by_punct": True},
    {"truncation_side": "left"},
    {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True},
    {"tokenizer_class": None},
]


@pytest.fixture(scope="module", params=CLASSES)
def tokenizer(request, checkpoint, tmp_path_factory):
    """The folder of a tokenizer of each class, as transformers saves it."""
    model_type, parts = CLASSES[request.param]
    folder = tmp_path_factory.mktemp("tokenizers") / request.param
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    getattr(transformers, request.param)(**parts(vocabulary)).save_pretrained(folder)
    return change(folder, "config.json", model_type=model_type, vocab_size=300)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_equal_those_of_transformers(tokenizer, tmp_path, settings):
    folder = Path(shutil.copytree(tokenizer, tmp_path / "changed"))
    change(folder, "tokenizer_config.json", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs(TEXTS, truncation=True, max_length=8)["input_ids"]
    if settings.keys() & REFUSED.get(tokenizer.name, set()) and set(settings.values()) != {None}:
        if TextTokenizer.open(folder, settings={}).ids(TEXTS, 8, special=True) == expected:
            return  # the setting changes nothing, so it may be accepted or refused
        with pytest.raises(EncoderError, match=f"the setting ({'|'.join(settings)})="):
            TextTokenizer.open(folder)
        return
    ours = TextTokenizer.open(folder)
    assert ours.ids(TEXTS, 8, special=True) == expected
    again = TextTokenizer(ours.content)
    assert again.ids(TEXTS, 8, special=True) == expected
    assert again.digest == ours.digest


# --- sentence-transformers --------------------------------------------------------------------------------------------


@pytest.fixture
def model(reference, tmp_path):
    """A copy of a sentence-transformers model's folder, with a BertTokenizer. The test may change the copy."""
    folder = Path(shutil.copytree(reference("max-relu")[0], tmp_path / "changed"))
    return change(folder, "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=False)


def same_weights(folder):
    """Check that lsr and sentence-transformers give equal vectors, also after lsr saved and reopened the model."""
    from sentence_transformers import SparseEncoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SparseEncoder(str(folder), device="cpu")
    encoder = load_encoder(folder, device="cpu")
    encoder.save(folder.parent / "saved")
    others = [
        load_encoder(folder.parent / "saved", device="cpu"),
        load_encoder_files(encoder.query_files(), device="cpu"),
    ]
    found = []
    for side in ("encode_query", "encode_document"):
        expected = getattr(theirs, side)(TEXTS, convert_to_tensor=True).to_dense().numpy()
        assert expected.max() > 0.5
        for each in (encoder, *others):
            np.testing.assert_allclose(getattr(each, side)(TEXTS).to_dense(), expected, atol=1e-4)
            assert each.fingerprint == encoder.fingerprint
        found.append(expected)
    return found


BERT = [
    {},
    {"query_length": 5},
    {"document_length": 6},
    {"query_length": 4, "document_length": 7, "max_seq_length": 9},
    {"max_seq_length": 8},
    {"do_lower_case": True},
    {"processing_kwargs": {"text": {"max_length": 6}}, "query_length": 4},
    {"processing_kwargs": {"common": {"max_length": 5}, "text": {"max_length": 7, "padding": "longest"}}},
    {"processing_kwargs": {"text": {"add_special_tokens": False}}},
    {"processing_kwargs": {"text": {"truncation": "only_first"}}},
    {"processor_kwargs": {"truncation_side": "left"}, "max_seq_length": 6},
    {"processor_kwargs": {"model_max_length": 7}},
    {"processor_kwargs": {"do_lower_case": True, "strip_accents": False}},
    {"tokenizer_args": {"tokenize_chinese_chars": False}},
    {"model_kwargs": {"torch_dtype": "float32"}, "config_kwargs": {"use_cache": False}},
]


@pytest.mark.parametrize("settings", BERT, ids=str)
def test_settings_of_sentence_bert_config_work_as_in_sentence_transformers(model, settings):
    before = load_encoder(model, device="cpu")
    change(model, "sentence_bert_config.json", **settings)
    queries, documents = same_weights(model)
    inert = ("longest", "only_first", "use_cache")
    if settings and not any(word in str(settings) for word in inert):
        plain = [before.encode_query(TEXTS).to_dense(), before.encode_document(TEXTS).to_dense()]
        assert max(np.abs(plain[0] - queries).max(), np.abs(plain[1] - documents).max()) > 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": True},
        {"strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"truncation_side": "left", "model_max_length": 6},
    ],
    ids=str,
)
def test_settings_of_tokenizer_config_work_as_in_sentence_transformers(model, settings):
    before = load_encoder(model, device="cpu").encode_document(TEXTS).to_dense()
    change(model, "tokenizer_config.json", **settings)
    assert np.abs(same_weights(model)[1] - before).max() > 0.01


@pytest.mark.parametrize("prompts", [{"passage": "cat "}, {"document": "cat ", "corpus": "dog "}, {"query": "dog "}])
def test_prompts_work_as_in_sentence_transformers(model, prompts):
    change(model, "config_sentence_transformers.json", prompts=prompts, default_prompt_name=next(iter(prompts)))
    same_weights(model)


def test_each_tower_of_a_router_has_its_own_settings(reference, tmp_path):
    folder = Path(shutil.copytree(reference("towers")[0], tmp_path / "changed"))
    for tower, length in (("query_0_Transformer", 5), ("document_0_Transformer", 6)):
        change(folder / tower, "sentence_bert_config.json", query_length=length, document_length=length)
    encoder = load_encoder(folder, device="cpu")
    assert (encoder.query.max_length, encoder.document.max_length) == (5, 6)
    same_weights(folder)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("sentence_bert_config.json", {"windows": 3}, r"the setting windows=3 is unknown"),
        ("sentence_bert_config.json", {"query_expansion": {"length": 8}}, "the setting query_expansion="),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}, "only 'fill-mask' is supported"),
        ("sentence_bert_config.json", {"config_kwargs": {"num_hidden_layers": 0}}, "config_kwargs.num_hidden_layers=0"),
        ("sentence_bert_config.json", {"model_kwargs": {"variant": "x"}}, "model_kwargs.variant="),
        ("sentence_bert_config.json", {"processor_kwargs": {"cls_token": "x"}}, "processor_kwargs.cls_token="),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"stride": 3}}},
            "processing_kwargs.text.stride=3",
        ),
        ("sentence_bert_config.json", {"processing_kwargs": {"texts": {}}}, "processing_kwargs.texts="),
        ("sentence_bert_config.json", {"processing_kwargs": [1]}, "processing_kwargs holds list"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}, "text": {}}}, "lsr encodes plain text"),
        ("sentence_bert_config.json", {"max_seq_length": "8"}, "a length of '8' tokens"),
        ("1_SpladePooling/config.json", {"floor": 0.1}, "the setting floor=0.1"),
        ("tokenizer_config.json", {"truncation_side": "middle"}, "it is left or right"),
        ("tokenizer_config.json", {"split_special_tokens": True}, "the setting split_special_tokens=True"),
    ],
)
def test_unknown_settings_are_refused_by_name(model, file, settings, message):
    change(model, file, **settings)
    with pytest.raises(EncoderError, match=message) as raised:
        load_encoder(model)
    assert file.rpartition("/")[2] in str(raised.value) or "tokenizer" in file


def test_another_similarity_gives_a_warning(model):
    change(model, "config_sentence_transformers.json", similarity_fn_name="cosine")
    with pytest.warns(CheckpointWarning, match="compares vectors by cosine"):
        load_encoder(model)


# --- lengths and padding ----------------------------------------------------------------------------------------------


def test_positions_of_roberta_start_after_padding(make_checkpoint, tmp_path):
    folder = make_checkpoint(tmp_path / "roberta", "roberta")
    change(folder, "config.json", pad_token_id=None)
    encoder = SpladeEncoder(folder, device="cpu")
    assert encoder.document.max_length == 22
    assert encoder.encode_document("cat " * 50).nnz


@pytest.mark.parametrize("kind", ["fnet", "convbert", "nystromformer"])
def test_padding_dependent_models_get_no_padding_and_a_warning(make_checkpoint, tmp_path, texts, kind):
    folder = make_checkpoint(tmp_path / kind, kind)
    encoder = SpladeEncoder(folder, device="cpu")
    with pytest.warns(CheckpointWarning, match="depends on masked padding"):
        together = encoder.encode_document(texts)
    for i, text in enumerate(texts):
        np.testing.assert_allclose(encoder.encode_document(text).to_dense()[0], together[[i]].to_dense()[0], atol=1e-5)
