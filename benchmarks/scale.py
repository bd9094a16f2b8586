"""Measure building, size and search with 8.8 million synthetic documents of 120 terms, as many as MS MARCO has
passages.

    python benchmarks/scale.py --peers FOLDER [--documents 8841823] [--work FOLDER]

The generator of the peer harness (make_data.py in FOLDER) makes the documents, which are written to disk in chunks and
in random order. Queries resemble SPLADE-v3's (24 terms); "inference-free" queries are the 7 heaviest terms of the same
queries, weighted by inverse document frequency. The results of block-max search must equal those of exhaustive search;
then both are timed in turns, one query at a time on one thread. "Known" is block search that is given the k-th best
score beforehand; finding a threshold sooner can't make block search faster than this. The script needs 20 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep, peak_memory

from lsr import Index, SparseMatrix
from lsr.console import progress, table
from lsr.eval.latency import Latency, time_each
from lsr.index.search.settings import SearchSettings
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch, Vectors

TERMS, CHUNK = 120, 50_000
ALGORITHMS = {
    "exhaustive": {"algorithm": "exhaustive"},
    "blocks": {"algorithm": "blocks"},
    "auto": {},
    "alpha 0.8": {"alpha": 0.8},
    "known": {"algorithm": "blocks"},
}


def generate(peers: Path, folder: Path, n: int) -> None:
    """Generate documents and queries with the harness's make_data.py, in bounded memory."""
    sys.path.insert(0, str(peers))
    import make_data as peer

    rng = np.random.default_rng(1)
    rank = np.arange(peer.V_USED)
    popularity = 1 / (rank + 10.0) ** 0.75 * np.where(rank > 12000, np.exp(-(rank - 12000) / 6000.0), 1.0)
    popularity /= popularity.sum()
    idf = -np.log(popularity)
    idf = (idf - idf.min()) / (idf.max() - idf.min())
    topics = peer.make_topics(rng, n, np.log(popularity).astype(np.float32))
    ranks, background = peer.lookup(1 / (np.arange(peer.K_TOPIC) + 12.0) ** 0.8), peer.lookup(popularity)
    topic_weight = 1 / (rng.permutation(len(topics)) + 0.3 * len(topics)) ** 0.7
    topic_of = peer.lookup(topic_weight, 1 << 16)
    cores, core_topic = peer.make_cores(rng, n, topics, topic_of, background, idf)
    term_of = np.random.default_rng(12345).permutation(peer.V)[: peer.V_USED].astype(np.int32)
    spread, longest = 0.35, int(TERMS * 3.2)
    mean = math.log(TERMS) - spread * spread / 2
    targets = np.sort(np.random.default_rng(99).choice(n, 500, replace=False))
    lengths, target_rows, df = [], [], np.zeros(peer.V, np.int64)
    topic, cluster = np.empty(n, np.int32), np.empty(n, np.int32)
    terms, weights = np.empty(CHUNK * longest, np.int32), np.empty(CHUNK * longest, np.float32)
    with (
        (folder / "terms").open("wb") as term_file,
        (folder / "impacts").open("wb") as impact_file,
        progress(n, "generating") as bar,
    ):
        for first in range(0, n, CHUNK):
            end = min(first + CHUNK, n)
            sizes = np.empty(end - first, np.int64)
            total = peer._gen_docs(
                first, end, 1, topics, cores, core_topic, ranks, background, topic_of, idf, mean, spread, longest,
                terms, weights, sizes, topic[first:end], cluster[first:end],
            )  # fmt: skip
            indptr = np.concatenate(([0], np.cumsum(sizes)))
            ids, values = term_of[terms[:total]], weights[:total].copy()
            peer._sort_rows(indptr, ids, values)
            df += np.bincount(ids, minlength=peer.V)
            for i in targets[(targets >= first) & (targets < end)] - first:
                row = slice(indptr[i], indptr[i + 1])
                target_rows.append((ids[row].copy(), values[row].copy()))
            ids.astype(np.uint16).tofile(term_file)
            np.clip(np.ceil(values * (255 / 3.5)), 1, 255).astype(np.uint8).tofile(impact_file)
            lengths.append(sizes)
            bar.update(end - first)
    statistics = json.loads((peers / "query_stats.json").read_text())["v3"]
    indptr = np.concatenate(([0], np.cumsum([len(ids) for ids, _ in target_rows])))
    all_ids, all_values = (np.concatenate(column) for column in zip(*target_rows, strict=True))
    query_indptr, query_terms, query_weights, _ = peer.make_queries(
        np.random.default_rng(8), len(targets), indptr, all_ids, all_values, topics, cores, topic[targets],
        cluster[targets], background, statistics, term_of, np.argsort(-df)[:24],
    )  # fmt: skip
    np.savez(folder / "queries.npz", indptr=query_indptr, terms=query_terms, weights=query_weights, df=df)
    np.save(folder / "indptr.npy", np.concatenate(([0], np.cumsum(np.concatenate(lengths)))))


def documents(folder: Path) -> Vectors:
    """Return the generated documents as vectors, read in batches."""
    indptr = np.load(folder / "indptr.npy")
    terms, impacts = np.memmap(folder / "terms", np.uint16, "r"), np.memmap(folder / "impacts", np.uint8, "r")
    n = len(indptr) - 1

    def read(_: Vectors) -> Iterator[VectorBatch]:
        for first in range(0, n, 20_000):
            end = min(first + 20_000, n)
            rows, at = indptr[first : end + 1] - indptr[first], slice(indptr[first], indptr[end])
            ids = document_batch([Document(str(i), "") for i in range(first, end)], with_text=False)
            values = impacts[at].astype(np.float32)
            yield VectorBatch(ids, SparseMatrix(rows, terms[at].astype(np.int64), values, (end - first, 30_522)))

    return Vectors(str(folder), read, n_terms=30_522, count=n)


