"""An index works in forked children, after pickling, and in threads that share it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from operator import methodcaller

import pytest
from numba.core.compiler_lock import global_compiler_lock

from lsr.errors import IndexLocked, OutputError
from lsr.index.async_index import AsyncIndex
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.hybrid.dense import DenseVectors
from lsr.index.hybrid.hybrid import Hybrid, build_dense
from lsr.index.index import Index
from lsr.index.storage.transaction import MergeWorkspace, Transaction
from lsr.index.write import background_merger as merger_module
from lsr.index.write import merge as merging

DOCS = [{"_id": str(i), "text": f"wing flutter {i}", "n": i} for i in range(12)]


def ids(hits):
    return [hit.id for hit in hits]


@contextmanager
def held(lock):
    """Hold a lock in another thread."""
    taken, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            done.wait(600)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(600)
    yield
    done.set()
    thread.join()


def embed(texts):
    return [[float(len(text)), 1.0] for text in texts]


@pytest.fixture
def index(tmp_path):
    return Index.build(tmp_path / "idx", DOCS, encoder="bm25")


@pytest.fixture
def shards(index, tmp_path):
    reshard_index(index.path, tmp_path / "shards", 2)
    return tmp_path / "shards"


# --- forks ------------------------------------------------------------------------------------------------------------


def test_locks_held_by_threads_are_free_in_a_child(index, forked):
    with (
        held(index.snapshot._masking),
        held(index._changes._changing),
    ):  # a filtered search takes one of these locks, and a change takes the other
        assert forked(lambda: ids(index.search("wing", where={"n": {"<": 2}}))) == ["0", "1"]
        assert forked(lambda: [index.pending, index.add([{"_id": "x", "text": "wing"}]).added, index.rollback()]) == [
            False,
            1,
            None,
        ]


def test_a_fork_waits_for_compilation(forked):
    released = []

    def compile_a_while():
        with global_compiler_lock:
            held.set()
            go_on.wait(0.2)
            released.append(True)

    held, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=compile_a_while)
    thread.start()
    held.wait(60)

    def compile_there():
        with global_compiler_lock:
            return released

    assert forked(compile_there) == [True]
    thread.join()
    with global_compiler_lock:  # the parent can still compile
        pass


def test_pending_changes_belong_to_the_parent(index, forked):
    index.add([{"_id": "new", "text": "wing"}])
    index.delete(["0"])

    def child():
        assert not index.pending
        with pytest.raises(OutputError, match="before it forked: commit them there"):
            index.commit()
        with pytest.raises(OutputError, match="before it forked"):
            index.merge()
        with pytest.raises(IndexLocked, match=f"process {os.getppid()}"):
            index.add([{"_id": "x", "text": "wing"}])
        index.rollback()
        index.commit()  # does nothing, because the child has no changes
        index.close()
        return len(index)

    assert forked(child) == 12
    assert index.pending
    index.commit()
    found = ids(index.search("wing", 20))
    assert "new" in found
    assert "0" not in found

    def change():
        index.refresh()
        index.add([{"_id": "child", "text": "wing"}])
        index.commit()
        index.close()
        return len(index)

    assert forked(change) == 13
    index.refresh()
    assert "child" in ids(index.search("wing", 20))
    assert not list(index.path.glob("*.tmp"))


def test_a_child_does_not_end_its_parents_transaction(index, forked):
    with Transaction(index.path) as transaction, MergeWorkspace(index.path) as aside:
        folder = transaction.folder("segment")

        def leave():
            with pytest.raises(OutputError, match="a forked child can't commit it"):
                transaction.commit(index.snapshot.manifest)
            transaction.close()
            aside.close()

        forked(leave)
        assert folder.is_dir()
        assert transaction.scratch.is_dir()
        assert aside.root.is_dir()
        with pytest.raises(IndexLocked):
            Transaction(index.path)


def test_a_child_leaves_merges_to_its_parent(index, forked, monkeypatch, caplog):
    index.add([{"_id": "new", "text": "wing"}])
    index.commit(merge=False)
    begun, go_on = threading.Event(), threading.Event()

    def merge_aside(*args):
        begun.set()
        assert go_on.wait(600)
        return merging.merge_aside(*args)

    monkeypatch.setattr(merger_module, "merge_aside", merge_aside)
    assert index.merge(background=True)
    begun.wait(600)

    def child():
        found = len(index.search("wing", 20))
        index.close()
        merger_module._finish()  # runs at the end of a process
        return found

    assert forked(child) == 13
    go_on.set()
    with caplog.at_level(logging.WARNING):
        index.close()
    assert not caplog.records
    assert index.n_segments == 1
    assert len(index) == 13


def test_a_child_can_search_shards(shards, forked):
    with ShardedIndex.open(shards) as index:
        hits = index.search("wing", 3)

        def child():
            found = ids(index.search("wing", 3)), [hit.text for hit in hits]
            index.close()
            return found

        with hits[0]._documents._fetching:
            assert forked(child) == [["0", "1", "2"], [f"wing flutter {i}" for i in range(3)]]
        assert len(index.search_batch(["wing"], 3)[0]) == 3


# --- pickles ----------------------------------------------------------------------------------------------------------


def test_a_pickled_index_is_opened_by_the_receiver(index, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in (index, Index.open("idx"), Index.open(shards)):
        content = pickle.dumps(one)
        monkeypatch.chdir("/")
        other = pickle.loads(content)
        monkeypatch.chdir(tmp_path)
        assert type(other) is type(one)
        assert ids(other.search("wing", 3)) == ["0", "1", "2"]
    stripped = Index.open(index.path, encoder=index.encoder)
    assert pickle.loads(pickle.dumps(stripped))._given_encoder is not None
    asynchronous = pickle.loads(pickle.dumps(AsyncIndex(index)))
    assert ids(asynchronous.index.search("wing", 1)) == ["0"]


def test_a_pickled_hybrid_gives_equal_results(index, tmp_path):
    hybrid = Hybrid(index, build_dense(index, tmp_path / "vectors", embed))
    other = pickle.loads(pickle.dumps(hybrid))
    assert ids(other.search("wing 11", 3)) == ids(hybrid.search("wing 11", 3))
    assert isinstance(pickle.loads(pickle.dumps(hybrid._dense)), DenseVectors)


def test_errors_about_pickling_say_what_to_do(index, shards):
    index.add([{"_id": "new", "text": "wing"}])
    with pytest.raises(TypeError, match="commit, or roll back"):
        pickle.dumps(index)
    index.rollback()
    with pytest.raises(TypeError, match="its path"):
        pickle.dumps(index.pinned())
    with ShardedIndex.open(shards) as sharded, pytest.raises(TypeError, match=r"ShardedIndex.open\(path"):
        pickle.dumps(sharded)


def test_spawned_processes_accept_an_index(index):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (
            pool.apply(methodcaller("document_frequencies", index.snapshot.parts[0].segment.terms), (index,)).max()
            == 12
        )


# --- threads ----------------------------------------------------------------------------------------------------------


def test_threads_share_one_index_and_any_thread_can_commit(index):
    reader = Index.open(index.path)

    def change(number):
        index.add([{"_id": f"t{number}", "text": "wing"}])
        index.delete([str(number)])
        if number % 4 == 3:
            index.commit(merge=False)  # commits the changes of all threads so far
        return len(index.search("wing", 50))

    with ThreadPoolExecutor(6) as pool:
        sizes = list(pool.map(change, range(12)))
    index.commit()
    assert all(12 <= size <= 12 + 12 for size in sizes)
    assert sorted(ids(index.search("wing", 50))) == sorted(f"t{i}" for i in range(12))
    assert len(reader.search("wing", 50)) == 12  # a reader keeps its snapshot until it refreshes
    reader.refresh()
    assert len(reader) == 12
    assert "t0" in ids(reader.search("wing", 50))
    index.close()
