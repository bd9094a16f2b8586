"""Protocol Buffers' wire format, as much of it as CIFF takes: varints, one by one and by the array, and fields.

Written out because it is small, and because a posting list can be larger than the memory: the protobuf package parses a
message whole, into an object for each posting. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST_VARINT = 10  # bytes
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """A number that is not negative."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, value: int | str) -> bytes:
    """A field of a number that is not negative or of a text; nothing where it is zero or empty, as proto3 has it."""
    if not value:
        return b""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    content = value.encode()
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at a place and where it ends.

    Raises:
        ValueError: None is there, or the data ends within it.
    """
    value = 0
    for i, byte in enumerate(data[at : at + _LARGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("ends within a number" if at + _LARGEST_VARINT > len(data) else "has a number of over ten bytes")


def read_field(data: bytes, at: int) -> tuple[int, int | bytes, int]:
    """The field at a place: its number, its value and where it ends.

    Raises:
        ValueError: None is there, or the data ends within it.
    """
    tag, at = read_varint(data, at)
    number, kind = tag >> 3, tag & 7
    if not number:
        raise ValueError("has a field without a number")
    if kind == VARINT:
        return number, *read_varint(data, at)
    if kind == BYTES:
        size, at = read_varint(data, at)
    elif kind in (FIXED64, FIXED32):
        size = 8 if kind == FIXED64 else 4
    else:
        raise ValueError(f"has a field of the unknown kind {kind}")
    if at + size > len(data):
        raise ValueError("ends within a field")
    return number, data[at : at + size], at + size


def read_fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a message.

    Raises:
        ValueError: It is no message.
    """
    fields, at = [], 0
    while at < len(data):
        number, value, at = read_field(data, at)
        fields.append((number, value))
    return fields


def varint_sizes(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how many bytes each of (n,) numbers from 0 to 2^31 - 1 takes."""
    sizes = np.ones(len(values), np.int64)
    for bits in (7, 14, 21, 28):
        sizes += values >= 1 << bits
    return sizes


def put_varints(
    buffer: NDArray[np.uint8], at: NDArray[np.int64], values: NDArray[np.int64], sizes: NDArray[np.int64]
) -> None:
    """Write varints into a buffer.

    Args:
        buffer: Written to.
        at: (n,) where each begins.
        values: (n,) from 0 to 2^31 - 1.
        sizes: (n,) how many bytes each takes; none for 0.
    """
    for i in range(int(sizes.max(initial=0))):
        here = np.flatnonzero(sizes > i)
        more = sizes[here] > i + 1
        buffer[at[here] + i] = values[here] >> 7 * i & 0x7F | np.where(more, 0x80, 0)


def read_varints(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All varints of some bytes that hold nothing else.

    Returns:
        (n,) values, right for those of up to 5 bytes, and (n,) where each ends. What is cut off at the end is left out.
    """
    ends = np.flatnonzero(data < 0x80) + 1
    begins = np.concatenate(([0], ends[:-1]))[: len(ends)]
    values = np.zeros(len(ends), np.int64)
    for i in range(min(5, int((ends - begins).max(initial=0)))):
        here = np.flatnonzero(ends - begins > i)
        values[here] |= (data[begins[here] + i].astype(np.int64) & 0x7F) << 7 * i
    return values, ends
