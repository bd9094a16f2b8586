"""The training objective: ranking losses of a batch, and regularizers. Unweighted values are returned for the log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lsr import plugins
from lsr.errors import TrainingError
from lsr.train import losses, regularizers
from lsr.train.batches import Batch
from lsr.train.settings import LossSettings, RegularizerSettings
from lsr.train.teachers import PairTeacher, Teacher

Values = dict[str, Tensor]


def ranking_loss(
    scores: Tensor, batch: Batch, settings: LossSettings, teachers: Sequence[Teacher], examples: bool = False
) -> tuple[Values, Tensor]:
    """Ranking losses of a batch.

    Args:
        scores: (n_queries, n_documents) float, scores of all pairs.
        batch: The batch.
        settings: Weights of the losses.
        teachers: Models to imitate; without models, the scores in the examples are imitated.
        examples: Imitate both the models and the scores in the examples.

    Returns:
        Unweighted losses by name, and their weighted sum.

    Raises:
        TrainingError: There is nothing to imitate.
    """
    raw: Values = {}
    taught: Tensor | None = None
    if settings.info_nce:
        weights = None if batch.weights is None else batch.weights.to(scores.device)
        raw["info_nce"] = losses.info_nce(scores, batch.positives.to(scores.device), settings.temperature, weights)
    if settings.kl or settings.margin_mse or (settings.plugins and (teachers or batch.scores is not None)):
        columns = batch.columns.to(scores.device)
        there, own = columns >= 0, scores.gather(1, columns.clamp_min(0))
        every, taught = _taught(batch, teachers, examples, scores.device)
        normalize = settings.teacher_scores
        if settings.kl and every is not None:
            raw["kl"] = losses.kl(scores, losses.ensemble(every, None, settings.scale, normalize=normalize))
        elif settings.kl:
            target = losses.ensemble(taught, there, settings.scale, normalize=normalize)
            raw["kl"] = losses.kl(own, target, there & ~target.isnan())
        if settings.margin_mse:
            mean = taught.nanmean(0)
            raw["margin_mse"] = losses.margin_mse(
                own, mean.nan_to_num(), there & ~mean.isnan(), every_pair=settings.margin_pairs == "all"
            )
    total = scores.new_zeros(())
    for name, value in raw.items():
        total = total + getattr(settings, name) * value
    for name, weight in settings.plugins.items():
        raw[name] = _of_plugin(plugins.LOSSES, name, scores, batch, taught)
        total = total + weight * raw[name]
    return raw, total


def _of_plugin(group: str, name: str, *arguments: object) -> Tensor:
    """The value of another package's loss or regularizer; see `lsr.plugins` for its arguments."""
    value = plugins.load(group, name, TrainingError)(*arguments)
    if not isinstance(value, Tensor) or value.dim():
        got = f"a tensor of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(f"{name!r} of {group} must return a tensor of one number without dimensions, got {got}")
    return value


def _taught(
    batch: Batch, teachers: Sequence[Teacher], examples: bool, device: torch.device
) -> tuple[Tensor | None, Tensor]:
    """Teachers' scores of all pairs, (n_teachers, n_queries, n_documents) or None, and of each query's own documents.

    The first result is None if scores from the examples are used, or if a teacher scores single pairs.
    """
    brought = []
    if examples or not teachers:
        if batch.scores is None:
            raise TrainingError(
                "kl and margin_mse need teachers, or examples that all have scores of the same number of teachers"
            )
        brought = [batch.scores.to(device)]
    brought += [
        _own_scores(batch, teacher)[None].to(device) for teacher in teachers if isinstance(teacher, PairTeacher)
    ]
    wide = [teacher for teacher in teachers if not isinstance(teacher, PairTeacher)]
    if not wide:
        return None, torch.cat(brought)
    every = torch.stack([torch.from_numpy(teacher.scores(batch.queries, batch.documents)) for teacher in wide])
    every, columns = every.to(device), batch.columns.clamp_min(0).to(device)
    own = every.gather(2, columns.expand(len(wide), -1, -1))
    return None if brought else every, torch.cat([own, *brought])


