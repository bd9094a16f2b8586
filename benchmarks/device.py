"""Compare batches of queries on a GPU with the CPU kernels: results must be equal, and queries per second are measured.

    python PEERS/make_data.py --out FOLDER --n-docs 1000000
    python benchmarks/device.py --data FOLDER [--device cuda] [--queries 1000]

Postings are copied to the device before the timing starts. Queries are repeated if there are fewer than --queries.
Texts of hits aren't read.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from living import vectors_of
from machine import conditions, keep
from planner import matrix_of

from lsr import Index
from lsr.console import table

KS, ROUNDS = (10, 100, 1000), 3


def seconds(call: Callable[[], Any]) -> float:
    """Measure the median seconds of several rounds, after a warm-up round."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def main() -> None:
    """Build, compare, time, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--queries", type=int, default=1000)
    args = parser.parse_args()
    import torch

    there = torch.device(args.device)
    name = torch.cuda.get_device_name(there) if there.type == "cuda" else str(there)
    matrix, queries = matrix_of(args.data, "docs"), matrix_of(args.data, "queries")
    queries = queries[np.arange(args.queries) % len(queries)]
    rows = []
    with tempfile.TemporaryDirectory() as work:
        index = Index.build(Path(work) / "index", vectors_of(matrix, np.arange(len(matrix))))
        for k in KS:
            ways = {"one core": {"threads": 1}, "all cores": {}, name: {"device": args.device}}
            found = [
                [[(hit.id, hit.score) for hit in hits] for hits in index.search_batch(queries[:50], k, **way)]
                for way in ways.values()
            ]
            if any(one != found[0] for one in found):
                raise SystemExit(f"k = {k}: results differ")
            for way, how in ways.items():
                took = seconds(lambda k=k, how=how: index.search_batch(queries, k, **how))
                rows.append({"k": k, "where": way, "queries_per_second": round(len(queries) / took)})
    for key, value in conditions().items():
        print(f"{key}: {value}")
    print(f"documents: {len(matrix):,}\n")
    lines = [(str(row["k"]), row["where"], f"{row['queries_per_second']:,}") for row in rows]
    print(table(lines, ("k", "where", "queries/s"), "><>"))
    keep("device", {"documents": len(matrix), "queries": len(queries), "device": name, "rows": rows})


if __name__ == "__main__":
    main()
