"""Heads: from a backbone's token states to the weights of a text's terms."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lsr.encode.pooling import Screen, max_logits, pool_logits, pool_states, saturate
from lsr.errors import EncoderError

_NEVER = -1e4  # the bias of terms that no text has


class Head(nn.Module):
    """From states to weights.

    Args:
        pooling: "max" or "sum".
        saturation: "log1p" or "log1p_log1p".
        n_terms: Size of the vocabulary.
    """

    def __init__(self, pooling: str, saturation: str, n_terms: int) -> None:
        super().__init__()
        self.pooling, self.saturation, self.n_terms = pooling, saturation, n_terms

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """Arguments and result as of `SparseModel`; states: (batch, seq, hidden)."""
        raise NotImplementedError

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """What each token adds to terms, before the pooling and up to a constant of each term.

        Args:
            states: (batch, seq, hidden).
            ids: (batch, seq) int64.
            terms: (n,) int64.

        Returns:
            (batch, seq, n) float.
        """
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """What has to be kept besides the backbone."""
        return {}

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """The backbone as transformers knows it, for as long as this lasts."""
        yield


class MaskedLMHead(Head):
    """The output layer of a masked language model, which is taken out of it where it can be.

    Args:
        model: The model; from now on it ends before that layer.
        pooling, saturation: As `Head`.
        n_terms: Terms that it has to put out.
        where: The checkpoint, for messages.

    Raises:
        EncoderError: It puts out something else.
    """

    def __init__(self, model: Any, pooling: str, saturation: str, n_terms: int, where: str) -> None:
        super().__init__(pooling, saturation, n_terms)
        # In a list, so that its parameters aren't the head's as well.
        self._output = [model.get_output_embeddings()]
        self.apart = self._take_apart(model, where)
        self._screen: Screen | None = None

    @torch.no_grad()
    def _take_apart(self, model: Any, where: str) -> bool:
        """Have the model stop before its output layer; False where that doesn't give the same logits."""
        output = self._output[0]
        probe = torch.arange(min(self.n_terms, 8), device=next(model.parameters()).device).unsqueeze(0)
        mask = torch.ones_like(probe)

        def logits() -> Tensor:
            return cast(Tensor, model(input_ids=probe, attention_mask=mask, return_dict=True).logits)

        full = logits()
        if full.shape[-1] != self.n_terms:
            raise EncoderError(f"{where}: the model gives {full.shape[-1]} terms, its config.json says {self.n_terms}")
        if not isinstance(output, nn.Linear) or output.weight.shape[0] != self.n_terms:
            return False
        output.forward = nn.Identity().forward
        try:
            if torch.allclose(nn.functional.linear(logits(), output.weight, output.bias), full, rtol=1e-4, atol=1e-4):
                return True
        except RuntimeError:  # shapes that don't fit: something else happens behind the output layer
            pass
        del output.forward
        return False

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """As `Head`; where the model isn't apart, `states` are the logits."""
        if not self.apart:
            weights = pool_logits(states, mask, self.pooling, self.saturation)
            return weights if terms is None else weights[:, terms]
        weight, bias = self._output[0].weight, self._output[0].bias
        if terms is not None:
            weight, bias = weight[terms], None if bias is None else bias[terms]
        elif self.pooling == "max" and Screen.can(states, weight):
            if self._screen is None or not self._screen.fits(weight):
                self._screen = Screen(weight)
            return self._screen.pool(states, mask, bias, self.saturation)
        return pool_states(states, mask, weight, bias, self.pooling, self.saturation)

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """As `Head`."""
        if not self.apart:
            return states[..., terms]
        weight, bias = self._output[0].weight, self._output[0].bias
        return nn.functional.linear(states, weight[terms], None if bias is None else bias[terms])

    @property
    def output(self) -> Any:
        """The output layer."""
        return self._output[0]

    def logits(self, states: Tensor) -> Tensor:
        """What the masked language model says of states, (n, hidden): (n, n_terms)."""
        if not self.apart:
            return states
        return nn.functional.linear(states, self._output[0].weight, self._output[0].bias)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """The model ends with its output layer again."""
        if self.apart:
            del self._output[0].forward
        try:
            yield
        finally:
            if self.apart:
                self._output[0].forward = nn.Identity().forward


