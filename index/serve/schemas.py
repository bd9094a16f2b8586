"""What requests look like: they are checked against it, and /openapi.json is made of it and of `answers`."""

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
OPTIONS = (  # that a request may give
    "offset", "min_score", "group_by", "per_group", "sort", "boost", "facets", "total", "diversity", "depth", "syntax",
    "rerank_unit", "passages",
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
    fields: bool | Columns = Field(
        True,
        description='Which of "title", "text", "metadata", or its columns, are given; true for all, false for none.',
    )
    offset: int = Field(0, ge=0, le=100_000, description="So many of the best documents, or groups, are passed over.")
    min_score: float = Field(0.0, ge=0, description="Documents that score less aren't found.")
    group_by: str | None = Field(
        None,
        description='A column: k groups of documents with the same value are found; "_id" groups passages by document.',
    )
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
    rerank: bool = Field(False, description="Let the server's re-ranker score the best documents anew.")
    rerank_unit: Unit = Field("text", description='What it scores: "text", or each "sentence".')
    depth: int = Field(100, ge=1, description="How many are re-ranked or made diverse.")
    passages: bool = Field(False, description="Find passages, several of one document, too.")
    syntax: Literal["plain", "operators"] = Field(
        "plain", description='"operators" takes "exact phrase", +must and -not out of a text.'
    )

    def options(self, settings: ServeSettings) -> dict[str, Any]:
        """What differs from a plain search, as `Index.search` takes it."""
        given = {
            name: value for name in OPTIONS if (value := getattr(self, name)) != type(self).model_fields[name].default
        }
        if not isinstance(self.fields, bool):
            given["fields"] = self.fields
        return given | ({"rerank": settings.rerank} if self.rerank else {})

    @model_validator(mode="after")
    def _fit(self, info: ValidationInfo) -> Self:
        if self.rerank and info.context.rerank is None:
            raise ValueError("rerank: this server has no re-ranker; lsr serve --rerank MODEL starts one that has")
        options = self.options(info.context)
        Options(**options)
        if options and self.hybrid is not None:
            raise ValueError(f'{next(iter(options))} doesn\'t go with hybrid; it does with the setting "mode"')
        if (self.diversity or self.rerank) and self.depth > info.context.max_k:
            what = "re-ranked" if self.rerank else "made diverse"
            raise ValueError(f"depth: at most {info.context.max_k:,} documents are {what}, got {self.depth:,}")
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
