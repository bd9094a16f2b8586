"""Files in OpenSearch's bulk format are written with a mapping and read back. Errors name bad lines."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.errors import DataError
from lsr.io.document import Document, document_batch
from lsr.io.open_vectors import holds_vectors, read_vectors
from lsr.io.opensearch import mapping_path, write_bulk
from lsr.io.vectors import VectorBatch
from lsr.sparse import SparseMatrix

TOKENS = ["wing", "u.s.", "größe", "."]
DOCUMENTS = [
    Document("a", "text a", "T", {"year": 1955, "title": {"x": 1}, "_id": "z", "vector": [1]}),
    Document("b", ""),
    Document("c", "passage", parent="a"),
]
MATRIX = SparseMatrix.from_dicts([{0: 0.5, 1: 4.25}, {}, {2: 3.1, 3: 1.0}], 4)


def put(path, matrix=MATRIX, documents=DOCUMENTS, vocabulary=TOKENS, **options):
    write_bulk(path, [VectorBatch(document_batch(documents), matrix)], vocabulary, **options)
    return path


def read_all(path, **options):
    vectors = read_vectors(path, **options)
    batches = list(vectors)
    rows = [
        {vectors.vocabulary[t]: w for t, w in zip(terms.tolist(), weights.tolist(), strict=True)}
        for batch in batches
        for terms, weights in batch.vectors.rows()
    ]
    return [document for batch in batches for document in batch.documents.to_pylist()], rows, vectors


@pytest.mark.parametrize("name", ["docs.ndjson", "docs.ndjson.gz", "docs.json"])
def test_a_written_file_is_read_back(tmp_path, name):
    path = put(tmp_path / name)
    assert holds_vectors(path)
    documents, rows, vectors = read_all(path, vocabulary=TOKENS)
    assert vectors.vocabulary == TOKENS
    assert rows == [{"wing": 0.5, "u.s.": 4.25}, {}, {"größe": np.float32(3.1), ".": 1.0}]
    assert documents == document_batch(DOCUMENTS).to_pylist()
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([name, "docs.mapping.json"])


def test_the_bulk_file_and_the_mapping_have_all_fields(tmp_path):
    path = put(tmp_path / "docs.ndjson", index_name="my-docs", field="embedding")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"index": {"_index": "my-docs", "_id": "a"}}
    assert lines[1] == {
        "title": "T", "text": "text a", "metadata": DOCUMENTS[0].metadata, "embedding": {"wing": 0.5, "u.s.": 4.25}
    }  # fmt: skip
    assert lines[5] == {"text": "passage", "parent": "a", "embedding": {"größe": 3.1, ".": 1.0}}
    assert json.loads(mapping_path(path).read_text()) == {
        "mappings": {
            "properties": {
                "title": {"type": "text"},
                "text": {"type": "text"},
                "parent": {"type": "keyword"},
                "metadata": {"type": "flat_object"},
                "embedding": {"type": "rank_features"},
            }
        }
    }


def test_tokens_are_term_numbers_without_a_vocabulary(tmp_path):
    path = put(tmp_path / "docs.ndjson", vocabulary=None)
    _, rows, _ = read_all(path)
    assert rows == [{"0": 0.5, "1": 4.25}, {}, {"2": np.float32(3.1), "3": 1.0}]
    mapping = json.loads(mapping_path(path).read_text())
    assert mapping["settings"] == {"index": {"sparse": True}}
    assert mapping["mappings"]["properties"]["vector"] == {
        "type": "sparse_vector",
        "method": {"name": "seismic", "parameters": {"quantization_ceiling_ingest": 4.25}},
    }


WEIGHT = st.floats(width=32, min_value=float(np.finfo(np.float32).tiny), allow_infinity=False)
TOKEN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)


@given(rows=st.lists(st.dictionaries(TOKEN, WEIGHT, max_size=4), min_size=1, max_size=4), ids=st.data())
@settings(max_examples=50)
def test_any_tokens_ids_and_weights_are_read_back(tmp_path_factory, rows, ids):
    names = ids.draw(st.lists(TOKEN, min_size=len(rows), max_size=len(rows), unique=True))
    tokens = sorted({token for row in rows for token in row}) or ["x"]
    matrix = SparseMatrix.from_dicts([{tokens.index(t): w for t, w in row.items()} for row in rows], len(tokens))
    documents = [Document(name, "") for name in names]
    found, read, _ = read_all(put(tmp_path_factory.mktemp("b") / "d.ndjson", matrix, documents, tokens))
    assert [document["id"] for document in found] == names
    assert read == rows


def test_weights_below_lucenes_minimum_are_raised(tmp_path):
    tiny = float(np.finfo(np.float32).tiny)
    path = put(tmp_path / "d.ndjson", SparseMatrix.from_dicts([{0: 1e-40, 1: 1.0}], 4), DOCUMENTS[:1])
    assert read_all(path)[1] == [{"wing": tiny, "u.s.": 1.0}]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"index_name": "Docs"}, "'Docs' is not a name of an index|'Docs' can't be the name"),
        ({"index_name": "_docs"}, "--name"),
        ({"index_name": ""}, "--name"),
        ({"field": "text"}, "can't have the name 'text'; choose another with --field"),
        ({"field": "a.b"}, "can't have the name 'a.b'"),
        ({"field": "_id"}, "can't have the name '_id'"),
        ({"documents": [Document("ü" * 257, "")] * 3}, "ids of at most 512 bytes"),
        ({"vocabulary": ["", "b", "c", "d"]}, "document 'a' has the empty token"),
    ],
)
def test_values_that_opensearch_refuses_are_refused(tmp_path, options, problem):
    with pytest.raises(DataError, match=problem):
        put(tmp_path / "docs.ndjson", **options)
    assert not list(tmp_path.iterdir())


# --- files of other tools


def put_lines(path, *lines):
    content = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


ACTION = {"index": {"_id": "a"}}


def test_a_file_of_another_tool_is_read(tmp_path):
    lines = [
        {"create": {"_index": "i", "_id": "x"}},
        {"id": 7, "passage_text": "hello", "metadata": {"n": 1}, "passage_embedding": {"hi": 4, "planet": 5.5}},
        "",
        {"index": {"_id": "y", "routing": "r"}},
        {"passage_embedding": {"hi": 0}, "other": {"hi": "x"}},
    ]
    documents, rows, _ = read_all(put_lines(tmp_path / "docs.ndjson", *lines))
    assert rows == [{"hi": 4.0, "planet": 5.5}, {}]
    assert [document["id"] for document in documents] == ["x", "y"]
    assert json.loads(documents[0]["metadata"]) == {"id": 7, "passage_text": "hello", "n": 1}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([ACTION], r":1: an action without its document: the file is cut off"),
        ([ACTION, '{"vector": {"a": 1}'], ":2: not JSON"),
        ([ACTION, ["x"]], ":2: expected a document"),
        ([ACTION, {"text": "no vector"}], ":2: the vector must be the only field that is .*; here none is"),
        (
            [ACTION, {"v": {"a": 1}, "w": {}}],
            ":2: the vector must be the only field .*; here 'v', 'w' are all possible",
        ),
        (
            [ACTION, {"v": {"a": 1}}, ACTION, {"w": {"a": 1}}],
            ":4: 'a': the field 'v' is not an object of token and weight",
        ),
        ([ACTION, {"v": {"a": -1}}], ":2: 'a': weight -1 of 'a'"),
        ([ACTION, '{"v": {"a": NaN}}'], ":2: 'a': weight nan of 'a'"),
        ([ACTION, '{"v": {"a": 1, "a": 2}}'], ":2: .*the key 'a' occurs twice"),
        (
            [ACTION, {"v": {"a": 1}}, {"index": {}}, {"v": {}}],
            ':3: the action needs an "_id" that is a string, got None',
        ),
        ([ACTION, {"v": {"a": 1}}, {"delete": {"_id": "a"}}], ':3: expected {"index"'),
        ([ACTION, {"v": {"a": 1}}, {"v": {"a": 1}}], ':3: expected {"index"'),
    ],
)
def test_the_error_names_a_bad_line(tmp_path, lines, problem):
    path = put_lines(tmp_path / "docs.ndjson", *lines)
    assert holds_vectors(path)
    with pytest.raises(DataError, match=rf"docs\.ndjson{problem}.*--skip-bad"):
        list(read_vectors(path))
    good = put_lines(tmp_path / "good.ndjson", *lines, {"index": {"_id": "g"}}, {"v": {"a": 1}})
    if lines == [ACTION]:  # the second action is read as the first action's document, so the last line has no action
        with pytest.raises(DataError, match="none of 2 documents can be read"):
            read_all(good, skip_bad=True)
        return
    _, rows, vectors = read_all(good, skip_bad=True)
    assert rows[-1] == {"a": 1.0}
    assert vectors.bad
