"""Measure how well algorithm="auto" chooses between scanning all postings and skipping blocks, by collection and k.

    python PEERS/make_data.py --out FOLDER --n-docs 1000000
    python benchmarks/vectors.py --data COLLECTIONS --out REAL --encoder ENCODER
    NUMBA_NUM_THREADS=1 python benchmarks/planner.py --data FOLDER REAL [--queries 100]

Each collection is indexed in random order, as one segment and as ten segments of typical sizes. Queries run one at a
time on one thread; the algorithms take turns. "Regret" is the mean time of "auto" divided by the mean time of the
faster of "exhaustive" and "blocks". "Known" is block search that is given the k-th best score beforehand; finding a
threshold sooner can't make block search faster than this.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from living import SEGMENTS, load, vectors_of
from machine import conditions, keep

from lsr import Index, SparseMatrix
from lsr.console import table
from lsr.eval.latency import Latency, time_together
from lsr.index.search.settings import SearchSettings

KS = (10, 30, 100, 300, 1000)
WAYS = ("exhaustive", "blocks", "auto")
KNOWN = "known"
SHAPES = ("1 segment", "10 segments, as commits leave them")


def matrix_of(folder: Path, name: str) -> SparseMatrix:
    """Read the 8-bit vectors of documents or queries that the first two commands have written."""
    indptr, terms, weights = (load(folder, f"{name}.{column}") for column in ("indptr", "indices", "u8"))
    n_terms = int(max(load(folder, "docs.indices").max(), load(folder, "queries.indices").max())) + 1
    return SparseMatrix(
        np.asarray(indptr), terms.astype(np.int64), weights.astype(np.float32), (len(indptr) - 1, n_terms)
    )


def build(folder: Path, matrix: SparseMatrix, shares: tuple[int, ...]) -> Index:
    """Build an index with segments of the given relative sizes."""
    ends = (np.cumsum([0, *shares]) / sum(shares) * len(matrix)).astype(int).tolist()
    numbers = np.arange(len(matrix))
    index = Index.build(folder, vectors_of(matrix[: ends[1]], numbers))
    for first, end in pairwise(ends[1:]):
        index.add(vectors_of(matrix[first:end], numbers, first))
        index.commit(merge=False)
    return index


def compare(index: Index, queries: SparseMatrix, k: int) -> dict[str, Any]:
    """Measure latencies of all algorithms, whose results must be equal."""
    searcher, rows = index.searcher, [queries.row(i) for i in range(len(queries))]
    rows = [(terms.astype(np.uint32), weights) for terms, weights in rows]
    ways = [SearchSettings(algorithm=name) for name in WAYS]  # type: ignore[arg-type]
    blocks, floors = ways[WAYS.index("blocks")], []
    for terms, weights in rows:
        docs, scores = searcher.search(terms, weights, k, ways[0])
        floors.append(float(scores[-1]) if len(scores) == k else 0.0)
        others = [searcher.search(terms, weights, k, way)[0] for way in ways[1:]]
        others.append(searcher.search(terms, weights, k, blocks, threshold=floors[-1])[0])
        if any(other.tolist() != docs.tolist() for other in others):
            raise SystemExit(f"k = {k}: the algorithms give different results")
    calls = [lambda i, way=way: searcher.search(rows[i][0], rows[i][1], k, way) for way in ways]
    calls.append(lambda i: searcher.search(rows[i][0], rows[i][1], k, blocks, threshold=floors[i]))
    times = time_together(calls, len(rows))
    means = dict(zip((*WAYS, KNOWN), times.mean(axis=1).tolist(), strict=True))
    plans = [
        searcher.plan(terms, weights, k, blocks, threshold=floor)
        for (terms, weights), floor in zip(rows, floors, strict=True)
    ]
    return {
        "k": k,
        "ms": {name: Latency.of(row.tolist()).to_json() for name, row in zip((*WAYS, KNOWN), times, strict=True)},
        "postings_scored": round(sum(plan.postings_scored for plan in plans) / sum(plan.postings for plan in plans), 3),
        "regret": round(means["auto"] / min(means["exhaustive"], means["blocks"]), 3),
        "beside_scan": round(means["auto"] / means["exhaustive"], 3),
    }


def main() -> None:
    """Build, compare, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--queries", type=int, default=100)
    args = parser.parse_args()
    found = []
    for folder in args.data:
        matrix, queries = matrix_of(folder, "docs"), matrix_of(folder, "queries")[: args.queries]
        matrix = matrix[np.random.default_rng(0).permutation(len(matrix))]
        for shape in SHAPES:
            with tempfile.TemporaryDirectory() as work:
                index = build(Path(work) / "index", matrix, SEGMENTS[shape])
                rows = [compare(index, queries, k) for k in KS]
            found += [{"collection": folder.name, "documents": len(matrix), "index": shape, **row} for row in rows]
    for key, value in conditions().items():
        print(f"{key}: {value}")
    lines = []
    for row in found:
        times = (f"{row['ms'][name]['p50']:.3f} ({row['ms'][name]['mean']:.3f})" for name in (*WAYS, KNOWN))
        what = (row["collection"], f"{row['documents']:,}", row["index"], str(row["k"]))
        ratios = (row["postings_scored"], row["regret"], row["beside_scan"])
        lines.append((*what, *times, *(f"{ratio:.2f}" for ratio in ratios)))
    header = ("collection", "documents", "index", "k", *(f"{name}, p50 (mean), ms" for name in (*WAYS, KNOWN)))
    print("\n" + table(lines, (*header, "known: postings scored", "regret", "auto / scan"), "<><>>>>>>>>"))
    keep("planner", {"queries": args.queries, "rows": found})


if __name__ == "__main__":
    main()
