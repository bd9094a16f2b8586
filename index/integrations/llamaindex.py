"""LlamaIndex: an index as a retriever. Needs the extra `llamaindex`.

retriever = LsrRetriever.from_nodes(nodes, "idx", k=5)
engine = RetrieverQueryEngine.from_args(retriever, llm=llm)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Unpack

from lsr.errors import DataError, MissingExtra
from lsr.index.index import Hit, Index
from lsr.index.integrations.store import checked, current, opened, put, remove
from lsr.index.search.settings import FilteredOptions
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.write.builder import BuildOptions

try:
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError:
    raise MissingExtra("llama-index-core", "llamaindex", "a retriever for LlamaIndex") from None

_NODE = "_node_content"  # LlamaIndex's key for the serialized node without its text


class LsrRetriever(BaseRetriever):
    """Retrieves nodes from an index, whether it was built from nodes or from other documents.

    Args:
        index: An index or its folder.
        k: Maximum number of nodes.
        filters: LlamaIndex filters, or a filter as for `Index.search`.
        callback_manager: Passed on to LlamaIndex.
        settings: Arguments of `Index.search`: alpha, algorithm, rerank and so on.
    """

    def __init__(
        self,
        index: Index | str | PathLike[str],
        k: int = 10,
        *,
        filters: MetadataFilters | Where | Filter | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Unpack[FilteredOptions],
    ) -> None:
        super().__init__(callback_manager)
        self.index = opened(index)
        self.k = k
        given = [settings.get("where"), where_of(filters) if isinstance(filters, MetadataFilters) else filters]
        chosen = [as_filter(one) for one in given if one is not None]
        self.settings = checked({**settings, "where": Filter("all", tuple(chosen)) if chosen else None})

    @classmethod
    def from_nodes(
        cls, nodes: Iterable[BaseNode], path: str | PathLike[str], *, k: int = 10, **build: Unpack[BuildOptions]
    ) -> LsrRetriever:
        """Build an index from nodes. Their texts are encoded and stored; their metadata are only stored.

        Args:
            nodes: Nodes from LlamaIndex readers and parsers.
            path: The folder of the index.
            k: Maximum number of nodes to retrieve.
            build: Arguments of `Index.build`: encoder, passages, overwrite and so on.
        """
        return cls(Index.build(path, (_document(node) for node in nodes), **build), k)

    def insert_nodes(self, nodes: Iterable[BaseNode]) -> None:
        """Add nodes, replacing existing nodes with the same ids, and commit."""
        put(self.index, [_document(node) for node in nodes])

    def delete_nodes(self, node_ids: Sequence[str]) -> None:
        """Delete nodes and commit; unknown ids are ignored."""
        remove(self.index, node_ids)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = current(self.index).search(query_bundle.query_str, self.k, **self.settings)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


_PLAIN = {
    FilterOperator.EQ: "==",
    FilterOperator.GT: ">",
    FilterOperator.LT: "<",
    FilterOperator.GTE: ">=",
    FilterOperator.LTE: "<=",
    FilterOperator.IN: "in",
    FilterOperator.ANY: "in",
    FilterOperator.CONTAINS: "==",  # on a column of lists, == matches any item
    FilterOperator.TEXT_MATCH: "contains",
}
_NEGATED = {FilterOperator.NE: "==", FilterOperator.NIN: "in"}  # negated, these also match nodes without the key


def where_of(filters: MetadataFilters) -> dict[str, Any]:
    """Translate LlamaIndex filters into an index filter.

    Raises:
        DataError: The index lacks an operator.
    """
    parts = [where_of(one) if isinstance(one, MetadataFilters) else _condition(one) for one in filters.filters]
    if filters.condition == FilterCondition.NOT:
        return {"not": {"or": parts}}
    return {"or" if filters.condition == FilterCondition.OR else "and": parts}


def _condition(one: MetadataFilter) -> dict[str, Any]:
    if one.operator == FilterOperator.IS_EMPTY:
        return {"not": {one.key: {"exists": True}}}
    if one.operator in _NEGATED:
        return {"not": {one.key: {_NEGATED[one.operator]: one.value}}}
    if one.operator == FilterOperator.ALL and isinstance(one.value, list):
        return {"and": [{one.key: {"==": value}} for value in one.value]}
    if one.operator not in _PLAIN:
        known = ", ".join(sorted(operator.value for operator in (*_PLAIN, *_NEGATED)))
        raise DataError(f"{one.key}: an index has no operator {one.operator.value!r}; it has {known}", "filters")
    return {one.key: {_PLAIN[one.operator]: one.value}}


def _document(node: BaseNode) -> dict[str, Any]:
    return {"_id": node.node_id, "text": node.get_content(), "metadata": node_to_metadata_dict(node, remove_text=True)}


def _node(hit: Hit) -> BaseNode:
    metadata = hit.metadata
    if _NODE in metadata:
        return metadata_dict_to_node(metadata, text=hit.text)
    title = {"title": hit.title} if hit.title else {}
    return TextNode(id_=hit.id, text=hit.text, metadata={**title, **metadata})
