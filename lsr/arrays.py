"""Named NumPy arrays in one Arrow file, memory-mapped when they are read.

The file has one row. Each array is a column with a single list: the array's numbers in C order. The column's metadata
has the array's shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.durable import take_name
from lsr.errors import DataError, OutputError

_SHAPE = b"shape"
# {name: (number of dimensions, accepted dtypes...)}
Layout: TypeAlias = Mapping[str, tuple[int, *tuple[str, ...]]]


def write_arrays(path: str | PathLike[str], kind: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays. An existing file is replaced by a new one, so arrays that are mapped from the old file stay valid.

    Args:
        path: The file.
        kind: Label of the contents, stored in the file; `read_arrays` checks it.
        arrays: {name: array of numbers of any shape}.

    Raises:
        OutputError: The file can't be written.
    """
    path = Path(path)
    columns, fields = [], []
    for name, array in arrays.items():
        values = pa.array(np.ascontiguousarray(array).reshape(-1))
        column = pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)
        columns.append(column)
        fields.append(pa.field(name, column.type, metadata={_SHAPE: json.dumps(array.shape)}))
    schema = pa.schema(fields, metadata={b"kind": kind})
    partial = path.with_name(path.name + ".tmp")
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        take_name(partial, path)
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error}") from None


def read_arrays(path: str | PathLike[str], kind: str, *layouts: Layout) -> dict[str, NDArray[Any]]:
    """Memory-map the arrays of a file written by `write_arrays`.

    Args:
        path: The file.
        kind: The label that the file must have.
        layouts: Accepted layouts: the file must have exactly the arrays of one of them. Without layouts, any arrays are
            accepted.

    Returns:
        {name: read-only array}. The values aren't checked.

    Raises:
        DataError: The file can't be read, is of another kind, is cut off, or has other names, dtypes or shapes.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source.read_buffer()).read_all()
        table.validate(full=True)  # a damaged file must not cause reads out of bounds
        if (table.schema.metadata or {}).get(b"kind") != kind.encode() or len(table) != 1:
            raise ValueError("the file holds something else")
        arrays = {field.name: _array(table[field.name].chunk(0), field) for field in table.schema}
        if layouts and not any(_fits(arrays, layout) for layout in layouts):
            found = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
            raise ValueError(f"unexpected arrays: {found}")
    except MemoryError:
        raise
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"damaged, or not {kind}: {error}", str(path)) from None
    return arrays


def require_starts(path: str | PathLike[str], starts: NDArray[np.int64], n: int, *entries: NDArray[Any]) -> None:
    """Check that (n + 1,) `starts` divide each array of entries into n parts: part i is `starts[i]:starts[i + 1]`.

    Raises:
        DataError: The starts don't fit the arrays; the message names the file `path`.
    """
    whole = len(starts) == n + 1 and starts[0] == 0 and not (starts[1:] < starts[:-1]).any()
    if not whole or any(len(one) != starts[-1] for one in entries):
        raise DataError("damaged: arrays whose lengths don't fit together", str(path))


def require_finite(path: str | PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Check that all numbers are finite.

    Raises:
        DataError: A number isn't finite; the message names the file `path`.
    """
    if not all(np.isfinite(one).all() for one in arrays.values()):
        raise DataError("damaged: numbers that aren't finite", str(path))


def _array(column: Any, field: Any) -> NDArray[Any]:
    if column.null_count or not pa.types.is_large_list(field.type):
        raise ValueError(f"{field.name} is {field.type}")
    values = column.flatten()
    if values.null_count:
        raise ValueError(f"{field.name} lacks numbers")
    shape = json.loads((field.metadata or {})[_SHAPE])
    if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) != len(values):
        raise ValueError(f"{field.name} has {len(values)} numbers for the shape {shape}")
    return np.asarray(values.to_numpy(zero_copy_only=True)).reshape(shape)


def _fits(arrays: Mapping[str, NDArray[Any]], layout: Layout) -> bool:
    return arrays.keys() == layout.keys() and all(
        arrays[name].ndim == dimensions and arrays[name].dtype.name in dtypes
        for name, (dimensions, *dtypes) in layout.items()
    )
