"""Train the sparse codes of `CsrEncoder`: a top-k auto-encoder of dense vectors, or non-negative contrastive features.

    z  = top_k(relu(W (x - c) / s + b))       x: a dense vector; c, s: mean and spread; queries have a mean of their own
    x' = W^T z + b'                           the decoder has the encoder's weights

    csr loss = MSE(k) + wider MSE(4k) + dead AUX + contrast InfoNCE          (arXiv 2503.01776)
    ncl loss = InfoNCE of relu(W (x - c) / s + b)                            (arXiv 2403.12459)

MSE is divided by the variance of x. AUX revives latents that no vector has used for some steps: the most active of
these latents reconstruct the residual, and AUX is the normalised MSE of that reconstruction. InfoNCE compares codes by
cosine. Training needs torch; using the codes doesn't.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lsr.console import progress
from lsr.errors import EncoderError, MissingExtra

Objective = Literal["csr", "ncl"]
_DEAD_AT_ONCE = 512  # unused latents that reconstruct the residual
_PRINCIPAL = 20_000  # vectors whose principal directions initialise the weights
_SHORT = 0.7  # length of the initial weights that aren't principal directions
_CHECKED = 4096  # vectors on which the result is measured


@dataclass(frozen=True)
class CodeSettings:
    """How codes are trained. The weights of the losses are those of CSR's released code.

    Attributes:
        objective: "csr", or "ncl" for non-negative contrastive learning.
        latents: Number of latents.
        top_k: Latents kept per vector.
        steps: Number of updates.
        batch: Vectors per update.
        rate: Learning rate of Adam.
        wider: Weight of the reconstruction by 4 top_k latents.
        dead: Weight of the reconstruction by unused latents.
        contrast: Weight of InfoNCE.
        temperature: Temperature of InfoNCE.
        dropout: Without queries, a vector's positive is a copy with this share of its numbers set to zero.
        dead_after: Steps after which a latent counts as unused.
        seed: Seed of all random numbers.
    """

    objective: Objective = "csr"
    latents: int = 1024
    top_k: int = 32
    steps: int = 500
    batch: int = 256
    rate: float = 3e-3
    wider: float = 1 / 8
    dead: float = 1 / 32
    contrast: float = 0.1
    temperature: float = 0.2
    dropout: float = 0.1
    dead_after: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise EncoderError(f"objective must be one of {', '.join(get_args(Objective))}, got {self.objective!r}")
        if not 1 <= self.top_k <= self.latents or min(self.steps, self.batch) < 1 or not self.rate > 0:
            raise EncoderError(f"top_k must be 1 to latents, steps and batch at least 1, and rate above 0, got {self}")
        if not self.temperature > 0 or not 0 <= self.dropout < 1:
            raise EncoderError(f"temperature must be above 0 and dropout 0 to 1, got {self}")


@dataclass(frozen=True)
class TrainedCodes:
    """The result of `train_codes`.

    Attributes:
        weight: (latents, width) float32. Weight and bias apply to raw vectors, not to centred ones.
        bias: (latents,) float32.
        query_bias: (latents,) float32, the bias for queries, whose mean differs from that of documents.
        decoder: (latents, width) float32. `codes @ decoder + center` approximates a vector, with unnormalised codes.
        center: (width,) float32.
        losses: {name: mean over the last tenth of the steps}.
        dead: Share of latents that a sample of a few thousand vectors never uses.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    query_bias: NDArray[np.float32]
    decoder: NDArray[np.float32]
    center: NDArray[np.float32]
    losses: dict[str, float] = field(default_factory=dict)
    dead: float = 0.0

    def activations(self, vectors: NDArray[np.float32], top_k: int) -> NDArray[np.float32]:
        """(n, latents) float32, the codes of (n, width) vectors, zero except for the top_k largest of each row."""
        values = np.maximum(vectors @ self.weight.T + self.bias, 0)
        if top_k < values.shape[1]:
            least = np.partition(values, -top_k, axis=1)[:, -top_k, None]
            values[values < least] = 0
        return np.asarray(values, np.float32)

    def error(self, vectors: NDArray[np.float32], top_k: int) -> float:
        """The squared error of reconstructing from top_k latents, divided by the squared error of the mean vector."""
        found = self.activations(vectors, top_k) @ self.decoder + self.center
        spread = ((vectors - vectors.mean(0)) ** 2).sum()
        return float(((vectors - found) ** 2).sum() / max(spread, 1e-12))


