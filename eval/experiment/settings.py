"""Settings of an experiment, read from YAML by `lsr.config.read_config`, which names every wrong key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from lsr.config import Settings, within
from lsr.eval.datasets import DatasetSettings
from lsr.eval.latency import ROUNDS
from lsr.eval.measures import DEFAULT_MEASURES
from lsr.index.hybrid.fusion import RRF_K, Normalization
from lsr.index.search.feedback import DENSE_WEIGHT, DOCUMENTS, TERMS, WEIGHT
from lsr.index.search.settings import Mode, SearchSettings
from lsr.index.segment.clusters import SUMMARY_MASS
from lsr.index.segment.postings import ImpactType
from lsr.index.segment.postings_writer import Order


def file_name(name: str) -> str:
    """Convert the name of a dataset or system to a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


@dataclass(frozen=True)
class IndexSettings(Settings):
    """How vectors are indexed; see `Index.build`.

    Attributes:
        impacts: "uint8" or "float32".
        order: "auto", "given" or "bisection".
        clusters: Whether there are clusters for approximate search.
        summary_mass: Share of the impacts' sum that the clusters' summaries keep.
        passages: Tokens per passage; 0 for whole documents.
        overlap: Tokens by which passages overlap.
    """

    impacts: ImpactType = "uint8"
    order: Order = "auto"
    clusters: bool = False
    summary_mass: float = SUMMARY_MASS
    passages: int = field(default=0, metadata=within(at_least=0))
    overlap: int = field(default=0, metadata=within(at_least=0))

    def conflicts(self) -> list[str]:
        """Check that passages are longer than their overlap."""
        if self.overlap < max(self.passages, 1):
            return []
        return [f"overlap {self.overlap} must be below passages {self.passages}"]


@dataclass(frozen=True)
class FeedbackSettings(Settings):
    """Pseudo-relevance feedback; see `expand_query` and `expand_dense`.

    Attributes:
        documents: Number of documents that give feedback.
        terms: Number of terms kept from the documents' mean vector.
        weight: Weight of the documents relative to the query.
        dense_weight: Weight of the documents relative to the query, for dense vectors.
        source: Name of an earlier system whose first documents give feedback; by default, the system itself. If the
            source is a fusion, interpolation comes before feedback. A fusion of systems with feedback interpolates
            after feedback.
    """

    documents: int = field(default=DOCUMENTS, metadata=within(at_least=1))
    terms: int = field(default=TERMS, metadata=within(at_least=1))
    weight: float = field(default=WEIGHT, metadata=within(at_least=0))
    dense_weight: float = field(default=DENSE_WEIGHT, metadata=within(at_least=0))
    source: str | None = None


@dataclass(frozen=True)
class DensifySettings(Settings):
    """Search of densified vectors instead of an index; see `lsr.densified` and `lsr.dense_export`.

    Attributes:
        width: Number of slices, or of dimensions of the projection.
        by: "coloured", "random" or "striped" slices, or "projection".
        threshold: With slices, a first pass leaves out query terms of at most this weight; 0 is exact.
        dense_weight: Weight of the encoder's dense vectors; 0 to leave them out.
    """

    width: int = field(default=768, metadata=within(at_least=1))
    by: Literal["coloured", "random", "striped", "projection"] = "coloured"
    threshold: float = field(default=0.0, metadata=within(at_least=0))
    dense_weight: float = field(default=0.0, metadata=within(at_least=0))


@dataclass(frozen=True)
class ComparisonSettings(Settings):
    """Re-rank an earlier system's first documents by pairwise comparisons; see `lsr.pairwise`.

    The probability that one document ranks before another is the logistic function of 10 times the difference of their
    scores in a second system. For each query, scores are scaled to 0 to 1; a document that this system didn't find
    scores 0.

    Attributes:
        of: Name of the system that is re-ranked.
        judge: Name of the system whose scores decide.
        depth: Number of documents that are compared.
        sampler: Which pairs are compared.
        share: Share of all pairs that are compared.
        aggregator: How comparisons become scores.
    """

    of: str
    judge: str
    depth: int = field(default=50, metadata=within(at_least=1))
    sampler: Literal["random", "windows", "skipping windows", "near", "groups"] = "skipping windows"
    share: float = field(default=1 / 3, metadata=within(above=0, at_most=1))
    aggregator: Literal["additive", "bradley-terry", "greedy", "pagerank", "kwiksort"] = "greedy"


