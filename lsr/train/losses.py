"""Ranking losses: pure functions of (n_queries, n_docs) scores to a scalar.

`info_nce` takes the scores of all documents of a batch for all its queries; `margin_mse` and `kl` take the scores of
each query's own candidates. Half precision is converted to float32. A mask marks absent documents; their values, even
infinities and NaN, affect neither the loss nor the gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def info_nce(scores: Tensor, positives: Tensor, temperature: float = 1.0, weights: Tensor | None = None) -> Tensor:
    """InfoNCE over a batch: each positive against all negatives of the batch (arXiv 1807.03748).

        mean over queries of mean over p of  -log( e^(s_p / T) / (e^(s_p / T) + sum over negatives n of e^(s_n / T)) )

    Each positive is compared only with the negatives, not with other positives. Other queries' documents serve as
    negatives; hard negatives are additional columns. Mark every document known to be relevant to a query in the query's
    row: unmarked documents count as negatives.

    Args:
        scores: (n_queries, n_docs) float; -inf excludes a document.
        positives: (n_queries, n_docs) bool, at least one in each row.
        temperature: T; sentence-transformers' `scale` is 1 / T.
        weights: (n_queries, n_docs) float, not negative. They multiply a negative's e^(s / T) and a positive's loss; 0
            leaves a document out. See `lsr.train.pooling`.

    Raises:
        ValueError: A query has no positive, shapes differ, or the temperature is not above 0.
    """
    _require_positive(temperature)
    _require_same_shape(scores, positives, "positives")
    if not bool(positives.any(1).all()):
        raise ValueError(f"query {int((~positives.any(1)).nonzero()[0])} of the batch has no positive")
    logits = _wide(scores) / temperature
    if weights is not None:
        _require_same_shape(scores, weights, "weights")
        logits = logits + weights.to(logits).log().masked_fill(positives, 0)
    # Not -inf: a row that has only -inf would have a gradient of NaN.
    lowest = torch.finfo(logits.dtype).min
    negatives = logits.masked_fill(positives | logits.isneginf(), lowest).logsumexp(1, keepdim=True)
    shown = logits.masked_fill(~positives, 0)
    each = torch.nn.functional.softplus(negatives - shown).masked_fill(~positives, 0)
    if weights is not None:
        each = each * weights.to(each)
    return (each.sum(1) / positives.sum(1)).mean()


def margin_mse(scores: Tensor, teacher: Tensor, mask: Tensor | None = None, *, every_pair: bool = False) -> Tensor:
    """MarginMSE: mean of ( (s_0 - s_i) - (t_0 - t_i) )^2 over the candidates i > 0 (arXiv 2010.02666).

    The student learns the teacher's score differences between positive and negatives, not its absolute scores. With
    `every_pair` it also learns differences among negatives. The mean is then over all ordered pairs of candidates,
    including pairs of a candidate with itself, as in naver/splade's trainer of SPLADE-v3. So the loss weights of that
    trainer can be used here.

    Args:
        scores: (n_queries, n_candidates) float, candidate 0 the positive.
        teacher: (n_queries, n_candidates) float, the teacher's scores of the same candidates; without gradient.
        mask: (n_queries, n_candidates) bool, False for absent candidates; a query whose positive is absent is left out.
        every_pair: Also compare negatives with each other.

    Returns:
        A scalar; 0 if there is no pair.

    Raises:
        ValueError: The shapes differ.
    """
    student, target, present = _checked(scores, teacher, mask)
    if every_pair:
        present = present & present[:, :1]
        apart = student - target
        apart = apart.unsqueeze(2) - apart.unsqueeze(1)
        both = present.unsqueeze(2) & present.unsqueeze(1)
        return apart.square().masked_fill(~both, 0).sum() / both.sum().clamp(min=1)
    pairs = present[:, 1:] & present[:, :1]
    apart = (student[:, :1] - student[:, 1:]) - (target[:, :1] - target[:, 1:])
    return apart.square().masked_fill(~pairs, 0).sum() / pairs.sum().clamp(min=1)


def kl(scores: Tensor, teacher: Tensor, mask: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """KL divergence between the teacher's and the student's softmax over each query's candidates.

        mean over queries of T^2 * sum over c of  p_c (log p_c - log q_c),   p = softmax(t / T), q = softmax(s / T)

    Args:
        scores: (n_queries, n_candidates) float.
        teacher: (n_queries, n_candidates) float; without gradient.
        mask: (n_queries, n_candidates) bool, False for absent candidates, which both softmaxes leave out.
        temperature: T. The factor T^2 keeps the size of gradients (Hinton et al., arXiv 1503.02531).

    Returns:
        A scalar; a query with fewer than two candidates adds 0.

    Raises:
        ValueError: The shapes differ, or the temperature is not above 0.
    """
    _require_positive(temperature)
    student, target, present = _checked(scores, teacher, mask)
    lowest = torch.finfo(student.dtype).min
    q = (student / temperature).masked_fill(~present, lowest).log_softmax(1)
    p = (target / temperature).masked_fill(~present, lowest).log_softmax(1)
    each = (p.exp() * (p - q)).masked_fill(~present, 0)
    return each.sum(1).mean() * temperature**2


def term_recall(weights: Tensor, asked: Tensor, own: Tensor) -> Tensor:
    """Squared error of term weights as predictions of the terms of a query (DeepCT, arXiv 1910.10687).

        mean over queries and the own terms j of their documents of ( w_j - [j is in the query] )^2

    Args:
        weights: (n_queries, n_terms) float, weights of a relevant document for each query.
        asked: (n_queries, n_terms) bool, the query's terms.
        own: (n_queries, n_terms) bool, the document's own terms; other terms are ignored.

    Returns:
        A scalar; 0 if no document has a term.
    """
    apart = _wide(weights) - asked.to(weights.dtype)
    return apart.square().masked_fill(~own, 0).sum() / own.sum().clamp(min=1)


def keep_heaviest(weights: Tensor, k: int, among: slice = slice(None)) -> Tensor:
    """Set all but the k largest weights of each row to 0; the kept weights keep their gradients.

    Args:
        weights: (n_rows, n_columns) float, not negative.
        k: Number of weights to keep; more are kept if several equal the k-th largest.
        among: The columns from which the k largest are taken. Weights in other columns are kept if they are at least as
            large as the k-th.
    """
    columns = weights.detach()[:, among]
    if k >= columns.shape[1]:
        return weights
    least = columns.topk(k, 1).values[:, -1:]
    return weights * (weights >= least)


Normalization = Literal["min-max", "standard", "raw"]


def ensemble(
    teachers: Tensor, mask: Tensor | None = None, scale: float = 30.0, *, normalize: Normalization = "min-max"
) -> Tensor:
    """Combine teachers of different scales: the heterogeneous ensemble of arXiv 2411.04403.

    Each teacher's scores are min-max normalised over a query's candidates, the mean is taken over the teachers that
    scored a candidate, and the result is multiplied by `scale`, for use in `kl`. If a teacher's scores for all
    candidates are equal, each is set to 0.5.

    Args:
        teachers: (n_teachers, n_queries, n_docs) float; values that aren't finite are treated as missing.
        mask: bool of the same shape, or of a shape that broadcasts to it; False for missing scores.
        scale: Larger values make the teacher's softmax sharper.
        normalize: "min-max" as above; "standard" scales a teacher's scores for a query to mean 0 and standard deviation
            1 (all 0 if they are equal); "raw" keeps the scores, as for SPLADE-v3's cross-encoders.

    Returns:
        (n_queries, n_docs) float, between 0 and `scale` if min-max normalised. Where no teacher has a score, the result
        is NaN: use `kl` with `mask=~result.isnan()`.

    Raises:
        ValueError: `teachers` doesn't have three dimensions.
    """
    if teachers.dim() != 3:
        raise ValueError(f"teachers must be (n_teachers, n_queries, n_docs), got {tuple(teachers.shape)}")
    given = _wide(teachers.detach())
    present = given.isfinite()
    if mask is not None:
        present = present & mask
    if normalize == "standard":
        count = present.sum(2, keepdim=True).clamp(min=1)
        apart = (given - given.masked_fill(~present, 0).sum(2, keepdim=True) / count).masked_fill(~present, 0)
        deviation = (apart.square().sum(2, keepdim=True) / count).sqrt()
        alike = deviation <= 1e-6 * given.masked_fill(~present, 0).abs().amax(2, keepdim=True)
        given = (apart / deviation.masked_fill(alike, 1)).masked_fill(alike, 0)
    elif normalize == "min-max":
        low = given.masked_fill(~present, torch.inf).amin(2, keepdim=True)
        high = given.masked_fill(~present, -torch.inf).amax(2, keepdim=True)
        alike = high <= low
        given = ((given - low) / (high - low).masked_fill(alike, 1)).masked_fill(alike, 0.5)
    total = given.masked_fill(~present, 0).sum(0)
    return scale * total / present.sum(0)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _checked(scores: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and mask, with zeros for absent candidates, whose infinities would spoil gradients."""
    _require_same_shape(scores, teacher, "teacher")
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    _require_same_shape(scores, mask, "mask")
    student = _wide(scores).masked_fill(~mask, 0)
    return student, teacher.detach().to(student).masked_fill(~mask, 0), mask


def _require_same_shape(scores: Tensor, other: Tensor, name: str) -> None:
    if scores.dim() != 2 or scores.shape != other.shape:
        raise ValueError(f"scores are {tuple(scores.shape)}, but {name} is {tuple(other.shape)}")


def _require_positive(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
