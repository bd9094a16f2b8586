"""Each adapter names the extra that it needs. All adapters change an index in the same way."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lsr.errors import DataError, DoubledId, OutputExists, install_hint
from lsr.index.index import Index
from lsr.index.integrations.store import opened, opened_or_created, put, remove, stored
from lsr.index.write import builder

LIBRARIES = {
    "langchain": "langchain_core",
    "llamaindex": "llama_index",
    "haystack": "haystack",
    "mcp": "mcp",
    "pyterrier": "pyterrier",
    "mteb": "mteb",
    "sentence_transformers": "sentence_transformers",
}
WITHOUT = f"""
import importlib, sys
sys.modules |= dict.fromkeys({list(LIBRARIES.values())!r})
from lsr.errors import MissingExtra
for name in {list(LIBRARIES)!r}:
    try: importlib.import_module("lsr.index.integrations." + name)
    except MissingExtra as error: print(error)
"""


def test_the_error_about_a_missing_library_names_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120, check=True)
    extras = [name.replace("_", "-") for name in LIBRARIES]
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == [install_hint(extra) for extra in extras]
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()


def test_a_store_accepts_an_index_or_its_folder(folder):
    index = Index.open(folder)
    assert opened(index) is index
    assert opened(str(folder)).path == folder
    assert opened_or_created(folder, "bm25").path == folder


def test_the_function_stored_yields_all_documents(folder):
    assert [(doc_id, title, about["year"]) for doc_id, title, _, about in stored(Index.open(folder))] == [
        ("wing", "Wings", 1958),
        ("plate", "", 1962),
        ("flutter", "", 1962),
    ]


def test_changes_are_committed_together_or_not_at_all(tmp_path):
    index = opened_or_created(tmp_path / "idx", "bm25")
    put(index, [{"_id": "a", "text": "Cats sleep."}, {"_id": "b", "text": "Dogs bark."}])
    put(index, [{"_id": "c", "text": "Dogs sleep."}, {"_id": "a", "text": "Cats purr."}])
    with pytest.raises(DataError):
        put(index, [{"_id": "d", "text": "Birds."}, {"_id": "b", "text": 3}])
    remove(index, ["c", "c", "never was"])
    for one in (index, Index.open(tmp_path / "idx")):
        assert sorted((doc_id, text) for doc_id, _, text, _ in stored(one)) == [
            ("a", "Cats purr."),
            ("b", "Dogs bark."),
        ]
        assert [hit.id for hit in one.search("cats")] == ["a"]
        assert one.search("birds") == []


def test_a_failed_call_keeps_earlier_pending_changes(tmp_path):
    index = opened_or_created(tmp_path / "idx", "bm25")
    index.add([{"_id": "a", "text": "Cats sleep."}])
    with pytest.raises(DataError):
        put(index, [{"_id": "b", "text": 3}])
    with pytest.raises(DoubledId, match="'a' is in the index already"):
        put(index, [{"_id": "a", "text": "Cats purr."}], "refuse")
    assert index.pending
    put(index, [{"_id": "a", "text": "Cats purr."}, {"_id": "b", "text": "Cats."}], "skip")
    assert [(doc_id, text) for doc_id, _, text, _ in stored(index)] == [("a", "Cats sleep."), ("b", "Cats.")]


def test_two_stores_may_create_the_index_at_once(tmp_path, monkeypatch):
    """If two stores find no index and both try to create it, the second store opens the index of the first."""
    put(opened_or_created(tmp_path / "idx", "bm25"), [{"_id": "a", "text": "Cats sleep."}])
    monkeypatch.setattr("lsr.index.integrations.store.MANIFEST", "not yet")
    monkeypatch.setattr("lsr.index.write.builder.check_output_empty", _blind_at_first(builder.check_output_empty))
    assert len(opened_or_created(tmp_path / "idx", "bm25")) == 1
    with pytest.raises(OutputExists, match="exists already"):
        Index.build(tmp_path / "idx", [], encoder="bm25")


def _blind_at_first(look):
    calls = []

    def looked(*args, **kwargs):
        calls.append(args)
        if len(calls) % 2 == 0:
            look(*args, **kwargs)

    return looked


def test_all_passages_of_a_document_are_deleted(passages):
    put(passages, [{"_id": "d", "text": "Birds."}])
    assert [hit.text for hit in passages.search("birds flutter")] in ([], ["Birds."])
    remove(passages, ["d"])
    assert list(stored(passages)) == []
