"""A dense vector that imitates a sparse teacher, from a frozen dense model's token states (SPAR, arXiv 2110.06918).

    pooled = sum_t softplus(u h_t + b) (h_t - c)          h_t: state of token t; c: mean of all training states
    vector = unit(W pooled)                               for queries and documents alike

    head = LexicalHead.fit(texts, load_encoder("lsr-mini"))        # imitates BM25 of these texts
    head.documents(texts), head.queries(["ice on the wing"])

Training needs no labels: random sentences of the texts serve as queries. In each batch, a softmax turns the teacher's
scores of a query into a distribution over documents, and the head learns this distribution. Queries and documents share
the parameters, so a word that training hasn't seen still matches itself. `lsr.dense_export.beside` concatenates the
head's vector with the model's own vector, so that the inner product adds the two scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.arrays import Layout, read_arrays, require_finite, write_arrays
from lsr.console import progress
from lsr.encode.base import Encoder
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.codes import random_sentence
from lsr.encode.latent_terms import States, states_of
from lsr.errors import DataError, EncoderError, MissingExtra

_AT_ONCE = 64  # texts read per batch
_STATES = 256  # states per text in training, at most
_BEST, _NEAR = 10, 50  # a query's positive is one of its 10 best documents; its negative is one of the next 40
_WARMUP = 20  # steps
_MEASURED = 20_000  # states whose mean is taken
_KIND = "a lexical head"
_PARTS = ("gate", "bias", "out", "center")
_LAYOUT: Layout = {name: (2 if name == "out" else 1, "float32") for name in _PARTS}


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained.

    Attributes:
        width: Dimensions of the vectors; at most those of a state.
        texts: Number of texts used in training, at most.
        steps: Updates.
        batch: Queries per update. Each query brings two documents and is compared with the documents of all queries.
        rate: Learning rate of Adam.
        sharpness: Standard deviation to which the teacher's scores for a query are scaled before the softmax.
        seed: Seed of all random choices.
    """

    width: int = 384
    texts: int = 4000
    steps: int = 1000
    batch: int = 32
    rate: float = 2e-3
    sharpness: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.steps) < 1 or min(self.texts, self.batch) < 2:
            raise EncoderError(f"width and steps must be at least 1, texts and batch at least 2: {self}")
        if not (self.rate > 0 and self.sharpness > 0):
            raise EncoderError(f"rate and sharpness must be above 0: {self}")


