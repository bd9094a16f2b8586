"""The files of dense vectors: complete before dense.json names them, and validated before they are used.

FOLDER/
  dense.json        number and length of the vectors, how they are compared, size and SHA-256 of the files
  dense-….arrow     id, digest of the text, vector; one record batch, mapped
  dense-….usearch   the graph, if there is one
  dense-….clusters  the clusters, if there are any; the vectors are then stored by cluster
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.durable import sync
from lsr.errors import CorruptIndex, IndexFormatError, MissingExtra, OutputError
from lsr.index.hybrid.dense_clusters import DenseClusters
from lsr.index.storage.arrow_file import ArrowFile, write_arrow
from lsr.index.storage.manifest import CHECKED_AT_OPEN, digest_file, output_errors

Similarity = Literal["cosine", "dot"]
RECORD = "dense.json"
_FORMATS = (1, 2)  # format 2 has several vectors per document
_NAME = re.compile(r"dense-[0-9a-f]{16}")
_DIGEST = pa.binary(16)
MEND = "embed the documents again"


def write_dense(
    folder: Path,
    ids: Sequence[str],
    digests: Sequence[bytes],
    matrix: NDArray[np.float32],
    similarity: Similarity,
    graph: bool,
    segments: Collection[str],
    clusters: DenseClusters | None = None,
) -> None:
    """Write vectors, replacing existing ones.

    Args:
        folder: The folder; created if needed.
        ids: The documents' ids.
        digests: (n,) digests of the documents' texts, 16 bytes each.
        matrix: (n, dimensions) vectors, or (n, m, dimensions).
        similarity: How vectors are compared.
        graph: Whether to write a graph, too.
        segments: Names of the index's segments that contain the documents.
        clusters: The clusters of the vectors. `matrix` must be sorted by cluster.

    Raises:
        OutputError: The folder can't be written; its content is unchanged.
    """
    name = f"dense-{secrets.token_hex(8)}"
    with output_errors(folder, every=True):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            m = matrix.shape[1] if matrix.ndim == 3 else 1
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), m * matrix.shape[-1])
            columns = {"id": pa.array(ids, pa.string()), "digest": pa.array(digests, _DIGEST), "vector": vectors}
            write_arrow(folder / f"{name}.arrow", columns)
            if graph:
                _write_graph(folder / f"{name}.usearch", matrix)
            if clusters is not None:
                clusters.write(folder / f"{name}.clusters")
            files = {}
            for path in sorted(folder.glob(f"{name}.*")):
                files[path.name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
                sync(path)
            record = {
                "format": _FORMATS[m > 1],
                "name": name,
                "vectors": len(ids),
                "dimensions": matrix.shape[-1],
                "per_document": m,
                "similarity": similarity,
                "graph": graph,
                "clusters": clusters is not None,
                "segments": sorted(segments),
                "files": files,
            }
            partial = folder / f"{RECORD}.tmp"
            partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
            sync(partial)
            sync(folder)
            partial.replace(folder / RECORD)
        except BaseException:
            for path in (*folder.glob(f"{name}.*"), folder / f"{RECORD}.tmp"):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        sync(folder)
    for path in folder.iterdir():
        if _NAME.fullmatch(path.stem) and path.stem != name:
            with suppress(OSError):  # some systems refuse to delete files that are open elsewhere
                path.unlink()


def read_record(folder: Path) -> dict[str, Any]:
    """Read and validate dense.json.

    Raises:
        IndexFormatError: The folder has no dense.json, or one of another format.
        CorruptIndex: dense.json has invalid values, or a file is missing, truncated or changed.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
        if record["format"] not in _FORMATS:
            raise IndexFormatError(f"{path}: format {record['format']}, this version reads {_FORMATS}: embed again")
        sound = (
            _NAME.fullmatch(record["name"])
            and record["similarity"] in get_args(Similarity)
            and isinstance(record["dimensions"], int)
            and 0 < record["dimensions"] < 1 << 31
            and type(record.setdefault("per_document", 1)) is int  # earlier versions didn't write it
            and 0 < record["per_document"] < 1 << 31
            and record["per_document"] * record["dimensions"] < 1 << 31
            and isinstance(record["vectors"], int)
            and type(record["graph"]) is bool
            and type(record.setdefault("clusters", False)) is bool  # earlier versions didn't write it
            and set(_files(record)) <= set(record["files"])
            and all(type(file["bytes"]) is int for file in record["files"].values())
            and all(_NAME.fullmatch(Path(name).stem) and Path(name).name == name for name in record["files"])
            and all(isinstance(name, str) for name in record.get("segments", ()))
        )
    except FileNotFoundError:
        raise IndexFormatError(f"{folder}: no dense vectors here: it has no {RECORD}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CorruptIndex(f"{path}: damaged: values are missing or invalid; {MEND}")
    if wrong := damaged_files(folder, record, every_byte=False):
        raise CorruptIndex("\n".join(wrong))
    return dict(record)


def _files(record: dict[str, Any]) -> list[str]:
    """Return the names of the files that a record needs."""
    kinds = ["arrow", *["usearch"] * record["graph"], *["clusters"] * record["clusters"]]
    return [f"{record['name']}.{kind}" for kind in kinds]


def damaged_files(folder: Path, record: dict[str, Any], *, every_byte: bool) -> list[str]:
    """Return a message for each damaged file; large files are only hashed with `every_byte`."""
    wrong = []
    for name, entry in record["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: missing; {MEND}")
        elif path.stat().st_size != entry["bytes"] or (
            (every_byte or entry["bytes"] <= CHECKED_AT_OPEN) and digest_file(path) != entry["sha256"]
        ):
            wrong.append(f"{path}: damaged: not as it was written; {MEND}")
    return wrong


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError:
        raise MissingExtra("usearch", "ann", "a graph of dense vectors") from None
    return usearch.index


def _write_graph(path: Path, matrix: NDArray[np.float32]) -> None:
    graph = _usearch().Index(ndim=matrix.shape[1], metric="ip")
    graph.add(np.arange(len(matrix)), matrix)
    try:
        graph.save(str(path))
    except RuntimeError as error:  # usearch reports a full disk like this
        raise OutputError(f"{path}: can't be written: {error}; is there room on the disk?") from None


def open_vectors(path: Path, record: dict[str, Any]) -> pa.RecordBatch:
    """Map the ids, digests and vectors.

    Args:
        path: The file.
        record: The content of dense.json.

    Raises:
        CorruptIndex: The file is invalid. The numbers of the vectors aren't checked.
    """
    vector = pa.list_(pa.float32(), record["per_document"] * record["dimensions"])
    schema = pa.schema([("id", pa.string()), ("digest", _DIGEST), ("vector", vector)])
    batch = ArrowFile(path, schema, MEND).batch(0)
    nulls = sum(column.null_count for column in (*batch.columns, batch.column(2).flatten()))
    if len(batch) != record["vectors"] or nulls:
        raise CorruptIndex(f"{path}: damaged: {len(batch)} vectors, {nulls} of them missing; {MEND}")
    return batch


def open_graph(path: Path, record: dict[str, Any]) -> Any:
    """Map the graph. The whole file is hashed first, because usearch doesn't check the links that it follows.

    Args:
        path: The file.
        record: The content of dense.json.

    Raises:
        CorruptIndex: The file has changed since it was written, or belongs to other vectors.
    """
    whole = digest_file(path) == record["files"][path.name]["sha256"]
    graph = _usearch().Index.restore(str(path), view=True) if whole else None
    if graph is None or (len(graph), graph.ndim) != (record["vectors"], record["dimensions"]):
        raise CorruptIndex(f"{path}: damaged: not as it was written; {MEND}")
    return graph
