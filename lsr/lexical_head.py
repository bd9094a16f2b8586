"""A dense vector that imitates a sparse teacher, from a frozen dense model's token states (SPAR, arXiv 2110.06918).

    vector = W sum_t relu(A (h_t - c) + b), scaled to length 1        h_t: the state of token t; queries have A, b, W of
                                                                      their own

    head = LexicalHead.fit(texts, load_encoder("lsr-mini"))           # imitates BM25 of these texts
    head.documents(texts), head.queries(["ice on the wing"])

Training needs no labels: random sentences of the texts are queries. The head learns the teacher's scores of the best
and of other documents, as a distribution, and the teacher's vectors, projected to its width. `lsr.dense_export.beside`
concatenates its vector with the model's own, so that the inner product adds the two scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.arrays import read_arrays, write_arrays
from lsr.console import progress
from lsr.dense_export import DenseExport
from lsr.encode.base import Encoder
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.codes import random_sentence
from lsr.encode.latent_terms import States, states_of
from lsr.errors import DataError, EncoderError, MissingExtra
from lsr.sparse import SparseMatrix

_AT_ONCE = 64  # texts read per batch
_STATES = 256  # states of a text that train
_BEST, _NEAR = 10, 50  # a query's positive is among the first, its negative among those after them
_WARMUP = 20  # steps
_WHITENED = 20_000  # states whose variance is measured
_FLOOR = 1e-3  # least variance of a direction, as a share of the largest
_KIND = "a lexical head"
_PARTS = ("weight", "bias", "out")


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained.

    Attributes:
        width: Dimensions of its vectors.
        hidden: Units between states and vectors.
        texts: Texts whose states train it, at most.
        steps: Updates.
        batch: Queries per update, each with two documents of its own; all of them count for all queries.
        rate: Learning rate of Adam.
        sharpness: Scores of the teacher are scaled to this standard deviation per query before the softmax.
        near: Weight of the distance from the teacher's own vectors, projected to the same width by `DenseExport`.
        seed: Of all random choices.
    """

    width: int = 768
    hidden: int = 1024
    texts: int = 4000
    steps: int = 250
    batch: int = 32
    rate: float = 3e-3
    sharpness: float = 2.0
    near: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.hidden, self.steps) < 1 or min(self.texts, self.batch) < 2:
            raise EncoderError(f"width, hidden and steps are at least 1, texts and batch at least 2: {self}")
        if not (self.rate > 0 and self.sharpness > 0 and self.near >= 0):
            raise EncoderError(f"rate and sharpness are above 0, near is at least 0: {self}")


