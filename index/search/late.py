"""Exact search by late interaction: the first search goes as deep as its bound demands; see `lsr.encode.late`."""

from __future__ import annotations

from lsr.encode.token_vectors import LateReranker
from lsr.errors import EncoderMismatch
from lsr.index.search.hits import Hits
from lsr.index.search.reader import Reader

_DEEPER = 2


def search_late(index: Reader, query: str, k: int = 10, *, reranker: LateReranker, depth: int = 100) -> Hits:
    """Return the k documents with the highest late scores of all.

    A document's score in the index bounds its late score, so the search stops once the best documents outside can't
    reach the k-th late score. That takes an index of the reranker's encoder; with `impacts="float32"` the bound is
    exact, with 8 bits it can be too low by the rounding of weights.

    Args:
        index: An index whose encoder is the reranker's.
        query: The text.
        k: Maximum number of hits.
        reranker: Scores the documents.
        depth: Documents scored at first; doubled until the bound holds.

    Returns:
        Hits by descending late score. Documents that share no term with the query aren't found.

    Raises:
        EncoderMismatch: The index is of another encoder.
    """
    if str(index.fingerprint) != str(reranker.encoder.fingerprint):
        raise EncoderMismatch(
            f"{index.path}: an index of {index.fingerprint}, its scores don't bound those of "
            f"{reranker.encoder.fingerprint}: build it with that encoder"
        )
    depth = max(depth, k)
    while True:
        hits = index.search(query, depth, rerank=reranker, depth=depth, mode="sparse")
        bound = min((moved.first_score for moved in hits.moved.values()), default=0.0)  # of the documents outside
        if len(hits) < depth or bound <= hits[k - 1].score:
            return hits[:k]
        depth *= _DEEPER
