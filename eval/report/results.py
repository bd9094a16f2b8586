"""An experiment's results; `tables` and `figures` compute the content of a report from them.

experiment.json      conditions, datasets, systems, means, comparisons, published values
per-query.parquet    dataset, system, query, measure, value
latencies.parquet    dataset, system, query, search_ms; may be absent
queries.parquet      dataset, query, text; may be absent
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lsr.eval.latency import Latency
from lsr.eval.published_scores import Reference
from lsr.eval.significance import Comparison


@dataclass(frozen=True)
class Lengths:
    """A histogram of documents' lengths: `counts[i]` documents have `edges[i]` to `edges[i + 1]` terms."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class DatasetFacts:
    """A judged collection."""

    name: str
    split: str
    documents: int
    queries: int
    judgments: int
    notes: tuple[str, ...]
    checksums: dict[str, str] | None = None


@dataclass(frozen=True)
class SystemFacts:
    """A system; `exact_name` is the exact counterpart of an approximate system."""

    name: str
    kind: str
    encoder: str | None
    settings: dict[str, Any]
    exact: bool
    exact_name: str | None


@dataclass(frozen=True)
class Ties:
    """Equal scores: the share of queries that have them among their first k + 1 hits, and the measures with equal
    scores ordered by id, as in trec_eval.
    """

    queries: float
    by_id: dict[str, float]


@dataclass(frozen=True)
class Result:
    """The result of a system on a dataset. Sizes are in bytes; times are in seconds, or in ms if the name says so.

    With several seeds, values are means over the seeds, and `seeds` has each measure's value for every seed.
    """

    dataset: str
    system: str
    measures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    search_ms: Latency | None
    encode_ms: Latency | None
    queries_per_second: float | None
    recall: float | None
    index_bytes: int | None
    index_parts: dict[str, int] | None
    build_seconds: float | None
    encode_seconds: float | None
    peak_bytes: int | None
    document_terms: float | None
    query_terms: float | None
    flops: float | None
    lengths: Lengths | None
    ties: Ties | None = None
    seeds: dict[str, tuple[float, ...]] | None = None
    checksums: dict[str, str] | None = None
    recall_at: dict[str, float] | None = None
    encode_joules: float | None = None
    build_joules: float | None = None
    query_joules: float | None = None


@dataclass(frozen=True)
class Tested(Comparison):
    """A system compared with a baseline; `p_corrected` is corrected for the number of systems."""

    dataset: str
    system: str
    baseline: str
    measure: str
    p_corrected: float


@dataclass(frozen=True)
class Alike:
    """Similarity of the rankings of two systems: rank-biased overlap and Kendall's tau, means over queries."""

    dataset: str
    system: str
    other: str
    rbo: float
    tau: float | None


@dataclass(frozen=True)
class Experiment:
    """All of experiment.json."""

    format: int
    title: str
    lsr: str
    date: str
    machine: str
    threads: int
    versions: dict[str, str]
    measures: tuple[str, ...]
    baseline: str
    k: int
    test: str
    correction: str
    datasets: tuple[DatasetFacts, ...]
    systems: tuple[SystemFacts, ...]
    results: tuple[Result, ...]
    comparisons: tuple[Tested, ...]
    references: tuple[Reference, ...]
    notes: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    command: str = ""
    pairs: tuple[Tested, ...] = ()
    alike: tuple[Alike, ...] = ()


