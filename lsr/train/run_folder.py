"""The files of a run's folder other than checkpoints: settings, log and model card."""

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
from lsr.train.settings import TrainSettings, ValidationSettings

_GONE = object()  # a setting that no longer exists
# Settings that may change when a run resumes.
_CHANGEABLE = (
    "optimizer.steps",
    "checkpoint_every",
    "soup",
    "validation.every",
    "validation.patience",
    "batch_tokens",
    "device",
)
# Mappings with keys that users choose: a missing key doesn't mean that another version of lsr wrote the file.
_BY_NAME = ("losses.plugins",)


def hold_settings(folder: Path, settings: TrainSettings, checkpoints: Checkpoints, *, first: bool) -> None:
    """Store a run's settings, or check them against those of the run in the folder.

    Args:
        folder: The run's folder.
        settings: Settings of the run that starts or resumes.
        checkpoints: The checkpoints in the folder.
        first: Whether this is the process that writes files.

    Raises:
        TrainingError: The folder has a run with other settings, or its settings can't be read.
    """
    path, now = folder / "settings.json", json.dumps(asdict(settings), indent=1, sort_keys=True)
    if not (path.is_file() and checkpoints.paths()):
        if first:
            if path.is_file() and path.read_text() != now:  # another run, which has no checkpoint yet
                for left in (*folder.glob("best*"), *folder.glob("negatives-*")):
                    shutil.rmtree(left)
            _replace(path, now)
        return
    here = json.loads(now)
    try:
        then = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise TrainingError(
            f"{path}: the settings of the run in this folder can't be read ({error}); delete this file if its "
            "settings are the current ones, or take another folder"
        ) from None
    other = _differing(then, here)
    if fixed := [key for key in other if key not in _CHANGEABLE]:
        raise TrainingError(
            f"{folder} has a run with other settings ({', '.join(fixed)}); take another folder or delete it. "
            f"A run that resumes may change only {', '.join(_CHANGEABLE)}"
        )
    if other and first:
        _replace(path, now)
        if "optimizer.steps" in other:
            before, steps = then["optimizer"]["steps"], settings.optimizer.steps
            decays = settings.optimizer.decay != "constant"
            fall = ", and learning rates now fall towards the new end" if decays else ""
            note(f"this run now has {steps:,} steps instead of {before:,}{fall}")


def _differing(then: Any, here: Any, name: str = "") -> list[str]:
    """Names of a run's settings that differ from the current ones. Keys that the run lacks come from a later version
    and are ignored.
    """
    if isinstance(then, dict) and isinstance(here, dict) and name not in _BY_NAME:
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
    """Describe the training on a model card; it names files without their local paths."""
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


def tell_figures(card: Path, settings: ValidationSettings, step: int, measures: Mapping[str, float]) -> None:
    """Add a validation's measures to a model card."""
    sets = ", ".join(Path(name).name for name in settings.sets)
    some = f", at most {settings.documents:,} documents of each" if settings.documents else ""
    lines = [
        "## Figures",
        "",
        f"Measured at step {step} by exact search of {sets}{some}; terms: mean number of terms of a document.",
        "",
        "| measure | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4f} |" for name, value in measures.items()),
        "",
    ]
    card.write_text("\n".join([card.read_text(encoding="utf-8"), *lines]), encoding="utf-8")


def measures_at(log: Path, step: int) -> dict[str, float]:
    """The measures of the validation at a step, from `log.jsonl`; {} if there was none."""
    lines = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    found: dict[str, float] = {}
    for line in lines:
        if line["step"] == step:
            found = line.get("validation", found)
    return found


def open_log(path: Path, step: int) -> Any:
    """Open the log to continue after a step. Lines that a killed run wrote after its last checkpoint are removed."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # a line that was cut off when the run was killed
            continue
    _replace(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def _replace(path: Path, content: str) -> None:
    """Replace a file atomically, because other processes may read it."""
    work = path.with_name(path.name + ".partial")
    work.write_text(content, encoding="utf-8")
    take_name(work, path)


def write_line(log: Any, values: Mapping[str, Any]) -> None:
    """Add a line to the log; does nothing in processes without a log."""
    if log is not None:
        log.write(json.dumps(values) + "\n")
        log.flush()
