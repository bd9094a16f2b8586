"""PyTerrier: an index as retriever and indexer, an encoder as re-ranker. Needs the extra `pyterrier`, and no Java.

index = LsrIndexer("idx", encoder="lsr-mini").index(dataset.get_corpus_iter())
pt.Experiment([LsrRetriever(index) % 100], topics, qrels, ["nDCG@10"])
LsrRetriever(bm25_index) % 100 >> LsrReranker("naver/splade-v3")
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from os import PathLike
from typing import Any, Unpack

import numpy as np

from lsr.encode.base import Encoder
from lsr.encode.load import load_encoder
from lsr.errors import MissingExtra
from lsr.index.index import Index
from lsr.index.integrations.store import checked, current, opened
from lsr.index.search.settings import BatchOptions
from lsr.index.write.builder import BuildOptions
from lsr.io.object_store import is_remote

try:
    import pandas as pd
    import pyterrier as pt
except ImportError:
    raise MissingExtra("pyterrier", "pyterrier", "a transformer for PyTerrier") from None


_QUERIES = 64  # queries scored together


class LsrRetriever(pt.Transformer):
    """Retrieves documents for topics: a frame of `qid` and `query` gets `docno`, `score`, `rank` and `text`.

    If topics have a column `query_toks` ({token: weight}, from PyTerrier's learned sparse encoders), it is searched
    instead of `query`.

    Args:
        index: An index or its folder.
        k: Maximum number of documents per query.
        text: Whether to return the documents' texts.
        settings: Arguments of `Index.search`: alpha, algorithm and so on.
    """

    def __init__(
        self, index: Index | str | PathLike[str], k: int = 1000, *, text: bool = True, **settings: Unpack[BatchOptions]
    ) -> None:
        self.index = opened(index)
        self.k = k
        self.text = text
        checked({name: value for name, value in settings.items() if name != "threads"})
        self.settings = settings

    def transform(self, topics: pd.DataFrame) -> pd.DataFrame:
        """Return the documents for each query, best first; ranks start at 0, as elsewhere in PyTerrier."""
        column = "query_toks" if "query_toks" in topics.columns else "query"
        pt.validate.query_frame(topics, extra_columns=[column])
        found = current(self.index).search_batch(topics[column].tolist(), self.k, **self.settings)
        lengths = [len(one) for one in found]
        results = topics.iloc[np.repeat(np.arange(len(topics)), lengths)].reset_index(drop=True)
        results["docno"] = pd.Series(list(chain.from_iterable(hits.ids for hits in found)), dtype=str)
        results["score"] = np.concatenate([np.empty(0), *(hits.scores for hits in found)])
        results["rank"] = np.array([rank for length in lengths for rank in range(length)], np.int64)
        if self.text:
            results["text"] = pd.Series([hit.text for hit in chain.from_iterable(found)], dtype=str)
        return results

    def fuse_rank_cutoff(self, k: int) -> LsrRetriever:
        """Compile `retriever % k` to a search of depth k."""
        return LsrRetriever(self.index, k, text=self.text, **self.settings) if k < self.k else self


class LsrReranker(pt.Transformer):
    """Rescores documents found by another system: a frame of `qid`, `query`, `docno` and `text` gets new scores.

    Args:
        encoder: An encoder, an argument of `lsr.load_encoder`, or an index, which stands for its encoder. A BM25
            part, such as lsr-mini's, needs a collection's word counts: pass an index, or lexical=0.
    """

    def __init__(self, encoder: Encoder | Index | str | PathLike[str]) -> None:
        self.encoder = _encoder_of(encoder)

    def transform(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return the same rows, best first for each query; ranks start at 0."""
        pt.validate.columns(results, includes=["qid", "query", "docno", "text"])
        queries, texts = (list(dict.fromkeys(results[name])) for name in ("query", "text"))
        found = results.reset_index(drop=True)
        found["score"] = np.zeros(len(found))
        if texts:
            documents = self.encoder.encode_document(texts)
            row = found["text"].map({text: i for i, text in enumerate(texts)}).to_numpy()
            of_query = found.groupby("query").indices
            for start in range(0, len(queries), _QUERIES):
                some = queries[start : start + _QUERIES]
                scores = documents.dot(self.encoder.encode_query(some))
                for i, query in enumerate(some):
                    at = of_query[query]
                    found.loc[at, "score"] = scores[row[at], i].astype(np.float64)
        return pt.model.add_ranks(found).sort_values(["qid", "rank"], ignore_index=True)


def _encoder_of(encoder: Encoder | Index | str | PathLike[str]) -> Encoder:
    if isinstance(encoder, Index):
        return encoder.encoder
    return encoder if isinstance(encoder, Encoder) else load_encoder(encoder)


class LsrIndexer(pt.Indexer):
    """Builds an index of documents ({"docno", "text"} and optionally "title"; other fields become metadata).

    Args:
        path: The folder.
        build: Arguments of `Index.build`: encoder, passages, overwrite and so on.
    """

    def __init__(self, path: str | PathLike[str], **build: Unpack[BuildOptions]) -> None:
        self.path = str(path) if is_remote(path) else os.path.abspath(path)
        self.build = build

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Unpack[BuildOptions]) -> Index:  # noqa: A002 - PyTerrier's name
        """Build the index and open it; keyword arguments override the indexer's arguments."""
        documents = ({"_id": document["docno"], **_without_docno(document)} for document in iter)
        options: BuildOptions = {**self.build, **kwargs}
        return Index.build(self.path, documents, **options)


def _without_docno(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "docno"}