@dataclass(frozen=True)
class Results:
    """An experiment with its values per query.

    Attributes:
        experiment: Content of experiment.json.
        per_query: Columns dataset, system, query, measure, value.
        latencies: Columns dataset, system, query, search_ms; None if there is no such file.
        texts: Texts of queries, by dataset and id; may be empty.
    """

    experiment: Experiment
    per_query: pa.Table
    latencies: pa.Table | None
    texts: dict[tuple[str, str], str] = field(default_factory=dict)

    @cached_property
    def systems(self) -> list[str]:
        """Names of all systems."""
        return [system.name for system in self.experiment.systems]

    @cached_property
    def datasets(self) -> list[str]:
        """Names of all datasets."""
        return [dataset.name for dataset in self.experiment.datasets]

    @cached_property
    def _results(self) -> dict[tuple[str, str], Result]:
        return {(result.dataset, result.system): result for result in self.experiment.results}

    @cached_property
    def _comparisons(self) -> dict[tuple[str, str, str], Tested]:
        against = (c for c in self.experiment.comparisons if c.baseline == self.experiment.baseline)
        return {(c.dataset, c.system, c.measure): c for c in against}

    def result(self, dataset: str, system: str) -> Result | None:
        """The result of a system on a dataset; None if there is none."""
        return self._results.get((dataset, system))

    def of_system(self, system: str) -> list[Result]:
        """Results of a system, in the order of the datasets."""
        return [found for dataset in self.datasets if (found := self.result(dataset, system))]

    def beside_exact(self, system: SystemFacts) -> list[tuple[Result, Result]]:
        """Results of an approximate system with known recall, each paired with the result of its exact counterpart."""
        if system.exact_name is None:
            return []
        pairs = [(found, self.result(found.dataset, system.exact_name)) for found in self.of_system(system.name)]
        return [(found, exact) for found, exact in pairs if exact and found.recall is not None]

    def comparison(self, dataset: str, system: str, measure: str) -> Tested | None:
        """The test of a system against the experiment's baseline; None if there is none."""
        return self._comparisons.get((dataset, system, measure))

    def mean(self, system: str, measure: str) -> float | None:
        """Mean over all datasets; None if the system lacks a dataset, because its mean would not be comparable."""
        return self._over_datasets(system, [r.measures.get(measure) for r in self.of_system(system)])

    def spread(self, system: str, measure: str, dataset: str | None = None) -> float | None:
        """Standard deviation over the seeds: of a dataset's value, or of the mean over all datasets. None without
        seeds.
        """
        some = [self.result(dataset, system)] if dataset else [self.result(name, system) for name in self.datasets]
        values = [found.seeds[measure] for found in some if found and found.seeds and measure in found.seeds]
        if not values or len(values) < len(some):
            return None
        return float(np.std(np.mean(values, axis=0), ddof=1))

    def mean_p50(self, system: str) -> float | None:
        """Mean over all datasets of the median search time, milliseconds; None if it is missing for a dataset."""
        return self._over_datasets(system, [r.search_ms.p50 if r.search_ms else None for r in self.of_system(system)])

    def mean_bytes(self, system: str) -> float | None:
        """Mean over all datasets of the index's size, bytes; None if it is missing for a dataset."""
        return self._over_datasets(system, [r.index_bytes for r in self.of_system(system)])

    def recall_at(self, system: str) -> dict[int, float]:
        """Means over all datasets of the recall at the depths that all runs have."""
        found = [r.recall_at or {} for r in self.of_system(system)]
        if len(found) < len(self.datasets):
            return {}
        shared = [k for k in found[0] if all(k in one for one in found)]
        return {int(k): sum(one[k] for one in found) / len(found) for k in shared}

    def _over_datasets(self, system: str, values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(self.datasets) else None

    @cached_property
    def best_other(self) -> str | None:
        """The system with the best mean of the first measure, except the baseline; if several are equal, the first."""
        measure = self.experiment.measures[0]
        others = [s for s in self.systems if s != self.experiment.baseline]
        means = {s: m for s in others if (m := self.mean(s, measure)) is not None}
        return max(means, key=means.__getitem__) if means else None

    def query_values(self, system: str, measure: str) -> dict[tuple[str, str], float]:
        """Values of a measure by (dataset, query)."""
        table = self.per_query
        rows = table.filter(pc.and_(pc.equal(table["system"], system), pc.equal(table["measure"], measure)))
        keys = zip(rows["dataset"].to_pylist(), rows["query"].to_pylist(), strict=True)
        return dict(zip(keys, rows["value"].to_pylist(), strict=True))

    def times(self, system: str) -> npt.NDArray[np.float64]:
        """Search times of all queries of all datasets in milliseconds; may be empty."""
        if self.latencies is None:
            return np.empty(0)
        found = self.latencies.filter(pc.equal(self.latencies["system"], system))["search_ms"]
        times: npt.NDArray[np.float64] = found.to_numpy()
        return times