def _own_scores(batch: Batch, teacher: PairTeacher) -> Tensor:
    """(n_queries, n_candidates) float32, NaN where a query has fewer documents."""
    there = batch.columns >= 0
    rows, _ = there.nonzero(as_tuple=True)
    pairs = [
        (batch.queries[query], batch.documents[document])
        for query, document in zip(rows.tolist(), batch.columns[there].tolist(), strict=True)
    ]
    found = torch.full(there.shape, torch.nan)
    found[there] = torch.from_numpy(teacher.pair_scores(pairs))
    return found


_REACTION = 0.05  # share of the error added to the logarithm of a penalty's weight at each step
_MOST = 12.0  # largest change of that logarithm


class Penalty:
    """The regularizer of one side.

    With a target length, a controller adapts the weight. Let e be the logarithm of the ratio of a batch's mean length
    to the target, clipped to -1..1; the weight is multiplied by exp(e + 0.05 * sum of e over the steps after the ramp).

    Args:
        settings: Kind and weight.
        idf: (n_terms,) float32, for "idf_flops".
        view: As for `regularizers.idf_flops`.
    """

    def __init__(self, settings: RegularizerSettings, idf: Tensor, view: str) -> None:
        self.settings, self._idf, self._view = settings, idf, view
        self.df = regularizers.DocumentFrequency(len(idf), device=idf.device)
        self.pressure = torch.zeros(1, device=idf.device)  # the sum of e

    def __call__(self, weights: Tensor, terms: Tensor | None, step: int) -> tuple[Values, Tensor]:
        """The penalty of a batch's weights.

        Args:
            weights: (n_docs, n) float32.
            terms: (n,) int64, the terms of the columns if they are a sample; the penalty is scaled to all terms.
            step: The step, for the ramp.

        Returns:
            Unweighted values by name, and the term to add to the loss.
        """
        settings = self.settings
        share = 1.0 if terms is None else len(self._idf) / max(1, len(terms))
        active = (weights.detach() > 0).sum(1) * share
        match settings.kind:
            case "flops":
                value = regularizers.flops(weights)
            case "l1":
                value = regularizers.l1(weights)
            case "idf_flops":
                idf = self._idf if terms is None else self._idf[terms]
                value = regularizers.idf_flops(weights, idf, view=self._view)
            case "df_flops":
                self.df.update(weights, terms)
                value = regularizers.df_flops(weights, self.df.fractions(terms))
            case "l0_flops":
                value = regularizers.l0_flops(weights, settings.threshold, active)
            case "group":
                self.df.update(weights, terms)
                value = regularizers.group(weights, self._most_used(terms))
            case other:
                value = _of_plugin(plugins.REGULARIZERS, other, weights)
        value = value * share
        raw: Values = {"terms": active.float().mean(), settings.kind: value}
        weight = settings.weight * regularizers.schedule(settings.schedule, step, settings.ramp)
        total = weight * value
        if settings.target and step >= settings.ramp:
            raw["weight"] = weight * self._control(raw["terms"])
            total = raw["weight"] * value
        if settings.anti_zero:
            raw["anti_zero"] = regularizers.anti_zero(weights * share)
            total = total + settings.anti_zero * raw["anti_zero"]
        return raw, total

    def _most_used(self, terms: Tensor | None) -> Tensor | None:
        """(n,) bool, whether a term is among the `threshold` terms with the highest document frequencies."""
        shares, count = self.df.fractions(), self.settings.threshold
        if not count:
            return None
        least = shares.topk(min(count, len(shares))).values[-1]
        return (shares if terms is None else shares[terms]) >= least

    def _control(self, length: Tensor) -> Tensor:
        """Factor of the weight, (), for a batch of this mean length."""
        error = (length.clamp(min=1e-3) / self.settings.target).log().clamp(-1, 1)
        self.pressure = (self.pressure + _REACTION * error).clamp(-_MOST, _MOST)
        return (self.pressure[0] + error).exp()
