"""lsr.index: the inverted index, its kernels, and search; public names are imported on first use."""

from typing import TYPE_CHECKING

from lsr._lazy import lazy_names

_HOMES = {
    "AsyncIndex": "lsr.index.async_index",
    "BuildOptions": "lsr.index.write.builder",
    "BuildSettings": "lsr.index.write.builder",
    "Change": "lsr.index.write.update_batch",
    "Client": "lsr.index.serve.client",
    "Contribution": "lsr.index.search.explain",
    "CrossEncoderReranker": "lsr.index.search.rerank",
    "DenseVectors": "lsr.index.hybrid.dense",
    "Duplicate": "lsr.index.search.duplicates",
    "Explanation": "lsr.index.search.explain",
    "Filter": "lsr.index.segment.filters",
    "Hit": "lsr.index.search.hits",
    "Hits": "lsr.index.search.hits",
    "Hybrid": "lsr.index.hybrid.hybrid",
    "Index": "lsr.index.index",
    "ListwiseReranker": "lsr.index.search.rerank",
    "Moved": "lsr.index.search.rerank",
    "Options": "lsr.index.search.options",
    "PairwiseReranker": "lsr.index.search.rerank",
    "Plan": "lsr.index.search.settings",
    "QuerySet": "lsr.index.search.query_file",
    "Reader": "lsr.index.search.reader",
    "Reranker": "lsr.index.search.rerank",
    "SearchIndex": "lsr.index.protocols",
    "SearchOptions": "lsr.index.search.settings",
    "SearchSettings": "lsr.index.search.settings",
    "Searchable": "lsr.index.protocols",
    "ServeSettings": "lsr.index.serve.settings",
    "Server": "lsr.index.serve.server",
    "ShardedIndex": "lsr.index.distributed.sharded_index",
    "Suggestion": "lsr.index.search.words",
    "Workers": "lsr.distributed.pool",
    "build_dense": "lsr.index.hybrid.hybrid",
    "build_shards": "lsr.index.distributed.build",
    "compile_kernels": "lsr.index.warmup",
    "download_index": "lsr.index.sharding.remote",
    "expand_dense": "lsr.index.search.feedback",
    "expand_query": "lsr.index.search.feedback",
    "interpolate": "lsr.index.hybrid.fusion",
    "parse_where": "lsr.index.segment.parse_filters",
    "read_queries": "lsr.index.search.query_file",
    "reciprocal_rank_fusion": "lsr.index.hybrid.fusion",
    "reshard_index": "lsr.index.distributed.reshard",
    "upload_index": "lsr.index.sharding.remote",
}

if TYPE_CHECKING:
    from lsr.distributed.pool import Workers as Workers
    from lsr.index.async_index import AsyncIndex as AsyncIndex
    from lsr.index.distributed.build import build_shards as build_shards
    from lsr.index.distributed.reshard import reshard_index as reshard_index
    from lsr.index.distributed.sharded_index import ShardedIndex as ShardedIndex
    from lsr.index.hybrid.dense import DenseVectors as DenseVectors
    from lsr.index.hybrid.fusion import interpolate as interpolate
    from lsr.index.hybrid.fusion import reciprocal_rank_fusion as reciprocal_rank_fusion
    from lsr.index.hybrid.hybrid import Hybrid as Hybrid
    from lsr.index.hybrid.hybrid import build_dense as build_dense
    from lsr.index.index import Index as Index
    from lsr.index.protocols import Searchable as Searchable
    from lsr.index.protocols import SearchIndex as SearchIndex
    from lsr.index.search.duplicates import Duplicate as Duplicate
    from lsr.index.search.explain import Contribution as Contribution
    from lsr.index.search.explain import Explanation as Explanation
    from lsr.index.search.feedback import expand_dense as expand_dense
    from lsr.index.search.feedback import expand_query as expand_query
    from lsr.index.search.hits import Hit as Hit
    from lsr.index.search.hits import Hits as Hits
    from lsr.index.search.options import Options as Options
    from lsr.index.search.query_file import QuerySet as QuerySet
    from lsr.index.search.query_file import read_queries as read_queries
    from lsr.index.search.reader import Reader as Reader
    from lsr.index.search.rerank import CrossEncoderReranker as CrossEncoderReranker
    from lsr.index.search.rerank import ListwiseReranker as ListwiseReranker
    from lsr.index.search.rerank import Moved as Moved
    from lsr.index.search.rerank import PairwiseReranker as PairwiseReranker
    from lsr.index.search.rerank import Reranker as Reranker
    from lsr.index.search.settings import Plan as Plan
    from lsr.index.search.settings import SearchOptions as SearchOptions
    from lsr.index.search.settings import SearchSettings as SearchSettings
    from lsr.index.search.words import Suggestion as Suggestion
    from lsr.index.segment.filters import Filter as Filter
    from lsr.index.segment.parse_filters import parse_where as parse_where
    from lsr.index.serve.client import Client as Client
    from lsr.index.serve.server import Server as Server
    from lsr.index.serve.settings import ServeSettings as ServeSettings
    from lsr.index.sharding.remote import download_index as download_index
    from lsr.index.sharding.remote import upload_index as upload_index
    from lsr.index.warmup import compile_kernels as compile_kernels
    from lsr.index.write.builder import BuildOptions as BuildOptions
    from lsr.index.write.builder import BuildSettings as BuildSettings
    from lsr.index.write.update_batch import Change as Change

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
