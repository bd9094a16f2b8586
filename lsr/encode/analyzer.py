"""Analyzer: split a text into the terms that BM25 counts, each with its position.

    Unicode       NFKC, case folding; soft hyphens, zero-width characters, Arabic and Hebrew points are dropped
    words         runs of letters, digits and combining marks (near UAX #29), stemmed by Snowball; one letter is a word
    compounds     node.js, v1.2, get_openapi, getOpenApi, .NET, C++, C#: as a whole, and in parts that are words
    no spaces     Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese: single characters and pairs of them

The language "lucene" is Lucene's English analyzer, with its words, stop words, stems and rounded lengths, for
comparisons with Lucene and Anserini.

In text without spaces, documents have every character and every pair. Queries have pairs, and a character only if it
stands alone. So a word of any length is found within a longer run.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from lsr.errors import EncoderError

VERSION = 1  # version of these rules; terms of other versions can't be compared
STOP_WORDS = ("light", "drop", "lucene", "keep")
# In a query with n other words, a stop word weighs _LIGHT / n, at most _LIGHT_AT_MOST.
_LIGHT, _LIGHT_AT_MOST = 1.5, 0.3
_BESIDE = 0.5  # weight of a compound whose parts are terms too, and of a single letter or digit
_CACHED_WORDS = 1 << 18  # when the cache is full it starts again, so memory is bounded
_CACHED_LENGTH = 64  # longer words rarely occur again

# Scripts without spaces between words. Their digits are included, which does no harm.
GRAMS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Japanese, Chinese
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Korean
)
# Characters that are invisible, or that can be left out of a word without changing it.
_DROPPED = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e01ef"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew points and accents
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u08d3-\u08e1\u08e3-\u08ff]"  # Arabic
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z][a-z])")
_LUCENE = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)


class Term(NamedTuple):
    """A term of a word.

    Attributes:
        term: The term.
        start: Its first character in the word.
        end: Its end in the word, exclusive.
        weight: Its weight in a query; 0 if queries use other terms instead.
        counts: Whether it adds to a document's length; stop words don't, nor do compounds whose parts are also terms.
        light: Whether it is a stop word, or has the stem of a stop word.
    """

    term: str
    start: int
    end: int
    weight: float = 1.0
    counts: bool = True
    light: bool = False


class Word(NamedTuple):
    """An analyzed word.

    Attributes:
        document: Its terms in a document.
        length: What it adds to a document's length.
        terms: All of its terms, with positions.
    """

    document: tuple[str, ...]
    length: int
    terms: tuple[Term, ...]


class Analyzer:
    """Splits texts into terms.

    Args:
        language: A Snowball language ("german"), its code ("de"), "none" for neither stems nor stop words, or "lucene"
            for Lucene's English analyzer with its stop words.
        stop_words: "light" keeps the language's stop words, with little weight in queries; "drop" leaves them out;
            "lucene" leaves out the 33 stop words of Lucene's English analyzer; "keep" treats them like other words.
        words: The stop words of a saved analyzer, so that later versions of Whoosh can't change them.

    Raises:
        EncoderError: The language or the choice of stop words is unknown.
    """

    def __init__(
        self, language: str = "english", stop_words: str = "light", words: Iterable[str] | None = None
    ) -> None:
        if stop_words not in STOP_WORDS:
            raise EncoderError(f"stop_words={stop_words!r}: there are {', '.join(STOP_WORDS)}")
        self.language, self.stop_words = language_name(language), stop_words
        self._stem = _stemmer(self.language)
        self._lucene = self.language == "lucene"
        self.words = frozenset(_stop_words(self.language, stop_words) if words is None else words)
        self._light = {self._stem(word) for word in self.words} if stop_words == "light" and not self._lucene else set()
        self._cache: dict[str, Word] = {}
        self._pattern = _lucene_pattern() if self._lucene else _pattern()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.language, self.stop_words, sorted(self.words))

    def settings(self) -> dict[str, Any]:
        """The settings that decide the terms."""
        return {
            "version": VERSION,
            "language": self.language,
            "stop_words": self.stop_words,
            "words": sorted(self.words),
        }

    def document(self, text: str) -> tuple[list[str], int]:
        """The terms of a document, repeated as they occur, and its length in words without stop words."""
        terms: list[str] = []
        length = 0
        for word in self._words(text):
            terms += word.document
            length += word.length
        return terms, _lucene_length(length) if self._lucene else length

    def query(self, text: str) -> dict[str, float]:
        """{term: weight} of a query. A weight is the number of occurrences. A stop word weighs less, and its weight
        falls with the number of other words in the query.
        """
        weights: dict[str, float] = {}
        light: Counter[str] = Counter()
        for word in self._words(text):
            for term in word.terms:
                if term.light:
                    light[term.term] += 1
                elif term.weight:
                    weights[term.term] = weights.get(term.term, 0.0) + term.weight
        each = min(_LIGHT_AT_MOST, _LIGHT / len(weights)) if weights else 1.0
        return weights | {term: weights.get(term, 0.0) + each * times for term, times in light.items()}

    def spans(self, text: str, *, counted: bool = False) -> list[tuple[str, int, int]]:
        """The terms of a document with their positions in the original text: (term, start, end), by start.

        Args:
            text: The document.
            counted: Return only the terms that add to the document's length; these don't overlap.
        """
        return [(term.term, start, end) for term, start, end in self._placed(text) if term.counts or not counted]

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """Positions of the stop words among a document's terms, (start, end)."""
        return [(start, end) for term, start, end in self._placed(text) if term.light]

    def _placed(self, text: str) -> list[tuple[Term, int, int]]:
        """The terms of a text with their positions, by start."""
        clean, places = aligned(text)
        known = self._cache
        found = [
            (term, *places(match.start() + term.start, match.start() + term.end))
            for match in self._pattern.finditer(clean)
            for term in (known.get(match.group()) or self.word(match.group())).terms
        ]
        return sorted(found, key=lambda placed: placed[1:])

    def _words(self, text: str) -> Iterator[Word]:
        known = self._cache
        for raw in self._pattern.findall(normalized(text)):
            yield known.get(raw) or self.word(raw)

    def words_of(self, text: str) -> Iterator[tuple[str, Word]]:
        """The words of the normalized text, each with its analysis."""
        for raw in self._pattern.findall(normalized(text)):
            yield raw, self.word(raw)

    def word(self, raw: str) -> Word:
        """Analyze a word."""
        terms = tuple(self._terms(raw))
        length = sum(term.counts for term in terms)
        word = Word(tuple(term.term for term in terms), length, terms)
        if len(raw) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[raw] = word
        return word

    # --- a word -----------------------------------------------------------------------------------------------------

    def _terms(self, raw: str) -> Iterator[Term]:
        """The terms of a match of the pattern."""
        if self._lucene:
            word = raw[:-2] if raw[-2:].lower() in ("'s", "’s") else raw
            if word and word.lower() not in self.words:
                yield Term(self._stem(word.lower()), 0, len(word))
            return
        for run in _scripts().finditer(raw):
            if run.lastgroup == "grams":
                yield from _grams(run.group(), run.start())
                continue
            pieces = [(m.group(), run.start() + m.start()) for m in re.finditer(r"[^'’]+", run.group())]
            for piece, start in pieces:
                if len(pieces) == 1 or len(piece) > 1:  # drops the s of "wing's" and the l of "l'avion"
                    yield from self._compound(piece, start)

    def _compound(self, piece: str, start: int) -> Iterator[Term]:
        """The terms of a word without apostrophes: the word, or a compound and its parts."""
        end = start + len(piece)
        name = piece.rstrip("+#")
        parts = [(m.group(), start + m.start()) for m in re.finditer(r"[^._]+", name)]
        if not parts:  # a line of underscores
            return
        initials = len(parts) > 1 and all(len(part) == 1 and part.isalpha() for part, _ in parts)
        symbol = len(name) < len(piece) and len(name) == 1  # C++
        if len(parts) > 1 or len(parts[0][0]) < len(piece):
            weight = 1.0 if symbol or piece[0] == "." else _BESIDE
            yield Term(_folded(piece, self.language), start, end, weight, counts=initials or symbol)
        if initials or symbol:
            return
        for part, at in parts:
            yield from self._part(part, at, _BESIDE if len(part) == 1 else 1.0)
            humps = _CAMEL.split(part) if not (part.islower() or part.isupper()) else []
            if len(humps) > 1 and all(len(hump) > 1 for hump in humps):
                for hump in humps:
                    yield from self._part(hump, at)
                    at += len(hump)

    def _part(self, word: str, start: int, weight: float = 0.0) -> Iterator[Term]:
        folded = _folded(word, self.language)
        if folded in self.words and self.stop_words != "light":
            return
        term = self._stem(folded)
        light = term in self._light and weight > 0
        yield Term(term, start, start + len(word), weight, weight > 0 and not light, light)


