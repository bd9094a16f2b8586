"""Vectors of a dense model beside an index: any function that turns texts into arrays, searched exactly or by usearch.

    FOLDER/
      dense.json        number and length of the vectors, how they are compared, size and SHA-256 of the files
      dense-….arrow     id, digest of the text, vector; one record batch, mapped
      dense-….usearch   the graph, if there is one

`DenseVectors.build` embeds what an index holds, and only what changed since the last time. The new files are written
whole before dense.json names them.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from lsr.console import progress
from lsr.errors import CorruptIndex, DataError, IndexFormatError, MissingExtra

from .arrow_files import write_arrow
from .storage import CHECKED_AT_OPEN, digest_file, sync

Embed = Callable[[list[str]], ArrayLike]
Similarity = Literal["cosine", "dot"]
_RECORD, _FORMAT = "dense.json", 1
_NAME = re.compile(r"dense-[0-9a-f]{16}")
_AT_ONCE = 256  # texts that are embedded together
_ROWS = 1 << 16  # vectors that are compared with a query at a time
_DIGEST = pa.binary(16)


@dataclass(frozen=True)
class DenseHit:
    """A document found.

    Attributes:
        id: Its id.
        score: Cosine or dot product.
    """

    id: str
    score: float


class DenseVectors:
    """Dense vectors of documents. Safe to search from many threads.

    Attributes:
        path: The folder.
        embed: Embeds queries, and documents in `build`.

    Args:
        path: The folder.
        embed: Texts to (n, dimensions) numbers.

    Raises:
        IndexFormatError: There are no vectors.
        CorruptIndex: A file is missing, cut short or changed.
    """

    def __init__(self, path: str | PathLike[str], embed: Embed) -> None:
        self.path, self.embed = Path(path), embed
        record = _read_record(self.path)
        self.similarity: Similarity = record["similarity"]
        file = self.path / f"{record['name']}.arrow"
        with pa.memory_map(str(file)) as source:
            self._buffer = source.read_buffer()
        try:
            batch = pa.ipc.open_file(self._buffer).get_batch(0)
            self._ids, self._digests, vectors = (batch.column(name) for name in ("id", "digest", "vector"))
            self._vectors = vectors.flatten().to_numpy().reshape(len(batch), record["dimensions"])
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise CorruptIndex(f"{file}: damaged: {error}; embed the documents again") from None
        self._graph = _open_graph(self.path / f"{record['name']}.usearch") if record["graph"] else None

    def __len__(self) -> int:
        return len(self._ids)

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        documents: Iterable[tuple[str, str]],
        embed: Embed,
        *,
        similarity: Similarity = "cosine",
        graph: bool = False,
    ) -> DenseVectors:
        """Embed documents; vectors that are there already of a document of the same id and text are kept.

        Args:
            path: The folder; made if it isn't there.
            documents: (id, text) of all documents: those that it lacks are dropped.
            embed: Texts to (n, dimensions) numbers.
            similarity: "cosine", or "dot" for vectors whose lengths mean something.
            graph: Write a graph of usearch too, for approximate search of large collections.

        Raises:
            DataError: An id twice, or vectors that aren't one row of finite numbers for each text.
            MissingExtra: A graph is wanted, and usearch isn't installed.
        """
        if similarity not in get_args(Similarity):
            raise ValueError(f"similarity must be one of {', '.join(get_args(Similarity))}, got {similarity!r}")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        known: dict[tuple[str, bytes], NDArray[np.float32]] = {}
        if (folder / _RECORD).exists():
            old = cls(folder, embed)
            if old.similarity == similarity:
                keys = zip(old._ids.to_pylist(), old._digests.to_pylist(), strict=True)
                known = {key: old._vectors[i] for i, key in enumerate(keys)}
        ids, digests, rows = [], [], []
        with progress(None, "embedding") as bar:
            for doc_id, digest, vector in _embedded(documents, embed, similarity, known):
                ids.append(doc_id)
                digests.append(digest)
                rows.append(vector)
                bar.update(1)
        if len(set(ids)) != len(ids):
            doubled = next(doc_id for doc_id, times in Counter(ids).items() if times > 1)
            raise DataError(f"the id {doubled!r} occurs twice")
        if len({len(row) for row in rows}) > 1:
            raise DataError(f"vectors of {sorted({len(row) for row in rows})} numbers; embed all with one model")
        matrix = np.stack(rows) if rows else np.empty((0, 1), np.float32)
        _write(folder, ids, digests, matrix, similarity, graph)
        return cls(folder, embed)

    def search(self, query: str | ArrayLike, k: int = 10, *, exact: bool = False) -> list[DenseHit]:
        """The k nearest documents.

        Args:
            query: A text, or its vector.
            k: How many at most.
            exact: Compare with every vector, also where there is a graph.

        Returns:
            Hits by descending similarity; of an exact search equal ones by the order of the documents.
        """
        return self.search_batch([query], k, exact=exact)[0]

    def search_batch(
        self,
        queries: Sequence[str | ArrayLike],
        k: int = 10,
        *,
        exact: bool = False,
        allowed: Container[str] | None = None,
    ) -> list[list[DenseHit]]:
        """The k nearest documents of each query.

        Args:
            queries: Texts, or vectors.
            k: How many at most for each.
            exact: Compare with every vector, also where there is a graph.
            allowed: Ids of documents that may be found; None for all. With some left out, search is exact.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if not len(queries) or not len(self):
            return [[] for _ in queries]
        texts = [query for query in queries if isinstance(query, str)]
        embedded = iter(_checked(self.embed(texts), len(texts)) if texts else ())
        rows = [next(embedded) if isinstance(query, str) else np.asarray(query, np.float32) for query in queries]
        vectors = _scaled(np.stack(rows), self.similarity)
        if vectors.shape[1] != self._vectors.shape[1]:
            raise DataError(f"a query of {vectors.shape[1]} numbers, documents have {self._vectors.shape[1]}")
        some = None
        if allowed is not None:
            some = np.array([i for i, doc_id in enumerate(self._ids.to_pylist()) if doc_id in allowed], np.int64)
            some = None if len(some) == len(self) else some
        if self._graph is not None and not exact and some is None:
            return [self._near(self._graph, vector, k) for vector in vectors]
        return [self._nearest(vector, k, some) for vector in vectors]

    def verify(self) -> list[str]:
        """Check every byte; a message for each file that is damaged, none if all is well."""
        return _damaged(self.path, _read_record(self.path), every_byte=True)

    def _nearest(self, vector: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None) -> list[DenseHit]:
        some = self._vectors if rows is None else self._vectors[rows]
        if not len(some):
            return []
        scores = np.concatenate([some[i : i + _ROWS] @ vector for i in range(0, len(some), _ROWS)])
        best = np.arange(len(scores))
        if k < len(scores):
            least = np.partition(scores, -k)[-k]
            best = np.flatnonzero(scores >= least)
        best = best[np.argsort(-scores[best], kind="stable")][:k]
        numbers = best if rows is None else rows[best]
        return [
            DenseHit(self._ids[number].as_py(), float(score))
            for number, score in zip(numbers.tolist(), scores[best].tolist(), strict=True)
        ]

    def _near(self, graph: Any, vector: NDArray[np.float32], k: int) -> list[DenseHit]:
        found = graph.search(vector, min(k, len(self)))
        return [
            DenseHit(self._ids[int(key)].as_py(), 1 - float(distance))
            for key, distance in zip(found.keys, found.distances, strict=True)
        ]


