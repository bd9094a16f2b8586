"""A disk cache of rows of numbers: states of frozen layers, a teacher's vectors.

`rows.bin` has float16 rows, `places.bin` the offset of each text. A text's key is a hash of its token ids, so any run
with the same model can use a cache. An incomplete write after a kill is cut off when the cache is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PLACE = np.dtype([("key", "<u8"), ("first", "<i8"), ("n", "<i8")])


class RowCache:
    """Rows of numbers for each of many texts.

    Args:
        folder: Its folder; made if needed.
        width: Numbers of a row.

    Attributes:
        folder: Its folder.
    """

    def __init__(self, folder: Path, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._rows_path, self._places_path, self.width = folder / "rows.bin", folder / "places.bin", width
        row = 2 * width
        for path in (self._rows_path, self._places_path):
            path.touch()
        n_rows = self._rows_path.stat().st_size // row
        n_places = self._places_path.stat().st_size // _PLACE.itemsize
        places = np.fromfile(self._places_path, _PLACE, n_places)
        whole = (places["first"] >= 0) & (places["n"] >= 0) & (places["first"] + places["n"] <= n_rows)
        if not whole.all():
            places = places[: int(np.argmin(whole))]
        # Keep the first of a repeated text, so that there are as many offsets as texts.
        places = places[np.sort(np.unique(places["key"], return_index=True)[1])]
        self._n_rows = int((places["first"] + places["n"]).max(initial=0))
        self._places = {int(p["key"]): (int(p["first"]), int(p["n"])) for p in places}
        with self._rows_path.open("r+b") as rows, self._places_path.open("r+b") as found:
            rows.truncate(self._n_rows * row)
            found.write(places.tobytes())
            found.truncate()
        self._mapped: NDArray[np.float16] | None = None

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
        if self._mapped is None or len(self._mapped) < first + n:
            self._mapped = np.memmap(self._rows_path, np.float16, "r").reshape(-1, self.width)
        return self._mapped[first : first + n]

    def put(self, rows: Iterable[tuple[int, NDArray[np.floating]]]) -> None:
        """Add texts, each a key and its (n, width) rows; existing texts stay unchanged."""
        new = {key: np.ascontiguousarray(values, np.float16) for key, values in rows if key not in self._places}
        if not new:
            return
        lengths = [len(values) for values in new.values()]
        starts = self._n_rows + np.cumsum([0, *lengths[:-1]])
        places = np.array(list(zip(new, starts.tolist(), lengths, strict=True)), _PLACE)
        # Write at an offset, to overwrite what a failed write (full disk) left. Rows first: an offset is valid only
        # with its rows.
        with self._rows_path.open("r+b") as file:
            file.seek(self._n_rows * 2 * self.width)
            file.writelines(values.tobytes() for values in new.values())
        with self._places_path.open("r+b") as file:
            file.seek(len(self._places) * _PLACE.itemsize)
            file.write(places.tobytes())
        self._n_rows += sum(lengths)
        self._places |= {int(p["key"]): (int(p["first"]), int(p["n"])) for p in places}
