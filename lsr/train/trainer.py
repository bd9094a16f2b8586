"""The loop: batches of examples, scores, losses, updates; logs, validation, checkpoints that go on as if nothing was.

Everything that is drawn at a step (examples, negatives, terms, dropout) follows from the seed and the step's number, so
a run that was killed and resumed has the same losses as one that wasn't. Nothing here knows of an index: validation is
a function that the caller brings.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lsr.console import note, progress
from lsr.encode import checkpoint as files
from lsr.encode.checkpoint import TextTokenizer
from lsr.encode.model import SparseModel, start_model
from lsr.encode.splade import SpladeEncoder, Tower
from lsr.encode.static import InferenceFreeEncoder
from lsr.errors import EncoderError, LsrError
from lsr.train import collapse, losses, regularizers
from lsr.train.data import Example, TrainingData
from lsr.train.rows import RowCache
from lsr.train.settings import RegularizerSettings, TrainSettings
from lsr.train.teachers import Teacher, padded

Encoded = SpladeEncoder | InferenceFreeEncoder
Validate = Callable[[Path], Mapping[str, float]]
_KEPT = 2  # checkpoints
_SAMPLE = 64  # documents that the vocabulary's start and the collapse detector look at


class TrainingError(LsrError):
    """Training can't go on."""


@dataclass
class Batch:
    """What a step works on.

    Attributes:
        queries: Token ids of the queries, special ones included where a model reads them.
        texts: Documents, each once.
        columns: (n_queries, n_candidates) int64, each query's own documents among them, the positive first.
        positives: (n_queries, n_documents) bool, documents known to be relevant.
        query_texts: The queries.
        scores: (n_teachers, n_queries, n_candidates) float32 that the examples brought, or None.
    """

    queries: list[list[int]]
    texts: list[str]
    columns: Tensor
    positives: Tensor
    query_texts: list[str]
    scores: Tensor | None


