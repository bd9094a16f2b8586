"""The network of an encoder, in torch: a backbone that reads the text, and a head that weighs the vocabulary.

One module for training and for encoding. The backbone gives a state h_t for each token t; the head makes of them

    masked-lm    w_j = pool_t saturation(relu(h_t . E_j + b_j)), with the output layer that the checkpoint brings
    expansion    w_j = saturation(relu(max_t(g(h_t) . P_j) + b_j + c_j tf_j)), for a backbone without an output layer:
                 g is a layer that starts as the identity, and a small perceptron beside it; P are the input
                 embeddings, each by a factor; tf_j is BM25's saturated frequency of the text's own tokens
    lexical      w_j = max_{t: token_t = j} relu(a . h_t + b), no expansion (uniCOIL, arXiv 2106.14807; DeepImpact,
                 2104.12016)
    gated        the masked-lm weights, let through where a second layer's pooled logit is above zero (SparTerm,
                 2010.00768); it learns by its sigmoid
    causal-lm    as masked-lm, of a decoder that reads the text twice: the second reading knows what is to come
                 (Echo-Mistral-SPLADE, 2408.11119)

Needs torch and transformers, so nothing but the code that runs a model imports this file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lsr.encode import model_files as files
from lsr.encode.pooling import Screen, max_logits, pool_logits, pool_states, saturate
from lsr.errors import EncoderError

_NEVER = -1e4  # the bias of terms that no text has


class SparseModel(nn.Module):
    """A backbone and a head.

    Args:
        backbone: A model of transformers.
        head: What makes weights of its states.
        twice: Whether it reads the text twice, and only what it makes of the second reading counts.

    Attributes:
        n_terms: Size of the vocabulary.
    """

    def __init__(self, backbone: Any, head: Head, *, twice: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.twice = backbone, head, twice
        self.n_terms = head.n_terms

    def forward(self, ids: Tensor, mask: Tensor, terms: Tensor | None = None) -> Tensor:
        """Term weights.

        Args:
            ids: (batch, seq) int64.
            mask: (batch, seq), 0 where there is padding.
            terms: (n,) int64, the terms whose weights are wanted; None for all.

        Returns:
            (batch, n) float, not negative.
        """
        return cast(Tensor, self.head(self.states(ids, mask), ids, mask, terms))

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What the head takes: (batch, seq, hidden), the logits where the model's output layer can't be taken apart."""
        if not self.twice:
            return _states(self.backbone(input_ids=ids, attention_mask=mask, return_dict=True))
        mask = torch.cat([mask, mask], 1)
        # Counted without the padding between the readings, so that a text's company makes no difference.
        places = (mask.cumsum(1) - 1).clamp_min(0)
        ids = torch.cat([ids, ids], 1)
        out = self.backbone(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, return_dict=True)
        return _states(out)[:, ids.shape[1] // 2 :]

    def layers(self) -> nn.ModuleList:
        """The backbone's layers.

        Raises:
            EncoderError: It isn't made of embeddings and a row of layers.
        """
        layers = getattr(getattr(self.backbone, "encoder", None), "layer", None)
        if not isinstance(layers, nn.ModuleList):
            raise EncoderError(
                f"layers of a {type(self.backbone).__name__} can't be kept as they are while others are trained; "
                "those of BERT, RoBERTa and ELECTRA can"
            )
        return layers

    def lower(self, ids: Tensor, mask: Tensor, n_layers: int) -> Tensor:
        """Hidden states after so many layers, (batch, seq, hidden)."""
        out = self.backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
        return cast(Tensor, out.hidden_states[n_layers])

    def upper(self, hidden: Tensor, mask: Tensor, n_layers: int) -> Tensor:
        """The states that the head takes, from what `lower` gave."""
        outside = mask[:, None, None, :].eq(0)
        bias = torch.zeros(outside.shape, dtype=hidden.dtype, device=hidden.device)
        bias = bias.masked_fill(outside, torch.finfo(hidden.dtype).min)
        for layer in self.layers()[n_layers:]:
            out = layer(hidden, bias)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    def save(self, folder: Path, tokenizer: bytes, weights: dict[str, Tensor] | None = None) -> None:
        """Write the backbone as transformers does, and the head beside it.

        Args:
            folder: Where to.
            tokenizer: The content of tokenizer.json.
            weights: The backbone's by name, where those it has are not what is to be kept.
        """
        with self.head.restored(), _quiet():
            self.backbone.save_pretrained(folder, state_dict=weights)
        (folder / "tokenizer.json").write_bytes(tokenizer)
        if tensors := self.head.tensors():
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / files.HEAD_FILE)


