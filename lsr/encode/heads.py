"""Heads: turn a backbone's token states into term weights of a text."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lsr.encode.pooling import Screen, max_logits, pool_logits, pool_states, saturate
from lsr.errors import EncoderError

_NEVER = -1e4  # bias of terms that no text may have


class Head(nn.Module):
    """Base of all heads.

    A head from another package (see `lsr.plugins`) has `__init__(tensors, n_terms)`, a class method `start(hidden,
    n_terms, absent)`, which returns its initial tensors, and a method `tensors()`, which returns the tensors to save;
    `LexicalHead` is an example.

    Args:
        pooling: "max" or "sum".
        saturation: "log1p" or "log1p_log1p".
        n_terms: Size of the vocabulary.

    Attributes:
        reads: The input from the backbone. "output": the logits if the backbone computes them, otherwise the last
            states. "raw": the last states in any case. "both": the last states and the output, concatenated.
        NAMES: Names of the head's tensors.
        MODEL: The class of transformers that opens the backbone. The output of "AutoModelForMaskedLM" is the logits,
            (batch, seq, n_terms), if the head doesn't detach the output layer.
    """

    NAMES: tuple[str, ...] = ()
    MODEL = "AutoModel"
    reads = "output"

    def __init__(self, pooling: str, saturation: str, n_terms: int) -> None:
        super().__init__()
        self.pooling, self.saturation, self.n_terms = pooling, saturation, n_terms

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """Term weights; arguments and result are those of `SparseModel`, states are (batch, seq, hidden)."""
        raise NotImplementedError

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """Logits of terms for each token before pooling, up to a constant for each term.

        Args:
            states: (batch, seq, hidden).
            ids: (batch, seq) int64.
            terms: (n,) int64.

        Returns:
            (batch, seq, n) float.

        Raises:
            EncoderError: This head can't attribute terms to tokens.
        """
        raise EncoderError(f"{type(self).__name__} doesn't tell which token a term comes from")

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to save besides the backbone."""
        return {}

    def named_tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers in NAMES."""
        return {name: self.state_dict()[name].detach() for name in self.NAMES}

    def queries(self) -> Head:
        """The head for queries on the same backbone; this head, unless queries have a separate head."""
        return self

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Within the block, the backbone has the form that transformers expects."""
        yield


class MaskedLMHead(Head):
    """The output layer of a masked language model, detached from the model if possible.

    Args:
        model: The model; it is changed to end before its output layer.
        pooling, saturation: As for `Head`.
        n_terms: Number of terms that the model must output.
        where: The checkpoint, for messages.

    Raises:
        EncoderError: The model outputs another number of terms.
    """

    MODEL = "AutoModelForMaskedLM"

    def __init__(self, model: Any, pooling: str, saturation: str, n_terms: int, where: str) -> None:
        super().__init__(pooling, saturation, n_terms)
        # The output layer is in a list, so that its parameters don't count as parameters of the head.
        self._output = [model.get_output_embeddings()]
        self.apart = self._take_apart(model, where)
        self._screen: Screen | None = None

    @torch.no_grad()
    def _take_apart(self, model: Any, where: str) -> bool:
        """Make the model stop before its output layer; return False if this changes the logits."""
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
        except RuntimeError:  # shapes don't fit: the model does more after its output layer
            pass
        del output.forward
        return False

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`; if the layer couldn't be detached, `states` are the logits."""
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
        """See `Head`."""
        if not self.apart:
            return states[..., terms]
        weight, bias = self._output[0].weight, self._output[0].bias
        return nn.functional.linear(states, weight[terms], None if bias is None else bias[terms])

    def require_apart(self, where: str, what: str) -> None:
        """Refuse a model whose output layer couldn't be detached.

        Raises:
            EncoderError: The layer isn't detached; the message has the checkpoint `where` and the feature `what`.
        """
        if not self.apart:
            raise EncoderError(f"{where}: its output layer can't be detached, so {what} is not possible")

    @property
    def output(self) -> Any:
        """The output layer."""
        return self._output[0]

    def logits(self, states: Tensor) -> Tensor:
        """Logits of (n, hidden) states, (n, n_terms)."""
        if not self.apart:
            return states
        return nn.functional.linear(states, self._output[0].weight, self._output[0].bias)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Reattach the output layer."""
        if self.apart:
            del self._output[0].forward
        try:
            yield
        finally:
            if self.apart:
                self._output[0].forward = nn.Identity().forward


class GatedHead(MaskedLMHead):
    """A masked language model's weights behind a gate for each term.

    The gate is 0 or 1 in the forward pass; its gradient is that of a sigmoid (straight-through estimator).

    Args:
        model, pooling, saturation, n_terms, where: As for `MaskedLMHead`.
        tensors: The initial tensors from `start`, or those of a saved head.
    """

    NAMES = ("gate.weight", "gate.bias")

    def __init__(
        self, model: Any, pooling: str, saturation: str, n_terms: int, where: str, tensors: dict[str, Tensor]
    ) -> None:
        super().__init__(model, pooling, saturation, n_terms, where)
        self.require_apart(where, "a gate")
        self.gate_weight, self.gate_bias = (nn.Parameter(tensors[name]) for name in self.NAMES)

    @classmethod
    def start(cls, embeddings: Tensor) -> dict[str, Tensor]:
        """Initial tensors from (n_terms, hidden) output embeddings; all gates are open."""
        return {"gate.weight": torch.zeros_like(embeddings.detach()), "gate.bias": torch.ones(len(embeddings))}

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`."""
        weights = super().forward(states, ids, mask, terms)
        rows = slice(None) if terms is None else terms
        logits = max_logits(states, mask, self.gate_weight[rows], self.gate_bias[rows])
        soft = torch.sigmoid(logits)
        return weights * ((logits > 0).to(soft.dtype) + soft - soft.detach())

    def tensors(self) -> dict[str, Tensor]:
        """The gate's weight and bias."""
        return {"gate.weight": self.gate_weight.detach(), "gate.bias": self.gate_bias.detach()}


