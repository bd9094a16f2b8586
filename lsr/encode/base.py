"""Encoder: the one interface of all encoders, and the folder that one is saved in.

An encoder turns texts into a SparseMatrix, queries and documents each in their own way. `save` writes a folder that
`load_encoder` opens again: `encoder.json` ({"format", "type", ...settings}) and whatever else the type needs.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lsr.encode.lexicon import Lexicon
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint
from lsr.sparse import SparseMatrix

CONFIG_FILE = "encoder.json"
FORMAT = 1
DEFAULT_ENCODER = "lsr-mini"  # what the commands use where no encoder is named


class Encoder(abc.ABC):
    """Text in, sparse vectors out.

    Attributes:
        type: Name of the kind of encoder, as `encoder.json` has it.
        needs_fit: Whether `fit` has to see the corpus before anything can be encoded.
        living: Whether its vocabulary grows with an index, and queries' weights follow from the index' counts: it is
            used as `over` gives it.
    """

    type: ClassVar[str]
    needs_fit: bool = False
    living: bool = False

    @property
    @abc.abstractmethod
    def fingerprint(self) -> Fingerprint:
        """What makes its vectors comparable to others."""

    @property
    @abc.abstractmethod
    def vocabulary(self) -> Sequence[str]:
        """Token of each term."""

    @abc.abstractmethod
    def encode_query(self, texts: str | Sequence[str]) -> SparseMatrix:
        """Encode one query or many, one row each; (n_texts, n_terms)."""

    @abc.abstractmethod
    def encode_document(self, texts: str | Sequence[str]) -> SparseMatrix:
        """Encode one document or many, one row each; (n_texts, n_terms)."""

    @abc.abstractmethod
    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Where the vocabulary's terms stand in a text: (term, start, end) in characters, in reading order.

        Stop words and special tokens are left out. Not cut at the maximum length: passages and explanations need
        the whole text.
        """

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Those spans that passages are counted in."""
        return self.spans(text)

    def origins(self, text: str, terms: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Which word of a document each of its terms comes from; nothing where the encoder can't tell.

        A model that keeps the largest of a term's logits over the text (max pooling), or adds them up, has it from the
        word of the token that gave the largest. Only what the encoder reads of a text counts. Never downloads a model.

        Args:
            text: The document's text.
            terms: Terms, of which those without weight in the document have no origin.

        Returns:
            (start, end) in characters of the text, of a whole word, by term. A term that a special token brought has
            none: it comes from the text as a whole.

        Raises:
            EncoderError: The documents' model can't be run.
        """
        return {}

    @abc.abstractmethod
    def save(self, folder: str | PathLike[str]) -> None:
        """Write everything that `load_encoder` needs into a folder, weights included."""

    def query_files(self) -> dict[str, bytes]:
        """The small files from which `load_encoder` makes an encoder for queries: they travel with the vectors.

        The documents' side may be no more than a reference to where the model lies.
        """
        return {}

    def fit(self, texts: Iterable[str]) -> None:  # noqa: B027 - a default, not a gap
        """Learn what has to be learned from the corpus; most encoders have nothing to learn here."""

    def over(self, lexicon: Lexicon | None) -> Encoder:
        """The same with the terms and counts of an index, or None for none, if it is one that lives."""
        return self

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64, what a document's weight of each of (n,) terms is multiplied with, where it stands for a query:
        IDF of an encoder that has it in its queries, else 1.
        """
        return np.ones(len(terms))

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many of these documents are longer than the maximum length and lose their end."""
        return 0

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary)


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or many as a list.

    Raises:
        TypeError: Something in it is no string.
    """
    many = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(many):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {type(text).__name__}, not str")
    return many


def config_bytes(kind: str, **settings: Any) -> bytes:
    """The content of `encoder.json`."""
    return (json.dumps({"format": FORMAT, "type": kind, **settings}, indent=1) + "\n").encode()


def read_config(folder: Path) -> dict[str, Any]:
    """Read `encoder.json`.

    Raises:
        EncoderError: It can't be read, or a later version of lsr wrote it.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
        version, kind = config["format"], config["type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{path}: can't be read: {error!r}") from None
    if version != FORMAT or not isinstance(kind, str):
        raise EncoderError(f"{path}: format {version!r}; this version of lsr reads format {FORMAT}")
    return dict(config)
