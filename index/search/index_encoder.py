"""IndexEncoder: the encoder and vocabulary that an index stores."""

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
    """The encoder and vocabulary that all segments of an index share.

    Attributes:
        fingerprint: The fingerprint of the encoder that made the vectors.
        encoder_files: The encoder's files, {name: content}; empty if the index doesn't store them.
        damaged: Whether the files were skipped because they are damaged.

    Args:
        path: The index, for messages.
        fingerprint: As above.
        encoder_files: As above.
        tokens: Reads the tokens; None if they aren't known.
        damaged: As above.
        base: An IndexEncoder that lacks the tokens that later commits appended, but has the encoder to use.
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
        # Tokens and {token: term} of an earlier commit; the vocabulary begins with these tokens.
        self._before: tuple[list[str], dict[str, int]] | None = None

    @classmethod
    def of(cls, path: Path, manifest: Mapping[str, Any], *, whole: bool, tokens_whole: bool) -> IndexEncoder:
        """Open the encoder and the tokens that a manifest names; skip them if their files are damaged.

        Args:
            path: The index.
            manifest: Names the files.
            whole: Whether all of these files are undamaged; if not, the encoder is skipped.
            tokens_whole: Whether the files with tokens are undamaged; if not, the tokens are skipped.
        """
        folder = path / str(manifest["shared"])
        # Map or read everything now, so that an open index stays usable after it is replaced.
        has_vocabulary, has_encoder = tokens_whole and manifest["has_vocabulary"], whole and manifest["has_encoder"]
        tokens = None
        if has_vocabulary:
            file = ArrowFile(folder / "vocabulary.arrow", _VOCABULARY_SCHEMA)
            tokens = partial(_tokens_of, file, manifest["files"][f"{folder.name}/{file.path.name}"]["sha256"])
        files = read_encoder_files(path, manifest) if has_encoder else {}
        fingerprint = Fingerprint.from_json(manifest["fingerprint"], str(path))
        return cls(str(path), fingerprint, files, tokens, damaged=not whole)

    def grown(self, path: Path, manifest: Mapping[str, Any], before: IndexEncoder | None = None) -> IndexEncoder:
        """Return a copy with the tokens that later commits appended.

        Args:
            path: The index.
            manifest: Names the files with the appended tokens.
            before: The IndexEncoder of an earlier commit, whose tokens aren't read again.
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
        """The encoder, loaded from the index's files."""
        if self.base is not self:
            return self.base.encoder
        encoder = load_encoder_files(self.encoder_files)
        self.fingerprint.require_same(encoder.fingerprint, f"the index {self._path}", "the encoder it carries")
        return encoder

    @property
    def vocabulary(self) -> list[str] | None:
        """The token of each term; None if the tokens aren't known."""
        # This isn't a cached_property, because all instances share its lock: one instance would wait for another.
        if self._vocabulary is None and self._tokens is not None:
            self._vocabulary = self._tokens()
        return self._vocabulary

    @cached_property
    def term_of(self) -> dict[str, int]:
        """{token: term}."""
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
    """Return the base's tokens, then the tokens in (file, checksum) pairs; the first tokens may be `known` already."""
    tokens = list(known if known is not None else base.vocabulary or ())
    at = len(base.vocabulary or ())
    for file, wanted in files:
        size = file.batch(0).num_rows
        if at + size > len(tokens):
            tokens += _tokens_of(file, wanted)[max(len(tokens) - at, 0) :]
        at += size
    return tokens
