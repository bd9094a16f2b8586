"""Each example in a docstring (`>>>`) prints the result that the docstring shows."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules():
    """Names of all modules with an example."""
    for wing in ("lsr", "index", "eval"):
        for path in sorted((ROOT / wing).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                yield ".".join(parts if parts[0] == "lsr" else ("lsr", *parts))


MODULES = list(modules())


def test_docstrings_have_examples():
    assert {"lsr.sparse", "lsr.index.index", "lsr.encode.load"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
