"""`lsr review` asks for judgments, pauses, continues, and reads judgments from a file."""

from __future__ import annotations

import io
import json

import pytest

from lsr.index.index import Index


@pytest.fixture
def index(tmp_path):
    texts = [
        f"{topic} number{i} {word}" for i in range(12) for topic in ("wing", "heart") for word in ("lift", "pulse")
    ]
    docs = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    Index.build(tmp_path / "idx", docs, encoder="bm25")
    return tmp_path / "idx", {f"d{i}" for i, text in enumerate(texts) if "wing" in text}


def test_judgments_are_read_from_a_file(index, lsr_command, tmp_path):
    path, wings = index
    (tmp_path / "judged.tsv").write_text("".join(f"{doc}\t1\n" for doc in sorted(wings)) + "d2\t0\n")
    ran = lsr_command(
        *(
            "review",
            path,
            "--state",
            tmp_path / "state.json",
            "--query",
            "wing",
            "--judgments",
            tmp_path / "judged.tsv",
        ),
        *("--batch", "6", "--target", "0.9", "--out", tmp_path / "found.txt"),
    )
    assert ran.code == 0, ran.err
    found = (tmp_path / "found.txt").read_text().split()
    assert set(found) <= wings
    assert len(found) >= 0.9 * len(wings)
    assert f"{len(found)} relevant documents among" in ran.err
    assert "recall is probably at least 0.9" in ran.err


def test_a_review_asks_and_pauses(index, lsr_command, tmp_path, monkeypatch):
    path, _ = index
    monkeypatch.setattr("sys.stdin", io.StringIO("y\nn\nq\n"))
    ran = lsr_command("review", path, "--state", tmp_path / "state.json", "--query", "wing lift", "--batch", "4")
    assert ran.code == 0, ran.err
    assert ran.out.count("relevant? y, n or q") == 3
    assert "wing number" in ran.out
    assert "1 relevant document among 2 read" in ran.err
    assert f"lsr review {path} --state {tmp_path / 'state.json'} continues" in ran.err
    before = json.loads((tmp_path / "state.json").read_text())["judged"]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\nq\n"))
    assert lsr_command("review", path, "--state", tmp_path / "state.json").code == 0
    after = json.loads((tmp_path / "state.json").read_text())["judged"]
    assert after[:2] == before
    assert len(after) == 3


def test_a_review_that_is_paused_before_the_first_answer_can_be_continued(index, lsr_command, tmp_path, monkeypatch):
    path, _ = index
    how = ("review", path, "--state", tmp_path / "state.json")
    monkeypatch.setattr("lsr.index.cli.review._on_a_page", lambda *_: False)
    assert "paused" in lsr_command(*how, "--query", "wing lift", "--page", 0).err
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    assert "wing number" in lsr_command(*how).out


def test_wrong_arguments_are_refused(index, lsr_command, tmp_path):
    path, _ = index
    (tmp_path / "judged.tsv").write_text("d1\tyes\n")
    ran = lsr_command("review", path, "--state", tmp_path / "a.json", "--judgments", tmp_path / "judged.tsv")
    assert ran.code == 1
    assert "judged.tsv:1: a line must have an id, a tab, and 1 or 0" in ran.err
    (tmp_path / "judged.tsv").write_text("d1\t1\n")
    how = ("review", path, "--state", tmp_path / "a.json", "--judgments", tmp_path / "judged.tsv")
    ran = lsr_command(*how, "--rule", "budget")
    assert ran.code == 2
    assert "the rule budget needs a budget" in ran.err
    ran = lsr_command(*how[:2], "--state", tmp_path / "absent" / "c.json", *how[4:])
    assert ran.code == 2
    assert f"c.json: there is no folder {tmp_path / 'absent'}" in ran.err
    ran = lsr_command(*how, "--budget", "5")
    assert ran.code == 0
    assert "the budget of 5 documents is used up" in ran.err
    assert "recall is probably" not in ran.err  # a review that stops at its budget doesn't estimate recall
    ran = lsr_command(*how, "--target", "0.7")
    assert ran.code == 2
    assert "this review exists and keeps its settings" in ran.err
    (tmp_path / "judged.tsv").write_bytes(b"d1\t\xff\n")
    ran = lsr_command("review", path, "--state", tmp_path / "b.json", "--judgments", tmp_path / "judged.tsv")
    assert ran.code == 1
    assert "judged.tsv: the file isn't UTF-8 text" in ran.err
    assert lsr_command("review", path, "--state", tmp_path / "b.json", "--judgments", tmp_path / "absent").code == 2


def test_a_review_reads_all_documents_that_are_not_deleted(index, lsr_command, tmp_path):
    path, wings = index
    opened = Index.open(path)
    opened.delete([f"d{i}" for i in range(20)])
    live = {doc.id for doc in opened}
    (tmp_path / "judged.tsv").write_text("".join(f"{doc}\t1\n" for doc in sorted(wings)))
    how = ("--judgments", tmp_path / "judged.tsv", "--rule", "budget", "--budget", "1000", "--batch", "7")
    out = ("--query", "wing", "--out", tmp_path / "found.txt")
    ran = lsr_command("review", path, "--state", tmp_path / "a.json", *how, *out)
    assert ran.code == 0, ran.err
    assert "all documents have been read" in ran.err
    judged = [doc for doc, _ in json.loads((tmp_path / "a.json").read_text())["judged"]]
    assert sorted(judged) == sorted(live)
    assert judged[0] in wings
    assert set((tmp_path / "found.txt").read_text().split()) == wings & live


def test_an_index_with_a_hybrid_encoder_can_be_reviewed(lsr_command, tmp_path):
    docs = [
        {"_id": str(i), "text": text} for i, text in enumerate(["wing flutter", "wing lift", "plate heat", "heart"])
    ]
    Index.build(tmp_path / "idx", docs, encoder="lsr-tiny")
    (tmp_path / "judged.tsv").write_text("0\t1\n1\t1\n")
    how = ("--judgments", tmp_path / "judged.tsv", "--batch", "1", "--out", tmp_path / "found.txt")
    assert lsr_command("review", tmp_path / "idx", "--state", tmp_path / "a.json", "--query", "flutter", *how).code == 0
    assert set((tmp_path / "found.txt").read_text().split()) == {"0", "1"}
