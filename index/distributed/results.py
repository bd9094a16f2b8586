"""The results of a search over shards; texts stay with the shards until they are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lsr.errors import ClusterError
from lsr.forks import in_child
from lsr.index.distributed.hedging import Outcome
from lsr.index.distributed.shard_server import ShardHits
from lsr.index.search.column_values import sorted_order
from lsr.index.search.hybrid_search import Fusion
from lsr.index.search.options import DOCUMENT, STORED, Sort
from lsr.index.search.words import Titles, merged_titles
from lsr.sparse import SparseMatrix


@dataclass(frozen=True)
class FoundDocument:
    """A document's shard, its number there, its id, and, for a passage, the id of its document."""

    shard: int
    doc: int
    id: str
    parent: str | None


class FoundDocuments:
    """The documents of a result, numbered over all shards; all texts are fetched when the first one is read.

    Attributes:
        versions: {shard: the version that was searched}.
        places: {number: the document's shard, its number there, and its ids}.

    Args:
        versions: As above.
        places: As above.
        fetch: Asks shards for titles, texts and metadata.
        error: Makes the exception for lost shards.
        shown: The fields to show, as in `Options.shown`; others aren't fetched.
    """

    def __init__(
        self,
        versions: Mapping[int, str],
        places: Mapping[int, FoundDocument],
        fetch: Callable[[Mapping[int, Sequence[Any]]], Outcome],
        error: Callable[[Mapping[int, str]], ClusterError],
        shown: Sequence[str] | None = None,
    ) -> None:
        self.versions, self.places = versions, places
        self._ask, self._error, self._shown = fetch, error, shown
        self._fetched: dict[int, tuple[str, str, dict[str, Any]]] = {}
        self._fetching = threading.Lock()
        in_child(self)

    def after_fork(self) -> None:
        """Replace the lock; see `lsr.forks`."""
        self._fetching = threading.Lock()

    def only(self, docs: Sequence[int], shown: Sequence[str] | None = None) -> FoundDocuments:
        """Return a subset of the documents; only its texts are fetched."""
        return FoundDocuments(self.versions, {doc: self.places[doc] for doc in docs}, self._ask, self._error, shown)

    def id(self, doc: int) -> str:
        """Return a document's id."""
        return self.places[doc].id

    def parent(self, doc: int) -> str | None:
        """Return the id of the document that a passage was cut from; None if it isn't a passage."""
        return self.places[doc].parent

    def ids_of(self, docs: Sequence[int], *, parents: bool = False) -> list[str]:
        """Return the ids of documents; with `parents`, the id of a passage's document instead of its own id."""
        places = [self.places[doc] for doc in docs]
        return [place.parent or place.id if parents else place.id for place in places]

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Return a document's title, text and metadata.

        Raises:
            ClusterError: The document's shard was lost.
            IndexFormatError: The document's shard has changed since the search.
        """
        with self._fetching:
            if doc not in self._fetched:
                self._fetch(self.places[doc].shard)
        return self._fetched[doc]

    def _fetch(self, wanted: int) -> None:
        """Fetch missing texts from all shards at once; fail only if the texts of shard `wanted` can't be fetched."""
        of_shard: dict[int, list[int]] = {}
        for doc, place in self.places.items():
            if doc not in self._fetched:
                of_shard.setdefault(place.shard, []).append(doc)
        asked = {n: (self.versions[n], [self.places[d].doc for d in docs], self._shown) for n, docs in of_shard.items()}
        outcome = self._ask(asked)
        for n, fields in outcome.answers.items():
            self._fetched |= zip(of_shard[n], fields, strict=True)
        if wanted in outcome.refused:
            raise outcome.refused[wanted]
        if wanted in outcome.lost:
            raise self._error({wanted: outcome.lost[wanted]})


def merge(answers: Mapping[int, ShardHits], k: int, sorts: Sequence[Sort] = ()) -> list[tuple[FoundDocument, float]]:
    """Merge the results of shards: the k best documents with their scores; ties by shard and number.

    Args:
        answers: {shard: its k best documents}, at least one.
        k: Number of documents.
        sorts: Sort keys; by default the score.
    """
    numbers = np.repeat(list(answers), [len(hits.docs) for hits in answers.values()])
    docs = np.concatenate([hits.docs for hits in answers.values()])
    scores = np.concatenate([hits.scores for hits in answers.values()])
    firsts = dict(zip(answers, np.cumsum([0, *(len(hits.docs) for hits in answers.values())]).tolist(), strict=False))
    least = np.partition(scores, -k)[-k] if len(scores) > k else -np.inf
    high = np.flatnonzero(scores >= least)  # with a thousand shards, only a thousandth of the results is left to sort
    order = high[np.lexsort((docs[high], numbers[high], -scores[high]))]
    if sorts:
        keys = [[key for hits in answers.values() for key in hits.keys[i]] for i in range(len(sorts))]
        in_order = np.lexsort((docs, numbers))
        keys = [[column[i] for i in in_order.tolist()] if column else column for column in keys]
        order = in_order[sorted_order(keys, sorts, scores[in_order])]
    best = []
    for i in order[:k].tolist():
        n = int(numbers[i])
        at = i - firsts[n]
        found = FoundDocument(n, int(docs[i]), answers[n].ids[at], answers[n].parents[at])
        best.append((found, float(scores[i])))
    return best


