"""Hits, documents and query vectors as JSON for responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lsr.index.search.explain import readable
from lsr.index.search.hits import Hits, facet_rows
from lsr.index.search.reader import Reader
from lsr.index.serve.problems import wrong_values
from lsr.index.serve.thread_pool import Deadline
from lsr.io.document import Document
from lsr.sparse import SparseMatrix


class _Room:
    """Limits the text in a response.

    Args:
        size: Maximum number of characters.
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def take(self, title: str, text: str, where: str, mend: str) -> None:
        """Count a title and a text.

        Raises:
            Problem: The limit is exceeded. The problem names the field `where`, and says what to do (`mend`).
        """
        self._left -= len(title) + len(text)
        if self._left < 0:
            raise wrong_values([(where, f"an answer has at most {self._size >> 20} MB of text: {mend}")])


def hit_rows(
    found: Sequence[Hits], deadline: Deadline, *, offset: int, fields: bool, max_answer: int
) -> list[list[dict[str, Any]]]:
    """Convert the hits of queries.

    Args:
        found: The hits of each query.
        deadline: Checked between queries.
        offset: Number of hits that were skipped; ranks start after it.
        fields: Whether to include titles, texts and metadata.
        max_answer: Maximum number of characters of text.

    Raises:
        Problem: There is too much text, or the time is up.
    """
    room, rows = _Room(max_answer), list[list[dict[str, Any]]]()
    for hits in found:
        deadline.check()
        row: list[dict[str, Any]] = []
        known = zip(hits.docs.tolist(), hits.ids, hits.passages, hits.scores.tolist(), strict=True)
        for rank, (doc, doc_id, passage, score) in enumerate(known, start=offset + 1):
            described: dict[str, Any] = {"id": doc_id, "rank": rank, "score": score}
            if passage != doc_id:
                described["passage"] = passage
            if doc in hits.moved:
                described["moved"] = asdict(hits.moved[doc])
            if fields:
                title, text, metadata = hits.fields(doc)
                room.take(title, text, "fields", 'ask for fewer documents, or with "fields": false')
                described |= {"title": title, "text": text, "metadata": metadata}
            row.append(described)
        rows.append(row)
    return rows


def document_rows(found: Sequence[Document | None], max_answer: int) -> list[dict[str, Any] | None]:
    """Convert stored documents; None stays None.

    Args:
        found: The documents.
        max_answer: Maximum number of characters of text.

    Raises:
        Problem: There is too much text.
    """
    room, rows = _Room(max_answer), list[dict[str, Any] | None]()
    for one in found:
        if one is None:
            rows.append(None)
            continue
        room.take(one.title, one.text, "", "ask for fewer documents")
        row = {"id": one.id, "title": one.title, "text": one.text, "metadata": one.metadata}
        rows.append(row | ({"parent": one.parent} if one.parent is not None else {}))
    return rows


def counts_of(hits: Hits) -> dict[str, Any]:
    """Return total and facets as JSON, if they were requested."""
    if hits.total is None:
        return {}
    return {"total": hits.total, "facets": facet_rows(hits.facets)}


def _weighted(reader: Reader, vector: SparseMatrix) -> list[tuple[int, str, float]]:
    """Return (term, token, weight) for each term of a query, heaviest first."""
    terms, weights = vector.row(0)
    tokens = reader.vocabulary
    pairs = sorted(zip(weights.tolist(), terms.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    return [(t, tokens[t] if tokens is not None and t < len(tokens) else f"term {t}", w) for w, t in pairs]


def token_weights(reader: Reader, vector: SparseMatrix) -> dict[str, float]:
    """Return {token: weight}, heaviest first."""
    return {token: weight for _, token, weight in _weighted(reader, vector)}


def word_weights(reader: Reader, vector: SparseMatrix, words: Mapping[int, str]) -> dict[str, float]:
    """Return {whole word: weight}, heaviest first."""
    named: dict[str, str] = {}
    weights: dict[str, float] = {}
    for term, token, weight in _weighted(reader, vector):
        word = words.get(term, readable(token))
        named.setdefault(word.casefold(), word)
        weights[word.casefold()] = weights.get(word.casefold(), 0.0) + weight
    return {named[word]: weights[word] for word in sorted(weights, key=lambda word: -weights[word])}
