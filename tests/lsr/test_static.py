"""InferenceFreeEncoder takes query vectors from a table, without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from lsr.encode import load_encoder
from lsr.encode.inference_free import TABLE_FILE, InferenceFreeEncoder
from lsr.encode.load import load_encoder_files
from lsr.encode.splade import SpladeEncoder
from lsr.errors import EncoderError

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def encoder(checkpoint, query_weights):
    return InferenceFreeEncoder(SpladeEncoder(checkpoint, device="cpu"), query_weights)


def test_query_weights_come_from_the_table(encoder, query_weights):
    found = encoder.encode_query(["cat cat [SEP] ? mat", "", "a b"])
    cat, mat = (list(encoder.vocabulary).index(word) for word in ("cat", "mat"))
    terms, weights = found.row(0)
    assert terms.tolist() == [cat, mat]  # each token once, without the special and the unknown token
    assert weights.tolist() == query_weights[[cat, mat]].tolist()
    assert found.lengths().tolist() == [2, 0, 0]  # "a" and "b" have negative weights, which count as zero
    assert found.shape == (3, encoder.n_terms)


def test_special_tokens_have_no_weight(checkpoint):
    document = SpladeEncoder(checkpoint)
    encoder = InferenceFreeEncoder(document, np.ones(document.n_terms))
    assert encoder.encode_query("[CLS] ? [MASK]").nnz == 0
    assert encoder.encode_query("cat").nnz == 1


def test_queries_are_truncated_by_their_own_limit(checkpoint):
    document = SpladeEncoder(checkpoint)
    encoder = InferenceFreeEncoder(document, np.ones(document.n_terms), max_length=3, prompt="the ")
    found = encoder.encode_query("cat sat on mat")
    assert [encoder.vocabulary[term] for term in found.indices] == ["cat", "the", "sat"]


def test_documents_are_encoded_by_the_model(encoder, checkpoint, texts):
    plain = SpladeEncoder(checkpoint, device="cpu")
    assert encoder.encode_document(texts) == plain.encode_document(texts)
    assert encoder.count_truncated(texts) == 1
    assert encoder.spans("the cat") == plain.spans("the cat")
    assert encoder.fingerprint.weights != plain.fingerprint.weights


def test_a_saved_encoder_gives_the_same_vectors(encoder, texts, tmp_path):
    encoder.save(tmp_path)
    again = load_encoder(tmp_path, device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.encode_query(texts) == encoder.encode_query(texts)
    assert again.encode_document(texts) == encoder.encode_document(texts)
    assert load_encoder(tmp_path, top_k=2, device="cpu").encode_document(texts).lengths().max() == 2


def test_the_fingerprint_depends_on_the_table(encoder, checkpoint, query_weights):
    other = InferenceFreeEncoder(SpladeEncoder(checkpoint), query_weights * 2)
    assert [part.split()[0] for part in encoder.fingerprint.differences(other.fingerprint)] == ["weights"]


def test_query_files_open_as_an_equal_encoder(encoder, texts):
    again = load_encoder_files(encoder.query_files(), device="cpu")
    assert again.fingerprint == encoder.fingerprint
    assert again.encode_query(texts) == encoder.encode_query(texts)
    assert again.encode_document(texts) == encoder.encode_document(texts)


def test_queries_need_no_torch(encoder, tmp_path):
    for name, content in encoder.query_files().items():
        (tmp_path / name).write_bytes(content)
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["safetensors"] = None
from pathlib import Path
from lsr.encode.load import load_encoder_files
encoder = load_encoder_files({{p.name: p.read_bytes() for p in Path({str(tmp_path)!r}).iterdir()}})
print(encoder.encode_query("cat mat").indices.tolist(), encoder.fingerprint.weights)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = encoder.encode_query("cat mat").indices.tolist()
    assert result.stdout.strip() == f"{expected} {encoder.fingerprint.weights}"


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.ones(5), "has shape"),
        (np.ones((2, 33)), "has shape"),
        (np.ones(1000), "has shape"),
        (np.r_[np.ones(32), np.nan], "nan for token 32"),
    ],
)
def test_invalid_tables_are_refused(checkpoint, table, message):
    with pytest.raises(EncoderError, match=message):
        InferenceFreeEncoder(SpladeEncoder(checkpoint), table)


def test_a_damaged_table_is_refused(encoder):
    content = encoder.query_files()
    for bad in (b"", content[TABLE_FILE][:200], content[TABLE_FILE].replace(b"ARROW1", b"ARROW2")):
        with pytest.raises(EncoderError, match=TABLE_FILE):
            load_encoder_files(content | {TABLE_FILE: bad})
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"weight": pa.array(["a", "b"])})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(EncoderError, match="float32"):
        load_encoder_files(content | {TABLE_FILE: bytes(sink.getvalue())})
    with pytest.raises(EncoderError, match=TABLE_FILE):
        load_encoder_files({name: data for name, data in content.items() if name != TABLE_FILE})