class LexicalHead(Head):
    """Weights for the text's own tokens only, without expansion.

    Args:
        tensors: The initial tensors from `start`, or those of a saved head.
        n_terms: Size of the vocabulary.
    """

    NAMES = ("weigh.weight", "weigh.bias", "counts")

    def __init__(self, tensors: dict[str, Tensor], n_terms: int) -> None:
        super().__init__("max", "none", n_terms)
        self.weigh = linear(tensors["weigh.weight"], tensors["weigh.bias"])
        self.register_buffer("counts", tensors["counts"])

    @classmethod
    def start(cls, hidden: int, n_terms: int, absent: Tensor) -> dict[str, Tensor]:
        """Initial tensors: each token of a text has the weight 1; terms in `absent` never have a weight."""
        counts = torch.ones(n_terms)
        counts[absent] = 0
        return {"weigh.weight": torch.zeros(1, hidden), "weigh.bias": torch.ones(1), "counts": counts}

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`."""
        values = torch.relu(self.weigh(states).squeeze(-1)) * self.counts[ids] * mask
        weights = values.new_zeros(ids.shape[0], self.n_terms).scatter_reduce(1, ids, values, "amax")
        return weights if terms is None else weights[:, terms]

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """See `Head`."""
        return torch.where(ids.unsqueeze(-1) == terms, torch.relu(self.weigh(states)), 0)

    def tensors(self) -> dict[str, Tensor]:
        """The layer's weight and bias, and the counts."""
        return {
            "weigh.weight": self.weigh.weight.detach(),
            "weigh.bias": self.weigh.bias.detach(),
            "counts": self.counts,
        }


class ExpansionHead(Head):
    """An output layer, for a backbone that was trained without one.

    As with a masked language model, a term's logit is the largest over the tokens. The term's own frequency in the
    text is added.

    Args:
        tensors: The initial tensors from `start`, or those of a saved head.
        saturation: As for `Head`; the pooling is max.
    """

    typical_length = 140.0  # tokens of a text, in the frequency's length normalisation
    NAMES = ("identity.weight", "identity.bias", "up.weight", "up.bias", "down.weight", "down.bias", "projection",
             "bias", "frequency", "saturation")  # fmt: skip

    def __init__(self, tensors: dict[str, Tensor], saturation: str) -> None:
        projection = tensors["projection"]
        super().__init__("max", saturation, projection.shape[0])
        self.identity, self.up, self.down = (
            linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in ("identity", "up", "down")
        )
        # Only the scale of each row is trained: a batch has too few terms to train all rows.
        self.register_buffer("projection", projection)
        self.scale = nn.Parameter(torch.zeros(self.n_terms))
        self.bias = nn.Parameter(tensors["bias"])
        self.frequency = nn.Parameter(tensors["frequency"])
        # A term learns only from batches in which it occurs, so three more parameters are shared by all terms.
        self.shift, self.stretch, self.louder = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        self.k1_b = nn.Parameter(tensors["saturation"])  # log k1, logit of b

    @classmethod
    def start(
        cls, embeddings: Tensor, states: Sequence[Tensor], absent: Tensor, *, width: int = 768
    ) -> dict[str, Tensor]:
        """Initial tensors: the input embeddings as output layer, with standardised logits; few terms pass the bias.

        Args:
            embeddings: (n_terms, hidden) float32, input embeddings of the backbone.
            states: The last states of some texts; (n_tokens, hidden) float32 for each.
            absent: (n,) int64, terms that no text may have: special and unused tokens.
            width: Hidden size of the perceptron.
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
        """See `Head`."""
        rows = slice(None) if terms is None else terms
        logits = max_logits(self.transform(states), mask, self._projection(rows), self.bias[rows] + self.shift)
        logits = logits + (self.frequency[rows] + self.louder) * self.frequencies(ids, mask, terms)
        return saturate(logits, self.saturation)

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """See `Head`. The frequency's share isn't included, since it belongs to no single token."""
        return self.transform(states) @ self._projection(terms).T

    def _projection(self, rows: Tensor | slice) -> Tensor:
        return cast(Tensor, self.projection[rows] * (self.scale[rows] + self.stretch).exp().unsqueeze(1))

    def transform(self, states: Tensor) -> Tensor:
        """Input of the output layer, (batch, seq, hidden)."""
        return cast(Tensor, self.identity(states) + self.down(nn.functional.gelu(self.up(states))))

    def frequencies(self, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """BM25's saturated frequency of each term in the text, (batch, n) float32."""
        k1, b = self.k1_b[0].exp(), torch.sigmoid(self.k1_b[1])
        counts = torch.zeros(ids.shape[0], self.n_terms, device=ids.device)
        counts.scatter_add_(1, ids, mask.to(counts.dtype))
        counts = counts if terms is None else counts[:, terms]
        length = mask.sum(1, keepdim=True) / self.typical_length
        return counts / (counts + k1 * (1 - b + b * length))

    def tensors(self) -> dict[str, Tensor]:
        """All parameters; shared parameters are folded into those of each term."""
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


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer of given weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer
