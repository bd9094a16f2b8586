"""Find settings that have no effect, to report them before a run begins."""

from __future__ import annotations

from collections.abc import Iterator

from lsr.train.settings import RegularizerSettings, TrainSettings

_FIXED = ("lexical", "epic", "sparta", "deepct", "tilde")  # heads with pooling and saturation of their own


def idle_settings(settings: TrainSettings) -> list[str]:
    """Settings that have no effect because of other settings, with the reason. Default values aren't listed."""
    return [*_of_the_model(settings), *_of_the_losses(settings), *_of_the_regularizers(settings), *_of_steps(settings)]


def _of_the_model(settings: TrainSettings) -> Iterator[str]:
    head, optimizer = settings.model.head, settings.optimizer
    if settings.model.pooling != "max" and head in (*_FIXED, "expansion"):
        yield f"model.pooling {settings.model.pooling}: the head {head} has its own pooling"
    if settings.model.saturation != "log1p" and head in _FIXED:
        has = "none" if head in ("lexical", "deepct") else "its own"
        yield f"model.saturation {settings.model.saturation}: the head {head} has {has}"
    if head in ("masked-lm", "causal-lm", "tilde") and settings.queries.kind not in ("table", "projected"):
        own = "neither the head nor the queries have weights of their own"
        if optimizer.head_lr is not None:
            yield f"optimizer.head_lr {optimizer.head_lr:g}: {own}"
        if optimizer.term_lr is not None:
            yield f"optimizer.term_lr {optimizer.term_lr:g}: {own}"


def _of_the_losses(settings: TrainSettings) -> Iterator[str]:
    losses, data = settings.losses, settings.data
    imitates = losses.kl or losses.margin_mse or losses.plugins
    if settings.teachers and not imitates:
        yield "teachers: neither kl nor margin_mse has a weight"
    if losses.alone and not settings.lexical:
        yield f"losses.alone {losses.alone:g}: it has no meaning without lexical"
    if losses.temperature != 1 and not (losses.info_nce or losses.bank):
        yield f"losses.temperature {losses.temperature:g}: neither info_nce nor bank has a weight"
    if losses.teacher_scores != "min-max" and not losses.kl:
        yield f"losses.teacher_scores {losses.teacher_scores}: kl has no weight"
    if losses.scale != type(losses)(kl=1, teacher_scores=losses.teacher_scores).scale and not losses.kl:
        yield f"losses.scale {losses.scale:g}: kl has no weight"
    if losses.margin_pairs != "positive" and not losses.margin_mse:
        yield f"losses.margin_pairs {losses.margin_pairs}: margin_mse has no weight"
    if not data.negatives:
        own_only = not settings.teachers or any(teacher.of_own for teacher in settings.teachers)
        if losses.margin_mse:
            yield "losses.margin_mse: data.negatives is 0, so no query has a pair"
        if losses.kl and own_only:
            yield "losses.kl: data.negatives is 0, so no query has two candidates"
        if losses.info_nce and data.queries == 1:
            yield "losses.info_nce: data.queries is 1 and data.negatives 0, so no query has a negative"


def _of_the_regularizers(settings: TrainSettings) -> Iterator[str]:
    sides = {"documents_regularizer": settings.documents_regularizer}
    kind, standard, steps = settings.queries.kind, RegularizerSettings(), settings.optimizer.steps
    if kind == "encoded":
        sides["queries_regularizer"] = settings.queries_regularizer
    elif settings.queries_regularizer != standard:
        yield f"queries_regularizer: queries of the kind {kind} have no weights to regularize"
    for name, side in sides.items():
        if side.ramp and not side.weight:
            yield f"{name}.ramp {side.ramp}: its weight is 0"
        if side.ramp and side.schedule == "constant":
            yield f"{name}.ramp {side.ramp}: its schedule is constant"
        elif side.weight and side.ramp >= steps:
            yield f"{name}.weight {side.weight:g} is never reached: it grows for {side.ramp} of {steps} steps"
        if side.threshold != standard.threshold and side.kind not in ("l0_flops", "group"):
            yield f"{name}.threshold {side.threshold}: only l0_flops and group have one, not {side.kind}"


def _of_steps(settings: TrainSettings) -> Iterator[str]:
    data, steps = settings.data, settings.optimizer.steps
    if settings.optimizer.warmup >= steps:
        yield f"optimizer.lr is never reached: it grows for {settings.optimizer.warmup} of {steps} steps"
    if not data.refresh_every:
        if data.refresh_count != 30:
            yield f"data.refresh_count {data.refresh_count}: refresh_every is 0"
        if data.refresh_share is not None:
            yield f"data.refresh_share {data.refresh_share:g}: refresh_every is 0"
    elif data.refresh_every >= steps + (settings.pretrain.steps if settings.pretrain else 0):
        yield f"data.refresh_every {data.refresh_every}: there are only {steps} steps"
    for number, source in enumerate(data.sources):
        if source.split != "train" and source.path.endswith((".jsonl", ".jsonl.gz", ".parquet")):
            yield f"data.sources[{number}].split {source.split}: a file has no splits"
