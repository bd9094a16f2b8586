"""Documents are read from JSON arrays, CSV, TSV, tables, data frames and pipes, with all kinds of metadata."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import math
import os
import re
import threading
import tracemalloc
import uuid
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.errors import DataError
from lsr.io import rows as module
from lsr.io.corpus import documents_corpus, open_corpus
from lsr.io.document import Document
from lsr.io.jsonl import given_documents
from lsr.io.metadata import parse_time, plain_metadata
from lsr.io.open_vectors import holds_vectors, read_vectors
from lsr.io.text_files import new_bytes
from lsr.io.vectors import Vectors

DOCS = [{"_id": "a", "text": "cats, purr", "year": 2020}, {"_id": "b", "text": 'dogs "bark"\nloud', "year": 2021}]


def read(path, **options):
    return [(d.id, d.title, d.text, d.metadata) for d in open_corpus(path, **options)]


EXPECTED = [("a", "", "cats, purr", {"year": 2020}), ("b", "", 'dogs "bark"\nloud', {"year": 2021})]


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- JSON arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.ndjson", "d.json.gz", "D.JSON.GZ"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_arrays_are_read(tmp_path, name, indent):
    content = ("\ufeff" if indent else " \n") + json.dumps(DOCS, indent=indent)
    packed = gzip.compress(content.encode()) if name.lower().endswith(".gz") else content
    assert read(put(tmp_path / name, packed)) == EXPECTED


@given(
    st.lists(st.fixed_dictionaries({"text": st.text(max_size=20), "n": st.floats(allow_infinity=False)})),
    st.integers(1, 9),
)
def test_arrays_are_read_in_pieces(tmp_path_factory, values, piece):
    values = [{"_id": str(i), **value} for i, value in enumerate(values)]
    path = put(tmp_path_factory.mktemp("pieces") / "d.json", json.dumps(values, indent=piece % 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        found = [document.text for document in open_corpus(path)]
    assert found == [value["text"] for value in values]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[\n{"_id": "a", "text": "t"}', "d.json:2: not a JSON array: it ends early"),
        ('[\n{"_id": "a", "text": "t"},\n', "d.json:3: not a JSON array: it ends early"),
        ('[\n{"_id": "a", "text": "t"}\n{"_id": "b"}]', "d.json:3: not a JSON array: expected , or ]"),
        ('[\n{"_id": "a", "text": "t"},\n{"_id": b, "text": "a long text"}]', "d.json:3: not a JSON array: Expecting"),
        ('[{"_id": "a", "text": "t"}] x', "d.json:1: not a JSON array: 'x' after"),
        ('[\n3]', "d.json:2: expected a JSON object, got 3"),
        ('[\n{"_id": "a"}]', "d.json:2: document 'a' has no text"),
        ("[" * 100_000, "d.json:1: not a JSON array"),
    ],
)  # fmt: skip
def test_broken_arrays_are_refused(tmp_path, text, problem):
    with pytest.raises(DataError) as error:
        read(put(tmp_path / "d.json", text))
    assert problem in str(error.value)


def test_bad_elements_of_an_array_are_skipped(tmp_path):
    path = put(tmp_path / "d.json", '[3, {"_id": "a"}, {"_id": "b", "text": "t"}]')
    assert [d[0] for d in read(path, skip_bad=True)] == ["b"]


def test_vectors_in_a_json_array_are_read(tmp_path):
    path = put(tmp_path / "v.json", json.dumps([{"_id": "a", "vector": {"x": 1.5}}], indent=1))
    assert holds_vectors(path)
    (batch,) = read_vectors(path)
    assert (batch.ids, batch.vectors.data.tolist()) == (["a"], [1.5])


# --- dense vectors, bad files, null texts -----------------------------------------------------------------------------


def test_a_vector_that_is_a_list_of_numbers_is_metadata(tmp_path):
    path = put(tmp_path / "d.jsonl", '{"_id": "a", "text": "cats", "vector": [0.1, 0.2]}\n')
    assert not holds_vectors(path)
    assert read(path) == [("a", "", "cats", {"vector": [0.1, 0.2]})]


@pytest.mark.parametrize(("name", "content"), [("d.jsonl", '{"a": 1}\n[]\n'), ("v.jsonl", '{"vector": {"a": 1}}\n')])
def test_a_file_without_a_good_row_is_refused(tmp_path, name, content):
    path = put(tmp_path / name, content)
    with pytest.raises(DataError, match=r"none of \d documents? can be read; the first: .*jsonl:1"):
        list(read_vectors(path, skip_bad=True) if holds_vectors(path) else open_corpus(path, skip_bad=True))


def test_null_texts_are_empty_in_all_formats(tmp_path):
    put(tmp_path / "d.jsonl", '{"_id": "a", "text": null}\n{"_id": "b", "text": "t"}\n')
    pq.write_table(pa.table({"_id": ["a", "b"], "text": [None, "t"]}), tmp_path / "d.parquet")
    for name in ("d.jsonl", "d.parquet"):
        assert read(tmp_path / name) == [("a", "", "", None), ("b", "", "t", None)]


# --- TSV and CSV ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a\tcats\nb\tdogs\n", [("a", "", "cats", None), ("b", "", "dogs", None)]),
        ("id\ttext\na\tcats\n", [("a", "", "cats", None)]),
        ("text\tdoc_id\ncats\ta\n", [("a", "", "cats", None)]),
        ("_id\tlang\ttitle\ttext\na\ten\tPets\tcats\n", [("a", "Pets", "cats", {"lang": "en"})]),
        ("qid\tquery\n1\tcats\n", [("1", "", "cats", None)]),
        ("id\tname\na\tcats\n", [("id", "", "name", None), ("a", "", "cats", None)]),
    ],
)
def test_tsv_files_are_read_with_and_without_a_header(tmp_path, lines, expected):
    assert read(put(tmp_path / "d.tsv", lines)) == expected


def test_the_error_names_a_tsv_line_of_the_wrong_length(tmp_path):
    with pytest.raises(DataError, match=r"d.tsv:3: expected 2 columns, got 3"):
        read(put(tmp_path / "d.tsv", "id\ttext\na\tcats\nb\tx\ty\n"))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_files_are_read_with_several_separators(tmp_path, mark):
    text = '_id,text,year\r\na,"cats, purr",2020\r\nb,"dogs ""bark""\nloud",2021\r\n'
    text = text.replace(",", mark).replace(f"cats{mark}", "cats,")
    assert read(put(tmp_path / "d.csv", text)) == EXPECTED
    assert read(put(tmp_path / "D.CSV.GZ", gzip.compress(text.encode()))) == EXPECTED


def test_csv_columns_are_numbers_if_all_their_cells_are_numbers(tmp_path):
    text = "id,text,n,price,zip,mixed\n1,2020,1,0.5,01234,1\n2,t,,-3e2,1,x\n"
    first, second = read(put(tmp_path / "d.csv", text))
    assert first == ("1", "", "2020", {"n": 1, "price": 0.5, "zip": "01234", "mixed": "1"})
    assert second == ("2", "", "t", {"price": -300.0, "zip": "1", "mixed": "x"})


def test_bad_csv_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"d.csv:4: 3 cells, but 2 columns"):
        read(put(tmp_path / "d.csv", 'id,text\na,"two\nlines"\nb,c,d\n'))
    with pytest.raises(DataError, match=r"d.csv:2: not UTF-8"):
        read(put(tmp_path / "d.csv", b"id,text\na,caf\xe9\n"))
    with pytest.raises(DataError, match=r"d.csv:1: two columns have the same name: 'text'$"):
        read(put(tmp_path / "d.csv", "id,text,n,text\n"))
    assert read(put(tmp_path / "d.csv", "id,text\na," + "x" * 200_000 + "\n"))[0][2] == "x" * 200_000
    assert read(put(tmp_path / "d.csv", "")) == []


@pytest.mark.parametrize(
    "topics",
    [{"qid": 7, "query": "cats"}, {"query_id": "7", "title": "cats"}, {"_id": "7", "text": "cats", "title": ""}],
)
def test_queries_may_have_the_keys_of_topics(tmp_path, topics):
    (query,) = open_corpus(put(tmp_path / "q.jsonl", json.dumps(topics)), queries=True)
    assert (query.id, query.content) == ("7", "cats")


# --- tables and data frames -------------------------------------------------------------------------------------------


def table():
    return pa.table({"_id": ["a", "b"], "text": [d["text"] for d in DOCS], "year": [2020, 2021]})


class Exports:
    """A data frame of any library that implements Arrow's PyCapsule protocol."""

    def __arrow_c_stream__(self, requested_schema=None):
        return table().__arrow_c_stream__(requested_schema)


