"""High-recall review: find nearly all relevant documents of a collection by reading few of them (arXiv 2405.03972).

    review = Review(ids, [vectors, bm25_vectors])
    while not review.stops():
        for doc in review.batch():
            review.judge(doc, somebody_reads(doc))

In each round, a logistic regression over the documents' sparse vectors is fitted to the judgments, and the documents
with the highest probability of relevance are read next. With several kinds of vectors, each has its own regression, and
the probabilities are averaged. A stopping rule says when the target recall has probably been reached.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lsr.durable import take_name
from lsr.errors import DataError, OutputError
from lsr.sparse import SparseMatrix

Rule = Literal["hypergeometric", "quantile", "knee", "budget"]
Strategy = Literal["relevance", "uncertainty"]
FORMAT = 1
_PRESUMED = 100  # unread documents taken as irrelevant until an irrelevant document has been read
_STEPS = 300  # steps of the regression's optimizer
_STRENGTH = 10.0  # inverse weight of the penalty


@dataclass(frozen=True)
class ReviewSettings:
    """Settings of a review.

    Attributes:
        target: Recall to reach.
        batch: Documents per round.
        strategy: "relevance" reads the documents with the highest probabilities, "uncertainty" those with probabilities
            nearest to 0.5.
        rule: When to stop. "hypergeometric": recently read documents include so few relevant ones that a recall below
            the target is improbable (Callaghan & Müller-Hansen 2020). "quantile": the recall estimated from the
            probabilities, minus two standard deviations, reaches the target (Yang, Lewis & Frieder 2021). "knee": the
            gain curve has flattened (Cormack & Grossman 2016). "budget": `budget` documents have been read.
        risk: For "hypergeometric": the probability of stopping too early, if documents were read in random order.
        budget: Documents to read at most; 0 for no limit.
        seed: Seed of all random choices.

    Raises:
        ValueError: A value is out of range, the rule or strategy is unknown, or the rule is "budget" without a budget.
    """

    target: float = 0.8
    batch: int = 20
    strategy: Strategy = "relevance"
    rule: Rule = "hypergeometric"
    risk: float = 0.05
    budget: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        good = 0 < self.target < 1 and 0 < self.risk < 1 and self.batch >= 1 and self.budget >= 0
        if not good or self.rule not in get_args(Rule) or self.strategy not in get_args(Strategy):
            raise ValueError(
                "a review needs a target and a risk between 0 and 1, batch >= 1, budget >= 0, one of the strategies "
                f"{', '.join(get_args(Strategy))} and one of the rules {', '.join(get_args(Rule))}: {self}"
            )
        if self.rule == "budget" and not self.budget:
            raise ValueError("the rule budget needs a budget")


@dataclass
class Review:
    """A review of a collection; the same judgments always lead to the same batches.

    Attributes:
        ids: The documents' ids.
        vectors: One or more kinds of vectors, (n_docs, n_terms) each; they are scaled to length 1.
        settings: The settings.
        first: Numbers of documents to read first, such as the results of a search; without them, reading starts with
            random documents.
        judged: {number: whether it is relevant}, in the order of reading.
        rounds: For each round, the number of documents read before it began.

    Raises:
        ValueError: There are no vectors, or their number differs from that of the ids.
    """

    ids: Sequence[str]
    vectors: Sequence[SparseMatrix]
    settings: ReviewSettings = field(default_factory=ReviewSettings)
    first: Sequence[int] = ()
    judged: dict[int, bool] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.vectors or any(len(one) != len(self.ids) for one in self.vectors):
            raise ValueError(f"{[len(one) for one in self.vectors]} vectors for {len(self.ids)} documents")
        self.vectors = [_of_length_one(one) for one in self.vectors]
        self._numbers = {doc_id: number for number, doc_id in enumerate(self.ids)}

    def batch(self) -> list[int]:
        """Numbers of the documents to read next; empty when all have been read.

        The batch stays the same until all of it is judged.
        """
        read = len(self.judged)
        if not self.rounds or read >= self._batch_end():
            self.rounds.append(read)
        start = self.rounds[-1]
        before = dict(list(self.judged.items())[:start])
        return [number for number in self._chosen(before) if number not in self.judged]

    def _batch_end(self) -> int:
        return min(self.rounds[-1] + self.settings.batch, len(self.ids))

    def _chosen(self, judged: dict[int, bool]) -> list[int]:
        unread = np.ones(len(self.ids), bool)
        unread[list(judged)] = False
        left, size = np.flatnonzero(unread), self.settings.batch
        if not any(judged.values()):  # nothing to learn from yet
            wanted = [number for number in self.first if unread[number]]
            others = np.random.default_rng([self.settings.seed, len(judged)]).permutation(left).tolist()
            return list(dict.fromkeys([*wanted, *others]))[:size]
        p = self.probabilities(judged)[left]
        worth = p if self.settings.strategy == "relevance" else -np.abs(p - 0.5)
        return [int(number) for number in left[np.argsort(-worth, kind="stable")[:size]]]

    def judge(self, number: int, relevant: bool) -> None:
        """Record a judgment; an earlier judgment of the same document is replaced.

        Raises:
            ValueError: There is no such document.
        """
        if not 0 <= number < len(self.ids):
            raise ValueError(f"there is no document {number}; they are numbered 0 to {len(self.ids) - 1}")
        self.judged[number] = bool(relevant)

    def probabilities(self, judged: dict[int, bool] | None = None) -> NDArray[np.float64]:
        """Return the probability that each document is relevant, (n_docs,) float64: the mean of the regressions.

        Args:
            judged: {number: whether it is relevant}; by default all judgments.
        """
        judged = self.judged if judged is None else judged
        numbers, labels = np.array(list(judged), np.int64), np.array(list(judged.values()), np.float64)
        if labels.all():
            rest = np.setdiff1d(np.arange(len(self.ids)), numbers)
            drawn = np.random.default_rng([self.settings.seed, 1]).permutation(rest)[:_PRESUMED]
            numbers, labels = np.concatenate((numbers, drawn)), np.concatenate((labels, np.zeros(len(drawn))))
        found = np.zeros(len(self.ids))
        for vectors in self.vectors:
            weights, bias = logistic_regression(vectors[numbers], labels)
            found += 1 / (1 + np.exp(-(_times(vectors, weights) + bias)))
        return found / len(self.vectors)

    # --- when to stop -------------------------------------------------------------------------------------------------

    @property
    def found(self) -> int:
        """Number of relevant documents found so far."""
        return sum(self.judged.values())

    def stops(self) -> bool:
        """Whether the stopping rule holds, the budget is used up, or everything has been read."""
        how, read = self.settings, len(self.judged)
        if read >= len(self.ids) or (how.budget and read >= how.budget):
            return True
        if not self.found or (self.rounds and read < self._batch_end()):
            return False
        labels = np.array(list(self.judged.values()), np.int64)
        if how.rule == "hypergeometric":
            return chance_of_less(labels, len(self.ids), how.target, self.rounds) < how.risk
        if how.rule == "quantile":
            return recall_bound(self.probabilities(), labels, list(self.judged)) >= how.target
        return how.rule == "knee" and has_knee(labels)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write settings and judgments to a file, from which `load` continues.

        Raises:
            OutputError: The file can't be written.
        """
        path = Path(path)
        state = {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "first": [self.ids[number] for number in self.first],
            "judged": [[self.ids[number], relevant] for number, relevant in self.judged.items()],
            "rounds": self.rounds,
        }
        partial = path.with_name(path.name + ".tmp")
        try:
            partial.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            take_name(partial, path)
        except OSError as error:
            raise OutputError(f"{path}: can't be written: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: str | PathLike[str], ids: Sequence[str], vectors: Sequence[SparseMatrix]) -> Review:
        """Continue a saved review.

        Args:
            path: The file.
            ids: The documents' ids.
            vectors: As for the class.

        Raises:
            DataError: The file can't be read, or has judgments of documents that aren't in `ids`.
        """
        numbers = {doc_id: number for number, doc_id in enumerate(ids)}
        try:
            state: Any = json.loads(Path(path).read_bytes())
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']!r}; this version of lsr reads format {FORMAT}")
            if absent := [doc for doc, _ in state["judged"] if doc not in numbers]:
                raise ValueError(f"the document {absent[0]!r} isn't in the collection")
            judged = {numbers[doc]: bool(relevant) for doc, relevant in state["judged"]}
            first = [numbers[doc] for doc in state["first"] if doc in numbers]
            rounds = [int(one) for one in state["rounds"]]
            if rounds != sorted(rounds) or any(not 0 <= one <= len(judged) for one in rounds):
                raise ValueError(f"rounds {rounds[:10]} of {len(judged)} judgments")
            return cls(ids, vectors, ReviewSettings(**state["settings"]), first, judged, rounds)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"the review can't be continued: {error}", str(path)) from None


