"""Compare lsr with other engines on the same vectors: latency, recall, build time, size and memory.

    python PEERS/make_data.py --out FOLDER --n-docs 100000
    python benchmarks/engines.py --data FOLDER [--peers PEERS] [--engines bmp,pisa_maxscore,lsr] [--order topic]
    python benchmarks/vectors.py --data COLLECTIONS --out FOLDER --encoder ENCODER    # or real vectors
    python benchmarks/engines.py --vectors DOCS.jsonl.gz QUERIES.jsonl.gz --engines splade_index,lsr

PEERS is the folder of the peer harness, which measures the engines; $PEERS_HOME holds a virtual environment for each
rival, made by the harness's setup_venvs.sh. Each engine runs in its own process, one query at a time on one thread, and
the engines take turns; a query's latency is the median of its rounds. The timed call is the engine's Python entry point
with a query in the engine's own form (Searcher.search for lsr). All engines get the same 8-bit weights. Recall is the
share of the k results whose true score is at least the true k-th best score, so ties don't matter. BMP rounds query
weights to 1..32 before it searches exactly; --query-levels 32 rounds them for all engines. Peak memory is that of the
building process, including libraries and vectors. Kernels are compiled before a build is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from machine import RESULTS, conditions
from vectors import save

from lsr import SparseMatrix, read_vectors
from lsr.console import note, table

Variants = dict[str, dict[str, Any]]  # {name: keyword arguments of the search}


@dataclass(frozen=True)
class Engine:
    """A build of an engine, and the variants of search to measure.

    Attributes:
        adapter: Name of the harness's class, or "lsr".
        package: Distribution whose version is reported.
        exact: Variants that guarantee the exact ranking.
        approximate: Other variants.
        build: Keyword arguments of the build; only for lsr.
        compiles: Whether to compile kernels on a toy index before the build.
    """

    adapter: str
    package: str
    exact: Variants = field(default_factory=dict)
    approximate: Variants = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    compiles: bool = False


PLAIN: Variants = {"": {}}
BMP_SAFE: Variants = {"safe": {"alpha": 1.0}}
BMP_ALPHA: Variants = {"alpha .8": {"alpha": 0.8}, "alpha .6": {"alpha": 0.6}}
ALPHA: Variants = {f"alpha {alpha}": {"alpha": alpha} for alpha in (0.9, 0.8, 0.7, 0.6, 0.5)}
SEISMIC: Variants = {
    f"cut {cut} heap {heap}": {"cut": cut, "hf": heap}
    for cut, heap in (*((c, h) for c in (3, 5, 8) for h in (1.0, 0.9, 0.8)), (12, 0.7), (40, 0.6))
}
CLUSTERS: Variants = {
    f"cut {cut} heap {heap}": {"algorithm": "clusters", "cut": cut, "heap_factor": heap}
    for cut, heap in (*((c, h) for c in (5, 8, 12) for h in (1.1, 1.0, 0.9)), (12, 0.8), (40, 0.7))
}
# To try another search setting of lsr, add a variant to `exact` or `approximate`: {"alpha .8": {"alpha": 0.8}}. To try
# another build, add an engine: Engine("lsr", "lsr-search", PLAIN, build={"impacts": "float32"}, compiles=True).
ENGINES = {
    "lsr": Engine("lsr", "lsr-search", PLAIN | {"exhaustive": {"algorithm": "exhaustive"}}, ALPHA, compiles=True),
    "lsr_clusters": Engine("lsr", "lsr-search", approximate=CLUSTERS, build={"clusters": True}, compiles=True),
    "numba_taat": Engine("numba_taat", "numba", PLAIN),
    "splade_index": Engine("splade_index", "splade-index", PLAIN, compiles=True),
    "qdrant_edge": Engine("qdrant_edge", "qdrant-edge-py", PLAIN),
    "pisa_maxscore": Engine("pisa", "pyterrier-pisa", {"": {"algo": "maxscore"}}),
    "bmp": Engine("bmp32", "bmp", BMP_SAFE, BMP_ALPHA),
    "bmp8": Engine("bmp8", "bmp", BMP_SAFE, BMP_ALPHA),
    "seismic": Engine("seismic", "pyseismic-lsr", approximate=SEISMIC),
}
RECALLS = (0.97, 0.99)  # recalls at which approximate engines are compared
BUILD_TIMEOUT = 7200  # seconds


def lay_out(vectors: Path, queries: Path, folder: Path) -> None:
    """Convert vectors of documents and queries, in any format that lsr reads, to the harness's files."""
    documents = read_vectors(vectors)
    matrix = SparseMatrix.vstack([batch.vectors for batch in documents])
    tokens = documents.vocabulary
    asked = SparseMatrix.vstack([batch.vectors for batch in read_vectors(queries, vocabulary=tokens)])
    save(folder, "docs", matrix)
    save(folder, "queries", asked.within(matrix.shape[1]))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the harness over the engines, and return the content of its result file."""
    with tempfile.TemporaryDirectory(prefix="lsr-engines-") as folder:
        work = Path(folder)
        for name in ("run_peers.py", "worker.py"):
            shutil.copyfile(args.peers / name, work / name)
        shutil.copyfile(args.peers / "adapters.py", work / "harness.py")
        shutil.copyfile(Path(__file__).with_name("engine_adapters.py"), work / "adapters.py")
        (work / "engines.json").write_text(json.dumps({name: asdict(ENGINES[name]) for name in args.engines}))
        options = {
            "--data": args.data.resolve(),
            "--peers": ",".join(args.engines),
            "--k": args.k,
            "--order": args.order,
            "--queries": args.queries,
            "--rounds": args.rounds,
            "--qmax": args.query_levels,
            "--timeout": BUILD_TIMEOUT,
            "--tmp": work / "indexes",
            "--json": work / "out.json",
        }
        command = [sys.executable, str(work / "run_peers.py"), *(str(x) for pair in options.items() for x in pair)]
        if args.sequential:
            command.append("--sequential")
        done = subprocess.run(command, stdout=sys.stderr)
        if done.returncode:
            raise SystemExit(f"the harness failed with exit code {done.returncode}; its output is above")
        measured: dict[str, Any] = json.loads((work / "out.json").read_text())
    return measured


def builds_of(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows of the builds."""
    return [
        {
            "engine": name,
            "version": peer["note"],
            "build_seconds": round(peer["build_s"], 2),
            "index_bytes": peer["index_bytes"],
            "peak_mb": round(peer["hwm"] / 1e6),
        }
        for name, peer in measured["peers"].items()
        if peer["ok"]
    ]


