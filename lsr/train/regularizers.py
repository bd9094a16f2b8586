"""Sparsity penalties: pure functions of a batch's term weights, and the ramp of their strength.

Weights are (n_docs, n_terms) and never negative; every penalty is a scalar of their dtype, float32 for those in half
precision, where the squares of small means would vanish. Queries are regularized by the same functions. How strongly a
penalty counts, its lambda, belongs to the trainer; so raw and weighted values can both be logged. Not to be mixed up
with the FLOPS that papers report of a finished model, which is `SparseMatrix.expected_overlap`.

**Lambdas of other libraries.** Means here are flat, over all rows of the batch, positives and negatives alike. That is
what sentence-transformers' FlopsLoss and naver/splade's Hugging Face trainer do, so their lambdas carry over as they
are; naver's older trainer takes the mean of the positives' value and the negatives', the same where both are alike.
OpenSearch's trainer takes the mean over the queries for each of the G places in a query's group of documents and adds
the places up: where they are alike its penalty is G times larger, so its lambda has to be multiplied by G here (it
multiplies by the number of processes besides).

**A sample of the vocabulary.** FLOPS, L1 and their kin are sums over terms, so they can be had from S of the V columns:
with columns drawn uniformly, V / S times the value is an unbiased estimate of the whole, and so is its gradient. The
caller multiplies. `l0_flops` and `anti_zero` look at whole rows besides; their docstrings say what they need.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEDULES = ("quadratic", "linear", "constant")


def flops(weights: Tensor) -> Tensor:
    """FLOPS: sum_j ( mean_i w_ij )^2 (Paria et al. 2020, arXiv 2004.05665).

    Squares make it dear that many documents share a term and cheap that each has its own, which shortens the longest
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
    """IDF-aware FLOPS: cheap for rare terms, dear for common ones (arXiv 2411.04403).

    There are two views of the same penalty, and they differ in where the idf is:

    * "document": the query brings it, q_j = idf_j, as with the inference-free query encoder. Then `weights` are w, what
      the document encoder makes, and the penalty is plain FLOPS on w. That is the authors' released code: nothing in
      the penalty knows of the idf, and yet a common term pays the full price for a small share of the score.
    * "query": queries are 0/1, so the document's weights have to hold the idf: `weights` are u, u_j = idf_j w_j, and
      the penalty is sum_j ( mean_i u_ij / idf_j )^2.

    Both give the same number for the same ranking: idf_flops(idf * w, "query") = idf_flops(w, "document"). Multiplying
    by the idf instead of dividing, as is sometimes printed, would favour common terms.

    Args:
        weights: (n_docs, n_terms) float, w or u.
        idf: (n_terms,) float, of the same columns.
        view: "document" or "query".
        floor: In the "query" view an idf below this counts as this: a term that every document has is dear, but its
            price has to be finite.

    Raises:
        ValueError: Another view.
    """
    if view == "document":
        return flops(weights)
    if view == "query":
        return (_means(weights) / idf.clamp(min=floor)).square().sum()
    raise ValueError(f'view must be "document" or "query", got {view!r}')


class DocumentFrequency:
    """In which share of the documents each term is active, followed while the model changes.

    A mean that forgets: every term remembers about the last `window` documents in which it was looked at, so batches of
    any size and samples of the columns can be mixed. Needs no pass over the collection.

    Args:
        n_terms: Size of the vocabulary.
        window: Documents that count; older ones fade.
        device: Where the counts are kept.
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
            weights: (n_docs, n_terms) float; only which of them are above zero counts.
            terms: (n_columns,) int64, without repeats: the terms of the columns, if `weights` is a sample of them.
        """
        columns = slice(None) if terms is None else terms
        fading = (1 - 1 / self.window) ** len(weights)
        active = (weights.detach() > 0).sum(0).to(self._active)
        self._active[columns] = self._active[columns] * fading + active
        self._seen[columns] = self._seen[columns] * fading + len(weights)

    def fractions(self, terms: Tensor | None = None) -> Tensor:
        """(n_terms,) float32 between 0 and 1; 0 for a term that was never looked at.

        Args:
            terms: (n_columns,) int64: only of these terms.
        """
        columns = slice(None) if terms is None else terms
        return self._active[columns] / self._seen[columns].clamp(min=1)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep: "active" and "seen", (n_terms,) float32 each."""
        return {"active": self._active, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: It is of another vocabulary.
        """
        for name, mine in self.state_dict().items():
            if state[name].shape != mine.shape:
                raise ValueError(f"counts of {len(state[name])} terms, but there are {len(mine)} here")
            mine.copy_(state[name])


