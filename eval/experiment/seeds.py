"""Systems with several seeds: each seed runs as a separate system, and the tables show means over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lsr.eval.experiment.settings import ExperimentSettings, SystemSettings
from lsr.eval.experiment.systems import Timed

Scores = dict[str, dict[str, float]]  # {measure: {query: value}}


def one_of_each_seed(settings: ExperimentSettings) -> tuple[ExperimentSettings, dict[str, list[str]]]:
    """Replace each system that has several seeds by one system per seed.

    Returns:
        The new settings, and {system: names of the systems that replace it, one per seed}.

    Raises:
        ValueError: A new name is already the name of another system.
    """
    systems: list[SystemSettings] = []
    members: dict[str, list[str]] = {}
    for system in settings.systems:
        fused = [members[name] for name in system.fuse]
        if system.seeded:
            made = [system.of_seed(seed) for seed in settings.seeds]
        elif any(len(names) > 1 for names in fused):
            made = []
            for i, seed in enumerate(settings.seeds):
                fuse = tuple(names[i] if len(names) > 1 else names[0] for names in fused)
                made.append(replace(system, name=f"{system.name}, seed {seed}", fuse=fuse))
        else:
            made = [replace(system, fuse=tuple(names[0] for names in fused))]
        members[system.name] = [one.name for one in made]
        systems += made
    return replace(settings, systems=tuple(systems), seeds=(), baseline=None), members


def mean_scores(seeds: Sequence[Scores]) -> Scores:
    """Return means over the seeds, for the queries for which every seed has a value."""
    found: Scores = {}
    for measure in seeds[0]:
        of_each = [one[measure] for one in seeds]
        shared = [query for query in of_each[0] if all(query in values for values in of_each)]
        found[measure] = {query: sum(values[query] for values in of_each) / len(seeds) for query in shared}
    return found


def mean_times(seeds: Sequence[Timed | None]) -> Timed | None:
    """Return means over the seeds for each query."""
    known = [one for one in seeds if one is not None]
    if not known or len(known) == 1:
        return known[0] if known else None
    times = np.mean([one.times for one in known], axis=0)
    joules = [one.joules for one in known if one.joules is not None]
    rates = [one.per_second for one in known if one.per_second is not None]
    means = (float(np.mean(values)) if values else None for values in (rates, joules))
    return Timed(known[0].queries, times, *means)


def mean_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average numbers over the seeds, also in nested sections; other values are those of the first seed."""
    if len(facts) == 1:
        return dict(facts[0])
    found: dict[str, Any] = {}
    for name, first in facts[0].items():
        values: list[Any] = [one.get(name) for one in facts]
        if isinstance(first, Mapping) and name != "lengths":
            found[name] = mean_facts([value or {} for value in values])
        elif len(numbers := [value for value in values if isinstance(value, int | float)]) == len(values):
            mean = float(np.mean(numbers))
            found[name] = round(mean) if isinstance(first, int) else mean
        else:
            found[name] = first
    return found
