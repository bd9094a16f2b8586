"""What a search is asked for, checked once and handed down from the call to whatever finds documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lsr.index.search.operators import TextQuery
from lsr.index.search.options import Conditions, Options, split_options
from lsr.index.search.query_encoder import checked_k
from lsr.index.search.rerank import as_reranker
from lsr.index.search.searcher import EXACT
from lsr.index.search.settings import SearchSettings
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.sparse import SparseMatrix


class EncodedQuery(NamedTuple):
    """A query, and its vectors.

    Attributes:
        given: As it was asked, for a re-ranker.
        vector: One row.
        dense: (width,) float32, of a search that wants it.
    """

    given: Any
    vector: SparseMatrix
    dense: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Criteria:
    """What decides about each document by itself, and how documents are looked for: plain values, which go to other
    processes, too.

    Attributes:
        settings: How to search.
        where: Which documents may be found; None for all.
        conditions: What they have to meet besides, and their order.
    """

    settings: SearchSettings = EXACT
    where: Filter | None = None
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True)
class SearchRequest:
    """The arguments of a search but for the query.

    Attributes:
        k: How many documents, or groups of them.
        options: What differs from a plain search.
        settings: How to search.
        where: Which documents may be found; None for all.
    """

    k: int
    options: Options
    settings: SearchSettings
    where: Filter | None

    @classmethod
    def of(cls, k: int, where: Where | Filter | None, given: Mapping[str, Any]) -> Self:
        """Check what a caller gives.

        Raises:
            TypeError: There is no such option or setting, or no re-ranker.
            ValueError: A value out of range.
            DataError: Something that is no filter.
        """
        options, settings = split_options(given)
        checked_k(k)
        if options.rerank is not None:
            as_reranker(options.rerank)
        return cls(k, options, settings, None if where is None else as_filter(where))

    @property
    def plainly_sparse(self) -> bool:
        """Whether it is an exact search of sparse vectors, without options."""
        return self.options.plain and self.settings.exact and self.settings.mode == "sparse"

    def criteria(self, text: TextQuery | None = None, *, without: Sequence[str] = ()) -> Criteria:
        """What each document has to meet.

        Args:
            text: What the query's operators demand.
            without: Ids of documents that aren't found.
        """
        if self.options.plain and text is None and not without:
            return Criteria(self.settings, self.where)
        return Criteria(self.settings, self.where, self.options.conditions(text, without))