def df_flops(weights: Tensor, df: Tensor, a: float = 0.1, b: float = 10.0) -> Tensor:
    """DF-FLOPS: sum_j ( d_j mean_i w_ij )^2, d_j = 1 / (1 + (df_j^(ln 2 / ln a) - 1)^b) (arXiv 2505.15070).

    Only terms that many documents have are pressed down: d is 0.5 at df = a, near 1 above it and near 0 below. It
    shortens the longest posting lists, which decide the slowest queries.

    Args:
        weights: (n_docs, n_terms) float.
        df: (n_terms,) float, the share of documents with the term; of `DocumentFrequency`. Has no gradient.
        a: The share at which the price is half.
        b: How sharp the step is.

    Raises:
        ValueError: `a` is not between 0 and 1, or `b` is not above 0.
    """
    if not (0 < a < 1 and b > 0):
        raise ValueError(f"a must lie between 0 and 1 and b above 0, got a = {a}, b = {b}")
    # In float32: the power of a rare term overflows half precision. Beyond float32 it is inf, and d is 0 as it should.
    shares = df.detach().float().clamp(0, 1)
    price = 1 / (1 + (shares.pow(math.log(2) / math.log(a)) - 1).pow(b))
    means = _means(weights)
    return (means * price.to(means.dtype)).square().sum()


def l0_flops(weights: Tensor, threshold: int, active: Tensor | None = None) -> Tensor:
    """FLOPS of the rows with more than `threshold` active terms (l0 mask, arXiv 2504.14839).

    Documents that are sparse enough are left alone. The mask has no gradient, and the mean is over all rows, also the
    masked ones.

    Args:
        weights: (n_docs, n_terms) float.
        threshold: Active terms that a row may have for nothing.
        active: (n_docs,), active terms of the whole rows; needed where `weights` is a sample of the columns.
    """
    if active is None:
        active = (weights.detach() > 0).sum(1)
    return flops(weights * (active > threshold).unsqueeze(1))


def anti_zero(weights: Tensor) -> Tensor:
    """Keeps rows from dying: mean_i 1 / (1 + sum_j w_ij)^2, between 0 and 1.

    1 for a batch of dead rows, 1e-4 and nearly flat for rows whose weights sum up to 99. The usual form, one over the
    square of the sum of all weights (naver/splade), sees only whether the whole batch dies: one dead row among others
    gets no more lift than they do, and when all are dead it is infinite. Here each row stands for itself, and the
    steepest slope is -2. Something has to pass on what it says: a weight that relu cut off has no gradient of its own.

    Args:
        weights: (n_docs, n_terms) float; a sample of S of V columns is to be multiplied by V / S beforehand.
    """
    return (1 + _row_sums(weights)).pow(-2).mean()


def schedule(kind: str, step: int, steps: int) -> float:
    """What a lambda is multiplied by at a step; it grows from 0 to 1 in `steps` steps and stays there.

    Args:
        kind: "quadratic", min(1, step / steps)^2, as in SPLADE; "linear"; or "constant", which is 1.
        step: The step, from 0.
        steps: Length of the ramp; 0 for none.

    Raises:
        ValueError: Another kind, or a negative number.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"the schedule must be one of {', '.join(SCHEDULES)}, got {kind!r}")
    if step < 0 or steps < 0:
        raise ValueError(f"steps are not negative, got step {step} of {steps}")
    if kind == "constant" or step >= steps:
        return 1.0
    return (step / steps) ** (2 if kind == "quadratic" else 1)


def _means(weights: Tensor) -> Tensor:
    """(n_terms,), over the rows; nothing as large as the weights is copied."""
    return weights.mean(0, dtype=_wide(weights.dtype))


def _row_sums(weights: Tensor) -> Tensor:
    """(n_docs,), over the terms."""
    return weights.sum(1, dtype=_wide(weights.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
