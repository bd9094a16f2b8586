"""Compare the values and the rankings of an experiment's systems on a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from lsr.eval.experiment.seeds import Scores
from lsr.eval.experiment.settings import ExperimentSettings
from lsr.eval.overlap import kendall_tau, rank_biased_overlap
from lsr.eval.significance import Comparison, compare, compare_seeds, holm
from lsr.io.runs import Run

_ALIKE_DEPTH = 100  # ranks that are compared


def with_baseline(
    settings: ExperimentSettings, name: str, per_query: Mapping[str, Sequence[Scores]]
) -> list[dict[str, Any]]:
    """Compare every system with the baseline; p-values are corrected for the number of systems."""
    baseline = settings.baseline or settings.systems[0].name
    others = [system.name for system in settings.systems if system.name != baseline]
    rows = []
    for measure in per_query[baseline][0]:
        found = {}
        for other in others:
            mine, base = ([values[measure] for values in per_query[one]] for one in (other, baseline))
            compared = _compare(mine, base, settings)
            if compared is not None:
                found[other] = compared
        for (other, comparison), corrected in zip(found.items(), holm([c.p for c in found.values()]), strict=True):
            about = {"dataset": name, "system": other, "baseline": baseline, "measure": measure}
            rows.append({**about, **asdict(comparison), "p_corrected": corrected})
    return rows


def _compare(
    values: list[dict[str, float]], baseline: list[dict[str, float]], settings: ExperimentSettings
) -> Comparison | None:
    """Compare two systems on the queries for which all their seeds have a value; None if there are no such queries."""
    both = shared(*values, *baseline)
    if not both[0]:
        return None
    mine, base = both[: len(values)], both[len(values) :]
    if len(both) > 2:
        return compare_seeds(mine, base)
    return compare(mine[0], base[0], test=settings.test)


def shared(*values: Mapping[str, float]) -> list[dict[str, float]]:
    """Return the values for the queries that all mappings have."""
    both = [query for query in values[0] if all(query in others for others in values)]
    return [{query: one[query] for query in both} for one in values]


def of_pairs(
    settings: ExperimentSettings, per_query: Mapping[str, Mapping[str, Sequence[Scores]]], measure: str
) -> list[dict[str, Any]]:
    """Compare every pair of systems by one measure; p-values are corrected for the number of pairs and datasets.

    Args:
        settings: The systems.
        per_query: {dataset: {system: the scores of each seed}}.
        measure: Name of the measure.
    """
    names = [system.name for system in settings.systems]
    rows: list[dict[str, Any]] = []
    for dataset, systems in per_query.items():
        for other, mine in combinations(names, 2):
            values, base = ([scores[measure] for scores in systems[one]] for one in (mine, other))
            compared = _compare(values, base, settings)
            if compared is not None:
                about = {"dataset": dataset, "system": mine, "baseline": other, "measure": measure}
                rows.append({**about, **asdict(compared)})
    corrected = holm([row["p"] for row in rows])
    return [{**row, "p_corrected": p} for row, p in zip(rows, corrected, strict=True)]


def alike(dataset: str, runs: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """Similarity of the rankings of each pair of systems: means over queries and seeds.

    Args:
        dataset: Name of the dataset.
        runs: {system: the run of each seed}.

    Returns:
        {"dataset", "system", "other", "rbo", "tau"} for each pair; tau is None if it is undefined for all queries.
    """
    ranked = {name: [_ranked(run) for run in seeds] for name, seeds in runs.items()}
    rows = []
    for other, mine in combinations(ranked, 2):
        n = max(len(ranked[other]), len(ranked[mine]))
        pairs = [(ranked[mine][i % len(ranked[mine])], ranked[other][i % len(ranked[other])]) for i in range(n)]
        lists = [(a.get(query, []), b.get(query, [])) for a, b in pairs for query in a.keys() | b.keys()]
        taus = [tau for pair in lists if (tau := kendall_tau(*pair)) is not None]
        rows.append(
            {
                "dataset": dataset,
                "system": mine,
                "other": other,
                "rbo": _mean(rank_biased_overlap(*pair) for pair in lists),
                "tau": _mean(taus) if taus else None,
            }
        )
    return rows


def _ranked(run: Run) -> dict[str, list[str]]:
    return {query: list(hits)[:_ALIKE_DEPTH] for query, hits in run.items()}


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(sorted(values)))  # a set of queries has no fixed order, and rounding depends on the order
