"""Quality and latency of an index on a judged dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lsr.errors import DataError
from lsr.index.index import Index
from lsr.index.queries import QuerySet, read_queries
from lsr.runs import Run, as_run

from .datasets import Dataset
from .latency import Latency, encode_latency, search_latency, throughput
from .measures import depth_of, parse_measures, score_run

LATENCY_K = 10


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        measures: Means over all judged queries.
        per_query: Values by measure and query.
        search: Latency of searching, k = 10, one thread.
        encode: Latency of encoding a query; None if the queries were vectors.
        queries_per_second: Batch search on all cores, k = 10.
        n_queries: Judged queries.
        missing: Judged queries that the dataset has no text of; they count as 0.
        run: The results.
    """

    measures: dict[str, float]
    per_query: dict[str, dict[str, float]]
    search: Latency
    encode: Latency | None
    queries_per_second: float
    n_queries: int
    missing: tuple[str, ...]
    run: Run

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it, without values per query."""
        return {
            "queries": self.n_queries,
            **{name: round(value, 5) for name, value in self.measures.items()},
            "search_ms": self.search.to_json(),
            "encode_ms": self.encode.to_json() if self.encode else None,
            "queries_per_second": round(self.queries_per_second, 1),
            "missing_queries": len(self.missing),
        }


def evaluate(index: Index, dataset: Dataset, measures: str, queries: QuerySet | None = None) -> Evaluation:
    """Search all judged queries, score the results, time the searches.

    Args:
        index: What to search.
        dataset: Where queries and judgments come from.
        measures: Names, as "nDCG@10 RR@10".
        queries: Queries instead of the dataset's, encoded ones say.

    Raises:
        DataError: Unknown measures, or no judged query among the queries.
    """
    parsed = parse_measures(measures)
    judged = (queries or read_queries(dataset.source, index)).only(dataset.qrels)
    if not judged.ids:
        raise DataError("none of the queries is judged; are these the right judgments?", dataset.name)
    vectors = judged.encoded(index)
    found = index.search_batch(vectors, depth_of(parsed))
    run = as_run({q: [(hit.id, hit.score) for hit in hits] for q, hits in zip(judged.ids, found, strict=True)})
    means, per_query = score_run(dataset.qrels, run, parsed)
    return Evaluation(
        measures=means,
        per_query=per_query,
        search=search_latency(index, vectors, LATENCY_K),
        encode=encode_latency(index, judged.texts) if judged.texts is not None else None,
        queries_per_second=throughput(index, vectors, LATENCY_K),
        n_queries=len(dataset.qrels),
        missing=tuple(sorted(set(dataset.qrels) - set(judged.ids))),
        run=run,
    )
