"""Vectors are read back from Parquet and JSONL files. Damaged files and files of other kinds are refused."""

import base64
import gzip
import json
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.errors import DataError, EncoderMismatch, OutputError
from lsr.fingerprint import Fingerprint
from lsr.io import vectors_parquet as module
from lsr.io.document import Document, document_batch
from lsr.io.jsonl import write_jsonl
from lsr.io.open_vectors import holds_vectors, read_vectors
from lsr.io.vectors import VectorBatch
from lsr.io.vectors_parquet import ParquetWriter, pack_metadata
from lsr.sparse import SparseMatrix

TOKENS = ["wing", "flow", "größe"]
PRINT = Fingerprint("m", weights="w1", vocabulary_size=3)
MATRIX = SparseMatrix.from_dicts([{0: 0.5, 2: 1.25}, {}, {1: 3.0}], 3)
DOCUMENTS = [Document("a", "text a", "T", {"k": [1]}), Document("b", ""), Document("c", "text c", parent="a")]
FLOAT32 = st.floats(width=32, min_value=0, exclude_min=True, allow_infinity=False)


def batch(matrix=MATRIX, documents=DOCUMENTS):
    return VectorBatch(document_batch(documents), matrix)


def put(path, *batches, metadata=None):
    with ParquetWriter(path, pack_metadata(PRINT, TOKENS) if metadata is None else metadata) as writer:
        for each in batches or [batch()]:
            writer.write(each)
    return path


def put_columns(path, metadata=None, /, **columns):
    """Write a Parquet file with the given columns, valid or not."""
    columns = {"id": ["a", "b"], "terms": [[0], [1]], "weights": [[1.0], [1.0]]} | columns
    pq.write_table(
        pa.table({k: v for k, v in columns.items() if v is not None}).replace_schema_metadata(metadata), path
    )
    return path


def put_lines(path, *lines):
    content = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read_all(source, **options):
    vectors = read_vectors(source, **options)
    batches = list(vectors)
    matrix = SparseMatrix.vstack([b.vectors for b in batches])
    return [i for b in batches for i in b.ids], matrix, vectors


def by_token(matrix, vocabulary):
    return [{vocabulary[t]: w for t, w in zip(*map(np.ndarray.tolist, row), strict=True)} for row in matrix.rows()]


# --- Parquet


def test_a_parquet_file_is_read_back(tmp_path):
    files = {"encoder.json": b"{}", "table.bin": bytes(range(256)) * 100, "empty": b""}
    path = put(tmp_path / "v.parquet", batch(), metadata=pack_metadata(PRINT, TOKENS, files))
    for _ in range(2):
        vectors = read_vectors(path)
        [read] = vectors
        assert read.vectors == MATRIX
        assert read.documents.equals(document_batch(DOCUMENTS))
        assert read.ids == ["a", "b", "c"]
    assert (vectors.fingerprint, vectors.vocabulary, vectors.encoder_files) == (PRINT, TOKENS, files)
    assert (vectors.count, vectors.n_terms) == (3, 3)
    assert [f.name for f in tmp_path.iterdir()] == ["v.parquet"]


@given(rows=st.lists(st.dictionaries(st.integers(0, 2**31 - 1), FLOAT32, max_size=4), min_size=1, max_size=5))
def test_parquet_keeps_every_float32(tmp_path_factory, rows):
    matrix = SparseMatrix.from_dicts(rows, 2**31)
    documents = [Document(str(i), "") for i in range(len(rows))]
    path = put(tmp_path_factory.mktemp("v") / "v.parquet", batch(matrix, documents), metadata={})
    assert read_all(path)[1] == matrix


def test_a_file_of_several_batches_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    path = put(tmp_path / "v.parquet", batch(), batch(documents=[Document(i, "") for i in "def"]))
    ids, matrix, _ = read_all(path)
    assert ids == list("abcdef")
    assert matrix == SparseMatrix.vstack([MATRIX, MATRIX])


