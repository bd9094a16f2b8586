"""Effectiveness through ir-measures: names as everybody writes them, nDCG with trec_eval's linear gain."""

from __future__ import annotations

import re
from typing import Any

from lsr.errors import DataError, MissingExtra
from lsr.runs import Qrels, Run

DEFAULT_MEASURES = "nDCG@10 RR@10 R@100"


def parse_measures(names: str) -> list[Any]:
    """ir-measures objects of names separated by spaces or commas.

    Raises:
        DataError: Unknown names; all of them are listed.
        MissingExtra: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        raise MissingExtra("ir-measures", "eval", "measuring quality") from None
    parsed, bad = [], []
    for name in re.split(r"[\s,]+", names.strip()):
        try:
            parsed.append(ir_measures.parse_measure(name))
        except (ValueError, NameError, SyntaxError, TypeError, AttributeError, KeyError):
            bad.append(name)
    if bad:
        raise DataError(
            f"unknown measures: {', '.join(map(repr, bad))}; known ones look like nDCG@10 RR@10 R@100 AP"
        )
    return parsed


def depth_of(measures: list[Any], default: int = 1000) -> int:
    """How many hits the measures look at; `default` for those without a cutoff."""
    cutoffs = [measure.params.get("cutoff", default) for measure in measures]
    return max(cutoffs, default=default)


def score_run(
    qrels: Qrels, run: Run, measures: list[Any]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Means and values per query.

    Args:
        qrels: Every query of it counts; one without results counts as 0.
        run: The results.
        measures: As `parse_measures` gives them.

    Returns:
        ({measure: mean}, {measure: {query_id: value}}).
    """
    import ir_measures

    # Equal scores are ordered by id in trec_eval; ranks as scores keep the order that the search gave.
    ranked = {
        query: {
            doc: float(-rank) for rank, doc in enumerate(sorted(hits, key=hits.__getitem__, reverse=True))
        }
        for query, hits in run.items()
    }
    per_query: dict[str, dict[str, float]] = {str(m): dict.fromkeys(qrels, 0.0) for m in measures}
    for value in ir_measures.iter_calc(measures, qrels, ranked):
        per_query[str(value.measure)][value.query_id] = float(value.value)
    means = {name: sum(values.values()) / len(values) for name, values in per_query.items()}
    return means, per_query
