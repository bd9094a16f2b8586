"""Haystack: an index as a document store, with a retriever. Needs the extra `haystack`.

store = LsrDocumentStore("idx", encoder="lsr-mini")
pipeline.add_component("retriever", LsrRetriever(store, top_k=5))
"""

import asyncio
import os
from dataclasses import replace
from typing import Any  # and no __future__ annotations, because Haystack reads the types of `run`

from lsr.errors import DataError, DoubledId, MissingExtra
from lsr.index.index import Index
from lsr.index.integrations.store import Existing, checked, current, opened, opened_or_created, put, remove, stored
from lsr.index.segment.filters import Filter
from lsr.index.segment.parse_filters import as_filter
from lsr.io.object_store import is_remote

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
    from haystack.document_stores.types.filter_policy import apply_filter_policy
    from haystack.utils.filters import document_matches_filter
except ImportError:
    raise MissingExtra("haystack-ai", "haystack", "a document store for Haystack") from None

_EXISTING: dict[DuplicatePolicy, Existing] = {DuplicatePolicy.OVERWRITE: "replace", DuplicatePolicy.SKIP: "skip"}


class LsrDocumentStore:
    """Stores Haystack documents in an index: id, content and meta; embeddings and blobs aren't stored.

    Copies and unpickled stores open the index again.

    Args:
        path: The folder of the index; a relative path is resolved now.
        encoder: If there is no index, one is created with this encoder. Without an encoder, the index must exist.
    """

    def __init__(self, path: str, encoder: str | None = None) -> None:
        self.path = str(path)
        self.encoder = encoder
        self._place = self.path if is_remote(path) else os.path.abspath(path)
        self._index: Index | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_index": None}

    @property
    def index(self) -> Index:
        """The index at its latest commit, opened or created on first use; see `lsr.index.integrations.store`."""
        if self._index is None:
            self._index = opened(self._place) if self.encoder is None else opened_or_created(self._place, self.encoder)
        return current(self._index)

    def count_documents(self) -> int:
        """Return the number of documents."""
        return len(self.index)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Return all documents that match Haystack filters. Every document is read."""
        documents = (_document(*fields) for fields in stored(self.index))
        return [document for document in documents if _matches(filters, document)]

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Add all of the documents or none, and commit.

        Args:
            documents: The documents.
            policy: What to do if an id already exists; NONE means FAIL.

        Returns:
            How many documents were written.

        Raises:
            DuplicateDocumentError: An id already exists, and the policy is FAIL.
            ValueError: Not a list of documents, or a document without content.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise ValueError("write_documents takes a list of Haystack's Documents")
        if empty := [document.id for document in documents if document.content is None]:
            raise ValueError(f"documents without content can't be found by their text: {', '.join(empty)}")
        mapped = [{"_id": d.id, "text": d.content, "metadata": d.meta} for d in documents]
        try:
            change = put(self.index, mapped, _EXISTING.get(policy, "refuse"))
        except DoubledId as error:
            raise DuplicateDocumentError(f"{self.path}: {error}") from error
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else change.added

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents and commit; unknown ids are ignored."""
        remove(self.index, document_ids)

    def delete_all_documents(self) -> None:
        """Delete all documents and commit."""
        remove(self.index, list(self.index.documents.all_ids()))

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that match Haystack filters, and commit; return their number."""
        ids = [document.id for document in self.filter_documents(filters)]
        remove(self.index, ids)
        return len(ids)

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Update the meta of documents that match Haystack filters, and commit; return their number.

        Raises:
            ValueError: The index cuts documents into passages, from which the documents can't be restored.
        """
        index = self.index
        if index.has_passages:
            raise ValueError(
                "documents that are cut into passages can't be updated in place: add them again, with the new meta"
            )
        ids = [document.id for document in self.filter_documents(filters)]
        stored = [document for document in index.get_many(ids) if document is not None]
        changed = [replace(document, metadata={**(document.metadata or {}), **meta}) for document in stored]
        put(index, changed)
        return len(stored)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """Return the number of documents that match Haystack filters."""
        return len(self.filter_documents(filters))

    async def count_documents_async(self) -> int:
        """See `count_documents`."""
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """See `filter_documents`."""
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """See `write_documents`."""
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """See `delete_documents`."""
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        """See `delete_all_documents`."""
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """See `delete_by_filter`."""
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """See `update_by_filter`."""
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """See `count_documents_by_filter`."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    def to_dict(self) -> dict[str, Any]:
        """Serialize for a pipeline file."""
        data: dict[str, Any] = default_to_dict(self, path=self.path, encoder=self.encoder)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "LsrDocumentStore":
        """Deserialize what `to_dict` returned."""
        store: LsrDocumentStore = default_from_dict(cls, data)
        return store


@component
class LsrRetriever:
    """Retrieves documents from a store.

    Args:
        document_store: The store.
        top_k: Maximum number of documents.
        filters: Haystack filters.
        settings: Arguments of `Index.search`: alpha, algorithm, min_score and so on.
        filter_policy: Whether filters passed to `run` replace `filters` or are merged with them.
    """

    def __init__(
        self,
        document_store: LsrDocumentStore,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        self.document_store = document_store
        self.top_k = top_k
        self.filters = filters
        self.settings = checked(settings or {})
        self.filter_policy = str(FilterPolicy.from_str(str(filter_policy)))  # a string, as in pipeline files

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return {"documents": [...]}: the best documents that match the filters, by descending score."""
        index, k = self.document_store.index, self.top_k if top_k is None else top_k
        filters = apply_filter_policy(FilterPolicy.from_str(self.filter_policy), self.filters, filters)
        both = [self.settings.get("where"), _where(filters, index)]
        narrowed = Filter("all", tuple(as_filter(where) for where in both if where is not None))
        settings = {**self.settings, "where": narrowed} if narrowed.parts else self.settings
        depth = k
        while True:
            hits = index.search(query, depth, **settings)
            documents = [_document(hit.id, hit.title, hit.text, hit.metadata, hit.score) for hit in hits]
            matching = [document for document in documents if _matches(filters, document)]
            if len(matching) >= k or len(hits) < depth:
                return {"documents": matching[:k]}
            depth *= 4  # the filters left too few of the best documents

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """See `run`."""
        return await asyncio.to_thread(self.run, query, top_k, filters)


