"""Background merges don't block other calls, keep changes that are made meanwhile, and leave no files behind."""

from __future__ import annotations

import errno
import os
import threading
import time

import numpy as np
import pytest

from lsr.errors import IndexLocked, OutputError
from lsr.index.index import Index
from lsr.index.storage.transaction import MergeWorkspace, Transaction
from lsr.index.write import background_merger as module
from lsr.index.write import merge as merging
from lsr.index.write import writer as writing
from lsr.sparse import SparseMatrix

N_TERMS = 12
QUERY = SparseMatrix.from_dense(np.ones((1, N_TERMS)))


def rows(n, seed=0):
    return SparseMatrix.from_dense(np.random.default_rng(seed).integers(0, 4, (n, N_TERMS)))


def added(index, first, n, **settings):
    """Add n documents with the ids first, first + 1, …, and commit."""
    index.add(rows(n, first), ids=[str(i) for i in range(first, first + n)])
    index.commit(**settings)


@pytest.fixture
def index(tmp_path):
    """An index of three segments with ten documents each."""
    index = Index.build(tmp_path / "idx", rows(10, 0), ids=[str(i) for i in range(10)])
    added(index, 10, 10, merge=False)
    added(index, 20, 10, merge=False)
    return index


class Gate:
    """Pauses a merge before its result replaces the segments."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *args):
        merged = merging.merge_aside(*args)
        self.reached.set()
        assert self.opened.wait(600)  # a long limit, because kernels may have to be compiled first
        return merged


@pytest.fixture
def gate(monkeypatch):
    gate = Gate()
    monkeypatch.setattr(module, "merge_aside", gate)
    yield gate
    gate.opened.set()


def found(index):
    return [(hit.id, hit.score) for hit in index.search(QUERY, 100)]


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def require_whole(index, n_segments):
    """Check that the index is intact and has `n_segments` segments and no leftover files."""
    assert index.verify() == []
    assert Index.open(index.path).n_segments == n_segments
    left = [p.name.split("-")[0] for p in index.path.iterdir() if not p.name.startswith(".")]
    assert (left.count("segment"), left.count("merging")) == (n_segments, 0)


def test_changes_during_a_merge_are_kept(index, gate):
    index.delete(["3"])
    assert index.merge(background=True)
    gate.reached.wait(60)
    index.delete(["0", "11", "29"])
    index.update(rows(1, 99), ids=["12"])
    added(index, 30, 5)  # doesn't wait for the merge
    assert index.n_segments == 4
    expected = found(index)
    assert found(Index.open(index.path)) == expected
    gate.opened.set()
    index.close()
    assert found(index) == found(Index.open(index.path)) == expected
    assert list(index.documents.all_ids())[-6:] == ["12", "30", "31", "32", "33", "34"]
    assert len(index) == 31
    require_whole(index, 2)


def test_all_documents_may_be_deleted_during_a_merge(index, gate):
    index.merge(background=True)
    gate.reached.wait(60)
    index.delete([str(i) for i in range(30)])
    index.commit()
    gate.opened.set()
    index.close()
    assert (len(index), found(index)) == (0, [])
    require_whole(index, 0)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_merge_does_not_affect_pending_changes(index, gate, end):
    before = found(index)
    index.merge(background=True)
    gate.reached.wait(60)
    index.add(rows(3, 50), ids=["a", "b", "c"])
    index.delete(["5"])
    gate.opened.set()
    until(lambda: index._changes._merging._waiting)
    assert (index.n_segments, found(index)) == (3, before)
    getattr(index, end)()
    if end == "commit":  # the commit installs the waiting merge
        assert index.n_segments == 2
        assert len(index) == 32
    index.close()
    assert (found(index) == before) == (end == "rollback")
    require_whole(index, 2 if end == "commit" else 1)


def test_a_merge_waits_for_another_writer_except_at_exit(index, gate):
    other = Index.open(index.path)
    index.merge(background=True)
    gate.reached.wait(60)
    other.delete(["7"])
    gate.opened.set()
    until(lambda: index._changes._merging._waiting)
    index.close()  # gives up, because another writer may hold the lock for a long time
    assert index.n_segments == 3
    other.commit()
    require_whole(other, 3)
    index.merge(background=True)
    index.refresh()
    other.delete(["8"])
    until(lambda: index._changes._merging._waiting)
    other.commit()
    until(lambda: index.n_segments == 1)
    index.close()
    assert {"7", "8"}.isdisjoint(index.documents.all_ids())
    require_whole(index, 1)


def test_another_writer_may_merge_or_rebuild_during_a_merge(index, gate):
    before, other = found(index), Index.open(index.path)
    index.merge(background=True)
    gate.reached.wait(60)
    other.merge()
    gate.opened.set()
    index.close()
    index.refresh()
    assert found(index) == before
    require_whole(index, 1)
    gate.opened.clear()
    gate.reached.clear()
    added(index, 30, 10, merge=False)
    index.merge(background=True)
    gate.reached.wait(60)
    new = Index.build(index.path, rows(4, 7), overwrite=True)
    gate.opened.set()
    index.close()
    assert found(Index.open(index.path)) == found(new)
    require_whole(new, 1)


def test_only_one_writer_merges_in_the_background(index, gate):
    other = Index.open(index.path)
    index.merge(background=True)
    gate.reached.wait(60)
    assert other.merge(background=True)
    other.close()  # doesn't wait, because another process merges
    assert other.n_segments == 3
    gate.opened.set()
    index.close()
    require_whole(index, 1)


def test_commits_merge_segments_of_similar_size(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "_FACTOR", 2)
    index = Index.build(tmp_path / "idx", rows(1), ids=["first"])
    for i in range(30):
        added(index, i, 1)
    index.close()
    assert index.n_segments == 1
    assert list(index.documents.all_ids()) == ["first", *map(str, range(30))]
    require_whole(index, 1)
    with Index.open(index.path) as again:
        added(again, 30, 1)
    require_whole(again, 1)


def test_a_commit_merges_the_newest_segments_if_there_are_too_many(index, gate, monkeypatch):
    monkeypatch.setattr(writing, "MOST", 12)
    index.merge(background=True)
    gate.reached.wait(60)  # this merge runs during the whole test
    most = 0
    for i in range(30, 80):
        added(index, i, 1)
        most = max(most, index.n_segments)
    assert 12 <= most <= 20
    expected = found(index)
    gate.opened.set()
    index.close()
    assert found(index) == expected
    assert len(index) == 80
    require_whole(index, index.n_segments)


def test_a_commit_is_kept_if_the_merge_after_it_fails(index, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing, "MOST", 2)
    monkeypatch.setattr(writing, "plan_merges", lambda *_, newest: (1, 3))
    with monkeypatch.context() as patch:
        patch.setattr(writing, "merge_parts", full)
        added(index, 30, 1)
    assert "merging failed" in caplog.text
    assert not index.pending
    assert (len(index), index.n_segments) == (31, 4)
    added(index, 31, 1)
    assert len(index) == 32
    require_whole(index, 2)


def test_searches_during_a_merge_give_equal_results(index):
    expected, done, wrong = found(index), threading.Event(), []

    def search():
        while not done.is_set():
            wrong.extend([None] if found(index) != expected else [])

    searching = threading.Thread(target=search)
    searching.start()
    index.merge(background=True)
    index.close()
    done.set()
    searching.join()
    assert (wrong, index.n_segments) == ([], 1)


def test_document_numbers_stay_valid_in_a_pinned_index(index):
    pinned, hit = index.pinned(), index.search(QUERY, 1)[0]
    index.delete(["0", "1"])
    index.merge()
    assert [pinned.documents.id(h.doc) for h in pinned.search(QUERY, 100)] == [i for i, _ in found(pinned)]
    assert len(pinned) == 30
    assert (pinned.documents.id(hit.doc), hit.id) == (hit.id, hit.id)


def test_a_failed_merge_is_reported_and_changes_nothing(index, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = found(index)
    with monkeypatch.context() as patch:
        patch.setattr(module, "merge_aside", full)
        index.merge(background=True)
        until(lambda: caplog.records)
        with pytest.raises(OutputError, match=f"^{index.path}: can't be written: No space left"):
            index.close()
    assert "merging in the background failed" in caplog.text
    assert found(index) == before
    require_whole(index, 3)
    index.merge(background=True)  # succeeds, because the disk is no longer full
    index.close()
    require_whole(index, 1)


def test_a_merge_can_be_abandoned(index, monkeypatch):
    reached = threading.Event()

    def stopped(aside, parts, settings, stop):
        reached.set()
        assert stop.wait(60)
        return merging.merge_aside(aside, parts, settings, stop)

    monkeypatch.setattr(module, "merge_aside", stopped)
    index.merge(background=True)
    reached.wait(60)
    index.close(wait=False)
    require_whole(index, 3)


PROCESS = """
    import sys, time
    from lsr.index.write import background_merger as merger
    from lsr.index.index import Index
    merge_aside = merger.merge_aside
    merger.merge_aside = lambda *args: time.sleep(0.5) or merge_aside(*args)
    index = Index.open(sys.argv[1])
    index.merge(background=True)
    if sys.argv[2] == "pending":
        index.delete("1")
    print(index.n_segments)
