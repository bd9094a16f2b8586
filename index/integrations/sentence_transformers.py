"""sentence-transformers: a SparseEncoder as an lsr encoder.

    encoder = SentenceTransformersEncoder(SparseEncoder("naver/splade-v3"))
    index = Index.build("idx", documents, encoder=encoder)  # and Index.open("idx", encoder=encoder)

Needs the extra `sentence-transformers`. For SPLADE models, `load_encoder` is faster; use this class for models that
`load_encoder` refuses. The two have different fingerprints, so search an index with the class that made it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from lsr.encode.base import Encoder, Texts, as_texts
from lsr.encode.tokenizer import TextTokenizer
from lsr.errors import EncoderError, MissingExtra
from lsr.fingerprint import Fingerprint, digest
from lsr.forks import cached_property, in_child
from lsr.sparse import SparseMatrix

try:
    import torch
    from sentence_transformers import SparseEncoder
except ImportError:
    raise MissingExtra(
        "sentence-transformers", "sentence-transformers", "an encoder of sentence-transformers"
    ) from None


def matrix(embeddings: torch.Tensor) -> SparseMatrix:
    """Convert the output of `SparseEncoder.encode`, sparse or dense, to (n_texts, n_terms); one embedding is one row.

    Raises:
        TypeError: Not a tensor.
        ValueError: A weight is negative or not a number.
    """
    if not isinstance(embeddings, torch.Tensor):
        raise TypeError(f"embeddings are a tensor, as from SparseEncoder.encode, got {type(embeddings).__name__}")
    rows = (embeddings.unsqueeze(0) if embeddings.ndim == 1 else embeddings).detach().cpu().to_sparse_coo().coalesce()
    numbers, terms = rows.indices().numpy()
    indptr = np.searchsorted(numbers, np.arange(rows.shape[0] + 1))
    return SparseMatrix(indptr, terms, rows.values().float().numpy(), (rows.shape[0], rows.shape[1]))


class SentenceTransformersEncoder(Encoder):
    """Wraps a SparseEncoder as an encoder.

    An index doesn't store this encoder, so pass it to `Index.open`.

    Args:
        model: The loaded model.
        batch_size: Texts per batch.

    Raises:
        EncoderError: The model's tokenizer isn't from the tokenizers library.
    """

    type = "sentence-transformers"

    def __init__(self, model: SparseEncoder, batch_size: int = 32) -> None:
        self.model = model
        self.batch_size = batch_size
        backend = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
        if not hasattr(backend, "to_str"):
            raise EncoderError(
                f"the model has a {type(backend).__name__}; it needs a tokenizer of the tokenizers library"
            )
        self._tokenizer = TextTokenizer(backend.to_str())
        self._n_terms = matrix(model.encode_document([""], show_progress_bar=False)).shape[1]
        kinds = {type(module).__name__ for module in model.modules()}
        # An autoencoder's terms are dimensions, not the tokenizer's tokens.

        self._terms_are_tokens = not kinds.isdisjoint({"SpladePooling", "SparseStaticEmbedding"})
        in_child(self)

    def after_fork(self) -> None:
        """Use one thread in a forked child, like other PyTorch models; see `lsr.forks`."""
        torch.set_num_threads(1)

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Encode with the model's `encode_query`, including prompts."""
        return self._encode(self.model.encode_query, as_texts(texts))

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """Encode with the model's `encode_document`, including prompts."""
        return self._encode(self.model.encode_document, as_texts(texts))

    def _encode(self, encode: Any, texts: list[str]) -> SparseMatrix:
        if not texts:
            return SparseMatrix.empty(self._n_terms)
        return matrix(encode(texts, batch_size=self.batch_size, show_progress_bar=False, save_to_cpu=True))

    @cached_property
    def vocabulary(self) -> Sequence[str]:
        """The tokenizer's tokens; for an autoencoder, whose terms aren't tokens, "[dim:0]" and so on."""
        if self._terms_are_tokens:
            return self._tokenizer.vocabulary(self._n_terms)
        return [f"[dim:{term}]" for term in range(self._n_terms)]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return where tokens occur in a text; empty if terms aren't tokens."""
        return self.tokens(text) if self._terms_are_tokens else []

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Return the tokenizer's tokens, even if terms aren't tokens."""
        return self._tokenizer.spans(text)

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """Return how many more tokens fit after each text."""
        limit = self.model.max_seq_length
        if not limit or math.isinf(limit):
            return None
        names = ("query",) if queries else ("document", "passage", "corpus")  # the model uses the first that exists
        prompt = next((self.model.prompts[name] for name in names if name in self.model.prompts), None) or ""
        ids = self._tokenizer.ids([prompt + text for text in texts], None, special=True)
        return [int(limit) - len(row) for row in ids]

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Hashes of parameters, prompts and tokenizer, which don't change with the library's version."""
        values = {digest([p.detach().cpu().flatten().view(torch.uint8).numpy()]) for p in self.model.parameters()}
        how = json.dumps([sorted(values), self.model.prompts, self.model.max_active_dims], sort_keys=True)
        length = self.model.max_seq_length
        poolings = [module for module in self.model.modules() if type(module).__name__ == "SpladePooling"]
        return Fingerprint(
            model=f"SparseEncoder({self.model.model_card_data.base_model or ''})",
            weights=digest([how.encode()]),
            tokenizer=self._tokenizer.digest,
            vocabulary_size=self._n_terms,
            pooling="/".join(pooling.pooling_strategy for pooling in poolings) or None,
            saturation="/".join(pooling.activation_function for pooling in poolings) or None,
            max_length=int(length) if length and length < math.inf else None,  # infinite for static embeddings
        )

    def save(self, folder: str | PathLike[str]) -> None:
        """Refuse to save, because lsr can't load the model's files.

        Raises:
            EncoderError: Always.
        """
        raise EncoderError("save a SparseEncoder with its own library: encoder.model.save_pretrained(folder)")
