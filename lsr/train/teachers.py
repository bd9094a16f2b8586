"""Models whose scores are imitated: they score every query of a batch against every document of it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lsr.encode import checkpoint as files
from lsr.encode.base import Encoder
from lsr.encode.checkpoint import TextTokenizer
from lsr.encode.model import load_backbone
from lsr.train.rows import RowCache


class Teacher(ABC):
    """Scores of pairs."""

    @abstractmethod
    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """Every query with every document, (n_queries, n_documents) float32."""


class SparseTeacher(Teacher):
    """A sparse encoder, BM25 among them.

    Args:
        encoder: It.
        texts: Documents that it is fitted to, if it has to be.
    """

    def __init__(self, encoder: Encoder, texts: Iterable[str] = ()) -> None:
        self.encoder = encoder
        if encoder.needs_fit:
            encoder.fit(texts)

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """As `Teacher`."""
        found = self.encoder.encode_document(list(documents)).dot(self.encoder.encode_query(list(queries)))
        return found.T.astype(np.float32)


class DenseTeacher(Teacher):
    """A model of one vector for a text, the mean of its states, compared by cosine (all-MiniLM-L6-v2 and its like).

    Args:
        name: The checkpoint, a folder or a name on the hub.
        max_length: Tokens of a text that are read.
        cache: Where vectors are kept, each text's once.
        device: Where the model runs.
    """

    _BATCH_TOKENS = 8192

    def __init__(self, name: str, *, max_length: int, cache: Path, device: str) -> None:
        folder = files.locate(name)
        self._model = load_backbone(folder, "AutoModel")[0].to(device)
        self._tokenizer, self._max_length, self._device = TextTokenizer.open(folder), max_length, device
        self._cache = RowCache(cache, int(self._model.config.hidden_size))

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float32]:
        """As `Teacher`."""
        return self.vectors(queries) @ self.vectors(documents).T

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1, (n, hidden) float32."""
        ids = self._tokenizer.ids(list(texts), self._max_length, special=True)
        keys = [self._cache.key(row) for row in ids]
        new = {key: row for key, row in zip(keys, ids, strict=True) if key not in self._cache}
        order = sorted(new, key=lambda key: -len(new[key]))
        while order:
            size = max(1, self._BATCH_TOKENS // len(new[order[0]]))
            some, order = order[:size], order[size:]
            self._cache.put(zip(some, self._run([new[key] for key in some])[:, None], strict=True))
        found = np.stack([self._cache[key][0] for key in keys]).astype(np.float32)
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9))

    @torch.inference_mode()
    def _run(self, ids: list[list[int]]) -> NDArray[np.float32]:
        tokens, mask = padded(ids, 0, self._device)
        states = self._model(input_ids=tokens, attention_mask=mask, return_dict=True).last_hidden_state
        mean = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return np.asarray(torch.nn.functional.normalize(mean, dim=-1).float().cpu().numpy())


def device_of(name: str | None) -> str:
    """A device by its name, None for "cuda" where there is one; of several GPUs the one torchrun gives this process."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cuda" or "LOCAL_RANK" not in os.environ:
        return name
    name = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(name)
    return name


def padded(ids: Sequence[Sequence[int]], pad: int, device: str) -> tuple[Any, Any]:
    """Token ids and mask, both (n, longest) int64."""
    width = max(map(len, ids))
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in ids], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)
    return tokens, mask
