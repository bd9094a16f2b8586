"""Run a model in training: in batches limited by tokens, and optionally in half precision, from cached states, or with
a gradient cache.

The gradient cache (arXiv 2101.06983) runs the model once without gradients. When the gradient of the term weights is
known, it runs the model again part by part, so that a batch of any size needs the memory of one part. Both runs draw
the same dropout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lsr.encode import model_files as files
from lsr.encode.model import SparseModel
from lsr.errors import EncoderError, MissingExtra
from lsr.fingerprint import digest_files
from lsr.train.settings import TrainSettings
from lsr.train.state_cache import RowCache
from lsr.train.teachers import padded

Ids = list[list[int]]


class Network:
    """Computes term weights of texts in training.

    Args:
        model: The model; adapters are added and layers frozen according to the settings.
        settings: Settings of the run.
        device: Where the model runs.
        cache: Folder for the states of frozen layers.

    Raises:
        EncoderError: Layers can't be frozen in this model.
        MissingExtra: Adapters need the package peft.
    """

    def __init__(self, model: SparseModel, settings: TrainSettings, device: str, cache: Path) -> None:
        self.model, self.device = model, device
        self.frozen = settings.model.freeze
        self._batch_tokens, self._twice = settings.batch_tokens, settings.gradient_cache
        self._half = settings.precision == "bfloat16"
        self._pad = int(model.backbone.config.pad_token_id or 0)
        if settings.model.lora:
            _add_adapters(model, settings.model.lora)
        model.to(device).train()
        self.states: RowCache | None = None
        if self.frozen:
            _freeze(model, self.frozen)
            folder = files.locate(settings.model.checkpoint)
            made_by = digest_files([folder / "config.json", *files.weight_files(folder)])
            name = f"states-{made_by}-{self.frozen}-{settings.precision}"
            self.states = RowCache(cache / name, int(model.backbone.config.hidden_size))

    def with_model(self, model: SparseModel) -> Network:
        """A network that runs another model with the same backbone."""
        other = copy.copy(self)
        other.model, other.frozen, other.states = model, 0, None
        return other

    def run(self, ids: Ids, terms: Tensor | None) -> tuple[Tensor, Callable[[], None]]:
        """Term weights of texts, and a function to call after their backward pass.

        Args:
            ids: Token ids of the texts.
            terms: (n,) int64, the terms to weight; None for all.

        Returns:
            (n_texts, n) float32 weights, and a function that passes their gradient on to the parameters.
        """
        if not ids:
            return torch.zeros(0, self.model.n_terms if terms is None else len(terms), device=self.device), lambda: None
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        parts: list[list[int]] = []
        for i in order:
            if not parts or (len(parts[-1]) + 1) * len(ids[parts[-1][0]]) > self._batch_tokens:
                parts.append([])
            parts[-1].append(i)
        back = torch.empty(len(ids), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(ids))
        back = back.to(self.device)
        if not self._twice:
            return torch.cat([self.forward([ids[i] for i in part], terms) for part in parts])[back], lambda: None
        seeds = torch.randint(2**31, (len(parts),)).tolist()

        def forward(part: list[int], seed: int) -> Tensor:
            with seeded(seed):
                return self.forward([ids[i] for i in part], terms)

        with torch.no_grad():
            whole = torch.cat([forward(part, seed) for part, seed in zip(parts, seeds, strict=True)])[back]
        whole.requires_grad_()

        def finish() -> None:
            grad = whole.grad
            assert grad is not None
            for part, seed in zip(parts, seeds, strict=True):
                forward(part, seed).backward(grad[torch.tensor(part, device=grad.device)])

        return whole, finish

    def forward(self, ids: Ids, terms: Tensor | None) -> Tensor:
        """Term weights of one batch; see `run` for arguments and result."""
        tokens, mask = padded(ids, self._pad, self.device)
        with self.autocast():
            if self.states is None:
                return self.model(tokens, mask, terms).float()
            states = self.model.upper(self._frozen_states(self.states, ids, tokens, mask), mask, self.frozen)
            return self.model.head(states, tokens, mask, terms).float()

    def autocast(self) -> torch.autocast:
        """A context with the precision of the settings."""
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, self._half)

    def _frozen_states(self, cache: RowCache, ids: Ids, tokens: Tensor, mask: Tensor) -> Tensor:
        """States of the frozen layers, (batch, seq, hidden) float32, read from the cache. Missing states are computed
        and added to the cache.
        """
        keys = [cache.key(row) for row in ids]
        new = [i for i, key in enumerate(keys) if key not in cache]
        if new:
            training = self.model.training
            self.model.eval()
            with torch.no_grad():
                found = self.model.lower(tokens[new], mask[new], self.frozen).float().cpu().numpy()
            self.model.train(training)
            cache.put({keys[i]: rows[: len(ids[i])] for i, rows in zip(new, found, strict=True)}.items())
        out = np.zeros((*tokens.shape, cache.width), np.float32)
        for row, key in enumerate(keys):
            out[row, : len(ids[row])] = cache[key]
        return torch.from_numpy(out).to(self.device)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers within the block, so that a second run draws the same dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _freeze(model: SparseModel, n_layers: int) -> None:
    layers = model.layers()
    if n_layers > len(layers):
        raise EncoderError(f"freeze {n_layers}: the backbone has {len(layers)} layers")
    for module in (model.backbone.embeddings, *layers[:n_layers]):
        module.requires_grad_(False)


def _add_adapters(model: SparseModel, rank: int) -> None:
    try:
        import peft
    except ImportError:
        raise MissingExtra("peft", "train", "training with low-rank adapters (lora)") from None
    model.backbone.requires_grad_(False)
    adapters = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    peft.inject_adapter_in_model(adapters, model.backbone)


def merged_weights(model: SparseModel) -> dict[str, Tensor] | None:
    """The backbone's weights with adapters merged, under their original names; None without adapters."""
    from_adapters = {
        name: module for name, module in model.backbone.named_modules() if hasattr(module, "get_delta_weight")
    }
    if not from_adapters:
        return None
    found: dict[str, Tensor] = {}
    for name, tensor in model.backbone.state_dict().items():
        if ".lora_" in name:
            continue
        module, _, last = name.replace(".base_layer.", ".").rpartition(".")
        if last == "weight" and module in from_adapters:
            tensor = tensor + from_adapters[module].get_delta_weight("default")
        found[f"{module}.{last}" if module else last] = tensor.detach()
    return found
