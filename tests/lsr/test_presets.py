"""Presets are listed, described, and run by name on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsr.presets import describe, presets

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_presets_have_names_and_descriptions(kind):
    found = presets(kind)
    assert list(found) == sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))
    for name, file in found.items():
        assert file.is_file(), name
        assert 5 < len(describe(file)) < 140, name


@pytest.mark.parametrize(
    ("command", "name", "text"), [("train", "splade-v2", "2109.10086"), ("experiment", "hybrid", "BM25")]
)
def test_presets_are_listed(lsr_command, command, name, text):
    ran = lsr_command(command, "--list")
    assert ran.code == 0
    assert any(line.startswith(name) and text in line for line in ran.out.splitlines())


@pytest.mark.parametrize(
    ("command", "wrong", "right"), [("train", "splade-v22", "splade-v2"), ("experiment", "hybird.yaml", "hybrid")]
)
def test_a_wrong_name_suggests_the_right_name(lsr_command, tmp_path, command, wrong, right):
    ran = lsr_command(command, wrong, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{wrong!r} is neither a file nor a preset. Did you mean {right!r}?" in ran.err


def test_a_preset_is_run_by_its_name(lsr_command, tmp_path):
    """The run ends at a wrong setting, and the error shows that the preset was read."""
    ran = lsr_command("train", "splade-v2", "--out", tmp_path / "out", "--set", "optimizer.steps=many")
    assert ran.code == 1
    assert "optimizer.steps" in ran.err


def test_a_file_takes_precedence_over_a_preset(lsr_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("splade-v2").write_text("model: 3\n")
    ran = lsr_command("train", "splade-v2", "--out", "out")
    assert ran.code == 1
    assert "splade-v2:1" in ran.err
