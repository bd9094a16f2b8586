"""Files of texts: lines, JSON, TSV, CSV and Parquet, plain or .gz. Errors name the file and the line."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lsr.durable import take_name
from lsr.errors import DataError, OutputError
from lsr.io.document import ID_KEYS, TEXT_KEYS, short
from lsr.io.rows import batch_rows, bounded_lines, csv_rows, json_array

_KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".tsv": "tsv", ".csv": "csv", ".parquet": "parquet"}


def read_rows(path: Path, name: str = "") -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Yield the rows of a file, each with its "file:number"; a bad row yields an error. `file_kind` must know the
    file's kind.

    Null values are left out, except the text.

    Raises:
        DataError: The name has another suffix, or the file can't be read.
    """
    kind = file_kind(path)
    if kind == "parquet":
        yield from _read_parquet(path)
    elif kind == "jsonl":
        yield from read_json(path, name)
    elif kind == "csv":
        shown = name or str(path)
        with _read_errors(shown):
            for row, where in csv_rows(lambda: open_bytes(path), shown, (*ID_KEYS, *TEXT_KEYS, "title", "parent")):
                yield row if isinstance(row, DataError) else _without_nulls(row), where
    else:
        yield from _read_tsv(path, name)


def read_json(
    path: Path, name: str = "", *, unique_keys: bool = False
) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Yield JSON objects, one per line or all in an array, with "file:line"; a bad object yields an error.

    Args:
        path: The file.
        name: The file's name in messages.
        unique_keys: Refuse objects with a repeated key.

    Raises:
        DataError: The file can't be read, or its array is broken.
    """
    shown = name or str(path)
    with _read_errors(shown):
        if _begins_with(path, b"["):
            with open_bytes(path) as file:
                yield from json_array(file, shown, _UNIQUE_KEYS if unique_keys else json.JSONDecoder())
            return
    for line, where in read_lines(path, name):
        try:
            yield (line if isinstance(line, DataError) else _parse_json(line, where, unique_keys)), where
        except DataError as error:
            yield error, where


def _begins_with(path: Path, what: bytes) -> bool:
    """Whether a file begins with `what`, after white space."""
    with open_bytes(path) as file:
        first = file.read(3)
        first = b"" if first == b"\xef\xbb\xbf" else first
        while not first.strip() and (more := file.read(4096)):
            first = more
    return first.strip().startswith(what)


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None or key in TEXT_KEYS}


@contextmanager
def _read_errors(shown: str) -> Iterator[None]:
    """Turn read errors, such as a .gz file that ends early, into a DataError."""
    try:
        yield
    except EOFError:
        raise DataError("the compressed file ends early; it is cut off", shown) from None
    except (OSError, zlib.error) as error:
        raise DataError(f"can't be read: {error}", shown) from None


def file_identity(path: Path) -> str:
    """A text that changes with a file: its path, size and modification time."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def file_kind(path: Path) -> str:
    """ "jsonl" (also for an array), "tsv", "csv" or "parquet", by the file's name.

    Raises:
        DataError: The file has another suffix.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    kind = _KINDS.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise DataError("the name must end in .jsonl, .json, .tsv, .csv (all also .gz) or .parquet", str(path))
    return kind


def is_packed(path: Path) -> bool:
    """Whether a file is compressed by gzip, judged by its name."""
    return path.suffix.lower() == ".gz"


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacking .gz."""
    try:
        return cast("IO[bytes]", gzip.open(path, "rb")) if is_packed(path) else path.open("rb")
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}", str(path)) from None


def unfinished(path: Path) -> Path:
    """The name that a file has until it is complete."""
    # Not ".partial": `lsr.encode.write` keeps its parts in a folder of that name while it prepares `path`.
    return path.with_name(path.name + ".unfinished")


