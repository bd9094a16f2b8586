"""CIFF files are read back and exchanged with other programs. Truncated, changed and forged files are refused."""

import gzip
import re
import struct
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lsr.errors import DataError
from lsr.io import external_sort
from lsr.io.ciff import write_ciff
from lsr.io.document import Document, document_batch
from lsr.io.open_vectors import read_vectors
from lsr.io.protobuf import field, varint
from lsr.io.vectors import VectorBatch
from lsr.sparse import SparseMatrix

TOKENS = ["wing", "", "größe", "翼.x", "Flow", "unused"]
ROWS = [{0: 3, 2: 255, 3: 1}, {}, {0: 200, 4: 7}, {3: 128}]
IDS = ["a", "dokument ß", "c\n", "d"]


def put(path, rows=ROWS, ids=None, tokens=TOKENS, **options):
    ids = ids or [f"d{i}" for i in range(len(rows))]

    def batch(at):
        documents = document_batch([Document(doc_id, "") for doc_id in ids[at]])
        return VectorBatch(documents, SparseMatrix.from_dicts(rows[at], len(tokens)))

    write_ciff(path, [batch(slice(0, 2)), batch(slice(2, None))], tokens, **options)
    return path


def read_all(path, **options):
    vectors = read_vectors(path, **options)
    ids, rows = [], []
    for batch in vectors:
        ids += batch.ids
        for terms, weights in batch.vectors.rows():
            rows.append({vectors.vocabulary[t]: w for t, w in zip(terms.tolist(), weights.tolist(), strict=True)})
    return ids, rows, vectors


def by_token(rows, tokens=TOKENS):
    return [{tokens[t]: w for t, w in row.items()} for row in rows]


# --- round trips


@pytest.mark.parametrize("name", ["v.ciff", "v.ciff.gz"])
def test_a_written_file_is_read_back(tmp_path, name):
    ids, rows, vectors = read_all(put(tmp_path / name, ids=IDS))
    assert (ids, rows) == (IDS, by_token(ROWS))
    assert vectors.vocabulary == ["Flow", "größe", "wing", "翼.x"]
    assert (vectors.count, vectors.step) == (4, 1.0)
    assert read_all(tmp_path / name, vocabulary=TOKENS)[2].vocabulary == TOKENS
    assert [f.name for f in tmp_path.iterdir()] == [name]


