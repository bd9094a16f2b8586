"""Measure a living index: adding, visibility, many segments, merging, filters, opening, memory.

    python PEERS/make_data.py --out FOLDER --n-docs 1000000
    pip install qdrant-client                                  # compared with lsr's filters
    NUMBA_NUM_THREADS=1 python benchmarks/living.py --data FOLDER --work WORK [--queries 200]

Queries run one at a time on one thread, with interleaved rounds. Documents are given as vectors, so times exclude
encoding. Filters are conditions on a number "n" that is independent of the vectors and selects a share of the
documents. The baseline is scipy's CSC product over all documents, followed by the filter and the selection of the best
k. Qdrant's local mode is compared on the first 20,000 documents.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep, peak_memory
from numpy.typing import NDArray

from lsr import Index, SparseMatrix, load_matrix, save_matrix
from lsr.console import table
from lsr.eval.latency import Latency, time_each, time_together
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch, Vectors

K = 10
N_TERMS = 30_522
SHARES = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)
# Relative sizes of the segments; the second entry is typical after many small commits.
SEGMENTS = {
    "1 segment": (1,),
    "10 segments, as commits leave them": (64, 8, 8, 8, 8, 8, 8, 8, 1, 1),
    "10 segments of one size": (1,) * 10,
    "50 segments of one size": (1,) * 50,
}
ADDS = (1, 10, 100, 1000)
RIVAL_DOCUMENTS = 20_000


def load(folder: Path, name: str) -> NDArray[Any]:
    """Open an array of the harness's data."""
    array: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return array


def vectors_of(matrix: SparseMatrix, numbers: NDArray[np.int64], first: int = 0) -> Vectors:
    """Return vectors of documents with a number to filter by, read in batches like a file."""

    def read(_: Vectors) -> Iterator[VectorBatch]:
        for start in range(0, len(matrix), 4096):
            rows = range(start, min(start + 4096, len(matrix)))
            documents = [Document(f"d{first + i}", "", "", {"n": int(numbers[first + i])}) for i in rows]
            yield VectorBatch(document_batch(documents), matrix[start : start + 4096])

    return Vectors("made", read, n_terms=N_TERMS, count=len(matrix))


def seconds(call: Callable[[], Any]) -> float:
    """Measure the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def additions(index: Index, matrix: SparseMatrix, numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Measure the time from adding documents to a large index until another reader sees them."""
    reader = Index.open(index.path)
    rows, first = [], len(numbers) - sum(ADDS) * 5
    for count in ADDS:
        times = []
        for _ in range(5):
            some = vectors_of(matrix[first : first + count], numbers, first)

            def visible(some: Vectors = some) -> None:
                index.add(some)
                index.commit(merge=False)
                reader.refresh()

            before = len(reader)
            times.append(seconds(visible))
            assert len(reader) == before + count
            first += count
        median = float(np.median(times))
        rows.append({"documents": count, "visible_ms": median * 1000, "documents_per_second": count / median})
    return rows


