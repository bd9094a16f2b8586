"""Choose the weights of a hybrid search on judged queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lsr.errors import DataError
from lsr.eval.datasets import Dataset
from lsr.eval.evaluate import evaluate_run
from lsr.index.hybrid.hybrid import Hybrid
from lsr.io.corpus import open_corpus

_STEPS = {2: 20, 3: 10}  # {number of parts: steps}; weights are multiples of 1 / steps; for more parts, of 1 / 4


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`.

    Attributes:
        hybrid: The hybrid with the best weights.
        value: The measure of this hybrid. Expect slightly less on other queries, because the weights were chosen on
            these queries.
        tried: (weights, measure) of all weights that were tried.
    """

    hybrid: Hybrid
    value: float
    tried: list[tuple[Mapping[str, float], float]]


def tune(hybrid: Hybrid, dataset: Dataset, measure: str = "nDCG@10") -> Tuned:
    """Choose the best weights on judged queries. Each part is searched once; then all weights are tried.

    Args:
        hybrid: The hybrid to tune; its method and depth don't change.
        dataset: Queries and judgments. Use a hundred queries or more, but not the queries on which you report results.
        measure: The ir-measures name.

    Raises:
        DataError: None of the queries is judged, or the measure is unknown.
    """
    queries = {q.id: q.content for q in open_corpus(dataset.query_source, queries=True) if q.id in dataset.qrels}
    if not queries:
        raise DataError("none of the queries is judged; are these the right judgments?", dataset.name)
    rankings = hybrid.rankings(queries)
    tried: list[tuple[Mapping[str, float], float]] = []
    for weights in _simplex(hybrid.parts):
        run = hybrid.with_weights(weights).fuse(rankings)
        (value,) = evaluate_run(run, dataset, measure).measures.values()
        tried.append((weights, value))
    best, value = max(tried, key=lambda one: one[1])
    return Tuned(hybrid.with_weights(best), value, tried)


def _simplex(parts: tuple[str, ...]) -> Iterator[dict[str, float]]:
    """Yield weights that add up to 1, in equal steps."""
    steps = _STEPS.get(len(parts), 4)

    def rest(n: int, left: int) -> Iterator[tuple[int, ...]]:
        if n == 1:
            yield (left,)
            return
        for first in range(left + 1):
            for others in rest(n - 1, left - first):
                yield (first, *others)

    for shares in rest(len(parts), steps):
        yield {name: share / steps for name, share in zip(parts, shares, strict=True)}