def test_a_file_of_another_tool_is_read(tmp_path):
    path = put_columns(
        tmp_path / "v.parquet",
        id=pa.array([7, 8]),
        terms=pa.array([[5, 2], []], pa.large_list(pa.int64())),
        weights=pa.array([[1, 2], []], pa.large_list(pa.float64())),
        colour=["red", "blue"],
    )
    ids, matrix, vectors = read_all(path)
    assert ids == ["7", "8"]
    assert by_token(matrix, range(9)) == [{5: 1.0, 2: 2.0}, {}]
    assert (vectors.fingerprint, vectors.vocabulary, vectors.encoder_files) == (Fingerprint(), None, {})


def test_a_folder_of_parts_is_read_like_one_file(tmp_path):
    put(tmp_path / "part-00001.parquet", batch(documents=[Document(i, "") for i in "def"]))
    put(tmp_path / "part-00000.parquet")
    (tmp_path / "README").write_text("not a part")
    ids, matrix, vectors = read_all(tmp_path)
    assert ids == list("abcdef")
    assert matrix == SparseMatrix.vstack([MATRIX, MATRIX])
    assert (vectors.count, vectors.fingerprint) == (6, PRINT)


def test_parts_of_different_encoders_are_refused(tmp_path):
    put(tmp_path / "part-0.parquet")
    put(tmp_path / "part-1.parquet", metadata=pack_metadata(Fingerprint("n", weights="w2", vocabulary_size=3), TOKENS))
    with pytest.raises(
        EncoderMismatch, match=r"part-0.parquet was made with m, .*part-1.parquet with n; .*weights w1 / w2"
    ):
        read_vectors(tmp_path)


def test_parts_of_different_vocabularies_are_refused(tmp_path):
    put(tmp_path / "part-0.parquet", metadata=pack_metadata(Fingerprint(), ["a", "b", "c"]))
    put(tmp_path / "part-1.parquet", metadata=pack_metadata(Fingerprint(), ["b", "a", "c"]))
    with pytest.raises(DataError, match=r"part-1.parquet: its vocabulary differs from that of .*part-0"):
        read_vectors(tmp_path)


# --- refused Parquet files


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"weights": [[1.0], [float("nan")]]}, "row 1: weight nan of term 1"),
        ({"weights": [[1.0], [float("inf")]]}, "row 1: weight inf of term 1"),
        ({"weights": [[1.0], [-2.0]]}, "row 1: weight -2.0 of term 1"),
        ({"weights": [[1.0], [1e300]]}, r"row 1: weight 1e\+300 of term 1"),
        ({"terms": [[0], [3]]}, "row 1: term 3 is outside the vocabulary of 3 terms"),
        ({"terms": [[0], [-1]]}, "row 1: term -1 is outside the vocabulary"),
        ({"terms": [[0], [2, 2]], "weights": [[1.0], [1.0, 2.0]]}, "row 1: term 2 occurs twice"),
        ({"terms": [[0], None]}, "the column 'terms' holds nulls"),
        ({"terms": [[0], [None]]}, "the column 'terms' holds nulls"),
        ({"weights": [[1.0], None]}, "the column 'weights' holds nulls"),
        ({"weights": [[1.0], [None]]}, "the column 'weights' holds nulls"),
        ({"terms": [[0], [1, 2]]}, "a row has more terms than weights, or fewer"),
        ({"terms": [[0, 1], [2]], "weights": [[1.0], [1.0, 2.0]]}, "a row has more terms than weights, or fewer"),
        ({"terms": [[0.0], [1.0]]}, "term ids must be integers"),
        ({"terms": [0, 1]}, "the column 'terms' must hold lists, it holds int64"),
        ({"weights": [1.0, 2.0]}, "the column 'weights' must hold lists, it holds double"),
        ({"weights": [["x"], ["y"]]}, "the column 'weights' must hold lists of numbers"),
        ({"id": ["a", None]}, "a row has no id"),
        ({"id": [["a"], ["b"]]}, "can't be read"),
        ({"id": pa.array([b"a", b"\xff"]).view(pa.string())}, "can't be read"),
        ({"metadata": [None, "year"]}, "document 'b': metadata is not JSON: Expecting value"),
        ({"metadata": ["{}", "[1]"]}, r"document 'b': .metadata. must be an object, got .1."),
        ({"metadata": ['{"n": NaN}', None]}, "document 'a': metadata is not JSON: Out of range"),
        ({"metadata": ['{"n": "\\ud800"}', None]}, "document 'a': metadata is not JSON: .*surrogates"),
        ({"metadata": ['{"n":' * 9999, None]}, "document 'a': metadata is not JSON: maximum recursion"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_columns_are_refused(tmp_path, columns, problem):
    path = put_columns(tmp_path / "v.parquet", pack_metadata(PRINT), **columns)
    with pytest.raises(DataError, match=rf"v\.parquet: (after 0 rows: )?{problem}"):
        list(read_vectors(path))


def test_positions_count_from_the_start_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    path = put_columns(tmp_path / "v.parquet", weights=[[1.0], [-1.0]])
    with pytest.raises(DataError, match=r"v.parquet: after 1 rows: row 0: weight -1.0"):
        list(read_vectors(path))


@pytest.mark.parametrize("missing", ["id", "terms", "weights"])
def test_the_error_names_a_missing_column(tmp_path, missing):
    with pytest.raises(DataError, match=f"v.parquet: not vectors: the column '{missing}' is missing"):
        read_vectors(put_columns(tmp_path / "v.parquet", **{missing: None}))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.99])
