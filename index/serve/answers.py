"""What answers look like: /openapi.json is made of it and of `schemas`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Given(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid")


class Term(Given):
    """What a term of the query adds to a score."""

    term: int
    token: str
    word: str = Field(
        description="The whole word that the term belongs to: one of the query, else one of the document, else the "
        "token without marks."
    )
    query_weight: float
    impact: float = Field(description="The stored weight; 0 if the document lacks the term.")
    score: float
    share: float
    kind: str = Field(description='match, expansion, missing, unweighted, or "" where that can\'t be told.')
    spans: list[tuple[int, int]] = Field(
        description="Where it stands in title, a space, text (in the text alone if there is no title), in code points."
    )
    origin: tuple[int, int] | None = Field(description="Of an expansion, the word that it comes from.")
    marked: bool = Field(description="Whether highlights mark it; not stop words and small weights beside others.")


class Moved(Given):
    """What a re-ranker did to a document."""

    first_rank: int = Field(description="Its rank before, from 1.")
    first_score: float
    rank: int
    score: float = Field(description="The re-ranker's.")
    sentence: str = Field(description="The sentence that has this score, where sentences were scored.")


class Explanation(Given):
    """A score as a sum."""

    id: str = Field(alias="_id", description="Of the document, or of the passage.")
    score: float
    terms: list[Term]
    boost: float | None = Field(None, description="What boosts multiplied the score with, where there are any.")
    moved: Moved | None = Field(None, description="What a re-ranker did, of a search with one.")


class Explained(Explanation):
    """An explanation, with the text that it is about."""

    index: str
    content: str
    title_length: int = Field(description="Characters at the beginning of the content that are the title.")


class Hit(Given):
    """A document found."""

    id: str
    passage: str | None = Field(None, description="Of the passage that matched, where documents are cut into them.")
    rank: int
    score: float
    title: str | None = None
    text: str | None = None
    metadata: dict[str, Any] | None = None
    moved: Moved | None = Field(None, description="What a re-ranker did, of a search with one.")
    explanation: Explanation | None = None


class Facet(Given):
    """A value of a column, and how many documents that match have it."""

    value: Any
    count: int


class AskedFor(Given):
    """The query as it was searched."""

    vector: dict[str, float] = Field(description="Heaviest terms first.")
    words: dict[str, float] = Field(description="By whole word the sum of the weights of its terms, heaviest first.")
    unknown: list[str] = Field(description="Tokens that the index' vocabulary lacks; no document has them.")


class Took(Given):
    """Milliseconds."""

    encode_ms: float
    search_ms: float


class Found(Given):
    """What a search found."""

    index: str
    snapshot: str = Field(description="Tells one commit from another.")
    query: AskedFor
    took: Took
    plan: dict[str, Any] | None = None
    hits: list[Hit]
    total: int | None = Field(None, description="How many documents match, of a search with total or facets.")
    facets: dict[str, list[Facet]] | None = Field(None, description="By column, the most frequent values first.")


class FoundSimilar(Given):
    """What is like a document."""

    index: str
    snapshot: str
    hits: list[Hit]
    total: int | None = None
    facets: dict[str, list[Facet]] | None = None


class FoundBatch(Given):
    """What each query found."""

    index: str
    snapshot: str
    results: list[list[Hit]]
    totals: list[int] | None = Field(None, description="How many documents match each query, if asked for.")
    facets: list[dict[str, list[Facet]]] | None = Field(None, description="Of each query.")


class Encoded(Given):
    """A vector, heaviest terms first."""

    index: str
    vector: dict[str, float]


class Stored(Given):
    """A document as it is stored."""

    index: str
    id: str
    parent: str | None = None
    title: str
    text: str
    metadata: dict[str, Any]
    passages: list[str] | None = Field(None, description="Of a document that is cut into passages, their ids.")


class Suggested(Given):
    """What may be meant."""

    text: str
    kind: Literal["word", "title"]
    count: int = Field(description="Of a word, how many documents have its term.")
    id: str | None = Field(description="Of a title, the document's id.")


class Suggestions(Given):
    """What somebody who types may mean."""

    index: str
    suggestions: list[Suggested]
    corrections: dict[str, list[str]] = Field(description="Words that no document has, and the nearest that there are.")
    did_you_mean: str | None = Field(
        description="The text with such words replaced; null if there is nothing to replace."
    )


class StoredDocument(Given):
    """A document of many."""

    id: str
    parent: str | None = None
    title: str
    text: str
    metadata: dict[str, Any] | None


class StoredDocuments(Given):
    """Documents as they are stored."""

    index: str
    documents: list[StoredDocument | None] = Field(description="In the order asked for; null where there is none.")
    more: bool = Field(False, description="Whether others follow, of a list.")


class Counted(Given):
    """How many documents there are."""

    index: str
    count: int


class Pair(Given):
    """Two documents that are alike."""

    id: str = Field(description="Of the one that was added later.")
    of: str = Field(description="Of the one that it is like.")
    similarity: float = Field(description="The cosine of their vectors.")


class FoundDuplicates(Given):
    """All pairs of documents that are alike, the most alike first."""

    index: str
    duplicates: list[Pair]


class Changed(Given):
    """What a request changed."""

    index: str
    added: int
    updated: int
    deleted: int
    missing: list[str] = Field(description="Ids that were to be deleted but aren't there.")
    bad: list[str] = Field(description="About documents that were left out.")
    committed: bool
    documents: int = Field(description="How many there are, as of the last commit.")


class Done(Given):
    """What was done to an index."""

    index: str
    done: bool = Field(description="Whether there was anything to do.")
    documents: int
    segments: int


class Column(Given):
    """Metadata to filter by."""

    kind: str = Field(description='number, text, truth, a "list of" these, or "empty list".')
    documents: int = Field(description="How many have it; of passages each counts.")
    distinct: int = Field(description="How many different values it has.")
    values: list[Any] | None = Field(None, description="Of texts and truths, the 50 most frequent.")
    min: float | None = None
    max: float | None = None


class Facts(Given):
    """An index."""

    name: str
    documents: int = Field(description="Of passages each counts.")
    whole_documents: int = Field(description="Of passages the documents that they were cut from count.")
    segments: int
    bytes: int
    encoder: str
    takes_text: bool
    has_passages: bool
    has_clusters: bool
    has_dense: bool = Field(description="Whether it keeps dense vectors, for the modes hybrid and dense.")
    has_reranker: bool = Field(description="Whether the server has a re-ranker, which searches may ask for.")
    has_hybrid: bool = Field(description="Whether learned terms and BM25's may be ranked apart and fused.")
    writable: bool
    examples: list[str] = Field(description="Queries to begin with: titles of some documents, or how they begin.")
    columns: dict[str, Column]


class Indexes(Given):
    """What is served; the first is the default."""

    indexes: list[Facts]


class Stats(Given):
    """An index in numbers."""

    index: str
    snapshot: str
    documents: int
    segments: int
    postings: int
    bytes: dict[str, int] = Field(description="By kind of file.")
    max_error: float = Field(description="The largest difference between a weight and what is stored for it.")
    pending: bool = Field(description="Whether there are changes that aren't committed.")
    refreshed: str = Field(description="Empty, or why a commit of another process can't be opened.")
    searching: int = Field(description="Searches that run or wait.")
    seconds: float = Field(description="Since the server was started.")


class Health(Given):
    """Whether the server is there, or ready."""

    status: str


class WrongValue(Given):
    """A value that is wrong."""

    where: str
    message: str


class ProblemDocument(Given):
    """What is wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[WrongValue]