"""


@pytest.mark.parametrize(("left", "n_segments"), [("nothing", 1), ("pending", 3)])
def test_exit_waits_for_merges_but_not_for_uncommitted_changes(index, python, left, n_segments):
    code, out, error = python(PROCESS, index.path, left)
    assert (code, out, error) == (0, "3\n", "")
    index.refresh()
    assert len(index) == 30
    index.delete(["absent"])  # a writer removes leftovers
    require_whole(index, n_segments)


def test_leftovers_of_dead_processes_are_removed_and_files_in_use_are_kept(index):
    dead = index.path / "merging-0123456789abcdef"
    (dead / "segment-0123456789abcdef").mkdir(parents=True)
    with MergeWorkspace(index.path) as aside:
        index.delete(["1"])
        index.commit(merge=False)
        assert aside.root.is_dir()
        with pytest.raises(IndexLocked, match="another process is merging"):
            MergeWorkspace(index.path)
    index.delete(["2"])
    index.commit(merge=False)
    require_whole(index, 3)


@pytest.mark.usefixtures("impatient")
def test_a_lock_may_be_released_by_another_thread(index):
    taken = []
    thread = threading.Thread(target=lambda: taken.append(Transaction(index.path)))
    thread.start()
    thread.join()
    with pytest.raises(IndexLocked, match=rf"of this process \({os.getpid()}\) has been writing"):
        Transaction(index.path)
    taken[0].close()
    with Transaction(index.path):
        pass


def test_a_writer_waits_briefly_for_a_commit(index):
    """Other writers wait, because a commit or the installation of a merge holds the lock only briefly."""
    held = Transaction(index.path)
    other = threading.Timer(0.2, held.close)
    other.start()
    index.delete(["1"])
    other.join()
    assert index.pending
