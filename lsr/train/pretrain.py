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
from lsr.train.network import Ids, Network
from lsr.train.processes import Processes
from lsr.train.teachers import padded

_MASKS = ("[MASK]", "<mask>")


def masked_loss(
    network: Network, ids: Ids, masked: tuple[Ids, Ids], flops: float, processes: Processes
) -> tuple[dict[str, Tensor], Tensor]:
    """Cross entropy of the masked tokens, and the FLOPS of the texts' weights. Each process runs its share of the
    texts.

    Args:
        network: The model.
        ids: Token ids of the texts.
        masked: From `mask_tokens`: the tokens to read, and 1 for tokens to predict.
        flops: Weight of the FLOPS.
        processes: Those of the run.

    Returns:
        Unweighted values of all texts by name, and the loss for `backward`; average its gradients over the processes.
    """
    head = cast(MaskedLMHead, network.model.head)
    own = processes.share(len(ids))
    wanted = padded(ids[own], 0, network.device)[0]
    asked = padded(masked[1][own], 0, network.device)[0].bool()
    tokens, mask = padded(masked[0][own], 0, network.device)
    with network.autocast():
        states = network.model.states(tokens, mask)
        weights = head(states, tokens, mask, None).float()
        logits = head.logits(states[asked]).float()
    weights = processes.gather(weights, len(ids))
    guesses = torch.nn.functional.cross_entropy(logits, wanted[asked], reduction="sum")
    n_asked = processes.total(asked.sum()).clamp_min(1)
    raw = {"masked_lm": processes.total(guesses) / n_asked, "documents_flops": regularizers.flops(weights)}
    raw["documents_terms"] = (weights.detach() > 0).sum(1).float().mean()
    # Predictions aren't shared between processes, so their gradient is multiplied by the number of processes.
    return raw, guesses * processes.count / n_asked + flops * raw["documents_flops"]


def mask_tokens(
    ids: Ids, tokenizer: TextTokenizer, n_terms: int, share: float, rng: np.random.Generator
) -> tuple[Ids, Ids]:
    """Choose tokens to predict, by BERT's rules.

    Args:
        ids: Token ids of texts; special tokens are never chosen.
        tokenizer: Knows the mask and special tokens.
        n_terms: Size of the vocabulary.
        share: Share of the other tokens to choose.
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
