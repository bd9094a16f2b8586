"""Decorators of the index's kernels, and a prefetch instruction."""

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
