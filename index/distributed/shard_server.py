"""A shard in the process that searches it: plain values in and out, so that any transport between processes will do.

Nothing is opened before it is asked for, so that what can't be opened is told to who asks, and a process that was
started again needs nobody to tell it anything.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.errors import IndexFormatError
from lsr.fingerprint import digest
from lsr.forks import in_child
from lsr.index.search.column_values import count_values, values_of
from lsr.index.search.explain import Explanation, explain_document
from lsr.index.search.hits import shown_fields
from lsr.index.search.hybrid_search import Candidates, dense_width
from lsr.index.search.matches import Matcher
from lsr.index.search.request import Criteria, EncodedQuery
from lsr.index.search.settings import Plan, SearchSettings
from lsr.index.search.snapshot import Like, Snapshot
from lsr.index.search.words import Titles, matching_titles
from lsr.index.segment.filters import Filter
from lsr.index.sharding.remote import folder_of
from lsr.index.storage.manifest import with_checksum
from lsr.io.document import Document
from lsr.io.object_store import is_remote
from lsr.sparse import SparseMatrix

_KEPT = 4  # snapshots that hits of earlier searches may still ask for


@dataclass(frozen=True)
class ColumnKinds:
    """The metadata that documents have, as `Filter.require_known` asks for it."""

    kinds: Mapping[str, str]
    mixed: Mapping[str, str]


@dataclass(frozen=True)
class ShardState:
    """What a shard holds.

    Attributes:
        version: Of its documents.
        manifest: Of its index.
        documents: How many, without the deleted ones.
        n_docs: With them.
        has_passages: Whether they were cut into passages.
        columns: Of its segments.
        dense_width: How many numbers dense vectors have; 0 without any documents, None if it keeps none.
    """

    version: str
    manifest: Mapping[str, Any]
    documents: int
    n_docs: int
    has_passages: bool
    columns: tuple[ColumnKinds, ...]
    dense_width: int | None


@dataclass(frozen=True)
class ShardHits:
    """The best documents of a shard for one query.

    Attributes:
        docs: (n,) int64, their numbers within the shard.
        scores: (n,) float64, descending, equal ones by number.
        ids: Their ids, of passages the passages'.
        parents: The ids of the documents that passages were cut from, else None.
        keys: For each column to sort by the values of all of them.
    """

    docs: NDArray[np.int64]
    scores: NDArray[np.float64]
    ids: tuple[str, ...]
    parents: tuple[str | None, ...]
    keys: tuple[Sequence[Any], ...] = ()


@dataclass(frozen=True)
class ShardCandidates:
    """What a search by dense vectors may find in a shard.

    Attributes:
        found: The candidates.
        ids: Their ids, of passages the passages'.
        parents: The ids of the documents that passages were cut from, else None.
        accepted: (n,) bool, whether each meets what texts must have; None if all do.
        factors: (n,) float64, what boosts multiply each score with; None without any.
    """

    found: Candidates
    ids: tuple[str, ...]
    parents: tuple[str | None, ...]
    accepted: NDArray[np.bool_] | None
    factors: NDArray[np.float64] | None


class Shard:
    """Answers for one shard; safe to call from several threads.

    Args:
        location: Its index, a path or a URI.
        threads: Cores that a batch of queries may use; 0 for all.
    """

    def __init__(self, location: str, threads: int = 0) -> None:
        self._location, self._threads = location, threads or os.cpu_count()
        self._opening = threading.Lock()
        self._kept: dict[str, Snapshot] = {}
        in_child(self)

    def after_fork(self) -> None:
        """See `lsr.forks`."""
        self._opening = threading.Lock()

    def _latest(self, *, refresh: bool = False) -> tuple[str, Snapshot]:
        """The snapshot opened last and its version; opened now if there is none, or anew with `refresh`."""
        with self._opening:
            if refresh or not self._kept:
                before = next(reversed(self._kept.values()), None)
                snapshot = Snapshot.latest(folder_of(self._location), before, same=not is_remote(self._location))
                if snapshot is not before:
                    while len(self._kept) >= _KEPT:
                        self._kept.pop(next(iter(self._kept)))
                    self._kept[digest([with_checksum(snapshot.manifest)])] = snapshot
            version = next(reversed(self._kept))
            return version, self._kept[version]

    def state(self) -> ShardState:
        """What was committed last; it is opened, and kernels are made ready.

        Raises:
            IndexFormatError: Not an index, or one of another format.
            CorruptIndex: A file is missing, cut short or, if small, changed.
        """
        first = not self._kept
        version, snapshot = self._latest(refresh=True)
        if first:
            toy = SparseMatrix.from_dicts([{0: 1.0}], 1)
            for algorithm in ("exhaustive", "blocks"):
                snapshot.top(toy, 1, SearchSettings(algorithm=algorithm))
        columns = tuple(ColumnKinds(c.kinds, c.mixed) for c in snapshot.documents.columns)
        return ShardState(
            version,
            snapshot.manifest,
            documents=len(snapshot),
            n_docs=snapshot.searcher.n_docs,
            has_passages=snapshot.has_passages,
            columns=columns,
            dense_width=dense_width(snapshot),
        )

    def encoder_files(self) -> dict[str, bytes]:
        """What encodes queries."""
        return self._latest()[1].shared.encoder_files

    def vocabulary(self) -> list[str] | None:
        """Token of each term, or None where the tokens aren't known."""
        return self._latest()[1].shared.vocabulary

    def frequencies(self, version: str, terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, how many documents have each of (n,) terms, as of `Snapshot.frequencies`.

        Args:
            version: What is searched; where that isn't to be had any more, what was committed last.
            terms: Terms.
        """
        snapshot = self._kept.get(version) or self._latest(refresh=True)[1]
        return snapshot.frequencies(terms)

    def search(
        self,
        version: str,
        queries: SparseMatrix,
        k: int,
        criteria: Criteria,
        threads: int = 0,
    ) -> tuple[str, list[ShardHits]]:
        """The k best documents of each query.

        Args:
            version: What is to be searched; where that isn't to be had any more, what was committed last.
            queries: A row for each.
            k: How many.
            criteria: What documents have to meet; the filter's columns have been looked for in all shards.
            threads: How many are used for several queries; 0 for as many as the shard has cores.

        Returns:
            The version that was searched, and the hits of each query.
        """
        searched, snapshot = self._searched(version)
        mask = None if criteria.conditions else snapshot.mask(criteria.where, known=True)
        mine = _writable(queries)

        def top(i: int) -> ShardHits:
            if criteria.conditions:
                found = Matcher(snapshot, EncodedQuery(None, mine[i]), criteria, known=True).top(k)
                docs, scores, keys = found.docs, found.scores, found.keys
            else:
                (docs, scores), keys = snapshot.top(mine[i], k, criteria.settings, mask), ()
            numbers, documents = docs.tolist(), snapshot.documents
            ids, parents = tuple(map(documents.id, numbers)), tuple(map(documents.parent, numbers))
            return ShardHits(docs, scores, ids, parents, keys)

        if len(mine) == 1:
            return searched, [top(0)]
        with ThreadPoolExecutor(threads or self._threads) as pool:
            return searched, list(pool.map(top, range(len(mine))))

    def candidates(
        self, version: str, query: SparseMatrix, dense: NDArray[np.float32], k: int, criteria: Criteria
    ) -> tuple[str, ShardCandidates]:
        """What a search by dense vectors may find.

        Args:
            version: As of `search`.
            query: One row, as `beside_dense` weighs it.
            dense: (width,) the query's dense vector.
            k: How many documents the search is to find.
            criteria: As of `search`.

        Returns:
            The version that was searched, and the candidates.
        """
        searched, snapshot = self._searched(version)
        matcher = Matcher(snapshot, EncodedQuery(None, _writable(query), dense), criteria, known=True)
        found, documents = matcher.candidates(k), snapshot.documents
        numbers = found.docs.tolist()
        ids, parents = tuple(map(documents.id, numbers)), tuple(map(documents.parent, numbers))
        return searched, ShardCandidates(found, ids, parents, *matcher.looked_at(found.docs))

    def _searched(self, version: str) -> tuple[str, Snapshot]:
        """A version, or what was committed last where that isn't to be had any more."""
        if (snapshot := self._kept.get(version)) is not None:
            return version, snapshot
        return self._latest(refresh=True)

    def fields(
        self, version: str, docs: Sequence[int], shown: Sequence[str] | None = None
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """Title, text and metadata of some documents; empty if they aren't shown.

        Raises:
            IndexFormatError: The version isn't to be had any more.
        """
        documents = self._version(version).documents
        return [shown_fields(documents.fields(doc), shown) for doc in docs]

    def facets(
        self,
        version: str,
        query: SparseMatrix,
        dense: NDArray[np.float32] | None,
        criteria: Criteria,
        names: Sequence[str],
    ) -> tuple[int, dict[str, Counter[Any]]]:
        """How many documents match, and how many of them have each value of some columns.

        Raises:
            IndexFormatError: The version isn't to be had any more.
        """
        snapshot = self._version(version)
        return Matcher(snapshot, EncodedQuery(None, _writable(query), dense), criteria, known=True).facets(names)

    def count_values(self, version: str, names: Sequence[str], docs: Sequence[int]) -> dict[str, Counter[Any]]:
        """How many of some documents have each value of some columns.

        Raises:
            IndexFormatError: The version isn't to be had any more.
        """
        return count_values(self._version(version), names, np.array(docs, np.int64))

    def values(self, version: str, column: str, docs: Sequence[int]) -> list[Any]:
        """The values of a column in some documents.

        Raises:
            IndexFormatError: The version isn't to be had any more.
        """
        return values_of(self._version(version), column, np.array(docs, np.int64))

    def vectors(self, version: str, docs: Sequence[int]) -> SparseMatrix:
        """The stored vectors of some documents.

        Raises:
            IndexFormatError: The version isn't to be had any more.
        """
        return self._version(version).vectors(docs)

    def like(self, version: str, doc_id: str) -> Like | None:
        """What stands for a document in a search for what is like it; None if it isn't here."""
        return self._version(version).like(doc_id)

    def get_many(self, version: str, ids: Sequence[str]) -> list[Document | None]:
        """The documents of some ids, as `Index.get_many`; None for those that other shards may have."""
        snapshot = self._version(version)
        return snapshot.documents.get_many(ids, passages=snapshot.has_passages)

    def count(self, version: str, where: Filter | None) -> int:
        """How many documents meet a filter; its columns have been looked for in all shards."""
        return self._version(version).count(where, known=True)

    def stored(self, version: str, first: int, most: int, where: Filter | None) -> tuple[list[Document], int | None]:
        """Documents from a number on that aren't deleted and meet a filter, at most so many, and where the next ones
        begin; None where there are none left. The filter's columns have been looked for in all shards.
        """
        snapshot = self._version(version)
        numbers = list(islice(snapshot.numbers(where, first, known=True), most + 1))
        documents = [snapshot.documents.stored(doc) for doc in numbers[:most]]
        return documents, numbers[most] if len(numbers) > most else None

    def titles(self, version: str, typed: str, limit: int) -> Titles:
        """Titles that go on with what is typed, as `matching_titles` gives them."""
        return matching_titles(self._version(version), typed, limit)

    def plan(self, version: str, query: SparseMatrix, k: int, criteria: Criteria) -> Plan:
        """What a search of this shard touches; the filter's columns have been looked for in all shards."""
        return self._version(version).plan(_writable(query), k, criteria.settings, criteria.where, known=True)

    def find(self, version: str, doc_id: str) -> int | None:
        """The number of the document with this id."""
        return self._version(version).documents.find(doc_id)

    def explain(self, version: str, query: SparseMatrix, doc: int, origins: bool) -> Explanation:
        """Why a document has its score, as `Index.explain`."""
        snapshot = self._version(version)
        encoder = snapshot.encoder() if snapshot.shared.encoder_files else None
        return explain_document(snapshot, encoder, query, doc, origins=origins)

    def _version(self, version: str) -> Snapshot:
        if version not in self._kept and self._latest(refresh=True)[0] != version:
            raise IndexFormatError(
                f"{self._location}: its documents have changed since they were searched; search again"
            )
        return self._kept[version]


def _writable(queries: SparseMatrix) -> SparseMatrix:
    """Arrays that came from another process can't be written to, and kernels are compiled for those that can."""
    return SparseMatrix(queries.indptr.copy(), queries.indices.copy(), queries.data.copy(), queries.shape, check=False)