@dataclass(frozen=True)
class VerifySettings(Settings):
    """A coarse index of truncated vectors, whose candidates are verified with exact vectors; see `lsr.index.coarse`.

    Attributes:
        terms: Number of terms per document in the coarse index.
        candidates: Number of documents that are verified.
        dense: Whether candidates are verified with the encoder's dense vectors instead of the sparse vectors.
    """

    terms: int = field(default=32, metadata=within(at_least=1))
    candidates: int = field(default=100, metadata=within(at_least=1))
    dense: bool = False


@dataclass(frozen=True)
class VisitSettings(Settings):
    """Interpolate sparse results with a part of the encoder's dense vectors; see `lsr.index.hybrid.visits`.

    Attributes:
        share: Share of the dense vectors that are read.
        policy: Which clusters are read: "overlap", those of the sparse results; "centroid", those with the nearest
            centroids.
        results: Number of sparse results whose vectors are always read.
    """

    share: float = field(default=0.1, metadata=within(above=0, at_most=1))
    policy: Literal["overlap", "centroid"] = "centroid"
    results: int = field(default=50, metadata=within(at_least=0))


@dataclass(frozen=True)
class LateSettings(Settings):
    """Re-rank an earlier system's first documents by late interaction; see `lsr.encode.late`.

    Attributes:
        of: Name of the system that is re-ranked.
        encoder: An encoder of token vectors: "late:" and a model.
        top_k: Terms kept per token.
        depth: Number of documents that are scored.
    """

    of: str
    encoder: str = "late:lsr-mini"
    top_k: int = field(default=8, metadata=within(at_least=1))
    depth: int = field(default=100, metadata=within(at_least=1))


@dataclass(frozen=True)
class ImitateSettings(Settings):
    """Search of dense vectors that imitate the system's encoder; see `lsr.lexical_head`.

    Attributes:
        model: The model whose token states are the input of the head. The head is trained on the documents.
        width: Dimensions of the vectors, at most the dimensions of the model's states.
        own: Weight of the model's dense vector, which is concatenated with the head's vector; 0 for the head's vector
            alone.
    """

    model: str = "lsr-mini"
    width: int = field(default=384, metadata=within(at_least=1))
    own: float = field(default=0.0, metadata=within(at_least=0))


