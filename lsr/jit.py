"""Compile kernels with Numba: options in one place, and a cache that is never stale.

Numba's own cache watches only the file of the decorated function, writes into the installed package, and fails at
import if it can't write there. Here, compiled kernels go into a folder named by a digest of the kernels' sources. This
folder is in the user's cache directory, or else in the temporary directory; if neither is writable, kernels aren't
cached. NUMBA_CACHE_DIR overrides this.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import click
import numba
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock

from lsr.console import note

if hasattr(os, "register_at_fork"):  # otherwise, a child forked during a compilation could never compile
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


class _Note(event.Listener):  # type: ignore[misc]
    """Explains on a terminal why the first `lsr` command takes long."""

    def on_start(self, event: Any) -> None:
        """Called when the compilation of a kernel begins."""
        command = click.get_current_context(silent=True)
        if command and command.find_root().info_name == "lsr" and sys.stderr.isatty() and not _noted:
            _noted.append(True)
            note("compiling kernels, once on this machine: this can take half a minute (lsr warmup)")

    def on_end(self, event: Any) -> None:
        """Called when the compilation ends."""


_noted: list[bool] = []
event.register("numba:compile", _Note())


class Compiler:
    """Compiles the kernels of some files.

    Args:
        sources: The files; a change to any of them recompiles all kernels.

    Attributes:
        cache_folder: Folder of compiled kernels; None if they aren't cached.
    """

    def __init__(self, sources: Iterable[Path]) -> None:
        self.cache_folder = os.environ.get("NUMBA_CACHE_DIR") or _cache_folder(sources)

    def kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a kernel on first use: cached, without the GIL, with IEEE arithmetic and C division."""
        return self._compile(function, "never")

    def inlined(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a kernel that is inlined into its callers; for functions called every few postings."""
        return self._compile(function, "always")

    def _compile(self, function: Callable[..., Any], inline: str) -> Callable[..., Any]:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = self.cache_folder or ""
        try:
            compiled: Any = numba.njit(
                nogil=True, error_model="numpy", cache=self.cache_folder is not None, inline=inline
            )(function)
            if self.cache_folder is not None:
                compiled._cache.save_overload = _if_it_can(compiled._cache.save_overload)
            return cast(Callable[..., Any], compiled)
        finally:
            numba.config.CACHE_DIR = before


def _if_it_can(save: Callable[..., None]) -> Callable[..., None]:
    """Ignore errors, such as a full disk, when a kernel is cached: it also works uncached."""

    def saved(*args: Any) -> None:
        with suppress(OSError):
            save(*args)

    return saved


def _cache_folder(sources: Iterable[Path]) -> str | None:
    state = hashlib.sha256(numba.__version__.encode())
    for path in sorted(sources):
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
        # Compiled code is loaded from here, so don't trust another user's folder.
        if os.access(folder, os.W_OK) and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()):
            return str(folder)
    return None