def test_a_truncated_parquet_file_is_refused(tmp_path, keep):
    path = put(tmp_path / "v.parquet")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"v\.parquet: not a whole Parquet file"):
        read_vectors(path)


def test_a_damaged_page_is_refused(tmp_path):
    path = put(tmp_path / "v.parquet")
    whole = bytearray(path.read_bytes())
    whole[4:60] = bytes(56)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"v\.parquet: "):
        list(read_vectors(path))


def packed(**files):
    return {"lsr.encoder": json.dumps({n: base64.b64encode(zlib.compress(c)).decode() for n, c in files.items()})}


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "..", ".", ".hidden", "", "a\0b", "a\nb"], ids=lambda name: ascii(name)
)
def test_hostile_file_names_are_refused(tmp_path, name):
    path = put(tmp_path / "v.parquet", metadata=packed(**{name: b"x"}))
    with pytest.raises(DataError, match=r"v\.parquet: the encoder in this file has a file called"):
        read_vectors(path)


@pytest.mark.parametrize("files", [{"a": 101}, {"a": 60, "b": 60}, {"a": 100, "b": 1}])
def test_excessive_decompression_is_refused(tmp_path, monkeypatch, files):
    monkeypatch.setattr(module, "_ENCODER_LIMIT", 100)
    path = put(tmp_path / "v.parquet", metadata=packed(**{name: bytes(size) for name, size in files.items()}))
    with pytest.raises(DataError, match="of the encoder in this file can't be unpacked: it is too large"):
        read_vectors(path)


def test_a_decompression_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ENCODER_LIMIT", 1 << 20)
    path = put(tmp_path / "v.parquet", metadata=packed(a=bytes(1 << 26)))
    tracemalloc.start()
    with pytest.raises(DataError, match="too large"):
        read_vectors(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 23


@pytest.mark.parametrize(
    "content",
    [
        "not base64!",
        "",
        base64.b64encode(b"plain").decode(),
        base64.b64encode(zlib.compress(b"x" * 99)[:-6]).decode(),
        7,
    ],
    ids=["alphabet", "empty", "not packed", "cut short", "number"],
)
def test_damaged_encoder_files_are_refused(tmp_path, content):
    path = put(tmp_path / "v.parquet", metadata={"lsr.encoder": json.dumps({"a": content})})
    with pytest.raises(DataError, match="a of the encoder in this file can't be unpacked"):
        read_vectors(path)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"lsr.fingerprint": "{"}, "the encoder's fingerprint can't be read"),
        ({"lsr.fingerprint": '{"vocabulary_size": "3"}'}, "the encoder's fingerprint has vocabulary_size = '3'"),
        ({"lsr.vocabulary": "{"}, "lsr.vocabulary can't be read"),
        ({"lsr.vocabulary": "[" * 100_000}, "lsr.vocabulary can't be read"),
        ({"lsr.vocabulary": "{}"}, "lsr.vocabulary is not a list"),
        ({"lsr.vocabulary": '["a", 1]'}, "lsr.vocabulary has something other than tokens"),
        ({"lsr.encoder": "[]"}, "lsr.encoder is not a dict"),
        ({"lsr.step": "1"}, "lsr.step is not a float"),
        ({"lsr.step": "-0.5"}, "lsr.step is -0.5; it must be positive"),
        ({"lsr.step": "NaN"}, "lsr.step is nan; it must be positive"),
    ],
    ids=range(10),
)
def test_damaged_metadata_is_refused(tmp_path, metadata, problem):
    with pytest.raises(DataError, match=f"v.parquet: {problem}"):
        read_vectors(put(tmp_path / "v.parquet", metadata=metadata))


