"""Projection gives the largest logit of each term, with the same bits on all processors."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.encode.processor import sums_of_bytes
from lsr.encode.projection import LARGEST_WIDTH, Projection
from lsr.errors import EncoderError

LANES = [0] + [lanes for lanes in (8, 16) if lanes <= sums_of_bytes()]  # 0 means without VNNI


def layer(n_terms: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (n_terms, width)).astype(np.int8), rng.random(n_terms).astype(np.float32)


@pytest.mark.parametrize(("n_terms", "width", "n_tokens"), [(1, 4, 1), (33, 16, 17), (64, 384, 8), (5000, 128, 3)])
def test_all_implementations_give_the_same_bits(n_terms, width, n_tokens):
    rows, scales = layer(n_terms, width)
    states = np.random.default_rng(1).normal(size=(n_tokens, width)).astype(np.float32)
    found = [Projection(rows, scales, lanes=lanes).largest(states) for lanes in LANES]
    assert all(np.array_equal(found[0], other) for other in found)
    every = Projection(rows, scales).logits(states, np.arange(n_terms))
    np.testing.assert_array_equal(every.max(0), found[0])
    exact = states @ (rows * scales[:, None]).T
    assert np.linalg.norm(exact - every) <= 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("lanes", LANES)
def test_the_largest_possible_sums_do_not_overflow(lanes):
    for sign in (-1, 1):
        rows = np.full((40, 1040), 127, np.int8)
        states = np.full((9, 1040), sign * 3.0, np.float32)
        found = Projection(rows, np.ones(40, np.float32), lanes=lanes).largest(states)
        np.testing.assert_allclose(found, sign * 3.0 * 127 * 1040, rtol=1e-6)


@pytest.mark.parametrize("lanes", LANES)
def test_small_tokens_keep_precision_beside_large_tokens(lanes):
    rows, scales = layer(50, 64)
    states = np.random.default_rng(2).normal(size=(2, 64)).astype(np.float32)
    alone = Projection(rows, scales, lanes=lanes).largest(states[:1])
    states[1] = 0
    states[1, 0] = 1e-6  # logits near 0, which are the largest only where the other token's logits are negative
    both = Projection(rows, scales, lanes=lanes).largest(states)
    np.testing.assert_allclose(both, np.maximum(alone, 0), atol=1e-4)


def test_empty_states_are_zero():
    rows, scales = layer(20, 8)
    assert not Projection(rows, scales).largest(np.zeros((3, 8), np.float32)).any()


@pytest.mark.parametrize("shape", [(3, 6), (3, LARGEST_WIDTH + 4)])
def test_shapes_without_exact_sums_are_refused(shape):
    with pytest.raises(EncoderError, match="can't be used"):
        Projection(np.zeros(shape, np.int8), np.ones(3, np.float32))
