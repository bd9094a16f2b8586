"""Weights from document by document to term by term, or back, in bounded memory.

What is added goes to a scratch file. It is dealt out from there, front to back, to the stretches of a second one, each
small enough to be sorted in memory. Scratch files lie where temporary files do (TMPDIR) and take up to 24 bytes a
weight. They are written, not mapped, so that a full disk is an error that can be told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from typing import Self

_ENTRY = np.dtype([("key", np.uint32), ("other", np.uint32), ("weight", np.float32)])
_MEMORY = 1 << 21  # entries that are sorted together


class Regrouping:
    """Takes (key, other, weight) in any order, gives them key by key. Use it in a `with`, which removes its files.

    Within a key entries keep the order in which they were added.
    """

    def __init__(self) -> None:
        self._added: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._dealt: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, keys: ArrayLike, others: ArrayLike, weights: NDArray[Any]) -> None:
        """Append (n,) weights; a single key or other stands for all of them."""
        entries = np.empty(len(weights), _ENTRY)
        entries["key"], entries["other"], entries["weight"] = keys, others, weights
        self._added.write(entries.data)

    def added(self) -> Iterator[NDArray[Any]]:
        """What was added, in pieces: structured arrays of `key`, `other` and `weight`."""
        self._added.seek(0)
        while data := self._added.read(_MEMORY * _ENTRY.itemsize):
            yield np.frombuffer(data, _ENTRY)

    def counts(self, n_keys: int) -> NDArray[np.int64]:
        """(n_keys,) how many entries each key has."""
        counts = np.zeros(n_keys, np.int64)
        for entries in self.added():
            counts += np.bincount(entries["key"], minlength=n_keys)
        return counts

    def groups(
        self, order: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32]]]:
        """The entries of some keys after those of others, as many keys at a time as fit the memory.

        Args:
            order: The keys in the order that is wanted; each that has entries, once.
            counts: As `counts` gives them.

        Yields:
            The place in `order` of the first key; (n + 1,) where the entries of n keys begin and end; and their others
            and weights.
        """
        place = np.zeros(len(counts), np.int64)
        place[order] = np.arange(len(order))
        ends = np.concatenate(([0], np.cumsum(counts[order])))
        bounds = [0]
        while bounds[-1] < len(order):
            fits = int(np.searchsorted(ends, ends[bounds[-1]] + _MEMORY, side="right")) - 1
            bounds.append(max(fits, bounds[-1] + 1))
        file = self._deal(place, ends, np.array(bounds)) if len(bounds) > 2 else self._added
        file.seek(0)
        for first, end in pairwise(bounds):
            entries = np.frombuffer(file.read(int(ends[end] - ends[first]) * _ENTRY.itemsize), _ENTRY)
            entries = entries[np.argsort(place[entries["key"]], kind="stable")]
            yield first, ends[first : end + 1] - ends[first], entries["other"].copy(), entries["weight"].copy()

    def _deal(self, place: NDArray[np.int64], ends: NDArray[np.int64], bounds: NDArray[np.int64]) -> IO[bytes]:
        """Bring the entries between each two bounds together."""
        cursor = ends[bounds[:-1]]
        for entries in self.added():
            stretch = np.searchsorted(bounds, place[entries["key"]], side="right") - 1
            entries = entries[np.argsort(stretch, kind="stable")]
            sizes = np.bincount(stretch, minlength=len(cursor))
            begins = np.cumsum(sizes) - sizes
            for i in np.flatnonzero(sizes).tolist():
                self._dealt.seek(int(cursor[i]) * _ENTRY.itemsize)
                self._dealt.write(entries[begins[i] : begins[i] + sizes[i]].data)
            cursor += sizes
        return self._dealt

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._added.close()
        self._dealt.close()
