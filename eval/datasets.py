"""Judged datasets: documents, queries and qrels from a BEIR folder, from ir-datasets, or from separate files.

A suite is several datasets under one name, or a YAML file that lists them:

    datasets:
      - beir/scifact/test
      - {name: nfcorpus/, split: dev}
      - {name: ours, documents: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lsr.config import read_config
from lsr.errors import DataError, DataErrors
from lsr.io.corpus import Corpus, open_corpus
from lsr.io.ir_datasets import load_ir_dataset
from lsr.io.runs import Qrels, Run, open_qrels, qrels_file, read_qrels

# In these datasets, queries are also documents; BEIR's evaluation leaves out each query's own document.
_DROP_OWN = ("arguana", "quora")

# ir-datasets names of the 13 BEIR sets whose mean is usually published for learned sparse encoders. BEIR also has
# private sets, CQADupStack, and "beir/msmarco/dev". MS MARCO is left out because these encoders are trained on it.
_BEIR = (
    "beir/trec-covid",
    "beir/nfcorpus/test",
    "beir/nq",
    "beir/hotpotqa/test",
    "beir/fiqa/test",
    "beir/arguana",
    "beir/webis-touche2020/v2",
    "beir/dbpedia-entity/test",
    "beir/scidocs",
    "beir/fever/test",
    "beir/climate-fever",
    "beir/scifact/test",
    "beir/quora/test",
)
_NANO = (
    "arguana", "climate-fever", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco", "nfcorpus", "nq", "quora",
    "scidocs", "scifact", "webis-touche2020",
)  # fmt: skip
_CQADUPSTACK = (
    "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix",
    "webmasters", "wordpress",
)  # fmt: skip
_BRIGHT = (
    "biology", "earth-science", "economics", "psychology", "robotics", "stackoverflow", "sustainable-living",
    "leetcode", "pony", "aops", "theoremqa-questions", "theoremqa-theorems",
)  # fmt: skip
_LOTTE = ("writing", "recreation", "science", "technology", "lifestyle")
_MIRACL = (
    "ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh",
)  # fmt: skip
# {suite: ir-datasets names of its collections}. If the current folder has a folder of this name, the folder is used
# instead.
SUITES: dict[str, tuple[str, ...]] = {
    "beir": _BEIR,
    "beir-small": ("beir/scifact/test", "beir/nfcorpus/test", "beir/arguana", "beir/scidocs", "beir/fiqa/test"),
    "cqadupstack": tuple(f"beir/cqadupstack/{name}" for name in _CQADUPSTACK),
    "nano-beir": tuple(f"nano-beir/{name}" for name in _NANO),
    "dl19": ("msmarco-passage/trec-dl-2019/judged",),
    "dl20": ("msmarco-passage/trec-dl-2020/judged",),
    "dl21": ("msmarco-passage-v2/trec-dl-2021/judged",),
    "dl22": ("msmarco-passage-v2/trec-dl-2022/judged",),
    "dl23": ("msmarco-passage-v2/trec-dl-2023/judged",),
    "bright": tuple(f"bright/{name}" for name in _BRIGHT),
    "limit": ("limit", "limit-small"),  # only as folders
    "lotte-search": tuple(f"lotte/{name}/test/search" for name in _LOTTE),
    "lotte-forum": tuple(f"lotte/{name}/test/forum" for name in _LOTTE),
    "miracl": tuple(f"miracl/{language}/dev" for language in _MIRACL),
}
OF_SUITES = frozenset(name for suite in SUITES.values() for name in suite)
_EXCLUDED = -100  # BRIGHT's grade for documents that don't count as results of a query


@dataclass(frozen=True)
class Dataset:
    """A collection with judgments.

    Attributes:
        name: Path or ir-datasets name, or a name chosen by the user.
        split: Split of the judgments.
        source: The documents, for `open_corpus`; "" if there are only judgments.
        qrels: The judgments.
        queries: The queries, for `open_corpus` and `read_queries`; None for the queries of `source`.
        qrels_path: The file of the judgments, if there is one.
        drop_own: Leave out a query's own document from its results before measuring.
    """

    name: str
    split: str
    source: str
    qrels: Qrels
    queries: str | None = None
    qrels_path: Path | None = None
    drop_own: bool = False

    def drops(self, query: str, document: str) -> bool:
        """Whether a document is left out of a query's results before they are measured."""
        if self.drop_own and query == document:
            return True
        return self.qrels.get(query, {}).get(document) == _EXCLUDED

    @cached_property
    def most_dropped(self) -> int:
        """Largest number of documents that are left out of a query's results."""
        graded = max((sum(g == _EXCLUDED for g in judged.values()) for judged in self.qrels.values()), default=0)
        return graded + self.drop_own

    def kept(self, run: Run) -> Run:
        """Return a run without the documents that are left out."""
        if not self.most_dropped:
            return run
        return {query: {d: s for d, s in hits.items() if not self.drops(query, d)} for query, hits in run.items()}

    @property
    def query_source(self) -> str:
        """The source of the queries.

        Raises:
            DataError: There are only judgments.
        """
        source = self.source if self.queries is None else self.queries
        if not source:
            raise DataError("it has only judgments; give the queries, too", self.name)
        return source

    def corpus(self) -> Corpus:
        """The documents.

        Raises:
            DataError: There are only judgments.
        """
        if not self.source:
            raise DataError("it has only judgments; give the documents, too", self.name)
        return open_corpus(self.source)


