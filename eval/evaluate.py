"""Quality of a run, quality and latency of an index, on a judged dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from lsr._moved import names_of
from lsr.errors import DataError
from lsr.eval.datasets import Dataset
from lsr.eval.latency import Latency, encode_latency, search_latency, throughput
from lsr.eval.measures import depth_of, parse_measures, score_run
from lsr.index.index import Index
from lsr.index.search.query_file import QuerySet, read_queries
from lsr.index.search.settings import BatchOptions, Mode
from lsr.io.runs import Run, as_run
from lsr.io.text_files import new_text
from lsr.sparse import SparseMatrix

__getattr__ = names_of(__name__)


LATENCY_K = 10


@dataclass(frozen=True)
class Quality:
    """How good a run is.

    Attributes:
        measures: Means over all judged queries, sums of counts such as NumRet.
        per_query: Values by measure and query.
        n_queries: Judged queries.
        missing: Judged queries that the run doesn't have; they count as 0.
        dropped: Hits that were left out: the query's own document, and those that the judgments exclude.
        run: The results.
    """

    measures: dict[str, float]
    per_query: dict[str, dict[str, float]]
    n_queries: int
    missing: tuple[str, ...]
    dropped: int
    run: Run

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it, without values per query."""
        return {
            "queries": self.n_queries,
            **{name: round(value, 5) for name, value in self.measures.items()},
            "missing_queries": len(self.missing),
            **({"dropped_hits": self.dropped} if self.dropped else {}),
        }

    def rows(self) -> list[tuple[str, str]]:
        """As rows of a table."""
        return [(name, f"{value:.4f}") for name, value in self.measures.items()]

    def write_per_query(self, path: Path) -> None:
        """Write a line of JSON for each judged query: {"query_id": ..., "nDCG@10": ..., ...}; .gz is packed.

        A measure that is not defined for a query is null there.
        """
        with new_text(path) as file:
            for query in sorted(set().union(*self.per_query.values())):
                values = {name: by_query.get(query) for name, by_query in self.per_query.items()}
                file.write(json.dumps({"query_id": query, **values}, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Evaluation(Quality):
    """What `evaluate_index` found: how good the results are, and how fast.

    Attributes:
        search: Latency of searching, k = 10, one thread.
        encode: Latency of encoding a query; None if the queries were vectors.
        queries_per_second: Batch search on all cores, k = 10.
    """

    search: Latency
    encode: Latency | None
    queries_per_second: float

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it, without values per query."""
        return {
            **super().to_json(),
            "search_ms": self.search.to_json(),
            "encode_ms": self.encode.to_json() if self.encode else None,
            "queries_per_second": round(self.queries_per_second, 1),
        }

    def rows(self) -> list[tuple[str, str]]:
        """As rows of a table."""
        rows = super().rows()
        for label, latency in ((f"search k = {LATENCY_K}", self.search), ("encode", self.encode)):
            if latency:
                rows += [(f"{label}, {name}, ms", f"{value:.3f}") for name, value in latency.to_json().items()]
        return [*rows, ("queries/s, all cores", f"{self.queries_per_second:.0f}")]


def evaluate_run(run: Run, dataset: Dataset, measures: str) -> Quality:
    """Score a run, whatever engine made it.

    Every judged query counts, those without results as 0. What the dataset leaves out of results is left out first.
    `lsr.eval.checks.check_run` finds what is wrong with run and judgments, which this takes as they are.

    Args:
        run: The results; equal scores stay in the order of the run.
        dataset: Where the judgments come from.
        measures: Names, as "nDCG@10 RR@10".

    Raises:
        DataError: Unknown measures.
    """
    kept = dataset.kept(run)
    means, per_query = score_run(dataset.qrels, kept, parse_measures(measures))
    return Quality(
        measures=means,
        per_query=per_query,
        n_queries=len(dataset.qrels),
        missing=tuple(sorted(set(dataset.qrels) - set(run))),
        dropped=sum(len(hits) - len(kept[query]) for query, hits in run.items()),
        run=kept,
    )


def search_run(
    index: Index,
    dataset: Dataset,
    ids: Sequence[str],
    vectors: SparseMatrix,
    k: int,
    *,
    dense: NDArray[np.float32] | None = None,
    **settings: Unpack[BatchOptions],
) -> Run:
    """The k best documents of each query, and as many more as will be left out of them.

    Args:
        index: What to search.
        dataset: Tells which documents are left out.
        ids: Query ids.
        vectors: A row each.
        k: How many documents.
        dense: (n_queries, width) their dense vectors, for the modes that take them.
        settings: Of `Index.search_batch`.
    """
    found = index.search_batch(vectors, k + dataset.most_dropped, dense=dense, **settings)
    results = {}
    for query, hits in zip(ids, found, strict=True):
        dropped = sum(dataset.drops(query, hit.id) for hit in hits) if dataset.most_dropped else 0
        results[query] = [(hit.id, hit.score) for hit in hits[: k + dropped]]
    return as_run(results)


def evaluate_index(
    index: Index, dataset: Dataset, measures: str, queries: QuerySet | None = None, *, mode: Mode = "sparse"
) -> Evaluation:
    """Search all judged queries, score the results, time the searches.

    Args:
        index: What to search.
        dataset: Where queries and judgments come from.
        measures: Names, as "nDCG@10 RR@10".
        queries: Queries instead of the dataset's, encoded ones say.
        mode: As of `Index.search`; other than "sparse" it takes texts.

    Raises:
        DataError: Unknown measures, or no judged query among the queries; or an index without dense vectors that is to
            be searched by them.
    """
    depth = depth_of(parse_measures(measures))
    judged = (queries or read_queries(dataset.query_source, index)).only(dataset.qrels)
    if not judged.ids:
        raise DataError("none of the queries is judged; are these the right judgments?", dataset.name)
    vectors, how = judged.encoded(index), dict[str, Any]()
    if mode != "sparse":
        if judged.texts is None:
            raise DataError(f'mode "{mode}" takes texts of queries, not vectors', dataset.name)
        how = {"mode": mode, "dense": index.encoder.encode_dense(judged.texts, queries=True)}
    quality = evaluate_run(search_run(index, dataset, judged.ids, vectors, depth, **how), dataset, measures)
    return Evaluation(
        **vars(quality),
        search=search_latency(index, vectors, LATENCY_K, **how),
        encode=encode_latency(index, judged.texts, mode) if judged.texts is not None else None,
        queries_per_second=throughput(index, vectors, LATENCY_K, **how),
    )