# --- JSONL

LINES = [
    {"_id": "a", "vector": {"wing": 0.5, "größe": 1.25}, "text": "text a", "title": "T", "url": "u"},
    {"id": "b", "contents": "", "vector": {}},
    {"id": 3, "contents": "text c", "vector": {"flow": 3, "wing": 0}},
]


@pytest.mark.parametrize("name", ["v.jsonl", "v.jsonl.gz"])
def test_jsonl_is_read(tmp_path, name):
    ids, matrix, vectors = read_all(put_lines(tmp_path / name, *LINES))
    assert ids == ["a", "b", "3"]
    assert vectors.vocabulary == ["wing", "größe", "flow"]
    assert by_token(matrix, vectors.vocabulary) == [{"wing": 0.5, "größe": 1.25}, {}, {"flow": 3.0}]
    [read] = vectors  # a second pass, with the whole vocabulary
    assert read.vectors == matrix
    first = {"id": "a", "parent": None, "title": "T", "text": "text a", "metadata": '{"url": "u"}'}
    assert read.documents.to_pylist()[0] == first
    assert read.documents.to_pylist()[2]["text"] == "text c"


def test_jsonl_extends_a_given_vocabulary(tmp_path):
    _, matrix, vectors = read_all(put_lines(tmp_path / "v.jsonl", *LINES), vocabulary=["flow", "heat", "wing"])
    assert vectors.vocabulary == ["flow", "heat", "wing", "größe"]
    assert matrix.shape == (3, 4)


@pytest.mark.parametrize("name", ["v.jsonl", "v.jsonl.gz"])
def test_a_jsonl_file_is_read_back(tmp_path, name):
    write_jsonl(tmp_path / name, [batch()], TOKENS)
    ids, matrix, vectors = read_all(tmp_path / name, vocabulary=TOKENS)
    assert (ids, matrix, vectors.vocabulary) == (["a", "b", "c"], MATRIX, TOKENS)
    assert [f.name for f in tmp_path.iterdir()] == [name]


@given(weights=st.lists(FLOAT32, min_size=1, max_size=5))
def test_jsonl_keeps_every_float32(tmp_path_factory, weights):
    matrix = SparseMatrix.from_rows([(np.arange(len(weights)), weights)], len(weights))
    path = tmp_path_factory.mktemp("v") / "v.jsonl"
    write_jsonl(path, [batch(matrix, DOCUMENTS[:1])], [f"t{i}" for i in range(len(weights))])
    assert read_all(path)[1] == matrix


