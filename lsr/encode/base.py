"""Encoder: the one interface of all encoders, and the folder that one is saved in.

An encoder turns texts into a SparseMatrix, queries and documents each in their own way. `save` writes a folder that
`load_encoder` opens again: `encoder.json` ({"format", "type", ...settings}) and whatever else the type needs.
"""

from __future__ import annotations

import abc
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lsr.encode.lexicon import Lexicon
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint
from lsr.io.document import Document, require_encodable
from lsr.sparse import SparseMatrix

CONFIG_FILE = "encoder.json"
FORMAT = 1
DEFAULT_ENCODER = "lsr-mini"  # what the commands use where no encoder is named

Text = str | Mapping[str, Any] | Document  # a mapping is a document: "text", perhaps "title"
Texts = Text | Iterable[Text]


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
    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Encode one query or many, one row each; (n_texts, n_terms). They are read as by `as_texts`."""

    @abc.abstractmethod
    def encode_document(self, texts: Texts) -> SparseMatrix:
        """Encode one document or many, one row each; (n_texts, n_terms). They are read as by `as_texts`."""

    @property
    def dense_width(self) -> int:
        """Numbers of the dense vector that the model gives of a text beside the sparse one; 0 where it gives none."""
        return 0

    def encode_dense(self, texts: Texts, *, queries: bool = False) -> NDArray[np.float32]:
        """Dense vectors of texts, (n_texts, dense_width) float32 of length 1: their dot product is the cosine.

        Args:
            texts: Read as by `as_texts`.
            queries: Encode them as queries, with the prompt that the model wants, not as documents.

        Raises:
            EncoderError: This encoder gives none.
        """
        raise EncoderError(f"{self.fingerprint.model} gives no dense vectors")

    def encode_both(self, texts: Texts) -> tuple[SparseMatrix, NDArray[np.float32]]:
        """Documents as by `encode_document`, and their dense vectors as by `encode_dense`, in one pass of the model.

        Raises:
            EncoderError: This encoder gives no dense vectors.
        """
        raise EncoderError(f"{self.fingerprint.model} gives no dense vectors")

    @abc.abstractmethod
    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Where the vocabulary's terms stand in a text: (term, start, end) in characters, in reading order.

        Stop words and special tokens are left out. Not cut at the maximum length: passages and explanations need
        the whole text.
        """

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """Where words stand that say little by themselves, (start, end) in characters; none where nothing tells."""
        return []

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

    def _reduced(self, **settings: Any) -> tuple[Any, ...]:
        """For `__reduce__`: another process calls `load` with the files, and finds models where they lie."""
        return _reopened, (type(self), self.query_files(), settings)

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

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """How many tokens still fit behind each text, beside the prompt and the special tokens.

        Args:
            texts: The texts, titles included; an empty one for all the room that there is.
            queries: Read as queries, not as documents.

        Returns:
            The number for each text, -3 where three tokens aren't read; None where all of any text is read.
        """
        return None

    def count_truncated(self, texts: Sequence[str], *, queries: bool = False) -> int:
        """How many of these documents, or queries, are longer than what is read, and are cut."""
        return sum(left < 0 for left in self.room(texts, queries=queries) or ())

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary)


def _reopened(kind: Any, content: dict[str, bytes], settings: dict[str, Any]) -> Encoder:
    with tempfile.TemporaryDirectory() as temporary:  # everything is read into memory before it goes
        folder = Path(temporary)
        write_files(folder, content)
        encoder: Encoder = kind.load(folder, read_config(folder), **settings)
        return encoder


def as_texts(texts: Texts) -> list[str]:
    """One text or many as a list; of a document, a mapping or a `Document`, the title and the text.

    Args:
        texts: What is to be encoded; an iterable is read once.

    Raises:
        TypeError: Something that is neither text nor document; a table, whose rows can't be told from its columns.
        DataError: A document without text, or half a character in a text.
    """
    if isinstance(texts, Mapping) and isinstance(texts.get("text"), Iterable) and not isinstance(texts["text"], str):
        raise TypeError('texts are a mapping of columns: give one of them, texts["text"], or a document at a time')
    if isinstance(texts, str | Mapping | Document):
        return [_as_text(texts, "the text")]
    return [_as_text(text, f"text {i}") for i, text in enumerate(as_rows(texts, "texts"))]


def as_rows(values: Iterable[Any], what: str) -> list[Any]:
    """The items of any iterable whose order says which is which.

    Args:
        values: The iterable; read once.
        what: What they are, for messages.

    Raises:
        TypeError: It isn't such an iterable: a table gives its columns, a set has no order, bytes are numbers.
    """
    kind = f"{type(values).__module__.partition('.')[0]}.{type(values).__name__}".removeprefix("builtins.")
    if hasattr(values, "columns"):  # of pandas, polars, pyarrow
        raise TypeError(f'{what} are a table ({kind}), which gives its columns: give one of them, as table["text"]')
    if not isinstance(values, Iterable) or isinstance(values, bytes | bytearray | memoryview | set | frozenset):
        raise TypeError(f"{what} are a text or an iterable of texts in an order, not {kind}")
    return list(values)


def _as_text(value: Any, what: str) -> str:
    if isinstance(value, Mapping):
        kept = {key: part for key, part in value.items() if key in ("text", "title") or isinstance(part, str)}
        value = Document.from_mapping({"_id": what, **kept}, what)
    if isinstance(value, Document):
        return value.content
    if not isinstance(value, str):
        raise TypeError(f"{what} is {type(value).__name__}, not str")
    if not value.isascii():
        require_encodable(value, what, "")
    return value


def write_files(folder: str | PathLike[str], content: Mapping[str, bytes]) -> None:
    """Write files into a folder, made if it isn't there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)


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
