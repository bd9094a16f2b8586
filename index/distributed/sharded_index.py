"""ShardedIndex: a sharded folder searched by several processes, with the calls and the results of one index.

    index = ShardedIndex.open("shards", ray="auto", replicas=2)
    for hit in index.search("a question", k=10):
        print(hit.id, hit.score, hit.text)

A query is made a vector once, here, BM25's terms weighed by the counts of all shards, which are asked for them once;
each shard gives its k best documents, and the k best of these are the result:
with one encoder and one scale of impacts scores compare exactly, and equal ones are ordered by shard and number, as in
one index. lsr.index.distributed.hedging decides which replica answers for a shard. A shard that no replica answers for
is an error, or, where that is allowed, named in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode.base import Encoder
from lsr.encode.lexicon import Lexicon
from lsr.encode.load import as_encoder
from lsr.errors import DataError
from lsr.index.distributed.hedging import Patience, ReplicaSet
from lsr.index.distributed.results import ShardWords
from lsr.index.distributed.shard_group import ShardGroup, close_all
from lsr.index.distributed.shard_search import ShardSearch
from lsr.index.distributed.thread_replicas import ThreadReplica
from lsr.index.index import Index
from lsr.index.protocols import SearchIndex
from lsr.index.search.duplicates import Duplicate
from lsr.index.search.explain import Explanation, query_words
from lsr.index.search.find import dense_queries
from lsr.index.search.hits import Hits
from lsr.index.search.hybrid_search import beside_dense, require_dense
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.query_encoder import Query, QueryEncoding, as_queries, checked_k, search_settings
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions
from lsr.index.search.words import Suggestion, Words, term_queries
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.sharding.manifest import Shards, n_grown, require_one_line
from lsr.index.write.builder import Source
from lsr.index.write.update_batch import Change
from lsr.io.document import Document, require_id
from lsr.sparse import SparseMatrix

T = TypeVar("T")
_BATCH = 256  # queries that are sent at a time
_STORED = 256  # documents that are fetched at a time


class ShardedIndex(QueryEncoding):
    """Shards, each searched by processes of its own; safe to call from several threads.

    Attributes:
        shards: What shards.json says.

    Args:
        shards: The shards.
        sets: The replicas of each.
        encoder: Encodes queries, instead of the one that the shards carry.
        patience: How long to wait for a query.
        allow_missing: Whether a result may lack shards.
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
        super().__init__(shards.folder, encoder)
        self.shards = shards
        self._group = ShardGroup(shards, sets, patience or Patience(), allow_missing=allow_missing)
        self._shared: tuple[Mapping[int, int], IndexEncoder] | None = None
        self._made: tuple[object, dict[str, Any]] = None, {}  # of what is searched
        self._changes: Index | None = None
        self.refresh()
        if encoder is not None:
            self.fingerprint.require_same(encoder.fingerprint, f"the index {self.path}", "the query encoder")

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
        """Open a sharded folder; `close` ends what that starts, as does leaving a `with` block.

        Args:
            path: The folder. Every machine opens its shards by their paths, so it has to be there for all of them.
            ray: Address of a Ray cluster ("auto", "local", "host:port", "ray://host:port") whose actors search, one
                for each replica; None for threads of this process.
            replicas: Who answers for a shard, each on a machine of its own as far as there are enough.
            cpus: Cores of an actor.
            encoder: For queries, instead of the one that the shards carry; has to be the one that made them.
            hedge_after: Seconds after which another replica is asked too. A batch has as many times of both as it
                has queries.
            time_limit: Seconds after which a shard counts as lost.
            allow_missing: Whether a result may lack shards that are lost; `Hits.missing` names them.
                Otherwise a lost shard is an error.

        Raises:
            IndexFormatError: No sharded folder; shards are missing, or of another format; all of them are named.
            EncoderMismatch: Shards of another encoder.
            ClusterError: Ray doesn't answer, has too little, or a shard is lost.
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
        """End those who answer, and forget changes that weren't committed; merging ends as with `Index.close`.

        Raises:
            OutputError: As of `Index.close`.
            CorruptIndex: As of `Index.close`.
        """
        try:
            if self._changes is not None:
                self._changes.close()
        finally:
            self._group.close()

    def __enter__(self) -> Self:
        """A block that commits its changes at the end; after an exception it rolls them back. Then it closes."""
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

    # --- what the shards are ----------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Move on to what was committed last, by whichever process.

        Returns:
            Whether there was anything new.

        Raises:
            IndexFormatError: Shards are missing, damaged, or of another format; all of them are named.
            EncoderMismatch: Shards of another encoder.
            ClusterError: A shard is lost.
        """
        return self._group.refresh()

    def _kept(self, name: str, make: Callable[[], T]) -> T:
        """What is made once of what is searched."""
        now, (states, made) = self._group.states, self._made
        if states is not now:
            made = {}
            self._made = now, made
        if name not in made:
            made[name] = make()
        return cast(T, made[name])

    @property
    def shared(self) -> IndexEncoder:
        """What encodes queries, as the shards carry it."""
        grown = {n: count for n, state in self._group.states.items() if (count := n_grown(state.manifest))}
        if self._shared is None:
            group = self._group
            files = group.any("encoder_files")
            base = IndexEncoder(self.path, self.shards.fingerprint, files, lambda: group.any("vocabulary"))
            self._shared = grown, self._grown(base, grown)
        elif self._shared[0] != grown:
            self._shared = grown, self._grown(self._shared[1].base, grown)
        return self._shared[1]

    def _grown(self, base: IndexEncoder, grown: Mapping[int, int]) -> IndexEncoder:
        """The same with the tokens that were appended, which the shard with the most of them has all."""
        if not grown:
            return base
        group, path = self._group, str(self.path)

        def tokens() -> list[str]:
            asked = group.ask("vocabulary", dict.fromkeys(grown, ()))
            if lost := group.lost(asked):
                raise group.lost_error(lost)
            longest: list[str] = max(asked.answers.values(), key=len)
            require_one_line(path, longest, asked.answers.values())
            return longest

        return IndexEncoder(path, base.fingerprint, base.encoder_files, tokens, base=base)

    def _over(self, encoder: Encoder | None) -> Encoder:
        encoder = encoder or self.shared.encoder
        return self._kept("encoder", lambda: self._bound(encoder)) if encoder.living else encoder

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
        """The k best documents; arguments, order and errors are those of `Index.search`.

        Raises:
            ClusterError: A shard is lost, and none may be missing.
            DataError: As of `Index.search`.
        """
        request = SearchRequest.of(k, where, settings)
        query, text = request.options.split(query)
        one = query if isinstance(query, SparseMatrix) else [query]
        (near,) = self._dense_queries(one, None if dense is None else [dense], request)
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
        """The k best documents of many queries; arguments, order and errors are those of `Index.search_batch`. Of each
        replica as many threads are used, by default as many as it has cores.
        """
        request = SearchRequest.of(k, where, settings)
        if not isinstance(queries, SparseMatrix):
            queries = as_queries(queries)
        if not request.options.plain or request.settings.mode != "sparse" or dense is not None:
            each = [queries[i] for i in range(len(queries))] if isinstance(queries, SparseMatrix) else queries
            asked = [request.options.split(query)[0] for query in each]
            near = self._dense_queries(
                queries if isinstance(queries, SparseMatrix) else asked, None if dense is None else list(dense), request
            )
            return [
                self.search(query, k, where=where, dense=vector, **settings)
                for query, vector in zip(each, near, strict=True)
            ]
        search, states, vectors = self._search, self._group.states, self.query_vectors(queries)
        found = list[Hits]()

        def part() -> SparseMatrix:
            nonlocal states, vectors
            if states is not self._group.states:
                states, vectors = self._group.states, self.query_vectors(queries)
            return vectors[np.arange(len(found), min(len(found) + _BATCH, len(vectors)))]

        while len(found) < len(vectors):
            asked = [None] * len(vectors) if isinstance(queries, SparseMatrix) else queries
            found += map(search.hits, asked[len(found) :], search.rank(part, k, request.criteria(), threads))
        return found

    def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """The k documents that are most like one of them; arguments and errors are those of `Index.similar`."""
        request, doc_id = SearchRequest.of(k, where, settings), require_id(doc_id)
        found = self._group.every("like", doc_id)
        like = next((one for one in found.values() if one is not None), None)
        if like is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        dense = None
        if request.settings.mode != "sparse":
            dense = like.dense
            self._dense_width()
        criteria = request.criteria(without=(like.id,))
        return self._search.find(lambda: self.as_query(like.vectors), like.content, request, criteria, dense)

    def explain_plan(
        self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Search, and tell what that touched in all shards together; see `Index.explain_plan`."""
        vector = self.query_vector(query, "explain_plan")
        checked_k(k)
        criteria = Criteria(search_settings(settings), None if where is None else as_filter(where))
        self._group.require_known(criteria.where)
        return Plan.of_shards(list(self._group.every("plan", vector, k, criteria).values()))

    @property
    def _search(self) -> ShardSearch:
        return ShardSearch(self._group, self.refresh, self.compared, self._query_words, self._beside)

    def _query_words(self, query: Any) -> Mapping[int, str]:
        text = query.get("text") if isinstance(query, Mapping) else query
        return query_words(self.encoder, text) if isinstance(text, str) else {}

    def _beside(self, vector: SparseMatrix) -> SparseMatrix:
        return beside_dense(self.shared.encoder if self.shared.encoder_files else None, vector)

    def _dense_width(self) -> int:
        return max(require_dense(state.dense_width, self.path) for state in self._group.states.values())

    def _dense_queries(
        self, queries: Sequence[Any] | SparseMatrix, given: Sequence[ArrayLike] | None, request: SearchRequest
    ) -> Sequence[NDArray[np.float32] | None]:
        return dense_queries(self._dense_width, lambda: self.encoder, queries, given, request.settings)

    # --- documents --------------------------------------------------------------------------------------------------

    def get(self, doc_id: str | int) -> Document | None:
        """A document as it is stored; see `Index.get`."""
        return self.get_many([doc_id])[0]

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Documents as they are stored; see `Index.get_many`."""
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
        """All documents, of passages each, in the order of addition."""
        return self.stored()

    def stored(self, where: Where | Filter | None = None) -> Iterator[Document]:
        """The documents that meet a filter, in the order of addition; see `Index.stored`."""
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
        """All pairs of documents that are alike; see `Index.duplicates`. As any two may be, this process opens all
        shards, and holds the vectors of all of them in memory.
        """
        index = self.changes
        index.refresh()
        return index.duplicates(threshold, where=where)

    def count(self, where: Where | Filter | None = None) -> int:
        """How many documents there are, or meet a filter; see `Index.count`."""
        parsed = None if where is None else as_filter(where)
        self._group.require_known(parsed)
        return sum(self._group.every("count", parsed).values())

    # --- words ------------------------------------------------------------------------------------------------------

    def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """What somebody who types may go on to; see `Index.suggest`."""
        return self._words.suggestions(text, limit)

    def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """Words of a query that no document has, each with the nearest; see `Index.corrections`."""
        return self._words.corrections(text, limit)

    def did_you_mean(self, text: str) -> str | None:
        """A query with its words that no document has replaced by the nearest; see `Index.did_you_mean`."""
        return self._words.corrected(text)

    @property
    def _words(self) -> Words:
        source = ShardWords(
            self.vocabulary, self._kept, self._group.counts, self._contents, partial(self._group.every, "titles")
        )
        return Words(source, self.encoder)

    def _contents(self, terms: Sequence[int], n: int) -> list[list[str]]:
        """For each term title and text of the n documents in which it weighs most."""
        if not terms:
            return []
        search = self._search
        found = [search.hits(None, ranked) for ranked in search.rank(lambda: term_queries(terms), n, Criteria())]
        return [[Document("", hit.text, hit.title).content for hit in hits] for hits in found]

    def explain(self, query: Query, doc_id: str | int, *, origins: bool = True) -> Explanation:
        """Why a document has its score for a query; arguments and errors are those of `Index.explain`."""
        vector, doc_id = self.query_vector(query, "explain"), require_id(doc_id)
        group = self._group
        outcome = group.ask("find", {n: (group.version(n), doc_id) for n in group.sets})
        lost = group.lost(outcome)
        for n, doc in outcome.answers.items():
            if doc is not None:
                return self._search.explain(n, group.version(n), EncodedQuery(query, vector), doc, origins=origins)
        if lost:
            raise group.lost_error(lost)
        if "#" not in doc_id and any(state.has_passages for state in group.states.values()):
            raise DataError(f"{self.path}: documents are cut into passages here; explain {doc_id + '#0'!r} or the like")
        raise DataError(f"{self.path}: no document has the id {doc_id!r}")

    # --- changing ---------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> Index:
        """The folder as this process has it: add, update, delete, commit and roll back there, then `refresh`."""
        if self._changes is None:
            self._changes = Index.open(self.path, encoder=self._given_encoder)
        return self._changes

    def add(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents at the end, which is the last shard; as `Index.add`."""
        return self.changes.add(source, ids=ids, skip_bad=skip_bad)

    def upsert(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Put documents in the place of those of the same ids, in whichever shard; as `Index.upsert`."""
        return self.changes.upsert(source, ids=ids, skip_bad=skip_bad)

    def update(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """The same as `upsert`."""
        return self.upsert(source, ids=ids, skip_bad=skip_bad)

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """Delete documents, in whichever shard; as `Index.delete`."""
        return self.changes.delete(ids, where=where)

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable, and visible here; elsewhere to who opens the folder or refreshes. As `Index.commit`."""
        self.changes.commit(merge=merge)
        self.refresh()

    def rollback(self) -> None:
        """Forget the changes since the last commit."""
        if self._changes is not None:
            self._changes.rollback()

    def merge(self, *, everything: bool = True) -> bool:
        """Commit, then merge the segments of each shard, in this process; see `Index.merge`."""
        merged = self.changes.merge(everything=everything)
        self.refresh()
        return merged


if TYPE_CHECKING:  # the type checker compares the calls
    _: type[SearchIndex] = ShardedIndex
