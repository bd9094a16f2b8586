"""Decorators for the index's kernels, and processor instructions that Numba doesn't offer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from lsr.jit import Compiler

_compiler = Compiler(Path(__file__).parent.glob("*.py"))
kernel, inlined, cache_folder = _compiler.kernel, _compiler.inlined, _compiler.cache_folder


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, array: Any, place: Any) -> Any:
    """Prefetch the cache line of array[place] (one-dimensional); any place is safe.

    Searches read random places of files much larger than any cache, and a miss costs as much as 300 additions. With
    prefetches, the processor handles a dozen misses at once.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        ask = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer]), "llvm.prefetch.p0i8"
        )
        builder.call(ask, [address, integer(0), integer(3), integer(1)])  # for reading, into all cache levels, data
        return context.get_dummy_value()

    return numba.void(array, numba.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def reaching(_: Any, array: Any, place: Any, least: Any) -> Any:
    """Compare the 32 numbers array[place:place + 32] (one-dimensional) with `least`, a number of the same type.

    Returns an int64, whose bit i (from the lowest) is set if array[place + i] >= least. Bounds aren't checked.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.args[0].dtype)
        numbers = ir.VectorType(kind, 32)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), numbers.as_pointer())
        found = builder.load(place, align=context.get_abi_sizeof(kind))
        one = builder.insert_element(ir.Constant(numbers, ir.Undefined), arguments[2], ir.IntType(32)(0))
        all_of_it = ir.Constant(ir.VectorType(ir.IntType(32), 32), [0] * 32)
        least = builder.shuffle_vector(one, one, all_of_it)
        compare = builder.icmp_signed if isinstance(kind, ir.IntType) else builder.fcmp_ordered
        return builder.zext(builder.bitcast(compare(">=", found, least), ir.IntType(32)), ir.IntType(64))

    return numba.int64(array, numba.int64, array.dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(_: Any, bits: Any) -> Any:
    """Return the position of the lowest set bit of an int64, which must not be 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return numba.int64(numba.int64), generate
