"""Detect the language of a text, and analyze texts of several languages.

The language follows from the script and, where languages share a script, from the stop words in the text. This needs no
network and is deterministic. A document is analyzed in its own language. A query is analyzed in every language that
documents have, so that its words match the stems of all of them; its stop words are those of its own language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from lsr.encode.analyzer import GRAMS, VERSION, Analyzer, language_name, normalized, stop_words_of
from lsr.errors import EncoderError

AUTO = "auto"
# Detected by Snowball's stop words; the first of these languages wins a tie.
_LATIN = (
    "english", "german", "french", "spanish", "italian", "portuguese", "dutch", "swedish", "danish", "norwegian",
    "finnish", "hungarian", "turkish",
)  # fmt: skip
# Letters that occur in only one of these languages: a word with such a letter counts as a stop word.
_LETTERS = {"turkish": "ığş", "hungarian": "őű", "german": "ß", "spanish": "ñ", "portuguese": "ãõ"}
# Detected by script: {language: (its letters, letters that show another language of the same script)}
_SCRIPTS = {
    "russian": ("\u0400-\u04ff", "іїєґђћјљњџѓќѕ"),
    "greek": ("\u0370-\u03ff\u1f00-\u1fff", ""),
    "arabic": ("\u0600-\u06ff", "پچژگکیەۆێ"),
    "armenian": ("\u0530-\u058f", ""),
    "hindi": ("\u0900-\u097f", "ळ"),
    "tamil": ("\u0b80-\u0bff", ""),
}
_ELSEWHERE = 0.5  # weight of a query word's stems in other languages, if the query's language was detected
_READ = 4000  # only this many characters of a text are examined
_WORD = re.compile(r"[^\W\d_]+")


class MixedAnalyzer:
    """Analyzes texts of several languages, each document in its own language.

    Args:
        languages: "auto" for all that can be detected, or names or codes, such as "de,en". If a text's language can't
            be detected, the first of these languages is used.
        stop_words: As for `Analyzer`.
        words: {language: stop words} of a saved analyzer.

    Raises:
        EncoderError: The language or the choice of stop words is unknown.
    """

    def __init__(
        self, languages: str = AUTO, stop_words: str = "light", words: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        names = (*_LATIN, *_SCRIPTS) if languages == AUTO else tuple(map(language_name, languages.split(",")))
        self.language, self.stop_words = languages if languages == AUTO else ",".join(names), stop_words
        self._names = tuple(dict.fromkeys((*names, "none")))
        self._analyzers = {
            name: Analyzer(name, stop_words, None if words is None else words.get(name, ())) for name in self._names
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.language, self.stop_words, self._words())

    def _words(self) -> dict[str, list[str]]:
        return {name: sorted(analyzer.words) for name, analyzer in self._analyzers.items()}

    def settings(self) -> dict[str, Any]:
        """The settings that determine the terms."""
        words = self._words()
        return {"version": VERSION, "language": self.language, "stop_words": self.stop_words, "words": words}

    @property
    def marks(self) -> dict[str, str]:
        """{language: a term added to each document in that language}; queries never have these terms."""
        return {name: f"[{name}]" for name in self._names}

    def language_of(self, text: str) -> str:
        """The language in which a text is analyzed."""
        return detect_language(text, self._names) or self._names[0]

    def document(self, text: str) -> tuple[list[str], int]:
        """The terms of a document, repeated as they occur, plus its language's mark; and the document's length."""
        language = self.language_of(text)
        terms, length = self._analyzers[language].document(text)
        return [*terms, self.marks[language]], length

    def query(self, text: str, among: Iterable[str] | None = None) -> dict[str, float]:
        """{term: weight} of a query. The query's own language is analyzed as by `Analyzer`. Words that aren't stop
        words are also stemmed in the other languages; these stems have less weight if the query's language was
        detected.

        Args:
            text: The query.
            among: Languages that occur in the documents; by default all.
        """
        there = self._names if among is None else tuple(among)
        told = detect_language(text, self._names)
        own, elsewhere = told or next(iter(there), self._names[0]), _ELSEWHERE if told else 1.0
        mine, weights = self._analyzers[own], self._analyzers[own].query(text)
        others = [self._analyzers[name] for name in there if name != own]
        more: dict[str, float] = {}
        for raw, word in mine.words_of(text):
            if all(term.light for term in word.terms):
                continue
            for term in {one for other in others for one in other.word(raw).terms if one.weight}:
                if term.term not in weights:
                    more[term.term] = more.get(term.term, 0.0) + elsewhere * term.weight
        return weights | more

    def spans(self, text: str, *, counted: bool = False) -> list[tuple[str, int, int]]:
        """As for `Analyzer`, in the document's language."""
        return self._analyzers[self.language_of(text)].spans(text, counted=counted)

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """As for `Analyzer`, in the document's language."""
        return self._analyzers[self.language_of(text)].fillers(text)


def analyzer_of(language: str, stop_words: str, words: Any = None) -> Analyzer | MixedAnalyzer:
    """The analyzer for one language, for several ("de,en"), or for any ("auto").

    Raises:
        EncoderError: The language or the choice of stop words is unknown.
    """
    kind = MixedAnalyzer if language == AUTO or "," in language else Analyzer
    return kind(language, stop_words, words)


def saved_analyzer(settings: Mapping[str, Any]) -> Analyzer | MixedAnalyzer:
    """Open an analyzer from its saved settings.

    Raises:
        EncoderError: The settings are invalid, or of a later version of lsr.
    """
    if settings["version"] != VERSION:
        raise EncoderError(f"analyzer version {settings['version']!r}; this version of lsr knows {VERSION}")
    return analyzer_of(settings["language"], settings["stop_words"], settings["words"])


def detect_language(text: str, names: Sequence[str]) -> str | None:
    """Detect which of some languages a text is in; None if neither script nor stop words show it.

    A text in a script without spaces counts as English if that is one of the languages, else as "none". Latin words in
    such texts are mostly English.
    """
    clean = normalized(text[:_READ])
    letters = Counter({name: len(pattern.findall(clean)) for name, pattern in _scripts().items()})
    script, most = letters.most_common(1)[0]
    if not most:
        return None
    if script in _SCRIPTS:
        foreign = _SCRIPTS[script][1]
        return script if script in names and not any(letter in clean for letter in foreign) else "none"
    if script == "grams":
        return "english" if "english" in names else "none"
    signs, found = _signs(tuple(names)), dict.fromkeys(names, 0.0)
    letters_of = {name: set(letters) for name, letters in _LETTERS.items() if name in names}
    for word in _WORD.findall(clean.lower()):
        for name, weight in signs.get(word, ()):
            found[name] += weight
        if not word.isascii():
            for name, own in letters_of.items():
                found[name] += not own.isdisjoint(word)
    best = max(found, key=lambda name: found[name])
    return best if found[best] else None


@cache
def _signs(names: tuple[str, ...]) -> dict[str, list[tuple[str, float]]]:
    """{stop word: [(language, 1 / number of languages that have this stop word)]}."""
    of_word: dict[str, list[str]] = {}
    for name in names:
        for word in stop_words_of(name):
            of_word.setdefault(word, []).append(name)
    return {word: [(name, 1 / len(those)) for name in those] for word, those in of_word.items()}


@cache
def _scripts() -> dict[str, re.Pattern[str]]:
    """{script: pattern of its letters}."""
    patterns = {name: re.compile(f"[{letters}]") for name, (letters, _) in _SCRIPTS.items()}
    return patterns | {"grams": re.compile(f"[{GRAMS}]"), "latin": re.compile("[a-zA-Z\u00c0-\u024f]")}
