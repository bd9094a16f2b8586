"""Stored documents are read back unchanged, by number and by id."""

from __future__ import annotations

import pytest

from lsr.errors import DataError
from lsr.index.segment import doc_store as module
from lsr.index.segment.doc_store import Documents, DocumentsWriter
from lsr.io.document import Document, document_batch

STRANGE = ["", "naïve Ω", "日本語のテキスト", "🙂👩‍👩‍👧", "a\x00b", "line\nbreak\r\n\t", '"quotes" \\', "x" * 3_000_000]


def write(folder, documents, sizes=(), with_text=True):
    writer = DocumentsWriter(folder)
    rest = list(documents)
    for size in [*sizes, len(rest)]:
        writer.write(document_batch(rest[:size], with_text=with_text))
        rest = rest[size:]
    writer.close()
    return Documents(folder, writer.count, writer.has_text), writer


@pytest.mark.parametrize("sizes", [(), (1,), (0, 63, 1, 65), (64, 64), (200, 3, 7)])
@pytest.mark.parametrize("count", [0, 1, 64, 65, 300])
def test_batches_of_any_size_are_read_back_in_order(tmp_path, count, sizes):
    given = [
        Document(f"d{i * 7919 % 1000}", f"text {i}", f"title {i}" if i % 3 else "", {"n": i} if i % 2 else None)
        for i in range(count)
    ]
    read, writer = write(tmp_path, given, sizes)
    assert writer.count == count
    for number, document in enumerate(given):
        assert read.id(number) == document.id
        assert read.parent(number) is None
        assert read.fields(number) == (document.title, document.text, document.metadata or {})
        assert read.find(document.id) == number
    assert list(read.all_ids()) == [document.id for document in given]
    assert read.find("d1000") is read.find("") is read.find("\U0010ffff") is None


def test_ids_are_found_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ID_BATCH", 8)
    given = [Document(f"{i:x}", "") for i in range(100)]
    read, _ = write(tmp_path, given, (5, 30))
    assert [read.find(d.id) for d in given] == list(range(100))
    assert [read.id(i) for i in range(100)] == [d.id for d in given]


def test_any_text_and_any_id_are_stored_unchanged(tmp_path):
    ids = ["é", "e", "z", "日", "🙂", " a b ", "a#0", "\ufeff", "\uffff"]
    given = [
        Document(i, text, text[:50], {"key": text[:50], "deep": [1, {"x": None}]}, parent=f"p{i}")
        for i, text in zip(ids, [*STRANGE, "last"], strict=True)
    ]
    read, writer = write(tmp_path, given)
    assert (writer.has_text, writer.has_parents) == (True, True)
    for number, document in enumerate(given):
        assert read.fields(number) == (document.title, document.text, document.metadata)
        assert (read.id(number), read.parent(number)) == (document.id, document.parent)
        assert read.find(document.id) == number


@pytest.mark.parametrize("first", [0, 6, 7, 8])
@pytest.mark.parametrize("second", [9, 40, 99])
def test_the_error_about_a_duplicate_id_names_both_positions(tmp_path, monkeypatch, first, second):
    monkeypatch.setattr(module, "_ID_BATCH", 8)
    ids = [f"d{i:02}" for i in range(100)]
    ids[second] = ids[first]
    with pytest.raises(DataError, match=rf"'{ids[first]}' .* document {first + 1} and {second + 1}$"):
        write(tmp_path, [Document(i, "") for i in ids], (13, 50))


def test_only_ids_are_stored_if_with_text_is_false(tmp_path):
    read, writer = write(tmp_path, [Document("a", "text", "title", {"n": 1})], with_text=False)
    assert not writer.has_text
    assert not (tmp_path / "texts.arrow").exists()
    assert read.fields(0) == ("", "", {})


def test_texts_are_compressed(tmp_path):
    write(tmp_path, [Document(str(i), "the same sentence again and again " * 20) for i in range(1000)])
    assert (tmp_path / "texts.arrow").stat().st_size < 200_000