FRAMES = {
    "table": table(),
    "batch": table().to_batches()[0],
    "reader": table().to_reader(),
    "capsule": Exports(),
    "dicts": DOCS,
}


@pytest.mark.parametrize("name", FRAMES)
def test_arrow_tables_are_read(name):
    corpus = documents_corpus(given_documents(FRAMES[name]), replay=True)
    for _ in range(2):
        assert [(d.id, d.title, d.text, d.metadata) for d in corpus] == EXPECTED


@pytest.mark.parametrize("library", ["pandas", "polars", "datasets"])
def test_data_frames_are_read(library):
    loaded = pytest.importorskip(library, reason=f"{library} isn't installed")
    frame = loaded.Dataset.from_list(DOCS) if library == "datasets" else loaded.DataFrame(DOCS)
    corpus = documents_corpus(given_documents(frame), replay=True)
    for _ in range(2):
        assert [(d.id, d.title, d.text, d.metadata) for d in corpus] == EXPECTED


def test_rows_with_vectors_are_read_as_vectors():
    rows = [{"_id": "a", "vector": {"x": 1.0}}]
    assert isinstance(given_documents(rows), Vectors)


def test_a_mapping_is_not_a_list_of_documents():
    with pytest.raises(DataError, match="expected a list of documents, got a mapping of train, test"):
        given_documents({"train": DOCS, "test": DOCS})


