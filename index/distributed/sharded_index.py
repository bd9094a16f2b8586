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

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode.base import Encoder
from lsr.encode.lexicon import Lexicon
from lsr.encode.load import as_encoder
from lsr.errors import ClusterError, DataError, IndexFormatError
from lsr.index.distributed.hedging import Outcome, Patience, ReplicaSet, ask
from lsr.index.distributed.results import FoundDocuments, Ranked, ShardRanking, ShardWords, merge
from lsr.index.distributed.shard_server import ShardHits, ShardState
from lsr.index.distributed.thread_replicas import ThreadReplica
from lsr.index.index import Index
from lsr.index.protocols import SearchIndex
from lsr.index.search.column_values import facet_order, require_columns
from lsr.index.search.duplicates import Duplicate
from lsr.index.search.explain import Explanation, query_words
from lsr.index.search.hits import Hit, Hits
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.matches import require_texts
from lsr.index.search.options import Conditions, Options, Sort, split_options
from lsr.index.search.query_encoder import Query, QuerySide, as_queries, checked_k, search_settings
from lsr.index.search.searcher import EXACT
from lsr.index.search.selection import Selected, explained, select
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions, SearchSettings
from lsr.index.search.words import Suggestion, Words, term_queries
from lsr.index.segment.filters import Filter, Where, as_filter
from lsr.index.sharding.manifest import Shards, n_grown, require_one_line
from lsr.index.write.builder import Source
from lsr.index.write.update_batch import Change
from lsr.io.document import Document, require_id
from lsr.sparse import SparseMatrix

_BATCH = 256  # queries that are sent at a time
_STORED = 256  # documents that are fetched at a time
_START = 120.0  # seconds that opening may take, kernels compiled for the first time and all
_TRIES = 3  # so often documents may change while they are searched


