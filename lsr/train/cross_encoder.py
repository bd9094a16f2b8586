"""Cross-encoders as teachers: models that read a query and a document together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lsr.encode import model_files as files
from lsr.errors import EncoderError, MissingExtra
from lsr.fingerprint import digest, digest_files
from lsr.train.state_cache import RowCache
from lsr.train.teachers import PairTeacher

_BATCH = 64  # pairs of a batch


class CrossEncoderTeacher(PairTeacher):
    """A CrossEncoder of sentence-transformers with one output. Scores are its logits, without an activation function.

    Args:
        name: A folder or a name on the hub.
        max_length: Maximum number of tokens read from a pair; the model may read fewer.
        cache: Folder for scores, with a subfolder for each model; None for no cache.
        device: Where the model runs.

    Raises:
        MissingExtra: sentence-transformers isn't installed.
        EncoderError: There is no such model, it isn't a cross-encoder, or it has several outputs.
    """

    def __init__(self, name: str, *, max_length: int | None = None, cache: Path | None = None, device: str) -> None:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError:
            raise MissingExtra("sentence-transformers", "sentence-transformers", "a cross-encoder as teacher") from None
        folder = files.locate(name)
        if (kind := files.without_scores(folder)) is not None:
            raise EncoderError(f"{name}: no cross-encoder but a {kind}, which has no output for scores")
        limits = [limit for limit in (max_length, files.position_limit(folder)) if limit is not None]
        max_length = min(limits, default=None)
        try:
            self._model = CrossEncoder(str(folder), device=device, max_length=max_length)
        except Exception as error:  # transformers raises many kinds of errors if files aren't a model
            raise EncoderError(f"{name}: can't be loaded as a cross-encoder: {error}") from error
        if (outputs := int(self._model.config.num_labels)) != 1:
            raise EncoderError(f"{name}: this model has {outputs} outputs; a teacher of scores has one")
        self._cache: RowCache | None = None
        if cache is not None:
            made_by = digest_files([folder / "config.json", *files.weight_files(folder)])
            key = digest([f"{made_by} {max_length}".encode()])
            self._cache = RowCache(cache / f"cross-{key}", 2)

    def pair_scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """See `PairTeacher`."""
        if self._cache is None:
            return self._run(pairs)
        cache = self._cache
        keys = [_key(pair) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in cache}
        if new:
            scores = self._run(list(new.values()))
            high = scores.astype(np.float16)  # the remainder is stored as a second number
            rows = np.stack([high, scores - high.astype(np.float32)], axis=1)
            cache.put((key, row[None]) for key, row in zip(new, rows, strict=True))
        return np.array([np.asarray(cache[key], np.float32).sum() for key in keys], np.float32)

    def _run(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        if not pairs:
            return np.zeros(0, np.float32)
        found = self._model.predict(
            list(pairs), batch_size=_BATCH, show_progress_bar=False, activation_fn=torch.nn.Identity()
        )
        return np.asarray(found, np.float32).reshape(len(pairs))


def _key(pair: tuple[str, str]) -> int:
    query, document = (text.encode("utf-8", "replace") for text in pair)
    return RowCache.key(np.frombuffer(b"%d " % len(query) + query + document, np.uint8))