def logistic_regression(rows: SparseMatrix, labels: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Fit a logistic regression with a squared penalty, by accelerated gradient descent.

    It minimises sum of log(1 + e^(-y (w x + b))) + |w|^2 / (2 * 10), where y is -1 or 1.

    Args:
        rows: (n, n_terms), of length 1.
        labels: (n,) 0 or 1.

    Returns:
        (n_terms,) float64 weights, and the bias.
    """
    step = 1 / (0.25 * 2 * max(len(rows), 1) + 1 / _STRENGTH)  # 2: the squared length of a row with a bias of 1
    numbers, values = rows.row_numbers(), rows.data.astype(np.float64)
    weights, bias, before = np.zeros(rows.shape[1]), 0.0, (np.zeros(rows.shape[1]), 0.0)
    for i in range(_STEPS):
        ahead = i / (i + 3)
        w, b = weights + ahead * (weights - before[0]), bias + ahead * (bias - before[1])
        scores = np.bincount(numbers, weights=values * w[rows.indices], minlength=len(rows)) + b
        wrong = 1 / (1 + np.exp(-scores)) - labels
        slope = np.bincount(rows.indices, weights=values * wrong[numbers], minlength=rows.shape[1]) + w / _STRENGTH
        before = weights, bias
        weights, bias = w - step * slope, b - step * float(wrong.sum())
    return weights, bias


def chance_of_less(labels: NDArray[np.int64], n_docs: int, target: float, starts: Sequence[int]) -> float:
    """Assume that recall is below the target, and return the probability of finding so few relevant documents among
    those read recently.

    For each round, the documents read since its start are taken as a random sample of the documents unread at that
    time; the result is the smallest probability over all rounds. The rule is cautious, because the most probable
    documents, which were read, include more relevant ones than a random sample.

    Args:
        labels: (n,) 0 or 1, in the order of reading.
        n_docs: Number of documents in the collection.
        target: The target recall.
        starts: For each round, the number of documents read before it began.
    """
    found, least = int(labels.sum()), 1.0
    for start in starts:
        drawn, late = len(labels) - start, int(labels[start:].sum())
        if not drawn:
            continue
        # Recall is below the target if at least this many relevant documents were unread when the round began.
        missing = math.floor(found / target - (found - late)) + 1
        least = min(least, _hypergeometric(late, n_docs - start, missing, drawn))
    return least


def _hypergeometric(k: int, total: int, good: int, drawn: int) -> float:
    """P(at most k good items in a sample of `drawn` from `total` items, of which `good` are good)."""
    if good > total:
        return 0.0
    low = max(0, drawn - (total - good))
    logs = [
        _log_choose(good, i) + _log_choose(total - good, drawn - i) - _log_choose(total, drawn)
        for i in range(low, min(k, good, drawn) + 1)
    ]
    return min(1.0, math.fsum(math.exp(one) for one in logs))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def recall_bound(p: NDArray[np.float64], labels: NDArray[np.int64], read: Sequence[int]) -> float:
    """Return the recall estimated from the probabilities of unread documents, minus two standard deviations.

    Args:
        p: (n_docs,) float64, probability of relevance.
        labels: (n,) 0 or 1, judgments of the documents that were read.
        read: The numbers of the documents that were read.
    """
    unread = np.delete(p, np.array(read, np.int64))
    found, missing = float(labels.sum()), float(unread.sum())
    total = found + missing
    variance = float((unread * (1 - unread)).sum())
    return found / total - 2 * math.sqrt(variance) * found / total**2 if total else 0.0


def has_knee(labels: NDArray[np.int64]) -> bool:
    """Return whether the gain curve is at least 156 - min(finds, 150) times flatter after its knee than before it.

    Args:
        labels: (n,) 0 or 1, in the order of reading.
    """
    gain = np.cumsum(labels)
    n, found = len(gain), int(gain[-1]) if len(gain) else 0
    if n < 2 or not found:
        return False
    places = np.arange(1, n + 1)
    knee = int(np.argmax(gain / found - places / n))
    after = max(n - (knee + 1), 1)
    ratio = (gain[knee] / (knee + 1)) / ((1 + found - gain[knee]) / after)
    return bool(ratio >= 156 - min(found, 150))


def _times(vectors: SparseMatrix, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    products = vectors.data * weights[vectors.indices]
    return np.asarray(np.bincount(vectors.row_numbers(), weights=products, minlength=len(vectors)), np.float64)


def _of_length_one(vectors: SparseMatrix) -> SparseMatrix:
    squares = np.bincount(vectors.row_numbers(), weights=vectors.data.astype(np.float64) ** 2, minlength=len(vectors))
    data = vectors.data / np.sqrt(np.maximum(squares, 1e-12))[vectors.row_numbers()]
    return SparseMatrix(vectors.indptr, vectors.indices, data, vectors.shape, check=False)
