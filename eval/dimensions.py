"""How quality depends on the number of dimensions and of documents (arXiv 2012.14210, 2508.21038).

The larger a collection, the more documents are near a query by chance, especially in few dimensions. This module has
the parts of a study of this effect: random texts, a collection in which each pair of documents answers a query, vectors
cut to fewer dimensions, and the slope of a measure as the collection grows. `benchmarks/dimensions.py` is the study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ROUNDS = 1000  # samples of the bootstrap
_AT_ONCE = 32  # queries ranked per batch


@dataclass(frozen=True)
class PairSet:
    """A collection in which each query has a different set of answers.

    Attributes:
        documents: Texts; those that answer queries come first.
        queries: Texts.
        relevant: (n_queries, answers per query) int64, numbers of documents.
    """

    documents: list[str]
    queries: list[str]
    relevant: NDArray[np.int64]


def pair_set(
    attributes: Sequence[str], *, answers: int = 46, of_query: int = 2, others: int = 0, likes: int = 50, seed: int = 0
) -> PairSet:
    """Make a collection like LIMIT (arXiv 2508.21038): documents say what somebody likes, and queries ask who likes a
    thing.

    For each set of `of_query` documents among the first `answers` documents, there is a query about a thing that only
    these documents name. So the vectors have to separate every such set from all other documents.

    Args:
        attributes: Things that somebody may like; duplicates count once.
        answers: Number of documents that answer queries.
        of_query: Answers per query.
        others: Number of documents that answer no query.
        likes: Minimum number of things named in each document.
        seed: Seed for the order and choice of things.

    Raises:
        ValueError: There are too few things, or `answers` is below `of_query`.
    """
    sets = np.array(list(combinations(range(answers), of_query)), np.int64).reshape(-1, of_query)
    if not len(sets):
        raise ValueError(f"answers={answers} must be at least of_query={of_query}")
    if len(set(attributes)) < len(sets) + likes:
        raise ValueError(
            f"{answers} documents have {len(sets)} sets of {of_query}, so {len(sets) + likes} different things are "
            f"needed; there are {len(set(attributes))}"
        )
    rng = np.random.default_rng(seed)
    things = [list(dict.fromkeys(attributes))[i] for i in rng.permutation(len(set(attributes)))]
    asked, rest = things[: len(sets)], things[len(sets) :]
    liked: list[list[str]] = [[] for _ in range(answers + others)]
    for thing, documents in zip(asked, sets.tolist(), strict=True):
        for doc in documents:
            liked[doc].append(thing)
    texts = []
    for own in liked:
        missing = max(likes - len(own), 0)
        own = own + [rest[i] for i in rng.permutation(len(rest))[:missing]]
        texts.append(f"{_name(rng)} likes " + ", ".join(own[i] for i in rng.permutation(len(own))) + ".")
    return PairSet(texts, [f"Who likes {thing}?" for thing in asked], sets)


def random_texts(n: int, *, words: int = 10, seed: int = 0) -> list[str]:
    """Return n texts of `words` words each; a word is two to nine random letters."""
    rng = np.random.default_rng(seed)
    return [" ".join(_word(rng) for _ in range(words)) for _ in range(n)]


def cut(vectors: NDArray[np.float32], others: NDArray[np.float32], width: int) -> list[NDArray[np.float32]]:
    """Project vectors onto the documents' first singular directions, and scale them to length 1.

    Args:
        vectors: (n, d) float32, documents.
        others: (m, d) float32, queries.
        width: Number of directions, at most d.

    Returns:
        The documents, (n, width), and the queries, (m, width), float32.
    """
    _, directions = np.linalg.eigh((vectors.T @ vectors).astype(np.float64))
    kept = directions[:, ::-1][:, :width].astype(np.float32)
    found = [one @ kept for one in (vectors, others)]
    return [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in found]


def best(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the k best documents of each query.

    Args:
        scores: (n_queries, n_docs), n_docs at least k.
        k: Number of documents.

    Returns:
        (n_queries, k) int64, document numbers by descending score; ties by number.
    """
    found = np.empty((len(scores), k), np.int64)
    for first in range(0, len(scores), _AT_ONCE):
        found[first : first + _AT_ONCE] = np.argsort(-scores[first : first + _AT_ONCE], axis=1, kind="stable")[:, :k]
    return found


def recall(found: NDArray[np.int64], relevant: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Return the recall of each query, (n_queries,) float64.

    Args:
        found: (n_queries, k) int64, numbers of the documents that were found.
        relevant: The numbers of each query's relevant documents, at least one.
    """
    return np.array([np.isin(np.asarray(some), row).mean() for row, some in zip(found, relevant, strict=True)])


def slope(sizes: Sequence[int], values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float, float]:
    """Return how much a measure changes when the collection doubles.

    This is the slope of a least-squares line through the means, against the logarithm of the size. The interval is a
    bootstrap over the queries.

    Args:
        sizes: (n_sizes,) numbers of documents, at least two different ones.
        values: (n_sizes, n_queries) float64, the measure.
        seed: Seed of the bootstrap.

    Returns:
        The slope, and the lower and upper end of its 95 % interval.
    """
    doublings = np.log2(np.asarray(sizes, np.float64))
    apart = doublings - doublings.mean()
    slopes = apart @ values / (apart @ apart)  # one slope per query: their mean is the slope of the means
    drawn = np.random.default_rng(seed).integers(len(slopes), size=(_ROUNDS, len(slopes)))
    low, high = np.quantile(slopes[drawn].mean(1), [0.025, 0.975])
    return float(slopes.mean()), float(low), float(high)


def growing(first: int, last: int) -> Iterator[int]:
    """Yield sizes that double from `first` on, then `last`."""
    while first < last:
        yield first
        first *= 2
    yield last


def _word(rng: np.random.Generator) -> str:
    return "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=rng.integers(2, 10)))


def _name(rng: np.random.Generator) -> str:
    return f"{_word(rng).capitalize()} {_word(rng).capitalize()}"
