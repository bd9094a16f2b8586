"""QueryEncoding: turns queries of any form into vectors; the base class of `Reader` and `ShardedIndex`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.console import warn
from lsr.encode.base import Encoder, as_rows, as_texts
from lsr.encode.corpus import cut_texts, read_length
from lsr.errors import CutTexts, DataError, EncoderError
from lsr.fingerprint import Fingerprint
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.searcher import EXACT
from lsr.index.search.settings import SearchSettings
from lsr.sparse import SparseMatrix

Query = str | Mapping[str, Any] | SparseMatrix  # {token: weight}, or a mapping that has a "text"


class QueryEncoding:
    """Encodes queries for an index.

    Attributes:
        path: The index, for messages.
    """

    @property
    def path(self) -> str | PathLike[str]:
        raise NotImplementedError

    @property
    def _given_encoder(self) -> Encoder | None:
        """The encoder that the caller gave; None to use the stored encoder."""
        raise NotImplementedError

    @property
    def shared(self) -> IndexEncoder:
        """The encoder and vocabulary that the index stores."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the encoder that made the index's vectors."""
        return self.shared.fingerprint

    @property
    def encoder(self) -> Encoder:
        """The encoder for queries and documents: the one that the caller gave, else the one that the index stores.

        Raises:
            EncoderError: There is no encoder, or it is damaged.
        """
        if self._given_encoder is not None:
            if self._given_encoder.living and self.shared.damaged and self.vocabulary is None:
                raise EncoderError(
                    f"{self.path}: this index's tokens are damaged, and {self.fingerprint} can't encode without them: "
                    "search with a SparseMatrix"
                )
            return self._over(self._given_encoder)
        if self.shared.damaged:
            raise EncoderError(
                f"{self.path}: the encoder that this index carries is damaged: name the one that made it, "
                f"{self.fingerprint} (--encoder or Index.open(..., encoder=...))"
            )
        if not self.shared.encoder_files:
            raise EncoderError(
                f"{self.path}: this index was built from vectors without their encoder ({self.fingerprint}): "
                "search it with vectors, or name the encoder (--encoder or Index.open(..., encoder=...))"
            )
        return self._over(None)

    def _over(self, encoder: Encoder | None) -> Encoder:
        """Bind an encoder (None for the stored one) to the vocabulary and counts of the documents searched."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> list[str] | None:
        """The token of each term; None if the tokens aren't known."""
        return self.shared.vocabulary

    def query_vectors(self, queries: Iterable[str | Mapping[str, Any]] | SparseMatrix) -> SparseMatrix:
        """Convert queries of any form to a matrix. Tokens outside the vocabulary are dropped: no document has them.

        Raises:
            DataError: A weight is negative, infinite or not a number.
        """
        if isinstance(queries, SparseMatrix):
            size = self.fingerprint.vocabulary_size
            if size is None and self.vocabulary is not None and self.shared.encoder_files:
                size = len(self.vocabulary)
            if size is not None and queries.shape[1] > size and queries.nnz and int(queries.indices.max()) >= size:
                raise DataError(
                    f"the query has term {int(queries.indices.max())}, the index's vocabulary has {size} terms"
                )
            return queries
        many = as_queries(queries)
        if many and all(isinstance(query, str) for query in many):
            if self.encoder.needs_fit:  # the index is still empty
                return SparseMatrix.from_dicts([{} for _ in many], 1)
            vectors = self.encoder.encode_query(many)
            if cut := self.encoder.count_truncated(many, queries=True):
                warn(cut_texts(cut, len(many), read_length(self.encoder, queries=True), queries=True), CutTexts)
            return vectors
        term_of = self.shared.term_of
        rows = []
        for query in many:
            if not isinstance(query, Mapping):
                some = "; texts and vectors can't be mixed" if isinstance(query, str) else ""
                raise TypeError(f"a query is a text or a mapping of token to weight, got {type(query).__name__}{some}")
            if strange := next((item for item in query.items() if not isinstance(item[1], Real)), None):
                raise DataError(
                    f"the weight of {strange[0]!r} is {strange[1]!r}, not a number; a query is a text, "
                    '{token: weight} or a mapping with "text"',
                    "query",
                )
            if self.vocabulary is None:
                raise DataError(f"{self.path}: this index's tokens aren't known; search it with a SparseMatrix")
            rows.append({term_of[t]: w for t, w in query.items() if t in term_of})
        try:
            return SparseMatrix.from_dicts(rows, max(len(term_of), 1))
        except ValueError as error:
            raise DataError(str(error), "query") from None

    def query_vector(self, query: Query, call: str) -> SparseMatrix:
        """Convert one query to a matrix of one row.

        Args:
            query: A text, a {token: weight} mapping, or a matrix of one row.
            call: Name of the calling method, for the message.

        Raises:
            ValueError: The matrix doesn't have exactly one row.
            DataError: As for `query_vectors`.
        """
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"{call} takes one query, got {len(vector)}; search_batch takes many")
        return vector

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """Return (n,) float64: the factors that turn a document's weights of (n,) terms into query weights.

        The factor is the IDF for encoders whose query weights include it, else 1.
        """
        if self._given_encoder is None and not self.shared.encoder_files:
            return np.ones(len(terms))
        return self.encoder.query_factors(terms)

    def as_query(self, documents: SparseMatrix) -> SparseMatrix:
        """Combine document vectors into one query that finds similar documents."""
        terms, places = np.unique(documents.indices, return_inverse=True)
        weights = np.bincount(places, weights=documents.data, minlength=len(terms)) * self.query_factors(terms)
        kept = weights > 0
        return SparseMatrix.from_rows([(terms[kept], weights[kept])], documents.shape[1])

    def compared(self, documents: SparseMatrix) -> SparseMatrix:
        """Weight document vectors so that the dot product of two is their similarity.

        If query weights include the IDF, both vectors are multiplied by its square root.
        """
        terms, places = np.unique(documents.indices, return_inverse=True)
        weights = documents.data * np.sqrt(self.query_factors(terms)).astype(np.float32)[places]
        return SparseMatrix(documents.indptr, documents.indices, weights, documents.shape, check=False)


