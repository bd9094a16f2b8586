"""Searching the shards of a group: each gives its best documents, and the best of these are the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lsr.errors import ClusterError
from lsr.index.distributed.results import FoundDocuments, Ranked, ShardRanking, merge
from lsr.index.distributed.shard_group import ShardGroup
from lsr.index.distributed.shard_server import ShardHits, ShardState
from lsr.index.search.column_values import facet_order
from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Hits
from lsr.index.search.options import Sort
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.selection import Selected, explained, select
from lsr.sparse import SparseMatrix

_TRIES = 3  # so often documents may change while they are searched

Encode = Callable[[], SparseMatrix]  # gives the vectors of queries, anew where documents changed: weights follow counts


class ShardSearch:
    """Searches shards.

    Args:
        group: The shards.
        refresh: Moves on to what was committed last.
        compared: Weighs vectors of documents to be compared with each other.
        words: Gives the words of a query that terms stand for.
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
        """The hits of one query.

        Args:
            encode: Gives its vector.
            given: The query as it was asked, for a re-ranker.
            request: How many documents, and what is done with all that match.
            criteria: What each of them has to meet.
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

    def rank(self, encode: Encode, k: int, criteria: Criteria, threads: int = 0) -> list[Ranked]:
        """The k best documents of each query.

        Raises:
            ClusterError: A shard is lost, and none may be missing; or documents change all the time.
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
            self._refresh()  # somebody has committed something, and what was searched before isn't to be had any more
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
        """The ranking of a query from what shards found."""
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
        """A ranking, or what is selected of it, as hits of a query."""
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
        """Why a document of a shard, by its number there, has its score."""
        explanation: Explanation = self._group.one(n, "explain", version, query.vector, doc, origins)
        return explanation.named(self._words(query.given))
