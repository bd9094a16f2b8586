"""load_encoder opens every layout and gives the same vectors as the library that wrote the files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lsr.encode
from lsr.encode import BM25Encoder, InferenceFreeEncoder, SpladeEncoder, load_encoder
from lsr.encode.load import load_encoder_files
from lsr.encode.model_files import read_tensor
from lsr.errors import EncoderError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LAYOUTS = ["max-relu", "sum-relu", "max-log1p_relu", "sum-log1p_relu", "static", "towers"]


def widened(dense, n_terms):
    """Pad vectors to the model's width: sentence-transformers' static embedding has only the tokenizer's width."""
    return np.pad(dense.to_dense().numpy(), ((0, 0), (0, n_terms - dense.shape[1])))


@pytest.mark.parametrize("name", LAYOUTS)
def test_vectors_equal_those_of_sentence_transformers(reference, texts, name):
    folder, model = reference(name)
    encoder = load_encoder(folder, device="cpu")
    assert isinstance(encoder, InferenceFreeEncoder if name == "static" else SpladeEncoder)
    for method in ("encode_query", "encode_document"):
        expected = widened(getattr(model, method)(texts, convert_to_tensor=True), encoder.n_terms)
        assert expected.max() > 0.5
        # lsr sets negative query weights to zero, because an index can't be searched with them.
        found = getattr(encoder, method)(texts).to_dense()
        np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_saved_encoder_gives_the_same_vectors(reference, texts, tmp_path, name):
    encoder = load_encoder(reference(name)[0], device="cpu")
    encoder.save(tmp_path)
    again = load_encoder(tmp_path, device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.encode_query(texts) == encoder.encode_query(texts)
    assert again.encode_document(texts) == encoder.encode_document(texts)
    carried = load_encoder_files(encoder.query_files(), device="cpu")
    assert carried.fingerprint == encoder.fingerprint
    assert carried.encode_query(texts) == encoder.encode_query(texts)


def test_an_opensearch_model_gives_the_same_vectors(opensearch, reference, texts):
    encoder = load_encoder(opensearch, saturation="log1p_log1p", device="cpu")
    _, model = reference("static")  # a model with the same weights
    expected = widened(model.encode_query(texts, convert_to_tensor=True), encoder.n_terms)
    np.testing.assert_allclose(encoder.encode_query(texts).to_dense(), np.maximum(expected, 0), atol=1e-6)
    expected = model.encode_document(texts, convert_to_tensor=True).to_dense().numpy()
    np.testing.assert_allclose(encoder.encode_document(texts).to_dense(), expected, atol=1e-4)


def test_the_layout_of_sentence_transformers_5_is_opened(reference, texts, tmp_path):
    """Files of sentence-transformers 5 have other module names, the key max_seq_length, and an old width key."""
    folder = Path(shutil.copytree(reference("max-relu")[0], tmp_path / "old"))
    prefix = "sentence_transformers.sparse_encoder.models"
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = f"{prefix}.MLMTransformer.MLMTransformer"
    modules[1]["type"] = f"{prefix}.SpladePooling.SpladePooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 10, "do_lower_case": true}')
    pooling = {"pooling_strategy": "sum", "activation_function": "relu", "word_embedding_dimension": 36}
    (folder / modules[1]["path"] / "config.json").write_text(json.dumps(pooling))
    encoder = load_encoder(folder, device="cpu")
    assert (encoder.document.pooling, encoder.document.max_length) == ("sum", 10)
    assert encoder.query.prompt == "the "
    assert encoder.encode_document("CAT") == encoder.encode_document("cat")
    encoder.save(tmp_path / "saved")
    assert load_encoder(tmp_path / "saved").fingerprint == encoder.fingerprint

    modules[0]["type"] = "sentence_transformers.models.Asym"
    del modules[1]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match="Router's configuration"):
        load_encoder(folder)


def test_a_query_table_may_be_stored_by_token(reference, query_weights, tmp_path):
    folder = Path(shutil.copytree(reference("static")[0], tmp_path / "by-token"))
    expected = load_encoder(folder).encode_query("the cat sat on the mat .")
    static = folder / "query_0_SparseStaticEmbedding"
    (static / "model.safetensors").unlink()
    (static / "config.json").write_text('{"frozen": true, "path": "idf.json"}')
    tokens = load_encoder(reference("static")[0]).vocabulary
    (folder / "idf.json").write_text(json.dumps(dict(zip(tokens, query_weights.tolist(), strict=False))))
    assert load_encoder(folder).encode_query("the cat sat on the mat .") == expected


def test_max_active_dims_limits_the_number_of_terms(reference, texts, tmp_path):
    folder = Path(shutil.copytree(reference("max-relu")[0], tmp_path / "cut"))
    whole = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps(whole | {"max_active_dims": 4}))
    encoder = load_encoder(folder, device="cpu")
    assert encoder.encode_query(texts).lengths().max() == 4
    assert encoder.encode_document(texts).lengths().max() == 4


def test_bm25_is_opened_by_name_and_read_back(tmp_path):
    encoder = load_encoder("bm25", k1=1.2, language="none")
    assert isinstance(encoder, BM25Encoder)
    encoder.fit(["a cat", "some dogs"])
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.fingerprint == encoder.fingerprint
    assert load_encoder_files(encoder.query_files()).encode_query("cat") == encoder.encode_query("cat")


