"""Passages that are cut at blocks cover the whole text, have limited sizes, and carry headings and positions."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsr.encode.passages import OVERLAP, SIZE
from lsr.encode.splade import SpladeEncoder, Tower
from lsr.files.documents import _TEXT, read_documents
from lsr.io.document import Block, Document

from .conftest import passages_of, put

WORDS = ["wing", "flow,", "heat.", "*bold*", "x = 1", "日本語。", "a" * 30]
MARKUP = [
    "",
    "# One",
    "## Two",
    "#### Four",
    "- item",
    "  - inner",
    "1. first",
    "> quote",
    "```",
    "~~~",
    "    code",
    "\tcode",
    "===",
    "---",
    "***",
    "| a | b |",
    "|---|---|",
    "<div>",
    "</div>",
    "One",
    ".. note::",
    ".. _target:",
    "   indented",
    "* star",
    "def f():",
    "    return 1",
    "class A:",
    "}",
    "",
]


def texts(words):
    """Texts with lines of the given words, and lines of markup."""
    line = st.lists(st.sampled_from(words), min_size=1, max_size=30).map(" ".join)
    odd = st.sampled_from(["", "\f", "\x0b", "\u2028"])
    return st.lists(st.one_of(line, st.sampled_from(MARKUP), odd), max_size=40).map("\n".join)


def document_of(text, ending):
    """The document that is read from a file with this text and the suffix `ending`."""
    parsed = _TEXT[ending](text)
    return Document("d", parsed.text, parsed.title, None, blocks=tuple(parsed.blocks))


@given(text=texts(WORDS), ending=st.sampled_from([".md", ".rst", ".txt", ".py", ".c"]), size=st.sampled_from([3, 40]))
def test_passages_cover_the_text_and_have_correct_line_numbers(bm25, text, ending, size):
    document = document_of(text, ending)
    if not document.text.strip():
        return
    assert [block.start for block in document.blocks] == sorted({block.start for block in document.blocks})
    lines = text.split("\n")
    for block in document.blocks:
        assert text.split("\n")[block.line - 1] == document.text[block.start :].split("\n")[0]
    passages = passages_of(document, bm25, size=size, overlap=size // 3)
    assert [passage.id for passage in passages] == [f"d#{number}" for number in range(len(passages))]
    covered = 0
    for passage in passages:
        line, end_line = passage.metadata["line"], passage.metadata["end_line"]
        there = "\n".join(lines[line - 1 : end_line])
        assert passage.text in there
        assert passage.text.count("\n") == end_line - line  # the range has no extra line
        assert len(bm25.tokens(passage.text)) <= size
        starts = [found.start() for found in re.finditer(f"(?={re.escape(passage.text)})", document.text)]
        start = max(start for start in starts if not document.text[covered:start].strip() or start <= covered)
        covered = max(covered, start + len(passage.text))
    assert not document.text[covered:].strip()


@given(text=texts(["cat", "dog", "sat", "abc", "ghij", "dogs", "?"]), sizes=st.sampled_from([(0, 0), (10, 3), (30, 0)]))
@example(text="#### Four\n|---|---|\n|---|---|", sizes=(0, 0))
@example(text="# One\n|---|---|\n|---|---|\nabc", sizes=(0, 0))
@example(text="---\n* star\n---", sizes=(0, 0))
@example(text="---\n> quote\n---", sizes=(0, 0))
@example(text="---\n\tcode\n---", sizes=(0, 0))
def test_passages_together_have_every_word_of_the_text(checkpoint_encoder, text, sizes):
    document = document_of(text, ".md")
    if not document.blocks:
        return
    passages = passages_of(document, checkpoint_encoder, size=sizes[0], overlap=sizes[1])
    assert checkpoint_encoder.count_truncated([passage.content for passage in passages]) == 0
    assert {word for passage in passages for word in passage.text.split()} == set(document.text.split())


@pytest.fixture(scope="session")
def checkpoint_encoder(checkpoint):
    """An encoder that reads 24 tokens."""
    return SpladeEncoder(Tower.open(checkpoint))


def test_a_passage_is_titled_with_its_headings(bm25):
    words = " ".join(f"word{i}" for i in range(90))
    text = f"intro\n\n# Guide\n\n## One\n\n{words}\n\n## Two\n\n{words}\n\n### Deep\n\n{words}\n"
    passages = passages_of(document_of(text, ".md"), bm25)
    assert [(p.title, p.metadata["anchor"], p.metadata["line"]) for p in passages[1:]] == [
        ("Guide > Two", "#two", 9),
        ("Guide > Two > Deep", "#deep", 13),
    ]
    # A small section is joined with the next section. The passage has the headings that both sections share.
    assert (passages[0].title, passages[0].metadata["line"]) == ("Guide", 1)
    assert passages[0].text.startswith("intro\n\n# Guide\n\n## One\n\nword0")


def test_small_sections_are_joined_up_to_the_size(bm25):
    entries = "\n".join(f"## Version {i}\n\nFixed thing{i}.\n" for i in range(300))
    passages = passages_of(document_of(f"# Changes\n\n{entries}", ".md"), bm25)
    assert 10 < len(passages) < 150
    assert {passage.title for passage in passages[:-1]} == {"Changes"}


def test_cuts_are_at_blocks_then_lines_then_sentences(bm25):
    paragraph = " ".join(f"word{i}" for i in range(20))
    passages = passages_of(document_of(f"{paragraph}\n\n{paragraph}\n\n{paragraph}", ".txt"), bm25, size=45)
    assert [passage.text for passage in passages] == [f"{paragraph}\n\n{paragraph}", paragraph]
    code = "\n".join(f"    line{i} = value{i}" for i in range(40))
    passages = passages_of(document_of(f"def f():\n{code}", ".py"), bm25, size=15, overlap=8)
    assert all(passage.text.startswith(("def f", "    line")) for passage in passages)  # code keeps its indentation
    sentences = " ".join(f"One two three four{i}." for i in range(20))
    passages = passages_of(document_of(sentences, ".txt"), bm25, size=20, overlap=8)
    assert all(passage.text.startswith("One") and passage.text.endswith(".") for passage in passages)


def test_passages_overlap(bm25):
    text = " ".join(f"word{i}" for i in range(600))
    passages = passages_of(document_of(text, ".txt"), bm25)
    assert all(len(bm25.tokens(passage.text)) == SIZE for passage in passages[:-1])
    assert passages[0].text.split()[-OVERLAP:] == passages[1].text.split()[:OVERLAP]


def test_a_long_title_is_shortened(checkpoint_encoder):
    long = "abc ghij " * 20
    text = f"# {long}\n\n## Cat\n\ndog sat dog sat\n"
    passages = passages_of(document_of(text, ".md"), checkpoint_encoder)
    assert checkpoint_encoder.count_truncated([passage.content for passage in passages]) == 0
    assert {passage.title for passage in passages} <= {"", "Cat"}


def test_a_passage_links_to_its_section(tmp_path, bm25):
    words = " ".join(f"word{i}" for i in range(90))
    put(tmp_path / "a.md", f"# One\n\n{words}\n\n# Two\n\n{words}\n")
    (document,) = read_documents(tmp_path, url="https://x.org/{stem}/")
    assert [passage.metadata["url"] for passage in passages_of(document, bm25)] == [
        "https://x.org/a/#one",
        "https://x.org/a/#two",
    ]


def test_passages_have_page_numbers(bm25):
    text = "one two three\n\nfour five six"
    blocks = (Block(0, (), "page=1", page=1), Block(15, (), "page=2", page=2))
    document = Document("d", text, "T", {"source": "d.pdf"}, blocks=blocks)
    (passage,) = passages_of(document, bm25)
    assert passage.metadata == {"source": "d.pdf", "page": 1, "anchor": "#page=1"}
    first, second = passages_of(document, bm25, size=3)
    assert (first.metadata["page"], second.metadata["page"], second.metadata["anchor"]) == (1, 2, "#page=2")


def test_a_long_block_is_cut(bm25, monkeypatch):
    monkeypatch.setattr("lsr.encode.passages._LONGEST", 100)
    text = "\n".join(f"word{i} in a line" for i in range(200))
    seen = []
    count = bm25.tokens
    monkeypatch.setattr(type(bm25), "tokens", lambda self, text: (seen.append(len(text)), count(text))[1])
    passages = passages_of(document_of(text, ".txt"), bm25)
    assert max(seen) <= 200
    assert "\n".join(passage.text for passage in passages) == text
    lines = text.split("\n")
    assert all("\n".join(lines[p.metadata["line"] - 1 : p.metadata["end_line"]]) == p.text for p in passages)
    unbroken = passages_of(document_of("x" * 1050, ".txt"), bm25)
    assert "".join(passage.text for passage in unbroken) == "x" * 1050


def test_documents_without_blocks_stay_whole(bm25):
    document = Document("d", "word " * 5000)
    assert passages_of(document, bm25) == [document]
    assert passages_of(Document("d", " \n", blocks=(Block(0),)), bm25)[0].id == "d#0"
