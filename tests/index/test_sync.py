"""`lsr sync` applies a folder's new, changed, moved and deleted files to an index, and resumes after a kill."""

from __future__ import annotations

import os
import threading
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.cli import run_command
from lsr.errors import DataError, LeftOut, LsrError, OutputError
from lsr.files.documents import read_documents
from lsr.index.distributed.reshard import reshard_index
from lsr.index.index import Index
from lsr.index.pending_changes import Changes
from lsr.index.write import sync as syncing


@pytest.fixture(autouse=True)
def no_merging(monkeypatch):
    """Disable background merges. They may compile kernels in a thread, which changes the process's warning filters."""
    monkeypatch.setattr(Changes, "merge_in_background", lambda *_, **__: False)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def docs(tmp_path):
    """A folder of three files."""
    put(tmp_path / "docs" / "a.md", "# Wings\n\nswept wings")
    put(tmp_path / "docs" / "sub" / "b.txt", "flat plates")
    put(tmp_path / "docs" / "rows.csv", "id,text\n1,heat of plates\n2,shock waves\n")
    return tmp_path / "docs"


@pytest.fixture
def index(docs, tmp_path):
    """An index of the folder."""
    return Index.build(tmp_path / "idx", read_documents(docs), encoder="bm25")


def contents(index):
    """The (id, digest) pairs of all documents. Passages count under the id of their document."""
    documents = index.snapshot.documents
    numbers = documents.numbers()
    return {(documents.parent(n) or documents.id(n), documents.fields(n)[2]["digest"]) for n in numbers}


def ids(index):
    return sorted(doc_id for doc_id, _ in contents(index))


def test_new_changed_moved_and_deleted_files_are_synced(docs, index):
    same = index.sync(docs)
    assert (str(same), bool(same)) == ("3 unchanged", False)
    put(docs / "new.md", "# Flutter\n\nof wings")
    put(docs / "a.md", "# Wings\n\ndelta wings")
    (docs / "sub" / "b.txt").rename(docs / "sub" / "moved.txt")
    (docs / "rows.csv").unlink()
    assert str(index.sync(docs)) == "1 new, 1 changed, 1 moved, 1 gone"
    assert ids(index) == ["a.md", "new.md", "sub/moved.txt"]
    assert [hit.id for hit in index.search("delta")] == ["a.md"]
    assert index.search("swept") == []
    assert not index.pending
    assert str(Index.open(index.path).sync(docs)) == "3 unchanged"  # the index stores all digests


