"""Words and phrases that a text must have or must not have, taken out of a query and checked in the stored text.

    "boundary layer" +transition -turbulent wing

Words are compared as they are written, but for case and forms of Unicode: no stems. A phrase is a run of words within
a title or a text. Of scripts without spaces each character is a word.
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

# A character of a script without spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer), or a run of others.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_PART = re.compile(r'(?P<sign>[+-]?)"(?P<phrase>[^"]*)"|(?P<plain>[^\s"]+)|(?P<open>")')
_SEPARATOR = "\x00"


@dataclass(frozen=True)
class TextQuery:
    """Phrases, each a tuple of words; a single word is a phrase of one.

    Attributes:
        must: All of them have to occur.
        never: None of them may.
    """

    must: tuple[tuple[str, ...], ...] = ()
    never: tuple[tuple[str, ...], ...] = ()

    def matches(self, *texts: str) -> bool:
        """Whether the texts of a document meet it; a phrase lies within one of them."""
        runs = ["".join(f"{_SEPARATOR}{word}" for word in words(text)) + _SEPARATOR for text in texts]

        def occurs(phrase: tuple[str, ...]) -> bool:
            wanted = _SEPARATOR + _SEPARATOR.join(phrase) + _SEPARATOR
            return any(wanted in run for run in runs)

        return all(map(occurs, self.must)) and not any(map(occurs, self.never))


def words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return _WORD.findall(normalized(text).casefold())


def parse_operators(query: Any) -> tuple[str, TextQuery | None]:
    """Take operators out of a query.

    Args:
        query: A text with "phrases", +words and -words; a sign may stand before a phrase.

    Returns:
        What is left to be searched for: all but what must not occur. And the operators; None if there are none.

    Raises:
        DataError: A quote that isn't closed, nothing behind a sign, or nothing but what must not occur.
    """
    if not isinstance(query, str):
        raise DataError('syntax="operators" is for queries that are texts', "query")
    must, never, left = [], [], []
    for sign, text in _parts(query):
        phrase = tuple(words(text))
        if sign and not phrase:
            raise DataError(f"nothing to look for behind {sign[0]!r} in {query!r}", "query")
        if sign == "-":
            never.append(phrase)
            continue
        left.append(text)
        if sign:
            must.append(phrase)
    if never and not any(map(words, left)):
        raise DataError(f"{query!r} says only what must not occur: add what to look for", "query")
    return " ".join(left), TextQuery(tuple(must), tuple(never)) if must or never else None


def _parts(query: str) -> Iterator[tuple[str, str]]:
    """Signs and texts: "+" for a phrase without one, too."""
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
    """Checks documents, each once.

    Args:
        documents: With their texts.
        query: What they have to meet.
    """

    def __init__(self, documents: AllDocuments, query: TextQuery) -> None:
        self._documents, self._query = documents, query
        self._known: dict[int, bool] = {}

    def __call__(self, docs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool, which of (n,) documents meet it."""
        numbers: Sequence[int] = docs.tolist()
        for doc in sorted(doc for doc in numbers if doc not in self._known):  # neighbours are stored together
            self._known[doc] = self._query.matches(*self._documents.fields(doc)[:2])
        return np.array([self._known[doc] for doc in numbers], bool)
