"""Lexicon: terms, their ids, and their document frequencies.

A fitted encoder has its own lexicon. A living index has one for every commit, and another that grows while documents
are added. Terms are only appended, so an id always stands for the same term.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Counts = Callable[[NDArray[np.int64]], NDArray[np.int64]]


class Lexicon:
    """Terms and their counts, or a view of the terms from an id on. The tokens of a view share a prefix.

    Attributes:
        tokens: Tokens of all terms.
        n_docs: Number of documents.

    Args:
        tokens: Tokens of all terms.
        term_of: {token: term id}; by default made from `tokens`.
        n_docs: Number of documents.
        counts: Returns the document frequencies of (n,) terms.
        grows: Whether unknown tokens are appended.
        first: The first term of the view.
        prefix: The prefix of the view's tokens.
    """

    def __init__(
        self,
        tokens: list[str],
        term_of: dict[str, int] | None = None,
        *,
        n_docs: int = 0,
        counts: Counts | None = None,
        grows: bool = False,
        first: int = 0,
        prefix: str = "",
    ) -> None:
        self.tokens, self.n_docs, self._counts, self._grows = tokens, n_docs, counts, grows
        self._term_of = {token: term for term, token in enumerate(tokens)} if term_of is None else term_of
        self._first, self._prefix = first, prefix

    @classmethod
    def of(cls, documents: Iterable[Sequence[str]]) -> Lexicon:
        """The lexicon of documents, each given as its terms. Tokens are numbered in alphabetical order."""
        frequencies: Counter[str] = Counter()
        n_docs = 0
        for terms in documents:
            frequencies.update(set(terms))
            n_docs += 1
        tokens = sorted(frequencies)
        return cls.of_counts(tokens, [frequencies[token] for token in tokens], n_docs)

    @classmethod
    def of_counts(cls, tokens: list[str], counts: Sequence[int], n_docs: int) -> Lexicon:
        """Make a lexicon from known counts."""
        table = np.array(counts, np.int64)
        return cls(tokens, n_docs=n_docs, counts=table.__getitem__)

    def part(self, first: int, prefix: str) -> Lexicon:
        """A view of the terms from an id on; their tokens have a prefix, which the view leaves out."""
        how = {"n_docs": self.n_docs, "counts": self._counts, "grows": self._grows}
        return Lexicon(self.tokens, self._term_of, **how, first=first, prefix=prefix)  # type: ignore[arg-type]

    @property
    def counted(self) -> bool:
        """Whether the document frequencies are known."""
        return self._counts is not None

    def __len__(self) -> int:
        return len(self.tokens) - self._first

    def words(self) -> list[str]:
        """The tokens of the view, without the prefix."""
        return [token.removeprefix(self._prefix) for token in self.tokens[self._first :]]

    def number(self, word: str) -> int:
        """The id of a token within the view; -1 if it is unknown and the lexicon doesn't grow."""
        term = self._term_of.get(self._prefix + word, -1)
        if term < 0 and self._grows:
            self._term_of[self._prefix + word] = term = len(self.tokens)
            self.tokens.append(self._prefix + word)
        return term - self._first if term >= self._first else -1

    def counts(self, terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, document frequencies of (n,) terms of the view."""
        if self._counts is None:
            return np.zeros(len(terms), np.int64)
        return self._counts(terms + self._first)

    def cut(self, size: int) -> None:
        """Drop the tokens after the first `size`."""
        for token in self.tokens[size:]:
            del self._term_of[token]
        del self.tokens[size:]
