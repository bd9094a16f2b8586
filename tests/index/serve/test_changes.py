"""Changes over HTTP are atomic and made one at a time."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from lsr.errors import OutputError
from lsr.index.distributed.reshard import reshard_index
from lsr.index.index import Index
from lsr.index.serve import answers, schemas, service
from lsr.index.serve.server import Server
from lsr.index.serve.settings import ServeSettings


@pytest.fixture
def asking(serving, living):
    return serving(living, writable=True, refresh=0.05)


def found(asking, query, **how):
    return [hit["id"] for hit in asking.post("/v1/search", {"query": query, **how}).json["hits"]]


def until(true, seconds=10.0):
    """Poll the condition `true` until it holds, for at most `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.01)


def test_documents_are_added_replaced_and_deleted(asking):
    added = asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing", "metadata": {"year": 2000}}]}).json
    answers.Changed.model_validate(added)
    assert (added["added"], added["committed"], added["documents"]) == (1, True, 5)
    assert "x" in found(asking, "wing", where={"year": 2000})
    updated = asking.post("/v1/documents", {"documents": [{"id": "x", "text": "lift"}], "update": True}).json
    assert (updated["added"], updated["updated"]) == (0, 1)
    assert "x" in found(asking, "lift")
    deleted = asking.delete("/v1/documents", {"ids": ["x", "nobody"]}).json
    assert (deleted["deleted"], deleted["missing"]) == (1, ["nobody"])
    assert asking.delete("/v1/documents", {"where": {"year": {"<": 1975}}}).json["deleted"] == 2
    assert found(asking, "wing") == []
    assert asking.get("/v1/documents/a").status == 404


def test_uncommitted_changes_wait_for_a_commit_or_a_rollback(asking, living):
    told = asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing"}], "commit": False}).json
    assert not told["committed"]
    assert asking.get("/v1/stats").json["pending"]
    assert "x" not in found(asking, "wing")
    done = asking.post("/v1/commit", {}).json
    answers.Done.model_validate(done)
    assert (done["done"], done["documents"]) == (True, 5)
    assert "x" in found(asking, "wing")
    asking.delete("/v1/documents", {"ids": ["x"], "commit": False})
    assert asking.post("/v1/rollback", {}).json["done"]
    assert not asking.post("/v1/commit", {}).json["done"]
    assert "x" in found(asking, "wing")
    assert asking.post("/v1/merge", {}).json == {"index": "idx", "done": True, "documents": 5, "segments": 1}
    assert Index.open(living.path).verify() == []


def test_one_bad_document_fails_the_request_unless_skip_bad_is_set(asking):
    documents = [{"id": "x", "text": "wing"}, {"id": "a", "text": "again"}]
    assert asking.post("/v1/documents", {"documents": documents}).status == 422
    assert "x" not in found(asking, "wing")
    told = asking.post("/v1/documents", {"documents": documents, "skip_bad": True}).json
    assert told["added"] == 1
    assert "'a' is in the index already" in told["bad"][0]


def test_vectors_are_added_with_text_and_metadata(asking):
    document = {"id": "v", "vector": {"flutter": 9.0}, "text": "given", "metadata": {"year": 1}}
    assert asking.post("/v1/documents", {"documents": [document]}).json["added"] == 1
    (hit,) = asking.post("/v1/search", {"query": "flutter", "where": {"year": 1}}).json["hits"]
    assert (hit["id"], hit["text"]) == ("v", "given")


def test_a_failed_commit_is_rolled_back(asking, living, monkeypatch):
    def full(*_, **__):
        raise OutputError(f"{living.path}: can't be written: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("lsr.index.write.writer.Writer.commit", full)
        refused = asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing"}]})
        assert refused.status == 507
        assert refused.json["detail"] == "idx: can't be written: the disk is full"
        assert not asking.get("/v1/stats").json["pending"]
        asking.post("/v1/documents", {"documents": [{"id": "y", "text": "wing"}], "commit": False})
        assert asking.post("/v1/commit", {}).status == 507
        assert asking.get("/v1/stats").json["pending"]  # the earlier change is kept
    assert asking.post("/v1/commit", {}).json["done"]
    assert set(found(asking, "wing")) == {"a", "b", "y"}


def test_commits_of_other_processes_become_visible(asking, living):
    before = asking.get("/v1/stats").json["snapshot"]
    other = Index.open(living.path)
    other.add([{"_id": "z", "text": "wing"}])
    other.commit()
    until(lambda: "z" in found(asking, "wing"))
    assert asking.get("/v1/stats").json["snapshot"] != before
    assert asking.get("/v1/indexes").json["indexes"][0]["documents"] == 5


@pytest.mark.usefixtures("impatient")
def test_the_error_names_the_other_writer(asking, living):
    code = (
        "import sys; from lsr import Index; index = Index.open(sys.argv[1])\n"
        "index.delete('a'); print('holds', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(living.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "holds\n"
        refused = asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing"}]})
        assert found(asking, "wing") == ["b", "a"] or set(found(asking, "wing")) == {"a", "b"}
        other.stdin.close()
    assert refused.status == 409
    assert refused.headers["retry-after"] == "1"
    assert f"process {other.pid}" in refused.json["detail"]
    assert refused.json["type"] == "urn:lsr:IndexLocked"
    assert asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing"}]}).status == 200


def test_a_damaged_index_is_served_from_its_last_snapshot(asking, living, caplog):
    manifest = living.path / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content[:-20])
    until(lambda: asking.get("/v1/stats").json["refreshed"])
    assert str(living.path) not in asking.get("/v1/stats").json["refreshed"]
    assert set(found(asking, "wing")) == {"a", "b"}
    assert "can't be refreshed" in caplog.text
    manifest.write_bytes(content)
    until(lambda: not asking.get("/v1/stats").json["refreshed"])


def test_a_missing_index_is_served_again_when_it_returns(asking, living):
    away = living.path.with_name("away")
    living.path.rename(away)
    until(lambda: asking.get("/v1/stats").json["refreshed"].startswith("idx: no such index"))
    assert asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing"}]}).status == 422
    away.rename(living.path)
    until(lambda: not asking.get("/v1/stats").json["refreshed"])
    assert asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing"}]}).status == 200


def test_concurrent_changes_are_serialized(asking):
    def add(number):
        documents = [{"id": f"{number}-{half}", "text": "pair", "metadata": {"n": number}} for half in "lr"]
        replies.append(asking.post("/v1/documents", {"documents": documents}))

    replies = []
    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status for reply in replies] == [200] * 12
    assert asking.get("/v1/stats").json["documents"] == 4 + 24


def test_segments_are_merged_in_the_background(asking):
    for number in range(14):
        asking.post("/v1/documents", {"documents": [{"id": str(number), "text": "wing"}]})
    until(lambda: asking.get("/v1/stats").json["segments"] < 10)
    assert asking.get("/v1/stats").json["documents"] == 18


def test_a_server_that_stops_rolls_back_pending_changes_with_a_warning(living, caplog):
    caplog.set_level(logging.WARNING)
    with Server({"idx": living}, ServeSettings(port=0, writable=True)) as server:
        server.app.serving.indexes["idx"].add(schemas.Add(documents=[{"id": "x", "text": "wing"}], commit=False))
    assert "uncommitted changes are discarded" in caplog.text
    assert not living.pending
    Index.open(living.path).delete(["a"])  # succeeds, because the lock was released
    assert os.listdir(living.path)


def test_a_sharded_folder_can_be_searched_changed_and_refreshed(serving, living, tmp_path):
    folder = tmp_path / "shards"
    reshard_index(living.path, folder, 2)
    asking = serving(Index.open(folder), writable=True, refresh=0.05)
    assert found(asking, "wing flutter") == [hit.id for hit in living.search("wing flutter", 10)]
    explained = asking.post("/v1/explain", {"query": "wing", "id": "b"}).json
    assert explained["score"] == living.explain("wing", "b").score
    kinds = asking.get("/v1/stats").json["bytes"]
    assert kinds.keys() == living.file_sizes().keys()
    added = asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing wing"}], "commit": True})
    assert (added.status, added.json["documents"]) == (200, 5)
    other = Index.open(folder)
    assert "x" in other.documents.all_ids()
    other.delete(["a"])
    other.commit()
    until(lambda: set(found(asking, "wing")) == {"b", "x"})
    merged = asking.post("/v1/merge", {})
    assert merged.status == 200, merged.json
    assert merged.json["segments"] == 2


def test_an_index_in_object_storage_is_refreshed(serving, tmp_path, monkeypatch):
    monkeypatch.setenv("LSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(service, "_ASK_STORAGE", 0.05)
    uri, documents = (tmp_path / "there").as_uri(), [{"_id": i, "text": f"wing {i}"} for i in "ab"]
    asking = serving(Index.build(uri, documents, encoder="bm25"), writable=True, refresh=0.05)
    assert set(found(asking, "wing")) == {"a", "b"}
    refused = asking.post("/v1/documents", {"documents": [{"id": "x", "text": "wing"}]})
    assert refused.status >= 400
    assert "can't be changed in place" in refused.json["detail"]
    assert uri not in refused.json["detail"]
    Index.build(uri, documents[1:], encoder="bm25", overwrite=True)
    until(lambda: found(asking, "wing") == ["b"])
