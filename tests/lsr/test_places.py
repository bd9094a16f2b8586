"""Local folders and object storage: a file is complete or absent, and problems are reported."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from lsr.errors import DataError, StorageError
from lsr.fingerprint import Fingerprint
from lsr.io import object_store, remote_files
from lsr.io.corpus import open_corpus
from lsr.io.object_store import Place, cache_folder, is_remote, with_suffix
from lsr.io.open_vectors import holds_vectors, read_vectors
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import SparseMatrix

KINDS = ["path", "file", "s3"]


@pytest.fixture(params=KINDS)
def where(request, tmp_path):
    """An empty location of each kind: a path, a file URI, or an S3 URI."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")("a folder/here")
    path = tmp_path / "a folder" / "here"
    return str(path) if request.param == "path" else path.as_uri()


def write(path, content):
    path.write_bytes(content)
    return path


# --- names


@pytest.mark.parametrize(
    ("name", "remote"),
    [("s3://b/k", True), ("gs://b", True), ("file:///x", True), ("idx", False), ("s3:/b", False), ("http://x", False)],
)
def test_uris_are_recognized(name, remote):
    assert is_remote(name) == remote


def test_suffixes_are_inserted_before_the_query_string():
    assert with_suffix("idx/", ".partial") == "idx.partial"
    assert with_suffix("s3://b/idx/?region=x", ".partial") == "s3://b/idx.partial?region=x"
    assert with_suffix("s3://b/idx", "/part") == "s3://b/idx/part"