def as_queries(queries: Any) -> list[Any]:
    """Convert queries to a list; a mapping with a "text", as in query files, becomes that text.

    Raises:
        TypeError: Not an ordered iterable of queries; a single query is refused, too.
    """
    if isinstance(queries, str | Mapping):
        raise TypeError(f"queries are a list or a matrix, got a single query; pass [{str(queries)[:50]!r}]")
    if not isinstance(queries, Iterable) and not hasattr(queries, "columns"):
        raise TypeError(f"a query is a text, a mapping of token to weight or a matrix, got {type(queries).__name__}")
    rows = as_rows(queries, "queries")
    return [
        as_texts(query)[0] if isinstance(query, Mapping) and isinstance(query.get("text"), str) else query
        for query in rows
    ]


def has_text(queries: Iterable[Any] | SparseMatrix) -> bool:
    """Whether any of these queries is a text."""
    return not isinstance(queries, SparseMatrix) and any(
        isinstance(query, str) or (isinstance(query, Mapping) and isinstance(query.get("text"), str))
        for query in queries
    )


def checked_k(k: int) -> None:
    """Refuse a k that isn't a positive whole number."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")


def search_settings(given: Mapping[str, Any]) -> SearchSettings:
    """Build settings from keyword arguments.

    Raises:
        TypeError: An unknown setting.
        ValueError: A value is out of range.
    """
    if not given:
        return EXACT
    try:
        return SearchSettings(**given)
    except TypeError as error:
        names = ", ".join(field.name for field in fields(SearchSettings))
        raise TypeError(f"{str(error).rpartition('() ')[2]}; settings of a search are {names}") from None
