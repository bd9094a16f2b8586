"""Vectors on disk: Parquet with the encoder's fingerprint.

The Parquet file has the columns `id string`, `parent`, `title`, `text`, `metadata string` (all but the id may be
null), `terms list<uint32>`, `weights list<float32>`. Its key-value metadata holds

    lsr.fingerprint    JSON of lsr.fingerprint.Fingerprint
    lsr.step           the step, if known: every weight is a multiple of it
    lsr.vocabulary     JSON list of the tokens in term order, if known
    lsr.encoder        JSON object {file name: base64 of the zlib-compressed file} of the query encoder

so a file of vectors can be indexed, and searched with texts, without other files. A folder of such files
(`part-*.parquet`) is read as one. The metadata `lsr.first` of a part names the first part, which holds the vocabulary
and the encoder.
"""

from __future__ import annotations

import base64
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lsr.durable import take_name
from lsr.errors import DataError
from lsr.fingerprint import Fingerprint
from lsr.io.document import DOCUMENT_SCHEMA, require_metadata
from lsr.io.text_files import begun, file_kind, open_parquet
from lsr.io.vectors import BATCH, BEYOND_FLOAT32, VectorBatch, Vectors, matrix_batches
from lsr.sparse import MAX_TERMS, SparseMatrix

VECTOR_SCHEMA = pa.schema(
    [
        *DOCUMENT_SCHEMA,
        pa.field("terms", pa.list_(pa.uint32()), nullable=False),
        pa.field("weights", pa.list_(pa.float32()), nullable=False),
    ]
)
FIRST_PART = "lsr.first"
PART_NAME = re.compile(r"part-[0-9]{5,9}\.parquet")
_LARGEST_ROW = 1 << 22  # largest number of terms in a row; also, roughly, the number of terms held in memory at a time
# A row group with more than _LARGEST_GROUP values may have at most _PACKED values per compressed byte.
_LARGEST_GROUP, _PACKED = 1 << 24, 1000
_ENCODER_LIMIT = 1 << 28  # largest unpacked size of a query encoder, in bytes


def part_name(number: int) -> str:
    """File name of a part."""
    return f"part-{number:05d}.parquet"


def vectors_kind(path: Path) -> str:
    """ "ciff", or the result of `file_kind`."""
    return "ciff" if path.name.lower().endswith((".ciff", ".ciff.gz")) else file_kind(path)