def query_sets(folder: Path, n_docs: int, n: int) -> dict[str, SparseMatrix]:
    """Return SPLADE queries and inference-free queries."""
    stored = np.load(folder / "queries.npz")
    full, short = [], []
    for i in range(min(n, len(stored["indptr"]) - 1)):
        at = slice(stored["indptr"][i], stored["indptr"][i + 1])
        terms, weights = stored["terms"][at].astype(np.int64), stored["weights"][at]
        full.append((terms, weights))
        heaviest = np.argsort(-weights, kind="stable")[:7]
        short.append((terms[heaviest], np.log1p(n_docs / (1.0 + stored["df"][terms[heaviest]]))))
    return {
        "SPLADE": SparseMatrix.from_rows(full, 30_522),
        "inference-free": SparseMatrix.from_rows(short, 30_522),
    }


def build(folder: str, out: str, memory: int) -> None:
    """Build in this process and print seconds and peak memory as JSON."""
    toy = SparseMatrix.from_dicts([{0: 1.0}] * 200, 30_522)
    Index.build(out, toy, overwrite=True, order="bisection").search(toy[0])
    start = time.perf_counter()
    index = Index.build(out, documents(Path(folder)), overwrite=True, memory=memory)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak_memory(), "postings": index.n_postings}))


def search(index: Index, queries: SparseMatrix, k: int, rounds: int) -> dict[str, Any]:
    """Measure each algorithm's latency in ms, with interleaved rounds, and its recall against exhaustive search."""
    rows = [queries.row(i) for i in range(len(queries))]
    settings = {name: SearchSettings(**given) for name, given in ALGORITHMS.items()}
    recall = dict.fromkeys(ALGORITHMS, 0.0)
    floors: dict[str, list[float]] = {name: [] for name in ALGORITHMS}
    for terms, weights in rows:
        docs, scores = index.searcher.search(terms, weights, k, settings["exhaustive"])
        for name, chosen in settings.items():
            floors[name].append(float(scores[-1]) if name == "known" and len(scores) == k else 0.0)
            found, values = index.searcher.search(terms, weights, k, chosen, threshold=floors[name][-1])
            if chosen.exact and (found.tolist() != docs.tolist() or values.tolist() != scores.tolist()):
                raise SystemExit(f"{name}: the results differ from those of exhaustive search")
            recall[name] += float((values >= scores[-1]).sum() / len(docs)) / len(rows)
    times: dict[str, list[list[float]]] = {name: [] for name in ALGORITHMS}
    for _ in range(rounds):
        for name, chosen in settings.items():
            once: list[float] = []
            for (terms, weights), floor in zip(rows, floors[name], strict=True):
                start = time.perf_counter_ns()
                index.searcher.search(terms, weights, k, chosen, threshold=floor)
                once.append((time.perf_counter_ns() - start) / 1e6)
            times[name].append(once)
    return {
        name: Latency.of(np.median(times[name], axis=0).tolist()).to_json() | {"recall": round(recall[name], 4)}
        for name in ALGORITHMS
    }


def main() -> None:
    """Generate, build, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=os.environ.get("LSR_PEERS"))
    parser.add_argument("--documents", type=int, default=8_841_823)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=2048, help="memory for building, MB")
    parser.add_argument("--work", type=Path, default=Path("scale"))
    parser.add_argument("--keep-index", action="store_true", help="search the existing index")
    parser.add_argument("--build", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(*args.build, memory=args.memory << 20)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "indptr.npy").exists():
        if args.peers is None:
            raise SystemExit("give the peer harness, whose generator is used: --peers FOLDER or LSR_PEERS")
        generate(args.peers, args.work, args.documents)
    out, facts_file = args.work / "index", args.work / "built.json"
    if not args.keep_index:
        command = [sys.executable, __file__, "--memory", str(args.memory), "--build", str(args.work), str(out)]
        facts_file.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    built = json.loads(facts_file.read_text())
    opening = time_each(lambda _: Index.open(out), 5)
    index = Index.open(out)
    sizes = index.file_sizes()
    facts: dict[str, Any] = {
        "documents": len(index),
        "postings": index.n_postings,
        "build_seconds": round(built["seconds"], 1),
        "build_peak_mb": round(built["peak_mb"]),
        "bytes_per_posting": {name: round(size / index.n_postings, 3) for name, size in sizes.items()},
        "open_ms": opening.to_json(),
    }
    print(table([(name, str(value)) for name, value in (conditions() | facts).items()], ("", ""), "<<"))
    rows = []
    for kind, queries in query_sets(args.work, len(index), args.queries).items():
        for k in (10, 100, 1000):
            found = search(index, queries, k, args.rounds)
            facts[f"{kind}, k={k}"] = found
            whole = found["exhaustive"]
            for name, value in found.items():
                figures = (f"{value[x]:.2f}" for x in ("p50", "mean", "p95", "p99"))
                ratios = (f"{whole[x] / value[x]:.1f}x" for x in ("p50", "mean"))
                rows.append((kind, str(k), name, *figures, f"{value['recall']:.4f}", *ratios))
    titles = ("queries", "k", "ms, one thread", "p50", "mean", "p95", "p99", "recall", "p50", "mean")
    print(table(rows, titles, "<><>>>>>>>"))
    keep(f"scale-{len(index)}", facts)


if __name__ == "__main__":
    main()
