"""Reader: the documents of one commit, searched, looked up and explained; `Index` is built on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from lsr.index.search.find import dense_queries, find, hits_by_id, hits_of
from lsr.index.search.hits import Hits
from lsr.index.search.hybrid_search import dense_width, require_dense
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.operators import TextQuery
from lsr.index.search.query_encoder import Query, QueryEncoding, as_queries, checked_k, search_settings
from lsr.index.search.recall import recall, sample_queries
from lsr.index.search.request import Criteria, EncodedQuery, SearchRequest
from lsr.index.search.searcher import Searcher
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions
from lsr.index.search.snapshot import Snapshot
from lsr.index.search.words import SnapshotWords, Suggestion, Words
from lsr.index.segment.doc_store import AllDocuments
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.storage.manifest import check_files
from lsr.io.document import Document, require_id
from lsr.notebook import html_table
from lsr.sparse import SparseMatrix


class Reader(QueryEncoding):
    """Searches the documents of one commit, and knows what there is to know of them.

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
    def documents(self) -> AllDocuments:
        """Ids and texts."""
        return self._snapshot.documents

    @property
    def snapshot(self) -> Snapshot:
        """What is searched now, as it was committed."""
        return self._snapshot

    @property
    def shared(self) -> IndexEncoder:
        """What encodes queries, as the index carries it."""
        return self._snapshot.shared

    def _over(self, encoder: Encoder | None) -> Encoder:
        return self._snapshot.encoder(encoder)

    @property
    def has_passages(self) -> bool:
        """Whether documents were cut into passages."""
        return self._snapshot.has_passages

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
                total, diversity, syntax, rerank, rerank_unit, depth, passages, fields.

        Returns:
            Hits by descending score, if no option has another order; equal scores by the order in which the documents
            were added.

        Raises:
            EncoderError: A text, but the index has no encoder.
            DataError: A filter, or an option, on a column that no document has, or of another kind.
            RerankerError: A re-ranker fails.
        """
        request, reader = SearchRequest.of(k, where, settings), self.pinned()
        query, text = request.options.split(query)
        vector = reader.query_vector(query, "search")
        one = query if isinstance(query, SparseMatrix) else [query]
        (near,) = reader._dense_queries(one, None if dense is None else [dense], request)
        return reader._find(EncodedQuery(query, vector, near), request, request.criteria(text))

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
        """The k best documents of many queries, on all cores or on a GPU.

        Args:
            queries: Texts, {token: weight} mappings, or a matrix with a row for each.
            k: How many at most for each.
            threads: Cores to use; 0 for all.
            where: As for `search`.
            dense: As for `search`, one vector for each query.
            device: Where PyTorch adds up the postings, "cuda" say; None for the processor's kernels. Of exact, sparse
                searches; the results are the same. The first such search brings the postings into its memory.
            settings: As for `search`.

        Raises:
            ValueError: As of `search`; or a device for another kind of search, or one that can't be used.
            MissingExtra: A device without PyTorch.
        """
        request, reader = SearchRequest.of(k, where, settings), self.pinned()
        if device is not None and (dense is not None or not request.plainly_sparse):
            raise ValueError(f"device={device!r} is for exact, sparse searches without further options: leave it out")
        asked: Any = queries if isinstance(queries, SparseMatrix) else as_queries(queries)
        texts: list[TextQuery | None] = [None] * len(asked)
        if request.options.syntax != "plain":
            parts = [request.options.split(query) for query in asked]
            asked, texts = [query for query, _ in parts], [text for _, text in parts]
        vectors = reader.query_vectors(asked)
        near = reader._dense_queries(asked, None if dense is None else list(dense), request)
        given = [None] * len(vectors) if isinstance(asked, SparseMatrix) else asked
        encoded = [EncodedQuery(given[i], vectors[i], near[i]) for i in range(len(vectors))]
        if device is not None:
            return reader._find_on(device, encoded, request)
        reader._snapshot.mask(request.where)  # once, before threads look for it

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
        """The k documents that are most like one of them, by their stored vectors; it isn't among them. With a mode, by
        their dense vectors, too.

        Args:
            doc_id: The document's id, or that of a passage. Of a document that is cut into passages all count.
            k: How many at most.
            where: As for `search`.
            settings: As for `search`.

        Raises:
            DataError: No document has this id.
        """
        request, reader, doc_id = SearchRequest.of(k, where, settings), self.pinned(), require_id(doc_id)
        if (like := reader._snapshot.like(doc_id)) is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        dense = None
        if request.settings.mode != "sparse":
            dense = like.dense
            require_dense(dense_width(reader._snapshot), self.path)
        query = EncodedQuery(like.content, reader.as_query(like.vectors), dense)
        return reader._find(query, request, request.criteria(without=(like.id,)))

    def _find(self, query: EncodedQuery, request: SearchRequest, criteria: Criteria) -> Hits:
        return find(self._snapshot, query, request, criteria, compared=self.compared, explain=self._explain)

    def _find_on(self, device: str, queries: Sequence[EncodedQuery], request: SearchRequest) -> list[Hits]:
        snapshot = self._snapshot
        mask, k = snapshot.mask(request.where), request.k
        searcher = snapshot.kept(f"device {device}", partial(DeviceSearcher, snapshot.searcher, device))
        ranked = searcher.search([query.vector for query in queries], snapshot.depth(k), mask)
        found = (
            snapshot.top(query.vector, k, request.settings, mask, first=first)
            for query, first in zip(queries, ranked, strict=True)
        )
        return [hits_of(snapshot, query, *top, self._explain) for query, top in zip(queries, found, strict=True)]

    def _dense_queries(
        self, queries: Sequence[Any] | SparseMatrix, given: Sequence[ArrayLike] | None, request: SearchRequest
    ) -> Sequence[NDArray[np.float32] | None]:
        def width() -> int:
            return require_dense(dense_width(self._snapshot), self.path)

        return dense_queries(width, lambda: self.encoder, queries, given, request.settings)

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
        vectors = self.sample() if queries is None else self.query_vectors(queries)
        return recall(self._snapshot.searcher, vectors, k, chosen)

    def sample(self) -> SparseMatrix:
        """200 documents, cut to their 24 heaviest terms, as queries: always the same ones.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        return sample_queries(self.searcher, self.query_factors)

    def hits(self, query: SparseMatrix, scores: Mapping[str, float]) -> Hits:
        """Documents found otherwise as hits of a query; those that aren't there are left out.

        Args:
            query: One row; what explanations explain.
            scores: {id of a document: score}, best first.
        """
        reader = self.pinned()
        return hits_by_id(reader._snapshot, query, scores, reader._explain)

    def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """Words of a query that no document has, each with the nearest words that documents have.

        Args:
            text: The query.
            limit: How many for each word at most. Where there are none, the list is empty.

        Raises:
            EncoderError: The index has no encoder.
        """
        return self._words.corrections(text, limit)

    def did_you_mean(self, text: str) -> str | None:
        """A query with its words that no document has replaced by the nearest; None if there is nothing to replace."""
        return self._words.corrected(text)

    def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """What somebody who types may go on to: the last word completed, and titles.

        Args:
            text: What stands there so far.
            limit: How many words, and how many titles, at most.

        Raises:
            EncoderError: The index has no encoder.
        """
        return self._words.suggestions(text, limit)

    @property
    def _words(self) -> Words:
        return Words(SnapshotWords(self._snapshot), self.encoder)

    # --- documents -------------------------------------------------------------------------------------------------

    def get(self, doc_id: str | int) -> Document | None:
        """A document as it is stored; None if there is none of this id.

        A document that is cut into passages comes with the first one's title and metadata, and with all their texts, a
        blank line between them; what passages repeat of each other stands there as often.

        Args:
            doc_id: Of a document or of a passage; a whole number is its text, as where documents are added.
        """
        return self.get_many([doc_id])[0]

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Documents as they are stored, one for each id in their order; see `get`."""
        if isinstance(doc_ids, str):
            raise TypeError(f"get_many takes several ids, got {doc_ids!r}; get takes one")
        documents, ids = self._snapshot.documents, [require_id(doc_id) for doc_id in doc_ids]
        return documents.get_many(ids, passages=self.has_passages)

    def __contains__(self, doc_id: object) -> bool:
        """Whether there is a document, or a passage, of this id."""
        if isinstance(doc_id, bool) or not isinstance(doc_id, str | int):
            return False
        documents, wanted = self._snapshot.documents, str(doc_id)
        return documents.find(wanted) is not None or (self.has_passages and bool(documents.passages(wanted)))

    def __iter__(self) -> Iterator[Document]:
        """All documents, of passages each, in the order of addition; of the commit that is open when it begins."""
        return self.stored()

    def stored(self, where: Where | Filter | None = None) -> Iterator[Document]:
        """The documents that meet a filter, of passages each, in the order of addition; as iteration gives all.

        Raises:
            DataError: As of `count`.
        """
        return map(self._snapshot.documents.stored, self._snapshot.numbers(where))

    def count(self, where: Where | Filter | None = None) -> int:
        """How many documents there are, of passages each; with a filter, how many meet it.

        Raises:
            DataError: A filter on a column that no document has, or of another kind.
        """
        return self._snapshot.count(where)

    def filter_hints(self, where: Where | Filter) -> list[str]:
        """Why a filter may find nothing: texts that it asks for and no document has, with the nearest that there are.

        Raises:
            DataError: As of `count`.
        """
        parsed = as_filter(where)
        parsed.require_known(self.documents.columns)
        return parsed.hints(self.documents.columns)

    def contents(self) -> Iterator[tuple[str, str]]:
        """(id, title and text) of all documents, of passages each, in the order of addition."""
        documents = self._snapshot.documents
        for doc in documents.numbers():
            yield documents.id(doc), documents.content(doc)

    def document_vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """The stored vectors of some documents, by their numbers (`Hit.doc`); a few milliseconds each."""
        return self._snapshot.vectors(docs)

    def compared_vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """The vectors of some documents, by their numbers, as `compared` weighs them."""
        return self.compared(self.document_vectors(docs))

    def duplicates(self, threshold: float = 0.9, *, where: Where | Filter | None = None) -> list[Duplicate]:
        """All pairs of documents whose vectors have a cosine of at least a threshold; of passages, those of different
        documents.

        Args:
            threshold: Above 0 and at most 1. The lower, the longer it takes.
            where: Compare only documents that meet a filter.

        Returns:
            The most alike first.

        Raises:
            ValueError: A threshold out of range.
            DataError: A filter on a column that no document has, or of another kind.
        """
        snapshot = self._snapshot
        allowed = None if where is None else snapshot.documents.allowed(as_filter(where))
        return duplicates(snapshot, threshold, self.compared, allowed)

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
        reader, doc_id = self.pinned(), require_id(doc_id)
        doc = reader.documents.find(doc_id)
        if doc is None and self.has_passages and "#" not in doc_id:
            raise DataError(f"{self.path}: documents are cut into passages here; explain {doc_id + '#0'!r} or the like")
        if doc is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        encoded = EncodedQuery(query, reader.query_vector(query, "explain"))
        return reader._explain(encoded, doc, origins=origins)

    def _explain(self, query: EncodedQuery, doc: int, *, origins: bool = True) -> Explanation:
        has_encoder = self._given_encoder is not None or bool(self._snapshot.shared.encoder_files)
        encoder = self._snapshot.encoder(self._given_encoder) if has_encoder else None
        explanation = explain_document(self._snapshot, encoder, query.vector, doc, origins=origins)
        return explanation if encoder is None else explanation.named(query_words(encoder, query.given))

    def verify(self) -> list[str]:
        """Check every byte; a message for each file that is damaged, none if all is well."""
        folders = self._snapshot.by_folder(self.path)
        return [
            wrong
            for folder, snapshot in folders
            for wrong in check_files(folder, snapshot.manifest, every_byte=True).values()
        ]
