"""Changes to an index: after each commit, results equal those of an index that is rebuilt from the same documents."""

from __future__ import annotations

import errno
import functools
import gc
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.encode.load import load_encoder
from lsr.encode.passages import Passages
from lsr.errors import CorruptIndex, DataError, EncoderError, EncoderMismatch, IndexLocked, OutputError
from lsr.index.index import Index
from lsr.index.search import snapshot as snapshots
from lsr.index.storage.manifest import FORMAT, MANIFEST
from lsr.index.storage.transaction import Transaction
from lsr.index.write import merge as merging
from lsr.index.write import writer as writing
from lsr.index.write.merge import plan_merges
from lsr.io.open_vectors import read_vectors
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import SparseMatrix

N_TERMS = 30
STEPS = ["add", "update", "delete", "commit", "rollback", "merge", "merge behind"]
DOCUMENTS = [{"_id": f"d{i}", "text": f"wing flow number{i % 5} word{i}", "n": i} for i in range(20)]
ENCODER = load_encoder("bm25")
ENCODER.fit([d["text"] for d in DOCUMENTS])


def rows_of(rng, n):
    """Random rows of integer weights, so that every segment has the scale 1.0."""
    dense = rng.integers(1, 256, (n, N_TERMS)) * (rng.random((n, N_TERMS)) < 0.2)
    return SparseMatrix.from_dense(dense)


def found(index, query, k=50, **settings):
    return [(hit.id, hit.score) for hit in index.search(query, k, **settings)]


def kinds(path):
    return sorted(p.name.split("-")[0] for p in path.iterdir() if p.name not in (".lock", ".merging"))


@pytest.fixture
def path(tmp_path):
    Index.build(tmp_path / "idx", DOCUMENTS, encoder=ENCODER)
    return tmp_path / "idx"


# --- results equal those of a rebuilt index ---------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    impacts=st.sampled_from(["uint8", "uint8", "float32"]),
    clusters=st.booleans(),
    steps=st.lists(st.sampled_from(STEPS), max_size=14),
    buffer=st.sampled_from([1, 2000, 1 << 28]),
    factor=st.sampled_from([2, 8]),
)
@settings(max_examples=30)
def test_any_sequence_of_changes_equals_a_rebuilt_index(seed, impacts, clusters, steps, buffer, factor):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_BUFFER", buffer)
        patch.setattr(merging, "_FACTOR", factor)
        clusters = clusters and impacts == "uint8"
        how = {"impacts": impacts, "clusters": clusters, "summary_mass": 1.0}
        index = Index.build(Path(folder) / "idx", rows_of(rng, 0), **how)
        reader = Index.open(index.path)
        committed: dict[str, SparseMatrix] = {}
        now: dict[str, SparseMatrix] = {}
        for step in [*steps, "commit"]:
            ids = [f"d{i}" for i in rng.choice(25, rng.integers(1, 8), replace=False)]
            rows = rows_of(rng, len(ids))
            if step == "add":
                new = [i for i, doc_id in enumerate(ids) if doc_id not in now]
                change = index.add(rows, ids=ids, skip_bad=True)
                assert (change.added, len(change.bad)) == (len(new), len(ids) - len(new))
                now |= {ids[i]: rows[i] for i in new}
            elif step == "update":
                change = index.update(rows, ids=ids)
                assert change.updated == len(now.keys() & set(ids))
                assert change.added == len(set(ids) - now.keys())
                for i, doc_id in enumerate(ids):
                    now.pop(doc_id, None)
                    now[doc_id] = rows[i]
            elif step == "delete":
                change = index.delete(ids)
                assert (change.deleted, len(change.missing)) == (len(now.keys() & set(ids)), len(set(ids) - now.keys()))
                now = {doc_id: row for doc_id, row in now.items() if doc_id not in ids}
            elif step == "rollback":
                index.rollback()
                now = dict(committed)
            else:
                index.commit() if step == "commit" else index.merge(background=step == "merge behind")
                committed = dict(now)
                assert index.n_segments <= 1 or step != "merge"
            assert list(index.documents.all_ids()) == list(committed)
        index.close()  # waits for background merges
        assert len(index) == len(committed)
        behind = list(reader.documents.all_ids()) != list(committed)
        assert reader.refresh() or not behind
        assert len(reader) == len(committed)
        rebuilt = Index.build(
            Path(folder) / "new", SparseMatrix.vstack([SparseMatrix.empty(N_TERMS), *committed.values()]),
            ids=list(committed), **how,
        )  # fmt: skip
        for query in (rows_of(rng, 1), SparseMatrix.from_dense(np.ones((1, N_TERMS)))):
            wanted = found(rebuilt, query)
            for algorithm in ("exhaustive", "blocks", "maxscore"):
                assert found(index, query, algorithm=algorithm) == wanted
            assert found(Index.open(index.path), query) == found(reader, query) == wanted
            if clusters:
                assert found(index, query, algorithm="clusters", cut=100, heap_factor=0) == wanted
        assert index.verify() == []
        assert kinds(index.path).count("segment") == index.n_segments


