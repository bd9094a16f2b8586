"""Pre-training: masked language modelling with a FLOPS penalty, on the collection itself."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from lsr.encode.heads import MaskedLMHead
from lsr.encode.tokenizer import TextTokenizer
from lsr.errors import EncoderError
from lsr.train import regularizers
from lsr.train.network import Ids, Network, seeded
from lsr.train.processes import Processes
from lsr.train.teachers import padded

_MASKS = ("[MASK]", "<mask>")


def masked_step(
    network: Network,
    ids: Ids,
    masked: tuple[Ids, Ids],
    flops: float,
    processes: Processes,
    batches: int = 1,
    factor: float = 1.0,
) -> dict[str, Tensor]:
    """Forward and backward pass for the cross entropy of the masked tokens and the FLOPS of the texts' weights.

    Each process runs its share of the texts. Average the gradients over the processes afterwards.

    Args:
        network: The model.
        ids: Token ids of the texts.
        masked: The result of `mask_tokens`: the tokens to read, and 1 for tokens to predict.
        flops: Weight of the FLOPS.
        processes: Processes of the run.
        batches: Number of batches into which the texts are divided. They run one after the other, so only one needs
            memory at a time; losses and gradients are those of all texts together. With several batches, each runs
            twice (the gradient cache, see `lsr.train.network`).
        factor: Factor of the gradients.

    Returns:
        {name: unweighted value over all texts}.
    """
    head = cast(MaskedLMHead, network.model.head)
    share = processes.share(len(ids))
    own = range(len(ids))[share]
    n_asked = torch.tensor(float(sum(sum(masked[1][i]) for i in own)), device=network.device)
    n_asked = processes.total(n_asked).clamp_min(1)

    def run(part: slice) -> tuple[Tensor, Tensor]:
        """Weights of some of the process's texts, and the summed cross entropy of their masked tokens."""
        wanted, read, asked = ([rows[i] for i in own[part]] for rows in (ids, *masked))
        chosen = padded(asked, 0, network.device)[0].bool()
        tokens, mask = padded(read, 0, network.device)
        with network.autocast():
            states = network.model.states(tokens, mask)
            weights = head(states, tokens, mask, None).float()
            logits = head.logits(states[chosen]).float()
        targets = padded(wanted, 0, network.device)[0][chosen]
        return weights, torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    def again(part: slice, seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed):
            return run(part)

    size = -(-len(own) // batches) or 1
    parts = [slice(first, first + size) for first in range(0, len(own), size)]
    seeds = torch.randint(2**31, (len(parts),)).tolist() if len(parts) > 1 else []
    if seeds:
        with torch.no_grad():
            found = [again(part, seed) for part, seed in zip(parts, seeds, strict=True)]
        weights, guesses = torch.cat([rows for rows, _ in found]).requires_grad_(), sum(value for _, value in found)
    else:
        weights, guesses = run(slice(None))
    everything = processes.gather(weights, len(ids))
    penalty = regularizers.flops(everything)
    # Predictions aren't shared between processes, so their gradient is multiplied by the number of processes.
    each = factor * processes.count / n_asked
    loss = factor * flops * penalty
    (loss if seeds else guesses * each + loss).backward()
    for part, seed in zip(parts, seeds, strict=False):
        assert weights.grad is not None
        rows, value = again(part, seed)
        (value * each + (rows * weights.grad[part]).sum()).backward()
    return {
        "masked_lm": processes.total(torch.as_tensor(guesses).detach()) / n_asked,
        "documents_flops": penalty.detach(),
        "documents_terms": (everything.detach() > 0).sum(1).float().mean(),
    }


def mask_tokens(
    ids: Ids, tokenizer: TextTokenizer, n_terms: int, share: float, rng: np.random.Generator
) -> tuple[Ids, Ids]:
    """Choose tokens to predict, by BERT's rules.

    Args:
        ids: Token ids of texts; special tokens are never chosen.
        tokenizer: Knows the mask and special tokens.
        n_terms: Size of the vocabulary.
        share: Share of the tokens to choose, special tokens excepted.
        rng: Random generator.

    Returns:
        The tokens to read, and 1 for tokens to predict, both in the form of `ids`.

    Raises:
        EncoderError: The tokenizer has no mask token.
    """
    mask = next((term for name in _MASKS if (term := tokenizer.term(name)) is not None), None)
    if mask is None:
        raise EncoderError(f"pretrain needs a tokenizer with one of the tokens {' and '.join(_MASKS)}")
    special = np.array(sorted(tokenizer.special), dtype=np.int64)
    read, asked = [], []
    for row in ids:
        tokens = np.array(row, dtype=np.int64)
        chosen = (rng.random(len(tokens)) < share) & ~np.isin(tokens, special)
        how = rng.random(len(tokens))
        other = rng.integers(n_terms, size=len(tokens))
        instead = np.where(how < 0.8, mask, np.where(how < 0.9, other, tokens))
        read.append(np.where(chosen, instead, tokens).tolist())
        asked.append(chosen.astype(int).tolist())
    return read, asked
