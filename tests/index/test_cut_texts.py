"""A call with texts that are too long for the encoder gives one warning, with counts and advice."""

from __future__ import annotations

import json
import warnings

import pytest

from lsr.cli import run_command
from lsr.encode.corpus import Report
from lsr.encode.load import load_encoder
from lsr.encode.passages import Passages
from lsr.errors import CutTexts, DataError, NoTerms
from lsr.index.index import Index

LONG = "a wing in a slipstream " * 120  # 600 words; the encoder reads 512 tokens of a document and 64 of a query
DOCS = [{"_id": "a", "text": "cats purr"}, {"_id": "b", "text": LONG}, {"_id": "c", "text": "dogs"}]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("lsr-mini")


def told(call):
    """The result of a call, and the messages of its warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    assert all(warning.category is CutTexts and warning.filename == __file__ for warning in found)
    return result, [str(warning.message) for warning in found]


def test_building_adding_and_updating_warn_once_per_call(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr("lsr.encode.corpus.CHUNK", 3)
    report = Report()
    many = [document | {"_id": f"{document['_id']}{i}"} for i in range(3) for document in DOCS]
    index, messages = told(lambda: Index.build(tmp_path / "idx", many, encoder=encoder, passages=None, report=report))
    (message,) = messages
    assert message.startswith("1 of 3 documents (33.3%) is longer than the 512 tokens that the encoder reads")
    assert "passages=Passages(512) (or --passages 512)" in message
    assert (report.truncated, report.vectors) == (3, 9)
    assert told(lambda: index.add(DOCS[:1]))[1] == []
    change, messages = told(lambda: index.add(DOCS[1:2]))
    assert messages[0].startswith("1 of 1 document (100.0%)")
    assert len(messages) == change.report.truncated == 1
    assert len(told(lambda: index.update(iter(DOCS)))[1]) == 1
    index.rollback()


@pytest.mark.filterwarnings("always::lsr.errors.NoTerms")
def test_texts_without_terms_give_a_warning(tmp_path):
    documents = [{"_id": "a", "text": "cats"}, {"_id": "b", "text": "?!"}, {"_id": "c", "text": " "}]
    with pytest.warns(NoTerms) as found:
        index = Index.build(tmp_path / "idx", documents, encoder="bm25")
    message = "1 of 3 documents has no text; texts without a term of the encoder, which "
    assert [str(warning.message) for warning in found] == [message + "match nothing: 1"]
    assert found[0].filename == __file__
    with pytest.warns(NoTerms, match="^texts without a term of the encoder, which match nothing: 1$"):
        index.add([{"_id": "d", "text": "\U0001f600"}, {"_id": "e", "text": "dogs"}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.update([{"_id": "d", "text": "dogs"}])
    index.rollback()


def test_passages_give_no_warning(tmp_path, encoder):
    index, messages = told(lambda: Index.build(tmp_path / "idx", DOCS, encoder=encoder, passages=Passages(512)))
    assert messages == told(lambda: index.add([{"_id": "d", "text": LONG}]))[1] == []
    index.rollback()


def test_long_documents_are_cut_into_passages_by_default(tmp_path, encoder):
    index, messages = told(lambda: Index.build(tmp_path / "idx", DOCS, encoder=encoder))
    assert messages == told(lambda: index.add([{"_id": "d", "text": LONG}]))[1] == []
    index.commit(merge=False)
    passages = [hit.passage for hit in index.search("wing in a slipstream", 4)]
    assert sorted(passage.partition("#")[0] for passage in passages) == ["b", "d"]
    assert [hit.passage for hit in index.search("cats")] == ["a"]  # short documents aren't cut
    assert len(index) > len(DOCS)


def test_long_queries_warn_once_per_call(tmp_path, encoder):
    index, _ = told(lambda: Index.build(tmp_path / "idx", DOCS, encoder=encoder))
    assert told(lambda: index.search("wing"))[1] == []
    hits, (message,) = told(lambda: index.search(LONG))
    assert hits[0].id == "b"
    assert message.startswith("1 of 1 query (100.0%) is longer than the 64 tokens that the encoder reads")
    assert "passages" not in message
    with pytest.raises(DataError, match="text 0 holds a byte that isn't UTF-8, 0xe9, at character 3"):
        index.search("caf\udce9")  # Python decodes a Latin-1 byte on the command line to this character
    _, (message,) = told(lambda: index.search_batch(["wing", LONG, LONG]))
    assert message.startswith("2 of 3 queries (66.7%) are longer")


def test_bm25_reads_whole_texts_and_gives_no_warning(tmp_path):
    index, messages = told(lambda: Index.build(tmp_path / "idx", DOCS, encoder="bm25"))
    assert messages == told(lambda: index.search(LONG))[1] == []


def test_commands_print_the_warnings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lsr.encode.corpus.CHUNK", 3)
    source = tmp_path / "docs.jsonl"
    source.write_text("".join(json.dumps(d | {"_id": f"{i}{d['_id']}"}) + "\n" for i in range(2) for d in DOCS))
    run_command("index", [str(source), "--out", str(tmp_path / "idx"), "--whole"])
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("1 of 3 documents (33.3%) is longer than the 512 tokens")  # after the first chunk
    assert said[1].startswith("2 of 6 documents (33.3%) are longer than the 512 tokens")  # at the end, with the total
    run_command(
        "encode", [str(source), "--out", str(tmp_path / "v.parquet"), "--queries", "--encoder", str(tmp_path / "idx")]
    )
    assert "1 of 3 queries (33.3%) is longer than the 64 tokens" in capsys.readouterr().err
    run_command("search", [str(tmp_path / "idx"), LONG])
    assert "1 of 1 query (100.0%) is longer than the 64 tokens" in capsys.readouterr().err
