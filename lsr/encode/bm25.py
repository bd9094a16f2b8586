"""BM25 as an encoder. Its vocabulary grows with an index, and its IDF comes from the index's current documents.

    document weight = tf (k1 + 1) / (tf + k1 (1 - b + b dl / pivot))
    query weight    = weight in the query * idf,  idf = ln(1 + (N - df + 0.5) / (df + 0.5))

so the inner product is BM25 (Robertson & Zaragoza 2009; Lucene's idf). A document's weights depend only on the
document: dl is its number of words without stop words, and the pivot is a constant instead of the mean of dl. So
weights stay valid while documents are added and deleted. N and df come from the index at search time, or, without an
index, from the corpus to which the encoder was fitted. Terms are those of lsr.encode.analyzer.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes, write_files
from lsr.encode.bm25_fixed import FixedBM25Encoder
from lsr.encode.languages import MixedAnalyzer, analyzer_of, saved_analyzer
from lsr.encode.lexicon import Lexicon
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

STATE_FILE = "bm25.json"
# Chosen on six judged collections, whose mean lengths are 20 to 150 words.
PIVOT = 30.0


class BM25Encoder(Encoder):
    """BM25 as an `Encoder`.

    An index provides terms and counts. Without an index, fit the encoder to a corpus first.

    Args:
        k1: Saturation of the term frequency.
        b: Strength of the length normalisation, 0 to 1.
        language: A Snowball language ("german") or its code ("de"). "de,en": each document is in one of these
            languages. "auto": a document may be in any language (see `lsr.encode.languages`). "none": neither stems nor
            stop words. "lucene": Lucene's English analyzer; with the pivot "mean", results equal those of Lucene.
        stop_words: "light", "drop", "lucene" or "keep"; see `lsr.encode.analyzer.Analyzer`.
        pivot: Document length that is neither rewarded nor penalized, in words without stop words; or "mean" for the
            mean length of the documents that `fit` sees, which is fixed from then on. A growing index needs a number.

    Raises:
        EncoderError: A value is out of range, or the language is unknown.
    """

    type = "bm25"
    living = True

    def __init__(
        self,
        k1: float = 0.9,
        b: float = 0.4,
        language: str = "english",
        stop_words: str = "light",
        pivot: float | Literal["mean"] = PIVOT,
    ) -> None:
        try:
            known = pivot == "mean" or 0 < pivot < math.inf
        except TypeError:  # a text other than "mean"
            known = False
        if not (0 <= k1 < math.inf and 0 <= b <= 1 and known):
            raise EncoderError(
                f'bm25 needs k1 >= 0, 0 <= b <= 1 and pivot > 0 or "mean", got k1={k1}, b={b}, pivot={pivot}'
            )
        self.k1, self.b = float(k1), float(b)
        self.pivot: float | Literal["mean"] = "mean" if pivot == "mean" else float(pivot)
        self.analyzer = analyzer_of(language, stop_words)
        self._lexicon: Lexicon | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced()

    # --- terms -------------------------------------------------------------------------------------------------------

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """True until `fit` has seen a corpus, or an index provides the terms."""
        return self._lexicon is None

    def fit(self, texts: Iterable[str]) -> None:
        """Learn the terms, their document frequencies and, if the pivot is "mean", its value, in one pass."""
        n_texts = n_words = 0

        def terms() -> Iterator[list[str]]:
            nonlocal n_texts, n_words
            for text in texts:
                if self.pivot == "mean":
                    n_texts, n_words = n_texts + 1, n_words + len(self.tokens(text))
                yield self.analyzer.document(text)[0]

        self._lexicon = Lexicon.of(terms())
        if self.pivot == "mean":
            self.pivot = n_words / n_texts if n_words else PIVOT

    def over(self, lexicon: Lexicon | None) -> BM25Encoder:
        """A copy with the terms and counts of an index; None gives a copy without terms."""
        other = object.__new__(type(self))  # copy.copy would serialise all terms
        other.__dict__.update(self.__dict__, _lexicon=lexicon)
        return other

    @property
    def lexicon(self) -> Lexicon:
        """Terms and counts.

        Raises:
            EncoderError: The encoder has not been fitted.
        """
        if self._lexicon is None:
            raise EncoderError(
                "this bm25 encoder has seen no corpus yet: call fit(texts), or take the encoder of an index "
                "(index.encoder, --encoder INDEX)"
            )
        return self._lexicon

    @property
    def vocabulary(self) -> Sequence[str]:
        """The known terms."""
        return [] if self._lexicon is None else self._lexicon.words()

    @property
    def n_terms(self) -> int:
        """Size of the vocabulary."""
        return 0 if self._lexicon is None else len(self._lexicon)

    # --- encoding ----------------------------------------------------------------------------------------------------

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Weights of query terms; words that no document has are left out."""
        lexicon, rows = self.lexicon, []
        for text in as_texts(texts):
            known = {lexicon.number(term): weight for term, weight in self._query_terms(text, lexicon).items()}
            known.pop(-1, None)
            rows.append(known)
        terms = np.unique(np.fromiter((term for row in rows for term in row), np.int64))
        factor = dict(zip(terms.tolist(), self.query_factors(terms).tolist(), strict=True))
        rows = [{term: weight * factor[term] for term, weight in row.items() if factor[term]} for row in rows]
        return SparseMatrix.from_dicts(rows, len(lexicon))

    def _query_terms(self, text: str, lexicon: Lexicon) -> dict[str, float]:
        """{term: weight} of a query; with several languages, only terms of languages that occur in the documents."""
        if not isinstance(self.analyzer, MixedAnalyzer):
            return self.analyzer.query(text)
        marks = {name: lexicon.number(mark) for name, mark in self.analyzer.marks.items()}
        known = np.array([number for number in marks.values() if number >= 0], np.int64)
        there = set(known[lexicon.counts(known) > 0].tolist())
        return self.analyzer.query(text, [name for name, number in marks.items() if number in there])

    def query_factors(self, terms: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) float64, the IDF of each of (n,) terms; 0 for a term that no document has."""
        lexicon, terms = self.lexicon, np.asarray(terms, np.int64)
        there = terms < len(lexicon)
        factors = np.zeros(len(terms))
        df = lexicon.counts(terms[there]).astype(np.float64)
        factors[there] = np.where(df > 0, np.log1p((np.maximum(lexicon.n_docs - df, 0) + 0.5) / (df + 0.5)), 0.0)
        return factors

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """BM25 weights of the documents' terms, without IDF."""
        lexicon = self.lexicon
        if self.pivot == "mean":
            raise EncoderError(
                'the pivot "mean" is the mean length of the documents that fit has seen: call fit(texts) first, or '
                "give a number"
            )
        indptr: list[int] = [0]
        indices: list[int] = []
        counts: list[int] = []
        lengths: list[int] = []
        for text in as_texts(texts):
            terms, length = self.analyzer.document(text)
            for term, count in Counter(terms).items():
                if (number := lexicon.number(term)) >= 0:
                    indices.append(number)
                    counts.append(count)
            lengths.append(length)
            indptr.append(len(indices))
        tf = np.array(counts, np.float64)
        norm = 1 - self.b + self.b * np.array(lengths, np.float64) / self.pivot
        weights = tf * (self.k1 + 1) / (tf + self.k1 * np.repeat(norm, np.diff(indptr)))
        return SparseMatrix(indptr, np.array(indices, np.int64), weights, (len(indptr) - 1, len(lexicon)))

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Positions of known terms in a text."""
        lexicon = self.lexicon
        found = ((lexicon.number(term), start, end) for term, start, end in self.analyzer.spans(text))
        return [span for span in found if span[0] >= 0]

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """Positions of stop words, in characters."""
        return self.analyzer.fillers(text)

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """The words that count for a document's length; unknown words have term -1."""
        return [(-1, start, end) for _, start, end in self.analyzer.spans(text, counted=True)]

    # --- identity and files ------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of its settings; vectors of different vocabularies are matched by their tokens."""
        return Fingerprint(
            model=f"bm25(k1={self.k1:g}, b={self.b:g}, {self.analyzer.language})",
            weights=digest([json.dumps([self.k1, self.b, self.pivot]).encode()]),
            tokenizer=digest([json.dumps(self.analyzer.settings()).encode()]),
            max_weight=float(np.nextafter(np.float32(self.k1 + 1), np.float32(np.inf))),
        )

    def query_files(self) -> dict[str, bytes]:
        """The whole encoder with its current terms and counts; without terms and counts if there are none yet."""
        state: dict[str, Any] = {"analyzer": self.analyzer.settings(), "n_docs": None}
        if self._lexicon is not None and self._lexicon.counted:
            counts = self._lexicon.counts(np.arange(len(self._lexicon)))
            state |= {"n_docs": self._lexicon.n_docs, "vocabulary": self.vocabulary, "df": counts.tolist()}
        settings = {"k1": self.k1, "b": self.b, "pivot": self.pivot}
        return {CONFIG_FILE: config_bytes(self.type, **settings), STATE_FILE: json.dumps(state).encode()}

    def save(self, folder: str | PathLike[str]) -> None:
        """Write settings, terms and counts."""
        write_files(folder, self.query_files())

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> BM25Encoder | FixedBM25Encoder:
        """Open a saved encoder. An encoder of an early version, with IDF in the documents' weights, opens as
        FixedBM25Encoder.

        Raises:
            EncoderError: A file is missing or damaged.
        """
        if "pivot" not in config:
            return FixedBM25Encoder.load(folder, config)
        try:
            state = json.loads((folder / STATE_FILE).read_bytes())
            analyzer = saved_analyzer(state["analyzer"])
            encoder = cls(config["k1"], config["b"], "none", "keep", config["pivot"])
            encoder.analyzer = analyzer
            if (n_docs := state["n_docs"]) is not None:
                encoder._lexicon = _lexicon(state["vocabulary"], state["df"], n_docs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(f"{folder}: not a whole bm25 encoder: {error!r}") from None
        return encoder


def _lexicon(vocabulary: Any, df: Any, n_docs: Any) -> Lexicon:
    """Check the values of a file, and return them as a lexicon.

    Raises:
        ValueError: The values are invalid.
    """
    if len(df) != len(vocabulary):
        raise ValueError(f"{len(vocabulary)} terms but {len(df)} counts")
    if not all(isinstance(term, str) for term in vocabulary) or len(set(vocabulary)) != len(vocabulary):
        raise ValueError("the vocabulary holds something other than words, or a word twice")
    if not all(type(count) is int and 0 <= count < 2**62 for count in [*df, n_docs]):
        raise ValueError("counts are whole numbers")
    return Lexicon.of_counts(vocabulary, df, n_docs)
