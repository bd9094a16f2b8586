"""Select hits from the ranking of an index or of shards: paging, grouping, re-ranking, diversity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lsr.index.search.explain import Explanation
from lsr.index.search.hits import Described, Hits
from lsr.index.search.options import Options
from lsr.index.search.rerank import Moved, rerank
from lsr.sparse import SparseMatrix

_DEEPER = 4


class Ranking(Protocol):
    """The documents that match a query, best first, with access to their contents."""

    def top(self, n: int) -> tuple[list[int], list[float]]:
        """Return the n best documents and their scores, or fewer if fewer match."""
        ...

    def values(self, column: str, docs: Sequence[int]) -> list[Any]:
        """Return the documents' values of a column. `DOCUMENT` holds ids; for a passage, the id of its document."""
        ...

    def texts(self, docs: Sequence[int]) -> list[tuple[str, str]]:
        """Return (title, text) of each document."""
        ...

    def vectors(self, docs: Sequence[int]) -> SparseMatrix:
        """Return the documents' vectors, weighted so that the dot product of two vectors is their similarity."""
        ...


@dataclass
class Selected:
    """The documents to return from a ranking.

    Attributes:
        docs: The documents.
        scores: The documents' scores; after re-ranking, the scores by the re-ranker.
        moved: {document: how a re-ranker moved it}.
    """

    docs: list[int]
    scores: list[float]
    moved: dict[int, Moved] = field(default_factory=dict)

    def hits(self, documents: Described, explain: Callable[..., Explanation], *, boosted: bool, **also: Any) -> Hits:
        """Make hits from the documents.

        Args:
            documents: Looks up ids and texts.
            explain: Explains a document by its number.
            boosted: Whether scores are boosted.
            also: For `Hits`: facets, total, missing.
        """
        told = _explained(explain, self, boosted=boosted)
        moved = {doc: self.moved[doc] for doc in self.docs if doc in self.moved}
        return Hits(documents, self.docs, self.scores, told, moved=moved, **also)


def select(ranking: Ranking, query: Any, k: int, options: Options) -> Selected:
    """Select one page of a ranking.

    Args:
        ranking: The matching documents.
        query: The query, for a re-ranker.
        k: Number of documents, or of groups.
        options: The search's options.

    Raises:
        RerankerError: A re-ranker fails or returns invalid scores.
    """
    end = options.offset + k
    moved: dict[int, Moved] = {}
    if options.rerank is None and not options.diversity:
        if options.group_by is None:
            docs, scores = ranking.top(end)
        else:
            docs, scores = _grouped(ranking, ranking.top, end, options)
            return Selected(docs, scores)
    else:
        docs, scores = ranking.top(max(end * (options.per_group if options.group_by else 1), options.depth))
        if options.rerank is not None and docs:
            assert options.rerank is not True
            found, sentences = rerank(options.rerank, query, ranking.texts(docs), options.rerank_unit)
            order = sorted(range(len(docs)), key=lambda i: (-found[i], i))
            moved = {
                docs[i]: Moved(i + 1, scores[i], rank, found[i], sentences[i] if sentences else "")
                for rank, i in enumerate(order, start=1)
            }
            docs, scores = [docs[i] for i in order], [found[i] for i in order]
        if options.diversity and docs:
            wanted = len(docs) if options.group_by else min(end, len(docs))
            order = diverse(ranking.vectors(docs), np.array(scores), options.diversity, wanted)
            docs, scores = [docs[i] for i in order], [scores[i] for i in order]
        if options.group_by is not None:
            whole = docs, scores
            docs, scores = _grouped(ranking, lambda n: (whole[0][:n], whole[1][:n]), end, options)
            return Selected(docs, scores, moved)
    return Selected(docs[options.offset : end], scores[options.offset : end], moved)


def _explained(explain: Callable[..., Explanation], found: Selected, *, boosted: bool) -> Callable[..., Explanation]:
    """Wrap an explainer so that its explanations include boosts and re-ranking.

    Args:
        explain: Explains a document by its number.
        found: The selected documents.
        boosted: Whether scores are boosted.
    """
    if not boosted and not found.moved:
        return explain
    scores = dict(zip(found.docs, found.scores, strict=True))

    def told(doc: int, *, origins: bool = True) -> Explanation:
        explanation, moved = explain(doc, origins=origins), found.moved.get(doc)
        score = moved.first_score if moved else scores[doc]
        boost = score / explanation.score if boosted and explanation.score else 1.0
        return replace(explanation, boost=boost, moved=moved)

    return told


def _grouped(
    ranking: Ranking, top: Callable[[int], tuple[list[int], list[float]]], end: int, options: Options
) -> tuple[list[int], list[float]]:
    """Return the best documents of groups `options.offset` to `end`; groups are ordered by their best document."""
    column, per_group = options.group_by or "", options.per_group
    depth = end * per_group
    while True:
        docs, scores = top(depth)
        own = count()
        groups: dict[Any, list[int]] = {}
        for place, value in enumerate(ranking.values(column, docs)):
            key = ("", next(own)) if value is None else (type(value).__name__ == "bool", value)
            if key in groups or len(groups) < end:
                groups.setdefault(key, []).append(place)
        full = len(groups) == end and all(len(places) >= per_group or key[0] == "" for key, places in groups.items())
        if full or len(docs) < depth:
            chosen = [place for places in list(groups.values())[options.offset :] for place in places[:per_group]]
            return [docs[i] for i in chosen], [scores[i] for i in chosen]
        depth *= _DEEPER


def diverse(vectors: SparseMatrix, scores: NDArray[np.float64], diversity: float, k: int) -> list[int]:
    """Pick k documents by maximal marginal relevance (Carbonell & Goldstein, 1998).

    Each step takes the document with the largest (1 - diversity) * relevance - diversity * similarity. Relevance is
    the score, scaled to 0..1; similarity is the largest cosine with a document picked before.

    Args:
        vectors: A row for each document.
        scores: (n,) scores.
        diversity: 0 to 1.
        k: Number of documents, at most n.

    Returns:
        Positions of the documents, in the order in which they were picked.
    """
    spread = float(scores.max() - scores.min())
    relevance = (scores - scores.min()) / spread if spread else np.ones(len(scores))
    norms = np.array([float(np.linalg.norm(weights.astype(np.float64))) for _, weights in vectors.rows()])
    norms[norms == 0] = 1.0
    nearest, taken = np.zeros(len(scores)), list[int]()
    left = np.ones(len(scores), bool)
    dense = np.zeros(vectors.shape[1])
    while len(taken) < k:
        value = np.where(left, (1 - diversity) * relevance - diversity * nearest, -np.inf)
        best = int(np.argmax(value))
        taken.append(best)
        left[best] = False
        terms, weights = vectors.row(best)
        dense[terms] = weights
        for i in np.flatnonzero(left).tolist():
            mine, theirs = vectors.row(i)
            nearest[i] = max(nearest[i], float(dense[mine] @ theirs) / (norms[i] * norms[best]))
        dense[terms] = 0
    return taken
