"""A folder of shards acts as one index: results stay equal after any change. Errors name shards that don't match."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.encode.load import load_encoder
from lsr.encode.passages import Passages
from lsr.errors import CorruptIndex, DataError, EncoderMismatch, IndexFormatError, OutputError, OutputExists
from lsr.index.distributed.reshard import reshard_index
from lsr.index.index import Index
from lsr.index.sharding.local import ShardedSnapshot
from lsr.index.sharding.manifest import SHARDS, ShardEntry, Shards, save_shards, shard_name, write_shards
from lsr.index.sharding.remote import folder_of, read_manifests, upload_index
from lsr.index.storage.manifest import read_manifest, with_checksum
from lsr.index.write import background_merger
from lsr.io.open_vectors import read_vectors
from lsr.sparse import SparseMatrix

N_TERMS = 30
DOCUMENTS = [{"_id": f"d{i}", "text": f"wing flow number{i % 5} word{i}", "n": i} for i in range(20)]


def rows_of(rng, n):
    """Random rows of small integer weights, so that every segment has the scale 1.0 and many scores are equal."""
    return SparseMatrix.from_dense(rng.integers(1, 4, (n, N_TERMS)) * (rng.random((n, N_TERMS)) < 0.2))


def found(index, query, k=50, **how):
    return [(hit.id, hit.score) for hit in index.search(query, k, **how)]


@pytest.fixture
def whole(tmp_path):
    return Index.build(tmp_path / "whole", DOCUMENTS, encoder="bm25")


@pytest.fixture
def folder(tmp_path, whole):
    reshard_index(whole.path, tmp_path / "shards", 3)
    return tmp_path / "shards"


# --- results equal those of one index ---------------------------------------------------------------------------------


def test_a_folder_opens_as_one_index(folder, whole):
    index = Index.open(folder)
    assert isinstance(index.snapshot, ShardedSnapshot)
    assert len(index) == 20
    assert list(index.documents.all_ids()) == list(whole.documents.all_ids())
    assert [len(Index.open(folder / shard_name(i))) for i in range(3)] == [6, 7, 7]
    for query in ("wing number3", "flow word7 word19", "nothing of it"):
        assert found(index, query) == found(whole, query)
    assert found(index, "wing", where={"n": {">=": 15}}) == found(whole, "wing", where={"n": {">=": 15}})
    hit, other = index.search("word7 wing")[0], whole.search("word7 wing")[0]
    assert (hit.id, hit.doc, hit.text, hit.metadata) == (other.id, other.doc, other.text, other.metadata)
    assert hit.explain() == other.explain()
    assert index.verify() == []


@given(
    seed=st.integers(0, 2**32),
    impacts=st.sampled_from(["uint8", "uint8", "float32"]),
    n_shards=st.integers(1, 5),
    steps=st.lists(st.sampled_from(["add", "update", "delete", "where", "commit", "rollback", "merge"]), max_size=10),
)
@settings(max_examples=25)
def test_any_sequence_of_changes_equals_one_index(seed, impacts, n_shards, steps):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        work, ids = Path(name), [f"d{i}" for i in range(12)]
        one = Index.build(work / "one", rows_of(rng, 12), ids=ids, impacts=impacts)
        reshard_index(one.path, work / "shards", n_shards)
        index = Index.open(work / "shards")
        for step in [*steps, "commit"]:
            ids = [f"d{i}" for i in rng.choice(25, rng.integers(1, 8), replace=False)]
            rows = rows_of(rng, len(ids))
            told = []
            for each in (one, index):
                if step == "add":
                    change = each.add(rows, ids=ids, skip_bad=True)
                elif step == "update":
                    change = each.update(rows, ids=ids)
                elif step == "delete":
                    change = each.delete(ids)
                elif step == "where":
                    with pytest.raises(DataError, match="no column 'n'"):
                        each.delete(ids, where={"n": 1})
                else:
                    getattr(each, step)()
                if step in ("add", "update", "delete"):
                    told.append((change.added, change.updated, change.deleted, change.missing, len(change.bad)))
            assert told[1:] == told[:-1]
        assert list(index.documents.all_ids()) == list(one.documents.all_ids())
        assert Shards.read(work / "shards").documents == len(one)
        for query in (rows_of(rng, 1), SparseMatrix.from_dense(np.ones((1, N_TERMS)))):
            for algorithm in ("auto", "exhaustive", "blocks", "maxscore"):
                for k in (3, 50):
                    assert found(index, query, k, algorithm=algorithm) == found(one, query, k, algorithm=algorithm)
        assert found(Index.open(work / "shards"), query) == found(one, query)
        # The changed shards can be resharded into shards of equal size.
        if len(one):
            again = reshard_index(work / "shards", work / "again", min(2, len(one)))
            assert max(e.documents for e in again.entries) - min(e.documents for e in again.entries) <= 1
            assert found(Index.open(work / "again"), query) == found(one, query)
        for each in (one, index):
            each.close()  # the index must be closed before the temporary folder is removed


def test_texts_are_added_to_the_last_shard(folder, whole):
    index, reader = Index.open(folder), Index.open(folder)
    new = [{"_id": "e0", "text": "wing number3 more"}, {"_id": "d2", "text": "wing number3 changed"}]
    for each in (index, whole):
        change = each.update(new)
        assert (change.added, change.updated) == (1, 1)
        assert each.delete(["d7", "x"]).missing == ["x"]
        each.commit()
    assert list(index.documents.all_ids()) == list(whole.documents.all_ids())
    assert list(index.documents.all_ids())[-2:] == ["e0", "d2"]
    assert found(index, "wing number3") == found(whole, "wing number3")
    assert len(reader) == 20
    assert reader.refresh()
    assert not reader.refresh()
    assert found(reader, "wing number3") == found(whole, "wing number3")
    assert [e.documents for e in Shards.read(folder).entries] == [5, 6, 9]
    with pytest.raises(DataError, match="the id 'd0' is in the index already"):
        index.add([{"_id": "e1", "text": "a"}, {"_id": "d0", "text": "b"}])
    index.delete(where={"n": {"<": 18}})
    index.commit()
    assert list(index.documents.all_ids()) == ["d18", "d19", "e0", "d2"]
    assert index.merge()
    assert list(Index.open(folder).documents.all_ids()) == ["d18", "d19", "e0", "d2"]


@pytest.mark.usefixtures("impatient")
def test_only_one_writer_can_change_the_shards(folder):
    index, other = Index.open(folder), Index.open(folder)
    index.delete(["d0"])
    for change in (lambda: other.delete(["d19"]), lambda: other.add([{"_id": "x", "text": "y"}])):
        with pytest.raises(OutputError, match="of this process"):
            change()
    with pytest.raises(OutputError, match="of this process"):
        Index.open(folder / shard_name(1)).delete(["d8"])
    index.rollback()
    assert other.delete(["d19"]).deleted == 1
    other.rollback()


def test_shards_are_merged_in_the_background(folder, whole):
    index, reader = Index.open(folder), Index.open(folder)
    for each in (index, whole):
        each.delete(["d1", "d8"])
        for i in range(12):
            each.add([{"_id": f"e{i}", "text": f"wing number{i % 5}"}])
            each.commit()
        each.close()
    assert index.n_segments < 15  # commits also merge segments
    assert index.merge(background=True)
    index.close()
    assert not index.merge(background=True)
    assert index.n_segments == 3
    assert [Index.open(folder / shard_name(i)).n_segments for i in range(3)] == [1, 1, 1]
    written, there = Shards.read(folder), Shards.of(read_manifests(Shards.read(folder)))
    assert [e.bytes for e in written.entries] == [e.bytes for e in there.entries]
    assert reader.refresh()
    for each in (index, reader, Index.open(folder)):
        assert found(each, "wing number3") == found(whole, "wing number3")
        assert each.verify() == []
    assert not list(folder.rglob("merging-*"))


def test_changes_during_a_merge_of_shards_are_kept(folder, whole, monkeypatch):
    opened, merging = threading.Event(), background_merger.merge_aside

    def slow(*args):
        assert opened.wait(60)
        return merging(*args)

    monkeypatch.setattr(background_merger, "merge_aside", slow)
    index = Index.open(folder)
    for each in (index, whole):
        for i in range(3):
            each.add([{"_id": f"{name}{i}", "text": f"wing number{i}"} for name in "ef"])
            each.commit(merge=False)
    assert index.merge(background=True)
    for each in (index, whole):
        each.delete(["d0", "d19", "e1"])
        each.commit(merge=False)
    opened.set()
    index.close()
    assert index.n_segments == 3
    assert found(index, "wing") == found(Index.open(folder), "wing") == found(whole, "wing")
    assert len(index) == Shards.read(folder).documents == 23


def test_shards_are_merged_one_at_a_time(folder, monkeypatch):
    """Each merge takes as much memory as a build, so no two shards are merged at the same time."""
    merging, at_once, most = background_merger.merge_aside, [], []

    def watched(*args):
        at_once.append(None)
        most.append(len(at_once))
        time.sleep(0.05)
        merged = merging(*args)
        at_once.pop()
        return merged

    monkeypatch.setattr(background_merger, "merge_aside", watched)
    index = Index.open(folder)
    index.delete(["d0", "d8", "d19"])
    index.commit(merge=False)
    assert index.merge(background=True)
    index.close()
    assert (most, index.n_segments, len(index)) == ([1, 1, 1], 3, 17)


def test_a_waiting_merge_can_be_abandoned(folder, monkeypatch):
    began = threading.Event()

    def endless(aside, parts, settings, stop):
        began.set()
        assert stop.wait(60)
        raise background_merger.Abandoned

    monkeypatch.setattr(background_merger, "merge_aside", endless)
    index = Index.open(folder)
    index.delete(["d0", "d8", "d19"])
    index.commit(merge=False)
    assert index.merge(background=True)
    assert began.wait(60)
    index.close(wait=False)
    assert len(Index.open(folder)) == 17
    assert index.verify() == []


def test_undamaged_shards_can_be_searched(folder, lsr_command):
    postings = next((folder / shard_name(1)).rglob("postings.arrow"))
    postings.write_bytes(postings.read_bytes()[:-1])
    encoder = next((folder / shard_name(0)).rglob("encoder/*"))
    encoder.unlink()
    with pytest.raises(CorruptIndex, match="skip_damaged=True"):
        Index.open(folder)
    index = Index.open(folder, skip_damaged=True)
    assert len(index) == 13
    assert len(index.damaged) == 2
    assert {hit_id for hit_id, _ in found(index, "wing")} == {f"d{i}" for i in range(20) if not 6 <= i < 13}
    with pytest.raises(CorruptIndex, match=re.escape(str(encoder))):
        index.delete(["d0"])
    ran = lsr_command("search", folder, "wing", "--skip-damaged", "-k", 50)
    assert (len(ran.lines()), "13 documents left" in ran.err) == (13, True)
    ran = lsr_command("search", folder, "wing", "--skip-damaged", "--ray", "local")
    assert (ran.code, "leave --ray out" in ran.err) == (2, True)


def test_a_repeated_update_completes_a_killed_update(folder):
    index = Index.open(folder)
    index.update([{"_id": "d2", "text": "wing number3 changed"}])
    index._changes._writer._writers[-1].commit()  # simulates a kill after the last shard's commit
    index.rollback()
    index = Index.open(folder)
    assert list(index.documents.all_ids()).count("d2") == 2
    index.update([{"_id": "d2", "text": "wing number3 changed"}])
    index.commit()
    assert list(index.documents.all_ids()).count("d2") == 1
    assert len(index) == 20


def test_all_shards_learn_the_tokens_of_added_vectors(tmp_path):
    lines = [json.dumps({"id": f"d{i}", "vector": {"wing": 1 + i, f"t{i}": 2.0}}) for i in range(4)]
    (tmp_path / "v.jsonl").write_text("\n".join(lines))
    Index.build(tmp_path / "idx", read_vectors(tmp_path / "v.jsonl"))
    reshard_index(tmp_path / "idx", tmp_path / "shards", 2)
    index = Index.open(tmp_path / "shards")
    (tmp_path / "new.jsonl").write_text(json.dumps({"id": "e", "vector": {"unheard": 1.0}}))
    index.add(read_vectors(tmp_path / "new.jsonl"))
    index.commit()
    (tmp_path / "new.jsonl").write_text(json.dumps({"id": "f", "vector": {"newer": 1.0, "t0": 9.0, "unheard": 2.0}}))
    index.add(read_vectors(tmp_path / "new.jsonl"))
    index.commit()
    for opened in (index, Index.open(tmp_path / "shards")):
        assert opened.vocabulary[-2:] == ["unheard", "newer"]
        assert [hit.id for hit in opened.search({"t0": 1.0})] == ["f", "d0"]
        assert [hit.id for hit in opened.search({"unheard": 1.0})] == ["f", "e"]
        assert [hit.id for hit in opened.search({"newer": 1.0})] == ["f"]


def test_an_empty_shard_keeps_the_scale(tmp_path):
    rng = np.random.default_rng(0)
    dense = rng.random((8, 6)) * 3
    one = Index.build(tmp_path / "one", SparseMatrix.from_dense(dense))
    reshard_index(one.path, tmp_path / "shards", 2)
    index = Index.open(tmp_path / "shards")
    query = SparseMatrix.from_dense(np.ones((1, 6)))
    for each in (one, index):
        each.delete([str(i) for i in range(4, 8)])
        each.commit()
        each.add(SparseMatrix.from_dense(dense[:3] / 2), ids=list("abc"))
        each.commit()
    assert found(index, query) == found(one, query)


# --- resharding -------------------------------------------------------------------------------------------------------


def test_passages_of_a_document_stay_together(tmp_path):
    docs = [{"_id": f"d{i}", "text": " ".join(f"word{i} number{j}" for j in range(3 + 4 * (i % 3)))} for i in range(9)]
    one = Index.build(tmp_path / "one", docs, encoder="bm25", passages=Passages(6, 2))
    for n in (2, 4, 7):
        shards = reshard_index(one.path, tmp_path / f"s{n}", n)
        index = Index.open(tmp_path / f"s{n}")
        owners = [set(Index.open(tmp_path / f"s{n}" / e.path).documents.all_ids(parents=True)) for e in shards.entries]
        assert sum(map(len, owners)) == 9
        assert set.union(*owners) == {doc["_id"] for doc in docs}
        for best in (1, 2):
            query = "number1 number2 word4"
            assert found(index, query, best_passages=best) == found(one, query, best_passages=best)


def test_sharding_needs_a_new_folder_and_enough_documents(tmp_path, folder, whole):
    with pytest.raises(OutputExists, match="exists already"):
        reshard_index(whole.path, folder, 2)
    (tmp_path / "cut" / shard_name(0)).mkdir(parents=True)
    with pytest.raises(OutputExists, match=r"no shards\.json \(if an interrupted run left this folder"):
        reshard_index(whole.path, tmp_path / "cut", 2)
    with pytest.raises(IndexFormatError, match="20 documents, too few for 21 shards"):
        reshard_index(whole.path, tmp_path / "new", 21)
    with pytest.raises(IndexFormatError, match="no such index"):
        reshard_index(tmp_path / "nowhere", tmp_path / "new", 2)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        reshard_index(whole.path, tmp_path / "new", 0)
    assert not (tmp_path / "new").exists()


def test_segments_of_several_scales_keep_their_impacts(tmp_path):
    rng = np.random.default_rng(0)
    one = Index.build(tmp_path / "one", SparseMatrix.from_dense(rng.random((30, 9))), ids=[f"s{i}" for i in range(30)])
    one.add(SparseMatrix.from_dense(5 * rng.random((30, 9))), ids=[f"l{i}" for i in range(30)])
    one.commit()
    query = SparseMatrix.from_dense(rng.random((1, 9)))
    reshard_index(one.path, tmp_path / "shards", 4)
    index = Index.open(tmp_path / "shards")
    assert len({segment.scale for segment in index.searcher.segments}) == 2
    assert found(index, query, 60) == found(one, query, 60)
    assert index.max_error == one.max_error


# --- shards that don't match ------------------------------------------------------------------------------------------


def test_the_error_names_all_missing_and_damaged_shards(folder):
    shutil.rmtree(folder / shard_name(0))
    (folder / shard_name(2) / "manifest.json").write_text("{}")
    with pytest.raises(IndexFormatError, match=r"2 of 3 shards can't be opened") as caught:
        Index.open(folder)
    assert f"{folder}/shard-00000: no such index" in str(caught.value)
    assert "shard-00002/manifest.json: damaged" in str(caught.value)


def test_the_error_names_all_shards_of_other_encoders(folder, tmp_path):
    for n in (1, 2):
        shutil.rmtree(folder / shard_name(n))
        Index.build(folder / shard_name(n), [{"_id": f"x{n}", "text": "quite other words"}], encoder="bm25")
    with pytest.raises(EncoderMismatch, match="encode and build all shards with one encoder") as caught:
        Index.open(folder)
    assert "shard-00001: " in str(caught.value)
    assert "shard-00002: " in str(caught.value)
    assert "they differ in the files that encode queries, or the tokens" in str(caught.value)
    other = load_encoder("bm25", k1=2)
    for n in (1, 2):
        Index.build(folder / shard_name(n), [{"_id": "x", "text": "x"}], encoder=other, overwrite=True)
    with pytest.raises(EncoderMismatch, match="they differ in weights"):
        Index.open(folder)


def test_shards_of_another_scale_or_kind_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    dense = rng.random((6, 5)) + 0.5
    for n, (factor, impacts) in enumerate([(1, "uint8"), (2, "uint8"), (3, "uint8"), (1, "float32")]):
        matrix = SparseMatrix.from_dense(dense * factor)
        Index.build(tmp_path / shard_name(n), matrix, ids=[f"{n}-{i}" for i in range(6)], impacts=impacts)
    with pytest.raises(IndexFormatError, match=r"build all shards together") as caught:
        write_shards(tmp_path, [shard_name(n) for n in range(4)])
    assert "shard-00002: its scale" in str(caught.value)
    assert "shard-00003: impacts are float32" in str(caught.value)
    assert "shard-00001" not in str(caught.value)
    assert not (tmp_path / SHARDS).exists()
    write_shards(tmp_path, [shard_name(n) for n in range(2)])
    assert len(Index.open(tmp_path)) == 12
    with pytest.raises(OutputExists):
        write_shards(tmp_path, [shard_name(0)])


def test_a_shard_without_documents_is_refused(tmp_path):
    Index.build(tmp_path / shard_name(0), [], encoder="bm25")
    with pytest.raises(IndexFormatError, match="shards without a document: shard-00000"):
        write_shards(tmp_path, [shard_name(0)])
    with pytest.raises(IndexFormatError, match="at least one shard"):
        write_shards(tmp_path, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"shards": []}, "missing or invalid"),
        ({"shards": [{"path": "../elsewhere", "documents": 1, "bytes": 1}]}, "missing or invalid"),
        ({"shards": [{"path": "/etc", "documents": 1, "bytes": 1}]}, "missing or invalid"),
        ({"shards": [{"path": "http://x/y", "documents": 1, "bytes": 1}]}, "missing or invalid"),
        ({"shards": [{"path": "shard-00000", "documents": -1, "bytes": 1}]}, "missing or invalid"),
        ({"shards": [{"path": "shard-00000", "documents": 1, "bytes": 1}] * 2}, "missing or invalid"),
        ({"scale": 0.0}, "missing or invalid"),
        ({"scale": "x"}, "missing or invalid"),
        ({"impacts": "int4"}, "missing or invalid"),
        ({"shared": {"a": 1}}, "missing or invalid"),
        ({"shared": None}, "missing or invalid"),
        ({"fingerprint": 3}, "fingerprint can't be read"),
    ],
)
def test_a_forged_list_of_shards_is_refused(folder, change, message):
    values = json.loads((folder / SHARDS).read_bytes()) | change
    values.pop("sha256")
    (folder / SHARDS).write_bytes(with_checksum(values))
    with pytest.raises((IndexFormatError, DataError), match=message):
        Index.open(folder)


@pytest.mark.parametrize(
    "place",
    [
        "s3://b/k?endpoint_override=evil.example",
        "s3://b/k?region=us-east-1&endpoint_override=evil.example",
        "s3://b/k?scheme=http",
        "s3://b/k?region=x.evil.example",
        "s3://b/k?%65ndpoint_override=evil.example",
        "gs://b/k?endpoint_override=evil.example",
        "file:///k?x",
    ],
)
def test_a_list_of_shards_cannot_choose_the_server(folder, place, monkeypatch):
    values = json.loads((folder / SHARDS).read_bytes())
    values["shards"][1]["path"] = place
    values.pop("sha256")
    (folder / SHARDS).write_bytes(with_checksum(values))
    monkeypatch.setattr("lsr.io.object_store._open", lambda where: pytest.fail(f"asked {where}"))
    with pytest.raises(IndexFormatError, match=r"choose a server.*AWS_ENDPOINT_URL"):
        Index.open(folder)


def test_the_environment_can_choose_the_server_of_shards(folder, bucket, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    manifests = {}
    for n in range(3):
        plain = bucket(f"shard-{n}").partition("?")[0]
        upload_index(folder / shard_name(n), plain)
        manifests[plain] = read_manifest(folder / shard_name(n))
    list_there = folder.parent / "there"
    list_there.mkdir()
    save_shards(list_there, Shards.of(manifests))
    assert len(Index.open(list_there)) == len(Index.open(folder))


def test_a_changed_list_of_shards_is_refused(folder):
    content = (folder / SHARDS).read_bytes()
    for wrong in (content[:-20], b"", b"[]", content.replace(b"shard-00001", b"shard-00003")):
        (folder / SHARDS).write_bytes(wrong)
        with pytest.raises(CorruptIndex, match="damaged"):
            Index.open(folder)
    (folder / SHARDS).write_bytes(content)
    assert Shards.parse(content, str(folder)) == Shards.read(folder)
    assert Shards.read(folder).content() == content
    (folder / SHARDS).unlink()
    with pytest.raises(IndexFormatError, match=r"it has no shards\.json"):
        Shards.read(folder)


def test_shard_locations_are_resolved(folder):
    shards = Shards.read(folder)
    assert shards.location(shards.entries[1]) == f"{folder}/shard-00001"
    remote = replace(shards, folder="s3://bucket/key?scheme=http")
    assert remote.location(remote.entries[1]) == "s3://bucket/key/shard-00001?scheme=http"
    assert remote.location(ShardEntry("gs://b/s", 1, 1)) == "gs://b/s"


def test_remote_shards_are_read_and_checked(tmp_path, folder, whole, own_cache, lsr_command):
    there = [(tmp_path / "there" / shard_name(n)).as_uri() for n in range(3)]
    for n, uri in enumerate(there):
        upload_index(folder / shard_name(n), uri)
    (tmp_path / "list").mkdir()
    save_shards(tmp_path / "list", Shards.of({uri: read_manifest(folder_of(uri)) for uri in there}))
    index = Index.open(tmp_path / "list")
    assert found(index, "wing number3") == found(whole, "wing number3")
    assert index.verify() == []
    assert "all intact" in lsr_command("verify", tmp_path / "list").out
    with pytest.raises(OutputError, match="shards in object storage can't be changed"):
        index.delete("d1")
    postings = next(own_cache.rglob("postings.arrow"))
    postings.write_bytes(bytes(postings.stat().st_size))
    assert len(index.verify()) == 1
    assert lsr_command("verify", tmp_path / "list").code == 0  # the damaged copy was downloaded again
    shutil.rmtree(tmp_path / "there" / shard_name(1))
    (tmp_path / "there" / shard_name(2) / "manifest.json").write_text("{}")
    ran = lsr_command("verify", tmp_path / "list")
    assert (ran.code, "2 of 3 shards can't be opened" in ran.err) == (1, True)
    assert f"{there[1]}: not an index" in ran.err


# --- on the command line ----------------------------------------------------------------------------------------------


def test_commands_accept_a_sharded_folder(tmp_path, whole, lsr_command):
    out = tmp_path / "out"
    assert lsr_command("reshard", whole.path, "--shards", 3, "--out", out).err.endswith(
        "20 documents in 3 shards of 6 to 7\n"
    )
    ids = [line["_id"] for line in lsr_command("search", out, "wing number3", "-k", 4).lines()]
    assert ids == [hit.id for hit in whole.search("wing number3", 4)]
    assert lsr_command("delete", out, "d1").code == 0
    assert len(Index.open(out)) == 19
    assert "all intact" in lsr_command("verify", out).out
    postings = next((out / shard_name(1)).rglob("postings.arrow"))
    postings.write_bytes(postings.read_bytes()[:-1])
    damaged = lsr_command("verify", out)
    assert (damaged.code, str(postings) in damaged.err) == (1, True)
    twice = lsr_command("reshard", whole.path, "--shards", 3, "--out", out)
    assert (twice.code, "exists already" in twice.err) == (1, True)