def test_added_texts_give_the_same_index_as_a_build(tmp_path):
    texts = [{"_id": f"d{i}", "text": " ".join(f"word{i} number{j}" for j in range(9)), "n": i} for i in range(6)]
    encoder = load_encoder("bm25")
    encoder.fit([d["text"] for d in texts])
    whole = Index.build(tmp_path / "whole", texts, encoder=encoder, passages=Passages(6, 2), impacts="float32")
    index = Index.build(tmp_path / "idx", texts[:2], encoder=encoder, passages=Passages(6, 2), impacts="float32")
    index = Index.open(index.path)
    assert index.add(texts[2:4]).added == 2
    assert index.add(iter(texts[4:])).added == 2
    index.commit()
    for query in ("word3", "number4 word5"):
        assert found(index, query) == found(whole, query)
    hit = index.search("word5")[0]
    assert (hit.id, hit.metadata) == ("d5", {"n": 5})
    assert hit.explain().score == pytest.approx(hit.score, rel=1e-6)
    # Updating or deleting a document removes all its passages.
    assert index.update([{"_id": "d5", "text": "short now"}]).updated == 1
    assert index.delete(["d0", "d1#0"]).missing == ["d1#0"]
    index.commit()
    assert [h.passage for h in index.search("word5")] == []
    assert sorted({doc_id.partition("#")[0] for doc_id in index.documents.all_ids()}) == ["d1", "d2", "d3", "d4", "d5"]
    with pytest.raises(DataError, match="'d1' is in the index already"):
        index.add([{"_id": "d1", "text": "again"}])


def test_larger_weights_get_a_coarser_scale_and_stay_within_its_error_after_a_merge(tmp_path):
    rng = np.random.default_rng(0)
    soft, loud = SparseMatrix.from_dense(rng.random((30, 9))), SparseMatrix.from_dense(5 * rng.random((30, 9)))
    index = Index.build(tmp_path / "idx", soft, ids=[f"s{i}" for i in range(30)])
    index.add(loud, ids=[f"l{i}" for i in range(30)])
    index.commit()
    scales = [segment.scale for segment in index.searcher.segments]
    assert scales[1] / scales[0] == 8
    both, query = SparseMatrix.vstack([soft, loud]), SparseMatrix.from_dense(rng.random((1, 9)))
    exact = both.dot(query)[:, 0]
    for _ in range(2):
        for hit in index.search(query, 60):
            assert abs(hit.score - exact[hit.doc]) <= index.max_error * float(query.data.sum()) * (1 + 1e-6)
        index.merge()
    assert index.n_segments == 1


def test_integer_weights_of_the_first_document_do_not_round_later_weights(tmp_path):
    index = Index.build(tmp_path / "idx", SparseMatrix.from_dicts([{0: 1.0}], 3))
    index.add(SparseMatrix.from_dicts([{0: 0.3, 1: 2.9}] * 3, 3), ids=list("abc"))
    index.commit()
    index.merge()
    assert index.searcher.impacts_of(0, np.array([0], np.uint32)).tolist() == [1.0]
    assert index.searcher.impacts_of(1, np.array([0, 1], np.uint32)) == pytest.approx([0.3, 2.9], abs=0.01)


# --- snapshots and the lock -------------------------------------------------------------------------------------------


def test_readers_keep_their_snapshot_until_they_refresh(path):
    reader, writer = Index.open(path), Index.open(path)
    before = found(reader, "wing number3")
    hit = reader.search("word3")[0]
    writer.delete(["d3"])
    writer.update([{"_id": "d8", "text": "number3 number3 wing"}])
    assert found(writer, "wing number3") == before
    writer.commit()
    writer.merge()
    after = found(writer, "wing number3")
    assert after != before
    assert found(reader, "wing number3") == before
    assert (hit.text, hit.explain().score) == ("wing flow number3 word3", pytest.approx(hit.score, rel=1e-6))
    assert reader.refresh()
    assert found(reader, "wing number3") == after
    assert not reader.refresh()
    assert reader.search("word3") == []


