"""Texts are read from all sources. Errors name the file and the line of a bad document."""

import datetime
import gzip
import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsr.errors import DataError, MissingExtra
from lsr.io.corpus import Corpus, documents_corpus, open_corpus
from lsr.io.document import Document, document_batch

ROWS = [
    {"_id": "a", "text": "first text", "title": "One"},
    {"_id": "b", "text": "zweiter Text, größer", "year": 1962},
    {"_id": "c", "text": "", "parent": "a"},
]
DOCUMENTS = [
    Document("a", "first text", "One"),
    Document("b", "zweiter Text, größer", metadata={"year": 1962}),
    Document("c", "", parent="a"),
]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def put_parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


def plain(documents):
    """Documents as tuples, without their positions in the source."""
    return [(d.id, d.text, d.title, d.metadata, d.parent) for d in documents]


def refusal(source, **options):
    with pytest.raises(DataError) as error:
        list(open_corpus(source, **options))
    return str(error.value)


# --- sources


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "d.ndjson", "D.JSONL"])
def test_jsonl_files_are_read(tmp_path, name):
    corpus = open_corpus(put(tmp_path / name, jsonl(ROWS)))
    assert plain(corpus) == plain(DOCUMENTS)
    assert plain(corpus) == plain(DOCUMENTS)  # a corpus can be read again
    assert corpus.count() == 3


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_beir_folder_is_read(tmp_path, suffix):
    put(tmp_path / "beir" / f"corpus{suffix}", jsonl(ROWS))
    put(tmp_path / "beir" / f"queries{suffix}", jsonl([{"_id": "q", "text": "which?", "metadata": {}}]))
    assert plain(open_corpus(tmp_path / "beir")) == plain(DOCUMENTS)
    assert plain(open_corpus(str(tmp_path / "beir"), queries=True)) == plain([Document("q", "which?")])


@pytest.mark.parametrize("name", ["d.tsv", "d.tsv.gz"])
def test_tsv_files_may_have_two_or_three_columns(tmp_path, name):
    path = put(tmp_path / name, b"a\tOne\tfirst text\nb\tsecond\nc\t\n")
    assert plain(open_corpus(path)) == plain(
        [Document("a", "first text", "One"), Document("b", "second"), Document("c", "")]
    )


def test_parquet_files_are_read(tmp_path):
    columns = {
        "_id": ["a", "b", "c"],
        "title": ["One", None, None],
        "text": ["first text", "zweiter Text, größer", ""],
        "year": [None, 1962, None],
        "parent": [None, None, "a"],
    }
    corpus = open_corpus(put_parquet(tmp_path / "d.parquet", columns))
    assert plain(corpus) == plain(DOCUMENTS)
    assert corpus.count() == 3


def test_standard_input_can_be_read_twice(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(jsonl(ROWS) + b"oops\n")))
    corpus = open_corpus("-", skip_bad=True)
    assert plain(corpus) == plain(DOCUMENTS)
    assert plain(corpus) == plain(DOCUMENTS)
    assert corpus.bad[0].startswith("<stdin>:4: not JSON")


def test_standard_input_is_identified_by_its_bytes(monkeypatch):
    def identity(content):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        return open_corpus("-").identity

    assert identity(jsonl(ROWS)) == identity(jsonl(ROWS)) != identity(jsonl(ROWS[:2]))


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("wrap", [list, tuple, iter], ids=["list", "tuple", "generator"])
@pytest.mark.parametrize("documents", [ROWS, DOCUMENTS], ids=["mappings", "documents"])
def test_documents_in_memory_are_read(documents, wrap, replay):
    corpus = documents_corpus(wrap(documents), replay=replay)
    assert plain(corpus) == plain(DOCUMENTS)
    if replay:
        assert plain(corpus) == plain(DOCUMENTS)


def test_a_generator_is_read_lazily():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield {"_id": str(len(taken)), "text": "x"}

    corpus = iter(documents_corpus(endless()))
    assert [next(corpus).id for _ in range(3)] == ["1", "2", "3"]
    assert len(taken) < 5000


