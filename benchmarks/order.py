"""Measure the effect of storage order and block size: how many blocks a search for the best k documents has to read,
and how many bytes per posting each file takes.

    python PEERS/make_data.py --out FOLDER --n-docs 1000000
    python benchmarks/order.py --data FOLDER [--queries 40]

Compares random order, graph bisection alone, "ours" (clusters, then bisection, as lsr orders large segments), and the
generator's own order by topic and cluster, which real vectors don't have. Counts the blocks whose upper bound reaches
the k-th best score, and also such runs of blocks, which could form superblocks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep
from numpy.typing import NDArray

from lsr import Index, SparseMatrix
from lsr.console import progress, table
from lsr.index.kernels.jit import kernel
from lsr.index.kernels.layout import (
    BEGIN,
    BLOCK,
    DOCS_AT,
    END,
    IMPACTS_AT,
    MAXIMA_AT,
    N_DOCS,
    ROW,
    ROW_UNIT,
    Query,
    find_lists,
    find_terms,
)
from lsr.index.segment import reorder
from lsr.index.segment.quantize import query_integers

RUNS = (1, 4, 8, 16)  # blocks per run


@kernel
def bounds_of(files: Any, query: Any, run: int, row: Any, out: Any) -> int:
    """Write the upper bounds of all runs of `run` blocks to `out`, and return the number of runs."""
    at = 0
    out[:] = 0
    for w in range(len(files.windows)):
        n = (files.windows[w, N_DOCS] + BLOCK - 1) // BLOCK
        for i in range(len(query.weights)):
            row[:] = 0
            if query.lists[i, w, ROW] >= 0:
                begin = files.windows[w, MAXIMA_AT] + np.int64(query.lists[i, w, ROW]) * ROW_UNIT
                for x in range(n):
                    row[x // run] = max(row[x // run], files.maxima[begin + x])
            else:
                for p in range(query.lists[i, w, BEGIN], query.lists[i, w, END]):
                    x = files.docs[files.windows[w, DOCS_AT] + p] // (BLOCK * run)
                    row[x] = max(row[x], files.impacts[files.windows[w, IMPACTS_AT] + p])
            for x in range((n + run - 1) // run):
                out[at + x] += query.weights[i] * row[x]
        at += (n + run - 1) // run
    return at


def left(index: Index, queries: SparseMatrix, ks: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Count all runs of blocks, and the runs that must be scored, as mean and median over the queries."""
    searcher = index.searcher
    (group,), every = searcher._groups, np.empty(0, np.uint8)
    counts: dict[tuple[int, int], list[int]] = {}
    total = {}
    row, out = np.empty(1 << 10, np.int64), np.empty(searcher.n_blocks + 1, np.int64)
    with progress(len(queries), "counting", "queries") as bar:
        for q in range(len(queries)):
            terms, weights = queries.row(q)
            _, scores = searcher.search(terms, weights, max(ks))
            integers, factor = query_integers(weights)
            ranks, peaks = np.empty((1, len(terms)), np.int64), np.empty(len(terms))
            known = find_terms(group._lexicon, terms, ranks, peaks)
            lists = np.empty((len(known), searcher.n_windows, 4), np.int32)
            find_lists(group._lexicon, group.files.windows, ranks, known, lists)
            query = Query(lists, integers[known], integers[known], every, every)
            for run in RUNS:
                total[run] = bounds_of(group.files, query, run, row, out)
                for k in ks:
                    needed = np.rint(scores[min(k, len(scores)) - 1] * factor / group.scale)
                    counts.setdefault((k, run), []).append(int((out[: total[run]] >= needed).sum()))
            bar.update(1)
    return {
        f"k={k}, {run * BLOCK} documents": {
            "runs": total[run],
            "left_mean": float(np.mean(n)),
            "left_median": float(np.median(n)),
        }
        for (k, run), n in counts.items()
    }


def main() -> None:
    """Build in each order, count, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="output of the harness's make_data.py")
    parser.add_argument("--queries", type=int, default=40)
    args = parser.parse_args()

    def load(name: str) -> NDArray[Any]:
        return np.load(args.data / f"{name}.npy")

    n = len(load("docs.indptr")) - 1
    documents = SparseMatrix(load("docs.indptr"), load("docs.indices"), load("docs.u8"), (n, 30_522), check=False)
    at = load("queries.indptr")
    queries = SparseMatrix(at, load("queries.indices"), load("queries.u8"), (len(at) - 1, 30_522))[: args.queries]
    oracles = []
    if (args.data / "doc_topic.npy").is_file():
        oracles = [("oracle", documents[np.lexsort((load("doc_cluster"), load("doc_topic")))], "given")]
    else:  # real vectors, which are ordered by collection
        documents = documents[np.random.default_rng(0).permutation(n)]
    facts: dict[str, Any] = {"documents": n}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, matrix, order, clustered_from in (
            ("random", documents, "given", 0),
            ("bisection alone", documents, "bisection", n + 1),
            ("ours", documents, "bisection", 0),
            *((*oracle, 0) for oracle in oracles),
        ):
            reorder._CLUSTERED_FROM = clustered_from
            start = time.perf_counter()
            index = Index.build(Path(folder) / "index", matrix, order=order, overwrite=True)
            seconds = time.perf_counter() - start
            found = left(index, queries, (10, 100, 1000))
            sizes = {
                file: round(size / index.n_postings, 3)
                for file, size in index.file_sizes().items()
                if file.endswith(".arrow")
            }
            facts[name] = {"build_seconds": round(seconds, 1), "bytes_per_posting": sizes} | found
            for what, value in found.items():
                share = value["left_mean"] / value["runs"]
                numbers = (f"{value[x]:,.0f}" for x in ("runs", "left_mean", "left_median"))
                rows.append((name, f"{seconds:.0f}", *what.split(", "), *numbers, f"{share:.1%}"))
    print(table([(key, str(value)) for key, value in conditions().items()], ("", ""), "<<"))
    print(table(rows, ("order", "build s", "k", "runs of", "there are", "left, mean", "median", "share"), "<><<>>>>"))
    keep(f"order-{n}", facts)


if __name__ == "__main__":
    main()