def train_codes(
    vectors: NDArray[np.float32],
    settings: CodeSettings | None = None,
    *,
    queries: NDArray[np.float32] | None = None,
    positives: NDArray[np.integer[Any]] | None = None,
) -> TrainedCodes:
    """Train codes on dense vectors; no labels are needed.

    Args:
        vectors: (n, width) float32, n at least 2.
        settings: Settings of the training.
        queries: (m, width) float32, queries for InfoNCE; without them a vector is compared with itself under dropout.
        positives: (m,) int, the row of `vectors` that each query belongs to.

    Raises:
        EncoderError: Shapes don't fit, or vectors aren't finite.
        MissingExtra: torch isn't installed.
    """
    settings = settings or CodeSettings()
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "torch", "training sparse codes") from None
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) < 2 or not np.isfinite(vectors).all():
        raise EncoderError(f"codes are trained on at least two finite vectors of one width, got shape {vectors.shape}")
    if (queries is None) != (positives is None) or (
        queries is not None and positives is not None and (len(queries) != len(positives) or not len(queries))
    ):
        raise EncoderError("queries and positives must be given together, one positive for each query")
    rng = np.random.default_rng(settings.seed)
    mean = vectors.mean(0)
    query_mean = mean if queries is None else queries.mean(0)
    spread = float(np.sqrt(((vectors - mean) ** 2).mean())) or 1.0
    net = _Net(_first_directions((vectors - mean) / spread, settings.latents, rng), settings, torch)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.rate, eps=6.25e-10)
    kept: list[dict[str, float]] = []
    with progress(settings.steps, "training codes") as bar:
        for step in range(settings.steps):
            if queries is None or positives is None:
                rows = rng.integers(len(vectors), size=min(settings.batch, len(vectors)))
                views = vectors[rows] - mean
                views = views * (rng.random(views.shape) >= settings.dropout) / (1 - settings.dropout)
            else:
                drawn = rng.choice(len(queries), min(settings.batch, len(queries)), replace=False)
                rows, views = np.asarray(positives)[drawn], queries[drawn] - query_mean
            _, first = np.unique(rows, return_index=True)  # a document must not be its own negative
            x, other = vectors[rows[first]] - mean, views[first]
            losses = net.losses(torch.from_numpy(x / spread), torch.from_numpy(np.float32(other / spread)))
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            # Warm up for a tenth of the steps, then decay linearly to zero.
            for group in optimizer.param_groups:
                done = (step + 1) / settings.steps
                group["lr"] = settings.rate * min(done * 10, (1 - done) / 0.9 + 1e-3)
            optimizer.step()
            if done > 0.9:
                kept.append({name: float(value.detach()) for name, value in losses.items()})
            bar.update(1)
    if not kept or not np.isfinite(kept[-1]["loss"]):
        raise EncoderError("the loss of the codes is not finite: lower the rate")
    weight, bias, shift = (p.detach().numpy().astype(np.float32) for p in (net.weight, net.bias, net.shift))
    trained = TrainedCodes(
        weight / spread,
        np.asarray(bias - (weight / spread) @ mean, np.float32),
        np.asarray(bias - (weight / spread) @ query_mean, np.float32),
        weight * spread,
        np.asarray(mean + spread * shift, np.float32),
        {name: float(np.mean([one[name] for one in kept])) for name in kept[-1]},
    )
    some = vectors[rng.permutation(len(vectors))[:_CHECKED]]
    used = (trained.activations(some, settings.top_k) > 0).any(0)
    return replace(trained, dead=float(1 - used.mean()))


