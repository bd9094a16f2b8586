"""Sparsity penalties: pure functions of a batch's term weights, and the ramp of their strength.

Weights are (n_docs, n_terms) and never negative; every penalty is a scalar of their dtype, float32 for those in half
precision, where the squares of small means would underflow. Queries use the same functions. The trainer multiplies by
the weight (lambda) of a penalty. The FLOPS that papers report of a finished model is another measure, see
`SparseMatrix.expected_overlap`.

**Lambdas of other libraries.** Means here are flat, over all rows of the batch, positives and negatives alike. That is
what sentence-transformers' FlopsLoss and naver/splade's Hugging Face trainer do, so their lambdas can be used here.
naver's older trainer takes the mean of the positives' penalty and the negatives', which is the same if both are alike.
OpenSearch's trainer computes the penalty for each of the G positions in a query's group of documents and adds them up:
if they are alike its penalty is G times larger, so multiply its lambda by G (and by its number of processes).

**A sample of the vocabulary.** FLOPS, L1 and the like are sums over terms, so S of the V columns are enough: with
columns drawn uniformly, V / S times the value is an unbiased estimate, and so is its gradient. The caller multiplies.
`l0_flops` and `anti_zero` also depend on whole rows; see their docstrings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEDULES = ("quadratic", "linear", "constant")


def flops(weights: Tensor) -> Tensor:
    """FLOPS: sum_j ( mean_i w_ij )^2 (Paria et al. 2020, arXiv 2004.05665).

    The square penalizes terms that many documents share more than terms of few documents, so it shortens the longest
    posting lists first.

    Args:
        weights: (n_docs, n_terms) float.
    """
    return _means(weights).square().sum()


def l1(weights: Tensor) -> Tensor:
    """L1: mean_i sum_j w_ij; for queries in Efficient SPLADE (arXiv 2207.03834).

    Args:
        weights: (n_docs, n_terms) float.
    """
    return _row_sums(weights).mean()


def idf_flops(weights: Tensor, idf: Tensor, *, view: str, floor: float = 0.01) -> Tensor:
    """IDF-aware FLOPS: penalizes common terms more than rare ones (arXiv 2411.04403).

    There are two views of the penalty, depending on where the idf is:

    * "document": queries have the idf, q_j = idf_j, as in an inference-free query encoder. `weights` are w, the
      document encoder's weights, and the penalty is plain FLOPS of w, as in the authors' code. The penalty doesn't
      contain the idf, but a common term pays the full price for its small share of the score.
    * "query": queries are 0/1, so the documents' weights include the idf: `weights` are u, u_j = idf_j w_j, and the
      penalty is sum_j ( mean_i u_ij / idf_j )^2.

    Both are equal for the same ranking: idf_flops(idf * w, "query") = idf_flops(w, "document"). Multiplying by the idf
    instead of dividing, as is sometimes printed, would favour common terms.

    Args:
        weights: (n_docs, n_terms) float, w or u.
        idf: (n_terms,) float, of the same columns.
        view: "document" or "query".
        floor: Lower bound of the idf in the "query" view, so that the penalty of a term in every document is finite.

    Raises:
        ValueError: An unknown view.
    """
    if view == "document":
        return flops(weights)
    if view == "query":
        return (_means(weights) / idf.clamp(min=floor)).square().sum()
    raise ValueError(f'view must be "document" or "query", got {view!r}')


class DocumentFrequency:
    """Moving average of the share of documents in which each term is active.

    For each term it covers about the last `window` documents in which the term was sampled, so batches of any size and
    samples of columns can be mixed. Needs no pass over the collection.

    Args:
        n_terms: Size of the vocabulary.
        window: Number of documents that count; older ones fade.
        device: Device of the counts.
    """

    def __init__(self, n_terms: int, window: int = 100_000, device: str | torch.device = "cpu") -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window = window
        self._active = torch.zeros(n_terms, dtype=torch.float32, device=device)
        self._seen = torch.zeros(n_terms, dtype=torch.float32, device=device)

    def update(self, weights: Tensor, terms: Tensor | None = None) -> None:
        """Count a batch, in place.

        Args:
            weights: (n_docs, n_terms) float; only whether they are above zero counts.
            terms: (n_columns,) int64, without repeats: the terms of the columns, if they are a sample.
        """
        columns = slice(None) if terms is None else terms
        fading = (1 - 1 / self.window) ** len(weights)
        active = (weights.detach() > 0).sum(0).to(self._active)
        self._active[columns] = self._active[columns] * fading + active
        self._seen[columns] = self._seen[columns] * fading + len(weights)

    def fractions(self, terms: Tensor | None = None) -> Tensor:
        """(n_terms,) float32 between 0 and 1; 0 for a term that was never sampled.

        Args:
            terms: (n_columns,) int64, to get only these terms.
        """
        columns = slice(None) if terms is None else terms
        return self._active[columns] / self._seen[columns].clamp(min=1)

    def state_dict(self) -> dict[str, Tensor]:
        """The state for a checkpoint: "active" and "seen", (n_terms,) float32 each."""
        return {"active": self._active, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a `state_dict`.

        Raises:
            ValueError: It is for another vocabulary.
        """
        for name, mine in self.state_dict().items():
            if state[name].shape != mine.shape:
                raise ValueError(f"counts of {len(state[name])} terms, but there are {len(mine)} here")
            mine.copy_(state[name])