class ShardedIndex(QuerySide):
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
        self.shards, self._patience, self._allow_missing = shards, patience or Patience(), allow_missing
        self._sets = dict(enumerate(sets))
        self._states: dict[int, ShardState] = {}
        self._shared: IndexEncoder | None = None
        self._counted: dict[int, int] = {}  # how many documents have a term
        self._kept: dict[str, Any] = {}  # what was made of the documents that are searched
        self._bound: tuple[Encoder, Encoder] | None = None
        self._changes: Index | None = None
        for replicas in sets:
            for replica in replicas.replicas:
                replica.ask("state")  # so that none opens its index when a query waits for it
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
            _close(sets)
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
            _close(self._sets.values())

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
        return sum(state.documents for state in self._states.values())

    def __repr__(self) -> str:
        return f"ShardedIndex({self.path!r}, {len(self._sets)} shards, {len(self)} documents, {self.fingerprint})"

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
        outcome = ask(self._sets, "state", dict.fromkeys(self._sets, ()), Patience(_START, _START))
        if outcome.refused:
            messages = [str(error) for _, error in sorted(outcome.refused.items())]
            raise IndexFormatError("\n".join([f"{len(messages)} shards can't be opened:", *messages]))
        if outcome.lost and not (self._allow_missing and outcome.answers):
            raise self._lost_error(outcome.lost)
        states: dict[int, ShardState] = dict(sorted(outcome.answers.items()))
        self.shards.require_fit({self.shards.entries[n].path: state.manifest for n, state in states.items()})
        before = {n: state.version for n, state in self._states.items()}
        if before != {n: state.version for n, state in states.items()}:
            self._counted, self._kept, self._bound = {}, {}, None
            grown = {n: n_grown(state.manifest) for n, state in states.items()}
            if self._shared is not None and grown != {n: n_grown(s.manifest) for n, s in self._states.items()}:
                self._shared = self._grown(self._shared.base, states)
        self._states = states  # a shard that is lost now is asked for what it has when it is back
        return before != {n: state.version for n, state in states.items()}

    @property
    def shared(self) -> IndexEncoder:
        """What encodes queries, as the shards carry it."""
        if self._shared is None:
            files = self._any("encoder_files")
            base = IndexEncoder(self.path, self.shards.fingerprint, files, lambda: self._any("vocabulary"))
            self._shared = self._grown(base, self._states)
        return self._shared

    def _grown(self, base: IndexEncoder, states: Mapping[int, ShardState]) -> IndexEncoder:
        """The same with the tokens that were appended, which the shard with the most of them has all."""
        grown = {n: count for n, state in states.items() if (count := n_grown(state.manifest))}
        if not grown:
            return base

        def tokens() -> list[str]:
            asked = self._ask("vocabulary", dict.fromkeys(grown, ()))
            if lost := self._lost(asked):
                raise self._lost_error(lost)
            longest: list[str] = max(asked.answers.values(), key=len)
            require_one_line(str(self.path), longest, asked.answers.values())
            return longest

        return IndexEncoder(self.path, base.fingerprint, base.encoder_files, tokens, base=base)

    def _over(self, encoder: Encoder | None) -> Encoder:
        encoder = encoder or self.shared.encoder
        if not encoder.living:
            return encoder
        if self._bound is None or self._bound[0] is not encoder:
            shared = self.shared
            counts = partial(self._frequencies, self._counted)
            lexicon = Lexicon(shared.vocabulary or [], shared.term_of, n_docs=len(self), counts=counts)
            self._bound = encoder, encoder.over(lexicon)
        return self._bound[1]

    def _frequencies(self, counted: dict[int, int], terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, how many documents of all shards have each of (n,) terms; those of lost shards don't count."""
        new = np.array([term for term in terms.tolist() if term not in counted], np.int64)
        known = dict(counted)
        if len(new):
            outcome = self._ask("frequencies", {n: (self._version(n), new) for n in self._sets})
            lost = self._lost(outcome)
            if lost and not (self._allow_missing and outcome.answers):
                raise self._lost_error(lost)
            counts = sum(outcome.answers.values(), np.zeros(len(new), np.int64))
            known |= zip(new.tolist(), counts.tolist(), strict=True)
            if not lost:
                counted.update(known)
        return np.array([known[term] for term in terms.tolist()], np.int64)

    def _any(self, method: str) -> Any:
        """What any shard knows, as all know the same."""
        lost: dict[int, str] = {}
        for n in sorted(self._states):
            outcome = ask(self._sets, method, {n: ()}, self._patience)
            if n in outcome.answers:
                return outcome.answers[n]
            lost |= self._lost(outcome)
        raise self._lost_error(lost)

    def _version(self, n: int) -> str:
        """What is searched of a shard; a shard that didn't answer yet takes what it has."""
        return self._states[n].version if n in self._states else ""

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
            DataError: As of `Index.search`; also a search by dense vectors.
        """
        options, chosen = split_options(settings)
        self._require_sparse(chosen, dense)
        query, text = options.split(query)
        if options.plain:
            return self._hits(query, self._search(lambda: self.query_vector(query, "search"), k, where, chosen)[0])
        conditions = options.conditions(text)
        return self._selected(lambda: self.query_vector(query, "search"), query, k, options, chosen, where, conditions)

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
        options, chosen = split_options(settings)
        self._require_sparse(chosen, dense)
        if not isinstance(queries, SparseMatrix):
            queries = as_queries(queries)
        if not options.plain:
            each = [queries[i] for i in range(len(queries))] if isinstance(queries, SparseMatrix) else queries
            return [self.search(query, k, where=where, **settings) for query in each]
        states, vectors, found = self._states, self.query_vectors(queries), list[Hits]()

        def part() -> SparseMatrix:
            nonlocal states, vectors
            if states is not self._states:
                states, vectors = self._states, self.query_vectors(queries)
            return vectors[np.arange(len(found), min(len(found) + _BATCH, len(vectors)))]

        while len(found) < len(vectors):
            asked = [None] * len(queries) if isinstance(queries, SparseMatrix) else queries
            found += map(self._hits, asked[len(found) :], self._search(part, k, where, chosen, threads))
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
        options, chosen = split_options(settings)
        self._require_sparse(chosen)
        doc_id = require_id(doc_id)
        found = self._every("like", doc_id)
        like = next((one for one in found.values() if one is not None), None)
        if like is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        vectors, own, content = like
        conditions = options.conditions(without=(own,))
        return self._selected(lambda: self.as_query(vectors), content, k, options, chosen, where, conditions)

    def _selected(
        self,
        encoded: Callable[[], SparseMatrix],
        query: Any,
        k: int,
        options: Options,
        settings: SearchSettings,
        where: Where | Filter | None,
        conditions: Conditions,
    ) -> Hits:
        """The hits of a search with options."""
        checked_k(k)
        if len(self._states) == len(self._sets):
            require_columns(options, [columns for state in self._states.values() for columns in state.columns])
            if conditions.text is not None:
                require_texts([entry for state in self._states.values() for entry in state.manifest["segments"]])

        def search(n: int) -> Ranked:
            return self._search(encoded, n, where, settings, conditions=[conditions])[0]

        ranking = ShardRanking(search, self._answers, self.compared)
        found = select(ranking, query, k, options)
        ranked, total, facets = ranking.ranked, None, None
        if options.counts:
            parsed = None if where is None else as_filter(where)
            asked = (ranked.vector, settings, parsed, conditions, options.faceted)
            counts = self._answers("facets", {n: (v, *asked) for n, v in ranked.documents.versions.items()})
            total = sum(count for count, _ in counts.values())
            of_each = {name: [part[name] for _, part in counts.values()] for name in options.faceted}
            facets = {name: facet_order(sum(parts, Counter())) for name, parts in of_each.items()}
        return self._hits(query, ranked, found, boosted=bool(options.boost), facets=facets, total=total)

    def _search(
        self,
        encoded: Callable[[], SparseMatrix],
        k: int,
        where: Where | Filter | None,
        settings: SearchSettings,
        threads: int = 0,
        conditions: Sequence[Conditions] = (),
    ) -> list[Ranked]:
        """The results of queries, which are encoded anew where documents changed: weights may follow from counts."""
        checked_k(k)
        parsed = None if where is None else as_filter(where)
        for _ in range(_TRIES):
            states, vectors = self._states, encoded()
            patience = self._patience.times(len(vectors))
            self._require_known(parsed)
            requests = {n: (self._version(n), vectors, k, settings, parsed, threads, conditions) for n in self._sets}
            outcome = ask(self._sets, "search", requests, patience)
            lost = self._lost(outcome)
            if lost and not (self._allow_missing and outcome.answers):
                raise self._lost_error(lost)
            if all(n in states and states[n].version == version for n, (version, _) in outcome.answers.items()):
                break
            self.refresh()  # somebody has committed something, and what was searched before isn't to be had any more
        else:
            raise ClusterError(f"{self.path}: its documents change faster than they are searched")
        missing = {self.shards.entries[n].path: why for n, why in sorted(lost.items())}
        answers = {n: hits for n, (_, hits) in sorted(outcome.answers.items())}
        sorts = conditions[0].sort if conditions else ()
        return [
            self._merged(vectors[i], {n: hits[i] for n, hits in answers.items()}, k, states, missing, sorts)
            for i in range(len(vectors))
        ]

    def _require_sparse(self, settings: SearchSettings, dense: object = None) -> None:
        if settings.mode != "sparse" or dense is not None:
            raise DataError(
                f"{self.path}: shards on many machines are searched by their sparse vectors alone; Index.open searches "
                "them in this process by dense vectors, too",
                "mode",
            )

    def _require_known(self, where: Filter | None) -> None:
        if where is not None and len(self._states) == len(self._sets):  # who is lost may have a column alone
            where.require_known([columns for state in self._states.values() for columns in state.columns])

    def _merged(
        self,
        vector: SparseMatrix,
        answers: Mapping[int, ShardHits],
        k: int,
        states: Mapping[int, ShardState],
        missing: Mapping[str, str],
        sorts: Sequence[Sort],
    ) -> Ranked:
        """The ranking of a query from what shards found."""
        sizes = [states[n].n_docs if n in states else entry.documents for n, entry in enumerate(self.shards.entries)]
        bases = np.cumsum([0, *sizes]).tolist()
        best = merge(answers, k, sorts)
        places = {bases[place.shard] + place.doc: place for place, _ in best}
        versions = {n: states[n].version for n in answers}
        documents = FoundDocuments(versions, places, partial(self._ask, "fields"), self._lost_error)
        return Ranked(documents, list(places), [score for _, score in best], vector, missing)

    def _hits(
        self, query: Any, ranked: Ranked, selected: Selected | None = None, *, boosted: bool = False, **also: Any
    ) -> Hits:
        """A ranking, or what is selected of it, as hits."""
        selected = selected or Selected(ranked.docs, ranked.scores)
        documents = ranked.documents.only(selected.docs)
        explain = explained(partial(self._explain, documents, query, ranked.vector), selected, boosted=boosted)
        pairs = zip(selected.docs, selected.scores, strict=True)
        return Hits((Hit(documents, *pair, explain) for pair in pairs), missing=ranked.missing, **also)

    # --- documents --------------------------------------------------------------------------------------------------

    def get(self, doc_id: str | int) -> Document | None:
        """A document as it is stored; see `Index.get`."""
        return self.get_many([doc_id])[0]

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Documents as they are stored; see `Index.get_many`."""
        if isinstance(doc_ids, str):
            raise TypeError(f"get_many takes several ids, got {doc_ids!r}; get takes one")
        ids = [require_id(doc_id) for doc_id in doc_ids]
        found = self._every("get_many", ids).values()
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
        self._require_known(parsed)

        def documents() -> Iterator[Document]:
            for n in sorted(self._states):
                version, first = self._version(n), 0
                while first is not None:
                    some, first = self._answers("stored", {n: (version, first, _STORED, parsed)})[n]
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
        self._require_known(parsed)
        return sum(self._every("count", parsed).values())

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
        return Words(
            ShardWords(
                self.vocabulary,
                self._kept,
                partial(self._frequencies, self._counted),
                self._contents,
                partial(self._every, "titles"),
            ),
            self.encoder,
        )

    def _contents(self, terms: Sequence[int], n: int) -> list[list[str]]:
        """For each term title and text of the n documents in which it weighs most."""
        if not terms:
            return []
        found = self._search(lambda: term_queries(terms), n, None, EXACT)
        return [[Document("", hit.text, hit.title).content for hit in self._hits(ranked)] for ranked in found]

    def _every(self, method: str, *args: Any) -> dict[int, Any]:
        """What all shards answer, each of what was searched last."""
        return self._answers(method, {n: (self._version(n), *args) for n in self._sets})

    def _answers(self, method: str, args: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """What shards answer.

        Raises:
            ClusterError: One is lost, and none may be missing.
        """
        outcome = self._ask(method, args)
        if (lost := self._lost(outcome)) and not (self._allow_missing and outcome.answers):
            raise self._lost_error(lost)
        return dict(sorted(outcome.answers.items()))

    def _ask(self, method: str, args: Mapping[int, Sequence[Any]]) -> Outcome:
        return ask(self._sets, method, args, self._patience)

    def _lost(self, outcome: Outcome) -> dict[int, str]:
        """{shard: why nobody answered}.

        Raises:
            LsrError: The request was wrong.
        """
        for error in outcome.refused.values():
            raise error
        return outcome.lost

    def _lost_error(self, lost: Mapping[int, str]) -> ClusterError:
        """What to raise for {shard: why nobody answered}."""
        entries = self.shards.entries
        said = [f"{entries[n].path} ({entries[n].documents:,} documents): {why}" for n, why in sorted(lost.items())]
        return ClusterError(
            "\n".join(
                [
                    f"{self.path}: {len(lost)} of {len(entries)} shards can't be asked:",
                    *said,
                    "see to their machines; replicas=2 has others ready, allow_missing=True takes what the rest has",
                ]
            )
        )

    # --- explaining -------------------------------------------------------------------------------------------------

    def explain(self, query: Query, doc_id: str | int, *, origins: bool = True) -> Explanation:
        """Why a document has its score for a query; arguments and errors are those of `Index.explain`."""
        vector, doc_id = self.query_vector(query, "explain"), require_id(doc_id)
        outcome = self._ask("find", {n: (self._version(n), doc_id) for n in self._sets})
        lost = self._lost(outcome)
        for n, doc in outcome.answers.items():
            if doc is not None:
                return self._explain_in(n, self._version(n), query, vector, doc, origins=origins)
        if lost:
            raise self._lost_error(lost)
        if "#" not in doc_id and any(state.has_passages for state in self._states.values()):
            raise DataError(f"{self.path}: documents are cut into passages here; explain {doc_id + '#0'!r} or the like")
        raise DataError(f"{self.path}: no document has the id {doc_id!r}")

    def _explain(
        self, documents: FoundDocuments, query: Any, vector: SparseMatrix, doc: int, *, origins: bool = True
    ) -> Explanation:
        place = documents.places[doc]
        version = documents.versions[place.shard]
        return self._explain_in(place.shard, version, query, vector, place.doc, origins=origins)

    def _explain_in(
        self, n: int, version: str, query: Any, vector: SparseMatrix, doc: int, *, origins: bool
    ) -> Explanation:
        outcome = self._ask("explain", {n: (version, vector, doc, origins)})
        if lost := self._lost(outcome):
            raise self._lost_error(lost)
        explanation: Explanation = outcome.answers[n]
        return explanation.named(query_words(self.encoder, query)) if isinstance(query, str) else explanation

    def explain_plan(
        self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Search, and tell what that touched in all shards together; see `Index.explain_plan`."""
        vector, chosen = self.query_vector(query, "explain_plan"), search_settings(settings)
        checked_k(k)
        parsed = None if where is None else as_filter(where)
        self._require_known(parsed)
        return Plan.of_shards(list(self._every("plan", vector, k, chosen, parsed).values()))

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


def _close(sets: Iterable[ReplicaSet]) -> None:
    for replicas in sets:
        for replica in replicas.replicas:
            replica.close()


if TYPE_CHECKING:  # the type checker compares the calls
    _: type[SearchIndex] = ShardedIndex
