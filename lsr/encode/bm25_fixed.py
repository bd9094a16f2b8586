"""BM25 as in earlier versions, kept so that their indexes still open. It is fitted once; IDF is in the document
weights.

    document weight = idf * tf (k1 + 1) / (tf + k1 (1 - b + b dl / avgdl)),  idf = ln(1 + (N - df + 0.5) / (df + 0.5))
    query weight    = how often the term occurs in the query

so the inner product is BM25 (Robertson & Zaragoza 2009; Lucene's idf). Words are lower-cased runs of two or more
letters and digits, without Snowball's stop words, stemmed by Snowball.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lsr.encode.base import CONFIG_FILE, Encoder, Texts, as_texts, config_bytes, write_files
from lsr.errors import EncoderError
from lsr.fingerprint import Fingerprint, digest
from lsr.sparse import SparseMatrix

_WORD = re.compile(r"\w\w+")
_STATE_FILE = "bm25.json"
_CACHED_WORDS = 1 << 20  # when the cache of stems is full it starts again, so memory is bounded


class FixedBM25Encoder(Encoder):
    """BM25 with a fixed vocabulary and fixed counts; opened by `BM25Encoder.load`.

    Args:
        k1: Saturation of the term frequency.
        b: Strength of the length normalisation, 0 to 1.
        language: A Snowball language ("english"), or "none" for neither stems nor stop words.
    """

    type = "bm25"

    def __init__(self, k1: float = 0.9, b: float = 0.4, language: str = "english") -> None:
        if not k1 >= 0 or not 0 <= b <= 1:
            raise EncoderError(f"bm25 needs k1 >= 0 and 0 <= b <= 1, got k1={k1}, b={b}")
        self.k1, self.b, self.language = float(k1), float(b), language
        self._stem, self._stop_words = _language(language)
        self._vocabulary: list[str] = []
        self._terms: dict[str, int] = {}
        self._idf = np.empty(0)
        self._average_length = 0.0
        self._n_docs: int | None = None
        self._cache: dict[str, int] = {}  # word -> term, -1 for stop words and words of no document
        self._fingerprint: Fingerprint | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced()

    # --- fitting ---------------------------------------------------------------------------------------------------

    @property
    def needs_fit(self) -> bool:  # type: ignore[override]
        """True until `fit` has seen a word."""
        return not self._vocabulary

    def fit(self, texts: Iterable[str]) -> None:
        """Count document frequencies and the average length, in one pass."""
        frequencies: Counter[str] = Counter()
        n_docs = total = 0
        cache: dict[str, str | None] = {}
        for text in texts:
            stems = [stem for word in _words(text) if (stem := self._stem_cached(word, cache)) is not None]
            frequencies.update(set(stems))
            total += len(stems)
            n_docs += 1
        df = np.array(sorted_df := [frequencies[stem] for stem in sorted(frequencies)], dtype=np.float64)
        self._restore(
            sorted(frequencies),
            np.log1p((n_docs - df + 0.5) / (df + 0.5)) if sorted_df else np.empty(0),
            total / n_docs if n_docs else 0.0,
            n_docs,
        )

    def _restore(self, vocabulary: list[str], idf: np.ndarray[Any, Any], average: float, n_docs: int) -> None:
        self._vocabulary = vocabulary
        self._terms = {stem: term for term, stem in enumerate(vocabulary)}
        self._idf, self._average_length, self._n_docs = idf, average, n_docs
        self._cache = {}
        self._fingerprint = None

    def _stem_cached(self, word: str, cache: dict[str, str | None]) -> str | None:
        if word not in cache:
            if len(cache) >= _CACHED_WORDS:
                cache.clear()
            cache[word] = None if word in self._stop_words else self._stem(word)
        return cache[word]

    # --- encoding --------------------------------------------------------------------------------------------------

    def encode_query(self, texts: Texts) -> SparseMatrix:
        """Counts of the query's terms; words that no document has are left out."""
        rows = [dict(Counter(self._text_terms(text))) for text in as_texts(texts)]
        return SparseMatrix.from_dicts(rows, self.n_terms)

    def encode_document(self, texts: Texts) -> SparseMatrix:
        """BM25 weights of the documents' terms."""
        indptr: list[int] = [0]
        indices: list[int] = []
        counts: list[int] = []
        lengths: list[int] = []
        for text in as_texts(texts):
            terms = Counter(self._text_terms(text))
            indices.extend(terms.keys())
            counts.extend(terms.values())
            lengths.append(terms.total())
            indptr.append(len(indices))
        tf = np.array(counts, dtype=np.float64)
        ids = np.array(indices, dtype=np.int64)
        norm = 1 - self.b + self.b * np.array(lengths) / (self._average_length or 1.0)
        saturation = tf + self.k1 * np.repeat(norm, np.diff(indptr))
        weights = self._idf[ids] * tf * (self.k1 + 1) / saturation if len(ids) else tf
        return SparseMatrix(indptr, ids, weights, (len(indptr) - 1, self.n_terms))

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Positions of the corpus's terms in a text."""
        found = ((self._term(m.group().lower()), m.start(), m.end()) for m in _WORD.finditer(text))
        return [span for span in found if span[0] >= 0]

    def _text_terms(self, text: str) -> list[int]:
        return [term for word in _words(text) if (term := self._term(word)) >= 0]

    def _term(self, word: str) -> int:
        term = self._cache.get(word)
        if term is None:
            if self.needs_fit:
                raise EncoderError(
                    "this bm25 encoder has seen no corpus yet: call fit(texts), or let Index.build or "
                    '"lsr index --encoder bm25" do it'
                )
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            term = -1 if word in self._stop_words else self._terms.get(self._stem(word), -1)
            self._cache[word] = term
        return term

    # --- identity and files ----------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Sequence[str]:
        """The stems of the corpus, sorted."""
        return self._vocabulary

    @property
    def fingerprint(self) -> Fingerprint:
        """Two fitted encoders have the same fingerprint if their vocabulary, frequencies and settings are equal."""
        if self._fingerprint is None:
            state = [json.dumps([self.k1, self.b, self._average_length]).encode(), self._idf.tobytes()]
            words = ["\n".join(self._vocabulary).encode(), self.language.encode()]
            self._fingerprint = Fingerprint(
                model=f"bm25(k1={self.k1:g}, b={self.b:g}, {self.language})",
                weights=digest(state + words),
                tokenizer=digest(words),
                vocabulary_size=self.n_terms,
            )
        return self._fingerprint

    def query_files(self) -> dict[str, bytes]:
        """The whole encoder; it is small."""
        settings = {"k1": self.k1, "b": self.b, "language": self.language}
        state = {
            "n_docs": self._n_docs,
            "average_length": self._average_length,
            "stop_words": sorted(self._stop_words),
            "idf": self._idf.tolist(),
            "vocabulary": self._vocabulary,
        }
        return {CONFIG_FILE: config_bytes(self.type, **settings), _STATE_FILE: json.dumps(state).encode()}

    def save(self, folder: str | PathLike[str]) -> None:
        """Write settings and fitted state."""
        write_files(folder, self.query_files())

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> FixedBM25Encoder:
        """Open the files of `save`.

        Raises:
            EncoderError: A file is missing or damaged.
        """
        try:
            encoder = cls(config["k1"], config["b"], config["language"])
            state = json.loads((folder / _STATE_FILE).read_bytes())
            if state["n_docs"] is not None:
                idf = np.array(state["idf"], dtype=np.float64)
                if idf.shape != (len(state["vocabulary"]),):
                    raise ValueError(f"{len(state['vocabulary'])} terms but {idf.shape} idf values")
                if not all(isinstance(stem, str) for stem in state["vocabulary"]):
                    raise ValueError("the vocabulary holds something other than words")
                encoder._restore(state["vocabulary"], idf, float(state["average_length"]), int(state["n_docs"]))
            # Use the stop words of the fit; the library's list may have changed since.
            encoder._stop_words = frozenset(state["stop_words"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EncoderError(f"{folder}: not a whole bm25 encoder: {error!r}") from None
        return encoder


def _words(text: str) -> list[str]:
    # Split before lower-casing, as in `spans`: lower-casing can move a word's borders ("İ").
    return [word.lower() for word in _WORD.findall(text)]


def _language(name: str) -> tuple[Any, frozenset[str]]:
    """Snowball's stemmer and stop words of a language."""
    if name == "none":
        return lambda word: word, frozenset()
    import Stemmer
    from whoosh.lang.stopwords import stoplists

    if name not in Stemmer.algorithms():
        raise EncoderError(f"no language {name!r}; there are: none, {', '.join(sorted(Stemmer.algorithms()))}")
    codes = {
        "danish": "da", "dutch": "nl", "english": "en", "finnish": "fi", "french": "fr", "german": "de",
        "hungarian": "hu", "italian": "it", "norwegian": "no", "porter": "en", "portuguese": "pt",
        "russian": "ru", "spanish": "es", "swedish": "sv", "turkish": "tr",
    }  # fmt: skip
    return Stemmer.Stemmer(name).stemWord, frozenset(stoplists.get(codes.get(name, ""), ()))
