"""An index in object storage: its local copy is complete or absent, and the manifest is written last."""

import json
import os
import signal
import subprocess
import sys

import pytest

from lsr.errors import CorruptIndex, IndexFormatError, OutputError, OutputExists, StorageError
from lsr.index.index import Index
from lsr.index.sharding import remote
from lsr.index.sharding.remote import download_index, upload_index
from lsr.index.storage.manifest import MANIFEST, read_manifest
from lsr.io.object_store import Place

DOCUMENTS = [{"_id": f"d{i}", "text": f"wing flow number{i % 5} word{i}"} for i in range(20)]


@pytest.fixture(params=["file", "s3"])
def uri(request, own_cache, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("bucket")("idx")
    return (tmp_path / "elsewhere" / "idx").as_uri()


def build(path, n=20, **options):
    return Index.build(path, DOCUMENTS[:n], encoder="bm25", **options)


def answers(index):
    return [(hit.id, hit.score, hit.text) for hit in index.search("wing number3", 5)]


@pytest.fixture
def fetched(monkeypatch):
    """Names of the files that were downloaded during the test."""
    names, real = [], Place.fetch

    def fetch(self, name, *args):
        names.append(name)
        real(self, name, *args)

    monkeypatch.setattr(Place, "fetch", fetch)
    return names


def test_an_index_can_be_built_and_opened_in_a_bucket(uri, tmp_path):
    here = build(tmp_path / "here")
    built = build(uri)
    assert answers(built) == answers(here) != []
    opened = Index.open(uri)
    assert answers(opened) == answers(here)
    assert opened.uri == uri
    assert opened.verify() == []
    assert sorted(Place(uri).sizes()) == sorted([MANIFEST, *read_manifest(opened.path)["files"]])


def test_cached_files_are_not_downloaded_again(uri, fetched, own_cache):
    path = build(uri).path
    assert sorted(fetched) == sorted(read_manifest(path)["files"])
    fetched.clear()
    Index.open(uri)
    assert fetched == []
    name = next(name for name in read_manifest(path)["files"] if name.endswith("postings.arrow"))
    (path / name).write_bytes(bytes((path / name).stat().st_size))  # the same size, but all bytes are wrong
    assert answers(Index.open(uri)) != []
    assert fetched == [name]
    fetched.clear()
    (path / name).unlink()
    (path / ".checked.json").write_bytes(b"{")
    Index.open(uri)
    assert fetched == [name]


def test_a_new_index_replaces_the_old_one(uri, tmp_path, fetched):
    first = build(uri)
    before = answers(first)
    old = set(read_manifest(first.path)["files"])
    with pytest.raises(OutputExists, match="an index exists already"):
        build(uri)
    build(tmp_path / "other", 7)
    upload_index(tmp_path / "other", uri, overwrite=True)
    assert answers(first) == before
    assert first.refresh()
    assert not first.refresh()
    assert len(first) == 7
    new = set(read_manifest(first.path)["files"])
    assert set(Place(uri).sizes()) == {MANIFEST, *new}
    assert not any((first.path / name).exists() for name in old)


def test_only_changed_files_are_uploaded(uri, tmp_path, fetched, monkeypatch):
    index = build(tmp_path / "idx")
    upload_index(tmp_path / "idx", uri)
    there = Index.open(uri)
    index.add([{"_id": "new", "text": "wing number3"}])
    index.commit()
    sent, real = [], Place.put
    monkeypatch.setattr(Place, "put", lambda self, path, name: (sent.append(name), real(self, path, name))[1])
    fetched.clear()
    upload_index(tmp_path / "idx", uri, overwrite=True)
    segment = read_manifest(tmp_path / "idx")["segments"][-1]["name"]
    assert {name.split("/")[0] for name in sent} == {segment, MANIFEST}
    assert sent[-1] == MANIFEST
    there.refresh()
    assert {name.split("/")[0] for name in fetched} == {segment}
    assert answers(there) == answers(index)


def test_a_remote_index_cannot_be_changed_in_place(uri):
    index = build(uri)
    for change in (
        lambda: index.add([{"_id": "x", "text": "y"}]),
        lambda: index.delete("d1"),
        index.merge,
        lambda: index.merge(background=True),
    ):
        with pytest.raises(OutputError, match="can't be changed in place"):
            change()
    assert len(Index.open(uri)) == 20


def test_skip_damaged_is_refused_for_remote_indexes(uri, lsr_command):
    build(uri)
    with pytest.raises(StorageError, match="skip_damaged is for a folder"):
        Index.open(uri, skip_damaged=True)
    ran = lsr_command("search", uri, "wing", "--skip-damaged")
    assert (ran.code, "skip_damaged is for a folder" in ran.err) == (1, True)


def test_a_location_without_an_index_is_refused(uri):
    with pytest.raises(IndexFormatError, match=f"not an index: it has no {MANIFEST}"):
        Index.open(uri)
    Place(uri).write("mine.txt", b"x")
    with pytest.raises(OutputExists, match=r"something other than an index is here \(mine\.txt\)"):
        build(uri, overwrite=True)


def test_a_failed_build_leaves_no_index(uri):
    with pytest.raises(ValueError, match="id"):
        Index.build(uri, [{"text": "no id"}], encoder="bm25")
    assert Place(uri).sizes() == {}


# --- damage


def test_a_damaged_manifest_is_refused(uri):
    build(uri)
    content = Place(uri).read(MANIFEST)
    Place(uri).write(MANIFEST, content.replace(b'"n_docs": 20', b'"n_docs": 21'))
    with pytest.raises(CorruptIndex, match="doesn't match its checksum"):
        Index.open(uri)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_not_opened(uri, own_cache, damage, tmp_path):
    build(tmp_path / "idx")
    upload_index(tmp_path / "idx", uri)
    name = next(name for name in read_manifest(tmp_path / "idx")["files"] if name.endswith("postings.arrow"))
    content = (tmp_path / "idx" / name).read_bytes()
    if damage == "gone":
        Place(uri).delete(name)
    else:
        Place(uri).write(name, content[:-1] if damage == "cut" else bytes(len(content)))
    said = {"cut": "expected", "changed": "the content has changed", "gone": "no such file"}[damage]
    for _ in range(2):
        with pytest.raises(StorageError, match=said):
            Index.open(uri)
    assert not list(own_cache.rglob("postings.arrow"))
    assert not list(own_cache.rglob(".fetched-*"))
    upload_index(tmp_path / "idx", uri, overwrite=True)
    if damage == "changed":  # an upload compares only sizes, so it doesn't replace the changed file
        Place(uri).write(name, content)
    assert answers(Index.open(uri)) != []


def test_a_damaged_index_is_not_uploaded(tmp_path, own_cache):
    index = build(tmp_path / "idx")
    name = next(name for name in read_manifest(index.path)["files"] if name.endswith("postings.arrow"))
    (index.path / name).write_bytes(b"x")
    uri = (tmp_path / "there").as_uri()
    with pytest.raises(StorageError, match="doesn't match the manifest"):
        upload_index(index.path, uri)
    assert Place(uri).read(MANIFEST) is None


def test_a_killed_download_resumes(tmp_path, own_cache):
    uri = (tmp_path / "there").as_uri()
    here = build(tmp_path / "idx")
    upload_index(tmp_path / "idx", uri)
    code = """
import os, signal, sys
from lsr.index.sharding import remote
from lsr.io.object_store import Place
remote._THREADS = 1
real, left = os.replace, [int(sys.argv[2])]
def replace(*args):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    real(*args)
os.replace = replace
remote.download_index(sys.argv[1])
"""
    for at in (0, 1, 3):
        done = subprocess.run([sys.executable, "-c", code, uri, str(at)], check=False, env=os.environ)
        assert done.returncode == -signal.SIGKILL
        assert not list(own_cache.rglob(MANIFEST))
    assert list(own_cache.rglob(".fetched-*"))
    assert answers(Index.open(uri)) == answers(here)
    assert not list(own_cache.rglob(".fetched-*"))


def test_an_index_may_be_replaced_during_its_download(tmp_path, own_cache, monkeypatch):
    uri = (tmp_path / "there").as_uri()
    build(uri)
    build(tmp_path / "new", 7)
    real, first = remote._complete, [True]

    def complete(*args):
        if first.pop() if first else False:
            upload_index(tmp_path / "new", uri, overwrite=True)
            for path in own_cache.rglob("*.arrow"):
                path.unlink()
        real(*args)

    monkeypatch.setattr(remote, "_complete", complete)
    assert len(Index.open(uri)) == 7


def test_a_full_cache_is_reported(tmp_path, own_cache, monkeypatch):
    uri = (tmp_path / "there").as_uri()
    build(tmp_path / "idx")
    upload_index(tmp_path / "idx", uri)
    own_cache.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="can't be written"):
        download_index(uri)


def test_commands_accept_a_uri(uri, tmp_path, lsr_command):
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCUMENTS))
    assert lsr_command("index", tmp_path / "docs.jsonl", "--encoder", "bm25", "--out", uri).code == 0
    assert len(lsr_command("search", uri, "wing number3", "-k", "3").lines()) == 3
    assert "all intact" in lsr_command("verify", uri).out
    assert lsr_command("explain", uri, "wing", "d3").code == 0
    ran = lsr_command("delete", uri, "d3")
    assert (ran.code, "can't be changed in place" in ran.err) == (1, True)
    assert lsr_command("export", uri, "--out", tmp_path / "all.jsonl").code == 0
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 20
    ran = lsr_command("serve", f"wings={uri}", "--writable")
    assert (ran.code, "can't be changed in place: wings" in ran.err) == (2, True)