def test_changes_are_found_by_content_and_not_by_date(docs, index):
    for path in docs.rglob("*.*"):
        os.utime(path, (0, 0))
    assert str(index.sync(docs)) == "3 unchanged"
    before = (docs / "a.md").stat()
    put(docs / "a.md", "# Wings\n\nSWEPT wings")
    os.utime(docs / "a.md", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert str(index.sync(docs)) == "1 changed, 2 unchanged"


def test_deleted_rows_are_removed(docs, index):
    put(docs / "rows.csv", "id,text\n2,shock waves\n3,new\n")
    assert str(index.sync(docs)) == "1 changed, 2 unchanged"
    assert ids(index) == ["a.md", "rows.csv:2", "rows.csv:3", "sub/b.txt"]


def test_unreadable_files_keep_their_passages(docs, index):
    put(docs / "a.md", "---\n: [\n---\n")
    put(docs / "new.pdf", "broken")
    with pytest.warns(LeftOut, match=r"a.md: the front matter isn't YAML(.|\n)*new.pdf: not a whole PDF"):
        synced = index.sync(docs)
    assert (str(synced), len(synced.bad)) == ("2 unchanged", 2)
    assert "a.md" in ids(index)
    put(docs / "a.md", "\n")
    (docs / "new.pdf").unlink()
    with pytest.warns(LeftOut, match=r"files without text: 1 \(a.md\)"):
        assert str(index.sync(docs)) == "1 changed, 2 unchanged"
    assert "a.md" not in ids(index)


def test_a_missing_library_deletes_no_documents(docs, index, monkeypatch):
    put(docs / "a.md", "# Wings\n\nother")
    monkeypatch.setitem(__import__("sys").modules, "markdown_it", None)
    with pytest.warns(LeftOut, match=r"lsr-search\[files\]"):
        index.sync(docs)
    assert "a.md" in ids(index)


def test_documents_that_sync_did_not_add_are_kept(docs, index):
    index.add([{"_id": "mine", "text": "my own wings"}, {"_id": "theirs", "text": "t", "source": "x"}])
    index.commit()
    (docs / "a.md").unlink()
    assert str(index.sync(docs)) == "1 gone, 2 unchanged"
    assert [hit.id for hit in index.search("own wings")] == ["mine"]
    index.add([{"_id": "bad", "text": "t", "source": 7}])
    index.commit()
    with pytest.raises(DataError, match='values other than texts as "source"'):
        index.sync(docs)


def test_another_folder_is_refused(docs, index, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of the 3 files in the index .* exists here"):
        index.sync(tmp_path / "empty")
    monkeypatch.setattr(syncing, "_FEW", 2)
    put(tmp_path / "other" / "x.md", "text")
    with pytest.raises(DataError, match=r"lsr index .*other --out .*idx --overwrite"):
        index.sync(tmp_path / "other")
    put(tmp_path / "other" / "y.md", "# Wings\n\nswept wings")  # a single file of the old folder is enough
    assert str(index.sync(tmp_path / "other")) == "1 new, 1 moved, 2 gone"
    with pytest.raises(DataError, match="no such file or folder"):
        index.sync(tmp_path / "nowhere")


def test_pending_changes_are_not_committed(docs, index):
    index.add([{"_id": "x", "text": "t"}])
    with pytest.raises(OutputError, match="there are uncommitted changes"):
        index.sync(docs)
    index.rollback()
    index.sync(docs)


def test_an_index_without_metadata_is_refused(docs, tmp_path):
    index = Index.build(tmp_path / "bare", read_documents(docs), encoder="bm25", store_text=False)
    with pytest.raises(DataError, match="stores no metadata"):
        index.sync(docs)


def test_an_empty_index_gets_all_files(docs, tmp_path):
    index = Index.build(tmp_path / "none", [], encoder="bm25")
    assert str(index.sync(docs)) == "3 new"


def test_another_url_changes_all_documents(docs, index):
    corpus = read_documents(docs, url="https://x.org")
    assert str(index.sync(corpus)) == "3 changed"
    assert str(index.sync(corpus)) == "3 unchanged"
    assert index.search("swept")[0].metadata["url"] == "https://x.org/a.md#wings"


def test_shards_can_be_synced(docs, index, tmp_path):
    reshard_index(index.path, tmp_path / "shards", 2)
    shards = Index.open(tmp_path / "shards")
    put(docs / "a.md", "# Wings\n\ndelta wings")
    (docs / "sub" / "b.txt").unlink()
    assert str(shards.sync(docs)) == "1 changed, 1 gone, 1 unchanged"
    assert ids(shards) == ["a.md", "rows.csv:1", "rows.csv:2"]


def test_a_killed_sync_resumes(docs, index, monkeypatch):
    for number in range(6):
        put(docs / f"{number}.txt", f"text{number}")
    monkeypatch.setattr(syncing, "_SECONDS", 0.0)  # a commit for each file

    class Killed(BaseException):
        pass

    commit, left = index.commit, [3]

    def dying(**how):
        left[0] -= 1
        if not left[0]:
            raise Killed
        commit(**how)

    monkeypatch.setattr(index, "commit", dying)
    with pytest.raises(Killed):
        index.sync(docs)
    again = Index.open(index.path)
    assert len(ids(again)) == 6
    monkeypatch.setattr(syncing, "_SECONDS", 30.0)
    assert str(again.sync(docs)) == "4 new, 5 unchanged"
    assert len(ids(again)) == 10


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "delete", "move"]), st.integers(0, 4), st.integers(0, 4)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15)  # each example builds a few indexes
@given(rounds=st.lists(STEPS, min_size=1, max_size=3))
def test_a_synced_index_equals_a_new_index(tmp_path_factory, rounds):
    docs, path = tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("index") / "idx"
    put(docs / "always.md", "# Always")
    index = Index.build(path, read_documents(docs), encoder="bm25")
    for steps in rounds:
        for what, one, other in steps:
            file, to = docs / f"{one}.md", docs / f"{other}.md"
            if what == "write":
                put(file, f"# Title{other}\n\nword{other} " * (1 + 400 * (other == 4)))
            elif what == "delete":
                file.unlink(missing_ok=True)
            elif file.exists():
                file.rename(to)
        index.sync(docs)
        anew = Index.build(path.with_name("anew"), read_documents(docs), encoder="bm25", overwrite=True)
        assert contents(index) == contents(anew)
        assert len(index) == len(anew)


