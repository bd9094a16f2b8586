"""Hybrid search: rank documents by sparse and dense vectors together.

The best documents of either search are candidates, and each candidate gets its exact sparse score s and its cosine:

    score = s / max(s) + dense_weight * sign(z) * |z|^2.5 / 52

z is the cosine as a z-score: how many standard deviations the cosine lies above the mean over the whole collection. So
the dense side weighs more if its best documents stand out clearly. BM25 terms count twice in a hybrid search, because
the dense vector covers much of what the learned terms cover. With several choices of the power and the constant, hybrid
search is at least as good as either side alone on each of ten collections. Of these choices, the one here did best on
the four collections that the documentation doesn't report. If a document is cut into passages, its best passage on each
side counts.

In a search over many shards, each shard returns its candidates with both scores, and the mean and variance of all its
cosines. `fuse` merges the candidates into the ranking that one index would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lsr.encode.base import Encoder
from lsr.encode.hybrid import HybridEncoder
from lsr.errors import DataError
from lsr.index.search.searcher import EXACT, Mask
from lsr.index.search.settings import SearchSettings
from lsr.index.search.snapshot import Snapshot
from lsr.sparse import SparseMatrix

_CANDIDATES = 100  # minimum number of candidates from each search
_LEXICAL = 2.0  # factor for the weights of BM25 terms
_POWER = 2.5  # the power of |z|
_CLEAR = 52.0  # |z|^2.5 that adds as much as the best sparse score: 4.9 standard deviations
_BOOSTED = 4  # boosts apply to the 4 * k best documents
_DEEPER = 4  # factor by which the depth grows when too few documents meet the conditions
_DIGITS = 6  # mean and deviation are rounded, so that they don't depend on the order in which documents are stored


def dense_width(snapshot: Snapshot) -> int | None:
    """Return the width of the index's dense vectors; 0 without documents; None if the index isn't hybrid."""
    if not snapshot.manifest["settings"].get("hybrid"):
        return None
    widths = {0 if part.embeddings is None else part.embeddings.width for part in snapshot.parts}
    if 0 in widths:
        return None
    return widths.pop() if widths else 0


def require_dense(width: int | None, path: str | PathLike[str]) -> int:
    """Return the width of the index's dense vectors.

    Raises:
        DataError: The index has no dense vectors.
    """
    if width is None:
        raise DataError(
            f"{path}: this index has no dense vectors: build it with hybrid=True (lsr index --hybrid) and an encoder "
            "that makes them, such as lsr-mini"
        )
    return width


@dataclass(frozen=True)
class Cosines:
    """Moments of the cosines of n documents: the mean, and the sum of squared distances from the mean."""

    n: int
    mean: float
    squares: float

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Cosines:
        """Compute the moments of (n,) values."""
        if not len(values):
            return cls(0, 0.0, 0.0)
        mean, deviation = float(np.mean(values, dtype=np.float64)), float(np.std(values, dtype=np.float64))
        return cls(len(values), mean, deviation**2 * len(values))

    @classmethod
    def together(cls, parts: Sequence[Cosines]) -> Cosines:
        """Combine the moments of several parts."""
        n = sum(part.n for part in parts)
        mean = sum(part.n * part.mean for part in parts) / max(n, 1)
        return cls(n, mean, sum(part.squares + part.n * (part.mean - mean) ** 2 for part in parts))


@dataclass(frozen=True)
class Candidates:
    """The candidates of a hybrid or dense search; plain values that can be sent to other processes.

    Attributes:
        docs: (n,) int64 document numbers: first the results of the sparse search, best first; then the nearest
            documents, nearest first.
        n_sparse: Number of documents from the sparse search.
        whole: (n,) int64, equal for passages of the same document.
        sparse: (n,) float64, exact sparse scores.
        cosines: (n,) float64.
        every: Moments of the cosines of all documents.
    """

    docs: NDArray[np.int64]
    n_sparse: int
    whole: NDArray[np.int64]
    sparse: NDArray[np.float64]
    cosines: NDArray[np.float64]
    every: Cosines


@dataclass(frozen=True)
class Fusion:
    """How one search combines sparse scores and cosines; plain values that can be sent to other processes.

    Attributes:
        mode: "hybrid", or "dense" for cosines alone.
        weight: `SearchSettings.dense_weight`.
        largest: The best sparse score. Sparse scores are divided by it.
        mean: Mean of the cosines of all documents.
        deviation: Standard deviation of the cosines of all documents.
        passages: Whether the search finds passages instead of documents.
    """

    mode: str
    weight: float = 1.0
    largest: float = 1.0
    mean: float = 0.0
    deviation: float = 1.0
    passages: bool = False

    def z(self, cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n,) float64: how many standard deviations each of (n,) cosines lies above the mean."""
        return (cosines - self.mean) / self.deviation

    def dense(self, cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n,) float64: what each of (n,) cosines adds to a score."""
        if self.mode == "dense":
            return cosines
        z = self.z(cosines)
        return self.weight * (np.sign(z) * np.abs(z) ** _POWER / _CLEAR)

    def scores(self, sparse: NDArray[np.float64], cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (n,) float64, the scores of n documents from their sparse scores and their cosines."""
        return cosines if self.mode == "dense" else sparse / self.largest + self.dense(cosines)


