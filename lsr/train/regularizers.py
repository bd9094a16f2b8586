"""Sparsity penalties: pure functions of a batch's term weights, and the ramp of their strength.

Weights are (n_docs, n_terms) and never negative. Every penalty is a scalar of the same dtype; for half precision, where
squares of small means would underflow, it is float32. Queries use the same functions. The trainer multiplies a penalty
by its weight (lambda). The FLOPS that papers report for a finished model is a different measure: see
`SparseMatrix.expected_overlap`.

**Lambdas of other libraries.** Here, means are over all rows of the batch, both positives and negatives.
sentence-transformers' FlopsLoss and naver/splade's Hugging Face trainer do the same, so their lambdas can be used here.
naver's older trainer takes the mean of two penalties, one of the positives and one of the negatives; this is about the
same. OpenSearch's trainer adds up the penalties for each of the G positions in a query's group of documents. This sum
is about G times larger, so multiply its lambda by G (and by its number of processes).

**A sample of the vocabulary.** FLOPS, L1 and similar penalties are sums over terms, so S of the V columns are enough:
if columns are drawn uniformly, V / S times the value is an unbiased estimate, and so is its gradient. The caller does
this multiplication. `l0_flops` and `anti_zero` also depend on whole rows; see their docstrings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEDULES = ("quadratic", "linear", "constant")


def flops(weights: Tensor) -> Tensor:
    """FLOPS: sum_j ( mean_i w_ij )^2 (Paria et al. 2020, arXiv 2004.05665).

    The square penalizes terms of many documents more than terms of few documents, so the longest posting lists are
    shortened first.

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

    There are two views of the penalty, depending on which side has the idf:

    * "document": queries have the idf, q_j = idf_j, as in an inference-free query encoder. `weights` are w, the
      document encoder's weights, and the penalty is plain FLOPS of w, as in the authors' code. The penalty doesn't
      contain the idf, but a common term is fully penalized although it adds little to the score.
    * "query": queries are 0/1, so the documents' weights include the idf: `weights` are u, u_j = idf_j w_j, and the
      penalty is sum_j ( mean_i u_ij / idf_j )^2.

    Both views give the same penalty for the same ranking: idf_flops(idf * w, "query") = idf_flops(w, "document").
    A formula that is sometimes printed multiplies by the idf instead of dividing; it would favour common terms.

    Args:
        weights: (n_docs, n_terms) float, w or u.
        idf: (n_terms,) float, the idf of the same columns.
        view: "document" or "query".
        floor: Lower bound of the idf in the "query" view, so that the penalty of a term in every document is finite.

    Raises:
        ValueError: The view is unknown.
    """
    if view == "document":
        return flops(weights)
    if view == "query":
        return (_means(weights) / idf.clamp(min=floor)).square().sum()
    raise ValueError(f'view must be "document" or "query", got {view!r}')


class DocumentFrequency:
    """Moving average of the share of documents in which each term is active.

    For each term, it covers about the last `window` documents for which the term was sampled, so batches of any size
    and samples of columns can be mixed. No pass over the collection is needed.

    Args:
        n_terms: Size of the vocabulary.
        window: Number of documents covered; older documents fade out.
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
            weights: (n_docs, n_terms) float; a term is active if its weight is above zero.
            terms: (n_columns,) int64, without repeats: the terms of the columns; None if the columns are all terms.
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
            ValueError: The state belongs to another vocabulary.
        """
        for name, mine in self.state_dict().items():
            if state[name].shape != mine.shape:
                raise ValueError(f"counts of {len(state[name])} terms, but there are {len(mine)} here")
            mine.copy_(state[name])


def df_flops(weights: Tensor, df: Tensor, a: float = 0.1, b: float = 10.0) -> Tensor:
    """DF-FLOPS: sum_j ( d_j mean_i w_ij )^2, d_j = 1 / (1 + (df_j^(ln 2 / ln a) - 1)^b) (arXiv 2505.15070).

    Only terms that many documents have are penalized: d is 0.5 at df = a, near 1 for larger df and near 0 for smaller
    df. This shortens the longest posting lists, which decide the slowest queries.

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
    # Computed in float32, because the power overflows half precision for rare terms. Where it overflows float32, too,
    # it is inf and d is 0.
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
        active: (n_docs,), number of active terms in the whole rows; needed if `weights` has a sample of the columns.
    """
    if active is None:
        active = (weights.detach() > 0).sum(1)
    return flops(weights * (active > threshold).unsqueeze(1))


def group(weights: Tensor, free: Tensor | None = None) -> Tensor:
    """Group sparsity over the vocabulary: sum_j sqrt( mean_i w_ij^2 ), where a term's weights in all documents form a
    group.

    The slope of a small group is as steep as that of a large group, so rare terms leave the vocabulary entirely,
    whereas FLOPS shortens the long posting lists. As in WGSEF, only the smallest groups are penalized: the terms in
    `free` aren't shrunk, and the other terms disappear.

    Args:
        weights: (n_docs, n_terms) float.
        free: (n_terms,) bool, terms without penalty; None to penalize all.
    """
    sizes = torch.linalg.vector_norm(weights, dim=0, dtype=_wide(weights.dtype)) / max(len(weights), 1) ** 0.5
    return (sizes if free is None else sizes[~free]).sum()


def anti_zero(weights: Tensor) -> Tensor:
    """Penalty for empty rows: mean_i 1 / (1 + sum_j w_ij)^2, between 0 and 1.

    The penalty is 1 for a batch of empty rows; for rows whose weights add up to 99, it is 1e-4 and nearly flat. The
    usual form, one over the squared sum of all weights (naver/splade), sees only the whole batch: an empty row gets no
    larger gradient than the others, and if all rows are empty, the penalty is infinite. Here, each row is penalized by
    itself, and the steepest slope is -2. Weights that relu has set to 0 have no gradient, so the penalty alone can't
    revive an empty row.

    Args:
        weights: (n_docs, n_terms) float; multiply a sample of S of the V columns by V / S first.
    """
    return (1 + _row_sums(weights)).pow(-2).mean()


def schedule(kind: str, step: int, steps: int) -> float:
    """Factor of a lambda at a step: grows from 0 to 1 in `steps` steps, then stays 1.

    Args:
        kind: "quadratic", min(1, step / steps)^2, as in SPLADE; "linear"; or "constant", which is 1.
        step: The step, from 0.
        steps: Length of the ramp; 0 for none.

    Raises:
        ValueError: The kind is unknown, or a number is negative.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"the schedule must be one of {', '.join(SCHEDULES)}, got {kind!r}")
    if step < 0 or steps < 0:
        raise ValueError(f"steps must not be negative, got step {step} of {steps}")
    if kind == "constant" or step >= steps:
        return 1.0
    return (step / steps) ** (2 if kind == "quadratic" else 1)


def _means(weights: Tensor) -> Tensor:
    """(n_terms,), means over the rows, without a copy of the weights."""
    return weights.mean(0, dtype=_wide(weights.dtype))


def _row_sums(weights: Tensor) -> Tensor:
    """(n_docs,), sums over the terms."""
    return weights.sum(1, dtype=_wide(weights.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
