"""LangChain: an index as a retriever. Needs the extra `langchain`.

retriever = LsrRetriever(index="idx", k=5)
chain = {"context": retriever, "question": RunnablePassthrough()} | prompt | model
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from lsr.errors import MissingExtra
from lsr.index.index import Hit, Index

from .store import opened, put, remove

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
    from pydantic import ConfigDict, field_validator
except ImportError:
    raise MissingExtra("langchain-core", "langchain", "a retriever for LangChain") from None


class LsrRetriever(BaseRetriever):
    """Finds documents in an index; `ainvoke`, `batch` and `stream` are LangChain's own.

    A document's metadata are its own and the hit's: `score`, and, unless its own have that name, `id`, `title` and
    `passage`.

    Args:
        index: An index or its folder.
        k: How many documents at most.
        settings: Any others are `Index.search`'s: alpha, algorithm and so on. Those of `invoke` come before these.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")

    index: Index
    k: int = 10

    @field_validator("index", mode="before")
    @classmethod
    def _open(cls, index: Any) -> Index:
        return opened(index)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], path: str | PathLike[str], *, k: int = 10, **build: Any
    ) -> LsrRetriever:
        """Build an index of LangChain's documents.

        Args:
            documents: Those without an id get a random one.
            path: The folder of the index.
            k: How many documents to find at most.
            build: For `Index.build`: encoder, passages, overwrite and so on.
        """
        return cls(index=Index.build(path, (_document(document) for document in documents), **build), k=k)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        path: str | PathLike[str],
        *,
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        ids: Iterable[str] | None = None,
        k: int = 10,
        **build: Any,
    ) -> LsrRetriever:
        """Build an index of texts; otherwise as `from_documents`."""
        return cls.from_documents(_documents(texts, metadatas, ids), path, k=k, **build)

    def add_documents(self, documents: Iterable[Document]) -> list[str]:
        """Add documents and commit; one whose id is there already takes that one's place. Gives their ids."""
        mapped = [_document(document) for document in documents]
        put(self.index, mapped)
        return [document["_id"] for document in mapped]

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        ids: Iterable[str] | None = None,
    ) -> list[str]:
        """Add texts and commit; otherwise as `add_documents`."""
        return self.add_documents(_documents(texts, metadatas, ids))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete documents and commit; ids that no document has are passed over."""
        remove(self.index, ids)

    def _get_relevant_documents(self, query: str, *, run_manager: Any = None, **settings: Any) -> list[Document]:
        settings = {"k": self.k, **(self.model_extra or {}), **settings}
        return [_found(hit) for hit in self.index.search(query, **settings)]

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any = None, **settings: Any) -> list[Document]:
        found: list[Document] = await run_in_executor(None, self._get_relevant_documents, query, **settings)
        return found


def _found(hit: Hit) -> Document:
    about = {"id": hit.id, "title": hit.title, "passage": hit.passage}
    return Document(id=hit.id, page_content=hit.text, metadata={**about, **hit.metadata, "score": hit.score})


def _document(document: Document) -> dict[str, Any]:
    doc_id = document.id or str(uuid.uuid4())
    return {"_id": doc_id, "text": document.page_content, "metadata": dict(document.metadata)}


def _documents(texts: Iterable[str], metadatas: Iterable[Any] | None, ids: Iterable[str] | None) -> list[Document]:
    texts = list(texts)
    columns: tuple[Iterable[Any], ...] = (texts, metadatas or [{}] * len(texts), ids or [None] * len(texts))
    return [Document(page_content=text, metadata=about, id=i) for text, about, i in zip(*columns, strict=True)]
