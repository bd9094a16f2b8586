"""A power cut loses no data: files are synced before they are renamed, and their folders are synced afterwards."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.write import encode_to
from lsr.errors import OutputExists
from lsr.eval.experiment.artifact_cache import Artifacts
from lsr.io.convert import FORMATS, Form, check_out, convert
from lsr.io.corpus import open_corpus
from lsr.io.object_store import Place
from lsr.io.open_vectors import read_vectors
from lsr.io.text_files import new_bytes
from lsr.io.vectors import Vectors, matrix_batches
from lsr.sparse import SparseMatrix


class Disk:
    """Records which files are synced and renamed.

    Attributes:
        renamed: New names of the renamed files.
        wrong: Messages about files that were renamed before they were synced.
        synced: {inode: (size, modification time) of the file when it was synced}.
    """

    def __init__(self, patch):
        self.renamed, self.wrong = [], []
        self.synced, self._open = {}, {}
        fsync, replace = os.fsync, os.replace

        def watched_fsync(descriptor):
            fsync(descriptor)
            status = os.fstat(descriptor)
            self.synced[status.st_ino] = (status.st_size, status.st_mtime_ns)
            self._open.pop(status.st_ino, None)

        def watched_replace(source, target):
            for path in [Path(source), *Path(source).rglob("*")]:
                status = path.stat()
                if path.is_file() and self.synced.get(status.st_ino) != (status.st_size, status.st_mtime_ns):
                    self.wrong.append(f"{path}, named {target}, may be empty")
            replace(source, target)
            self.renamed.append(Path(target).name)
            self._open[os.stat(os.path.dirname(target) or ".").st_ino] = f"{target} may be gone"

        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(os, "replace", watched_replace)
        patch.setattr(os, "rename", watched_replace)

    def at_risk(self):
        """Files that a power cut could lose at this moment."""
        return [*self.wrong, *self._open.values()]


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def vectors():
    matrix = SparseMatrix.from_dense(np.eye(3))
    return Vectors("three", lambda _: matrix_batches(matrix), vocabulary=["a", "b", "c"])


@pytest.mark.parametrize(
    ("format_name", "ending"), [(name, ending) for name, endings in FORMATS.items() for ending in endings]
)
def test_exports_are_synced_before_they_are_renamed(tmp_path, disk, format_name, ending):
    convert(vectors(), tmp_path / f"out{ending}", Form(format_name))
    assert f"out{ending}" in disk.renamed
    assert disk.at_risk() == []


def test_object_stores_sync_local_files(tmp_path, disk):
    place = Place(tmp_path / "place")
    place.write("some", b"content")
    place.fetch("some", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"
    assert {"some", "copy"} <= set(disk.renamed)
    assert disk.at_risk() == []


@pytest.mark.parametrize("out", ["out.parquet", "out.jsonl.gz", "folder"])
def test_vectors_are_synced_before_they_are_renamed(tmp_path, disk, lsr_command, out):
    (tmp_path / "docs.jsonl").write_text('{"_id": "a", "text": "one wing"}\n')
    for _ in range(2):
        ran = lsr_command(
            "encode", tmp_path / "docs.jsonl", "--encoder", "bm25", "--out", tmp_path / out, "--overwrite"
        )
        assert ran.code == 0
    assert out in disk.renamed
    assert disk.at_risk() == []


def test_checkpoints_are_synced_before_they_are_renamed(tmp_path, disk):
    torch, checkpoints = pytest.importorskip("torch"), pytest.importorskip("lsr.train.checkpoints")
    kept = checkpoints.Checkpoints(tmp_path)
    for step in (1, 2, 3):
        kept.save(step, checkpoints.Checkpoint({"model": {"weight": torch.ones(3)}}, {"step": step}))
    assert "checkpoint-00000003" in disk.renamed
    assert [told for told in disk.at_risk() if ".old" not in told] == []  # a removed checkpoint may reappear
    assert kept.load().state == {"step": 3}


def test_caches_and_artifacts_are_synced_before_they_are_valid(tmp_path, disk):
    cache = pytest.importorskip("lsr.train.dataset_cache")
    made_once = cache.made_once(tmp_path / "cache", "texts", "key", lambda folder: (folder / "a").write_bytes(b"text"))

    def make(path):
        (path / "inside").mkdir(parents=True)
        (path / "inside" / "file").write_bytes(b"content")
        return {}

    path, _, _ = Artifacts(tmp_path / "made").get("index", {"a": 1}, make)
    assert {made_once.name, f"{path.name}.json"} <= set(disk.renamed)
    assert (path / "inside" / "file").stat().st_ino in disk.synced
    assert disk.at_risk() == []


def test_published_encoders_are_synced_before_they_are_renamed(tmp_path, disk, lsr_command):
    for _ in range(2):
        ran = lsr_command("publish", "lsr-tiny", "--out", tmp_path / "mine", "--overwrite")
        assert ran.code == 0, ran.err
    assert disk.renamed == ["mine", "mine.old", "mine"]
    assert disk.at_risk() == []
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["mine"]


def test_an_abandoned_file_is_removed(tmp_path, disk):
    def write():
        with new_bytes(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert not list(tmp_path.iterdir())
    assert disk.renamed == []


class Killed(BaseException):
    """Simulates a kill of the process."""


@pytest.fixture
def dying(monkeypatch):
    """Returns a function that runs `work` and raises Killed at the n-th and at each later rename or removal.

    So clean-up code also fails, as in a killed process. The function returns whether `work` was killed.
    """

    def run(n, work):
        steps = [0]

        def step(function):
            def call(*args, **kwargs):
                steps[0] += 1
                if steps[0] >= n:
                    raise Killed
                return function(*args, **kwargs)

            return call

        gc.disable()  # finalizers of earlier tests' objects would call the patched functions
        try:
            with monkeypatch.context() as patch:
                for owner, name in ((os, "replace"), (os, "rename"), (Path, "unlink"), (shutil, "rmtree")):
                    patch.setattr(owner, name, step(getattr(owner, name)))
                work()
        except Killed:
            return True
        finally:
            gc.enable()
        return False

    return run


def test_a_killed_export_can_be_repeated(tmp_path, dying):
    out, n = tmp_path / "out.ndjson", 1
    while dying(n, lambda: convert(vectors(), out)) and not out.exists():
        check_out(out, overwrite=False)
        convert(vectors(), out)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mapping.json", "out.ndjson"]
        with pytest.raises(OutputExists):
            check_out(out, overwrite=False)
        for path in tmp_path.iterdir():
            path.unlink()
        n += 1
    assert n > 2
    assert (tmp_path / "out.mapping.json").exists()  # the mapping is written before the bulk file


@pytest.mark.parametrize("name", ["out.parquet", "out.ndjson"])
def test_an_encoding_that_is_killed_at_its_end_can_be_repeated(tmp_path, dying, name):
    (tmp_path / "docs.jsonl").write_text('{"_id": "a", "text": "one wing"}\n{"_id": "b", "text": "two"}\n')
    encoder = BM25Encoder()
    encoder.fit(["one wing", "two"])
    corpus, out = open_corpus(tmp_path / "docs.jsonl"), tmp_path / name
    n, named = 1, 0
    while dying(n, lambda: encode_to(corpus, lambda: encoder, out, settings="")):
        named += out.exists()
        report = encode_to(corpus, lambda: encoder, out, settings="")
        assert report.documents == 2
        assert [doc_id for batch in read_vectors(out) for doc_id in batch.ids] == ["a", "b"]
        assert not (tmp_path / f"{name}.partial").exists()
        with pytest.raises(OutputExists):
            encode_to(corpus, lambda: encoder, out, settings="")
        for path in tmp_path.glob("out.*"):
            path.unlink()
        n += 1
    assert named  # at least one kill came after the final rename


def test_leftover_files_of_another_run_are_not_reused(tmp_path, dying):
    (tmp_path / "docs.jsonl").write_text('{"_id": "a", "text": "one wing"}\n')
    encoder = BM25Encoder()
    encoder.fit(["one wing"])
    corpus, out = open_corpus(tmp_path / "docs.jsonl"), tmp_path / "out.parquet"
    n = 1
    while dying(n, lambda: encode_to(corpus, lambda: encoder, out, settings="old", overwrite=True)):
        n += 1
        if out.exists():
            break
    with pytest.raises(OutputExists):
        encode_to(corpus, lambda: encoder, out, settings="new")
    (tmp_path / "docs.jsonl").write_text('{"_id": "z", "text": "one wing"}\n')
    encode_to(open_corpus(tmp_path / "docs.jsonl"), lambda: encoder, out, settings="new", overwrite=True)
    assert [doc_id for batch in read_vectors(out) for doc_id in batch.ids] == ["z"]