# --- progress -----------------------------------------------------------------------------------------------------


def test_progress_counts_encoded_documents(docs, tmp_path, monkeypatch, capsys):
    calls = []
    index = Index.build(
        tmp_path / "idx", read_documents(docs), encoder="bm25", progress=lambda *call: calls.append(call)
    )
    assert calls == [("encoding", 4, None)]  # no total, because the number of rows of a table is unknown
    put(docs / "a.md", "# Wings\n\nother")
    calls.clear()
    index.sync(docs, progress=lambda *call: calls.append(call))
    assert calls == [("encoding", 1, 1)]
    put(docs / "rows.csv", "id,text\n2,shock waves\n3,new\n")
    put(docs / "b.md", "new")
    monkeypatch.setattr("lsr.index.write.sync._SECONDS", 0)  # commits after each file don't reset the progress
    calls.clear()
    index.sync(docs, progress=lambda *call: calls.append(call))
    assert calls == [("encoding", n, None) for n in (1, 2, 3)]
    (docs / "rows.csv").unlink()
    calls.clear()
    Index.build(tmp_path / "few", read_documents(docs), encoder="bm25", progress=lambda *call: calls.append(call))
    assert calls == [("encoding", 3, 3)]


# --- the command line ---------------------------------------------------------------------------------------------


def test_commands_index_and_sync_a_folder(docs, tmp_path, lsr_command):
    idx = tmp_path / "idx"
    ran = lsr_command("index", docs, "--out", idx, "--encoder", "bm25", "--url", "https://x.org/{stem}.html")
    assert (ran.code, ran.err.splitlines()[-1].partition(",")[0]) == (0, f"{idx}: 4 passages")
    hit = lsr_command("search", idx, "swept", "--json").lines()[0]
    assert (hit["_id"], hit["title"]) == ("a.md", "Wings")
    assert hit["metadata"]["url"] == "https://x.org/a.html#wings"
    put(docs / "new.md", "new")
    (docs / "picture.png").write_bytes(b"\x89PNG\0")
    ran = lsr_command("sync", docs, idx, "--url", "https://x.org/{stem}.html")
    assert ran.err.splitlines() == [
        f"{docs}: left out:",
        "  unsupported files, by suffix: 1 (1 .png)",
        "  to list all 1: --left-out FILE, or in Python `bad` of the warning or the corpus",
        f"{idx}: 1 new, 3 unchanged; 5 passages in 2 segments",
    ]
    ran = lsr_command("sync", docs, tmp_path / "made", "--encoder", "bm25")  # makes a new index
    assert ran.err.splitlines()[-1] == f"{tmp_path / 'made'}: 4 new; 5 passages in 1 segment"
    assert (
        lsr_command("sync", tmp_path / "nowhere", idx).err == f"lsr: {tmp_path / 'nowhere'}: no such file or folder\n"
    )
    put(tmp_path / "x.jsonl", '{"_id": "x", "text": "t"}')
    ran = lsr_command("index", tmp_path / "x.jsonl", "--out", tmp_path / "x", "--url", "u", "--encoder", "bm25")
    assert "a url is for a folder of files" in ran.err


