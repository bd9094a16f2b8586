"""Search requests: the arguments of a search, validated once and passed down from the public call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lsr.index.search.hybrid_search import Fusion
from lsr.index.search.operators import TextQuery
from lsr.index.search.options import NO_CONDITIONS, Conditions, Options, split_options
from lsr.index.search.query_encoder import checked_k, has_text
from lsr.index.search.rerank import as_reranker
from lsr.index.search.searcher import EXACT
from lsr.index.search.settings import Mode, SearchSettings
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.sparse import SparseMatrix

_SPARSE = SearchSettings(mode="sparse")


class EncodedQuery(NamedTuple):
    """A query and its vectors.

    Attributes:
        given: The query as the caller gave it; re-rankers and explanations read it.
        vector: The sparse vector, one row.
        dense: (width,) float32, the dense vector; None for a sparse search.
        fusion: How a search with this query made its scores; None before the search.
    """

    given: Any
    vector: SparseMatrix
    dense: NDArray[np.float32] | None = None
    fusion: Fusion | None = None


@dataclass(frozen=True)
class Criteria:
    """How to search, and the conditions on each document; plain values that can be sent to other processes.

    Attributes:
        settings: How to search.
        where: The filter; None for all documents.
        conditions: Further conditions, and the sort order.
    """

    settings: SearchSettings = EXACT
    where: Filter | None = None
    conditions: Conditions = NO_CONDITIONS


@dataclass(frozen=True)
class SearchRequest:
    """The arguments of a search except the query.

    Attributes:
        k: Number of documents, or of groups.
        options: Options beyond a plain search.
        settings: How to search.
        where: The filter; None for all documents.
        automatic: Whether the settings' mode was "auto".
    """

    k: int
    options: Options
    settings: SearchSettings
    where: Filter | None
    automatic: bool = False

    @classmethod
    def of(cls, k: int, where: Where | Filter | None, given: Mapping[str, Any]) -> Self:
        """Validate the arguments of a search.

        Raises:
            TypeError: An unknown option or setting, or `rerank` isn't a re-ranker.
            ValueError: A value is out of range.
            DataError: `where` isn't a filter.
        """
        options, settings = split_options(given)
        checked_k(k)
        if options.rerank is not None:
            as_reranker(options.rerank)
        return cls(k, options, settings, None if where is None else as_filter(where))

    @property
    def plainly_sparse(self) -> bool:
        """Whether this is an exact sparse search without options. The mode may be "auto", which can become "sparse"."""
        return self.options.plain and self.settings.exact and self.settings.mode in ("auto", "sparse")

    def with_mode(self, queries: Sequence[Any] | SparseMatrix, dense: Any, *, has_dense: bool) -> SearchRequest:
        """Replace the mode "auto"; see `SearchSettings`.

        Args:
            queries: The queries.
            dense: The queries' dense vectors, if given.
            has_dense: Whether the index has dense vectors.
        """
        if self.settings.mode != "auto":
            return self
        hybrid = dense is not None or (has_dense and not self.options.sorts and has_text(queries))
        settings = _with_mode(self.settings, "hybrid" if hybrid else "sparse")
        return SearchRequest(self.k, self.options, settings, self.where, automatic=True)

    def criteria(self, text: TextQuery | None = None, *, without: Sequence[str] = ()) -> Criteria:
        """Return the conditions on each document.

        Args:
            text: The query's operators.
            without: Ids of documents to leave out.
        """
        if self.options.plain and text is None and not without:
            return Criteria(self.settings, self.where)
        return Criteria(self.settings, self.where, self.options.conditions(text, without))


def _with_mode(settings: SearchSettings, mode: Mode) -> SearchSettings:
    return _SPARSE if settings is EXACT and mode == "sparse" else _replaced(settings, mode)


@lru_cache(64)
def _replaced(settings: SearchSettings, mode: Mode) -> SearchSettings:
    return replace(settings, mode=mode)
