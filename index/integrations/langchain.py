"""LangChain: an index as a retriever and as a vector store. Needs the extra `langchain`.

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
from lsr.index.search.options import Options
from lsr.index.search.rerank import Unit
from lsr.index.search.settings import Algorithm, FilteredOptions, Mode, SearchSettings
from lsr.index.write.builder import BuildOptions

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
    from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery, Visitor
    from langchain_core.vectorstores import VectorStore
    from pydantic import ConfigDict, field_validator, model_validator
except ImportError:
    raise MissingExtra("langchain-core", "langchain", "a retriever for LangChain") from None

# A retriever has a field for each search option, except for counts and for the choice of fields.
_LEFT_OUT = ("facets", "total", "fields")
_SETTINGS = tuple(
    field.name for one in (SearchSettings, Options) for field in fields(one) if field.name not in _LEFT_OUT
)


class LsrRetriever(BaseRetriever):
    """Retrieves documents from an index; `ainvoke`, `batch` and `stream` are LangChain's own.

    A returned document has its stored metadata plus the hit's `score`. `id`, `title` and `passage` are added, too,
    unless the metadata has keys of these names. Each search sees the latest commit, as described at `current`.

    Attributes:
        index: An index or its folder.
        k: Maximum number of documents.
        where: A filter on metadata, as for `Index.search`.
        algorithm: This and the following are fields of `SearchSettings` and `Options`; arguments of `invoke` override
            them.
    """

    # Extra fields are refused, because LangChain copies only the declared fields of a retriever.
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
    offset: int = Options.offset
    min_score: float = Options.min_score
    group_by: str | None = Options.group_by
    per_group: int = Options.per_group
    sort: str | Sequence[str] = Options.sort
    boost: Mapping[str, Any] = {}
    diversity: float = Options.diversity
    syntax: str = Options.syntax
    rerank: Any = Options.rerank
    rerank_unit: Unit = Options.rerank_unit
    depth: int = Options.depth
    passages: bool = Options.passages

    @field_validator("index", mode="before")
    @classmethod
    def _open(cls, index: Any) -> Index:
        return opened(index)

    @model_validator(mode="after")
    def _check(self) -> LsrRetriever:
        checked(self._settings())
        return self

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("where", *_SETTINGS)}

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], path: str | PathLike[str], *, k: int = 10, **build: Unpack[BuildOptions]
    ) -> LsrRetriever:
        """Build an index from LangChain documents.

        Args:
            documents: The documents; a document without an id gets a random id.
            path: The folder of the index.
            k: Maximum number of documents to retrieve.
            build: Arguments of `Index.build`: encoder, passages, overwrite and so on.
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
        """Build an index from texts; other arguments are as for `from_documents`."""
        return cls.from_documents(_documents(texts, metadatas, ids), path, k=k, **build)

    def add_documents(self, documents: Iterable[Document]) -> list[str]:
        """Add documents, replacing existing documents with the same ids, and commit; return the ids."""
        mapped = [_document(document) for document in documents]
        put(self.index, mapped)
        return [document["_id"] for document in mapped]

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any]] | None = None,
        ids: Iterable[str] | None = None,
    ) -> list[str]:
        """Add texts and commit; see `add_documents`."""
        return self.add_documents(_documents(texts, metadatas, ids))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete documents and commit; unknown ids are ignored."""
        remove(self.index, ids)

    def _get_relevant_documents(self, query: str, *, run_manager: Any = None, **settings: Any) -> list[Document]:
        settings = {"k": self.k, **self._settings(), **settings}
        return [_found(hit) for hit in current(self.index).search(query, **settings)]

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any = None, **settings: Any) -> list[Document]:
        found: list[Document] = await run_in_executor(None, self._get_relevant_documents, query, **settings)
        return found


class LsrVectorStore(VectorStore):
    """An index as a vector store: documents are added as texts, which the index encodes.

    Documents come back as they were added; a title becomes metadata. Sparse vectors find only documents that share a
    term with the query, so a search may return fewer than k. Relevance thresholds work only with mode="dense", where
    the score is the cosine. Other scores have no upper bound: use `min_score`.

    Args:
        index: An index or its folder.
        settings: Arguments of `Index.search` for all searches; arguments of a call override them.
    """

    def __init__(self, index: Index | str | PathLike[str], **settings: Unpack[FilteredOptions]) -> None:
        self.index = opened(index)
        self.settings = checked(settings)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Any = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | PathLike[str] = "",
        **build: Any,
    ) -> LsrVectorStore:
        """Build an index from texts.

        Args:
            texts: The texts.
            embedding: Must be None, because the index has its own encoder.
            metadatas: One for each text.
            ids: One for each text; None for random ids.
            path: The folder of the index.
            build: Arguments of `Index.build`: encoder, passages, overwrite and so on.
        """
        if embedding is not None:
            raise TypeError("an index has its own encoder: pass encoder=... and leave embedding out")
        if not path:
            raise TypeError("from_texts and from_documents need path=..., the folder of the index")
        documents = _documents(texts, metadatas, ids)
        return cls(Index.build(path, (_document(document) for document in documents), **build))

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **_: Any,
    ) -> list[str]:
        """Add texts, replacing documents with the same ids, and commit; return the ids."""
        mapped = [_document(document) for document in _documents(texts, metadatas, ids)]
        put(self.index, mapped)
        return [document["_id"] for document in mapped]

    def delete(self, ids: list[str] | None = None, **_: Any) -> bool:
        """Delete documents and commit; unknown ids are ignored.

        Raises:
            ValueError: `ids` is None, which means all documents in LangChain.
        """
        if ids is None:
            raise ValueError("delete needs ids; it never deletes all documents")
        remove(self.index, ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with given ids; unknown ids are left out."""
        stored = current(self.index).get_many(ids)
        return [_plain(one.id, one.title, one.text, one.metadata or {}) for one in stored if one is not None]

    def similarity_search(self, query: str, k: int = 4, **settings: Any) -> list[Document]:
        """Return the k best documents; `filter` or `where` restricts them by metadata, as for `Index.search`."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **settings)]

    def similarity_search_with_score(self, query: str, k: int = 4, **settings: Any) -> list[tuple[Document, float]]:
        """Return the k best documents with their scores."""
        chosen = settings.pop("filter", None)
        settings = {**self.settings, **settings} | ({} if chosen is None else {"where": chosen})
        hits = current(self.index).search(query, k, **settings)
        return [(_plain(hit.id, hit.title, hit.text, hit.metadata), hit.score) for hit in hits]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **settings: Any
    ) -> list[Document]:
        """Pick k diverse documents from the fetch_k best; a smaller lambda_mult picks more diverse documents."""
        return self.similarity_search(query, k, diversity=1 - lambda_mult, depth=fetch_k, **settings)

    def _select_relevance_score_fn(self) -> Any:
        if self.settings.get("mode") == "dense":
            return lambda cosine: min(1.0, max(0.0, cosine))
        raise NotImplementedError("scores have no upper bound: use min_score, or an index with mode='dense'")


class LsrTranslator(Visitor):
    """Translates LangChain structured queries into index filters, for a SelfQueryRetriever.

    `SelfQueryRetriever(..., vectorstore=store, structured_query_translator=LsrTranslator())`
    """

    allowed_operators = tuple(Operator)
    allowed_comparators = tuple(one for one in Comparator if one != Comparator.LIKE)
    _names = {  # noqa: RUF012
        Comparator.EQ: "==",
        Comparator.NE: "!=",
        Comparator.GT: ">",
        Comparator.GTE: ">=",
        Comparator.LT: "<",
        Comparator.LTE: "<=",
        Comparator.CONTAIN: "contains",
        Comparator.IN: "in",
        Comparator.NIN: "not in",
    }

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """Translate the operators and, or, not."""
        self._validate_func(operation.operator)
        parts = [part.accept(self) for part in operation.arguments]
        return {"not": {"or": parts}} if operation.operator == Operator.NOT else {operation.operator.value: parts}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """Translate a condition on a column; dates come as {"date": "2024-05-17", "type": "date"}."""
        self._validate_func(comparison.comparator)
        value = comparison.value
        if isinstance(value, Mapping) and value.get("type") in ("date", "datetime"):
            value = value[value["type"]]
        return {comparison.attribute: {self._names[comparison.comparator]: value}}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """Return the query and the keyword arguments for the store."""
        chosen = structured_query.filter
        return structured_query.query, {} if chosen is None else {"filter": chosen.accept(self)}


def _plain(doc_id: str, title: str, text: str, metadata: Mapping[str, Any]) -> Document:
    return Document(id=doc_id, page_content=text, metadata={**({"title": title} if title else {}), **metadata})


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