def test_left_out_files_and_lines_can_be_listed(docs, tmp_path, lsr_command):
    for number in range(12):
        put(docs / f"{number:02}.pdf", "broken")
    (docs / "picture.png").write_bytes(b"\x89PNG\0")
    idx, listed = tmp_path / "idx", tmp_path / "left-out.txt"
    names = [*(f"{number:02}.pdf" for number in range(12)), "picture.png"]

    def require_listed(*command):
        listed.unlink(missing_ok=True)
        ran = lsr_command(*command, "--left-out", listed)
        lines = listed.read_text().splitlines()
        assert (ran.code, [line.partition(":")[0] for line in lines]) == (0, names)
        assert lines[-1] == "picture.png: .png files aren't supported"
        assert ran.err.count("00.pdf: not a whole PDF") == 1
        assert "and 2 more" in ran.err
        assert "to list all 13: --left-out FILE" in ran.err

    require_listed("index", docs, "--out", idx, "--encoder", "bm25")
    require_listed("index", docs, "--out", tmp_path / "shards", "--encoder", "bm25", "--shards", 2)
    require_listed("encode", docs, "--out", tmp_path / "vectors", "--encoder", "bm25")
    require_listed("sync", docs, idx)
    require_listed("add", idx, docs, "--update")
    require_listed("index", docs, "--out", idx, "--encoder", "bm25", "--overwrite")
    put(docs / "a.md", "")
    for name in ("sub/b.txt", "rows.csv"):
        (docs / name).unlink()
    nothing = (
        ("index", docs, "--out", tmp_path / "none", "--encoder", "bm25"),
        ("index", docs, "--out", tmp_path / "no-shards", "--encoder", "bm25", "--shards", 2),
        ("encode", docs, "--out", tmp_path / "no-vectors", "--encoder", "bm25"),
    )
    for command in nothing:
        listed.unlink()
        ran = lsr_command(*command, "--left-out", listed)
        assert (ran.code, len(listed.read_text().splitlines())) == (1, 14), command


def test_the_list_of_left_out_files_overwrites_no_input(docs, tmp_path, lsr_command):
    idx, lines = tmp_path / "idx", put(tmp_path / "lines.jsonl", '{"_id": "a", "text": "ice"}\n')
    build = ("--out", idx, "--encoder", "bm25", "--left-out")
    commands = [
        (("index", lines, *build, lines), "this file is part of"),
        (("index", docs, *build, docs / "left-out.txt"), "this file is part of"),
        (("encode", docs, *build, tmp_path / "absent" / "left-out.txt"), "there is no folder"),
        (("sync", docs, idx, "--left-out", docs / "left-out.txt"), "this file is part of"),
        (("add", idx, lines, "--left-out", lines), "this file is part of"),
    ]
    for command, message in commands:
        ran = lsr_command(*command)
        assert (ran.code, message in ran.err) == (2, True), ran.err
    assert lines.read_text() == '{"_id": "a", "text": "ice"}\n'
    assert not idx.exists()


def test_sync_does_not_read_an_index_inside_the_folder(docs, lsr_command):
    assert lsr_command("index", docs, "--out", docs / "idx", "--encoder", "bm25").code == 0
    assert lsr_command("sync", docs, docs / "idx").err.endswith("3 unchanged; 4 passages in 1 segment\n")


