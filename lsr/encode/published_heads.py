"""Heads of published systems: EPIC, SPARTA, DeepCT and TILDE, by the formulas of their released code.

z_tj is the logit of term j at token t, h_t the backbone's last state, E_j an input embedding; special tokens have no
weight. TILDEv2 is `LexicalHead` with queries of the kind "tokens".
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from lsr.encode.heads import Head, LexicalHead, MaskedLMHead, linear
from lsr.encode.pooling import max_logits, over_tiles, saturate


class EpicHead(MaskedLMHead):
    """EPIC (arXiv 2004.14245): expansion terms weighted by the importance of their token and the text's quality.

        documents   w_j = sigmoid(u . h_CLS + b_u) max_t a(s . h_t + b_s) a(z_tj),   a(x) = log(1 + softplus(x))
        queries     q_j = sum over t with token_t = j of a(r . h_t + b_r)            (`EpicQueryHead`)

    a is never zero, so documents have all terms; keep the heaviest with `top_k` (the authors keep 100 or 1,000). The
    formulas are from Georgetown-IR-Lab/OpenNIR, onir/rankers/epic.py.

    Args:
        model, n_terms, where: As for `MaskedLMHead`.
        tensors: The initial tensors from `start`, or those of a saved head.
    """

    NAMES = ("query.weight", "query.bias", "importance.weight", "importance.bias", "quality.weight", "quality.bias",
             "counts")  # fmt: skip
    reads = "both"

    def __init__(self, model: Any, n_terms: int, where: str, tensors: dict[str, Tensor]) -> None:
        super().__init__(model, "max", "none", n_terms, where)
        self.require_apart(where, "EPIC")
        self.query, self.importance, self.quality = (
            linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in ("query", "importance", "quality")
        )
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("counts", tensors["counts"])

    @classmethod
    def start(cls, hidden: int, n_terms: int, absent: Tensor) -> dict[str, Tensor]:
        """Initial tensors: PyTorch's random layers, as in the released code."""
        layers = {name: nn.Linear(hidden, 1) for name in ("query", "importance", "quality")}
        found = {
            f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() for kind in ("weight", "bias")
        }
        return {name: tensor.detach() for name, tensor in found.items()} | {"counts": counted(n_terms, absent)}

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`."""
        raw, transformed = states.chunk(2, -1)
        rows = slice(None) if terms is None else terms
        weight, bias = self._output[0].weight[rows], self._bias(rows)
        shares = _activated(self.importance(self.dropout(raw)))  # (batch, seq, 1)
        kept = mask * (self.counts[ids] > 0)
        quality = torch.sigmoid(self.quality(raw[:, 0]))
        found = over_tiles(torch.cat([transformed, shares], -1), kept, weight, bias, _largest_product)
        return cast(Tensor, quality * found)

    def queries(self) -> Head:
        """See `Head`."""
        return EpicQueryHead(self.query, self.counts, self.n_terms, self.dropout)

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """See `Head`."""
        raw, transformed = states.chunk(2, -1)
        logits = nn.functional.linear(transformed, self._output[0].weight[terms], self._bias(terms))
        return _activated(logits) * _activated(self.importance(raw)) * (self.counts[ids] > 0).unsqueeze(-1)

    def _bias(self, rows: Tensor | slice) -> Tensor | None:
        bias = self._output[0].bias
        return None if bias is None else bias[rows]

    def tensors(self) -> dict[str, Tensor]:
        """The layers for documents and queries, and the counts."""
        return self.named_tensors()


class EpicQueryHead(Head):
    """The queries' side of `EpicHead`.

    Args:
        layer: The layer that turns states into importances of tokens.
        counts: (n_terms,) float32, 0 for terms that no text may have.
        n_terms: Size of the vocabulary.
        dropout: The dropout of the documents' side.
    """

    NAMES = ("query.weight", "query.bias", "counts")
    reads = "raw"

    def __init__(self, layer: nn.Linear, counts: Tensor, n_terms: int, dropout: nn.Dropout | None = None) -> None:
        super().__init__("sum", "none", n_terms)
        self.query, self.dropout = layer, dropout or nn.Dropout(0.1)
        self.register_buffer("counts", counts)

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`."""
        values = _activated(self.query(self.dropout(states)).squeeze(-1)) * self.counts[ids] * mask
        weights = values.new_zeros(ids.shape[0], self.n_terms).scatter_add(1, ids, values)
        return weights if terms is None else weights[:, terms]

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """See `Head`."""
        return torch.where(ids.unsqueeze(-1) == terms, _activated(self.query(states)), 0)

    def tensors(self) -> dict[str, Tensor]:
        """The layer and the counts."""
        return self.named_tensors()


class SpartaHead(Head):
    """SPARTA (arXiv 2009.13013): w_j = log(1 + relu(max_t E_j . h_t + b)), with the backbone's own embeddings E.

    b starts at 0, its fixed value in BEIR's released code (beir/retrieval/models/sparta.py). Queries are encoded as
    their tokens.

    Args:
        embeddings: The backbone's embedding layer; the head doesn't own its weights.
        tensors: The initial tensors from `start`, or those of a saved head.
    """

    NAMES = ("bias", "counts")

    def __init__(self, embeddings: nn.Embedding, tensors: dict[str, Tensor]) -> None:
        super().__init__("max", "log1p", len(tensors["counts"]))
        self._embeddings = [embeddings]  # in a list, as in `MaskedLMHead`
        self.bias = nn.Parameter(tensors["bias"])
        self.register_buffer("counts", tensors["counts"])

    @classmethod
    def start(cls, n_terms: int, absent: Tensor) -> dict[str, Tensor]:
        """Initial tensors."""
        return {"bias": torch.zeros(1), "counts": counted(n_terms, absent)}

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`."""
        rows = slice(None) if terms is None else terms
        logits = max_logits(states, mask, self._embeddings[0].weight[: self.n_terms][rows], None) + self.bias
        return saturate(logits, "log1p") * self.counts[rows]

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """See `Head`."""
        return states @ self._embeddings[0].weight[terms].T

    def tensors(self) -> dict[str, Tensor]:
        """The bias and the counts."""
        return self.named_tensors()


