"""What a search over shards found: hits whose texts are still with their shards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lsr.errors import ClusterError
from lsr.forks import in_child
from lsr.index.distributed.hedging import Outcome
from lsr.index.distributed.shard_server import ShardHits
from lsr.index.search.hits import Hit


class Found(list[Hit]):
    """Hits, and what is missing among them.

    Attributes:
        missing: {shard: why it is missing}; empty where all answered.
    """

    def __init__(self, hits: Sequence[Hit] = (), missing: Mapping[str, str] | None = None) -> None:
        super().__init__(hits)
        self.missing = dict(missing or {})


@dataclass(frozen=True)
class FoundDocument:
    """Where a document is: its shard, its number there, its id, and of a passage its document's."""

    shard: int
    doc: int
    id: str
    parent: str | None


class FoundDocuments:
    """The documents of a result, by their numbers in the whole; texts are fetched when the first is asked for.

    Attributes:
        versions: {shard: what was searched}.
        places: {number: where it is}.

    Args:
        versions: As above.
        places: As above.
        fetch: Asks shards for titles, texts and metadata.
        error: What to raise where a shard is lost.
    """

    def __init__(
        self,
        versions: Mapping[int, str],
        places: Mapping[int, FoundDocument],
        fetch: Callable[[Mapping[int, Sequence[Any]]], Outcome],
        error: Callable[[Mapping[int, str]], ClusterError],
    ) -> None:
        self.versions, self.places = versions, places
        self._ask, self._error = fetch, error
        self._fetched: dict[int, tuple[str, str, dict[str, Any]]] = {}
        self._fetching = threading.Lock()
        in_child(self)

    def after_fork(self) -> None:
        """See `lsr.forks`."""
        self._fetching = threading.Lock()

    def id(self, doc: int) -> str:
        """Its id."""
        return self.places[doc].id

    def parent(self, doc: int) -> str | None:
        """The id of the document that it was cut from."""
        return self.places[doc].parent

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        """Title, text and metadata.

        Raises:
            ClusterError: Its shard has been lost.
            IndexFormatError: Its shard has changed since.
        """
        with self._fetching:
            if doc not in self._fetched:
                self._fetch(self.places[doc].shard)
        return self._fetched[doc]

    def _fetch(self, wanted: int) -> None:
        """Fetch what is still to be fetched, of all shards at once; of the one that is wanted, or fail."""
        of_shard: dict[int, list[int]] = {}
        for doc, place in self.places.items():
            if doc not in self._fetched:
                of_shard.setdefault(place.shard, []).append(doc)
        asked = {n: (self.versions[n], [self.places[d].doc for d in docs]) for n, docs in of_shard.items()}
        outcome = self._ask(asked)
        for n, fields in outcome.answers.items():
            self._fetched |= zip(of_shard[n], fields, strict=True)
        if wanted in outcome.refused:
            raise outcome.refused[wanted]
        if wanted in outcome.lost:
            raise self._error({wanted: outcome.lost[wanted]})


def merge(answers: Mapping[int, ShardHits], k: int) -> list[tuple[FoundDocument, float]]:
    """The k best of what shards found, and their scores; equal ones by shard and number.

    Args:
        answers: {shard: its k best}; at least one.
        k: How many.
    """
    numbers = np.repeat(list(answers), [len(hits.docs) for hits in answers.values()])
    docs = np.concatenate([hits.docs for hits in answers.values()])
    scores = np.concatenate([hits.scores for hits in answers.values()])
    firsts = dict(zip(answers, np.cumsum([0, *(len(hits.docs) for hits in answers.values())]).tolist(), strict=False))
    least = np.partition(scores, -k)[-k] if len(scores) > k else -np.inf
    high = np.flatnonzero(scores >= least)  # of a thousand shards a thousandth
    best = []
    for i in high[np.lexsort((docs[high], numbers[high], -scores[high]))][:k].tolist():
        n = int(numbers[i])
        at = i - firsts[n]
        found = FoundDocument(n, int(docs[i]), answers[n].ids[at], answers[n].parents[at])
        best.append((found, float(scores[i])))
    return best
