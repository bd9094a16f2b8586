"""Inference-free retrieval: a SPLADE model encodes documents; queries look up their tokens in a table.

    q_j = 1[j in tokens(q)] * table_j

Repeated tokens count once. Special tokens and tokens with a negative entry have weight 0 (SPLADE-doc; IDF tables of
arXiv 2411.04403). Queries need the tokenizer and the table, but neither torch nor transformers.

A small SPLADE model can be added for queries. It also gives weight to terms that aren't in the query:

    q = (table's weights + model's weights) / 2

Documents stay the same, so an index can be searched with and without this model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from lsr.encode import model_files as files
from lsr.encode import portable
from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tokenizer import TOKENIZER_FILE, TextTokenizer
from lsr.encode.tower import ModelOptions
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

TABLE_FILE = "query_weights.arrow"
_QUERY_MODEL = "query"  # folder of the query model, and its key in encoder.json
_QUERY_TERMS = 32  # the query model gives at most this many terms
_BEGINNING = 3  # minimum letters of the first piece, if the other encoder doesn't know the word


class InferenceFreeEncoder(Encoder):
    """Encodes documents with a `SpladeEncoder` and queries with a table of weights.

    Args:
        document: The documents' encoder; its model is loaded when the first document is encoded.
        table: (n,) float, weight of each token; n at most the size of the vocabulary.
        tokenizer: The tokenizer for queries; None for the documents' tokenizer.
        max_length: Number of tokens read from a query; None for all.
        prompt: Text before every query.
        query_model: A model with the same vocabulary; its query weights are averaged with those of the table.

    Raises:
        EncoderError: The table doesn't fit the vocabulary, or has values that are not numbers.
    """

    type = "inference-free"

    def __init__(
        self,
        document: SpladeEncoder,
        table: ArrayLike,
        tokenizer: TextTokenizer | None = None,
        *,
        max_length: int | None = None,
        prompt: str = "",
        query_model: SpladeEncoder | None = None,
    ) -> None:
        self.document, self.prompt, self.query_model = document, prompt, query_model
        if query_model is not None and query_model.device is None and query_model.query.head != "onnx":
            query_model.device = document.device  # graphs run on the CPU
        self.max_length = None if max_length is None else files.checked_length(max_length, "the queries' max_length")
        self.tokenizer = tokenizer or document._tokenizer(document.document)
        self.table = _checked_table(table, self.tokenizer, document.n_terms)
        self._vocabulary = self.tokenizer.vocabulary(len(self.table))
        self._fingerprint: Fingerprint | None = None

    def beside(self, query_model: SpladeEncoder | None, document: SpladeEncoder | None = None) -> InferenceFreeEncoder:
        """Return a copy with another query model, and another document model if one is given."""
        how: dict[str, Any] = {"max_length": self.max_length, "prompt": self.prompt, "query_model": query_model}
        return InferenceFreeEncoder(document or self.document, self.table, self.tokenizer, **how)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced(device=self.document.device, batch_tokens=self.document.batch_tokens)

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Encode queries with the table, and with the query model if there is one."""
        texts = as_texts(texts)
        rows = self.tokenizer.ids([self.prompt + text for text in texts], self.max_length, special=False)
        terms = [np.unique(np.array(row, dtype=np.int64)) for row in rows]
        return self._with_model(texts, [(row, self.table[row]) for row in terms], terms)

    def encode_known(self, texts: Sequence[str], other: Encoder) -> SparseMatrix:
        """Encode queries for use together with an encoder of whole words, such as BM25.

        A word that isn't in the vocabulary is split into pieces, which also occur in unrelated words. So pieces count
        only if the query also has a whole word that isn't a stop word and that the other encoder knows. The first piece
        then counts in full, and each further piece counts half. If the other encoder doesn't know the split word, only
        its first piece counts, and only if this piece has at least three letters.

        Args:
            texts: The queries.
            other: The encoder that knows whole words and stop words.
        """
        rows, own = [], []
        for text in texts:
            ids, places = self.tokenizer.words(text, self.max_length, self.prompt, special=False)
            known, fillers = [span[1:] for span in other.spans(text)], other.fillers(text)
            weights: dict[int, float] = {}  # factor of each term's table entry
            pieces: dict[int, float] = {}
            alone = True
            for place, tokens in groupby(zip(ids, places, strict=True), key=itemgetter(1)):
                first, *others = (term for term, _ in tokens)
                theirs = _meets(place, known)
                if place is None or not others:
                    weights |= dict.fromkeys([first, *others], 1.0)
                    alone = alone and (not theirs or _meets(place, fillers))
                elif theirs:
                    pieces |= {first: 1.0} | {term: 0.5 for term in others if term not in pieces}
                elif len(self._vocabulary[first].lstrip("\u0120\u2581")) >= _BEGINNING:  # marks of a word's start
                    pieces[first] = 1.0
            if not alone:
                weights = pieces | weights
            terms = np.array(sorted(weights), np.int64)
            rows.append((terms, self.table[terms] * np.array([weights[term] for term in terms.tolist()], np.float32)))
            own.append(np.array(ids, np.int64))
        return self._with_model(texts, rows, own)

    def _with_model(
        self,
        texts: Sequence[str],
        rows: list[tuple[NDArray[np.int64], NDArray[np.float32]]],
        own: Sequence[NDArray[np.int64]],
    ) -> SparseMatrix:
        """Average the table's weights with the query model's weights.

        Args:
            texts: The queries.
            rows: Terms of each query and their weights in the table. A query without terms stays empty: the model would
                only guess.
            own: Tokens of each query. The model doesn't add a token that the query's row lacks.
        """
        if self.query_model is not None:
            guessed = self.query_model.encode_query(texts).top_k(_QUERY_TERMS)
            for i, (terms, weights) in enumerate(rows):
                if weights.any():
                    more, theirs = guessed.row(i)
                    kept = ~np.isin(more, own[i]) | np.isin(more, terms)
                    both = np.concatenate([terms, more[kept].astype(np.int64)])
                    joined, places = np.unique(both, return_inverse=True)
                    halves = np.concatenate([weights, theirs[kept]]) / 2
                    rows[i] = joined, np.bincount(places, halves, len(joined)).astype(np.float32)
        return SparseMatrix.from_rows(rows, self.n_terms)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """Encode documents with their model."""
        return self.document.encode_document(texts)

    @property
    def dense_width(self) -> int:
        """Provided by the documents' model; see `Encoder`."""
        return self.document.dense_width

    def encode_dense(self, texts: Texts, *, queries: bool = False) -> NDArray[np.float32]:
        """Provided by the documents' model, also for queries; see `Encoder`."""
        return self.document.encode_dense(texts, queries=queries)

    def encode_both(self, texts: Texts) -> tuple[SparseMatrix, NDArray[np.float32]]:
        """Provided by the documents' model; see `Encoder`."""
        return self.document.encode_both(texts)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The tokenizer's tokens, padded to the model's number of outputs."""
        return self._vocabulary

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Positions of tokens in a text."""
        n_terms = self.n_terms
        return [span for span in self.tokenizer.spans(text) if span[0] < n_terms]

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Provided by the documents' model; see `Encoder`."""
        return self.document.tokens(text)

    def offsets(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int]]]:
        """Provided by the documents' model; see `Encoder`."""
        return self.document.offsets(texts)

    def origins(self, text: str, terms: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Provided by the documents' model; see `Encoder`."""
        return self.document.origins(text, terms)

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """See `Encoder`."""
        if not queries:
            return self.document.room(texts)
        if self.max_length is None:
            return None
        ids = self.tokenizer.ids([self.prompt + text for text in texts], None, special=False)
        return [self.max_length - len(row) for row in ids]

    def check(self) -> None:
        """Check all files without running a model.

        Raises:
            EncoderError: A file is missing, or queries and documents have different vocabularies.
        """
        self.document.check()
        if list(self.document.vocabulary) != self._vocabulary:
            raise EncoderError("the queries' tokenizer has another vocabulary than the documents' model")
        self.check_query_model()

    def check_query_model(self) -> None:
        """Check the query model without running it, and without the documents' model.

        Raises:
            EncoderError: A file is missing, or the vocabularies of the query model and the table differ.
        """
        if self.query_model is not None:
            self.query_model.check()
            if list(self.query_model.vocabulary) != self._vocabulary:
                raise EncoderError(
                    f"the query model {self.query_model.query.name} has another vocabulary than the document model "
                    f"{self.document.document.name}; their vectors have no terms in common"
                )

    @property
    def fingerprint(self) -> Fingerprint:
        """Combined fingerprint of the documents' encoder and the table. The query model isn't included, since it
        changes no document vector.
        """
        if self._fingerprint is None:
            document = self.document.fingerprint
            parts = [str(document.weights), self.prompt, str(self.max_length)]
            state = ["\n".join(parts).encode(), self.table.astype("<f4").tobytes()]
            self._fingerprint = Fingerprint(
                model=document.model,
                weights=digest(state),
                tokenizer=self.tokenizer.digest,
                vocabulary_size=self.n_terms,
                pooling=document.pooling,
                saturation=document.saturation,
                max_length=document.max_length,
            )
        return self._fingerprint

    @property
    def query_fingerprint(self) -> Fingerprint | None:
        """The query model's fingerprint; None without one."""
        return None if self.query_model is None else self.query_model.fingerprint

    # --- on disk --------------------------------------------------------------------------------------------

    def query_files(self) -> dict[str, bytes]:
        """Everything for queries, and references to the checkpoints of the models."""
        return self._files(self.document.config(), None if self.query_model is None else self.query_model.config())

    def save(self, folder: str | PathLike[str]) -> None:
        """Copy the documents' checkpoint, and write tokenizer, table and `encoder.json`.

        If other libraries can open the model, it goes into the folder itself, where they look for it; otherwise into
        the subfolder "document".
        """
        folder, tower = Path(folder), self.document.document
        known = portable.is_portable(tower)
        same = self.document._tokenizer(tower).digest == self.tokenizer.digest
        at = "" if known and same else "document"
        places = self.document.copy_towers(folder, at)
        model = None
        if self.query_model is not None:
            model = self.query_model.config(self.query_model.copy_towers(folder, _QUERY_MODEL))
        for name, content in self._files(self.document.config(places), model).items():
            (folder / name).write_bytes(content)
        read = "all their tokens" if self.max_length is None else f"{self.max_length} tokens"
        queries = f"queries are looked up in a table, no model runs; {read} are read"
        if self.query_model is not None:
            name = self.query_model.query.name
            queries = f"queries are looked up in a table; {read} are read. lsr adds the weights of the model {name}"
        about = [*self.document.about(), f"{queries}; other libraries don't" if known and self.query_model else queries]
        if known:
            about += portable.describe_inference_free(
                folder, tower, at, self.table, self.tokenizer, self.max_length, self.prompt
            )
        else:
            portable.refuse(folder)
        portable.write_card(folder, about, portable=known, base=tower.hub_name)

    def _files(self, document: dict[str, Any], query_model: dict[str, Any] | None) -> dict[str, bytes]:
        settings = {"document": document, "max_length": self.max_length, "prompt": self.prompt}
        if query_model is not None:
            settings[_QUERY_MODEL] = query_model
        return {
            CONFIG_FILE: config_bytes(self.type, **settings),
            TOKENIZER_FILE: self.tokenizer.content,
            TABLE_FILE: _table_bytes(self.table),
        }

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], **settings: Unpack[ModelOptions]) -> InferenceFreeEncoder:
        """Open the files of `save` or `query_files`.

        Args:
            folder: The folder of the files. It may be deleted afterwards, unless it contains the model.
            config: Content of `encoder.json`.
            settings: Settings of the documents' encoder that replace the stored ones.

        Raises:
            EncoderError: A file is missing or damaged.
        """
        try:
            document = SpladeEncoder.from_config(config["document"], folder, None, **settings)
            tokenizer = TextTokenizer.open(folder, settings={})
            table = _read_table(folder / TABLE_FILE)
            model = config.get(_QUERY_MODEL)
            model = None if model is None else SpladeEncoder.from_config(model, folder, None)
            how: dict[str, Any] = {"max_length": config["max_length"], "prompt": config["prompt"], "query_model": model}
            return cls(document, table, tokenizer, **how)
        except (OSError, KeyError, TypeError) as error:
            raise EncoderError(f"{folder}: not a whole inference-free encoder: {error!r}") from None


