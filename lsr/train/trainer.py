"""The training loop: updates, log, validation, checkpoints.

Everything that is drawn at a step (examples, negatives, terms, dropout) depends only on the seed and the step's number,
so a run that was killed and resumed has the same losses as an uninterrupted run. This module knows nothing of indexes:
the caller passes functions for validation and mining.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from lsr.console import note, progress
from lsr.durable import replace_folder, restore_folder
from lsr.encode import portable
from lsr.errors import TrainingError
from lsr.train import collapse_check
from lsr.train.bank import NegativeBank
from lsr.train.batch_loss import BatchLoss
from lsr.train.checkpoints import KEPT, Checkpoint, Checkpoints
from lsr.train.data import Example, TrainingData
from lsr.train.idle import idle_settings
from lsr.train.optimizer import make_optimizer, rate_factor
from lsr.train.processes import Processes
from lsr.train.refresh import Mine, NegativeRefresh
from lsr.train.run_folder import hold_settings, measures_at, open_log, tell_figures, write_line
from lsr.train.run_state import pack_tensors, restore_tensors
from lsr.train.settings import TrainSettings
from lsr.train.student import Student
from lsr.train.teachers import Teacher, device_of
from lsr.train.watch import Line, Watcher

_SAMPLE = 64  # documents in which to look for a collapse


@dataclass(frozen=True)
class Helpers:
    """Models and functions that a run needs from outside.

    Attributes:
        teachers: Models to imitate.
        lexical: BM25, fitted to the data; needed for `TrainSettings.lexical`.
        validate: Function from an encoder's folder to {name: measure}.
        mine: Function that mines negatives; see `lsr.train.refresh.Mine`.
        watchers: Functions that get each line of the log during the run; see `lsr.train.watch`. An exception that a
            watcher raises ends the run.
    """

    teachers: Sequence[Teacher] = ()
    lexical: Teacher | None = None
    validate: Callable[[Path], Mapping[str, float]] | None = None
    mine: Mine | None = None
    watchers: Sequence[Watcher] = ()


class Trainer:
    """A training run in a folder of its own. It resumes from the folder's last checkpoint.

    Args:
        settings: Settings of the run.
        folder: Folder for checkpoints, `log.jsonl` and the finished encoders `best` and `last`.
        data: The examples.
        helpers: Teachers, validation, mining.

    Attributes:
        student: The model in training.
        losses: The losses and regularizers.
        step: Number of updates made so far.
        best: The best validation measure so far.
        waited: Number of validations since the best one.

    Raises:
        EncoderError: The checkpoint to start from can't be used.
        TrainingError: The data lacks something that the losses need, the folder holds a run with other settings, or its
            last checkpoint is damaged.
    """

    def __init__(
        self, settings: TrainSettings, folder: Path, data: TrainingData, helpers: Helpers | None = None
    ) -> None:
        self.settings, self.folder, self.data = settings, folder, data
        self.helpers = helpers = helpers or Helpers()
        device = device_of(settings.device)
        self.processes = Processes(device)
        self.rank = self.processes.rank
        if self.rank == 0:
            for setting in idle_settings(settings):
                note(f"without effect: {setting}")
        _check_data(settings, data, self.helpers)
        self.checkpoints = Checkpoints(folder, max(KEPT, settings.soup))
        folder.mkdir(parents=True, exist_ok=True)
        hold_settings(folder, settings, self.checkpoints, first=self.rank == 0)
        # Each process has its own cache, since two processes that write to the same file would corrupt it.
        cache = folder / "cache" if not self.rank else folder / "cache" / f"process-{self.rank}"
        self.student = Student(settings, self._some_texts, device, cache)
        bank = (
            NegativeBank(self.student, settings, self._some_texts(settings.data.bank)) if settings.losses.bank else None
        )
        self.losses = BatchLoss(settings, self.student, self.processes, helpers.teachers, helpers.lexical, bank)
        self.optimizer = make_optimizer(settings.optimizer, self.student)
        self.refresh = NegativeRefresh(settings, folder, self.helpers.mine)
        self.step, self.best, self.waited = 0, -math.inf, 0
        # Number of examples drawn beyond what `step` implies, because the run had other numbers of processes before.
        self.drawn_before = 0
        self._told: set[str] = set()  # kinds of collapse that were already reported
        self._resume()

    # --- the loop -----------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Number of updates of the whole run."""
        return self._pretrain_steps + self.settings.optimizer.steps

    @property
    def _pretrain_steps(self) -> int:
        return self.settings.pretrain.steps if self.settings.pretrain else 0

    def run(self) -> Path:
        """Train to the last step, or until validation stops improving.

        Returns:
            The folder of the encoder that was best in validation, or else of the last encoder.

        Raises:
            TrainingError: A loss is not finite. The last checkpoint stays complete.
            OutputError: A file can't be written, for example because the disk is full. The last checkpoint stays
                complete.
        """
        with open_log(self.folder / "log.jsonl", self.step) if self.rank == 0 else nullcontext() as log:
            self._loop(log)
        if self.rank == 0:
            self._save_encoder(self.folder / "last")
            if self.settings.validation and (measures := measures_at(self.folder / "log.jsonl", self.step)):
                tell_figures(self.folder / "last" / portable.CARD, self.settings.validation, self.step, measures)
            if self.settings.soup:
                self._save_soup()
            self._show({"step": self.step, "finished": True})
        best = self.folder / "best"
        if best.is_dir():
            return best
        if self.rank == 0 and self.settings.validation and self.helpers.validate:
            limit = self.settings.validation.max_terms
            note(f"no encoder had at most {limit:g} terms a document, so there is only the last one")
        return self.folder / "last"

    def _loop(self, log: Any) -> None:
        settings = self.settings
        examples = self._examples()
        started, first = time.perf_counter(), self.step
        bar = progress(self.steps, "train", "steps", done=self.step)
        stopped = self._patience_is_over()
        while self.step < self.steps and not stopped:
            values = self._update(examples)
            self.step += 1
            bar.update(1)
            values["seconds"] = (time.perf_counter() - started) / (self.step - first)
            self._tell(log, {"step": self.step, **{key: float(f"{v:.6g}") for key, v in values.items()}})
            last = self.step == self.steps
            save = last or self.step % settings.checkpoint_every == 0
            validates = settings.validation and (last or self.step % settings.validation.every == 0)
            refresh = self.refresh.due(self.step)
            if save or validates or refresh:
                self._require_finite()
            if validates and self.helpers.validate:
                stopped = self._validate(log)
            elif save and not settings.validation:
                self._report_collapse(log)
            if refresh and not (last or stopped):
                self._mine()
                examples = self._examples()
            if self.rank == 0 and (save or stopped):
                self._save()
        bar.close()

    def _tell(self, log: Any, line: Line) -> None:
        """Add a line to the log and show it to the watchers, in the first process."""
        write_line(log, line)
        if log is not None:
            self._show(line)

    def _show(self, line: Line) -> None:
        for watcher in self.helpers.watchers:
            watcher(line)

    def _examples(self) -> Iterator[Example]:
        """The examples of all processes from the current step on."""
        together = 1
        if not self.settings.data.mixed:
            joined = self.settings.optimizer.accumulate if self.settings.gradient_cache else 1
            together = self.settings.data.queries * self.processes.count * joined
        return self.data.stream(self.settings.seed, self._drawn(), together)

    def _drawn(self) -> int:
        """Number of examples drawn so far."""
        per_step = self.settings.data.queries * self.settings.optimizer.accumulate * self.processes.count
        return self.drawn_before + self.step * per_step

    def _some_texts(self, n: int) -> list[str]:
        """The first n different positives of the data, or all of them."""
        texts: dict[str, None] = {}
        for example in islice(self.data.stream(self.settings.seed), len(self.data)):
            texts.update(dict.fromkeys(example.documents[: example.n_positives]))
            if len(texts) >= n:
                break
        return list(texts)[:n]

    # --- an update ----------------------------------------------------------------------------------------------------

    def _update(self, examples: Iterator[Example]) -> dict[str, float]:
        """Make one update; returns {name: value} for the log."""
        pretrain = self.step < self._pretrain_steps
        if self.step == self._pretrain_steps:
            self.optimizer.state.clear()  # the moments belong to the loss of pre-training
            if self._pretrain_steps:
                self.student.share_pretraining()
        self.optimizer.zero_grad(set_to_none=True)
        totals = self._backward(examples, pretrain=pretrain)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.processes.average_gradients(parameters)
        trained = [p for p in parameters if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(trained, self.settings.optimizer.clip))
        if wrong := [name for name, value in totals.items() if not math.isfinite(value)]:
            self._give_up(", ".join(wrong), self.step + 1)
        if not math.isfinite(norm):
            self._give_up("the gradient", self.step + 1)
        factor = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        self.optimizer.step()
        return totals | {"norm": norm, "rate": factor}

    def _backward(self, examples: Iterator[Example], *, pretrain: bool) -> dict[str, float]:
        """Accumulate the gradients of an update's batches; returns their mean losses by name."""
        settings = self.settings
        # With the gradient cache, the accumulated batches run as one batch, which needs no more memory than each of
        # them.
        parts = 1 if settings.gradient_cache else settings.optimizer.accumulate
        size = settings.data.queries * self.processes.count * settings.optimizer.accumulate // parts
        totals: dict[str, float] = {}
        for part in range(parts):
            drawn = [next(examples) for _ in range(size)]
            # Negatives and terms are the same in every process; dropout differs.
            rng = np.random.default_rng([settings.seed, self.step, part, 0])
            torch.manual_seed(int(rng.integers(2**31)) + self.rank)
            if pretrain:
                values = self.losses.guess_masked(drawn, rng, parts)
            else:
                values = self.losses.rank(drawn, rng, self.step - self._pretrain_steps, parts)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value / parts
        return totals

    def _rate(self) -> float:
        """Factor of the learning rates at the current step of the current stage."""
        step, steps = self.step, self._pretrain_steps
        if step >= steps:
            step, steps = step - steps, self.settings.optimizer.steps
        return rate_factor(self.settings.optimizer, step, steps)

    def _require_finite(self) -> None:
        """Stop before weights that aren't finite overwrite good ones on disk; the loss would reveal them only a step
        later.
        """
        for parameter, name in self.student.names.items():
            if not bool(torch.isfinite(parameter).all()):
                self._give_up(f"the weight {name}", self.step)

    def _give_up(self, what: str, step: int) -> NoReturn:
        kept = self.checkpoints.paths()
        back = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise TrainingError(
            f"step {step}: {what} is not finite; {back}. Lower the learning rate or the regularizer's weight, make the "
            'warm-up longer, or use precision "float32".'
        )

    # --- validation ---------------------------------------------------------------------------------------------------

    def _validate(self, log: Any) -> bool:
        """Validate, keep the encoder if it is the best, look for a collapse; returns whether to stop."""
        if self.rank == 0:
            assert self.helpers.validate is not None
            assert self.settings.validation is not None
            current = self.folder / "current"
            self._save_encoder(current)
            measures = dict(self.helpers.validate(current))
            if self.settings.validation.measure not in measures:
                raise TrainingError(f"validation gave {', '.join(measures)}, not {self.settings.validation.measure}")
            value = measures[self.settings.validation.measure]
            tell_figures(current / portable.CARD, self.settings.validation, self.step, measures)
            why_not = self._not_eligible(measures)
            if not why_not and value > self.best:
                self.best, self.waited = value, 0
                replace_folder(current, self.folder / "best")
            elif not why_not:
                self.waited += 1
            self._tell(log, {"step": self.step, "validation": measures})
            told = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
            note(f"step {self.step}: {told}{why_not and f'; not eligible as the best encoder: {why_not}'}")
            self._report_collapse(log)
        return self.processes.agree(self._patience_is_over())

    def _not_eligible(self, measures: Mapping[str, float]) -> str:
        """Why the current encoder isn't eligible as the best one, whatever its measures; "" if it is."""
        assert self.settings.validation is not None
        limit = self.settings.validation.max_terms
        if limit and (terms := measures.get("terms", math.inf)) > limit:
            return f"its documents have {terms:.1f} terms, and max_terms is {limit:g}"
        sides = [self.settings.documents_regularizer]
        if self.settings.queries.kind == "encoded":
            sides.append(self.settings.queries_regularizer)
        ramps = [side.ramp for side in sides if side.weight and side.schedule != "constant"]
        grown = self._pretrain_steps + max(ramps, default=0)
        return f"the regularizers grow until step {grown}" if self.step < min(grown, self.steps) else ""

    def _patience_is_over(self) -> bool:
        patience = self.settings.validation.patience if self.settings.validation else 0
        return bool(patience) and self.waited >= patience

    def _report_collapse(self, log: Any) -> None:
        """Look for a collapse and report it."""
        if log is None:
            return
        found = self.examine()
        seen = {"collapse": [finding.what for finding in found], "rank": round(found.rank, 1)}
        self._tell(log, {"step": self.step, **seen})
        for finding in found:
            note(f"step {self.step}: {f'still {finding.what}' if finding.what in self._told else finding}")
            self._told.add(finding.what)

    def examine(self) -> collapse_check.Findings:
        """Signs of a collapse in the vectors of some training documents.

        Raises:
            TrainingError: The vectors are not finite.
        """
        found: collapse_check.Findings | None = self.student.examine(self._some_texts(_SAMPLE))
        if found is None:
            self._give_up("a document's vector", self.step)
        return found

    # --- folders ------------------------------------------------------------------------------------------------------

    def _save_encoder(self, folder: Path) -> None:
        self.student.save(folder, self.step)

    @torch.no_grad()
    def _save_soup(self) -> None:
        """Save the mean of the last checkpoints as the encoder `soup`, and also as `best` if it validates better."""
        soup, mean = self.folder / "soup", self.checkpoints.mean_weights(self.settings.soup)
        own = {parameter: parameter.clone() for parameter in self.student.names}
        for parameter, name in self.student.names.items():
            parameter.copy_(mean[name])
        self._save_encoder(soup)
        told = f"{soup}: the mean of {min(len(self.checkpoints.paths()), self.settings.soup)} checkpoints"
        if self.settings.validation and self.helpers.validate:
            measures = dict(self.helpers.validate(soup))
            tell_figures(soup / portable.CARD, self.settings.validation, self.step, measures)
            told += ": " + ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
            if not self._not_eligible(measures) and measures[self.settings.validation.measure] > self.best:
                shutil.copytree(soup, self.folder / "current", dirs_exist_ok=True)
                replace_folder(self.folder / "current", self.folder / "best")
                told += "; the best encoder"
        for parameter, value in own.items():
            parameter.copy_(value)
        note(told)

    def _mine(self) -> None:
        """Mine negatives with the current encoder, and train with them from now on."""
        if self.rank == 0:
            self.refresh.mine(self.step, self.data, self._save_encoder)
        self.processes.agree(True)  # the other processes wait
        self._take_negatives()

    def _take_negatives(self) -> None:
        data = self.refresh.open(self.step)
        if data is not None:
            self.data = data

    def _save(self) -> None:
        """Write a checkpoint."""
        with_idf = self.settings.queries.kind == "idf"
        tensors = pack_tensors(self.student, self.optimizer, self.losses.penalties, with_idf=with_idf)
        state = {"step": self.step, "best": self.best if math.isfinite(self.best) else None, "waited": self.waited}
        state |= {"processes": self.processes.count, "drawn": self._drawn()}
        self.checkpoints.save(self.step, Checkpoint(tensors, state))
        self.refresh.delete_old(self.checkpoints.steps())

    def _resume(self) -> None:
        """Restore the last checkpoint, if there is one."""
        if self.rank == 0:
            restore_folder(self.folder / "best")
        content = self.checkpoints.load()
        if content is None:
            return
        try:
            self._restore(content)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self.checkpoints.damaged(error) from None
        self._take_negatives()

    def _restore(self, content: Checkpoint) -> None:
        restore_tensors(
            content.tensors,
            self.student,
            self.optimizer,
            self.losses.penalties,
            with_idf=self.settings.queries.kind == "idf",
            where=str(self.folder),
        )
        best = content.state["best"]
        self.step, self.waited = int(content.state["step"]), int(content.state["waited"])
        self.best = -math.inf if best is None else float(best)
        before = int(content.state.get("processes", self.processes.count))
        self.drawn_before = int(content.state.get("drawn", self._drawn())) - self._drawn()
        if before != self.processes.count and self.rank == 0:
            size = self.settings.data.queries * self.settings.optimizer.accumulate
            note(
                f"this run had {before} processes until step {self.step} and now has {self.processes.count}: an update "
                f"has {size * self.processes.count} queries instead of {size * before}"
            )


def _check_data(settings: TrainSettings, data: TrainingData, helpers: Helpers) -> None:
    """Check the data at the start, so that the run doesn't fail later."""
    paths = [source.path for source in settings.data.sources]
    imitates = settings.losses.kl or settings.losses.margin_mse
    if imitates and (not helpers.teachers or any(teacher.examples for teacher in settings.teachers)):
        counts = [data.n_teachers(number) for number in range(data.n_sources)]
        if 0 in counts or len(set(counts)) > 1:
            each = ", ".join(f"{path} has {n or 'none'}" for path, n in zip(paths, counts, strict=True))
            raise TrainingError(
                "kl and margin_mse need teachers, or examples that all have scores of the same number of teachers; "
                f"here {each}. Name models under teachers, or leave out the sources without scores"
            )
    if settings.data.refresh_every and helpers.mine:
        for number, path in enumerate(paths):
            if n := data.n_unnamed(number):
                raise TrainingError(
                    f"data.refresh_every: {n} queries of {path} have no query_id, which mined negatives need; give "
                    "them one"
                )
