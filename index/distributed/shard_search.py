"""Searching the shards of a group: each gives its best documents, and the best of these are the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lsr.errors import ClusterError
from lsr.index.distributed.results import FoundDocument, FoundDocuments, Ranked, ShardRanking, merge
from lsr.index.distributed.shard_group import ShardGroup
from lsr.index.distributed.shard_server import ShardCandidates, ShardState
from lsr.index.search.column_values import facet_order
from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Hits
from lsr.index.search.hybrid_search import Looked, fuse, meeting
from lsr.index.search.matches import require_unsorted
from lsr.index.search.options import PLAIN, Options
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.selection import Selected, select
from lsr.sparse import SparseMatrix

_TRIES = 3  # so often documents may change while they are searched

Encode = Callable[[], SparseMatrix]  # gives the vectors of queries, anew where documents changed: weights follow counts


class _Answered(NamedTuple):
    """What shards answered: the vectors of the queries, what was searched, {shard: its answer}, and {shard that is
    missing: why}.
    """

    vectors: SparseMatrix
    states: Mapping[int, ShardState]
    answers: dict[int, Any]
    missing: dict[str, str]


class ShardSearch:
    """Searches shards.

    Args:
        group: The shards.
        refresh: Moves on to what was committed last.
        compared: Weighs vectors of documents to be compared with each other.
        words: Gives the words of a query that terms stand for.
        beside: Weighs a query that is searched beside its dense vector.
    """

    def __init__(
        self,
        group: ShardGroup,
        refresh: Callable[[], object],
        compared: Callable[[SparseMatrix], SparseMatrix],
        words: Callable[[Any], Mapping[int, str]],
        beside: Callable[[SparseMatrix], SparseMatrix],
    ) -> None:
        self._group, self._refresh, self._compared, self._words = group, refresh, compared, words
        self._beside = beside

    def find(
        self,
        encode: Encode,
        given: Any,
        request: SearchRequest,
        criteria: Criteria,
        dense: NDArray[np.float32] | None = None,
    ) -> Hits:
        """The hits of one query.

        Args:
            encode: Gives its vector.
            given: The query as it was asked, for a re-ranker.
            request: How many documents, and what is done with all that match.
            criteria: What each of them has to meet.
            dense: (width,) its dense vector, of a search that wants it.
        """
        options, group = request.options, self._group

        def rank(n: int) -> Ranked:
            return (
                self.rank(encode, n, criteria)[0] if dense is None else self._rank_by_both(encode, dense, n, criteria)
            )

        if options.plain and not criteria.conditions:
            return self.hits(given, rank(request.k))
        if dense is not None:
            require_unsorted(criteria.conditions)
        group.require_possible(options, criteria)
        ranking = ShardRanking(rank, group.answers, self._compared)
        found = select(ranking, given, request.k, options)
        ranked, total, facets = ranking.ranked, None, None
        if options.counts:
            if dense is not None and criteria.conditions.min_score:
                counts = self._counted(rank(self._n_docs), options.faceted)
            else:
                asked = (ranked.vector, dense, criteria, options.faceted)
                counts = group.answers("facets", {n: (v, *asked) for n, v in ranked.documents.versions.items()})
            total = sum(count for count, _ in counts.values())
            of_each = {name: [part[name] for _, part in counts.values()] for name in options.faceted}
            facets = {name: facet_order(sum(parts, Counter())) for name, parts in of_each.items()}
        return self.hits(given, ranked, found, options, facets=facets, total=total)

    def rank(self, encode: Encode, k: int, criteria: Criteria, threads: int = 0) -> list[Ranked]:
        """The k best documents of each query.

        Raises:
            ClusterError: A shard is lost, and none may be missing; or documents change all the time.
        """
        answered = self._ask("search", encode, criteria, lambda vectors: (vectors, k, criteria, threads))
        found = list[Ranked]()
        for i in range(len(answered.vectors)):
            best = merge({n: hits[i] for n, hits in answered.answers.items()}, k, criteria.conditions.sort)
            found.append(self._ranked(answered, i, [place for place, _ in best], [score for _, score in best]))
        return found

    def _ask(
        self, method: str, encode: Encode, criteria: Criteria, asked: Callable[[SparseMatrix], tuple[Any, ...]]
    ) -> _Answered:
        """What all shards answer to queries.

        Args:
            method: Of a shard; answers with the version that it searched, and what it found.
            encode: Gives the vectors.
            criteria: What documents have to meet.
            asked: Gives what shards are asked with, besides a version, from the vectors.
        """
        group = self._group
        for _ in range(_TRIES):
            states, vectors = group.states, encode()
            group.require_known(criteria.where)
            args = asked(vectors)
            outcome = group.ask(method, {n: (group.version(n), *args) for n in group.sets}, times=len(vectors))
            lost = group.missing(outcome)
            if all(n in states and states[n].version == version for n, (version, _) in outcome.answers.items()):
                break
            self._refresh()  # somebody has committed something, and what was searched before isn't to be had any more
        else:
            raise ClusterError(f"{group.shards.folder}: its documents change faster than they are searched")
        missing = {group.shards.entries[n].path: why for n, why in sorted(lost.items())}
        return _Answered(vectors, states, {n: answer for n, (_, answer) in sorted(outcome.answers.items())}, missing)

    def _rank_by_both(self, encode: Encode, dense: NDArray[np.float32], k: int, criteria: Criteria) -> Ranked:
        """The k best documents of a query by its dense vector, and, in the mode hybrid, its sparse one."""
        conditions, ranked = criteria.conditions, list[Ranked]()

        def look(depth: int) -> Looked:
            answered = self._ask("candidates", encode, criteria, lambda v: (self._beside(v), dense, depth, criteria))
            shards, found = list(answered.answers), list[ShardCandidates](answered.answers.values())
            fused = fuse([one.found for one in found], depth, criteria.settings)
            rows = [
                (found[part], at, part) for part, at in zip(fused.parts.tolist(), fused.places.tolist(), strict=True)
            ]
            best = [
                FoundDocument(shards[part], int(one.found.docs[at]), one.ids[at], one.parents[at])
                for one, at, part in rows
            ]
            ranked[:] = [self._ranked(answered, 0, best, fused.scores.tolist())]
            accepted = [one.accepted[at] for one, at, _ in rows if one.accepted is not None]
            factors = [one.factors[at] for one, at, _ in rows if one.factors is not None]
            return Looked(
                np.array(ranked[0].docs, np.int64),
                fused.scores,
                np.array(accepted, bool) if conditions.text is not None else None,
                np.array(factors, np.float64) if conditions.boosts else None,
            )

        boosted = bool(conditions.boosts)
        docs, scores = meeting(look, k, self._n_docs, boosted=boosted, min_score=conditions.min_score)
        return ranked[0]._replace(docs=docs.tolist(), scores=scores.tolist())

    def _counted(self, ranked: Ranked, names: Sequence[str]) -> dict[int, tuple[int, dict[str, Counter[Any]]]]:
        """{shard: how many documents of a ranking it has, and how many of them have each value of some columns}."""
        of_shard: dict[int, list[int]] = {}
        for doc in ranked.docs:
            place = ranked.documents.places[doc]
            of_shard.setdefault(place.shard, []).append(place.doc)
        if not of_shard:
            return {}
        versions = ranked.documents.versions
        counts = self._group.answers("count_values", {n: (versions[n], names, d) for n, d in of_shard.items()})
        return {n: (len(of_shard[n]), values) for n, values in counts.items()}

    @property
    def _n_docs(self) -> int:
        """How many documents there are, the deleted ones too."""
        return max(1, sum(state.n_docs for state in self._group.states.values()))

    def _ranked(self, answered: _Answered, i: int, best: Sequence[FoundDocument], scores: Sequence[float]) -> Ranked:
        """The ranking of a query: where its best documents are, which are numbered in the whole."""
        entries, states = self._group.shards.entries, answered.states
        sizes = [states[n].n_docs if n in states else entry.documents for n, entry in enumerate(entries)]
        bases = np.cumsum([0, *sizes]).tolist()
        places = {bases[place.shard] + place.doc: place for place in best}
        versions = {n: states[n].version for n in answered.answers}
        documents = FoundDocuments(versions, places, partial(self._group.ask, "fields"), self._group.lost_error)
        return Ranked(documents, list(places), list(scores), answered.vectors[i], answered.missing)

    def hits(
        self,
        given: Any,
        ranked: Ranked,
        selected: Selected | None = None,
        options: Options = PLAIN,
        **also: Any,
    ) -> Hits:
        """A ranking, or what is selected of it, as hits of a query."""
        selected = selected or Selected(ranked.docs, ranked.scores)
        documents = ranked.documents.only(selected.docs, options.shown)
        explain = partial(self._explain, documents, EncodedQuery(given, ranked.vector))
        return selected.hits(documents, explain, boosted=bool(options.boost), missing=ranked.missing, **also)

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
