"""Words of an index: spelling corrections, and suggestions while typing.

Words come from the index's own terms. A term may be a stem, so the word to show is looked up in the text of a document
that contains the term; without stored texts, the term itself is shown.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lsr.encode.base import Encoder
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.hybrid import PREFIX, HybridEncoder
from lsr.encode.languages import MixedAnalyzer
from lsr.index.kernels.edit_distance import edit_distances
from lsr.index.search.settings import SearchSettings
from lsr.index.search.snapshot import Snapshot
from lsr.sparse import SparseMatrix

T = TypeVar("T")
_WORD = re.compile(r"[^\W\d_](?:[\w'’]*\w)?")
_SHORTEST = 3  # letters of the shortest word that is corrected
_ONE_EDIT, _TWO_EDITS = 1, 2
_LONG = 5  # letters from which two edits are allowed
_LOOKED_AT = 3  # documents searched for the word forms of a term
_TRIED = 4  # candidates per requested word
_ENDING = 6  # letters that a word may have beyond its stem


@dataclass(frozen=True)
class Suggestion:
    """A completion of what a user has typed.

    Attributes:
        text: The completed query, or a title.
        kind: "word" or "title".
        count: For a word, the number of documents with its term; for a title, 1.
        id: For a title, the document's id.
    """

    text: str
    kind: Literal["word", "title"]
    count: int = 1
    id: str | None = None


@dataclass(frozen=True)
class Terms:
    """The vocabulary's terms that are words or stems of words.

    Attributes:
        keys: The terms' texts, ascending.
        numbers: (n,) int64, the term ids of the keys.
        codes: (size,) int32, the code points of all keys.
        offsets: (n + 1,) int64, where each key begins in `codes`.
    """

    keys: list[str]
    numbers: NDArray[np.int64]
    codes: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, tokens: Sequence[str], encoder: Encoder) -> Terms:
        """Select an encoder's tokens that are words: the tokens of its BM25 part, if it has one, else whole words."""
        found: list[tuple[str, int]] = []
        for number, token in enumerate(tokens):
            if isinstance(encoder, HybridEncoder):
                key = token.removeprefix(PREFIX) if token.startswith(PREFIX) else ""
            else:
                key = "" if token.startswith(("##", "[")) else token.lstrip("\u0120\u2581")
            if key and any(map(str.isalpha, key)):
                found.append((key, number))
        found.sort()
        keys = [key for key, _ in found]
        offsets = np.concatenate([[0], np.cumsum([len(key) for key in keys])]).astype(np.int64)
        codes = np.array([ord(letter) for key in keys for letter in key], np.int32)
        return cls(keys, np.array([number for _, number in found], np.int64), codes, offsets)


# Titles that start with a text, and titles in which a later word starts with this text.
Titles = tuple[list[Suggestion], list[Suggestion]]


class WordSource(Protocol):
    """The documents whose words are read."""

    @property
    def vocabulary(self) -> list[str] | None:
        """The token of each term."""
        ...

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """Return a value that is computed once for these documents."""
        ...

    def frequencies(self, terms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) int64: how many documents contain each of (n,) terms."""
        ...

    def contents(self, terms: Sequence[int], n: int) -> list[list[str]]:
        """Return, for each term, the contents (title and text) of the n documents in which the term weighs most."""
        ...

    def titles(self, typed: str, limit: int) -> Titles:
        """Find titles; see `matching_titles`."""
        ...


class SnapshotWords:
    """The words of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.vocabulary, self.kept, self.frequencies = snapshot.shared.vocabulary, snapshot.kept, snapshot.frequencies

    def contents(self, terms: Sequence[int], n: int) -> list[list[str]]:
        """Return, for each term, the contents (title and text) of the n documents in which the term weighs most."""
        found = []
        for row in range(len(queries := term_queries(terms))):
            docs, _ = self._snapshot.top(queries[row], n, SearchSettings())
            found.append([self._snapshot.documents.content(doc) for doc in docs.tolist()])
        return found

    def titles(self, typed: str, limit: int) -> Titles:
        """Find titles; see `matching_titles`."""
        return matching_titles(self._snapshot, typed, limit)


class Words:
    """Corrects and completes words.

    Args:
        source: The documents.
        encoder: The index's encoder, bound to its vocabulary.
    """

    def __init__(self, source: WordSource, encoder: Encoder) -> None:
        self._source = source
        self._whole = encoder
        self._encoder: Any = encoder.lexical if isinstance(encoder, HybridEncoder) else encoder
        self._first = encoder.learned.n_terms if isinstance(encoder, HybridEncoder) else 0

    @property
    def _terms(self) -> Terms:
        return self._source.kept("terms", lambda: Terms.of(self._source.vocabulary or [], self._whole))

    # --- corrections ------------------------------------------------------------------------------------------------

    def corrections(self, text: str, limit: int) -> dict[str, list[str]]:
        """See `Reader.corrections`."""
        return {text[start:end]: self._nearest(text[start:end], limit) for start, end in self._unknown(text)}

    def corrected(self, text: str) -> str | None:
        """See `Reader.did_you_mean`."""
        parts, at = [], 0
        for start, end in self._unknown(text):
            if text[start:end].casefold() in self._spelled_well:
                continue
            if near := self._nearest(text[start:end], 1):
                parts += [text[at:start], near[0]]
                at = end
        return "".join([*parts, text[at:]]) if parts else None

    @property
    def _spelled_well(self) -> frozenset[str]:
        """The whole words in a model's vocabulary. They are spelled correctly, even if no document contains them."""
        model = self._whole.learned if isinstance(self._whole, HybridEncoder) else None

        def words() -> frozenset[str]:
            return frozenset(token for token in (model.vocabulary if model else ()) if token.isalpha())

        return self._source.kept("words of the model", words)

    def _unknown(self, text: str) -> list[tuple[int, int]]:
        """Return the spans of words that no document contains."""
        if self._encoder.needs_fit:  # the index is still empty
            return []
        if isinstance(self._encoder, BM25Encoder) and isinstance(self._encoder.analyzer, MixedAnalyzer):
            words = [match for match in _WORD.finditer(text) if len(match.group()) >= _SHORTEST]
            return [one.span() for one in words if not self._encoder.encode_query([one.group()]).nnz]
        spans = self._encoder.spans(text)
        terms = np.array([self._first + term for term, _, _ in spans], np.int64)
        there = self._source.frequencies(terms) > 0
        known = [(start, end) for (_, start, end), has in zip(spans, there.tolist(), strict=True) if has]
        by_parts = isinstance(self._encoder, BM25Encoder)
        found = []
        for match in _WORD.finditer(text):
            first, last = match.span()
            within = [(start, end) for start, end in known if first <= start and end <= last]
            if last - first >= _SHORTEST and not (within if by_parts else (first, last) in within):
                found.append((first, last))
        return found

    def _nearest(self, word: str, limit: int) -> list[str]:
        """Return the most similar words of the documents: by edit distance, then by document frequency."""
        key, terms, folded = self._key(word), self._terms, word.casefold()
        if not terms.keys:
            return []
        most = _TWO_EDITS if len(key) >= _LONG else _ONE_EDIT
        distances = np.empty(len(terms.keys), np.uint8)
        edit_distances(terms.codes, terms.offsets, _codes(key), most, distances)
        places = np.flatnonzero(distances <= most)
        counts = self._source.frequencies(terms.numbers[places])
        order = np.lexsort((-counts, distances[places]))
        tried = [i for i in order[: max(_TRIED * limit, 8)].tolist() if counts[i]]
        found: dict[str, tuple[int, int]] = {}
        for i, forms in zip(tried, self._forms([int(places[i]) for i in tried]), strict=True):
            if forms:
                away = {form: _distance(folded, form) for form in forms}
                form = min(forms, key=lambda one: (away[one], -forms[one]))
                found.setdefault(form, (away[form], -int(counts[i])))
        return sorted(found, key=lambda form: found[form])[:limit]

    def _key(self, word: str) -> str:
        """Return the term that stands for a word in the vocabulary."""
        if isinstance(self._encoder, BM25Encoder):
            terms = self._encoder.analyzer.query(word)
            return next(iter(terms), word.casefold())
        return word.casefold()

    def _forms(self, places: Sequence[int]) -> list[Counter[str]]:
        """Count, for each term, the word forms that it stands for in a few documents.

        Args:
            places: Positions of the terms among the keys.
        """
        numbers = [int(self._terms.numbers[place]) for place in places]
        found = []
        for place, number, contents in zip(places, numbers, self._source.contents(numbers, _LOOKED_AT), strict=True):
            forms = Counter(
                content[start:end].casefold()
                for content in contents
                for one, start, end in self._encoder.spans(content)
                if one + self._first == number
            )
            found.append(forms if any(contents) else Counter({self._terms.keys[place]: 1}))
        return found

    # --- suggestions ------------------------------------------------------------------------------------------------

    def suggestions(self, text: str, limit: int) -> list[Suggestion]:
        """See `Reader.suggest`."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        typed = text.casefold().strip()
        if not typed:
            return []
        begins, within = self._source.titles(typed, limit)
        return [*self._completed(text, limit), *[*begins, *within][:limit]]

    def _completed(self, text: str, limit: int) -> list[Suggestion]:
        """Complete the last word; the most frequent words come first."""
        last = re.search(r"[\w'’]+\Z", text)
        if last is None:
            return []
        typed, terms = last.group().casefold(), self._terms
        first = bisect_left(terms.keys, typed)
        places = list(range(first, bisect_left(terms.keys, typed + "\U0010ffff")))
        for length in range(max(1, len(typed) - _ENDING), len(typed)):  # shorter terms may be stems of the word
            at = bisect_left(terms.keys, typed[:length])
            if at < len(terms.keys) and terms.keys[at] == typed[:length]:
                places.append(at)
        counts = self._source.frequencies(terms.numbers[places]) if places else np.empty(0, np.int64)
        tried = [i for i in np.argsort(-counts, kind="stable")[: _TRIED * limit].tolist() if counts[i]]
        found: dict[str, int] = {}
        for first in range(0, len(tried), limit):  # the first batch usually suffices
            some = tried[first : first + limit]
            for i, forms in zip(some, self._forms([places[i] for i in some]), strict=True):
                longer = {form: times for form, times in forms.items() if form.startswith(typed)}
                if longer and len(found) < limit:
                    found.setdefault(max(longer, key=lambda form: (longer[form], -len(form))), int(counts[i]))
            if len(found) == limit:
                break
        head = text[: last.start()]
        return [Suggestion(head + form, "word", count) for form, count in found.items()]


def term_queries(terms: Sequence[int]) -> SparseMatrix:
    """Return a query of weight 1 for each term."""
    return SparseMatrix.from_rows([([term], [1.0]) for term in terms], max(terms, default=0) + 1)


def matching_titles(snapshot: Snapshot, typed: str, limit: int) -> Titles:
    """Find titles that start with the typed text, and titles in which a later word starts with this text.

    Returns at most `limit` titles of each kind, in document order.
    """
    begins, within = list[Suggestion](), list[Suggestion]()
    inner = re.compile(r"(?<!\w)" + re.escape(typed))
    for folded, (title, doc_id) in snapshot.kept("titles", lambda: _all_titles(snapshot)).items():
        if folded.startswith(typed):
            begins.append(Suggestion(title, "title", id=doc_id))
            if len(begins) == limit:
                break
        elif len(within) < limit and typed in folded and inner.search(folded):
            within.append(Suggestion(title, "title", id=doc_id))
    return begins, within


def merged_titles(parts: Iterable[Titles]) -> Titles:
    """Merge the titles of several snapshots, in order, without duplicates."""
    merged: list[dict[str, Suggestion]] = [{}, {}]
    for part in parts:
        for found, titles in zip(merged, part, strict=True):
            for one in titles:
                found.setdefault(one.text.casefold(), one)
    return list(merged[0].values()), list(merged[1].values())


def _all_titles(snapshot: Snapshot) -> dict[str, tuple[str, str]]:
    """Return {case-folded title: (title, id of the first document that has it)}; read once per snapshot."""
    documents, found = snapshot.documents, dict[str, tuple[str, str]]()
    for doc in documents.numbers():
        if title := documents.fields(doc)[0].strip():
            found.setdefault(title.casefold(), (title, documents.parent(doc) or documents.id(doc)))
    return found


def _codes(word: str) -> NDArray[np.int32]:
    return np.array([ord(letter) for letter in word], np.int32)


def _distance(word: str, other: str) -> int:
    found = np.empty(1, np.uint8)
    edit_distances(_codes(other), np.array([0, len(other)], np.int64), _codes(word), 254, found)
    return int(found[0])
