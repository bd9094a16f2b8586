"""Exact search by late interaction (see `lsr.encode.late`): re-ranks as many documents as exactness requires."""

from __future__ import annotations

from lsr.encode.token_vectors import LateReranker
from lsr.errors import EncoderMismatch
from lsr.index.search.hits import Hits
from lsr.index.search.reader import Reader

_DEEPER = 2  # factor by which the depth grows


def search_late(index: Reader, query: str, k: int = 10, *, reranker: LateReranker, depth: int = 100) -> Hits:
    """Return the k documents with the highest late scores in the index.

    A document's late score is never above its score in the index. So the search can stop when no other document can
    reach the k-th late score. This is exact for an index with `impacts="float32"`; 8-bit weights are rounded, so the
    bound may be slightly too low.

    Args:
        index: An index built with the re-ranker's encoder.
        query: The text.
        k: Maximum number of hits.
        reranker: Computes late scores.
        depth: Number of documents to score in the first round; it is doubled until the bound holds.

    Returns:
        Hits by descending late score. Documents that share no term with the query aren't found.

    Raises:
        EncoderMismatch: The index has another encoder.
    """
    if str(index.fingerprint) != str(reranker.encoder.fingerprint):
        raise EncoderMismatch(
            f"{index.path}: the index was built with {index.fingerprint}, so its scores don't bound the scores of "
            f"{reranker.encoder.fingerprint}: build it with the re-ranker's encoder"
        )
    depth = max(depth, k)
    while True:
        hits = index.search(query, depth, rerank=reranker, depth=depth, mode="sparse")
        bound = min((moved.first_score for moved in hits.moved.values()), default=0.0)  # no other document scores more
        if len(hits) < depth or bound <= hits[k - 1].score:
            return hits[:k]
        depth *= _DEEPER
