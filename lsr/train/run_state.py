"""The tensors of a checkpoint: weights, the optimizer's moments, and the regularizers' counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lsr.errors import TrainingError
from lsr.train.objective import Penalty
from lsr.train.student import Student

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")

Tensors = dict[str, dict[str, Tensor]]


def pack_tensors(
    student: Student, optimizer: torch.optim.Optimizer, penalties: Mapping[str, Penalty], *, with_idf: bool
) -> Tensors:
    """All tensors that a run needs to resume, as {file: {name: tensor}}.

    Args:
        student: The model in training.
        optimizer: Its optimizer.
        penalties: Regularizers by side.
        with_idf: Include the query table. This is needed if the table isn't trained but computed from the data.
    """
    moments = {
        f"{name}|{key}": value.reshape(-1) if value.dim() == 0 else value
        for parameter, name in student.names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    counts = {f"{side}.{key}": value for side, p in penalties.items() for key, value in p.df.state_dict().items()}
    counts |= {f"{side}.pressure": p.pressure for side, p in penalties.items() if p.settings.target}
    if with_idf:
        counts["idf"] = student.table.weight
    weights: dict[str, Tensor] = {name: parameter for parameter, name in student.names.items()}
    return {"weights": weights, "optimizer": moments, "counts": counts}


@torch.no_grad()
def restore_tensors(
    tensors: Tensors,
    student: Student,
    optimizer: torch.optim.Optimizer,
    penalties: Mapping[str, Penalty],
    *,
    with_idf: bool,
    where: str,
) -> None:
    """Restore the tensors that `pack_tensors` returned.

    Args:
        tensors: The tensors of the checkpoint.
        student: As for `pack_tensors`.
        optimizer: As for `pack_tensors`.
        penalties: As for `pack_tensors`.
        with_idf: As for `pack_tensors`.
        where: The run's folder, for messages.

    Raises:
        KeyError, RuntimeError, ValueError: The tensors don't fit.
        TrainingError: The checkpoint is of an earlier version, which computed IDF differently.
    """
    weights, moments, counts = (tensors[part] for part in ("weights", "optimizer", "counts"))
    for side, penalty in penalties.items():
        penalty.df.load_state_dict({key: counts[f"{side}.{key}"].to(student.idf.device) for key in ("active", "seen")})
        if penalty.settings.target:
            penalty.pressure = counts[f"{side}.pressure"].to(student.idf.device)
    if with_idf:
        if "idf" not in counts:
            raise TrainingError(
                f"{where} has a run of an earlier version, in which the queries' IDF had a mean of 1; take another "
                "folder, or resume with that version"
            )
        student.table.weight.copy_(counts["idf"])
    if unknown := {slot.rpartition("|")[0] for slot in moments} - set(student.names.values()):
        raise ValueError(f"moments of {min(unknown)}, which is not trained")
    for parameter, name in student.names.items():
        parameter.copy_(weights[name])
        slots = {key: moments[slot] for key in _MOMENTS if (slot := f"{name}|{key}") in moments}
        if slots:
            optimizer.state[parameter] = {
                key: value.reshape(()) if key == "step" else value.to(parameter) for key, value in slots.items()
            }
