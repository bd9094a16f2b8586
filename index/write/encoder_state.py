"""EncoderState: the encoder and vocabulary of an index while a writer changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lsr.encode.base import Encoder
from lsr.encode.lexicon import Lexicon
from lsr.encode.load import load_encoder_files
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint
from lsr.index.search.snapshot import Snapshot
from lsr.index.storage.transaction import Transaction
from lsr.index.write.builder import EncoderMetadata, Opened
from lsr.index.write.term_mapper import TermMapper
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import SparseMatrix


class EncoderState:
    """The encoder and vocabulary of an index, including the changes by uncommitted documents.

    Documents may append tokens to the vocabulary, and the first documents of an empty index may fit the encoder.

    Attributes:
        learned: Whether the encoder was fitted or set since the last commit.

    Args:
        path: The index's folder.
        snapshot: The committed state.
        tokens: All tokens of the sharded index, which may be more than this shard has; None for a single index.
    """

    def __init__(self, path: Path, snapshot: Snapshot, tokens: Sequence[str] | None = None) -> None:
        self._path, self._manifest, self._shared = path, snapshot.manifest, snapshot.shared
        self._known = EncoderMetadata()
        self._known.fingerprint, self._known.encoder_files = self._shared.fingerprint, self._shared.encoder_files
        self._known.vocabulary = self._shared.vocabulary
        self._n_committed = len(self._shared.vocabulary or ())
        if tokens is not None and len(tokens) > self._n_committed:
            self._known.vocabulary = tokens
        self._n_before = len(self._known.vocabulary or ())
        self._growing: Lexicon | None = None
        self.learned = False

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the encoder."""
        return self._known.fingerprint

    def batches(
        self,
        source: Opened,
        encoder: Callable[[], Encoder],
        read: Callable[[Encoder | None], Iterator[VectorBatch]],
        *,
        empty: bool,
    ) -> Iterator[VectorBatch]:
        """Yield documents with vectors in the index's terms, appending new tokens or fitting the encoder as needed.

        Args:
            source: The opened source.
            encoder: Returns the index's encoder, for texts.
            read: Reads the source, encoding texts with an encoder.
            empty: Whether the index has no documents yet.
        """
        if isinstance(source, SparseMatrix | Vectors):
            yield from self._mapped(source, read, empty=empty)
            return
        known = self._known
        if not known.encoder_files:
            if next(iter(source), None) is None:
                return
            raise EncoderError(
                f"{self._path}: this index was built from vectors without their encoder ({known.fingerprint}): "
                "add vectors of the same encoder"
            )
        model = encoder()
        if model.living:
            if self._growing is None:
                tokens, shared = list(known.vocabulary or ()), self._shared
                term_of = dict(shared.term_of) if len(shared.term_of) == len(tokens) else None
                self._growing = Lexicon(tokens, term_of, grows=True)
                known.vocabulary = self._growing.tokens
            yield from read(model.over(self._growing))
            return
        unlearned = model.needs_fit  # the index is still empty
        if unlearned:  # fit a copy to these documents; the copy is dropped if the call fails
            model = load_encoder_files(known.encoder_files)
        yield from read(model)
        if model.fingerprint != known.fingerprint:
            if not unlearned:
                known.fingerprint.require_same(model.fingerprint, f"the index {self._path}", "the encoder given")
            self._known, self.learned = EncoderMetadata(), True  # just fitted
            self._known.take(model)

    def _mapped(
        self,
        source: SparseMatrix | Vectors,
        read: Callable[[Encoder | None], Iterator[VectorBatch]],
        *,
        empty: bool,
    ) -> Iterator[VectorBatch]:
        """Yield given vectors in the index's terms."""
        known = self._known
        if empty and not (known.encoder_files or known.vocabulary or known.fingerprint.vocabulary_size):
            known = EncoderMetadata()  # the first documents decide which encoder the index has
        mapper = TermMapper(str(self._path), source, known, fresh=known is not self._known)
        if known is not self._known:
            self._known, self.learned = known, True
        yield from mapper.mapped(read(None))
        if mapper.grown is not None:
            self._known, self._growing = mapper.grown, None

    def saved(self) -> tuple[EncoderMetadata, bool, int]:
        """Return the current state, for `restore`."""
        return self._known, self.learned, len(self._known.vocabulary or ())

    def restore(self, saved: tuple[EncoderMetadata, bool, int]) -> None:
        """Undo what changed since `saved` was called."""
        self._known, self.learned, n_tokens = saved
        if self._growing is not None:
            self._growing.cut(n_tokens)

    def write(self, transaction: Transaction) -> dict[str, Any]:
        """Write all changes, to new files; return the manifest's entries about encoder and vocabulary."""
        names, grown = ("fingerprint", "shared", "has_encoder", "has_vocabulary"), self._manifest.get("grown")
        entries = {name: self._manifest[name] for name in names}
        if self.learned:
            return self._known.write(transaction)
        if len(self._known.vocabulary or ()) > self._n_before:
            return entries | self._known.write_grown(transaction, grown or (), self._n_committed)
        return entries | ({"grown": grown} if grown else {})