def test_sync_creates_a_hybrid_index(tmp_path, lsr_command):
    docs = put(tmp_path / "docs" / "a.md", "# Wings\n\nIce on a wing.").parent
    for told in ("1 new; 1 passage in 1 segment\n", "1 unchanged; 1 passage in 1 segment\n"):
        assert lsr_command("sync", docs, tmp_path / "idx", "--hybrid").err.endswith(told)
    assert Index.open(tmp_path / "idx").has_dense
    assert lsr_command("sync", docs, tmp_path / "plain", "--encoder", "bm25").code == 0
    ran = lsr_command("sync", docs, tmp_path / "plain", "--hybrid")
    assert (ran.code, "has no dense vectors: rebuild it" in ran.err) == (2, True)
    ran = lsr_command("sync", tmp_path / "plain", docs)
    assert (ran.code, "the folder of documents comes first" in ran.err) == (2, True)


def test_documents_of_a_folder_are_encoded_and_added(docs, tmp_path, lsr_command):
    vectors = tmp_path / "v.parquet"
    assert lsr_command("encode", docs, "--out", vectors, "--encoder", "bm25").code == 0
    assert lsr_command("index", vectors, "--out", tmp_path / "idx").code == 0
    put(tmp_path / "more" / "m.md", "# More\n\nof wings")
    assert lsr_command("add", tmp_path / "idx", tmp_path / "more").code == 0
    assert ids(Index.open(tmp_path / "idx")) == ["a.md", "m.md", "rows.csv:1", "rows.csv:2", "sub/b.txt"]


def test_shards_of_a_folder_have_the_same_passages(docs, tmp_path, lsr_command):
    put(docs / "long.md", "".join(f"# Part {i}\n\n" + f"word{i} " * 300 + "\n\n" for i in range(4)))
    for name, more in (("one", ()), ("two", ("--shards", "2"))):
        assert lsr_command("index", docs, "--out", tmp_path / name, "--encoder", "bm25", *more).code == 0
    one, two = Index.open(tmp_path / "one"), Index.open(tmp_path / "two")
    assert len(one) == len(two) > 6
    for query in ("word2", "plates"):
        assert [(h.passage, h.title, h.metadata) for h in one.search(query)] == [
            (h.passage, h.title, h.metadata) for h in two.search(query)
        ]


# --- watching -----------------------------------------------------------------------------------------------------


def test_watching_syncs_each_change(docs, index):
    told, done = [], threading.Event()

    class Enough(Exception):
        pass

    def tell(synced):
        told.append(str(synced))
        if len(told) == 1:
            put(docs / ".hidden.md", "hidden")
            put(docs / "later.md", "later")
        else:
            done.set()
            raise Enough

    put(docs / "before.md", "changed before the watch began")
    with pytest.raises(Enough):
        syncing.watch(index, read_documents(docs), tell)
    assert done.is_set()
    assert told == ["1 new, 3 unchanged", "1 new, 4 unchanged"]
    assert Index.open(index.path).search("later")[0].id == "later.md"


def test_watching_needs_watchfiles(docs, index, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)
    with pytest.raises(LsrError, match=r'watchfiles, which is not installed: pip install "lsr-search\[files\]"'):
        run_command("sync", [str(docs), str(index.path), "--watch"])


def test_digests_are_cached_while_files_look_unchanged(docs):
    def digest(corpus):
        (found,) = [found for found in corpus.files() if found.name == "a.md"]
        return corpus.digest(found)

    corpus = read_documents(docs)
    just_now = digest(corpus)
    put(docs / "a.md", "# Wings\n\nSWEPT wings")
    os.utime(docs / "a.md", (0, 0))
    before = digest(corpus)
    assert before != just_now
    put(docs / "a.md", "# Wings\n\ndelta wings")
    os.utime(docs / "a.md", (0, 0))
    assert digest(corpus) == before  # size and date are the same, so the file isn't read again
    assert digest(read_documents(docs)) != before
    os.utime(docs / "a.md", (1, 1))
    assert digest(corpus) != before


def test_a_sync_without_left_out_files_gives_no_warning(docs, index):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.sync(docs)
