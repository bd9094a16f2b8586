"""Explanations: what each query term adds to a hit's score, and where it occurs in the text.

explanation = hit.explain()
print(explanation)                         a table with a line for each word
explanation.highlight(200)                 "… **wing** at **supersonic** _speeds_ …"
explanation.highlight(html=True)           the whole text, escaped, with <mark>
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lsr.console import table
from lsr.encode.base import Encoder
from lsr.encode.hybrid import PREFIX
from lsr.errors import EncoderError, EncoderMismatch
from lsr.index.search.highlight import PLAIN, TAGS, best_part, highlight
from lsr.index.search.hybrid_search import Fusion, cosine_of
from lsr.index.search.request import EncodedQuery
from lsr.index.search.rerank import Moved
from lsr.index.search.snapshot import Snapshot
from lsr.io.document import Document
from lsr.notebook import html_table
from lsr.sparse import SparseMatrix

_LONGEST = 100  # the start of a word is searched for in at most this many characters before a span
_LITTLE = 20  # highlights skip terms that weigh less than 1/20 of the query's heaviest term
# If the terms of a word differ in kind, the word has the first of these kinds.
_KINDS = ("match", "expansion", "", "unweighted", "missing")
# Scripts written without spaces, where each term is a word of its own.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTERS = re.compile(rf"(?:(?![{_UNSPACED}])[\w\u0300-\u036f])*")


@dataclass(frozen=True)
class Contribution:
    """What one query term adds to a score.

    Attributes:
        term: The term's id.
        token: The term's token, or "term 123" if tokens aren't known.
        query_weight: The term's weight in the query.
        impact: The term's stored weight in the document; 0 if the document lacks it.
        score: query_weight * impact, computed with the rounded weights of a search (an error of about 1e-7).
        share: Fraction of the document's score, 0 to 1 (or more, if the dense part is below 0).
        kind: "match" if the term occurs in the document's text; "expansion" if the encoder added the term; "missing" if
            the document lacks the term; "unweighted" if the term occurs in the text but has no weight (the encoder gave
            it none, pruned it, or truncated the text before it); "" if unknown, because no text or encoder is stored.
        spans: Where the term occurs: (start, end) in characters of the document's content (title, a space, text).
        origin: For an expansion, the (start, end) of the word that the expansion comes from (`Encoder.origins`); None
            if unknown.
        marked: Whether highlights mark the term. Stop words and terms with little weight in the query are left unmarked
            if other terms are marked.
        word: The whole word that contains the term (perhaps a stem or a word piece). It is a word of the query if the
            query's text is known, else a word of the document, else the readable form of the token.
    """

    term: int
    token: str
    query_weight: float
    impact: float
    score: float
    share: float
    kind: str
    spans: tuple[tuple[int, int], ...]
    origin: tuple[int, int] | None = None
    marked: bool = True
    word: str = ""

    def __post_init__(self) -> None:
        if not self.word:
            object.__setattr__(self, "word", readable(self.token))


@dataclass(frozen=True)
class DensePart:
    """What the dense vectors add to the score of a hybrid or dense search.

    Attributes:
        cosine: Cosine of the query's and the document's dense vectors. If the document is cut, the cosine of its
            nearest passage; for a `Hybrid` with similarity "dot", the dot product.
        z: How many standard deviations the cosine lies above the mean over all documents; None in mode "dense" and for
            a `Hybrid`.
        weight: The search's `dense_weight`, or the weight in a `Hybrid`; 1 in mode "dense".
        score: What the dense vectors add to the score, possibly below 0: weight * sign(z) * |z|^2.5 / 52; in mode
            "dense", the cosine; for a `Hybrid`, what its dense ranking adds.
        share: Fraction of the document's score.
    """

    cosine: float
    z: float | None
    weight: float
    score: float
    share: float

    def __str__(self) -> str:
        return f"cosine {self.cosine:.3f}" + (f", z {self.z:.1f}" if self.z is not None else "")


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a document has its score.

    Attributes:
        id: The document's id.
        score: The score of an exact search: the sum of the contributions and of the dense part, if there is one. In
            mode "dense", the score is the dense part alone; contributions come from a sparse search and have share 0.
        contributions: One for each query term, highest score first; terms that the document lacks come last.
        content: The text that spans refer to; empty if it isn't stored.
        title_length: Length of the title, in characters, at the start of `content`; a space follows it.
        boost: The factor by which the search's boosts multiplied the score; 1 without boosts.
        moved: How a re-ranker moved the document; None without a re-ranker.
        dense: What the dense vectors add, in a hybrid or dense search; else None.
    """

    id: str
    score: float
    contributions: tuple[Contribution, ...]
    content: str
    title_length: int = 0
    boost: float = 1.0
    moved: Moved | None = None
    dense: DensePart | None = None

    def __iter__(self) -> Iterator[Contribution]:
        return iter(self.contributions)

    def to_dict(self) -> dict[str, Any]:
        """Return id, score, terms, and any dense part, boost or re-ranking as a JSON-serializable dict."""
        found = self.to_json()
        return {"id": found.pop("_id"), **found}

    def __repr__(self) -> str:
        return f"Explanation(id={self.id!r}, score={self.score:.4f}, {self.words(3)})"

    def _repr_html_(self) -> str:
        """Return the text with matching words marked, and a table of words, as HTML."""
        header, *rows = self._rows()
        text = f"<p>{self.highlight(html=True)}</p>" if self.content else ""
        return text + html_table([header, *rows], self._headline())

    def to_json(self) -> dict[str, Any]:
        """Like `to_dict`, with the key "_id" in place of "id"."""
        found: dict[str, Any] = {"_id": self.id, "score": self.score, "terms": [asdict(c) for c in self.contributions]}
        found |= {"dense": asdict(self.dense)} if self.dense else {}
        found |= {"boost": self.boost} if self.boost != 1 else {}
        return found | ({"moved": asdict(self.moved)} if self.moved else {})

    def named(self, words: Mapping[int, str]) -> Explanation:
        """Return a copy with words assigned to terms, as `query_words` returns them."""
        named = (replace(c, word=words.get(c.term, c.word)) for c in self.contributions)
        return replace(self, contributions=tuple(named))

    def with_tokens(self, tokens: Sequence[str]) -> Explanation:
        """Return a copy with tokens for terms that had none: a shard doesn't know the tokens of other shards."""
        unknown = [c for c in self.contributions if c.token == _nameless(c.term) and c.term < len(tokens)]
        named = {c.term: replace(c, token=tokens[c.term], word=readable(tokens[c.term])) for c in unknown}
        return replace(self, contributions=tuple(named.get(c.term, c) for c in self.contributions))

    def by_word(self) -> list[Contribution]:
        """Sum the contributions of the terms of each word; highest score first.

        A word's `query_weight` is the sum of its terms' query weights. Its `impact` is the mean of its terms' impacts,
        weighted by their query weights. So the product of the two is still the score. `term` and `token` come from
        the word's highest-scoring term.
        """
        words: dict[str, list[Contribution]] = {}
        for c in self.contributions:
            words.setdefault(c.word.casefold(), []).append(c)
        return sorted(map(_added_up, words.values()), key=lambda c: -c.score)

    def words(self, limit: int = 5) -> str:
        """Return the top words in one line, such as "wing 42%, flutter*(wing) 30%".

        A star marks an expansion; the word that the expansion comes from follows in parentheses, if known. In a hybrid
        search, the dense part is listed like a word; its share is negative if the document's cosine is below the mean.
        """
        parts = [(self.dense.share, "dense vector")] if self.dense else []
        for c in self.by_word()[:limit]:
            star = "*" if c.kind == "expansion" else ""
            origin = f"({self.content[slice(*c.origin)]})" if c.origin else ""
            if c.score and c.share:
                parts.append((c.share, f"{c.word}{star}{origin}"))
        parts.sort(key=lambda part: -abs(part[0]))
        return ", ".join(f"{name} {share:.0%}" for share, name in parts[:limit])

    def fused(self, rankings: Sequence[tuple[Collection[int], float]], dense: DensePart | None = None) -> Explanation:
        """Return a copy that explains the score of a fusion of rankings.

        Args:
            rankings: The terms of each sparse ranking, and what the ranking adds to the score. The added score is
                divided among the terms in proportion to their scores.
            dense: What a dense ranking adds; this call computes its `share`.
        """
        total = sum(added for _, added in rankings) + (dense.score if dense else 0.0)
        factors: dict[int, float] = {}
        for terms, added in rankings:
            alone = sum(c.score for c in self.contributions if c.term in terms)
            factors |= dict.fromkeys(terms, added / alone if alone else 0.0)
        scaled = (
            replace(
                c,
                query_weight=c.query_weight * factors.get(c.term, 0.0),
                score=c.score * factors.get(c.term, 0.0),
                share=c.score * factors.get(c.term, 0.0) / total if total else 0.0,
            )
            for c in self.contributions
        )
        dense = dense and replace(dense, share=dense.score / total if total else 0.0)
        return replace(self, score=total, contributions=tuple(scaled), dense=dense)

    def beside_dense(self, fusion: Fusion, cosine: float) -> Explanation:
        """Return a copy that explains the score of a hybrid or dense search.

        Args:
            fusion: How the search made its scores.
            cosine: Cosine of the dense vectors.
        """
        cosines, sparse = np.array([cosine]), np.array([self.score])
        total, added = float(fusion.scores(sparse, cosines)[0]), float(fusion.dense(cosines)[0])
        alone = fusion.mode == "dense"
        z, scale = (None, 1.0) if alone else (float(fusion.z(cosines)[0]), fusion.largest)
        dense = DensePart(cosine, z, 1.0 if alone else fusion.weight, added, added / total if total else 0.0)
        terms = (
            replace(
                c,
                query_weight=c.query_weight / scale,
                score=c.score / scale,
                share=0.0 if alone or not total else c.score / scale / total,
            )
            for c in self.contributions
        )
        return replace(self, score=total, contributions=tuple(terms), dense=dense)

    def highlight(
        self,
        length: int | None = None,
        *,
        before: str | None = None,
        after: str | None = None,
        expansion: tuple[str, str] | None = None,
        between: str = "\n",
        html: bool = False,
    ) -> str:
        """Return the content, or its best part, with matching words marked.

        Marks of the same kind that the text already has around such words (Markdown's "**", say) are replaced.

        Args:
            length: Maximum length in characters, without marks and ellipses; None for the whole content.
            before: Inserted before matches; by default "**", or "<mark>" for HTML.
            after: Inserted after matches; by default "**", or "</mark>" for HTML.
            expansion: Inserted before and after the origins of expansions; by default "_" on both sides, or
                '<mark class="expansion">' and "</mark>" for HTML.
            between: Inserted between title and text.
            html: Escape the content for HTML.

        Raises:
            ValueError: `length` is below 1.
        """
        matched, expanded = TAGS if html else PLAIN
        matched = matched[0] if before is None else before, matched[1] if after is None else after
        expanded = expanded if expansion is None else expansion
        instead = {self.title_length: between} if self.title_length else {}
        return highlight(self.content, self, matched, expanded, length, html, instead)

    def best_part(self, length: int) -> tuple[int, int]:
        """Return (start, end) of the part with the largest share, in characters of the text without the title.

        Args:
            length: Maximum length in characters.

        Raises:
            ValueError: `length` is below 1.
        """
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        begin = self.title_length + 1 if self.title_length else 0
        text = self.content[begin:]
        if length >= len(text):
            return 0, len(text)
        return best_part(text, (_moved(c, begin) for c in self.contributions), length)

    def __str__(self) -> str:
        header, *rows = self._rows()
        return f"{self._headline()}\n" + table(rows, header, "<>>>><<")

    def _headline(self) -> str:
        moved = f", boosted {self.boost:.4g} times" if self.boost != 1 else ""
        moved += f"; {self.moved}" if self.moved else ""
        return f"{self.id}: score {self.score:.4f}{moved}"

    def _rows(self) -> list[tuple[str, ...]]:
        """The rows of the table, starting with its header."""
        rows: list[tuple[str, ...]] = [("word", "query", "impact", "score", "share", "kind", "in the text")]
        if self.dense:
            weight, impact = self.dense.weight, self.dense.score / (self.dense.weight or 1.0)
            numbers = (f"{weight:.3f}", f"{impact:.3f}", f"{self.dense.score:.3f}", f"{self.dense.share:.1%}")
            rows.append(("dense vector", *numbers, "dense", str(self.dense)))
        for c in self.by_word():
            places = ", ".join(self._place(span) for span in c.spans[:3])
            more = f" and {len(c.spans) - 3} more" if len(c.spans) > 3 else ""
            origin = f"← {self._place(c.origin)}" if c.origin else ""
            numbers = (f"{c.query_weight:.3f}", f"{c.impact:.3f}", f"{c.score:.3f}", f"{c.share:.1%}")
            rows.append((c.word, *numbers, c.kind, places + more + origin))
        return rows

    def _place(self, span: tuple[int, int]) -> str:
        return f'{span[0]}:{span[1]} "{self.content[slice(*span)]}"'


