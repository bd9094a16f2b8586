"""Encoder: the interface of all encoders, and the folder format in which they are saved.

An encoder turns texts into a SparseMatrix; queries and documents may be encoded differently. `save` writes a folder
that `load_encoder` opens again: `encoder.json` ({"format", "type", ...settings}) and whatever else the type needs.
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
DEFAULT_ENCODER = "lsr-mini"  # for commands without --encoder

Text = str | Mapping[str, Any] | Document  # a mapping is a document: "text" and optionally "title"
Texts = Text | Iterable[Text]


class Encoder(abc.ABC):
    """An encoder turns texts into sparse vectors.

    Attributes:
        type: Name of the kind of encoder, as `encoder.json` has it.
        needs_fit: Whether `fit` must see the corpus before anything can be encoded.
        living: Whether its vocabulary grows with an index, and query weights depend on the index's counts. If so, use
            the encoder that `over` returns.
    """

    type: ClassVar[str]
    needs_fit: bool = False
    living: bool = False

    @property
    @abc.abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Identifies the encoder; vectors of different fingerprints can't be compared."""

    @property
    def query_fingerprint(self) -> Fingerprint | None:
        """Identifies a model that encodes only queries and isn't part of `fingerprint`; None without such a model."""
        return None

    @property
    @abc.abstractmethod
    def vocabulary(self) -> Sequence[str]:
        """Token of each term."""

    @abc.abstractmethod
    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Encode one query or many; returns one row each, (n_texts, n_terms). For accepted types see `as_texts`."""

    @abc.abstractmethod
    def encode_document(self, texts: Texts) -> SparseMatrix:
        """Encode one document or many; returns one row each, (n_texts, n_terms). For accepted types see `as_texts`."""

    @property
    def dense_width(self) -> int:
        """Dimensions of the model's dense vectors; 0 if it has none."""
        return 0

    def encode_dense(self, texts: Texts, *, queries: bool = False) -> NDArray[np.float32]:
        """Dense vectors of texts, (n_texts, dense_width) float32 of length 1, so that the dot product is the cosine.

        Args:
            texts: See `as_texts`.
            queries: Encode as queries, with the model's query prompt, instead of as documents.

        Raises:
            EncoderError: This encoder has no dense vectors.
        """
        raise EncoderError(f"{self.fingerprint.model} has no dense vectors")

    def encode_both(self, texts: Texts) -> tuple[SparseMatrix, NDArray[np.float32]]:
        """`encode_document` and `encode_dense` of documents in one pass of the model.

        Raises:
            EncoderError: This encoder has no dense vectors.
        """
        raise EncoderError(f"{self.fingerprint.model} has no dense vectors")

    @abc.abstractmethod
    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Positions of terms in a text: (term, start, end) in characters, in reading order.

        Stop words and special tokens are left out. The text isn't cut at the maximum length: passages and explanations
        need all of it.
        """

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """Positions of stop words, (start, end) in characters; empty if the encoder has no stop words."""
        return []

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """The spans that count for the size of passages."""
        return self.spans(text)

    def offsets(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int]]]:
        """(start, end) of each text's `tokens`; tokenizers are fastest with many texts at a time."""
        return [[(start, end) for _, start, end in self.tokens(text)] for text in texts]

    def origins(self, text: str, terms: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The word of a document from which each term comes; empty if the encoder can't tell.

        With max or sum pooling a term comes from the word of the token with the largest logit. Only the part of the
        text that the encoder reads counts. No model is downloaded.

        Args:
            text: The document's text.
            terms: Term ids; terms without weight in the document have no origin.

        Returns:
            {term: (start, end)}, the characters of a whole word. A term from a special token has no entry: it comes
            from the text as a whole.

        Raises:
            EncoderError: The documents' model can't be run.
        """
        return {}

    @abc.abstractmethod
    def save(self, folder: str | PathLike[str]) -> None:
        """Write everything that `load_encoder` needs into a folder, including weights."""

    def query_files(self) -> dict[str, bytes]:
        """Small files that are stored with vectors; `load_encoder_files` opens them as an encoder for queries.

        For encoding documents, they may hold only a reference to the model.
        """
        return {}

    def _reduced(self, **settings: Any) -> tuple[Any, ...]:
        """The value of `__reduce__`: another process then calls `load` with the `query_files`, and opens models
        from the paths where they are now.
        """
        return _reopened, (type(self), self.query_files(), settings)

    def fit(self, texts: Iterable[str]) -> None:  # noqa: B027 - a default for subclasses
        """Learn statistics of the corpus; does nothing for most encoders."""

    def over(self, lexicon: Lexicon | None) -> Encoder:
        """Return a copy with the terms and counts of `lexicon`; None gives a copy without terms.

        Encoders that aren't living return themselves.
        """
        return self

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64, factors that turn a document's weights of (n,) terms into query weights: the IDF if the
        encoder's query weights include it, else 1.
        """
        return np.ones(len(terms))

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """How many more tokens fit after each text; prompt and special tokens are already counted.

        Args:
            texts: The texts with their titles; for an empty text, the result is the length of the longest text that the
                encoder reads.
            queries: Read as queries instead of documents.

        Returns:
            A number for each text, negative if tokens are cut (-3: three tokens); None if the encoder reads texts of
            any length.
        """
        return None

    def count_truncated(self, texts: Sequence[str], *, queries: bool = False) -> int:
        """How many of these documents, or queries, are longer than the encoder reads."""
        return sum(left < 0 for left in self.room(texts, queries=queries) or ())

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocabulary)


def _reopened(kind: Any, content: dict[str, bytes], settings: dict[str, Any]) -> Encoder:
    with tempfile.TemporaryDirectory() as temporary:  # all files are read into memory before the folder is deleted
        folder = Path(temporary)
        write_files(folder, content)
        encoder: Encoder = kind.load(folder, read_config(folder), **settings)
        return encoder


def as_texts(texts: Texts) -> list[str]:
    """One text or many as a list of strings. A document (`Document` or mapping) becomes its title and text.

    Args:
        texts: Strings or documents; an iterable is read once.

    Raises:
        TypeError: A value is neither text nor document, or `texts` is a table, which iterates over its columns.
        DataError: A document has no text, or a text has half a surrogate pair.
    """
    if isinstance(texts, Mapping) and isinstance(texts.get("text"), Iterable) and not isinstance(texts["text"], str):
        raise TypeError('texts are a mapping of columns: pass one of them, texts["text"], or one document at a time')
    if isinstance(texts, str | Mapping | Document):
        return [_as_text(texts, "the text")]
    return [_as_text(text, f"text {i}") for i, text in enumerate(as_rows(texts, "texts"))]


def as_rows(values: Iterable[Any], what: str) -> list[Any]:
    """Return the items of an ordered iterable.

    Args:
        values: The iterable; read once.
        what: What the items are, for messages.

    Raises:
        TypeError: `values` isn't iterable, or is a table (which iterates over columns), a set (which has no order) or
            bytes (which iterate over numbers).
    """
    kind = f"{type(values).__module__.partition('.')[0]}.{type(values).__name__}".removeprefix("builtins.")
    if hasattr(values, "columns"):  # a table of pandas, polars or pyarrow
        raise TypeError(
            f'{what} are a table ({kind}), which iterates over its columns: pass one of them, as table["text"]'
        )
    if not isinstance(values, Iterable) or isinstance(values, bytes | bytearray | memoryview | set | frozenset):
        raise TypeError(f"{what} must be a text or an ordered iterable of texts, not {kind}")
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
    """Write files into a folder; makes the folder if needed."""
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
        EncoderError: The file can't be read, or a later version of lsr wrote it.
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