class GatedHead(MaskedLMHead):
    """A masked language model's weights, let through by a gate.

    Exact on the way forward, its sigmoid on the way back (a straight-through estimate). Arguments as `MaskedLMHead`,
    and `tensors`: what `start` or `tensors` gave.
    """

    NAMES = ("gate.weight", "gate.bias")

    def __init__(
        self, model: Any, pooling: str, saturation: str, n_terms: int, where: str, tensors: dict[str, Tensor]
    ) -> None:
        super().__init__(model, pooling, saturation, n_terms, where)
        if not self.apart:
            raise EncoderError(f"{where}: its output layer can't be taken apart, so there is no place for a gate")
        self.gate_weight, self.gate_bias = (nn.Parameter(tensors[name]) for name in self.NAMES)

    @classmethod
    def start(cls, embeddings: Tensor) -> dict[str, Tensor]:
        """The tensors to begin with, of (n_terms, hidden) output embeddings: the gate is open."""
        return {"gate.weight": torch.zeros_like(embeddings.detach()), "gate.bias": torch.ones(len(embeddings))}

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """As `Head`."""
        weights = super().forward(states, ids, mask, terms)
        rows = slice(None) if terms is None else terms
        logits = max_logits(states, mask, self.gate_weight[rows], self.gate_bias[rows])
        soft = torch.sigmoid(logits)
        return weights * ((logits > 0).to(soft.dtype) + soft - soft.detach())

    def tensors(self) -> dict[str, Tensor]:
        """The gate."""
        return {"gate.weight": self.gate_weight.detach(), "gate.bias": self.gate_bias.detach()}


class LexicalHead(Head):
    """Weights of the text's own tokens, none beside.

    Args:
        tensors: What `start` or `tensors` gave.
        n_terms: Size of the vocabulary.
    """

    NAMES = ("weigh.weight", "weigh.bias", "counts")

    def __init__(self, tensors: dict[str, Tensor], n_terms: int) -> None:
        super().__init__("max", "none", n_terms)
        self.weigh = _linear(tensors["weigh.weight"], tensors["weigh.bias"])
        self.register_buffer("counts", tensors["counts"])

    @classmethod
    def start(cls, hidden: int, n_terms: int, absent: Tensor) -> dict[str, Tensor]:
        """The tensors to begin with: every token of a text counts, but for the terms that are absent."""
        counts = torch.ones(n_terms)
        counts[absent] = 0
        return {"weigh.weight": torch.zeros(1, hidden), "weigh.bias": torch.ones(1), "counts": counts}

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """As `Head`."""
        values = torch.relu(self.weigh(states).squeeze(-1)) * self.counts[ids] * mask
        weights = values.new_zeros(ids.shape[0], self.n_terms).scatter_reduce(1, ids, values, "amax")
        return weights if terms is None else weights[:, terms]

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """As `Head`."""
        return torch.where(ids.unsqueeze(-1) == terms, torch.relu(self.weigh(states)), 0)

    def tensors(self) -> dict[str, Tensor]:
        """Its layer."""
        return {
            "weigh.weight": self.weigh.weight.detach(),
            "weigh.bias": self.weigh.bias.detach(),
            "counts": self.counts,
        }