@pytest.mark.parametrize("name", ["v.jsonl", "v.jsonl.gz"])
def test_anserini_jsonl_has_rounded_integer_weights(tmp_path, name):
    matrix = SparseMatrix.from_dicts([{0: 0.5, 2: 1.254}, {}, {1: 0.001}], 3)
    write_jsonl(tmp_path / name, [batch(matrix)], TOKENS, anserini=True)
    raw = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode().splitlines()
    assert json.loads(lines[0]) == {"id": "a", "contents": "T text a", "vector": {"wing": 50, "größe": 125}}
    ids, read, vectors = read_all(tmp_path / name)
    assert ids == ["a", "b", "c"]
    assert by_token(read, vectors.vocabulary) == [{"wing": 50.0, "größe": 125.0}, {}, {"flow": 1.0}]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"_id": "x", "vector": {"a": NaN}}', "'x': weight nan of 'a'"),
        ('{"_id": "x", "vector": {"a": Infinity}}', "'x': weight inf of 'a'"),
        ('{"_id": "x", "vector": {"a": 1e39}}', r"'x': weight 1e\+39 of 'a'"),
        ('{"_id": "x", "vector": {"a": -1}}', "'x': weight -1 of 'a'"),
        ('{"_id": "x", "vector": {"a": true}}', "'x': weight True of 'a'"),
        ('{"_id": "x", "vector": {"a": "1"}}', "'x': weight '1' of 'a'"),
        ('{"_id": "x", "vector": {"a": null}}', "'x': weight None of 'a'"),
        ('{"_id": "x", "vector": {"a": 1, "b": 2, "a": 3}}', ".*the key 'a' occurs twice"),
        ('{"_id": "x", "vector": {"\\ud83d": 1}}', "'x': a token holds an unpaired surrogate"),
        ('{"_id": "x", "vector": [1, 2]}', "expected {"),
        ('{"_id": "x"}', "expected {"),
        ('["x"]', "expected a JSON object"),
        ('{"vector": {"a": 1}}', "no id"),
        ('{"_id": "x", "vector": {"a": 1}', "not JSON"),
    ],
)
def test_the_error_names_a_bad_jsonl_line(tmp_path, line, problem):
    good = {"_id": "g", "vector": {"a": 1}}
    path = put_lines(tmp_path / "v.jsonl", good, line, good | {"_id": "h"})
    with pytest.raises(DataError, match=rf"v\.jsonl:2: {problem}"):
        list(read_vectors(path))
    vectors = read_vectors(path, skip_bad=True)
    for _ in range(2):
        assert [i for each in vectors for i in each.ids] == ["g", "h"]
        assert len(vectors.bad) == 1
    assert vectors.vocabulary == ["a"]


def test_a_truncated_gzip_file_is_refused(tmp_path):
    path = put_lines(tmp_path / "v.jsonl.gz", *({"_id": str(i), "vector": {str(i * i): 1}} for i in range(2000)))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"v\.jsonl\.gz:\d+: the compressed file ends early"):
        list(read_vectors(path, skip_bad=True))


# --- paths that hold vectors


def test_files_and_folders_of_vectors_are_recognized(tmp_path):
    assert holds_vectors(put(tmp_path / "v.parquet"))
    assert holds_vectors(put_lines(tmp_path / "v.jsonl", *LINES))
    put(tmp_path / "part-00000.parquet")
    assert holds_vectors(tmp_path)
    for name, lines in {
        "d.jsonl": ['{"_id": "a", "text": "t"}'],
        "bad.jsonl": ["{"],
        "e.jsonl": [],
        "d.tsv": ["a\tb"],
    }.items():
        assert not holds_vectors(put_lines(tmp_path / name, *lines))
    pq.write_table(pa.table({"_id": ["a"], "text": ["t"]}), tmp_path / "d.parquet")
    assert not holds_vectors(tmp_path / "d.parquet")
    assert not holds_vectors("beir/scifact")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.parquet", "no such file"),
        ("d.tsv", "vectors are read from"),
        ("d.txt", "the name must end"),
        ("", "has no part"),
    ],
)
def test_a_source_without_vectors_is_refused(tmp_path, name, problem):
    for existing in ("d.tsv", "d.txt"):
        (tmp_path / existing).write_text("x")
    with pytest.raises(DataError, match=problem):
        read_vectors(tmp_path / name)


# --- failed writes


def test_a_failed_parquet_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = put(tmp_path / "v.parquet")
    before = path.read_bytes()
    with suppress(KeyboardInterrupt), ParquetWriter(path, {}) as writer:
        writer.write(batch())
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["v.jsonl", "v.jsonl.gz"])
@pytest.mark.parametrize("error", [DataError("bad"), OSError(28, "full"), KeyboardInterrupt()], ids=repr)
def test_a_failed_jsonl_write_leaves_the_old_file_and_nothing_else(tmp_path, name, error):
    def batches():
        yield batch()
        raise error

    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_jsonl(path, batches(), TOKENS)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_output_folder_is_reported(tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        put(tmp_path / "missing" / "v.parquet")
    with pytest.raises(OutputError, match="there is no folder"):
        write_jsonl(tmp_path / "missing" / "v.jsonl", [batch()], TOKENS)
    assert not list(tmp_path.iterdir())
