"""Languages: which one a text is in, and an analyzer that takes each document apart by its own.

A text's language is told by its script and, where several languages share it, by the stop words that it has: offline,
and always the same. A query is taken apart by each of the languages that the documents are in, so that its words meet
the stems of all; its stop words are those of its own language.
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
# Told by stop words; of equally many the first. The lists are Snowball's.
_LATIN = (
    "english", "german", "french", "spanish", "italian", "portuguese", "dutch", "swedish", "danish", "norwegian",
    "finnish", "hungarian", "turkish",
)  # fmt: skip
# Letters that none of the others has: a word with one counts as a stop word.
_LETTERS = {"turkish": "ığş", "hungarian": "őű", "german": "ß", "spanish": "ñ", "portuguese": "ãõ"}
# Told by their script, unless letters stand in the text that the language doesn't have.
_SCRIPTS = {
    "russian": ("\u0400-\u04ff", "іїєґђћјљњџѓќѕ"),
    "greek": ("\u0370-\u03ff\u1f00-\u1fff", ""),
    "arabic": ("\u0600-\u06ff", "پچژگکیەۆێ"),
    "armenian": ("\u0530-\u058f", ""),
    "hindi": ("\u0900-\u097f", "ळ"),
    "tamil": ("\u0b80-\u0bff", ""),
}
_ELSEWHERE = 0.5  # what a query's word counts as a term of another language than the query's, where that is known
_READ = 4000  # characters of a text that tell its language
_WORD = re.compile(r"[^\W\d_]+")


class MixedAnalyzer:
    """Takes texts of several languages apart, each document by the analyzer of its own.

    Args:
        languages: "auto" for all that can be told, or their names or codes: "de,en". What can't be told is taken for
            the first.
        stop_words: As of `Analyzer`.
        words: The stop words themselves by language, of an analyzer that was saved.

    Raises:
        EncoderError: No such language or choice.
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
        """What decides the terms."""
        words = self._words()
        return {"version": VERSION, "language": self.language, "stop_words": self.stop_words, "words": words}

    @property
    def marks(self) -> dict[str, str]:
        """{language: the term that every document of it has}; no word of a query is one of them."""
        return {name: f"[{name}]" for name in self._names}

    def language_of(self, text: str) -> str:
        """The language that a text is taken for."""
        return told_language(text, self._names) or self._names[0]

    def document(self, text: str) -> tuple[list[str], int]:
        """The terms of a document, as often as they occur, and its language's; and its length."""
        language = self.language_of(text)
        terms, length = self._analyzers[language].document(text)
        return [*terms, self.marks[language]], length

    def query(self, text: str, among: Iterable[str] | None = None) -> dict[str, float]:
        """The terms of a query, and what each counts: as of `Analyzer`, by the language of the query; and, of words
        that aren't its stop words, the terms that they are in other languages, for less where the query tells its own.

        Args:
            text: The query.
            among: Languages that there are documents of; by default all.
        """
        there = self._names if among is None else tuple(among)
        told = told_language(text, self._names)
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
        """As of `Analyzer`, by the document's language."""
        return self._analyzers[self.language_of(text)].spans(text, counted=counted)

    def fillers(self, text: str) -> list[tuple[int, int]]:
        """As of `Analyzer`, by the document's language."""
        return self._analyzers[self.language_of(text)].fillers(text)


def analyzer_of(language: str, stop_words: str, words: Any = None) -> Analyzer | MixedAnalyzer:
    """The analyzer of a language, of several ("de,en"), or of each text's own ("auto").

    Raises:
        EncoderError: No such language or choice.
    """
    kind = MixedAnalyzer if language == AUTO or "," in language else Analyzer
    return kind(language, stop_words, words)


def saved_analyzer(settings: Mapping[str, Any]) -> Analyzer | MixedAnalyzer:
    """The analyzer of settings that were saved.

    Raises:
        EncoderError: A later version of lsr wrote them, or they make no sense.
    """
    if settings["version"] != VERSION:
        raise EncoderError(f"analyzer version {settings['version']!r}; this version of lsr knows {VERSION}")
    return analyzer_of(settings["language"], settings["stop_words"], settings["words"])


def told_language(text: str, names: Sequence[str]) -> str | None:
    """Which of some languages a text is in, by its script and its stop words; None where neither tells.

    A text in a script without spaces is taken for English, if that is among them, else for "none": the words between
    its characters mostly are.
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
    """{stop word: [(language that has it, the less the more languages have it)]}."""
    of_word: dict[str, list[str]] = {}
    for name in names:
        for word in stop_words_of(name):
            of_word.setdefault(word, []).append(name)
    return {word: [(name, 1 / len(those)) for name in those] for word, those in of_word.items()}


@cache
def _scripts() -> dict[str, re.Pattern[str]]:
    """What finds the letters of each script."""
    patterns = {name: re.compile(f"[{letters}]") for name, (letters, _) in _SCRIPTS.items()}
    return patterns | {"grams": re.compile(f"[{GRAMS}]"), "latin": re.compile("[a-zA-Z\u00c0-\u024f]")}
