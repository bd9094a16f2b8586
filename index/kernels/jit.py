"""The one decorator of all kernels: options in one place, and a cache that is never stale and never in the way.

Numba's own cache watches only the file of the decorated function, writes into the installed package, and fails at
import where it can't. Here the compiled kernels go into a folder of the user's cache directory (else the temporary
one, else nowhere) that is named by a digest of all kernel sources. A NUMBA_CACHE_DIR that is set is respected.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic


def _cache_folder() -> str | None:
    state = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.read_bytes())
    name = f"lsr-kernels-{state.hexdigest()[:16]}"
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for base in (
        user_cache / "lsr",
        Path(tempfile.gettempdir()) / f"lsr-{os.getuid() if hasattr(os, 'getuid') else 0}",
    ):
        folder = base / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        # Compiled code is loaded from here: a folder that somebody else made is not to be trusted.
        if os.access(folder, os.W_OK) and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()):
            return str(folder)
    return None


if hasattr(os, "register_at_fork"):  # a fork waits until nothing is compiled: its child couldn't compile any more
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )

cache_folder = os.environ.get("NUMBA_CACHE_DIR") or _cache_folder()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel on first use: no GIL, IEEE arithmetic, C's division, cached."""
    return _compile(function, "never")


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel whose code is put where it is called: for what is called for every few postings."""
    return _compile(function, "always")


def _compile(function: Callable[..., Any], inline: str) -> Callable[..., Any]:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = cache_folder or ""
    try:
        compiled: Callable[..., Any] = numba.njit(
            nogil=True, error_model="numpy", cache=cache_folder is not None, inline=inline
        )(function)
        return compiled
    finally:
        numba.config.CACHE_DIR = before


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, array: Any, place: Any) -> Any:
    """Ask for the cache line of array[place] (one-dimensional), without waiting and whatever the place.

    A search jumps about in files that are far larger than any cache, and a miss costs as much as 300 additions: told
    early, the processor has a dozen of them under way at once.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        ask = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer]), "llvm.prefetch.p0i8"
        )
        builder.call(ask, [address, integer(0), integer(3), integer(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return numba.void(array, numba.int64), generate
