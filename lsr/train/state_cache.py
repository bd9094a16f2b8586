"""A disk cache of rows of numbers, such as states of frozen layers or a teacher's vectors.

`rows.bin` has float16 rows, and `places.bin` has the offset of each text. A text's key is a hash of its token ids, so
all runs with the same model can share a cache, even at the same time: a lock is held while files are written, and a
writer first reads what others have added. If a process was killed while writing, the next writer cuts off the
incomplete rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import filelock
import numpy as np
from numpy.typing import NDArray

_PLACE = np.dtype([("key", "<u8"), ("first", "<i8"), ("n", "<i8")])


class RowCache:
    """Rows of numbers for each of many texts.

    Args:
        folder: Folder of the cache; made if needed.
        width: Numbers per row.

    Attributes:
        folder: Folder of the cache.
    """

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._rows_path, self._places_path, self.width = folder / "rows.bin", folder / "places.bin", width
        self._lock = filelock.FileLock(folder / ".lock")
        self._n_rows = self._n_read = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._mapped: NDArray[np.float16] | None = None
        with self._lock:
            for path in (self._rows_path, self._places_path):
                path.touch()
            self._read_new()

    def _read_new(self) -> None:
        """Read the offsets that other processes have added meanwhile, and cut off an incomplete write."""
        n_rows = self._rows_path.stat().st_size // (2 * self.width)
        with self._places_path.open("r+b") as file:
            file.seek(self._n_read * _PLACE.itemsize)
            content = file.read()
            places = np.frombuffer(content[: len(content) // _PLACE.itemsize * _PLACE.itemsize], _PLACE)
            whole = (places["first"] >= 0) & (places["n"] >= 0) & (places["first"] + places["n"] <= n_rows)
            if not whole.all():
                places = places[: int(np.argmin(whole))]
            self._n_read += len(places)
            file.truncate(self._n_read * _PLACE.itemsize)
        for key, first, n in places.tolist():
            self._places.setdefault(key, (first, n))
        self._n_rows = max(self._n_rows, int((places["first"] + places["n"]).max(initial=0)))
        if n_rows > self._n_rows:
            os.truncate(self._rows_path, self._n_rows * 2 * self.width)

    @staticmethod
    def key(ids: Sequence[int] | NDArray[np.integer]) -> int:
        """The key of a text, from its token ids."""
        content = np.asarray(ids, "<u4").tobytes()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")

    def __contains__(self, key: int) -> bool:
        return key in self._places

    def __getitem__(self, key: int) -> NDArray[np.float16]:
        """The rows of a text, (n, width)."""
        first, n = self._places[key]
        if not n:  # if no text has rows, the file is empty and can't be mapped
            return np.zeros((0, self.width), np.float16)
        if self._mapped is None or len(self._mapped) < first + n:
            self._mapped = np.memmap(self._rows_path, np.float16, "r", shape=(self._n_rows, self.width))
        return self._mapped[first : first + n]

    def put(self, rows: Iterable[tuple[int, NDArray[np.floating]]]) -> None:
        """Add texts, each given as a key and its (n, width) rows; texts that exist already stay unchanged."""
        new = {key: np.ascontiguousarray(values, np.float16) for key, values in rows if key not in self._places}
        if not new:
            return
        with self._lock:
            self._read_new()
            new = {key: values for key, values in new.items() if key not in self._places}
            lengths = [len(values) for values in new.values()]
            starts = self._n_rows + np.cumsum([0, *lengths[:-1]])
            places = np.array(list(zip(new, starts.tolist(), lengths, strict=False)), _PLACE)
            # Write the rows first, since an offset is valid only if its rows exist.
            with self._rows_path.open("r+b") as file:
                file.seek(self._n_rows * 2 * self.width)
                file.writelines(values.tobytes() for values in new.values())
            with self._places_path.open("r+b") as file:
                file.seek(self._n_read * _PLACE.itemsize)
                file.write(places.tobytes())
            self._read_new()