def open_dataset(
    name: str,
    split: str = "test",
    *,
    documents: str | None = None,
    queries: str | None = None,
    qrels: str | None = None,
    drop_own: bool | None = None,
) -> Dataset:
    """Open a dataset: a folder, an ir-datasets name, or files. Judgments alone are enough to measure runs.

    Args:
        name: A BEIR folder, an ir-datasets name with or without the prefix "irds:", or a file of judgments, in a format
            of `qrels`; any name if all parts are given.
        split: For a folder, the name of the file in qrels/. If an ir-datasets name has no judgments, the split is
            appended to the name ("/test").
        documents: File, folder or name of other documents, which replace the dataset's documents.
        queries: File, folder or name of other queries.
        qrels: A file that replaces the dataset's judgments: BEIR's TSV, TREC's four columns, or Parquet.
        drop_own: Whether each query's own document is left out; by default only for datasets named ArguAna or Quora.

    Raises:
        DataError: The dataset, split, part or judgments don't exist.
    """
    problems = DataErrors()
    source, judgments, path = name, Qrels(), None
    if qrels is None and Path(name).is_file():
        qrels, source, queries = name, "", queries or ""
    with problems:
        if qrels is None:
            judgments, source = open_qrels(name, split)
            path = qrels_file(Path(name), split) if Path(name).is_dir() else None
        else:
            path = Path(qrels)
            judgments = read_qrels(path)
            if not judgments:
                raise DataError("it has no judgments", qrels)
    for part in sorted({documents or name, queries or name}):
        if not Path(part).exists() and (part != name or qrels is not None):
            with problems:
                load_ir_dataset(part)
    problems.settle()
    if documents is not None:
        queries, source = queries or source, documents
    drop = _drops_own(name) if drop_own is None else drop_own
    return Dataset(name, split, source, judgments, queries, path, drop)


def _drops_own(name: str) -> bool:
    path = Path(name)
    if name in OF_SUITES:
        parts = name.split("/")
    elif path.is_file():  # a file of judgments, possibly in a BEIR folder
        folder = path.resolve().parent
        parts = [path.stem, folder.parent.name if folder.name == "qrels" else ""]
    else:
        parts = [path.resolve().name] if path.is_dir() else name.removeprefix("irds:").split("/")
    return any(part.lower() in _DROP_OWN for part in parts)


@dataclass(frozen=True)
class DatasetSettings:
    """A dataset in a YAML file; keys are the arguments of `open_dataset`."""

    name: str
    split: str = "test"
    documents: str | None = None
    queries: str | None = None
    qrels: str | None = None
    drop_own: bool | None = None

    def open(self) -> Dataset:
        """Open the dataset; see `open_dataset`."""
        return open_dataset(**vars(self))


@dataclass(frozen=True)
class SuiteSettings:
    """A suite's YAML file: names of datasets, or sections with the keys of `DatasetSettings`."""

    datasets: tuple[str | DatasetSettings, ...]

    def __post_init__(self) -> None:
        if not self.datasets:
            raise ValueError("datasets is empty")


def suite_entries(name: str) -> tuple[str | DatasetSettings, ...]:
    """Return the datasets of a suite without opening them.

    Args:
        name: One of `SUITES`, or a YAML file.

    Raises:
        DataError: The suite doesn't exist, or its file has wrong keys.
    """
    if name in SUITES:
        return SUITES[name]
    if Path(name).is_file():
        return read_config(name, SuiteSettings).datasets
    mteb = "; MTEB's harness runs its tasks: lsr.index.integrations.mteb" if name.lower().startswith("mteb") else ""
    raise DataError(f"no such file, and no such suite; there are: {', '.join(SUITES)}{mteb}", name)


def open_datasets(entries: Iterable[str | DatasetSettings]) -> list[Dataset]:
    """Open several datasets.

    Raises:
        DataError: Some datasets can't be opened; lists all of them.
    """
    opened, problems = [], DataErrors()
    for entry in entries:
        with problems:
            opened.append(open_dataset(entry) if isinstance(entry, str) else entry.open())
    problems.settle(what="datasets that can't be opened")
    return opened
