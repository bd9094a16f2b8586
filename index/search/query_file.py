"""Query files: texts or encoded vectors, in any form that `lsr encode` reads or writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsr.errors import DataError
from lsr.index.search.query_encoder import QueryEncoding
from lsr.io.corpus import open_corpus
from lsr.io.open_vectors import holds_vectors, read_vectors
from lsr.sparse import SparseMatrix


@dataclass(frozen=True)
class QuerySet:
    """Queries with their ids.

    Attributes:
        ids: Query ids.
        texts: Query texts; None if the file holds vectors.
        vectors: A row for each query; None if texts are yet to be encoded.
        unknown: Number of weights that were dropped because the index doesn't know their tokens.
        bad: Messages about lines that were skipped.
    """

    ids: list[str]
    texts: list[str] | None
    vectors: SparseMatrix | None
    unknown: int = 0
    bad: tuple[str, ...] = ()

    def encoded(self, index: QueryEncoding) -> SparseMatrix:
        """Return the vectors; texts are encoded with the index's encoder."""
        return index.query_vectors(self.texts or []) if self.vectors is None else self.vectors

    def only(self, keep: Container[str]) -> QuerySet:
        """Return the queries whose ids are in `keep`."""
        places = [i for i, query_id in enumerate(self.ids) if query_id in keep]
        return QuerySet(
            [self.ids[i] for i in places],
            None if self.texts is None else [self.texts[i] for i in places],
            None if self.vectors is None else self.vectors[np.array(places, np.int64)],
            self.unknown,
            self.bad,
        )


def read_queries(source: str | Path, index: QueryEncoding, *, skip_bad: bool = False) -> QuerySet:
    """Read queries for an index.

    Args:
        source: A file of texts or vectors, a BEIR folder, an ir-datasets name, or "-" for standard input.
        index: The index to search.
        skip_bad: Skip bad lines and report them in `QuerySet.bad`.

    Raises:
        EncoderMismatch: The vectors come from another encoder than the index.
        DataError: The source can't be opened, or a query is malformed.
    """
    if not holds_vectors(source):
        corpus = open_corpus(source, queries=True, skip_bad=skip_bad)
        documents = list(corpus)
        return QuerySet([d.id for d in documents], [d.content for d in documents], None, bad=tuple(corpus.bad))
    path = Path(source)
    tokens = index.vocabulary
    vectors = read_vectors(path, vocabulary=tokens, skip_bad=skip_bad)
    index.fingerprint.require_same(vectors.fingerprint, f"the index {index.path}", f"the queries {path}")
    if tokens is None and vectors.vocabulary == []:
        raise DataError(f"these queries have tokens, but the index {index.path} doesn't know its tokens", str(path))
    ids, matrices = [], []
    for batch in vectors:
        ids.extend(batch.ids)
        matrices.append(batch.vectors)
    matrix = SparseMatrix.vstack(matrices) if matrices else SparseMatrix.empty(max(vectors.n_terms, 1))
    unknown = 0
    theirs = vectors.vocabulary
    if tokens is not None and theirs is not None and theirs[: len(tokens)] != tokens[: len(theirs)]:
        # The same encoder, fitted on another collection: terms are matched by token.
        term_of, first_free = index.shared.term_of, max(len(tokens), 1)
        there = np.array([term_of.get(token, first_free) for token in theirs], np.int64)
        known = there[matrix.indices] < first_free
        unknown = int((~known).sum())
        rows = [(there[terms], weights) for terms, weights in matrix.rows()]
        rows = [(terms[terms < first_free], weights[terms < first_free]) for terms, weights in rows]
        matrix = SparseMatrix.from_rows(rows, first_free)
    elif tokens is not None:
        inside = matrix.within(len(tokens))
        unknown, matrix = matrix.nnz - inside.nnz, inside
    if len(set(ids)) != len(ids):
        doubled = next(query_id for query_id, times in Counter(ids).items() if times > 1)
        raise DataError(f"the query id {doubled!r} occurs twice", str(path))
    return QuerySet(ids, None, matrix, unknown, tuple(vectors.bad))
