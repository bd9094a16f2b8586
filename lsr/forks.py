"""Forks: what is done over in a forked child, where threads haven't come along and a lock may be held for ever.

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
    """What has something to do over."""

    def after_fork(self) -> None:
        """Called in a forked child, before anything else happens there."""


_known: WeakSet[Forked] = WeakSet()


def in_child(thing: Forked) -> None:
    """Have `thing.after_fork()` called in every child that is forked while the thing is there."""
    _known.add(thing)


def here_only(function: Callable[..., None]) -> Callable[..., None]:
    """A function that does nothing in forked children: it removes what belongs to this process."""
    owner = os.getpid()

    def call(*args: Any, **kwargs: Any) -> None:
        if os.getpid() == owner:
            function(*args, **kwargs)

    return call


class cached_property(functools.cached_property[T]):
    """functools' own; until Python 3.12 it has a lock, one for all instances, which a child gets anew."""

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
