"""Pruned encoders have fewer heads and columns and open like other encoders; the fit reduces their error."""

from __future__ import annotations

import os
from itertools import islice

import numpy as np
import pytest

from lsr.encode.load import load_encoder
from lsr.encode.pruning import PruneSettings, prune, save_with_graph
from lsr.errors import EncoderError
from lsr.io.corpus import open_corpus

onnx = pytest.importorskip("onnx", reason="needs the extra train")


@pytest.fixture(scope="module")
def texts():
    from importlib.resources import files

    return [doc.content for doc in open_corpus(str(files("lsr.data") / "cranfield"))][:50]


def shapes(folder):
    graph = onnx.load(folder / "document" / "model.onnx").graph
    return {one.name: list(one.dims) for one in graph.initializer}


def distance(encoder, whole, texts):
    """The relative distance of an encoder's vectors from those of the whole encoder."""
    found, expected = (one.encode_document(texts).to_dense() for one in (encoder, whole))
    width = max(found.shape[1], expected.shape[1])
    found, expected = (np.pad(one, ((0, 0), (0, width - one.shape[1]))) for one in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, texts):
    """lsr-tiny with half of its heads and columns, with and without the fit."""
    folder = tmp_path_factory.mktemp("pruned")
    for name, fit in (("fitted", True), ("plain", False)):
        prune("lsr-tiny", folder / name, texts[:40], PruneSettings(0.5, 0.5, fit))
    return folder


def test_heads_and_columns_are_removed(pruned):
    found = shapes(pruned / "fitted")
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        assert found[f"{layer}.qkv.weight"] == [128, 3 * 64]
        assert found[f"{layer}.attention.output.dense.weight"] == [64, 128]
        assert found[f"{layer}.intermediate.dense.weight"] == [128, 256]
        assert found[f"{layer}.output.dense.weight"] == [256, 128]


def test_the_fit_reduces_the_distance_from_the_whole_encoder(pruned, texts):
    """The distance is measured on texts that the fit hasn't seen."""
    whole, fitted, plain = (load_encoder(one, lexical=0) for one in ("lsr-tiny", pruned / "fitted", pruned / "plain"))
    apart = [distance(one, whole, texts[40:]) for one in (fitted, plain)]
    assert 0 < apart[0] < 0.9 * apart[1]
    assert fitted.encode_query("flutter of wings") == whole.encode_query("flutter of wings")


def test_pruning_with_shares_of_zero_keeps_vectors(tmp_path, texts):
    prune("lsr-tiny", tmp_path / "same", texts[:2], PruneSettings(0, 0, fit=False))
    whole, same = load_encoder("lsr-tiny", lexical=0), load_encoder(tmp_path / "same", lexical=0)
    assert same.encode_document(texts[:5]) == whole.encode_document(texts[:5])


def test_means_of_removed_columns_are_added_to_the_bias(tmp_path, texts):
    """Unchanged biases would give vectors that are farther from the whole model's vectors."""
    prune("lsr-tiny", tmp_path / "one", texts[:20], PruneSettings(0, 0.75, fit=False))
    whole = load_encoder("lsr-tiny", lexical=0)
    compensated = distance(load_encoder(tmp_path / "one", lexical=0), whole, texts[40:])
    path = tmp_path / "one" / "document" / "model.onnx"
    graph, before = onnx.load(path), onnx.load(whole.document.document.folder() / "model.onnx")
    biases = {one.name: one for one in before.graph.initializer if one.name.endswith(".output.dense.bias")}
    for one in graph.graph.initializer:
        if one.name in biases:
            one.CopyFrom(biases[one.name])
    save_with_graph(load_encoder("lsr-tiny"), graph.SerializeToString(), tmp_path / "without")
    assert compensated < distance(load_encoder(tmp_path / "without", lexical=0), whole, texts[40:])


def test_a_pruned_encoder_can_be_pruned_again(pruned, tmp_path, texts):
    prune(pruned / "plain", tmp_path / "less", texts[:3], PruneSettings(0, 0.5, fit=False))
    assert shapes(tmp_path / "less")["encoder.layer.0.output.dense.weight"] == [128, 128]
    assert load_encoder(tmp_path / "less", lexical=0).encode_document(texts[:2]).nnz


def test_a_pruned_lsr_mini_still_has_both_vectors(tmp_path, texts):
    prune("lsr-mini", tmp_path / "small", texts[:2], PruneSettings(0.5, 0.25, fit=False))
    found = shapes(tmp_path / "small")
    assert found["dense.encoder.layer.5.qkv.weight"] == [384, 3 * 192]
    whole, small = load_encoder("lsr-mini", lexical=0), load_encoder(tmp_path / "small", lexical=0)
    (_, expected), (_, dense) = whole.encode_both(texts[:2]), small.encode_both(texts[:2])
    assert dense.shape == expected.shape
    assert (dense * expected).sum(1).min() > 0.5


def test_invalid_input_is_refused(tmp_path, texts):
    with pytest.raises(EncoderError, match="only a model that lsr exported"):
        prune("bm25", tmp_path / "x", texts)
    with pytest.raises(EncoderError, match="texts that aren't empty"):
        prune("lsr-tiny", tmp_path / "x", [])
    for wrong in ({"heads": 1.0}, {"columns": -0.1}):
        with pytest.raises(ValueError, match="heads and columns must be"):
            PruneSettings(**wrong)


def test_the_command_prunes_and_does_not_overwrite(tmp_path, lsr_command):
    (tmp_path / "docs.jsonl").write_text('{"_id": "1", "text": "wings in wind"}\n')
    how = ("prune", "lsr-tiny", "--documents", tmp_path / "docs.jsonl", "--out", tmp_path / "small", "--heads", "0.5")
    assert lsr_command(*how).code == 0
    assert load_encoder(tmp_path / "small", lexical=0).encode_document(["wings"]).nnz
    again = lsr_command(*how)
    assert again.code == 1
    assert "exists; choose another folder" in again.err


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_half_of_lsr_mini_loses_little_on_cranfield(real_data, benchmark_module, tmp_path):
    """On Cranfield, half of the heads and columns lose at most 0.01 nDCG@10 and save a quarter of the time."""
    pytest.importorskip("ir_measures", reason="needs the extra eval")
    module, folder = benchmark_module("pruned"), real_data("cranfield")
    seen = [doc.content for doc in islice(open_corpus(str(real_data("openstax"))), 200)]
    places = {"whole": "lsr-mini", "fitted": tmp_path / "fitted", "plain": tmp_path / "plain"}
    for name in ("fitted", "plain"):
        prune("lsr-mini", places[name], seen, PruneSettings(0.5, 0.5, fit=name == "fitted"))
    alone, both = {}, {}
    for name, place in places.items():
        alone[name], both[name], _ = module.quality(place, folder)
    speed = module.speeds(places, [doc.content for doc in islice(open_corpus(str(folder)), 50)])
    print(alone, both, speed)
    assert both["fitted"] >= both["whole"] - 0.01
    assert alone["fitted"] >= alone["whole"] - 0.01
    assert alone["fitted"] > alone["plain"]
    assert speed["fitted"] > 1.33 * speed["whole"]