def test_datasets_of_ir_datasets_are_read(tmp_path, monkeypatch):
    ir_datasets = pytest.importorskip("ir_datasets")
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    docs, queries = put(tmp_path / "docs.tsv", b"a\tfirst\nb\tsecond\n"), put(tmp_path / "q.tsv", b"q\twhich?\n")
    tiny = ir_datasets.create_dataset(docs_tsv=str(docs), queries_tsv=str(queries))
    monkeypatch.setitem(ir_datasets.registry._registered, "tiny-test", tiny)
    for name in ("tiny-test", "irds:tiny-test"):
        assert plain(open_corpus(name)) == plain([Document("a", "first"), Document("b", "second")])
        assert plain(open_corpus(name, queries=True)) == plain([Document("q", "which?")])
    assert open_corpus("tiny-test", queries=True).count() is None  # this dataset doesn't know the number of its queries
    bare = ir_datasets.create_dataset(docs_tsv=str(docs))
    monkeypatch.setitem(ir_datasets.registry._registered, "bare-test", bare)
    assert refusal("bare-test", queries=True) == "bare-test: this dataset has no queries"
    put(docs, b"a\n")
    assert refusal("tiny-test").startswith("tiny-test: ir-datasets can't read it: ")


def test_a_dataset_needs_ir_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtra, match=r"lsr-search\[eval\]"):
        open_corpus("irds:beir/scifact/test")
    assert 'no such file or folder; for datasets by name: pip install "lsr-search[eval]"' in refusal("beir/scifact")


# --- documents


@pytest.mark.parametrize("key", ["_id", "id", "doc_id", "docid", "query_id"])
def test_several_keys_may_hold_the_id(key):
    assert Document.from_mapping({key: "x", "text": "t"}) == Document("x", "t")


@pytest.mark.parametrize("key", ["text", "contents", "content"])
def test_several_keys_may_hold_the_text(key):
    assert Document.from_mapping({"_id": "x", key: "t"}) == Document("x", "t")


def test_numeric_ids_become_strings_and_null_texts_become_empty():
    assert Document.from_mapping({"_id": 17, "text": None, "title": None}) == Document("17", "")


def test_other_keys_and_metadata_are_merged():
    values = {"_id": "x", "text": "t", "url": "u", "metadata": {"year": 1962}}
    assert Document.from_mapping(values).metadata == {"url": "u", "year": 1962}


def test_content_is_title_and_text():
    assert Document("x", "text", "title").content == "title text"
    assert Document("x", "text").content == "text"


def test_crlf_blank_lines_and_byte_order_marks_are_accepted(tmp_path):
    path = put(tmp_path / "d.jsonl", b'\xef\xbb\xbf{"_id": "a", "text": "x"}\r\n\r\n  \r\n{"_id": "b", "text": "y"}')
    assert plain(open_corpus(path)) == plain([Document("a", "x"), Document("b", "y")])
    path = put(tmp_path / "d.tsv", b"\xef\xbb\xbfa\tx\r\n\r\nb\ty\r\n")
    assert plain(open_corpus(path)) == plain([Document("a", "x"), Document("b", "y")])


def test_a_document_of_megabytes_is_read(tmp_path):
    text = "größer " * 600_000
    [document] = open_corpus(put(tmp_path / "d.jsonl.gz", jsonl([{"_id": "a", "text": text}])))
    assert document.text == text


def test_an_empty_file_is_an_empty_corpus(tmp_path):
    assert list(open_corpus(put(tmp_path / "d.jsonl", b""))) == []


def test_the_function_document_batch_keeps_texts_only_on_request():
    document = Document("a", "text", "title", {"k": [1]}, "p")
    whole = {"id": "a", "parent": "p", "title": "title", "text": "text", "metadata": '{"k": [1]}'}
    assert document_batch([document]).to_pylist() == [whole]
    bare = {"id": "a", "parent": "p", "title": None, "text": None, "metadata": None}
    assert document_batch([document], with_text=False).to_pylist() == [bare]


def test_metadata_that_json_cannot_hold_is_refused():
    with pytest.raises(DataError, match=r"^f:3: document 'a': the metadata 'span' is of type timedelta"):
        document_batch([Document("a", "t", metadata={"span": datetime.timedelta(1)}, where="f:3")])
    documents = [{"_id": "a", "text": "t", "deep": {"raw": [b"1"]}}, {"_id": "b", "text": "t"}]
    for replay in (False, True):
        with pytest.raises(DataError, match=r"^document 1: document 'a': the metadata 'deep.raw' is of type bytes"):
            list(documents_corpus(iter(documents), replay=replay))
        corpus = documents_corpus(iter(documents), replay=replay, skip_bad=True)
        assert [document.id for document in corpus] == ["b"]
        assert len(corpus.bad) == 1


