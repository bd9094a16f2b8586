"""Late interaction over sparse token vectors, after SLIM (arXiv 2302.06587): each query token is scored against its
best document token.

    late score  = sum_i max_j <q_i, d_j>      q_i, d_j: sparse vectors of the tokens, with k terms each
    first score = <sum_i q_i, max_j d_j>      inner product of the fused vectors; at least the late score

`LateEncoder` gives the fused vectors, which any index searches. `TokenVectors` is a file with the documents' token
vectors; `LateReranker` uses it to re-score the best documents of the first search:

    encoder = load_encoder("late:lsr-mini")
    index = Index.build("idx", "docs.jsonl", encoder=encoder)
    vectors = TokenVectors.build("idx-tokens.arrow", documents, encoder)
    index.search("ice on the wing", rerank=LateReranker(encoder, vectors), depth=100)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from lsr.encode import portable
from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes, write_files
from lsr.encode.hybrid import document_model
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tower import ModelOptions
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

_TOP_K = 8  # terms kept per token


class LateEncoder(Encoder):
    """Encodes texts as fused token vectors. `load_encoder("late:lsr-mini")` returns an encoder over lsr-mini.

    Queries also run through the model. If the model has a table of query weights instead of a query encoder, queries
    are encoded like documents.

    Args:
        model: A SPLADE encoder with max pooling. If it is combined with BM25 or with a table of query weights, only the
            document model is used.
        top_k: Terms kept per token, in queries and documents.

    Raises:
        EncoderError: The encoder has no token vectors, or `top_k` is below 1.
    """

    type = "late"

    def __init__(self, model: Encoder, *, top_k: int = _TOP_K) -> None:
        model = document_model(model)
        if not isinstance(model, SpladeEncoder):
            raise EncoderError(f"{model.fingerprint.model} has no token vectors; take lsr-mini or a SPLADE model")
        if top_k < 1:
            raise EncoderError(f"top_k must be at least 1, got {top_k}")
        self.model, self.top_k = model, int(top_k)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced(device=self.model.device, batch_tokens=self.model.batch_tokens)

    def token_vectors(self, texts: Texts, *, queries: bool = False) -> list[SparseMatrix]:
        """Encode the tokens of texts.

        Args:
            texts: See `as_texts`.
            queries: Whether the texts are queries.

        Returns:
            For each text a matrix (n_tokens, n_terms), without special tokens; a row has at most `top_k` terms.
        """
        return self.model.token_weights(as_texts(texts), self.top_k, queries=queries)

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """The sum of a query's token vectors."""
        return fused(self.token_vectors(texts, queries=True), self.n_terms, total=True)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """The maximum of a document's token vectors."""
        return fused(self.token_vectors(texts), self.n_terms)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The model's tokens."""
        return self.model.vocabulary

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return self.model.n_terms

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Provided by the model; see `Encoder`."""
        return self.model.spans(text)

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Provided by the model; see `Encoder`."""
        return self.model.tokens(text)

    def offsets(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int]]]:
        """Provided by the model; see `Encoder`."""
        return self.model.offsets(texts)

    def origins(self, text: str, terms: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Provided by the model; see `Encoder`."""
        return self.model.origins(text, terms)

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """Provided by the model; see `Encoder`."""
        return self.model.room(texts, queries=queries)

    def check(self) -> None:
        """Check all files without running a model.

        Raises:
            EncoderError: A file is missing.
        """
        self.model.check()

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the model and `top_k`."""
        model = self.model.fingerprint
        weights = digest([json.dumps([str(model.weights), self.type, self.top_k]).encode()])
        return replace(model, model=f"late({self.top_k} terms a token) of {model.model}", weights=weights)

    # --- on disk ------------------------------------------------------------------------------------------------------

    def query_files(self) -> dict[str, bytes]:
        """The model's files for queries."""
        return self._with_config(self.model.query_files())

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the model and `top_k`."""
        folder = Path(folder)
        write_files(folder, self._with_config(portable.save_model(self.model, folder)))

    def _with_config(self, written: Mapping[str, bytes]) -> dict[str, bytes]:
        model = json.loads(written[CONFIG_FILE])
        return {**written, CONFIG_FILE: config_bytes(self.type, model=model, top_k=self.top_k)}

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], **settings: Unpack[ModelOptions]) -> LateEncoder:
        """Open the files of `save` or `query_files`.

        Args:
            folder: The folder of the files.
            config: Content of `encoder.json`.
            settings: Settings of the model; `top_k` is the number of terms per token.

        Raises:
            EncoderError: A file is missing or damaged.
        """
        given: dict[str, Any] = {**settings}
        top_k = given.pop("top_k", None) or config.get("top_k")
        if not isinstance(top_k, int) or not isinstance(config.get("model"), dict):
            raise EncoderError(f"{folder / CONFIG_FILE}: not a whole encoder of token vectors")
        return cls(SpladeEncoder.load(folder, config["model"], **given), top_k=top_k)


def fused(texts: Sequence[SparseMatrix], n_terms: int, *, total: bool = False) -> SparseMatrix:
    """Merge the token vectors of each text into one vector.

    Args:
        texts: For each text a matrix (n_tokens, n_terms).
        n_terms: Size of the vocabulary.
        total: Whether a term's weight is the sum over the tokens; otherwise it is the maximum.

    Returns:
        (n_texts, n_terms).
    """
    rows = []
    for tokens in texts:
        terms, at = np.unique(tokens.indices, return_inverse=True)
        weights = np.zeros(len(terms), np.float32)
        (np.add if total else np.maximum).at(weights, at, tokens.data)
        rows.append((terms, weights))
    return SparseMatrix.from_rows(rows, n_terms)
