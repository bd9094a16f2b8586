"""Measure an index of a million random documents of 120 terms: build rate, peak memory, bytes per posting, open time,
latency.

    python benchmarks/million.py [--documents 1000000] [--work FOLDER]

Terms follow a Zipf-Mandelbrot law, as in learned sparse vectors, and weights are log-normal. Documents are independent,
which is the worst case for skipping and for finding a better order of the documents. Queries have 24 terms. The vectors
are written to Parquet, and a separate process builds the index, so that its peak memory can be measured. The baseline
is search without an index: a scipy CSC matrix times the query, followed by numpy's argpartition. lsr's scores must
equal brute force.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import conditions, keep, peak_memory
from scipy.sparse import csc_array

from lsr import Index, SparseMatrix, read_vectors
from lsr.console import table
from lsr.eval.latency import time_each
from lsr.fingerprint import Fingerprint
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch
from lsr.io.vectors_parquet import ParquetWriter, pack_metadata

N_TERMS = 30_522
QUERY_TERMS = 24


def random_rows(rng: np.random.Generator, n: int, terms: int, popularity: np.ndarray) -> SparseMatrix:
    """Draw n rows of `terms` different terms each."""
    drawn = np.searchsorted(np.cumsum(popularity), rng.random((n, terms * 2)))
    rows = []
    for row in np.minimum(drawn, N_TERMS - 1):
        ids = np.fromiter(dict.fromkeys(row.tolist()), np.int64)[:terms]
        rows.append((ids, np.minimum(rng.lognormal(-0.7, 0.7, len(ids)), 3.5)))
    return SparseMatrix.from_rows(rows, N_TERMS)


def write_vectors(path: Path, n: int, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    """Write the documents to Parquet; return the terms' popularity, by which queries are drawn, and the generator."""
    rng = np.random.default_rng(seed)
    popularity = 1 / (np.arange(N_TERMS) + 10.0) ** 0.75
    popularity = rng.permutation(popularity / popularity.sum())
    with ParquetWriter(path, pack_metadata(Fingerprint(model="random", vocabulary_size=N_TERMS))) as writer:
        for start in range(0, n, 10_000):
            size = min(10_000, n - start)
            documents = [Document(str(i), "") for i in range(start, start + size)]
            vectors = random_rows(rng, size, 120, popularity)
            writer.write(VectorBatch(document_batch(documents, with_text=False), vectors))
    return popularity, rng


def build(vectors: str, out: str, memory: int) -> None:
    """Build in this process and print seconds and peak memory as JSON."""
    # Compile the kernels on a toy index first: this happens only once per machine, so it shouldn't count as build time.
    toy = SparseMatrix.from_dicts([{i % 100: 1.0, i % 99 + 100: 0.5} for i in range(400)], N_TERMS)
    Index.build(out, toy, overwrite=True, order="bisection").search(toy[0])
    before = peak_memory()
    start = time.perf_counter()
    index = Index.build(out, read_vectors(vectors), overwrite=True, memory=memory)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_memory(), "before_mb": before, "postings": index.n_postings}))


def main() -> None:
    """Generate, build, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--memory", type=int, default=512, help="memory for building, MB")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lsr-million")
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(*args.build, memory=args.memory << 20)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    parquet, out = args.work / "vectors.parquet", args.work / "index"
    popularity, rng = write_vectors(parquet, args.documents, seed=1)
    queries = random_rows(rng, args.queries, QUERY_TERMS, popularity)

    command = [sys.executable, __file__, "--memory", str(args.memory), "--build", str(parquet), str(out)]
    built = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    opening = time_each(lambda _: Index.open(out), 10)
    index = Index.open(out)
    size = sum(index.file_sizes().values())
    parts = ("postings", "dense", "gaps", "maxima", "skips", "lists", "terms")
    postings = sum(index.file_sizes()[f"{part}.arrow"] for part in parts)

    matrix = SparseMatrix.vstack([batch.vectors for batch in read_vectors(parquet)])
    step = index.max_error
    impacts = np.clip(np.rint(matrix.data.astype(np.float64) / step), 1, 255) * step
    columns = csc_array(SparseMatrix(matrix.indptr, matrix.indices, impacts, matrix.shape).to_scipy())
    del matrix

    def rival(i: int, k: int) -> np.ndarray:
        terms, weights = queries.row(i)
        scores = columns[:, terms.astype(np.int64)] @ weights
        best = np.argpartition(-scores, k)[:k]
        return best[np.lexsort((best, -scores[best]))]

    checked = min(args.queries, 50)
    for i in range(checked):
        mine = [hit.score for hit in index.search(queries[i], 1000)]
        terms, weights = queries.row(i)
        brute = -np.sort(-(columns[:, terms.astype(np.int64)] @ weights.astype(np.float64)))[:1000]
        if not np.allclose(mine, brute[: len(mine)], rtol=1e-5):
            raise SystemExit(f"query {i}: the scores differ from brute force")
    rows, latencies = [], {}
    for k in (10, 1000):
        ours = time_each(lambda i, k=k: index.search(queries[i], k), len(queries))
        theirs = time_each(lambda i, k=k: rival(i, k), min(20, len(queries)), rounds=1)
        latencies[f"k={k}"] = {"lsr": ours.to_json(), "scipy": theirs.to_json()}
        for name, value in (("lsr", ours), ("scipy CSC", theirs)):
            figures = (value.p50, value.mean, value.p95, value.p99)
            rows.append((name, str(k), *(f"{x:.2f}" for x in figures), f"{theirs.p50 / value.p50:.1f}x"))
    facts = {
        "documents": args.documents,
        "postings": built["postings"],
        "build_seconds": round(built["seconds"], 1),
        "documents_per_second": round(args.documents / built["seconds"]),
        "build_peak_mb": round(built["peak_mb"]),
        "of_that_before_building_mb": round(built["before_mb"]),
        "index_mb": round(size / 1e6),
        "bytes_per_posting": round(postings / built["postings"], 3),
        "bytes_per_posting_with_ids": round(size / built["postings"], 3),
        "open_ms": opening.to_json(),
        "queries_equal_to_brute_force": f"{checked} of {checked}",
        "latency_ms": latencies,
    }
    print(table([(k, str(v)) for k, v in (conditions() | facts).items() if k != "latency_ms"], ("", ""), "<<"))
    print()
    print(table(rows, ("ms per query, one thread", "k", "p50", "mean", "p95", "p99", "speed-up"), "<>>>>>>"))
    keep(f"million-{args.documents}", facts)


if __name__ == "__main__":
    main()
