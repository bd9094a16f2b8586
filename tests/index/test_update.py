"""Updates replace documents by id. If a call contains several documents with the same id, the last document is kept."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.encode.load import load_encoder
from lsr.encode.passages import Passages
from lsr.errors import DoubledId
from lsr.index.index import Index
from lsr.index.serve.index_info import columns_of
from lsr.index.write import writer as writing
from lsr.io.corpus import open_corpus
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import SparseMatrix

ENCODER = load_encoder("bm25")
ENCODER.fit(["wing flow", "flow plate", "shock wing"])
OLD = [{"_id": "x", "text": "wing"}, {"_id": "y", "text": "flow"}]
TWICE = [{"_id": "x", "text": "flow"}, {"_id": "z", "text": "wing"}, {"_id": "x", "text": "plate", "n": 2}]


@pytest.fixture
def index(tmp_path):
    return Index.build(tmp_path / "idx", OLD, encoder=ENCODER)


def texts(index):
    return [(index.documents.id(doc), index.documents.fields(doc)[1]) for doc in index.documents.numbers()]


def written(documents, path):
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


SOURCES = {
    "a list": lambda documents, _: documents,
    "an iterator": lambda documents, _: iter(documents),
    "Documents": lambda documents, _: list(map(Document.from_mapping, documents)),
    "a file": written,
    "a corpus": lambda documents, path: open_corpus(written(documents, path)),
    "vectors": lambda documents, _: [{**document, "vector": {document["text"]: 1}} for document in documents],
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_the_last_document_of_an_id_is_kept(index, tmp_path, monkeypatch, source, skip_bad, chunk):
    monkeypatch.setattr("lsr.encode.corpus.CHUNK", chunk)
    given_ = SOURCES[source](TWICE, tmp_path / "docs.jsonl")
    change = index.update(given_, skip_bad=skip_bad)
    assert (change.added, change.updated, change.bad) == (1, 1, [])
    index.commit()
    assert texts(index) == [("y", "flow"), ("z", "wing"), ("x", "plate")]
    assert [hit.id for hit in index.search("plate")] == ["x"]
    assert [hit.id for hit in index.search("flow")] == ["y"]


def test_lsr_add_with_update_replaces_documents(index, tmp_path, lsr_command):
    file = written([*TWICE, {"text": "no id"}], tmp_path / "docs.jsonl")
    ran = lsr_command("add", index.path, file, "--update", "--skip-bad")
    assert (ran.code, "1 added, 1 updated; 3 documents" in ran.err, ran.err.count("left out")) == (0, True, 1)
    assert dict(texts(Index.open(index.path)))["x"] == "plate"
    ran = lsr_command("add", index.path, written([{"_id": "n", "text": "wing"}] * 2, file))
    assert (ran.code, "docs.jsonl:2: the id 'n' occurs twice" in ran.err) == (1, True)


def test_add_refuses_duplicate_ids(index, tmp_path):
    new = [{**document, "_id": document["_id"] * 2} for document in TWICE]
    for source in (new, written(new, tmp_path / "docs.jsonl")):
        with pytest.raises(DoubledId, match="'xx' occurs twice"):
            index.add(source)
    with pytest.raises(DoubledId, match="'x' is in the index already"):
        index.add(TWICE[:1])
    change = index.add(new, skip_bad=True)
    assert (change.added, len(change.bad)) == (2, 1)


@given(
    given_ids=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 4)), min_size=1, max_size=12),
    passages=st.booleans(),
    chunk=st.sampled_from([1, 2, 3, 512]),
    buffer=st.sampled_from([1, 1 << 28]),
)
@settings(max_examples=40)
def test_one_call_with_many_documents_equals_one_call_per_document(given_ids, passages, chunk, buffer):
    documents = [
        {"_id": doc_id, "text": " ".join(["wing flow"] * n) or "shock", "n": i}
        for i, (doc_id, n) in enumerate(given_ids)
    ]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", int)
        how = {"encoder": ENCODER, "passages": Passages(2) if passages else None}
        old = [{"_id": "a", "text": "plate plate plate"}, {"_id": "e", "text": "plate"}]
        together, apart = (Index.build(Path(folder) / name, old, **how) for name in ("together", "apart"))
        for document in documents:
            apart.update([document])
        patch.setattr("lsr.encode.corpus.CHUNK", chunk)
        patch.setattr(writing, "_BUFFER", buffer)
        change = together.update(documents)
        ids = {doc_id for doc_id, _ in given_ids}
        assert (change.added, change.updated) == (len(ids - {"a"}), len(ids & {"a"}))
        together.commit(merge=False)
        apart.commit(merge=False)
        assert texts(together) == texts(apart)
        assert together.verify() == []


PLAIN, CUT = ("x", None), [("x#0", "x"), ("x#1", "x"), ("x#2", "x")]


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([PLAIN, PLAIN], [1]),
        (CUT, [0, 1, 2]),
        ([*CUT, *CUT[:2]], [3, 4]),
        ([*CUT[:1], *CUT], [1, 2, 3]),
        ([CUT[0], ("y", None), CUT[1]], [0, 1, 2]),
        ([*CUT, PLAIN], [3]),
        ([PLAIN, *CUT], [1, 2, 3]),
        ([*CUT, PLAIN, *CUT[1:]], [4, 5]),
        ([("x", "x"), ("x-2", "x"), ("x-3", "x")], [0, 1, 2]),
        ([("x", "x"), ("x-2", "x"), ("x", "x")], [2]),
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 3, 99])
def test_vectors_of_passages_replace_whole_documents(tmp_path, monkeypatch, rows, left, batch):
    """A repeated passage id begins a new version of its document. Other passages are added to the current version."""
    documents = [Document(doc_id, "", parent=parent, metadata={"n": n}) for n, (doc_id, parent) in enumerate(rows)]

    def read(_):
        for first in range(0, len(documents), batch):
            some = documents[first : first + batch]
            yield VectorBatch(document_batch(some), SparseMatrix.from_dicts([{0: 1.0}] * len(some), 3))

    old = [Document("x#0", "", parent="x", metadata={"n": -1}), Document("x#9", "", parent="x", metadata={"n": -1})]
    for there in (old, []):
        index = Index.build(
            tmp_path / f"{len(there)}",
            Vectors("old", lambda _, there=there: iter([VectorBatch(document_batch(there), _ones(len(there)))])),
        )
        change = index.update(Vectors("the vectors", read))
        n_others = len({parent or doc_id for doc_id, parent in rows} - {"x"})
        assert (change.added, change.updated) == ((n_others, 1) if there else (n_others + 1, 0))
        index.commit()
        assert [index.documents.fields(doc)[2]["n"] for doc in index.documents.numbers()] == left


def _ones(n):
    return SparseMatrix.from_dicts([{0: 1.0}] * n, 3)


def test_empty_changes_of_an_index_of_vectors_do_nothing(tmp_path):
    index = Index.build(tmp_path / "idx", SparseMatrix.from_dense(np.eye(3)))
    for call in (index.add, index.update):
        for source in ([], iter([]), ()):
            assert not call(source)
    assert not index.pending


def test_large_integers_keep_their_digits_in_mixed_columns(tmp_path):
    index = Index.build(
        tmp_path / "idx", [{"_id": "a", "text": "wing", "n": 2**53}, {"_id": "b", "text": "wing", "n": 2**53 + 1}],
        encoder=ENCODER,
    )  # fmt: skip

    def found(value):
        return [hit.id for hit in index.search("wing", where={"n": value})]

    assert (found(2**53), found(2**53 + 1)) == (["a"], ["b"])
    index.add([{"_id": "c", "text": "wing", "n": 0.5}, {"_id": "d", "text": "wing", "n": 2**63}])
    index.commit(merge=False)
    for _ in range(2):
        assert [found(n) for n in (2**53, 2**53 + 1, 2.0**53, 0.5, 2**63)] == [["a"], ["b"], ["a"], ["c"], ["d"]]
        assert found({">": 2**53, "<": 10**400}) == ["b", "d"]
        assert index.merge() == (_ == 0)
    told = {"kind": "number", "min": 0.5, "max": 2**63, "distinct": 4, "documents": 4}
    assert columns_of(index.snapshot)["n"] == told
    index.add([{"_id": "e", "text": "wing", "n": 2**53 + 2}, {"_id": "f", "text": "wing", "n": 1.5}])
    assert index.delete(where={"n": {"in": [2**53 + 1, 1.5]}}).deleted == 2
    index.commit()
    assert list(index.documents.all_ids()) == ["a", "c", "d", "e"]
