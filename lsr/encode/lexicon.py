"""Lexicon: the terms of some documents, their numbers, and in how many documents each occurs.

An encoder that is fitted has one of its own; an index that lives has one for every commit, and one that grows while
documents are added. Terms are only ever appended, so that a number once given stands for the same term for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Counts = Callable[[NDArray[np.int64]], NDArray[np.int64]]


class Lexicon:
    """Terms and their counts, or those of them that begin at a number and have a prefix.

    Attributes:
        tokens: Of all terms.
        n_docs: Number of documents.

    Args:
        tokens: As above.
        term_of: {token: its number}; made here unless given.
        n_docs: As above.
        counts: Gives in how many documents each of (n,) terms occurs.
        grows: Whether tokens that aren't known are appended.
        first: The first term that is one of these.
        prefix: What their tokens begin with.
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
        """The lexicon of documents, given as their terms; in the order of the alphabet."""
        frequencies: Counter[str] = Counter()
        n_docs = 0
        for terms in documents:
            frequencies.update(set(terms))
            n_docs += 1
        tokens = sorted(frequencies)
        return cls.of_counts(tokens, [frequencies[token] for token in tokens], n_docs)

    @classmethod
    def of_counts(cls, tokens: list[str], counts: Sequence[int], n_docs: int) -> Lexicon:
        """A lexicon of known counts."""
        table = np.array(counts, np.int64)
        return cls(tokens, n_docs=n_docs, counts=table.__getitem__)

    def part(self, first: int, prefix: str) -> Lexicon:
        """The terms from a number on, whose tokens begin with a prefix that they are known without."""
        how = {"n_docs": self.n_docs, "counts": self._counts, "grows": self._grows}
        return Lexicon(self.tokens, self._term_of, **how, first=first, prefix=prefix)  # type: ignore[arg-type]

    @property
    def counted(self) -> bool:
        """Whether it is known in how many documents its terms occur."""
        return self._counts is not None

    def __len__(self) -> int:
        return len(self.tokens) - self._first

    def words(self) -> list[str]:
        """The tokens of these terms, without the prefix."""
        return [token.removeprefix(self._prefix) for token in self.tokens[self._first :]]

    def number(self, word: str) -> int:
        """The number of a term among these; -1 if it isn't known and nothing is appended."""
        term = self._term_of.get(self._prefix + word, -1)
        if term < 0 and self._grows:
            self._term_of[self._prefix + word] = term = len(self.tokens)
            self.tokens.append(self._prefix + word)
        return term - self._first if term >= self._first else -1

    def counts(self, terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, in how many documents each of (n,) of these terms occurs."""
        if self._counts is None:
            return np.zeros(len(terms), np.int64)
        return self._counts(terms + self._first)

    def cut(self, size: int) -> None:
        """Forget what was appended beyond so many tokens."""
        for token in self.tokens[size:]:
            del self._term_of[token]
        del self.tokens[size:]
