"""Compare published figures with lsr's, on collections that are available in full.

    python benchmarks/reproduced.py --data FOLDER

FOLDER holds `scifact` in BEIR layout, and `nfcorpus-splade-v3` with SPLADE-v3 vectors.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine import keep

from lsr import Index
from lsr.console import table
from lsr.encode.base import Encoder
from lsr.encode.bm25 import BM25Encoder
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.evaluate import evaluate_run, search_run
from lsr.index.search.query_file import read_queries
from lsr.io.open_vectors import read_vectors

# castorini/anserini, docs/regressions-beir-v1.0.0-scifact-flat.md: BM25, k1 0.9, b 0.4, title and text in one field.
ANSERINI = {"nDCG@10": 0.6789, "R@100": 0.9253, "R@1000": 0.9767}
# SPLADE-v3 (arXiv 2403.06789), table of BEIR: all 323 queries, of which 161 have published vectors.
SPLADE_V3 = {"nDCG@10": 0.357}
WITHIN = 0.002


def lucene(dataset: Dataset) -> BM25Encoder:
    """Return Anserini's BM25: the pivot is the mean length, which Lucene doesn't round."""
    encoder = BM25Encoder(language="lucene", pivot="mean")
    encoder.fit(document.content for document in dataset.corpus())
    return encoder


def measured(dataset: Dataset, source: Any, encoder: Encoder | None, measures: str) -> dict[str, float]:
    """Return measures of exact search with float32 weights."""
    with tempfile.TemporaryDirectory() as work:
        index = Index.build(Path(work) / "idx", source, encoder=encoder, impacts="float32", store_text=False)
        queries = read_queries(dataset.query_source, index).only(dataset.qrels)
        run = search_run(index, dataset, queries.ids, queries.encoded(index), 1000)
        return evaluate_run(run, dataset, measures).measures


def rows(what: str, published: dict[str, float], found: dict[str, float], why: str = "") -> list[dict[str, Any]]:
    """Return a row for each published figure."""
    return [
        {
            "what": what,
            "measure": measure,
            "published": value,
            "here": found[measure],
            "reproduced": abs(found[measure] - value) <= WITHIN and not why,
            "why": why,
        }
        for measure, value in published.items()
    ]


def main() -> None:
    """Measure, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    scifact = open_dataset(str(data / "scifact"))
    found = rows(
        "Anserini's BM25, scifact", ANSERINI, measured(scifact, scifact.corpus(), lucene(scifact), " ".join(ANSERINI))
    )
    folder = data / "nfcorpus-splade-v3"
    documents, queries = (str(folder / f"{part}.splade-v3.jsonl.gz") for part in ("corpus", "queries"))
    nfcorpus = open_dataset("nfcorpus", documents=documents, queries=queries, qrels=str(folder / "qrels" / "test.tsv"))
    why = f"{len(nfcorpus.qrels)} of the 323 queries have published vectors"
    found += rows(
        "SPLADE-v3, nfcorpus", SPLADE_V3, measured(nfcorpus, read_vectors(Path(documents)), None, "nDCG@10"), why
    )
    lines = [
        (
            row["what"], row["measure"], f"{row['published']:.4f}", f"{row['here']:.4f}",
            "yes" if row["reproduced"] else f"no: {row['why'] or 'it differs'}",
        )
        for row in found
    ]  # fmt: skip
    print(table(lines, ("figure", "measure", "published", "here", "reproduced"), "<<>><"))
    keep("reproduced", {"within": WITHIN, "rows": found})


if __name__ == "__main__":
    main()
