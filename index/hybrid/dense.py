"""Dense vectors for the documents of an index, from any function that embeds texts; searched exactly or with usearch.

The first call of `DenseVectors.build` embeds all documents of an index; later calls embed only documents that changed.
lsr.index.hybrid.dense_files describes the files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, get_args
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from lsr.console import progress
from lsr.errors import CorruptIndex, DataError
from lsr.forks import cached_property
from lsr.index.hybrid.dense_clusters import DenseClusters
from lsr.index.hybrid.dense_files import (
    MEND,
    RECORD,
    Similarity,
    damaged_files,
    open_graph,
    open_vectors,
    read_record,
    write_dense,
)
from lsr.index.search.query_encoder import as_queries, checked_k
from lsr.index.segment.doc_store import Documents, hashes_of

Embed = Callable[[list[str]], ArrayLike]
# Maps k to the rows of the k nearest vectors, and their similarities.
Nearest = Callable[[int], tuple[NDArray[np.int64], NDArray[np.float32]]]
_AT_ONCE = 256  # texts embedded together
_ROWS = 1 << 16  # vectors compared with a query at a time


@dataclass(frozen=True)
class DenseHit:
    """A search result.

    Attributes:
        id: The document's id.
        score: Cosine or dot product.
    """

    id: str
    score: float


class DenseVectors:
    """Dense vectors of documents. Safe to search from many threads.

    Attributes:
        path: The folder.
        embed: Embeds queries, and documents in `build`.
        per_document: Number of vectors per document; the most similar one counts.
        segments: Names of the index's segments whose documents have exactly the texts that were embedded.
        clusters: The clusters of the vectors, or None if they were built without clusters.

    Args:
        path: The folder.
        embed: Maps n texts to (n, dimensions) numbers.

    Raises:
        IndexFormatError: The folder has no vectors.
        CorruptIndex: A file is missing, truncated or changed.
    """

    def __init__(self, path: str | PathLike[str], embed: Embed) -> None:
        self.path, self.embed = Path(path).absolute(), embed
        record = read_record(self.path)
        self.similarity: Similarity = record["similarity"]
        self.segments = frozenset(record.get("segments", ()))
        self._rows: WeakKeyDictionary[Documents, NDArray[np.int64]] = WeakKeyDictionary()
        batch = open_vectors(self.path / f"{record['name']}.arrow", record)
        self._ids, self._digests, vectors = batch.columns
        self.per_document: int = record["per_document"]
        shape = (len(batch), self.per_document, record["dimensions"])
        self._vectors = vectors.flatten().to_numpy().reshape(shape if self.per_document > 1 else shape[::2])
        self._graph = open_graph(self.path / f"{record['name']}.usearch", record) if record["graph"] else None
        self.clusters: DenseClusters | None = None
        if record["clusters"]:
            file = self.path / f"{record['name']}.clusters"
            self.clusters = DenseClusters.read(file, record["dimensions"], len(batch), MEND)

    def __len__(self) -> int:
        return len(self._ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return DenseVectors, (self.path.absolute(), self.embed)

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        documents: Iterable[tuple[str, str]],
        embed: Embed,
        *,
        embed_documents: Embed | None = None,
        similarity: Similarity = "cosine",
        graph: bool = False,
        clusters: bool = False,
        segments: Collection[str] = (),
    ) -> DenseVectors:
        """Embed documents; existing vectors of documents with the same id and text are reused.

        Args:
            path: The folder; created if needed.
            documents: (id, text) of all documents; vectors of other documents are dropped.
            embed: Maps n texts to (n, dimensions) numbers.
            embed_documents: Embeds documents, if `embed` is only for queries. Maps n texts to (n, dimensions) numbers;
                or to (n, m, dimensions) for m vectors of each text, as `lsr.encode.multi_vectors` does.
            similarity: "cosine", or "dot" for vectors with meaningful lengths.
            graph: Also write a usearch graph, for approximate search of large collections.
            clusters: Store the vectors by k-means clusters, so that `Hybrid(visit=…)` can read a part of them. Exact
                search then orders ties by cluster.
            segments: Names of the index's segments that together contain exactly these documents.

        Raises:
            DataError: An id is repeated, `embed` doesn't return a row of finite numbers for each text, or `graph` or
                `clusters` is set although documents have several vectors.
            MissingExtra: `graph` is set, but usearch isn't installed.
        """
        if similarity not in get_args(Similarity):
            raise ValueError(f"similarity must be one of {', '.join(get_args(Similarity))}, got {similarity!r}")
        folder = Path(path).absolute()
        known: dict[tuple[str, bytes], NDArray[np.float32]] = {}
        if (folder / RECORD).exists():
            old = cls(folder, embed)
            if old.similarity == similarity:
                keys = zip(old._ids.to_pylist(), old._digests.to_pylist(), strict=True)
                known = {key: old._vectors[i] for i, key in enumerate(keys)}
        ids, digests, rows = [], [], []
        with progress(None, "embedding") as bar:
            for doc_id, digest, vector in _embedded(documents, embed_documents or embed, similarity, known):
                ids.append(doc_id)
                digests.append(digest)
                rows.append(vector)
                bar.update(1)
        if len(set(ids)) != len(ids):
            doubled = next(doc_id for doc_id, times in Counter(ids).items() if times > 1)
            raise DataError(f"the id {doubled!r} occurs twice")
        if len({row.shape for row in rows}) > 1:
            raise DataError(f"vectors of {sorted({row.size for row in rows})} numbers; embed all with one model")
        matrix = np.stack(rows) if rows else np.empty((0, 1), np.float32)
        if matrix.ndim == 3 and (graph or clusters):
            raise DataError("graph and clusters take one vector of each document; there are several")
        made = None
        if clusters:
            made, order = DenseClusters.of(matrix)
            matrix, ids, digests = matrix[order], [ids[i] for i in order], [digests[i] for i in order]
        write_dense(folder, ids, digests, matrix, similarity, graph, segments, made)
        return cls(folder, embed)

    def search(self, query: str | ArrayLike, k: int = 10, *, exact: bool = False) -> list[DenseHit]:
        """Return the k nearest documents.

        Args:
            query: A text, or its vector.
            k: Maximum number of documents.
            exact: Compare with every vector even if there is a graph.

        Returns:
            Hits by descending similarity; in exact search, ties in document order.
        """
        return self.search_batch([query], k, exact=exact)[0]

    def search_batch(
        self, queries: Sequence[str | ArrayLike], k: int = 10, *, exact: bool = False
    ) -> list[list[DenseHit]]:
        """Return the k nearest documents for each query.

        Args:
            queries: Texts, or vectors.
            k: Maximum number of documents for each query.
            exact: Compare with every vector even if there is a graph.
        """
        checked_k(k)
        found = []
        for nearest in self.rankings(queries, exact=exact):
            rows, scores = nearest(k)
            hits = zip(self.ids(rows), scores.tolist(), strict=True)
            found.append([DenseHit(doc_id, score) for doc_id, score in hits])
        return found

    def rankings(
        self, queries: Sequence[str | ArrayLike], *, rows: NDArray[np.int64] | None = None, exact: bool = False
    ) -> Iterator[Nearest]:
        """Yield, for each query, a function that maps k to the k nearest vectors: rows and similarities, descending.

        Args:
            queries: Texts, or vectors.
            rows: (n,) ascending, the vectors that may be found; None for all. A restriction makes the search exact.
            exact: Compare with every vector even if there is a graph.
        """
        vectors = self.vectors_of_queries(queries)
        rows = None if rows is not None and len(rows) == len(self) else rows
        for vector in vectors:
            if self._graph is not None and not exact and rows is None and len(self):
                yield partial(self._near, self._graph, vector)
            else:
                yield self._exact(vector, rows)

    def vectors_of_queries(self, queries: Sequence[str | ArrayLike]) -> NDArray[np.float32]:
        """Return (n, dimensions) float32: the queries' vectors, scaled to length 1 for the cosine.

        Args:
            queries: Texts, or vectors.

        Raises:
            DataError: Vectors have another width or aren't finite.
        """
        queries = as_queries(queries)
        if not queries:
            return np.zeros((0, self._vectors.shape[-1]), np.float32)
        texts = [query for query in queries if isinstance(query, str)]
        embedded = iter(_checked(self.embed(texts), len(texts)) if texts else ())
        given = [next(embedded) if isinstance(query, str) else _vector(query) for query in queries]
        if not len(self):
            given = [np.zeros(self._vectors.shape[-1], np.float32) for _ in given]
        for vector in given:
            if vector.shape != self._vectors.shape[-1:]:
                numbers = "x".join(map(str, vector.shape))
                raise DataError(f"a query of {numbers} numbers, documents have {self._vectors.shape[-1]}")
        return _scaled(_checked(given, len(given)), self.similarity)

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return (n, dimensions) float32: the vectors of some rows, averaged if a document has several."""
        found = np.asarray(self._vectors[np.array(rows, np.int64)], np.float32)
        return found.mean(1) if found.ndim == 3 else found

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the document ids of some vectors."""
        ids: list[str] = self._ids.take(pa.array(rows)).to_pylist()
        return ids

    def rows_of(self, documents: Documents) -> NDArray[np.int64]:
        """Return (n_docs,) int64: the row of each document of a segment, found by id; -1 if it has no vector."""
        if documents in self._rows:
            return self._rows[documents]
        found = np.full(len(documents), -1, np.int64)
        mine, order = self._hashes
        hashes, docs = documents.keys()
        at = np.searchsorted(mine, hashes)
        known = np.flatnonzero(at < len(mine))
        known = known[mine[at[known]] == hashes[known]]
        docs, rows = docs[known].astype(np.int64), order[at[known]]
        if len(docs) and docs.max() >= len(documents):
            raise CorruptIndex(f"{self.path}: keys.arrow of the index is damaged; run lsr verify for details")
        same = pc.equal(documents.ids().take(pa.array(docs)), self._ids.take(pa.array(rows)))
        same = same.to_numpy(zero_copy_only=False).astype(bool) if len(docs) else np.zeros(0, bool)
        found[docs[same]] = rows[same]
        for row in order[1:][mine[1:] == mine[:-1]].tolist():  # all but the first of the ids with the same hash
            if (doc := documents.find(self._ids[row].as_py())) is not None:
                found[doc] = row
        self._rows[documents] = found
        return found

    def is_of(self, row: int, text: str) -> bool:
        """Whether a vector was computed from this text."""
        return bool(self._digests[row].as_py() == _digest(text))

    @cached_property
    def _hashes(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The hashes of the ids, ascending, and the row of each."""
        hashes = hashes_of(self._ids)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def verify(self) -> list[str]:
        """Check the checksum of every file; return a message for each damaged file."""
        return damaged_files(self.path, read_record(self.path), every_byte=True)

    def _exact(self, vector: NDArray[np.float32], rows: NDArray[np.int64] | None) -> Nearest:
        n = len(self) if rows is None else len(rows)
        scores = np.empty(n, np.float32)
        for i in range(0, n, _ROWS):
            some = self._vectors[i : i + _ROWS] if rows is None else self._vectors[rows[i : i + _ROWS]]
            products = some @ vector
            scores[i : i + _ROWS] = products.max(1) if products.ndim == 2 else products

        def nearest(k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            best = np.arange(n)
            if k < n:
                least = np.partition(scores, -k)[-k]
                best = np.flatnonzero(scores >= least)
            best = best[np.argsort(-scores[best], kind="stable")][:k]
            return best if rows is None else rows[best], scores[best]

        return nearest

    def _near(self, graph: Any, vector: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = graph.search(vector, min(k, len(self)))
        return np.asarray(found.keys, np.int64), 1 - np.asarray(found.distances, np.float32)


def _embedded(
    documents: Iterable[tuple[str, str]],
    embed: Embed,
    similarity: Similarity,
    known: dict[tuple[str, bytes], NDArray[np.float32]],
) -> Iterator[tuple[str, bytes, NDArray[np.float32]]]:
    """Yield (id, digest of the text, vector) for each document."""
    iterator = iter(documents)
    while some := list(islice(iterator, _AT_ONCE)):
        digests = [_digest(text) for _, text in some]
        new = [i for i, (doc_id, _) in enumerate(some) if (doc_id, digests[i]) not in known]
        fresh = iter(_scaled(_checked(embed([some[i][1] for i in new]), len(new), 3), similarity) if new else ())
        for (doc_id, _), digest in zip(some, digests, strict=True):
            vector = known.get((doc_id, digest))
            yield doc_id, digest, next(fresh) if vector is None else vector


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _checked(vectors: ArrayLike, n: int, most: int = 2) -> NDArray[np.float32]:
    """Validate vectors and return them as (n, dimensions) float32; if `most` is 3, (n, m, dimensions) is valid, too."""
    try:
        array = np.asarray(vectors, np.float32)
    except (TypeError, ValueError):
        raise DataError(
            f"embedding {n} texts gave no array of numbers; the result needs one row for each text, all of equal length"
        ) from None
    if not 2 <= array.ndim <= most or len(array) != n or not array[:1].size:
        raise DataError(
            f"embedding {n} texts gave an array of shape {array.shape}; the result needs one row for each text"
        )
    if not np.isfinite(array).all():
        raise DataError("embedding gave numbers that are not finite")
    return array[:, 0] if array.ndim == 3 and array.shape[1] == 1 else array


def _vector(query: Any) -> NDArray[np.float32]:
    try:
        return np.asarray(query, np.float32)
    except (TypeError, ValueError):
        raise TypeError(f"a query is a text or a vector of numbers, got {type(query).__name__}") from None


def _scaled(vectors: NDArray[np.float32], similarity: Similarity) -> NDArray[np.float32]:
    if similarity == "dot":
        return vectors
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
