"""Queries of any form as vectors: what an index and one over many machines have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from os import PathLike
from typing import Any

import numpy as np

from lsr.encode.base import Encoder
from lsr.errors import DataError, EncoderError
from lsr.fingerprint import Fingerprint
from lsr.sparse import SparseMatrix

from .plan import SearchSettings
from .searcher import EXACT
from .snapshot import Shared

Query = str | Mapping[str, float] | SparseMatrix


class QuerySide:
    """What encodes queries.

    Attributes:
        path: The index, for messages.
    """

    def __init__(self, path: str | PathLike[str], encoder: Encoder | None = None) -> None:
        self.path: Any = path
        self._given_encoder = encoder

    @property
    def shared(self) -> Shared:
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

    def query_vectors(self, queries: Sequence[str | Mapping[str, float]] | SparseMatrix) -> SparseMatrix:
        """Queries of any form as a matrix; tokens that the vocabulary lacks are left out, as no document has them.

        Raises:
            DataError: A weight that is negative, infinite or not a number.
        """
        if isinstance(queries, str | Mapping):
            raise TypeError(f"queries are a list or a matrix, got a single one: [{str(queries)[:50]!r}]")
        if not hasattr(queries, "__len__"):
            raise TypeError(
                f"a query is a text, a mapping of token to weight or a matrix, got {type(queries).__name__}"
            )
        if isinstance(queries, SparseMatrix):
            size = self.fingerprint.vocabulary_size
            if size is None and self.vocabulary is not None and self.shared.encoder_files:
                size = len(self.vocabulary)
            if size is not None and queries.shape[1] > size and queries.nnz and int(queries.indices.max()) >= size:
                raise DataError(
                    f"the query has term {int(queries.indices.max())}, the index' vocabulary has {size} terms"
                )
            return queries
        if len(queries) and all(isinstance(query, str) for query in queries):
            if self.encoder.needs_fit:  # no document has a word yet
                return SparseMatrix.from_dicts([{} for _ in queries], 1)
            return self.encoder.encode_query(list(queries))  # type: ignore[arg-type]
        term_of = self.shared.term_of
        rows = []
        for query in queries:
            if not isinstance(query, Mapping):
                some = ", as all of them" if isinstance(query, str) else ""
                raise TypeError(f"a query is a text or a mapping of token to weight{some}, got {type(query).__name__}")
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