def _first_directions(vectors: NDArray[np.float32], latents: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(latents, width) float32, the weights with which training begins.

    The principal directions and their opposites reconstruct every vector without interfering with each other; the other
    rows are directions of random vectors, scaled down so that they are rarely used at first. Training then takes far
    fewer steps than from random weights.
    """
    width = vectors.shape[1]
    drawn = vectors[rng.integers(len(vectors), size=latents)]
    first = drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12)
    if latents < 2 * width:
        return np.asarray(first, np.float32)
    some = vectors[rng.permutation(len(vectors))[:_PRINCIPAL]]
    _, directions = np.linalg.eigh(some.T @ some)
    first[: 2 * width] = np.concatenate((directions.T, -directions.T))
    first[2 * width :] *= _SHORT
    return np.asarray(first, np.float32)


class _Net:
    """The parameters and the losses.

    Args:
        first: (latents, width) float32, the initial weights.
        settings: Settings of the training.
        torch: The module.
    """

    def __init__(self, first: NDArray[np.float32], settings: CodeSettings, torch: Any) -> None:
        self.torch, self.settings = torch, settings
        width = first.shape[1]
        made = torch.Generator().manual_seed(settings.seed)
        noise = torch.randn(settings.latents, width, generator=made) * 1e-3  # so that equal vectors diverge
        self.weight = (torch.from_numpy(first) + noise).requires_grad_()
        self.bias = torch.zeros(settings.latents, requires_grad=True)
        self.shift = torch.zeros(width, requires_grad=True)
        self.unused = torch.zeros(settings.latents, dtype=torch.int64)

    def parameters(self) -> list[Any]:
        return [self.weight, self.bias, self.shift]

    def before(self, x: Any) -> Any:
        return self.torch.nn.functional.linear(x - self.shift, self.weight, self.bias)

    def top(self, before: Any, k: int) -> Any:
        values, places = before.relu().topk(min(k, before.shape[1]), dim=1)
        return self.torch.zeros_like(before).scatter(1, places, values)

    def error(self, x: Any, codes: Any) -> Any:
        return ((codes @ self.weight + self.shift - x) ** 2).mean() / (x**2).mean().clamp(min=1e-12)

    def contrast(self, codes: Any, others: Any) -> Any:
        functional = self.torch.nn.functional
        scores = functional.normalize(others, dim=1) @ functional.normalize(codes, dim=1).T
        return functional.cross_entropy(scores / self.settings.temperature, self.torch.arange(len(codes)))

    def losses(self, x: Any, other: Any) -> dict[str, Any]:
        how = self.settings
        before, beside = self.before(x), self.before(other)
        if how.objective == "ncl":
            contrast = self.contrast(before.relu(), beside.relu())
            return {"loss": contrast, "contrast": contrast}
        codes = self.top(before, how.top_k)
        error = self.error(x, codes)
        loss, found = error, {"error": error}
        if how.wider:
            found["wider"] = self.error(x, self.top(before, 4 * how.top_k))
            loss = loss + how.wider * found["wider"]
        with self.torch.no_grad():
            self.unused += 1
            self.unused[(codes > 0).any(0)] = 0
            dead = (self.unused > how.dead_after).nonzero()[:, 0]
        if how.dead and len(dead):
            rest = (x - codes @ self.weight - self.shift).detach()
            picked = self.top(before[:, dead], min(_DEAD_AT_ONCE, len(dead)))
            found["dead"] = ((picked @ self.weight[dead] - rest) ** 2).mean() / (rest**2).mean().clamp(min=1e-12)
            loss = loss + how.dead * found["dead"]
        if how.contrast:
            found["contrast"] = self.contrast(codes, self.top(beside, how.top_k))
            loss = loss + how.contrast * found["contrast"]
        return {"loss": loss, **{name: value for name, value in found.items() if name != "dead"}}
