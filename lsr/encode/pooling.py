"""Pool token states or logits into term weights, in torch.

    max: saturation(relu(max_t z[t, j]))        sum: sum_t saturation(relu(z[t, j]))

over the positions t that the mask keeps. `pool_states` multiplies by the output projection, a few thousand terms at a
time, so the logits of a batch are never all in memory, not even for the gradient. `Screen` gives the same result
without a gradient, with most of the work in integers. `pool_logits` is the plain definition. This file needs torch, so
only code that runs a model imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lsr.encode.processor import adds_bytes_exactly

TRANSIENT_BYTES = 64 << 20  # logits in memory at a time
_CACHE_BYTES = 4 << 20  # the limit on a CPU, so that the logits are still in its caches when the maximum is taken
_TERMS = 4096  # terms at a time: few enough that a batch of texts fits, and enough for a fast multiplication


def pool_states(
    states: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, pooling: str, saturation: str
) -> Tensor:
    """Term weights from transformed hidden states, with a gradient if needed.

    Args:
        states: (batch, seq, hidden) float, input of the output projection.
        mask: (batch, seq), 0 at masked positions.
        weight: (n_terms, hidden) float, the output projection, or some of its rows.
        bias: (n_terms,) float, or None.
        pooling: "max" or "sum".
        saturation: "log1p" or "log1p_log1p".

    Returns:
        (batch, n_terms) float.
    """
    if pooling == "max":  # saturation is monotone, so it can come after the maximum
        return saturate(max_logits(states, mask, weight, bias), saturation)

    def part(some: Tensor, hidden: Tensor, rows: Tensor, offset: Tensor | None) -> Tensor:
        logits = torch.nn.functional.linear(some, rows, offset).masked_fill(hidden, 0)
        return saturate(logits, saturation).sum(1)

    return over_tiles(states, mask, weight, bias, part)


def over_tiles(
    states: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    part: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Pool some texts and terms at a time, with a gradient if needed.

    Args:
        states: (batch, seq, width) float.
        mask: (batch, seq), 0 at masked positions.
        weight: (n_terms, hidden) float.
        bias: (n_terms,) float, or None.
        part: A function of states (docs, seq, width), a mask (docs, seq, 1) that is true at masked positions, and rows
            of weight and bias. It returns (docs, terms).

    Returns:
        (batch, n_terms) float.
    """
    dropped = mask.eq(0).unsqueeze(-1)
    if torch.onnx.is_in_onnx_export():  # the tiles would be fixed to those of the traced text
        return part(states, dropped, weight, bias)
    parts = []
    for docs, places, terms in _tiles(states, mask, weight):
        inputs = states[docs, places], dropped[docs, places], weight[terms], None if bias is None else bias[terms]
        # For the gradient, logits are recomputed, not stored.
        parts.append(checkpoint(part, *inputs, use_reentrant=False) if torch.is_grad_enabled() else part(*inputs))
    per_row = -(-weight.shape[0] // _tile(states, weight)[1])
    return torch.cat([torch.cat(parts[i : i + per_row], 1) for i in range(0, len(parts), per_row)])


def max_logits(states: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The largest logit of each term over the positions; arguments are those of `pool_states`.

    The gradient goes to the position of the largest logit, so only that position is stored. The cost of the backward
    pass grows with the number of terms that have a gradient.

    Returns:
        (batch, n_terms) float32; the lowest float for a text without positions.
    """
    if torch.onnx.is_in_onnx_export():  # a graph has one text, without padding
        return torch.nn.functional.linear(states, weight, bias).amax(1)
    found: Tensor = _MaxLogits.apply(states, mask, weight)
    return found if bias is None else found + bias


class _MaxLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        kept, filled = mask.ne(0), _filled(states, mask)  # filled states need no masking of logits
        keep = any(ctx.needs_input_grad)
        out = states.new_empty(states.shape[0], weight.shape[0], dtype=torch.float32)
        found = torch.empty_like(out, dtype=torch.int32) if keep else None
        for docs, places, terms in _tiles(states, mask, weight):
            logits = torch.nn.functional.linear(filled[docs, places], weight[terms])
            if found is None:
                out[docs, terms] = logits.amax(1)
            else:
                out[docs, terms], found[docs, terms] = logits.max(1)
            del logits  # free memory before the next tile
        out[~kept.any(1)] = torch.finfo(out.dtype).min
        if found is not None:
            first = kept.int().argmax(1, keepdim=True).int()
            found = torch.where(kept.gather(1, found.long()), found, first)
        ctx.save_for_backward(states, weight, found)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        states, weight, places = ctx.saved_tensors
        batch, seq, hidden = states.shape
        docs, terms = grads[0].nonzero(as_tuple=True)
        positions = docs * seq + places[docs, terms]
        # A sparse (positions, terms) matrix with one entry for each term of a document; its rows and columns are
        # summed.
        shape = batch * seq, weight.shape[0]
        places, values = torch.stack([positions, terms]), grads[0][docs, terms].float()
        sparse = torch.sparse_coo_tensor(places, values, shape, check_invariants=False)
        to_states = to_weight = None
        if ctx.needs_input_grad[0]:
            to_states = torch.sparse.mm(sparse, weight.float()).view(states.shape).to(states.dtype)
        if ctx.needs_input_grad[2]:
            to_weight = torch.sparse.mm(sparse.t(), states.reshape(-1, hidden).float()).to(weight.dtype)
        return to_states, None, to_weight


class Screen:
    """The largest logits of the terms that may be above zero.

    Few terms of a vocabulary have a logit above zero. A first pass in 8-bit integers, which is a quarter of the work,
    finds the terms that may have one, using a bound on the rounding error. Only these terms are computed in float.

    Args:
        weight: (n_terms, hidden) float32, the output projection.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight, self._version = weight, weight._version
        weight = weight.detach()
        self._scale = weight.abs().amax(1).clamp_min(1e-12) / 127
        self._integers = (weight / self._scale.unsqueeze(1)).round().to(torch.int8)
        self._size = weight.norm(dim=1)
        self._error = (weight - self._integers * self._scale.unsqueeze(1)).norm(dim=1)

    @staticmethod
    def can(states: Tensor, weight: Tensor) -> bool:
        """Whether `Screen` can be used: in float32, without gradient, on a processor with fast and exact 8-bit
        products.
        """
        if torch.onnx.is_in_onnx_export():
            return False
        plain = not torch.is_grad_enabled() and not weight.is_inference() and states.dtype == torch.float32
        return plain and states.device.type == "cpu" and adds_bytes_exactly()

    def fits(self, weight: Tensor) -> bool:
        """Whether this screen was made from the current values of these weights."""
        return self.weight is weight and self._version == weight._version

    def pool(self, states: Tensor, mask: Tensor, bias: Tensor | None, saturation: str) -> Tensor:
        """Like `pool_states` with the pooling "max"; the same arguments."""
        filled = _filled(states, mask)
        step = filled.abs().amax((1, 2)).clamp_min(1e-12) / 127
        integers = (filled / step[:, None, None]).round()
        rounded = integers * step[:, None, None]
        # |h.w - h'.w'| <= |h - h'| |w| + |h'| |w - w'|, plus a little for sums in float32.
        error, size = (filled - rounded).norm(dim=2).amax(1), rounded.norm(dim=2).amax(1)
        error += 1e-5 * size
        integers = integers.to(torch.int8)
        out = states.new_zeros(len(states), len(self._size))
        for docs, places, terms in _tiles(states, mask, self._integers):
            some = integers[docs, places]
            logits = torch._int_mm(some.flatten(0, 1), self._integers[terms].t()).view(*some.shape[:2], -1)
            found = logits.amax(1) * (step[docs, None] * self._scale[terms])
            del logits
            found += error[docs, None] * self._size[terms] + size[docs, None] * self._error[terms]
            out[docs, terms] = found if bias is None else found.add_(bias[terms])
        possible = ~(out <= 0)  # includes NaN
        possible[~mask.ne(0).any(1)] = False
        out.zero_()
        for i, row in enumerate(possible):
            terms = row.nonzero().squeeze(1)
            out[i, terms] = max_logits(states[i : i + 1], mask[i : i + 1], self.weight[terms], None)[0]
            if bias is not None:
                out[i, terms] += bias[terms]
        return saturate(out, saturation)


def _filled(states: Tensor, mask: Tensor) -> Tensor:
    """Replace masked positions by copies of the first unmasked one, so that no mask is needed."""
    kept = mask.ne(0)
    first = states[torch.arange(len(states), device=states.device), kept.int().argmax(1)]
    return torch.where(kept.unsqueeze(-1), states, first.unsqueeze(1))


def _tile(states: Tensor, weight: Tensor) -> tuple[int, int]:
    """How many documents and terms can be computed at a time within TRANSIENT_BYTES."""
    on_cpu = states.device.type == "cpu"
    floats = (min(_CACHE_BYTES, TRANSIENT_BYTES) if on_cpu else TRANSIENT_BYTES) // states.element_size()
    seq = max(states.shape[1], 1)
    terms = min(weight.shape[0], _TERMS, max(1, floats // seq))
    return max(1, floats // max(seq * terms, 1)), max(1, terms)


def _tiles(states: Tensor, mask: Tensor, weight: Tensor) -> list[tuple[slice, slice, slice]]:
    """Slices of documents, positions and terms, with documents in the outer loop. Positions end with the longest text
    of a slice.
    """
    docs, terms = _tile(states, weight)
    ends = (mask.ne(0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).tolist()
    return [
        (slice(i, i + docs), slice(max(*ends[i : i + docs], 1)), slice(j, j + terms))
        for i in range(0, states.shape[0], docs)
        for j in range(0, weight.shape[0], terms)
    ]


def saturate(logits: Tensor, saturation: str) -> Tensor:
    """log1p(relu(logits)); for "log1p_log1p", log1p of that. Works in place if no gradient is needed."""
    if torch.is_grad_enabled():
        weights = torch.log1p(torch.relu(logits))
        return torch.log1p(weights) if saturation == "log1p_log1p" else weights
    logits.relu_().log1p_()
    return logits.log1p_() if saturation == "log1p_log1p" else logits


def pool_logits(logits: Tensor, mask: Tensor, pooling: str, saturation: str) -> Tensor:
    """Term weights from all logits: the plain definition.

    Args:
        logits: (batch, seq, n_terms) float.
        mask: (batch, seq), 0 at masked positions.
        pooling: "max" or "sum".
        saturation: "log1p" or "log1p_log1p".

    Returns:
        (batch, n_terms) float.
    """
    weights = torch.log1p(torch.relu(logits.masked_fill(mask.eq(0).unsqueeze(-1), 0)))
    if saturation == "log1p_log1p":
        weights = torch.log1p(weights)
    return weights.amax(1) if pooling == "max" else weights.sum(1)
