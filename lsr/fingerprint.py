"""Fingerprint: identifies the encoder that made some vectors, so that queries of other encoders are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path

from lsr.errors import DataError, EncoderMismatch

_KINDS = {"vocabulary_size": int, "max_length": int, "max_weight": float}
_LARGEST = 3e38  # a little less than the largest float32


@dataclass(frozen=True)
class Fingerprint:
    """Properties that must agree for two vectors to be comparable; None for unknown.

    Attributes:
        model: Name of the encoder or checkpoint, for messages; it isn't compared.
        weights: Digest of the model's weights, or of the statistics that the encoder was fitted to.
        tokenizer: Digest of the tokenizer.
        vocabulary_size: Number of terms.
        pooling: Pooling, such as "max" or "sum".
        saturation: Saturation, such as "log1p" or "log1p_log1p".
        max_length: Number of tokens that are read of a document; longer documents are cut.
        max_weight: Upper bound of a document's weights, which lets all segments of an index share one scale.
    """

    model: str | None = None
    weights: str | None = None
    tokenizer: str | None = None
    vocabulary_size: int | None = None
    pooling: str | None = None
    saturation: str | None = None
    max_length: int | None = None
    max_weight: float | None = None

    def differences(self, other: Fingerprint) -> list[str]:
        """Known properties that differ, as "pooling max / sum"; the model's name is ignored."""
        return [
            f"{name} {mine} / {theirs}"
            for name, mine, theirs in ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
            if name != "model" and mine is not None and theirs is not None and mine != theirs
        ]

    def require_same(self, other: Fingerprint, mine: str, theirs: str) -> None:
        """Check that another fingerprint belongs to the same encoder.

        Args:
            other: The fingerprint to compare with.
            mine: What carries this fingerprint, for the message ("the index idx").
            theirs: What carries the other fingerprint ("the query").

        Raises:
            EncoderMismatch: The fingerprints differ; the message names both and the differences.
        """
        if found := self.differences(other):
            differ = f"they differ in {', '.join(found)}"
            if self.model and self.model.partition(" + ")[0] == (other.model or "").partition(" + ")[0]:
                raise EncoderMismatch(
                    f"{mine} was made with another version, or other settings, of {self.model} than {theirs}; "
                    f"{differ}. Encode both with the same version and settings: build an index again from its documents"
                )
            raise EncoderMismatch(
                f"{mine} was made with {self}, {theirs} with {other}; {differ}. Encode both with the same encoder."
            )

    def __str__(self) -> str:
        return self.model or "an unknown encoder"

    def to_json(self) -> str:
        """Serialize to one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "") -> Fingerprint:
        """Read the output of `to_json`; unknown keys of later versions are ignored.

        Raises:
            DataError: The text isn't a JSON object, or a value has the wrong type.
        """
        try:
            values = json.loads(text)
            known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(f"the encoder's fingerprint can't be read: {error}", where) from None
        for name, value in known.items():
            wanted = _KINDS.get(name, str)
            good = isinstance(value, wanted)
            if not good or (wanted is float and isinstance(value, float) and not 0 < value < _LARGEST):
                raise DataError(f"the encoder's fingerprint has {name} = {value!r}", where)
        return cls(**known)


def digest(chunks: Iterable[bytes]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of some bytes."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return state.hexdigest()[:16]


def digest_files(paths: Iterable[str | PathLike[str]]) -> str:
    """Digest of the contents of files, in the given order."""

    def chunks() -> Iterable[bytes]:
        for path in paths:
            with Path(path).open("rb") as file:
                while chunk := file.read(1 << 22):
                    yield chunk

    return digest(chunks())
