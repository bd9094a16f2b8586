"""Hard negatives from runs, with positive-aware filters against false negatives (NV-Retriever, arXiv 2407.15831).

    TopK-MarginPos    a candidate is a negative if   score < score of the positive - margin
    TopK-PercPos      a candidate is a negative if   score < share * score of the positive

A candidate that scores about as high as the positive is probably relevant but unjudged. Scores come from a teacher, or
from the run that found the candidate. Runs may come from any engine: this module doesn't search.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsr.errors import DataError

_Scores = Mapping[str, float]


@dataclass(frozen=True)
class MiningSettings:
    """How negatives are chosen. Without margin and share, candidates aren't filtered.

    Attributes:
        count: Maximum number of negatives per query.
        skip: Candidates to skip at the top of each run.
        depth: Ranks of each run to use; None for all.
        margin: The margin of TopK-MarginPos; None to not use it.
        share: The share of TopK-PercPos, between 0 and 1; None to not use it. It requires positive scores.
        sample: Draw the negatives at random from all candidates that pass, instead of taking the best-ranked ones.
        seed: Seed of the draw. A query's draw doesn't depend on other queries.
    """

    count: int = 30
    skip: int = 0
    depth: int | None = None
    margin: float | None = None
    share: float | None = 0.95
    sample: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.skip < 0 or (self.depth is not None and self.depth <= self.skip):
            raise ValueError(
                f"count must be at least 1 and depth above skip, got {self.count}, {self.depth} and {self.skip}"
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")


@dataclass(frozen=True)
class Mined:
    """A query with its negatives.

    Attributes:
        query_id: The query's id.
        positives: Ids of the documents judged relevant.
        negatives: Ids of the negatives, best-ranked first.
        scores: (n_scorers, n_positives + n_negatives) float32, scores from the teacher, or else from each run; NaN if
            missing.
    """

    query_id: str
    positives: list[str]
    negatives: list[str]
    scores: NDArray[np.float32]


@dataclass
class MiningReport:
    """Counts of queries and candidates.

    Attributes:
        queries: Queries with negatives.
        negatives: Negatives of all queries.
        not_found: Judged queries that are in no run.
        no_positive: Queries without a document judged relevant.
        positive_unscored: Queries left out because no positive has a score.
        without_negatives: Queries left out because no candidate passed the filters.
        filtered: Candidates that scored too close to a positive.
        unscored: Candidates without a teacher's score.
    """

    queries: int = 0
    negatives: int = 0
    not_found: int = 0
    no_positive: int = 0
    positive_unscored: int = 0
    without_negatives: int = 0
    filtered: int = 0
    unscored: int = 0


def mine_negatives(
    runs: Sequence[Mapping[str, _Scores]],
    qrels: Mapping[str, Mapping[str, int]],
    settings: MiningSettings,
    report: MiningReport,
    teacher: Mapping[str, _Scores] | None = None,
    weights: Mapping[str, _Scores] | None = None,
) -> Iterator[Mined]:
    """Yield negatives for every judged query, in the order of the judgments; queries without negatives are left out.

    Candidates of several runs are merged by their best rank. A document judged above 0 never becomes a negative; a
    document judged 0 or below may become one, and isn't filtered. With several positives, the lowest score is the
    limit, so a negative is below all of them. Without a teacher, a candidate's scores are compared with the positive's
    score in the same run, and a candidate that is too close in any run is dropped.

    Args:
        runs: {query_id: {doc_id: score}}, one or more.
        qrels: {query_id: {doc_id: grade}}.
        settings: How negatives are chosen.
        report: Its counts are updated.
        teacher: {query_id: {doc_id: score}} of candidates and positives, used instead of the runs' scores.
        weights: {query_id: {doc_id: weight}}; with `sample`, negatives are drawn with probabilities proportional to
            these weights (see `lsr.train.pooling`). A candidate without a weight has the weight 1.

    Raises:
        DataError: TopK-PercPos is used, and a positive's score isn't above 0.
    """
    for query_id, judged in qrels.items():
        positives = [doc_id for doc_id, grade in judged.items() if grade > 0]
        found = [run.get(query_id, {}) for run in runs]
        if not positives:
            report.no_positive += 1
        elif not any(found):
            report.not_found += 1
        else:
            scorers = found if teacher is None else [teacher.get(query_id, {})]
            limits = [_limit(query_id, positives, scorer, settings) for scorer in scorers]
            filters = settings.margin is not None or settings.share is not None
            if filters and all(limit is None for limit in limits):
                report.positive_unscored += 1
                continue
            candidates = _merged(found, settings, set(positives))
            if filters:
                nonrelevant = judged.keys() - set(positives)
                candidates = [c for c in candidates if c in nonrelevant or _passes(c, scorers, limits, report)]
            chosen = _chosen(candidates, query_id, settings, (weights or {}).get(query_id, {}))
            if not chosen:
                report.without_negatives += 1
                continue
            report.queries += 1
            report.negatives += len(chosen)
            table = [[scorer.get(doc_id, np.nan) for doc_id in positives + chosen] for scorer in scorers]
            yield Mined(query_id, positives, chosen, np.array(table, np.float32))


def mined_line(mined: Mined, query: str) -> str:
    """A query with its text, as a line of a candidates file."""
    rows = [[None if math.isnan(s) else round(s, 6) for s in row] for row in mined.scores.tolist()]
    values = {
        "query_id": mined.query_id,
        "query": query,
        "positive_ids": mined.positives,
        "negative_ids": mined.negatives,
        "scores": rows[0] if len(rows) == 1 else rows,
    }
    return json.dumps(values, ensure_ascii=False) + "\n"


def _limit(query_id: str, positives: list[str], scores: _Scores, settings: MiningSettings) -> float | None:
    """Upper bound of a negative's score; None if no positive has a score."""
    known = [scores[doc_id] for doc_id in positives if doc_id in scores]
    if not known:
        return None
    lowest = min(known)
    limits = [lowest]
    if settings.margin is not None:
        limits.append(lowest - settings.margin)
    if settings.share is not None:
        if lowest <= 0:
            raise DataError(
                f"a positive of query {query_id!r} scores {lowest:g}, so a share of it is no limit; scores that can "
                "be negative need a margin instead"
            )
        limits.append(lowest * settings.share)
    return min(limits)


