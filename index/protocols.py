"""Searchable and SearchIndex: the calls that every kind of index has, with the same parameters and defaults.

    def best(index: Searchable, question: str) -> list[str]:
        return [hit.id for hit in index.search(question, k=3)]

`Index`, `ShardedIndex` and `Client` implement both; `Index.pinned` returns a `Searchable`. `AsyncIndex` has the same
calls as coroutines. docs/reference/calls.md lists the differences between the classes, and the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Protocol, Self, Unpack, runtime_checkable

from numpy.typing import ArrayLike

from lsr.index.search.duplicates import Duplicate
from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Hits
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions
from lsr.index.search.words import Suggestion
from lsr.index.segment.filters import Filter, Where
from lsr.index.write.update_batch import Change
from lsr.io.document import Document
from lsr.io.vectors import Vectors

AnyQuery = str | Mapping[str, Any]  # a text, {token: weight}, or a mapping that has a "text"
AnySource = Iterable[Mapping[str, Any] | Document] | Vectors | str | PathLike[str]


@runtime_checkable
class Searchable(Protocol):
    """Documents that can be searched. See `Index` for arguments, results and errors."""

    def search(
        self,
        query: AnyQuery,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """Return the k best documents; see `Index.search`."""
        ...

    def search_batch(
        self,
        queries: Sequence[AnyQuery],
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: Sequence[ArrayLike] | None = None,
        **settings: Unpack[SearchOptions],
    ) -> list[Hits]:
        """Search for many queries; see `Index.search_batch`."""
        ...

    def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """Return the k most similar documents; see `Index.similar`."""
        ...

    def explain(
        self,
        query: AnyQuery,
        doc_id: str | int,
        *,
        origins: bool = True,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[RankingOptions],
    ) -> Explanation:
        """Explain a document's score for a query; see `Index.explain`."""
        ...

    def explain_plan(
        self, query: AnyQuery, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Run a search and report what it did; see `Index.explain_plan`."""
        ...

    def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """Suggest completions while a user types; see `Index.suggest`."""
        ...

    def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """Suggest corrections for unknown words of a query; see `Index.corrections`."""
        ...

    def did_you_mean(self, text: str) -> str | None:
        """Return the query with unknown words corrected; see `Index.did_you_mean`."""
        ...

    def duplicates(self, threshold: float = 0.9, *, where: Where | Filter | None = None) -> list[Duplicate]:
        """Find all pairs of near-duplicates; see `Index.duplicates`."""
        ...

    def get(self, doc_id: str | int) -> Document | None:
        """Return a stored document; see `Index.get`."""
        ...

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Return the stored document for each id; see `Index.get_many`."""
        ...

    def stored(self, where: Where | Filter | None = None) -> Iterator[Document]:
        """Iterate over the documents that match a filter; see `Index.stored`."""
        ...

    def count(self, where: Where | Filter | None = None) -> int:
        """Count all documents, or the documents that match a filter; see `Index.count`."""
        ...

    def __len__(self) -> int:
        """Number of live documents (or passages)."""
        ...

    def __contains__(self, doc_id: object) -> bool:
        """Whether a document or passage has this id."""
        ...

    def __iter__(self) -> Iterator[Document]:
        """Iterate over all documents in the order in which they were added."""
        ...


@runtime_checkable
class SearchIndex(Searchable, Protocol):
    """An index that can be searched and changed. See `Index` for arguments, results and errors."""

    def add(self, source: AnySource, *, skip_bad: bool = False) -> Change:
        """Add documents; searches find them after `commit`. See `Index.add`."""
        ...

    def upsert(self, source: AnySource, *, skip_bad: bool = False) -> Change:
        """Add documents, replacing existing documents with the same ids; see `Index.upsert`."""
        ...

    def update(self, source: AnySource, *, skip_bad: bool = False) -> Change:
        """Same as `upsert`."""
        ...

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """Delete documents; see `Index.delete`."""
        ...

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable and visible; see `Index.commit`."""
        ...

    def rollback(self) -> None:
        """Discard the changes since the last commit."""
        ...

    def merge(self, *, everything: bool = True) -> bool:
        """Commit, then merge segments; see `Index.merge`."""
        ...

    def close(self) -> None:
        """Release resources; see `Index.close`."""
        ...

    def __enter__(self) -> Self:
        """Enter a block that closes the index at its end."""
        ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the index."""
        ...