class Ranked(NamedTuple):
    """The ranking of one query over all shards.

    Attributes:
        documents: Reads the documents.
        docs: The documents' numbers over all shards, best first.
        scores: The documents' scores.
        vector: The query.
        missing: {shard: why it is missing}.
        fusion: How a hybrid or dense search made the scores.
    """

    documents: FoundDocuments
    docs: list[int]
    scores: list[float]
    vector: SparseMatrix
    missing: Mapping[str, str]
    fusion: Fusion | None = None


class ShardRanking:
    """The matching documents of all shards, as `lsr.index.search.selection` expects them.

    Attributes:
        ranked: The result of the last search.

    Args:
        search: Returns the n best documents.
        answers: Asks shards; takes a method and {shard: arguments}.
        compared: Weights document vectors so that the dot product of two is their similarity.
    """

    ranked: Ranked

    def __init__(
        self,
        search: Callable[[int], Ranked],
        answers: Callable[[str, Mapping[int, Sequence[Any]]], dict[int, Any]],
        compared: Callable[[SparseMatrix], SparseMatrix],
    ) -> None:
        self._search, self._answers, self._compared = search, answers, compared

    def top(self, n: int) -> tuple[list[int], list[float]]:
        """Return the n best documents and their scores."""
        self.ranked = self._search(n)
        return self.ranked.docs, self.ranked.scores

    def values(self, column: str, docs: Sequence[int]) -> list[Any]:
        """Return the documents' values of a column. `DOCUMENT` holds ids; for a passage, the id of its document."""
        if column == DOCUMENT:
            places = self.ranked.documents.places
            return [places[doc].parent or places[doc].id for doc in docs]
        return self._of_each("values", docs, column)

    def texts(self, docs: Sequence[int]) -> list[tuple[str, str]]:
        """Return (title, text) of each document."""
        documents = self.ranked.documents.only(docs, STORED[:2])
        return [documents.fields(doc)[:2] for doc in docs]

    def vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """Return the documents' vectors, weighted for comparison."""
        nothing = SparseMatrix.from_rows([([], [])], 1)  # for documents of a shard lost meanwhile
        rows = [nothing if row is None else row for row in self._of_each("vectors", docs)]
        n_terms = max((row.shape[1] for row in rows), default=1)
        return self._compared(SparseMatrix.from_rows([row.row(0) for row in rows], n_terms))

    def _of_each(self, method: str, docs: Sequence[int], *args: Any) -> list[Any]:
        """Ask the shards about each document; return the answers in the order of `docs`."""
        places, versions = self.ranked.documents.places, self.ranked.documents.versions
        of_shard: dict[int, list[int]] = {}
        for doc in docs:
            of_shard.setdefault(places[doc].shard, []).append(doc)
        asked = {n: (versions[n], *args, [places[doc].doc for doc in mine]) for n, mine in of_shard.items()}
        known: dict[int, Any] = {}
        for n, answer in (self._answers(method, asked) if asked else {}).items():
            known |= {doc: answer[i] for i, doc in enumerate(of_shard[n])}
        return [known.get(doc) for doc in docs]


class ShardWords:
    """The documents of all shards as a `WordSource`, made of functions that ask the shards."""

    def __init__(
        self,
        vocabulary: list[str] | None,
        kept: Callable[..., Any],
        frequencies: Callable[[NDArray[np.int64]], NDArray[np.int64]],
        contents: Callable[[Sequence[int], int], list[list[str]]],
        titles: Callable[[str, int], Mapping[int, Titles]],
    ) -> None:
        self.vocabulary, self.kept, self.frequencies, self.contents = vocabulary, kept, frequencies, contents
        self._titles = titles

    def titles(self, typed: str, limit: int) -> Titles:
        """Return the titles of all shards, shard by shard, without duplicates."""
        return merged_titles(self._titles(typed, limit).values())
