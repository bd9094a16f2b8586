"""Lookup: the documents of a snapshot by their ids, their words, and their vectors; `Reader` searches them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lsr.encode.base import Encoder
from lsr.index.search.duplicates import Duplicate, duplicates
from lsr.index.search.index_encoder import IndexEncoder
from lsr.index.search.query_encoder import QuerySide
from lsr.index.search.snapshot import Snapshot
from lsr.index.search.words import SnapshotWords, Suggestion, Words
from lsr.index.segment.doc_store import AllDocuments
from lsr.index.segment.filters import Filter, Where, as_filter
from lsr.io.document import Document, require_id
from lsr.sparse import SparseMatrix


class Lookup(QuerySide):
    """What there is to know of the documents of an index without a query.

    Attributes:
        path: The folder.
    """

    path: Path

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None) -> None:
        super().__init__(path, encoder)
        self._snapshot = snapshot

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

    # --- words and vectors ----------------------------------------------------------------------------------------

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