def explain_document(
    snapshot: Snapshot, encoder: Encoder | None, query: EncodedQuery, doc: int, *, origins: bool = True
) -> Explanation:
    """Explain the score of one document.

    Args:
        snapshot: The snapshot that holds the document.
        encoder: Finds terms in the text; None if there is no encoder.
        query: The query. If it has a dense vector and the `fusion` of a search, the dense part is explained, too.
        doc: The document's number.
        origins: Whether to find the words that expansions come from, which runs the document encoder.
    """
    explanation = _explained_terms(snapshot, encoder, query.vector, doc, origins=origins)
    if query.dense is None or query.fusion is None:
        return explanation
    cosine = cosine_of(snapshot, query.dense, doc, passages=query.fusion.passages)
    return explanation.beside_dense(query.fusion, cosine)


def _explained_terms(
    snapshot: Snapshot, encoder: Encoder | None, query: SparseMatrix, doc: int, *, origins: bool
) -> Explanation:
    """Explain the sparse score of one document."""
    terms, weights = query.row(0)
    impacts, scores, total = snapshot.searcher.score_of(doc, terms, weights)
    title, text, _ = snapshot.documents.fields(doc)
    content = Document("", text, title).content
    spans: dict[int, list[tuple[int, int]]] | None = None
    if content and encoder is not None:
        spans = {}
        for term, start, end in encoder.spans(content):
            spans.setdefault(term, []).append((start, end))
    expansions = [] if spans is None else [term for term in terms[impacts > 0].tolist() if term not in spans]
    sources = _origins(encoder, content, expansions) if origins else {}
    fillers = set(encoder.fillers(content)) if spans and encoder is not None else set()
    there = np.flatnonzero(impacts).tolist()
    places = {i: {*(spans or {}).get(int(terms[i]), ()), sources.get(int(terms[i]))} - {None} for i in there}
    telling = [i for i in there if not places[i] or places[i] - fillers]
    least = max((float(weights[i]) for i in telling), default=0.0) / _LITTLE
    marked = {i for i in telling or there if weights[i] >= least}
    tokens = snapshot.shared.vocabulary
    contributions = []
    for i in np.lexsort((terms, -scores)).tolist():
        term, score = int(terms[i]), float(scores[i])
        found = tuple(spans.get(term, ())) if spans is not None else ()
        if impacts[i]:
            kind = "" if spans is None else "match" if found else "expansion"
        else:
            kind = "unweighted" if found else "missing"
        contributions.append(
            Contribution(
                term=term,
                token=tokens[term] if tokens is not None and term < len(tokens) else _nameless(term),
                query_weight=float(weights[i]),
                impact=float(impacts[i]),
                score=score,
                share=score / total if total else 0.0,
                kind=kind,
                spans=found,
                origin=sources.get(term),
                marked=i in marked,
                word=word_at(content, *found[0]).casefold() if found else "",
            )
        )
    return Explanation(snapshot.documents.id(doc), total, tuple(contributions), content, len(title))


