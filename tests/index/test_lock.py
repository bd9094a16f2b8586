"""An open index notices that its folder was moved or replaced, survives interrupts, and accepts relative paths."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lsr.encode.load import load_encoder
from lsr.errors import IndexFormatError, IndexLocked, OutputError
from lsr.index import index as opening
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.hybrid.dense import DenseVectors
from lsr.index.index import Index
from lsr.index.storage.manifest import MANIFEST
from lsr.index.write import writer as writing

DOCUMENTS = [{"_id": f"d{i}", "text": f"wing flow number{i % 5} word{i}", "n": i} for i in range(20)]
ENCODER = load_encoder("bm25")
ENCODER.fit([d["text"] for d in DOCUMENTS])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """An index that tests must not change."""
    return Index.build(tmp_path_factory.mktemp("kept") / "idx", DOCUMENTS, encoder=ENCODER).path


@pytest.fixture
def path(tmp_path, kept):
    """A copy of the index, which the test may change."""
    return shutil.copytree(kept, tmp_path / "idx")


def kinds(path):
    return sorted(p.name.split("-")[0] for p in path.iterdir() if p.name not in (".lock", ".merging"))


# --- paths ------------------------------------------------------------------------------------------------------------


def test_relative_paths_are_resolved_on_opening(tmp_path, monkeypatch):
    for name in "ab":
        Index.build(tmp_path / name / "idx", [{"_id": name, "text": f"wing {name}1"}], encoder=ENCODER)
    before = (tmp_path / "b" / "idx" / MANIFEST).read_bytes()
    monkeypatch.chdir(tmp_path / "a")
    index, dense = Index.open("idx"), DenseVectors.build("dense", [("a", "wing")], lambda texts: [[1.0]] * len(texts))
    new = Index.build("new", DOCUMENTS[:8], encoder=ENCODER)
    shards = reshard_index("new", "shards", 2)
    sharded = ShardedIndex.open("shards")
    monkeypatch.chdir(tmp_path / "b")
    for one in (index, new, Index.open(Path("..", "a", "shards"))):
        one.add([{"_id": "x", "text": "wing"}])
        one.commit()
        assert one.refresh() is False
        assert "x" in one.documents.all_ids()
        assert one.path.is_absolute()
        one.merge(background=True)
        one.close()
    with sharded:
        assert sharded.refresh()
        assert len(sharded) == 9
    assert Path(shards.folder).is_absolute()
    assert dense.path == tmp_path / "a" / "dense"
    assert (tmp_path / "b" / "idx" / MANIFEST).read_bytes() == before
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["idx"]


# --- identity ---------------------------------------------------------------------------------------------------------


def test_another_index_at_the_same_path_is_detected(path, tmp_path):
    index, idle = Index.open(path), Index.open(path)
    index.add([{"_id": "new", "text": "wing"}])
    path.rename(tmp_path / "moved")
    with pytest.raises(OutputError, match=f"^{path}: the index was moved or deleted"):
        index.commit()
    with pytest.raises(OutputError, match="moved or deleted"):
        index.delete(where={"n": 3})
    Index.build(path, DOCUMENTS[:3], encoder=ENCODER)
    manifest = (path / MANIFEST).read_bytes()
    with pytest.raises(OutputError, match="moved or deleted"):
        index.commit()
    for change in (idle.refresh, lambda: idle.delete("d1"), lambda: idle.add([{"_id": "y", "text": "wing"}])):
        with pytest.raises(IndexFormatError, match=f"^{path}: another index has replaced"):
            change()
    other = Index.open(path)
    other.delete("d1")  # succeeds, because `index` holds the lock of the moved folder
    assert (len(index), len(idle), index.pending) == (20, 20, True)
    index.rollback()
    other.rollback()
    assert (path / MANIFEST).read_bytes() == manifest
    assert kinds(path) == [MANIFEST, "segment", "shared"]
    shutil.rmtree(path)
    with pytest.raises(IndexFormatError, match="no such index"):
        idle.refresh()
    (tmp_path / "moved").rename(path)
    assert not idle.refresh()
    idle.delete("d1")  # also removes leftovers of the lost change
    idle.commit()
    assert len(Index.open(path)) == 19
    assert idle.verify() == []


def test_an_index_that_was_moved_back_can_be_committed(path, tmp_path):
    index = Index.open(path)
    index.add([{"_id": "new", "text": "wing"}])
    path.rename(tmp_path / "moved")
    with pytest.raises(OutputError):
        index.commit()
    (tmp_path / "moved").rename(path)
    index.commit()
    assert len(Index.open(path)) == 21


def test_a_background_merge_reports_a_moved_index(path, tmp_path, monkeypatch):
    index = Index.open(path)
    index.delete("d1")
    index.commit(merge=False)
    from lsr.index.write import background_merger

    merge_aside = background_merger.merge_aside
    monkeypatch.setattr(
        background_merger, "merge_aside", lambda *args: path.rename(tmp_path / "moved") and merge_aside(*args)
    )
    index.merge(background=True)
    with pytest.raises(OutputError, match="moved or deleted"):
        index.close()


def test_rebuilt_and_copied_indexes_keep_their_identity(path, tmp_path):
    reader = Index.open(path)
    Index.build(path, DOCUMENTS[:3], encoder=ENCODER, overwrite=True)
    assert (reader.refresh(), len(reader)) == (True, 3)
    shutil.copytree(path, tmp_path / "copy")
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "copy", path)
    assert not reader.refresh()
    reader.delete("d0")
    reader.commit()
    assert len(Index.open(path)) == 2


def test_an_index_without_an_id_gets_an_id(tmp_path):
    shutil.copytree(Path(__file__).parent / "format-3", tmp_path / "idx")
    index, reader = Index.open(tmp_path / "idx"), Index.open(tmp_path / "idx")
    assert "index_id" not in index.snapshot.manifest
    index.delete(list(index.documents.all_ids(parents=True))[:1])
    index.commit()
    assert len(index.snapshot.manifest["index_id"]) == 32
    assert reader.refresh()
    assert reader.snapshot.manifest == index.snapshot.manifest


# --- two objects in one process ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_two_objects_in_one_process_exclude_each_other_like_two_processes(path):
    one, other = Index.open(path), Index.open(path)
    one.delete("d1")
    for change in (lambda: other.delete("d2"), other.merge):
        with pytest.raises(IndexLocked, match=rf"another Index object of this process \({os.getpid()}\) .* since 20"):
            change()
    holder = json.loads((path / ".writer").read_bytes())
    (path / ".writer").write_text(json.dumps(holder | {"pid": 7, "host": "elsewhere"}))
    with pytest.raises(IndexLocked, match=r"another process is writing .*process 7 on 'elsewhere' since 20"):
        other.delete("d2")
    one.commit()
    assert len(other) == 20
    other.delete("d2")
    other.commit()
    assert (len(one), one.stale, one.refresh(), one.stale, len(one)) == (19, True, True, False, 18)


def test_a_commit_during_a_refresh_is_not_undone(path, monkeypatch):
    index, other = Index.open(path), Index.open(path)
    other.delete("d1")
    other.commit()
    latest = opening.latest_snapshot

    def overtaken(*args, **kwargs):
        found = latest(*args, **kwargs)
        monkeypatch.setattr(opening, "latest_snapshot", latest)
        index.delete("d2")
        index.commit()
        return found

    monkeypatch.setattr(opening, "latest_snapshot", overtaken)
    assert index.refresh()
    assert len(index) == 18
    index.refresh()
    assert (len(index), index.stale) == (18, False)


# --- interruptions ----------------------------------------------------------------------------------------------------

_PACKAGE = Path(writing.__file__).parents[1]
_NEW = [{"_id": "new0", "text": "wing"}, {"_id": "d5", "text": "flow"}, {"_id": "new1", "text": "flow"}]


class _Interrupted:
    """Raises KeyboardInterrupt before the `at`-th line that lsr.index runs. `lines` counts the lines that have run."""

    def __init__(self, at):
        self.at, self.lines = at, 0

    def _line(self, frame, event, _):
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line

    def _call(self, frame, event, _):
        path = Path(frame.f_code.co_filename)
        return self._line if _PACKAGE in path.parents and path.parent.name != "kernels" else None

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)


def _after_an_interrupt(path, kept, at, then):
    """Interrupt a commit before its `at`-th line, then write with two objects. Returns the number of lines that ran."""
    shutil.rmtree(path)
    shutil.copytree(kept, path)
    old = [d["_id"] for d in DOCUMENTS]
    new = [doc_id for doc_id in old if doc_id not in ("d5", "d7")] + ["new0", "d5", "new1"]
    index, other = Index.open(path), Index.open(path)
    index.update(_NEW)
    index.delete("d7")
    interrupt = _Interrupted(at)
    try:
        with interrupt:
            index.commit(merge=False)
    except KeyboardInterrupt:
        pass
    assert list(Index.open(path).documents.all_ids()) in (old, new)
    if then == "go on":
        try:
            other.delete("nobody")
        except IndexLocked:
            then = "commit"
    {"commit": index.commit, "roll back": index.rollback, "close": index.close, "go on": lambda: None}[then]()
    ids = list(Index.open(path).documents.all_ids())
    assert ids == new or (ids == old and then != "commit"), ids
    other.update([{"_id": "theirs", "text": "wing"}])  # succeeds, because the lock was released
    other.commit(merge=False)
    index.delete("d1")
    index.commit(merge=False)
    ids = [doc_id for doc_id in [*ids, "theirs"] if doc_id != "d1"]
    assert list(index.documents.all_ids()) == list(Index.open(path).documents.all_ids()) == ids
    assert index.verify() == []
    assert set(kinds(path)) <= {"alive", MANIFEST, "segment", "shared"}
    return interrupt.lines


def test_an_interrupted_commit_is_atomic_and_allows_later_commits(path, kept, monkeypatch):
    """Interrupts a commit before a random line, or before one of the last lines, which release the lock."""
    monkeypatch.setattr(os, "fsync", int)
    lines = _after_an_interrupt(path, kept, 0, "close")
    rng = np.random.default_rng(int(os.environ.get("LSR_SEED", "0")))
    until = time.monotonic() + float(os.environ.get("LSR_LONG_TESTS", "2"))
    for trial in itertools.count():
        back, some = divmod(trial, 2)
        at = int(rng.integers(1, lines + 1)) if some else max(lines - back, 1)
        _after_an_interrupt(path, kept, at, rng.choice(["go on", "commit", "roll back", "close"]))
        if time.monotonic() > until:
            break


@pytest.mark.parametrize("what", ["update", "delete"])
def test_an_interrupted_change_is_complete_or_rolled_back(path, monkeypatch, what):
    """After an interrupt during the second change, both changes can be committed as a whole or must be rolled back."""
    monkeypatch.setattr(os, "fsync", int)
    rng, until = np.random.default_rng(0), time.monotonic() + float(os.environ.get("LSR_LONG_TESTS", "1"))
    index, lines = Index.open(path), 0
    before = {d["_id"] for d in DOCUMENTS} | {"first"}
    after = before | {"new0", "new1"} if what == "update" else before - {"first", "d4", "d16"}
    for trial in itertools.count():
        index.update([{"_id": "first", "text": "wing"}])
        change = (lambda: index.update(_NEW)) if what == "update" else (lambda: index.delete(["first", "d4", "d16"]))
        interrupt = _Interrupted(max(lines - trial // 2, 1) if trial % 2 else int(rng.integers(1, lines + 2)))
        try:
            with interrupt if trial else _Interrupted(0) as interrupt:
                change()
        except KeyboardInterrupt:
            pass
        lines = lines or interrupt.lines
        if index.pending and index._changes._writer._torn:
            for go_on in (index.commit, lambda: index.delete("d0"), lambda: index.add([])):
                with pytest.raises(OutputError, match="interrupted: roll back"):
                    go_on()
            index.rollback()
        index.commit(merge=False)
        assert set(Index.open(path).documents.all_ids()) in (before, after, before - {"first"})
        index.refresh()
        assert index.verify() == []
        index.delete(["new0", "new1", "first"])
        index.update([d for d in DOCUMENTS if d["_id"] in ("d4", "d5", "d16")])
        index.commit(merge=False)
        index.merge()
        if time.monotonic() > until:
            break


def test_an_interrupt_during_the_acquisition_of_a_lock_releases_the_lock(path, monkeypatch):
    index = Index.open(path)
    with monkeypatch.context() as patch:
        patch.setattr("lsr.index.storage.transaction._note_holder", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.delete("d1")
    other = Index.open(path)
    other.delete("d1")
    other.commit()
    assert len(other) == 19