class Fused(NamedTuple):
    """A fused ranking.

    Attributes:
        parts: (n,) int64, the part of each document.
        places: (n,) int64, the place of each document in its part.
        scores: (n,) float64, descending.
        fusion: How the scores were made.
    """

    parts: NDArray[np.int64]
    places: NDArray[np.int64]
    scores: NDArray[np.float64]
    fusion: Fusion


class Ranked(NamedTuple):
    """The best documents by both vectors: (n,) int64 numbers, (n,) float64 scores, and how the scores were made."""

    docs: NDArray[np.int64]
    scores: NDArray[np.float64]
    fusion: Fusion


def depth_of(k: int) -> int:
    """Return the number of candidates from each search for k documents."""
    return max(k, _CANDIDATES)


def candidates(
    snapshot: Snapshot,
    vector: SparseMatrix,
    dense: NDArray[np.float32],
    k: int,
    settings: SearchSettings,
    mask: Mask | None = None,
    *,
    passages: bool = False,
) -> Candidates:
    """Return the documents of a snapshot that may be among the k best for a query.

    Args:
        snapshot: The snapshot to search.
        vector: The query's sparse vector, one row, weighted by `beside_dense`.
        dense: (width,) float32, the query's dense vector.
        k: Maximum number of documents.
        settings: How to search; the mode is "hybrid" or "dense".
        mask: Which documents may be found.
        passages: Find passages instead of documents.
    """
    similarities = np.concatenate(
        [np.empty(0, np.float32), *(p.embeddings.similarities(dense) for p in snapshot.parts if p.embeddings)]
    )
    rolled_up = snapshot.has_passages and not passages
    if settings.mode == "dense":
        near = _nearest(snapshot, similarities, k, mask, rolled_up)
        nothing = np.zeros(len(near))
        return Candidates(near, 0, near, nothing, similarities[near].astype(np.float64), Cosines(0, 0.0, 0.0))
    depth = depth_of(k)
    near = _nearest(snapshot, similarities, depth, mask, rolled_up)
    found, scores = snapshot.top(vector, depth, settings, mask, passages=passages)
    docs = np.concatenate([found, near])
    own = [_passages(snapshot, doc) if rolled_up else [doc] for doc in docs.tolist()]
    whole = [each[0] for each in own]
    cosines = [similarities[each].max() for each in own] if rolled_up else similarities[docs]
    alive = snapshot.searcher.by_number(None)
    return Candidates(
        docs,
        len(found),
        np.array(whole, np.int64),
        np.concatenate([scores, _scores(snapshot, vector, own[len(found) :], settings)]),
        np.array(cosines, np.float64),
        Cosines.of(similarities if alive is None else similarities[alive]),
    )