# --- bad input

BAD_LINES = [
    (b'{"_id": "x", "text": "t"', "not JSON: Expecting ',' delimiter at column 25"),
    (b"hello", "not JSON: Expecting value at column 1"),
    (b"[" * 100_000, "not JSON that can be read"),
    (b'{"_id": "x", "text": "t", "n": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
    (b'["x", "t"]', "expected a JSON object, got ['x', 't']"),
    (b"null", "expected a JSON object, got None"),
    (b'{"text": "t"}', "no id: a document needs \"_id\" (keys here: ['text'])"),
    (b'{"_id": "", "text": "t"}', "\"_id\" must be a string that is not empty, got ''"),
    (b'{"_id": null, "text": "t"}', '"_id" must be a string that is not empty, got None'),
    (b'{"_id": 1.5, "text": "t"}', '"_id" must be a string that is not empty, got 1.5'),
    (b'{"_id": true, "text": "t"}', '"_id" must be a string that is not empty, got True'),
    (b'{"_id": "x"}', "document 'x' has no text: it needs \"text\" (keys: ['_id'])"),
    (b'{"_id": "x", "text": ["t"]}', "document 'x': \"text\" must be a string, got ['t']"),
    (b'{"_id": "x", "text": "t", "title": 3}', "document 'x': \"title\" must be a string, got 3"),
    (b'{"_id": "x", "text": "t", "parent": [3]}', "document 'x': \"parent\" must be an id, got [3]"),
    (b'{"_id": "x", "text": "t", "metadata": "m"}', "document 'x': \"metadata\" must be an object, got 'm'"),
    (b'{"_id": "x", "text": "a\xff"}', "not UTF-8: byte 0xff at column 24"),
    (b'{"_id": "x", "text": "a \\ud83d b"}', "document 'x': \"text\" holds an unpaired surrogate at character 2"),
    (b'{"_id": "x", "text": "t", "title": "\\udc00"}', "document 'x': \"title\" holds an unpaired surrogate"),
    (b'{"_id": "x\\ud83d", "text": "t"}', '"_id" holds an unpaired surrogate at character 1'),
    (b'{"_id": "x", "text": "t", "parent": "\\ud83d"}', "document 'x': \"parent\" holds an unpaired surrogate"),
    (b'{"_id": "a", "text": "t"}', "the id 'a' occurs twice"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES, ids=[problem[:40] for _, problem in BAD_LINES])
def test_the_error_names_a_bad_line(tmp_path, line, problem):
    before, after = jsonl([{"_id": "a", "text": "t"}]), jsonl([{"_id": "b", "text": "t"}])
    path = put(tmp_path / "d.jsonl", before + b"\n" + line + b"\n" + after)
    message = refusal(path)
    assert message.startswith(f"{path}:3: {problem}")
    assert "--skip-bad" in message
    assert len(message) < 300 + len(str(path))
    corpus = open_corpus(path, skip_bad=True)
    assert [d.id for d in corpus] == ["a", "b"]
    assert [m.startswith(f"{path}:3: {problem}") for m in corpus.bad] == [True]
    list(corpus)
    assert len(corpus.bad) == 1  # `bad` lists only the problems of the last pass


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"lonely", "expected id<TAB>text or id<TAB>title<TAB>text, got 1 columns"),
        (b"x\ta\tb\tc", "expected id<TAB>text or id<TAB>title<TAB>text, got 4 columns"),
        (b"\ttext", '"_id" must be a string that is not empty'),
        (b"x\t\xff", "not UTF-8: byte 0xff at column 3"),
    ],
)
def test_the_error_names_a_bad_tsv_line(tmp_path, line, problem):
    path = put(tmp_path / "d.tsv.gz", b"a\tt\n" + line + b"\nb\tt\n")
    assert refusal(path).startswith(f"{path}:2: {problem}")
    assert [d.id for d in open_corpus(path, skip_bad=True)] == ["a", "b"]


def test_a_bad_byte_after_a_byte_order_mark_is_located(tmp_path):
    path = put(tmp_path / "d.tsv", b"\xef\xbb\xbfx\t\xfe\n")
    assert ":1: not UTF-8: byte 0xfe" in refusal(path)


