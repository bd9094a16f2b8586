"""Searchable and SearchIndex: the calls that every kind of index has, with the same parameters and defaults.

    def best(index: Searchable, question: str) -> list[str]:
        return [hit.id for hit in index.search(question, k=3)]

`Index`, `ShardedIndex` and `Client` are both; what `Index.pinned` gives is a `Searchable`. `AsyncIndex` has the same
calls, to be awaited. docs/reference/calls.md says what else each of them has, what it lacks, and why.
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
    """Documents that can be searched. `Index` tells what arguments, results and errors are."""

    def search(
        self,
        query: AnyQuery,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """The k best documents; see `Index.search`."""
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
        """The k best documents of many queries; see `Index.search_batch`."""
        ...

    def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """The k documents that are most like one of them; see `Index.similar`."""
        ...

    def explain(self, query: AnyQuery, doc_id: str | int, *, origins: bool = True) -> Explanation:
        """Why a document has its score for a query; see `Index.explain`."""
        ...

    def explain_plan(
        self, query: AnyQuery, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Search, and tell what that touched; see `Index.explain_plan`."""
        ...

    def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """What somebody who types may go on to; see `Index.suggest`."""
        ...

    def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """Words of a query that no document has, each with the nearest; see `Index.corrections`."""
        ...

    def did_you_mean(self, text: str) -> str | None:
        """A query with its words that no document has replaced by the nearest; see `Index.did_you_mean`."""
        ...

    def duplicates(self, threshold: float = 0.9, *, where: Where | Filter | None = None) -> list[Duplicate]:
        """All pairs of documents that are alike; see `Index.duplicates`."""
        ...

    def get(self, doc_id: str | int) -> Document | None:
        """A document as it is stored; see `Index.get`."""
        ...

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Documents as they are stored; see `Index.get_many`."""
        ...

    def stored(self, where: Where | Filter | None = None) -> Iterator[Document]:
        """The documents that meet a filter, in the order of addition; see `Index.stored`."""
        ...

    def count(self, where: Where | Filter | None = None) -> int:
        """How many documents there are, or meet a filter; see `Index.count`."""
        ...

    def __len__(self) -> int:
        """How many documents there are, of passages each."""
        ...

    def __contains__(self, doc_id: object) -> bool:
        """Whether there is a document, or a passage, of this id."""
        ...

    def __iter__(self) -> Iterator[Document]:
        """All documents, in the order of addition."""
        ...


@runtime_checkable
class SearchIndex(Searchable, Protocol):
    """An index that can be searched and changed. `Index` tells what arguments, results and errors are."""

    def add(self, source: AnySource, *, skip_bad: bool = False) -> Change:
        """Add documents; they are found after `commit`. See `Index.add`."""
        ...

    def upsert(self, source: AnySource, *, skip_bad: bool = False) -> Change:
        """Put documents in the place of those of the same ids; where there are none, add them."""
        ...

    def update(self, source: AnySource, *, skip_bad: bool = False) -> Change:
        """The same as `upsert`."""
        ...

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """Delete documents; see `Index.delete`."""
        ...

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable and visible; see `Index.commit`."""
        ...

    def rollback(self) -> None:
        """Forget the changes since the last commit."""
        ...

    def merge(self, *, everything: bool = True) -> bool:
        """Commit, then merge segments; see `Index.merge`."""
        ...

    def close(self) -> None:
        """Let go of what is open; see `Index.close`."""
        ...

    def __enter__(self) -> Self:
        """A block that closes the index at its end."""
        ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it."""
        ...
