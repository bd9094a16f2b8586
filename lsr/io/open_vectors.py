"""Open vectors of any format by their path: Parquet, JSON lines, CIFF; local, in object storage, or from a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path

from lsr.errors import DataError
from lsr.io.object_store import is_remote
from lsr.io.streams import is_stream, peek_stream, stream_name, take_stream
from lsr.io.text_files import open_parquet
from lsr.io.vectors import Vectors
from lsr.io.vectors_parquet import parquet_vectors, part_files, vectors_kind
from lsr.sparse import SparseMatrix


def holds_vectors(source: str | PathLike[str]) -> bool:
    """Whether a path has vectors rather than texts, by its columns or the keys of its first line."""
    if is_remote(source):
        from lsr.io.remote_files import fetched_vectors

        copy = fetched_vectors(str(source))
        return copy is not None and holds_vectors(copy)
    if is_stream(source):
        return holds_vectors(peek_stream(source)[0])
    path = Path(source)
    if path.is_dir():
        return bool(part_files(path))
    if not path.is_file():
        return False
    kind = vectors_kind(path)
    if kind == "parquet":
        with open_parquet(path) as file:
            return {"terms", "weights"} <= set(file.schema_arrow.names)
    if kind == "jsonl":
        from lsr.io import jsonl

        return jsonl.holds_vectors(path)
    return kind == "ciff"


def read_vectors(
    path: str | PathLike[str], *, vocabulary: Sequence[str] | None = None, skip_bad: bool = False
) -> Vectors:
    """Open vectors.

    Args:
        path: A .parquet file, a folder of .parquet files, a .jsonl(.gz) or .ndjson(.gz) file, or a .ciff(.gz) file; the
            URI of such a file or folder, which is copied to this machine; or "-" or a pipe for JSONL.
        vocabulary: For JSONL and CIFF, tokens with fixed term ids, such as those of an index; other tokens are
            appended.
        skip_bad: Skip and count bad lines of JSONL.

    Raises:
        DataError: There is no such file, or it has another format.
    """
    if is_remote(path):
        from lsr.io.remote_files import fetched_vectors

        copy = fetched_vectors(str(path))
        if copy is None:
            raise DataError("no such file, and no complete folder of vectors", str(path))
        vectors = read_vectors(copy, vocabulary=vocabulary, skip_bad=skip_bad)
        vectors.name = str(path)
        return vectors
    if is_stream(path):
        from lsr.io.jsonl import read_jsonl

        (file, _), name = peek_stream(path), stream_name(path)
        vectors = Vectors(
            name, partial(read_jsonl, file, skip_bad=skip_bad, name=name), vocabulary=[*(vocabulary or ())]
        )
        take_stream(path, vectors)
        return vectors
    path = Path(path)
    if path.is_dir():
        parts = part_files(path)
        if not parts:
            raise DataError("this folder has no part-*.parquet", str(path))
        return parquet_vectors(str(path), parts)
    if not path.is_file():
        raise DataError("no such file", str(path))
    kind = vectors_kind(path)
    known = list(vocabulary or ())
    if kind == "parquet":
        return parquet_vectors(str(path), [path])
    if kind == "jsonl":
        from lsr.io.jsonl import read_jsonl

        return Vectors(str(path), lambda v: read_jsonl(path, v, skip_bad=skip_bad), vocabulary=known)
    if kind == "ciff":
        from lsr.io.ciff import open_ciff

        return open_ciff(path, known)
    raise DataError("vectors are read from .parquet, .jsonl(.gz), .ndjson(.gz) and .ciff(.gz)", str(path))


def load_matrix(path: str | PathLike[str]) -> SparseMatrix:
    """Read vectors as one matrix without ids, from any file that `read_vectors` reads.

    Raises:
        DataError: There is no such file, or it has another format.
    """
    vectors = read_vectors(path)
    matrices = [batch.vectors for batch in vectors]
    return SparseMatrix.vstack(matrices) if matrices else SparseMatrix.empty(vectors.n_terms)