def test_imports_are_lazy():
    code = """
import sys
import lsr.encode
from lsr.encode import BM25Encoder, Encoder, InferenceFreeEncoder, SpladeEncoder, load_encoder
load_encoder("bm25")
print([name for name in ("torch", "transformers", "sentence_transformers") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert set(lsr.encode.__all__) <= set(dir(lsr.encode))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        lsr.encode.Nothing  # noqa: B018


def test_queries_of_a_router_need_no_torch(reference):
    folder, _ = reference("static")
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["safetensors"] = None
from lsr.encode import load_encoder
print(load_encoder({str(folder)!r}).encode_query("the cat").nnz)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "2"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_tensors_of_all_float_types_are_read(tmp_path, dtype):
    from safetensors.torch import save_file

    values = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4
    save_file({"other": torch.zeros(7), "weight": values.to(getattr(torch, dtype))}, tmp_path / "x.safetensors")
    assert read_tensor(tmp_path / "x.safetensors", "weight").tolist() == values.tolist()
    with pytest.raises(EncoderError, match="none"):
        read_tensor(tmp_path / "x.safetensors", "none")
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(EncoderError, match="longer than the file"):
        read_tensor(tmp_path / "x.safetensors", "weight")


# --- errors -----------------------------------------------------------------------------------------------------


def test_unknown_settings_are_refused(checkpoint, tmp_path):
    with pytest.raises(EncoderError, match="did you mean 'pooling'"):
        load_encoder(checkpoint, poling="max")
    with pytest.raises(EncoderError, match=r"no setting 'pooling'.*k1, b, language"):
        load_encoder("bm25", pooling="max")
    load_encoder("bm25").save(tmp_path)
    with pytest.raises(EncoderError, match="no setting 'k1'"):
        load_encoder(tmp_path, k1=2.0)


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(EncoderError, match=r'"organisation/name".*Built in: bm25'):
        load_encoder("no-such-encoder")
    with pytest.raises(EncoderError, match="Built in: bm25"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(EncoderError, match=r"not an encoder: it has none of encoder\.json"):
        load_encoder(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="is a file"):
        load_encoder(tmp_path / "file")


def test_an_encoder_is_downloaded_by_its_hub_name(checkpoint, texts, monkeypatch, tmp_path):
    import huggingface_hub

    from lsr.encode import model_files as files

    def snapshot(name, **options):
        assert not any(pattern.endswith((".bin", ".py")) for pattern in options["allow_patterns"])
        if name == "org/tiny":
            return str(checkpoint)
        raise ConnectionError("no route to host")

    files._download.cache_clear()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("org/tiny", device="cpu")
    assert encoder.fingerprint.model == "org/tiny"
    assert encoder.config()["document"]["checkpoint"] == "org/tiny"
    assert encoder.encode_query(texts) == load_encoder(checkpoint, device="cpu").encode_query(texts)
    with pytest.raises(EncoderError, match=r"no folder has this name.*no route to host.*Built in: bm25"):
        load_encoder("org/other")
    files._download.cache_clear()


@pytest.mark.parametrize("path", ["../..", "/etc", "a/../../b", "..\\x", "C:\\x"])
def test_paths_outside_of_the_folder_are_refused(reference, tmp_path, path):
    folder = Path(shutil.copytree(reference("max-relu")[0], tmp_path / "bad"))
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match="is outside of the folder"):
        load_encoder(folder)


def test_unknown_modules_are_refused(reference, tmp_path):
    folder = Path(shutil.copytree(reference("max-relu")[0], tmp_path / "bad"))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / modules[1]["path"] / "config.json").write_text('{"activation_function": "gelu"}')
    with pytest.raises(EncoderError, match="activation_function 'gelu'"):
        load_encoder(folder)
    modules[1]["type"] = "sentence_transformers.sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match="made of the modules Transformer, SparseAutoEncoder"):
        load_encoder(folder)
    (folder / "modules.json").write_text("{}")
    with pytest.raises(EncoderError, match="modules"):
        load_encoder(folder)


def test_a_pickled_table_is_refused(reference, tmp_path):
    folder = Path(shutil.copytree(reference("static")[0], tmp_path / "bad"))
    static = folder / "query_0_SparseStaticEmbedding"
    (static / "model.safetensors").rename(static / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model\.bin.*isn't opened"):
        load_encoder(folder)


def test_a_table_by_token_must_fit_the_vocabulary(opensearch, tmp_path):
    folder = Path(shutil.copytree(opensearch, tmp_path / "bad"))
    (folder / "idf.json").write_text('{"cat": "heavy"}')
    with pytest.raises(EncoderError, match="weight of 'cat'"):
        load_encoder(folder)
    (folder / "idf.json").write_text('{"zebra": 1.0}')
    with pytest.raises(EncoderError, match="none of its 1 tokens"):
        load_encoder(folder)
    (folder / "idf.json").write_text("[1]")
    with pytest.raises(EncoderError, match="not a JSON object"):
        load_encoder(folder)


def test_damaged_encoder_files_are_refused(checkpoint, tmp_path):
    load_encoder(checkpoint).save(tmp_path)
    config = json.loads((tmp_path / "encoder.json").read_text())
    for change, message in [
        ({"format": 99}, "format 99"),
        ({"type": "colbert"}, "knows bm25, splade, inference-free"),
        ({"document": None}, "tower can't be read"),
        ({"document": {"subfolder": "../x"}}, "outside of the folder"),
    ]:
        (tmp_path / "encoder.json").write_text(json.dumps(config | change))
        with pytest.raises(EncoderError, match=message):
            load_encoder(tmp_path)
    del config["fingerprint"]
    (tmp_path / "encoder.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="not a whole encoder"):
        load_encoder(tmp_path)
    with pytest.raises(EncoderError, match="outside of the folder"):
        load_encoder_files({"../encoder.json": b""})