class LexicalHead:
    """A head over the token states of a dense model.

    Args:
        model: An encoder with dense vectors, or a function from a list of texts to the (n_tokens, states) numbers of
            each.
        arrays: Its parameters, as `fit` or `load` give them.
        queries: The function for queries, if it differs.
    """

    def __init__(self, model: Encoder | States, arrays: dict[str, NDArray[np.float32]], queries: Any = None) -> None:
        self._read, self._arrays = states_of(model, queries), arrays

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
            teacher: The sparse encoder to imitate, which is fitted to the texts if it needs that; BM25 by default.
            settings: Settings of the training.
            queries: As for the class.

        Raises:
            EncoderError: A model without token states, fewer than two texts, or a loss that isn't finite.
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
        vectors = {"queries": teacher.encode_query(asked), "documents": teacher.encode_document(some)}
        taught = (vectors["queries"].to_scipy() @ vectors["documents"].to_scipy().T).toarray()
        goals = _projected(vectors, how, teacher.query_factors(np.arange(vectors["documents"].shape[1])))
        order = np.argsort(-taught, axis=1, kind="stable")[:, :_NEAR]
        first, rest = order[:, :_BEST], order[:, _BEST:] if order.shape[1] > _BEST else order
        documents, sentences = _Store(read, some, False), _Store(read, asked, True)
        center, white = documents.whitening()
        net = _Net(torch, how, len(center))
        optimizer = torch.optim.Adam(net.parameters, lr=how.rate)
        loss = None
        with progress(how.steps, "training a head") as bar:
            for step in range(how.steps):
                for group in optimizer.param_groups:
                    group["lr"] = how.rate * min(1.0, (step + 1) / _WARMUP) * (1 - step / how.steps)
                drawn = rng.choice(len(some), min(how.batch, len(some)), replace=False)
                columns = [table[drawn, rng.integers(table.shape[1], size=len(drawn))] for table in (first, rest)]
                shown = np.unique(np.concatenate(columns))
                asking, answers = sentences.batch(drawn, center, white), documents.batch(shown, center, white)
                near = goals["queries"][drawn], goals["documents"][shown]
                loss = net.loss(asking, answers, taught[drawn][:, shown], near)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                bar.update(1)
        if loss is None or not np.isfinite(float(loss.detach())):
            raise EncoderError("the loss of the head is not finite: lower the rate")
        return cls(model, {"center": center, **net.arrays(white)}, queries)

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self._arrays["documents.out"].shape[0])

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, width) float32, vectors of documents, of length 1."""
        return self._vectors(texts, "documents")

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, width) float32, vectors of queries, of length 1."""
        return self._vectors(texts, "queries")

    def embed(self, *, queries: bool = False) -> Callable[[list[str]], NDArray[np.float32]]:
        """Returns a function from texts to vectors, as `build_dense` and vector databases take it."""
        return self.queries if queries else self.documents

    def _vectors(self, texts: Sequence[str], side: str) -> NDArray[np.float32]:
        weight, bias, out = (self._arrays[f"{side}.{part}"] for part in _PARTS)
        center, found = self._arrays["center"], np.zeros((len(texts), len(out)), np.float32)
        for row, states in zip(found, _read_all(self._read, texts, side == "queries"), strict=True):
            row[:] = out @ np.maximum((states - center) @ weight.T + bias, 0).sum(0)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

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
            DataError: It can't be read, or is another kind of file.
        """
        arrays = read_arrays(path, _KIND)
        try:
            center = arrays["center"]
            for side in ("documents", "queries"):
                weight, bias, out = (arrays[f"{side}.{part}"] for part in _PARTS)
                if weight.shape != (len(bias), len(center)) or out.shape != (len(arrays["documents.out"]), len(bias)):
                    raise ValueError(f"arrays of {weight.shape}, {bias.shape}, {out.shape} and {center.shape}")
            for array in arrays.values():
                if array.dtype != np.float32 or not np.isfinite(array).all():
                    raise ValueError("numbers that are not finite float32")
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"not {_KIND}: {error}", str(path)) from None
        return cls(model, arrays, queries)


def _read_all(
    read: Callable[[list[str], bool], list[NDArray[np.float32]]], texts: Sequence[str], queries: bool
) -> Iterator[NDArray[np.float32]]:
    iterator = iter(texts)
    while some := list(islice(iterator, _AT_ONCE)):
        yield from read(some, queries)


def _projected(
    vectors: dict[str, SparseMatrix], how: HeadSettings, factors: NDArray[np.float64]
) -> dict[str, NDArray[np.float32]]:
    """The teacher's vectors of both sides by `DenseExport`, of length 1."""
    export = DenseExport.fit(vectors["documents"], how.width, factors=factors, seed=how.seed)
    found = {"queries": export.queries(vectors["queries"]), "documents": export.documents(vectors["documents"])}
    return {side: row / np.maximum(np.linalg.norm(row, axis=1, keepdims=True), 1e-12) for side, row in found.items()}


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

    def whitening(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mean of the states, and a matrix that gives them equal variance in all directions.

        A few directions have nearly all variance, but what tells words apart is in the others.
        """
        some = self._states[:: max(1, len(self._states) // _WHITENED)].astype(np.float32)
        center = some.mean(0)
        values, directions = np.linalg.eigh((some - center).T @ (some - center) / len(some))
        white = directions / np.sqrt(np.maximum(values, _FLOOR * values[-1]) + 1e-12)
        return np.asarray(center, np.float32), np.asarray(white, np.float32)

    def batch(
        self, rows: NDArray[np.int64], center: NDArray[np.float32], white: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The whitened states of some texts, (n, states) float32, and the place in `rows` of the text of each."""
        parts = [self._states[self._starts[row] : self._starts[row + 1]] for row in rows.tolist()]
        places = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
        return (np.concatenate(parts).astype(np.float32) - center) @ white, places


class _Net:
    """The parameters of both sides, and the loss."""

    def __init__(self, torch: Any, how: HeadSettings, states: int) -> None:
        self._torch, self._sharpness, self._near = torch, how.sharpness, how.near
        made = torch.Generator().manual_seed(how.seed)
        weight = torch.randn(how.hidden, states, generator=made) / states**0.5
        out = torch.randn(how.width, how.hidden, generator=made) / how.hidden**0.5
        first = {"weight": weight, "bias": torch.full((how.hidden,), -1.0), "out": out}
        self._sides = {
            side: {name: value.clone().requires_grad_() for name, value in first.items()}
            for side in ("documents", "queries")  # both begin alike
        }
        self._scale = torch.tensor(3.0, requires_grad=True)  # logarithm of the inverse temperature

    @property
    def parameters(self) -> list[Any]:
        return [self._scale, *(value for side in self._sides.values() for value in side.values())]

    def arrays(self, white: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The parameters, for states that are not whitened."""
        found = {
            f"{side}.{name}": value.detach().numpy().copy()
            for side, parts in self._sides.items()
            for name, value in parts.items()
        }
        return found | {name: array @ white.T for name, array in found.items() if name.endswith(".weight")}

    def _vectors(self, side: str, states: NDArray[np.float32], places: NDArray[np.int64], count: int) -> Any:
        torch, parts = self._torch, self._sides[side]
        active = torch.nn.functional.linear(torch.from_numpy(states), parts["weight"], parts["bias"]).relu()
        pooled = torch.zeros(count, active.shape[1]).index_add(0, torch.from_numpy(places), active)
        return torch.nn.functional.normalize(pooled @ parts["out"].T, dim=1)

    def loss(self, queries: Any, documents: Any, taught: NDArray[np.float32], near: Any) -> Any:
        """KL divergence from the teacher's distribution over the documents, and distance from its projected vectors."""
        asked = self._vectors("queries", *queries, len(taught))
        shown = self._vectors("documents", *documents, taught.shape[1])
        scores = (asked @ shown.T * self._scale.exp()).log_softmax(1)
        target = self._torch.from_numpy(np.asarray(taught, np.float32))
        spread = target.std(1, keepdim=True).clamp(min=1e-6)
        target = (target / spread * self._sharpness).log_softmax(1)
        divergence = self._torch.nn.functional.kl_div(scores, target, reduction="batchmean", log_target=True)
        pairs = zip((asked, shown), map(self._torch.from_numpy, near), strict=True)
        return divergence + self._near * sum((1 - (mine * goal).sum(1)).mean() for mine, goal in pairs)
