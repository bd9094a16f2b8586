"""The models that validate requests; /openapi.json is generated from these and from `answers`."""

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
from lsr.index.search.rerank import Unit
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
from lsr.index.serve.settings import ServeSettings

Columns = str | Annotated[list[str], Field(max_length=20)]
# Options that a request may have.
OPTIONS = (
    "offset", "min_score", "group_by", "per_group", "sort", "boost", "facets", "total", "diversity", "depth", "syntax",
    "rerank_unit", "passages",
)  # fmt: skip


class Asked(BaseModel):
    """A request; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class OfIndex(Asked):
    """A request to one of the indexes."""

    index: str | None = Field(None, description="The index's name; by default the first.")


class Fusion(Asked):
    """How to fuse the rankings of a hybrid encoder: learned terms and BM25."""

    method: Method = "rrf"
    weights: dict[str, Weight] = Field({}, description="{ranking: weight} for learned and lexical; by default 1.")
    depth: K = Field(100, validate_default=True, description="Number of documents of each ranking to fuse.")
    normalization: Normalization = "min-max"
    rrf_k: int = Field(RRF_K, ge=0)


class HowToSearch(OfIndex):
    """Fields that all searches have."""

    k: K = Field(10, validate_default=True, description="Maximum number of hits.")
    where: Where | None = Field(
        None,
        description='A filter on metadata: {"year": {">=": 2020}, "lang": ["en", "de"]}.',
    )
    settings: SearchSettings = Field(SearchSettings(), description="By default, search is exact.")
    hybrid: Fusion | None = None
    fields: bool | Columns = Field(
        True,
        description='Fields to return: "title", "text", "metadata" or columns of the metadata; true for all fields, '
        "false for none.",
    )
    offset: int = Field(0, ge=0, le=100_000, description="Number of best documents, or groups, to skip.")
    min_score: float = Field(0.0, ge=0, description="Documents that score less aren't found.")
    group_by: str | None = Field(
        None,
        description='A column: find k groups of documents with the same value; "_id" groups passages by document.',
    )
    per_group: int = Field(1, ge=1, description="Maximum number of documents in a group.")
    sort: Columns = Field([], description='Columns to sort by, "-year" for descending, "_score" for the score.')
    boost: dict[str, Any] = Field(
        {},
        max_length=20,
        description="{column: weight} multiplies scores by 1 + weight * value. {column: {weight, half_life, origin}} "
        "multiplies them by 1 + weight * 0.5 ** (distance / half_life), where distance is |value - origin|, in days "
        'for dates and times. {"title": 2} counts query words twice if they occur in the title.',
    )
    facets: Columns = Field([], description="Columns whose values are counted over all matching documents.")
    total: bool = Field(False, description="Count the matching documents; implied by facets.")
    diversity: float = Field(
        0.0, ge=0, le=1, description="Above 0: prefer documents that differ from those ranked above them."
    )
    rerank: bool = Field(False, description="Re-rank the best documents with the server's re-ranker.")
    rerank_unit: Unit = Field("text", description='What the re-ranker scores: "text", or each "sentence".')
    depth: int = Field(100, ge=1, description="Number of documents to re-rank or diversify.")
    passages: bool = Field(False, description="Find passages instead of documents.")
    syntax: Literal["plain", "operators"] = Field(
        "plain", description='"operators" parses "exact phrase", +must and -not in a text.'
    )

    def options(self, settings: ServeSettings) -> dict[str, Any]:
        """Return the options that differ from their defaults, for `Index.search`."""
        given = {
            name: value for name in OPTIONS if (value := getattr(self, name)) != type(self).model_fields[name].default
        }
        if not isinstance(self.fields, bool):
            given["fields"] = self.fields
        return given | ({"rerank": settings.rerank} if self.rerank else {})

    @model_validator(mode="after")
    def _fit(self, info: ValidationInfo) -> Self:
        if self.rerank and info.context.rerank is None:
            raise ValueError("rerank: this server has no re-ranker; start it with lsr serve --rerank MODEL")
        options = self.options(info.context)
        Options(**options)
        if options and self.hybrid is not None:
            raise ValueError(f'{next(iter(options))} can\'t be combined with hybrid; use the setting "mode" instead')
        if (self.diversity or self.rerank) and self.depth > info.context.max_k:
            what = "re-ranked" if self.rerank else "diversified"
            raise ValueError(f"depth: at most {info.context.max_k:,} documents are {what}, got {self.depth:,}")
        if (most := self.k * self.per_group) > info.context.max_k:
            limit = info.context.max_k
            raise ValueError(f"at most {limit:,} documents are returned, got {most:,} in {self.k:,} groups")
        return self


class Similar(HowToSearch):
    """Find similar documents."""

    id: str


class Suggest(OfIndex):
    """Suggest completions and corrections."""

    text: Text
    limit: int = Field(10, ge=1, le=100, description="Maximum number of words, and of titles.")
    nearest: int = Field(3, ge=1, le=100, description="Maximum number of corrections for each word.")


class GetMany(OfIndex):
    """Get documents by id."""

    ids: Annotated[list[str], FailFast()] = Field(max_length=1000)


class ListDocuments(OfIndex):
    """List documents in the order in which they were added."""

    after: str | None = Field(None, description="The last id of the previous page; by default, start at the beginning.")
    most: int = Field(100, ge=1, le=1000, description="Maximum number of documents.")
    where: Where | None = Field(None, description="List only documents that match this filter.")


class Count(OfIndex):
    """Count documents that match a filter."""

    where: Where | None = None


class Duplicates(OfIndex):
    """Find near-duplicates."""

    threshold: float = Field(0.9, gt=0, le=1, description="Minimum cosine of two documents' vectors.")
    where: Where | None = Field(None, description="Compare only documents that match this filter.")


class OneQuery(OfIndex):
    """A text or a vector."""

    vector: QueryVector | None = Field(None, description="{token: weight}, instead of a text.")
    query: Annotated[Text | None, AfterValidator(either)] = Field(None, validate_default=True, description="A text.")


class Search(OneQuery, HowToSearch):
    """Search with a text or a vector."""

    dense: DenseVector | None = Field(None, description="The query's dense vector, for modes hybrid and dense.")

    explain: Annotated[bool, AfterValidator(k_explained)] = Field(
        False, description="Explain each hit's score, term by term."
    )
    origins: bool = Field(True, description="With explain: find the words that expansions come from, which is slower.")
    plan: bool = Field(False, description="Report what the search touched and skipped.")


class SearchBatch(HowToSearch):
    """Search with many texts or vectors."""

    queries: Annotated[list[Query], BeforeValidator(k_of_all)]
    dense: list[DenseVector] | None = Field(None, description="A dense vector for each query.")


class Explain(OneQuery):
    """Explain a document's score for a query."""

    id: str = Field(description="Id of a document or passage. If a document is cut, its best passage is explained.")
    origins: bool = Field(True, description="Find the words that expansions come from.")
    settings: SearchSettings = Field(SearchSettings(), description="For the modes hybrid and dense.")
    where: Where | None = Field(None, description="The filter of a hybrid search.")
    dense: DenseVector | None = Field(None, description="The query's dense vector, for modes hybrid and dense.")


