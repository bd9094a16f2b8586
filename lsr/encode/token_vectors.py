"""Documents' sparse token vectors on disk, and a re-ranker that scores documents with them; see `lsr.encode.late`.

A document is looked up by a digest of its text, so the file doesn't depend on an index, and a changed text counts as a
new document. Texts without token vectors are encoded when they are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsr.arrays import Layout, read_arrays, require_starts, write_arrays
from lsr.console import progress
from lsr.encode.base import Text, as_texts
from lsr.encode.late import LateEncoder
from lsr.errors import DataError, EncoderMismatch
from lsr.forks import cached_property
from lsr.jit import Compiler
from lsr.sparse import SparseMatrix

_compiler = Compiler([Path(__file__)])
_AT_ONCE = 64  # texts encoded per batch
_KIND = "token vectors"
_KEY = 16  # bytes of a text's digest
_LEVELS = 255  # the largest stored weight
_LAYOUT: Layout = {
    "model": (1, "uint8"),  # the encoder's fingerprint, UTF-8
    "n_terms": (0, "int64"),
    "step": (0, "float64"),  # weight = stored weight * step
    "keys": (2, "uint8"),  # (n_docs, 16), the digest of each text
    "tokens": (1, "int64"),  # (n_docs + 1,), where the tokens of each document begin in `sizes`
    "entries": (1, "int64"),  # (n_docs + 1,), where the entries of each document begin in `terms` and `weights`
    "sizes": (1, "uint16"),  # (n_tokens,), entries of each token
    "terms": (1, "uint16", "uint32"),  # (nnz,)
    "weights": (1, "uint8"),  # (nnz,)
}


class TokenVectors:
    """Token vectors of documents in a memory-mapped file.

    Each entry takes two bytes for its term (four if the vocabulary has more than 65,536 terms) and one for its weight.
    Weights are rounded down, so the score of a document's fused vector in float32 is never below its late score.

    Attributes:
        path: The file.
        model: Fingerprint of the encoder, as a string.
        n_terms: Size of the vocabulary.
        step: The weight that a stored weight of 1 stands for.

    Args:
        path: A file written by `build`.

    Raises:
        DataError: The file is missing, damaged or of another kind.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).absolute()
        arrays = read_arrays(self.path, _KIND, _LAYOUT)
        self.model = bytes(arrays["model"]).decode(errors="replace")
        self.n_terms, self.step = int(arrays["n_terms"]), float(arrays["step"])
        keys, self._tokens, self._entries = arrays["keys"], arrays["tokens"], arrays["entries"]
        self._sizes, self._terms, self._weights = arrays["sizes"], arrays["terms"], arrays["weights"]
        if keys.shape[1] != _KEY or self.n_terms < 0 or not 0 < self.step < np.inf:
            raise DataError(f"damaged: keys {keys.shape}, {self.n_terms} terms, step {self.step}", str(self.path))
        require_starts(self.path, self._tokens, len(keys), self._sizes)
        require_starts(self.path, self._entries, len(keys), self._terms, self._weights)
        self._keys: NDArray[np.bytes_] = keys.view(f"S{_KEY}").reshape(-1)

    @classmethod
    def build(cls, path: str | PathLike[str], documents: Iterable[Text], encoder: LateEncoder) -> TokenVectors:
        """Encode documents and write their token vectors.

        Args:
            path: The file; an existing one is replaced.
            documents: The index's documents, or their texts.
            encoder: The index's encoder.

        Raises:
            OutputError: The file can't be written.
        """
        keys: list[bytes] = []
        sizes, terms, weights = [np.zeros(0, np.uint16)], [np.zeros(0, np.uint32)], [np.zeros(0, np.float32)]
        tokens, entries = [0], [0]
        narrow = encoder.n_terms <= 1 << 16
        with progress(None, "token vectors") as bar:
            for some in _batches(documents):
                for text, matrix in zip(some, encoder.token_vectors(some), strict=True):
                    keys.append(_key(text))
                    sizes.append(matrix.lengths().astype(np.uint16))
                    terms.append(matrix.indices)
                    weights.append(matrix.data)
                    tokens.append(tokens[-1] + len(matrix))
                    entries.append(entries[-1] + matrix.nnz)
                    bar.update(1)
        values = np.concatenate(weights)
        step = float(values.max(initial=0.0)) / _LEVELS or 1.0
        arrays = {
            "model": np.frombuffer(str(encoder.fingerprint).encode(), np.uint8),
            "n_terms": np.array(encoder.n_terms, np.int64),
            "step": np.array(step, np.float64),
            "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY),
            "tokens": np.array(tokens, np.int64),
            "entries": np.array(entries, np.int64),
            "sizes": np.concatenate(sizes),
            "terms": np.concatenate(terms).astype(np.uint16 if narrow else np.uint32),
            "weights": np.minimum(np.floor(values / step), _LEVELS).astype(np.uint8),
        }
        write_arrays(path, _KIND, arrays)
        return cls(path)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def bytes_per_document(self) -> float:
        """Mean size of a document's token vectors in bytes: terms, weights and the size of each token."""
        arrays = (self._sizes, self._terms, self._weights)
        return sum(array.nbytes for array in arrays) / max(len(self), 1)

    def find(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """(n,) int64, for each text the number of the document with this text; -1 if there is none."""
        if not len(self):
            return np.full(len(texts), -1, np.int64)
        order, wanted = self._order, np.array([_key(text) for text in texts], self._keys.dtype)
        at = np.minimum(np.searchsorted(self._keys, wanted, sorter=order), len(order) - 1)
        return np.where(self._keys[order[at]] == wanted, order[at], -1)

    def matrix(self, number: int) -> SparseMatrix:
        """The token vectors of a document, (n_tokens, n_terms).

        Args:
            number: The document's number in the order of `build`.
        """
        a, b = self._entries[number], self._entries[number + 1]
        lengths = self._sizes[self._tokens[number] : self._tokens[number + 1]].astype(np.int64)
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        data = self._weights[a:b].astype(np.float32) * np.float32(self.step)
        return SparseMatrix(indptr, self._terms[a:b], data, (len(lengths), self.n_terms))

    def scores(self, query: SparseMatrix, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The late scores of some documents.

        Args:
            query: Token vectors of the query, (n_tokens, n_terms).
            numbers: (n,) int64, numbers of the documents, as `find` returns them.

        Returns:
            (n,) float32.
        """
        order = np.argsort(query.indices, kind="stable")
        starts = np.searchsorted(query.indices[order], np.arange(query.shape[1] + 1))
        found = np.zeros(len(numbers), np.float32)
        _late_scores(
            np.asarray(numbers, np.int64), self._tokens, self._entries, self._sizes, self._terms, self._weights,
            starts, query.row_numbers()[order], query.data[order] * np.float32(self.step), len(query), found,
        )  # fmt: skip
        return found

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self._keys, kind="stable")


class LateReranker:
    """Scores documents by late interaction, for `search(..., rerank=LateReranker(encoder, vectors), depth=100)`.

    Args:
        encoder: The encoder of the token vectors.
        vectors: The documents' token vectors; without them, documents are encoded in each search.

    Raises:
        EncoderMismatch: Another encoder made the token vectors.
    """

    def __init__(self, encoder: LateEncoder, vectors: TokenVectors | None = None) -> None:
        if vectors is not None and vectors.model != str(encoder.fingerprint):
            raise EncoderMismatch(
                f"{vectors.path}: the token vectors were made by {vectors.model}, not by {encoder.fingerprint}: open "
                "that encoder, or build the token vectors again"
            )
        self.encoder, self.vectors = encoder, vectors

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """The late score of each text; texts without token vectors on disk are encoded."""
        (tokens,) = self.encoder.token_vectors([query], queries=True)
        numbers = np.full(len(texts), -1, np.int64) if self.vectors is None else self.vectors.find(texts)
        found = np.zeros(len(texts), np.float32)
        new = np.flatnonzero(numbers < 0)
        for i, matrix in zip(new, self.encoder.token_vectors([texts[i] for i in new.tolist()]), strict=True):
            found[i] = tokens.dot(matrix).max(1, initial=0).sum()
        if self.vectors is not None:
            found[numbers >= 0] = self.vectors.scores(tokens, numbers[numbers >= 0])
        scores: list[float] = found.tolist()
        return scores


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_KEY]


def _batches(documents: Iterable[Text]) -> Iterator[list[str]]:
    iterator = iter(documents)
    while some := list(islice(iterator, _AT_ONCE)):
        yield as_texts(some)


@_compiler.kernel
def _late_scores(  # type: ignore[no-untyped-def]  # a kernel; its docstring has the types
    docs, tokens, entries, sizes, terms, weights, starts, of_token, of_weight, n_tokens, found
):
    """Late scores of documents.

    Args:
        docs: (n,) int64.
        tokens: (n_docs + 1,) int64, where the tokens of each document begin.
        entries: (n_docs + 1,) int64, where the entries of each document begin.
        sizes: (n_doc_tokens,) uint16, entries of each token.
        terms: (nnz,) uint16 or uint32, terms of the documents' entries.
        weights: (nnz,) uint8, weights of these entries.
        starts: (n_terms + 1,) int64, where the query's entries of each term begin.
        of_token: (n_entries,) int64, the query token of each of the query's entries, which are ordered by term.
        of_weight: (n_entries,) float32, weights of the query's entries.
        n_tokens: Number of tokens of the query.
        found: (n,) float32, output: the scores.
    """
    sums, best = np.zeros(n_tokens, np.float32), np.zeros(n_tokens, np.float32)
    for n in range(len(docs)):
        best[:] = 0
        place, end = entries[docs[n]], entries[docs[n] + 1]
        for token in range(tokens[docs[n]], tokens[docs[n] + 1]):
            matched = False
            for p in range(place, min(place + sizes[token], end)):  # a damaged file must not cause reads out of bounds
                if terms[p] < len(starts) - 1:
                    for q in range(starts[terms[p]], starts[terms[p] + 1]):
                        sums[of_token[q]] += of_weight[q] * np.float32(weights[p])
                        matched = True
            place += sizes[token]
            if matched:
                for i in range(n_tokens):
                    best[i] = max(best[i], sums[i])
                    sums[i] = 0
        found[n] = best.sum()
