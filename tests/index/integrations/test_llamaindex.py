"""The retriever for LlamaIndex, inside LlamaIndex."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from lsr.index.index import Index

pytest.importorskip("llama_index.core", reason='heavy, so not among dev: pip install "lsr-search[llamaindex]"')

from llama_index.core import MockEmbedding, Settings
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode

from lsr.index.integrations.llamaindex import LsrRetriever


@pytest.fixture
def nodes():
    """Two nodes of a document, and one by itself."""
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")}
    return [
        TextNode(id_="a", text="Cats sleep.", metadata={"page": 1}, relationships=source),
        TextNode(
            id_="b", text="Dogs bark.", metadata={"page": 2}, relationships=source, excluded_llm_metadata_keys=["page"]
        ),
        TextNode(id_="c", text="Cats and dogs."),
    ]


def test_finds_what_the_index_finds(folder):
    index = Index.open(folder)
    hits = index.search("flutter of wings", k=2)
    for retriever in (LsrRetriever(index, 2), LsrRetriever(folder, 2)):
        found = retriever.retrieve("flutter of wings")
        assert [(f.node_id, f.text, f.score) for f in found] == [(h.id, h.text, h.score) for h in hits]
    assert found[1].metadata == {"title": "Wings", "year": 1958}
    assert asyncio.run(retriever.aretrieve("flutter of wings")) == found


def test_settings_reach_the_search(folder):
    with pytest.raises(ValueError, match="alpha must be above 0"):
        LsrRetriever(folder, alpha=7).retrieve("wing")


def test_nodes_come_back_as_they_were(nodes, tmp_path):
    retriever = LsrRetriever.from_nodes(nodes, tmp_path / "idx", encoder="bm25")
    found = {f.node_id: f.node for f in retriever.retrieve("cats and dogs")}
    assert found == {node.node_id: node for node in nodes}
    assert found["a"].ref_doc_id == "book"
    assert found["b"].excluded_llm_metadata_keys == ["page"]


def test_documents_are_nodes(tmp_path):
    retriever = LsrRetriever.from_nodes([Document(text="Cats sleep.", doc_id="d")], tmp_path / "idx", encoder="bm25")
    (found,) = retriever.retrieve("cats")
    assert (found.node_id, found.text) == ("d", "Cats sleep.")


def test_in_a_query_engine(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(1))
    retriever = LsrRetriever.from_nodes(nodes, tmp_path / "idx", encoder="bm25", k=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LlamaIndex' own
        answer = RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query("Who barks?")
    assert [f.node_id for f in answer.source_nodes] == ["b"]
    assert "Dogs bark." in str(answer)


def test_the_passage_that_matched(passages):
    (found,) = LsrRetriever(passages).retrieve("flutter")
    assert found.node_id == "d"
    assert "Flutter" in found.text
    assert len(found.text) < 50


def test_insert_replace_and_delete(nodes, tmp_path):
    retriever = LsrRetriever.from_nodes(nodes[:2], tmp_path / "idx", encoder="bm25")
    retriever.insert_nodes([TextNode(id_="a", text="Dogs, dogs."), nodes[2]])
    assert [f.node_id for f in retriever.retrieve("dogs")] == ["a", "b", "c"]
    retriever.delete_nodes(["a", "never was"])
    assert {f.node_id for f in retriever.retrieve("dogs")} == {"b", "c"}