def fuse(parts: Sequence[Candidates], k: int, settings: SearchSettings, *, passages: bool = False) -> Fused:
    """Rank candidates by both scores, or by cosines alone.

    Args:
        parts: The candidates of each shard, in order; at least one.
        k: Maximum number of documents.
        settings: How to search; the mode is "hybrid" or "dense".
        passages: Whether the candidates are passages instead of documents.

    Returns:
        The k best candidates, by descending score; ties in the order of addition.
    """
    part = np.repeat(np.arange(len(parts)), [len(one.docs) for one in parts])
    place = np.concatenate([np.arange(len(one.docs)) for one in parts])
    docs, whole, sparse, cosines = (
        np.concatenate([getattr(one, name) for one in parts]) for name in ("docs", "whole", "sparse", "cosines")
    )
    by_words = np.concatenate([np.arange(len(one.docs)) < one.n_sparse for one in parts])
    depth = k if settings.mode == "dense" else depth_of(k)
    near = _best(np.flatnonzero(~by_words), cosines, part, docs, depth)
    if settings.mode == "dense":
        return Fused(part[near], place[near], cosines[near], Fusion("dense", passages=passages))
    chosen: dict[tuple[int, int], int] = {}
    for row in [*_best(np.flatnonzero(by_words), sparse, part, docs, depth).tolist(), *near.tolist()]:
        chosen.setdefault((int(part[row]), int(whole[row])), row)
    rows = np.array(list(chosen.values()), np.int64)
    every = Cosines.together([one.every for one in parts])
    mean, deviation = round(every.mean, _DIGITS), round((every.squares / max(every.n, 1)) ** 0.5, _DIGITS)
    largest = float(sparse[rows].max(initial=0.0)) or 1.0
    fusion = Fusion("hybrid", settings.dense_weight, largest, mean, deviation or 1.0, passages)
    total = fusion.scores(sparse[rows], cosines[rows])
    order = np.lexsort((docs[rows], part[rows], -total))[:k]
    return Fused(part[rows[order]], place[rows[order]], total[order], fusion)


def _best(
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    part: NDArray[np.int64],
    docs: NDArray[np.int64],
    n: int,
) -> NDArray[np.int64]:
    """Return the n best of some rows; ties by part and document."""
    return rows[np.lexsort((docs[rows], part[rows], -scores[rows]))[:n]]


def hybrid_top(
    snapshot: Snapshot,
    vector: SparseMatrix,
    dense: NDArray[np.float32],
    k: int,
    settings: SearchSettings,
    mask: Mask | None = None,
    *,
    passages: bool = False,
) -> Ranked:
    """Return the k best documents by both vectors, or by the dense vectors alone.

    Args:
        snapshot: The snapshot to search.
        vector: The query's sparse vector, one row, weighted by `beside_dense`.
        dense: (width,) float32, the query's dense vector.
        k: Maximum number of documents.
        settings: How to search; the mode is "hybrid" or "dense".
        mask: Which documents may be found.
        passages: Find passages instead of documents.

    Returns:
        The documents, or the best passage of each if documents are cut, by descending score; ties in the order in
        which they were added.
    """
    found = candidates(snapshot, vector, dense, k, settings, mask, passages=passages)
    fused = fuse([found], k, settings, passages=passages)
    return Ranked(found.docs[fused.places], fused.scores, fused.fusion)


def cosine_of(snapshot: Snapshot, dense: NDArray[np.float32], doc: int, *, passages: bool = False) -> float:
    """Return the cosine of a document's and a query's dense vectors.

    A document that is cut into passages has the cosine of its nearest passage.

    Args:
        snapshot: The snapshot that holds the document.
        dense: (width,) float32, the query.
        doc: Number of a document or passage.
        passages: Use the passage itself, even if another passage of the document is nearer.
    """
    own = _passages(snapshot, doc) if snapshot.has_passages and not passages else [doc]
    found = []
    for number, within in map(snapshot.searcher.locate, own):
        embeddings = snapshot.parts[number].embeddings
        assert embeddings is not None
        found.append(embeddings.similarity(within, dense))
    return max(found)


def _scores(
    snapshot: Snapshot, vector: SparseMatrix, wholes: list[list[int]], settings: SearchSettings
) -> NDArray[np.float64]:
    """Return (n,) float64, the exact sparse scores of n documents. One search, restricted to them, finds all scores.

    Each document is given as the list of its passages; its score is the mean of its best passages.
    """
    if not wholes:
        return np.empty(0)
    wanted = np.zeros(snapshot.searcher.n_docs, bool)
    wanted[list(chain.from_iterable(wholes))] = True
    best, scores = snapshot.searcher.search(*vector.row(0), int(wanted.sum()), EXACT, snapshot.searcher.mask(wanted))
    found = dict(zip(best.tolist(), scores.tolist(), strict=True))
    return np.array([np.mean(sorted(found.get(p, 0.0) for p in own)[-settings.best_passages :]) for own in wholes])


