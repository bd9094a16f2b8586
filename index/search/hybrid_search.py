"""Hybrid search: rank documents by sparse and dense vectors together.

The best documents of either search are candidates, and each candidate gets the exact score of both:

    score = s / max(s) + dense_weight * z * |z| / 32

s is the sparse score. z is the cosine as a z-score: how many standard deviations it lies above the mean over the whole
collection. So the dense side weighs more the clearer its best documents stand out, which the range of sparse scores
can't tell. BM25 terms count twice beside a dense vector, which covers much of what the learned terms cover. The two
constants were tuned on four collections that the documentation doesn't report; two forms tied there, and this one did
better on the six that it does report. A document that is cut into passages is scored by its best passage on each side.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from lsr.encode.hybrid import HybridEncoder
from lsr.errors import DataError
from lsr.index.search.searcher import EXACT, Mask
from lsr.index.search.settings import SearchSettings
from lsr.index.search.snapshot import Snapshot
from lsr.sparse import SparseMatrix

_CANDIDATES = 100  # from each search, at least
_LEXICAL = 2.0  # factor for the weights of BM25 terms
_CLEAR = 32.0  # z squared that counts as much as the best sparse score: 5.7 standard deviations
_DIGITS = 6  # round mean and deviation, so that they don't depend on the order in which documents are stored


def dense_width(snapshot: Snapshot, path: object) -> int:
    """Return the width of the index's dense vectors.

    Raises:
        DataError: The index has no dense vectors.
    """
    widths = {0 if part.embeddings is None else part.embeddings.width for part in snapshot.parts}
    if 0 in widths or not snapshot.manifest["settings"].get("hybrid"):
        raise DataError(
            f"{path}: this index has no dense vectors: build it with hybrid=True (lsr index --hybrid) and an encoder "
            "that makes them, such as lsr-mini"
        )
    return widths.pop() if widths else snapshot.encoder().dense_width


def hybrid_top(
    snapshot: Snapshot,
    vector: SparseMatrix,
    dense: NDArray[np.float32],
    k: int,
    settings: SearchSettings,
    mask: Mask | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the k best documents by both vectors, or by the dense one alone.

    Args:
        snapshot: The snapshot to search.
        vector: The query's sparse vector, one row.
        dense: (width,) float32, its dense vector.
        k: Maximum number of documents.
        settings: How to search; mode "hybrid" or "dense".
        mask: Which documents may be found.

    Returns:
        (n,) int64 document numbers (of the best passages, where documents are cut) and (n,) float64 scores, descending;
        ties in the order in which documents were added.
    """
    depth = max(k, _CANDIDATES)
    similarities = np.concatenate(
        [np.empty(0, np.float32), *(p.embeddings.similarities(dense) for p in snapshot.parts if p.embeddings)]
    )
    near = _nearest(snapshot, similarities, k if settings.mode == "dense" else depth, mask)
    if settings.mode == "dense":
        return near, similarities[near].astype(np.float64)
    vector = _beside_dense(snapshot, vector)
    docs, scores = snapshot.top(vector, depth, settings, mask)
    sparse = dict(zip(docs.tolist(), scores.tolist(), strict=True))
    candidates = np.array(sorted(one_of_each(snapshot, [*docs.tolist(), *near.tolist()])), np.int64)
    rows = np.empty((2, len(candidates)))
    known = sparse | _scores(snapshot, vector, [doc for doc in candidates.tolist() if doc not in sparse], settings)
    for i, doc in enumerate(candidates.tolist()):
        rows[:, i] = known[doc], similarities[_passages(snapshot, doc)].max()
    total = rows[0] / (rows[0].max(initial=0.0) or 1.0) + settings.dense_weight * _stands_out(
        snapshot, similarities, rows[1]
    )
    order = np.argsort(-total, kind="stable")[:k]
    return candidates[order], total[order]


def _scores(snapshot: Snapshot, vector: SparseMatrix, docs: list[int], settings: SearchSettings) -> dict[int, float]:
    """Return the exact sparse scores of some documents by a search restricted to them.

    The score of a document that is cut into passages is the mean of its best ones.
    """
    if not docs:
        return {}
    passages = {doc: _passages(snapshot, doc) for doc in docs}
    wanted = np.zeros(snapshot.searcher.n_docs, bool)
    wanted[list(chain.from_iterable(passages.values()))] = True
    best, scores = snapshot.searcher.search(*vector.row(0), int(wanted.sum()), EXACT, snapshot.searcher.mask(wanted))
    found = dict(zip(best.tolist(), scores.tolist(), strict=True))
    return {
        doc: float(np.mean(sorted(found.get(p, 0.0) for p in own)[-settings.best_passages :]))
        for doc, own in passages.items()
    }


def _nearest(snapshot: Snapshot, similarities: NDArray[np.float32], k: int, mask: Mask | None) -> NDArray[np.int64]:
    """Return the k nearest documents that may be found, nearest first; each document by its best passage."""
    allowed = snapshot.searcher.by_number(mask)
    found = np.arange(len(similarities)) if allowed is None else np.flatnonzero(allowed)
    wanted = snapshot.depth(k)
    while True:
        best = found
        if wanted < len(found):
            least = np.partition(similarities[found], -wanted)[-wanted]
            best = found[similarities[found] >= least]
        best = best[np.argsort(-similarities[best], kind="stable")]
        documents = one_of_each(snapshot, best.tolist())
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
    parent = snapshot.documents.parent(doc) if snapshot.has_passages else None
    return [doc] if parent is None else snapshot.documents.passages(parent)


def _beside_dense(snapshot: Snapshot, vector: SparseMatrix) -> SparseMatrix:
    """Raise the weights of a hybrid encoder's BM25 terms for a search beside the dense vector."""
    encoder = snapshot.shared.encoder if snapshot.shared.encoder_files else None
    if not isinstance(encoder, HybridEncoder):
        return vector
    factors = np.where(vector.indices < encoder.learned.n_terms, 1.0, _LEXICAL).astype(np.float32)
    return SparseMatrix(vector.indptr, vector.indices, vector.data * factors, vector.shape, check=False)


def _stands_out(
    snapshot: Snapshot, similarities: NDArray[np.float32], cosines: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (n,) the dense scores of candidates: z-scores over all live documents, squared with their sign."""
    if not len(cosines):
        return cosines
    alive = snapshot.searcher.by_number(None)
    everything = similarities if alive is None else similarities[alive]
    mean, deviation = (round(float(f(everything, dtype=np.float64)), _DIGITS) for f in (np.mean, np.std))
    z = (cosines - mean) / (deviation or 1.0)
    return np.asarray(z * np.abs(z) / _CLEAR)