def _grams(run: str, start: int) -> Iterator[Term]:
    """The terms of text without spaces: characters with their combining marks, and pairs of them."""
    places = [(start + m.start(), start + m.end()) for m in _clusters().finditer(run)]
    alone = 1.0 if len(places) == 1 else 0.0
    for first, end in places:
        yield Term(run[first - start : end - start], first, end, alone)
    for (first, _), (_, end) in pairwise(places):
        yield Term(run[first - start : end - start], first, end, counts=False)


def _folded(word: str, language: str) -> str:
    if word.isascii():
        return word.lower() if language != "turkish" else word.replace("I", "ı").lower()
    if language == "turkish":
        word = word.replace("İ", "i").replace("I", "ı")
    # Lower-casing turns İ into i and a combining dot. Drop the dot: other texts omit it.
    return unicodedata.normalize("NFKC", word.casefold().replace("i\u0307", "i"))


# --- Unicode ----------------------------------------------------------------------------------------------------------


def normalized(text: str) -> str:
    """Normalize a text to NFKC and drop invisible characters."""
    if text.isascii():
        return text
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    return unicodedata.normalize("NFKC", _DROPPED.sub("", text)) if _DROPPED.search(text) else text


def aligned(text: str) -> tuple[str, Callable[[int, int], tuple[int, int]]]:
    """The result of `normalized`, and a function that maps a range of it to a range of the original text."""
    clean = normalized(text)
    if clean == text:
        return clean, lambda start, end: (start, end)
    starts: list[int] = []  # for each character of the clean text, the start of its source in the original
    ends: list[int] = []
    done = 0

    def unchanged(end: int) -> None:
        starts.extend(range(done, end))
        ends.extend(range(done + 1, end + 1))

    for run in re.finditer(r"[\x00-\x7f]?[^\x00-\x7f]+", text):
        unchanged(run.start())
        made = normalized(run.group())
        clusters = [(m.span(), normalized(m.group())) for m in _clusters().finditer(run.group())]
        if "".join(cluster for _, cluster in clusters) != made:  # characters combined across clusters
            clusters = [((0, len(run.group())), made)]
        for (start, end), cluster in clusters:
            done = run.start() + start
            if cluster == text[done : run.start() + end]:
                unchanged(run.start() + end)
            else:
                starts += [done] * len(cluster)
                ends += [run.start() + end] * len(cluster)
        done = run.end()
    unchanged(len(text))
    return clean, lambda start, end: (starts[start], ends[end - 1])


