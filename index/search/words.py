"""Words of an index: corrections of those that no document has, and suggestions as somebody types.

Words come from the index' own terms. As a term may be a stem, the word that is shown is looked up in the text of a
document that has it; where no text is stored, it is the term itself.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

_WORD = re.compile(r"[^\W\d_](?:[\w'’]*\w)?")
_SHORTEST = 3  # letters of a word that is corrected
_ONE_EDIT, _TWO_EDITS = 1, 2
_LONG = 5  # letters from which on two edits are allowed
_LOOKED_AT = 3  # documents in which the forms of a term are looked for
_TRIED = 4  # so many times more terms are looked at than are wanted
_ENDING = 6  # letters that a word may have beyond its stem


@dataclass(frozen=True)
class Suggestion:
    """What may be meant by what somebody has typed.

    Attributes:
        text: The query completed, or a title.
        kind: "word" or "title".
        count: Of a word, how many documents have its term; of a title 1.
        id: Of a title, the document's id.
    """

    text: str
    kind: Literal["word", "title"]
    count: int = 1
    id: str | None = None


@dataclass(frozen=True)
class Terms:
    """Terms that are words, or stems of words, for a vocabulary.

    Attributes:
        keys: Their texts, ascending.
        numbers: (n,) int64, the terms.
        codes: (size,) int32, the code points of all keys.
        offsets: (n + 1,) int64, where each key begins.
    """

    keys: list[str]
    numbers: NDArray[np.int64]
    codes: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, tokens: Sequence[str], encoder: Encoder) -> Terms:
        """Those of an encoder's tokens: BM25's where it has such, else whole words."""
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


class Words:
    """The words of a snapshot.

    Args:
        snapshot: What holds the documents.
        encoder: Of the index, over its terms.
    """

    def __init__(self, snapshot: Snapshot, encoder: Encoder) -> None:
        self._snapshot = snapshot
        self._whole = encoder
        self._encoder: Any = encoder.lexical if isinstance(encoder, HybridEncoder) else encoder
        self._first = encoder.learned.n_terms if isinstance(encoder, HybridEncoder) else 0

    @property
    def _terms(self) -> Terms:
        return self._snapshot.kept("terms", lambda: Terms.of(self._snapshot.shared.vocabulary or [], self._whole))

    # --- corrections ------------------------------------------------------------------------------------------------

    def corrections(self, text: str, limit: int) -> dict[str, list[str]]:
        """See `Reader.corrections`."""
        return {text[start:end]: self._nearest(text[start:end], limit) for start, end in self._unknown(text)}

    def corrected(self, text: str) -> str | None:
        """See `Reader.did_you_mean`."""
        parts, at = [], 0
        for start, end in self._unknown(text):
            if near := self._nearest(text[start:end], 1):
                parts += [text[at:start], near[0]]
                at = end
        return "".join([*parts, text[at:]]) if parts else None

    def _unknown(self, text: str) -> list[tuple[int, int]]:
        """Where the words of a text stand that no document has."""
        if self._encoder.needs_fit:  # no document has a word yet
            return []
        if isinstance(self._encoder, BM25Encoder) and isinstance(self._encoder.analyzer, MixedAnalyzer):
            words = [match for match in _WORD.finditer(text) if len(match.group()) >= _SHORTEST]
            return [one.span() for one in words if not self._encoder.encode_query([one.group()]).nnz]
        spans = self._encoder.spans(text)
        terms = np.array([self._first + term for term, _, _ in spans], np.int64)
        there = self._snapshot.frequencies(terms) > 0
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
        """The nearest words that documents have: by letters between them, then by how many documents."""
        key, terms, folded = self._key(word), self._terms, word.casefold()
        if not terms.keys:
            return []
        most = _TWO_EDITS if len(key) >= _LONG else _ONE_EDIT
        distances = np.empty(len(terms.keys), np.uint8)
        edit_distances(terms.codes, terms.offsets, _codes(key), most, distances)
        places = np.flatnonzero(distances <= most)
        counts = self._snapshot.frequencies(terms.numbers[places])
        order = np.lexsort((-counts, distances[places]))
        found: dict[str, tuple[int, int]] = {}
        for i in order[: max(_TRIED * limit, 8)].tolist():
            if counts[i] and (forms := self._forms(int(terms.numbers[places[i]]), terms.keys[places[i]])):
                away = {form: _distance(folded, form) for form in forms}
                form = min(forms, key=lambda one: (away[one], -forms[one]))
                found.setdefault(form, (away[form], -int(counts[i])))
        return sorted(found, key=lambda form: found[form])[:limit]

    def _key(self, word: str) -> str:
        """A word as the vocabulary would have it."""
        if isinstance(self._encoder, BM25Encoder):
            terms = self._encoder.analyzer.query(word)
            return next(iter(terms), word.casefold())
        return word.casefold()

    def _forms(self, term: int, key: str) -> Counter[str]:
        """The words that a term stands for in a few of its documents, and how often each occurs there."""
        vector = SparseMatrix.from_rows([([term], [1.0])], term + 1)
        docs, _ = self._snapshot.top(vector, _LOOKED_AT, SearchSettings())
        forms: Counter[str] = Counter()
        stored = False
        for doc in docs.tolist():
            content = self._snapshot.documents.content(doc)
            stored = stored or bool(content)
            for one, start, end in self._encoder.spans(content):
                if one + self._first == term:
                    forms[content[start:end].casefold()] += 1
        return forms if stored else Counter({key: 1})

    # --- suggestions ------------------------------------------------------------------------------------------------

    def suggestions(self, text: str, limit: int) -> list[Suggestion]:
        """See `Reader.suggest`."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        typed = text.casefold().strip()
        if not typed:
            return []
        return [*self._completed(text, limit), *self._titles(typed, limit)]

    def _completed(self, text: str, limit: int) -> list[Suggestion]:
        """The last word completed, by how many documents have it."""
        last = re.search(r"[\w'’]+\Z", text)
        if last is None:
            return []
        typed, terms = last.group().casefold(), self._terms
        first = bisect_left(terms.keys, typed)
        places = list(range(first, bisect_left(terms.keys, typed + "\U0010ffff")))
        for length in range(max(1, len(typed) - _ENDING), len(typed)):  # stems of the word
            at = bisect_left(terms.keys, typed[:length])
            if at < len(terms.keys) and terms.keys[at] == typed[:length]:
                places.append(at)
        counts = self._snapshot.frequencies(terms.numbers[places]) if places else np.empty(0, np.int64)
        found: dict[str, int] = {}
        for i in np.argsort(-counts, kind="stable")[: _TRIED * limit].tolist():
            if not counts[i] or len(found) == limit:
                break
            forms = self._forms(int(terms.numbers[places[i]]), terms.keys[places[i]])
            longer = {form: times for form, times in forms.items() if form.startswith(typed)}
            if longer:
                found.setdefault(max(longer, key=lambda form: (longer[form], -len(form))), int(counts[i]))
        head = text[: last.start()]
        return [Suggestion(head + form, "word", count) for form, count in found.items()]

    def _titles(self, typed: str, limit: int) -> list[Suggestion]:
        """Titles that begin with what is typed, then those of which a later word does."""
        begins, within = list[Suggestion](), list[Suggestion]()
        inner = re.compile(r"(?<!\w)" + re.escape(typed))
        for folded, (title, doc_id) in self._snapshot.kept("titles", self._all_titles).items():
            if folded.startswith(typed):
                begins.append(Suggestion(title, "title", id=doc_id))
                if len(begins) == limit:
                    break
            elif len(within) < limit and typed in folded and inner.search(folded):
                within.append(Suggestion(title, "title", id=doc_id))
        return [*begins, *within][:limit]

    def _all_titles(self) -> dict[str, tuple[str, str]]:
        """{title, folded: the title and the first document's id}; read once for a snapshot."""
        documents, found = self._snapshot.documents, dict[str, tuple[str, str]]()
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