def load_model(
    folder: Path, kind: str, pooling: str, saturation: str, n_terms: int, tensors: dict[str, Tensor] | None = None
) -> SparseModel:
    """Open a checkpoint, in float32.

    Args:
        folder: The checkpoint.
        kind: The head, one of `checkpoint.HEADS`.
        pooling: "max" or "sum"; of the heads that leave a choice.
        saturation: "log1p" or "log1p_log1p"; likewise.
        n_terms: Terms that it has to put out.
        tensors: Of a head that has its own; None for those in the checkpoint.

    Raises:
        EncoderError: It can't be opened, or weights are missing.
    """
    classes = {
        "masked-lm": "AutoModelForMaskedLM",
        "gated": "AutoModelForMaskedLM",
        "causal-lm": "AutoModelForCausalLM",
    }
    backbone, absent = load_backbone(folder, classes.get(kind, "AutoModel"))
    if missing := sorted(key for key in absent if not key.endswith("position_ids") and "pooler" not in key):
        advice = (
            ""
            if kind in ("expansion", "lexical")
            else (
                " SPLADE needs a checkpoint with a trained masked-LM head; this one was saved without. The heads "
                '"expansion" and "lexical" can be trained without one.'
            )
        )
        lacking = f"its weights lack {len(missing)} of the model's, {missing[0]} among them"
        raise EncoderError(f"{folder}: {lacking}.{advice}")
    if tensors is None:
        tensors = _load_head(folder / files.HEAD_FILE, kind)
    if kind == "expansion":
        return SparseModel(backbone, ExpansionHead(tensors, saturation))
    if kind == "lexical":
        return SparseModel(backbone, LexicalHead(tensors, n_terms))
    if kind == "gated":
        return SparseModel(backbone, GatedHead(backbone, pooling, saturation, n_terms, str(folder), tensors))
    head = MaskedLMHead(backbone, pooling, saturation, n_terms, str(folder))
    return SparseModel(backbone, head, twice=kind == "causal-lm")


def start_model(
    folder: Path, kind: str, pooling: str, saturation: str, n_terms: int, ids: list[list[int]], absent: list[int]
) -> SparseModel:
    """A model to train: as `load_model`, with a new head where the checkpoint has none of the kind.

    Args:
        folder: The checkpoint.
        kind: The head.
        pooling: As `load_model`.
        saturation: As `load_model`.
        n_terms: Terms that it has to put out.
        ids: Token ids of some texts, special ones at their ends: a new head looks at what the backbone makes of them.
        absent: Terms that no text has: special and unused tokens.
    """
    if kind in ("masked-lm", "causal-lm") or (folder / files.HEAD_FILE).is_file():
        return load_model(folder, kind, pooling, saturation, n_terms)
    never = torch.tensor(absent, dtype=torch.int64)
    if kind == "gated":
        tensors = GatedHead.start(load_backbone(folder, "AutoModelForMaskedLM")[0].get_output_embeddings().weight)
    else:
        backbone = load_backbone(folder, "AutoModel")[0]
        embeddings = backbone.get_input_embeddings().weight.detach()
        if len(embeddings) != n_terms:
            raise EncoderError(f"{folder}: {len(embeddings)} embeddings, but {n_terms} terms in its config.json")
        if kind == "lexical":
            tensors = LexicalHead.start(int(backbone.config.hidden_size), n_terms, never)
        else:
            with torch.no_grad():
                states = [backbone(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids]
                tensors = ExpansionHead.start(embeddings, states, never)
    return load_model(folder, kind, pooling, saturation, n_terms, tensors)


def load_backbone(folder: Path, name: str) -> tuple[Any, set[str]]:
    """A model of transformers, and the names of its weights that the checkpoint lacks."""
    try:
        # What it says of weights that are missing is an error of ours; of those left over, nobody needs to know.
        with _quiet():
            # Neither pickled weights nor code from the checkpoint; float32 whatever it was saved in.
            model, info = getattr(transformers, name).from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # it would say only that there are some
            )
    except Exception as error:  # transformers, safetensors and torch each have errors of their own
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        what = {"AutoModelForMaskedLM": "a masked", "AutoModelForCausalLM": "a causal"}.get(name, "a")
        raise EncoderError(f"{folder}: can't be opened as {what} language model: {reason}") from None
    for key, there, wanted in sorted(info["mismatched_keys"]):
        raise EncoderError(
            f"{folder}: its weights and its config.json don't belong together: {key} has the shape {tuple(there)}, by "
            f"config.json {tuple(wanted)}. Of a vocabulary that was changed, vocab_size is the first of these numbers"
        )
    return model.float().eval(), set(info["missing_keys"])


@torch.inference_mode()
def depends_on_padding(model: SparseModel, pad: int) -> bool:
    """Whether what a model makes of a text changes when padding stands behind it, masked as it is.

    Args:
        model: The model, in evaluation mode.
        pad: The token that padding is made of.
    """
    device = next(model.parameters()).device
    some = [term for term in torch.linspace(0, model.n_terms - 1, 6).long().tolist() if term != pad][:4]
    ids = torch.tensor([some + [pad] * 4], device=device)
    mask = (torch.arange(8, device=device) < len(some)).long()[None]
    alone = model.states(ids[:, : len(some)], mask[:, : len(some)])
    padded = model.states(ids, mask)[:, : len(some)]
    return bool((padded - alone).abs().max() > 1e-3 * alone.abs().max().clamp_min(1e-3))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its progress bars and remarks."""
    logging = transformers.utils.logging
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load_head(path: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of a head that has its own.

    Raises:
        EncoderError: They are missing or damaged.
    """
    names = {"expansion": ExpansionHead.NAMES, "lexical": LexicalHead.NAMES, "gated": GatedHead.NAMES}.get(kind)
    if names is None:
        return {}
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"{path}: the head's weights can't be read: {error}") from None
    if lacking := [name for name in names if name not in tensors]:
        raise EncoderError(f"{path}: the head {kind} lacks {', '.join(lacking)}")
    return {name: tensors[name].float() for name in names}


def _states(out: Any) -> Tensor:
    return cast(Tensor, out.logits if "logits" in out else out.last_hidden_state)


# --- heads ------------------------------------------------------------------------------------------------------------


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