@given(
    rows=st.lists(st.dictionaries(st.integers(0, 40), st.integers(1, 70000), max_size=12), max_size=30),
    memory=st.sampled_from([1, 3, 1 << 21]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_integer_weights_are_read_back_exactly(tmp_path_factory, monkeypatch, rows, memory):
    monkeypatch.setattr(external_sort, "_MEMORY", memory)
    tokens = [chr(0x1F600 - 977 * i) for i in range(41)]
    path = put(tmp_path_factory.mktemp("c") / "v.ciff", rows, tokens=tokens, levels=70000)
    ids, read, vectors = read_all(path)
    assert ids == [f"d{i}" for i in range(len(rows))]
    if max((w for row in rows for w in row.values()), default=0) < 2**16:
        assert read == by_token(rows, tokens)
    assert vectors.vocabulary == sorted(vectors.vocabulary, key=str.encode)


@given(rows=st.lists(st.dictionaries(st.integers(0, 5), st.floats(2**-20, 100, width=32), max_size=6), max_size=8))
@settings(max_examples=30)
def test_float_weights_are_rounded_to_levels(tmp_path_factory, rows):
    rows = [*rows, {0: 0.25, 1: 100.0}]
    for levels in (None, 1000):
        path = put(tmp_path_factory.mktemp("c") / "v.ciff", rows, levels=levels)
        _, read, vectors = read_all(path)
        assert vectors.step == 100 / (levels or 255)
        for was, stored in zip(by_token(rows), read, strict=True):
            assert was.keys() == stored.keys()
            assert all(abs(was[token] - stored[token]) <= vectors.step for token in was)
        again = [{TOKENS.index(token): weight for token, weight in row.items()} for row in read]
        assert read_all(put(path.with_name("again.ciff"), again, step=vectors.step))[1] == read


def test_integer_weights_are_rounded_to_fewer_levels(tmp_path):
    _, rows, vectors = read_all(put(tmp_path / "v.ciff", levels=10))
    assert vectors.step == 25.5
    assert rows[0] == {"wing": 25.5, "größe": 255.0, "翼.x": 25.5}  # no weight is rounded to zero


@pytest.mark.parametrize("rows", [[], [{}], [{}, {}]])
def test_empty_collections_and_documents_are_read_back(tmp_path, rows):
    ids, read, vectors = read_all(put(tmp_path / "v.ciff", rows))
    assert (len(ids), read, vectors.vocabulary) == (len(rows), rows, [])


def test_long_lists_are_read_in_windows(tmp_path, monkeypatch):
    rows = [{0: i % 300 + 1, **({2: 5} if i % 997 == 3 else {})} for i in range(4000)]
    path = put(tmp_path / "v.ciff", rows)
    monkeypatch.setattr("lsr.io.ciff._WINDOW", 500)
    monkeypatch.setattr("lsr.io.ciff._LARGEST_FIELD", 100)
    assert read_all(path)[1] == by_token(rows)


# --- other programs


def messages():
    """CIFF's message classes, which the protobuf package makes from the published definition."""
    pb = pytest.importorskip("google.protobuf", reason="protobuf comes with the train extra")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert pb
    types = {"int32": 5, "int64": 3, "double": 1, "string": 9}
    definition = {
        "Header": "version:int32 num_postings_lists:int32 num_docs:int32 total_postings_lists:int32 total_docs:int32 "
        "total_terms_in_collection:int64 average_doclength:double description:string",
        "Posting": "docid:int32 tf:int32",
        "PostingsList": "term:string df:int64 cf:int64 postings:Posting",
        "DocRecord": "docid:int32 collection_docid:string doclength:int32",
    }
    file = descriptor_pb2.FileDescriptorProto(name="ciff.proto", package="ciff", syntax="proto3")
    for name, fields in definition.items():
        message = file.message_type.add(name=name)
        for number, (label, kind) in enumerate((f.split(":") for f in fields.split()), start=1):
            if kind in types:
                message.field.add(name=label, number=number, type=types[kind], label=1)
            else:
                message.field.add(name=label, number=number, type=11, type_name=f".ciff.{kind}", label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ciff.{name}")) for name in definition}


def delimited(data):
    at, found = 0, []
    while at < len(data):
        size, shift = 0, 0
        while True:
            byte, at = data[at], at + 1
            size, shift = size | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        found.append(data[at : at + size])
        at += size
    return found


def test_the_protobuf_package_reads_our_files(tmp_path):
    kinds = messages()
    head, *rest = delimited(put(tmp_path / "v.ciff", ids=IDS).read_bytes())
    header = kinds["Header"].FromString(head)
    assert (header.version, header.num_postings_lists, header.num_docs) == (1, 4, 4)
    assert (header.total_postings_lists, header.total_docs, header.total_terms_in_collection) == (4, 4, 594)
    assert header.average_doclength == 148.5
    assert re.fullmatch(r"Written by lsr \S+; weight = tf \* 1\.0", header.description)
    lists = [kinds["PostingsList"].FromString(data) for data in rest[:4]]
    assert [
        (each.term, each.df, each.cf, [(posting.docid, posting.tf) for posting in each.postings]) for each in lists
    ] == [
        ("Flow", 1, 7, [(2, 7)]),
        ("größe", 1, 255, [(0, 255)]),
        ("wing", 2, 203, [(0, 3), (2, 200)]),
        ("翼.x", 2, 129, [(0, 1), (3, 128)]),
    ]
    records = [kinds["DocRecord"].FromString(data) for data in rest[4:]]
    assert [(r.docid, r.collection_docid, r.doclength) for r in records] == list(
        zip(range(4), IDS, [259, 0, 207, 128], strict=True)
    )
    # The protobuf package writes the same bytes.
    assert [m.SerializeToString() for m in (header, *lists, *records)] == [head, *rest]


def test_files_of_the_protobuf_package_are_read(tmp_path):
    kinds = messages()
    header = kinds["Header"](version=1, num_postings_lists=1, num_docs=3, description="of another tool")
    postings = [kinds["Posting"](docid=g, tf=f) for g, f in ((1, 70_000), (1, 2))]
    listed = kinds["PostingsList"](term="t", df=2, cf=70_002, postings=postings)
    records = [kinds["DocRecord"](docid=i, collection_docid=c, doclength=9) for i, c in enumerate("xyz")]
    raw = b"".join(varint(len(d)) + d for m in (header, listed, *records) for d in [m.SerializeToString()])
    (tmp_path / "v.ciff.gz").write_bytes(gzip.compress(raw))
    assert read_all(tmp_path / "v.ciff.gz")[:2] == (["x", "y", "z"], [{}, {"t": 70_000.0}, {"t": 2.0}])


def test_the_ciff_toolkit_reads_our_files(tmp_path):
    # ciff-toolkit needs an older protobuf than onnx, so this test runs only in a separate virtual environment.
    ciff_toolkit = pytest.importorskip("ciff_toolkit.read", reason="pip install ciff-toolkit")
    with ciff_toolkit.CiffReader(put(tmp_path / "v.ciff", ids=IDS)) as reader:
        assert reader.header.num_docs == 4
        assert [p.term for p in reader.read_postings_lists()] == ["Flow", "größe", "wing", "翼.x"]
        assert [d.collection_docid for d in reader.read_documents()] == IDS


def test_bmp_finds_documents_with_their_weights(tmp_path):
    bmp = pytest.importorskip("bmp", reason="pip install bmp")
    dense = np.random.default_rng(5).integers(1, 256, (200, 30)) * (np.random.default_rng(6).random((200, 30)) < 0.3)
    tokens = [f"t{i}" for i in range(30)]
    rows = [dict(zip(t.tolist(), w.tolist(), strict=True)) for t, w in SparseMatrix.from_dense(dense).rows()]
    put(tmp_path / "v.ciff", rows, tokens=tokens)
    bmp.ciff2bmp(ciff_file=str(tmp_path / "v.ciff"), output=str(tmp_path / "v.bmp"), bsize=8, compress_range=False)
    searcher, seen = bmp.Searcher(str(tmp_path / "v.bmp")), 0
    for term, token in enumerate(tokens):
        ids, scores = searcher.search({token: 1.0}, 200, 1.0, 1.0)
        weights = [dense[int(doc_id[1:]), term] for doc_id in ids]
        assert all(score == 32 * weight for score, weight in zip(scores, weights, strict=True))  # BMP multiplies by 32
        seen += len(ids)
    # BMP's search stops early for some terms, so some weights aren't seen.
    assert seen > 0.8 * np.count_nonzero(dense)


# --- refused files


def message(*fields):
    content = b"".join(f if isinstance(f, bytes) else field(*f) for f in fields)
    return varint(len(content)) + content


def posting(gap, tf, *more):
    content = field(1, gap) + field(2, tf) + b"".join(more)
    return b"\x22" + varint(len(content)) + content


def head(lists=1, docs=2, description="", version=1):
    return message((1, version), (2, lists), (3, docs), (8, description))


LIST = message((1, "t"), (2, 2), (3, 2), posting(0, 1), posting(1, 1))
RECORDS = message((1, 0), (2, "a")) + message((1, 1), (2, "b"))


def refused(tmp_path, data, name="v.ciff"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError) as raised:
        list(read_vectors(path))
    return str(raised.value).removeprefix(str(path))


def test_the_undamaged_file_is_valid(tmp_path):
    (tmp_path / "v.ciff").write_bytes(head() + LIST + RECORDS)
    assert read_all(tmp_path / "v.ciff")[:2] == (["a", "b"], [{"t": 1.0}, {"t": 1.0}])


@pytest.mark.parametrize("name", ["v.ciff", "v.ciff.gz"])
def test_a_file_that_is_truncated_anywhere_is_refused(tmp_path, name):
    data = put(tmp_path / "v.ciff", ids=IDS).read_bytes()
    for size in range(len(data)):
        assert re.match(r": byte \d+: ", refused(tmp_path, data[:size], name))
    assert "byte 64: the file ends within a " in refused(tmp_path, data[:64], "v.ciff.gz")


def test_a_truncated_gzip_file_is_refused(tmp_path):
    path = put(tmp_path / "v.ciff.gz", [{i % 5: i + 1} for i in range(1000)], tokens=list("abcde"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"v\.ciff\.gz: byte \d+: "):
        list(read_vectors(path))


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=100)
def test_garbage_is_refused_or_read_without_a_crash(tmp_path_factory, garbage, at, byte):
    path = tmp_path_factory.mktemp("c") / "v.ciff"
    changed = bytearray(put(path).read_bytes())
    changed[at % len(changed)] = byte
    for data in (garbage, bytes(changed), head() + garbage, head() + LIST + garbage):
        path.write_bytes(data)
        with suppress(DataError):
            for batch in read_vectors(path):
                assert len(batch.ids) == len(batch.vectors)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"PAR1" * 30, "is this a CIFF file"),
        (b"\x00", "CIFF version 0"),
        (head(version=2), "CIFF version 2"),
        (head(docs=2**31 - 1), "it declares 2147483647 documents, but the file is too short for them"),
        (head(lists=2**31 - 1), "it declares 2147483647 postings lists"),
        (head(description="weight = tf * x"), r"the description has 'weight = tf \* x'"),
        (head(description="weight = tf * nan"), "a weight is a number above 0"),
        (head(description="weight = tf * -1"), "a weight is a number above 0"),
        (head(2) + LIST + RECORDS, "not a whole number from 0 to"),
        (head(2) + LIST + LIST + RECORDS, "a second postings list of 't'"),
        (head(1, 3) + LIST + RECORDS, "ends within a document record"),
        (head(1, 1) + message((1, "t"), (2, 1), posting(0, 1)) + RECORDS, "the file goes on after the last"),
        (head() + message((1, "t"), (2, 3), posting(0, 1), posting(1, 1)) + RECORDS, "has 2 postings, but a df of 3"),
        (head() + message((1, "t"), (2, 1), posting(2, 1)) + RECORDS, "must ascend and be below 2"),
        (head() + message((1, "t"), (2, 2), posting(1, 1), posting(0, 1)) + RECORDS, "must ascend and be below 2"),
        (head() + message((1, "t"), (2, 2), posting(1, 1), b"\x22\x03\x08\xff\xff") + RECORDS, "ends within a"),
        (head() + message((1, "t"), (2, 1), posting(0, 2**31)) + RECORDS, "not a whole number from 0 to"),
        (head() + message((1, "t"), (2, 1), posting(0, 2**64 - 5)) + RECORDS, "not a whole number from 0 to"),
        (head() + message(b"\x0a\x01\xff", (2, 1), posting(0, 1)) + RECORDS, "not text in UTF-8"),
        (head() + message((1, 7), (2, 1), posting(0, 1)) + RECORDS, "not text in UTF-8"),
        (head() + message(b"\x0b") + RECORDS, "unknown kind 3"),
        (head() + message(b"\x00") + RECORDS, "field without a number"),
        (head() + b"\xff" * 12 + RECORDS, "but the file is shorter"),
        (head() + varint(2**40) + RECORDS, "a postings list of 1099511627776 bytes should be here"),
        (head() + LIST + message((1, 1), (2, "a")) * 2, "expected the record of document 0, found that of 1"),
        (head() + LIST + message((1, 0)) + RECORDS, "document 0 has no id"),
        (head() + message((1, "t"), (2, 1), posting(0, 1), b"\x2a" + varint(1 << 30)) + RECORDS, "ends within a"),
        (head(description="weight = tf * 1e38") + message((1, "t"), (2, 1), posting(0, 99)) + RECORDS, "weight inf"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path, data, problem):
    assert re.search(problem, refused(tmp_path, data))


def test_sizes_in_the_file_are_not_trusted(tmp_path):
    data = head() + varint(2**40) + b"\x0a" + varint(2**39)
    tracemalloc.start()
    for name in ("v.ciff", "v.ciff.gz"):
        refused(tmp_path, data, name)
        refused(tmp_path, head(docs=2**31 - 1), name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_valid_but_unusual_encodings_are_read(tmp_path):
    """The file has fields in another order, explicit zeros, overlong varints, unknown fields, and a frequency of 0."""
    zero = b"\x22\x04\x08\x00\x10\x05"
    longer = b"\x22\x05\x08\x81\x00\x10\x06"
    unknown = posting(1, 9, b"\x1d" + struct.pack("<f", 1), b"\x21" + bytes(8))
    turned = b"\x22\x04\x10\x07\x08\x01"
    listed = message(zero, longer, (1, "t"), unknown, (9, "x"), turned, posting(1, 0), (2, 5), (2, 5))
    records = b"".join(message((2, c), (1, i)) for i, c in enumerate("abcde"))
    (tmp_path / "v.ciff").write_bytes(head(1, 5) + listed + records)
    ids, rows, _ = read_all(tmp_path / "v.ciff")
    assert ids == list("abcde")
    assert rows == [{"t": 5.0}, {"t": 6.0}, {"t": 9.0}, {"t": 7.0}, {}]


def test_a_document_length_beyond_int32_is_refused(tmp_path):
    rows = [dict.fromkeys(range(40_000), 65_535)]
    with pytest.raises(DataError, match="document 1 is too long for CIFF"):
        put(tmp_path / "v.ciff", rows, tokens=[str(i) for i in range(40_000)])
    assert not list(tmp_path.iterdir())
