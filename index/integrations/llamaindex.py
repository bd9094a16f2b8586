"""LlamaIndex: an index as a retriever. Needs the extra `llamaindex`.

retriever = LsrRetriever.from_nodes(nodes, "idx", k=5)
engine = RetrieverQueryEngine.from_args(retriever, llm=llm)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Unpack

from lsr.errors import MissingExtra
from lsr.index.index import Hit, Index
from lsr.index.integrations.store import checked, current, opened, put, remove
from lsr.index.search.settings import FilteredOptions
from lsr.index.write.builder import BuildOptions

try:
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError:
    raise MissingExtra("llama-index-core", "llamaindex", "a retriever for LlamaIndex") from None

_NODE = "_node_content"  # the key under which LlamaIndex' stores keep what a node is besides its text


class LsrRetriever(BaseRetriever):
    """Finds nodes in an index, whether it was built of nodes or of other documents.

    Args:
        index: An index or its folder.
        k: How many nodes at most.
        callback_manager: LlamaIndex' own.
        settings: Of `Index.search`: alpha, algorithm and so on.
    """

    def __init__(
        self,
        index: Index | str | PathLike[str],
        k: int = 10,
        *,
        callback_manager: CallbackManager | None = None,
        **settings: Unpack[FilteredOptions],
    ) -> None:
        super().__init__(callback_manager)
        self.index = opened(index)
        self.k = k
        self.settings = checked(settings)

    @classmethod
    def from_nodes(
        cls, nodes: Iterable[BaseNode], path: str | PathLike[str], *, k: int = 10, **build: Unpack[BuildOptions]
    ) -> LsrRetriever:
        """Build an index of nodes: their text is encoded, without metadata; relationships and all else are kept.

        Args:
            nodes: What LlamaIndex' readers and parsers give.
            path: The folder of the index.
            k: How many nodes to find at most.
            build: For `Index.build`: encoder, passages, overwrite and so on.
        """
        return cls(Index.build(path, (_document(node) for node in nodes), **build), k)

    def insert_nodes(self, nodes: Iterable[BaseNode]) -> None:
        """Add nodes and commit; one whose id is there already takes that one's place."""
        put(self.index, [_document(node) for node in nodes])

    def delete_nodes(self, node_ids: Sequence[str]) -> None:
        """Delete nodes and commit; ids that no node has are passed over."""
        remove(self.index, node_ids)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = current(self.index).search(query_bundle.query_str, self.k, **self.settings)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _document(node: BaseNode) -> dict[str, Any]:
    return {"_id": node.node_id, "text": node.get_content(), "metadata": node_to_metadata_dict(node, remove_text=True)}


def _node(hit: Hit) -> BaseNode:
    metadata = hit.metadata
    if _NODE in metadata:
        return metadata_dict_to_node(metadata, text=hit.text)
    title = {"title": hit.title} if hit.title else {}
    return TextNode(id_=hit.id, text=hit.text, metadata={**title, **metadata})
