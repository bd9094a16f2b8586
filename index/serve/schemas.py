"""What requests and answers look like: requests are checked against it, and /openapi.json is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationInfo,
    model_validator,
)

from lsr.fingerprint import Fingerprint
from lsr.index.hybrid.fusion import RRF_K, Normalization
from lsr.index.hybrid.hybrid import Method
from lsr.index.search.options import Options
from lsr.index.search.settings import SearchSettings
from lsr.index.serve.limits import (
    DenseVector,
    K,
    Query,
    QueryVector,
    Text,
    Vector,
    Weight,
    Where,
    either,
    k_explained,
    k_of_all,
)

Columns = str | Annotated[list[str], Field(max_length=20)]
# Options that a request may give; a re-ranker runs where the client is.
OPTIONS = (
    "offset", "min_score", "group_by", "per_group", "sort", "boost", "facets", "total", "diversity", "depth", "syntax",
)  # fmt: skip


class Asked(BaseModel):
    """A request; what it doesn't know is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class OfIndex(Asked):
    """A request to one of the indexes."""

    index: str | None = Field(None, description="The index' name; by default the first.")


class Fusion(Asked):
    """How rankings become one, for an index of a hybrid encoder: its learned terms, and BM25's."""

    method: Method = "rrf"
    weights: dict[str, Weight] = Field({}, description="By ranking, learned and lexical; 1 unless given.")
    depth: K = Field(100, validate_default=True, description="Documents of each ranking that are fused.")
    normalization: Normalization = "min-max"
    rrf_k: int = Field(RRF_K, ge=0)


class HowToSearch(OfIndex):
    """What all searches take."""

    k: K = Field(10, validate_default=True, description="How many documents at most.")
    where: Where | None = Field(
        None,
        description='Which documents may be found, by their metadata: {"year": {">=": 2020}, "lang": ["en", "de"]}.',
    )
    settings: SearchSettings = Field(SearchSettings(), description="Exact unless told otherwise.")
    hybrid: Fusion | None = None
    fields: bool = Field(True, description="Give titles, texts and metadata.")
    offset: int = Field(0, ge=0, le=100_000, description="So many of the best documents, or groups, are passed over.")
    min_score: float = Field(0.0, ge=0, description="Documents that score less aren't found.")
    group_by: str | None = Field(None, description="A column: k groups of documents with the same value are found.")
    per_group: int = Field(1, ge=1, description="How many documents of each group.")
    sort: Columns = Field([], description='Columns to sort by, "-year" for descending, "_score" for the score.')
    boost: dict[str, Any] = Field(
        {},
        max_length=20,
        description="{column: weight} multiplies scores by 1 + weight * value, {column: {weight, half_life, origin}} "
        "by 1 + weight * 0.5 ** (distance / half_life); half-lives of dates and times are days.",
    )
    facets: Columns = Field([], description="Columns whose values are counted in all documents that match.")
    total: bool = Field(False, description="Tell how many documents match; a search with facets does.")
    diversity: float = Field(0.0, ge=0, le=1, description="Above 0: prefer documents unlike those before them.")
    depth: int = Field(100, ge=1, description="How many are made diverse.")
    syntax: Literal["plain", "operators"] = Field(
        "plain", description='"operators" takes "exact phrase", +must and -not out of a text.'
    )

    @property
    def options(self) -> dict[str, Any]:
        """What differs from a plain search, as `Index.search` takes it."""
        return {
            name: value for name in OPTIONS if (value := getattr(self, name)) != type(self).model_fields[name].default
        }

    @model_validator(mode="after")
    def _fit(self, info: ValidationInfo) -> Self:
        options = self.options
        Options(**options)
        if options and self.hybrid is not None:
            raise ValueError(f'{next(iter(options))} doesn\'t go with hybrid; it does with the setting "mode"')
        if self.diversity and self.depth > info.context.max_k:
            raise ValueError(f"depth: at most {info.context.max_k:,} documents are made diverse, got {self.depth:,}")
        if (most := self.k * self.per_group) > info.context.max_k:
            raise ValueError(f"at most {info.context.max_k:,} documents are given, got {most:,} in {self.k:,} groups")
        return self


