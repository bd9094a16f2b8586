"""AdamW with a learning rate for each kind of weight, and the schedule of the rates."""

from __future__ import annotations

import math

import torch
from torch import nn

from lsr.train.settings import OptimizerSettings
from lsr.train.student import Student


def make_optimizer(settings: OptimizerSettings, student: Student) -> torch.optim.AdamW:
    """Group the trained parameters by learning rate and weight decay. A group's entry "rate" is its full learning
    rate.
    """
    heads = {id(p) for head in student.heads for p in head.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, name in student.names.items():
        rate = settings.lr
        if id(parameter) in heads or name.startswith("table"):
            rate = settings.lr if settings.head_lr is None else settings.head_lr
            if (parameter.dim() == 1 and len(parameter) == student.model.n_terms) or parameter.numel() <= 2:
                rate = rate if settings.term_lr is None else settings.term_lr
        decay = settings.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "rate": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
    )


def rate_factor(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Factor of all learning rates at a step: warm-up, then decay.

    Args:
        settings: Warm-up and kind of decay.
        step: The step, from 0.
        steps: The step at which the decay ends.
    """
    if step < settings.warmup:
        return step / settings.warmup  # 0 at the first step, like the schedules of transformers
    left = 1 - (step - settings.warmup) / max(1, steps - settings.warmup)
    if settings.decay == "linear":
        return max(left, 0.01)
    return max(0.5 * (1 - math.cos(math.pi * left)), 0.01) if settings.decay == "cosine" else 1.0
