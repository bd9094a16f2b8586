"""Published figures with their sources, for comparison: nDCG@10 on 13 sets of BEIR, MRR@10 and R@1000 on MS MARCO.

Each figure has a mark of its reliability:

    repo        read in the named public repository: README, documentation, configuration
    paper-text  read in a copy of the paper's text
    derived     computed from figures of the two kinds above
    secondary   quoted by another publication; check the paper before you print it
    unmarked    stated by the sources, not checked separately

nDCG has trec_eval's linear gain; ArguAna and Quora exclude each query's own document; Touché is version 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Reference:
    """A published figure.

    Attributes:
        system: The encoder or engine.
        dataset: The ir-datasets name without collection and split ("scifact"), "msmarco" for MS MARCO's dev queries, or
            "beir" for the mean over `SUITES["beir"]`.
        measure: The ir-measures name.
        value: Between 0 and 1.
        source: Where it was published.
        trust: The mark of reliability, see the top of this file.
        note: A remark.
    """

    system: str
    dataset: str
    measure: str
    value: float
    source: str
    trust: str
    note: str = ""


# System, source, trust: the columns of the table below.
_COLUMNS = (
    ("BM25, flat", "Anserini regressions", "repo"),
    ("BM25, multifield", "Anserini regressions", "repo"),
    ("SPLADE++ EnsembleDistil", "Anserini regressions", "repo"),
    ("SPLADE++ SelfDistil", "SPLADE-v3 paper, table 2", "paper-text"),
    ("SPLADE-v3", "SPLADE-v3 paper, table 2", "paper-text"),
    ("SPLADE-v3-DistilBERT", "SPLADE-v3 paper, table 2", "paper-text"),
    ("SPLADE-v3-Lexical", "SPLADE-v3 paper, table 2", "paper-text"),
    ("SPLADE-v3-Doc", "SPLADE-v3 paper, table 2", "paper-text"),
    ("OpenSearch v1", "OpenSearch blog", "repo"),
    ("OpenSearch v2-distill", "OpenSearch blog", "repo"),
    ("OpenSearch doc-v1", "OpenSearch blog", "repo"),
    ("OpenSearch doc-v2-distill", "OpenSearch blog", "repo"),
    ("OpenSearch doc-v2-mini", "OpenSearch blog", "repo"),
    ("OpenSearch doc-v3-distill", "OpenSearch blog", "repo"),
    ("OpenSearch doc-v3-gte", "OpenSearch blog", "repo"),
    ("SPLADE-v3, Anserini's run", "Anserini regressions", "repo"),
)
# nDCG@10 times 100; the last line is the published mean.
_BEIR = """
trec-covid       59.5 65.6 72.7 72.5 74.8 70.0 63.6 68.1 77.1 77.5 70.7 69.0 70.9 72.4 73.4 73.0
nfcorpus         32.2 32.5 34.7 34.5 35.7 34.8 34.7 33.8 36.0 34.7 35.2 34.3 33.6 34.5 36.0 36.3
nq               30.6 32.9 53.7 53.3 58.6 54.9 56.1 52.1 55.3 56.1 52.1 52.8 51.0 54.4 58.2 58.4
hotpotqa         63.3 60.3 68.7 69.3 69.2 67.8 68.5 66.9 69.7 68.5 67.7 67.5 66.6 69.4 71.6 68.8
fiqa             23.6 23.6 34.7 34.9 37.4 33.9 36.4 33.6 37.6 37.4 34.4 35.7 33.8 35.6 40.7 38.0
arguana          39.7 41.4 52.2 51.8 50.9 48.4 52.7 46.7 50.8 55.1 46.1 49.6 48.0 52.0 52.0 48.5
webis-touche2020 44.2 36.7 24.6 24.2 29.3 30.1 22.7 27.0 27.8 27.8 29.4 28.7 28.5 29.4 38.9 30.9
dbpedia-entity   31.8 31.3 43.7 43.6 45.0 42.6 42.8 36.1 44.7 43.5 41.2 41.8 40.7 42.4 45.5 44.8
scidocs          14.9 15.8 15.9 16.1 15.8 14.8 15.9 15.2 16.4 17.3 15.4 16.6 16.4 16.3 16.7 15.7
fever            65.1 75.3 78.8 79.6 79.6 79.6 78.5 68.9 82.1 84.9 74.3 81.8 81.2 84.5 86.0 80.2
climate-fever    16.5 21.3 23.0 23.7 23.3 22.8 21.8 15.9 26.3 24.9 20.2 22.4 21.6 23.9 31.2 26.3
scifact          67.9 66.5 70.4 71.0 71.0 68.5 71.5 68.8 72.3 72.2 71.6 71.5 69.9 70.8 72.5 71.4
quora            78.9 78.9 83.4 84.9 81.4 81.7 73.4 77.5 85.6 86.3 78.8 84.1 83.7 86.3 87.3 81.4
beir             43.7 44.8 50.5 50.7 51.7 50.0 49.1 47.0 52.4 52.8 49.0 50.4 49.7 51.7 54.6 51.81
"""
# System, source, trust, values times 100 (RR@10 and R@1000 on MS MARCO, nDCG@10 the mean over BEIR), optional note.
_OTHERS = """
BM25, k1 0.9, b 0.4 | Anserini | repo | RR@10 18.4
BM25, tuned | Anserini | repo | RR@10 18.75
BM25, as sentence-transformers quotes it | sentence-transformers documentation | repo | nDCG@10 45.6
DeepImpact | Pyserini | repo | RR@10 32.5
uniCOIL, no expansion | Pyserini | repo | RR@10 31.5
uniCOIL, doc2query-T5 | Pyserini | repo | RR@10 35.1
uniCOIL, TILDE | Pyserini | repo | RR@10 35.0
SLIM | Pyserini | repo | RR@10 35.8
SLIM++ | Pyserini | repo | RR@10 40.3
SPLADE v2 max | naver/splade | repo | RR@10 34.0, nDCG@10 46.4
SPLADE v2 distil | naver/splade | repo | RR@10 36.8, nDCG@10 50.6
SPLADE++ SelfDistil | naver/splade, Anserini, SPLADE-v3 paper | unmarked | RR@10 37.6, R@1000 98.46
SPLADE++ EnsembleDistil | naver/splade, Anserini | repo | RR@10 38.3, R@1000 98.31
SPLADE++ EnsembleDistil, Anserini's run | Anserini | repo | RR@10 38.28
SPLADE++ EnsembleDistil, Anserini's run | Anserini | derived | nDCG@10 50.51
Efficient SPLADE V-large | naver/splade | repo | RR@10 38.8, R@1000 98.0
Efficient SPLADE VI-BT-large | naver/splade | repo | RR@10 38.0, R@1000 97.8
SPLADE-v3 | SPLADE-v3 paper | paper-text | RR@10 40.2
SPLADE-v3, Anserini's run | Anserini | repo | RR@10 39.99
SPLADE-v3-DistilBERT | SPLADE-v3 paper | paper-text | RR@10 38.7
SPLADE-v3-Lexical | SPLADE-v3 paper | paper-text | RR@10 40.0
SPLADE-v3-Doc | SPLADE-v3 paper | paper-text | RR@10 37.8
Li-LSR Big | Li-LSR paper | secondary | RR@10 40.8, nDCG@10 51.0 | approximately
OpenSearch doc-v3-gte | CIKM 2026, static pruning across regimes | paper-text | RR@10 36.2 | 36.2 to 36.3, by others
OpenSearch multilingual-v1 | OpenSearch documentation | repo | nDCG@10 50.0
granite-embedding-30m-sparse | sentence-transformers documentation | repo | nDCG@10 50.8
prithivida Splade_PP_en_v1 | sentence-transformers documentation | repo | RR@10 37.2, nDCG@10 48.7
prithivida Splade_PP_en_v2 | sentence-transformers documentation | repo | RR@10 37.8, nDCG@10 49.4
rasyosef splade-small | splade-index, sentence-transformers documentation | repo | RR@10 35.4, nDCG@10 46.6
rasyosef splade-mini | splade-index, sentence-transformers documentation | repo | RR@10 34.1, nDCG@10 44.5
rasyosef splade-tiny | splade-index, sentence-transformers documentation | repo | RR@10 30.9, nDCG@10 40.6
Echo-Mistral-SPLADE | Echo-Mistral-SPLADE paper | secondary | nDCG@10 55.07
CSPLADE-Bi-8B | CSPLADE paper | paper-text | RR@10 41.3, nDCG@10 55.3
CSPLADE-Bi-1B | CSPLADE paper | paper-text | RR@10 40.4, nDCG@10 49.4
LACONIC-1B | LACONIC | secondary | nDCG@10 58.7
Linkup SPARSEUP | SPARSEUP | secondary | nDCG@10 56.4
ModernBERT-VT | ModernBERT-VT | secondary | nDCG@10 52.4
"""
# Other names of the sets, used by folders or ir-datasets.
_ALIASES = {"touche-2020": "webis-touche2020", "touche2020": "webis-touche2020", "dbpedia": "dbpedia-entity"}
_MEASURES = {"mrr@10": "RR@10", "rr@10": "RR@10", "ndcg@10": "nDCG@10", "r@1000": "R@1000", "recall@1000": "R@1000"}


def reference(dataset: str, measure: str, split: str | None = None) -> list[Reference]:
    """Return the published figures for a dataset, best first; may be empty.

    Args:
        dataset: A folder or a name, such as "data/scifact", "beir/scifact", "irds:beir/scifact/test",
            "msmarco-passage/dev/small"; "beir" for the mean over the 13 sets.
        measure: The ir-measures name; MRR@10 means RR@10.
        split: Split of the judgments, if it isn't part of the name. There are figures only for test splits and for MS
            MARCO's 6,980 dev queries.
    """
    name, wanted = _plain(dataset, split), _MEASURES.get(measure.lower())
    found = [r for r in references() if (r.dataset, r.measure) == (name, wanted)]
    return sorted(found, key=lambda r: -r.value)


def _plain(dataset: str, split: str | None) -> str | None:
    """Return a dataset's name in the tables; None for other splits."""
    folder = Path(dataset).is_dir()
    parts = (Path(dataset).resolve().name if folder else dataset.removeprefix("irds:")).lower().strip("/").split("/")
    if parts == ["msmarco-passage", "dev", "small"]:
        return "msmarco"
    if parts == ["beir", "webis-touche2020"]:
        return None  # ir-datasets' version 1; BEIR's folder of this name has version 2
    if parts[-1] in ("test", "dev", "train") and len(parts) > 1:
        split = parts.pop()
    if parts[-1] == "v2" and len(parts) > 1:
        parts.pop()
    name = _ALIASES.get(parts[-1], parts[-1])
    return name if split in (None, "dev" if name == "msmarco" else "test") else None


@cache
def references() -> tuple[Reference, ...]:
    """All published figures."""
    found = []
    for line in _BEIR.split("\n")[1:-1]:
        dataset, *values = line.split()
        for (system, source, trust), value in zip(_COLUMNS, values, strict=True):
            averaged = dataset == "beir" and source.startswith("Anserini")  # Anserini's pages have no means
            mark = "derived" if averaged else trust
            found.append(Reference(system, dataset, "nDCG@10", _share(value), source, mark))
    for line in _OTHERS.split("\n")[1:-1]:
        system, source, trust, figures, *note = line.split(" | ")
        for figure in figures.split(", "):
            measure, value = figure.split()
            dataset = "beir" if measure == "nDCG@10" else "msmarco"
            found.append(Reference(system, dataset, measure, _share(value), source, trust, *note))
    return tuple(found)


def _share(percent: str) -> float:
    return round(float(percent) / 100, 6)
