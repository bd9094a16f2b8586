"""The models of responses; /openapi.json is generated from these and from `schemas`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Given(BaseModel):
    """A response."""

    model_config = ConfigDict(extra="forbid")


class Term(Given):
    """What a query term adds to a score."""

    term: int
    token: str
    word: str = Field(
        description="The whole word that contains the term, in the query or else in the document; if the term occurs "
        "in neither, the token without tokenizer marks."
    )
    query_weight: float
    impact: float = Field(description="The stored weight; 0 if the document lacks the term.")
    score: float
    share: float
    kind: str = Field(description='match, expansion, missing, unweighted, or "" if unknown.')
    spans: list[tuple[int, int]] = Field(
        description="Where the term occurs: (start, end), in characters of title and text, joined by a space (or of "
        "the text alone if there is no title)."
    )
    origin: tuple[int, int] | None = Field(
        description="For an expansion, the span of the word that the expansion comes from."
    )
    marked: bool = Field(
        description="Whether highlights mark the term; stop words and terms of little weight aren't marked."
    )


class Moved(Given):
    """What a re-ranker changed."""

    first_rank: int = Field(description="Rank before re-ranking, from 1.")
    first_score: float
    rank: int
    score: float = Field(description="Score of the re-ranker.")
    sentence: str = Field(description="The sentence with this score, if sentences were scored.")


class DensePart(Given):
    """What the dense vectors add to a score."""

    cosine: float
    z: float | None = Field(
        description="How many standard deviations the cosine lies above the mean of all documents; null in mode dense."
    )
    weight: float
    score: float = Field(description="weight * sign(z) * |z|^2.5 / 52; in mode dense, the cosine.")
    share: float


class Explanation(Given):
    """A score as a sum over terms, plus a dense part in modes hybrid and dense."""

    id: str = Field(alias="_id", description="Id of the document or passage.")
    score: float
    terms: list[Term]
    dense: DensePart | None = Field(None, description="What the dense vectors add, in modes hybrid and dense.")
    boost: float | None = Field(None, description="The factor of the boosts, if there are any.")
    moved: Moved | None = Field(None, description="How the re-ranker moved the document, if there is a re-ranker.")


class Explained(Explanation):
    """An explanation with the text that its spans refer to."""

    index: str
    content: str
    title_length: int = Field(description="Length of the title at the start of the content, in characters.")


class Hit(Given):
    """A search result."""

    id: str
    passage: str | None = Field(None, description="Id of the passage that matched, if documents are cut into passages.")
    rank: int
    score: float
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    moved: Moved | None = Field(None, description="How the re-ranker moved the document, if there is a re-ranker.")
    explanation: Explanation | None = None


class Facet(Given):
    """A column's value, and the number of matching documents that have it."""

    value: Any
    count: int


class AskedFor(Given):
    """The query that was searched."""

    vector: dict[str, float] = Field(description="{token: weight}, heaviest first.")
    words: dict[str, float] = Field(description="{word: sum of the weights of its terms}, heaviest first.")
    unknown: list[str] = Field(description="Tokens that aren't in the index's vocabulary, so no document has them.")


class Took(Given):
    """How long a search took, in milliseconds."""

    encode_ms: float = Field(
        description="Time to encode the query; modes hybrid and dense also encode the query as a dense vector."
    )
    search_ms: float


class Found(Given):
    """The results of a search."""

    index: str
    snapshot: str = Field(description="Identifies the commit.")
    query: AskedFor
    took: Took
    plan: dict[str, Any] | None = None
    hits: list[Hit]
    total: int | None = Field(None, description="Number of matching documents, if total or facets were requested.")
    facets: dict[str, list[Facet]] | None = Field(None, description="For each column, most frequent values first.")


class FoundSimilar(Given):
    """Similar documents."""

    index: str
    snapshot: str
    hits: list[Hit]
    total: int | None = None
    facets: dict[str, list[Facet]] | None = None


class FoundBatch(Given):
    """The results for each query."""

    index: str
    snapshot: str
    results: list[list[Hit]]
    totals: list[int] | None = Field(None, description="Number of matching documents for each query, if requested.")
    facets: list[dict[str, list[Facet]]] | None = Field(None, description="The facets of each query.")


