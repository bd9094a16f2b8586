"""The output layer of an encoder and the maximum over its tokens in one pass, in 8-bit integers.

    z_j = max_t s_t (h_t . e_j) r_j    h_t, e_j: integers from -127 to 127; s_t: scale of a token; r_j: scale of a term

The output layer does nine tenths of a small encoder's work, but only the largest logit of each term is kept. Here, a
block of terms is multiplied with all tokens while the running maximum stays in registers, so that only the maximum is
written to memory. Processors with VNNI use its instruction, which adds four products of bytes at once. Other processors
multiply the same integers as float32, block by block. Sums below 2^24 are exact in float32, so the result has the same
bits on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from lsr.encode.processor import sums_of_bytes
from lsr.errors import EncoderError
from lsr.jit import Compiler

_compiler = Compiler([Path(__file__)])
_TOKENS = 8  # tokens of a block
_GROUPS = 2  # registers of terms in a block
_TERMS = 2048  # terms of a block without VNNI
LARGEST_WIDTH = (1 << 24) // 127**2 // 4 * 4  # sums of up to this many products are exact in float32


class Projection:
    """Rows of an output layer, ready to be multiplied.

    Args:
        rows: (n_terms, width) int8, without -128; width a multiple of 4.
        scales: (n_terms,) float32, a factor for each row.
        lanes: Number of sums that a VNNI instruction computes, 16 or 8; 0 for no VNNI. By default, the number of this
            processor.

    Raises:
        EncoderError: The shapes don't fit.
    """

    def __init__(self, rows: NDArray[np.int8], scales: NDArray[np.float32], *, lanes: int | None = None) -> None:
        n_terms, width = rows.shape
        if width % 4 or not 0 < width <= LARGEST_WIDTH or scales.shape != (n_terms,):
            raise EncoderError(f"an output layer of {rows.shape} with scales of {scales.shape} can't be used")
        self._rows, self._scales = rows, np.asarray(scales, np.float32)
        self._lanes = sums_of_bytes() if lanes is None else lanes
        if self._lanes:
            block = self._lanes * _GROUPS
            whole = np.zeros((-(-n_terms // block) * block, width), np.int8)
            whole[:n_terms] = rows
            # Four neighbouring values of a row, then those of the next row: the layout of the instruction's operand.
            self._packed = np.ascontiguousarray(whole.reshape(-1, self._lanes, width // 4, 4).transpose(0, 2, 1, 3))
            # States are shifted by 128 to be unsigned. The shift adds a constant to each term's sum, the same for all
            # tokens.
            self._moved = whole.sum(1, dtype=np.int32) * np.int32(128)

    def __len__(self) -> int:
        """Number of terms."""
        return len(self._rows)

    def largest(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The largest logit of each term over the tokens.

        Args:
            states: (n_tokens, width) float32, n_tokens at least 1.

        Returns:
            (n_terms,) float32.
        """
        integers, scales = _integers(states)
        if not self._lanes:
            return self._by_floats(integers, scales)
        n = -(-len(states) // _TOKENS) * _TOKENS
        unsigned = np.empty((n, states.shape[1]), np.uint8)
        unsigned[: len(states)] = integers + 128
        unsigned[len(states) :] = unsigned[0]  # a repeated token doesn't change a maximum
        scales = np.concatenate([scales, np.full(n - len(states), scales[0], np.float32)])
        found = np.empty(len(self._moved), np.float32)
        run = _largest_16 if self._lanes == 16 else _largest_8
        run(unsigned, scales, self._packed, self._moved, found)
        largest: NDArray[np.float32] = found[: len(self._rows)] * self._scales
        return largest

    def _by_floats(self, integers: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.empty(len(self._rows), np.float32)
        for first in range(0, len(found), _TERMS):
            rows = self._rows[first : first + _TERMS].astype(np.float32)
            found[first : first + _TERMS] = ((integers @ rows.T) * scales[:, None]).max(0)
        return found * self._scales

    def logits(self, states: NDArray[np.float32], terms: NDArray[np.int64]) -> NDArray[np.float32]:
        """The logits of some terms before the maximum; (n_tokens, n) float32."""
        integers, scales = _integers(states)
        found = integers @ self._rows[terms].T.astype(np.float32)
        logits: NDArray[np.float32] = found * scales[:, None] * self._scales[terms]
        return logits


def _integers(states: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States as integers from -127 to 127, (n_tokens, width), and the scale of each token, (n_tokens,)."""
    scales = np.maximum(np.abs(states).max(1), np.float32(1e-12)) / np.float32(127)
    return np.rint(states / scales[:, None]), scales


def _block(lanes: int) -> Any:
    """An intrinsic that computes the largest sums over all tokens, for `_GROUPS` times `lanes` terms.

    Its arguments are the addresses of the unsigned states, their scales, the packed rows of the terms, the shift's
    share in each sum, and the result; then the number of token blocks, and a quarter of the width.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def block(_: Any, states: Any, scales: Any, rows: Any, moved: Any, found: Any, n_blocks: Any, quarter: Any) -> Any:
        signature = numba.void(*[numba.intp] * 7)
        return signature, lambda *about: _generate(lanes, about[1], about[3], about[0])

    return block


def _generate(lanes: int, builder: Any, arguments: Any, context: Any) -> Any:
    """The LLVM code of `_block`."""
    states, scales, rows, moved, found, n_blocks, quarter = arguments
    word, integer, real = ir.IntType(64), ir.IntType(32), ir.FloatType()
    sums, reals = ir.VectorType(integer, lanes), ir.VectorType(real, lanes)
    size = 4 * lanes  # bytes of a register
    module = builder.module
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    add_products = cgutils.get_or_insert_function(module, ir.FunctionType(sums, [sums] * 3), name)
    larger = cgutils.get_or_insert_function(module, ir.FunctionType(reals, [reals] * 2), f"llvm.maxnum.v{lanes}f32")

    def number(value: int) -> Any:
        return ir.Constant(word, value)

    def at(base: Any, *terms: tuple[Any, int]) -> Any:
        for factor, bytes_ in terms:
            base = builder.add(base, builder.mul(factor, number(bytes_)))
        return base

    def load(address: Any, kind: Any) -> Any:
        return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)

    def everywhere(value: Any, kind: Any) -> Any:
        none = ir.Constant(kind, ir.Undefined)
        one = builder.insert_element(none, value, ir.Constant(integer, 0))
        return builder.shuffle_vector(one, none, ir.Constant(ir.VectorType(integer, lanes), [0] * lanes))

    groups = range(_GROUPS)
    best = [cgutils.alloca_once_value(builder, ir.Constant(reals, [float("-inf")] * lanes)) for _ in groups]
    shifts = [load(at(moved, (number(g), size)), sums) for g in groups]
    adding = [[cgutils.alloca_once(builder, sums) for _ in range(_TOKENS)] for _ in groups]
    with cgutils.for_range(builder, n_blocks, intp=word) as tokens:
        for cell in [cell for row in adding for cell in row]:
            builder.store(ir.Constant(sums, [0] * lanes), cell)
        first = builder.mul(tokens.index, number(_TOKENS))
        with cgutils.for_range(builder, quarter, intp=word) as four:
            weights = [
                load(at(rows, (builder.mul(quarter, number(g)), size), (four.index, size)), sums) for g in groups
            ]
            for t in range(_TOKENS):
                place = at(states, (builder.mul(builder.add(first, number(t)), quarter), 4), (four.index, 4))
                state = everywhere(load(place, integer), sums)
                for g in groups:
                    more = builder.call(add_products, [builder.load(adding[g][t]), state, weights[g]])
                    builder.store(more, adding[g][t])
        for t in range(_TOKENS):
            scale = everywhere(load(at(scales, (builder.add(first, number(t)), 4)), real), reals)
            for g in groups:
                whole = builder.sitofp(builder.sub(builder.load(adding[g][t]), shifts[g]), reals)
                builder.store(builder.call(larger, [builder.load(best[g]), builder.fmul(whole, scale)]), best[g])
    for g in groups:
        target = builder.inttoptr(at(found, (number(g), size)), reals.as_pointer())
        builder.store(builder.load(best[g]), target, align=4)
    return context.get_dummy_value()


_block_16, _block_8 = _block(16), _block(8)


@_compiler.kernel
def _largest_16(states: Any, scales: Any, packed: Any, moved: Any, found: Any) -> None:
    """Arguments: uint8 (n, width), float32 (n,), int8 (groups, width / 4, 16, 4), int32 (terms,), float32 (terms,)."""
    quarter = states.shape[1] // 4
    for group in range(0, packed.shape[0], _GROUPS):
        _block_16(
            states.ctypes.data,
            scales.ctypes.data,
            packed.ctypes.data + group * quarter * 64,
            moved.ctypes.data + group * 64,
            found.ctypes.data + group * 64,
            states.shape[0] // _TOKENS,
            quarter,
        )


@_compiler.kernel
def _largest_8(states: Any, scales: Any, packed: Any, moved: Any, found: Any) -> None:
    """Like `_largest_16`, for registers of half the size."""
    quarter = states.shape[1] // 4
    for group in range(0, packed.shape[0], _GROUPS):
        _block_8(
            states.ctypes.data,
            scales.ctypes.data,
            packed.ctypes.data + group * quarter * 32,
            moved.ctypes.data + group * 32,
            found.ctypes.data + group * 32,
            states.shape[0] // _TOKENS,
            quarter,
        )