def _embedded(
    documents: Iterable[tuple[str, str]],
    embed: Embed,
    similarity: Similarity,
    known: dict[tuple[str, bytes], NDArray[np.float32]],
) -> Iterator[tuple[str, bytes, NDArray[np.float32]]]:
    """(id, digest of the text, vector) of each document."""
    iterator = iter(documents)
    while some := list(islice(iterator, _AT_ONCE)):
        digests = [hashlib.sha256(text.encode()).digest()[:16] for _, text in some]
        new = [i for i, (doc_id, _) in enumerate(some) if (doc_id, digests[i]) not in known]
        fresh = iter(_scaled(_checked(embed([some[i][1] for i in new]), len(new)), similarity) if new else ())
        for (doc_id, _), digest in zip(some, digests, strict=True):
            vector = known.get((doc_id, digest))
            yield doc_id, digest, next(fresh) if vector is None else vector


def _checked(vectors: ArrayLike, n: int) -> NDArray[np.float32]:
    array = np.asarray(vectors, np.float32)
    if array.ndim != 2 or len(array) != n:
        raise DataError(f"embedding {n} texts gave an array of shape {array.shape}; one row for each is needed")
    if not np.isfinite(array).all():
        raise DataError("embedding gave numbers that are not finite")
    return array


def _scaled(vectors: NDArray[np.float32], similarity: Similarity) -> NDArray[np.float32]:
    if similarity == "dot":
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


