"""Boosts: factors that raise documents' scores, from columns and from query terms in titles."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.encode.base import Encoder
from lsr.index.search.options import DAY, Boost, Conditions
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.columns import Columns, numbers_of
from lsr.io.metadata import parse_time
from lsr.sparse import SparseMatrix

_MOST = 1e100  # the largest factor
_READ = 64  # titles read at a time


class Boosts:
    """The factors of one search.

    A document's factor is the product of a factor for each boosted column and a factor for the title. A query term that
    occurs in the title counts `Conditions.title` times, so the factor for the title is

        1 + (title - 1) * (share of the document's score that comes from terms in its title)

    which is at most `title`. Titles are read only if their documents may be among the best.

    Attributes:
        most: The largest factor that a document may have.

    Args:
        snapshot: The documents.
        vector: The query, one row.
        conditions: The boosts.
        encoder: Returns the encoder, which finds terms in titles; called only if titles are boosted.

    Raises:
        EncoderError: Titles are boosted, and the index has no encoder.
    """

    def __init__(
        self, snapshot: Snapshot, vector: SparseMatrix, conditions: Conditions, encoder: Callable[[], Encoder]
    ) -> None:
        self._snapshot, self._title = snapshot, conditions.title
        self._terms, self._weights = vector.row(0)
        self._columns = _column_factors(snapshot, conditions.boosts) if conditions.boosts else None
        self._encoder = encoder() if self._title > 1 else None
        self._known: dict[int, float] = {}
        largest = 1.0 if self._columns is None else float(self._columns.max(initial=1.0))
        self.most = min(largest * self._title, _MOST)

    def factors(self, docs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors of documents.

        Args:
            docs: (n,) int64, document numbers.

        Returns:
            (n,) float64, at least 1.
        """
        found = np.ones(len(docs)) if self._columns is None else self._columns[docs]
        if self._title > 1:
            found = np.minimum(found * np.array([self._of_title(doc) for doc in docs.tolist()], np.float64), _MOST)
        return found

    def best(
        self, docs: NDArray[np.int64], scores: NDArray[np.float64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the k best documents after boosting.

        Args:
            docs: (n,) int64, document numbers.
            scores: (n,) float64, their scores before boosting.
            k: Number of documents, at least 1.

        Returns:
            The document numbers, (k,) int64 or fewer, and their boosted scores, float64, descending; ties by number.
        """
        columns = np.ones(len(docs)) if self._columns is None else self._columns[docs]
        bounds = scores * np.minimum(columns * self._title, _MOST)
        order = np.argsort(-bounds, kind="stable")
        boosted = np.empty(len(docs))
        read, step = 0, _READ if self._title > 1 else len(docs)
        while read < len(docs):
            known = boosted[order[:read]]
            least = np.partition(known, -k)[-k] if len(known) >= k else -np.inf
            if bounds[order[read]] < least:
                break
            some = order[read : read + max(step, k)]
            boosted[some] = scores[some] * self.factors(docs[some])
            read += len(some)
        order = order[:read]
        order = order[np.lexsort((docs[order], -boosted[order]))[:k]]
        return docs[order], boosted[order]

    def _of_title(self, doc: int) -> float:
        if doc not in self._known:
            title = self._snapshot.documents.fields(doc)[0]
            self._known[doc] = self._title_factor(doc, title) if title else 1.0
        return self._known[doc]

    def _title_factor(self, doc: int, title: str) -> float:
        assert self._encoder is not None
        within = np.isin(self._terms, list({term for term, _, _ in self._encoder.spans(title)}))
        if not within.any():
            return 1.0
        _, parts, score = self._snapshot.searcher.score_of(doc, self._terms, self._weights)
        return 1.0 + (self._title - 1.0) * min(1.0, float(parts[within].sum()) / score) if score else 1.0


def _column_factors(snapshot: Snapshot, boosts: Iterable[Boost]) -> NDArray[np.float64]:
    """Return (n_docs,) float64: the factor, at least 1, for each document's score."""
    factors = np.ones(snapshot.searcher.n_docs)
    for boost in boosts:
        parts = [_numbers(part.documents.columns, len(part.documents), boost) for part in snapshot.parts]
        values = np.concatenate([np.empty(0), *parts])
        if boost.half_life is None:
            added = np.maximum(values, 0.0)
        else:
            distance = np.abs(values - boost.origin) / (boost.half_life * (DAY if boost.of_times else 1))
            added = 0.5**distance
        with np.errstate(over="ignore"):  # `minimum` keeps scores finite, since JSON has no infinity
            factors = np.minimum(factors * (1 + boost.weight * np.where(np.isnan(added), 0.0, added)), _MOST)
    return factors


def _numbers(columns: Columns | None, n_docs: int, boost: Boost) -> NDArray[np.float64]:
    """Return (n_docs,) float64: the numbers or times of a column, NaN where a value is missing."""
    found = np.full(n_docs, np.nan)
    if columns is None or boost.column not in columns.kinds:
        return found
    column = columns.column(boost.column)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    plain, indices = column, None
    if pa.types.is_dictionary(column.type):
        plain, indices = column.dictionary, column.indices.fill_null(0).to_numpy()
    if columns.kinds[boost.column] == "text":
        times = [parse_time(text) for text in plain.to_pylist()]
        numbers = np.array([np.nan if time is None else time for time in times], np.float64)
    elif columns.kinds[boost.column] == "number":
        numbers = numbers_of(plain).astype(np.float64)
    else:
        return found
    if len(numbers):
        found[there] = (numbers if indices is None else numbers[indices])[there]
    return found
