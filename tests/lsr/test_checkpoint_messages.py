"""Messages about unusable checkpoints and devices say what was found and what to do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lsr.encode.load import load_encoder
from lsr.encode.splade import SpladeEncoder
from lsr.errors import EncoderError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A checkpoint without weights."""
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()
    return copy


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin"], "Pickled weights (pytorch_model.bin) can run code"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "Its parts (model-00001-of-00002.safetensors and so on) are useless without model.safetensors.index.json",
        ),
        (["onnx/model.onnx"], "lsr runs only ONNX graphs that it wrote itself, not onnx/model.onnx"),
        (["model.onnx"], "lsr runs only ONNX graphs that it wrote itself, not model.onnx"),
        (
            ["model_quantized.onnx", "README.md"],
            "lsr runs only ONNX graphs that it wrote itself, not model_quantized.onnx",
        ),
        (["model.fp16.safetensors"], "If model.fp16.safetensors has the weights, rename it"),
        ([], "Download it"),
    ],
)
def test_the_error_for_missing_weights_names_the_existing_files(folder, names, message):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    with pytest.raises(EncoderError, match="no model.safetensors. " + re.escape(message)):
        load_encoder(folder)


@pytest.mark.parametrize("kept", [["config.json", "tokenizer.json"], [], ["config.json", "modules.json"]])
def test_a_lora_adapter_is_refused_with_advice(folder, checkpoint, kept):
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    if "modules.json" in kept:
        types = ["sentence_transformers.models.Transformer", "x.SpladePooling"]
        modules = [{"type": kind, "path": "" if kind == types[0] else "1"} for kind in types]
        (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(EncoderError, match=r"a LoRA adapter.*from_pretrained\('org/base'\).*merge_and_unload"):
        load_encoder(folder)
    # An adapter beside whole weights is also refused: transformers would apply the adapter if peft is installed.
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    with pytest.raises(EncoderError, match="a LoRA adapter"):
        load_encoder(folder)


def test_weights_of_another_vocabulary_are_refused(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 4}))
    shapes = rf"\({config['vocab_size']}.*\({config['vocab_size'] + 4}.*vocab_size"
    with pytest.raises(EncoderError, match="don't fit: .* has the shape " + shapes):
        SpladeEncoder(folder, device="cpu").encode_query("cat")


def test_a_lone_sentencepiece_model_is_refused(folder, monkeypatch):
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"only the SentencePiece model spiece\.model.*pip install sentencepiece"):
        SpladeEncoder(folder).spans("cat")


@pytest.mark.parametrize("device", ["cuda:77", "gpu", "cuda:x"])
def test_an_unavailable_device_is_reported(checkpoint, device):
    with pytest.raises(EncoderError, match=rf"the device '{device}' can't be used: .*PyTorch sees .* here"):
        SpladeEncoder(checkpoint, device=device).encode_document("cat")


def test_a_graph_runs_only_on_the_cpu():
    with pytest.raises(EncoderError, match="lsr-mini: this model runs on the CPU, not on 'cuda': leave --device out"):
        load_encoder("lsr-mini", device="cuda")  # refused before any corpus is read
    load_encoder("lsr-mini", device="cpu")
