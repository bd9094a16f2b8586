"""The part of Protocol Buffers' wire format that CIFF needs: fields, and varints one by one or as arrays.

The protobuf package isn't used because it parses a whole message at once, with an object for each posting, and a
posting list can be larger than memory. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LARGEST_VARINT = 10  # bytes
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """Encode a number that is not negative."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, value: int | str) -> bytes:
    """Encode a field with a non-negative number or a text. As in proto3, a zero or empty value is left out."""
    if not value:
        return b""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    content = value.encode()
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at an offset, and its end.

    Raises:
        ValueError: The data ends within the varint, or is invalid.
    """
    value = 0
    for i, byte in enumerate(data[at : at + _LARGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("ends within a number" if at + _LARGEST_VARINT > len(data) else "has a number of over ten bytes")


def read_field(data: bytes, at: int) -> tuple[int, int | bytes, int]:
    """The field at an offset: its number, its value and its end.

    Raises:
        ValueError: The data ends within the field, or is invalid.
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
        ValueError: The data isn't a message.
    """
    fields, at = [], 0
    while at < len(data):
        number, value, at = read_field(data, at)
        fields.append((number, value))
    return fields


def varint_sizes(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) sizes in bytes of (n,) numbers from 0 to 2^31 - 1."""
    sizes = np.ones(len(values), np.int64)
    for bits in (7, 14, 21, 28):
        sizes += values >= 1 << bits
    return sizes


def put_varints(
    buffer: NDArray[np.uint8], at: NDArray[np.int64], values: NDArray[np.int64], sizes: NDArray[np.int64]
) -> None:
    """Write varints into a buffer.

    Args:
        buffer: The buffer.
        at: (n,) offsets of the varints.
        values: (n,) from 0 to 2^31 - 1.
        sizes: (n,) sizes of the varints in bytes; with 0, nothing is written.
    """
    for i in range(int(sizes.max(initial=0))):
        here = np.flatnonzero(sizes > i)
        more = sizes[here] > i + 1
        buffer[at[here] + i] = values[here] >> 7 * i & 0x7F | np.where(more, 0x80, 0)


def read_varints(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decode bytes that consist of varints only.

    Returns:
        (n,) values, correct for up to 5 bytes, and (n,) ends. A varint that is cut off at the end is left out.
    """
    ends = np.flatnonzero(data < 0x80) + 1
    begins = np.concatenate(([0], ends[:-1]))[: len(ends)]
    values = np.zeros(len(ends), np.int64)
    for i in range(min(5, int((ends - begins).max(initial=0)))):
        here = np.flatnonzero(ends - begins > i)
        values[here] |= (data[begins[here] + i].astype(np.int64) & 0x7F) << 7 * i
    return values, ends