def df_flops(weights: Tensor, df: Tensor, a: float = 0.1, b: float = 10.0) -> Tensor:
    """DF-FLOPS: sum_j ( d_j mean_i w_ij )^2, d_j = 1 / (1 + (df_j^(ln 2 / ln a) - 1)^b) (arXiv 2505.15070).

    Only terms that many documents have are penalized: d is 0.5 at df = a, near 1 above it and near 0 below. This
    shortens the longest posting lists, which decide the slowest queries.

    Args:
        weights: (n_docs, n_terms) float.
        df: (n_terms,) float, the share of documents with the term, from `DocumentFrequency`; without gradient.
        a: The share at which d is 0.5.
        b: Steepness at a.

    Raises:
        ValueError: `a` is not between 0 and 1, or `b` is not above 0.
    """
    if not (0 < a < 1 and b > 0):
        raise ValueError(f"a must lie between 0 and 1 and b above 0, got a = {a}, b = {b}")
    # In float32, because the power of a rare term overflows half precision. Beyond float32 it is inf, and d is 0.
    shares = df.detach().float().clamp(0, 1)
    price = 1 / (1 + (shares.pow(math.log(2) / math.log(a)) - 1).pow(b))
    means = _means(weights)
    return (means * price.to(means.dtype)).square().sum()


def l0_flops(weights: Tensor, threshold: int, active: Tensor | None = None) -> Tensor:
    """FLOPS of the rows with more than `threshold` active terms (l0 mask, arXiv 2504.14839).

    Documents that are sparse enough aren't penalized. The mask has no gradient; the mean is over all rows, including
    masked ones.

    Args:
        weights: (n_docs, n_terms) float.
        threshold: Number of active terms that a row may have without penalty.
        active: (n_docs,), active terms of the whole rows; needed if `weights` is a sample of columns.
    """
    if active is None:
        active = (weights.detach() > 0).sum(1)
    return flops(weights * (active > threshold).unsqueeze(1))


def group(weights: Tensor, free: Tensor | None = None) -> Tensor:
    """Group sparsity over the vocabulary: sum_j sqrt( mean_i w_ij^2 ), a term's weights in all documents a group.

    The slope of a small group is as steep as that of a large one, so rare terms leave the vocabulary entirely, while
    FLOPS shortens the long posting lists. `free` sets how many terms stay, as in WGSEF, which penalizes only the
    smallest groups: free terms aren't shrunk, and the others disappear.

    Args:
        weights: (n_docs, n_terms) float.
        free: (n_terms,) bool, terms without penalty; None for none.
    """
    sizes = torch.linalg.vector_norm(weights, dim=0, dtype=_wide(weights.dtype)) / max(len(weights), 1) ** 0.5
    return (sizes if free is None else sizes[~free]).sum()


def anti_zero(weights: Tensor) -> Tensor:
    """Penalty for empty rows: mean_i 1 / (1 + sum_j w_ij)^2, between 0 and 1.

    It is 1 for a batch of empty rows, and 1e-4 and nearly flat for rows whose weights add up to 99. The usual form, one
    over the squared sum of all weights (naver/splade), sees only the whole batch: one empty row among others gets no
    larger gradient than they do, and if all are empty the penalty is infinite. Here each row counts by itself, and the
    steepest slope is -2. A weight that relu has cut off has no gradient, so it can't revive a row by itself.

    Args:
        weights: (n_docs, n_terms) float; multiply a sample of S of V columns by V / S first.
    """
    return (1 + _row_sums(weights)).pow(-2).mean()


def schedule(kind: str, step: int, steps: int) -> float:
    """Factor of a lambda at a step: grows from 0 to 1 in `steps` steps, then stays 1.

    Args:
        kind: "quadratic", min(1, step / steps)^2, as in SPLADE; "linear"; or "constant", which is 1.
        step: The step, from 0.
        steps: Length of the ramp; 0 for none.

    Raises:
        ValueError: An unknown kind, or a negative number.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"the schedule must be one of {', '.join(SCHEDULES)}, got {kind!r}")
    if step < 0 or steps < 0:
        raise ValueError(f"steps must not be negative, got step {step} of {steps}")
    if kind == "constant" or step >= steps:
        return 1.0
    return (step / steps) ** (2 if kind == "quadratic" else 1)


def _means(weights: Tensor) -> Tensor:
    """(n_terms,), over the rows, without a copy of the weights."""
    return weights.mean(0, dtype=_wide(weights.dtype))


def _row_sums(weights: Tensor) -> Tensor:
    """(n_docs,), over the terms."""
    return weights.sum(1, dtype=_wide(weights.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
