"""What requests and answers look like: requests are checked against it, and /openapi.json is made of it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from lsr.fingerprint import Fingerprint
from lsr.index.hybrid.fusion import RRF_K, Normalization
from lsr.index.hybrid.hybrid import Method
from lsr.index.search.settings import SearchSettings
from lsr.index.serve.limits import K, Query, QueryVector, Text, Vector, Weight, Where, either, k_explained, k_of_all


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


class OneQuery(OfIndex):
    """A text or a vector."""

    vector: QueryVector | None = Field(None, description="{token: weight}, in place of a text.")
    query: Annotated[Text | None, AfterValidator(either)] = Field(None, validate_default=True, description="A text.")


class Search(OneQuery, HowToSearch):
    """Search with a text or a vector."""

    explain: Annotated[bool, AfterValidator(k_explained)] = Field(
        False, description="Tell of each hit why it has its score, term by term."
    )
    plan: bool = Field(False, description="Tell what the search touched and skipped.")


class SearchBatch(HowToSearch):
    """Search with many texts or vectors."""

    queries: Annotated[list[Query], BeforeValidator(k_of_all)]


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
    query_weight: float
    impact: float = Field(description="The stored weight; 0 if the document lacks the term.")
    score: float
    share: float
    kind: str = Field(description='match, expansion, missing, unweighted, or "" where that can\'t be told.')
    spans: list[tuple[int, int]] = Field(
        description="Where it stands in title, a space, text (in the text alone if there is no title), in code points."
    )
    origin: tuple[int, int] | None = Field(description="Of an expansion, the word that it comes from.")


class Explanation(Given):
    """A score as a sum."""

    id: str = Field(alias="_id", description="Of the document, or of the passage.")
    score: float
    terms: list[Term]


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


class AskedFor(Given):
    """The query as it was searched."""

    vector: dict[str, float] = Field(description="Heaviest terms first.")
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


class FoundBatch(Given):
    """What each query found."""

    index: str
    snapshot: str
    results: list[list[Hit]]


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
    values: list[Any] | None = Field(None, description="Of texts and truths, the 50 most frequent.")
    min: float | None = None
    max: float | None = None


class Facts(Given):
    """An index."""

    name: str
    documents: int
    segments: int
    bytes: int
    encoder: str
    takes_text: bool
    has_passages: bool
    has_clusters: bool
    has_dense: bool
    has_hybrid: bool = Field(description="Whether a search may be hybrid.")
    writable: bool
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