# --- metadata of all types --------------------------------------------------------------------------------------------

UUID = uuid.UUID(int=7)
PLAIN = [
    (dt.date(1962, 1, 2), "1962-01-02"),
    (dt.datetime(1962, 1, 2, 3, 4, 5, 6), "1962-01-02T03:04:05.000006"),
    (dt.datetime(1962, 1, 2, tzinfo=dt.UTC), "1962-01-02T00:00:00+00:00"),
    (dt.time(3, 4), "03:04:00"),
    (np.datetime64("1962-01-02"), "1962-01-02"),
    (np.datetime64("1962-01-02T03:04:05.123456789"), "1962-01-02T03:04:05.123456789"),
    (Decimal("1.25"), 1.25),
    (Decimal(2**60), 2**60),
    (np.int64(3), 3),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("x"), "x"),
    (UUID, str(UUID)),
    ((1, np.int8(2)), [1, 2]),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ([1.0, math.nan], [1.0, None]),
    ({"in": np.float64(1.5), "out": math.nan}, {"in": 1.5}),
]


@pytest.mark.parametrize(("value", "plain"), PLAIN)
def test_values_become_plain_python_values(value, plain):
    (document,) = documents_corpus([{"_id": "a", "text": "t", "v": value}])
    assert json.loads(json.dumps(document.metadata)) == {"v": plain}
    assert plain_metadata({"v": value}, "a", "") == {"v": plain}


@pytest.mark.parametrize("value", [math.nan, np.float64("nan"), Decimal("NaN"), np.datetime64("NaT")])
def test_missing_values_are_left_out(value):
    (document,) = documents_corpus([{"_id": "a", "text": "t", "v": value, "n": 1}])
    assert document.metadata == {"n": 1}
    (document,) = documents_corpus([{"_id": "a", "text": "t", "v": value}])
    assert document.metadata is None


@pytest.mark.parametrize(
    "value", [b"raw", math.inf, Decimal("Infinity"), dt.timedelta(1), {1, 2}, object(), 1j, {(1,): 2}]
)
def test_unfilterable_values_are_refused_by_name(value):
    with pytest.raises(DataError, match=r"^document 1: document 'a': the metadata 'out\.v.*' is "):
        list(documents_corpus([{"_id": "a", "text": "t", "out": {"v": value}}]))


def test_ids_of_other_types_become_strings():
    documents = [{"_id": i, "text": "t"} for i in (np.int64(7), UUID, 3, np.str_("x"))]
    assert [d.id for d in documents_corpus(documents)] == ["7", str(UUID), "3", "x"]
    for bad in (True, 1.5, None, math.nan, ""):
        with pytest.raises(DataError, match="must be a string that is not empty"):
            list(documents_corpus([{"_id": bad, "text": "t"}]))


