"""Checkpoints of a run in safetensors and JSON. The latest two are kept.

A checkpoint is written under a temporary name and renamed when all of it is on disk, so a kill, a power cut or a full
disk never leaves a broken checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lsr.durable import replace_folder
from lsr.errors import OutputError, TrainingError

KEPT = 2
_NAME = re.compile(r"checkpoint-\d{8}")
_STATE = "state.json"


class Checkpoint(NamedTuple):
    """Content of a checkpoint: tensors by file and name, and plain values."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: The run's folder.
        kept: Number of checkpoints to keep.
    """

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self.folder, self._kept = folder, kept

    def paths(self) -> list[Path]:
        """Folders of the checkpoints, oldest first."""
        found = self.folder.glob("checkpoint-*")
        return sorted(path for path in found if _NAME.fullmatch(path.name) and (path / _STATE).is_file())

    def steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first."""
        return [int(path.name.rpartition("-")[2]) for path in self.paths()]

    def save(self, step: int, content: Checkpoint) -> Path:
        """Write a checkpoint, then delete old ones.

        Args:
            step: The step of the checkpoint.
            content: Its content.

        Raises:
            OutputError: The checkpoint can't be written, for example because the disk is full. Older checkpoints stay
                unchanged.
        """
        target, work = self.folder / f"checkpoint-{step:08d}", self.folder / "checkpoint.partial"
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
            for part, tensors in content.tensors.items():
                whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
                save_file(whole, work / f"{part}.safetensors")
            (work / _STATE).write_text(json.dumps(content.state))
            replace_folder(work, target)
        except (OSError, OutputError, SafetensorError) as error:
            kept = self.paths()
            shutil.rmtree(work, ignore_errors=True)  # free space on a full disk
            older = f"{kept[-1]} is complete, and the same command resumes from it" if kept else "there is no older one"
            raise OutputError(f"{target}: the checkpoint can't be written ({error}); {older}") from None
        for old in self.paths()[: -self._kept]:
            aside = old.with_name(old.name + ".old")
            os.replace(old, aside)
            shutil.rmtree(aside, ignore_errors=True)
        return target

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint; None if there is none.

        Raises:
            TrainingError: The checkpoint is damaged.
        """
        kept = self.paths()
        if not kept:
            return None
        try:
            state = json.loads((kept[-1] / _STATE).read_bytes())
            return Checkpoint({path.stem: load_file(path) for path in kept[-1].glob("*.safetensors")}, state)
        except (OSError, ValueError, SafetensorError) as error:
            raise self.damaged(error) from None

    def mean_weights(self, count: int) -> dict[str, Tensor]:
        """The mean of the weights in the newest checkpoints, by name.

        Args:
            count: Number of checkpoints to average; fewer if there aren't as many.

        Raises:
            TrainingError: A checkpoint is damaged, or the checkpoints belong to different models.
        """
        paths, mean = self.paths()[-count:], dict[str, Tensor]()
        for path in paths:
            try:
                weights = load_file(path / "weights.safetensors")
                if mean and mean.keys() != weights.keys():
                    raise ValueError("its weights have other names than those before")
                for name, tensor in weights.items():
                    part = tensor.double() / len(paths)  # rounded once, at the end
                    mean[name] = mean[name] + part if name in mean else part
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise TrainingError(f"{path}: this checkpoint can't be averaged: {error}") from None
        return mean

    def damaged(self, error: Exception) -> TrainingError:
        """The error to raise if the newest checkpoint can't be used."""
        return TrainingError(
            f"{self.paths()[-1]}: this checkpoint can't be read ({error!r}); delete it to resume from the one before"
        )