class LexicalHead:
    """A head over the token states of a dense model.

    Args:
        model: An encoder with dense vectors, or a function from a list of texts to the (n_tokens, n_dims) token
            states of each.
        arrays: The head's parameters; `fit` and `load` set them.
        queries: The function for queries, if it differs from the function for documents.
    """

    def __init__(self, model: Encoder | States, arrays: dict[str, NDArray[np.float32]], queries: Any = None) -> None:
        self._read, self._arrays = states_of(model, queries, len(arrays["center"])), arrays
        width = len(arrays["center"])
        if isinstance(model, Encoder) and model.dense_width != width:
            raise EncoderError(f"this head reads states of {width} numbers; the model's have {model.dense_width}")

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        model: Encoder | States,
        *,
        teacher: Encoder | None = None,
        settings: HeadSettings | None = None,
        queries: States | None = None,
    ) -> LexicalHead:
        """Train a head.

        Args:
            texts: Documents; no labels are needed.
            model: As for the class.
            teacher: The sparse encoder to imitate, which is fitted to the texts if it needs a fit; BM25 by default.
            settings: Settings of the training.
            queries: As for the class.

        Raises:
            EncoderError: The model has no token states, there are fewer than two texts, or the loss isn't finite.
            MissingExtra: torch isn't installed.
        """
        try:
            import torch
        except ImportError:
            raise MissingExtra("torch", "torch", "training a lexical head") from None
        how, read = settings or HeadSettings(), states_of(model, queries)
        rng = np.random.default_rng(how.seed)
        some = [texts[i] for i in np.sort(rng.permutation(len(texts))[: how.texts]).tolist()]
        if len(some) < 2:
            raise EncoderError(f"a head is trained on at least two texts, got {len(some)}")
        teacher = BM25Encoder() if teacher is None else teacher
        if teacher.needs_fit:
            teacher.fit(texts)
        asked = [random_sentence(text, rng) for text in some]
        taught = (teacher.encode_query(asked).to_scipy() @ teacher.encode_document(some).to_scipy().T).toarray()
        order = np.argsort(-taught, axis=1, kind="stable")[:, :_NEAR]
        first, rest = order[:, :_BEST], order[:, _BEST:] if order.shape[1] > _BEST else order
        documents, sentences = _Store(read, some, False), _Store(read, asked, True)
        center = documents.mean()
        net = _Net(torch, how, center)
        optimizer = torch.optim.Adam(net.parameters, lr=how.rate)
        loss = None
        with progress(how.steps, "training a head") as bar:
            for step in range(how.steps):
                for group in optimizer.param_groups:
                    group["lr"] = how.rate * min(1.0, (step + 1) / _WARMUP) * (1 - step / how.steps)
                drawn = rng.choice(len(some), min(how.batch, len(some)), replace=False)
                columns = [table[drawn, rng.integers(table.shape[1], size=len(drawn))] for table in (first, rest)]
                shown = np.unique(np.concatenate(columns))
                loss = net.loss(sentences.batch(drawn), documents.batch(shown), taught[drawn][:, shown])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                bar.update(1)
        if loss is None or not np.isfinite(float(loss.detach())):
            raise EncoderError("the loss of the head is not finite: lower the rate")
        return cls(model, {"center": center, **net.arrays()}, queries)

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self._arrays["out"].shape[0])

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, width) float32, vectors of documents, of length 1."""
        return self._vectors(texts, queries=False)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, width) float32, vectors of queries, of length 1."""
        return self._vectors(texts, queries=True)

    def embed(self, *, queries: bool = False) -> Callable[[list[str]], NDArray[np.float32]]:
        """Return a function from texts to vectors, as `build_dense` and vector databases take it."""
        return self.queries if queries else self.documents

    def _vectors(self, texts: Sequence[str], *, queries: bool) -> NDArray[np.float32]:
        gate, bias, out, center = (self._arrays[name] for name in _PARTS)
        found = np.zeros((len(texts), len(out)), np.float32)
        for row, states in zip(found, _read_all(self._read, texts, queries), strict=True):
            row[:] = out @ (np.logaddexp(0, states @ gate + bias) @ (states - center))
        return _unit(found)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write one Arrow file, without the model."""
        write_arrays(path, _KIND, self._arrays)

    @classmethod
    def load(cls, path: str | PathLike[str], model: Encoder | States, queries: States | None = None) -> LexicalHead:
        """Read a file written by `save`.

        Args:
            path: The file.
            model: The model that the head was trained on.
            queries: As for the class.

        Raises:
            DataError: The file can't be read, or is of another kind.
        """
        arrays = read_arrays(path, _KIND, _LAYOUT)
        require_finite(path, arrays)
        if not arrays["gate"].shape == arrays["center"].shape == arrays["out"].shape[1:] or len(arrays["bias"]) != 1:
            raise DataError("damaged: arrays whose shapes don't fit together", str(path))
        return cls(model, arrays, queries)


def _read_all(
    read: Callable[[list[str], bool], list[NDArray[np.float32]]], texts: Sequence[str], queries: bool
) -> Iterator[NDArray[np.float32]]:
    iterator = iter(texts)
    while some := list(islice(iterator, _AT_ONCE)):
        yield from read(some, queries)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), np.float32)


class _Store:
    """The first states of each text in half precision."""

    def __init__(
        self, read: Callable[[list[str], bool], list[NDArray[np.float32]]], texts: Sequence[str], queries: bool
    ) -> None:
        parts = []
        with progress(len(texts), "token states") as bar:
            for states in _read_all(read, texts, queries):
                parts.append(states[:_STATES].astype(np.float16))
                bar.update(1)
        self._starts = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
        self._states = np.concatenate(parts)

    def mean(self) -> NDArray[np.float32]:
        """The mean state; raises EncoderError if there are no states, or if half precision can't hold them."""
        if not len(self._states) or not np.isfinite(self._states).all():
            raise EncoderError("no text has token states, or they are too large for half precision")
        return np.asarray(self._states[:: max(1, len(self._states) // _MEASURED)].astype(np.float32).mean(0))

    def batch(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The states of some texts, (n, width) float32, and the number of states of each text."""
        parts = [self._states[self._starts[row] : self._starts[row + 1]] for row in rows.tolist()]
        return np.concatenate(parts).astype(np.float32), np.array([len(part) for part in parts])


class _Net:
    """The parameters, and the loss."""

    def __init__(self, torch: Any, how: HeadSettings, center: NDArray[np.float32]) -> None:
        self._torch, self._sharpness, self._center = torch, how.sharpness, torch.from_numpy(center)
        made, states = torch.Generator().manual_seed(how.seed), len(center)
        width = min(how.width, states)
        # Start with the pooled states, or with their random projection, which nearly keeps inner products.
        out = torch.eye(states) if width == states else torch.randn(width, states, generator=made) / width**0.5
        self._parts = {"gate": torch.zeros(states), "bias": torch.zeros(1), "out": out}
        self._scale = torch.tensor(3.0)  # logarithm of the inverse temperature
        for value in self.parameters:
            value.requires_grad_()

    @property
    def parameters(self) -> list[Any]:
        return [self._scale, *self._parts.values()]

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        return {name: value.detach().numpy().copy() for name, value in self._parts.items()}

    def _vectors(self, states: NDArray[np.float32], sizes: NDArray[np.int64]) -> Any:
        torch, parts, rows = self._torch, self._parts, self._torch.from_numpy(states)
        places = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        gates = torch.nn.functional.softplus(rows @ parts["gate"] + parts["bias"])
        pooled = torch.zeros(len(sizes), states.shape[1]).index_add(0, places, gates[:, None] * (rows - self._center))
        return torch.nn.functional.normalize(pooled @ parts["out"].T, dim=1)

    def loss(self, queries: Any, documents: Any, taught: NDArray[np.float32]) -> Any:
        """KL(teacher || head) of their distributions over the documents, averaged over the queries."""
        scores = self._vectors(*queries) @ self._vectors(*documents).T
        target = self._torch.from_numpy(np.asarray(taught, np.float32))
        spread = target.std(1, keepdim=True, correction=0).clamp(min=1e-6)
        return self._torch.nn.functional.kl_div(
            (scores * self._scale.exp()).log_softmax(1),
            (target / spread * self._sharpness).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