def _nearest(
    snapshot: Snapshot, similarities: NDArray[np.float32], k: int, mask: Mask | None, rolled_up: bool
) -> NDArray[np.int64]:
    """Return the k nearest documents that may be found, nearest first; if `rolled_up`, the best passage of each."""
    allowed = snapshot.searcher.by_number(mask)
    found = np.arange(len(similarities)) if allowed is None else np.flatnonzero(allowed)
    wanted = snapshot.depth(k) if rolled_up else k
    while True:
        best = found
        if wanted < len(found):
            least = np.partition(similarities[found], -wanted)[-wanted]
            best = found[similarities[found] >= least]
        best = best[np.argsort(-similarities[best], kind="stable")]
        documents = one_of_each(snapshot, best.tolist()) if rolled_up else best.tolist()
        if len(documents) >= k or len(best) == len(found):
            return np.array(documents[:k], np.int64)
        wanted *= 4


def one_of_each(snapshot: Snapshot, docs: Iterable[int]) -> list[int]:
    """Return the first number of each document, so that passages of one document count once."""
    if not snapshot.has_passages:
        return list(dict.fromkeys(docs))
    firsts: dict[str, int] = {}
    for doc in docs:
        firsts.setdefault(snapshot.documents.parent(doc) or snapshot.documents.id(doc), doc)
    return list(firsts.values())


def _passages(snapshot: Snapshot, doc: int) -> list[int]:
    """Return all passages of a passage's document; the document itself if it isn't cut."""
    parent = snapshot.documents.parent(doc)
    return [doc] if parent is None else snapshot.documents.passages(parent)


def beside_dense(encoder: Encoder | None, vector: SparseMatrix) -> SparseMatrix:
    """Raise the weights of a hybrid encoder's BM25 terms for a search that also uses the dense vector.

    Args:
        encoder: The index's encoder; None if the index stores none.
        vector: The query, one row.
    """
    if not isinstance(encoder, HybridEncoder):
        return vector
    factors = np.where(vector.indices < encoder.learned.n_terms, 1.0, _LEXICAL).astype(np.float32)
    return SparseMatrix(vector.indptr, vector.indices, vector.data * factors, vector.shape, check=False)


class Looked(NamedTuple):
    """The best documents of a ranking by dense vectors, down to some depth.

    Attributes:
        docs: (n,) int64 document numbers.
        scores: (n,) float64, descending.
        accepted: (n,) bool, whether each meets the conditions on texts; None without such conditions.
        factors: (n,) float64, the boosts' factors; None without boosts.
    """

    docs: NDArray[np.int64]
    scores: NDArray[np.float64]
    accepted: NDArray[np.bool_] | None = None
    factors: NDArray[np.float64] | None = None


def meeting(
    look: Callable[[int], Looked], k: int, n_docs: int, *, boosted: bool, min_score: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """From a ranking by dense vectors, return the k best documents that meet the conditions, and their scores.

    Args:
        look: Maps n to the n best documents.
        k: Maximum number of documents.
        n_docs: Number of documents in the index.
        boosted: Whether scores are boosted; boosts apply to the best max(_BOOSTED * k, 100) documents.
        min_score: Documents that score less are left out.
    """
    depth = max(_BOOSTED * k, _CANDIDATES) if boosted else k
    while True:
        docs, scores, accepted, factors = look(depth)
        last = len(docs) < depth or depth >= n_docs
        if accepted is not None:
            docs, scores = docs[accepted], scores[accepted]
            factors = None if factors is None else factors[accepted]
        if len(docs) >= k or last:
            break
        depth *= _DEEPER
    if factors is not None:
        scores = np.where(scores > 0, scores * factors, scores)
        order = np.lexsort((docs, -scores))
        docs, scores = docs[order], scores[order]
    if min_score:
        n = int(np.searchsorted(-scores, -min_score, side="right"))
        docs, scores = docs[:n], scores[:n]
    return docs[:k], scores[:k]