class ExpansionHead(Head):
    """An output layer, for a backbone that was trained without one.

    A term's logit is the largest that any token gives it, as with a masked language model, plus the term's own
    frequency in the text.

    Args:
        tensors: What `start` or `tensors` gave.
        saturation: As `Head`; the pooling is max.
    """

    typical_length = 140.0  # tokens of a text, in the frequency's length normalisation
    NAMES = ("identity.weight", "identity.bias", "up.weight", "up.bias", "down.weight", "down.bias", "projection",
             "bias", "frequency", "saturation")  # fmt: skip

    def __init__(self, tensors: dict[str, Tensor], saturation: str) -> None:
        projection = tensors["projection"]
        super().__init__("max", saturation, projection.shape[0])
        self.identity, self.up, self.down = (
            _linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in ("identity", "up", "down")
        )
        # It stays as it is but for its rows' scales: a batch teaches too few terms to move all of them.
        self.register_buffer("projection", projection)
        self.scale = nn.Parameter(torch.zeros(self.n_terms))
        self.bias = nn.Parameter(tensors["bias"])
        self.frequency = nn.Parameter(tensors["frequency"])
        # Each term learns only where a batch has it, so what all have in common is learned apart.
        self.shift, self.stretch, self.louder = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        self.k1_b = nn.Parameter(tensors["saturation"])  # log k1, logit of b

    @classmethod
    def start(
        cls, embeddings: Tensor, states: Sequence[Tensor], absent: Tensor, *, width: int = 768
    ) -> dict[str, Tensor]:
        """The tensors to begin with: logits of the input embeddings, standardised, and a bias that leaves few terms.

        Args:
            embeddings: (n_terms, hidden) float32, of the backbone.
            states: Of each of some texts, (n_tokens, hidden) float32, its last states.
            absent: (n,) int64, terms that no text has: special and unused tokens.
            width: Of the perceptron.
        """
        hidden = embeddings.shape[1]
        logits = torch.cat(list(states)) @ embeddings.T
        mean, deviation = logits.mean(0), logits.std(0).clamp_min(1e-6)
        bias = -mean / deviation - 4.5
        bias[absent] = _NEVER
        up = nn.Linear(hidden, width)
        return {
            "identity.weight": torch.eye(hidden),
            "identity.bias": torch.zeros(hidden),
            "up.weight": up.weight.detach(),
            "up.bias": up.bias.detach(),
            "down.weight": torch.zeros(hidden, width),
            "down.bias": torch.zeros(hidden),
            "projection": embeddings / deviation[:, None],
            "bias": bias,
            "frequency": torch.full((len(embeddings),), 2.0),
            "saturation": torch.tensor([math.log(1.2), -0.4]),
        }

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """As `Head`."""
        rows = slice(None) if terms is None else terms
        logits = max_logits(self.transform(states), mask, self._projection(rows), self.bias[rows] + self.shift)
        logits = logits + (self.frequency[rows] + self.louder) * self.frequencies(ids, mask, terms)
        return saturate(logits, self.saturation)

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """As `Head`; what a term's frequency in the text adds is no token's."""
        return self.transform(states) @ self._projection(terms).T

    def _projection(self, rows: Tensor | slice) -> Tensor:
        return cast(Tensor, self.projection[rows] * (self.scale[rows] + self.stretch).exp().unsqueeze(1))

    def transform(self, states: Tensor) -> Tensor:
        """What the output layer is applied to, (batch, seq, hidden)."""
        return cast(Tensor, self.identity(states) + self.down(nn.functional.gelu(self.up(states))))

    def frequencies(self, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """BM25's saturated frequency of each term in the text itself, (batch, n) float32."""
        k1, b = self.k1_b[0].exp(), torch.sigmoid(self.k1_b[1])
        counts = torch.zeros(ids.shape[0], self.n_terms, device=ids.device)
        counts.scatter_add_(1, ids, mask.to(counts.dtype))
        counts = counts if terms is None else counts[:, terms]
        length = mask.sum(1, keepdim=True) / self.typical_length
        return counts / (counts + k1 * (1 - b + b * length))

    def tensors(self) -> dict[str, Tensor]:
        """All of it, what is common to all terms folded into each."""
        layers = {"identity": self.identity, "up": self.up, "down": self.down}
        found = {
            f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() for kind in ("weight", "bias")
        }
        return {name: tensor.detach() for name, tensor in found.items()} | {
            "projection": (self.projection * (self.scale + self.stretch).exp().unsqueeze(1)).detach(),
            "bias": (self.bias + self.shift).detach(),
            "frequency": (self.frequency + self.louder).detach(),
            "saturation": self.k1_b.detach(),
        }


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer
