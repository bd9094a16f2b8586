"""ShardedIndex: a sharded folder searched by several processes, with the calls and results of one index.

    index = ShardedIndex.open("shards", ray="auto", replicas=2)
    for hit in index.search("a question", k=10):
        print(hit.id, hit.score, hit.text)

A query is encoded once, in this process; BM25 terms are weighted by counts over all shards, which are fetched once.
Each shard returns its k best documents, and the k best of these are the result. All shards have the same encoder and
the same scale of impacts, so their scores can be compared exactly; ties are ordered by shard and number, as in one
index. lsr.index.distributed.hedging chooses the replica that answers for a shard. A shard without an answer raises an
error; with `allow_missing`, the result names it instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode.base import Encoder
from lsr.encode.lexicon import Lexicon
from lsr.encode.load import as_encoder
from lsr.errors import DataError
from lsr.index.distributed.hedging import Patience, ReplicaSet
from lsr.index.distributed.results import ShardWords
from lsr.index.distributed.shard_encoder import ShardEncoder
from lsr.index.distributed.shard_group import ShardGroup, close_all
from lsr.index.distributed.shard_search import ShardSearch
from lsr.index.distributed.thread_replicas import ThreadReplica
from lsr.index.index import Index
from lsr.index.protocols import SearchIndex
from lsr.index.search.duplicates import Duplicate
from lsr.index.search.explain import Explanation, query_words
from lsr.index.search.find import with_dense
from lsr.index.search.hits import Hits
from lsr.index.search.hybrid_search import beside_dense, require_dense
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.query_encoder import Query, QueryEncoding, as_queries, checked_k, search_settings
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions
from lsr.index.search.words import Suggestion, Words
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.sharding.manifest import Shards
from lsr.index.write.builder import Source
from lsr.index.write.update_batch import Change
from lsr.io.document import Document, require_id
from lsr.sparse import SparseMatrix

_STORED = 256  # documents fetched at a time


class ShardedIndex(QueryEncoding):
    """Shards, each searched by its own processes; safe to call from several threads.

    Attributes:
        shards: The content of shards.json.

    Args:
        shards: The shards.
        sets: The replicas of each shard.
        encoder: Encodes queries instead of the stored encoder.
        patience: How long to wait for a query.
        allow_missing: Whether results may lack shards.
    """

    def __init__(
        self,
        shards: Shards,
        sets: Sequence[ReplicaSet],
        encoder: Encoder | None = None,
        patience: Patience | None = None,
        *,
        allow_missing: bool = False,
    ) -> None:
        self.shards, self._given = shards, encoder
        self._group = ShardGroup(shards, sets, patience or Patience(), allow_missing=allow_missing)
        self._stored_encoder = ShardEncoder(self._group)
        self._changes: Index | None = None
        self.refresh()
        if encoder is not None:
            self.fingerprint.require_same(encoder.fingerprint, f"the index {self.path}", "the query encoder")

    @property
    def path(self) -> str:
        return self.shards.folder

    @property
    def _given_encoder(self) -> Encoder | None:
        return self._given

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        ray: str | None = None,
        replicas: int = 1,
        cpus: float = 1.0,
        encoder: Encoder | str | PathLike[str] | None = None,
        hedge_after: float = 0.1,
        time_limit: float = 10.0,
        allow_missing: bool = False,
    ) -> Self:
        """Open a sharded folder; `close`, or leaving a `with` block, stops the replicas.

        Args:
            path: The folder. Every machine opens the shards by path, so all machines need the folder under the same
                path.
            ray: Address of a Ray cluster ("auto", "local", "host:port", "ray://host:port"), where each replica is an
                actor; None to search with threads of this process.
            replicas: Number of replicas of each shard, on different machines as far as possible.
            cpus: Cores of each actor.
            encoder: Encodes queries instead of the stored encoder; must be the encoder that made the vectors.
            hedge_after: Seconds after which another replica is asked, too. For a batch, this and `time_limit` are
                multiplied by the number of queries.
            time_limit: Seconds after which a shard counts as lost.
            allow_missing: Return results without lost shards, which `Hits.missing` names; by default, a lost shard is
                an error.

        Raises:
            IndexFormatError: Not a sharded folder; or shards are missing or have another format, and the message names
                each of them.
            EncoderMismatch: Shards of another encoder.
            ClusterError: Ray doesn't answer or lacks resources, or a shard is lost.
            MissingExtra: ray isn't installed.
        """
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
            raise ValueError(f"replicas must be a whole number of at least 1, got {replicas!r}")
        patience, shards = Patience(hedge_after, time_limit), Shards.read(path)
        encoder = as_encoder(encoder)
        if ray is None:
            sets = [
                ReplicaSet([ThreadReplica(location) for _ in range(replicas)])
                for location in map(shards.location, shards.entries)
            ]
        else:
            from lsr.index.distributed.ray_actors import start

            sets = start(ray, shards, replicas, cpus)
        try:
            return cls(shards, sets, encoder, patience, allow_missing=allow_missing)
        except BaseException:
            close_all(sets)
            raise

    def close(self) -> None:
        """Stop the replicas and discard uncommitted changes; background merges end as with `Index.close`.

        Raises:
            OutputError: As for `Index.close`.
            CorruptIndex: As for `Index.close`.
        """
        try:
            if self._changes is not None:
                self._changes.close()
        finally:
            self._group.close()

    def __enter__(self) -> Self:
        """Enter a block that commits on a clean exit, rolls back on an exception, and closes the index either way."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._changes is not None and self._changes.pending:
                self.commit()
        finally:
            self.rollback()
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.path}: replicas belong to the process that started them: pass the path, and call "
            "ShardedIndex.open(path, ...) in the other process"
        )

    def __len__(self) -> int:
        return len(self._group)

    def __repr__(self) -> str:
        return f"ShardedIndex({self.path!r}, {len(self._group.sets)} shards, {len(self)} documents, {self.fingerprint})"

    # --- snapshots and encoder --------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Move to the latest commits of any process.

        Returns:
            Whether anything changed.

        Raises:
            IndexFormatError: Shards are missing, damaged, or of another format; the message names each of them.
            EncoderMismatch: Shards of another encoder.
            ClusterError: A shard is lost.
        """
        return self._group.refresh()

    @property
    def shared(self) -> IndexEncoder:
        """The encoder and vocabulary that the shards store."""
        return self._stored_encoder.latest()

    def _over(self, encoder: Encoder | None) -> Encoder:
        encoder = encoder or self.shared.encoder
        return self._group.kept("encoder", lambda: self._bound(encoder)) if encoder.living else encoder

    def _bound(self, encoder: Encoder) -> Encoder:
        shared = self.shared
        counts = self._group.counts
        return encoder.over(Lexicon(shared.vocabulary or [], shared.term_of, n_docs=len(self), counts=counts))

    # --- searching --------------------------------------------------------------------------------------------------

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """Return the k best documents; arguments, order and errors as for `Index.search`.

        Raises:
            ClusterError: A shard is lost, and `allow_missing` is off.
            DataError: As for `Index.search`.
        """
        request = SearchRequest.of(k, where, settings)
        query, text = request.options.split(query)
        one = self.query_vector(query, "search") if isinstance(query, SparseMatrix) else [query]
        request, (near,) = self._with_dense(request, one, None if dense is None else [dense])
        criteria = request.criteria(text)
        return self._search.find(lambda: self.query_vector(query, "search"), query, request, criteria, near)

    def search_batch(
        self,
        queries: Iterable[str | Mapping[str, Any]] | SparseMatrix,
        k: int = 10,
        *,
        threads: int = 0,
        where: Where | Filter | None = None,
        dense: Sequence[ArrayLike] | NDArray[np.float32] | None = None,
        **settings: Unpack[SearchOptions],
    ) -> list[Hits]:
        """Search for many queries; arguments, order and errors as for `Index.search_batch`.

        `threads` is the number of threads of each replica; by default a replica uses all its cores.
        """
        request = SearchRequest.of(k, where, settings)
        if not isinstance(queries, SparseMatrix):
            queries = as_queries(queries)
        request = request.with_mode(queries, dense, has_dense=self.has_dense)
        if not request.options.plain or request.settings.mode != "sparse" or dense is not None:
            each = [queries[i] for i in range(len(queries))] if isinstance(queries, SparseMatrix) else queries
            asked = queries if isinstance(queries, SparseMatrix) else [request.options.split(one)[0] for one in each]
            _, near = self._with_dense(request, asked, None if dense is None else list(dense))
            return [
                self.search(query, k, where=where, dense=vector, **settings)
                for query, vector in zip(each, near, strict=True)
            ]
        given = [None] * len(queries) if isinstance(queries, SparseMatrix) else queries
        return self._search.find_many(lambda: self.query_vectors(queries), given, k, request.criteria(), threads)

    def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """Return the k most similar documents; arguments and errors as for `Index.similar`."""
        request, doc_id = SearchRequest.of(k, where, settings), require_id(doc_id)
        found = self._group.every("like", doc_id)
        like = next((one for one in found.values() if one is not None), None)
        if like is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        dense, request = None, request.with_mode([like.content], None, has_dense=self.has_dense)
        if request.settings.mode != "sparse":
            dense = like.dense
            require_dense(self._dense_width(), self.path)
        criteria = request.criteria(without=(like.id,))
        return self._search.find(lambda: self.as_query(like.vectors), like.content, request, criteria, dense)

    def explain_plan(
        self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Run a search and report what it did in all shards together; see `Index.explain_plan`."""
        vector = self.query_vector(query, "explain_plan")
        checked_k(k)
        criteria = Criteria(search_settings(settings), None if where is None else as_filter(where))
        self._group.require_known(criteria.where)
        return Plan.of_shards(list(self._group.every("plan", vector, k, criteria).values()))

    @property
    def _search(self) -> ShardSearch:
        return ShardSearch(
            self._group, self.refresh, self.compared, self._query_words, lambda: self.vocabulary, self._beside
        )

    def _query_words(self, query: Any) -> Mapping[int, str]:
        text = query.get("text") if isinstance(query, Mapping) else query
        return query_words(self.encoder, text) if isinstance(text, str) else {}

    def _beside(self, vector: SparseMatrix) -> SparseMatrix:
        return beside_dense(self.shared.encoder if self.shared.encoder_files else None, vector)

    @property
    def has_dense(self) -> bool:
        """Whether documents have dense vectors, for hybrid search."""
        return self._dense_width() is not None

    def _dense_width(self) -> int | None:
        widths = [state.dense_width for state in self._group.states.values()]
        return None if None in widths else max(width for width in widths if width is not None)

    def _with_dense(
        self, request: SearchRequest, queries: Sequence[Any] | SparseMatrix, given: Sequence[ArrayLike] | None
    ) -> tuple[SearchRequest, Sequence[NDArray[np.float32] | None]]:
        return with_dense(
            request,
            queries,
            lambda: self.query_vectors(queries),
            given,
            width=self._dense_width(),
            path=self.path,
            encoder=lambda: self.encoder,
        )

    # --- documents --------------------------------------------------------------------------------------------------

    def get(self, doc_id: str | int) -> Document | None:
        """Return a stored document; see `Index.get`."""
        return self.get_many([doc_id])[0]

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Return the stored document for each id; see `Index.get_many`."""
        if isinstance(doc_ids, str):
            raise TypeError(f"get_many takes several ids, got {doc_ids!r}; get takes one")
        ids = [require_id(doc_id) for doc_id in doc_ids]
        found = self._group.every("get_many", ids).values()
        return [next((one for one in each if one is not None), None) for each in zip(*found, strict=True)]

    def __contains__(self, doc_id: object) -> bool:
        if isinstance(doc_id, bool) or not isinstance(doc_id, str | int):
            return False
        return self.get(doc_id) is not None

    def __iter__(self) -> Iterator[Document]:
        """Iterate over all documents (or passages) in the order in which they were added."""
        return self.stored()

    def stored(self, where: Where | Filter | None = None) -> Iterator[Document]:
        """Iterate over the documents that match a filter, in the order in which they were added; see `Index.stored`."""
        parsed = None if where is None else as_filter(where)
        self._group.require_known(parsed)

        def documents() -> Iterator[Document]:
            for n in sorted(self._group.states):
                version, first = self._group.version(n), 0
                while first is not None:
                    some, first = self._group.one(n, "stored", version, first, _STORED, parsed)
                    yield from some

        return documents()

    def duplicates(self, threshold: float = 0.9, *, where: Where | Filter | None = None) -> list[Duplicate]:
        """Find all pairs of near-duplicates; see `Index.duplicates`.

        Any two documents may be similar, so this process opens all shards and loads all their vectors into memory.
        """
        index = self.changes
        index.refresh()
        return index.duplicates(threshold, where=where)

    def count(self, where: Where | Filter | None = None) -> int:
        """Count all documents, or the documents that match a filter; see `Index.count`."""
        parsed = None if where is None else as_filter(where)
        self._group.require_known(parsed)
        return sum(self._group.every("count", parsed).values())

    # --- words ------------------------------------------------------------------------------------------------------

    def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """Suggest completions while a user types; see `Index.suggest`."""
        return self._words.suggestions(text, limit)

    def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """Suggest corrections for unknown words of a query; see `Index.corrections`."""
        return self._words.corrections(text, limit)

    def did_you_mean(self, text: str) -> str | None:
        """Return the query with unknown words corrected; see `Index.did_you_mean`."""
        return self._words.corrected(text)

    @property
    def _words(self) -> Words:
        group = self._group
        titles = partial(group.every, "titles")
        source = ShardWords(self.vocabulary, group.kept, group.counts, self._search.contents, titles)
        return Words(source, self.encoder)

    def explain(
        self,
        query: Query,
        doc_id: str | int,
        *,
        origins: bool = True,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[RankingOptions],
    ) -> Explanation:
        """Explain a document's score for a query; arguments and errors as for `Index.explain`."""
        vector, request = self.query_vector(query, "explain"), SearchRequest.of(1, where, settings)
        one = query if isinstance(query, SparseMatrix) else [query]
        request, (near,) = self._with_dense(request, one, None if dense is None else [dense])
        encoded = EncodedQuery(query, vector, near)
        if near is not None:
            ranked = self._search.by_both(lambda: self.query_vector(query, "explain"), near, 1, request.criteria())
            encoded = EncodedQuery(query, ranked.vector, near, ranked.fusion)
        return self._search.explain_by_id(encoded, require_id(doc_id), origins=origins)

    # --- changing ---------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> Index:
        """The shards as an `Index` of this process, which makes the changes.

        After a commit on this `Index`, call `ShardedIndex.refresh`.
        """
        if self._changes is None:
            self._changes = Index.open(self.path, encoder=self._given_encoder)
        return self._changes

    def add(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents to the last shard; see `Index.add`."""
        return self.changes.add(source, ids=ids, skip_bad=skip_bad)

    def upsert(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents, replacing existing documents with the same ids in any shard; see `Index.upsert`."""
        return self.changes.upsert(source, ids=ids, skip_bad=skip_bad)

    def update(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Same as `upsert`."""
        return self.upsert(source, ids=ids, skip_bad=skip_bad)

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """Delete documents in any shard; see `Index.delete`."""
        return self.changes.delete(ids, where=where)

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable and visible here; other processes see them after a refresh. See `Index.commit`."""
        self.changes.commit(merge=merge)
        self.refresh()

    def rollback(self) -> None:
        """Discard the changes since the last commit."""
        if self._changes is not None:
            self._changes.rollback()

    def merge(self, *, everything: bool = True) -> bool:
        """Commit, then merge the segments of each shard, in this process; see `Index.merge`."""
        merged = self.changes.merge(everything=everything)
        self.refresh()
        return merged


if TYPE_CHECKING:  # lets the type checker compare this class with the protocol
    _: type[SearchIndex] = ShardedIndex
