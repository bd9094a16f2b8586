"""A query's sparse results choose the dense vectors that the query reads, after CluSD (arXiv 2502.10639).

    dense = build_dense(index, "vectors", embed, clusters=True)
    hybrid = Hybrid(index, dense, method="interpolation", visit=Visits(share=0.1))
    trained = hybrid.with_visit(hybrid.fit_visits(queries, "lstm"))

Clusters are ordered by how many of the first 10 sparse results they hold; ties are broken by the first 25 results, and
so on. A trained policy computes features of the first clusters in that order, and reorders these clusters by the
probability that they hold one of the ten nearest vectors. Clusters are visited until a given share of all vectors is
read. The vectors of the first sparse results are always read and count towards that share; in the paper, they are read
only if their cluster is visited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lsr.arrays import Layout, read_arrays, require_finite, write_arrays
from lsr.errors import DataError, MissingExtra
from lsr.index.hybrid.dense_clusters import DenseClusters

Policy = Literal["overlap", "centroid", "logistic", "lstm"]
_KIND = "visiting policy"
_BINS = np.array([10, 25, 50, 100, 200, 500, 1000])  # ranks of sparse results
LABELLED = 10  # nearest vectors whose clusters a policy is trained to find
_READ = 64  # clusters that a trained policy reorders
_PARTS = 4  # groups of consecutive clusters; the mean similarity with each group is a feature
N_FEATURES = 3 + 2 * len(_BINS) + _PARTS
_HIDDEN = 32
_EPOCHS, _BATCH, _RATE, _RIDGE = 20, 32, 5e-3, 1e-3
_GATES = 4 * _HIDDEN
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {  # shapes of each trained policy's arrays, float32
    "logistic": {"mean": (N_FEATURES,), "scale": (N_FEATURES,), "weights": (N_FEATURES + 1,)},
    "lstm": {
        "mean": (N_FEATURES,),
        "scale": (N_FEATURES,),
        "inputs": (_GATES, N_FEATURES),
        "states": (_GATES, _HIDDEN),
        "bias": (_GATES,),
        "weights": (_HIDDEN + 1,),
    },
}


@dataclass(frozen=True)
class Visits:
    """Which vectors a query reads.

    Attributes:
        share: Share of all vectors to read: the vectors of the first sparse results, then whole clusters while they
            fit.
        policy: How clusters are ordered: "centroid" by the similarity of their centroids with the query, "overlap" by
            the sparse results that they hold; `Hybrid.fit_visits` trains "logistic" and "lstm".
        results: Number of sparse results whose vectors are always read; with 0, search works as in the paper.
        weights: A trained policy's arrays.

    Raises:
        ValueError: A value is out of range, or a trained policy has no weights.
    """

    share: float = 0.1
    policy: Policy = "centroid"
    results: int = 50
    weights: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.results < 0:
            raise ValueError(
                f"share must be above 0 and at most 1, results at least 0, got {self.share} and {self.results}"
            )
        if self.policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, got {self.policy!r}")
        if (self.policy in _SHAPES) != bool(self.weights):
            raise ValueError(
                f"the policies {', '.join(_SHAPES)} come from fit_visits, with weights; other policies take no weights"
            )

    def rows(
        self,
        clusters: DenseClusters,
        query: NDArray[np.float32],
        results: NDArray[np.int64],
        scores: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Return (n,) int64, ascending: the rows to read; at least one whole cluster if there are no results.

        Args:
            clusters: The clusters.
            query: (width,) the query's dense vector.
            results: (n,) the row of each sparse result, best first; -1 for a document without a vector.
            scores: (n,) the results' scores.
        """
        own = np.unique(results[: self.results][results[: self.results] >= 0])
        order = self._order(clusters, query, _clusters_of(clusters, results), scores)
        order = order[np.diff(clusters.starts)[order] > 0]  # with identical vectors, clusters may be empty
        sizes = np.diff(clusters.starts)[order]
        # The margin keeps rounding errors from leaving out a vector.
        room = self.share * clusters.starts[-1] + 1e-6 - (len(own) if self.share < 1 else 0)
        n = int(np.searchsorted(np.cumsum(sizes), room, side="right"))
        return np.union1d(clusters.rows(order[: n if len(own) else max(n, 1)]), own)

    def _order(
        self,
        clusters: DenseClusters,
        query: NDArray[np.float32],
        results: NDArray[np.int64],
        scores: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Return the numbers of all clusters in the order in which they are visited."""
        near = clusters.centroids @ query
        if self.policy == "centroid":
            return np.argsort(-near, kind="stable")
        order = by_overlap(len(clusters), near, results)
        if self.policy == "overlap":
            return order
        first = order[:_READ]
        given = features(clusters, near, first, results, scores)
        scaled = (given - self.weights["mean"]) * self.weights["scale"]
        chance = (_logistic if self.policy == "logistic" else _lstm)(scaled, self.weights)
        return np.concatenate((first[np.argsort(-chance, kind="stable")], order[_READ:]))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a trained policy as one Arrow file.

        Raises:
            OutputError: The file can't be written.
        """
        numbers = {"share": np.array(self.share, np.float64), "results": np.array(self.results, np.int64)}
        write_arrays(path, _KIND, {**self.weights, **numbers})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Visits:
        """Open a trained policy.

        Raises:
            DataError: The file is missing, damaged or of another kind.
        """
        arrays = read_arrays(path, _KIND, _layout("logistic"), _layout("lstm"))
        require_finite(path, arrays)
        share, results = float(arrays.pop("share")), int(arrays.pop("results"))
        policy: Policy = "lstm" if "states" in arrays else "logistic"
        whole = all(arrays[name].shape == shape for name, shape in _SHAPES[policy].items())
        if not whole or not 0 < share <= 1 or results < 0:
            raise DataError("damaged: not a whole visiting policy", str(path))
        return cls(share, policy, results, arrays)


def _layout(policy: str) -> Layout:
    numbers = {"share": (0, "float64"), "results": (0, "int64")}
    return {**numbers, **{name: (len(shape), "float32") for name, shape in _SHAPES[policy].items()}}


def by_overlap(n: int, near: NDArray[np.float32], results: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n,) int64: n clusters ordered by how many of the first sparse results they hold.

    Args:
        n: Number of clusters.
        near: (n,) similarity of each centroid with the query, which breaks ties.
        results: (n,) the cluster of each sparse result, best first; -1 for a document without a vector.
    """
    counts = [np.bincount(some[some >= 0], minlength=n) for some in (results[:end] for end in _BINS)]
    keys: list[NDArray[Any]] = [-near, *(-count for count in reversed(counts))]
    return np.lexsort(keys)


def features(
    clusters: DenseClusters,
    near: NDArray[np.float32],
    order: NDArray[np.int64],
    results: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return (n, N_FEATURES) float32, the features of n clusters in the order of their overlap.

    A cluster's first features are its similarity with the query, this similarity minus the highest one of all clusters,
    and 1 / its place in the order. For each bin of ranks, two features follow: the share of the bin's results that are
    in the cluster, and the mean score of these results. The last features are the cluster's mean similarities with
    several groups of clusters.

    Args:
        clusters: All clusters.
        near: (n_clusters,) similarity of each centroid with the query.
        order: (n,) the clusters.
        results: As for `by_overlap`.
        scores: (n,) the results' scores.
    """
    found = np.zeros((len(order), N_FEATURES), np.float32)
    found[:, 0], found[:, 1] = near[order], near[order] - near.max(initial=-1)
    found[:, 2] = 1 / (np.arange(len(order)) + 1)
    low, high = scores.min(initial=np.inf), scores.max(initial=-np.inf)
    scaled = (scores - low) / (high - low) if high > low else np.ones(len(scores))
    for i, (start, end) in enumerate(zip((0, *_BINS[:-1]), _BINS, strict=True)):
        some, own = results[start:end], scaled[start:end]
        some, own = some[some >= 0], own[some >= 0]
        count = np.bincount(some, minlength=len(clusters))[order]
        total = np.bincount(some, own, minlength=len(clusters))[order]
        found[:, 3 + i], found[:, 3 + len(_BINS) + i] = count / (end - start), total / np.maximum(count, 1)
    like = clusters.centroids[order] @ clusters.centroids[order].T
    for i, group in enumerate(np.array_split(np.arange(len(order)), _PARTS)):
        if len(group):
            found[:, 3 + 2 * len(_BINS) + i] = like[:, group].mean(1)
    return found


# One query of a training set: the features of its first clusters, and whether each holds one of the nearest vectors.
Example = tuple[NDArray[np.float32], NDArray[np.bool_]]


def example(
    clusters: DenseClusters,
    query: NDArray[np.float32],
    nearest: NDArray[np.int64],
    results: NDArray[np.int64],
    scores: NDArray[np.float64],
    n_read: int,
) -> Example:
    """Make a training example from a query.

    Args:
        clusters: The clusters.
        query: (width,) the query's dense vector.
        nearest: (n,) the rows nearest to the query.
        results: As for `Visits.rows`.
        scores: As for `Visits.rows`.
        n_read: `Visits.results`. The vectors of this many results are always read, so a policy needn't find them.
    """
    near, pointed = clusters.centroids @ query, _clusters_of(clusters, results)
    order = by_overlap(len(clusters), near, pointed)[:_READ]
    wanted = np.setdiff1d(nearest, results[:n_read])
    return features(clusters, near, order, pointed, scores), np.isin(order, clusters.of_rows(wanted))


def _clusters_of(clusters: DenseClusters, results: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(results >= 0, clusters.of_rows(results), -1)


def fitted(examples: list[Example], share: float, policy: Literal["logistic", "lstm"], results: int) -> Visits:
    """Train a policy on examples; see `Hybrid.fit_visits`."""
    every = np.concatenate([values for values, _ in examples])
    mean, deviation = every.mean(0), every.std(0)
    scale = (1 / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    scaled: list[Example] = [((values - mean) * scale, labels) for values, labels in examples]
    train: Callable[[list[Example]], dict[str, Any]] = _fit_logistic if policy == "logistic" else _fit_lstm
    return Visits(share, policy, results, {"mean": mean.astype(np.float32), "scale": scale, **train(scaled)})


def _logistic(values: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(values @ weights["weights"][:-1] + weights["weights"][-1])


def _lstm(values: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Run the LSTM over a sequence of n clusters; return (n,) logits."""
    given = values @ weights["inputs"].T + weights["bias"]
    state, cell = np.zeros(_HIDDEN, np.float32), np.zeros(_HIDDEN, np.float32)
    states = np.empty((len(values), _HIDDEN), np.float32)
    for i in range(len(values)):
        gates = (given[i] + weights["states"] @ state).reshape(4, _HIDDEN)  # input, forget, cell, output
        opened = 1 / (1 + np.exp(np.clip(-gates[[0, 1, 3]], -80, 80)))
        cell = opened[1] * cell + opened[0] * np.tanh(gates[2])
        states[i] = state = opened[2] * np.tanh(cell)
    return np.asarray(states @ weights["weights"][:-1] + weights["weights"][-1])


def _fit_logistic(examples: list[Example]) -> dict[str, NDArray[np.float32]]:
    """Fit by Newton's method, with a small ridge penalty."""
    values = np.concatenate([values for values, _ in examples]).astype(np.float64)
    values = np.hstack([values, np.ones((len(values), 1))])
    labels = np.concatenate([labels for _, labels in examples]).astype(np.float64)
    weights, ridge = np.zeros(values.shape[1]), _RIDGE * len(values) * np.eye(values.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(values @ weights, -30, 30)))
        slope = values.T @ (chance - labels) + ridge @ weights
        step = np.linalg.solve((values * (chance * (1 - chance))[:, None]).T @ values + ridge, slope)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return {"weights": weights.astype(np.float32)}


def _fit_lstm(examples: list[Example]) -> dict[str, NDArray[np.float32]]:
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "torch", "training a visiting policy") from None

    torch.manual_seed(0)
    longest = max(len(labels) for _, labels in examples)
    values = np.zeros((len(examples), longest, N_FEATURES), np.float32)
    labels, valid = np.zeros((2, len(examples), longest), np.float32)
    for i, (some, own) in enumerate(examples):
        values[i, : len(own)], labels[i, : len(own)], valid[i, : len(own)] = some, own, 1
    lstm, last = torch.nn.LSTM(N_FEATURES, _HIDDEN, batch_first=True), torch.nn.Linear(_HIDDEN, 1)
    optimizer = torch.optim.Adam([*lstm.parameters(), *last.parameters()], lr=_RATE)
    steps = _EPOCHS * -(-len(examples) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    given, wanted, kept = map(torch.from_numpy, (values, labels, valid))
    for _ in range(_EPOCHS):
        for some in torch.randperm(len(examples)).split(_BATCH):
            logits = last(lstm(given[some])[0])[..., 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted[some], weight=kept[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        found = {
            "inputs": lstm.weight_ih_l0,
            "states": lstm.weight_hh_l0,
            "bias": lstm.bias_ih_l0 + lstm.bias_hh_l0,
            "weights": torch.cat([last.weight[0], last.bias]),
        }
        return {name: np.array(value.detach().numpy(), np.float32) for name, value in found.items()}