def _matches(filters: dict[str, Any] | None, document: Document) -> bool:
    return not filters or bool(document_matches_filter(filters, document))


# Haystack's operators, and the index operators that match at least the same documents.
_OPERATORS = {"==": "==", "in": "in", ">": ">", ">=": ">=", "<": "<", "<=": "<="}
_EXACT = 2**53  # whole numbers up to here are exact in a column of floats


def _where(filters: Any, index: Index) -> dict[str, Any] | None:
    """Return an index filter that keeps at least the documents that Haystack's filters keep, if possible, else None.

    Haystack filters read documents one by one. The index filter reduces how many they have to read.
    """
    if not isinstance(filters, dict):
        return None
    operator = filters.get("operator")
    if operator in ("AND", "OR"):
        parts = [_where(condition, index) for condition in filters.get("conditions") or ()]
        known = [part for part in parts if part is not None]
        if not known or (operator == "OR" and len(known) < len(parts)):
            return None
        return {operator.lower(): known}
    field, value = filters.get("field"), filters.get("value")
    if operator not in _OPERATORS or not isinstance(field, str) or not field.startswith("meta."):
        return None
    values = value if operator == "in" and isinstance(value, list) else [value]
    if not all(map(_is_plain, values)) or (operator[0] in "<>" and isinstance(value, str)):
        return None
    where = {field.removeprefix("meta."): {_OPERATORS[operator]: values if operator == "in" else value}}
    try:
        as_filter(where).require_known(index.documents.columns)
    except DataError:  # an unknown column, or one of another kind: leave the filter to Haystack
        return None
    return where


def _is_plain(value: Any) -> bool:
    """Whether Haystack and the index compare a value in the same way.

    Text that begins with a digit may be a date. Haystack compares dates by time, in any notation.
    """
    if isinstance(value, str):
        return not value[:1].isdigit()
    return isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < _EXACT)


def _document(doc_id: str, title: str, text: str, metadata: dict[str, Any], score: float | None = None) -> Document:
    about = {"title": title} if title else {}
    return Document(id=doc_id, content=text, meta={**about, **metadata}, score=score)
