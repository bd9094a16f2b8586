"""Speed of a batch of queries on two cores and on one core, compared with the same queries one by one.

    python PEERS/make_data.py --out FOLDER --n-docs 1000000
    python benchmarks/vectors.py --data COLLECTIONS --out REAL --encoder ENCODER
    NUMBA_NUM_THREADS=1 python benchmarks/batch.py --data FOLDER REAL [--work FOLDER]

Each set is one ordered segment, searched exactly with Index.search and Index.search_batch, whose results must be equal.
The three methods take turns for some rounds; a ratio is the median over the rounds. With --work, indexes are kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep
from planner import matrix_of

from lsr import Index, SparseMatrix
from lsr.console import note, table

KS = (10, 100)
CORES = 2


def compare(index: Index, queries: SparseMatrix, k: int, rounds: int) -> dict[str, Any]:
    """Measure milliseconds per query of each method, and the speed-up over one query at a time."""
    rows = [queries[i] for i in range(len(queries))]
    one = [[(hit.doc, hit.score) for hit in index.search(row, k)] for row in rows[:100]]
    if one != [[(hit.doc, hit.score) for hit in hits] for hits in index.search_batch(queries[:100], k)]:
        raise SystemExit(f"k = {k}: a batch gives different results")
    ways = {
        "one by one": lambda: [index.search(row, k) for row in rows],
        "batch, 1 core": lambda: index.search_batch(queries, k, threads=1),
        f"batch, {CORES} cores": lambda: index.search_batch(queries, k, threads=CORES),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - start) * 1000 / len(rows))
    base = np.array(times["one by one"])
    return {
        "k": k,
        "ms": {name: round(float(np.median(values)), 4) for name, values in times.items()},
        "times": {name: round(float(np.median(base / values)), 2) for name, values in times.items()},
    }


def main() -> None:
    """Build, compare, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for folder in args.data:
            place = (args.work or Path(temporary)) / folder.name
            documents, queries = matrix_of(folder, "docs"), matrix_of(folder, "queries")
            if not place.exists():
                note(f"building {place}")
                Index.build(place, documents)
            index = Index.open(place)
            asked = queries[np.random.default_rng(0).permutation(len(queries))[: args.queries]]
            for k in KS:
                row = {"data": folder.name, "documents": len(index), "queries": len(asked)}
                found.append(row | compare(index, asked, k, args.rounds))
    for key, value in conditions().items():
        print(f"{key}: {value}")
    ways = list(found[0]["ms"])
    lines = [
        (
            row["data"],
            f"{row['documents']:,}",
            str(row["k"]),
            *(f"{row['ms'][way]:.3f} ({row['times'][way]})" for way in ways),
        )
        for row in found
    ]
    print(table(lines, ["data", "documents", "k", *ways], "<>>" + ">" * len(ways)))
    keep("batch", {"rows": found})


if __name__ == "__main__":
    main()
