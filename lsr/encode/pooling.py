"""From token states or logits to term weights, in torch.

    max: saturation(relu(max_t z[t, j]))        sum: sum_t saturation(relu(z[t, j]))

over the positions t that the mask keeps. `pool_states` multiplies by the output projection itself, a few
thousand terms at a time, so the logits of a batch never exist as a whole; `pool_logits` is the plain
definition. Needs torch, so nothing but the code that runs a model imports this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRANSIENT_BYTES = 64 << 20  # logits that exist at a time
_TERMS = 4096  # terms at a time; few enough that a batch of texts fits, enough to keep the multiplication busy


def pool_states(
    states: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, pooling: str, saturation: str
) -> Tensor:
    """Term weights from transformed hidden states. Works in place, so it has no gradient.

    Args:
        states: (batch, seq, hidden) float, what the output projection is applied to.
        mask: (batch, seq), 0 where a position doesn't count.
        weight: (vocab, hidden) float, the output projection.
        bias: (vocab,) float, or None.
        pooling: "max" or "sum".
        saturation: "log1p" or "log1p_log1p".

    Returns:
        (batch, vocab) float.
    """
    batch, seq, _ = states.shape
    vocab = weight.shape[0]
    floats = TRANSIENT_BYTES // states.element_size()
    terms = min(vocab, _TERMS, max(1, floats // max(seq, 1)))
    docs = max(1, floats // max(seq * terms, 1))
    dropped = mask.eq(0).unsqueeze(-1)
    out = states.new_empty(batch, vocab)
    for i in range(0, batch, docs):
        some, hidden = states[i : i + docs], dropped[i : i + docs]
        for j in range(0, vocab, terms):
            part = None if bias is None else bias[j : j + terms]
            logits = torch.nn.functional.linear(some, weight[j : j + terms], part)
            logits.masked_fill_(hidden, 0)
            target = out[i : i + docs, j : j + terms]
            if pooling == "max":  # saturation is monotone, so it can wait until one value per term is left
                target.copy_(_saturate(logits.amax(1), saturation))
            else:
                target.copy_(_saturate(logits, saturation).sum(1))
            del logits  # before the next ones are made
    return out


def _saturate(logits: Tensor, saturation: str) -> Tensor:
    logits.relu_().log1p_()
    return logits.log1p_() if saturation == "log1p_log1p" else logits


def pool_logits(logits: Tensor, mask: Tensor, pooling: str, saturation: str) -> Tensor:
    """Term weights from all logits: the reference, and the way with a gradient.

    Args:
        logits: (batch, seq, vocab) float.
        mask: (batch, seq), 0 where a position doesn't count.
        pooling: "max" or "sum".
        saturation: "log1p" or "log1p_log1p".

    Returns:
        (batch, vocab) float.
    """
    weights = torch.log1p(torch.relu(logits.masked_fill(mask.eq(0).unsqueeze(-1), 0)))
    if saturation == "log1p_log1p":
        weights = torch.log1p(weights)
    return weights.amax(1) if pooling == "max" else weights.sum(1)
