"""Run a tower's model in torch: token ids in, sparse weights out. Making a runner imports torch and transformers."""

from __future__ import annotations

import importlib
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.console import warn
from lsr.encode.tower import Tower
from lsr.errors import CheckpointWarning, EncoderError, MissingExtra
from lsr.forks import in_child
from lsr.sparse import SparseMatrix

BATCH_BYTES = 64 << 20  # limit for a batch's dense weights (texts, vocabulary), and for its logits if all are needed


def import_torch(name: str) -> Any:
    """Import torch or transformers.

    Raises:
        MissingExtra: The library isn't installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(name, "torch", "encoding with a masked language model") from None


def usable_device(device: str | None) -> str:
    """The given device, or by default a GPU if there is one."""
    if device is not None:
        return device
    return "cuda" if import_torch("torch").cuda.is_available() else "cpu"


def _require_usable(device: str) -> None:
    """Check a device.

    Raises:
        EncoderError: There is no such device.
    """
    torch = import_torch("torch")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each device raises other errors
        there = torch.cuda.device_count()
        gpus = ", ".join(f"cuda:{number}" for number in range(there))
        raise EncoderError(
            f"the device {device!r} can't be used: {str(error).splitlines()[0]}. PyTorch sees "
            f"{gpus or 'no GPU'} here; leave out the device (--device) to use what is available"
        ) from None


class TorchRunner:
    """A loaded model that turns token ids into sparse weights.

    Args:
        tower: The checkpoint, and how its logits are pooled.
        n_terms: Number of terms that the model must output.
        device: The device to run on.

    Raises:
        EncoderError: The checkpoint can't be loaded, or weights are missing.
        MissingExtra: torch or transformers is not installed.
    """

    def __init__(self, tower: Tower, n_terms: int, device: str) -> None:
        self._torch, _ = import_torch("torch"), import_torch("transformers")
        from lsr.encode.model import depends_on_padding, load_model

        self._folder, self._device = tower.folder(), device
        _require_usable(device)
        model = load_model(self._folder, tower.head, tower.pooling, tower.saturation, n_terms)
        self.model = model.to(device).eval()
        self._pad = model.backbone.config.pad_token_id or 0
        self._unpadded = depends_on_padding(self.model, self._pad)
        if self._unpadded:
            warn(
                f"{self._folder}: this model's output depends on masked padding; texts are encoded without "
                "padding, one length at a time, which is slower",
                CheckpointWarning,
            )
        self._forked = False
        in_child(self)

    def after_fork(self) -> None:
        """See `lsr.forks`: OpenMP would wait forever for the parent's threads, so use one thread."""
        self._forked = True
        self._torch.set_num_threads(1)

    def weights(self, ids: list[list[int]]) -> SparseMatrix:
        """Weights of texts, each given as a non-empty list of token ids.

        Raises:
            EncoderError: The model doesn't know a token, or gives weights that are not numbers.
        """
        if self._unpadded and len({len(row) for row in ids}) > 1:
            return SparseMatrix.vstack([self.weights(list(rows)) for _, rows in groupby(ids, len)])
        torch, n_terms, width = self._torch, self.model.n_terms, max(map(len, ids))
        self._check(max(map(max, ids)))
        tokens = torch.tensor([row + [self._pad] * (width - len(row)) for row in ids], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self._device)
        # If the head needs all logits at once, take fewer texts at a time.
        size = len(ids) if getattr(self.model.head, "apart", True) else max(1, BATCH_BYTES // (4 * width * n_terms))
        with torch.inference_mode():
            parts = zip(tokens.split(size), mask.split(size), strict=True)
            dense = torch.cat([self.model(some, kept) for some, kept in parts])
            rows, terms = dense.nonzero(as_tuple=True)
            indptr = np.concatenate(([0], np.cumsum(np.bincount(rows.cpu().numpy(), minlength=len(ids)))))
            values = dense[rows, terms].float().cpu().numpy()
        try:
            return SparseMatrix(indptr, terms.cpu().numpy(), values, (len(ids), n_terms))
        except ValueError as error:
            raise EncoderError(f"{self._folder}: the model gives weights that are not numbers: {error}") from None

    def origins(self, ids: list[int], terms: list[int]) -> list[int]:
        """For each term, the position of the token with its largest logit; -1 for a term without weight.

        Raises:
            EncoderError: The model doesn't know a token.
        """
        torch = self._torch
        self._check(max(ids))
        tokens, wanted = torch.tensor([ids], device=self._device), torch.tensor(terms, device=self._device)
        mask = torch.ones_like(tokens)
        with torch.inference_mode():
            states = self.model.states(tokens, mask)
            places = self.model.head.token_logits(states, tokens, wanted)[0].argmax(0)
            places[self.model.head(states, tokens, mask, wanted)[0] <= 0] = -1
        return list(places.tolist())

    def by_token(self, ids: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """A text's terms and weights, and the logits of these terms for each token, up to a constant per term.

        Returns:
            (n,) int64 terms, (n,) float32 weights above zero, and (n_tokens, n) float32 logits.

        Raises:
            EncoderError: The model doesn't know a token.
        """
        torch = self._torch
        self._check(max(ids))
        tokens = torch.tensor([ids], device=self._device)
        with torch.inference_mode():
            states = self.model.states(tokens, torch.ones_like(tokens))
            weights = self.model.head(states, tokens, torch.ones_like(tokens), None)[0]
            terms = weights.nonzero()[:, 0]
            logits = self.model.head.token_logits(states, tokens, terms)[0]
        return terms.cpu().numpy(), weights[terms].float().cpu().numpy(), logits.float().cpu().numpy()

    def _check(self, largest: int) -> None:
        if self._forked and self._device != "cpu":
            raise EncoderError(
                f"{self._folder}: a model on {self._device!r} can't be used after a fork: start processes with spawn "
                '(multiprocessing.get_context("spawn")), or open the encoder after the fork'
            )
        if largest >= self.model.n_terms:
            raise EncoderError(
                f"{self._folder}: the tokenizer gives token {largest}, the model knows {self.model.n_terms}; "
                "they don't belong together"
            )
