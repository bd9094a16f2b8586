"""Estimate machines, memory, hours and latency for collections of 8.8 million to a billion documents.

    NUMBA_NUM_THREADS=1 python benchmarks/capacity.py --peers FOLDER [--documents 8841823] [--shards 8] [--work FOLDER]

The estimates are computed from measurements on this machine and from assumptions, which are printed, too. These are
measured on the documents of benchmarks/scale.py (its work folder can be used as --work, to reuse its index):

* bytes per document and latency, with one index of all documents and with --shards shards. Every query runs on every
  shard, one at a time on one thread; the latencies of all rounds are kept;
* documents per second of the build (or read from benchmarks/results/scale-8841823.json), and of encoding (read from
  encoding-cranfield.json);
* time to merge the results of S shards;
* postings and blocks scored, with one wave of requests and with two waves. In the second wave, the other shards get the
  k-th score of the first shard as their threshold.

This is simulated: a query's latency over S shards is the maximum of S draws. "same query" draws from the latencies of
one query, because an expensive query is expensive on all shards; "independent" draws from the latencies of all queries,
which is the worse case. If a shard takes longer than the 95th percentile of its latency, a replica is asked, too. The
rate of stragglers is an assumption.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, conditions, keep
from numpy.typing import NDArray
from scale import documents, generate, query_sets

from lsr import Index, SparseMatrix
from lsr.console import table
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.results import merge
from lsr.index.distributed.shard_server import Shard, ShardHits
from lsr.index.search.request import Criteria
from lsr.index.sharding.manifest import Shards

COLLECTIONS = {"MS MARCO": 8_841_823, "MS MARCO v2": 138_364_198, "a billion": 1_000_000_000}
# Assumptions, which are printed.
CORES, MEMORY_GB, KEPT_IN_MEMORY = 16, 64, 0.7  # per machine; the last is the share of memory for mapped indexes
NETWORK_MS = 0.5  # round trip with serialization
STRAGGLERS, TIMES = 1e-3, 20  # one request in a thousand takes twenty times as long
MERGED = 1, 10, 100, 1000
DRAWS = 5000
ASSUMPTIONS = {
    "a machine": f"{CORES} cores like those here, {MEMORY_GB} GB, {KEPT_IN_MEMORY:.0%} of it for indexes",
    "network": f"{NETWORK_MS} ms round trip",
    "stragglers": f"{STRAGGLERS:.1%} of the requests take {TIMES} times as long",
    "queries": "vectors, one at a time; latencies exclude queueing",
    "hours": "work divided evenly over cores; texts of 169 tokens are encoded with lsr-mini in 8 bits (encoding.py)",
    "larger collections": "more shards of the measured size",
}
CAPACITY = (
    "queries", "k", "collection", "a shard", "shards", "machines, 1 / 2 replicas", "memory", "encode h", "build h",
    "p50, ms", "p99", "p50 with 2 replicas", "p99 with 2 replicas", "queries/s, 1 replica",
)  # fmt: skip
SIMULATED = ("queries", "k", "drawn from", "shards", "draws", "replicas", "p50, ms", "p95", "p99", "requests a shard")
WAVES = tuple(f"{wave}: {what}" for wave in ("one wave", "two") for what in ("postings", "blocks", "longest way"))


def latencies(shards: list[Index], queries: SparseMatrix, k: int, rounds: int) -> NDArray[np.float64]:
    """Measure (n_queries, n_shards * rounds) ms, one query at a time on one thread, after a warm-up round."""
    rows, taken = [queries[i] for i in range(len(queries))], np.empty((len(queries), rounds + 1, len(shards)))
    for r in range(rounds + 1):
        for i, row in enumerate(rows):
            for n, shard in enumerate(shards):
                start = time.perf_counter_ns()
                shard.search(row, k)
                taken[i, r, n] = (time.perf_counter_ns() - start) / 1e6
    return taken[:, 1:].reshape(len(rows), -1)


def merging(answer: ShardHits, k: int, shards: int) -> float:
    """Measure the median ms to merge the results of some shards."""
    answers, times = dict.fromkeys(range(shards), answer), []
    for _ in range(21):
        start = time.perf_counter_ns()
        merge(answers, k)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return round(float(np.median(times[1:])), 3)


def waves(shards: list[Index], queries: SparseMatrix, k: int) -> dict[str, float]:
    """Count postings and blocks scored, and postings on the critical path, per query, with one wave and with two
    waves.
    """
    counts = np.zeros((2, 3))
    for i in range(len(queries)):
        terms, weights = queries.row(i)
        first = i % len(shards)
        _, scores = shards[first].searcher.search(terms, weights, k)
        floor = float(scores[-1]) if len(scores) == k else 0.0
        one = [shard.searcher.plan(terms, weights, k) for shard in shards]
        two = [shard.searcher.plan(terms, weights, k, threshold=floor) for shard in shards]
        two[first] = one[first]
        longest = max(plan.postings_scored for plan in one)
        others = max(plan.postings_scored for n, plan in enumerate(two) if n != first)
        for wave, plans, way in ((0, one, longest), (1, two, one[first].postings_scored + others)):
            counts[wave] += sum(p.postings_scored for p in plans), sum(p.blocks_scored for p in plans), way
    return dict(zip(WAVES, (counts / len(queries)).round(1).ravel().tolist(), strict=True))


def simulate(
    measured: NDArray[np.float64], shards: int, *, same_query: bool, hedged: bool, seed: int = 0
) -> dict[str, float]:
    """Simulate latency percentiles of a query over some shards, in ms without network and merging, and requests per
    shard.

    Args:
        measured: (n_queries, n) ms of single shards.
        shards: Number of shards.
        same_query: Draw all latencies of a simulated query from the latencies of one query instead of all queries.
        hedged: Whether a replica is asked, too, after the 95th percentile.
        seed: Seed of the draws.
    """
    rng, after = np.random.default_rng(seed), float(np.percentile(measured, 95))
    draws = max(500, min(DRAWS, 5_000_000 // shards))
    slowest, asked = np.empty(draws), 0

    def draw(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        size = len(rows), shards
        at = rows[:, None] if same_query else rng.integers(len(measured), size=size)
        taken: NDArray[np.float64] = measured[at, rng.integers(measured.shape[1], size=size)]
        return np.where(rng.random(size) < STRAGGLERS, TIMES * taken, taken)

    step = max(1, 2_000_000 // shards)
    for first in range(0, draws, step):
        rows = rng.integers(len(measured), size=min(step, draws - first))
        taken = draw(rows)
        if hedged:
            asked += int((taken > after).sum())
            taken = np.where(taken > after, np.minimum(taken, after + draw(rows)), taken)
        slowest[first : first + len(rows)] = taken.max(axis=1)
    p50, p95, p99 = np.percentile(slowest, (50, 95, 99)).round(3).tolist()
    requests = 1 + asked / (draws * shards)
    return {"p50": p50, "mean": round(float(slowest.mean()), 3), "p95": p95, "p99": p99, "requests": round(requests, 3)}


def encoding_rate() -> float:
    """Documents per second and core that lsr-mini encodes, as measured by benchmarks/encoding.py."""
    facts = json.loads((RESULTS / "encoding-cranfield.json").read_text())
    (rate,) = (row["documents_s"] for row in facts["rows"] if row["system"] == "lsr, 8 bit")
    return float(rate / facts["cores"])


def capacity(
    name: str, n_docs: int, shard: dict[str, Any], measured: NDArray[np.float64], merge_ms: dict[int, float]
) -> list[str]:
    """Return a row of the table: estimates for a collection in shards like the measured shard."""
    shards = -(-n_docs // shard["documents"])
    gigabytes = n_docs * shard["bytes_per_document"] / 1e9
    machines = max(-(-shards // CORES), int(np.ceil(gigabytes / (MEMORY_GB * KEPT_IN_MEMORY))))
    work, encoding = n_docs / 3600 / machines / CORES, encoding_rate()
    hours = f"{work / encoding:,.1f}", f"{work / (shard['documents_per_second'] / shard['build_cores']):.2f}"
    alone, hedged = (simulate(measured, shards, same_query=True, hedged=hedged) for hedged in (False, True))
    waits = -(-shards // (machines * CORES))  # a core searches its shards one after another
    own = NETWORK_MS + float(np.interp(shards, list(merge_ms), list(merge_ms.values())))
    latency = [waits * found[p] + own for found in (alone, hedged) for p in ("p50", "p99")]
    per_second = machines * CORES / shards / measured.mean() * 1000
    sizes = [f"{shard['documents']:,}", f"{shards:,}", f"{machines} / {2 * machines}", f"{gigabytes:,.0f} GB"]
    return [name, *sizes, *hours, *(f"{ms:.1f}" for ms in latency), f"{per_second:,.0f}"]


def prepare(args: argparse.Namespace) -> tuple[list[tuple[str, list[Index]]], dict[str, Any]]:
    """Make documents, their index and its shards if they don't exist. Return index and shards, and the build's rate."""
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "indptr.npy").exists():
        if args.peers is None:
            raise SystemExit("give the peer harness, whose generator is used: --peers FOLDER or LSR_PEERS")
        generate(args.peers, args.work, args.documents)
    index, folder = args.work / "index", args.work / f"shards-{args.shards}"
    build = {"build_cores": os.cpu_count() or 1, "built by": "this run"}
    if not index.exists():
        toy = SparseMatrix.from_dicts([{0: 1.0}] * 200, 30_522)
        Index.build(args.work / "toy", toy, overwrite=True, order="bisection")
        start = time.perf_counter()
        whole = Index.build(index, documents(args.work))
        build["documents_per_second"] = round(len(whole) / (time.perf_counter() - start))
        (args.work / "capacity-build.json").write_text(json.dumps(build))
    elif (args.work / "capacity-build.json").exists():
        build = json.loads((args.work / "capacity-build.json").read_text())
    else:  # the index is from benchmarks/scale.py, which has also timed its build
        kept = RESULTS / "scale-8841823.json"
        facts = json.loads(kept.read_text())
        build = {"build_cores": 2, "built by": f"{kept.name}, {facts['machine']}"}
        build["documents_per_second"] = round(facts["documents"] / facts["build_seconds"])
    whole = Index.open(index)
    if not folder.exists():
        reshard_index(index, folder, args.shards)
    parts = [Index.open(folder / entry.path) for entry in Shards.read(folder).entries]
    return [("one index", [whole]), (f"{args.shards} shards", parts)], build


def measure(
    layouts: list[tuple[str, list[Index]]],
    queries: SparseMatrix,
    k: int,
    args: argparse.Namespace,
    build: dict[str, Any],
) -> dict[str, tuple[dict[str, Any], NDArray[np.float64]]]:
    """Return {layout: (figures of a shard, measured latencies)}."""
    found = {}
    for layout, indexes in layouts:
        measured = latencies(indexes, queries, k, args.rounds)
        n_docs, size = (sum(x) for x in zip(*((len(i), sum(i.file_sizes().values())) for i in indexes), strict=True))
        shard = {"documents": n_docs // len(indexes), "bytes_per_document": round(size / n_docs, 1), **build}
        shard |= {"mean": round(float(measured.mean()), 3)}
        shard |= {f"p{p}": round(float(np.percentile(measured, p)), 3) for p in (5, 25, 50, 75, 90, 95, 99)}
        found[layout] = shard, measured
    return found


def tails(layout: str, measured: NDArray[np.float64]) -> list[list[str]]:
    """Return rows of the table of simulated latencies."""
    rows = []
    for shards in (1, 10, 100, 1000):
        for same_query in (True, False):
            for hedged in (False, True):
                found = simulate(measured, shards, same_query=same_query, hedged=hedged)
                what = [str(shards), "same query" if same_query else "independent", "2" if hedged else "1"]
                rows.append([layout, *what, *(f"{found[p]:.2f}" for p in ("p50", "p95", "p99", "requests"))])
    return rows


def main() -> None:
    """Measure, simulate, estimate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=os.environ.get("LSR_PEERS"))
    parser.add_argument("--documents", type=int, default=8_841_823)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("scale"))
    args = parser.parse_args()
    layouts, build = prepare(args)
    n_docs = len(layouts[0][1][0])
    facts: dict[str, Any] = {"assumptions": ASSUMPTIONS, "build": build}
    rows, simulated, counted = [], [], []
    for kind, queries in query_sets(args.work, n_docs, args.queries).items():
        for k in (10, 100):
            shard = Shard(str(layouts[1][1][0].path))
            answer = shard.search("", queries[0], k, Criteria())[1][0]
            merge_ms = {n: merging(answer, k, n) for n in MERGED}
            counts = waves(layouts[1][1], queries, k)
            counted.append([kind, str(k), *(f"{value:,.0f}" for value in counts.values())])
            measured = measure(layouts, queries, k, args, build)
            for layout, (what, taken) in measured.items():
                rows += [[kind, str(k), *capacity(name, n, what, taken, merge_ms)] for name, n in COLLECTIONS.items()]
                simulated += [[kind, str(k), *row] for row in tails(layout, taken)]
            facts[f"{kind}, k={k}"] = {
                "shards": {layout: what for layout, (what, _) in measured.items()},
                "merge_ms": merge_ms,
                "waves": counts,
            }
    for name, titles, made in (
        ("capacity", CAPACITY, rows),
        ("simulated", SIMULATED, simulated),
        ("waves", ("queries", "k", *WAVES), counted),
    ):
        facts[name] = [dict(zip(titles, row, strict=True)) for row in made]
    print(table([(n, str(v)) for n, v in (conditions() | ASSUMPTIONS | build).items()], ("", ""), "<<"))
    for titles, made in ((CAPACITY, rows), (SIMULATED, simulated), (("queries", "k", *WAVES), counted)):
        print("\n" + table(made, titles, "<" + ">" * (len(titles) - 1)))
    keep(f"capacity-{n_docs}", facts)


if __name__ == "__main__":
    main()
