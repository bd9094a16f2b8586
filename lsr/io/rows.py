"""Rows of JSON arrays, CSV, Arrow tables and data frames, as mappings of column to value."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import IO, Any, AnyStr, cast

import pyarrow as pa

from lsr.console import counted
from lsr.errors import DataError

Row = tuple[Mapping[str, Any] | DataError, str]

_PIECE = 1 << 20  # characters read at a time
_CUT = 16  # an error this close to a piece's end may come from a word that is cut there, such as "-Infinity"
_NOT_SPACE = re.compile(r"[^ \t\r\n]")
MOST_LINE = 64 << 20  # largest line, array element or cell, in bytes or characters
_ROWS = 1024  # rows converted to Python together
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d+)?(?:[eE][+-]?\d{1,3})?")
_NAMED = 5  # doubled columns in a message


def json_array(file: IO[bytes], name: str, decoder: json.JSONDecoder) -> Iterator[Row]:
    """Yield the objects of a JSON array with their "file:line"; other values yield an error.

    Raises:
        DataError: The file isn't JSON, or isn't UTF-8.
    """
    with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        reader = _ArrayReader(text, decoder)
        try:
            for value in reader.values():
                where = f"{name}:{reader.line}"
                if isinstance(value, dict):
                    yield value, where
                else:
                    yield DataError(f"expected a JSON object, got {json.dumps(value)[:60]}", where), where
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(f"not UTF-8: byte 0x{byte:02x}", f"{name}: after line {reader.line}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"not a JSON array: {error}", f"{name}:{reader.line}") from None


class _ArrayReader:
    """Values of a JSON array, read piece by piece.

    Attributes:
        line: Line of the latest value, or of the error.
    """

    def __init__(self, text: IO[str], decoder: json.JSONDecoder) -> None:
        self._text, self._decoder = text, decoder
        self._buffer, self._at, self._ended = "", 0, False
        self.line = 1

    def values(self) -> Iterator[Any]:
        """Yield the values one by one.

        Raises:
            ValueError, RecursionError: The text isn't an array, or is broken.
        """
        if self._next() != "[":
            raise ValueError("it doesn't begin with [")
        self._at += 1
        after = "]" if self._next() == "]" else ","
        while after == ",":
            if not self._next():
                raise ValueError("it ends early")
            value, end = self._decode()
            yield value
            self._move(end)
            after = self._next()
            if after not in ("]", ","):
                raise ValueError(f"expected , or ] after an object, got {after!r}" if after else "it ends early")
            self._at += after == ","
        self._at += 1
        if left := self._next():
            raise ValueError(f"{left!r} after the ]")

    def _decode(self) -> tuple[Any, int]:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
                if end < len(self._buffer) or self._ended:
                    return value, end
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._buffer) - _CUT or error.msg.startswith("Unterminated")
                if self._ended or not cut:
                    self._move(error.pos)
                    raise ValueError("it ends early" if self._ended and cut else error.msg) from None
            self._more()

    def _next(self) -> str:
        """The next character that isn't white space; "" at the end."""
        while True:
            found = _NOT_SPACE.search(self._buffer, self._at)
            self._move(found.start() if found else len(self._buffer))
            if found or self._ended:
                return found[0] if found else ""
            self._more()

    def _move(self, at: int) -> None:
        self.line += self._buffer.count("\n", self._at, at)
        self._at = at

    def _more(self) -> None:
        left = self._buffer[self._at :]
        if len(left) > MOST_LINE:
            raise ValueError(f"an object of more than {MOST_LINE >> 20} MB")
        piece = self._text.read(max(_PIECE, len(left)))  # doubling, so that a long value isn't parsed too often
        self._buffer, self._at, self._ended = left + piece, 0, not piece


def bounded_lines(file: IO[AnyStr], name: str) -> Iterator[AnyStr]:
    """The lines of a file, with a limit on their length.

    Raises:
        DataError: A line is longer than the limit.
    """
    number = 1
    while line := file.readline(MOST_LINE + 1):
        if len(line) > MOST_LINE:
            problem = f"a line of more than {MOST_LINE >> 20} MB: is this a file with one record a line?"
            raise DataError(problem, f"{name}:{number}")
        yield line
        number += 1


def csv_rows(open_file: Callable[[], IO[bytes]], name: str, texts: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a CSV file whose first line has the names of its columns, each with "file:line".

    A first pass finds columns that have only numbers; their cells become numbers. Empty cells are None. The separator
    is a comma, or a semicolon or tab if the first line has no comma.

    Args:
        open_file: Opens the file.
        name: The file's name in messages.
        texts: Columns that are always texts.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MOST_LINE))
    numeric: set[str] | None = None
    for _, row in _cells(open_file, name):
        if isinstance(row, DataError):
            continue
        if numeric is None:
            numeric = {column for column in row if column.lower() not in texts}
        numeric -= {column for column in numeric if row[column] and not _NUMBER.fullmatch(row[column] or "")}
        if not numeric:
            break
    for where, row in _cells(open_file, name):
        if isinstance(row, DataError):
            yield row, where
            continue
        yield {c: (json.loads(v) if c in (numeric or ()) else v) if v else None for c, v in row.items()}, where