# --- files ------------------------------------------------------------------------------------------------------------


def _write(
    folder: Path,
    ids: list[str],
    digests: list[bytes],
    matrix: NDArray[np.float32],
    similarity: Similarity,
    graph: bool,
) -> None:
    name = f"dense-{secrets.token_hex(8)}"
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    columns = {"id": pa.array(ids, pa.string()), "digest": pa.array(digests, _DIGEST), "vector": vectors}
    write_arrow(folder / f"{name}.arrow", columns)
    if graph:
        _write_graph(folder / f"{name}.usearch", matrix)
    files = {}
    for path in sorted(folder.glob(f"{name}.*")):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
        sync(path)
    record = {
        "format": _FORMAT,
        "name": name,
        "vectors": len(ids),
        "dimensions": matrix.shape[1],
        "similarity": similarity,
        "graph": graph,
        "files": files,
    }
    partial = folder / f"{_RECORD}.tmp"
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    sync(partial)
    sync(folder)
    partial.replace(folder / _RECORD)
    sync(folder)
    for path in folder.iterdir():
        if _NAME.fullmatch(path.stem) and path.stem != name:
            with suppress(OSError):  # somebody may have it open, on systems where that matters
                path.unlink()


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != _FORMAT:
            raise IndexFormatError(f"{path}: format {record['format']}, this version reads {_FORMAT}: embed again")
        sound = (
            _NAME.fullmatch(record["name"])
            and record["similarity"] in get_args(Similarity)
            and isinstance(record["dimensions"], int)
            and record["dimensions"] > 0
            and all(_NAME.fullmatch(Path(name).stem) and Path(name).name == name for name in record["files"])
        )
    except FileNotFoundError:
        raise IndexFormatError(f"{folder}: no dense vectors here: it has no {_RECORD}") from None
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise CorruptIndex(f"{path}: damaged: values are missing or make no sense; embed the documents again")
    if wrong := _damaged(folder, record, every_byte=False):
        raise CorruptIndex("\n".join(wrong))
    return dict(record)


def _damaged(folder: Path, record: dict[str, Any], *, every_byte: bool) -> list[str]:
    """A message for each file that isn't as it was written; of large ones only the size is looked at, unless told."""
    wrong = []
    for name, entry in record["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: missing; embed the documents again")
        elif path.stat().st_size != entry["bytes"] or (
            (every_byte or entry["bytes"] <= CHECKED_AT_OPEN) and digest_file(path) != entry["sha256"]
        ):
            wrong.append(f"{path}: damaged: not as it was written; embed the documents again")
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
    graph.save(str(path))


def _open_graph(path: Path) -> Any:
    return _usearch().Index.restore(str(path), view=True)
