"""Index: built from documents or vectors, opened in milliseconds, searched exactly, changed while others read it.

    index = Index.build("idx", [{"_id": "a", "text": "..."}], encoder=load_encoder("bm25"))
    for hit in Index.open("idx").search("a question", k=10):
        print(hit.id, hit.score, hit.text)
    index.add([{"_id": "b", "text": "..."}])
    index.delete(["a"])
    index.commit()

What is searched is a snapshot (lsr.index.snapshot); what changes it is lsr.index.writer's business.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode.base import Encoder
from lsr.encode.hub import load_encoder
from lsr.encode.stream import Passages, Report
from lsr.errors import DataError, EncoderError
from lsr.fingerprint import Fingerprint
from lsr.sparse import SparseMatrix

from .builder import BuildSettings, Source, build_index
from .clusters import SUMMARY_MASS
from .documents import AllDocuments
from .explain import Explanation, explain_document
from .hits import Hit as Hit
from .plan import Plan, SearchSettings
from .searcher import Searcher
from .segment import ImpactType
from .segment_writer import DEFAULT_MEMORY, Order
from .snapshot import Snapshot
from .storage import check_files
from .writer import Change, Writer

_SAMPLE = (200, 24)  # documents that serve as queries, and how many terms of each

Query = str | Mapping[str, float] | SparseMatrix


class Index:
    """An index on disk, memory-mapped. Safe to search from many threads; searching releases the GIL.

    What is open is a snapshot: it stays what it is, whatever others commit, until `refresh`, or until this object
    changes the index itself.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None) -> None:
        """Use `Index.open` or `Index.build`."""
        self.path = path
        self._snapshot = snapshot
        self._given_encoder = encoder
        self._writer: Writer | None = None
        self._changing = threading.RLock()

    # --- building --------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        source: Source,
        *,
        encoder: Encoder | str | None = None,
        ids: Sequence[str] | None = None,
        impacts: ImpactType = "uint8",
        passages: Passages | None = None,
        store_text: bool = True,
        overwrite: bool = False,
        memory: int = DEFAULT_MEMORY,
        order: Order = "auto",
        clusters: bool = False,
        summary_mass: float = SUMMARY_MASS,
        report: Report | None = None,
    ) -> Index:
        """Build an index; the folder holds either the whole new index or what it held before.

        Args:
            path: The folder.
            source: Documents ({"_id", "text", perhaps "title" and more}), a corpus, vectors, or a matrix; none at all
                makes an empty index to add to.
            encoder: Encodes documents, and later queries; by default `lsr.encode.base.DEFAULT_ENCODER`. For
                vectors, the one that made them. One that learns from the documents (BM25, lsr-mini's BM25 part) keeps
                what it learns here, or from the first documents added; build again when these have changed a lot.
            ids: For a matrix, the ids of its rows; by default their numbers.
            impacts: "uint8", or "float32" for weights as they are at three times the size.
            passages: Cut documents into passages; a document's score is then that of its best passage.
            store_text: Keep titles, texts and metadata.
            overwrite: Replace the index that is there.
            memory: Bytes to hold while building, roughly, without the encoder's.
            order: "bisection" stores similar documents side by side, so that search can skip more of them; "given"
                stores them as they come. "auto" is "bisection" from 20,000 documents on, or with clusters. Results are
                the same.
            clusters: Write clusters too, for approximate search: about twice the size without texts. Only with 8-bit
                impacts.
            summary_mass: The share of a cluster's largest impacts that its summary holds, above 0 and at most 1.
            report: Filled in with what was met on the way.

        Returns:
            The index, open.

        Raises:
            OutputExists: The folder holds an index, or something else.
            DataError: A bad document or vector, a doubled id.
        """
        path = Path(path)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder)
        settings = BuildSettings(impacts, store_text, order, summary_mass if clusters else None, passages)
        # Fitted or default, whatever encoded the documents encodes the queries.
        encoder = build_index(
            path,
            source,
            encoder=encoder,
            ids=ids,
            settings=settings,
            overwrite=overwrite,
            memory=memory,
            report=report if report is not None else Report(),
        )
        return cls(path, Snapshot.latest(path), encoder)

    @classmethod
    def open(
        cls, path: str | PathLike[str], *, encoder: Encoder | str | None = None, skip_damaged: bool = False
    ) -> Index:
        """Open an index; nothing is read but what is small.

        Args:
            path: The folder.
            encoder: For queries, instead of the one that the index carries; has to be the one that made it.
            skip_damaged: Leave segments out whose files are missing, cut short or, if small, changed; `damaged` lists
                these files. What is left can be searched, not changed.

        Raises:
            IndexFormatError: Not an index, or one of a later format.
            CorruptIndex: A file is missing, cut short or, if small, changed.
            EncoderMismatch: Another encoder made the index.
        """
        path = Path(path)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder)
        index = cls(path, Snapshot.latest(path, skip_damaged=skip_damaged), encoder)
        if encoder is not None:
            index.fingerprint.require_same(encoder.fingerprint, f"the index {path}", "the query encoder")
        return index

    def refresh(self) -> bool:
        """Move on to what was committed last, by whichever process.

        Returns:
            Whether there was anything new.
        """
        before = self._snapshot
        self._adopt(Snapshot.latest(self.path, before, skip_damaged=bool(before.damaged)))
        return self._snapshot is not before

    def _adopt(self, snapshot: Snapshot) -> None:
        if self._given_encoder is not None and snapshot.shared.fingerprint != self._snapshot.shared.fingerprint:
            self._given_encoder = None  # the index has been built again, or its encoder was fitted
        self._snapshot = snapshot

    # --- changing --------------------------------------------------------------------------------------------------

    def add(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents; nobody finds them before `commit`.

        The first change locks the index against other writers, until `commit` or `rollback`. Documents are encoded,
        cut and stored as those that the index was built of. Each call is taken as a whole or not at all.

        Args:
            source: As of `build`: documents, a corpus, vectors of the index' encoder, or a matrix.
            ids: For a matrix, the ids of its rows; by default their numbers.
            skip_bad: Leave bad documents out, and those whose ids are there already; the result lists them.

        Returns:
            What it changed.

        Raises:
            DataError: A bad document, an id that is in the index already or occurs twice.
            EncoderMismatch: Vectors of another encoder.
            EncoderError: Texts, but the index has no encoder.
            OutputError: Somebody else is writing (the message says who), or the folder can't be written.
        """
        with self._writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=False, skip_bad=skip_bad)

    def update(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Put documents in the place of those of the same ids; where there are none, add them.

        A document that is replaced goes to the end, as if it had been deleted and added. Of several of one id the last
        counts. Arguments and errors are those of `add`; the result tells how many were updated and how many added.
        """
        with self._writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=True, skip_bad=skip_bad)

    def delete(self, ids: str | Iterable[str]) -> Change:
        """Delete documents, with their passages.

        Args:
            ids: Ids of documents; those that aren't there are listed in the result.

        Raises:
            OutputError: As of `add`.
        """
        with self._writing() as writer:
            return writer.delete([ids] if isinstance(ids, str) else ids)

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable and visible: here at once, elsewhere to who opens the index or refreshes it.

        Should it fail (a full disk, say), the index is what it was and the changes are still pending.

        Args:
            merge: Then merge segments as the policy of lsr.index.merge says, so that there are never many of them.
        """
        with self._changing:
            if self._writer is None:
                return
            self._writer.commit()
            self._adopt(self._writer.snapshot)
            try:
                if merge:
                    self._merge(everything=False)
            finally:
                self.rollback()

    def rollback(self) -> None:
        """Forget the changes since the last commit, and unlock the index."""
        with self._changing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def merge(self, *, everything: bool = True) -> bool:
        """Commit, then merge segments: the room of deleted documents is freed, and similar ones are stored side by
        side again. Results don't change.

        Args:
            everything: All segments into one; False for what the policy says.

        Returns:
            Whether there was anything to merge.

        Raises:
            OutputError: As of `add`.
        """
        with self._changing:
            self.commit(merge=False)
            with self._writing():
                merged = self._merge(everything=everything)
            self.rollback()
            return merged

    def _merge(self, *, everything: bool) -> bool:
        assert self._writer is not None
        try:
            return self._writer.merge(everything=everything)
        finally:
            self._adopt(self._writer.snapshot)

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        """The writer, which holds the lock as long as there are changes."""
        with self._changing:
            if self._writer is None:
                self._writer = Writer(self.path, self._snapshot)
            try:
                yield self._writer
            finally:
                if not self._writer.changed:
                    self.rollback()

    # --- what it is ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._snapshot)

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self)} documents, {self.fingerprint})"

    @property
    def documents(self) -> AllDocuments:
        """Ids and texts."""
        return self._snapshot.documents

    @property
    def searcher(self) -> Searcher:
        """Postings."""
        return self._snapshot.searcher

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the encoder that made the vectors."""
        return self._snapshot.shared.fingerprint

    @property
    def has_passages(self) -> bool:
        """Whether documents were cut into passages."""
        return self._snapshot.has_passages

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

    def file_sizes(self) -> dict[str, int]:
        """Bytes of each kind of file."""
        sizes: dict[str, int] = {}
        for name, entry in self._snapshot.manifest["files"].items():
            kind = name.partition("/")[2] or "alive.arrow"
            sizes[kind] = sizes.get(kind, 0) + int(entry["bytes"])
        return sizes

    @property
    def encoder(self) -> Encoder:
        """What encodes queries and documents: the encoder given, or the one that the index carries.

        Raises:
            EncoderError: There is none.
        """
        if self._given_encoder is not None:
            return self._given_encoder
        if not self._snapshot.shared.encoder_files:
            raise EncoderError(
                f"{self.path}: this index was built from vectors without their encoder ({self.fingerprint}): "
                "search it with vectors, or name the encoder (--encoder, Index.open(..., encoder=...))"
            )
        return self._snapshot.shared.encoder

    @property
    def vocabulary(self) -> list[str] | None:
        """Token of each term, or None where the tokens aren't known."""
        return self._snapshot.shared.vocabulary

    # --- searching -------------------------------------------------------------------------------------------------

    def search(self, query: Query, k: int = 10, **settings: Any) -> list[Hit]:
        """The k best documents.

        Args:
            query: A text, a {token: weight} mapping, or a matrix of one row.
            k: How many at most. Documents that share no term with the query are never among them.
            settings: Of `SearchSettings`: algorithm, alpha, beta, guaranteed, cut, heap_factor. Without any the search
                is exact.

        Returns:
            Hits by descending score; equal scores by the order in which the documents were added.

        Raises:
            EncoderError: A text, but the index has no encoder.
        """
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"search takes one query, got {len(vector)}; search_batch takes many")
        _checked_k(k)
        snapshot = self._snapshot
        return self._hits(snapshot, vector, *snapshot.top(vector, k, _settings(settings)))

    def search_batch(
        self,
        queries: Sequence[str | Mapping[str, float]] | SparseMatrix,
        k: int = 10,
        *,
        threads: int = 0,
        **settings: Any,
    ) -> list[list[Hit]]:
        """The k best documents of many queries, on all cores.

        Args:
            queries: Texts, {token: weight} mappings, or a matrix with a row for each.
            k: How many at most for each.
            threads: Cores to use; 0 for all.
            settings: As for `search`.
        """
        chosen = _settings(settings)
        vectors = self.query_vectors(queries)
        rows = [vectors[i] for i in range(len(vectors))]
        _checked_k(k)
        snapshot = self._snapshot
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            found = list(pool.map(lambda row: snapshot.top(row, k, chosen), rows))
        return [self._hits(snapshot, row, docs, scores) for row, (docs, scores) in zip(rows, found, strict=True)]

    def query_vectors(self, queries: Sequence[str | Mapping[str, float]] | SparseMatrix) -> SparseMatrix:
        """Queries of any form as a matrix; tokens that the vocabulary lacks are left out, as no document has them.

        Raises:
            DataError: A weight that is negative, infinite or not a number.
        """
        if isinstance(queries, SparseMatrix):
            size = self.fingerprint.vocabulary_size
            if size is not None and queries.shape[1] > size and queries.nnz and int(queries.indices.max()) >= size:
                raise DataError(
                    f"the query has term {int(queries.indices.max())}, the index' vocabulary has {size} terms"
                )
            return queries
        if len(queries) and all(isinstance(query, str) for query in queries):
            if not len(self) and self.encoder.needs_fit:  # nothing was ever added
                return SparseMatrix.from_dicts([{} for _ in queries], 1)
            return self.encoder.encode_query(list(queries))  # type: ignore[arg-type]
        term_of = self._snapshot.shared.term_of
        rows = []
        for query in queries:
            if not isinstance(query, Mapping):
                raise TypeError(f"a query is a text or a mapping of token to weight, got {type(query).__name__}")
            if self.vocabulary is None:
                raise DataError(f"{self.path}: this index doesn't know its tokens; search it with a SparseMatrix")
            rows.append({term_of[t]: w for t, w in query.items() if t in term_of})
        try:
            return SparseMatrix.from_dicts(rows, max(len(term_of), 1))
        except ValueError as error:
            raise DataError(str(error), "query") from None

    def explain_plan(self, query: Query, k: int = 10, **settings: Any) -> Plan:
        """Search, and tell what ran and how many blocks, windows and postings it touched.

        Args:
            query: As for `search`.
            k: How many documents; for passages, what the first step toward k documents does.
            settings: As for `search`.
        """
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"explain_plan takes one query, got {len(vector)}")
        _checked_k(k)
        terms, weights = vector.row(0)
        snapshot = self._snapshot
        return snapshot.searcher.plan(terms, weights, snapshot.depth(k), _settings(settings))

    def recall(
        self, queries: Sequence[str | Mapping[str, float]] | SparseMatrix | None = None, k: int = 10, **settings: Any
    ) -> float:
        """How much of the exact result a search finds: to choose alpha, or cut and heap_factor.

        Args:
            queries: As for `search_batch`. None takes 200 documents, cut to their 24 heaviest terms, as queries: these
                say more of how settings compare than of what real queries would find. That needs clusters.
            k: How many documents; of an index of passages, how many passages.
            settings: As for `search`.

        Returns:
            The share of the places of the exact results that hold documents whose scores reach the k-th best; 1.0
            where nothing is to be found.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        _checked_k(k)
        chosen = _settings(settings)
        searcher = self._snapshot.searcher
        vectors = searcher.sample(*_SAMPLE) if queries is None else self.query_vectors(queries)

        def count(i: int) -> tuple[int, int]:
            terms, weights = vectors.row(i)
            _, exact = searcher.search(terms, weights, k)
            _, found = searcher.search(terms, weights, k, chosen)
            return int((found >= exact[-1]).sum()) if len(exact) else 0, len(exact)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hits, places = np.array(list(pool.map(count, range(len(vectors)))), np.int64).reshape(-1, 2).sum(axis=0)
        return float(hits / places) if places else 1.0

    def _hits(
        self, snapshot: Snapshot, query: SparseMatrix, docs: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> list[Hit]:
        explain = partial(self._explain, snapshot, query)
        found = zip(docs.tolist(), scores.tolist(), strict=True)
        return [Hit(snapshot.documents, doc, score, explain) for doc, score in found]

    # --- explaining and checking -----------------------------------------------------------------------------------

    def explain(self, query: Query, doc_id: str) -> Explanation:
        """Why a document has its score for a query; the document need not be among the hits.

        Raises:
            DataError: No document has this id.
        """
        snapshot = self._snapshot
        doc = snapshot.documents.find(doc_id)
        if doc is None and self.has_passages and "#" not in doc_id:
            raise DataError(f"{self.path}: documents are cut into passages here; explain {doc_id + '#0'!r} or the like")
        if doc is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"explain takes one query, got {len(vector)}")
        return self._explain(snapshot, vector, doc)

    def _explain(self, snapshot: Snapshot, query: SparseMatrix, doc: int) -> Explanation:
        has_encoder = self._given_encoder is not None or bool(snapshot.shared.encoder_files)
        return explain_document(snapshot, self.encoder if has_encoder else None, query, doc)

    def verify(self) -> list[str]:
        """Check every byte; a message for each file that is damaged, none if all is well."""
        return list(check_files(self.path, self._snapshot.manifest, every_byte=True).values())


def _checked_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")


def _settings(given: Mapping[str, Any]) -> SearchSettings:
    try:
        return SearchSettings(**given)
    except TypeError as error:
        names = ", ".join(field.name for field in fields(SearchSettings))
        raise TypeError(f"{str(error).rpartition('() ')[2]}; settings of a search are {names}") from None