class Encode(OfIndex):
    """Encode a text as a query."""

    text: Text


class NewDocument(Asked):
    """A document: a text for the index's encoder, or a vector."""

    id: str = Field(min_length=1)
    text: str | None = None
    title: str = ""
    metadata: dict[str, Any] | None = Field(None, description="Columns to filter by.")
    parent: str | None = Field(None, description="For a passage, the id of its document.")
    vector: Vector | None = None


class Add(OfIndex):
    """Add documents: all of them or none."""

    documents: Annotated[list[NewDocument], FailFast()] = Field(min_length=1)
    fingerprint: Fingerprint | None = Field(
        None, description="The encoder that made the vectors; if it isn't the index's encoder, they are refused."
    )
    update: bool = Field(False, description="Replace documents with the same ids instead of refusing them.")
    skip_bad: bool = Field(False, description="Skip bad documents and list them.")
    commit: bool = Field(
        True, description="Commit now; otherwise the next commit, by anyone, makes the changes visible."
    )


class Delete(OfIndex):
    """Delete documents, by ids or metadata or both."""

    ids: Annotated[list[str], FailFast()] = []
    where: Where | None = None
    commit: bool = Field(
        True, description="Commit now; otherwise the next commit, by anyone, makes the changes visible."
    )


class Commit(OfIndex):
    """Make changes visible."""

    merge: bool = Field(True, description="After the commit, merge segments in the background as needed.")


class Merge(OfIndex):
    """Commit, then merge segments."""

    everything: bool = Field(True, description="Merge all segments into one.")
