"""Several vectors of a document, of which the one nearest to a query counts, after ME-BERT (arXiv 2005.00181).

score = max over i of <q, v_i>

vectors = lambda texts: multi_vectors(encoder, texts, 8)
dense = build_dense(index, "vectors", embed_queries, embed_documents=vectors)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lsr.encode.base import Encoder, Texts, as_texts
from lsr.encode.phrases import with_states


def multi_vectors(encoder: Encoder, texts: Texts, m: int = 8, *, first: bool = False) -> NDArray[np.float32]:
    """Return (n, m, width) float32, m vectors of each text, from one pass of the model.

    They are the text's dense vector, and the means of the token states of m - 1 windows of equal length. ME-BERT trains
    the states of the first m tokens; with a model that wasn't trained that way, windows are better.

    Args:
        encoder: An encoder with dense vectors, such as lsr-mini.
        texts: See `as_texts`.
        m: Number of vectors, at least 1.
        first: The states of the first m tokens instead, of which the first is the dense vector.

    Raises:
        EncoderError: The encoder has no dense vectors.
        ValueError: `m` is below 1.
    """
    if m < 1:
        raise ValueError(f"m must be at least 1, got {m}")
    model = with_states(encoder)
    found = np.zeros((0, m, model.dense_width), np.float32)
    rows = [of_states(states, m, first) for states in model.dense_states(as_texts(texts))]
    return np.stack(rows) if rows else found


def of_states(states: NDArray[np.float32], m: int, first: bool) -> NDArray[np.float32]:
    """Return (m, width) float32, the vectors of a text with (n_tokens, width) states; see `multi_vectors`."""
    if not len(states):
        return np.zeros((m, states.shape[1]), np.float32)
    found = np.repeat(states[:1], m, axis=0)  # of a short text, the dense vector is repeated
    if first:
        found[: len(states)] = states[:m]
        return found
    tokens = states[1:-1]
    windows = min(m - 1, len(tokens))
    for i, window in enumerate(np.array_split(tokens, windows) if windows else ()):
        mean = window.mean(0)
        found[1 + i] = mean * (np.linalg.norm(states[0]) / (np.linalg.norm(mean) or 1.0))
    return found
