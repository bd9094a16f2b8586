"""Mine new negatives during a run, with the current encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from lsr.durable import take_name
from lsr.errors import TrainingError
from lsr.train.data import TrainingData, open_training
from lsr.train.settings import TrainSettings

# Arguments: an encoder's folder, the data, and an output folder. The function writes a file N.jsonl in the format of
# `lsr mine` for the N-th source, unless there are no negatives.
Mine: TypeAlias = Callable[[Path, TrainingData, Path], None]


class NegativeRefresh:
    """Decides when new negatives are mined, and stores them.

    Args:
        settings: Settings of the run.
        folder: The run's folder; the negatives of a step are in `negatives-STEP`.
        mine: The function that mines; None to never mine.
    """

    def __init__(self, settings: TrainSettings, folder: Path, mine: Mine | None) -> None:
        self._settings, self._folder, self._mine = settings, folder, mine
        self._every = settings.data.refresh_every if mine else 0
        self._first = settings.pretrain.steps if settings.pretrain else 0

    def due(self, step: int) -> bool:
        """Whether negatives are mined after a step."""
        return bool(self._every) and step > self._first and step % self._every == 0

    def mine(self, step: int, data: TrainingData, save_encoder: Callable[[Path], None]) -> None:
        """Mine with the encoder after a step.

        If a run was killed between mining and its next checkpoint, the negatives of this step exist already. They are
        used again, because the encoder was the same.
        """
        assert self._mine is not None
        target = self._path(step)
        if target.is_dir():
            return
        current, work = self._folder / "current", self._folder / "negatives.partial"
        save_encoder(current)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        self._mine(current, data, work)
        take_name(work, target)

    def open(self, step: int) -> TrainingData | None:
        """The data with the negatives that the run used at a step; None if no negatives had been mined by then.

        Raises:
            TrainingError: The negatives are missing.
        """
        mined = self._last(step)
        if not self.due(mined):
            return None
        negatives = self._path(mined)
        if not negatives.is_dir():
            raise TrainingError(
                f"{negatives}, the negatives of this run, is missing; start a new run in another folder"
            )
        sources = [
            replace(source, candidates=str(path), allow_missing=True)
            if (path := negatives / f"{number}.jsonl").is_file()
            else source
            for number, source in enumerate(self._settings.data.sources)
        ]
        return open_training(sources)

    def delete_old(self, steps: list[int]) -> None:
        """Delete negatives that no checkpoint of these steps needs."""
        needed = {self._path(self._last(step)) for step in steps}
        for old in set(self._folder.glob("negatives-*")) - needed:
            shutil.rmtree(old)

    def _last(self, step: int) -> int:
        """The step of the latest mining at or before a step."""
        return step // self._every * self._every if self._every else 0

    def _path(self, step: int) -> Path:
        return self._folder / f"negatives-{step:08d}"
