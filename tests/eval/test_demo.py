"""lsr demo runs offline on the collection in the package, and overwrites only a folder that it wrote itself."""

from __future__ import annotations

import gzip
import json
import re
from importlib.resources import files

import pytest

pytest.importorskip("ir_measures")


def quality_of(out):
    """{encoder: nDCG@10}, from the demo's table."""
    header, _, *rows = out[out.index("encoder  ") :].partition("\n\n")[0].splitlines()
    assert header.split()[:2] == ["encoder", "nDCG@10"]
    return {row[0]: float(row[1]) for line in rows if len(row := line.rsplit(maxsplit=7)) == 8}


def test_the_demo_prints_quality_latency_and_results(tmp_path, lsr_command):
    """Runs the demo on the whole collection with BM25; `make demo` uses the shipped encoder."""
    ran = lsr_command("demo", "--encoder", "bm25", "--out", tmp_path / "demo")
    assert ran.code == 0, ran.err
    quality = quality_of(ran.out)
    assert list(quality) == ["bm25"]
    assert quality["bm25"] >= 0.355
    assert re.search(r"Latency in ms per query, .* cores", ran.out)
    assert re.search(r"because of .*\w+ \d+%", ran.out)
    assert [line.split()[:2] for line in ran.out.splitlines()[-2:]] == [["lsr", "index"], ["lsr", "--help"]]
    assert lsr_command("search", tmp_path / "demo" / "bm25", "heat transfer in hypersonic flow").lines()


@pytest.fixture
def part(tmp_path, monkeypatch):
    """Make the demo use a sixth of the queries and some of the documents: the whole collection takes a minute."""
    whole, folder = files("lsr.data") / "cranfield", tmp_path / "cranfield"
    (folder / "qrels").mkdir(parents=True)
    lines = (whole / "qrels" / "test.tsv").read_text().splitlines()
    judged = [line.split("\t") for line in lines[1:]]
    asked = sorted({query for query, _, _ in judged})[::6]
    judged = [row for row in judged if row[0] in asked]
    (folder / "qrels" / "test.tsv").write_text("\n".join([lines[0], *map("\t".join, judged)]) + "\n")
    kept = {doc for _, doc, _ in judged}
    docs = gzip.decompress((whole / "corpus.jsonl.gz").read_bytes()).decode().splitlines()
    docs = [doc for number, doc in enumerate(docs) if json.loads(doc)["_id"] in kept or number % 20 == 0]
    (folder / "corpus.jsonl").write_text("\n".join(docs), encoding="utf-8")
    (folder / "queries.jsonl.gz").write_bytes((whole / "queries.jsonl.gz").read_bytes())
    monkeypatch.setattr("lsr.eval.demo.files", lambda _: tmp_path)


@pytest.mark.usefixtures("part")
def test_lsr_tiny_beats_bm25(tmp_path, lsr_command):
    ran = lsr_command("demo", "--encoder", "lsr-tiny", "--out", tmp_path / "demo")
    assert ran.code == 0, ran.err
    quality = quality_of(ran.out)
    assert list(quality) == ["lsr-tiny", "lsr-tiny, learned half", "bm25"]
    assert quality["lsr-tiny"] > quality["bm25"] + 0.01
    assert quality["lsr-tiny, learned half"] > quality["bm25"] - 0.03
    assert "bm25:" not in ran.out  # explanations show words, not tokens such as bm25:wing


@pytest.mark.usefixtures("part")
def test_the_shipped_encoder_beats_bm25(tmp_path, lsr_command):
    """A quick check; benchmarks/quality.py measures whole collections."""
    ran = lsr_command("demo", "--out", tmp_path / "demo")
    assert ran.code == 0, ran.err
    quality = quality_of(ran.out)
    assert quality["lsr-mini, hybrid"] > quality["lsr-mini"] + 0.01
    assert quality["lsr-mini"] > quality["bm25"] + 0.01
    assert "lsr-mini, learned half" in quality


def test_the_demo_does_not_overwrite_a_folder_of_other_files(tmp_path, lsr_command):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    ran = lsr_command("demo", "--out", tmp_path / "mine")
    assert (ran.code, ran.out) == (1, "")
    assert "isn't from a demo" in ran.err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
