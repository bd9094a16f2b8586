"""Reset objects in a forked child process, where the parent's threads don't exist and a lock may be held forever.

class Snapshot:
    def __init__(self) -> None:
        self._masking = threading.Lock()
        in_child(self)

    def after_fork(self) -> None:
        self._masking = threading.Lock()
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

T = TypeVar("T")


class Forked(Protocol):
    """An object that must be reset in a forked child."""

    def after_fork(self) -> None:
        """Called in a forked child, before anything else happens there."""


_known: WeakSet[Forked] = WeakSet()


def in_child(thing: Forked) -> None:
    """Call `thing.after_fork()` in every child that is forked during the object's life."""
    _known.add(thing)


def here_only(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a function so that it does nothing in forked children: for clean-up of things that belong to this
    process.
    """
    owner = os.getpid()

    def call(*args: Any, **kwargs: Any) -> None:
        if os.getpid() == owner:
            function(*args, **kwargs)

    return call


class cached_property(functools.cached_property[T]):
    """Like functools.cached_property, but its lock (which it has before Python 3.12) is renewed in a forked child."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        super().__set_name__(owner, name)
        in_child(self)

    def after_fork(self) -> None:
        """See `Forked`."""
        self.lock = threading.RLock()


def _after_fork() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
