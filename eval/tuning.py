"""The weights of a hybrid search, chosen on judged queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lsr.errors import DataError
from lsr.eval.datasets import Dataset
from lsr.eval.evaluate import evaluate_run
from lsr.index.hybrid.hybrid import Hybrid
from lsr.io.corpus import open_corpus

_STEPS = {2: 20, 3: 10}  # weights are multiples of one over this many; of more parts a quarter


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes:
        hybrid: With the best weights.
        value: Its measure on these queries; on others it will be a little lower, since it was chosen by these.
        tried: The measure of all weights that were tried.
    """

    hybrid: Hybrid
    value: float
    tried: list[tuple[Mapping[str, float], float]]


def tune(hybrid: Hybrid, dataset: Dataset, measure: str = "nDCG@10") -> Tuned:
    """Choose the weights that are best on judged queries: each part is searched once, then all weights are tried.

    Args:
        hybrid: What is tuned; its method and depth stay.
        dataset: Queries and judgments; a hundred or more, and others than those that are reported later.
        measure: As ir-measures names it.

    Raises:
        DataError: No judged query, or an unknown measure.
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
    """Weights that add up to 1, in equal steps."""
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
