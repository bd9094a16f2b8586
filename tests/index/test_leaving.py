"""Closing an index: a `with` block commits or rolls back, and lost changes give a warning."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings

import pytest

from lsr import CutTexts, Index, UncommittedChanges
from lsr.errors import DataError, OutputError

pytestmark = pytest.mark.filterwarnings("error::lsr.errors.UncommittedChanges")
NEW = [{"_id": "b", "text": "wing"}]


@pytest.fixture
def path(tmp_path):
    Index.build(tmp_path / "idx", [{"_id": "a", "text": "flow"}], encoder="bm25")
    return tmp_path / "idx"


def test_a_with_block_commits_at_its_end(path):
    with Index.open(path) as index:
        index.add(NEW)
    assert not index.pending
    assert len(Index.open(path)) == 2
    with Index.open(path):
        pass


def change(path, *calls):
    with Index.open(path) as index:
        for call in calls:
            call(index)


def test_an_exception_rolls_the_with_block_back(path):
    with pytest.raises(ZeroDivisionError):
        change(path, lambda index: index.add(NEW), lambda index: 1 / 0)
    with pytest.raises(DataError, match="'b'"):
        change(path, lambda index: index.add(NEW), lambda index: index.add(NEW))
    assert len(Index.open(path)) == 1
    change(path, lambda index: index.add(NEW))  # the lock was released, so another writer succeeds
    assert len(Index.open(path)) == 2


def test_a_failed_commit_at_the_end_of_a_block_is_rolled_back(path, monkeypatch):
    def full(self):
        raise OutputError("the disk is full")

    monkeypatch.setattr("lsr.index.write.writer.Writer.commit", full)
    with pytest.raises(OutputError, match="full"):
        change(path, lambda index: index.add(NEW))
    monkeypatch.undo()
    assert len(Index.open(path)) == 1
    change(path, lambda index: index.add(NEW))


def test_closing_with_uncommitted_changes_warns(path):
    index = Index.open(path)
    index.add(NEW)
    with pytest.warns(
        UncommittedChanges, match=r"idx: changes weren't committed and are lost: call commit\(\)"
    ) as told:
        index.close()
    assert told[0].filename == __file__
    index.close()  # a second close doesn't warn again


def test_dropping_an_index_with_uncommitted_changes_warns(path):
    index = Index.open(path)
    index.add(NEW)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del index
        gc.collect()
    assert [one.category for one in told if one.category is not CutTexts] == [UncommittedChanges]


@pytest.mark.parametrize("end", ["index.commit()", "index.rollback()"])
def test_an_index_without_changes_closes_without_warning(path, end):
    index = Index.open(path)
    index.add(NEW)
    eval(end)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del index
        gc.collect()
    assert told == []


def test_a_process_that_ends_with_uncommitted_changes_warns(path):
    code = f"import lsr\nindex = lsr.Index.open({str(path)!r})\nindex.add({NEW!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.count("UncommittedChanges") == 1
    ran = subprocess.run([sys.executable, "-c", code + "\nindex.commit()"], capture_output=True, text=True, check=True)
    assert ran.stderr == ""


def test_a_forked_child_leaves_the_warning_to_its_parent(path, forked):
    index = Index.open(path)
    index.add(NEW)

    def child():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            index.close()
        return [str(one.message) for one in told]

    assert forked(child) == []
    index.commit()
