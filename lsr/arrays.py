"""Named NumPy arrays in one Arrow file: a row with a list for each array, whose shape is in the column's metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.durable import take_name
from lsr.errors import DataError

_SHAPE = b"shape"


def write_arrays(path: str | PathLike[str], kind: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one file; an existing one is replaced as a whole.

    Args:
        path: The file.
        kind: What the arrays are; `read_arrays` asks for the same.
        arrays: {name: array of numbers of any shape}.
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
    with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    take_name(partial, path)


def read_arrays(path: str | PathLike[str], kind: str) -> dict[str, NDArray[Any]]:
    """Read a file of `write_arrays`.

    Raises:
        DataError: It can't be read, is of another kind, or has lists that don't fit their shapes.
    """
    try:
        with pa.OSFile(str(path), "rb") as file:
            found = pa.ipc.open_file(file).read_all()
        found.validate(full=True)  # a damaged file must not cause reads out of bounds
        if (found.schema.metadata or {}).get(b"kind") != kind.encode() or len(found) != 1:
            raise ValueError("the file holds something else")
        return {field.name: _array(found[field.name].chunk(0), field) for field in found.schema}
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"not {kind}: {error}", str(path)) from None


def _array(column: Any, field: Any) -> NDArray[Any]:
    if column.null_count or not pa.types.is_large_list(field.type):
        raise ValueError(f"{field.name} is {field.type}")
    values = column.flatten()
    if values.null_count:
        raise ValueError(f"{field.name} lacks numbers")
    shape = json.loads((field.metadata or {})[_SHAPE])
    if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) != len(values):
        raise ValueError(f"{field.name} has {len(values)} numbers for the shape {shape}")
    array = np.array(values.to_numpy(zero_copy_only=False)).reshape(shape)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{field.name} is {field.type}")
    return array