def test_parquet_columns_of_all_types_are_read(tmp_path):
    moment = dt.datetime(2020, 5, 17, 12, 30)
    columns = {
        "_id": pa.array([1, 2]),
        "text": ["one", None],
        "at": pa.array([moment, None], pa.timestamp("ns")),
        "zoned": pa.array([moment, None], pa.timestamp("ms", "Europe/Berlin")),
        "day": pa.array([moment.date(), None]),
        "clock": pa.array([dt.time(1, 2), None], pa.time64("ns")),
        "price": pa.array([Decimal("1.10"), None]),
        "score": pa.array([math.nan, 0.5]),
        "kind": pa.array(["x", None]).dictionary_encode(),
        "tags": pa.array([["p", "q"], None]),
        "author": pa.array([{"name": "Smith", "born": dt.date(1900, 1, 1)}, None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    first, second = read(tmp_path / "d.parquet")
    assert first == (
        "1",
        "",
        "one",
        {
            "at": "2020-05-17T12:30:00",
            "zoned": "2020-05-17T12:30:00+00:00",
            "day": "2020-05-17",
            "clock": "01:02:00",
            "price": 1.1,
            "kind": "x",
            "tags": ["p", "q"],
            "author": {"name": "Smith", "born": "1900-01-01"},
        },
    )
    assert second == ("2", "", "", {"score": 0.5})


def test_parquet_errors_name_row_column_and_type(tmp_path):
    pq.write_table(pa.table({"_id": ["a", "b"], "text": ["t", "t"], "raw": [None, b"\x00"]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d.parquet:2: document 'b': the metadata 'raw' is of type bytes"):
        read(tmp_path / "d.parquet")


def test_vectors_with_an_empty_id_are_refused(tmp_path):
    columns = {"id": ["a", ""], "terms": pa.array([[1], [2]], pa.list_(pa.uint32())), "weights": [[1.0], [1.0]]}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(DataError, match=r"v.parquet: a row has no id"):
        list(read_vectors(tmp_path / "v.parquet"))


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-02", 86_400_000_000),
        ("1970-01-01T00:00:01", 1_000_000),
        ("1970-01-01 00:00:01.5", 1_500_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001234", 1),
        ("1969-12-31T23:59:59", -1_000_000),
        ("1970-02-31", None),
        ("1970", None),
        ("1970-01", None),
        ("12:00:00", None),
        ("1970-01-01 and more", None),
    ],
)
def test_times_are_parsed_from_text(text, micros):
    assert parse_time(text) == micros


def test_metadata_may_have_python_objects():
    document = Document("a", "t", metadata={"day": dt.date(2020, 1, 1)})
    (read_back,) = documents_corpus([document])
    assert read_back.metadata == {"day": "2020-01-01"}


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.fixture
def piped(tmp_path):
    """Returns a function that makes a named pipe with some content."""
    writers = []

    def pipe(content):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_text, args=(content,)))
        writers[-1].start()
        return path

    yield pipe
    for writer in writers:
        writer.join()


def test_texts_from_a_pipe_can_be_read_twice(piped):
    path = piped(json.dumps(DOCS, indent=1))
    assert not holds_vectors(path)
    corpus = open_corpus(path)
    for _ in range(2):
        assert [(d.id, d.where) for d in corpus] == [("a", f"{path}:2"), ("b", f"{path}:7")]


def test_vectors_on_standard_input_are_recognized(monkeypatch):
    for number in range(2):
        lines = f'{{"_id": "a{number}", "vector": {{"x": 1.5}}}}\n'.encode()
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
        assert holds_vectors("-")
        assert holds_vectors("-")
        (batch,) = read_vectors("-")
        assert batch.ids == [f"a{number}"]


def test_the_error_names_a_bad_line_of_vectors_from_a_pipe(piped):
    path = piped('{"_id": "a", "vector": {"x": -1}}\n')
    assert holds_vectors(path)
    with pytest.raises(DataError, match="pipe:1: 'a': weight -1"):
        list(read_vectors(path))


# --- very long lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("docs.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "b", "text": "%s"}\n', 2),
        ("docs.jsonl.gz", '{"_id": "a", "text": "x"}\n{"_id": "b", "text": "%s"}\n', 2),
        ("vectors.jsonl", '{"_id": "a", "vector": {"x": 1}}\n{"_id": "%s", "vector": {"x": 1}}\n', 2),
        ("docs.json", '[{"_id": "a", "text": "x"},\n{"_id": "b", "text": "%s"}]', 2),
        ("docs.tsv", "a\tx\nb\t%s\n", 2),
        ("docs.csv", "_id,text\na,x\nb,%s\n", 3),
        ("wide.csv", "_id,text,%s\na,x,1\n", 1),
        ("quoted.csv", '_id,text\na,"%s"\n', 2),
    ],
)
def test_a_line_beyond_the_limit_is_refused_with_its_position(tmp_path, monkeypatch, name, content, line):
    monkeypatch.setattr(module, "MOST_LINE", 3 << 20)
    monkeypatch.setattr(module, "_PIECE", 1 << 16)
    path = tmp_path / name
    with new_bytes(path) as file:
        file.write((content % ("word " * (1 << 20))).encode())
    how = read_vectors if name.startswith("vectors") else open_corpus
    with pytest.raises(DataError, match=rf"{re.escape(name)}:{line}: .*(line|object) of more than 3 MB"):
        list(how(path))
    fitting = tmp_path / f"fits-{name}"
    with new_bytes(fitting) as file:
        file.write((content % ("word " * 1000)).encode())
    assert len(list(how(fitting))) > 0


def test_a_long_line_takes_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_LINE", 1 << 20)
    path = tmp_path / "docs.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 30)  # a sparse file, which takes no disk space
    tracemalloc.start()
    with pytest.raises(DataError, match=r"docs.jsonl:1: a line of more than 1 MB"):
        list(open_corpus(path))
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


# --- forms of data frames and datasets --------------------------------------------------------------------------------

FRAMED = [
    {"_id": "a", "title": "Cats", "text": "purr", "year": 2020, "when": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)},
    {"_id": "b", "title": None, "text": "dogs", "year": None, "when": None},
]
READ = [("a", "Cats", "purr", {"year": 2020, "when": "2020-01-01T00:00:00+00:00"}), ("b", "", "dogs", {})]