class Trainer:
    """A training run in a folder of its own.

    Args:
        settings: What to do.
        folder: Where it is kept: checkpoints, `log.jsonl`, and the finished encoders in `best` and `last`.
        data: Examples.
        teachers: Models to imitate.
        validate: Takes an encoder's folder, gives measures; None for no validation.

    Raises:
        EncoderError: The checkpoint to start from can't be used.
        TrainingError: The folder holds a run of other settings.
    """

    def __init__(
        self,
        settings: TrainSettings,
        folder: Path,
        data: TrainingData,
        teachers: Sequence[Teacher] = (),
        validate: Validate | None = None,
    ) -> None:
        self.settings, self.folder, self.data, self.teachers, self.validate = settings, folder, data, teachers, validate
        self.device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        folder.mkdir(parents=True, exist_ok=True)
        self._check_folder()
        checkpoint = files.locate(settings.model.checkpoint)
        self.tokenizer = TextTokenizer.open(checkpoint)
        n_terms = int(files.model_config(checkpoint)["vocab_size"])
        limit = files.position_limit(checkpoint)
        for name, length in (("model", settings.model.max_length), ("queries", settings.queries.max_length)):
            if limit is not None and length > limit:
                raise EncoderError(
                    f"{name}.max_length {length}: the model in {checkpoint} reads {limit} tokens at most"
                )
        self.vocabulary = self.tokenizer.vocabulary(n_terms)
        self.absent = sorted({t for t in self.tokenizer.special if t < n_terms} | _unused(self.vocabulary))
        torch.manual_seed(settings.seed)
        model = settings.model
        first = self._some_texts(_SAMPLE)
        ids = self.tokenizer.ids(first, min(model.max_length, 128), special=True)
        self.model = start_model(
            checkpoint, model.head, model.pooling, model.saturation, n_terms, [row for row in ids if row], self.absent
        )
        if model.lora:
            _add_adapters(self.model, model.lora)
        self.model.to(self.device).train()
        self._freeze(model.freeze)
        self.states = self._open_states()
        self.table = QueryTable(self._first_table(n_terms), learned=settings.queries.kind == "table").to(self.device)
        self.df = regularizers.DocumentFrequency(n_terms, device=self.device)
        self.step, self.best, self.waited = 0, -math.inf, 0
        self.optimizer = self._make_optimizer()
        self._resume()

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the last step, or until validation no longer gets better.

        Returns:
            The folder of the encoder that did best in validation, or of the last one.

        Raises:
            TrainingError: A loss is no number. The last checkpoint is whole.
        """
        settings, steps = self.settings, self.settings.optimizer.steps
        per_step = settings.data.queries * settings.optimizer.accumulate * self.world
        every = self.data.stream(settings.seed, self.step * per_step)
        examples = islice(every, self.rank, None, self.world)
        log = (self.folder / "log.jsonl").open("a", encoding="utf-8") if self.rank == 0 else None
        started, first = time.perf_counter(), self.step
        bar = progress(steps, "train", "steps")
        bar.update(self.step)
        stopped = False
        while self.step < steps and not stopped:
            values = self._update(examples)
            self.step += 1
            bar.update(1)
            values["seconds"] = (time.perf_counter() - started) / (self.step - first)
            if log is not None:
                log.write(json.dumps({"step": self.step, **{k: _short(v) for k, v in values.items()}}) + "\n")
                log.flush()
            last = self.step == steps
            if settings.validation and self.validate and (last or self.step % settings.validation.every == 0):
                stopped = self._validated(log)
            if self.rank == 0 and (last or stopped or self.step % settings.checkpoint_every == 0):
                self.save_checkpoint()
        bar.close()
        if log is not None:
            log.close()
        if self.rank == 0:
            self.save_encoder(self.folder / "last")
        best = self.folder / "best"
        return best if best.is_dir() else self.folder / "last"

    def _update(self, examples: Iterator[Example]) -> dict[str, float]:
        """One step; gives what it logs."""
        settings = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        for part in range(settings.optimizer.accumulate):
            drawn = [next(examples) for _ in range(settings.data.queries)]
            rng = np.random.default_rng([settings.seed, self.step, part, self.rank])
            torch.manual_seed(int(rng.integers(2**31)))
            values = self._backward(self._batch(drawn, rng), rng)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value / settings.optimizer.accumulate
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        _mean_over_processes(parameters, self.world)
        norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], settings.optimizer.clip)
        if wrong := [name for name, value in totals.items() if not math.isfinite(value)]:
            self._give_up(", ".join(wrong))
        if not math.isfinite(float(norm)):
            self._give_up("the gradient")
        factor = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        self.optimizer.step()
        return totals | {"norm": float(norm), "rate": factor}

    def _give_up(self, what: str) -> None:
        kept = self._checkpoints()
        back = f"the last good checkpoint is {kept[-1]}" if kept else "there was no checkpoint yet"
        raise TrainingError(
            f"step {self.step + 1}: {what} is no finite number; {back}. Lower the learning rate or the regularizer's "
            'weight, make the warm-up longer, or use precision "float32".'
        )

    def _rate(self) -> float:
        optimizer = self.settings.optimizer
        if self.step < optimizer.warmup:
            return (self.step + 1) / optimizer.warmup
        left = 1 - (self.step - optimizer.warmup) / max(1, optimizer.steps - optimizer.warmup)
        if optimizer.decay == "linear":
            return max(left, 0.01)
        return max(0.5 * (1 - math.cos(math.pi * left)), 0.01) if optimizer.decay == "cosine" else 1.0

    # --- a batch ------------------------------------------------------------------------------------------------------

    def _batch(self, examples: list[Example], rng: np.random.Generator) -> Batch:
        """Draw a positive and negatives for each query, and note which documents are relevant to which."""
        chosen, place = [], {}
        n_wanted = self.settings.data.negatives
        for example in examples:
            positive = int(rng.integers(example.n_positives))
            others = np.arange(example.n_positives, len(example.doc_ids))
            drawn = rng.choice(others, min(n_wanted, len(others)), replace=False)
            chosen.append([positive, *map(int, drawn)])
        texts: list[str] = []
        for example, picks in zip(examples, chosen, strict=True):
            for i in picks:
                if example.doc_ids[i] not in place:
                    place[example.doc_ids[i]] = len(texts)
                    texts.append(example.documents[i])
        width = max(map(len, chosen))
        columns = torch.full((len(examples), width), -1, dtype=torch.int64)
        positives = torch.zeros(len(examples), len(texts), dtype=torch.bool)
        brought = None
        n_teachers = {0 if example.scores is None else len(example.scores) for example in examples}
        if len(n_teachers) == 1 and 0 not in n_teachers:
            brought = torch.full((n_teachers.pop(), len(examples), width), torch.nan)
        for row, (example, picks) in enumerate(zip(examples, chosen, strict=True)):
            columns[row, : len(picks)] = torch.tensor([place[example.doc_ids[i]] for i in picks])
            for doc_id in example.doc_ids[: example.n_positives]:
                if doc_id in place:
                    positives[row, place[doc_id]] = True
            if brought is not None:
                brought[:, row, : len(picks)] = torch.from_numpy(np.asarray(example.scores)[:, picks])
        queries = [example.query for example in examples]
        special = self.settings.queries.kind == "encoded"
        ids = self.tokenizer.ids(queries, self.settings.queries.max_length, special=special)
        return Batch(ids, texts, columns, positives, queries, brought)

    def _backward(self, batch: Batch, rng: np.random.Generator) -> dict[str, float]:
        """Losses of a batch, and their gradients."""
        settings = self.settings
        ids = self.tokenizer.ids(batch.texts, settings.model.max_length, special=True)
        encoded = settings.queries.kind == "encoded"
        terms, n_asked = (None, 0) if encoded else self._terms(batch.queries, rng)
        parts: list[tuple[Tensor, Callable[[], None]]] = [self._run(ids, terms)]
        if encoded:
            parts.append(self._run(batch.queries, None))
        documents = parts[0][0]
        if encoded:
            scores = parts[1][0] @ documents.T
        else:
            scores = self._look_up(batch.queries, terms, n_asked) @ documents[:, :n_asked].T
        raw, weighted = self._losses(scores, batch)
        sides = [("documents", documents, settings.documents_regularizer)]
        if encoded:
            sides.append(("queries", parts[1][0], settings.queries_regularizer))
        for name, weights, regularizer in sides:
            value, term = self._regularizer(weights, regularizer, terms, n_asked)
            share = 1.0 if terms is None else self.model.n_terms / max(1, len(terms) - n_asked)
            counted = weights if terms is None else weights[:, n_asked:]
            raw[f"{name}_terms"] = (counted.detach() > 0).sum(1).float().mean() * share
            raw |= {f"{name}_{key}": part for key, part in value.items()}
            weighted = weighted + term
        (weighted / settings.optimizer.accumulate).backward()
        for _, finish in parts:
            finish()
        return {name: float(value.detach()) for name, value in raw.items()} | {"loss": float(weighted.detach())}

    def _losses(self, scores: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Raw losses by name, and their weighted sum."""
        settings, device = self.settings.losses, scores.device
        raw: dict[str, Tensor] = {}
        total = scores.new_zeros(())
        if settings.info_nce:
            raw["info_nce"] = losses.info_nce(scores, batch.positives.to(device), settings.temperature)
            total = total + settings.info_nce * raw["info_nce"]
        if not (settings.kl or settings.margin_mse):
            return raw, total
        columns = batch.columns.to(device)
        there, own = columns >= 0, scores.gather(1, columns.clamp_min(0))
        every = None
        if self.teachers:
            found = [torch.from_numpy(t.scores(batch.query_texts, batch.texts)).to(device) for t in self.teachers]
            every = torch.stack(found)
        elif batch.scores is None:
            raise TrainingError(
                "kl and margin_mse need teachers, or examples that bring scores, all of them those of as many teachers"
            )
        if settings.kl:
            if every is not None:
                raw["kl"] = losses.kl(scores, losses.ensemble(every, scale=settings.scale))
            else:
                target = losses.ensemble(batch.scores.to(device), scale=settings.scale)  # type: ignore[union-attr]
                raw["kl"] = losses.kl(own, target, there & ~target.isnan())
            total = total + settings.kl * raw["kl"]
        if settings.margin_mse:
            mean = (every.mean(0).gather(1, columns.clamp_min(0)) if every is not None
                    else batch.scores.to(device).nanmean(0))  # type: ignore[union-attr]  # fmt: skip
            raw["margin_mse"] = losses.margin_mse(own, mean.nan_to_num(), there & ~mean.isnan())
            total = total + settings.margin_mse * raw["margin_mse"]
        return raw, total

    def _regularizer(
        self, weights: Tensor, settings: RegularizerSettings, terms: Tensor | None, n_asked: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The regularizer's raw values by name, and what it adds to the loss; of a sample, scaled to all terms."""
        share = 1.0
        if terms is not None:
            weights, terms = weights[:, n_asked:], terms[n_asked:]
            share = self.model.n_terms / max(1, len(terms))
        match settings.kind:
            case "flops":
                value = regularizers.flops(weights)
            case "l1":
                value = regularizers.l1(weights)
            case "idf_flops":
                idf = self.table.idf if terms is None else self.table.idf[terms]
                view = "document" if self.settings.queries.kind in ("idf", "table") else "query"
                value = regularizers.idf_flops(weights, idf, view=view)
            case "df_flops":
                self.df.update(weights, terms)
                value = regularizers.df_flops(weights, self.df.fractions(terms))
            case "l0_flops":
                active = (weights.detach() > 0).sum(1) * share
                value = regularizers.l0_flops(weights, settings.threshold, active)
        value = value * share
        factor = settings.weight * regularizers.schedule(settings.schedule, self.step, settings.ramp)
        raw, total = {settings.kind: value}, factor * value
        if settings.anti_zero:
            raw["anti_zero"] = regularizers.anti_zero(weights * share)
            total = total + settings.anti_zero * raw["anti_zero"]
        return raw, total

    # --- weights ------------------------------------------------------------------------------------------------------

    def _run(self, ids: list[list[int]], terms: Tensor | None) -> tuple[Tensor, Callable[[], None]]:
        """Weights of some texts, (n, n_terms), and what to call once they have their gradient."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        parts: list[list[int]] = []
        for i in order:
            if not parts or (len(parts[-1]) + 1) * len(ids[parts[-1][0]]) > self.settings.batch_tokens:
                parts.append([])
            parts[-1].append(i)
        back = torch.empty(len(ids), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(ids))
        back = back.to(self.device)
        if not self.settings.gradient_cache:
            return torch.cat([self._forward([ids[i] for i in part], terms) for part in parts])[back], lambda: None
        # arXiv 2101.06983: once without a gradient, and, when that of the weights is known, part by part once more.
        seeds = torch.randint(2**31, (len(parts),)).tolist()

        def forward(part: list[int], seed: int) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return self._forward([ids[i] for i in part], terms)

        with torch.no_grad():
            whole = torch.cat([forward(part, seed) for part, seed in zip(parts, seeds, strict=True)])[back]
        whole.requires_grad_()

        def finish() -> None:
            grad = whole.grad
            assert grad is not None
            for part, seed in zip(parts, seeds, strict=True):
                forward(part, seed).backward(grad[torch.tensor(part, device=grad.device)])

        return whole, finish

    def _forward(self, ids: list[list[int]], terms: Tensor | None) -> Tensor:
        tokens, mask = padded(ids, self.model.backbone.config.pad_token_id or 0, self.device)
        half = torch.autocast(self.device.partition(":")[0], torch.bfloat16, self.settings.precision == "bfloat16")
        with half:
            if self.states is None:
                return self.model(tokens, mask, terms).float()
            frozen = self.settings.model.freeze
            states = self.model.upper(self._frozen_states(ids, tokens, mask), mask, frozen)
            return self.model.head(states, tokens, mask, terms).float()

    def _frozen_states(self, ids: list[list[int]], tokens: Tensor, mask: Tensor) -> Tensor:
        """States of the frozen layers, (batch, seq, hidden) float32, from the cache or into it."""
        assert self.states is not None
        keys = [self.states.key(row) for row in ids]
        new = [i for i, key in enumerate(keys) if key not in self.states]
        if new:
            with torch.no_grad():
                self.model.backbone.eval()
                found = self.model.lower(tokens[new], mask[new], self.settings.model.freeze).float().cpu().numpy()
                self.model.backbone.train()
            unique = {keys[i]: rows[: len(ids[i])] for i, rows in zip(new, found, strict=True)}
            self.states.put(unique.items())
        out = np.zeros((*tokens.shape, self.states.width), np.float32)
        for row, key in enumerate(keys):
            out[row, : len(ids[row])] = self.states[key]
        return torch.from_numpy(out).to(self.device)

    def _terms(self, queries: list[list[int]], rng: np.random.Generator) -> tuple[Tensor, int]:
        """The terms of a batch: those of its queries, then others; and how many the former are."""
        asked = np.unique(np.concatenate([np.array(row, dtype=np.int64) for row in queries]))
        asked = asked[~np.isin(asked, self.absent)]
        n_terms = self.model.n_terms
        others = np.setdiff1d(np.arange(n_terms), self.absent)
        if self.settings.sample_terms:
            others = rng.choice(others, min(self.settings.sample_terms, len(others)), replace=False)
        return torch.from_numpy(np.concatenate([asked, others])).to(self.device), len(asked)

    def _look_up(self, queries: list[list[int]], terms: Tensor | None, n_asked: int) -> Tensor:
        """Weights of queries from the table, (n_queries, n_asked)."""
        assert terms is not None
        asked = terms[:n_asked]
        place = {int(term): i for i, term in enumerate(asked.tolist())}
        there = torch.zeros(len(queries), n_asked)
        for row, ids in enumerate(queries):
            there[row, [place[i] for i in ids if i in place]] = 1
        return there.to(self.device) * self.table(asked)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _some_texts(self, n: int) -> list[str]:
        texts: dict[str, None] = {}
        for example in islice(self.data.stream(self.settings.seed), len(self.data)):
            texts.update(dict.fromkeys(example.documents[: example.n_positives]))
            if len(texts) >= n:
                break
        return list(texts)[:n]

    def _first_table(self, n_terms: int) -> Tensor:
        """IDF over documents of the training data, brought to a mean of 1 over the terms that they have."""
        if self.settings.queries.kind in ("encoded", "tokens") and "idf_flops" not in (
            self.settings.documents_regularizer.kind,
            self.settings.queries_regularizer.kind,
        ):
            table = torch.ones(n_terms)
        else:
            texts = self._some_texts(20_000)
            df = np.zeros(n_terms)
            for row in self.tokenizer.ids(texts, self.settings.model.max_length, special=False):
                df[np.unique(np.array(row, dtype=np.int64))] += 1
            idf = np.log1p((len(texts) - df + 0.5) / (df + 0.5))
            table = torch.from_numpy(idf / max(idf[df > 0].mean(), 1e-9)).float()
        table[self.absent] = 0
        return table

    def _freeze(self, n_layers: int) -> None:
        if not n_layers:
            return
        layers = self.model.layers()
        if n_layers > len(layers):
            raise EncoderError(f"freeze {n_layers}: the backbone has {len(layers)} layers")
        for module in (self.model.backbone.embeddings, *layers[:n_layers]):
            module.requires_grad_(False)

    def _open_states(self) -> RowCache | None:
        model = self.settings.model
        if not model.freeze:
            return None
        digest = files.weight_files(files.locate(model.checkpoint))
        from lsr.fingerprint import digest_files

        name = f"states-{digest_files(digest)}-{model.freeze}"
        return RowCache(self.folder / "cache" / name, int(self.model.backbone.config.hidden_size))

    def _make_optimizer(self) -> torch.optim.AdamW:
        given = self.settings.optimizer
        own = {id(p) for p in self.model.head.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        self.names: dict[int, str] = {}
        for name, parameter in [*self.model.named_parameters(), *self.table.named_parameters(prefix="table")]:
            if not parameter.requires_grad:
                continue
            rate = given.lr
            if id(parameter) in own or name.startswith("table"):
                rate = given.head_lr or given.lr
                if (parameter.dim() == 1 and len(parameter) == self.model.n_terms) or parameter.numel() <= 2:
                    rate = given.term_lr or rate
            decay = given.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
            self.names[id(parameter)] = name
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
        """Write the encoder as it is now; the folder is replaced as a whole."""
        work = folder.with_name(folder.name + ".partial")
        shutil.rmtree(work, ignore_errors=True)
        (work / "model").mkdir(parents=True)
        model = self.settings.model
        self.model.save(work / "model", self.tokenizer.content)
        tower = Tower(
            str(work / "model"),
            pooling=model.pooling,
            saturation=model.saturation,
            max_length=model.max_length,
            head=model.head,
        )
        documents = SpladeEncoder(tower)
        encoder: Encoded = documents
        if self.settings.queries.kind != "encoded":
            table = self.table.weights().detach().cpu().numpy()
            encoder = InferenceFreeEncoder(
                documents, table, self.tokenizer, max_length=self.settings.queries.max_length
            )
        elif self.settings.queries.max_length != model.max_length:
            query = Tower(**(asdict(tower) | {"max_length": self.settings.queries.max_length}))
            encoder = SpladeEncoder(tower, query)
        encoder.save(work / "encoder")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(work / "encoder", folder)
        shutil.rmtree(work)

    def _validated(self, log: Any) -> bool:
        """Validate, keep the encoder if it is the best, look for a collapse; True to stop."""
        assert self.validate is not None
        assert self.settings.validation is not None
        stop = False
        if self.rank == 0:
            current = self.folder / "current"
            self.save_encoder(current)
            measures = dict(self.validate(current))
            if self.settings.validation.measure not in measures:
                raise TrainingError(f"validation gave {', '.join(measures)}, not {self.settings.validation.measure}")
            value = measures[self.settings.validation.measure]
            found = self.examine()
            if value > self.best:
                self.best, self.waited = value, 0
                shutil.rmtree(self.folder / "best", ignore_errors=True)
                os.replace(current, self.folder / "best")
            else:
                self.waited += 1
            line = {"step": self.step, "validation": measures, "collapse": [f.what for f in found]}
            log.write(json.dumps(line) + "\n")
            log.flush()
            note(f"step {self.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in measures.items()))
            for finding in found:
                note(f"step {self.step}: {finding}")
            patience = self.settings.validation.patience
            stop = bool(patience) and self.waited >= patience
        if self.world > 1:
            flag = torch.tensor([int(stop)], device=self.device)
            dist.broadcast(flag, 0)
            stop = bool(flag.item())
        return stop

    @torch.no_grad()
    def examine(self) -> list[collapse.Finding]:
        """What is wrong with vectors of training documents, if anything is."""
        from lsr.sparse import SparseMatrix

        self.model.eval()
        ids = self.tokenizer.ids(self._some_texts(_SAMPLE), self.settings.model.max_length, special=True)
        dense = torch.cat([self._forward([row], None) for row in ids])
        self.model.train()
        return collapse.examine(SparseMatrix.from_dense(dense.cpu().numpy()), self.vocabulary, self.tokenizer.special)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> Path:
        """Write all that the run needs to go on; older checkpoints go once this one is whole."""
        target = self.folder / f"checkpoint-{self.step:08d}"
        work = self.folder / "checkpoint.partial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        trained = {**dict(self._trained()), **{f"df.{k}": v for k, v in self.df.state_dict().items()}}
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in trained.items()}, work / "weights.safetensors"
        )
        moments = {
            f"{self.names[id(p)]}|{key}": value.detach().reshape(-1)
            if value.dim() == 0
            else value.detach().contiguous()
            for p, state in self.optimizer.state.items()
            for key, value in state.items()
        }
        save_file(moments, work / "optimizer.safetensors")
        state = {"step": self.step, "best": self.best if math.isfinite(self.best) else None, "waited": self.waited}
        with (work / "state.json").open("w") as file:
            file.write(json.dumps(state))
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(work, target)
        for old in self._checkpoints()[:-_KEPT]:
            shutil.rmtree(old)
        return target

    def _trained(self) -> Iterable[tuple[str, Tensor]]:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                yield self.names[id(parameter)], parameter

    def _checkpoints(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("checkpoint-*") if (path / "state.json").is_file())

    def _resume(self) -> None:
        kept = self._checkpoints()
        if not kept:
            return
        folder = kept[-1]
        try:
            state = json.loads((folder / "state.json").read_bytes())
            weights, moments = load_file(folder / "weights.safetensors"), load_file(folder / "optimizer.safetensors")
            self.df.load_state_dict({key: weights[f"df.{key}"].to(self.device) for key in ("active", "seen")})
            with torch.no_grad():
                for name, parameter in self._trained():
                    parameter.copy_(weights[name])
                    slots = {key: value for key in ("step", "exp_avg", "exp_avg_sq")
                             if (value := moments.get(f"{name}|{key}")) is not None}  # fmt: skip
                    if slots:
                        slots["step"] = slots["step"].reshape(())
                        self.optimizer.state[parameter] = {
                            key: value if key == "step" else value.to(parameter) for key, value in slots.items()
                        }
            self.step, self.waited = int(state["step"]), int(state["waited"])
            self.best = -math.inf if state["best"] is None else float(state["best"])
        except Exception as error:  # safetensors, JSON and torch each have errors of their own
            raise TrainingError(
                f"{folder}: this checkpoint can't be read ({error}); delete it to go on before it"
            ) from None

    def _check_folder(self) -> None:
        """Refuse a folder with another run; remember this one's settings."""
        path, now = self.folder / "settings.json", json.dumps(asdict(self.settings), indent=1, sort_keys=True)
        before = path.read_text() if path.is_file() and self._checkpoints() else None
        if before is not None and before != now:
            then, here = json.loads(before), json.loads(now)
            other = [key for key in here if then.get(key) != here[key]]
            raise TrainingError(
                f"{self.folder} has a run with other settings ({', '.join(other)}); take another folder or delete it"
            )
        if before is None and self.rank == 0:
            path.write_text(now)


class QueryTable(nn.Module):
    """Weights of query terms, looked up.

    Args:
        start: (n_terms,) float32, what they are at first; negative ones count as zero.
        learned: Whether they change.
    """

    def __init__(self, start: Tensor, *, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone(), requires_grad=learned)
        self.register_buffer("idf", start.clone(), persistent=False)

    def forward(self, terms: Tensor) -> Tensor:
        """Weights of some terms, (n,)."""
        return torch.relu(self.weight[terms])

    def weights(self) -> Tensor:
        """All of them, (n_terms,)."""
        return torch.relu(self.weight)


def _unused(vocabulary: Sequence[str]) -> set[int]:
    return {term for term, token in enumerate(vocabulary) if token.startswith("[unused")}


def _add_adapters(model: SparseModel, rank: int) -> None:
    try:
        import peft
    except ImportError:
        from lsr.errors import MissingExtra

        raise MissingExtra("peft", "train", "training with low-rank adapters (lora)") from None
    model.backbone.requires_grad_(False)
    adapters = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    peft.inject_adapter_in_model(adapters, model.backbone)


def _mean_over_processes(parameters: list[nn.Parameter], world: int) -> None:
    """Replace gradients by their mean over the processes; in place."""
    if world == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= world


def _short(value: float) -> float:
    return float(f"{value:.6g}")
