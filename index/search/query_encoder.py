"""Queries of any form as vectors: what an index and one over many machines have in common."""

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
    """What encodes queries.

    Attributes:
        path: The index, for messages.
    """

    def __init__(self, path: str | PathLike[str], encoder: Encoder | None = None) -> None:
        self.path: Any = path
        self._given_encoder = encoder

    @property
    def shared(self) -> IndexEncoder:
        """What encodes queries, as the index carries it."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the encoder that made the vectors."""
        return self.shared.fingerprint

    @property
    def encoder(self) -> Encoder:
        """What encodes queries and documents: the encoder given, or the one that the index carries.

        Raises:
            EncoderError: There is none.
        """
        if self._given_encoder is not None:
            if self._given_encoder.living and self.shared.damaged and self.vocabulary is None:
                raise EncoderError(
                    f"{self.path}: the tokens that this index carries are damaged, and no {self.fingerprint} can do "
                    "without them: search it with a SparseMatrix"
                )
            return self._over(self._given_encoder)
        if self.shared.damaged:
            raise EncoderError(
                f"{self.path}: the encoder that this index carries is damaged: name the one that made it, "
                f"{self.fingerprint} (--encoder, Index.open(..., encoder=...))"
            )
        if not self.shared.encoder_files:
            raise EncoderError(
                f"{self.path}: this index was built from vectors without their encoder ({self.fingerprint}): "
                "search it with vectors, or name the encoder (--encoder, Index.open(..., encoder=...))"
            )
        return self._over(None)

    def _over(self, encoder: Encoder | None) -> Encoder:
        """An encoder, or the one that the index carries, over the terms and counts of what is searched."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> list[str] | None:
        """Token of each term, or None where the tokens aren't known."""
        return self.shared.vocabulary

    def query_vectors(self, queries: Iterable[str | Mapping[str, Any]] | SparseMatrix) -> SparseMatrix:
        """Queries of any form as a matrix; tokens that the vocabulary lacks are left out, as no document has them.

        Raises:
            DataError: A weight that is negative, infinite or not a number.
        """
        if isinstance(queries, SparseMatrix):
            size = self.fingerprint.vocabulary_size
            if size is None and self.vocabulary is not None and self.shared.encoder_files:
                size = len(self.vocabulary)
            if size is not None and queries.shape[1] > size and queries.nnz and int(queries.indices.max()) >= size:
                raise DataError(
                    f"the query has term {int(queries.indices.max())}, the index' vocabulary has {size} terms"
                )
            return queries
        many = as_queries(queries)
        if many and all(isinstance(query, str) for query in many):
            if self.encoder.needs_fit:  # no document has a word yet
                return SparseMatrix.from_dicts([{} for _ in many], 1)
            vectors = self.encoder.encode_query(many)
            if cut := self.encoder.count_truncated(many, queries=True):
                warn(cut_texts(cut, len(many), read_length(self.encoder, queries=True), queries=True), CutTexts)
            return vectors
        term_of = self.shared.term_of
        rows = []
        for query in many:
            if not isinstance(query, Mapping):
                some = ", as all of them" if isinstance(query, str) else ""
                raise TypeError(f"a query is a text or a mapping of token to weight{some}, got {type(query).__name__}")
            if strange := next((item for item in query.items() if not isinstance(item[1], Real)), None):
                raise DataError(
                    f"the weight of {strange[0]!r} is {strange[1]!r}, not a number; a query is a text, "
                    '{token: weight} or a mapping with "text"',
                    "query",
                )
            if self.vocabulary is None:
                raise DataError(f"{self.path}: this index doesn't know its tokens; search it with a SparseMatrix")
            rows.append({term_of[t]: w for t, w in query.items() if t in term_of})
        try:
            return SparseMatrix.from_dicts(rows, max(len(term_of), 1))
        except ValueError as error:
            raise DataError(str(error), "query") from None

    def query_vector(self, query: Query, call: str) -> SparseMatrix:
        """One query as a matrix of one row.

        Args:
            query: A text, a {token: weight} mapping, or a matrix of one row.
            call: Who takes it, for the message.

        Raises:
            ValueError: More or fewer than one.
            DataError: As for `query_vectors`.
        """
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"{call} takes one query, got {len(vector)}; search_batch takes many")
        return vector

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64, what a document's weights of (n,) terms are multiplied with to stand for a query: IDF, of an
        encoder that has it in its queries.
        """
        if self._given_encoder is None and not self.shared.encoder_files:
            return np.ones(len(terms))
        return self.encoder.query_factors(terms)

    def as_query(self, documents: SparseMatrix) -> SparseMatrix:
        """The vectors of documents as one query, which finds what is like them."""
        terms, places = np.unique(documents.indices, return_inverse=True)
        weights = np.bincount(places, weights=documents.data, minlength=len(terms)) * self.query_factors(terms)
        kept = weights > 0
        return SparseMatrix.from_rows([(terms[kept], weights[kept])], documents.shape[1])

    def compared(self, documents: SparseMatrix) -> SparseMatrix:
        """The vectors of documents, weighed so that products compare them with each other: where queries carry IDF,
        each side carries its square root.
        """
        terms, places = np.unique(documents.indices, return_inverse=True)
        weights = documents.data * np.sqrt(self.query_factors(terms)).astype(np.float32)[places]
        return SparseMatrix(documents.indptr, documents.indices, weights, documents.shape, check=False)


def as_queries(queries: Any) -> list[Any]:
    """Queries as a list; of a mapping that has a text, as files of queries do, the text.

    Raises:
        TypeError: No iterable of queries in an order; a text is a query itself, not its letters.
    """
    if isinstance(queries, str | Mapping):
        raise TypeError(f"queries are a list or a matrix, got a single one: [{str(queries)[:50]!r}]")
    if not isinstance(queries, Iterable) and not hasattr(queries, "columns"):
        raise TypeError(f"a query is a text, a mapping of token to weight or a matrix, got {type(queries).__name__}")
    rows = as_rows(queries, "queries")
    return [
        as_texts(query)[0] if isinstance(query, Mapping) and isinstance(query.get("text"), str) else query
        for query in rows
    ]


def checked_k(k: int) -> None:
    """Refuse a number of documents that makes no sense."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")


def search_settings(given: Mapping[str, Any]) -> SearchSettings:
    """Settings by their names.

    Raises:
        TypeError: There is no such setting.
        ValueError: A value out of range.
    """
    if not given:
        return EXACT
    try:
        return SearchSettings(**given)
    except TypeError as error:
        names = ", ".join(field.name for field in fields(SearchSettings))
        raise TypeError(f"{str(error).rpartition('() ')[2]}; settings of a search are {names}") from None
