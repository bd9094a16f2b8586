"""Index: build an index from documents or vectors, open it in milliseconds, search it exactly, and change it.

    index = Index.build("idx", [{"_id": "a", "text": "..."}], encoder=load_encoder("bm25"))
    for hit in Index.open("idx").search("a question", k=10):
        print(hit.id, hit.score, hit.text)
    index.add([{"_id": "b", "text": "..."}])
    index.delete(["a"])
    index.commit()

An `Index` is a `Reader` (lsr.index.search.reader) of one commit, and can move to later commits. `Changes`
(lsr.index.pending_changes) collects the changes for the next commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lsr.console import Progress, progress_to
from lsr.encode.base import Encoder
from lsr.encode.corpus import Report
from lsr.encode.load import as_encoder
from lsr.encode.passages import AS_NEEDED, Passages
from lsr.errors import OutputError, StorageError
from lsr.index.pending_changes import Changes
from lsr.index.protocols import SearchIndex
from lsr.index.search.hits import Hit as Hit
from lsr.index.search.opened import Opened
from lsr.index.search.reader import Reader
from lsr.index.search.snapshot import Snapshot
from lsr.index.segment.clusters import SUMMARY_MASS
from lsr.index.segment.filters import Filter, Where
from lsr.index.segment.parse_filters import as_filter
from lsr.index.segment.postings import ImpactType
from lsr.index.segment.postings_writer import DEFAULT_MEMORY, Order
from lsr.index.sharding.local import latest_snapshot
from lsr.index.sharding.manifest import SHARDS, is_sharded
from lsr.index.sharding.remote import download_index, folder_for
from lsr.index.storage.manifest import MANIFEST
from lsr.index.write.builder import BuildSettings, Source, build_index, require_same_terms
from lsr.index.write.update_batch import Change
from lsr.io.document import as_ids
from lsr.io.object_store import is_remote

if TYPE_CHECKING:
    from lsr.files.documents import FileCorpus
    from lsr.index.write.sync import Synced


class Index(Reader):
    """A memory-mapped index on disk. Safe to search from many threads; searching releases the GIL.

    Threads may change an index, too, one call at a time; their changes form one transaction, which any thread can
    commit. A forked child can search; uncommitted changes and running merges stay with its parent. Unpickling opens the
    index again, at its latest commit.

    An open index is a snapshot: commits by others become visible only with `refresh` or a commit of this object.
    `Reader` defines the calls that search.

    Attributes:
        path: The folder.
        uri: The location in object storage if `path` is a local copy of it; else None.

    Examples:
        >>> docs = [{"_id": "a", "text": "Ice on the wing costs lift."}, {"_id": "b", "text": "Water cools a tube."}]
        >>> index = Index.build("idx", docs, encoder="bm25")
        >>> [hit.id for hit in index.search("wings", k=3)]
        ['a']
        >>> index.delete(["a"]).deleted
        1
        >>> index.commit()
        >>> index.search("wings")
        []
    """

    def __init__(self, path: Path, snapshot: Snapshot, encoder: Encoder | None = None, uri: str | None = None) -> None:
        """Use `Index.open` or `Index.build`."""
        super().__init__(Opened(path, snapshot, encoder, uri))
        self._changes = Changes(self._opened)
        self._seen = (-1, 0, 0)  # matches no file, so that the first check finds commits made since opening

    @property
    def uri(self) -> str | None:
        return self._opened.uri

    def __reduce__(self) -> Any:
        if self.pending:
            raise TypeError(f"{self.path}: uncommitted changes can't be sent to another process: commit, or roll back")
        where = self.uri or os.path.abspath(self.path)
        return partial(Index.open, encoder=self._given_encoder, skip_damaged=bool(self.damaged)), (where,)

    # --- building --------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        source: Source,
        *,
        encoder: Encoder | str | PathLike[str] | None = None,
        ids: Sequence[str] | None = None,
        impacts: ImpactType = "uint8",
        passages: Passages | None = AS_NEEDED,
        store_text: bool = True,
        overwrite: bool = False,
        memory: int = DEFAULT_MEMORY,
        order: Order = "auto",
        clusters: bool = False,
        summary_mass: float = SUMMARY_MASS,
        hybrid: bool = False,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> Index:
        """Build an index. If it fails, the folder is unchanged.

        Args:
            path: The folder; or a URI, to which the index is uploaded from a temporary folder.
            source: Documents as mappings, data frame rows or an Arrow table, with "_id", "text", and optionally "title"
                and metadata. If all of them have a "vector", {token: weight}, they aren't encoded. Or a `Corpus`,
                `Vectors` or `SparseMatrix`; or what `lsr index` takes: the path of texts or vectors, or the name of
                a dataset. May be empty.
            encoder: Encodes documents, and later queries; by default `lsr.encode.base.DEFAULT_ENCODER`. For vectors,
                the encoder that made them. BM25, and lsr-mini's BM25 part, learn new words as documents are added, and
                weight them by current document frequencies.
            ids: For a matrix, the ids of its rows; by default their numbers.
            impacts: "uint8", or "float32" to store exact weights at three times the size.
            passages: How to cut long documents into passages; a document gets the score of its best passage. If None,
                documents aren't cut, and text beyond the encoder's limit is ignored.
            store_text: Store titles, texts and metadata.
            overwrite: Replace an existing index.
            memory: Approximate memory limit for building, in bytes, not counting the encoder.
            order: "bisection" stores similar documents next to each other, so that search can skip more of them;
                "given" keeps their order. "auto" means "bisection" for 20,000 documents or more, or with clusters.
                The order doesn't change results.
            clusters: Also write clusters, for approximate search. The index then takes about twice the space, not
                counting texts. Requires 8-bit impacts.
            summary_mass: A cluster's summary keeps only the largest of its terms' impacts, until they reach this share
                of the sum of all; above 0 and at most 1.
            hybrid: Also store the encoder's dense vectors, in 8 bits, for hybrid search; one forward pass makes both
                kinds of vectors.
            report: Receives the encoding counts.
            progress: Called with the current step, the number of documents done, and the total if known. It replaces
                the progress bar on a terminal, and elsewhere the line that is printed every ten seconds.

        Returns:
            The index, open.

        Raises:
            OutputExists: The folder contains an index or something else.
            DataError: A bad document or vector, or a repeated id.
        """
        if not is_remote(path):
            path = Path(path).absolute()
        encoder = as_encoder(encoder)
        settings = BuildSettings(impacts, store_text, order, summary_mass if clusters else None, passages, hybrid)
        # The fitted or default encoder that encoded the documents also encodes queries.
        with folder_for(path, overwrite=overwrite) as folder, progress_to(progress):
            encoder = build_index(
                folder,
                source,
                encoder=encoder,
                ids=ids,
                settings=settings,
                overwrite=overwrite,
                memory=memory,
                report=report if report is not None else Report(),
            )
        return cls.open(path, encoder=encoder)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        encoder: Encoder | str | PathLike[str] | None = None,
        skip_damaged: bool = False,
    ) -> Index:
        """Open an index, reading only small files.

        Args:
            path: The folder; a sharded folder is opened as one index (lsr.index.sharding.local). Or a URI
                (s3://bucket/idx), from which the index is copied to a cache (LSR_CACHE).
            encoder: Encodes queries instead of the stored encoder; must be the encoder that made the index.
            skip_damaged: Read every byte, and leave out segments with missing, truncated or changed files, which
                `damaged` lists. The remaining documents can be searched, but not changed.

        Raises:
            IndexFormatError: Not an index, or one of a later format.
            CorruptIndex: A file is missing or truncated, or a small file fails its checksum.
            EncoderMismatch: Another encoder made the index, or shards have different encoders.
            StorageError: The URI can't be read, or is used with `skip_damaged`.
        """
        uri = str(path) if is_remote(path) else None
        if uri and skip_damaged:
            raise StorageError(
                f"{uri}: skip_damaged is for a folder, because damaged files are never downloaded: copy the index to "
                "a folder and open the folder"
            )
        path = (download_index(uri) if uri else Path(path)).absolute()  # the process may change its working directory
        encoder = as_encoder(encoder)
        index = cls(path, latest_snapshot(path, skip_damaged=skip_damaged), encoder, uri)
        if encoder is not None:
            index.fingerprint.require_same(encoder.fingerprint, f"the index {path}", "the query encoder")
            # If the fingerprint doesn't name the encoder, the tokens may still show that another one made the index.
            if index.fingerprint.tokenizer is None and not encoder.living:
                require_same_terms(index.vocabulary, encoder, f"the index {path}")
        return index

    # --- changing --------------------------------------------------------------------------------------------------

    def add(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents; searches find them after `commit`.

        The first change locks the index against other writers until `commit` or `rollback`. Documents are encoded, cut
        and stored like the documents that the index was built from. A call adds all of its documents or none.

        Args:
            source: As for `build`: documents, a corpus, vectors of the index's encoder, or a matrix.
            ids: For a matrix, the ids of its rows; by default their numbers.
            skip_bad: Skip bad documents and existing ids; `Change.bad` lists them.

        Returns:
            The changes made by this call.

        Raises:
            DataError: A bad document, or an id that already exists or is repeated.
            EncoderMismatch: Vectors of another encoder.
            EncoderError: Texts, but the index has no encoder.
            IndexLocked: Another process is writing; the message names it.
            IndexFormatError: Another index has replaced this one.
            OutputError: The folder can't be written.
        """
        with self._changes.writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=False, skip_bad=skip_bad)

    def upsert(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Add documents, replacing existing documents with the same ids.

        A replaced document moves to the end, as if deleted and added. If an id is repeated, its last document counts.
        Arguments and errors as for `add`; the result counts updated and added documents.
        """
        with self._changes.writing() as writer:
            return writer.add(source, lambda: self.encoder, ids, replace=True, skip_bad=skip_bad)

    def update(self, source: Source, *, ids: Sequence[str] | None = None, skip_bad: bool = False) -> Change:
        """Same as `upsert`."""
        return self.upsert(source, ids=ids, skip_bad=skip_bad)

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None) -> Change:
        """Delete documents, with their passages.

        Args:
            ids: Document ids; `Change.missing` lists unknown ones.
            where: Also delete documents that match a filter (`lsr.index.segment.filters`), including uncommitted ones.

        Returns:
            The changes made by this call.

        Raises:
            DataError: The filter names a column that doesn't exist or has another kind.
            OutputError: As for `add`.
        """
        parsed = None if where is None else as_filter(where)
        with self._changes.writing() as writer:
            return writer.delete(as_ids(ids), parsed)

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable, and visible here at once; other readers see them when they open or refresh the index.

        If the commit fails (on a full disk, say), the index is unchanged and the changes are still pending. An
        interrupted commit may or may not have taken effect: `refresh` shows which. Calling `commit` again is safe in
        either case; `rollback` doesn't undo a commit.

        Args:
            merge: Afterwards merge segments in the background to limit their number (lsr.index.write.merge). If more
                than 64 segments are waiting to be merged, the newest are merged before `commit` returns.
        """
        self._changes.commit(merge=merge)

    @property
    def pending(self) -> bool:
        """Whether there are uncommitted changes."""
        return self._changes.pending

    def rollback(self) -> None:
        """Discard the changes since the last commit, and unlock the index."""
        self._changes.rollback()

    def merge(self, *, everything: bool = True, background: bool = False) -> bool:
        """Commit, then merge segments.

        Merging frees the space of deleted documents and reorders documents for faster search. Results don't change.

        Args:
            everything: Merge all segments into one; False merges the segments that the policy chooses.
            background: Merge in a thread, while this object and other processes can make changes. `close` waits for
                the thread; a failure is logged as a warning. By default the call returns when the merge is done, and
                other processes can't write meanwhile.

        Returns:
            Whether there was anything to merge.

        Raises:
            OutputError: As for `add`.
        """
        if not background:
            return self._changes.merge(everything=everything)
        self.commit(merge=False)
        return self._changes.merge_in_background(everything=everything)

    def sync(self, source: str | PathLike[str] | FileCorpus, *, progress: Progress | None = None) -> Synced:
        """Bring the index up to date with a folder of files, and commit.

        Files are compared by content. New and changed files are read and encoded; documents of deleted files are
        deleted. A moved file is encoded again, under its new name, and its old documents are deleted; the result counts
        it only as moved. `sync` commits every 30 seconds; after an interruption, the next call continues from the last
        commit. Documents that didn't come from files stay.

        Args:
            source: A folder or file, or the result of `lsr.files.documents.read_documents` with the same `url` as
                before.
            progress: Called with the current step, the number of documents done, and the total if known.

        Returns:
            The numbers of new, changed, moved and deleted files.

        Raises:
            DataError: The folder doesn't exist, or contains none of the index's files.
            OutputError: As for `add`; or there are uncommitted changes.
        """
        from lsr.files.documents import FileCorpus, read_documents
        from lsr.index.write.sync import sync  # loads lsr.files, which only sync needs

        if self.pending:
            raise OutputError(f"{self.path}: there are uncommitted changes: commit, or roll back, first")
        with progress_to(progress):
            return sync(self, source if isinstance(source, FileCorpus) else read_documents(source))

    def close(self, *, wait: bool = True) -> None:
        """Finish background merges and discard uncommitted changes. The index stays usable.

        If there are changes to discard, `close` warns: call `commit` or `rollback` first, or use a `with` block. A
        process that exits also waits for merges.

        Args:
            wait: Wait for merges to finish; False stops them as soon as possible, and the next commit starts them anew.

        Raises:
            OutputError: A background merge failed; committed data is unchanged.
            CorruptIndex: A background merge failed because files are damaged.
        """
        self._changes.close(wait=wait)

    def __enter__(self) -> Self:
        """Enter a block that commits on a clean exit, rolls back on an exception, and closes the index either way."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.pending:
                self.commit()
        finally:
            self.rollback()
            self.close()

    # --- refreshing ------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Move to the latest commit of any process.

        Returns:
            Whether there was a new commit.

        Raises:
            IndexFormatError: The index is gone, or another one has replaced it.
            CorruptIndex: The latest commit is damaged; the current snapshot stays open.
        """
        before, stamp = self._snapshot, self._stamp()
        if self.uri:
            self._opened.path = download_index(self.uri).absolute()
        found = latest_snapshot(self.path, before, skip_damaged=bool(before.damaged), same=not self.uri)
        self._opened.move(found, before)
        self._seen = stamp  # taken before opening, so later commits are noticed
        return self._snapshot is not before

    @property
    def stale(self) -> bool:
        """Whether `refresh` may find a new commit. Checks only the date of a local file; never reads object storage."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[int, int, int]:
        try:  # a commit to a sharded folder is complete when shards.json changes
            found = os.stat(self.path / (SHARDS if is_sharded(self.path) else MANIFEST))
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)


if TYPE_CHECKING:  # lets the type checker compare this class with the protocol
    _: type[SearchIndex] = Index
