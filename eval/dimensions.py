"""How quality depends on the number of dimensions and of documents (arXiv 2012.14210, 2508.21038).

Low-dimensional vectors have room for few documents: the more there are, the more of them are by chance near a query.
Here are what such a study needs: documents that mean nothing, a collection in which every pair of documents is an
answer, vectors cut to fewer dimensions, and how a measure falls as the collection grows. `benchmarks/dimensions.py` is
the study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ROUNDS = 1000  # of the bootstrap
_AT_ONCE = 32  # queries ranked per batch


@dataclass(frozen=True)
class PairSet:
    """A collection whose queries each have their own set of answers.

    Attributes:
        documents: Texts; the first ones are those that are answers.
        queries: Texts.
        relevant: (n_queries, answers of a query) int64, numbers of documents.
    """

    documents: list[str]
    queries: list[str]
    relevant: NDArray[np.int64]


def pair_set(
    attributes: Sequence[str], *, answers: int = 46, of_query: int = 2, others: int = 0, likes: int = 50, seed: int = 0
) -> PairSet:
    """Make a collection after LIMIT (arXiv 2508.21038): documents say what somebody likes, queries ask who likes it.

    There is a query for each set of `of_query` documents out of `answers`, about a thing that only these like. So a
    vector space has to separate every such set from all other documents.

    Args:
        attributes: Different things that somebody may like.
        answers: Documents that are answers.
        of_query: Answers of a query.
        others: Documents that are no answers.
        likes: Things that are named in a document, at least.
        seed: Of the order and the choice of things.

    Raises:
        ValueError: Too few things, or more answers to a query than documents.
    """
    sets = np.array(list(combinations(range(answers), of_query)), np.int64).reshape(-1, of_query)
    if not len(sets) or len(set(attributes)) < len(sets) + likes:
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
    """n texts of random letters, which answer nothing; their words have two to nine letters."""
    rng = np.random.default_rng(seed)
    return [" ".join(_word(rng) for _ in range(words)) for _ in range(n)]


def cut(vectors: NDArray[np.float32], others: NDArray[np.float32], width: int) -> list[NDArray[np.float32]]:
    """Vectors of documents and of queries in fewer dimensions, of length 1: the documents' first singular directions.

    Args:
        vectors: (n, d) float32, documents.
        others: (m, d) float32, queries.
        width: Dimensions that are kept, at most d.
    """
    _, directions = np.linalg.eigh((vectors.T @ vectors).astype(np.float64))
    kept = directions[:, ::-1][:, :width].astype(np.float32)
    found = [one @ kept for one in (vectors, others)]
    return [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in found]


def best(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """(n_queries, k) int64, the documents with the highest scores, descending; ties by number.

    Args:
        scores: (n_queries, n_docs), n_docs at least k.
        k: How many.
    """
    found = np.empty((len(scores), k), np.int64)
    for first in range(0, len(scores), _AT_ONCE):
        found[first : first + _AT_ONCE] = np.argsort(-scores[first : first + _AT_ONCE], axis=1, kind="stable")[:, :k]
    return found


def recall(found: NDArray[np.int64], relevant: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """(n_queries,) float64, the share of each query's relevant documents among those that were found."""
    return np.array([np.isin(np.asarray(some), row).mean() for row, some in zip(found, relevant, strict=True)])


def slope(sizes: Sequence[int], values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float, float]:
    """By how much a measure changes when the collection doubles, and a 95 % interval over the queries.

    The slope is that of a line through the means by the logarithm of the size; the interval is a bootstrap.

    Args:
        sizes: Numbers of documents, at least two different ones.
        values: (n_sizes, n_queries) float64, the measure.
        seed: Of the bootstrap.
    """
    doublings = np.log2(np.asarray(sizes, np.float64))
    apart = doublings - doublings.mean()
    slopes = apart @ values / (apart @ apart)  # of each query: the slope of a mean is the mean of the slopes
    drawn = np.random.default_rng(seed).integers(len(slopes), size=(_ROUNDS, len(slopes)))
    low, high = np.quantile(slopes[drawn].mean(1), [0.025, 0.975])
    return float(slopes.mean()), float(low), float(high)


def growing(first: int, last: int) -> Iterator[int]:
    """Sizes that double from `first` on; `last` is the last one."""
    while first < last:
        yield first
        first *= 2
    yield last


def _word(rng: np.random.Generator) -> str:
    return "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=rng.integers(2, 10)))


def _name(rng: np.random.Generator) -> str:
    return f"{_word(rng).capitalize()} {_word(rng).capitalize()}"
