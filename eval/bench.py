"""Measure search settings on one index: latency, recall, and the Pareto frontier of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from lsr._moved import names_of
from lsr.errors import DataError
from lsr.eval.latency import ROUNDS, Latency, throughput, time_together
from lsr.index.index import Index
from lsr.index.search.settings import SearchSettings
from lsr.sparse import SparseMatrix

__getattr__ = names_of(__name__)

# The default grid has exact search and these approximate settings, from fast to thorough.
ALPHAS = (0.6, 0.7, 0.8, 0.9)
CUTS, HEAP_FACTORS = (3, 5, 8, 12), (1.0, 0.9, 0.8)


@dataclass(frozen=True)
class Benched:
    """Measurements of a setting.

    Attributes:
        k: Number of documents.
        settings: The values of `SearchSettings` that aren't defaults.
        recall: Recall against exact search, see `Index.recall`.
        latency: Latency of one query at a time on one thread, ms.
        per_second: {threads: queries per second of batch search}.
        on_frontier: Whether the setting is Pareto-optimal. It isn't if another setting with this k has at least its
            recall and at most its median latency, and is better in one of the two.
    """

    k: int
    settings: dict[str, Any]
    recall: float
    latency: Latency
    per_second: dict[int, float]
    on_frontier: bool

    @property
    def label(self) -> str:
        """The settings as text."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items()) or "exact"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "k": self.k,
            **self.settings,
            "recall": round(self.recall, 4),
            "search_ms": self.latency.to_json(),
            "queries_per_second": {str(threads): round(value, 1) for threads, value in self.per_second.items()},
            "frontier": self.on_frontier,
        }


def settings_grid(given: Mapping[str, Sequence[Any]], *, clusters: bool) -> list[dict[str, Any]]:
    """Return the settings to try: exact search and all combinations of the given values, or of default values.

    Args:
        given: Values of alpha, beta, cut and heap_factor to combine; empty for the default grid.
        clusters: Whether the index has clusters.

    Raises:
        ValueError: A value is out of range (the message lists all such values), or the index lacks the clusters that
            cut and heap_factor need.
    """
    chosen = {name: tuple(values) for name, values in given.items() if values}
    of_clusters: dict[str, Sequence[Any]] = {name: chosen[name] for name in ("cut", "heap_factor") if name in chosen}
    if of_clusters and not clusters:
        raise ValueError("cut and heap_factor need clusters, which this index lacks: build it with --clusters")
    of_blocks: dict[str, Sequence[Any]] = {name: chosen[name] for name in ("alpha", "beta") if name in chosen}
    if not chosen:
        of_blocks = {"alpha": ALPHAS}
        of_clusters = {"cut": CUTS, "heap_factor": HEAP_FACTORS} if clusters else {}
    grid: list[dict[str, Any]] = [{}]
    grid += ({"algorithm": "blocks"} | one for one in _combined(of_blocks))
    grid += ({"algorithm": "clusters"} | one for one in _combined(of_clusters))
    wrong = []
    for one in grid:
        try:
            SearchSettings(**one)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(dict.fromkeys(wrong)))
    defaults = asdict(SearchSettings())
    return [{name: value for name, value in one.items() if value != defaults[name]} for one in grid]


def _combined(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, some, strict=True)) for some in product(*values.values())] if values else []


def bench_index(
    index: Index,
    queries: SparseMatrix,
    ks: Sequence[int],
    grid: Sequence[Mapping[str, Any]],
    *,
    rounds: int = ROUNDS,
    threads: Sequence[int] = (0,),
) -> list[Benched]:
    """Measure settings. While settings with the same k are timed, they take turns.

    Args:
        index: The index.
        queries: One row for each query.
        ks: Numbers of documents to search for.
        grid: Settings, from `settings_grid`.
        rounds: Timed rounds; a query's latency is the median over the rounds.
        threads: Numbers of threads of batch search to measure; 0 for all cores.

    Raises:
        DataError: There are no queries.
    """
    if not len(queries):
        raise DataError("there are no queries")
    rows = [queries[i] for i in range(len(queries))]
    found = []
    for k in ks:
        calls = [lambda i, k=k, how=how: index.search(rows[i], k, **how) for how in grid]
        times = [Latency.of(one.tolist()) for one in time_together(calls, len(rows), rounds)]
        recalls = [1.0 if SearchSettings(**how).exact else index.recall(queries, k, **how) for how in grid]
        for at, how in enumerate(grid):
            mine = times[at].p50, -recalls[at]
            beaten = any(
                times[i].p50 <= mine[0] and -recalls[i] <= mine[1] and (times[i].p50, -recalls[i]) != mine
                for i in range(len(grid))
            )
            per_second = {n: throughput(index, queries, k, n, **how).per_second for n in threads}
            found.append(Benched(k, dict(how), recalls[at], times[at], per_second, not beaten))
    return found


def recommended(found: Sequence[Benched], k: int, recall: float) -> Benched:
    """Return the fastest setting that reaches a recall; exact search always reaches it."""
    return min((one for one in found if one.k == k and one.recall >= recall), key=lambda one: one.latency.p50)
