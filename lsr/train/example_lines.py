"""Parse a line of training data: a query with its documents, as texts or ids, and teachers' scores.

    {"query": TEXT, "positive": TEXT, "negative": TEXT}
    {"query": TEXT, "positives": [TEXT, ...], "negatives": [TEXT, ...], "scores": [NUMBER, ...]}
    {"query_id": ID, "query": TEXT, "positive_ids": [ID, ...], "negative_ids": [ID, ...], "scores": [[...], ...]}

Each value may be a list or a single item. Negatives, query ids and scores are optional. The scores of a teacher are a
list in the order of the documents, positives first; several teachers have a list of such lists. A missing score is
null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lsr.errors import DataError
from lsr.io.document import require_encodable


@dataclass
class RawExample:
    """An example of a source, with documents as texts or ids."""

    where: str
    query_id: str | None
    query: str | None
    documents: list[str]
    n_positives: int
    scores: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class LineForm:
    """Requirements for a line.

    Attributes:
        by_id: Documents are given as ids.
        text: The query's text is required.
        query_id: The query's id is required.
    """

    by_id: bool
    text: bool
    query_id: bool


def parse_line(values: Mapping[str, Any], where: str, form: LineForm) -> RawExample:
    """Read a line as an example.

    Raises:
        DataError: A value is missing or wrong.
    """
    query, query_id = values.get("query"), values.get("query_id")
    if query is not None:
        query = text_value(query, "query", where)
    elif form.text:
        raise DataError('no query: an example needs "query", or "query_id" and a file of queries', where)
    if query_id is not None:
        query_id = text_value(query_id, "query_id", where)
    elif form.query_id or query is None:
        raise DataError('no "query_id", which queries, candidates and teachers\' scores need', where)
    positives = _documents(values, "positive", where, form.by_id)
    if not positives:
        raise DataError(f'no positive: an example needs "positives" (keys here: {list(values)})', where)
    documents = positives + _documents(values, "negative", where, form.by_id)
    if len(set(documents)) < len(documents):
        twice = next(name for i, name in enumerate(documents) if name in documents[:i])
        raise DataError(
            f"the document {twice[:80]!r} occurs twice; keep it once, among the positives if it is one", where
        )
    return RawExample(where, query_id, query, documents, len(positives), _scores(values, len(documents), where))


def _documents(values: Mapping[str, Any], kind: str, where: str, by_id: bool) -> list[str]:
    keys = (f"{kind}_ids", f"{kind}s", kind) if by_id else (f"{kind}s", kind)
    for key in keys:
        if (given := values.get(key)) is not None:
            return [text_value(one, key, where) for one in (given if isinstance(given, list) else [given])]
    if not by_id and values.get(f"{kind}_ids") is not None:
        raise DataError(f'"{kind}_ids" are ids: give `documents`, the collection', where)
    return []


def text_value(value: Any, key: str, where: str) -> str:
    """A text or id as a string; an id may be a whole number."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not (isinstance(text, str) and text.strip()):
        raise DataError(f'"{key}" must hold strings that are not empty, got {value!r}', where)
    require_encodable(text, f'"{key}"', where)
    return text


def _scores(values: Mapping[str, Any], n_docs: int, where: str) -> list[list[float]]:
    """(n_teachers, n_docs), NaN for missing scores; an empty list if the line has no scores."""
    given = values.get("scores")
    if given is None:
        return []
    if not (isinstance(given, list) and given):
        raise DataError(f'"scores" must be a list, got {given!r}', where)
    rows = given if isinstance(given[0], list) else [given]
    for row in rows:
        if not isinstance(row, list) or len(row) != n_docs:
            length = f"{len(row)} scores" if isinstance(row, list) else f"{row!r}"
            raise DataError(f"{length} for {n_docs} documents; there must be one each, positives first", where)
    return [[math.nan if score is None else score_value(score, where) for score in row] for row in rows]


def score_value(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3.4e38:
        raise DataError(f"the score {value!r} is not a finite number", where)
    return float(value)
