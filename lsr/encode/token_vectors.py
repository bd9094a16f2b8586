"""A store of documents' sparse token vectors, and the re-ranker that scores documents by them; see `lsr.encode.late`.

A document is found by the digest of its text, so the store needs no numbers of an index: a changed document counts as a
new one, and texts without token vectors are encoded when they are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsr.console import progress
from lsr.encode.base import Text, as_texts
from lsr.encode.late import LateEncoder
from lsr.errors import EncoderMismatch
from lsr.forks import cached_property
from lsr.jit import Compiler
from lsr.mapped import open_arrays, require_starts, write_arrays
from lsr.sparse import SparseMatrix

_compiler = Compiler([Path(__file__)])
_AT_ONCE = 64  # texts encoded per batch
_KIND = "token vectors"
_LEVELS = 255  # of a weight


class TokenVectors:
    """Token vectors of documents: a term of two bytes (four above 65,536 terms) and a weight of one byte per entry.

    Weights are rounded down, so a document's fused vector in float32 bounds its late score.

    Attributes:
        model: The encoder's fingerprint in words; other encoders are refused.
        n_terms: Size of the vocabulary.
        step: The weight of 1.

    Args:
        path: The folder written by `build`; mapped.

    Raises:
        DataError: A file is missing or damaged.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).absolute()
        types = {
            "keys": "1 |S16", "tokens": "1 <i8", "entries": "1 <i8", "sizes": "1 <u2", "terms": "1 <u2 <u4",
            "weights": "1 |u1",
        }  # fmt: skip
        arrays, record = open_arrays(self.path, _KIND, types)
        self.model, self.n_terms, self.step = str(record["model"]), int(record["n_terms"]), float(record["step"])
        self._keys, self._tokens, self._entries = arrays["keys"], arrays["tokens"], arrays["entries"]
        self._sizes, self._terms, self._weights = arrays["sizes"], arrays["terms"], arrays["weights"]
        require_starts(self._tokens, len(self._keys), len(self._sizes), self.path)
        require_starts(self._entries, len(self._keys), len(self._terms), self.path)
        require_starts(np.array([0, len(self._weights)]), 1, len(self._terms), self.path)

    @classmethod
    def build(cls, path: str | PathLike[str], documents: Iterable[Text], encoder: LateEncoder) -> TokenVectors:
        """Encode documents and write their token vectors.

        Args:
            path: The folder; its token vectors are replaced.
            documents: Texts or documents, those of the index.
            encoder: Their encoder.

        Raises:
            OutputError: The folder can't be written.
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
                    terms.append(matrix.indices.astype(np.uint16 if narrow else np.uint32))
                    weights.append(matrix.data)
                    tokens.append(tokens[-1] + len(matrix))
                    entries.append(entries[-1] + matrix.nnz)
                    bar.update(1)
        values = np.concatenate(weights)
        step = float(values.max(initial=0.0)) / _LEVELS or 1.0
        arrays = {
            "keys": np.array(keys, "S16"),
            "tokens": np.array(tokens, "<i8"),
            "entries": np.array(entries, "<i8"),
            "sizes": np.concatenate(sizes).astype("<u2"),
            "terms": np.concatenate(terms).astype("<u2" if narrow else "<u4"),
            "weights": np.minimum(np.floor(values / step), _LEVELS).astype(np.uint8),
        }
        settings = {"model": str(encoder.fingerprint), "n_terms": encoder.n_terms, "step": step}
        write_arrays(Path(path), _KIND, arrays, settings)
        return cls(path)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def bytes_per_document(self) -> float:
        """Mean size of a document's token vectors in bytes, with the number of terms of each token."""
        arrays = (self._sizes, self._terms, self._weights)
        return sum(array.nbytes for array in arrays) / max(len(self), 1)

    def find(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """(n,) int64, the number of each text's document; -1 if it isn't stored."""
        order, wanted = self._order, np.array([_key(text) for text in texts], "S16")
        at = np.minimum(np.searchsorted(self._keys[order], wanted), max(len(order) - 1, 0))
        if not len(order):
            return np.full(len(texts), -1, np.int64)
        return np.where(self._keys[order[at]] == wanted, order[at], -1)

    def matrix(self, number: int) -> SparseMatrix:
        """The token vectors of a document."""
        a, b = self._entries[number], self._entries[number + 1]
        lengths = self._sizes[self._tokens[number] : self._tokens[number + 1]].astype(np.int64)
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        data = self._weights[a:b].astype(np.float32) * np.float32(self.step)
        return SparseMatrix(indptr, self._terms[a:b], data, (len(lengths), self.n_terms))

    def scores(self, query: SparseMatrix, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The late scores of some documents.

        Args:
            query: Token vectors of the query.
            numbers: (n,) int64, the documents.

        Returns:
            (n,) float32.
        """
        order = np.argsort(query.indices, kind="stable")
        starts = np.searchsorted(query.indices[order], np.arange(self.n_terms + 1))
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
        vectors: The documents' token vectors; None to encode the documents of each search.

    Raises:
        EncoderMismatch: The token vectors are of another encoder.
    """

    def __init__(self, encoder: LateEncoder, vectors: TokenVectors | None = None) -> None:
        if vectors is not None and vectors.model != str(encoder.fingerprint):
            raise EncoderMismatch(
                f"{vectors.path}: token vectors of {vectors.model}, queries of {encoder.fingerprint}: open the same "
                "encoder, or build the token vectors again"
            )
        self.encoder, self.vectors = encoder, vectors

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """The late score of each text."""
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
    return hashlib.sha256(text.encode()).digest()[:16]


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
        entries: (n_docs + 1,) int64, where its entries begin.
        sizes: (n_tokens,) uint16, entries of each token.
        terms: (nnz,) uint16 or uint32.
        weights: (nnz,) uint8.
        starts: (n_terms + 1,) int64, where the query's entries of each term begin.
        of_token: (n,) int64, the query token of each of the query's entries.
        of_weight: (n,) float32, its weight.
        n_tokens: Tokens of the query.
        found: (n,) float32, written.
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
