"""Search over sentence-transformers embeddings, with the interface of its `sparse_encoder.search_engines` functions.

    results, seconds = semantic_search_lsr(model.encode_query(queries), model.encode_document(texts))

Needs the extra `sentence-transformers`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from lsr.forks import here_only
from lsr.index.index import Index
from lsr.index.integrations.sentence_transformers import matrix
from lsr.index.integrations.store import opened

if TYPE_CHECKING:
    import torch


def semantic_search_lsr(
    query_embeddings: torch.Tensor,
    corpus_embeddings: torch.Tensor | None = None,
    corpus_index: Index | str | PathLike[str] | None = None,
    top_k: int = 10,
    output_index: bool = False,
    index_kwargs: Mapping[str, Any] | None = None,
    search_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Search like the functions in `sentence_transformers.sparse_encoder.search_engines`; exact by default.

    Args:
        query_embeddings: (n_queries, n_terms), from `SparseEncoder.encode_query`.
        corpus_embeddings: (n_texts, n_terms), from `encode_document`; not needed with an index.
        corpus_index: An index or its folder.
        top_k: Maximum number of documents per query.
        output_index: Whether to return the index, too. The folder of an index that is built here is temporary; it is
            deleted with the `Index` object.
        index_kwargs: Arguments of `Index.build`.
        search_kwargs: Arguments of `Index.search_batch`: alpha, algorithm, threads and so on.

    Returns:
        For each query [{"corpus_id": row or document number, "score": float}, ...]; the seconds that the search took;
        and the index if `output_index` is set.

    Raises:
        ValueError: Neither `corpus_embeddings` nor `corpus_index` is given.
    """
    if corpus_index is None:
        if corpus_embeddings is None:
            raise ValueError("either corpus_embeddings or corpus_index must be given")
        folder = tempfile.mkdtemp(prefix="lsr-")
        corpus_index = Index.build(f"{folder}/index", matrix(corpus_embeddings), **(index_kwargs or {}))
        weakref.finalize(corpus_index, here_only(shutil.rmtree), folder, ignore_errors=True)
    index = opened(corpus_index)
    queries = matrix(query_embeddings)
    started = time.perf_counter()
    found = index.search_batch(queries, top_k, **(search_kwargs or {}))
    seconds = time.perf_counter() - started
    pairs = (zip(hits.docs.tolist(), hits.scores.tolist(), strict=True) for hits in found)
    results = [[{"corpus_id": doc, "score": score} for doc, score in hits] for hits in pairs]
    return (results, seconds, index) if output_index else (results, seconds)