@dataclass(frozen=True)
class SystemSettings(Settings):
    """A system, which is a row of the tables. It has exactly one of encoder, documents, run, fuse, compare and late.

    In paths, {dataset} stands for the dataset's name. A system with {seed} in its encoder, documents, queries or run
    becomes one system for each seed of the experiment. A fusion of such systems also becomes one system per seed.

    Attributes:
        name: Name in tables.
        encoder: Encoder of documents and queries: a name or path, as for --encoder.
        lexical: Weight of BM25's score, which is added to the encoder's score; 0 for none.
        max_length: Number of tokens of a text that are read.
        top_k: Number of terms of a document to keep.
        max_ratio: Drop weights below this share of a document's largest weight.
        k1: BM25's k1.
        b: BM25's b.
        language: BM25's language.
        stop_words: BM25's stop words.
        pivot: BM25's pivot, the document length that is neither rewarded nor penalized; "mean" for each collection's
            mean length.
        latents: Number of latents, for encoders of sparse codes.
        entities: A file of entities that become additional terms; see `EntityEncoder`.
        documents: Document vectors from any engine, in a format of `lsr encode`; needs `queries`.
        queries: Vectors of the queries.
        index: How the vectors are indexed.
        search: How the vectors are searched; exact by default.
        mode: "sparse"; "hybrid" adds the dense vectors that the encoder computes in the same pass; "dense" ranks by
            them alone.
        run: A TREC run from any engine; only quality is measured.
        fuse: Names of earlier systems whose runs are fused. The latency includes the fusion and the systems' searches,
            which are as deep as the runs; the size is the sum of the systems' indexes.
        method: "rrf", or "interpolation" of the scores.
        normalization: Normalization of interpolated scores.
        weights: One weight for each fused system; by default all 1.
        rrf_k: Smoothing constant of "rrf".
        feedback: Pseudo-relevance feedback; only the second search is timed.
        densify: Search densified vectors; no latency is measured.
        compare: Re-rank another system by comparisons.
        verify: Search a coarse index and verify its candidates; no latency is measured.
        visit: Search clusters of dense vectors; no latency is measured.
        late: Re-rank another system by late interaction.
        imitate: Search dense vectors that imitate the encoder; no latency is measured.
    """

    name: str
    encoder: str | None = None
    lexical: float | None = None
    max_length: int | None = None
    top_k: int | None = None
    max_ratio: float | None = None
    k1: float | None = None
    b: float | None = None
    language: str | None = None
    stop_words: str | None = None
    pivot: float | Literal["mean"] | None = None
    latents: int | None = None
    entities: str | None = None
    documents: str | None = None
    queries: str | None = None
    index: IndexSettings = field(default_factory=IndexSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    mode: Mode = "sparse"
    run: str | None = None
    fuse: tuple[str, ...] = ()
    method: Literal["rrf", "interpolation"] = "rrf"
    normalization: Normalization = "min-max"
    weights: tuple[float, ...] = ()
    rrf_k: int = RRF_K
    feedback: FeedbackSettings | None = None
    densify: DensifySettings | None = None
    compare: ComparisonSettings | None = None
    verify: VerifySettings | None = None
    visit: VisitSettings | None = None
    late: LateSettings | None = None
    imitate: ImitateSettings | None = None

    def conflicts(self) -> list[str]:
        """Check that there is exactly one kind of system, and that the settings fit it."""
        found = []
        given = [name for name in ("encoder", "documents", "run", "fuse", "compare", "late") if getattr(self, name)]
        if len(given) != 1:
            found.append(
                f"the system {self.name!r} needs one of encoder, documents, run, fuse, compare and late, has "
                f"{given or 'none'}"
            )
        others = [name for name in ("densify", "verify", "visit", "imitate") if getattr(self, name)]
        if self.kind != "index" and (self.feedback or others):
            found.append(
                f"the system {self.name!r}: feedback, densify, verify, visit and imitate need an encoder or vectors"
            )
        if others and (not self.search.exact or self.feedback or len(others) > 1):
            found.append(
                f"the system {self.name!r}: densify, verify, visit and imitate can't be combined with feedback, "
                "algorithm or each other"
            )
        if self.visit and self.mode != "hybrid":
            found.append(f"the system {self.name!r}: visit needs mode: hybrid")
        if self.imitate and (self.mode != "sparse" or not self.encoder):
            found.append(f"the system {self.name!r}: imitate needs an encoder and mode: sparse")
        if self.verify and (self.mode != "sparse") != self.verify.dense:
            found.append(f"the system {self.name!r}: verify.dense needs mode: hybrid; in this mode, verify needs dense")
        if self.densify and self.densify.by == "projection" and self.densify.threshold:
            found.append(f"the system {self.name!r}: densify.threshold is for slices, not for a projection")
        if self.densify and bool(self.densify.dense_weight) != (self.mode == "hybrid"):
            found.append(
                f"the system {self.name!r}: densify.dense_weight needs mode: hybrid; in this mode, densify "
                "needs dense_weight"
            )
        if bool(self.documents) != bool(self.queries):
            found.append(f"the system {self.name!r} needs vectors of both documents and queries")
        if self.weights and len(self.weights) != len(self.fuse):
            found.append(f"the system {self.name!r} fuses {len(self.fuse)} systems with {len(self.weights)} weights")
        if self.search.algorithm == "clusters" and not self.index.clusters:
            found.append(f"the system {self.name!r} searches clusters, so its index needs clusters: true")
        if self.mode != "sparse" and not (self.encoder and self.search.exact):
            found.append(f"the system {self.name!r}: mode {self.mode} needs an encoder and exact search")
        return found

    @property
    def encoder_settings(self) -> dict[str, float | str]:
        """The encoder's settings, without those that weren't given."""
        of_bm25 = ("k1", "b", "language", "stop_words", "pivot")
        names = ("lexical", "max_length", "top_k", "max_ratio", *of_bm25, "latents", "entities")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def seeded(self) -> bool:
        """Whether {seed} is in the system's own settings, not only in those of systems that it fuses."""
        return any("{seed}" in (path or "") for path in (self.encoder, self.documents, self.queries, self.run))

    def of_seed(self, seed: int) -> SystemSettings:
        """Return a copy in which {seed} is replaced by a seed."""
        paths = {name: getattr(self, name) for name in ("encoder", "documents", "queries", "run")}
        filled = {name: path and path.replace("{seed}", str(seed)) for name, path in paths.items()}
        return replace(self, name=f"{self.name}, seed {seed}", **filled)

    @property
    def kind(self) -> str:
        """The kind of system: "index", "run" or "fusion"."""
        return "fusion" if self.fuse or self.compare or self.late else "run" if self.run else "index"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of earlier systems whose runs this system uses."""
        source = self.feedback.source if self.feedback else None
        return (
            *self.fuse,
            *((source,) if source else ()),
            *((self.compare.of, self.compare.judge) if self.compare else ()),
            *((self.late.of,) if self.late else ()),
        )


@dataclass(frozen=True)
class LatencySettings(Settings):
    """How searches are timed: one query at a time on one thread, after a warm-up round.

    Attributes:
        k: Number of documents to search for; also the depth of the recall of approximate systems.
        queries: Largest number of queries, sampled evenly from all queries; 0 measures no latency.
        rounds: Timed rounds, in which the systems of a dataset take turns; a query's latency is the median over the
            rounds.
    """

    k: int = field(default=10, metadata=within(at_least=1))
    queries: int = field(default=1000, metadata=within(at_least=0))
    rounds: int = field(default=ROUNDS, metadata=within(at_least=1))


@dataclass(frozen=True)
class ExperimentSettings(Settings):
    """The settings of `lsr experiment`.

    Attributes:
        systems: The systems to compare.
        title: Title of the report.
        datasets: Collections: paths, names, or sections with more settings.
        suite: More collections: a name in `lsr.eval.datasets.SUITES`, or a YAML file.
        measures: Names of ir-measures; the first is used in headlines.
        depth: Number of documents to search for and to fuse; raised to the depth of the measures.
        seeds: Seeds of trained systems, see `SystemSettings`; tables show mean and standard deviation over them.
        baseline: The system with which the other systems are compared; by default the first.
        test: "randomization" or "t"; paired, two-sided, with Holm's correction for the number of systems. Systems with
            several seeds are tested over queries and seeds, see `lsr.eval.significance.compare_seeds`.
        latency: How searches are timed.
        references: Published systems whose figures are added (`lsr.eval.published_scores`).
    """

    systems: tuple[SystemSettings, ...]
    title: str = "Retrieval experiment"
    datasets: tuple[str | DatasetSettings, ...] = ()
    suite: str | None = None
    measures: str = DEFAULT_MEASURES
    depth: int = field(default=100, metadata=within(at_least=1))
    seeds: tuple[int, ...] = ()
    baseline: str | None = None
    test: Literal["randomization", "t"] = "randomization"
    latency: LatencySettings = field(default_factory=LatencySettings)
    references: tuple[str, ...] = ()

    def conflicts(self) -> list[str]:
        """Find names that clash or refer to no system."""
        names = [system.name for system in self.systems]
        wrong = [f"two systems have the name {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1]
        of_file: dict[str, str] = {}
        for name in dict.fromkeys(names):
            other = of_file.setdefault(file_name(name).lower(), name)  # some file systems ignore case
            if other != name:
                wrong.append(f"the runs of {other!r} and {name!r} would have the same file name, {file_name(name)!r}")
        if not names:
            wrong.append("there is no system")
        if self.baseline is not None and self.baseline not in names:
            wrong.append(f"the baseline {self.baseline!r} is not one of the systems {', '.join(names)}")
        for at, system in enumerate(self.systems):
            for needed in system.needs:
                if needed not in names[:at]:
                    wrong.append(f"the system {system.name!r} needs {needed!r}, which must come before it")
        several: set[str] = set()
        for system in self.systems:
            if system.seeded or several & {*system.fuse}:
                several.add(system.name)
            for needed in sorted(several & ({*system.needs} - {*system.fuse})):
                wrong.append(f"the system {system.name!r} needs one ranking of {needed!r}, which has one for each seed")
        unseeded = [system.name for system in self.systems if system.seeded]
        if unseeded and not self.seeds:
            wrong.append(f"{', '.join(unseeded)}: {{seed}} needs seeds, as in seeds: [1, 2, 3]")
        if self.seeds and not unseeded:
            wrong.append("there are seeds, but no system has {seed} in its encoder, documents, queries or run")
        if len(set(self.seeds)) < len(self.seeds):
            wrong.append("a seed is given twice")
        return wrong