def searches_of(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows of latency and recall by k, fastest first, with the ratio to the fastest exact rival."""
    rows: list[dict[str, Any]] = []
    for result in measured["results"]:
        name = result["peer"]
        if "error" in result:
            note(f"{name} {result['variant']} k={result['k']}: {result['error']}")
            continue
        latency = {p: round(result[f"{p}_ms"], 4) for p in ("median", "mean", "p95", "p99")}
        exact = result["variant"] in ENGINES[name].exact
        row = {"engine": name, "variant": result["variant"], "exact": exact, "k": result["k"]}
        rows.append({**row, "recall": round(result["recall"], 4), "latency_ms": latency})
    for row in rows:
        rivals = [r for r in rows if r["k"] == row["k"] and r["exact"] and ENGINES[r["engine"]].adapter != "lsr"]
        if rivals:
            fastest = min(rivals, key=_median)
            row["fastest_exact_rival"] = title(fastest)
            row["times_its_median"] = round(_median(row) / _median(fastest), 3)
    return sorted(rows, key=lambda row: (row["k"], _median(row)))


def best_of(searches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the fastest variant of each approximate engine, and of lsr, at each recall; None if no variant reaches
    it.
    """
    best = []
    for k in sorted({row["k"] for row in searches}):
        for recall in RECALLS:
            for name in dict.fromkeys(row["engine"] for row in searches):
                if ENGINES[name].approximate or ENGINES[name].adapter == "lsr":
                    rows = [r for r in searches if (r["engine"], r["k"]) == (name, k) and r["recall"] >= recall]
                    fastest = min(rows, key=_median, default=None)
                    best.append({"k": k, "recall_at_least": recall, "engine": name, "fastest": fastest})
    return sorted(best, key=lambda b: (b["k"], b["recall_at_least"], _median(b["fastest"]) if b["fastest"] else 1e9))


def title(row: dict[str, Any]) -> str:
    """Return engine and variant as text."""
    return f"{row['engine']} {row['variant']}".rstrip()


def _median(row: dict[str, Any]) -> float:
    return float(row["latency_ms"]["median"])


def show(facts: dict[str, Any]) -> None:
    """Print the tables."""
    print(table([(k, str(v)) for k, v in facts.items() if not isinstance(v, (list, dict))], ("", ""), "<<"))
    lines = []
    for b in facts["builds"]:
        size = f"{b['index_bytes'] / 1e6:,.0f}" if b["index_bytes"] else "-"
        lines.append((b["engine"], b["version"], f"{b['build_seconds']:,.1f}", size, f"{b['peak_mb']:,}"))
    print("\n" + table(lines, ("engine", "version", "build s", "index MB", "peak MB"), "<<>>>"))
    lines = []
    for row in facts["searches"]:
        times = f"{row['times_its_median']:.2f} {row['fastest_exact_rival']}" if "times_its_median" in row else "-"
        kind = "exact" if row["exact"] else "approximate"
        latency = (f"{x:.3f}" for x in row["latency_ms"].values())
        lines.append((str(row["k"]), title(row), kind, f"{row['recall']:.4f}", *latency, times))
    header = ("k", "ms per query", "", "recall", "median", "mean", "p95", "p99", "times the fastest exact rival")
    print("\n" + table(lines, header, "><<>>>>><"))
    lines = []
    for b in facts["best_at_recall"]:
        row, asked = b["fastest"], (str(b["k"]), f"{b['recall_at_least']:.2f}")
        if row:
            lines.append((*asked, title(row), f"{row['recall']:.4f}", f"{_median(row):.3f}"))
        else:
            lines.append((*asked, f"{b['engine']}: none reaches it", "-", "-"))
    print("\n" + table(lines, ("k", "recall >=", "fastest variant", "recall", "median"), ">><>>"))


def main() -> None:
    """Measure, print and store the figures."""
    default_peers = os.environ.get("LSR_PEERS", Path(__file__).resolve().parents[2] / "shared" / "peers")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="output of the harness's make_data.py")
    parser.add_argument(
        "--vectors", type=Path, nargs=2, metavar=("DOCS", "QUERIES"), help="files of vectors instead of --data"
    )
    parser.add_argument("--peers", type=Path, default=default_peers, help="(default: $LSR_PEERS, else ../shared/peers)")
    parser.add_argument(
        "--engines", default="bmp,pisa_maxscore,seismic,splade_index,lsr,lsr_clusters", help=", ".join(ENGINES)
    )
    parser.add_argument("--k", default="10,100,1000")
    parser.add_argument("--order", choices=("random", "topic"), default="random", help="order of the documents")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--query-levels", type=int, default=0, help="round query weights to 1..LEVELS for all engines")
    parser.add_argument("--sequential", action="store_true", help="run one engine at a time, to save memory")
    parser.add_argument("--json", type=Path, help="(default: results/engines-DOCUMENTS-ORDER.json)")
    args = parser.parse_args()
    args.engines = args.engines.split(",")
    if unknown := [name for name in args.engines if name not in ENGINES]:
        parser.error(f"unknown engines: {', '.join(unknown)}; known are {', '.join(ENGINES)}")
    if (args.data is None) == (args.vectors is None):
        parser.error("give either --data or --vectors")
    folder = Path(tempfile.mkdtemp(prefix="lsr-vectors-"))
    if args.vectors:
        lay_out(*args.vectors, folder)
    args.data = args.data or folder
    for path, what in ((args.peers / "run_peers.py", "--peers"), (args.data / "docs.indptr.npy", "--data")):
        if not path.is_file():
            parser.error(f"{what}: {path} doesn't exist")
    load = round(os.getloadavg()[0], 1)
    measured = measure(args)
    shutil.rmtree(folder)
    searches = searches_of(measured)
    facts = {
        **conditions(),
        "load_before": load,
        "documents": measured["n_docs"],
        "postings": measured["nnz"],
        "order": args.order,
        "queries": args.queries,
        "rounds": args.rounds,
        "query_levels": args.query_levels or 255,
        "engines_at_once": not args.sequential,
        "builds": builds_of(measured),
        "searches": searches,
        "best_at_recall": best_of(searches),
        "failed": {name: peer["error"] for name, peer in measured["peers"].items() if not peer["ok"]},
    }
    show(facts)
    for name, error in facts["failed"].items():
        note(f"{name} is missing: {error}")
    path = args.json or RESULTS / f"engines-{measured['n_docs']}-{args.order}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"\nkept in {path}")


if __name__ == "__main__":
    main()
