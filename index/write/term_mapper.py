"""TermMapper: maps the terms of given vectors to the terms of an index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lsr.errors import DataError
from lsr.fingerprint import Fingerprint
from lsr.index.write.builder import EncoderMetadata
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import MAX_TERMS, SparseMatrix


class TermMapper:
    """Maps vectors to the terms of an index. New tokens may be appended to the index's vocabulary.

    Attributes:
        grown: The encoder's metadata after all vectors are read, if there were new tokens; else None.

    Args:
        path: The index, for messages.
        source: The vectors.
        known: The index's encoder metadata.
        fresh: Whether `known` is still empty; then it is filled from the source.

    Raises:
        EncoderMismatch: The vectors come from another encoder.
        DataError: The vectors have tokens, but the index's tokens aren't known.
    """

    def __init__(self, path: str, source: SparseMatrix | Vectors, known: EncoderMetadata, *, fresh: bool) -> None:
        self._path, self._known = path, known
        self._where, self._tokens = "the matrix", None
        if isinstance(source, Vectors):
            self._where, self._tokens = source.name, source.vocabulary
            known.fingerprint.require_same(source.fingerprint, f"the index {path}", self._where)
        if fresh:
            _learn(known, source)
        self.grown: EncoderMetadata | None = None
        self._ours = None if known.vocabulary is None else list(known.vocabulary)
        if self._tokens is not None and self._ours is None:
            raise DataError(f"these vectors have tokens, but the index {path} doesn't know its tokens", self._where)
        foreign = source.fingerprint if isinstance(source, Vectors) and self._tokens is not None else None
        ours_alone = foreign is None or (bool(known.encoder_files) and foreign.tokenizer is None)
        self._closed = bool(self._ours) and (ours_alone or known.fingerprint.vocabulary_size is not None)
        self._term_of = {token: term for term, token in enumerate(self._ours or ())}
        self._terms: list[int] = []  # the index's term for each source token

    def mapped(self, batches: Iterator[VectorBatch]) -> Iterator[VectorBatch]:
        """Yield the documents with their vectors in the index's terms.

        Raises:
            DataError: The index lacks a token or a term.
        """
        known, ours = self._known, self._ours
        for batch in batches:
            vectors = batch.vectors if self._tokens is None or ours is None else self._by_tokens(batch.vectors, ours)
            size = known.fingerprint.vocabulary_size or (len(ours) if ours is not None else MAX_TERMS)
            if vectors.nnz and int(vectors.indices.max()) >= size:
                raise DataError(
                    f"term {int(vectors.indices.max())}: the index {self._path} has {size} terms; "
                    "another encoder made these vectors",
                    self._where,
                )
            yield VectorBatch(batch.documents, vectors, batch.dense)
        if ours is not None and len(ours) > len(known.vocabulary or ()):
            self.grown = EncoderMetadata()
            self.grown.fingerprint, self.grown.encoder_files = known.fingerprint, known.encoder_files
            self.grown.vocabulary = ours

    def _by_tokens(self, vectors: SparseMatrix, ours: list[str]) -> SparseMatrix:
        """Map vectors whose terms are positions in the source's tokens. Each batch may append tokens to these."""
        for token in (self._tokens or ())[len(self._terms) :]:
            if token not in self._term_of:
                if self._closed:
                    raise DataError(f"the token {token!r} isn't in the index's vocabulary", self._where)
                self._term_of[token] = len(ours)
                ours.append(token)
            self._terms.append(self._term_of[token])
        if self._terms == list(range(len(self._terms))):
            return vectors
        there = np.array(self._terms, np.int64)[vectors.indices]
        return SparseMatrix(vectors.indptr, there, vectors.data, (len(vectors), max(len(ours), 1)))


def _learn(known: EncoderMetadata, source: SparseMatrix | Vectors) -> None:
    """Fill `known` with the fingerprint and tokens of a source."""
    if isinstance(source, Vectors):
        known.fingerprint, known.encoder_files = source.fingerprint, dict(source.encoder_files)
        known.vocabulary = None if source.vocabulary is None else []
    else:
        known.fingerprint = Fingerprint(vocabulary_size=source.shape[1])