class Similar(HowToSearch):
    """Documents that are like one of them."""

    id: str


class Suggest(OfIndex):
    """What somebody types."""

    text: Text
    limit: int = Field(10, ge=1, le=100, description="How many words, and how many titles, at most.")
    nearest: int = Field(3, ge=1, le=100, description="How many corrections of each word at most.")


class GetMany(OfIndex):
    """Documents by their ids."""

    ids: Annotated[list[str], FailFast()] = Field(max_length=1000)


class ListDocuments(OfIndex):
    """Documents in the order of addition."""

    after: str | None = Field(None, description="The id that the last answer ended with; by default the first follow.")
    most: int = Field(100, ge=1, le=1000, description="How many at most.")
    where: Where | None = Field(None, description="Only documents that meet a filter.")


class Count(OfIndex):
    """How many documents meet a filter."""

    where: Where | None = None


class Duplicates(OfIndex):
    """Documents that are nearly the same."""

    threshold: float = Field(0.9, gt=0, le=1, description="The least cosine of two documents' vectors.")
    where: Where | None = Field(None, description="Compare only documents that meet a filter.")


class OneQuery(OfIndex):
    """A text or a vector."""

    vector: QueryVector | None = Field(None, description="{token: weight}, in place of a text.")
    query: Annotated[Text | None, AfterValidator(either)] = Field(None, validate_default=True, description="A text.")


class Search(OneQuery, HowToSearch):
    """Search with a text or a vector."""

    dense: DenseVector | None = Field(None, description="The query's dense vector, for the modes hybrid and dense.")

    explain: Annotated[bool, AfterValidator(k_explained)] = Field(
        False, description="Tell of each hit why it has its score, term by term."
    )
    origins: bool = Field(True, description="With explain: tell which words expansions come from, which takes longer.")
    plan: bool = Field(False, description="Tell what the search touched and skipped.")


class SearchBatch(HowToSearch):
    """Search with many texts or vectors."""

    queries: Annotated[list[Query], BeforeValidator(k_of_all)]
    dense: list[DenseVector] | None = Field(None, description="A dense vector for each query.")


class Explain(OneQuery):
    """Why a document has its score for a query."""

    id: str
    origins: bool = Field(True, description="Tell which word an expansion comes from.")


class Encode(OfIndex):
    """A query's vector."""

    text: Text


class NewDocument(Asked):
    """A document: a text that the index' encoder encodes, or a vector."""

    id: str = Field(min_length=1)
    text: str | None = None
    title: str = ""
    metadata: dict[str, Any] | None = Field(None, description="Columns to filter by.")
    parent: str | None = Field(None, description="Of a passage, the document that it was cut from.")
    vector: Vector | None = None


class Add(OfIndex):
    """Add documents: all of them or none."""

    documents: Annotated[list[NewDocument], FailFast()] = Field(min_length=1)
    fingerprint: Fingerprint | None = Field(
        None, description="Of vectors: which encoder made them. Those of another than the index' are refused."
    )
    update: bool = Field(False, description="Replace documents of the same ids instead of refusing them.")
    skip_bad: bool = Field(False, description="Leave bad documents out, and list them.")
    commit: bool = Field(True, description="Make it visible now; else with the next commit, whoever makes it.")


class Delete(OfIndex):
    """Delete documents, by ids or metadata or both."""

    ids: Annotated[list[str], FailFast()] = []
    where: Where | None = None
    commit: bool = Field(True, description="Make it visible now; else with the next commit, whoever makes it.")


class Commit(OfIndex):
    """Make changes visible."""

    merge: bool = Field(True, description="Then merge segments as they gather, in the background.")


class Merge(OfIndex):
    """Commit, then merge segments."""

    everything: bool = Field(True, description="All segments into one.")


# --- answers ----------------------------------------------------------------------------------------------------------


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


class Explanation(Given):
    """A score as a sum."""

    id: str = Field(alias="_id", description="Of the document, or of the passage.")
    score: float
    terms: list[Term]
    boost: float | None = Field(None, description="What boosts multiplied the score with, where there are any.")


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
