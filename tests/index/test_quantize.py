"""Impacts have a bounded error, keep every term and are exact for integer weights. Query sums fit in int32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.index.segment.quantize import LEVELS, Quantizer, query_integers, query_numbers

FINITE = np.finfo(np.float32)
WEIGHTS = st.lists(st.floats(float(FINITE.smallest_subnormal), float(FINITE.max), width=32), min_size=1, max_size=50)


def quantizer_of(weights):
    return Quantizer.of(float(weights.max()), bool((weights == np.rint(weights)).all()))


@given(WEIGHTS)
def test_weights_are_within_max_error_and_none_becomes_zero(values):
    weights = np.array(values, np.float32)
    quantizer = quantizer_of(weights)
    impacts = quantizer.impacts(weights)
    assert impacts.min() >= 1
    error = np.abs(impacts * np.float64(quantizer.scale) - weights)
    assert (error <= quantizer.max_error * (1 + 1e-9)).all()
    above = weights >= quantizer.scale / 2
    assert (error[above] <= quantizer.scale / 2 * (1 + 1e-9)).all()


@given(WEIGHTS)
def test_heavier_weights_never_get_smaller_impacts(values):
    weights = np.sort(np.array(values, np.float32))
    assert (np.diff(quantizer_of(weights).impacts(weights).astype(int)) >= 0).all()


def test_integer_weights_are_exact():
    weights = np.arange(1, LEVELS + 1, dtype=np.float32)
    quantizer = quantizer_of(weights)
    assert (quantizer.exact, quantizer.scale, quantizer.max_error) == (True, 1.0, 0.0)
    assert quantizer.impacts(weights).tolist() == list(range(1, LEVELS + 1))


@pytest.mark.parametrize(("largest", "whole"), [(256.0, True), (255.0, False), (0.3, False)])
def test_the_largest_weight_gets_the_largest_impact(largest, whole):
    quantizer = Quantizer.of(largest, whole)
    assert not quantizer.exact
    assert quantizer.impacts(np.array([largest], np.float32)).tolist() == [LEVELS]


def test_the_scale_is_positive_without_weights():
    assert Quantizer.of(0.0, False).scale > 0


@given(WEIGHTS)
def test_query_integers_never_overflow_or_become_zero(values):
    integers, factor = query_integers(np.array(values, np.float32))
    assert integers.min() >= 1
    assert int(integers.sum(dtype=np.int64)) * LEVELS < 2**31
    assert np.log2(factor).is_integer()


@pytest.mark.parametrize("n", [1, 2000, 1_000_000])
@pytest.mark.parametrize("weight", [1e-45, 1.0, 3.4e38])
def test_long_queries_cannot_overflow(n, weight):
    integers, _ = query_integers(np.full(n, weight, np.float32))
    assert integers.min() >= 1
    assert int(integers.sum(dtype=np.int64)) * LEVELS < 2**31


@given(st.lists(st.integers(1, 255), min_size=1, max_size=60))
def test_integer_query_weights_stay_in_proportion(values):
    integers, factor = query_integers(np.array(values, np.float32))
    assert integers.tolist() == [value * factor for value in values]


@given(st.lists(st.floats(1 / 64, 100, width=32), min_size=1, max_size=100))
def test_query_weights_keep_the_precision_of_float32(values):
    weights = np.array(values, np.float32)
    integers, factor = query_integers(weights)
    assert np.abs(integers / factor - weights).max() <= 2.0**-22 * float(weights.sum(dtype=np.float64))


def test_a_query_may_be_empty_but_not_too_long():
    assert len(query_integers(np.empty(0, np.float32))[0]) == 0
    with pytest.raises(ValueError, match="at most"):
        query_integers(np.ones(2**31 // LEVELS + 1, np.float32))


@given(WEIGHTS)
def test_very_different_query_weights_become_integers(values):
    weights = np.array(values, np.float32)
    numbers, factor = query_numbers(weights)
    assert np.log2(factor).is_integer()
    if numbers.dtype == np.int32:
        assert numbers.tolist() == query_integers(weights)[0].tolist()
    else:
        assert (numbers == np.rint(numbers)).all()
        assert numbers.min() >= 1
        assert sum(map(int, numbers)) * LEVELS < 2**53
    total = float(weights.sum(dtype=np.float64))
    assert np.abs(numbers / factor - weights).max() <= (2.0**-22 if numbers.dtype == np.int32 else 2.0**-43) * total
