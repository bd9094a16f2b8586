"""lsr demo runs offline on the collection of the package, and overwrites only its own folder."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("ir_measures")


def test_the_demo_prints_quality_latency_and_results(tmp_path, lsr_command):
    ran = lsr_command("demo", "--encoder", "bm25", "--out", tmp_path / "demo")
    assert ran.code == 0, ran.err
    header, row = next(
        (line.split(), ran.out.splitlines()[n + 2].split())
        for n, line in enumerate(ran.out.splitlines())
        if line.startswith("encoder")
    )
    assert header[:2] == ["encoder", "nDCG@10"]
    assert row[0] == "bm25"
    assert float(row[1]) >= 0.355
    assert re.search(r"Latency in ms per query, .* cores", ran.out)
    assert "because of" in ran.out
    assert lsr_command("search", tmp_path / "demo" / "bm25", "heat transfer in hypersonic flow").lines()


def test_the_shipped_encoder_beats_bm25(tmp_path, lsr_command):
    ran = lsr_command("demo", "--out", tmp_path / "demo")
    assert ran.code == 0, ran.err
    rows = [row for line in ran.out.splitlines() if len(row := line.rsplit(maxsplit=7)) == 8]
    quality = {row[0]: float(row[1]) for row in rows if row[0].startswith("lsr-mini") or row[0] == "bm25"}
    assert quality["lsr-mini, hybrid"] > quality["lsr-mini"] + 0.01
    assert quality["lsr-mini"] > quality["bm25"] + 0.01
    assert quality["lsr-mini, learned half"] > quality["bm25"] - 0.02
    assert re.search(r"because of .*\w+ \d+%", ran.out)
    assert "bm25:" not in ran.out  # whole words


def test_the_demo_replaces_its_own_folder_only(tmp_path, lsr_command):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    ran = lsr_command("demo", "--out", tmp_path / "mine")
    assert (ran.code, ran.out) == (1, "")
    assert "isn't from a demo" in ran.err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
