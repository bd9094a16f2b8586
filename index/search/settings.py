"""How a search is to be made, and how it was: settings, the choice of an algorithm, and a record of what it touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict, get_args

from lsr.index.segment.filters import Filter, Where

Algorithm = Literal["auto", "exhaustive", "blocks", "maxscore", "clusters"]
Mode = Literal["sparse", "hybrid", "dense"]
# With fewer blocks for each wanted document than this, too many of them have to be looked into: a scan is faster. The
# first where similar documents are stored side by side, the second where they lie as they came.
_BLOCKS_PER_HIT = 75, 600
_FEW_LIVE = 32  # where at most one block in so many has a document that may be found, looking into these is faster


@dataclass(frozen=True)
class SearchSettings:
    """How to search. The defaults are exact; every algorithm then gives the same documents, scores and order.

    Attributes:
        algorithm: "exhaustive" scans every posting of the query's terms; "blocks" leaves out blocks of documents
            whose upper bounds fall short; "maxscore" looks light terms up only in documents that heavier ones may lift
            to the top, window by window; "clusters" looks into the clusters of an index that was built with them,
            which is approximate; "auto" takes for each query what should be faster of the first two. Weights stored as
            float32 have no bounds: they are scanned whatever exact algorithm is named here.
        alpha: A block is left out when alpha times its upper bound falls short of the k-th best score so far. 1 is
            exact; lower is faster and may miss documents. What is found has its exact score. Of "blocks".
        beta: The share of the query's terms that is used, the heaviest first; at least one. 1 uses all. Harmless for
            long queries of a SPLADE encoder, ruinous for the few terms of inference-free ones.
        guaranteed: So many blocks of the highest bounds are scored whatever alpha says, or so many clusters of the
            highest sums. Of "blocks" and "clusters".
        cut: Of so many of the query's terms, the heaviest, the summaries of clusters are added up. Documents that are
            looked into are scored with all terms. Of "clusters".
        heap_factor: A cluster is left out when the sum of its summaries falls short of so many times the k-th best
            score so far. Lower finds more and is slower; 0 leaves out only clusters without a term. Of "clusters".
        mode: "sparse" searches the sparse vectors; "dense" the dense ones that an index keeps that was built with
            hybrid=True; "hybrid" both (`lsr.index.search.hybrid_search`), where the other settings are the sparse
            search's. Dense vectors are all compared: that is exact.
        dense_weight: What the dense score counts beside the sparse one; at 1, documents that stand out as much as the
            best usually do in collections of thousands count about as much in both. Of "hybrid".
        best_passages: Where documents are cut into passages, a document's score is the mean of so many of its best
            ones, or of all if it has fewer.

    Raises:
        ValueError: An unknown algorithm or a value out of range; all of them are named.
    """

    algorithm: Algorithm = "auto"
    alpha: float = 1.0
    beta: float = 1.0
    guaranteed: int = 0
    cut: int = 8
    heap_factor: float = 1.0
    best_passages: int = 1
    mode: Mode = "sparse"
    dense_weight: float = 1.0

    def __post_init__(self) -> None:
        wrong = []
        if self.algorithm not in get_args(Algorithm):
            wrong.append(f"algorithm must be one of {', '.join(get_args(Algorithm))}, got {self.algorithm!r}")
        if self.mode not in get_args(Mode):
            wrong.append(f"mode must be one of {', '.join(get_args(Mode))}, got {self.mode!r}")
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not (isinstance(value, int | float) and math.isfinite(value) and 0 < value <= 1):
                wrong.append(f"{name} must be above 0 and at most 1, got {value!r}")
        for name, whole, least in (
            ("guaranteed", self.guaranteed, 0),
            ("cut", self.cut, 1),
            ("best_passages", self.best_passages, 1),
        ):
            if isinstance(whole, bool) or not isinstance(whole, int) or whole < least:
                wrong.append(f"{name} must be a whole number of at least {least}, got {whole!r}")
        for name, value in (("heap_factor", self.heap_factor), ("dense_weight", self.dense_weight)):
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                wrong.append(f"{name} must be at least 0, got {value!r}")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def exact(self) -> bool:
        """Whether nothing can be missed."""
        return self.alpha == 1 and self.beta == 1 and self.algorithm != "clusters"


class RankingOptions(TypedDict, total=False):
    """The settings of a search as keyword arguments; `SearchSettings` tells what they mean."""

    algorithm: Algorithm
    alpha: float
    beta: float
    guaranteed: int
    cut: int
    heap_factor: float
    best_passages: int
    mode: Mode
    dense_weight: float


class SearchOptions(RankingOptions, total=False):
    """Those, and what `lsr.index.search.options.Options` tells of."""

    offset: int
    min_score: float
    group_by: str | None
    per_group: int
    sort: str | Sequence[str]
    boost: Mapping[str, Any]
    facets: str | Sequence[str]
    total: bool
    diversity: float
    syntax: str
    rerank: Any
    rerank_unit: Literal["text", "sentence"]
    depth: int
    passages: bool
    fields: str | Sequence[str] | None


class FilteredOptions(RankingOptions, total=False):
    """Settings and a filter."""

    where: Where | Filter | None


class BatchOptions(FilteredOptions, total=False):
    """Those, and the number of threads."""

    threads: int


@dataclass(frozen=True)
class Plan:
    """What a search did.

    Attributes:
        algorithm: What ran, any but "auto".
        reason: Why.
        terms: Terms of the query that documents have, and that were used.
        documents: Documents of the index.
        postings: Postings of these terms.
        postings_scored: How many of them were added to scores or looked up; of dense rows that were added whole, an
            eighth of the row's length.
        blocks: Blocks of documents, or clusters.
        blocks_scored: How many were looked into one by one.
        windows: Windows of documents.
        windows_scanned: How many were scanned whole.
    """

    algorithm: str
    reason: str
    terms: int
    documents: int
    postings: int
    postings_scored: int
    blocks: int
    blocks_scored: int
    windows: int
    windows_scanned: int

    @classmethod
    def of_shards(cls, plans: Sequence[Plan]) -> Plan:
        """What searches of several shards did together."""
        found: dict[str, Any] = {"terms": max((plan.terms for plan in plans), default=0)}
        for name in cls.__annotations__.keys() - found.keys():
            values = [getattr(plan, name) for plan in plans]
            found[name] = ", ".join(dict.fromkeys(values)) if name in ("algorithm", "reason") else sum(values)
        return cls(**found)

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.algorithm} ({self.reason}): {self.postings_scored:,} of {self.postings:,} postings of "
            f"{self.terms} terms scored, {self.blocks_scored:,} of {self.blocks:,} "
            f"{'clusters' if self.algorithm == 'clusters' else 'blocks'} looked into, "
            f"{self.windows_scanned} of {self.windows} windows scanned"
        )


class Experience:
    """What searching by blocks has cost lately beside a scan, by the size of k: some collections leave little to skip.

    Searching threads share it without a lock; a lost update costs one more look.
    """

    # What it begins with, the weight of the latest search and the most that it counts, and that one in so many tries
    # again where it hasn't paid.
    _FIRST, _WEIGHT, _MOST, _AGAIN = 0.9, 1 / 16, 1.5, 32

    def __init__(self) -> None:
        self._shares: dict[int, float] = {}
        self._scans: dict[int, int] = {}

    def pays(self, k: int) -> bool:
        """Whether to search by blocks."""
        size = k.bit_length()
        if self._shares.get(size, self._FIRST) < 1:
            return True
        self._scans[size] = self._scans.get(size, 0) + 1
        return self._scans[size] % self._AGAIN == 0

    def learn(self, k: int, share: float) -> None:
        """Note what a search by blocks cost, as a share of what a scan would have."""
        size = k.bit_length()
        before = self._shares.get(size, self._FIRST)
        self._shares[size] = before + self._WEIGHT * (min(share, self._MOST) - before)


def choose(
    settings: SearchSettings,
    k: int,
    n_blocks: int,
    experience: Experience,
    *,
    has_bounds: bool,
    ordered: bool,
    n_live: int,
    share: float,
) -> tuple[str, str]:
    """The algorithm for a query, and why.

    Args:
        settings: What was asked for.
        k: How many documents are wanted.
        n_blocks: Blocks of the index.
        experience: Of this index.
        has_bounds: Whether their bounds are known.
        ordered: Whether similar documents are stored side by side.
        n_live: Blocks that have a document that may be found.
        share: Of the documents, those that may be found: the fewer, the lower the score that is to be reached.
    """
    if not has_bounds:
        return "exhaustive", "weights stored as float32 have no bounds"
    if settings.algorithm != "auto":
        return settings.algorithm, "asked for"
    if n_live * _FEW_LIVE <= n_blocks:
        return "blocks", f"{n_live:,} of {n_blocks:,} blocks have a document that may be found"
    if n_blocks * share < _BLOCKS_PER_HIT[0 if ordered else 1] * k:
        some = f" and {share:.2%} of the documents" if share < 1 else ""
        return "exhaustive", f"only {n_blocks:,} blocks for k = {k}{some}"
    if not experience.pays(k):
        return "exhaustive", "lately too little could be skipped"
    return "blocks", f"{n_blocks:,} blocks for k = {k}"
