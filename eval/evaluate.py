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
    """Quality of a run.

    Attributes:
        measures: Means over all judged queries; for counts such as NumRet, sums.
        per_query: Values by measure and query.
        n_queries: Number of judged queries.
        missing: Judged queries that the run lacks; they count as 0.
        dropped: Number of hits left out: the query's own document, and documents that the judgments exclude.
        run: The results.
    """

    measures: dict[str, float]
    per_query: dict[str, dict[str, float]]
    n_queries: int
    missing: tuple[str, ...]
    dropped: int
    run: Run

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, without values by query."""
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
        """Write a JSON line for each judged query: {"query_id": ..., "nDCG@10": ..., ...}; .gz is compressed.

        A measure that isn't defined for a query is null.
        """
        with new_text(path) as file:
            for query in sorted(set().union(*self.per_query.values())):
                values = {name: by_query.get(query) for name, by_query in self.per_query.items()}
                file.write(json.dumps({"query_id": query, **values}, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Evaluation(Quality):
    """Quality and speed of an index.

    Attributes:
        search: Latency of a search, k = 10, one thread.
        encode: Latency of encoding a query; None if the queries were vectors.
        queries_per_second: Throughput of batch search on all cores, k = 10.
    """

    search: Latency
    encode: Latency | None
    queries_per_second: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, without values by query."""
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
    """Measure a run of any engine.

    Every judged query counts; queries without results count as 0. Hits that the dataset excludes are left out first.
    Run and judgments aren't checked; `lsr.eval.checks.check_run` checks them.

    Args:
        run: The results; equal scores keep the order of the run.
        dataset: The dataset with the judgments.
        measures: Names, such as "nDCG@10 RR@10".

    Raises:
        DataError: A measure is unknown.
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
    """Search for the k best documents of each query, and for further documents to replace those that are left out.

    Args:
        index: The index.
        dataset: Says which documents are left out.
        ids: Query ids.
        vectors: One row for each query.
        k: Number of documents.
        dense: (n_queries, width) dense vectors, for modes that need them.
        settings: Settings of `Index.search_batch`.
    """
    found = index.search_batch(vectors, k + dataset.most_dropped, dense=dense, **settings)
    results = {}
    for query, hits in zip(ids, found, strict=True):
        ids = hits.ids
        dropped = sum(dataset.drops(query, doc_id) for doc_id in ids) if dataset.most_dropped else 0
        results[query] = list(zip(ids, hits.scores.tolist(), strict=True))[: k + dropped]
    return as_run(results)


def evaluate_index(
    index: Index, dataset: Dataset, measures: str, queries: QuerySet | None = None, *, mode: Mode = "auto"
) -> Evaluation:
    """Search all judged queries, measure the results, and time the searches.

    Args:
        index: The index.
        dataset: Queries and judgments.
        measures: Names, such as "nDCG@10 RR@10".
        queries: Queries that replace the dataset's queries, such as encoded queries.
        mode: As for `Index.search`; "hybrid" and "dense" need texts.

    Raises:
        DataError: A measure is unknown, none of the queries is judged, or the mode needs dense vectors that the index
            or the queries lack.
    """
    depth = depth_of(parse_measures(measures))
    judged = (queries or read_queries(dataset.query_source, index)).only(dataset.qrels)
    if not judged.ids:
        raise DataError("none of the queries is judged; are these the right judgments?", dataset.name)
    vectors, how, unknown = judged.encoded(index), dict[str, Any](), list[str]()
    if mode == "auto":
        mode = "hybrid" if index.has_dense and judged.texts is not None else "sparse"
        known = vectors.lengths() > 0
        if mode == "hybrid" and known.any():  # as in a search, texts without a known word find nothing
            unknown = [judged.ids[i] for i in np.flatnonzero(~known)]
            judged, vectors = judged.only(set(judged.ids) - set(unknown)), vectors[np.flatnonzero(known)]
        elif mode == "hybrid":
            mode = "sparse"
    if mode != "sparse":
        if judged.texts is None:
            raise DataError(f'mode "{mode}" needs texts of queries, not vectors', dataset.name)
        how = {"mode": mode, "dense": index.encoder.encode_dense(judged.texts, queries=True)}
    run = search_run(index, dataset, judged.ids, vectors, depth, **how) | {query: {} for query in unknown}
    quality = evaluate_run(run, dataset, measures)
    return Evaluation(
        **vars(quality),
        search=search_latency(index, vectors, LATENCY_K, **how),
        encode=encode_latency(index, judged.texts, mode) if judged.texts is not None else None,
        queries_per_second=throughput(index, vectors, LATENCY_K, **how).per_second,
    )