def _cells(open_file: Callable[[], IO[bytes]], name: str) -> Iterator[tuple[str, dict[str, str] | DataError]]:
    with open_file() as file, io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        lines = bounded_lines(text, name)
        first = next(lines, "")
        delimiter = next((mark for mark in ",;\t" if mark in first), ",")
        columns = next(csv.reader([first], delimiter=delimiter), [])
        if doubled := [repr(column) for column, n in Counter(columns).items() if n > 1]:
            more = ", …" if len(doubled) > _NAMED else ""
            raise DataError(f"two columns have the same name: {', '.join(doubled[:_NAMED])}{more}", f"{name}:1")
        reader = csv.reader(lines, delimiter=delimiter)
        number = 2
        try:
            for cells in reader:
                where = f"{name}:{number}"
                number = reader.line_num + 2
                if not cells:
                    continue
                if len(cells) != len(columns):
                    yield (
                        where,
                        DataError(f"{counted(len(cells), 'cell')}, but {counted(len(columns), 'column')}", where),
                    )
                elif any(not cell.isascii() and _is_bytes(cell) for cell in cells):
                    yield where, DataError("not UTF-8: save the file as UTF-8", where)
                else:
                    yield where, dict(zip(columns, cells, strict=True))
        except csv.Error as error:
            raise DataError(f"not CSV: {error}", f"{name}:{number}") from None


def _is_bytes(cell: str) -> bool:
    """Whether a cell had bytes that weren't UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in cell)


def is_table(source: Any) -> bool:
    """Whether something is an Arrow table or a data frame (pandas, polars, ...), not a single column."""
    arrow = hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")
    column = hasattr(source, "dtype") or hasattr(source, "type")
    return (arrow and not column) or _is_pandas(source) or _is_lazy(source)


def _is_pandas(source: Any) -> bool:
    return hasattr(source, "iloc") and hasattr(source, "to_dict") and hasattr(source, "columns")


def _is_lazy(source: Any) -> bool:
    """Whether an object is a polars LazyFrame."""
    return hasattr(source, "lazy") and hasattr(source, "collect")


class TableRows:
    """Rows of an Arrow table or a data frame; can be read repeatedly.

    Args:
        table: Any object for which `is_table` is true.
    """

    def __init__(self, table: Any) -> None:
        self._table = table

    def __iter__(self) -> Iterator[dict[str, Any]]:
        table = self._table.collect() if _is_lazy(self._table) else self._table
        if _is_pandas(table):  # not through Arrow, which requires a single type per column
            index = getattr(table, "index", None)
            if any(name is not None and name not in table.columns for name in getattr(index, "names", ())):
                table = table.reset_index()  # the index often has the ids
            for start in range(0, len(table), _ROWS):
                yield from table.iloc[start : start + _ROWS].to_dict("records")
            return
        if not hasattr(table, "__arrow_c_stream__"):
            table = pa.Table.from_batches([pa.record_batch(table)])
        number = 1
        for batch in pa.RecordBatchReader.from_stream(table):
            for start in range(0, batch.num_rows, _ROWS):
                yield from batch_rows(batch.slice(start, _ROWS), f"document {number + start}")
            number += batch.num_rows


def batch_rows(batch: pa.RecordBatch, where: str) -> list[dict[str, Any]]:
    """The rows of a batch as Python values.

    Raises:
        DataError: Python has no type for a value, such as the year 30000.
    """
    columns = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if field.name.startswith("__index_level_"):  # pandas' row numbers
            continue
        if pa.types.is_timestamp(field.type):  # Python's times have only microseconds and few time zones
            column = column.cast(pa.timestamp("us", "UTC" if field.type.tz else None), safe=False)
        elif pa.types.is_time64(field.type):
            column = column.cast(pa.time64("us"), safe=False)
        columns[field.name] = column
    found: dict[str, list[Any]] = {}
    for name, column in columns.items():
        try:
            found[name] = column.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"can't be read: the column {name!r} ({column.type}): {error}", where) from None
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def given_rows(documents: Any) -> Iterable[Any]:
    """Documents in memory as an iterable; for a table or data frame, its rows.

    Raises:
        DataError: `documents` is a mapping.
    """
    if isinstance(documents, Mapping):
        names = ", ".join(map(str, islice(documents, 5)))
        raise DataError(f"expected a list of documents, got a mapping of {names}; pass a single split")
    if isinstance(documents, pa.RecordBatchReader):  # can be read only once
        return iter(TableRows(documents))
    if hasattr(documents, "with_format") and hasattr(documents, "features"):  # from the datasets library
        return cast("Iterable[Any]", documents.with_format(None))
    return TableRows(documents) if is_table(documents) else documents
