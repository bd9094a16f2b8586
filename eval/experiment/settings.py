"""What an experiment is made of, as YAML has it: `lsr.config.read_config` reads it, with every wrong key named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from lsr.eval.datasets import DatasetSettings
from lsr.eval.latency import ROUNDS
from lsr.eval.measures import DEFAULT_MEASURES
from lsr.index.hybrid.fusion import RRF_K, Normalization
from lsr.index.search.settings import Mode, SearchSettings
from lsr.index.segment.clusters import SUMMARY_MASS
from lsr.index.segment.postings import ImpactType
from lsr.index.segment.postings_writer import Order


def file_name(name: str) -> str:
    """A name of a dataset or system as one of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


@dataclass(frozen=True)
class IndexSettings:
    """How vectors are indexed; as for `Index.build`.

    Attributes:
        impacts: "uint8" or "float32".
        order: "auto", "given" or "bisection".
        clusters: Whether there are clusters for approximate search.
        summary_mass: Of their summaries.
        passages: Tokens of a passage; 0 leaves documents whole.
        overlap: Tokens that passages share.
    """

    impacts: ImpactType = "uint8"
    order: Order = "auto"
    clusters: bool = False
    summary_mass: float = SUMMARY_MASS
    passages: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.passages < 0 or not 0 <= self.overlap < max(self.passages, 1):
            raise ValueError(f"passages {self.passages} and overlap {self.overlap} don't go together")


