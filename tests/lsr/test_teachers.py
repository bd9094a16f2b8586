"""Dense teachers: vectors equal those of sentence-transformers, and caches keep models apart."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lsr.errors import EncoderError, TrainingError
from lsr.train.teachers import DenseSettings, DenseTeacher, device_of

TEXTS = ["the cat sat on the mat .", "dog", "abc def ghij " * 20, "the dog sat"]


@pytest.fixture(scope="module")
def make_dense(checkpoint, make_checkpoint, tmp_path_factory):
    """Returns a function that makes a dense model with sentence-transformers and returns (folder, model)."""
    pytest.importorskip("sentence_transformers")

    def make(pooling, normalize=False, seed=None, **settings):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

            root = tmp_path_factory.mktemp("dense")
            backbone = checkpoint if seed is None else make_checkpoint(root / "other", seed=seed)
            modules = [Transformer(str(backbone)), Pooling(16, pooling), *([Normalize()] if normalize else [])]
            model = SentenceTransformer(modules=modules, device="cpu", **settings)
            model.save_pretrained(str(root / "saved"))
            return root / "saved", model

    return make


@pytest.fixture(scope="module")
def plain_mean(make_dense):
    return make_dense("mean")


@pytest.fixture
def mean(plain_mean, tmp_path):
    """A copy of the folder of a mean-pooled model, and the model."""
    return shutil.copytree(plain_mean[0], tmp_path / "mean"), plain_mean[1]


def open_teacher(folder, cache, max_length=100):
    return DenseTeacher(str(folder), max_length=max_length, cache=cache, device="cpu")


PROMPTS = {"query": "the ", "document": "a b "}


@pytest.mark.parametrize(
    ("pooling", "options"),
    [
        ("cls", {"prompts": {"query": "the cat on the "}}),
        ("mean", {}),
        ("max", {"normalize": True}),
        ("mean_sqrt_len_tokens", {"prompts": PROMPTS, "similarity_fn_name": "dot"}),
        ("weightedmean", {"prompts": {"plain": "the "}, "default_prompt_name": "plain"}),
        ("lasttoken", {"similarity_fn_name": "dot", "normalize": True}),
        (("cls", "mean"), {"prompts": {"query": "the ", "document": "dog "}}),
    ],
)
def test_vectors_equal_those_of_sentence_transformers(make_dense, tmp_path, pooling, options):
    folder, model = make_dense(pooling, **options)
    teacher = open_teacher(folder, tmp_path)
    queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
    expected = model.similarity(queries, documents).numpy()
    assert teacher.scores(TEXTS, TEXTS) == pytest.approx(expected, rel=1e-2, abs=3e-3)  # the cache is float16
    assert open_teacher(folder, tmp_path).scores(TEXTS, TEXTS) == pytest.approx(expected, rel=1e-2, abs=3e-3)


def test_the_older_pooling_settings_are_read(make_dense, tmp_path):
    folder, model = make_dense("cls")
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"word_embedding_dimension": 16, "pooling_mode_cls_token": True,
                                "pooling_mode_mean_tokens": False}))  # fmt: skip
    expected = model.similarity(model.encode(TEXTS), model.encode(TEXTS)).numpy()
    assert open_teacher(folder, tmp_path).scores(TEXTS, TEXTS) == pytest.approx(expected, abs=3e-3)


def test_the_older_prompt_settings_are_read(mean):
    folder, _ = mean
    path = folder / "config_sentence_transformers.json"
    for prompts, expected in (
        ({"query": "q: ", "passage": "p: "}, ("q: ", "p: ")),
        ({"query": "q: "}, ("q: ", "")),
        ({"passage": "p: ", "document": ""}, ("", "")),
        (None, ("", "")),
    ):
        path.write_text(json.dumps({"prompts": prompts}))
        settings = DenseSettings.read(folder)
        assert (settings.query_prompt, settings.document_prompt) == expected
    path.write_text(json.dumps({"prompts": {"query": "q: ", "any": "a: "}, "default_prompt_name": "any"}))
    assert DenseSettings.read(folder).document_prompt == "a: "


def test_a_plain_checkpoint_is_mean_pooled(mean, checkpoint, tmp_path):
    _, model = mean
    expected = model.similarity(model.encode(TEXTS), model.encode(TEXTS)).numpy()
    assert open_teacher(checkpoint, tmp_path).scores(TEXTS, TEXTS) == pytest.approx(expected, abs=3e-3)


def test_the_cache_never_mixes_models(make_dense, mean, tmp_path):
    """Models with other weights, another pooling or another length can share one cache folder."""
    made = [mean, make_dense("mean", seed=5), make_dense("cls")]
    teachers = [open_teacher(folder, tmp_path) for folder, _ in made]
    for teacher, (_, model) in zip(teachers, made, strict=True):
        expected = model.similarity(model.encode(TEXTS), model.encode(TEXTS)).numpy()
        assert teacher.scores(TEXTS, TEXTS) == pytest.approx(expected, abs=3e-3)
    short = open_teacher(made[0][0], tmp_path, max_length=5)
    assert not np.allclose(short.vectors(TEXTS), teachers[0].vectors(TEXTS), atol=1e-2)
    # The weights in a folder are replaced.
    folder = tmp_path / "replaced"
    shutil.copytree(made[0][0], folder)
    before = open_teacher(folder, tmp_path).vectors(TEXTS)
    shutil.copy(made[1][0] / "model.safetensors", folder / "model.safetensors")
    assert not np.allclose(open_teacher(folder, tmp_path).vectors(TEXTS), before, atol=1e-2)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", [{"type": "x.Transformer", "path": ""}, {"type": "x.WordWeights", "path": "1"}],
         "made of the modules Transformer, WordWeights"),
        ("modules.json", [1], "modules.json: can't be read"),
        ("1_Pooling/config.json", {"pooling_mode": "middle"}, "pooling 'middle'; known are cls, max"),
        ("1_Pooling/config.json", {"pooling_mode": "cls", "include_prompt": False}, "pooling without the prompt"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "manhattan"}, "compared by 'manhattan'"),
    ],
)  # fmt: skip
def test_unknown_settings_are_refused(mean, tmp_path, file, content, message):
    folder, _ = mean
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "the "}}))
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(EncoderError, match=message):
        open_teacher(folder, tmp_path)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cpu:x"])
def test_an_unavailable_device_is_reported(name):
    with pytest.raises(TrainingError, match=f"device '{name}' can't be used here .*; cpu can"):
        device_of(name)
