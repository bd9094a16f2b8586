"""Query operators: words and phrases that a text must or must not contain, checked against stored texts.

    "boundary layer" +transition -turbulent wing

Words are compared after case folding and Unicode normalization, without stemming. A phrase is a run of words within a
title or a text. In scripts without spaces, each character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr.encode.analyzer import normalized
from lsr.errors import DataError
from lsr.index.segment.doc_store import AllDocuments

# One character of a script without spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer), or a run of other letters.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_PART = re.compile(r'(?P<sign>[+-]?)"(?P<phrase>[^"]*)"|(?P<plain>[^\s"]+)|(?P<open>")')
_SEPARATOR = "\x00"


@dataclass(frozen=True)
class TextQuery:
    """Required and excluded phrases. A phrase is a tuple of words; a single word is a phrase, too.

    Attributes:
        must: Phrases that have to occur.
        never: Phrases that must not occur.
    """

    must: tuple[tuple[str, ...], ...] = ()
    never: tuple[tuple[str, ...], ...] = ()

    def matches(self, *texts: str) -> bool:
        """Whether a document's texts meet the conditions. A phrase must occur within one of the texts."""
        runs = ["".join(f"{_SEPARATOR}{word}" for word in words(text)) + _SEPARATOR for text in texts]

        def occurs(phrase: tuple[str, ...]) -> bool:
            wanted = _SEPARATOR + _SEPARATOR.join(phrase) + _SEPARATOR
            return any(wanted in run for run in runs)

        return all(map(occurs, self.must)) and not any(map(occurs, self.never))


def words(text: str) -> list[str]:
    """Split a text into normalized words."""
    return _WORD.findall(normalized(text).casefold())


def parse_operators(query: Any) -> tuple[str, TextQuery | None]:
    """Parse the operators of a query.

    Args:
        query: A text with "phrases", +words and -words; phrases take signs, too.

    Returns:
        The text to search for, without excluded phrases; and the operators, or None if there are none.

    Raises:
        DataError: A quote isn't closed, nothing follows a sign, or the query consists of exclusions only.
    """
    if not isinstance(query, str):
        raise DataError('syntax="operators" needs queries that are texts', "query")
    must, never, left = [], [], []
    for sign, text in _parts(query):
        phrase = tuple(words(text))
        if sign and not phrase:
            raise DataError(f"nothing follows {sign[0]!r} in {query!r}", "query")
        if sign == "-":
            never.append(phrase)
            continue
        left.append(text)
        if sign:
            must.append(phrase)
    if never and not any(map(words, left)):
        raise DataError(f"{query!r} only excludes words: add words to search for", "query")
    return " ".join(left), TextQuery(tuple(must), tuple(never)) if must or never else None


def _parts(query: str) -> Iterator[tuple[str, str]]:
    """Yield (sign, text) pairs; a phrase without a sign has "+"."""
    for part in _PART.finditer(query):
        if part["open"]:
            raise DataError(f"a quote isn't closed in {query!r}", "query")
        if part["phrase"] is not None:
            if words(part["phrase"]) or part["sign"]:
                yield part["sign"] or "+", part["phrase"]
        elif part["plain"][0] in "+-":
            yield part["plain"][0], part["plain"][1:]
        else:
            yield "", part["plain"]


class TextCheck:
    """Checks documents against a text query; each document is read once.

    Args:
        documents: The documents with their texts.
        query: The conditions.
    """

    def __init__(self, documents: AllDocuments, query: TextQuery) -> None:
        self._documents, self._query = documents, query
        self._known: dict[int, bool] = {}

    def __call__(self, docs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n,) bool: which of (n,) documents meet the conditions."""
        numbers: Sequence[int] = docs.tolist()
        for doc in sorted(doc for doc in numbers if doc not in self._known):  # in storage order
            self._known[doc] = self._query.matches(*self._documents.fields(doc)[:2])
        return np.array([self._known[doc] for doc in numbers], bool)