@dataclass(frozen=True)
class SystemSettings:
    """One line of the tables. It has one of encoder, documents, run and fuse.

    In paths {dataset} stands for the dataset's name. A system with {seed} in its encoder, documents, queries or run is
    there once for each seed of the experiment, and a fusion of such systems, too.

    Attributes:
        name: What tables call it.
        encoder: Encodes documents and queries: a name or path as for --encoder.
        lexical: Weight of BM25's score beside the encoder's; 0 for none.
        max_length: Tokens of a text that are read.
        top_k: Keep so many terms of a document.
        max_ratio: Drop weights below this share of a document's largest.
        k1: Of BM25.
        b: Of BM25.
        language: Of BM25.
        stop_words: Of BM25.
        pivot: Of BM25: the length of a document that is neither short nor long.
        documents: Vectors that some engine made, as `lsr encode` reads or writes them; with `queries`.
        queries: Vectors of the queries.
        index: How the vectors are indexed.
        search: How they are searched; without any setting exactly.
        mode: "sparse"; "hybrid" or "dense" also take the dense vectors that the encoder gives of the same pass.
        run: A TREC run that some engine made: only its quality is measured.
        fuse: Names of systems before this one, whose runs become one.
        method: "rrf", or "interpolation" of the scores.
        normalization: Of scores that are interpolated.
        weights: One for each fused system; by default all 1.
        rrf_k: The constant of "rrf".
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
    pivot: float | None = None
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

    def __post_init__(self) -> None:
        given = [name for name in ("encoder", "documents", "run", "fuse") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"the system {self.name!r} needs one of encoder, documents, run and fuse, has {given or 'none'}"
            )
        if bool(self.documents) != bool(self.queries):
            raise ValueError(f"the system {self.name!r}: vectors of documents and of queries come together")
        if self.weights and len(self.weights) != len(self.fuse):
            raise ValueError(
                f"the system {self.name!r} fuses {len(self.fuse)} systems with {len(self.weights)} weights"
            )
        if self.search.algorithm == "clusters" and not self.index.clusters:
            raise ValueError(f"the system {self.name!r} searches clusters: its index needs clusters: true")
        if self.mode != "sparse" and not (self.encoder and self.search.exact):
            raise ValueError(f"the system {self.name!r}: mode {self.mode} takes an encoder and exact search")

    @property
    def encoder_settings(self) -> dict[str, float | str]:
        """Those of the encoder that are given."""
        names = ("lexical", "max_length", "top_k", "max_ratio", "k1", "b", "language", "stop_words", "pivot")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def seeded(self) -> bool:
        """Whether it names a seed itself."""
        return any("{seed}" in (path or "") for path in (self.encoder, self.documents, self.queries, self.run))

    def of_seed(self, seed: int) -> SystemSettings:
        """The same with a seed in place of {seed}."""
        paths = {name: getattr(self, name) for name in ("encoder", "documents", "queries", "run")}
        filled = {name: path and path.replace("{seed}", str(seed)) for name, path in paths.items()}
        return replace(self, name=f"{self.name}, seed {seed}", **filled)

    @property
    def kind(self) -> str:
        """What it is: "index", "run" or "fusion"."""
        return "fusion" if self.fuse else "run" if self.run else "index"


@dataclass(frozen=True)
class LatencySettings:
    """How searches are timed: one query at a time on one thread, after a round that doesn't count.

    Attributes:
        k: How many documents are searched for; also of the recall of approximate systems.
        queries: Of so many queries at most, evenly from all; 0 measures no latency.
        rounds: A query's latency is the median over them; the systems of a dataset take turns.
    """

    k: int = 10
    queries: int = 1000
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        if self.k < 1 or self.queries < 0 or self.rounds < 1:
            raise ValueError(f"k and rounds are at least 1 and queries at least 0: {self}")


@dataclass(frozen=True)
class ExperimentSettings:
    """Everything `lsr experiment` does.

    Attributes:
        systems: What is compared.
        title: Of the report.
        datasets: Collections, by path or name or with more settings.
        suite: A list of collections besides: of `lsr.eval.datasets.SUITES`, or a YAML file.
        measures: As ir-measures names them; the first is the one of headlines.
        depth: Documents searched for, at least as many as the measures look at; what fused runs have to offer.
        seeds: Those that systems were trained with, see `SystemSettings`; tables give mean and spread over them.
        baseline: The system that all others are tested against; by default the first.
        test: "randomization" or "t", paired, two-sided; corrected by Holm over the systems of a dataset. Systems of
            several seeds are tested over queries and seeds, see `lsr.eval.significance.compare_seeds`.
        latency: How searches are timed.
        references: Published systems whose figures stand beside (`lsr.eval.published_scores`).
    """

    systems: tuple[SystemSettings, ...]
    title: str = "Retrieval experiment"
    datasets: tuple[str | DatasetSettings, ...] = ()
    suite: str | None = None
    measures: str = DEFAULT_MEASURES
    depth: int = 100
    seeds: tuple[int, ...] = ()
    baseline: str | None = None
    test: Literal["randomization", "t"] = "randomization"
    latency: LatencySettings = field(default_factory=LatencySettings)
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [system.name for system in self.systems]
        wrong = [f"two systems are called {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1]
        of_file: dict[str, str] = {}
        for name in dict.fromkeys(names):
            other = of_file.setdefault(file_name(name).lower(), name)  # some file systems know no capitals
            if other != name:
                wrong.append(f"the runs of {other!r} and {name!r} would have the same file name, {file_name(name)!r}")
        if not names:
            wrong.append("there is no system")
        if self.baseline is not None and self.baseline not in names:
            wrong.append(f"the baseline {self.baseline!r} is none of the systems {', '.join(names)}")
        for at, system in enumerate(self.systems):
            for fused in system.fuse:
                if fused not in names[:at]:
                    wrong.append(f"the system {system.name!r} fuses {fused!r}, which doesn't stand before it")
        unseeded = [system.name for system in self.systems if system.seeded]
        if unseeded and not self.seeds:
            wrong.append(f"{', '.join(unseeded)}: {{seed}} needs seeds, as in seeds: [1, 2, 3]")
        if self.seeds and not unseeded:
            wrong.append("seeds are named, but no system has {seed} in its encoder, documents, queries or run")
        if len(set(self.seeds)) < len(self.seeds):
            wrong.append("a seed is named twice")
        if self.depth < 1:
            wrong.append(f"depth must be at least 1, got {self.depth}")
        if wrong:
            raise ValueError("; ".join(wrong))
