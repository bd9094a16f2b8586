"""Search the shards of a group: merge the best documents of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lsr.errors import ClusterError, DataError
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
from lsr.index.search.words import term_queries
from lsr.io.document import Document
from lsr.sparse import SparseMatrix

_BATCH = 256  # queries sent at a time
_TRIES = 3  # searches before giving up on documents that keep changing

# Returns query vectors; called again after a commit, which changes the weights.
Encode = Callable[[], SparseMatrix]


class _Answered(NamedTuple):
    """Answers of shards: the query vectors, the searched states, {shard: answer}, and {lost shard: reason}."""

    vectors: SparseMatrix
    states: Mapping[int, ShardState]
    answers: dict[int, Any]
    missing: dict[str, str]


class ShardSearch:
    """Searches the shards of a group.

    Args:
        group: The shards.
        refresh: Moves to the latest commits.
        compared: Weights document vectors so that the dot product of two is their similarity.
        words: Returns the words of a query by term.
        tokens: Returns the tokens of all shards; None if they aren't known.
        beside: Weights the sparse vector of a query that also has a dense one.
    """

    def __init__(
        self,
        group: ShardGroup,
        refresh: Callable[[], object],
        compared: Callable[[SparseMatrix], SparseMatrix],
        words: Callable[[Any], Mapping[int, str]],
        tokens: Callable[[], Sequence[str] | None],
        beside: Callable[[SparseMatrix], SparseMatrix],
    ) -> None:
        self._group, self._refresh, self._compared, self._words = group, refresh, compared, words
        self._tokens, self._beside = tokens, beside

    def find(
        self,
        encode: Encode,
        given: Any,
        request: SearchRequest,
        criteria: Criteria,
        dense: NDArray[np.float32] | None = None,
    ) -> Hits:
        """Search for one query.

        Args:
            encode: Returns the query's vector.
            given: The query as the caller gave it, for a re-ranker.
            request: k and the options that apply to the ranking as a whole.
            criteria: The conditions that each document has to meet.
            dense: (width,) the query's dense vector, for the modes hybrid and dense.
        """
        options, group = request.options, self._group

        def rank(n: int) -> Ranked:
            return self.rank(encode, n, criteria)[0] if dense is None else self.by_both(encode, dense, n, criteria)

        if options.plain and not criteria.conditions:
            return self.hits(given, rank(request.k), dense=dense)
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
        return self.hits(given, ranked, found, options, dense=dense, facets=facets, total=total)

    def find_many(
        self, encode: Encode, given: Sequence[Any], k: int, criteria: Criteria, threads: int = 0
    ) -> list[Hits]:
        """Search for many queries, in batches.

        Args:
            encode: Returns the queries' vectors.
            given: The queries as the caller gave them.
            k: Number of documents for each query.
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
            ClusterError: A shard is lost, and `allow_missing` is off; or documents keep changing.
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
        """Ask all shards about queries.

        Args:
            method: A method of `Shard` that returns the version that it searched, and a result.
            encode: Returns the query vectors.
            criteria: The conditions that each document has to meet.
            asked: Maps the query vectors to the arguments that follow the version.
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
            self._refresh()  # another process has committed, so the requested version is gone
        else:
            raise ClusterError(f"{group.shards.folder}: its documents change faster than they are searched")
        missing = {group.shards.entries[n].path: why for n, why in sorted(lost.items())}
        return _Answered(vectors, states, {n: answer for n, (_, answer) in sorted(outcome.answers.items())}, missing)

    def by_both(self, encode: Encode, dense: NDArray[np.float32], k: int, criteria: Criteria) -> Ranked:
        """Return the k best documents of a hybrid or dense search."""
        conditions, ranked = criteria.conditions, list[Ranked]()

        def beside() -> SparseMatrix:
            return self._beside(encode())

        def look(depth: int) -> Looked:
            answered = self._ask("candidates", beside, criteria, lambda v: (v, dense, depth, criteria))
            shards, found = list(answered.answers), list[ShardCandidates](answered.answers.values())
            fused = fuse([one.found for one in found], depth, criteria.settings, passages=conditions.passages)
            rows = [
                (found[part], at, part) for part, at in zip(fused.parts.tolist(), fused.places.tolist(), strict=True)
            ]
            best = [
                FoundDocument(shards[part], int(one.found.docs[at]), one.ids[at], one.parents[at])
                for one, at, part in rows
            ]
            ranked[:] = [self._ranked(answered, 0, best, fused.scores.tolist())._replace(fusion=fused.fusion)]
            accepted = [one.accepted[at] for one, at, _ in rows if one.accepted is not None]
            factors = [one.factors[at] for one, at, _ in rows if one.factors is not None]
            return Looked(
                np.array(ranked[0].docs, np.int64),
                fused.scores,
                np.array(accepted, bool) if conditions.text is not None else None,
                np.array(factors, np.float64) if conditions.boosted else None,
            )

        boosted = conditions.boosted
        docs, scores = meeting(look, k, self._n_docs, boosted=boosted, min_score=conditions.min_score)
        return ranked[0]._replace(docs=docs.tolist(), scores=scores.tolist())

    def _counted(self, ranked: Ranked, names: Sequence[str]) -> dict[int, tuple[int, dict[str, Counter[Any]]]]:
        """Return {shard: (number of documents of a ranking, {column: number of documents with each value})}."""
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
        """The number of documents, including deleted ones."""
        return max(1, sum(state.n_docs for state in self._group.states.values()))

    def _ranked(self, answered: _Answered, i: int, best: Sequence[FoundDocument], scores: Sequence[float]) -> Ranked:
        """Return the ranking of a query, whose documents are numbered over all shards."""
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
        *,
        dense: NDArray[np.float32] | None = None,
        **also: Any,
    ) -> Hits:
        """Make hits from a ranking, or from a selection of its documents; `dense` is the query's dense vector."""
        selected = selected or Selected(ranked.docs, ranked.scores)
        documents = ranked.documents.only(selected.docs, options.shown)
        explain = partial(self._explain, documents, EncodedQuery(given, ranked.vector, dense, ranked.fusion))
        return selected.hits(documents, explain, boosted=bool(options.boost), missing=ranked.missing, **also)

    def _explain(
        self, documents: FoundDocuments, query: EncodedQuery, doc: int, *, origins: bool = True
    ) -> Explanation:
        place = documents.places[doc]
        version = documents.versions[place.shard]
        return self.explain(place.shard, version, query, place.doc, origins=origins)

    def explain(self, n: int, version: str, query: EncodedQuery, doc: int, *, origins: bool) -> Explanation:
        """Explain the score of the document with this number in shard n."""
        asked = query._replace(given=None)
        explanation: Explanation = self._group.one(n, "explain", version, asked, doc, origins)
        return explanation.with_tokens(self._tokens() or ()).named(self._words(query.given))

    def explain_by_id(self, query: EncodedQuery, doc_id: str, *, origins: bool) -> Explanation:
        """Explain the score of a document, in whichever shard it is.

        Raises:
            DataError: No shard has a document with this id.
            ClusterError: A shard that may have it is lost.
        """
        group = self._group
        asked = query._replace(given=None)
        outcome = group.ask("place_of", {n: (group.version(n), asked, doc_id) for n in group.sets})
        lost = group.lost(outcome)
        for n, doc in outcome.answers.items():
            if doc is not None:
                return self.explain(n, group.version(n), query, doc, origins=origins)
        if lost:
            raise group.lost_error(lost)
        raise DataError(f"{group.shards.folder}: no document has the id {doc_id!r}")

    def contents(self, terms: Sequence[int], n: int) -> list[list[str]]:
        """Return, for each term, the contents (title and text) of the n documents in which the term weighs most."""
        if not terms:
            return []
        found = [self.hits(None, ranked) for ranked in self.rank(lambda: term_queries(terms), n, Criteria())]
        return [[Document("", hit.text, hit.title).content for hit in hits] for hits in found]
