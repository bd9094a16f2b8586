"""IndexEncoder: the encoder and the vocabulary that an index carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lsr.encode.base import Encoder
from lsr.encode.load import load_encoder_files
from lsr.errors import CorruptIndex
from lsr.fingerprint import Fingerprint
from lsr.forks import cached_property
from lsr.index.storage.arrow_file import ArrowFile
from lsr.index.storage.manifest import CHANGED, read_encoder_files

_VOCABULARY_SCHEMA = pa.schema([("token", pa.string())])


class IndexEncoder:
    """What the segments of an index share.

    Attributes:
        fingerprint: Of the encoder that made the vectors.
        encoder_files: What it takes to encode; empty where the index doesn't hold it.
        damaged: Whether its files were left out as they are damaged.

    Args:
        path: The index, for messages.
        fingerprint: As above.
        encoder_files: As above.
        tokens: Reads the tokens; None where they aren't known.
        damaged: As above.
        base: What this has grown from, whose encoder it uses.
    """

    def __init__(
        self,
        path: str,
        fingerprint: Fingerprint,
        encoder_files: dict[str, bytes],
        tokens: Callable[[], list[str]] | None,
        *,
        damaged: bool = False,
        base: IndexEncoder | None = None,
    ) -> None:
        self._path, self.fingerprint, self.encoder_files, self._tokens = path, fingerprint, encoder_files, tokens
        self.damaged = damaged
        self.base = base or self
        self._vocabulary: list[str] | None = None
        self._before: tuple[list[str], dict[str, int]] | None = None  # of the same tokens, but for the last

    @classmethod
    def of(cls, path: Path, manifest: Mapping[str, Any], *, whole: bool, tokens_whole: bool) -> IndexEncoder:
        """What the segments of a manifest share; if it isn't whole, without the encoder, nor tokens that aren't."""
        folder = path / str(manifest["shared"])
        # Everything is mapped or read by now: an index that is open stays whole when another one replaces it.
        has_vocabulary, has_encoder = tokens_whole and manifest["has_vocabulary"], whole and manifest["has_encoder"]
        tokens = None
        if has_vocabulary:
            file = ArrowFile(folder / "vocabulary.arrow", _VOCABULARY_SCHEMA)
            tokens = partial(_tokens_of, file, manifest["files"][f"{folder.name}/{file.path.name}"]["sha256"])
        files = read_encoder_files(path, manifest) if has_encoder else {}
        fingerprint = Fingerprint.from_json(manifest["fingerprint"], str(path))
        return cls(str(path), fingerprint, files, tokens, damaged=not whole)

    def grown(self, path: Path, manifest: Mapping[str, Any], before: IndexEncoder | None = None) -> IndexEncoder:
        """The same with the tokens that commits have appended.

        Args:
            path: The index.
            manifest: Says where they lie.
            before: What an earlier commit shared, so that what is known of it isn't read again.
        """
        if not (folders := [piece["name"] for piece in manifest.get("grown", ())]):
            return self
        files = [
            (
                ArrowFile(path / name / "vocabulary.arrow", _VOCABULARY_SCHEMA),
                manifest["files"][f"{name}/vocabulary.arrow"]["sha256"],
            )
            for name in folders
        ]
        made = IndexEncoder(self._path, self.fingerprint, self.encoder_files, None, damaged=self.damaged, base=self)
        known = before.__dict__.get("term_of") if before is not None else None
        if before is not None and before._vocabulary is not None and known is not None:
            made._before = before._vocabulary, known
        made._tokens = partial(_more_tokens, self, files, made._before[0] if made._before else None)
        return made

    @cached_property
    def encoder(self) -> Encoder:
        """What encodes queries and documents, of the files that the index carries."""
        if self.base is not self:
            return self.base.encoder
        encoder = load_encoder_files(self.encoder_files)
        self.fingerprint.require_same(encoder.fingerprint, f"the index {self._path}", "the encoder it carries")
        return encoder

    @property
    def vocabulary(self) -> list[str] | None:
        """Token of each term, or None where the tokens aren't known."""
        # No cached_property: one lock for all instances, and reading may wait for another one of this process.
        if self._vocabulary is None and self._tokens is not None:
            self._vocabulary = self._tokens()
        return self._vocabulary

    @cached_property
    def term_of(self) -> dict[str, int]:
        """The term of each token."""
        vocabulary = self.vocabulary or []
        before, self._before = self._before, None
        if before is None:
            return {token: term for term, token in enumerate(vocabulary)}
        first = len(before[0])
        return before[1] | {token: term for term, token in enumerate(vocabulary[first:], first)}


def _tokens_of(file: ArrowFile, wanted: str) -> list[str]:
    if file.digest() != wanted:
        raise CorruptIndex(f"{file.path}: {CHANGED}")
    return list(file.batch(0).column(0).to_pylist())


def _more_tokens(base: IndexEncoder, files: Sequence[tuple[ArrowFile, str]], known: list[str] | None) -> list[str]:
    """The tokens of the base and of files, each with its checksum, of which the first may be known."""
    tokens = list(known if known is not None else base.vocabulary or ())
    at = len(base.vocabulary or ())
    for file, wanted in files:
        size = file.batch(0).num_rows
        if at + size > len(tokens):
            tokens += _tokens_of(file, wanted)[max(len(tokens) - at, 0) :]
        at += size
    return tokens
