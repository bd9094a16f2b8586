"""Check lsr's measures against pytrec_eval and ir-measures, on a bm25s run of each judged collection.

    pip install bm25s
    python benchmarks/agreement.py --data FOLDER [--sets scifact cranfield]

FOLDER holds collections in BEIR layout. bm25s (Lucene's variant, k1 0.9, b 0.4; title and text joined, English stop
words, Snowball stems) searches each collection. lsr writes the run as a TREC file, reads it again, checks it and
measures it; pytrec_eval and ir-measures measure the same results from memory. The last column is the nDCG@10 published
with the collection. Ties matter: on mtrag-clapnq-pool (published: 0.311), nDCG@10 is 0.31050 in one order of equal
scores and 0.31048 in trec_eval's order.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ir_measures
import pytrec_eval
from machine import conditions, keep

from lsr.console import table
from lsr.eval.checks import check_run
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.evaluate import evaluate_run
from lsr.io.corpus import open_corpus
from lsr.io.runs import Run, as_run, run_lines

# {collection: (judged split, nDCG@10 published with it)}
SETS = {
    "scifact": ("test", 0.676),
    "msmarco-dl19-pool": ("test", 0.443),
    "mtrag-clapnq-pool": ("test", 0.311),
    "climate-fever-evidence": ("test", 0.353),
    "cranfield": ("test", 0.358),
    "cacm": ("test", 0.487),
    "squadshifts": ("dev", 0.578),
    "pubmedqa": ("train", 0.976),
}
DEPTH = 100
# {name in lsr and ir-measures: name in pytrec_eval}
MEASURES = {"nDCG@10": "ndcg_cut_10", "AP@100": "map_cut_100", "R@100": "recall_100", "P@10": "P_10"}


def bm25s_run(dataset: Dataset) -> Run:
    """Return the results of bm25s for the judged queries; equal scores are in trec_eval's order."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def tokenize(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    documents = list(dataset.corpus())
    queries = [query for query in open_corpus(dataset.query_source, queries=True) if query.id in dataset.qrels]
    retriever = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    retriever.index(tokenize([document.content for document in documents]), show_progress=False)
    asked = tokenize([query.text for query in queries])
    found, scores = retriever.retrieve(asked, k=min(DEPTH, len(documents)), show_progress=False)
    results = {}
    for query, docs, values in zip(queries, found, scores, strict=True):
        hits = [(documents[doc].id, float(score)) for doc, score in zip(docs, values, strict=True) if score > 0]
        results[query.id] = sorted(sorted(hits, reverse=True), key=lambda hit: -hit[1])
    return as_run(results)


def agreement(dataset: Dataset, work: Path) -> dict[str, float]:
    """Measure a bm25s run with lsr (from a file) and with the other libraries (from memory).

    Returns:
        The measures, and "difference", the largest difference between lsr and the other libraries on any query or mean.
    """
    run = bm25s_run(dataset)
    path = work / "bm25s.trec"
    path.write_text("".join(f"{line}\n" for q, hits in run.items() for line in run_lines(q, hits.items(), "bm25s")))
    findings = check_run(path, dataset, DEPTH)
    findings.raise_errors()
    assert findings.run is not None
    here = evaluate_run(findings.run, dataset, " ".join(MEASURES))
    evaluator = pytrec_eval.RelevanceEvaluator(dataset.qrels, set(MEASURES.values()))
    theirs = evaluator.evaluate(run)
    differences = [0.0]
    for name, its_name in MEASURES.items():
        for query, value in here.per_query[name].items():
            differences.append(abs(value - theirs[query][its_name] if query in theirs else value))
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    for measure, value in ir_measures.calc_aggregate(measures, dataset.qrels, run).items():
        differences.append(abs(here.measures[str(measure)] - value))
    return {**here.measures, "difference": max(differences)}


def main() -> None:
    """Run all available sets and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), metavar="NAME")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for name in args.sets:
            if not (args.data / name).is_dir():
                continue
            split, published = SETS[name]
            rows.append({"collection": name, **agreement(open_dataset(str(args.data / name), split), Path(work))})
            rows[-1]["published nDCG@10"] = published
    if not rows:
        raise SystemExit(f"{args.data}: none of the collections is here")
    for key, value in conditions().items():
        print(f"{key}: {value}")
    header = ("collection", *MEASURES, "difference", "published nDCG@10")
    lines = [
        [
            row["collection"],
            *(f"{row[name]:.4f}" for name in MEASURES),
            f"{row['difference']:.0e}",
            f"{row['published nDCG@10']:.3f}",
        ]
        for row in rows
    ]
    print("\n" + table(lines, header, "<" + ">" * (len(header) - 1)))
    if args.sets == list(SETS):
        keep("agreement", {"rows": rows})


if __name__ == "__main__":
    main()
