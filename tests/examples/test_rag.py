"""The RAG application in examples/ runs offline."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from lsr.errors import LeftOut

RAG = Path(__file__).parents[2] / "examples" / "rag.py"


@pytest.fixture
def rag():
    """The application, imported as a module."""
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


def test_passages_have_titles_and_links(rag, notes, tmp_path):
    index, changes = rag.refresh(notes, tmp_path / "notes.idx", url="https://example.org/{stem}")
    assert str(changes) == "2 new"
    best, *_ = rag.passages(index, "Does a panel flutter?")
    assert best == {
        "title": "Wings",
        "text": (notes / "wings.md").read_text().strip(),
        "link": "https://example.org/wings#wings",
    }


def test_only_changed_files_are_indexed_again(rag, notes, tmp_path):
    path = tmp_path / "notes.idx"
    index, _ = rag.refresh(notes, path)
    answer = rag.answer(index, "Does a panel flutter?")
    assert "[1] Wings\n# Wings\n\nA swept wing" in answer
    assert "Question: Does a panel flutter?\n\n[1] wings.md#wings\n" in answer
    assert not rag.refresh(notes, path)[1]

    (notes / "wings.md").write_text(
        "# Wings\n\nA swept wing delays the shock wave.\n\n## Flutter\nStiff panels are calm.\n"
    )
    (notes / "deep" / "heat.md").unlink()
    (notes / "birds.md").write_text("Birds flap.\n")
    index, changes = rag.refresh(notes, path)
    assert str(changes) == "1 new, 1 changed, 1 gone"
    found = {one["link"] for q in ("panel", "birds", "plate, water") for one in rag.passages(index, q)}
    assert found == {"wings.md#wings", "birds.md"}


# (question, pages of the docs that answer it, a pattern that the answering passage contains)
QUESTIONS = [
    ("How do I restrict a search to documents from a certain year?", "guides/filters", '"year": {">=|year>='),
    ("Which file types can be read from a folder?", "guides/folders", r"\.docx|\.csv"),
    ("What happens to an index when its writing process is killed?", "how/durability guides/living-index", "comm"),
    ("Can several processes write to one index at the same time?", "guides/living-index how/processes", "[Ll]ock"),
    ("How can I see why a document was found?", "guides/explanations guides/search", "explain"),
    ("How do I protect the server with a password?", "guides/serve", "key"),
    ("Can I spread an index over several computers?", "guides/many-machines", "Ray|shards"),
    ("How do I keep an index in S3?", "guides/object-storage", "s3://"),
    ("How are long documents handled?", "guides/passages", "passages"),
    ("How do I test whether one system is significantly better than another?", "guides/evaluate", "significan|p-value"),
]  # fmt: skip


def test_the_first_five_passages_answer_questions_about_the_docs(rag, tmp_path):
    docs = RAG.parents[1] / "docs"
    with pytest.warns(LeftOut, match=r"\.svg"):
        index, _ = rag.refresh(docs, tmp_path / "docs.idx", url="https://example.org/{stem}")
    ranks = []
    for question, pages, says in QUESTIONS:
        found = rag.passages(index, question, k=5)
        places = {
            one["link"].removeprefix("https://example.org/").partition("#")[0]: n for n, one in enumerate(found, 1)
        }
        right = [places[page] for page in pages.split() if page in places]
        ranks.append(min((n for n in right if re.search(says, found[n - 1]["text"])), default=0))
    told = list(zip(ranks, QUESTIONS, strict=True))
    assert sum(rank > 0 for rank in ranks) >= 8, told
    assert sum(1 / rank for rank in ranks if rank) / len(ranks) >= 0.45, told
