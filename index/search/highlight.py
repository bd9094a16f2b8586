"""Mark terms in a text, and find the part of a text that matches best."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from html import escape as escaped
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Protocol

_EXPANSION, _MATCH = 1, 2  # kinds of highlighted characters; the larger one wins
PLAIN = ("**", "**"), ("_", "_")  # around matches, and around origins of expansions
TAGS = ("<mark>", "</mark>"), ('<mark class="expansion">', "</mark>")


class Highlighted(Protocol):
    """A term with its places in a text, such as a `Contribution`."""

    @property
    def term(self) -> int: ...

    @property
    def share(self) -> float: ...

    @property
    def marked(self) -> bool: ...

    @property
    def spans(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def origin(self) -> tuple[int, int] | None: ...


def highlight(
    content: str,
    contributions: Iterable[Highlighted],
    matched: tuple[str, str] = PLAIN[0],
    expanded: tuple[str, str] = PLAIN[1],
    length: int | None = None,
    escape: bool = False,
    instead: Mapping[int, str] = MappingProxyType({}),
) -> str:
    """Mark terms in a text.

    Marks never nest: spans that overlap or touch are merged, and an origin that overlaps a match counts as a match.

    Args:
        content: The text.
        contributions: Terms with their spans and shares.
        matched: Inserted before and after matches.
        expanded: Inserted before and after origins of expansions.
        length: Maximum length in characters, without marks and ellipses. The result is the run of whole words whose
            terms have the largest total share; None for the whole text.
        escape: Escape the text for HTML.
        instead: {position of a space: what replaces it}.

    Raises:
        ValueError: `length` is below 1.
    """
    if length is not None and length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    contributions = tuple(contributions)
    kinds = _kinds(content, contributions)
    start, end = 0, len(content)
    if length is not None and length < len(content):
        start, end = best_part(content, contributions, length)
    own = set() if escape else _own_marks(content, kinds, (_MATCH, *matched), (_EXPANSION, *expanded))
    parts = ["… "] if content[:start].strip() else []
    for kind, run in groupby((place for place in range(start, end) if place not in own), key=kinds.__getitem__):
        part = "".join(instead.get(place, " ") if content[place] == " " else content[place] for place in run)
        before, after = {_MATCH: matched, _EXPANSION: expanded}.get(kind, ("", ""))
        parts.append(before + (escaped(part) if escape else part) + after)
    return "".join(parts) + (" …" if content[end:].strip() else "")


def _own_marks(content: str, kinds: bytearray, *marks: tuple[int, str, str]) -> set[int]:
    """Find the characters of marks that the text itself has around matches and origins.

    Each mark is given as (kind, before, after).
    """
    own: set[int] = set()
    for kind, before, after in marks:
        if not (before and after):
            continue
        # "_" also occurs within words. It is a mark only at the ends of words.
        left, right = (r"(?<!\w)" if before[0] == "_" else ""), (r"(?!\w)" if after[-1] == "_" else "")
        pair = rf"{left}({re.escape(before)})(?=\S)([^\n]+?)(?<=\S)({re.escape(after)}){right}"
        for found in re.finditer(pair, content):
            if kind in kinds[found.start(2) : found.end(2)]:
                own.update(range(*found.span(1)), range(*found.span(3)))
    return own


def _kinds(content: str, contributions: Iterable[Highlighted]) -> bytearray:
    """Return the kind of each character: _MATCH, _EXPANSION or 0."""
    matches = [_with_marks(content, *span) for c in contributions if c.marked for span in c.spans]
    origins = [_with_marks(content, *c.origin) for c in contributions if c.marked and c.origin]
    kinds = bytearray(len(content))
    for kind, spans in ((_EXPANSION, origins), (_MATCH, matches)):
        for start, end in spans:
            kinds[start:end] = bytes([kind]) * (end - start)
    of_matches = bytes(kinds)
    for start, end in origins:
        if _MATCH in of_matches[start:end]:
            kinds[start:end] = bytes([_MATCH]) * (end - start)
    return kinds


def _with_marks(content: str, start: int, end: int) -> tuple[int, int]:
    """Extend a span over combining characters (accents, for instance) that follow its last letter."""
    while end < len(content) and unicodedata.category(content[end]).startswith("M"):
        end += 1
    return start, end


def best_part(content: str, contributions: Iterable[Highlighted], length: int) -> tuple[int, int]:
    """Return (start, end) of the best run of whole words: at most `length` characters, with the largest total share."""
    words = [m.span() for m in re.finditer(rf"\S{{1,{length}}}", content)]  # longer words are cut
    if not words:
        return 0, length
    starts = [start for start, _ in words]
    places = sorted((*span, c.term, c.share) for c in contributions for span in (*c.spans, *filter(None, [c.origin])))

    def last_of(first: int) -> int:
        """Return the last word that fits if the part starts with word `first`."""
        return max(first, bisect_right(words, starts[first] + length, key=itemgetter(1)) - 1)

    first = inner = 0
    most = 0.0
    for i, (start, *_) in enumerate(places):
        word = min(bisect_right(words, start, key=itemgetter(1)), len(words) - 1)
        end = words[last_of(word)][1]
        within = [place for place in places[i:] if place[0] < end]
        share = round(sum({term: share for *_, term, share in within}.values()), 9)  # each term counts once
        if share > most:
            first, most, inner = word, share, max(place[1] for place in within)
    # Spend the remaining room on both sides.
    spare = length - (min(inner, words[last_of(first)][1]) - starts[first])
    beyond = length - (words[-1][1] - starts[first])
    least = starts[first] - max(spare // 2, beyond)
    first = min(first, bisect_left(starts, least))
    return starts[first], words[last_of(first)][1]
