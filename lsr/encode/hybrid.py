"""A learned encoder and BM25 in one vector.

    score = learned score + weight * BM25 score

One inverted index searches both at once, exactly, and explains hits by the terms of both. The vocabulary has the
model's tokens, followed by BM25's terms as "bm25:TERM", which grow with the index.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from lsr._moved import renamed
from lsr.encode import portable
from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.bm25_fixed import FixedBM25Encoder
from lsr.encode.inference_free import InferenceFreeEncoder
from lsr.encode.lexicon import Lexicon
from lsr.encode.splade import SpladeEncoder
from lsr.encode.tower import ModelOptions
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

PREFIX = "bm25:"
# BM25's document weights are divided by this factor, and its query weights are multiplied by it. So the document
# weights of both encoders have the same magnitude, and one 8-bit scale fits both. _SIZE_FIXED is for document weights
# that include IDF.
_SIZE, _SIZE_FIXED = 0.5, 4.0


class HybridEncoder(Encoder):
    """The sum of a learned encoder and BM25.

    Args:
        learned: The learned encoder.
        lexical: BM25.
        weight: Factor of BM25's score, above 0.

    Raises:
        EncoderError: The weight is not above 0.
    """

    type = "hybrid"

    def __init__(
        self,
        learned: SpladeEncoder | InferenceFreeEncoder,
        lexical: BM25Encoder | FixedBM25Encoder,
        weight: float,
    ) -> None:
        if not 0 < weight < math.inf:
            raise EncoderError(f"lexical={weight}: the weight of BM25's score must be a number above 0")
        self.learned, self.lexical, self.weight = learned, lexical, float(weight)
        self._size = _SIZE if lexical.living else _SIZE_FIXED

    @property
    def living(self) -> bool:  # type: ignore[override]
        """True, except with the BM25 of indexes from an earlier version."""
        return self.lexical.living

    def over(self, lexicon: Lexicon | None) -> HybridEncoder:
        """Return a copy in which BM25 has the terms and counts of an index; None gives a copy without terms."""
        if not isinstance(self.lexical, BM25Encoder):
            return self
        mine = None if lexicon is None else lexicon.part(self.learned.n_terms, PREFIX)
        return HybridEncoder(self.learned, self.lexical.over(mine), self.weight)

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """1 for the learned encoder's terms, IDF for BM25's terms."""
        terms, first = np.asarray(terms, np.int64), self.learned.n_terms
        factors = np.ones(len(terms))
        factors[terms >= first] = self.lexical.query_factors(terms[terms >= first] - first)
        return factors

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], **settings: Unpack[ModelOptions]) -> HybridEncoder:
        """Open the files of `save` or `query_files`.

        Args:
            folder: The folder of the files.
            config: Content of `encoder.json`.
            settings: Settings of the learned encoder that replace the stored ones.

        Raises:
            EncoderError: A file is missing or damaged.
        """
        learned, lexical, weight = open_parts(folder, config)
        kind = InferenceFreeEncoder if learned["type"] == InferenceFreeEncoder.type else SpladeEncoder
        return cls(kind.load(folder, learned, **settings), lexical, weight)

    def __reduce__(self) -> tuple[Any, ...]:
        learned = self.learned.document if isinstance(self.learned, InferenceFreeEncoder) else self.learned
        return self._reduced(device=learned.device, batch_tokens=learned.batch_tokens)

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """True until `fit` has seen a corpus."""
        return self.lexical.needs_fit

    def fit(self, texts: Iterable[str]) -> None:
        """Count BM25's frequencies, in one pass."""
        self.lexical.fit(texts)

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Both encoders' queries side by side; for inference-free encoders see `InferenceFreeEncoder.encode_known`."""
        texts = as_texts(texts)
        lexical = self.lexical.encode_query(texts)
        if isinstance(self.learned, InferenceFreeEncoder):
            learned = self.learned.encode_known(texts, self.lexical)
        else:
            learned = self.learned.encode_query(texts)
        return _beside(learned, lexical, self.weight * self._size)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """Both encoders' documents side by side."""
        texts = as_texts(texts)
        lexical = self.lexical.encode_document(texts)  # BM25 first: it is fast, and fails if it isn't fitted
        return _beside(self.learned.encode_document(texts), lexical, 1 / self._size)

    @property
    def dense_width(self) -> int:
        """Provided by the learned encoder; see `Encoder`."""
        return self.learned.dense_width

    def encode_dense(self, texts: Texts, *, queries: bool = False) -> NDArray[np.float32]:
        """Provided by the learned encoder; see `Encoder`."""
        return self.learned.encode_dense(texts, queries=queries)

    def encode_both(self, texts: Texts) -> tuple[SparseMatrix, NDArray[np.float32]]:
        """Both encoders' documents side by side, and the learned encoder's dense vectors."""
        texts = as_texts(texts)
        lexical = self.lexical.encode_document(texts)
        learned, dense = self.learned.encode_both(texts)
        return _beside(learned, lexical, 1 / self._size), dense

    def split_by_encoder(self, vectors: SparseMatrix) -> tuple[SparseMatrix, SparseMatrix]:
        """Split vectors into the learned encoder's terms and BM25's terms; term ids stay the same."""
        first = self.learned.n_terms
        return vectors.within(first), vectors.beyond(first)

    def halves(self, vectors: SparseMatrix) -> tuple[SparseMatrix, SparseMatrix]:
        """Deprecated name of `split_by_encoder`."""
        renamed("HybridEncoder.halves", "HybridEncoder.split_by_encoder")
        return self.split_by_encoder(vectors)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The learned encoder's tokens, then BM25's stems."""
        return [*self.learned.vocabulary, *(PREFIX + stem for stem in self.lexical.vocabulary)]

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return self.learned.n_terms + self.lexical.n_terms

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Positions of both encoders' terms in a text."""
        first = self.learned.n_terms
        words = [(first + term, start, end) for term, start, end in self.lexical.spans(text)]
        return sorted([*self.learned.spans(text), *words], key=lambda span: (span[1], span[0]))

    def origins(self, text: str, terms: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Origins of the learned encoder's terms; BM25's terms occur in the text itself."""
        return self.learned.origins(text, [term for term in terms if term < self.learned.n_terms])

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """BM25's stop words."""
        return self.lexical.fillers(text)

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Provided by the learned encoder; see `Encoder`."""
        return self.learned.tokens(text)

    def offsets(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int]]]:
        """Provided by the learned encoder; see `Encoder`."""
        return self.learned.offsets(texts)

    def room(self, texts: Sequence[str], *, queries: bool = False) -> list[int] | None:
        """Provided by the learned encoder, because BM25 reads texts of any length; see `Encoder`."""
        return self.learned.room(texts, queries=queries)

    def check(self) -> None:
        """Check all files without running a model.

        Raises:
            EncoderError: A file is missing.
        """
        self.learned.check()

    @property
    def fingerprint(self) -> Fingerprint:
        """The combined fingerprint of both encoders."""
        learned, lexical = self.learned.fingerprint, self.lexical.fingerprint
        weights = [str(learned.weights), str(lexical.weights), repr(self.weight)]
        return replace(
            learned,
            model=f"{learned.model} + {self.weight:.3g} {lexical.model}",
            weights=digest(["\n".join(weights).encode()]),
            tokenizer=digest([f"{learned.tokenizer}\n{lexical.tokenizer}".encode()]),
            vocabulary_size=None if self.living else self.n_terms,
        )

    @property
    def query_fingerprint(self) -> Fingerprint | None:
        """Provided by the learned encoder; see `Encoder`."""
        return self.learned.query_fingerprint

    # --- on disk ------------------------------------------------------------------------------------------------------

    def query_files(self) -> dict[str, bytes]:
        """Both encoders' files, with all settings in one `encoder.json`."""
        return self._with_config(self.learned.query_files())

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the model, and BM25's terms and counts."""
        folder = Path(folder)
        self.learned.save(folder)
        written = {CONFIG_FILE: (folder / CONFIG_FILE).read_bytes()}
        for name, content in self._with_config(written).items():
            (folder / name).write_bytes(content)
        card = folder / portable.CARD
        said = f"* lsr adds {self.weight:.3g} times BM25's score, fitted to the collection; other libraries don't\n"
        if said not in (text := card.read_text(encoding="utf-8")):
            card.write_text(text.replace("\n\n* ", f"\n\n{said}* ", 1), encoding="utf-8")

    def _with_config(self, learned: Mapping[str, bytes]) -> dict[str, bytes]:
        lexical = self.lexical.query_files()
        parts = {"learned": json.loads(learned[CONFIG_FILE]), "lexical": json.loads(lexical[CONFIG_FILE])}
        return {**learned, **lexical, CONFIG_FILE: config_bytes(self.type, weight=self.weight, **parts)}


def _beside(left: SparseMatrix, right: SparseMatrix, factor: float) -> SparseMatrix:
    """Concatenate the rows of two matrices; the right one's weights are multiplied by `factor`."""
    indptr = left.indptr + right.indptr
    indices = np.empty(int(indptr[-1]), np.int64)
    data = np.empty(len(indices), np.float32)
    for part, shift, times in ((left, 0, 1.0), (right, left.shape[1], factor)):
        before = left.lengths() if shift else np.zeros(len(left), np.int64)
        places = np.arange(part.nnz) + np.repeat(indptr[:-1] + before - part.indptr[:-1], part.lengths())
        indices[places] = part.indices.astype(np.int64) + shift
        data[places] = part.data * np.float32(times)
    return SparseMatrix(indptr, indices, data, (len(left), left.shape[1] + right.shape[1]))


def document_model(encoder: Encoder) -> Encoder:
    """Return the model that encodes documents: without BM25, and without a table of query weights."""
    learned = encoder.learned if isinstance(encoder, HybridEncoder) else encoder
    return learned.document if isinstance(learned, InferenceFreeEncoder) else learned


def with_states(encoder: Encoder) -> SpladeEncoder:
    """Return the part of an encoder that gives token states of a dense model.

    Raises:
        EncoderError: The encoder has no dense model with token states.
    """
    model = document_model(encoder)
    if not isinstance(model, SpladeEncoder) or not model.dense_width:
        raise EncoderError(f"{model.fingerprint.model} has no dense model with token states; lsr-mini has one")
    return model


def open_parts(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], BM25Encoder | FixedBM25Encoder, float]:
    """The learned encoder's settings, BM25, and BM25's weight, from the files of `save` or `query_files`.

    Raises:
        EncoderError: A file is missing or damaged.
    """
    try:
        learned, lexical, weight = dict(config["learned"]), dict(config["lexical"]), float(config["weight"])
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderError(f"{folder}: not a whole hybrid encoder: {error!r}") from None
    return learned, BM25Encoder.load(folder, lexical), weight
