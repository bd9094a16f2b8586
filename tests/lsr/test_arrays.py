"""Arrays in one Arrow file are read back unchanged, and damaged files are refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from lsr.arrays import read_arrays, require_starts, write_arrays
from lsr.errors import DataError, OutputError

ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "bytes": np.array([[[1], [255]]], np.uint8),
    "none": np.zeros((0, 4), np.float32),
    "numbers": np.array([-3, 7], np.int32),
    "one": np.array(5, np.int64),
}
LAYOUT = {name: (array.ndim, array.dtype.name) for name, array in ARRAYS.items()}
FLOATS = {"a": (1, "float32", "float64")}


def test_arrays_are_read_back(tmp_path):
    path = tmp_path / "a.arrow"
    write_arrays(path, "some arrays", ARRAYS)
    found = read_arrays(path, "some arrays", FLOATS, LAYOUT)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
        assert not found[name].flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == ["a.arrow"]
    write_arrays(path, "some arrays", {"a": np.ones(3)})  # writes a new file, so `found` doesn't change
    assert np.array_equal(found["half"], ARRAYS["half"])
    with pytest.raises(OutputError, match="can't be written"):
        write_arrays(tmp_path / "absent" / "a.arrow", "some arrays", ARRAYS)


@pytest.mark.parametrize(
    "change",
    [
        {"half": (2, "float32")},
        {"half": (1, "float16")},
        {"more": (1, "float32")},
    ],
)
def test_unexpected_arrays_are_refused(tmp_path, change):
    write_arrays(tmp_path / "a.arrow", "some arrays", ARRAYS)
    with pytest.raises(DataError, match=r"not some arrays: unexpected arrays: half \(2, 3\) float16, bytes"):
        read_arrays(tmp_path / "a.arrow", "some arrays", LAYOUT | change, FLOATS)
    with pytest.raises(DataError, match=r"a\.arrow.*not other arrays: the file holds something else"):
        read_arrays(tmp_path / "a.arrow", "other arrays", LAYOUT)


@pytest.mark.parametrize("shape", [[5], [-2, -3], [2.0, 3], "x", None, [2, "3"]])
def test_invalid_shapes_are_refused(tmp_path, shape):
    column = pa.array([np.arange(6.0)], pa.large_list(pa.float64()))
    metadata = {} if shape is None else {"shape": json.dumps(shape)}
    schema = pa.schema([pa.field("a", column.type, metadata=metadata)], metadata={"kind": "some arrays"})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    with pytest.raises(DataError, match="not some arrays"):
        read_arrays(
            tmp_path / "a.arrow",
            "some arrays",
            {
                "a": (1, "float64"),
            },
            {"a": (2, "float64")},
        )


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a"]], pa.large_list(pa.string())),
        pa.array([[None, 1.0]], pa.large_list(pa.float32())),
        pa.array([None], pa.large_list(pa.float32())),
        pa.array([1.0]),
    ],
)
def test_invalid_columns_are_refused(tmp_path, column):
    schema = pa.schema([pa.field("a", column.type, metadata={"shape": "[1]"})], metadata={"kind": "some arrays"})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    with pytest.raises(DataError, match="not some arrays"):
        read_arrays(tmp_path / "a.arrow", "some arrays", FLOATS)


def test_a_truncated_file_is_refused(tmp_path):
    write_arrays(tmp_path / "a.arrow", "some arrays", ARRAYS)
    content = (tmp_path / "a.arrow").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 5):
        (tmp_path / "a.arrow").write_bytes(content[:size])
        with pytest.raises(DataError, match="not some arrays"):
            read_arrays(tmp_path / "a.arrow", "some arrays", LAYOUT)


@pytest.mark.parametrize(
    ("starts", "n"),
    [([0, 3, 2, 4], 3), ([0, 2**63 - 1, -(2**63), 4], 3), ([0, 2], 1), ([1, 4], 1), ([0, 4], 2), ([], 0)],
)
def test_invalid_row_boundaries_are_refused(starts, n):
    entries = np.zeros(4), np.ones(4, np.uint8)
    require_starts("x.arrow", np.array([0, 1, 1, 4]), 3, *entries)
    with pytest.raises(DataError, match=r"x\.arrow: .*lengths don't fit"):
        require_starts("x.arrow", np.array(starts, np.int64), n, *entries)
    with pytest.raises(DataError, match="lengths don't fit"):
        require_starts("x.arrow", np.array([0, 4]), 1, entries[0], np.ones(5))
