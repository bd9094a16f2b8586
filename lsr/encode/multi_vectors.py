"""Several vectors for each document; the document's score is that of its best vector (after ME-BERT, arXiv 2005.00181).

score = max over i of <q, v_i>

dense = build_dense(index, "vectors", embed, embed_documents=lambda texts: multi_vectors(embed, texts, 4))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def multi_vectors(embed: Callable[[list[str]], ArrayLike], texts: Sequence[str], m: int = 4) -> NDArray[np.float32]:
    """Return (n, m, width) float32, m vectors of each text: one of the whole text, and one for each of m - 1 parts.

    The parts have about the same number of words. A text with fewer than m - 1 words has fewer parts; the missing
    vectors repeat the first one.

    Args:
        embed: Maps n texts to (n, width) numbers, any dense model.
        texts: The texts.
        m: Number of vectors, at least 1.

    Raises:
        ValueError: `m` is below 1.
    """
    if m < 1:
        raise ValueError(f"m must be at least 1, got {m}")
    pieces = [[text, *_parts(text, m - 1)] for text in texts]
    vectors = np.asarray(embed([piece for own in pieces for piece in own]), np.float32)
    found, start = [], 0
    for own in pieces:
        some = vectors[start : start + len(own)]
        found.append(np.concatenate([some, np.repeat(some[:1], m - len(own), axis=0)]))
        start += len(own)
    return np.stack(found) if found else np.zeros((0, m, 1), np.float32)


def _parts(text: str, n: int) -> list[str]:
    """Return at most n parts with about the same number of words; none if the only part would be the whole text."""
    words = text.split()
    n = min(n, len(words))
    return [" ".join(part) for part in np.array_split(np.array(words, object), n)] if n > 1 else []
