"""The JSON that a client sends and receives: queries, filters, documents, hits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lsr.errors import DataError
from lsr.index.protocols import AnyQuery
from lsr.index.search.options import DOCUMENT, Options
from lsr.index.search.query_encoder import as_queries
from lsr.index.search.rerank import Moved
from lsr.index.search.selection import Selected
from lsr.index.search.settings import SearchSettings
from lsr.index.segment.columns import flat_items
from lsr.index.segment.filters import Filter, Where
from lsr.index.write.update_batch import Change
from lsr.io.document import Document
from lsr.io.vectors import Vectors
from lsr.sparse import SparseMatrix


class AnsweredDocuments:
    """The documents of a response, as hits read them. A document's number is its position in the response, from 0."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def id(self, doc: int) -> str:
        """Return a document's or passage's id."""
        row = self._rows[doc]
        return str(row.get("passage", row["id"]))

    def parent(self, doc: int) -> str | None:
        """Return the id of a passage's document; None if it isn't a passage."""
        row = self._rows[doc]
        return str(row["id"]) if "passage" in row else None

    def ids_of(self, docs: Sequence[int], *, parents: bool = False) -> list[str]:
        """Return the ids of documents; with `parents`, the id of a passage's document instead of its own id."""
        return [self.parent(doc) or self.id(doc) if parents else self.id(doc) for doc in docs]

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Return title, text and metadata."""
        row = self._rows[doc]
        return row["title"], row["text"], row["metadata"]

    def selected(self) -> Selected:
        """Return all documents, with what the server's re-ranker changed."""
        moved = {i: Moved(**row["moved"]) for i, row in enumerate(self._rows) if "moved" in row}
        return Selected(list(range(len(self._rows))), [row["score"] for row in self._rows], moved)


def query_body(query: AnyQuery) -> dict[str, Any]:
    """Convert a text or a {token: weight} mapping to JSON."""
    (query,) = as_queries([query])
    if isinstance(query, str):
        return {"query": query}
    if not isinstance(query, Mapping):
        raise TypeError(f"a query is a text or a mapping of token to weight, got {type(query).__name__}")
    return {"vector": {token: float(weight) for token, weight in query.items()}}


def where_body(where: Where | Filter | None) -> Where | None:
    """Convert a filter to JSON."""
    return where.to_where() if isinstance(where, Filter) else where


def dense_body(vector: ArrayLike) -> list[Any]:
    """Convert a dense vector to JSON."""
    return list(np.asarray(vector, np.float32).tolist())


def search_body(
    where: Where | Filter | None, hybrid: Mapping[str, Any] | None, options: Options, settings: SearchSettings
) -> dict[str, Any]:
    """Convert search options to JSON; `rerank` is sent only if it asks for the server's re-ranker."""
    asked: dict[str, Any] = {"where": where_body(where), "settings": vars(settings)} | (
        {} if hybrid is None else {"hybrid": dict(hybrid)}
    )
    for one in fields(Options):
        value = getattr(options, one.name)
        if one.name not in ("rerank", "rerank_unit") and value not in (one.default, (), {}):
            asked[one.name] = list(value) if isinstance(value, tuple) else value
    if options.rerank is True:
        asked |= {"rerank": True, "rerank_unit": options.rerank_unit}
    if options.fields is not None:
        asked["fields"] = list(options.shown or ())
    if options.boost:
        boosts = {column: dict(how) if isinstance(how, Mapping) else how for column, how in options.boost.items()}
        for how in boosts.values():
            if isinstance(how, dict) and isinstance(how.get("half_life"), timedelta):
                how["half_life"] = how["half_life"] / timedelta(days=1)
        asked["boost"] = boosts
    return asked


class AnsweredRanking:
    """A server's results, as `lsr.index.search.selection` expects them.

    Attributes:
        answer: The last response.
    """

    def __init__(self, search: Callable[[int], dict[str, Any]]) -> None:
        self._search, self.answer = search, dict[str, Any]()

    def top(self, n: int) -> tuple[list[int], list[float]]:
        """Return the n best documents and their scores."""
        self.answer = self._search(n)
        rows = self.answer["hits"]
        return list(range(len(rows))), [row["score"] for row in rows]

    def values(self, column: str, docs: Sequence[int]) -> list[Any]:
        """Return the documents' values of a column. `DOCUMENT` holds ids; for a passage, the id of its document."""
        if column == DOCUMENT:
            return [self.answer["hits"][doc]["id"] for doc in docs]
        metadata = [self.answer["hits"][doc]["metadata"] for doc in docs]
        return [dict(flat_items(one)).get(column) for one in metadata]

    def texts(self, docs: Sequence[int]) -> list[tuple[str, str]]:
        """Return (title, text) of each document."""
        rows = [self.answer["hits"][doc] for doc in docs]
        return [(row["title"], row["text"]) for row in rows]

    def vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """Raise NotImplementedError: a server doesn't return document vectors."""
        raise NotImplementedError


def document_of(row: Mapping[str, Any]) -> Document:
    """Parse a document of a response."""
    return Document(row["id"], row["text"], row["title"], row["metadata"] or None, row.get("parent"))


def vector_rows(source: Vectors) -> Iterator[dict[str, Any]]:
    """Convert vectors and their documents to JSON."""
    for batch in source:
        tokens = source.vocabulary  # for some files, the vocabulary grows while they are read
        if tokens is None:
            raise DataError("these vectors have no tokens, and a server can't map term numbers to tokens", source.name)
        for number, row in enumerate(batch.documents.to_pylist()):
            metadata = json.loads(row["metadata"]) if row["metadata"] else None
            document = Document(row["id"], row["text"] or "", row["title"] or "", metadata, row["parent"])
            terms, weights = batch.vectors.row(number)
            pairs = zip(terms.tolist(), weights.tolist(), strict=True)
            yield document_body(document) | {"vector": {tokens[term]: weight for term, weight in pairs}}


def document_body(document: Document) -> dict[str, Any]:
    """Convert a document to JSON."""
    row = {"id": document.id, "text": document.text, "title": document.title, "parent": document.parent}
    return row | ({"metadata": dict(document.metadata)} if document.metadata else {})


def change_of(told: Mapping[str, Any]) -> Change:
    """Parse a change from a response."""
    names = ("added", "updated", "deleted", "missing", "bad")
    return Change(**{name: told[name] for name in names if name in told})