@pytest.mark.usefixtures("impatient")
def test_a_second_writer_is_told_who_holds_the_lock_and_can_write_after_the_commit(path):
    one, other = Index.open(path), Index.open(path)
    one.delete("d1")
    with pytest.raises(OutputError, match=rf"of this process \({os.getpid()}\) .* since 20"):
        other.delete("d2")
    with pytest.raises(OutputError, match="of this process"):
        other.merge()
    one.commit()
    other.delete("d2")  # based on the first writer's commit
    other.commit()
    assert len(other) == 18
    assert Index.open(path).documents.find("d1") is None
    one.add([{"_id": "d1", "text": "flow"}])
    one.rollback()
    assert (len(one), one.refresh(), len(one)) == (19, True, 18)
    assert kinds(path) == ["alive", MANIFEST, "segment", "shared"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes back a day at each reading."""
    times = itertools.count(4_000_000_000, -86_400)

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(next(times), tz)

    monkeypatch.setattr("lsr.index.storage.transaction.datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    monkeypatch.setattr(time, "time_ns", lambda: next(times) * 10**9)
    return lambda: next(times)


def test_a_clock_that_goes_back_does_not_change_results(path, clock):
    index, reader = Index.open(path), Index.open(path)
    for i in range(6):
        index.add([{"_id": f"new{i}", "text": "word19 word19"}])
        index.delete([f"d{i}"])
        index.commit(merge=i % 2 == 0)
        for file in path.rglob("*"):  # later files get earlier dates
            os.utime(file, (clock(), clock()))
        assert reader.refresh()
        assert found(reader, "word19") == found(index, "word19") == found(Index.open(path), "word19")
        assert [hit.id for hit in reader.search("word19", i + 1)] == [f"new{j}" for j in range(i + 1)]
    index.close()
    index.merge()
    assert (index.verify(), len(Index.open(path)), len(index)) == ([], 20, 20)


@pytest.mark.usefixtures("impatient")
def test_a_clock_that_goes_back_does_not_break_the_lock(path, clock):
    one, other = Index.open(path), Index.open(path)
    one.delete("d1")
    os.utime(path / ".lock", (0, 0))
    for _ in range(2):
        with pytest.raises(IndexLocked, match=rf"of this process \({os.getpid()}\) .* since 20"):
            other.delete("d2")
    one.commit()
    other.delete("d2")
    other.commit()
    assert len(Index.open(path)) == 18


def test_a_writer_without_changes_holds_no_lock(path):
    index = Index.open(path)
    assert index.delete(["absent"]).missing == ["absent"]
    with pytest.raises(DataError):
        index.add([{"_id": "d1", "text": "there already"}])
    with Transaction(path):
        pass
    index.commit()
    assert kinds(path) == [MANIFEST, "segment", "shared"]


# --- invalid input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [1, 1 << 28])
def test_one_bad_document_makes_the_whole_call_fail(path, monkeypatch, buffer):
    monkeypatch.setattr(writing, "_BUFFER", buffer)
    monkeypatch.setattr("lsr.encode.corpus.CHUNK", 2)
    index = Index.open(path)
    index.add([{"_id": "good", "text": "wing"}])
    index.update([{"_id": "d2", "text": "number2"}])
    batch = [
        {"_id": "x", "text": "wing"}, {"_id": "d5", "text": "wing"}, {"_id": "good", "text": "flow"},
        {"_id": "d2", "text": "flow"}, {"_id": "y", "text": 7}, {"_id": "z", "text": "wing"},
    ]  # fmt: skip
    for change in (index.add, index.update):
        with pytest.raises(DataError, match=r"document [25]"):
            change(batch)
    change = index.update(batch, skip_bad=True)
    assert (change.added, change.updated, len(change.bad)) == (2, 3, 1)
    assert "document 5" in change.bad[0]
    with pytest.raises(DataError):
        index.update([{"_id": "x", "text": "changed"}, {"_id": "d9", "text": "wing"}, {"text": "no id"}])
    change = index.add(batch, skip_bad=True)
    assert (change.added, len(change.bad)) == (0, 6)
    index.commit()
    assert len(index) == 23
    assert [index.documents.fields(index.documents.find(i))[1] for i in ("x", "d2", "d9")] == [
        "wing", "flow", "wing flow number4 word9",
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"n": 3}, None, b"d1", True, 1.5, [b"d1"]])
def test_invalid_ids_delete_nothing(path, wrong):
    index = Index.open(path)
    with pytest.raises(DataError, match=r"pass a filter as where=|an id is a text or a whole number"):
        index.delete(wrong)
    assert not index.pending


@pytest.mark.parametrize("given", ["d1", ("d1",), {"d1"}, iter(["d1"]), np.array(["d1"]), {"d1": 1}.keys()])
def test_delete_takes_one_id_or_any_iterable(path, given):
    index = Index.open(path)
    assert index.delete(given).deleted == 1
    assert index.delete(7).missing == index.delete(np.int64(7)).missing == ["7"]
    index.rollback()


def test_a_filter_without_a_condition_deletes_nothing(path):
    index = Index.open(path)
    for where in ({}, {"n": {}}, {"or": [{}]}):
        with pytest.raises(DataError, match=r"without a condition|no condition"):
            index.delete(where=where)
    assert index.delete(where={"n": {">=": 15}}).deleted == 5
    with pytest.raises(DataError, match=r"an id is a text or a whole number, got \['d1'\]"):
        index.delete(["d1", 7, ["d1"], None])
    assert index.delete([7]).missing == ["7"]  # integers are accepted as ids
    assert index.delete(["d1"]).deleted == 1


BAD_METADATA = {
    "a set": {1, 2},
    "bytes": b"x",
    "half a character": "\ud800",
    "a key of half a character": {"\ud800": 1},
    "a key that isn't a string": {(1, 2): 3},
    "infinity": [{"in": -float("inf")}],
}
BAD_METADATA["itself"] = []
BAD_METADATA["itself"].append(BAD_METADATA["itself"])
BAD_METADATA["too deep"] = functools.reduce(lambda inner, _: {"in": inner}, range(5000), {})
BAD_METADATA["a little too deep"] = functools.reduce(lambda inner, _: [inner], range(299), [{"in": 1}])


@pytest.mark.parametrize("kind", BAD_METADATA)
@pytest.mark.parametrize("once", [False, True])
def test_metadata_that_is_not_json_is_refused_or_skipped(tmp_path, path, kind, once):
    documents = [{"_id": "a", "text": "wing"}, {"_id": "b", "text": "wing", "m": BAD_METADATA[kind]},
                 {"_id": "c", "text": "flow"}]  # fmt: skip
    index = Index.open(path)
    for call in (index.add, index.update):
        with pytest.raises(DataError, match=r"document 2: .*metadata"):
            call(iter(documents) if once else documents)
    with pytest.raises(DataError, match=r"document 2: .*metadata"):
        Index.build(tmp_path / "new", iter(documents) if once else documents, encoder="bm25")
    change = index.add(iter(documents) if once else documents, skip_bad=True)
    assert (change.added, len(change.bad)) == (2, 1)
    assert change.bad[0].startswith("document 2: ")
    index.commit()
    assert list(index.documents.all_ids())[20:] == ["a", "c"]


def test_deep_metadata_and_huge_numbers_are_stored(path):
    deep = leaf = {}
    for _ in range(200):
        leaf["in"] = leaf = {}
    leaf["end"] = 1
    given = {"huge": 10**400, "low": -(10**400), "deep": deep, "lists": [[[[1]]]], "nothing": None}
    index = Index.open(path)
    index.add([{"_id": "new", "text": "wing", "metadata": given}])
    index.commit()
    assert index.documents.fields(index.documents.find("new"))[2] == given
    assert found(index, "wing", where={"huge": {">": 10**300}}) == found(
        index, "wing", where={"low": {"<": -(10**300)}}
    )
    assert [doc_id for doc_id, _ in found(index, "wing", where={"huge": {">": 0}})] == ["new"]


def test_duplicate_ids_are_refused_by_add_and_replaced_by_update(tmp_path):
    rows = rows_of(np.random.default_rng(0), 3)
    index = Index.build(tmp_path / "idx", rows)
    with pytest.raises(DataError, match="'a' occurs twice"):
        index.add(rows, ids=["a", "b", "a"])
    change = index.add(rows, ids=["a", "b", "a"], skip_bad=True)
    assert (change.added, change.bad) == (2, ["document 3: the id 'a' occurs twice"])
    change = index.update(rows, ids=["a", "c", "a"])  # keeps the last "a"
    assert (change.added, change.updated) == (1, 1)
    index.commit()
    assert list(index.documents.all_ids()) == ["0", "1", "2", "b", "c", "a"]
    assert index.searcher.impacts_of(index.documents.find("a"), *rows.row(2)[:1]).tolist() == rows.row(2)[1].tolist()


def test_vectors_of_another_encoder_are_refused(path, tmp_path, lsr_command):
    index = Index.open(path)
    with pytest.raises(DataError, match="another encoder"):
        index.add(SparseMatrix.from_dicts([{10_000: 1.0}], 10_001), ids=["x"])
    (tmp_path / "o.jsonl").write_text('{"_id": "o", "text": "other words"}\n')
    lsr_command("encode", tmp_path / "o.jsonl", "--out", tmp_path / "o.parquet", "--encoder", "bm25", "--k1", 1.5)
    with pytest.raises(EncoderMismatch, match="same encoder"):
        index.add(read_vectors(tmp_path / "o.parquet"))
    (tmp_path / "t.jsonl").write_text('{"_id": "t", "vector": {"wing": 1, "unheard": 2}}\n')
    with pytest.raises(DataError, match="'unheard' isn't in the index's vocabulary"):
        index.add(read_vectors(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_text('{"_id": "t", "vector": {"word7": 1, "wing": 2}}\n')
    index.add(read_vectors(tmp_path / "t.jsonl"))
    save_matrix(tmp_path / "m.parquet", ENCODER.encode_document(["flow word7"]), ["m"])
    index.add(read_vectors(tmp_path / "m.parquet"))
    index.commit()
    assert {hit.id for hit in index.search("word7")} == {"d7", "t", "m"}
    matrix = Index.build(tmp_path / "matrix", SparseMatrix.from_dicts([{0: 1.0}], 3))
    with pytest.raises(EncoderError, match="without their encoder"):
        matrix.add([{"_id": "x", "text": "text"}])


def test_tokens_of_jsonl_vectors_are_mapped_to_the_index(tmp_path):
    for name, vectors in (("a", [{"x": 1, "y": 2}]), ("b", [{"z": 3, "y": 4}, {"x": 5}])):
        lines = [json.dumps({"_id": f"{name}{i}", "vector": vector}) + "\n" for i, vector in enumerate(vectors)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    index = Index.build(tmp_path / "idx", read_vectors(tmp_path / "a.jsonl"))
    index.add(read_vectors(tmp_path / "b.jsonl"))
    index.commit()
    for opened in (index, Index.open(index.path)):
        assert opened.vocabulary == ["x", "y", "z"]
        assert found(opened, {"y": 1}) == [("b0", 4.0), ("a0", 2.0)]
        assert found(opened, {"z": 1, "x": 1}) == [("b1", 5.0), ("b0", 3.0), ("a0", 1.0)]


def test_documents_may_contain_their_vectors(tmp_path):
    index = Index.build(tmp_path / "idx", [{"_id": "a", "text": "A wing.", "n": 1, "vector": {"x": 1, "y": 2}}])
    again = {"_id": "a", "title": "Wing", "vector": {"x": 5}, "n": 2}
    new = [{"_id": "b", "vector": {"z": np.float32(3), "y": 4}}, again]
    assert str(index.update(iter(new))) == "1 added, 1 updated"
    index.commit()
    assert found(index, {"y": 1, "x": 1}) == [("a", 5.0), ("b", 4.0)]
    assert [(hit.title, hit.metadata) for hit in index.search({"x": 1}, where={"n": 2})] == [("Wing", {"n": 2})]
    bad = [*new, {"_id": "c", "text": "no vector"}, {"_id": "d", "vector": {"x": -1}}, {"_id": "e", "vector": {7: 1.0}}]
    with pytest.raises(DataError, match="document 3: the first one has"):
        index.update(bad)
    assert not index.pending
    assert [message.split(":")[0] for message in index.update(bad, skip_bad=True).bad] == [
        "document 3",
        "document 4",
        "document 5",
    ]
    texts = Index.build(tmp_path / "texts", DOCUMENTS, encoder=ENCODER)
    with pytest.raises(DataError, match="the token 'z' isn't in the index's vocabulary"):
        texts.add(new)
    (wing,) = (term for term, token in enumerate(ENCODER.vocabulary) if token == "wing")
    same = Index.build(tmp_path / "same", [{"_id": "v", "text": "t", "vector": {"wing": 1}}], encoder=ENCODER)
    assert same.document_vectors([0]).row(0)[0].tolist() == [wing]
    assert [hit.id for hit in same.search("wing")] == ["v"]


def test_an_empty_index_takes_its_vocabulary_from_the_first_documents(tmp_path):
    index = Index.build(tmp_path / "idx", [], encoder="bm25")
    assert (len(index), index.search("wing")) == (0, [])
    index = Index.open(index.path)
    with pytest.raises(DataError):
        index.add([{"_id": "a", "text": "unlearned words"}, {"text": "no id"}])
    assert index.add(DOCUMENTS).added == 20
    index.commit()
    whole = Index.build(tmp_path / "whole", DOCUMENTS, encoder="bm25")
    assert index.fingerprint == whole.fingerprint
    assert found(index, "wing word3") == found(whole, "wing word3") == found(Index.open(index.path), "wing word3")
    vectors = Index.build(tmp_path / "vectors", SparseMatrix.empty(3))
    vectors.add(SparseMatrix.from_dicts([{2: 1.0}], 3))
    vectors.commit()
    assert len(Index.open(vectors.path)) == 1


def test_an_index_of_the_shipped_encoder_can_be_changed_after_a_move(tmp_path):
    Index.build(tmp_path / "idx", DOCUMENTS[:3])
    (files,) = (tmp_path / "idx").glob("shared-*/encoder/encoder.json")
    assert str(tmp_path.anchor) not in json.loads(files.read_text())["learned"]["document"]["document"]["checkpoint"]
    (tmp_path / "idx").rename(tmp_path / "moved")
    index = Index.open(tmp_path / "moved")
    index.add([{"_id": "cat", "text": "Cats sleep for most of the day."}])
    index.commit()
    assert [hit.id for hit in index.search("a sleeping cat", 1)] == ["cat"]


# --- merging ----------------------------------------------------------------------------------------------------------


def entries(*sizes):
    return [{"n_docs": n, "n_alive": n} for n in sizes]


def test_adjacent_segments_of_similar_size_are_merged():
    assert plan_merges(entries(*[10] * 7)) is None
    assert plan_merges(entries(*[10] * 8)) == (0, 8)
    assert plan_merges(entries(10**6, *[10] * 8)) == (1, 9)
    assert plan_merges(entries(*[10] * 4, 10**6, *[10] * 4)) is None
    assert plan_merges(entries(*[10**5, 10] * 8)) == (0, 15)
    assert plan_merges([*entries(10**6), {"n_docs": 9, "n_alive": 5}]) == (1, 2)


def test_a_full_merge_makes_one_segment_of_the_latest_format():
    (one,) = entries(10)
    assert plan_merges([one | {"format": FORMAT}], everything=True) is None
    assert plan_merges([one], everything=True) == plan_merges([one | {"format": 3}], everything=True) == (0, 1)
    assert plan_merges([one]) is None
    assert plan_merges([one | {"format": FORMAT}] * 2, everything=True) == (0, 2)
    assert plan_merges([], everything=True) is None


def test_many_additions_of_single_documents_leave_few_segments(tmp_path):
    rng = np.random.default_rng(0)
    rows = rows_of(rng, 60)
    index = Index.build(tmp_path / "idx", rows[:1], ids=["0"])
    for i in range(1, 40):
        index.add(rows[i], ids=[str(i)])
        index.commit()
        index.close()
        assert index.n_segments <= 8
    assert list(index.documents.all_ids()) == [str(i) for i in range(40)]
    index.delete(map(str, range(39)))
    index.commit()
    index.close()
    assert (index.n_segments, len(index), index.searcher.n_docs) == (1, 1, 1)


# --- kills, full disks, damage ----------------------------------------------------------------------------------------

# Commits changes, then merges. With "background", these changes are committed before the kills begin, and a deletion is
# committed while the merge runs in the background. Kills during the first commit are tested without "background".
KILLED_EVERYWHERE = """
    import threading
    from lsr.index.write import background_merger as merger, writer
    from lsr.index.index import Index

    path, kept, background = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "background"
    writer._BUFFER = 300  # some documents are spilled before the commit
    merge_aside, merged, deleted = merger.merge_aside, threading.Event(), threading.Event()

    def interrupted(*args):
        segment = merge_aside(*args)
        merged.set()
        deleted.wait()
        return segment

    def commit(path):
        index = Index.open(path)
        index.add([{"_id": f"new{i}", "text": f"wing flow number{i % 5} zeppelin{i}"} for i in range(3)])
        index.delete(["d3", "d4"])
        index.update([{"_id": "d5", "text": "flow"}])
        index.commit(merge=False)
        return index

    def change():
        if background:
            index = Index.open(path)
            merger.merge_aside = interrupted
            index.merge(background=True)
            merged.wait()
            index.delete(["d9"])
            index.commit(merge=False)
            deleted.set()
            index.close()
        else:
            commit(path).merge()

    def look():
        index = Index.open(path)
        assert index.verify() == []
        hits = [hit.id for hit in index.search("wing number3", 5)]
        later = [hit.id for hit in index.search("zeppelin1 balloon")]
        return [list(index.documents.all_ids()), index.n_segments, hits, later, index.vocabulary]

    if background:
        commit(kept).close()
    shutil.copytree(kept, path)
    change()  # compiles the kernels for the children
    Index.open(path).search("wing")
    merged.clear()
    deleted.clear()
    print(json.dumps(die_everywhere(path, kept, change, look, 12, lambda: Index.open(path).merge())))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("where", ["in a transaction", "background"])
def test_a_kill_at_any_step_leaves_the_last_commit(path, tmp_path, python, where):
    words = [*Index.open(path).vocabulary]
    code, out, error = python(KILLED_EVERYWHERE, tmp_path / "work", path, where, dying=True)
    assert code == 0, error
    old = [d["_id"] for d in DOCUMENTS]
    new = [i for i in old if i not in ("d3", "d4", "d5")] + ["new0", "new1", "new2", "d5"]
    last = [i for i in new if i != "d9"] if where == "background" else new
    outcomes = json.loads(out)
    ids = [outcome[0] for outcome in outcomes]
    committed, deleted = ids.index(new), ids.index(last)
    merged = next(i for i, outcome in enumerate(outcomes) if outcome[0] == last and outcome[1] == 1)
    assert committed == 0 if where == "background" else committed > 30
    assert merged > (deleted + 3 if where == "background" else committed + 10)
    assert ids == [old] * committed + [new] * (deleted - committed) + [last] * (len(ids) - deleted)
    assert len({json.dumps(outcome[2]) for outcome in outcomes[deleted:]}) == 1  # results are the same after the merge
    assert outcomes[0][2] != outcomes[-1][2] or where == "background"
    later = [outcome[3:] for outcome in outcomes]  # hits for words of the new documents, and the vocabulary
    assert later[:committed] == [[[], words]] * committed
    assert later[committed:] == [[["new1"], [*words, "zeppelin0", "zeppelin1", "zeppelin2"]]] * len(later[committed:])


LIMITED = """
    import resource, sys
    from lsr.errors import LsrError
    from lsr.index.index import Index
    index = Index.open(sys.argv[1])
    before = [hit.id for hit in index.search("wing number3", 30)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        index.add([{"_id": f"new{i}", "text": f"wing flow number3 word{i}" * 50} for i in range(200)])
        index.delete(["d3"])
        index.commit()
    except LsrError as error:
        assert [hit.id for hit in index.search("wing number3", 30)] == before
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(error)
        index.commit()  # succeeds, because the limit is gone
        print(len(index))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [800, 4000])
def test_a_full_disk_is_reported_and_the_commit_can_be_repeated(path, limit, python):
    code, out, error = python(LIMITED, path, limit)
    assert code == 0, error
    message, count = out.splitlines()
    assert message.startswith(f"{path}: can't be written: ")
    assert (count, len(Index.open(path)), Index.open(path).verify()) == ("219", 219, [])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_commit_to_a_read_only_folder_fails_and_can_be_repeated(path, monkeypatch, code):
    index = Index.open(path)
    index.delete("d1")

    def refuse(self, target):
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OutputError, match=f"^{path}: can't be written: {os.strerror(code)}"):
            index.commit()
        assert (len(index), len(Index.open(path)), Index.open(path).verify()) == (20, 20, [])
    index.commit()
    assert (len(index), len(Index.open(path)), Index.open(path).verify()) == (19, 19, [])


def change(path):
    index = Index.open(path)
    index.update([{"_id": "new", "text": "wing"}, {"_id": "d5", "text": "flow"}])
    index.delete(["d1"])
    try:
        index.commit(merge=False)
    except OutputError:
        assert len(index) in (20, len(Index.open(path)))
        index.commit(merge=False)  # a failed commit can be repeated
        raise


def merged(path):
    index = Index.open(path)
    index.delete(["d1"])
    index.commit(merge=False)
    index.merge()


def merged_behind(path):
    index = Index.open(path)
    index.delete(["d1"])
    index.commit(merge=False)
    index.merge(background=True)
    index.close()


def built(path):
    Index.build(path, DOCUMENTS[:3], encoder=ENCODER, overwrite=True)


@pytest.mark.parametrize(
    ("work", "code"),
    [(change, errno.ENOSPC), (change, errno.EACCES), (merged, errno.EROFS), (merged_behind, errno.ENOSPC),
     (built, errno.EACCES)],
)  # fmt: skip
def test_any_failed_write_is_reported_and_leaves_the_index_intact(path, monkeypatch, work, code):
    """If a write fails, the index is in its old or its new state, and can be changed again.

    Each round makes one write fail: every second write in turn, or every write with LSR_LONG_TESTS.
    """
    shutil.copytree(path, path.parent / "kept")
    step = 1 if os.environ.get("LSR_LONG_TESTS") else 2
    calls, fails_at, failed = itertools.count(1), 1 - step, True

    def failing(function):
        def call(*args, **kwargs):
            if next(calls) == fails_at:
                raise OSError(code, os.strerror(code), str(path))
            return function(*args, **kwargs)

        return call

    owners = (
        (os, "fsync"), (Path, "mkdir"), (Path, "write_bytes"), (Path, "replace"), (Path, "rename"),
        (pa.ipc, "new_file"), (pa.ipc.RecordBatchFileWriter, "write_batch"), (pa.ipc.RecordBatchFileWriter, "close"),
    )  # fmt: skip
    after = None
    while failed:
        shutil.rmtree(path)
        shutil.copytree(path.parent / "kept", path)
        fails_at += step
        with monkeypatch.context() as patch:
            for owner, name in owners:
                patch.setattr(owner, name, failing(getattr(owner, name) if name != "fsync" else int))
            calls, told = itertools.count(1), "can't be written"
            try:
                work(path)
            except OutputError as error:
                told = str(error)
            failed = next(calls) > fails_at
        assert "can't be written" in told or "the folder can't be made" in told
        gc.collect()  # closes the index that `work` left open, with pending changes and the lock
        index = Index.open(path)
        assert index.verify() == []
        ids = list(index.documents.all_ids())
        if ids != [d["_id"] for d in DOCUMENTS]:
            after = after or ids
            assert ids == after
        index.delete(["absent"])  # a writer removes leftovers
        assert set(kinds(path)) <= {"alive", MANIFEST, "segment", "shared"}
    assert fails_at > 20
    assert list(index.documents.all_ids()) == after


def test_damaged_segments_can_be_skipped(path):
    index = Index.open(path)
    index.add([{"_id": "new", "text": "wing new"}])
    index.commit()
    index.delete(["d7"])
    index.commit()
    for damage in ("first", "alive"):
        copy = path.parent / damage
        shutil.copytree(path, copy)
        manifest = json.loads((copy / MANIFEST).read_bytes())
        entry = manifest["segments"][0]
        file = copy / entry["name"] / "postings.arrow" if damage == "first" else copy / entry["alive"]
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(CorruptIndex, match=file.name):
            Index.open(copy)
        some = Index.open(copy, skip_damaged=True)
        assert len(some.damaged) == len(some.verify()) == 1
        assert file.name in some.damaged[0]
        assert (len(some), [hit.id for hit in some.search("wing")]) == (1, ["new"])
        with pytest.raises(CorruptIndex, match=file.name):
            some.delete("new")


def test_the_option_skip_damaged_finds_a_changed_byte_of_a_large_file(path, monkeypatch):
    index = Index.open(path)
    index.add([{"_id": "new", "text": "wing new"}])
    index.commit()
    monkeypatch.setattr("lsr.index.storage.manifest.CHECKED_AT_OPEN", 0)  # no file is hashed on opening
    file = path / index.snapshot.parts[0].entry["name"] / "ids.arrow"
    file.write_bytes(file.read_bytes().replace(b"d7", b"d6"))
    assert Index.open(path).damaged == []
    some = Index.open(path, skip_damaged=True)
    assert list(some.documents.all_ids()) == ["new"]
    assert some.damaged == some.verify() == Index.open(path).verify()
    assert "ids.arrow" in some.damaged[0]


def test_files_that_a_writer_removes_during_opening_are_not_reported_as_damage(path, monkeypatch):
    check_files = snapshots.check_files

    def late(*args, **kwargs):
        monkeypatch.setattr(snapshots, "check_files", check_files)
        with Index.open(path) as writer:
            writer.delete(["d1"])
            writer.merge()
        return check_files(*args, **kwargs)

    for skip_damaged in (False, True):
        monkeypatch.setattr(snapshots, "check_files", late)
        index = Index.open(path, skip_damaged=skip_damaged)
        assert (len(index), index.damaged) == (19, [])
        with Index.open(path) as writer:
            writer.add([{"_id": "d1", "text": "again"}])
            writer.commit()


@pytest.mark.parametrize("name", ["columns.arrow", "encoder/bm25.json", "encoder/encoder.json"])
def test_a_file_that_is_missing_during_opening_is_reported(path, monkeypatch, name):
    """A writer may remove a segment while a reader opens the index, after the reader checked that the file exists."""
    (file,) = path.glob(f"*/{name}")

    def removed(*args, **kwargs):
        file.unlink()
        return {}

    monkeypatch.setattr("lsr.index.search.snapshot.check_files", removed)
    with pytest.raises(CorruptIndex, match=file.name):
        Index.open(path)


def test_forged_alive_bits_are_refused(path):
    index = Index.open(path)
    index.delete(["d7"])
    index.commit()
    from lsr.index.search.open_segment import read_alive
    from lsr.index.storage.arrow_file import write_arrow

    (file,) = path.glob("alive-*")
    assert read_alive(file, 20).tolist() == [i != 7 for i in range(20)]
    write_arrow(file, {"bits": pa.array([1], pa.uint8())})
    with pytest.raises(CorruptIndex, match="doesn't fit"):
        read_alive(file, 20)


# --- on the command line ----------------------------------------------------------------------------------------------


def test_commands_add_delete_and_merge(path, tmp_path, lsr_command):
    new = tmp_path / "new.jsonl"
    new.write_text('{"_id": "a", "text": "wing nine"}\n{"_id": "d3", "text": "wing word3 word3"}\n')
    refused = lsr_command("add", path, new)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "'d3' is in the index already" in refused.err
    assert "--update" in refused.err
    ran = lsr_command("add", path, new, "--update")
    assert (ran.code, "1 added, 1 updated; 21 documents in 2 segments" in ran.err) == (0, True)
    ran = lsr_command("add", path, new, "--skip-bad")
    assert (ran.code, "nothing changed" in ran.err, ran.err.count("left out")) == (0, True, 2)
    assert [line["_id"] for line in lsr_command("search", path, "word3").lines()] == ["d3"]
    (tmp_path / "gone.txt").write_text("d1\nd2\nabsent\n")
    ran = lsr_command("delete", path, "d4", "--ids", tmp_path / "gone.txt")
    assert (ran.code, "3 deleted, 1 not found (absent); 18 documents" in ran.err) == (0, True)
    assert lsr_command("delete", path).code == 2
    ran = lsr_command("merge", path)
    assert (ran.code, "merged; 18 documents in 1 segment," in ran.err) == (0, True)
    assert "nothing to merge" in lsr_command("merge", path).err
    assert lsr_command("verify", path).code == 0
    for command in (["add", tmp_path, new], ["delete", tmp_path / "no", "x"], ["merge", tmp_path]):
        ran = lsr_command(*command)
        assert (ran.code, ran.err.count("\n")) == (1, 1)


# --- documents without words


@pytest.mark.parametrize("text", ["?", "", "\U0001f642", "\u200b"])
@pytest.mark.parametrize("reopened", [False, True])
def test_documents_can_be_added_after_a_first_batch_without_words(tmp_path, text, reopened):
    index = Index.build(tmp_path / "idx", [], encoder="bm25")
    index.add([{"_id": "a", "text": text}])
    index.commit()
    index = Index.open(tmp_path / "idx") if reopened else index
    assert index.search("cats") == []
    assert index.search_batch(["cats", "?"]) == [[], []]
    index.add([{"_id": "b", "text": "cats purr"}])
    index.commit()
    assert [hit.id for hit in Index.open(tmp_path / "idx").search("cats")] == ["b"]
    assert len(index) == 2


def test_an_index_can_be_built_from_documents_without_words(tmp_path):
    index = Index.build(tmp_path / "idx", [{"_id": "a", "text": "?"}], encoder="bm25")
    assert index.search("cats") == []
    index.add([{"_id": "b", "text": "cats purr"}])
    index.commit()
    assert [hit.id for hit in index.search("cats")] == ["b"]