class Encoded(Given):
    """A query's vector, heaviest terms first."""

    index: str
    vector: dict[str, float]


class Stored(Given):
    """A stored document."""

    index: str
    id: str
    parent: str | None = None
    title: str
    text: str
    metadata: dict[str, Any]
    passages: list[str] | None = Field(None, description="Ids of the document's passages, if it is cut.")


class Suggested(Given):
    """A suggestion."""

    text: str
    kind: Literal["word", "title"]
    count: int = Field(description="For a word, the number of documents with its term.")
    id: str | None = Field(description="For a title, the document's id.")


class Suggestions(Given):
    """Suggestions for a partial query."""

    index: str
    suggestions: list[Suggested]
    corrections: dict[str, list[str]] = Field(description="{unknown word: similar words of the documents}.")
    did_you_mean: str | None = Field(
        description="The text with unknown words corrected; null if there is nothing to correct."
    )


class StoredDocument(Given):
    """A document in a list."""

    id: str
    parent: str | None = None
    title: str
    text: str
    metadata: dict[str, Any] | None


class StoredDocuments(Given):
    """Stored documents."""

    index: str
    documents: list[StoredDocument | None] = Field(description="In the requested order; null for unknown ids.")
    more: bool = Field(False, description="Whether more documents follow.")


class Counted(Given):
    """A number of documents."""

    index: str
    count: int


class Pair(Given):
    """Two similar documents."""

    id: str = Field(description="The document that was added later.")
    of: str = Field(description="The document that was added earlier.")
    similarity: float = Field(description="Cosine of their vectors.")


class FoundDuplicates(Given):
    """All pairs of near-duplicates, most similar first."""

    index: str
    duplicates: list[Pair]


class Changed(Given):
    """The changes made by a request."""

    index: str
    added: int
    updated: int
    deleted: int
    missing: list[str] = Field(description="Ids to delete that don't exist.")
    bad: list[str] = Field(description="Messages about skipped documents.")
    committed: bool
    documents: int = Field(description="Number of documents at the latest commit.")


class Done(Given):
    """The result of an operation on an index."""

    index: str
    done: bool = Field(description="Whether there was anything to do.")
    documents: int
    segments: int


class Column(Given):
    """A metadata column to filter by."""

    kind: str = Field(description='number, text, truth, a "list of" these, or "empty list".')
    documents: int = Field(description="Number of documents (or passages) that have a value.")
    distinct: int = Field(description="Number of distinct values.")
    values: list[Any] | None = Field(None, description="For texts and truths, the 50 most frequent values.")
    min: float | None = None
    max: float | None = None


class Facts(Given):
    """An index."""

    name: str
    documents: int = Field(description="Number of documents, or of passages if documents are cut.")
    whole_documents: int = Field(description="Number of documents; all passages of a document count once.")
    segments: int
    bytes: int
    encoder: str
    takes_text: bool
    has_passages: bool
    has_clusters: bool
    has_dense: bool = Field(description="Whether the index has dense vectors, for modes hybrid and dense.")
    has_reranker: bool = Field(description="Whether the server has a re-ranker that searches may use.")
    has_hybrid: bool = Field(description="Whether learned and BM25 terms can be ranked separately and fused.")
    writable: bool
    examples: list[str] = Field(description="Example queries: titles of some documents, or beginnings of their texts.")
    columns: dict[str, Column]


class Indexes(Given):
    """The served indexes; the first one is the default."""

    indexes: list[Facts]


class Stats(Given):
    """Statistics of an index."""

    index: str
    snapshot: str
    documents: int
    segments: int
    postings: int
    bytes: dict[str, int] = Field(description="Size of each kind of file.")
    max_error: float = Field(description="Largest difference between a weight and its stored value.")
    pending: bool = Field(description="Whether there are uncommitted changes.")
    refreshed: str = Field(description="Empty, or why another process's commit can't be opened.")
    searching: int = Field(description="Number of searches that are running or waiting.")
    seconds: float = Field(description="Seconds since the server started.")


class Health(Given):
    """Whether the server is up, or ready for requests."""

    status: str


class WrongValue(Given):
    """An invalid value."""

    where: str
    message: str


class ProblemDocument(Given):
    """A problem (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[WrongValue]
