"""Matches: the documents of one snapshot that meet a search's conditions, best first and exact at any depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode.base import Encoder
from lsr.errors import DataError
from lsr.index.search.boosts import Boosts
from lsr.index.search.column_values import count_values, sorted_order, values_of
from lsr.index.search.hybrid_search import Candidates, Fusion, Looked, candidates, hybrid_top, meeting, one_of_each
from lsr.index.search.operators import TextCheck
from lsr.index.search.options import DOCUMENT, SCORE, Conditions
from lsr.index.search.request import Criteria, EncodedQuery
from lsr.index.search.searcher import Mask
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.filters import Filter
from lsr.sparse import SparseMatrix

_UNSORTED = (
    "sort orders all matching documents, and a dense vector matches every document: leave sort out, or use "
    'mode="sparse"'
)
_DEEPER = 4  # factor by which the depth grows when a search hasn't found enough to decide the top k


@dataclass(frozen=True)
class Matches:
    """Documents that meet the conditions, best first.

    Attributes:
        docs: (n,) int64, document numbers.
        scores: (n,) float64, including boosts.
        keys: For each column to sort by, the documents' values.
    """

    docs: NDArray[np.int64]
    scores: NDArray[np.float64]
    keys: tuple[Sequence[Any], ...] = ()


class Matcher:
    """Finds the documents that match one query.

    Args:
        snapshot: The snapshot to search.
        query: The query. If it has a dense vector, its sparse vector is weighted by `beside_dense`.
        criteria: The conditions that documents have to meet.
        encoder: Returns the encoder; called if titles are boosted.
        known: Skip the checks of columns and stored texts, because the caller has made them.

    Attributes:
        fusion: How the latest hybrid or dense search made its scores; None before the first search.

    Raises:
        DataError: Operators or boosts of titles need stored texts, and there are none; or `sort` is used in a dense
            search, where every document matches.
    """

    fusion: Fusion | None = None

    def __init__(
        self,
        snapshot: Snapshot,
        query: EncodedQuery,
        criteria: Criteria,
        encoder: Callable[[], Encoder],
        *,
        known: bool = False,
    ) -> None:
        conditions = criteria.conditions
        if query.dense is not None:
            require_unsorted(conditions)
        self.snapshot, self._vector, self._dense = snapshot, query.vector, query.dense
        self._settings, self._conditions = criteria.settings, conditions
        self._mask = _mask(snapshot, criteria.where, conditions.without, known=known)
        self._accept: TextCheck | None = None
        if not known:
            require_texts(conditions, [part.entry for part in snapshot.parts])
        if conditions.text is not None:
            self._accept = TextCheck(snapshot.documents, conditions.text)
        self._boosts: Boosts | None = None
        if conditions.boosted:
            self._boosts = Boosts(snapshot, query.vector, conditions, encoder)

    def top(self, k: int) -> Matches:
        """Return the k best matching documents, or fewer if fewer match."""
        if self._dense is not None:
            return self._by_both(k, self._dense)
        if self._conditions.sort:
            return self._sorted(k)
        if self._boosts is None:
            return self._least(*self._found(k, self._conditions.min_score))
        return self._boosted(k, self._boosts)

    def _found(self, k: int, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        return self.snapshot.top(
            self._vector,
            k,
            self._settings,
            self._mask,
            threshold=threshold,
            accept=self._accept,
            passages=self._conditions.passages,
        )

    def _least(self, docs: NDArray[np.int64], scores: NDArray[np.float64]) -> Matches:
        n = int(np.searchsorted(-scores, -self._conditions.min_score, side="right"))
        return Matches(docs[:n], scores[:n])

    def _by_both(self, k: int, dense: NDArray[np.float32]) -> Matches:
        conditions = self._conditions

        def look(depth: int) -> Looked:
            docs, scores, self.fusion = hybrid_top(
                self.snapshot, self._vector, dense, depth, self._settings, self._mask, passages=conditions.passages
            )
            return Looked(docs, scores, *self.looked_at(docs))

        boosted, n_docs = self._boosts is not None, self.snapshot.searcher.n_docs
        return Matches(*meeting(look, k, n_docs, boosted=boosted, min_score=conditions.min_score))

    def looked_at(self, docs: NDArray[np.int64]) -> tuple[NDArray[np.bool_] | None, NDArray[np.float64] | None]:
        """Return (n,) bool, whether each text meets the conditions, and (n,) float64, the boosts' factors.

        The first is None without such conditions, and the second is None without boosts.
        """
        accepted = None if self._accept is None else self._accept(docs)
        return accepted, None if self._boosts is None else self._boosts.factors(docs)

    def candidates(self, k: int) -> Candidates:
        """Return the candidates of a hybrid or dense search."""
        assert self._dense is not None
        passages = self._conditions.passages
        return candidates(self.snapshot, self._vector, self._dense, k, self._settings, self._mask, passages=passages)

    def _boosted(self, k: int, boosts: Boosts) -> Matches:
        """Search deeper until no other document, boosted by the largest factor, can reach the k-th best score."""
        most = boosts.most
        threshold, depth, n_docs = self._conditions.min_score / most, k, max(1, self.snapshot.searcher.n_docs)
        while True:
            docs, scores = self._found(min(depth, n_docs), threshold)
            best, boosted = boosts.best(docs, scores, k)
            least = float(boosted[-1]) if len(best) == k else 0.0
            if len(docs) < depth or depth >= n_docs or (least and least > float(scores[-1]) * most):
                return self._least(best, boosted)
            # Even with the largest boost, a document below least / most can't reach the top k.
            threshold, depth = max(threshold, least / most), depth * _DEEPER

    def _sorted(self, k: int) -> Matches:
        docs, scores = self.every()
        sorts = self._conditions.sort
        keys = [[] if s.column == SCORE else values_of(self.snapshot, s.column, docs) for s in sorts]
        order = sorted_order(keys, sorts, scores)[:k]
        return Matches(
            docs[order], scores[order], tuple([key[i] for i in order.tolist()] if key else [] for key in keys)
        )

    def every(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return all documents that match by sparse vectors, in ascending order, and their scores."""
        threshold = 0.0 if self._boosts is not None else self._conditions.min_score
        docs, scores = self._found(max(1, self.snapshot.searcher.n_docs), threshold)
        if self._boosts is not None and (self._conditions.sort or self._conditions.min_score):
            scores = scores * self._boosts.factors(docs)
        kept = np.flatnonzero(scores >= self._conditions.min_score)
        kept = kept[np.argsort(docs[kept])]
        return docs[kept], scores[kept]

    def facets(self, names: Sequence[str]) -> tuple[int, dict[str, Counter[Any]]]:
        """Count the matching documents, and for each column the documents that have each value."""
        docs = self.every()[0] if self._dense is None else self._near(self._dense)
        return len(docs), count_values(self.snapshot, names, docs)

    def _near(self, dense: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return all documents that a dense search finds: those that pass the filter and the conditions on texts."""
        if self._conditions.min_score:
            return self._by_both(max(1, self.snapshot.searcher.n_docs), dense).docs
        allowed = self.snapshot.searcher.by_number(self._mask)
        docs = np.arange(self.snapshot.searcher.n_docs) if allowed is None else np.flatnonzero(allowed)
        if self._accept is not None:
            docs = docs[self._accept(docs)]
        return docs if self._conditions.passages else np.array(one_of_each(self.snapshot, docs.tolist()), np.int64)


def require_unsorted(conditions: Conditions) -> None:
    """Refuse to sort in a search by dense vectors.

    Raises:
        DataError: Hits are sorted by a column.
    """
    if conditions.sort:
        raise DataError(_UNSORTED, "search")


def require_texts(conditions: Conditions, segments: Sequence[Mapping[str, Any]]) -> None:
    """Refuse conditions that need texts if the index stores no texts.

    Args:
        conditions: The conditions.
        segments: Manifest entries of the segments.

    Raises:
        DataError: No segment stores texts.
    """
    if not segments or any(entry["has_text"] for entry in segments):
        return
    if conditions.text is not None:
        raise DataError("phrases, +must and -not need stored texts, and this index stores none", "query")
    if conditions.title > 1:
        raise DataError("a boost of title needs stored texts, and this index stores none", "query")


class SnapshotRanking:
    """The ranking of a matcher, as `lsr.index.search.selection` expects it.

    Args:
        matcher: Finds the documents.
        vectors: Returns the vectors of the documents with given numbers.
    """

    def __init__(self, matcher: Matcher, vectors: Callable[[Sequence[int]], SparseMatrix]) -> None:
        self._matcher, self.vectors = matcher, vectors

    def top(self, n: int) -> tuple[list[int], list[float]]:
        """Return the n best documents and their scores."""
        found = self._matcher.top(n)
        return found.docs.tolist(), found.scores.tolist()

    def values(self, column: str, docs: Sequence[int]) -> list[Any]:
        """Return the documents' values of a column. `DOCUMENT` holds ids; for a passage, the id of its document."""
        documents = self._matcher.snapshot.documents
        if column == DOCUMENT:
            return [documents.parent(doc) or documents.id(doc) for doc in docs]
        return values_of(self._matcher.snapshot, column, np.array(docs, np.int64))

    def texts(self, docs: Sequence[int]) -> list[tuple[str, str]]:
        """Return (title, text) of each document."""
        return [self._matcher.snapshot.documents.fields(doc)[:2] for doc in docs]


def _mask(snapshot: Snapshot, where: Filter | None, without: Sequence[str], *, known: bool) -> Mask | None:
    if not without:
        return snapshot.mask(where, known=known)
    allowed = np.ones(snapshot.searcher.n_docs, bool)
    if where is not None:
        allowed = snapshot.documents.allowed(where, known=known)
    for doc_id in without:
        found = snapshot.documents.find(doc_id)
        allowed[[*snapshot.documents.passages(doc_id), *([] if found is None else [found])]] = False
    return snapshot.searcher.mask(allowed)