def _meets(place: tuple[int, int] | None, spans: Iterable[Sequence[int]]) -> bool:
    """Whether a range of characters overlaps one of the spans."""
    return place is not None and any(start < place[1] and end > place[0] for start, end in spans)


def _checked_table(table: ArrayLike, tokenizer: TextTokenizer, n_terms: int) -> NDArray[np.float32]:
    """Return a copy with an entry for each term, where negative entries and those of special tokens are set to zero."""
    given = np.asarray(table, dtype=np.float32)
    if given.ndim != 1 or not tokenizer.size <= len(given) <= max(n_terms, tokenizer.size):
        raise EncoderError(
            f"the table of query weights has shape {given.shape}; the tokenizer has {tokenizer.size} "
            f"tokens and the model {n_terms} terms"
        )
    if tokenizer.size > n_terms:
        raise EncoderError(f"the queries' tokenizer has {tokenizer.size} tokens, the documents' model {n_terms} terms")
    if not np.isfinite(given).all():
        at = int(np.argmin(np.isfinite(given)))
        raise EncoderError(f"the table of query weights has {given[at]} for token {at}; weights are finite")
    full = np.zeros(n_terms, np.float32)
    full[: len(given)] = np.maximum(given, 0)
    full[sorted(tokenizer.special)] = 0
    return full


def _table_bytes(table: NDArray[np.float32]) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"weight": pa.array(table)})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _read_table(path: Path) -> NDArray[np.float32]:
    try:
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        table.validate(full=True)  # a damaged file must not cause reads out of bounds
        if table.schema != pa.schema({"weight": pa.float32()}) or table["weight"].null_count:
            raise EncoderError(f"{path}: not one column of float32 weights: {table.schema}")
        return np.asarray(table["weight"].to_numpy())
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise EncoderError(f"{path}: can't be read: {error}") from None
