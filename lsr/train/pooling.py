"""Weights that correct pooling bias: unjudged documents that are probably relevant become weaker negatives.

Judgments exist only for documents that some earlier system found. Let R mean "the document is relevant" and S "the
document was judged"; a positive judgment means both. Two models predict R and S. (This is our own derivation after
arXiv 2209.05072, whose method isn't public; such pairs of models are known from learning with positive and unlabelled
examples.)

    r = P(R) = sigmoid of a teacher's score, given as z-score among the query's candidates
    s = P(S) = sigmoid of the logarithms of the candidate's ranks in the runs
    of an unjudged document   P(R) = r (1 - s) / (1 - r s)        P(S) = s (1 - r) / (1 - r s)
    weight of a negative      1 - P(R)
    weight of a positive      1; or 1 / s, at most 10, divided by its mean over all positives

The models are fitted alternately, each to the other's estimates (EM). A document judged 0 or below counts as judged and
not relevant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsr.errors import DataError

_ROUNDS, _STEPS = 50, 4
_RIDGE = 1.0  # weight of the squared penalty
_MOST = 10.0  # largest weight of a positive, before it is divided by the mean
_Scores = Mapping[str, float]


@dataclass(frozen=True)
class PoolingWeights:
    """The estimates of `pooling_weights`, for each query and candidate.

    Attributes:
        weights: {query: {document: weight}}.
        relevant: {query: {document: probability of relevance}} for documents without a judgment.
    """

    weights: dict[str, dict[str, float]]
    relevant: dict[str, dict[str, float]]


def pooling_weights(
    runs: Sequence[Mapping[str, _Scores]],
    qrels: Mapping[str, Mapping[str, int]],
    teacher: Mapping[str, _Scores],
    *,
    depth: int = 100,
    positives: bool = False,
) -> PoolingWeights:
    """Estimate weights for the candidates of judged queries.

    Args:
        runs: {query: {document: score}}, rankings like those whose documents were judged.
        qrels: {query: {document: grade}}.
        teacher: {query: {document: score}}, scores of relevance. They must not come from one of the runs, or the two
            models can't be told apart.
        depth: Candidates are the documents down to this rank of each run and of the teacher.
        positives: Also weight the positives; those that were less likely to be judged get higher weights. In
            measurements, this gave worse results (`benchmarks/negatives.py`).

    Raises:
        DataError: No candidate is judged relevant, or all candidates are judged.
    """
    names: list[tuple[str, str]] = []
    quality, found, labels = [], [], []
    for query, judged in qrels.items():
        ranks = [_ranks(run.get(query, {})) for run in runs]
        scores = teacher.get(query, {})
        best = [doc for one in (*ranks, _ranks(scores)) for doc, rank in one.items() if rank < depth]
        docs = [doc for doc in dict.fromkeys((*best, *judged)) if doc in scores]
        if not docs:
            continue
        values = np.array([scores[doc] for doc in docs])
        quality.append(np.column_stack([(values - values.mean()) / (values.std() or 1.0), np.ones(len(docs))]))
        places = [[np.log1p(min(one.get(doc, depth), depth)) for one in ranks] for doc in docs]
        found.append(np.column_stack([np.array(places).reshape(len(docs), -1), np.ones(len(docs))]))
        labels += [np.nan if doc not in judged else float(judged[doc] > 0) for doc in docs]
        names += [(query, doc) for doc in docs]
    label = np.array(labels)
    if not (label == 1).any() or not np.isnan(label).any():
        raise DataError("weights can't be estimated: no candidate is judged relevant, or all candidates are judged")
    relevant, selected = _fit(np.concatenate(quality), np.concatenate(found), label)
    doubt = relevant * (1 - selected) / np.maximum(1 - relevant * selected, 1e-9)
    weight = np.where(np.isnan(label), 1 - doubt, 1.0)
    if positives:
        rare = np.minimum(1 / np.maximum(selected[label == 1], 1e-9), _MOST)
        weight[label == 1] = rare / rare.mean()
    result = PoolingWeights({}, {})
    for (query, doc), w, p, known in zip(names, weight.tolist(), doubt.tolist(), labels, strict=True):
        result.weights.setdefault(query, {})[doc] = round(w, 6)
        if np.isnan(known):
            result.relevant.setdefault(query, {})[doc] = p
    return result


def _ranks(scores: _Scores) -> dict[str, int]:
    return {doc: rank for rank, doc in enumerate(sorted(scores, key=lambda doc: (-scores[doc], doc)))}


def _fit(
    quality: NDArray[np.float64], found: NDArray[np.float64], label: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n,) P(R) and (n,) P(S); `label` is NaN for documents without a judgment."""
    unjudged, positive = np.isnan(label), np.nan_to_num(label)
    # Start as if all judged documents, and no others, were selected, and only the judged positives were relevant.
    relevance = _logistic(quality, positive, np.zeros(quality.shape[1]))
    selection = _logistic(found, np.where(unjudged, 0.0, 1.0), np.zeros(found.shape[1]))
    for _ in range(_ROUNDS):
        r, s = _sigmoid(quality @ relevance), _sigmoid(found @ selection)
        rest = np.maximum(1 - r * s, 1e-9)
        relevance = _logistic(quality, np.where(unjudged, r * (1 - s) / rest, positive), relevance)
        selection = _logistic(found, np.where(unjudged, s * (1 - r) / rest, 1.0), selection)
    return _sigmoid(quality @ relevance), _sigmoid(found @ selection)


def _logistic(
    values: NDArray[np.float64], target: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A few steps of Newton's method for (n,) targets between 0 and 1."""
    weights = start.copy()
    for _ in range(_STEPS):
        chance = _sigmoid(values @ weights)
        slope = values.T @ (chance - target) + _RIDGE * weights
        curve = (values * (chance * (1 - chance))[:, None]).T @ values + _RIDGE * np.eye(len(weights))
        weights -= np.clip(np.linalg.solve(curve, slope), -2, 2)
    return weights


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))))
