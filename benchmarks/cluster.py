"""Kill nodes of a Ray cluster: builds must give the same bytes, and results must be right or name missing shards.

    python benchmarks/cluster.py --work WORK [--rounds 5] [--seconds 60] [--copies 60] [--shards 8]

Starts a cluster on this machine: a head and three nodes of two cores. A node is lost by killing its processes.

* Building: --rounds rounds of `lsr encode --ray` and `lsr index --ray`. A node is killed when half of the parts or
  shards exist. Every file must have the same bytes as a build with one worker or without a cluster.
* Searching: threads compare each result of a ShardedIndex with the result of a single index, for --seconds per
  condition: no failures; one replica is slow (its process is stopped four fifths of the time), with and without asking
  another replica after 0.1 s; a node is killed and replaced every ten seconds, with two replicas and with one. A result
  counts as right, as naming its missing shards (the other hits must be right), or as wrong.

Documents and queries are from the Cranfield collection. The documents are repeated, so that there are ties.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from machine import keep
from numpy.typing import NDArray
from serve import cranfield

from lsr import Index, SparseMatrix
from lsr.console import table
from lsr.errors import ClusterError
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.sharding.manifest import SHARDS, Shards
from lsr.index.sharding.remote import read_manifests
from lsr.index.storage.manifest import digest_file
from lsr.index.warmup import compile_kernels

NODE = {"num_cpus": 2, "memory": 4 << 30, "object_store_memory": 80 << 20, "include_dashboard": False}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # otherwise Ray kills workers when other programs fill the memory
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "disabled",  # ignore this machine's tokens
}
K, QUERIES, THREADS = 10, 50, 2
EVERY = 10.0  # seconds between kills
PAUSE, BETWEEN = 0.2, 0.05  # seconds for which a slow replica stops, and seconds for which it then runs
BUILT = ("round", "command", "done at the kill", "workers lost", "files", "same bytes")
SEARCHED = (
    "while", "replicas", "asks another after", "nodes killed", "answers", "right", "named what is missing", "wrong",
    "p50, ms", "p99", "slowest",
)  # fmt: skip


@contextmanager
def several_nodes(nodes: int = 3) -> Iterator[Any]:
    """Start Ray's test cluster: a head without cores, and nodes with two cores each."""
    with patch.dict(os.environ, ENVIRONMENT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # while Ray is imported and started
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
        try:
            for _ in range(nodes):
                cluster.add_node(**NODE)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def kill_a_node(cluster: Any) -> None:
    """Kill a random node other than the head."""
    cluster.remove_node(random.choice(list(cluster.worker_nodes)), allow_graceful=False)


# --- building ---------------------------------------------------------------------------------------------------------


def lsr(*args: Any, kill_in: Any = None, when: int = 0, there: Callable[[], int] = lambda: 0) -> tuple[str, int]:
    """Run a command, and kill a node of a cluster when there() reaches `when`.

    Returns:
        The command's stderr, and the value of there() at the kill; 0 if the command ended before.
    """
    command, at = [sys.executable, "-m", "lsr", *map(str, args)], 0
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while kill_in and not at and running.poll() is None:
        time.sleep(0.01)
        if (done := there()) >= when:
            at = done
            kill_a_node(kill_in)
    said = running.communicate()[1]
    if running.returncode:
        raise SystemExit(f"{' '.join(command)}: {said}")
    return said, at


def contents(folder: Path) -> list[tuple[str, str]]:
    """Return (name, SHA-256) of the parts of a folder of vectors, or of all shards' files without the names' random
    parts.
    """
    if not (folder / SHARDS).exists():
        return [(path.name, digest_file(path)) for path in sorted(folder.glob("part-*"))]
    manifests = read_manifests(Shards.read(folder)).values()
    return [
        (name.partition("/")[2], entry["sha256"])
        for manifest in manifests
        for name, entry in sorted(manifest["files"].items(), key=lambda item: item[0].partition("/")[2])
    ]


def build(cluster: Any, work: Path, rounds: int, copies: int, shards: int) -> list[dict[str, Any]]:
    """Build repeatedly, killing a node halfway. `one`, a single index, and `shards` stay in `work`."""
    source, vectors, one = work / "docs.jsonl", work / "vectors", work / "one"
    for path in (vectors, one, work / "shards", work / "many", *work.glob("*.partial")):
        shutil.rmtree(path, ignore_errors=True)
    with source.open("w") as file:
        for copy in range(copies):
            file.writelines(json.dumps({**d, "_id": f"{d['_id']}-{copy}"}) + "\n" for d in cranfield("corpus"))
    ray = ["--ray", cluster.address]
    lsr("encode", source, "--encoder", "bm25", "--out", vectors, *ray, "--workers", 1)
    lsr("index", vectors, "--out", one)
    lsr("index", vectors, "--shards", shards, "--out", work / "shards")
    rows = []
    for number in range(1, rounds + 1):
        for args, like, done in (
            (["encode", source, "--encoder", "bm25"], vectors, "many.partial/part-*.json"),
            (["index", vectors, "--shards", shards], work / "shards", "many/shard-*/manifest.json"),
        ):
            whole = sum(1 for _ in like.glob("part-*" if like is vectors else "shard-*"))
            there = partial(lambda pattern: sum(1 for _ in work.glob(pattern)), done)
            said, at = lsr(*args, "--out", work / "many", *ray, kill_in=cluster, when=whole // 2, there=there)
            if at:
                cluster.add_node(**NODE)
            found = contents(work / "many")
            told = [number, args[0], f"{at} of {whole}" if at else "not killed", said.count("is lost"), len(found)]
            rows.append(dict(zip(BUILT, [*told, found == contents(like)], strict=True)))
            shutil.rmtree(work / "many")
    return rows


# --- searching --------------------------------------------------------------------------------------------------------


class Searches:
    """Threads that search until the `with` ends, and compare each result with the result of a single index.

    Attributes:
        right: Number of results that equal the single index's.
        missing: Number of results, or errors, that name missing shards and are otherwise right.
        wrong: Descriptions of all other results and errors.
        milliseconds: Time of each search.

    Args:
        index: The index to test.
        one: A single index of the same documents.
        queries: Query vectors.
        k: Number of documents.
        threads: Number of threads.
    """

    def __init__(
        self, index: ShardedIndex, one: Index, queries: Sequence[SparseMatrix], k: int = K, threads: int = THREADS
    ) -> None:
        self.right, self.missing, self.wrong = 0, 0, list[str]()
        self.milliseconds = list[float]()
        self._index, self._one, self._queries, self._k = index, one, queries, k
        self._rankings = [one.searcher.search(*query.row(0), len(one)) for query in queries]
        ends = np.cumsum([entry.documents for entry in index.shards.entries]).tolist()
        paths = [entry.path for entry in index.shards.entries]
        self._ranges = dict(zip(paths, zip([0, *ends], ends, strict=False), strict=True))
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(threads)]

    def __enter__(self) -> Searches:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def answers(self) -> int:
        """Number of completed searches so far."""
        return len(self.milliseconds)

    def wait_for(self, answers: int) -> None:
        """Wait for a number of further searches, or for a wrong result."""
        enough = self.answers + answers
        while self.answers < enough and not self.wrong:
            time.sleep(0.01)

    def expected(self, number: int, missing: Sequence[str] = ()) -> list[tuple[str, float]]:
        """Return the expected ids and scores of a query, without some shards."""
        docs, scores = self._rankings[number]
        kept = np.ones(len(docs), bool)
        for path in missing:
            first, end = self._ranges[path]
            kept &= (docs < first) | (docs >= end)
        best = zip(docs[kept][: self._k].tolist(), scores[kept][: self._k].tolist(), strict=True)
        return [(self._one.documents.id(doc), score) for doc, score in best]

    def _run(self, seed: int) -> None:
        turns = random.Random(seed)
        while not self._over.is_set():
            number = turns.randrange(len(self._queries))
            began, right, missing, wrong = time.perf_counter(), 0, 0, ""
            try:
                hits = self._index.search(self._queries[number], self._k)
                if [(hit.id, hit.score) for hit in hits] != self.expected(number, list(hits.missing)):
                    wrong = f"query {number}: not what one index finds (missing: {hits.missing})"
                elif hits.missing:
                    missing = 1
                else:
                    right = 1
            except ClusterError as error:
                missing = int(any(path in str(error) for path in self._ranges))
                wrong = "" if missing else str(error)
            except Exception as error:  # any error is a finding
                wrong = f"{type(error).__name__}: {error}"
            with self._lock:
                self.milliseconds.append((time.perf_counter() - began) * 1e3)
                self.right, self.missing = self.right + right, self.missing + missing
                self.wrong += [wrong] if wrong else []


def processes(index: ShardedIndex, shard: int) -> list[int]:
    """Return the process ids of a shard's replicas."""
    import ray

    def own(_: object) -> int:
        return os.getpid()

    return [ray.get(replica._actor.__ray_call__.remote(own)) for replica in index._group.sets[shard].replicas]  # type: ignore[attr-defined]


def replace_a_node(cluster: Any) -> None:
    """Kill a node, and start another node half a period later."""
    time.sleep(EVERY / 2)
    kill_a_node(cluster)
    time.sleep(EVERY / 2)
    cluster.add_node(**NODE)


def slow_down(process: int) -> None:
    """Stop a process briefly, then let it run."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)
        time.sleep(PAUSE)
        os.kill(process, signal.SIGCONT)
    time.sleep(BETWEEN)


def search(cluster: Any, work: Path, seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Search under each condition; return rows of the table, and descriptions of wrong results."""
    one, rows, wrong = Index.open(work / "one"), [], list[str]()
    queries = [one.query_vector(line["text"], "search") for line in cranfield("queries")[:QUERIES]]
    for what, replicas, hedge_after in (
        ("all is well", 2, 0.1),
        ("a replica is slow", 2, 0.1),
        ("a replica is slow", 2, 10.0),
        ("nodes are killed", 2, 0.1),
        ("nodes are killed", 1, 0.1),
    ):
        opened = ShardedIndex.open(
            work / "shards", ray=cluster.address, replicas=replicas, cpus=0.2, hedge_after=hedge_after,
            allow_missing=True,
        )  # fmt: skip
        with opened as index:
            meanwhile, killed, until = partial(time.sleep, 0.1), 0, time.monotonic() + seconds
            if what == "a replica is slow":
                meanwhile = partial(slow_down, processes(index, 0)[0])
            elif what == "nodes are killed":
                meanwhile = partial(replace_a_node, cluster)
            with Searches(index, one, queries) as searches:
                while time.monotonic() < until:
                    meanwhile()
                    killed += what == "nodes are killed"
        wrong += searches.wrong
        taken: NDArray[np.float64] = np.array(searches.milliseconds)
        counts = [searches.answers, searches.right, searches.missing, len(searches.wrong)]
        told = [*counts, *np.percentile(taken, [50, 99]).round(1).tolist(), round(float(taken.max()), 1)]
        rows.append(dict(zip(SEARCHED, [what, replicas, f"{hedge_after:g} s", killed, *told], strict=True)))
    return rows, wrong


def main() -> None:
    """Build, search, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5, help="Rounds of building.")
    parser.add_argument("--seconds", type=float, default=60, help="Seconds of searching per condition.")
    parser.add_argument("--copies", type=int, default=60, help="Copies of the 1,400 documents.")
    parser.add_argument("--shards", type=int, default=8)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    compile_kernels()  # so that the actors don't compile them at the same time
    with several_nodes() as cluster:
        built = build(cluster, args.work, args.rounds, args.copies, args.shards)
        searched, wrong = search(cluster, args.work, args.seconds)
    failures = [f"round {row['round']}, lsr {row['command']}: other bytes" for row in built if not row["same bytes"]]
    failures += wrong[:20]
    for titles, rows in ((BUILT, built), (SEARCHED, searched)):
        print(table([[str(row[title]) for title in titles] for row in rows], titles, "<" * len(titles)) + "\n")
    facts = {"documents": 1400 * args.copies, "shards": args.shards, "seconds": args.seconds, "k": K}
    keep("cluster", facts | {"built": built, "searched": searched, "failures": failures})
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
