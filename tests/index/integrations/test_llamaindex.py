"""The retriever for LlamaIndex works alone and in a query engine."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from lsr.index.index import Index

pytest.importorskip("llama_index.core", reason='too large for the extra dev: pip install "lsr-search[llamaindex]"')

from llama_index.core import MockEmbedding, Settings
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from lsr.index.integrations.llamaindex import LsrRetriever


@pytest.fixture
def nodes():
    """Two nodes of one document, and one node without a document."""
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")}
    return [
        TextNode(id_="a", text="Cats sleep.", metadata={"page": 1}, relationships=source),
        TextNode(
            id_="b", text="Dogs bark.", metadata={"page": 2}, relationships=source, excluded_llm_metadata_keys=["page"]
        ),
        TextNode(id_="c", text="Cats and dogs."),
    ]


def test_results_equal_those_of_the_index(folder):
    index = Index.open(folder)
    hits = index.search("flutter of wings", k=2)
    for retriever in (LsrRetriever(index, 2), LsrRetriever(folder, 2)):
        found = retriever.retrieve("flutter of wings")
        assert [(f.node_id, f.text, f.score) for f in found] == [(h.id, h.text, h.score) for h in hits]
    assert found[1].metadata == {"title": "Wings", "year": 1958}
    assert asyncio.run(retriever.aretrieve("flutter of wings")) == found


def test_settings_are_passed_to_the_search(folder):
    with pytest.raises(ValueError, match="alpha must be above 0"):
        LsrRetriever(folder, alpha=7).retrieve("wing")


def test_nodes_are_returned_unchanged(nodes, tmp_path):
    retriever = LsrRetriever.from_nodes(nodes, tmp_path / "idx", encoder="bm25")
    found = {f.node_id: f.node for f in retriever.retrieve("cats and dogs")}
    assert found == {node.node_id: node for node in nodes}
    assert found["a"].ref_doc_id == "book"
    assert found["b"].excluded_llm_metadata_keys == ["page"]


def test_documents_are_returned_as_nodes(tmp_path):
    retriever = LsrRetriever.from_nodes([Document(text="Cats sleep.", doc_id="d")], tmp_path / "idx", encoder="bm25")
    (found,) = retriever.retrieve("cats")
    assert (found.node_id, found.text) == ("d", "Cats sleep.")


def test_the_retriever_works_in_a_query_engine(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(1))
    retriever = LsrRetriever.from_nodes(nodes, tmp_path / "idx", encoder="bm25", k=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of LlamaIndex itself
        answer = RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query("Who barks?")
    assert [f.node_id for f in answer.source_nodes] == ["b"]
    assert "Dogs bark." in str(answer)


def test_a_hit_has_the_matching_passage(passages):
    (found,) = LsrRetriever(passages).retrieve("flutter")
    assert found.node_id == "d"
    assert "Flutter" in found.text
    assert len(found.text) < 50


def test_nodes_are_inserted_replaced_and_deleted(nodes, tmp_path):
    retriever = LsrRetriever.from_nodes(nodes[:2], tmp_path / "idx", encoder="bm25")
    retriever.insert_nodes([TextNode(id_="a", text="Dogs, dogs."), nodes[2]])
    assert [f.node_id for f in retriever.retrieve("dogs")] == ["a", "b", "c"]
    retriever.delete_nodes(["a", "never was"])
    assert {f.node_id for f in retriever.retrieve("dogs")} == {"b", "c"}


Op = FilterOperator
CONDITIONS = [
    ("n", Op.EQ, 7), ("n", Op.NE, 7), ("n", Op.GT, 3.5), ("n", Op.GTE, 8), ("n", Op.LT, 4), ("n", Op.LTE, 4),
    ("n", Op.IN, [1, 2, 99]), ("n", Op.NIN, [1, 2, 99]), ("lang", Op.NE, "en"), ("lang", Op.NIN, ["en", "fr"]),
    ("tags", Op.ANY, ["a", "z"]), ("tags", Op.ALL, ["a", "b"]), ("tags", Op.CONTAINS, "b"),
    ("lang", Op.TEXT_MATCH, "e"), ("lang", Op.IS_EMPTY, None), ("lang", Op.EQ, "de"),
]  # fmt: skip


@pytest.mark.parametrize("condition", list(FilterCondition))
def test_filters_follow_llamaindex_semantics(tmp_path, condition):
    def about(n):
        return {"n": n, "tags": ["a", "b", "c"][: n % 4]} | ({"lang": ("en", "de")[n % 2]} if n % 3 else {})

    nodes = [TextNode(id_=str(n), text="cat " * (12 - n), metadata=about(n)) for n in range(12)]
    index = LsrRetriever.from_nodes(nodes, tmp_path / "idx", encoder="bm25").index
    for i, (key, operator, value) in enumerate(CONDITIONS):
        pair = [MetadataFilter(key=key, operator=operator, value=value)]
        other = CONDITIONS[i - 1]
        pair += [MetadataFilter(key=other[0], operator=other[1], value=other[2])] if i % 2 else []
        filters = MetadataFilters(filters=pair, condition=condition)
        matches = build_metadata_filter_fn(lambda doc_id: about(int(doc_id)), filters)
        found = LsrRetriever(index, 20, filters=filters).retrieve("cat")
        assert [f.node_id for f in found] == [node.node_id for node in nodes if matches(node.node_id)], (key, operator)


def test_filters_can_be_nested_and_combined_with_where(folder):
    year = MetadataFilter(key="year", operator=Op.GT, value=1960)
    filters = MetadataFilters(filters=[MetadataFilters(filters=[year], condition="not"), year], condition="or")
    assert len(LsrRetriever(folder, filters=filters).retrieve("wing")) == 2
    narrowed = LsrRetriever(folder, filters=MetadataFilters(filters=[year]), where={"year": {"<": 1960}})
    assert narrowed.retrieve("wing") == []
    assert [f.node_id for f in LsrRetriever(folder, filters={"year": 1958}).retrieve("wing")] == ["wing"]
    loose = MetadataFilters(filters=[MetadataFilter(key="title", operator=Op.TEXT_MATCH_INSENSITIVE, value="w")])
    with pytest.raises(ValueError, match="text_match_insensitive"):
        LsrRetriever(folder, filters=loose)


def test_options_are_passed_to_the_search(folder):
    found = LsrRetriever(folder, rerank=lambda query, texts: [float(len(text)) for text in texts]).retrieve("wing")
    assert [(f.node_id, f.score) for f in found] == [("wing", 41.0), ("flutter", 38.0)]  # lengths of title and text


def test_callbacks_are_called(folder):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    LsrRetriever(folder, 1, callback_manager=CallbackManager([handler])).retrieve("wing")
    ((_, end),) = handler.get_event_pairs(CBEventType.RETRIEVE)
    assert [f.node_id for f in end.payload["nodes"]] == ["wing"]