@pytest.mark.parametrize("between", [0, 1, 1022, 1023, 1024, 5000, 20_000])
def test_duplicate_ids_are_found(tmp_path, between):
    rows = [{"_id": "x", "text": ""}, *({"_id": f"d{i}", "text": ""} for i in range(between)), {"_id": "x", "text": ""}]
    path = put(tmp_path / "d.jsonl", jsonl(rows))
    assert refusal(path).startswith(f"{path}:{between + 2}: the id 'x' occurs twice")
    corpus = open_corpus(path, skip_bad=True)
    assert len(list(corpus)) == between + 1
    assert len(corpus.bad) == 1


def test_the_error_names_a_bad_row_of_parquet(tmp_path):
    path = put_parquet(tmp_path / "d.parquet", {"_id": ["a", None, "a"], "text": ["t", "t", "t"]})
    assert refusal(path).startswith(f"{path}:2: no id")
    corpus = open_corpus(path, skip_bad=True)
    assert [d.id for d in corpus] == ["a"]
    assert [message.split(": ")[0] for message in corpus.bad] == [f"{path}:2", f"{path}:3"]


def test_parquet_strings_that_are_not_utf8_are_refused(tmp_path):
    texts = pa.array([b"t\xff"], pa.binary()).view(pa.string())
    path = put_parquet(tmp_path / "d.parquet", {"_id": ["a"], "text": texts})
    assert refusal(path).startswith(f"{path}:1: can't be read")


@pytest.mark.parametrize("options", [{}, {"skip_bad": True}])
def test_a_truncated_gzip_file_is_refused_even_with_skip_bad(tmp_path, options):
    whole = gzip.compress(jsonl({"_id": f"d{i}", "text": f"text {i * i}"} for i in range(2000)))
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    message = refusal(path, **options)
    assert message.endswith("the compressed file ends early; it is cut off")
    assert message.startswith(f"{path}:")


def test_a_damaged_gzip_file_is_refused(tmp_path):
    whole = bytearray(gzip.compress(jsonl({"_id": f"d{i}", "text": f"text {i * i}"} for i in range(2000))))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "d.jsonl.gz").write_bytes(whole)
    with pytest.raises(DataError, match=r"d\.jsonl\.gz:\d+: "):
        list(open_corpus(tmp_path / "d.jsonl.gz"))
    (tmp_path / "plain.tsv.gz").write_bytes(b"a\tt\n")
    assert ":1: can't be read: Not a gzipped file" in refusal(tmp_path / "plain.tsv.gz")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_a_truncated_parquet_file_is_refused(tmp_path, keep):
    path = put_parquet(tmp_path / "d.parquet", {"_id": ["a", "b"], "text": ["t", "u"]})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert refusal(path).startswith(f"{path}: not a whole Parquet file")


@pytest.mark.parametrize("name", ["d.txt", "d", "d.gz", "d.jsonl.bz2"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert "the name must end in .jsonl, .json, .tsv, .csv (all also .gz) or .parquet" in refusal(tmp_path / name)


def test_a_folder_without_a_corpus_is_refused(tmp_path):
    put(tmp_path / "corpus.jsonl", jsonl(ROWS))
    message = refusal(tmp_path, queries=True)
    assert message == f"{tmp_path}: no queries.jsonl, queries.jsonl.gz or the like in this folder"


def test_a_missing_source_is_refused(tmp_path):
    pytest.importorskip("ir_datasets")
    for name in (str(tmp_path / "missing.jsonl"), "no-such-dataset"):
        assert refusal(name).startswith(f"{name}: no such file or folder, and no such dataset of ir-datasets; a BEIR")


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize(
    ("document", "problem"),
    [("just text", "expected an object"), ({"text": "t"}, "no id"), (None, "expected an object")],
)
def test_bad_documents_in_memory_are_refused(document, problem, replay):
    with pytest.raises(DataError, match=f"^document 2: {problem}"):
        list(documents_corpus(iter([ROWS[0], document]), replay=replay))


def test_the_identity_changes_with_the_file(tmp_path):
    path = put(tmp_path / "d.jsonl", jsonl(ROWS))
    before = open_corpus(path).identity
    assert open_corpus(path).identity == before
    put(path, jsonl(ROWS[:2]))
    assert open_corpus(path).identity != before


def test_long_documents_are_read_one_by_one():
    """Otherwise a folder of PDF files would be read for minutes without progress."""
    read = []

    def documents():
        for i in range(10):
            read.append(i)
            yield Document(str(i), "wing " * 60_000), "here"

    assert next(iter(Corpus("here", documents))).id == "0"
    assert len(read) == 1
