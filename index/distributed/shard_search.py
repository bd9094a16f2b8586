"""Search the shards of a group: merge the best documents of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lsr.errors import ClusterError, DataError
from lsr.index.distributed.results import FoundDocuments, Ranked, ShardRanking, merge
from lsr.index.distributed.shard_group import ShardGroup
from lsr.index.distributed.shard_server import ShardHits, ShardState
from lsr.index.search.column_values import facet_order
from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Hits
from lsr.index.search.options import Sort
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.selection import Selected, explained, select
from lsr.index.search.words import term_queries
from lsr.io.document import Document
from lsr.sparse import SparseMatrix

_BATCH = 256  # queries sent at a time
_TRIES = 3  # searches before giving up on documents that keep changing

Encode = Callable[[], SparseMatrix]  # returns query vectors; called again after a change, as weights depend on counts


class ShardSearch:
    """Searches the shards of a group.

    Args:
        group: The shards.
        refresh: Moves to the latest commits.
        compared: Weights document vectors so that their products compare documents.
        words: Returns the words of a query by term.
    """

    def __init__(
        self,
        group: ShardGroup,
        refresh: Callable[[], object],
        compared: Callable[[SparseMatrix], SparseMatrix],
        words: Callable[[Any], Mapping[int, str]],
    ) -> None:
        self._group, self._refresh, self._compared, self._words = group, refresh, compared, words

    def find(self, encode: Encode, given: Any, request: SearchRequest, criteria: Criteria) -> Hits:
        """Search for one query.

        Args:
            encode: Returns its vector.
            given: The query as the caller gave it, for a re-ranker.
            request: k and the options that apply to the ranking as a whole.
            criteria: The conditions that each document has to meet.
        """
        options, group = request.options, self._group
        if options.plain and not criteria.conditions:
            return self.hits(given, self.rank(encode, request.k, criteria)[0])
        group.require_possible(options, criteria)
        ranking = ShardRanking(lambda n: self.rank(encode, n, criteria)[0], group.answers, self._compared)
        found = select(ranking, given, request.k, options)
        ranked, total, facets = ranking.ranked, None, None
        if options.counts:
            asked = (ranked.vector, criteria, options.faceted)
            counts = group.answers("facets", {n: (v, *asked) for n, v in ranked.documents.versions.items()})
            total = sum(count for count, _ in counts.values())
            of_each = {name: [part[name] for _, part in counts.values()] for name in options.faceted}
            facets = {name: facet_order(sum(parts, Counter())) for name, parts in of_each.items()}
        return self.hits(given, ranked, found, boosted=bool(options.boost), facets=facets, total=total)

    def find_many(
        self, encode: Encode, given: Sequence[Any], k: int, criteria: Criteria, threads: int = 0
    ) -> list[Hits]:
        """Search for many queries, in batches.

        Args:
            encode: Returns their vectors.
            given: The queries as the caller gave them.
            k: Number of documents for each.
            criteria: The conditions that each document has to meet.
            threads: Number of threads on each replica; 0 for one per core.
        """
        states, vectors, found = self._group.states, encode(), list[Hits]()

        def batch() -> SparseMatrix:
            nonlocal states, vectors
            if states is not self._group.states:
                states, vectors = self._group.states, encode()
            return vectors[np.arange(len(found), min(len(found) + _BATCH, len(vectors)))]

        while len(found) < len(given):
            found += map(self.hits, given[len(found) :], self.rank(batch, k, criteria, threads))
        return found

    def rank(self, encode: Encode, k: int, criteria: Criteria, threads: int = 0) -> list[Ranked]:
        """Return the k best documents for each query.

        Raises:
            ClusterError: A shard is lost, and none may be missing; or documents keep changing.
        """
        group = self._group
        for _ in range(_TRIES):
            states, vectors = group.states, encode()
            group.require_known(criteria.where)
            asked = {n: (group.version(n), vectors, k, criteria, threads) for n in group.sets}
            outcome = group.ask("search", asked, times=len(vectors))
            lost = group.missing(outcome)
            if all(n in states and states[n].version == version for n, (version, _) in outcome.answers.items()):
                break
            self._refresh()  # after a commit elsewhere, the version that was to be searched is gone
        else:
            raise ClusterError(f"{group.shards.folder}: its documents change faster than they are searched")
        missing = {group.shards.entries[n].path: why for n, why in sorted(lost.items())}
        answers = {n: hits for n, (_, hits) in sorted(outcome.answers.items())}
        return [
            self._merged(
                vectors[i], {n: hits[i] for n, hits in answers.items()}, k, states, missing, criteria.conditions.sort
            )
            for i in range(len(vectors))
        ]

    def _merged(
        self,
        vector: SparseMatrix,
        answers: Mapping[int, ShardHits],
        k: int,
        states: Mapping[int, ShardState],
        missing: Mapping[str, str],
        sorts: Sequence[Sort],
    ) -> Ranked:
        """Merge the results of shards for one query."""
        entries = self._group.shards.entries
        sizes = [states[n].n_docs if n in states else entry.documents for n, entry in enumerate(entries)]
        bases = np.cumsum([0, *sizes]).tolist()
        best = merge(answers, k, sorts)
        places = {bases[place.shard] + place.doc: place for place, _ in best}
        versions = {n: states[n].version for n in answers}
        documents = FoundDocuments(versions, places, partial(self._group.ask, "fields"), self._group.lost_error)
        return Ranked(documents, list(places), [score for _, score in best], vector, missing)

    def hits(
        self, given: Any, ranked: Ranked, selected: Selected | None = None, *, boosted: bool = False, **also: Any
    ) -> Hits:
        """Wrap a ranking, or a selection of it, as hits of a query."""
        selected = selected or Selected(ranked.docs, ranked.scores)
        documents = ranked.documents.only(selected.docs)
        explain = explained(
            partial(self._explain, documents, EncodedQuery(given, ranked.vector)), selected, boosted=boosted
        )
        return Hits(documents, selected.docs, selected.scores, explain, missing=ranked.missing, **also)

    def _explain(
        self, documents: FoundDocuments, query: EncodedQuery, doc: int, *, origins: bool = True
    ) -> Explanation:
        place = documents.places[doc]
        version = documents.versions[place.shard]
        return self.explain(place.shard, version, query, place.doc, origins=origins)

    def explain(self, n: int, version: str, query: EncodedQuery, doc: int, *, origins: bool) -> Explanation:
        """Explain the score of a document, by its number in shard n."""
        explanation: Explanation = self._group.one(n, "explain", version, query.vector, doc, origins)
        return explanation.named(self._words(query.given))

    def explain_by_id(self, query: EncodedQuery, doc_id: str, *, origins: bool) -> Explanation:
        """Explain the score of a document, in whichever shard it is.

        Raises:
            DataError: No shard has a document with this id.
            ClusterError: A shard that may have it is lost.
        """
        group = self._group
        outcome = group.ask("find", {n: (group.version(n), doc_id) for n in group.sets})
        lost = group.lost(outcome)
        for n, doc in outcome.answers.items():
            if doc is not None:
                return self.explain(n, group.version(n), query, doc, origins=origins)
        if lost:
            raise group.lost_error(lost)
        path = group.shards.folder
        if "#" not in doc_id and any(state.has_passages for state in group.states.values()):
            raise DataError(f"{path}: documents are cut into passages: explain {doc_id + '#0'!r}, for instance")
        raise DataError(f"{path}: no document has the id {doc_id!r}")

    def contents(self, terms: Sequence[int], n: int) -> list[list[str]]:
        """Return, for each term, title and text of the n documents in which it weighs most."""
        if not terms:
            return []
        found = [self.hits(None, ranked) for ranked in self.rank(lambda: term_queries(terms), n, Criteria())]
        return [[Document("", hit.text, hit.title).content for hit in hits] for hits in found]
