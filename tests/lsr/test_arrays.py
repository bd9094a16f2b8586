"""Arrays in one Arrow file: round trip, and damaged files are refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lsr.arrays import read_arrays, write_arrays
from lsr.errors import DataError

ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "bytes": np.array([[[1], [255]]], np.uint8),
    "none": np.zeros((0, 4), np.float32),
    "numbers": np.array([-3, 7], np.int32),
}


def test_arrays_are_read_back(tmp_path):
    write_arrays(tmp_path / "a.arrow", "some arrays", ARRAYS)
    found = read_arrays(tmp_path / "a.arrow", "some arrays")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.arrow"]
    with pytest.raises(DataError, match=r"not other arrays: .*a\.arrow|a\.arrow.*not other arrays"):
        read_arrays(tmp_path / "a.arrow", "other arrays")


@pytest.mark.parametrize("shape", [[5], [-2, -3], [2.0, 3], "x", None, [2, "3"]])
def test_shapes_that_do_not_fit_are_refused(tmp_path, shape):
    column = pa.array([np.arange(6.0)], pa.large_list(pa.float64()))
    metadata = {} if shape is None else {"shape": json.dumps(shape)}
    schema = pa.schema([pa.field("a", column.type, metadata=metadata)], metadata={"kind": "some arrays"})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    with pytest.raises(DataError, match="not some arrays"):
        read_arrays(tmp_path / "a.arrow", "some arrays")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a"]], pa.large_list(pa.string())),
        pa.array([[None, 1.0]], pa.large_list(pa.float32())),
        pa.array([None], pa.large_list(pa.float32())),
        pa.array([1.0]),
    ],
)
def test_other_columns_are_refused(tmp_path, column):
    schema = pa.schema([pa.field("a", column.type, metadata={"shape": "[1]"})], metadata={"kind": "some arrays"})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    with pytest.raises(DataError, match="not some arrays"):
        read_arrays(tmp_path / "a.arrow", "some arrays")


def test_a_cut_file_is_refused(tmp_path):
    write_arrays(tmp_path / "a.arrow", "some arrays", ARRAYS)
    content = (tmp_path / "a.arrow").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 5):
        (tmp_path / "a.arrow").write_bytes(content[:size])
        with pytest.raises(DataError, match="not some arrays"):
            read_arrays(tmp_path / "a.arrow", "some arrays")
