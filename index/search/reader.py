"""Reader: searches, looks up and explains the documents of one commit; the base class of `Index`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.encode.base import Encoder
from lsr.errors import DataError
from lsr.index.search.device import DeviceSearcher
from lsr.index.search.duplicates import Duplicate, duplicates
from lsr.index.search.explain import Explanation, explain_document, query_words
from lsr.index.search.find import find, hits_by_id, hits_of, place_of, searched, with_dense
from lsr.index.search.hits import Hits
from lsr.index.search.hybrid_search import dense_width, require_dense
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.opened import Opened
from lsr.index.search.operators import TextQuery
from lsr.index.search.query_encoder import Query, QueryEncoding, as_queries, checked_k, search_settings
from lsr.index.search.recall import recall, sample_queries
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.searcher import Searcher
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions
from lsr.index.search.stored_documents import StoredDocuments
from lsr.index.search.words import SnapshotWords, Suggestion, Words
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.io.document import require_id
from lsr.notebook import html_table
from lsr.sparse import SparseMatrix


class Reader(StoredDocuments, QueryEncoding):
    """Searches the documents of one commit; `StoredDocuments` defines the calls that look up documents.

    Attributes:
        path: The index's folder.

    Args:
        opened: The commit.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    @property
    def path(self) -> Path:
        return self._opened.path

    @property
    def _given_encoder(self) -> Encoder | None:
        return self._opened.encoder

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.path}: a pinned reader can't be sent to another process: send the index or its path, and the other "
            "process opens it"
        )

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self)} documents, {self.fingerprint})"

    def to_dict(self) -> dict[str, Any]:
        """Return path, sizes and features as a JSON-serializable dict."""
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
        """Return a reader of the current commit; its documents and their numbers (`Hit.doc`) never change."""
        return Reader(Opened(self.path, self._snapshot, self._given_encoder))

    @property
    def shared(self) -> IndexEncoder:
        """The encoder and vocabulary that the index stores."""
        return self._snapshot.shared

    def _over(self, encoder: Encoder | None) -> Encoder:
        return self._snapshot.encoder(encoder)

    @property
    def searcher(self) -> Searcher:
        """The searcher over the postings."""
        return self._snapshot.searcher

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
        """Return the k best documents for a query.

        Args:
            query: A text, a {token: weight} mapping, a mapping with a "text", or a matrix of one row.
            k: Maximum number of hits. A sparse search finds only documents that share a term with the query.
            where: A filter on metadata; see `lsr.index.segment.filters`.
            dense: (width,) the query's dense vector, for modes "hybrid" and "dense"; by default the text is encoded.
            settings: Fields of `SearchSettings` (mode, algorithm, alpha, beta, guaranteed, cut, heap_factor,
                best_passages, dense_weight) and of `lsr.index.search.options.Options` (offset, min_score, group_by,
                per_group, sort, boost, facets, total, diversity, syntax, rerank, rerank_unit, depth, passages,
                fields). By default, the search is exact. It uses sparse vectors, and also dense vectors if the index
                was built with hybrid=True.

        Returns:
            Hits by descending score, unless an option sets another order; ties in the order in which documents were
            added.

        Raises:
            EncoderError: The query is a text, but the index has no encoder.
            DataError: A filter or an option names a column that doesn't exist or has the wrong kind.
            RerankerError: A re-ranker fails.
        """
        return self.prepare(query, k, where=where, dense=dense, **settings)()

    def prepare(
        self,
        query: Query,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Callable[[], Hits]:
        """Encode a query, and return a function that runs the search; arguments and errors as for `search`."""
        request, reader = SearchRequest.of(k, where, settings), self.pinned()
        query, text = request.options.split(query)
        vector = reader.query_vector(query, "search")
        one = query if isinstance(query, SparseMatrix) else [query]
        request, (near,) = reader._with_dense(request, one, vector, None if dense is None else [dense])
        return partial(reader._find, EncodedQuery(query, vector, near), request, request.criteria(text))

    def search_batch(
        self,
        queries: Iterable[str | Mapping[str, Any]] | SparseMatrix,
        k: int = 10,
        *,
        threads: int = 0,
        where: Where | Filter | None = None,
        dense: Sequence[ArrayLike] | NDArray[np.float32] | None = None,
        device: str | None = None,
        **settings: Unpack[SearchOptions],
    ) -> list[Hits]:
        """Search for many queries, on all cores or on a GPU.

        Args:
            queries: Texts, {token: weight} mappings, or a matrix with a row for each query.
            k: Maximum number of hits for each query.
            threads: Number of threads; 0 for one per core.
            where: As for `search`.
            dense: As for `search`, with a vector for each query.
            device: PyTorch device that scores the postings, such as "cuda"; None for the CPU kernels. Only exact sparse
                searches can use a device; results are the same. The first search copies the postings into the device's
                memory.
            settings: As for `search`.

        Returns:
            The hits of each query.

        Raises:
            ValueError: As for `search`; or the device doesn't fit the search or can't be used.
            MissingExtra: A device is given, but PyTorch isn't installed.
        """
        request, reader = SearchRequest.of(k, where, settings), self.pinned()
        asked: Any = queries if isinstance(queries, SparseMatrix) else as_queries(queries)
        if device is not None and (dense is not None or not request.plainly_sparse):
            raise ValueError(f"device={device!r} is for exact sparse searches without further options: leave it out")
        texts: list[TextQuery | None] = [None] * len(asked)
        if request.options.syntax != "plain":
            parts = [request.options.split(query) for query in asked]
            asked, texts = [query for query, _ in parts], [text for _, text in parts]
        vectors = reader.query_vectors(asked)
        if device is not None:
            request = request.with_mode(asked, None, has_dense=False)
        request, near = reader._with_dense(request, asked, vectors, None if dense is None else list(dense))
        given = [None] * len(vectors) if isinstance(asked, SparseMatrix) else asked
        encoded = [EncodedQuery(given[i], vectors[i], near[i]) for i in range(len(vectors))]
        if device is not None or (request.options.plain and request.settings.mode == "sparse"):
            return reader._find_together(encoded, request, threads, device)
        reader._snapshot.mask(request.where)  # compute it once, before the threads need it

        def one(i: int) -> Hits:
            return reader._find(encoded[i], request, request.criteria(texts[i]))

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(one, range(len(encoded))))

    def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """Return the k documents most similar to a given document, by stored vectors, without the document itself.

        The modes hybrid and dense use the document's dense vector; "auto" is "hybrid" in an index built with
        hybrid=True.

        Args:
            doc_id: Id of the document, or of a passage. For a document cut into passages, all passages are used.
            k: Maximum number of hits.
            where: As for `search`.
            settings: As for `search`.

        Raises:
            DataError: No document has this id.
        """
        request, reader, doc_id = SearchRequest.of(k, where, settings), self.pinned(), require_id(doc_id)
        if (like := reader._snapshot.like(doc_id)) is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        dense, request = None, request.with_mode([like.content], None, has_dense=reader.has_dense)
        if request.settings.mode != "sparse":
            dense = like.dense
            require_dense(dense_width(reader._snapshot), self.path)
        query = EncodedQuery(like.content, reader.as_query(like.vectors), dense)
        return reader._find(query, request, request.criteria(without=(like.id,)))

    def _find(self, query: EncodedQuery, request: SearchRequest, criteria: Criteria) -> Hits:
        return find(
            self._snapshot,
            query,
            request,
            criteria,
            compared=self.compared,
            explain=self._explain,
            encoder=lambda: self.encoder,
        )

    def _find_together(
        self, queries: Sequence[EncodedQuery], request: SearchRequest, threads: int, device: str | None
    ) -> list[Hits]:
        snapshot = self._snapshot
        mask, k = snapshot.mask(request.where), request.k
        if device is None:
            vectors = [query.vector.row(0) for query in queries]
            ranked = snapshot.searcher.search_batch(vectors, snapshot.depth(k), request.settings, mask, threads=threads)
        else:
            searcher = snapshot.kept(f"device {device}", partial(DeviceSearcher, snapshot.searcher, device))
            ranked = searcher.search([query.vector for query in queries], snapshot.depth(k), mask)
        found = (
            snapshot.top(query.vector, k, request.settings, mask, first=first)
            for query, first in zip(queries, ranked, strict=True)
        )
        return [hits_of(snapshot, query, *top, self._explain) for query, top in zip(queries, found, strict=True)]

    def _with_dense(
        self,
        request: SearchRequest,
        queries: Sequence[Any] | SparseMatrix,
        vectors: SparseMatrix,
        given: Sequence[ArrayLike] | None,
    ) -> tuple[SearchRequest, Sequence[NDArray[np.float32] | None]]:
        width = dense_width(self._snapshot)
        return with_dense(
            request, queries, lambda: vectors, given, width=width, path=self.path, encoder=lambda: self.encoder
        )

    def explain_plan(
        self, query: Query, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Run a search and report which algorithm ran and how many blocks, windows and postings it touched.

        Args:
            query: As for `search`.
            k: Number of documents. If documents are cut into passages, a search may need several rounds; the plan
                covers the first round.
            where: As for `search`.
            settings: Fields of `SearchSettings`.
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
        """Measure the recall of approximate settings against exact search, to choose alpha, or cut and heap_factor.

        Args:
            queries: As for `search_batch`. By default `sample()`, which is good for comparing settings, but predicts
                the recall of real queries less well.
            k: Number of documents, or of passages if documents are cut.
            settings: Fields of `SearchSettings`.

        Returns:
            The number of returned documents whose scores reach the k-th best score, divided by the number of documents
            that exact search returns, both summed over all queries; 1.0 if exact search finds nothing.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        checked_k(k)
        chosen = search_settings(settings)
        vectors = self.sample() if queries is None else self.query_vectors(queries)
        return recall(self._snapshot.searcher, vectors, k, chosen)

    def sample(self) -> SparseMatrix:
        """Return 200 documents, cut to their 24 heaviest terms, as queries; the same ones on every call.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        return sample_queries(self.searcher, self.query_factors)

    def hits(self, query: SparseMatrix, scores: Mapping[str, float]) -> Hits:
        """Make hits from documents that another search found; unknown ids are skipped.

        Args:
            query: The query for explanations, one row.
            scores: {document id: score}, best first.
        """
        reader = self.pinned()
        return hits_by_id(reader._snapshot, query, scores, reader._explain)

    def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """Suggest corrections for a query's unknown words, which no document contains.

        Args:
            text: The query.
            limit: Maximum number of corrections for each word.

        Returns:
            {unknown word: similar words of the documents, best first}. Lists may be empty.

        Raises:
            EncoderError: The index has no encoder.
        """
        return self._words.corrections(text, limit)

    def did_you_mean(self, text: str) -> str | None:
        """Return the query with its unknown words corrected, or None if there is nothing to correct."""
        return self._words.corrected(text)

    def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """Suggest completions while a user types: first texts with the last word completed, then titles.

        Args:
            text: What the user has typed.
            limit: Maximum number of words, and of titles.

        Raises:
            EncoderError: The index has no encoder.
        """
        return self._words.suggestions(text, limit)

    @property
    def _words(self) -> Words:
        return Words(SnapshotWords(self._snapshot), self.encoder)

    def compared_vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """Return the vectors of the documents with these numbers, weighted by `compared`."""
        return self.compared(self.document_vectors(docs))

    def duplicates(self, threshold: float = 0.9, *, where: Where | Filter | None = None) -> list[Duplicate]:
        """Find all pairs of documents (or passages of different documents) with at least a given cosine.

        Args:
            threshold: Minimum cosine, above 0 and at most 1. Lower values take longer.
            where: Compare only documents that match this filter.

        Returns:
            Pairs by descending similarity.

        Raises:
            ValueError: The threshold is out of range.
            DataError: The filter names a column that doesn't exist or has another kind.
        """
        snapshot = self._snapshot
        allowed = None if where is None else snapshot.documents.allowed(as_filter(where))
        return duplicates(snapshot, threshold, self.compared, allowed)

    def explain(
        self,
        query: Query,
        doc_id: str | int,
        *,
        origins: bool = True,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[RankingOptions],
    ) -> Explanation:
        """Explain a document's score for a query; the document need not be among the hits.

        Args:
            query: A text, a {token: weight} mapping, or a matrix of one row.
            doc_id: The document's id; a whole number is converted to a string, as when adding documents. If a document
                is cut into passages, its best passage is explained. To explain another passage, pass its id.
            origins: Find the words that expansions come from; this runs the document encoder, if available.
            where: The filter of the search. It affects hybrid scores, because these are relative to the best sparse
                score of the documents that match the filter.
            dense: As for `search`.
            settings: Fields of `SearchSettings`, for the modes "hybrid" and "dense".

        Raises:
            DataError: No document has this id.
        """
        reader, doc_id = self.pinned(), require_id(doc_id)
        vector, request = reader.query_vector(query, "explain"), SearchRequest.of(1, where, settings)
        one = query if isinstance(query, SparseMatrix) else [query]
        request, (near,) = reader._with_dense(request, one, vector, None if dense is None else [dense])
        encoded = searched(reader._snapshot, EncodedQuery(query, vector, near), request.criteria())
        if (doc := place_of(reader._snapshot, encoded, doc_id)) is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        return reader._explain(encoded, doc, origins=origins)

    def _explain(self, query: EncodedQuery, doc: int, *, origins: bool = True) -> Explanation:
        has_encoder = self._given_encoder is not None or bool(self._snapshot.shared.encoder_files)
        encoder = self._snapshot.encoder(self._given_encoder) if has_encoder else None
        explanation = explain_document(self._snapshot, encoder, query, doc, origins=origins)
        return explanation if encoder is None else explanation.named(query_words(encoder, query.given))
