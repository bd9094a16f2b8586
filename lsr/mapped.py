"""Folders of NumPy arrays that are mapped, not read: large arrays stay on disk until their pages are used.

FOLDER/
  arrays.json   the kind of data, its settings, and the shape and type of each array
  NAME.npy      an array
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.errors import DataError, OutputError

_RECORD, _FORMAT = "arrays.json", 1


def write_arrays(folder: Path, kind: str, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> None:
    """Write arrays into a folder, the record last.

    Args:
        folder: The folder; created if needed.
        kind: What the arrays are; `open_arrays` requires the same.
        arrays: The arrays by name.
        settings: JSON values that are kept beside them.

    Raises:
        OutputError: The folder can't be written.
    """
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _RECORD).unlink(missing_ok=True)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        record = {"format": _FORMAT, "kind": kind, "arrays": shapes, **settings}
        (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: can't be written: {error}") from None


def open_arrays(folder: Path, kind: str, types: Mapping[str, str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Map the arrays of a folder.

    Args:
        folder: The folder.
        kind: What the arrays have to be.
        types: For each array its number of dimensions and the dtypes that it may have: {"terms": "1 <u2 <u4"}.

    Returns:
        The arrays by name, and the record with the settings.

    Raises:
        DataError: A file is missing, damaged, or of another kind.
    """
    where = str(folder)
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        if (record["format"], record["kind"]) != (_FORMAT, kind):
            raise ValueError(f"format {record['format']!r} of {record['kind']!r}")
        arrays = {}
        for name, known in types.items():
            path, (dimensions, *dtypes) = folder / f"{name}.npy", known.split()
            empty = 0 in record["arrays"][name][1:]  # an empty file can't be mapped
            array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
            if [array.dtype.str, *array.shape] != record["arrays"][name] or array.ndim != int(dimensions):
                raise ValueError(f"{path.name} has shape {array.shape} of {array.dtype}")
            if array.dtype.str not in dtypes:
                raise ValueError(f"{path.name} has the type {array.dtype}")
            arrays[name] = array
    except FileNotFoundError as error:
        raise DataError(f"no {kind} here: {Path(error.filename).name} is missing", where) from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
        raise DataError(f"damaged, or not {kind}: {error}", where) from None
    return arrays, record


def require_starts(starts: NDArray[np.int64], n: int, total: int, folder: Path) -> None:
    """Check that (n + 1,) boundaries cut `total` entries into n parts.

    Raises:
        DataError: They don't.
    """
    if len(starts) != n + 1 or starts[0] != 0 or starts[-1] != total or (np.diff(starts) < 0).any():
        raise DataError("damaged: boundaries that don't fit the entries", str(folder))
