"""External sort: group weights by term instead of by document, or the reverse, in bounded memory.

Entries are appended to a scratch file. From there they are distributed to sections of a second file, each small enough
to be sorted in memory. Scratch files are in the temporary directory (TMPDIR) and take up to 24 bytes for each weight.
They are written, not memory-mapped, so that a full disk raises an ordinary error.
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
_MEMORY = 1 << 21  # entries sorted together


class Regrouping:
    """Takes entries (key, other, weight) in any order and yields them by key. Use it in a `with` block, which deletes
    the files at its end.

    Entries of a key keep the order in which they were added.
    """

    def __init__(self) -> None:
        self._added: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._dealt: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, keys: ArrayLike, others: ArrayLike, weights: NDArray[Any]) -> None:
        """Append (n,) entries. `keys` or `others` may be a single number, which then applies to all weights."""
        entries = np.empty(len(weights), _ENTRY)
        entries["key"], entries["other"], entries["weight"] = keys, others, weights
        self._added.write(entries.data)

    def added(self) -> Iterator[NDArray[Any]]:
        """The entries in pieces: structured arrays of `key`, `other` and `weight`."""
        self._added.seek(0)
        while data := self._added.read(_MEMORY * _ENTRY.itemsize):
            yield np.frombuffer(data, _ENTRY)

    def counts(self, n_keys: int) -> NDArray[np.int64]:
        """(n_keys,) number of entries of each key."""
        counts = np.zeros(n_keys, np.int64)
        for entries in self.added():
            counts += np.bincount(entries["key"], minlength=n_keys)
        return counts

    def groups(
        self, order: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32]]]:
        """Yield the entries by key, for as many keys at a time as fit in memory.

        Args:
            order: The keys in the order of the output: every key that has entries, once.
            counts: The result of `counts`.

        Yields:
            The position in `order` of the first key; (n + 1,) offsets of the entries of n keys; and `other` and
            `weight` of the entries.
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
        """Distribute entries to the sections between bounds."""
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