class DeepCTHead(LexicalHead):
    """DeepCT (arXiv 1910.10687): w_j = max over t with token_t = j of a . h_t + b, rounded to hundredths.

    A word's weight is that of its first piece, so later pieces have none. The authors multiply these weights by 100 to
    get term frequencies for BM25, and drop those that round to 0 (AdeDZY/DeepCT, scripts/bert_term_sample_to_json.py).
    Weights aren't rounded in training.
    """

    steps = 100

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`."""
        weights = super().forward(states, ids, mask, terms)
        if self.training:
            return weights
        counts = weights * self.steps
        return torch.where(counts < 1, 0, counts.round()) / self.steps


class TildeHead(MaskedLMHead):
    """TILDE (SIGIR 2021): w_j = relu(3 + log10 sigmoid(z_1j)), from the first token alone.

    The authors' score is the sum of log10 sigmoid(z_1j) over a query's tokens (ielab/TILDE, inference.py). Here, 3 is
    added to each logarithm, which changes no ranking, and likelihoods below 0.001 count as 0.001, so that vectors are
    sparse.

    Args:
        model, n_terms, where: As for `MaskedLMHead`.
        tensors: The initial tensors from `start`, or those of a saved head.
    """

    NAMES = ("counts",)
    floor = 3.0

    def __init__(self, model: Any, n_terms: int, where: str, tensors: dict[str, Tensor]) -> None:
        super().__init__(model, "max", "none", n_terms, where)
        self.register_buffer("counts", tensors["counts"])

    @classmethod
    def start(cls, n_terms: int, absent: Tensor) -> dict[str, Tensor]:
        """Initial tensors."""
        return {"counts": counted(n_terms, absent)}

    def forward(self, states: Tensor, ids: Tensor, mask: Tensor, terms: Tensor | None) -> Tensor:
        """See `Head`."""
        rows = torch.arange(self.n_terms, device=states.device) if terms is None else terms
        first = mask.ne(0).int().argmax(1)
        logits = super().token_logits(states[torch.arange(len(states), device=states.device), first], ids, rows)
        likelihood = nn.functional.logsigmoid(logits.float()) / math.log(10)
        return torch.relu(self.floor + likelihood) * self.counts[rows]

    def token_logits(self, states: Tensor, ids: Tensor, terms: Tensor) -> Tensor:
        """See `Head`; only the first token has logits."""
        logits = super().token_logits(states, ids, terms).clone()
        logits[:, 1:] = -torch.inf
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """The counts: 0 for terms that no text may have."""
        return self.named_tensors()


def counted(n_terms: int, absent: Tensor) -> Tensor:
    """(n_terms,) float32, 0 for the terms in `absent` and 1 for others."""
    counts = torch.ones(n_terms)
    counts[absent] = 0
    return counts


def _activated(values: Tensor) -> Tensor:
    return torch.log1p(nn.functional.softplus(values))


def _largest_product(some: Tensor, hidden: Tensor, rows: Tensor, offset: Tensor | None) -> Tensor:
    """EPIC's largest weight of each term; the last column of the states is the token's importance."""
    weights = _activated(nn.functional.linear(some[..., :-1], rows, offset)) * some[..., -1:]
    return weights.masked_fill(hidden, 0).amax(1)
