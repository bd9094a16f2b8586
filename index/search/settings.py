"""Search settings, the choice of an algorithm for each query, and the record of what a search did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict, get_args

from lsr.index.segment.filters import Filter, Where

Algorithm = Literal["auto", "exhaustive", "blocks", "maxscore", "clusters"]
Mode = Literal["auto", "sparse", "hybrid", "dense"]
# With fewer blocks than this per requested document, a scan is faster, because a block search would score too many of
# the blocks. The first number is for similar documents stored side by side, the second for the order of addition.
_BLOCKS_PER_HIT = 75, 600
_FEW_LIVE = 32  # if at most 1/32 of the blocks hold an allowed document, searching those blocks is faster


@dataclass(frozen=True)
class SearchSettings:
    """How to search. With the defaults, search is exact: every algorithm finds the same documents, scores and order.

    Attributes:
        algorithm: "exhaustive" scans all postings of the query's terms. "blocks" skips blocks of documents whose upper
            bounds are too low. "maxscore" looks up light terms only in documents that heavier terms could lift into
            the top k, window by window. "clusters" searches clusters of documents and is approximate; the index must
            be built with clusters. "auto" chooses "exhaustive" or "blocks" for each query, whichever is faster. Weights
            stored as float32 have no bounds, so every exact algorithm scans them.
        alpha: For "blocks": a block is skipped if alpha times its upper bound is below the k-th best score so far. 1
            is exact; lower values are faster and may miss documents. Found documents have their exact scores.
        beta: Fraction of the query's terms to use, heaviest first; at least one term. 1 uses all. Lower values are
            harmless for the long queries of a SPLADE encoder, but ruin the short queries of inference-free encoders.
        guaranteed: For "blocks" and "clusters": how many blocks with the highest bounds, or clusters with the highest
            summaries, are always scored.
        cut: For "clusters": number of the query's heaviest terms that select clusters. The documents in these clusters
            are scored with all terms.
        heap_factor: For "clusters": a cluster is skipped if its summary score is below heap_factor times the k-th best
            score so far. Lower values find more but are slower; 0 skips only clusters without any of the terms.
        mode: "sparse" searches sparse vectors, "dense" searches the dense vectors of an index built with hybrid=True,
            and "hybrid" searches both (`lsr.index.search.hybrid_search`). The other settings apply to the sparse side;
            dense search is exact and compares all vectors. "auto" means "hybrid" for queries with dense vectors, and
            for texts with a known word in an index built with hybrid=True, unless hits are sorted by a column. In all
            other cases, it means "sparse".
        dense_weight: For "hybrid": weight of the dense score relative to the sparse score. At 1, the best documents of
            a collection of thousands get about equal scores from both sides.
        best_passages: If documents are cut into passages, a document's score is the mean of this many of its best
            passages, or of all its passages if it has fewer.

    Raises:
        ValueError: An unknown algorithm or a value out of range; the message lists every problem.
    """

    algorithm: Algorithm = "auto"
    alpha: float = 1.0
    beta: float = 1.0
    guaranteed: int = 0
    cut: int = 8
    heap_factor: float = 1.0
    best_passages: int = 1
    mode: Mode = "auto"
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
        """Whether the search finds all of the best documents."""
        return self.alpha == 1 and self.beta == 1 and self.algorithm != "clusters"


class RankingOptions(TypedDict, total=False):
    """Search settings as keyword arguments; see `SearchSettings`."""

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
    """Settings and options as keyword arguments; see `lsr.index.search.options.Options`."""

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
    """Settings and a filter as keyword arguments."""

    where: Where | Filter | None


class BatchOptions(FilteredOptions, total=False):
    """Settings, a filter and a number of threads as keyword arguments."""

    threads: int


@dataclass(frozen=True)
class Plan:
    """What a search did.

    Attributes:
        algorithm: The algorithm that ran, never "auto".
        reason: Why the algorithm was chosen.
        terms: Query terms that were used and occur in documents.
        documents: Documents in the index.
        postings: Postings of these terms.
        postings_scored: Postings that were added to scores or looked up. A scanned dense row counts as an eighth of its
            length.
        blocks: Blocks of documents, or clusters.
        blocks_scored: Blocks (or clusters) that were scored.
        windows: Windows of documents.
        windows_scanned: Windows that were scanned as a whole.
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
        """Add up the plans of several shards."""
        found: dict[str, Any] = {"terms": max((plan.terms for plan in plans), default=0)}
        for name in cls.__annotations__.keys() - found.keys():
            values = [getattr(plan, name) for plan in plans]
            found[name] = ", ".join(dict.fromkeys(values)) if name in ("algorithm", "reason") else sum(values)
        return cls(**found)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON-serializable dict."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.algorithm} ({self.reason}): {self.postings_scored:,} of {self.postings:,} postings of "
            f"{self.terms} terms scored, {self.blocks_scored:,} of {self.blocks:,} "
            f"{'clusters' if self.algorithm == 'clusters' else 'blocks'} scored, "
            f"{self.windows_scanned} of {self.windows} windows scanned"
        )


class Experience:
    """Running means of the costs of block search and of a scan, by magnitude of k.

    Block search doesn't pay for collections in which it can skip little. Threads share this object without a lock; a
    lost update only delays learning.
    """

    # The initial ratio of the costs; the weight of the newest observation; the limit to which an observation's ratio is
    # cut; and, while block search doesn't pay, the number of queries after which it is tried again.
    _FIRST, _WEIGHT, _MOST, _AGAIN = 0.9, 1 / 16, 1.5, 32

    def __init__(self) -> None:
        self._costs: dict[int, tuple[float, float]] = {}  # of block search, of a scan
        self._scans: dict[int, int] = {}

    def pays(self, k: int) -> bool:
        """Whether to use block search."""
        size = k.bit_length()
        blocks, scan = self._costs.get(size, (self._FIRST, 1.0))
        if blocks < scan:
            return True
        self._scans[size] = self._scans.get(size, 0) + 1
        return self._scans[size] % self._AGAIN == 0

    def learn(self, k: int, blocks: float, scan: float) -> None:
        """Record the costs of a block search and of a scan for the same query.

        The means of both are kept, not the mean of their ratios, which would weigh short queries as much as long ones.
        """
        size = k.bit_length()
        before = self._costs.get(size, (self._FIRST * scan, scan))
        now = min(blocks, self._MOST * scan), scan
        self._costs[size] = (
            before[0] + self._WEIGHT * (now[0] - before[0]),
            before[1] + self._WEIGHT * (scan - before[1]),
        )


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
    """Choose the algorithm for a query.

    Args:
        settings: The settings of the search.
        k: Number of documents requested.
        n_blocks: Number of blocks in the index.
        experience: The index's cost estimate.
        has_bounds: Whether blocks have upper bounds.
        ordered: Whether similar documents are stored next to each other.
        n_live: Number of blocks with a document that may be found.
        share: Fraction of documents that may be found. With fewer of them, the k-th best score is lower.

    Returns:
        The algorithm and the reason.
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
        return "exhaustive", "earlier block searches could skip too little"
    return "blocks", f"{n_blocks:,} blocks for k = {k}"
