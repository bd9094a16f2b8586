"""What stands in a run's folder beside its checkpoints: its settings, which are held to, its log, the model's card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lsr.console import note
from lsr.durable import take_name
from lsr.errors import TrainingError
from lsr.train.checkpoints import Checkpoints
from lsr.train.settings import TrainSettings

_GONE = object()  # a setting that there is no longer
# What changes neither the steps that are behind a run nor what those to come are made of.
_CHANGEABLE = (
    "optimizer.steps",
    "checkpoint_every",
    "validation.every",
    "validation.patience",
    "batch_tokens",
    "device",
)


def hold_settings(folder: Path, settings: TrainSettings, checkpoints: Checkpoints, *, first: bool) -> None:
    """Refuse a folder with another run; remember this one's settings.

    Args:
        folder: The run's.
        settings: Of the run that is about to begin or to go on.
        checkpoints: Those in the folder.
        first: Whether this is the process that writes.

    Raises:
        TrainingError: There is a run of other settings, or they can't be read.
    """
    path, now = folder / "settings.json", json.dumps(asdict(settings), indent=1, sort_keys=True)
    if not (path.is_file() and checkpoints.paths()):
        if first:
            if path.is_file() and path.read_text() != now:  # what another run left before its first checkpoint
                for left in (*folder.glob("best*"), *folder.glob("negatives-*")):
                    shutil.rmtree(left)
            _replace(path, now)
        return
    here = json.loads(now)
    try:
        then = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise TrainingError(
            f"{path}: the settings of the run that is here can't be read ({error}); delete this file if they are "
            "those of now, or take another folder"
        ) from None
    other = _differing(then, here)
    if fixed := [key for key in other if key not in _CHANGEABLE]:
        raise TrainingError(
            f"{folder} has a run with other settings ({', '.join(fixed)}); take another folder or delete it. "
            f"Of a run that goes on these may change: {', '.join(_CHANGEABLE)}"
        )
    if other and first:
        _replace(path, now)
        if "optimizer.steps" in other:
            before, steps = then["optimizer"]["steps"], settings.optimizer.steps
            decays = settings.optimizer.decay != "constant"
            fall = ", and rates fall to the new end from now on" if decays else ""
            note(f"this run goes on to {steps:,} steps instead of {before:,}{fall}")


def _differing(then: Any, here: Any, name: str = "") -> list[str]:
    """Which of a run's settings aren't those of now; a key that they don't have came with a later version."""
    if isinstance(then, dict) and isinstance(here, dict):
        return [
            key
            for part, value in then.items()
            for key in _differing(value, here.get(part, _GONE), f"{name}.{part}" if name else part)
        ]
    if isinstance(then, list) and isinstance(here, list) and len(then) == len(here):
        several = (_differing(*pair, f"{name}[{i}]") for i, pair in enumerate(zip(then, here, strict=True)))
        return [key for found in several for key in found]
    return [] if then == here else [name]


def tell_on_card(card: Path, settings: TrainSettings, step: int) -> None:
    """Add to a model card how the model came about; of files their names, not where they lie here."""
    sources = ", ".join(Path(source.path).name for source in settings.data.sources)
    given = asdict(settings)
    parts = {name: given[name] for name in ("losses", "documents_regularizer", "queries_regularizer", "optimizer")}
    lines = [
        "## Training",
        "",
        f"{step} steps of lsr from {Path(settings.model.checkpoint).name} on {sources}.",
        "",
        "```json",
        json.dumps(parts, indent=1),
        "```",
        "",
    ]
    card.write_text("\n".join([card.read_text(encoding="utf-8"), *lines]), encoding="utf-8")


def open_log(path: Path, step: int) -> Any:
    """The log, to write on after a step; what a killed run wrote beyond its last checkpoint is cut off."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # the line that the kill cut
            continue
    _replace(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def _replace(path: Path, content: str) -> None:
    """Write a file anew, as a whole: other processes may read it."""
    work = path.with_name(path.name + ".partial")
    work.write_text(content, encoding="utf-8")
    take_name(work, path)


def write_line(log: Any, values: Mapping[str, Any]) -> None:
    """Add values to the log, of the process that has one."""
    if log is not None:
        log.write(json.dumps(values) + "\n")
        log.flush()
