"""The loop: batches of examples, scores, losses, updates; logs, validation, checkpoints that go on as if nothing was.

Everything that is drawn at a step (examples, negatives, terms, dropout) follows from the seed and the step's number, so
a run that was killed and resumed has the same losses as one that wasn't. Nothing here knows of an index: validation and
the search for new negatives are functions that the caller brings.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lsr.console import note, progress
from lsr.durable import replace_folder, restore_folder, take_name
from lsr.encode import model_files as files
from lsr.encode import portable
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.load import token_table
from lsr.encode.model import start_model
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TextTokenizer
from lsr.encode.tower import Tower
from lsr.errors import EncoderError, OutputError, TrainingError
from lsr.sparse import SparseMatrix
from lsr.train import collapse_check
from lsr.train.batches import draw_batch
from lsr.train.checkpoints import Checkpoint, Checkpoints
from lsr.train.data import Example, TrainingData, open_training
from lsr.train.idle import idle_settings
from lsr.train.network import Ids, Network, merged_weights
from lsr.train.objective import Penalty, ranking_loss
from lsr.train.pretrain import mask_tokens, masked_loss
from lsr.train.processes import Processes, SharedTeacher, shared
from lsr.train.query_table import QueryTable, TermSampler, inverse_frequencies
from lsr.train.run_folder import hold_settings, open_log, tell_on_card, write_line
from lsr.train.settings import TrainSettings
from lsr.train.teachers import SparseTeacher, Teacher, device_of

_SAMPLE = 64  # documents that the collapse detector looks at
_START = 256  # documents that a new head looks at
_IDF_SAMPLE = 20_000  # documents that the queries' IDF is counted over


@dataclass(frozen=True)
class Helpers:
    """What a run needs of others.

    Attributes:
        teachers: Models to imitate.
        lexical: BM25, fitted to the data; for `TrainSettings.lexical`.
        validate: Takes an encoder's folder, gives measures.
        mine: Takes an encoder's folder, the data, and a folder, into which it writes negatives found with the encoder:
            a file N.jsonl, as `lsr mine` writes it, for the N-th source; none where it found nothing.
    """

    teachers: Sequence[Teacher] = ()
    lexical: Teacher | None = None
    validate: Callable[[Path], Mapping[str, float]] | None = None
    mine: Callable[[Path, TrainingData, Path], None] | None = None


class Trainer:
    """A training run in a folder of its own.

    Args:
        settings: What to do.
        folder: Where it is kept: checkpoints, `log.jsonl`, and the finished encoders in `best` and `last`.
        data: Examples.
        helpers: Teachers, validation, mining.

    Raises:
        EncoderError: The checkpoint to start from can't be used.
        TrainingError: The data lacks what the losses need, or the folder holds a run of other settings, or its last
            checkpoint is damaged.
    """

    def __init__(
        self, settings: TrainSettings, folder: Path, data: TrainingData, helpers: Helpers | None = None
    ) -> None:
        self.settings, self.folder, self.data = settings, folder, data
        self.helpers = helpers or Helpers()
        self.device = device_of(settings.device)
        self.processes = Processes(self.device)
        self.rank = self.processes.rank
        self.teachers = self.helpers.teachers
        if self.processes.count > 1:
            self.teachers = [shared(teacher, self.processes) for teacher in self.teachers]
        if self.rank == 0:
            for setting in idle_settings(settings):
                note(f"without effect: {setting}")
        _check_data(settings, data, self.helpers)
        self.checkpoints = Checkpoints(folder)
        folder.mkdir(parents=True, exist_ok=True)
        hold_settings(folder, settings, self.checkpoints, first=self.rank == 0)
        checkpoint = files.locate(settings.model.checkpoint)
        _check_lengths(checkpoint, settings)
        self.tokenizer = TextTokenizer.open(checkpoint)
        n_terms = int(files.model_config(checkpoint)["vocab_size"])
        if self.tokenizer.size > n_terms:
            raise EncoderError(
                f"{checkpoint}: the tokenizer has {self.tokenizer.size} tokens, the model knows {n_terms}; they don't "
                "belong together"
            )
        self.vocabulary = self.tokenizer.vocabulary(n_terms)
        unused = {term for term, token in enumerate(self.vocabulary) if token.startswith("[unused")}
        absent = sorted({term for term in self.tokenizer.special if term < n_terms} | unused)
        torch.manual_seed(settings.seed)
        how = settings.model
        first = self.tokenizer.ids(self._some_texts(_START), min(how.max_length, 128), special=True)
        self.model = start_model(
            checkpoint, how.head, how.pooling, how.saturation, n_terms, [row for row in first if row], absent
        )
        if how.dropout is not None:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = how.dropout
        # A cache for each process: two that write to the same file would spoil it.
        cache = folder / "cache" if not self.rank else folder / "cache" / f"process-{self.rank}"
        self.network = Network(self.model, settings, self.device, cache)
        table, idf = self._first_table(n_terms)
        table[absent] = 0
        self.idf = idf.to(self.device)
        learned = settings.queries.kind in ("table", "projected")
        embeddings = None
        if settings.queries.kind == "projected":
            embeddings = self.model.backbone.get_input_embeddings().weight.detach()[:n_terms].cpu().clone()
        self.table = QueryTable(table, learned=learned, lexical=settings.lexical, embeddings=embeddings).to(self.device)
        self.terms = TermSampler(n_terms, absent, settings.sample_terms)
        view = "query" if settings.queries.kind in ("encoded", "tokens") else "document"
        self.penalties = {
            "documents": Penalty(settings.documents_regularizer, self.idf, view),
            "queries": Penalty(settings.queries_regularizer, self.idf, view),
        }
        self.step, self.best, self.waited = 0, -math.inf, 0
        self._told: set[str] = set()  # what collapse looks like is explained once
        self.drawn_before = 0  # beside those that the steps say, where other numbers of processes ran before
        self.optimizer = self._make_optimizer()
        self._resume()

    # --- the loop -----------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return self._pretrain_steps + self.settings.optimizer.steps

    @property
    def _pretrain_steps(self) -> int:
        return self.settings.pretrain.steps if self.settings.pretrain else 0

    def run(self) -> Path:
        """Train to the last step, or until validation no longer gets better.

        Returns:
            The folder of the encoder that did best in validation, or of the last one.

        Raises:
            TrainingError: A loss is no number. The last checkpoint is whole.
            OutputError: The disk is full, or the like; likewise.
        """
        with open_log(self.folder / "log.jsonl", self.step) if self.rank == 0 else nullcontext() as log:
            self._loop(log)
        if self.rank == 0:
            self.save_encoder(self.folder / "last")
        best = self.folder / "best"
        if best.is_dir():
            return best
        if self.rank == 0 and self.settings.validation and self.helpers.validate:
            most = self.settings.validation.max_terms
            note(f"no encoder had at most {most:g} terms a document: there is only the last")
        return self.folder / "last"

    def _loop(self, log: Any) -> None:
        settings = self.settings
        examples = self._examples()
        started, first = time.perf_counter(), self.step
        bar = progress(self.steps, "train", "steps")
        bar.update(self.step)
        stopped = self._patience_is_over()
        while self.step < self.steps and not stopped:
            values = self._update(examples)
            self.step += 1
            bar.update(1)
            values["seconds"] = (time.perf_counter() - started) / (self.step - first)
            write_line(log, {"step": self.step, **{key: float(f"{v:.6g}") for key, v in values.items()}})
            last = self.step == self.steps
            save = last or self.step % settings.checkpoint_every == 0
            validates = settings.validation and (last or self.step % settings.validation.every == 0)
            if save or validates or self._refreshes(self.step):
                self._require_finite()
            if validates and self.helpers.validate:
                stopped = self._validated(log)
            elif save and not settings.validation:
                self._examined(log)
            if self._refreshes(self.step) and not (last or stopped):
                self._mine()
                examples = self._examples()
            if self.rank == 0 and (save or stopped):
                self._save()
        bar.close()

    def _examples(self) -> Iterator[Example]:
        """The examples of all processes from the present step on."""
        return self.data.stream(self.settings.seed, self._drawn())

    def _drawn(self) -> int:
        """How many examples the steps so far have taken."""
        per_step = self.settings.data.queries * self.settings.optimizer.accumulate * self.processes.count
        return self.drawn_before + self.step * per_step

    def _update(self, examples: Iterator[Example]) -> dict[str, float]:
        """One step; gives what it logs."""
        settings = self.settings
        pretrain = self.step < self._pretrain_steps
        if self.step == self._pretrain_steps:
            self.optimizer.state.clear()  # the moments are another loss'
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        # The gradient cache makes one batch of those that are accumulated: it needs the memory of a part all the same.
        together = settings.gradient_cache and not pretrain
        parts = 1 if together else settings.optimizer.accumulate
        size = settings.data.queries * self.processes.count * settings.optimizer.accumulate // parts
        for part in range(parts):
            drawn = [next(examples) for _ in range(size)]
            # What is drawn of the examples is the same in every process, dropout is not.
            rng = np.random.default_rng([settings.seed, self.step, part, 0])
            torch.manual_seed(int(rng.integers(2**31)) + self.rank)
            values = self._backward_masked(drawn, rng, parts) if pretrain else self._backward(drawn, rng, parts)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value / parts
        self.processes.average_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(parameters, settings.optimizer.clip))
        if wrong := [name for name, value in totals.items() if not math.isfinite(value)]:
            self._give_up(", ".join(wrong), self.step + 1)
        if not math.isfinite(norm):
            self._give_up("the gradient", self.step + 1)
        factor = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        self.optimizer.step()
        return totals | {"norm": norm, "rate": factor}

    def _require_finite(self) -> None:
        """Stop before weights that are no numbers are written over good ones; the loss would tell a step later."""
        for parameter, name in self.names.items():
            if not bool(torch.isfinite(parameter).all()):
                self._give_up(f"the weight {name}", self.step)

    def _give_up(self, what: str, step: int) -> None:
        kept = self.checkpoints.paths()
        back = f"the last good checkpoint is {kept[-1]}" if kept else "there was no checkpoint yet"
        raise TrainingError(
            f"step {step}: {what} is no finite number; {back}. Lower the learning rate or the regularizer's "
            'weight, make the warm-up longer, or use precision "float32".'
        )

    def _rate(self) -> float:
        """What rates are multiplied by at this step of the stage."""
        optimizer, step, steps = self.settings.optimizer, self.step, self._pretrain_steps
        if step >= steps:
            step, steps = step - steps, optimizer.steps
        if step < optimizer.warmup:
            return step / optimizer.warmup  # 0 at the first step, as transformers' schedules have it
        left = 1 - (step - optimizer.warmup) / max(1, steps - optimizer.warmup)
        if optimizer.decay == "linear":
            return max(left, 0.01)
        return max(0.5 * (1 - math.cos(math.pi * left)), 0.01) if optimizer.decay == "cosine" else 1.0

    # --- a batch ------------------------------------------------------------------------------------------------------

    def _taught_vectors(self, documents: Sequence[str]) -> SparseMatrix:
        """The mean of what the sparse models among the teachers make of documents."""
        models = [
            teacher
            for teacher in self.helpers.teachers
            if isinstance(teacher, SparseTeacher) and not isinstance(teacher.encoder, BM25Encoder)
        ]
        if not models or any(list(model.encoder.vocabulary) != self.vocabulary for model in models):
            raise TrainingError("losses.vectors needs a teacher that is a sparse model of the same vocabulary")
        total = models[0].vectors(documents).to_scipy()
        for model in models[1:]:
            total = total + model.vectors(documents).to_scipy()
        return SparseMatrix.from_scipy(total / len(models))

    def _backward(self, examples: list[Example], rng: np.random.Generator, parts: int) -> dict[str, float]:
        """Losses of a batch of all processes, one of so many parts of an update, and their gradients."""
        settings = self.settings
        batch = draw_batch(examples, settings.data.negatives, rng)
        encoded = settings.queries.kind == "encoded"
        queries: Ids = []
        taught = self._taught_vectors(batch.documents) if settings.losses.vectors else None
        # Columns of the weights: what the queries ask for and teachers have, then what stands for all terms.
        asked, sample = slice(None), slice(None)
        terms: Tensor | None = None
        if not encoded:
            queries = self.tokenizer.ids(batch.queries, settings.queries.max_length, special=False)
            wanted, drawn = self.terms.draw(queries, rng)
            if taught is not None:
                wanted = np.union1d(wanted, taught.indices.astype(np.int64))
            terms = torch.from_numpy(np.concatenate([wanted, drawn])).to(self.device)
            asked, sample = slice(len(wanted)), slice(len(wanted), None)
        documents, finish = self._run(batch.documents, settings.model.max_length, terms)
        sides = [("documents", documents[:, sample])]
        finishers = [finish]
        if terms is None:
            asking, finish = self._run(batch.queries, settings.queries.max_length, None)
            sides.append(("queries", asking))
            finishers.append(finish)
        else:
            asking = self.table.look_up(queries, terms[asked])
        scores = asking @ documents[:, asked].T
        brought = any(teacher.examples for teacher in settings.teachers)
        raw: dict[str, Tensor] = {}
        loss = scores.new_zeros(())
        if settings.lexical:
            if settings.losses.alone:
                values, cost = ranking_loss(scores, batch, settings.losses, self.teachers, brought)
                raw = {f"alone_{key}": value for key, value in values.items()}
                loss = settings.losses.alone * cost
            assert self.helpers.lexical is not None
            known = SharedTeacher(self.helpers.lexical, self.processes).scores(batch.queries, batch.documents)
            scores = scores + self.table.lexical * torch.from_numpy(known).to(self.device)
        values, cost = ranking_loss(scores, batch, settings.losses, self.teachers, brought)
        raw |= values
        loss = loss + cost
        step = self.step - self._pretrain_steps
        if taught is not None:
            columns = np.arange(self.model.n_terms) if terms is None else terms[asked].cpu().numpy()
            target = torch.from_numpy(taught.to_scipy()[:, columns].toarray()).to(self.device)
            raw["vectors"] = (documents[:, asked] - target).square().sum(1).mean()
            loss = loss + settings.losses.vectors * (1 - step / settings.optimizer.steps) * raw["vectors"]
        for name, weights in sides:
            values, cost = self.penalties[name](weights, terms if terms is None else terms[sample], step)
            raw |= {f"{name}_{key}": value for key, value in values.items()}
            loss = loss + cost
        (loss / parts).backward()
        for finish in finishers:
            finish()
        return {name: float(value.detach()) for name, value in raw.items()} | {"loss": float(loss.detach())}

    def _run(self, texts: Sequence[str], length: int, terms: Tensor | None) -> tuple[Tensor, Callable[[], None]]:
        """Weights of texts, of which each process runs its share; what to call is as of `Network.run`."""
        ids = self.tokenizer.ids(texts[self.processes.share(len(texts))], length, special=True)
        own, finish = self.network.run(ids, terms)
        return self.processes.gather(own, len(texts)), finish

    def _backward_masked(self, examples: list[Example], rng: np.random.Generator, parts: int) -> dict[str, float]:
        """The first stage's loss of a positive of each example; otherwise as `_backward`."""
        pretrain = self.settings.pretrain
        assert pretrain is not None
        texts = [example.documents[int(rng.integers(example.n_positives))] for example in examples]
        ids = self.tokenizer.ids(texts, self.settings.model.max_length, special=True)
        masked = mask_tokens(ids, self.tokenizer, self.model.n_terms, pretrain.mask_share, rng)
        raw, loss = masked_loss(self.network, ids, masked, pretrain.flops, self.processes)
        (loss / parts).backward()
        values = {name: float(value.detach()) for name, value in raw.items()}
        return values | {"loss": values["masked_lm"] + pretrain.flops * values["documents_flops"]}

    # --- parts --------------------------------------------------------------------------------------------------------

    def _some_texts(self, n: int) -> list[str]:
        texts: dict[str, None] = {}
        for example in islice(self.data.stream(self.settings.seed), len(self.data)):
            texts.update(dict.fromkeys(example.documents[: example.n_positives]))
            if len(texts) >= n:
                break
        return list(texts)[:n]

    def _first_table(self, n_terms: int) -> tuple[Tensor, Tensor]:
        """What query terms weigh at first, and their IDF; (n_terms,) float32 each, ones where nobody asks for it."""
        queries, length = self.settings.queries, self.settings.model.max_length
        kinds = self.settings.documents_regularizer.kind, self.settings.queries_regularizer.kind
        ones = torch.ones(n_terms)
        if queries.weights is not None:
            path = Path(queries.weights)
            if not path.is_file():
                raise EncoderError(f"queries.weights: no such file: {path}")
            given = token_table(path, self.tokenizer)
            if not np.isfinite(given).all():
                raise EncoderError(f"queries.weights: {path} has weights that are no finite numbers")
            table = torch.from_numpy(np.pad(given, (0, max(0, n_terms - len(given))))[:n_terms])
            return table, table.clone()
        if queries.kind not in ("table", "idf") and "idf_flops" not in kinds:
            return ones, ones
        rows = self.tokenizer.ids(self._some_texts(_IDF_SAMPLE), length, special=False)
        idf, mean = inverse_frequencies(rows, n_terms)
        return {"idf": idf.clone(), "table": idf / mean}.get(queries.kind, ones), idf

    def _make_optimizer(self) -> torch.optim.AdamW:
        given = self.settings.optimizer
        own = {id(p) for p in self.model.head.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        self.names: dict[nn.Parameter, str] = {}
        for name, parameter in [*self.model.named_parameters(), *self.table.named_parameters(prefix="table")]:
            if not parameter.requires_grad:
                continue
            rate = given.lr
            if id(parameter) in own or name.startswith("table"):
                rate = given.lr if given.head_lr is None else given.head_lr
                if (parameter.dim() == 1 and len(parameter) == self.model.n_terms) or parameter.numel() <= 2:
                    rate = rate if given.term_lr is None else given.term_lr
            decay = given.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
            self.names[parameter] = name
        if not groups:
            raise EncoderError("nothing is left to train: all layers are frozen and the head has no weights of its own")
        return torch.optim.AdamW(
            [
                {"params": some, "lr": rate, "rate": rate, "weight_decay": decay}
                for (rate, decay), some in groups.items()
            ]
        )

    # --- encoders -----------------------------------------------------------------------------------------------------

    def save_encoder(self, folder: Path) -> None:
        """Write the encoder as it is now; the folder is replaced as a whole.

        Raises:
            OutputError: The disk is full, or the like.
        """
        work = folder.with_name(folder.name + ".partial")
        shutil.rmtree(work, ignore_errors=True)
        try:
            (work / "model").mkdir(parents=True)
            self.model.save(work / "model", self.tokenizer.content, merged_weights(self.model))
            encoder = self._encoder(work / "model")
            if self.settings.lexical:
                # Fitted to nothing yet: that is for the corpus it is used on.
                weight = max(self.table.lexical.item(), 1e-6)
                HybridEncoder(encoder, BM25Encoder(), weight).save(work / "encoder")
            else:
                encoder.save(work / "encoder")
            tell_on_card(work / "encoder" / portable.CARD, self.settings, self.step)
            replace_folder(work / "encoder", folder)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{folder}: the encoder can't be written ({error})") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _encoder(self, checkpoint: Path) -> SpladeEncoder | InferenceFreeEncoder:
        how, queries = self.settings.model, self.settings.queries
        tower = Tower(
            str(checkpoint),
            pooling=how.pooling,
            saturation=how.saturation,
            max_length=how.max_length,
            head=how.head,
        )
        if queries.kind == "encoded":
            return SpladeEncoder(tower, replace(tower, max_length=queries.max_length))
        table = self.table.weights().detach().cpu().numpy()
        return InferenceFreeEncoder(SpladeEncoder(tower), table, self.tokenizer, max_length=queries.max_length)

    def _validated(self, log: Any) -> bool:
        """Validate, keep the encoder if it is the best, look for a collapse; True to stop."""
        if self.rank == 0:
            assert self.helpers.validate is not None
            assert self.settings.validation is not None
            current = self.folder / "current"
            self.save_encoder(current)
            measures = dict(self.helpers.validate(current))
            if self.settings.validation.measure not in measures:
                raise TrainingError(f"validation gave {', '.join(measures)}, not {self.settings.validation.measure}")
            value = measures[self.settings.validation.measure]
            why_not = self._cannot_be_best(measures)
            if not why_not and value > self.best:
                self.best, self.waited = value, 0
                replace_folder(current, self.folder / "best")
            elif not why_not:
                self.waited += 1
            write_line(log, {"step": self.step, "validation": measures})
            told = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
            note(f"step {self.step}: {told}{why_not and f'; it is not taken for the best: {why_not}'}")
            self._examined(log)
        return self.processes.agree(self._patience_is_over())

    def _cannot_be_best(self, measures: Mapping[str, float]) -> str:
        """Why the encoder as it is now isn't taken for the best, however good; "" if it may be."""
        assert self.settings.validation is not None
        most = self.settings.validation.max_terms
        if most and (terms := measures.get("terms", math.inf)) > most:
            return f"its documents have {terms:.1f} terms, and max_terms is {most:g}"
        sides = [self.settings.documents_regularizer]
        if self.settings.queries.kind == "encoded":
            sides.append(self.settings.queries_regularizer)
        ramps = [side.ramp for side in sides if side.weight and side.schedule != "constant"]
        grown = self._pretrain_steps + max(ramps, default=0)
        return f"the regularizers grow until step {grown}" if self.step < min(grown, self.steps) else ""

    def _patience_is_over(self) -> bool:
        patience = self.settings.validation.patience if self.settings.validation else 0
        return bool(patience) and self.waited >= patience

    def _examined(self, log: Any) -> None:
        """Look for a collapse, and say what is found."""
        if log is None:
            return
        found = self.examine()
        write_line(log, {"step": self.step, "collapse": [finding.what for finding in found]})
        for finding in found:
            note(f"step {self.step}: {f'still {finding.what}' if finding.what in self._told else finding}")
            self._told.add(finding.what)

    @torch.no_grad()
    def examine(self) -> list[collapse_check.Finding]:
        """What is wrong with vectors of training documents, if anything is."""
        self.model.eval()
        ids = self.tokenizer.ids(self._some_texts(_SAMPLE), self.settings.model.max_length, special=True)
        dense = torch.cat([self.network.forward([row], None) for row in ids])
        self.model.train()
        if not bool(torch.isfinite(dense).all()):
            self._give_up("a document's vector", self.step)
        return collapse_check.examine(
            SparseMatrix.from_dense(dense.cpu().numpy()), self.vocabulary, self.tokenizer.special
        )

    # --- new negatives ------------------------------------------------------------------------------------------------

    def _refreshes(self, step: int) -> bool:
        every = self.settings.data.refresh_every
        return bool(every and self.helpers.mine and step > self._pretrain_steps and step % every == 0)

    def _negatives(self, step: int) -> Path:
        return self.folder / f"negatives-{step:08d}"

    def _mine(self) -> None:
        """Search for negatives with the encoder as it is now, and take them."""
        assert self.helpers.mine is not None
        target = self._negatives(self.step)
        # It is there if a run came this far and was killed before its next checkpoint: the encoder was the same.
        if self.rank == 0 and not target.is_dir():
            current, work = self.folder / "current", self.folder / "negatives.partial"
            self.save_encoder(current)
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            self.helpers.mine(current, self.data, work)
            take_name(work, target)
        self.processes.agree(True)
        self._take(target)

    def _take(self, negatives: Path) -> None:
        """Have the sources' candidates replaced by what was mined."""
        sources = [
            replace(source, candidates=str(path), allow_missing=True)
            if (path := negatives / f"{number}.jsonl").is_file()
            else source
            for number, source in enumerate(self.settings.data.sources)
        ]
        self.data = open_training(sources)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write all that the run needs to go on."""
        moments = {
            f"{name}|{key}": value.reshape(-1) if value.dim() == 0 else value
            for parameter, name in self.names.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        counts = {
            f"{side}.{key}": value for side, p in self.penalties.items() for key, value in p.df.state_dict().items()
        }
        if self.settings.queries.kind == "idf":
            counts["idf"] = self.table.weight
        weights = {name: parameter for parameter, name in self.names.items()}
        state = {"step": self.step, "best": self.best if math.isfinite(self.best) else None, "waited": self.waited}
        state |= {"processes": self.processes.count, "drawn": self._drawn()}
        self.checkpoints.save(
            self.step, Checkpoint({"weights": weights, "optimizer": moments, "counts": counts}, state)
        )
        needed = {self._negatives(self._refreshed(step)) for step in self.checkpoints.steps()}
        for old in set(self.folder.glob("negatives-*")) - needed:
            shutil.rmtree(old)

    def _refreshed(self, step: int) -> int:
        """The step after which the candidates of a step were mined."""
        every = self.settings.data.refresh_every
        return step // every * every if every else 0

    def _resume(self) -> None:
        if self.rank == 0:
            restore_folder(self.folder / "best")
        content = self.checkpoints.load()
        if content is None:
            return
        try:
            self._restore(content)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self.checkpoints.damaged(error) from None
        if self._refreshes(mined := self._refreshed(self.step)):
            if not self._negatives(mined).is_dir():
                raise TrainingError(
                    f"{self._negatives(mined)} is gone, the negatives that this run had; start another in a new folder"
                )
            self._take(self._negatives(mined))

    @torch.no_grad()
    def _restore(self, content: Checkpoint) -> None:
        weights, moments, counts = (content.tensors[part] for part in ("weights", "optimizer", "counts"))
        for side, penalty in self.penalties.items():
            penalty.df.load_state_dict({key: counts[f"{side}.{key}"].to(self.device) for key in ("active", "seen")})
        if self.settings.queries.kind == "idf":
            if "idf" not in counts:
                raise TrainingError(
                    f"{self.folder} has a run of an earlier version, in which the queries' IDF had a mean of 1; take "
                    "another folder, or go on with that version"
                )
            self.table.weight.copy_(counts["idf"])
        if unknown := {slot.rpartition("|")[0] for slot in moments} - set(self.names.values()):
            raise ValueError(f"moments of {min(unknown)}, which is not trained")
        for parameter, name in self.names.items():
            parameter.copy_(weights[name])
            slots = {
                key: moments[slot] for key in ("step", "exp_avg", "exp_avg_sq") if (slot := f"{name}|{key}") in moments
            }
            if slots:
                self.optimizer.state[parameter] = {
                    key: value.reshape(()) if key == "step" else value.to(parameter) for key, value in slots.items()
                }
        best = content.state["best"]
        self.step, self.waited = int(content.state["step"]), int(content.state["waited"])
        self.best = -math.inf if best is None else float(best)
        before = int(content.state.get("processes", self.processes.count))
        self.drawn_before = int(content.state.get("drawn", self._drawn())) - self._drawn()
        if before != self.processes.count and self.rank == 0:
            size = self.settings.data.queries * self.settings.optimizer.accumulate
            note(
                f"this run had {before} processes until step {self.step} and goes on with {self.processes.count}: an "
                f"update is of {size * self.processes.count} queries instead of {size * before}"
            )


def _check_data(settings: TrainSettings, data: TrainingData, helpers: Helpers) -> None:
    """Refuse data that the run would stumble over later on."""
    paths = [source.path for source in settings.data.sources]
    imitates = settings.losses.kl or settings.losses.margin_mse
    if imitates and (not helpers.teachers or any(teacher.examples for teacher in settings.teachers)):
        counts = [data.n_teachers(number) for number in range(data.n_sources)]
        if 0 in counts or len(set(counts)) > 1:
            each = ", ".join(f"{path} those of {n or 'none'}" for path, n in zip(paths, counts, strict=True))
            raise TrainingError(
                "kl and margin_mse need teachers, or examples that bring scores, all of them those of as many "
                f"teachers; here {each}. Name models under teachers, or leave out the sources without scores"
            )
    if settings.data.refresh_every and helpers.mine:
        for number, path in enumerate(paths):
            if n := data.n_unnamed(number):
                raise TrainingError(
                    f"data.refresh_every: {n} queries of {path} have no query_id, by which the negatives that are "
                    "found are joined to them; give them one"
                )


def _check_lengths(checkpoint: Path, settings: TrainSettings) -> None:
    """Refuse lengths that the model can't read."""
    limit = files.position_limit(checkpoint)
    if limit is not None and settings.model.head == "causal-lm":
        limit //= 2  # the text is read twice
    for name, length in (("model", settings.model.max_length), ("queries", settings.queries.max_length)):
        if limit is not None and length > limit:
            raise EncoderError(f"{name}.max_length {length}: the model in {checkpoint} reads {limit} tokens at most")
