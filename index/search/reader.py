"""Reader: what an index is, and searching it; `Index` is built on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode.base import Encoder
from lsr.errors import DataError
from lsr.index.search.explain import Explanation, explain_document
from lsr.index.search.hits import Hit
from lsr.index.search.hybrid_search import hybrid_top, require_dense
from lsr.index.search.query_encoder import Query, QuerySide, as_queries, checked_k, search_settings
from lsr.index.search.searcher import Mask, Searcher
from lsr.index.search.settings import Plan, SearchSettings
from lsr.index.search.snapshot import Shared, Snapshot
from lsr.index.segment.doc_store import AllDocuments
from lsr.index.segment.filters import Filter, Where
from lsr.index.storage.arrow_file import damage
from lsr.index.storage.manifest import check_files
from lsr.io.corpus import require_id
from lsr.sparse import MAX_TERMS, SparseMatrix

_SAMPLE = (200, 24)  # documents that serve as queries, and how many terms of each


class Reader(QuerySide):
    """Searches a snapshot of an index.

    Attributes:
        path: The folder.
    """

    path: Path

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None) -> None:
        super().__init__(path, encoder)
        self._snapshot = snapshot

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.path}: what is pinned can't leave its process: send the index itself, which is opened there anew, "
            "or its path"
        )

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self)} documents, {self.fingerprint})"

    @property
    def documents(self) -> AllDocuments:
        """Ids and texts."""
        return self._snapshot.documents

    @property
    def snapshot(self) -> Snapshot:
        """What is searched now, as it was committed."""
        return self._snapshot

    def pinned(self) -> Reader:
        """The same documents, with the same numbers (`Hit.doc`), whatever is committed or merged meanwhile."""
        return Reader(self.path, self._snapshot, self._given_encoder)

    @property
    def searcher(self) -> Searcher:
        """Postings."""
        return self._snapshot.searcher

    @property
    def shared(self) -> Shared:
        """What encodes queries, as the index carries it."""
        return self._snapshot.shared

    def _over(self, encoder: Encoder | None) -> Encoder:
        return self._snapshot.encoder(encoder)

    @property
    def has_passages(self) -> bool:
        """Whether documents were cut into passages."""
        return self._snapshot.has_passages

    @property
    def has_clusters(self) -> bool:
        """Whether it has clusters, for approximate search."""
        return all(part.segment.clusters is not None for part in self._snapshot.parts)

    @property
    def max_error(self) -> float:
        """The largest difference between a document's weight and what is stored for it."""
        return max((float(part.entry["max_error"]) for part in self._snapshot.parts), default=0.0)

    @property
    def n_postings(self) -> int:
        """Number of stored weights, those of deleted documents too as long as they aren't merged away."""
        return sum(int(part.entry["n_postings"]) for part in self._snapshot.parts)

    @property
    def n_segments(self) -> int:
        """Number of segments."""
        return len(self._snapshot.parts)

    @property
    def damaged(self) -> list[str]:
        """Messages about damaged files, of what was left out with `skip_damaged`."""
        return list(self._snapshot.damaged)

    def document_frequencies(self, terms: NDArray[Any]) -> NDArray[np.int64]:
        """(n,) int64, how many documents that aren't deleted have each of (n,) terms; of passages each counts."""
        return self._snapshot.frequencies(terms)

    def file_sizes(self) -> dict[str, int]:
        """Bytes of each kind of file."""
        sizes: dict[str, int] = {}
        for manifest in self._snapshot.manifests:
            for name, entry in manifest["files"].items():
                kind = name.partition("/")[2] or "alive.arrow"
                sizes[kind] = sizes.get(kind, 0) + int(entry["bytes"])
        return sizes

    # --- searching -------------------------------------------------------------------------------------------------

    def search(self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Any) -> list[Hit]:
        """The k best documents.

        Args:
            query: A text, a {token: weight} mapping, a mapping with a "text", or a matrix of one row.
            k: How many at most. Documents that share no term with the query are never among them.
            where: Which documents may be found, by their metadata: `lsr.index.segment.filters` tells how.
            settings: Of `SearchSettings`: mode, algorithm, alpha, beta, guaranteed, cut, heap_factor, best_passages,
                dense_weight. Without any the search is one of the sparse vectors, and exact.

        Returns:
            Hits by descending score; equal scores by the order in which the documents were added.

        Raises:
            EncoderError: A text, but the index has no encoder.
            DataError: A filter on a column that no document has, or of another kind.
        """
        chosen = search_settings(settings)
        vector = self.query_vector(query, "search")
        checked_k(k)
        snapshot = self._snapshot
        dense = self._dense_queries(snapshot, [query], chosen)
        return self._hits(snapshot, vector, *_top(snapshot, vector, dense[0], k, chosen, snapshot.mask(where)))

    def _dense_queries(
        self, snapshot: Snapshot, queries: Sequence[Any] | SparseMatrix, settings: SearchSettings
    ) -> Sequence[NDArray[np.float32] | None]:
        """The dense vectors of queries, where they are wanted."""
        if settings.mode == "sparse":
            return [None] * len(queries)
        require_dense(snapshot, self.path)
        texts = [query for query in as_queries(queries) if isinstance(query, str)]
        if len(texts) != len(queries):
            raise DataError(f'mode "{settings.mode}" is for texts: only those have a dense vector', "query")
        return list(self.encoder.encode_dense(texts, queries=True)) if texts else []

    def search_batch(
        self,
        queries: Iterable[str | Mapping[str, Any]] | SparseMatrix,
        k: int = 10,
        *,
        threads: int = 0,
        where: Where | Filter | None = None,
        **settings: Any,
    ) -> list[list[Hit]]:
        """The k best documents of many queries, on all cores.

        Args:
            queries: Texts, {token: weight} mappings, or a matrix with a row for each.
            k: How many at most for each.
            threads: Cores to use; 0 for all.
            where: As for `search`.
            settings: As for `search`.
        """
        chosen = search_settings(settings)
        queries = queries if isinstance(queries, SparseMatrix) else as_queries(queries)
        vectors = self.query_vectors(queries)
        rows = [vectors[i] for i in range(len(vectors))]
        checked_k(k)
        snapshot = self._snapshot
        mask = snapshot.mask(where)
        dense = self._dense_queries(snapshot, queries, chosen)
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            found = list(pool.map(lambda row, near: _top(snapshot, row, near, k, chosen, mask), rows, dense))
        return [self._hits(snapshot, row, docs, scores) for row, (docs, scores) in zip(rows, found, strict=True)]

    def explain_plan(self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Any) -> Plan:
        """Search, and tell what ran and how many blocks, windows and postings it touched.

        Args:
            query: As for `search`.
            k: How many documents; for passages, what the first step toward k documents does.
            where: As for `search`.
            settings: As for `search`.
        """
        vector = self.query_vector(query, "explain_plan")
        checked_k(k)
        terms, weights = vector.row(0)
        snapshot = self._snapshot
        mask = snapshot.mask(where)
        return snapshot.searcher.plan(terms, weights, snapshot.depth(k), search_settings(settings), mask)

    def recall(
        self, queries: Iterable[str | Mapping[str, Any]] | SparseMatrix | None = None, k: int = 10, **settings: Any
    ) -> float:
        """How much of the exact result a search finds: to choose alpha, or cut and heap_factor.

        Args:
            queries: As for `search_batch`. None takes `sample()`: that says more of how settings compare than of what
                real queries would find.
            k: How many documents; of an index of passages, how many passages.
            settings: As for `search`.

        Returns:
            The share of the places of the exact results that hold documents whose scores reach the k-th best; 1.0
            where nothing is to be found.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        checked_k(k)
        chosen = search_settings(settings)
        searcher = self._snapshot.searcher
        vectors = self.sample() if queries is None else self.query_vectors(queries)

        def count(i: int) -> tuple[int, int]:
            terms, weights = vectors.row(i)
            _, exact = searcher.search(terms, weights, k)
            _, found = searcher.search(terms, weights, k, chosen)
            return int((found >= exact[-1]).sum()) if len(exact) else 0, len(exact)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hits, places = np.array(list(pool.map(count, range(len(vectors)))), np.int64).reshape(-1, 2).sum(axis=0)
        return float(hits / places) if places else 1.0

    def sample(self) -> SparseMatrix:
        """200 documents, cut to their 24 heaviest terms, as queries: always the same ones.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        drawn = self.searcher.sample(*_SAMPLE)
        factors = self.query_factors(np.arange(drawn.shape[1]))
        rows = [(terms[factors[terms] > 0], weights[factors[terms] > 0]) for terms, weights in drawn.rows()]
        return SparseMatrix.from_rows([(terms, weights * factors[terms]) for terms, weights in rows], drawn.shape[1])

    def contents(self) -> Iterator[tuple[str, str]]:
        """(id, title and text) of all documents, of passages each, in the order of addition."""
        documents = self._snapshot.documents
        for doc in documents.numbers():
            yield documents.id(doc), documents.content(doc)

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64, what a document's weights of (n,) terms are multiplied with to stand for a query: IDF, of an
        encoder that has it in its queries.
        """
        if self._given_encoder is None and not self.shared.encoder_files:
            return np.ones(len(terms))
        return self.encoder.query_factors(terms)

    def document_vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """The stored vectors of some documents, by their numbers (`Hit.doc`); a few milliseconds each."""
        searcher, rows = self._snapshot.searcher, []
        for doc in docs:
            number, within = searcher.locate(doc)
            segment = searcher.segments[number]
            with damage(segment.folder, "the postings are damaged"):
                terms, weights = segment.vector(within)
                SparseMatrix.from_rows([(terms, weights)], MAX_TERMS)
                rows.append((terms, weights))
        n_terms = max((int(terms[-1]) for terms, _ in rows if len(terms)), default=0) + 1
        return SparseMatrix.from_rows(rows, max(n_terms, self.fingerprint.vocabulary_size or 0))

    def hits(self, query: SparseMatrix, scores: Mapping[str, float]) -> list[Hit]:
        """Documents found otherwise as hits of a query; those that aren't there are left out.

        Args:
            query: One row; what explanations explain.
            scores: {id of a document: score}, best first.
        """
        snapshot, found = self._snapshot, []
        for doc_id, score in scores.items():
            doc = snapshot.documents.find(doc_id)
            if doc is None and snapshot.has_passages:
                doc = _best_passage(snapshot, query, doc_id)
            if doc is not None:
                found.append((doc, score))
        numbers, values = zip(*found, strict=True) if found else ((), ())
        return self._hits(snapshot, query, np.array(numbers, np.int64), np.array(values, np.float64))

    def _hits(
        self, snapshot: Snapshot, query: SparseMatrix, docs: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> list[Hit]:
        explain = partial(self._explain, snapshot, query)
        found = zip(docs.tolist(), scores.tolist(), strict=True)
        return [Hit(snapshot.documents, doc, score, explain) for doc, score in found]

    # --- explaining and checking -----------------------------------------------------------------------------------

    def explain(self, query: Query, doc_id: str | int, *, origins: bool = True) -> Explanation:
        """Why a document has its score for a query; the document need not be among the hits.

        Args:
            query: A text, a {token: weight} mapping, or a matrix of one row.
            doc_id: The document's id; a whole number is its text, as where documents are added.
            origins: Have the documents' model, where it is at hand, read the document again and tell which words its
                expansions come from.

        Raises:
            DataError: No document has this id.
        """
        snapshot, doc_id = self._snapshot, require_id(doc_id)
        doc = snapshot.documents.find(doc_id)
        if doc is None and self.has_passages and "#" not in doc_id:
            raise DataError(f"{self.path}: documents are cut into passages here; explain {doc_id + '#0'!r} or the like")
        if doc is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        vector = self.query_vector(query, "explain")
        return self._explain(snapshot, vector, doc, origins=origins)

    def _explain(self, snapshot: Snapshot, query: SparseMatrix, doc: int, *, origins: bool = True) -> Explanation:
        has_encoder = self._given_encoder is not None or bool(snapshot.shared.encoder_files)
        encoder = snapshot.encoder(self._given_encoder) if has_encoder else None
        return explain_document(snapshot, encoder, query, doc, origins=origins)

    def verify(self) -> list[str]:
        """Check every byte; a message for each file that is damaged, none if all is well."""
        return list(check_files(self.path, self._snapshot.manifest, every_byte=True).values())


def _top(
    snapshot: Snapshot,
    vector: SparseMatrix,
    dense: NDArray[np.float32] | None,
    k: int,
    settings: SearchSettings,
    mask: Mask | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k best documents of a query, by the vectors that the settings want."""
    if dense is None:
        return snapshot.top(vector, k, settings, mask)
    return hybrid_top(snapshot, vector, dense, k, settings, mask)


def _best_passage(snapshot: Snapshot, query: SparseMatrix, doc_id: str) -> int | None:
    """The passage of a document that scores highest; the first of those that score the same."""
    (terms, weights), searcher = query.row(0), snapshot.searcher
    passages = snapshot.documents.passages(doc_id)
    return max(passages, key=lambda doc: float(searcher.impacts_of(doc, terms) @ weights), default=None)
