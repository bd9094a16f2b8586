"""A shard in the process that searches it. Arguments and results are plain values, so that any transport works.

The index is opened on the first request. So errors reach the caller, and a restarted process needs no set-up.
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
from lsr.index.search.find import place_of
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

_KEPT = 4  # snapshots kept for the hits of earlier searches


@dataclass(frozen=True)
class ColumnKinds:
    """The columns of a segment, as `Filter.require_known` expects them."""

    kinds: Mapping[str, str]
    mixed: Mapping[str, str]


@dataclass(frozen=True)
class ShardState:
    """What a shard holds.

    Attributes:
        version: Id of the shard's snapshot.
        manifest: Manifest of the shard's index.
        documents: Number of live documents.
        n_docs: Number of documents, including deleted ones.
        columns: The columns of the segments.
        dense_width: Width of the dense vectors; 0 without documents; None if the index stores no dense vectors.
    """

    version: str
    manifest: Mapping[str, Any]
    documents: int
    n_docs: int
    columns: tuple[ColumnKinds, ...]
    dense_width: int | None


@dataclass(frozen=True)
class ShardHits:
    """A shard's best documents for one query.

    Attributes:
        docs: (n,) int64, their numbers within the shard.
        scores: (n,) float64, descending, ties by number.
        ids: Ids of documents or passages.
        parents: For passages, the ids of their documents; else None.
        keys: For each column to sort by, the documents' values.
    """

    docs: NDArray[np.int64]
    scores: NDArray[np.float64]
    ids: tuple[str, ...]
    parents: tuple[str | None, ...]
    keys: tuple[Sequence[Any], ...] = ()


@dataclass(frozen=True)
class ShardCandidates:
    """The candidates of a hybrid or dense search in a shard.

    Attributes:
        found: The candidates.
        ids: Ids of documents or passages.
        parents: For passages, the ids of their documents; else None.
        accepted: (n,) bool, whether the text meets the conditions; None without conditions.
        factors: (n,) float64, factors of the boosts; None without boosts.
    """

    found: Candidates
    ids: tuple[str, ...]
    parents: tuple[str | None, ...]
    accepted: NDArray[np.bool_] | None
    factors: NDArray[np.float64] | None


class Shard:
    """Answers for one shard; safe to call from several threads.

    Args:
        location: The shard's index, a path or a URI.
        threads: Number of threads for a batch of queries; 0 for one per core.
    """

    def __init__(self, location: str, threads: int = 0) -> None:
        self._location, self._threads = location, threads or os.cpu_count()
        self._opening = threading.Lock()
        self._kept: dict[str, Snapshot] = {}
        in_child(self)

    def after_fork(self) -> None:
        """Replace the lock; see `lsr.forks`."""
        self._opening = threading.Lock()

    def _latest(self, *, refresh: bool = False) -> tuple[str, Snapshot]:
        """Return the last opened version and its snapshot; with `refresh`, or if none is open, open the last commit."""
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
        """Open the latest commit, load the kernels, and describe what the shard holds.

        Raises:
            IndexFormatError: Not an index, or another format.
            CorruptIndex: A file is missing or truncated, or a small file fails its checksum.
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
            columns=columns,
            dense_width=dense_width(snapshot),
        )

    def encoder_files(self) -> dict[str, bytes]:
        """Return the files of the query encoder."""
        return self._latest()[1].shared.encoder_files

    def vocabulary(self) -> list[str] | None:
        """Return the token of each term; None if the tokens aren't known."""
        return self._latest()[1].shared.vocabulary

    def frequencies(self, version: str, terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) int64: how many live documents contain each of (n,) terms.

        Args:
            version: The version to count; the latest commit if it is gone.
            terms: (n,) int64 term ids.
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
        """Return the k best documents for each query.

        Args:
            version: The version to search; the latest commit if it is gone.
            queries: A row for each query.
            k: Number of documents.
            criteria: The conditions that documents have to meet. The filter was already checked against the columns of
                all shards.
            threads: Number of threads for several queries; 0 for one per core of the shard.

        Returns:
            The version that was searched, and the hits for each query.
        """
        searched, snapshot = self._searched(version)
        mask = None if criteria.conditions else snapshot.mask(criteria.where, known=True)
        mine = _writable(queries)

        def top(i: int) -> ShardHits:
            if criteria.conditions:
                found = Matcher(snapshot, EncodedQuery(None, mine[i]), criteria, snapshot.encoder, known=True).top(k)
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
        """Return the candidates of a hybrid or dense search.

        Args:
            version: As for `search`.
            query: One row, weighted by `beside_dense`.
            dense: (width,) the query's dense vector.
            k: Number of documents that the search over all shards returns.
            criteria: As for `search`.

        Returns:
            The version that was searched, and the candidates.
        """
        searched, snapshot = self._searched(version)
        matcher = Matcher(snapshot, EncodedQuery(None, _writable(query), dense), criteria, snapshot.encoder, known=True)
        found, documents = matcher.candidates(k), snapshot.documents
        numbers = found.docs.tolist()
        ids, parents = tuple(map(documents.id, numbers)), tuple(map(documents.parent, numbers))
        return searched, ShardCandidates(found, ids, parents, *matcher.looked_at(found.docs))

    def _searched(self, version: str) -> tuple[str, Snapshot]:
        """Return a version and its snapshot; if the version is gone, return the latest version and its snapshot."""
        if (snapshot := self._kept.get(version)) is not None:
            return version, snapshot
        return self._latest(refresh=True)

    def fields(
        self, version: str, docs: Sequence[int], shown: Sequence[str] | None = None
    ) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (title, text, metadata) of each document; fields that aren't in `shown` are empty.

        Raises:
            IndexFormatError: The version is gone.
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
        """Count the matching documents, and for each column the documents that have each value.

        Raises:
            IndexFormatError: The version is gone.
        """
        snapshot = self._version(version)
        return Matcher(
            snapshot, EncodedQuery(None, _writable(query), dense), criteria, snapshot.encoder, known=True
        ).facets(names)

    def count_values(self, version: str, names: Sequence[str], docs: Sequence[int]) -> dict[str, Counter[Any]]:
        """For each column, count how many of the given documents have each value.

        Raises:
            IndexFormatError: The version is gone.
        """
        return count_values(self._version(version), names, np.array(docs, np.int64))

    def values(self, version: str, column: str, docs: Sequence[int]) -> list[Any]:
        """Return the documents' values of a column.

        Raises:
            IndexFormatError: The version is gone.
        """
        return values_of(self._version(version), column, np.array(docs, np.int64))

    def vectors(self, version: str, docs: Sequence[int]) -> SparseMatrix:
        """Return the stored vectors of documents.

        Raises:
            IndexFormatError: The version is gone.
        """
        return self._version(version).vectors(docs)

    def like(self, version: str, doc_id: str) -> Like | None:
        """See `Snapshot.like`; None if the id isn't in this shard."""
        return self._version(version).like(doc_id)

    def get_many(self, version: str, ids: Sequence[str]) -> list[Document | None]:
        """See `Index.get_many`; None for ids that aren't in this shard."""
        snapshot = self._version(version)
        return snapshot.documents.get_many(ids, passages=snapshot.has_passages)

    def count(self, version: str, where: Filter | None) -> int:
        """Count the documents that match a filter, which was already checked against the columns of all shards."""
        return self._version(version).count(where, known=True)

    def stored(self, version: str, first: int, most: int, where: Filter | None) -> tuple[list[Document], int | None]:
        """Return up to `most` live documents that match a filter, from number `first` on.

        The second result is the number to continue from, or None at the end. The filter was already checked against
        the columns of all shards.
        """
        snapshot = self._version(version)
        numbers = list(islice(snapshot.numbers(where, first, known=True), most + 1))
        documents = [snapshot.documents.stored(doc) for doc in numbers[:most]]
        return documents, numbers[most] if len(numbers) > most else None

    def titles(self, version: str, typed: str, limit: int) -> Titles:
        """Find titles; see `matching_titles`."""
        return matching_titles(self._version(version), typed, limit)

    def plan(self, version: str, query: SparseMatrix, k: int, criteria: Criteria) -> Plan:
        """Report what a search of this shard does; the filter was already checked against the columns of all shards."""
        return self._version(version).plan(_writable(query), k, criteria.settings, criteria.where, known=True)

    def place_of(self, version: str, query: EncodedQuery, doc_id: str) -> int | None:
        """Return the number of the document with this id, or of its best passage; None if it isn't in this shard."""
        return place_of(self._version(version), query._replace(vector=_writable(query.vector)), doc_id)

    def explain(self, version: str, query: EncodedQuery, doc: int, origins: bool) -> Explanation:
        """Explain a document's score; see `Index.explain`."""
        snapshot = self._version(version)
        encoder = snapshot.encoder() if snapshot.shared.encoder_files else None
        mine = query._replace(vector=_writable(query.vector))
        return explain_document(snapshot, encoder, mine, doc, origins=origins)

    def _version(self, version: str) -> Snapshot:
        if version not in self._kept and self._latest(refresh=True)[0] != version:
            raise IndexFormatError(
                f"{self._location}: its documents have changed since they were searched; search again"
            )
        return self._kept[version]


def _writable(queries: SparseMatrix) -> SparseMatrix:
    """Copy arrays, which are read-only if they came from another process; kernels are compiled for writable arrays."""
    return SparseMatrix(queries.indptr.copy(), queries.indices.copy(), queries.data.copy(), queries.shape, check=False)
