"""Watchers: functions that receive each line of a training run's log during the run.

A line is a mapping, as in `log.jsonl`: {"step": 7, "loss": 0.3, ...} after an update, {"step": 7, "validation":
{"nDCG@10": 0.4, ...}} after a validation, and {"step": 9, "finished": True} at the end. This last line isn't written to
the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lsr.errors import TrainingError

Line = Mapping[str, Any]
Watcher = Callable[[Line], None]
_MLFLOW_LONGEST = 500  # length of a setting, in characters, that every version of MLflow accepts


def numbers(line: Line) -> dict[str, float]:
    """The numbers of a line by name; those of a validation are named "validation/nDCG@10"."""
    found = {f"validation/{name}": value for name, value in line.get("validation", {}).items()}
    found |= {name: value for name, value in line.items() if name != "step" and type(value) in (int, float)}
    return found


def tensorboard(folder: Path, settings: Mapping[str, Any]) -> Watcher:
    """Write TensorBoard's files into the run's subfolder `tensorboard`; the settings are added as a text."""
    _need("tensorboard", "tensorboard")
    writer = _need("torch.utils.tensorboard", "tensorboard").SummaryWriter(folder / "tensorboard")
    if settings:
        writer.add_text("settings", "\n".join(f"    {line}" for line in json.dumps(settings, indent=1).splitlines()))

    def watch(line: Line) -> None:
        for name, value in numbers(line).items():
            writer.add_scalar(name, value, line["step"])
        if line.get("finished"):
            writer.close()

    return watch


def wandb(folder: Path, settings: Mapping[str, Any]) -> Watcher:
    """Log to Weights & Biases, as a run with the folder's name. WANDB_PROJECT and other environment variables apply."""
    run = _need("wandb", "wandb").init(dir=str(folder), name=folder.name, config=dict(settings))

    def watch(line: Line) -> None:
        if found := numbers(line):
            run.log(found, step=line["step"])
        if line.get("finished"):
            run.finish()

    return watch


def mlflow(folder: Path, settings: Mapping[str, Any]) -> Watcher:
    """Log to MLflow, as a run with the folder's name. MLFLOW_TRACKING_URI and other environment variables apply."""
    library = _need("mlflow", "mlflow")
    library.start_run(run_name=folder.name)
    library.log_params({name: str(value)[:_MLFLOW_LONGEST] for name, value in _flat(settings)})

    def watch(line: Line) -> None:
        # MLflow allows no @ in names.
        found = {re.sub(r"[^\w\-. /]", "_", name): value for name, value in numbers(line).items()}
        if found:
            library.log_metrics(found, step=line["step"])
        if line.get("finished"):
            library.end_run()

    return watch


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings with their names in `--set`: ("optimizer.lr", 2e-5)."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


LOGGERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}


def open_watcher(name: str, folder: Path, settings: Mapping[str, Any]) -> Watcher:
    """A watcher by name.

    Args:
        name: "tensorboard", "wandb" or "mlflow"; or "module:function" for a function of your own.
        folder: The run's folder.
        settings: The run's settings, which loggers store with the curves.

    Raises:
        TrainingError: There is no such watcher, its package isn't installed, or it can't start.
    """
    if name in LOGGERS:
        try:
            return LOGGERS[name](folder, settings)
        except TrainingError:
            raise
        except Exception as error:  # each package raises its own errors
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise TrainingError(f"{name} can't log this run: {reason}") from None
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon and module and function else None
    except (ImportError, AttributeError) as error:
        raise TrainingError(f"{name}: can't be imported: {error}") from None
    if not callable(found):
        raise TrainingError(f"{name!r} is no logger; there are {', '.join(LOGGERS)}, and module:function of your own")
    watcher: Watcher = found
    return watcher


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        broken = importlib.util.find_spec(package) is not None
        why = f"its installation is broken ({error})" if broken else f"pip install {package}"
        raise TrainingError(f"logging to {package} needs that package: {why}") from None