def begun(path: Path) -> Path:
    """The temporary name of a file that is to be written.

    Raises:
        OutputError: The folder doesn't exist.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}")
    return unfinished(path)


@contextmanager
def new_text(path: Path) -> Iterator[IO[str]]:
    """Open a text file for writing, compressed if its name ends in .gz. It gets its name when it is complete and on
    disk.
    """
    with new_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="\n") as text:
        yield text


@contextmanager
def new_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Like `new_text`, for bytes.

    Raises:
        OutputError: The folder doesn't exist.
    """
    partial = begun(path)
    try:
        with gzip.open(partial, "wb") if is_packed(path) else partial.open("wb") as file:
            yield cast("IO[bytes]", file)
        take_name(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_lines(path: Path, name: str = "") -> Iterator[tuple[str | DataError, str]]:
    """Yield the lines of a text file with "file:number"; a line that isn't UTF-8 yields an error.

    Raises:
        DataError: The file can't be read or a .gz ends early.
    """
    shown = name or str(path)
    number = 0
    try:
        with open_bytes(path) as file:
            for number, raw in enumerate(bounded_lines(file, shown), start=1):
                where = f"{shown}:{number}"
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    yield (
                        DataError(
                            f"not UTF-8: byte 0x{error.object[error.start]:02x} at column {error.start + 1}", where
                        ),
                        where,
                    )
                    continue
                if line.strip():
                    yield line, where
    except EOFError:
        raise DataError("the compressed file ends early; it is cut off", f"{shown}:{number + 1}") from None
    except (OSError, zlib.error) as error:
        raise DataError(f"can't be read: {error}", f"{shown}:{number + 1}") from None


def parse_json_line(line: str, where: str, *, unique_keys: bool = False) -> Any:
    """Decode one line of JSON.

    Raises:
        DataError: The line isn't JSON, or has a repeated key (with `unique_keys`).
    """
    try:
        line = line.rstrip("\r\n")  # otherwise an early end would be reported in column 1 of the next line
        return _UNIQUE_KEYS.decode(line) if unique_keys else json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}", where) from None
    except ValueError as error:  # a number with thousands of digits, or a repeated key
        raise DataError(f"not JSON that can be read: {error}", where) from None
    except RecursionError:
        raise DataError("not JSON that can be read: nested too deeply", where) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} occurs twice")
    return values


_UNIQUE_KEYS = json.JSONDecoder(object_pairs_hook=_unique)


def _parse_json(line: str, where: str, unique_keys: bool) -> Mapping[str, Any]:
    values = parse_json_line(line, where, unique_keys=unique_keys)
    if not isinstance(values, dict):
        raise DataError(f"expected a JSON object, got {short(values)}", where)
    return values


def _read_tsv(path: Path, name: str) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Yield the lines of a TSV file. Columns are named by the header; without one, they are id and text, or id, title
    and text.
    """
    names: list[str] | None = None
    for number, (line, where) in enumerate(read_lines(path, name)):
        if isinstance(line, DataError):
            yield line, where
            continue
        fields = line.rstrip("\r\n").split("\t")
        if number == 0 and _is_header(fields):
            names = fields
            continue
        columns = names or {2: ["_id", "text"], 3: ["_id", "title", "text"]}.get(len(fields), [])
        if len(columns) == len(fields):
            yield dict(zip(columns, fields, strict=True)), where
        else:
            wanted = f"{len(names)} columns" if names else "id<TAB>text or id<TAB>title<TAB>text"
            yield DataError(f"expected {wanted}, got {len(fields)} columns", where), where


def _is_header(fields: list[str]) -> bool:
    """Whether these are names of columns, with one for the id and one for the text."""
    there = set(fields)
    return len(there) == len(fields) and bool(there & set(ID_KEYS)) and bool(there & {*TEXT_KEYS, "title"})


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        DataError: The file is cut short, or isn't Parquet.
    """
    try:
        # Read in small pieces without prefetching, which would keep the whole file in memory.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a whole Parquet file: {error}", str(path)) from None


def _read_parquet(path: Path) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    number = 0
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch_rows(batch, f"{path}:{number + 1}"):
                    number += 1
                    yield _without_nulls(row), f"{path}:{number}"
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't be read: {error}", f"{path}:{number + 1}") from None


def count_rows(path: Path) -> int | None:
    try:
        if file_kind(path) == "parquet":
            with open_parquet(path) as file:
                return int(file.metadata.num_rows)
        with open_bytes(path) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except (EOFError, OSError, zlib.error, DataError):
        return None  # reading the file will report the error