def segments(work: Path, matrix: SparseMatrix, numbers: NDArray[np.int64], queries: list[SparseMatrix]) -> Any:
    """Measure latency with the same documents in one segment, in many, and after merging; all results must be equal."""
    indexes: dict[str, Index] = {}
    for number, (name, shares) in enumerate(SEGMENTS.items()):
        ends = (np.cumsum([0, *shares]) / sum(shares) * len(matrix)).astype(int)
        index = Index.build(work / f"segments-{number}", vectors_of(matrix[: ends[1]], numbers), overwrite=True)
        for first, end in zip(ends[1:-1].tolist(), ends[2:].tolist(), strict=True):
            index.add(vectors_of(matrix[first:end], numbers, first))
            index.commit(merge=False)
        assert index.n_segments == len(shares)
        indexes[name] = index
    merged = Index.build(work / "merged", vectors_of(matrix[: len(matrix) // 2], numbers), overwrite=True)
    merged.add(vectors_of(matrix[len(matrix) // 2 :], numbers, len(matrix) // 2))
    took = seconds(merged.merge)
    indexes["merged"] = merged
    for name, index in indexes.items():
        for query in queries[:20]:
            found = [(hit.id, round(hit.score, 4)) for hit in index.search(query, K)]
            expected = [(hit.id, round(hit.score, 4)) for hit in indexes["1 segment"].search(query, K)]
            if found != expected:
                raise SystemExit(f"{name}: results differ from those of one segment")
    calls = [lambda i, index=index: index.search(queries[i], K) for index in indexes.values()]
    times = [Latency.of(row.tolist()).to_json() for row in time_together(calls, len(queries))]
    return [{"index": name, **row} for name, row in zip(indexes, times, strict=True)], took


def filters(index: Index, matrix: SparseMatrix, numbers: NDArray[np.int64], queries: list[SparseMatrix]) -> Any:
    """Measure latency by the share of documents that pass a filter, compared with a full scan followed by the
    filter.
    """
    columns = matrix.to_scipy().tocsc()
    rows = []
    for share in SHARES:
        below = max(int(share * len(numbers)), 1)
        where, allowed = {"n": {"<": below}}, numbers[: matrix.shape[0]] < below

        def scan(i: int, allowed: NDArray[np.bool_] = allowed) -> Any:
            terms, weights = queries[i].row(0)
            scores = np.where(allowed, columns[:, terms.astype(np.int64)] @ weights, 0)
            best = np.argpartition(-scores, K)[:K]
            return scores[best[np.argsort(-scores[best], kind="stable")]]

        for i in range(10):
            mine = [hit.score for hit in index.search(queries[i], K, where=where)]
            if not np.allclose(mine, [score for score in scan(i) if score > 0][: len(mine)], rtol=1e-5):
                raise SystemExit(f"{share:.2%}: scores differ from a scan's")
        first = seconds(lambda where=where: Index.open(index.path).search(queries[0], K, where=where))
        n = min(len(queries), 50)
        ours, theirs = time_together([lambda i, w=where: index.search(queries[i], K, where=w), scan], n, 2)
        mine, plain = Latency.of(ours.tolist()), Latency.of(theirs.tolist())
        rows.append({
            "share": share, "lsr_ms": mine.to_json(), "scan_ms": plain.to_json(), "first_ms": first * 1000,
            "times": plain.p50 / mine.p50,
        })  # fmt: skip
    return rows


def rival(work: Path, matrix: SparseMatrix, numbers: NDArray[np.int64], queries: list[SparseMatrix]) -> Any:
    """Compare filters with Qdrant's local mode, on fewer documents; None if Qdrant isn't installed."""
    try:
        from qdrant_client import QdrantClient, models
    except ImportError:
        return None
    n = min(RIVAL_DOCUMENTS, len(matrix))
    index = Index.build(work / "rival", vectors_of(matrix[:n], numbers), overwrite=True)
    warnings.simplefilter("ignore")  # Qdrant warns that its local mode is for small collections
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={}, sparse_vectors_config={"s": models.SparseVectorParams()})

    def sparse(row: SparseMatrix) -> Any:
        terms, weights = row.row(0)
        return models.SparseVector(indices=terms.tolist(), values=weights.tolist())

    for start in range(0, n, 1000):
        points = [
            models.PointStruct(id=i, vector={"s": sparse(matrix[i])}, payload={"n": int(numbers[i])})
            for i in range(start, min(start + 1000, n))
        ]
        client.upsert("c", points)
    rows = []
    for share in SHARES[1:]:
        below = int(np.sort(numbers[:n])[max(int(share * n), 1) - 1]) + 1
        where = {"n": {"<": below}}
        condition = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=below))])

        def ask(i: int, condition: Any = condition) -> Any:
            return client.query_points("c", query=sparse(queries[i]), using="s", query_filter=condition, limit=K).points

        for i in range(3):
            mine = [hit.score for hit in index.search(queries[i], K, where=where)]
            if not np.allclose(mine, [point.score for point in ask(i)][: len(mine)], rtol=1e-4):
                raise SystemExit(f"{share:.2%}: scores differ from Qdrant's")
        calls = [lambda i, w=where: index.search(queries[i], K, where=w), ask]
        ours, theirs = time_together(calls, min(len(queries), 10), 1)
        rows.append({
            "share": share, "lsr_ms": float(np.median(ours)), "qdrant_ms": float(np.median(theirs)),
            "times": float(np.median(theirs) / np.median(ours)),
        })  # fmt: skip
    return rows


def resident(path: Path, queries: Path) -> dict[str, Any]:
    """Measure in a new process: time to open, and memory before opening, after opening, and after queries."""
    command = [sys.executable, __file__, "--resident", str(path), str(queries)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def measure_resident(path: Path, queries: Path) -> None:
    """Run the part of `resident` that belongs in the new process."""
    rows = load_matrix(queries)
    toy = Path(str(path) + "-toy")
    Index.build(toy, rows[:50], overwrite=True).search(rows[0])  # so that `before` includes the compiled kernels
    before = held()
    opening = time_each(lambda _: Index.open(path), 10)
    index = Index.open(path)
    opened = held()
    for i in range(len(rows)):
        index.search(rows[i], K)
    size = sum(index.file_sizes().values())
    facts = {
        "open_ms": opening.p50,
        "before_mb": before,
        "opened_mb": opened,
        "searched_mb": held(),
        "index_mb": size / 1e6,
    }
    print(json.dumps(facts))


def held() -> float:
    """Return this process's memory in megabytes; on Linux, pages of mapped files are left out."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            kinds = dict(line.split(":", 1) for line in file if line.startswith("Rss"))
        return int(kinds["RssAnon"].split()[0]) / 1e3
    except (OSError, KeyError):
        return peak_memory()


def main() -> None:
    """Measure, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="output of the harness's make_data.py")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--resident", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.resident:
        measure_resident(*args.resident)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    indptr = load(args.data, "docs.indptr")
    n = len(indptr) - 1
    matrix = SparseMatrix(
        indptr, load(args.data, "docs.indices"), load(args.data, "docs.u8"), (n, N_TERMS), check=False
    )
    at = load(args.data, "queries.indptr")
    asked = SparseMatrix(at, load(args.data, "queries.indices"), load(args.data, "queries.u8"), (len(at) - 1, N_TERMS))
    queries = [asked[i] for i in range(min(args.queries, len(asked)))]
    numbers = np.random.default_rng(0).permutation(n)
    save_matrix(args.work / "queries.parquet", asked[: len(queries)])
    facts: dict[str, Any] = {"documents": n, "k": K}

    facts["segments"], facts["merge_seconds"] = segments(args.work, matrix, numbers, queries)
    print(f"latency by number of segments, ms; merging two halves took {facts['merge_seconds']:.1f} s\n")
    names = ("p50", "mean", "p95", "p99")
    lines = [(row["index"], *(f"{row[name]:.3f}" for name in names)) for row in facts["segments"]]
    print(table(lines, ("", *names), "<>>>>"))

    whole = Index.open(args.work / "segments-0")
    facts["filters"] = filters(whole, matrix, numbers, queries)
    print("\nfilters: median ms by the share of documents that pass; the first query computes the mask\n")
    lines = [
        (f"{r['share']:.2%}", f"{r['lsr_ms']['p50']:.3f}", f"{r['lsr_ms']['p99']:.3f}", f"{r['scan_ms']['p50']:.1f}",
         f"{r['times']:.0f}x", f"{r['first_ms']:.1f}")
        for r in facts["filters"]
    ]  # fmt: skip
    print(table(lines, ("share", "lsr p50", "p99", "scan p50", "times", "first"), ">>>>>>"))

    facts["rival"] = rival(args.work, matrix, numbers, queries)
    if facts["rival"]:
        print(f"\n{RIVAL_DOCUMENTS:,} documents, compared with Qdrant's local mode, median ms\n")
        lines = [
            (f"{r['share']:.2%}", f"{r['lsr_ms']:.3f}", f"{r['qdrant_ms']:.1f}", f"{r['times']:.0f}x")
            for r in facts["rival"]
        ]
        print(table(lines, ("share", "lsr", "qdrant", "times"), ">>>>"))

    facts["memory"] = resident(args.work / "segments-0", args.work / "queries.parquet")
    print("\na new process: memory in MB, and time to open in ms\n")
    print(table([(key, f"{value:.1f}") for key, value in facts["memory"].items()], ("", ""), "<>"))

    some = n - sum(ADDS) * 5
    living = Index.build(args.work / "living", vectors_of(matrix[:some], numbers), overwrite=True)
    facts["adds"] = additions(living, matrix, numbers)
    print("\nadded to that index in one commit, until another reader sees them\n")
    lines = [(str(r["documents"]), f"{r['visible_ms']:.1f}", f"{r['documents_per_second']:.0f}") for r in facts["adds"]]
    print(table(lines, ("documents", "ms", "documents/s"), ">>>"))
    for key, value in conditions().items():
        print(f"{key}: {value}")
    keep("living", facts)


if __name__ == "__main__":
    main()
