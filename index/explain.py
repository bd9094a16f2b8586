"""A hit as a sum: what each term of the query adds to the score, and where it stands in the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lsr.console import table
from lsr.corpus import Document
from lsr.encode.base import Encoder
from lsr.sparse import SparseMatrix

from .snapshot import Snapshot


@dataclass(frozen=True)
class Contribution:
    """What one term adds to a score.

    Attributes:
        term: Its id.
        token: Its token, or "term 123" where tokens aren't known.
        query_weight: Its weight in the query.
        impact: Its stored weight in the document; 0 if the document lacks it.
        score: query_weight * impact.
        share: Part of the whole score, 0 to 1.
        kind: "match" if the term stands in the document's text, "expansion" if the encoder added it, "missing" if
            the document lacks it, "" where that can't be told (no text, or no encoder).
        spans: Where it stands, (start, end) in characters of the document's content (title, a space, text).
    """

    term: int
    token: str
    query_weight: float
    impact: float
    score: float
    share: float
    kind: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Explanation:
    """Why a document has its score.

    Attributes:
        id: The document.
        score: Its score; equals the sum of the contributions up to rounding of the query (1 in 10 million).
        contributions: Heaviest first; terms of the query that the document lacks come last.
        content: The text that the spans refer to; empty where it isn't stored.
    """

    id: str
    score: float
    contributions: tuple[Contribution, ...]
    content: str

    def __iter__(self) -> Iterator[Contribution]:
        return iter(self.contributions)

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"_id": self.id, "score": self.score, "terms": [asdict(c) for c in self.contributions]}

    def words(self, limit: int = 5) -> str:
        """The heaviest terms in one line, as "wing 42%, flutter* 30%"; a star marks expansions."""
        parts = [
            f"{c.token}{'*' if c.kind == 'expansion' else ''} {c.share:.0%}"
            for c in self.contributions[:limit]
            if c.score
        ]
        return ", ".join(parts)

    def __str__(self) -> str:
        rows = []
        for c in self.contributions:
            places = ", ".join(f'{start}:{end} "{self.content[start:end]}"' for start, end in c.spans[:3])
            more = f" and {len(c.spans) - 3} more" if len(c.spans) > 3 else ""
            numbers = (f"{c.query_weight:.3f}", f"{c.impact:.3f}", f"{c.score:.3f}", f"{c.share:.1%}")
            rows.append((c.token, *numbers, c.kind, places + more))
        header = ("term", "query", "impact", "score", "share", "kind", "in the text")
        return f"{self.id}: score {self.score:.4f}\n" + table(rows, header, "<>>>><<")


def explain_document(snapshot: Snapshot, encoder: Encoder | None, query: SparseMatrix, doc: int) -> Explanation:
    """Why a document has its score.

    Args:
        snapshot: Where it is.
        encoder: Tells where terms stand in its text; None where there is none.
        query: One row.
        doc: Its number.
    """
    terms, weights = query.row(0)
    impacts = snapshot.searcher.impacts_of(doc, terms)
    scores = weights.astype(np.float64) * impacts
    total = float(scores.sum())
    title, text, _ = snapshot.documents.fields(doc)
    content = Document("", text, title).content
    spans: dict[int, list[tuple[int, int]]] | None = None
    if content and encoder is not None:
        spans = {}
        for term, start, end in encoder.spans(content):
            spans.setdefault(term, []).append((start, end))
    tokens = snapshot.shared.vocabulary
    contributions = []
    for i in np.lexsort((terms, -scores)).tolist():
        term, score = int(terms[i]), float(scores[i])
        found = tuple(spans.get(term, ())) if spans is not None else ()
        kind = "match" if found else "expansion"
        contributions.append(
            Contribution(
                term=term,
                token=tokens[term] if tokens is not None and term < len(tokens) else f"term {term}",
                query_weight=float(weights[i]),
                impact=float(impacts[i]),
                score=score,
                share=score / total if total else 0.0,
                kind="missing" if not impacts[i] else "" if spans is None else kind,
                spans=found,
            )
        )
    return Explanation(snapshot.documents.id(doc), total, tuple(contributions), content)
