"""StoredDocuments: looks up and counts the documents of a snapshot; the part of a `Reader` that needs no query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.index.search.hybrid_search import dense_width
from lsr.index.search.opened import Opened
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.doc_store import AllDocuments
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.storage.manifest import check_files
from lsr.io.document import Document, require_id
from lsr.sparse import SparseMatrix


class StoredDocuments:
    """The documents of a snapshot."""

    _opened: Opened

    @property
    def _snapshot(self) -> Snapshot:
        return self._opened.snapshot

    def __len__(self) -> int:
        """Number of live documents (or passages)."""
        return len(self._snapshot)

    @property
    def documents(self) -> AllDocuments:
        """The ids and texts."""
        return self._snapshot.documents

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that is searched now."""
        return self._snapshot

    @property
    def has_passages(self) -> bool:
        """Whether documents are cut into passages."""
        return self._snapshot.has_passages

    @property
    def has_clusters(self) -> bool:
        """Whether the index has clusters, for approximate search."""
        return all(part.segment.clusters is not None for part in self._snapshot.parts)

    @property
    def has_dense(self) -> bool:
        """Whether documents have dense vectors, for hybrid search."""
        return dense_width(self._snapshot) is not None

    @property
    def max_error(self) -> float:
        """The largest difference between a document's weight and its stored, quantized weight."""
        return max((float(part.entry["max_error"]) for part in self._snapshot.parts), default=0.0)

    @property
    def n_postings(self) -> int:
        """Number of stored weights, including the weights of deleted documents until a merge removes them."""
        return sum(int(part.entry["n_postings"]) for part in self._snapshot.parts)

    @property
    def n_segments(self) -> int:
        """Number of segments."""
        return len(self._snapshot.parts)

    @property
    def damaged(self) -> list[str]:
        """Messages about damaged files; `skip_damaged` left out their segments."""
        return list(self._snapshot.damaged)

    def document_frequencies(self, terms: NDArray[Any]) -> NDArray[np.int64]:
        """Return (n,) int64: how many live documents (or passages) contain each of (n,) terms."""
        return self._snapshot.frequencies(terms)

    def file_sizes(self) -> dict[str, int]:
        """Return the size of each kind of file, {name: bytes}."""
        sizes: dict[str, int] = {}
        for manifest in self._snapshot.manifests:
            for name, entry in manifest["files"].items():
                kind = name.partition("/")[2] or "alive.arrow"
                sizes[kind] = sizes.get(kind, 0) + int(entry["bytes"])
        return sizes

    def get(self, doc_id: str | int) -> Document | None:
        """Return a stored document; None if the id is unknown.

        If a document is cut into passages, it has the title and metadata of its first passage, and the texts of all
        passages, separated by blank lines. Text that passages share is repeated.

        Args:
            doc_id: Id of a document or passage; a whole number is converted to a string, as when adding documents.
        """
        return self.get_many([doc_id])[0]

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Return the stored document for each id, in order; None for unknown ids. See `get`."""
        if isinstance(doc_ids, str):
            raise TypeError(f"get_many takes several ids, got {doc_ids!r}; get takes one")
        documents, ids = self._snapshot.documents, [require_id(doc_id) for doc_id in doc_ids]
        return documents.get_many(ids, passages=self.has_passages)

    def __contains__(self, doc_id: object) -> bool:
        """Whether a document or passage has this id."""
        if isinstance(doc_id, bool) or not isinstance(doc_id, str | int):
            return False
        documents, wanted = self._snapshot.documents, str(doc_id)
        return documents.find(wanted) is not None or (self.has_passages and bool(documents.passages(wanted)))

    def __iter__(self) -> Iterator[Document]:
        """Iterate over all documents (or passages) of the current commit, in the order in which they were added."""
        return self.stored()

    def stored(self, where: Where | Filter | None = None) -> Iterator[Document]:
        """Iterate over the documents (or passages) that match a filter, in the order in which they were added.

        Raises:
            DataError: As for `count`.
        """
        return map(self._snapshot.documents.stored, self._snapshot.numbers(where))

    def count(self, where: Where | Filter | None = None) -> int:
        """Count all documents (or passages), or only the documents that match a filter.

        Raises:
            DataError: The filter names a column that doesn't exist or has another kind.
        """
        return self._snapshot.count(where)

    def filter_hints(self, where: Where | Filter) -> list[str]:
        """Explain why a filter may match nothing: name values that no document has, and similar values that occur.

        Raises:
            DataError: As for `count`.
        """
        parsed = as_filter(where)
        parsed.require_known(self.documents.columns)
        return parsed.hints(self.documents.columns)

    def contents(self) -> Iterator[tuple[str, str]]:
        """Iterate over (id, title and text) of all documents (or passages), in the order in which they were added."""
        documents = self._snapshot.documents
        for doc in documents.numbers():
            yield documents.id(doc), documents.content(doc)

    def document_vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """Return the stored vectors of the documents with these numbers (`Hit.doc`); takes a few milliseconds each."""
        return self._snapshot.vectors(docs)

    def verify(self) -> list[str]:
        """Check the checksum of every file; return a message for each damaged file."""
        folders = self._snapshot.by_folder(self._opened.path)
        return [
            wrong
            for folder, snapshot in folders
            for wrong in check_files(folder, snapshot.manifest, every_byte=True).values()
        ]