def _nameless(term: int) -> str:
    return f"term {term}"


def _origins(encoder: Encoder | None, content: str, terms: list[int]) -> dict[int, tuple[int, int]]:
    """Find the word that each expansion comes from; {} if the document encoder isn't available or can't run."""
    try:
        return encoder.origins(content, terms) if encoder is not None and terms else {}
    except (EncoderError, EncoderMismatch):
        return {}


# --- words ------------------------------------------------------------------------------------------------------------


def readable(token: str) -> str:
    """Strip the prefix of BM25 terms and the markers of tokenizers from a token."""
    bare = token.removeprefix(PREFIX)
    if bare.startswith("##"):
        return "…" + bare[2:] if bare[2:] else bare
    return bare.lstrip("\u0120\u2581") or bare


def word_at(text: str, start: int, end: int) -> str:
    """Return the whole word around a span; in scripts without spaces, the span itself."""
    behind = _LETTERS.match(text, end)
    before = _LETTERS.match(text[max(0, start - _LONGEST) : start][::-1])
    return text[start - len(before[0]) if before else start : behind.end() if behind else end]


def query_words(encoder: Encoder, query: Any) -> dict[int, str]:
    """Return {term: word of the query}; empty if the query isn't a text."""
    if isinstance(query, Mapping):
        query = query.get("text")
    if not isinstance(query, str) or encoder.needs_fit:
        return {}
    words: dict[int, str] = {}
    for term, start, end in encoder.spans(query):
        words.setdefault(term, word_at(query, start, end))
    return words


def _added_up(terms: list[Contribution]) -> Contribution:
    """Merge the contributions of one word's terms."""
    first = terms[0]
    if len(terms) == 1:
        return first
    weight, score = sum(c.query_weight for c in terms), sum(c.score for c in terms)
    return replace(
        first,
        query_weight=weight,
        impact=score / weight if weight else 0.0,
        score=score,
        share=sum(c.share for c in terms),
        kind=min((c.kind for c in terms), key=_KINDS.index),
        spans=_apart(span for c in terms for span in c.spans),
        origin=next((c.origin for c in terms if c.origin and not any(one.spans for one in terms)), None),
        marked=any(c.marked for c in terms),
    )


def _apart(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sort spans and merge those that overlap or touch."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return tuple(found)


def _moved(term: Contribution, begin: int) -> Contribution:
    """Shift a term's spans by -begin, and drop the spans before `begin`."""
    places = tuple((start - begin, end - begin) for start, end in term.spans if start >= begin)
    origin = term.origin if term.origin and term.origin[0] >= begin else None
    return replace(term, spans=places, origin=origin and (origin[0] - begin, origin[1] - begin))
