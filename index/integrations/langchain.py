"""LangChain: an index as a retriever. Needs the extra `langchain`.

retriever = LsrRetriever(index="idx", k=5)
chain = {"context": retriever, "question": RunnablePassthrough()} | prompt | model
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from os import PathLike
from typing import Any, Unpack

from lsr.errors import MissingExtra
from lsr.index.index import Hit, Index
from lsr.index.integrations.store import checked, current, opened, put, remove
from lsr.index.search.settings import Algorithm, Mode, SearchSettings
from lsr.index.write.builder import BuildOptions

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
    from pydantic import ConfigDict, field_validator, model_validator
except ImportError:
    raise MissingExtra("langchain-core", "langchain", "a retriever for LangChain") from None


class LsrRetriever(BaseRetriever):
    """Finds documents in an index; `ainvoke`, `batch` and `stream` are LangChain's own.

    A document's metadata are its own and the hit's: `score`, and, unless its own have that name, `id`, `title` and
    `passage`. Each search sees what was committed last, as of `current`.

    Attributes:
        index: An index or its folder.
        k: How many documents at most.
        where: Which documents may be found, by their metadata, as of `Index.search`.
        algorithm: This and what follows are `SearchSettings`. Those of `invoke` come before these.
    """

    # LangChain makes retrievers anew of their declared fields; what isn't one would be lost, so it is refused.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", validate_assignment=True)

    index: Index
    k: int = 10
    where: Any = None
    algorithm: Algorithm = SearchSettings.algorithm
    alpha: float = SearchSettings.alpha
    beta: float = SearchSettings.beta
    guaranteed: int = SearchSettings.guaranteed
    cut: int = SearchSettings.cut
    heap_factor: float = SearchSettings.heap_factor
    best_passages: int = SearchSettings.best_passages
    mode: Mode = SearchSettings.mode
    dense_weight: float = SearchSettings.dense_weight

    @field_validator("index", mode="before")
    @classmethod
    def _open(cls, index: Any) -> Index:
        return opened(index)

    @model_validator(mode="after")
    def _check(self) -> LsrRetriever:
        checked(self._settings())
        return self

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("where", *(field.name for field in fields(SearchSettings)))}

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], path: str | PathLike[str], *, k: int = 10, **build: Unpack[BuildOptions]
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
        **build: Unpack[BuildOptions],
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
        settings = {"k": self.k, **self._settings(), **settings}
        return [_found(hit) for hit in current(self.index).search(query, **settings)]

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
    none: list[Any] = [None] * len(texts)
    columns = [texts, list(metadatas or [{}] * len(texts)), list(ids or none)]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(
            f"{len(texts)} texts, {len(columns[1])} metadatas, {len(columns[2])} ids: give one for each text"
        )
    return [Document(page_content=text, metadata=about, id=i) for text, about, i in zip(*columns, strict=True)]