# --- writing ------------------------------------------------------------------------------------------------------


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of vectors in order: the file itself, or the parts in a folder.

    Raises:
        DataError: The path is neither a Parquet file nor a folder of parts.
    """
    files = part_files(path) if path.is_dir() else [path]
    if not files or not files[0].is_file() or vectors_kind(files[0]) != "parquet":
        raise DataError("not vectors in Parquet, such as the folder that lsr encode writes", str(path))
    return files


def part_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))
    names, wanted = [path.name for path in files], [part_name(number) for number in range(len(files))]
    if names != wanted and all(map(PART_NAME.fullmatch, names)):  # other writers use other names
        missing = next(name for name in wanted if name not in names)
        raise DataError(
            f"{missing} is missing, though later parts are present: restore it, or write the vectors again", str(folder)
        )
    return files


def parquet_vectors(name: str, paths: list[Path]) -> Vectors:
    metadata: Mapping[bytes, bytes] | None = None
    rows = 0
    for path in paths:
        with open_parquet(path) as file:
            if missing := [c for c in ("id", "terms", "weights") if c not in file.schema_arrow.names]:
                raise DataError(f"not vectors: the column {missing[0]!r} is missing", str(path))
            rows += file.metadata.num_rows
            mine = file.metadata.metadata or {}
        first = mine.get(FIRST_PART.encode())
        if first is not None and (metadata is None or paths[0].name.encode() != first):
            raise DataError(
                f"its vocabulary is in {first.decode(errors='replace')!r}, which isn't among the files to read: give "
                "the whole folder",
                str(path),
            )
        its_fingerprint = Fingerprint.from_json(mine.get(b"lsr.fingerprint", b"{}"), str(path))
        if metadata is None:
            metadata, fingerprint = mine, its_fingerprint
        fingerprint.require_same(its_fingerprint, str(paths[0]), str(path))
        if first is None and mine.get(b"lsr.vocabulary") != metadata.get(b"lsr.vocabulary"):
            raise DataError(f"its vocabulary differs from that of {paths[0]}", str(path))
    assert metadata is not None  # there is at least one path
    where = str(paths[0])
    vocabulary = _json_metadata(metadata, b"lsr.vocabulary", list, where)
    if not all(isinstance(token, str) for token in vocabulary or ()):
        raise DataError("lsr.vocabulary has something other than tokens", where)
    packed = _json_metadata(metadata, b"lsr.encoder", dict, where) or {}
    step = _json_metadata(metadata, b"lsr.step", float, where)
    if step is not None and not 0 < step < BEYOND_FLOAT32:
        raise DataError(f"lsr.step is {step}; it must be positive and fit into float32", where)
    return Vectors(
        name,
        lambda vectors: read_parquets(paths, vectors),
        fingerprint=fingerprint,
        vocabulary=vocabulary,
        n_terms=fingerprint.vocabulary_size or 0,
        encoder_files=_unpack(packed, where),
        count=rows,
        step=step if len(paths) == 1 else None,
    )


def _json_metadata(metadata: Mapping[bytes, bytes], key: bytes, kind: type, where: str) -> Any:
    if key not in metadata:
        return None
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key.decode()} can't be read: {error}", where) from None
    if not isinstance(value, kind):
        raise DataError(f"{key.decode()} is not a {kind.__name__}", where)
    return value


def _unpack(packed: Mapping[str, str], where: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    room = _ENCODER_LIMIT
    for name, content in packed.items():
        if not name.isprintable() or name != os.path.basename(name) or name.startswith(".") or not name:
            raise DataError(f"the encoder in this file has a file called {name!r}", where)
        try:
            unpacker = zlib.decompressobj()
            files[name] = unpacker.decompress(base64.b64decode(content, validate=True), room)
            room -= len(files[name])
            if room <= 0:
                raise ValueError("it is too large")
            if not unpacker.eof:
                raise ValueError("it is cut short")
        except (ValueError, TypeError, zlib.error) as error:
            raise DataError(f"{name} of the encoder in this file can't be unpacked: {error}", where) from None
    return files


def read_parquets(paths: list[Path], vectors: Vectors) -> Iterator[VectorBatch]:
    """Yield the rows of Parquet files in batches; `vectors` has their common metadata.

    Raises:
        DataError: A file can't be read, or a row has a bad value.
    """
    known = vectors.vocabulary is not None or vectors.fingerprint.vocabulary_size is not None
    n_terms = vectors.n_terms if known else MAX_TERMS
    for path in paths:
        start = 0
        try:
            with open_parquet(path) as file:
                columns = [name for name in VECTOR_SCHEMA.names if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=_rows_at_once(file.metadata, str(path)), columns=columns):
                    yield _checked_batch(batch, n_terms, f"{path}: after {start} rows" if start else str(path))
                    start += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"can't be read: {error}", f"{path}: after {start} rows") from None


def _rows_at_once(metadata: Any, where: str) -> int:
    """How many rows of a Parquet file to read together in bounded memory.

    Raises:
        DataError: Rows have more terms than are supported, or values are compressed so much that a small file would
            fill the memory (a row can't be read in parts).
    """
    most = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for i in range(group.num_columns):
            column = group.column(i)
            if column.path_in_schema.partition(".")[0] not in ("terms", "weights"):
                continue
            mean = column.num_values // max(group.num_rows, 1)
            dense = column.num_values > _LARGEST_GROUP and column.num_values > _PACKED * column.total_compressed_size
            if mean > _LARGEST_ROW or dense:
                raise DataError(
                    f"{column.num_values:,} terms in {group.num_rows:,} rows and {column.total_compressed_size:,} "
                    f"bytes: either the rows are too long (at most {_LARGEST_ROW:,} terms each are supported), or the "
                    f"row group is compressed too strongly (at most {_PACKED:,} terms per byte); in the latter case, "
                    "write the vectors in smaller row groups",
                    where,
                )
            most = max(most, mean)
    return max(1, min(BATCH, _LARGEST_ROW // most))


def _checked_batch(batch: pa.RecordBatch, n_terms: int, where: str) -> VectorBatch:
    lists = {}
    for name in ("terms", "weights"):
        column = batch.column(name)
        if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
            raise DataError(f"the column {name!r} must hold lists, it holds {column.type}", where)
        kind = column.type.value_type
        if not pa.types.is_integer(kind) and not pa.types.is_floating(kind):
            raise DataError(f"the column {name!r} must hold lists of numbers, it holds {column.type}", where)
        if column.null_count or column.flatten().null_count:
            raise DataError(f"the column {name!r} holds nulls", where)
        lists[name] = column
    ptr = lists["terms"].offsets.to_numpy().astype(np.int64)
    if len(ptr) > 1 and (longest := int(np.diff(ptr).max())) > _LARGEST_ROW:
        raise DataError(f"a row of {longest:,} terms; at most {_LARGEST_ROW:,} are supported", where)
    if not np.array_equal(np.diff(ptr), np.diff(lists["weights"].offsets.to_numpy())):
        raise DataError("a row has more terms than weights, or fewer", where)
    try:
        matrix = SparseMatrix(
            ptr - ptr[0],
            lists["terms"].flatten().to_numpy(),
            lists["weights"].flatten().to_numpy(),
            (batch.num_rows, n_terms),
        )
    except ValueError as error:
        raise DataError(str(error), where) from None
    columns = []
    for field in DOCUMENT_SCHEMA:
        if field.name in batch.schema.names:
            column = batch.column(field.name).cast(field.type)
        else:
            column = pa.nulls(batch.num_rows, field.type)
        columns.append(column)
    documents = pa.RecordBatch.from_arrays(columns, schema=DOCUMENT_SCHEMA)
    documents.validate(full=True)  # strings that are not UTF-8
    if not all(columns[0].to_pylist()):
        raise DataError("a row has no id", where)
    metadata = documents.column("metadata")
    if metadata.null_count < len(metadata):
        for doc_id, text in zip(columns[0].to_pylist(), metadata.to_pylist(), strict=True):
            if text is not None:
                require_metadata(text, doc_id, where)
    return VectorBatch(documents, matrix)


def pack_metadata(
    fingerprint: Fingerprint,
    vocabulary: Sequence[str] | None = None,
    encoder_files: Mapping[str, bytes] | None = None,
    step: float | None = None,
) -> dict[str, str]:
    """The key-value metadata of a vectors file; see the top of this module."""
    metadata = {"lsr.fingerprint": fingerprint.to_json()}
    if vocabulary is not None:
        metadata["lsr.vocabulary"] = json.dumps(list(vocabulary))
    if encoder_files:
        packed = {n: base64.b64encode(zlib.compress(c)).decode() for n, c in encoder_files.items()}
        metadata["lsr.encoder"] = json.dumps(packed)
    if step is not None:
        metadata["lsr.step"] = json.dumps(step)
    return metadata


class ParquetWriter:
    """Writes batches into one Parquet file, under a temporary name until it is complete.

    Args:
        path: The file; replaced if it exists.
        metadata: The result of `pack_metadata`.

    Raises:
        OutputError: The folder doesn't exist.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._path = path
        self._partial = begun(path)
        self._writer = pq.ParquetWriter(self._partial, VECTOR_SCHEMA, compression="zstd", use_dictionary=False)
        self._metadata = dict(metadata)

    def write(self, batch: VectorBatch) -> None:
        """Append a batch."""
        vectors = batch.vectors
        if vectors.nnz >= 2**31:
            raise ValueError("a batch holds at most 2^31 weights")
        offsets = pa.array(vectors.indptr.astype(np.int32))
        terms = pa.ListArray.from_arrays(offsets, pa.array(vectors.indices))
        weights = pa.ListArray.from_arrays(offsets, pa.array(vectors.data))
        columns = [*batch.documents.columns, terms, weights]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=VECTOR_SCHEMA))

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Add metadata that was unknown at the start; it is written at the end of the file."""
        self._metadata.update(metadata)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writer.add_key_value_metadata(self._metadata)
            self._writer.close()
            if kind is None:
                take_name(self._partial, self._path)
        except (OSError, pa.ArrowException):
            if kind is None:  # otherwise report the original error
                raise
        finally:
            self._partial.unlink(missing_ok=True)


def save_matrix(path: str | PathLike[str], matrix: SparseMatrix, ids: Sequence[str] | None = None) -> None:
    """Write a matrix as Parquet with ids, by default the row numbers.

    Raises:
        ValueError: The numbers of ids and rows differ, or an id is empty.
    """
    with ParquetWriter(Path(path), pack_metadata(Fingerprint(vocabulary_size=matrix.shape[1]))) as writer:
        for batch in matrix_batches(matrix, ids):
            writer.write(batch)
