"""The RAG application in examples/ runs offline."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lsr import Index

RAG = Path(__file__).parents[2] / "examples" / "rag.py"


@pytest.fixture
def rag():
    """The application as a module."""
    spec = importlib.util.spec_from_file_location("rag", RAG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def notes(tmp_path):
    """A folder of Markdown files."""
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "wings.md").write_text(
        "# Wings\n\nA swept wing delays the shock wave.\n\n## Flutter\nA panel can flutter.\n"
    )
    (folder / "deep" / "heat.md").write_text("Heat flows along a flat plate.\n\n# Tubes\n\n\nWater cools a tube.\n")
    return folder


def test_paragraphs_under_their_headings(rag, notes):
    found = [(d["source"], d["title"], d["text"]) for d in rag.passages(notes).values()]
    assert found == [
        ("deep/heat.md", "", "Heat flows along a flat plate."),
        ("deep/heat.md", "Tubes", "Water cools a tube."),
        ("wings.md", "Wings", "A swept wing delays the shock wave."),
        ("wings.md", "Flutter", "A panel can flutter."),
    ]


def test_only_what_changed_is_indexed_again(rag, notes, tmp_path):
    path = tmp_path / "notes.idx"
    index, added, deleted = rag.refresh(notes, path)
    assert (added, deleted) == (4, 0)
    answer = rag.answer(index, "Does a panel flutter?")
    assert "[1] wings.md: Flutter\nA panel can flutter." in answer
    assert answer.endswith("Question: Does a panel flutter?")
    assert rag.refresh(notes, path)[1:] == (0, 0)

    (notes / "wings.md").write_text(
        "# Wings\n\nA swept wing delays the shock wave.\n\n## Flutter\nStiff panels are calm.\n"
    )
    (notes / "deep" / "heat.md").unlink()
    (notes / "birds.md").write_text("Birds flap.\n")
    index, added, deleted = rag.refresh(notes, path)
    assert (added, deleted) == (2, 3)
    assert {hit.text for q in ("panel", "birds", "wing", "plate, water") for hit in index.search(q)} == {
        "A swept wing delays the shock wave.",
        "Stiff panels are calm.",
        "Birds flap.",
    }


def test_a_run_that_was_cut_off_leaves_nothing_behind(rag, notes, tmp_path, monkeypatch):
    path = tmp_path / "notes.idx"
    commit = Index.commit

    def cut_off(index):
        commit(index)
        raise KeyboardInterrupt

    monkeypatch.setattr(Index, "commit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        rag.refresh(notes, path)
    monkeypatch.undo()
    (notes / "wings.md").unlink()
    index, added, deleted = rag.refresh(notes, path)
    assert (added, deleted) == (0, 2)
    assert {hit.id.split(":")[0] for q in ("panel", "heat") for hit in index.search(q)} == {"deep/heat.md"}
