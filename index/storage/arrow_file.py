"""Arrow IPC files: memory-mapped, and validated before anything is read."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lsr.errors import CorruptIndex

# Overwriting a mapped file kills the processes that map it; replacing it with another file is harmless.
RESTORE = "move a copy into place (mv; never write over a file of an index) or build the index again"
_PRESENT = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM)
_LACK = (errno.ENOMEM, errno.EAGAIN)  # not enough memory, for data or for a thread


@contextmanager
def damage(path: Path | str, problem: str, mend: str = RESTORE) -> Iterator[None]:
    """Turn errors from reading a damaged file into CorruptIndex.

    A lack of file descriptors or permission isn't damage: such errors pass unchanged. A lack of memory raises
    MemoryError.

    Args:
        path: The file.
        problem: The problem, for the message; the library's message is appended.
        mend: How to repair the damage, for the message.
    """
    try:
        yield
    except (MemoryError, CorruptIndex):
        raise
    except (pa.ArrowException, OSError, ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
        # Some pyarrow errors carry errno only in their text.
        numbers = {n for n in (*_PRESENT, *_LACK) if os.strerror(n) in str(error)} | {getattr(error, "errno", None)}
        if isinstance(error, OSError) and numbers & set(_PRESENT):
            raise
        if numbers & set(_LACK):
            raise MemoryError(f"{path}: not enough memory to read it") from None
        raise CorruptIndex(f"{path}: {problem}: {error}; {mend}") from None


class ArrowFile:
    """A memory-mapped Arrow IPC file.

    Attributes:
        path: The file's path.
        names: The names of the columns.
        bytes: The whole file as (size,) uint8, mapped.
        n_batches: Number of record batches.

    Args:
        path: The file's path.
        schema: The expected columns.
        mend: How to repair damage, for messages.
        others: Other accepted schemas.

    Raises:
        CorruptIndex: The file isn't a complete Arrow file, or has other columns.
    """

    def __init__(self, path: Path, schema: pa.Schema, mend: str = RESTORE, *, others: Sequence[pa.Schema] = ()) -> None:
        self.path, self._mend = path, mend
        with damage(path, "not a complete Arrow file", mend):
            with pa.memory_map(str(path)) as source:
                self._buffer = source.read_buffer()
            self._reader = pa.ipc.open_file(self._buffer)
            found = self._reader.schema
            self.names: list[str] = found.names
        if not any((found.names, found.types) == (known.names, known.types) for known in (schema, *others)):
            raise CorruptIndex(f"{path}: damaged: unexpected columns or types: {self.names}; {mend}")
        self.bytes = np.frombuffer(self._buffer, np.uint8)
        self.n_batches = int(self._reader.num_record_batches)

    def batch(self, number: int) -> pa.RecordBatch:
        """Return a record batch, mapped unless it is compressed.

        Raises:
            CorruptIndex: The batch points outside the file or has invalid text. Numbers aren't checked.
        """
        with damage(self.path, f"batch {number} can't be read", self._mend):
            batch = self._reader.get_batch(number)
            batch.validate(full=True)  # checks texts and offsets, not numbers
            return batch

    def column(self, name: str) -> Any:
        """Return a column of the only batch as a numpy array, mapped.

        Raises:
            CorruptIndex: As for `batch`, or a number is null.
        """
        column = self.batch(0).column(name)
        with damage(self.path, f"the column {name} can't be read", self._mend):
            return column.to_numpy(zero_copy_only=True)

    def offset(self, column: pa.Array) -> int:
        """Return the offset in bytes of a numeric column's values in the file.

        Raises:
            CorruptIndex: The values lie outside the file.
        """
        buffer = column.buffers()[1]
        start = int(buffer.address - self._buffer.address) if len(column) else 0
        if start < 0 or start + len(column) * (column.type.bit_width // 8) > self._buffer.size or column.offset:
            raise CorruptIndex(f"{self.path}: a column lies outside the file; {self._mend}")
        return start

    def digest(self) -> str:
        """Return the SHA-256 of the mapped content, even if the file has been replaced since."""
        return hashlib.sha256(self.bytes.data).hexdigest()


def write_arrow(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as an Arrow file of one record batch."""
    batch = pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)