def clusters(text: str) -> list[str]:
    """The characters of a text with their combining marks."""
    return _clusters().findall(text)


@cache
def _marks() -> str:
    """Combining marks, as the inside of a character class."""
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@cache
def _pattern() -> re.Pattern[str]:
    """A pattern for words and compounds, including .NET and C++."""
    letter = rf"[\w{_marks()}]"
    return re.compile(
        rf"(?:(?<![\w.])\.(?=[A-Za-z]))?\w{letter}*(?:[.'’]\w{letter}*)*(?:\+\+(?![\w+])|(?<=[A-Za-z])#(?![\w#]))?"
    )


@cache
def _lucene_pattern() -> re.Pattern[str]:
    """A pattern for a word of Lucene's StandardTokenizer, in scripts with spaces."""
    return re.compile(r"\w+(?:(?:(?<=[^\W\d_])[.:'’·](?=[^\W\d_])|(?<=\d)[.,;'’](?=\d))\w+)*")


def _lucene_length(length: int) -> int:
    """A length rounded as Lucene stores it, in a byte: exact below 40; for longer texts, what exceeds 24
    is cut to four significant bits."""
    above = length - 24
    spare = max(above.bit_length() - 4, 0) if above > 0 else 0
    return length if not spare else 24 + (above >> spare << spare)


