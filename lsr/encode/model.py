"""The network of an encoder in torch: a backbone that reads the text, and a head that weights the terms of the
vocabulary.

Training and encoding use the same module. The backbone gives a state h_t for each token t; the head turns them into

    masked-lm    w_j = pool_t saturation(relu(h_t . E_j + b_j)), with the checkpoint's output layer
    expansion    w_j = saturation(relu(max_t(g(h_t) . P_j) + b_j + c_j tf_j)), for a backbone without an output layer:
                 g is a layer that starts as the identity, plus a small perceptron; P are the input embeddings,
                 each with a factor; tf_j is BM25's saturated frequency of the term in the text
    lexical      w_j = max_{t: token_t = j} relu(a . h_t + b), no expansion (uniCOIL, arXiv 2106.14807; DeepImpact,
                 2104.12016)
    gated        masked-lm weights of terms for which a second layer's pooled logit is above zero (SparTerm,
                 2010.00768); the gradient is that of a sigmoid
    causal-lm    like masked-lm, for a decoder that reads the text twice, so that the second reading sees all of it
                 (Echo-Mistral-SPLADE, 2408.11119)
    epic, sparta, deepct, tilde
                 as published, see `lsr.encode.published_heads`; epic-query is the queries' side of epic

Heads of other packages are found by name, see `lsr.plugins`.

This file needs torch and transformers, so only code that runs a model imports it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lsr import plugins
from lsr.encode import model_files as files
from lsr.encode.heads import ExpansionHead, GatedHead, Head, LexicalHead, MaskedLMHead, linear
from lsr.encode.published_heads import DeepCTHead, EpicHead, EpicQueryHead, SpartaHead, TildeHead
from lsr.errors import EncoderError

# Heads with tensors of their own.
_OWN: dict[str, type[Head]] = {
    "gated": GatedHead,
    "expansion": ExpansionHead,
    "lexical": LexicalHead,
    "epic": EpicHead,
    "epic-query": EpicQueryHead,
    "sparta": SpartaHead,
    "deepct": DeepCTHead,
    "tilde": TildeHead,
}


_LANGUAGE_MODELS = {
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
}  # heads without tensors of their own


def _own_head(kind: str) -> Any:
    """The class of a head with tensors of its own, from lsr or from another package.

    Raises:
        EncoderError: No package has this head, or it isn't a subclass of `Head`.
    """
    if kind in _OWN:
        return _OWN[kind]
    found = plugins.load(plugins.HEADS, kind, EncoderError)
    if not (isinstance(found, type) and issubclass(found, Head) and callable(getattr(found, "start", None))):
        raise EncoderError(f"{kind!r} of {plugins.HEADS} must be a subclass of lsr.encode.heads.Head with start(...)")
    return found


def _opened_by(kind: str) -> str:
    """The class of transformers that opens the backbone."""
    return _LANGUAGE_MODELS.get(kind) or str(_own_head(kind).MODEL)


class SparseModel(nn.Module):
    """A backbone and a head.

    Args:
        backbone: A model of transformers.
        head: Turns the backbone's states into weights.
        twice: Whether the backbone reads the text twice; then only the states of the second reading are used.

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
            terms: (n,) int64, the terms to weight; None for all.

        Returns:
            (batch, n) float, not negative.
        """
        return cast(Tensor, self.head(self.states(ids, mask), ids, mask, terms))

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Input of the head: states, (batch, seq, hidden), or logits if the output layer couldn't be detached."""
        if self.head.reads != "output":
            out = self.backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
            raw = cast(Tensor, out.hidden_states[-1])
            return raw if self.head.reads == "raw" else torch.cat([raw, _states(out)], -1)
        if not self.twice:
            return _states(self.backbone(input_ids=ids, attention_mask=mask, return_dict=True))
        mask = torch.cat([mask, mask], 1)
        # Positions skip the padding between the two readings, so that the result doesn't depend on other texts of the
        # batch.
        places = (mask.cumsum(1) - 1).clamp_min(0)
        ids = torch.cat([ids, ids], 1)
        out = self.backbone(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, return_dict=True)
        return _states(out)[:, ids.shape[1] // 2 :]

    def layers(self) -> nn.ModuleList:
        """The backbone's layers.

        Raises:
            EncoderError: The backbone isn't made of embeddings and a list of layers.
        """
        layers = getattr(getattr(self.backbone, "encoder", None), "layer", None)
        if not isinstance(layers, nn.ModuleList):
            raise EncoderError(
                f"layers of a {type(self.backbone).__name__} can't be frozen; those of BERT, RoBERTa and ELECTRA can"
            )
        return layers

    def lower(self, ids: Tensor, mask: Tensor, n_layers: int) -> Tensor:
        """Hidden states after the first n layers, (batch, seq, hidden)."""
        out = self.backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
        return cast(Tensor, out.hidden_states[n_layers])

    def upper(self, hidden: Tensor, mask: Tensor, n_layers: int) -> Tensor:
        """The head's input, computed from the result of `lower`."""
        outside = mask[:, None, None, :].eq(0)
        bias = torch.zeros(outside.shape, dtype=hidden.dtype, device=hidden.device)
        bias = bias.masked_fill(outside, torch.finfo(hidden.dtype).min)
        for layer in self.layers()[n_layers:]:
            out = layer(hidden, bias)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    def save(self, folder: Path, tokenizer: bytes, weights: dict[str, Tensor] | None = None) -> None:
        """Write the backbone in transformers' format, and the head in a file next to it.

        Args:
            folder: The folder to write.
            tokenizer: The content of tokenizer.json.
            weights: {name: weight} of the backbone, written instead of its current weights.
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
        kind: The head, one of `model_files.HEADS` or of another package.
        pooling: "max" or "sum", for heads that have a choice.
        saturation: "log1p" or "log1p_log1p", for heads that have a choice.
        n_terms: Number of terms that the model must output.
        tensors: Tensors of one of lsr's heads; None for those of the checkpoint.

    Raises:
        EncoderError: The checkpoint can't be opened, or lacks weights.
    """
    opened_by = _opened_by(kind)
    backbone, absent = load_backbone(folder, opened_by)
    if missing := sorted(key for key in absent if not key.endswith("position_ids") and "pooler" not in key):
        advice = (
            ""
            if opened_by == "AutoModel"
            else (
                " SPLADE needs a checkpoint with a trained masked-LM head, which this one lacks. The heads "
                '"expansion", "lexical", "sparta" and "deepct" can be trained without one.'
            )
        )
        lacking = f"it lacks {len(missing)} of the model's weights, for example {missing[0]}"
        raise EncoderError(f"{folder}: {lacking}.{advice}")
    if tensors is None:
        tensors = _load_head(folder / files.HEAD_FILE, kind)
    where = str(folder)
    match kind:
        case "expansion":
            return SparseModel(backbone, ExpansionHead(tensors, saturation))
        case "sparta":
            return SparseModel(backbone, SpartaHead(backbone.get_input_embeddings(), tensors))
        case "epic-query":
            layer = linear(tensors["query.weight"], tensors["query.bias"])
            return SparseModel(backbone, EpicQueryHead(layer, tensors["counts"], n_terms))
        case "epic":
            return SparseModel(backbone, EpicHead(backbone, n_terms, where, tensors))
        case "tilde":
            return SparseModel(backbone, TildeHead(backbone, n_terms, where, tensors))
        case "gated":
            return SparseModel(backbone, GatedHead(backbone, pooling, saturation, n_terms, where, tensors))
        case "masked-lm" | "causal-lm":
            head = MaskedLMHead(backbone, pooling, saturation, n_terms, where)
            return SparseModel(backbone, head, twice=kind == "causal-lm")
    return SparseModel(backbone, _own_head(kind)(tensors, n_terms))


def start_model(
    folder: Path, kind: str, pooling: str, saturation: str, n_terms: int, ids: list[list[int]], absent: list[int]
) -> SparseModel:
    """A model to train: like `load_model`, with a new head if the checkpoint has none of this kind.

    Args:
        folder: The checkpoint.
        kind: The head.
        pooling: As for `load_model`.
        saturation: As for `load_model`.
        n_terms: Number of terms that the model must output.
        ids: Token ids of some texts with special tokens; a new head is initialised from their states.
        absent: Terms that no text may have: special and unused tokens.
    """
    if kind in ("masked-lm", "causal-lm") or (folder / files.HEAD_FILE).is_file():
        return load_model(folder, kind, pooling, saturation, n_terms)
    return load_model(folder, kind, pooling, saturation, n_terms, _start_head(folder, kind, n_terms, ids, absent))


def _start_head(folder: Path, kind: str, n_terms: int, ids: list[list[int]], absent: list[int]) -> dict[str, Tensor]:
    """Initial tensors of a new head; arguments as for `start_model`."""
    never = torch.tensor(absent, dtype=torch.int64)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    hidden = int(config.hidden_size)
    match kind:
        case "gated":
            output = load_backbone(folder, "AutoModelForMaskedLM")[0].get_output_embeddings()
            return GatedHead.start(output.weight)
        case "epic" | "epic-query":
            return EpicHead.start(hidden, n_terms, never)
        case "tilde":
            return TildeHead.start(n_terms, never)
        case "sparta":
            return SpartaHead.start(n_terms, never)
    if kind != "expansion":
        return cast(dict[str, Tensor], _own_head(kind).start(hidden, n_terms, never))
    backbone = load_backbone(folder, "AutoModel")[0]
    embeddings = backbone.get_input_embeddings().weight.detach()
    if len(embeddings) != n_terms:
        raise EncoderError(f"{folder}: {len(embeddings)} embeddings, but {n_terms} terms in its config.json")
    with torch.no_grad():
        states = [backbone(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids]
        return ExpansionHead.start(embeddings, states, never)


def load_backbone(folder: Path, name: str) -> tuple[Any, set[str]]:
    """A transformers model, and the names of weights that the checkpoint lacks."""
    try:
        # The caller checks for missing weights; unused weights don't matter.
        with _quiet():
            # No pickled weights, no code from the checkpoint; always float32.
            model, info = getattr(transformers, name).from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # transformers' own error doesn't name the weights
            )
    except Exception as error:  # transformers, safetensors and torch each raise their own errors
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        what = {"AutoModelForMaskedLM": "a masked", "AutoModelForCausalLM": "a causal"}.get(name, "a")
        raise EncoderError(f"{folder}: can't be opened as {what} language model: {reason}") from None
    for key, there, wanted in sorted(info["mismatched_keys"]):
        raise EncoderError(
            f"{folder}: its weights and its config.json don't fit: {key} has the shape {tuple(there)}, "
            f"config.json implies {tuple(wanted)}. If the vocabulary was changed, vocab_size must be the first of "
            "these numbers"
        )
    return model.float().eval(), set(info["missing_keys"])


@torch.inference_mode()
def depends_on_padding(model: SparseModel, pad: int) -> bool:
    """Whether masked padding after a text changes the model's output.

    Args:
        model: The model, in evaluation mode.
        pad: Id of the padding token.
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
    """Silence transformers' progress bars and log messages."""
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
    """The tensors of one of lsr's heads.

    Raises:
        EncoderError: The tensors are missing or damaged.
    """
    if kind in _LANGUAGE_MODELS:
        return {}
    names = _own_head(kind).NAMES
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"{path}: the head's weights can't be read: {error}") from None
    if lacking := [name for name in names if name not in tensors]:
        raise EncoderError(f"{path}: the head {kind} lacks {', '.join(lacking)}")
    return {name: tensors[name].float() for name in names}


def _states(out: Any) -> Tensor:
    return cast(Tensor, out.logits if "logits" in out else out.last_hidden_state)
