"""The tables of README.md and docs/ agree with benchmarks/results/."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tables(root, *args):
    return subprocess.run(
        [sys.executable, root / "benchmarks" / "tables.py", *args], capture_output=True, text=True, check=False
    )


def test_tables_are_up_to_date():
    ran = tables(ROOT, "--check")
    assert ran.returncode == 0, ran.stderr


def test_a_figure_edited_by_hand_is_reported_and_restored(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "tables.py", tmp_path / "benchmarks")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    (tmp_path / "docs").mkdir()
    right = (ROOT / "README.md").read_text()
    row = next(line for line in right.splitlines() if line.startswith("| lsr-tiny | "))
    (tmp_path / "README.md").write_text(right.replace(row, row.replace(" 0.", " 0.9")))
    ran = tables(tmp_path, "--check")
    assert (ran.returncode, "README.md" in ran.stderr) == (1, True)
    assert tables(tmp_path).returncode == 0
    assert (tmp_path / "README.md").read_text() == right


def test_every_row_of_the_literature_page_names_a_test_or_says_why_it_has_none():
    text = (ROOT / "docs" / "guides" / "literature.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 30
    for path, function in named:
        assert (ROOT / path).is_file(), path
        assert not function or f"def {function}(" in (ROOT / path).read_text(), f"{path}::{function}"
    for table in re.findall(r"^\|.*\| test \|\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            assert "tests/" in row or "not implemented" in row or "left out" in row, row