@cache
def _clusters() -> re.Pattern[str]:
    """A pattern for a character with its combining marks; a run of single Hangul letters counts as one character."""
    return re.compile(rf"[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]+|.[{_marks()}\uff9e\uff9f]*", re.DOTALL)


@cache
def _scripts() -> re.Pattern[str]:
    """A pattern for runs of scripts without spaces, and of scripts with spaces."""
    return re.compile(rf"(?P<grams>[{GRAMS}]+)|(?P<words>[^{GRAMS}]+)")


# --- languages --------------------------------------------------------------------------------------------------------


# By ISO 639-1 code. Languages without spaces have no stems; they are split into characters and pairs of them.
_CODES = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "cs": "czech", "da": "danish", "nl": "dutch",
    "en": "english", "eo": "esperanto", "et": "estonian", "fi": "finnish", "fr": "french", "de": "german",
    "el": "greek", "hi": "hindi", "hu": "hungarian", "id": "indonesian", "ga": "irish", "it": "italian",
    "lt": "lithuanian", "ne": "nepali", "no": "norwegian", "nb": "norwegian", "fa": "persian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "es": "spanish", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
    "ja": "none", "ko": "none", "zh": "none", "th": "none", "lo": "none", "km": "none", "my": "none",
}  # fmt: skip


def language_name(language: str) -> str:
    """Snowball's name of a language: "german" for "german", "de" and "de-AT"; also "none" and "lucene".

    Raises:
        EncoderError: There is no such language.
    """
    name = language.strip().lower()
    name = _CODES.get(re.split("[-_]", name)[0], name)
    import Stemmer

    if name not in ("none", "lucene", *Stemmer.algorithms()):
        names = ", ".join(sorted(Stemmer.algorithms()))
        codes = "their codes (de), several of them (de,en), and auto"
        raise EncoderError(f"no language {language!r}; there are: none, lucene, {names}; {codes}")
    return name


def _stemmer(language: str) -> Any:
    """Snowball's stemmer of a language."""
    if language == "none":
        return str
    import Stemmer

    if language == "lucene":
        stem = Stemmer.Stemmer("porter").stemWord
        return lambda word: stem(word) if len(word) > 2 else word
    return Stemmer.Stemmer(language).stemWord


def _stop_words(language: str, choice: str) -> Iterable[str]:
    if choice == "keep" or language == "none":
        return ()
    return _LUCENE.split() if "lucene" in (choice, language) else stop_words_of(language)


def stop_words_of(language: str) -> frozenset[str]:
    """Snowball's stop words of a language; empty if it has no list."""
    from whoosh.lang.stopwords import stoplists

    code = "en" if language == "porter" else next((code for code, name in _CODES.items() if name == language), "")
    return frozenset(stoplists.get(code, ()))
