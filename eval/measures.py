"""Measures of quality, with the names of ir-measures, which computes them. nDCG has trec_eval's linear gain.

Inputs that would crash, hang or mislead one of the programs behind ir-measures are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from heapq import nlargest
from typing import Any

from lsr.errors import DataError, MissingExtra
from lsr.io.runs import MAX_GRADE, Qrels, Run, as_float32, grade_problem

DEFAULT_MEASURES = "nDCG@10 RR@10 R@100"
# Separators between names: commas and spaces outside of parentheses.
_BETWEEN = re.compile(r"[\s,]+(?![^()]*\))")
_MOST_GDEVAL = 4  # the highest grade that gdeval.pl supports


def parse_measures(names: str) -> list[Any]:
    """Parse names of measures, separated by spaces or commas.

    Raises:
        DataError: A name is unknown, or no installed program can compute the measure; lists all of them.
        MissingExtra: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        raise MissingExtra("ir-measures", "eval", "measuring quality") from None
    parsed, bad = [], []
    for name in _BETWEEN.split(names.strip()):
        try:
            measure = ir_measures.parse_measure(name)
            if not _makes_sense(measure.params) or not ir_measures.DefaultPipeline.supports(measure):
                raise ValueError(name)
            parsed.append(measure)
        except (ValueError, NameError, SyntaxError, TypeError, AttributeError, KeyError, AssertionError):
            bad.append(name)
    if bad:
        names = ", ".join(map(repr, bad))
        raise DataError(f"unknown measures, or bad parameters: {names}; known ones look like nDCG@10 RR@10 AP(rel=2)")
    return parsed


def _makes_sense(params: Mapping[str, Any]) -> bool:
    """Whether a measure's parameters are valid; some invalid parameters make trec_eval end the process."""
    gains = params.get("gains", {})
    return (
        1 <= params.get("cutoff", 1) < 2**31
        and 1 <= params.get("rel", 1) <= MAX_GRADE
        and all(0 <= gain <= MAX_GRADE and gain == int(gain) for gain in gains.values())
    )


def cutoff_of(measure: Any) -> int | None:
    """Depth of a measure; None for all hits."""
    cutoff: int | None = measure.params.get("cutoff")
    return cutoff


def depth_of(measures: list[Any], default: int = 1000) -> int:
    """Largest depth of the measures; measures without a cutoff count as `default`."""
    cutoffs = [cutoff_of(measure) or default for measure in measures]
    return max(cutoffs, default=default)


def is_mean(measure: Any) -> bool:
    """Whether a measure is averaged over queries; counts are summed."""
    from ir_measures.measures.base import MeanAgg

    return isinstance(measure.aggregator(), MeanAgg)


def score_run(qrels: Qrels, run: Run, measures: list[Any]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Compute measures of a run.

    Args:
        qrels: Judgments; all judged queries count, even without results.
        run: The results; equal scores keep the order of the run.
        measures: From `parse_measures`.

    Returns:
        ({measure: mean, or sum for counts}, {measure: {query_id: value}}). A measure lacks the queries for which it is
        undefined. For example, Accuracy is undefined if nothing relevant was found.

    Raises:
        DataError: A measure can't be computed from these judgments or results.
    """
    import ir_measures

    _require_computable(qrels, measures)
    judged, ranked = {}, {}
    queries = list(qrels)
    # Numbers replace ids, because the scripts of some measures misread ids that aren't numbers.
    for number, query in enumerate(map(str, range(len(queries)))):
        names: dict[str, str] = {}
        grades, hits = qrels[queries[number]], run.get(queries[number], {})
        if not all(map(math.isfinite, hits.values())):
            raise DataError(f"query {queries[number]!r} has a score that is not a finite number", "the run")
        barren = max(grades.values(), default=0) < 0  # with negative grades only, trec_eval would write out of bounds
        judged[query] = {names.setdefault(d, str(len(names))): 0 if barren else grade for d, grade in grades.items()}
        # trec_eval orders equal scores by id; scores from ranks keep the order of the search.
        best_first = sorted(hits, key=hits.__getitem__, reverse=True)
        ranked[query] = {names.setdefault(d, str(len(names))): float(len(hits) - i) for i, d in enumerate(best_first)}
    per_query: dict[str, dict[str, float]] = {str(m): {} for m in measures}
    aggregators = {str(m): m.aggregator() for m in measures}
    # Only counts are computed for queries without results: some other measures divide by the number of hits.
    found = {query: hits for query, hits in ranked.items() if hits}
    means = [m for m in measures if is_mean(m)]
    # Accuracy is computed separately: together with other measures, undefined values would be 0.
    asked = [
        (ranked, [m for m in measures if not is_mean(m)]),
        (found, [m for m in means if m.NAME != "Accuracy"]),
        (found, [m for m in means if m.NAME == "Accuracy"]),
    ]
    try:
        for results, some in asked:
            for value in ir_measures.iter_calc(some, judged, results) if some else ():
                name = str(value.measure)
                per_query[name][queries[int(value.query_id)]] = float(value.value)
                aggregators[name].add(value.value)
    except Exception as error:  # the programs behind ir-measures raise many kinds of errors
        why = f"{type(error).__name__}: {error}"
        raise DataError(f"ir-measures can't compute {' '.join(per_query)}: {why}") from error
    if undefined := [name for name, values in per_query.items() if not values]:
        raise DataError(f"{' '.join(undefined)} is undefined for all queries")
    return {name: float(aggregator.result()) for name, aggregator in aggregators.items()}, per_query


def tied_queries(run: Run, depth: int) -> list[str]:
    """Return the queries with equal float32 scores among their first `depth` hits."""
    found = []
    for query, hits in run.items():
        top = nlargest(depth, hits.values())
        if len({float(as_float32(score)) for score in top}) < len(top):
            found.append(query)
    return found


def ordered_by_id(run: Run) -> Run:
    """Return the run in trec_eval's order: by float32 score, then by descending id."""
    read = {query: [(doc, float(as_float32(score))) for doc, score in hits.items()] for query, hits in run.items()}
    return {
        query: dict(sorted(hits, key=lambda hit: (hit[1], hit[0].encode()), reverse=True))
        for query, hits in read.items()
    }


def _require_computable(qrels: Qrels, measures: list[Any]) -> None:
    """Refuse grades that the programs behind the measures don't support."""
    gdeval = [str(m) for m in measures if m.NAME == "ERR" or m.params.get("dcg") == "exp-log2"]
    for query, grades in qrels.items():
        for doc, grade in grades.items():
            problem = grade_problem(grade)
            if not problem and gdeval and grade > _MOST_GDEVAL:
                problem = f"{' '.join(gdeval)} supports grades up to {_MOST_GDEVAL}, not {grade}"
            if problem:
                raise DataError(f"query {query!r}, document {doc!r}: {problem}", "the judgments")