def _merged(found: Sequence[_Scores], settings: MiningSettings, without: set[str]) -> list[str]:
    """Candidates of all runs, ordered by their best rank; ties are in the order of the runs."""
    places: dict[str, tuple[int, int]] = {}
    for which, scores in enumerate(found):
        ranked = sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))
        for rank, doc_id in enumerate(ranked[settings.skip : settings.depth]):
            if doc_id not in without:
                places[doc_id] = min(places.get(doc_id, (rank, which)), (rank, which))
    return sorted(places, key=lambda doc_id: places[doc_id])


def _passes(doc_id: str, scorers: Sequence[_Scores], limits: Sequence[float | None], report: MiningReport) -> bool:
    compared = [
        scores[doc_id] < limit
        for scores, limit in zip(scorers, limits, strict=True)
        if limit is not None and doc_id in scores
    ]
    if not compared:
        report.unscored += 1
    elif not all(compared):
        report.filtered += 1
    return bool(compared) and all(compared)


def _chosen(candidates: list[str], query_id: str, settings: MiningSettings, weights: _Scores) -> list[str]:
    if not settings.sample or len(candidates) <= settings.count:
        return candidates[: settings.count]
    digest = int.from_bytes(hashlib.blake2b(query_id.encode(), digest_size=8).digest())
    rng = np.random.default_rng((settings.seed, digest))
    chances = np.array([weights.get(doc_id, 1.0) for doc_id in candidates]) if weights else None
    if chances is None:
        drawn = rng.choice(len(candidates), settings.count, replace=False)
    else:
        drawable = np.flatnonzero(chances > 0)
        n = min(settings.count, len(drawable))
        drawn = rng.choice(drawable, n, replace=False, p=chances[drawable] / chances.sum()) if n else drawable
    return [candidates[i] for i in np.sort(drawn)]
