"""Reader: what an index is, and searching it; `Index` is built on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.errors import DataError
from lsr.index.search.column_values import facet_order, require_columns
from lsr.index.search.explain import Explanation, explain_document, query_words
from lsr.index.search.hits import Hit, Hits
from lsr.index.search.hybrid_search import dense_width, hybrid_top
from lsr.index.search.lookup import Lookup
from lsr.index.search.matches import Matcher, SnapshotRanking
from lsr.index.search.operators import TextQuery
from lsr.index.search.options import Conditions, Options, split_options
from lsr.index.search.query_encoder import Query, as_queries, checked_k, search_settings
from lsr.index.search.searcher import Mask, Searcher
from lsr.index.search.selection import explained, select
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions, SearchSettings
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.filters import Filter, Where
from lsr.index.storage.manifest import check_files
from lsr.io.document import require_id
from lsr.notebook import html_table
from lsr.sparse import SparseMatrix

_SAMPLE = (200, 24)  # documents that serve as queries, and how many terms of each


class Reader(Lookup):
    """Searches a snapshot of an index.

    Attributes:
        path: The folder.
    """

    path: Path

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.path}: what is pinned can't leave its process: send the index itself, which is opened there anew, "
            "or its path"
        )

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self)} documents, {self.fingerprint})"

    def to_dict(self) -> dict[str, Any]:
        """What it is, as JSON can hold it."""
        return {
            "path": str(self.path),
            "documents": len(self),
            "segments": self.n_segments,
            "postings": self.n_postings,
            "bytes": sum(self.file_sizes().values()),
            "passages": self.has_passages,
            "clusters": self.has_clusters,
            "encoder": str(self.fingerprint),
        }

    def _repr_html_(self) -> str:
        return html_table([("", ""), *((key, str(value)) for key, value in self.to_dict().items())])

    def pinned(self) -> Reader:
        """The same documents, with the same numbers (`Hit.doc`), whatever is committed or merged meanwhile."""
        return Reader(self.path, self._snapshot, self._given_encoder)

    @property
    def searcher(self) -> Searcher:
        """Postings."""
        return self._snapshot.searcher

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

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """The k best documents.

        Args:
            query: A text, a {token: weight} mapping, a mapping with a "text", or a matrix of one row.
            k: How many at most. Documents that share no term with the query are never among them.
            where: Which documents may be found, by their metadata: `lsr.index.segment.filters` tells how.
            dense: (width,) the query's dense vector, for the modes hybrid and dense; by default its text is encoded.
            settings: Of `SearchSettings`: mode, algorithm, alpha, beta, guaranteed, cut, heap_factor, best_passages,
                dense_weight. Without any the search is one of the sparse vectors, and exact. And of
                `lsr.index.search.options.Options`: offset, min_score, group_by, per_group, sort, boost, facets,
                total, diversity, syntax, rerank, depth.

        Returns:
            Hits by descending score, if no option has another order; equal scores by the order in which the documents
            were added.

        Raises:
            EncoderError: A text, but the index has no encoder.
            DataError: A filter, or an option, on a column that no document has, or of another kind.
            RerankerError: A re-ranker fails.
        """
        options, chosen = split_options(settings)
        query, text = options.split(query)
        vector = self.query_vector(query, "search")
        checked_k(k)
        snapshot = self._snapshot
        one = query if isinstance(query, SparseMatrix) else [query]
        (near,) = self._dense_queries(snapshot, one, None if dense is None else [dense], chosen)
        if not options.plain:
            conditions = options.conditions(text)
            return self._selected(snapshot, query, vector, near, k, options, chosen, where, conditions)
        return self._hits(snapshot, query, vector, *_top(snapshot, vector, near, k, chosen, snapshot.mask(where)))

    def _dense_queries(
        self,
        snapshot: Snapshot,
        queries: Sequence[Any] | SparseMatrix,
        given: Sequence[ArrayLike] | None,
        settings: SearchSettings,
    ) -> Sequence[NDArray[np.float32] | None]:
        """The dense vectors of queries, where they are wanted."""
        if settings.mode == "sparse":
            if given is not None:
                raise ValueError('dense vectors of queries go with the modes "hybrid" and "dense"')
            return [None] * len(queries)
        width = dense_width(snapshot, self.path)
        if given is None:
            texts = [] if isinstance(queries, SparseMatrix) else [q for q in as_queries(queries) if isinstance(q, str)]
            if len(texts) != len(queries):
                raise DataError(f'mode "{settings.mode}" takes texts, or a dense vector for each query', "query")
            given = list(self.encoder.encode_dense(texts, queries=True)) if texts else []
        vectors = [np.asarray(vector, np.float32) for vector in given]
        if len(vectors) != len(queries) or any(v.shape != (width,) or not np.isfinite(v).all() for v in vectors):
            raise DataError(f"a dense vector for each query is needed, of {width} finite numbers", "query")
        return vectors

    def search_batch(
        self,
        queries: Iterable[str | Mapping[str, Any]] | SparseMatrix,
        k: int = 10,
        *,
        threads: int = 0,
        where: Where | Filter | None = None,
        dense: Sequence[ArrayLike] | NDArray[np.float32] | None = None,
        **settings: Unpack[SearchOptions],
    ) -> list[Hits]:
        """The k best documents of many queries, on all cores.

        Args:
            queries: Texts, {token: weight} mappings, or a matrix with a row for each.
            k: How many at most for each.
            threads: Cores to use; 0 for all.
            where: As for `search`.
            dense: As for `search`, one vector for each query.
            settings: As for `search`.
        """
        options, chosen = split_options(settings)
        asked: Any = queries if isinstance(queries, SparseMatrix) else as_queries(queries)
        texts: list[TextQuery | None] = [None] * len(asked)
        if options.syntax != "plain":
            parts = [options.split(query) for query in asked]
            asked, texts = [query for query, _ in parts], [text for _, text in parts]
        vectors = self.query_vectors(asked)
        rows = [vectors[i] for i in range(len(vectors))]
        checked_k(k)
        snapshot = self._snapshot
        mask = snapshot.mask(where)
        near = self._dense_queries(snapshot, asked, None if dense is None else list(dense), chosen)

        def find(i: int) -> Hits:
            query = None if isinstance(asked, SparseMatrix) else asked[i]
            if options.plain:
                return self._hits(snapshot, query, rows[i], *_top(snapshot, rows[i], near[i], k, chosen, mask))
            conditions = options.conditions(texts[i])
            return self._selected(snapshot, query, rows[i], near[i], k, options, chosen, where, conditions)

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(find, range(len(rows))))

    def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """The k documents that are most like one of them, by their stored vectors; it isn't among them.

        Args:
            doc_id: The document's id, or that of a passage. Of a document that is cut into passages all count.
            k: How many at most.
            where: As for `search`.
            settings: As for `search`.

        Raises:
            DataError: No document has this id.
        """
        options, chosen = split_options(settings)
        checked_k(k)
        snapshot, doc_id = self._snapshot, require_id(doc_id)
        if (like := snapshot.like(doc_id)) is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        vectors, own, content = like
        conditions = options.conditions(without=(own,))
        return self._selected(snapshot, content, self.as_query(vectors), None, k, options, chosen, where, conditions)

    def _selected(
        self,
        snapshot: Snapshot,
        query: Any,
        vector: SparseMatrix,
        dense: NDArray[np.float32] | None,
        k: int,
        options: Options,
        settings: SearchSettings,
        where: Where | Filter | None,
        conditions: Conditions,
    ) -> Hits:
        """The hits of a search with options."""
        require_columns(options, snapshot.documents.columns)
        matcher = Matcher(snapshot, vector, settings, conditions, where, dense=dense)
        reader = Reader(self.path, snapshot, self._given_encoder)
        found = select(SnapshotRanking(matcher, reader.compared_vectors), query, k, options)
        facets, total = None, None
        if options.counts:
            total, counts = matcher.facets(options.faceted)
            facets = {name: facet_order(counted) for name, counted in counts.items()}
        explain = explained(partial(self._explain, snapshot, query, vector), found, boosted=bool(options.boost))
        pairs = zip(found.docs, found.scores, strict=True)
        return Hits((Hit(snapshot.documents, *pair, explain) for pair in pairs), facets=facets, total=total)

    def explain_plan(
        self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Search, and tell what ran and how many blocks, windows and postings it touched.

        Args:
            query: As for `search`.
            k: How many documents; for passages, what the first step toward k documents does.
            where: As for `search`.
            settings: Of `SearchSettings`.
        """
        vector = self.query_vector(query, "explain_plan")
        checked_k(k)
        return self._snapshot.plan(vector, k, search_settings(settings), where)

    def recall(
        self,
        queries: Iterable[str | Mapping[str, Any]] | SparseMatrix | None = None,
        k: int = 10,
        **settings: Unpack[RankingOptions],
    ) -> float:
        """How much of the exact result a search finds: to choose alpha, or cut and heap_factor.

        Args:
            queries: As for `search_batch`. None takes `sample()`: that says more of how settings compare than of what
                real queries would find.
            k: How many documents; of an index of passages, how many passages.
            settings: Of `SearchSettings`.

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

    def hits(self, query: SparseMatrix, scores: Mapping[str, float]) -> Hits:
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
        return self._hits(snapshot, None, query, np.array(numbers, np.int64), np.array(values, np.float64))

    def _hits(
        self,
        snapshot: Snapshot,
        query: Any,
        vector: SparseMatrix,
        docs: NDArray[np.int64],
        scores: NDArray[np.float64],
    ) -> Hits:
        explain = partial(self._explain, snapshot, query, vector)
        found = zip(docs.tolist(), scores.tolist(), strict=True)
        return Hits(Hit(snapshot.documents, doc, score, explain) for doc, score in found)

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
        return self._explain(snapshot, query, vector, doc, origins=origins)

    def _explain(
        self, snapshot: Snapshot, query: Any, vector: SparseMatrix, doc: int, *, origins: bool = True
    ) -> Explanation:
        has_encoder = self._given_encoder is not None or bool(snapshot.shared.encoder_files)
        encoder = snapshot.encoder(self._given_encoder) if has_encoder else None
        explanation = explain_document(snapshot, encoder, vector, doc, origins=origins)
        return explanation if encoder is None else explanation.named(query_words(encoder, query))

    def verify(self) -> list[str]:
        """Check every byte; a message for each file that is damaged, none if all is well."""
        folders = self._snapshot.by_folder(self.path)
        return [
            wrong
            for folder, snapshot in folders
            for wrong in check_files(folder, snapshot.manifest, every_byte=True).values()
        ]


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