def test_the_cache_folder_can_be_set(monkeypatch, tmp_path):
    monkeypatch.delenv("LSR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lsr"
    monkeypatch.setenv("LSR_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


# --- files


def test_files_are_read_back_unchanged(where, tmp_path):
    place = Place(where)
    assert place.sizes() == {}
    assert place.read("a.json") is None
    assert place.stat("a.json") is None
    content = os.urandom(object_store._PIECE + 17)  # the content has more than one piece
    wanted = place.put(write(tmp_path / "big", content), "inner/big.gz")
    assert wanted["bytes"] == len(content)
    place.write("a.json", b"{}")
    assert Place(where).sizes() == {"a.json": 2, "inner/big.gz": len(content)}
    assert place.read("a.json") == b"{}"
    place.fetch("inner/big.gz", tmp_path / "new" / "copy", wanted)
    assert (tmp_path / "new" / "copy").read_bytes() == content
    assert os.listdir(tmp_path / "new") == ["copy"]
    state = place.stat("a.json")
    place.write("a.json", b"{1}")
    assert place.stat("a.json") != state
    place.delete("a.json", "never there")
    assert place.sizes() == {"inner/big.gz": len(content)}


@pytest.mark.parametrize(("there", "said"), [(b"shor", "4 bytes, 5 expected"), (b"other", "content has changed")])
def test_unexpected_content_is_refused(where, tmp_path, there, said):
    place = Place(where)
    wanted = place.put(write(tmp_path / "x", b"whole"), "x")
    place.write("x", there)
    with pytest.raises(StorageError, match=said) as refused:
        place.fetch("x", tmp_path / "copies" / "x", wanted)
    assert with_suffix(where, "/x") in str(refused.value)
    assert os.listdir(tmp_path / "copies") == []


def test_the_error_names_a_missing_remote_file(where, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        Place(where).fetch("x", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_kill_leaves_no_partial_file(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from lsr.io import object_store
object_store._PIECE = 10
read, calls = os.fsync, []
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
place = object_store.Place(sys.argv[1])
if sys.argv[2] == "put":
    place.put(Path(sys.argv[3]), "x")
else:
    place.fetch("x", Path(sys.argv[3]))
"""
    source = write(tmp_path / "source", b"long enough for three")
    args = [sys.executable, "-c", code, str(tmp_path / "place")]
    assert subprocess.run([*args, "put", str(source)], check=False).returncode == -signal.SIGKILL
    place = Place(tmp_path / "place")
    assert place.read("x") is None
    place.put(source, "x")
    assert subprocess.run([*args, "fetch", str(tmp_path / "copy")], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "copy").exists()


# --- errors of servers


def test_the_error_names_a_missing_bucket(bucket):
    with pytest.raises(StorageError, match="no such bucket"):
        Place(bucket("x", bucket="nobodys")).sizes()


def test_denied_access_is_reported(bucket, monkeypatch):
    place = Place(bucket("x"))
    place.write("a", b"1")
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)  # the server refuses all credentials
    for attempt in (place.sizes, lambda: place.read("a"), lambda: place.write("b", b"2"), lambda: place.stat("a")):
        with pytest.raises(StorageError, match="access is denied: check the credentials"):
            attempt()


@pytest.fixture
def short_waits(monkeypatch):
    monkeypatch.setattr(object_store, "_CONNECT", 0.5)
    monkeypatch.setattr(object_store, "_ANSWER", 0.5)
    monkeypatch.setattr(object_store, "_ATTEMPTS", 2)


@pytest.fixture
def silent():
    """The address of a server that accepts connections but never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_does_not_answer_is_reported(bucket, silent, short_waits):
    place = Place(f"s3://bucket/x?endpoint_override=127.0.0.1:{silent}&scheme=http")
    with pytest.raises(StorageError, match="no answer in time"):
        place.read("a")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_server_is_reported(own_cache, short_waits, monkeypatch, scheme):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    who = "anonymous@" if scheme == "gs" else ""
    place = Place(f"{scheme}://{who}bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http")
    with pytest.raises(StorageError, match="can't be reached"):
        place.sizes()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://key:secret@bucket/x", "credentials don't belong in a URI"),
        ("s3://bucket/x?regoin=eu", "no option 'regoin'; there are endpoint_override, region, scheme"),
        ("s3:///x?region=eu", "the URI needs a bucket"),
    ],
)
def test_invalid_uris_are_refused(uri, said):
    with pytest.raises(StorageError, match=said) as refused:
        Place(uri)
    assert "secret" not in str(refused.value)


# --- texts and vectors


def test_a_corpus_is_read_from_object_storage(where, tmp_path):
    lines = b"".join(json.dumps({"_id": f"d{i}", "text": f"text {i}"}).encode() + b"\n" for i in range(5))
    place = Place(where)
    place.write("corpus.jsonl", lines)
    place.write("queries.jsonl", b'{"_id": "q", "text": "a query"}\n')
    corpus = open_corpus(where)
    assert [d.id for d in corpus] == [d.id for d in corpus] == [f"d{i}" for i in range(5)]
    assert [d.text for d in open_corpus(where, queries=True)] == ["a query"]
    assert [d.id for d in open_corpus(with_suffix(where, "/corpus.jsonl"))] == [f"d{i}" for i in range(5)]
    assert not holds_vectors(where)
    before = corpus.identity
    place.write("corpus.jsonl", lines + b"no JSON\n")
    assert open_corpus(where).identity != before
    with pytest.raises(DataError, match=r"corpus\.jsonl.*:6: not JSON"):
        list(open_corpus(where))


def test_a_folder_without_texts_is_refused(where):
    Place(where).write("other.txt", b"x")
    with pytest.raises(DataError, match="no "):
        open_corpus(where)


def test_vectors_are_read_from_object_storage(where, tmp_path):
    save_matrix(tmp_path / "v.parquet", SparseMatrix.from_dicts([{1: 2.0}, {0: 1.0, 2: 3.0}], 3), ["a", "b"])
    place = Place(where)
    wanted = place.put(tmp_path / "v.parquet", "part-00000.parquet")
    file = with_suffix(where, "/part-00000.parquet")
    assert holds_vectors(file)
    vectors = read_vectors(file)
    assert [batch.ids for batch in vectors] == [["a", "b"]]
    assert vectors.fingerprint == Fingerprint(vocabulary_size=3)
    if is_remote(where):
        with pytest.raises(DataError, match="and no complete folder of vectors"):
            read_vectors(where)
    place.write(remote_files.PARTS_FILE, json.dumps({"parts": {"part-00000.parquet": wanted}}).encode())
    assert holds_vectors(where)
    assert [batch.ids for batch in read_vectors(where)] == [["a", "b"]]


def test_a_changed_folder_of_vectors_is_refused(tmp_path):
    where = (tmp_path / "v").as_uri()
    place = Place(where)
    save_matrix(tmp_path / "v.parquet", SparseMatrix.from_dicts([{1: 2.0}], 3))
    wanted = place.put(tmp_path / "v.parquet", "part-00000.parquet")
    place.write("part-00000.parquet", b"cut")
    place.write(remote_files.PARTS_FILE, json.dumps({"parts": {"part-00000.parquet": wanted}}).encode())
    with pytest.raises(StorageError, match=f"3 bytes, {wanted['bytes']} expected"):
        read_vectors(where)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"parts": {}}', b'{"parts": {"../x": {"bytes": 1, "sha256": ""}}}'])
def test_a_damaged_list_of_parts_is_refused(tmp_path, content):
    where = (tmp_path / "v").as_uri()
    Place(where).write(remote_files.PARTS_FILE, content)
    with pytest.raises(DataError, match=r"vectors\.json is damaged"):
        read_vectors(where)


def test_several_threads_may_write_one_file(tmp_path):
    place, errors = Place(tmp_path / "x"), []

    def write_some():
        try:
            for i in range(20):
                place.write("a", str(i).encode())
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert place.sizes() == {"a": 2}
