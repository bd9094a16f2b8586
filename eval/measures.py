"""Effectiveness through ir-measures: names as everybody writes them, nDCG with trec_eval's linear gain."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from lsr.errors import DataError, MissingExtra
from lsr.runs import Qrels, Run

DEFAULT_MEASURES = "nDCG@10 RR@10 R@100"


def parse_measures(names: str) -> list[Any]:
    """ir-measures objects of names separated by spaces or commas.

    Raises:
        DataError: Unknown names, or ones that nothing installed can compute; all of them are listed.
        MissingExtra: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        raise MissingExtra("ir-measures", "eval", "measuring quality") from None
    parsed, bad = [], []
    for name in re.split(r"[\s,]+", names.strip()):
        try:
            measure = ir_measures.parse_measure(name)
            # trec_eval ends the whole process at a cutoff that makes no sense.
            if not 1 <= measure.params.get("cutoff", 1) < 2**31 or not ir_measures.DefaultPipeline.supports(measure):
                raise ValueError(name)
            parsed.append(measure)
        except (ValueError, NameError, SyntaxError, TypeError, AttributeError, KeyError, AssertionError):
            bad.append(name)
    if bad:
        raise DataError(f"unknown measures: {', '.join(map(repr, bad))}; known ones look like nDCG@10 RR@10 R@100 AP")
    return parsed


def cutoff_of(measure: Any) -> int | None:
    """How many hits a measure looks at; None for all."""
    cutoff: int | None = measure.params.get("cutoff")
    return cutoff


def depth_of(measures: list[Any], default: int = 1000) -> int:
    """How many hits the measures look at; `default` for those without a cutoff."""
    cutoffs = [cutoff_of(measure) or default for measure in measures]
    return max(cutoffs, default=default)


def score_run(qrels: Qrels, run: Run, measures: list[Any]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Means and values per query.

    Args:
        qrels: Every query of it counts; one without results counts as 0.
        run: The results.
        measures: As `parse_measures` gives them.

    Returns:
        ({measure: mean}, {measure: {query_id: value}}).

    Raises:
        DataError: A measure can't be computed from these judgments.
    """
    import ir_measures

    # Equal scores are ordered by id in trec_eval; ranks as scores keep the order that the search gave.
    ranked = {
        query: {
            doc: float(len(hits) - rank) for rank, doc in enumerate(sorted(hits, key=hits.__getitem__, reverse=True))
        }
        for query, hits in run.items()
    }
    per_query: dict[str, dict[str, float]] = {str(m): dict.fromkeys(qrels, 0.0) for m in measures}
    try:
        for value in ir_measures.iter_calc(measures, qrels, ranked):
            per_query[str(value.measure)][value.query_id] = float(value.value)
    except (ValueError, subprocess.SubprocessError) as error:  # some measures are scripts that want ids of their own
        raise DataError(f"ir-measures can't compute {' '.join(per_query)}: {error}") from None
    means = {name: sum(values.values()) / len(values) for name, values in per_query.items()}
    return means, per_query