def read_twice(source):
    """The documents of a corpus that is made from `source`. Checks that a second pass gives the same documents."""
    corpus = documents_corpus(source)
    first, second = ([(d.id, d.title, d.text, d.metadata or {}) for d in corpus] for _ in range(2))
    assert first == second
    return [
        (*texts, {key: value for key, value in metadata.items() if value is not None}) for *texts, metadata in first
    ]


@pytest.mark.parametrize(
    "form",
    [
        lambda frame: frame,
        lambda frame: frame.set_index("_id"),
        lambda frame: frame.convert_dtypes(),
        lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
        lambda frame: frame.astype({"text": "category"}),
        lambda frame: frame.set_index(["_id", "text"]),
        lambda frame: frame.iloc[::-1].iloc[::-1],
    ],
)
def test_pandas_data_frames_of_all_forms_are_read(form):
    pandas = pytest.importorskip("pandas")
    assert read_twice(form(pandas.DataFrame(FRAMED))) == READ


@pytest.mark.parametrize("form", ["eager", "lazy", "categorical"])
def test_polars_data_frames_of_all_forms_are_read(form):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(FRAMED)
    if form == "categorical":
        frame = frame.with_columns(polars.col("text").cast(polars.Categorical))
    assert read_twice(frame.lazy() if form == "lazy" else frame) == READ


@pytest.mark.parametrize("form", [None, "numpy", "torch", "arrow", "pandas", "iterable"])
def test_datasets_of_all_formats_are_read(form):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(FRAMED)
    data = data.to_iterable_dataset() if form == "iterable" else data.with_format(form)
    assert read_twice(data) == READ
    with pytest.raises(DataError, match="got a mapping of train; pass a single split"):
        documents_corpus(datasets.DatasetDict({"train": data}))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_single_column_is_not_a_table(library):
    column = pytest.importorskip(library).DataFrame(FRAMED)["text"]
    with pytest.raises(DataError, match="document 1: expected an object with an id and a text"):
        list(documents_corpus(column))
    with pytest.raises(DataError, match="document 1: expected an object with an id and a text"):
        list(documents_corpus(pa.chunked_array([["purr"]])))
