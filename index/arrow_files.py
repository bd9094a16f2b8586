"""Arrow IPC files: written whole, opened by memory map, checked before anything is read of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lsr.errors import CorruptIndex

RESTORE = "restore it from a copy or build the index again"


class ArrowFile:
    """A memory-mapped Arrow IPC file.

    Attributes:
        path: Where it lies.
        bytes: The whole file as (size,) uint8, mapped.
        n_batches: Number of record batches.

    Raises:
        CorruptIndex: Not a whole Arrow file, or one of other columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        try:
            with pa.memory_map(str(path)) as source:
                self._buffer = source.read_buffer()
            self._reader = pa.ipc.open_file(self._buffer)
            names = self._reader.schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CorruptIndex(f"{path}: not a whole Arrow file: {error}; {RESTORE}") from None
        if names != schema.names or self._reader.schema.types != schema.types:
            raise CorruptIndex(f"{path}: unexpected columns {names}; {RESTORE}")
        self.bytes = np.frombuffer(self._buffer, np.uint8)
        self.n_batches = int(self._reader.num_record_batches)

    def batch(self, number: int) -> pa.RecordBatch:
        """One record batch, mapped unless it is compressed.

        Raises:
            CorruptIndex: It leads outside of the file, or holds texts that are none; numbers may be any.
        """
        try:
            batch = self._reader.get_batch(number)
            batch.validate(full=True)  # reads texts and their offsets, of numbers nothing
            return batch
        except (pa.ArrowException, OSError) as error:
            raise CorruptIndex(f"{self.path}: batch {number} can't be read: {error}; {RESTORE}") from None

    def column(self, name: str) -> Any:
        """A column of the only batch as a numpy array, mapped."""
        return self.batch(0).column(name).to_numpy(zero_copy_only=True)

    def offset(self, column: pa.Array) -> int:
        """Where in the file the values of a numeric column begin, in bytes.

        Raises:
            CorruptIndex: They lie outside of it.
        """
        buffer = column.buffers()[1]
        start = int(buffer.address - self._buffer.address) if len(column) else 0
        if start < 0 or start + len(column) * (column.type.bit_width // 8) > self._buffer.size or column.offset:
            raise CorruptIndex(f"{self.path}: a column lies outside of the file; {RESTORE}")
        return start


def write_arrow(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as an Arrow file of one record batch."""
    batch = pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)
