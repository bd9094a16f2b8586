"""Write the tables of README.md, docs/ and the model cards from benchmarks/results/, with command, machine and date.

    python benchmarks/tables.py [--check]

The script replaces everything between `<!-- table: NAME -->` and `<!-- end of table -->`. Run it after a benchmark has
written new results. --check changes nothing and fails if a page is out of date.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_SYSTEMS = {
    "lsr lsr-mini, hybrid": "lsr-mini, hybrid",
    "lsr lsr-mini": "lsr-mini",
    "lsr lsr-tiny": "lsr-tiny",
    "lsr bm25": "BM25",
    "bm25s": "bm25s 0.3.16",
}
_PARTS = {
    "lsr lsr-mini, dense": "lsr-mini, dense vector alone",
    "lsr lsr-mini, query model": "lsr-mini, query model",
    "lsr lsr-mini, learned half": "lsr-mini, learned half alone",
    "lsr lsr-mini, query model, learned half": "lsr-mini, learned half alone, query model",
    "lsr lsr-tiny, learned half": "lsr-tiny, learned half alone",
}
_QUERY_MODEL = {
    "lsr lsr-mini": "lsr-mini",
    "lsr lsr-mini, query model": "lsr-mini, with splade-tiny",
    "lsr lsr-mini, learned half": "learned half alone",
    "lsr lsr-mini, query model, learned half": "learned half alone, with splade-tiny",
}
_SPLADE = {"lsr, uint8": "8-bit impacts", "lsr, float32": "float32 impacts", "scipy CSC": "scipy CSC product"}
QUALITY = "NUMBA_NUM_THREADS=1 python benchmarks/quality.py --data FOLDER"


def result(name: str) -> dict[str, Any]:
    """Read a benchmark's results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def caption(command: str, found: dict[str, Any]) -> str:
    """Format command, machine and date."""
    return f"\n`{command}` · {found['machine']} · {found['date']}\n"


def quality() -> str:
    """All systems on all collections."""
    found = result("quality")
    rows = [
        (
            row["collection"],
            (_SYSTEMS | _PARTS | _SPLADE)[row["system"]],
            *(f"{row[measure]:.3f}" for measure in ("nDCG@10", "RR@10", "R@100")),
            *(f"{row['search_ms'][p]:.3f}" for p in ("p50", "p99")),
        )
        for row in found["rows"]
    ]
    header = ("collection", "system", "nDCG@10", "RR@10", "R@100", "p50, ms", "p99, ms")
    return table(header, rows) + caption(QUALITY, found)


def quality_means(systems: Mapping[str, str] = _SYSTEMS) -> str:
    """nDCG@10 of each system on each collection, and the mean."""
    found = result("quality")
    values: dict[str, dict[str, float]] = {}
    for row in found["rows"]:
        if row["system"] in systems:
            values.setdefault(systems[row["system"]], {})[row["collection"]] = row["nDCG@10"]
    sets = list(next(iter(values.values())))
    rows = [
        (name, *(f"{own[one]:.3f}" for one in sets), f"**{sum(own.values()) / len(own):.3f}**")
        for name, own in values.items()
    ]
    return table(("nDCG@10", *map(_short, sets), "mean"), rows) + caption(QUALITY, found)


def card(systems: Mapping[str, str]) -> str:
    """Quality of a model on each collection, with its 95 % intervals and its difference from BM25."""
    found = result("quality")
    own = {(row["collection"], row["system"]): row for row in found["rows"]}
    sets = list(dict.fromkeys(name for name, system in own if system == "bm25s"))

    def cells(name: str, system: str) -> list[str]:
        row = own[name, system]
        value = f"{row['nDCG@10']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})"
        away = row["beside_bm25"]
        return [value, f"{away['difference']:+.3f} ({away['low']:+.3f} to {away['high']:+.3f})"]

    rows = [
        (
            name,
            *(cell for system in systems for cell in cells(name, system)),
            *(f"{own[name, system]['R@100']:.3f}" for system in (*systems, "lsr bm25")),
        )
        for name in sets
    ]
    means = [
        [_mean(own[name, system][measure] for name in sets) for system in (*systems, "lsr bm25")]
        for measure in ("nDCG@10", "R@100")
    ]
    bm25 = means[0].pop()
    quality = [cell for mean in means[0] for cell in (f"**{mean:.3f}**", f"{mean - bm25:+.3f}")]
    rows.append(("mean", *quality, *(f"{mean:.3f}" for mean in means[1])))
    header = [cell for name in systems.values() for cell in (f"nDCG@10, {name}", "beside BM25")]
    recalls = [f"R@100, {name}" for name in (*systems.values(), "BM25")]
    return table(("collection", *header, *recalls), rows) + caption(QUALITY, found)


def bm25_held_out() -> str:
    """BM25 with other settings, on collections that weren't used to choose the defaults."""
    found = result("bm25")
    rows = [[f"{v:.3f}" if isinstance(v, float) else f"`{v}`" for v in row.values()] for row in found["held_out"]]
    header = ("setting", *list(found["held_out"][0])[1:])
    return table(header, rows) + caption("python benchmarks/bm25.py --data FOLDER", found)


def languages() -> str:
    """Collections in two languages, with several ways to choose the language of a text."""
    found = result("languages")
    rows = []
    for pair, row in found["pairs"].items():
        away = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        rows.append([pair.replace(" ", ", "), *(f"{mean:.3f}" for mean in row["means"]), away])
    header = (
        "nDCG@10",
        "only the first",
        "only the second",
        "by hand",
        "either",
        "auto",
        "auto minus by hand",
    )
    return table(header, rows) + caption("python benchmarks/languages.py --data FOLDER", found)


def encoders() -> str:
    """Texts per second of each encoder."""
    found = result("encoders")
    header, rows = (
        ["encoder", "texts/s"],
        [[row["encoder"], f"{row['texts_per_second']:,.0f}"] for row in found["rows"]],
    )
    if all("query_ms" in row for row in found["rows"]):
        header.append("ms a query")
        rows = [[*cells, f"{row['query_ms']:.2f}"] for cells, row in zip(rows, found["rows"], strict=True)]
    return table(header, rows) + caption("python benchmarks/encoders.py", found)


def encoding(name: str = "encoding-cranfield", options: str = "") -> str:
    """Encoding speed compared with sentence-transformers on the same weights."""
    found = result(name)
    graph = "8 bit, ONNX Runtime" + ("" if options else ", the graph of lsr-mini")
    rows = [
        (
            row["system"].replace("8 bit", graph),
            f"{row['documents_s']:.1f}",
            f"{row['tokens_s']:,.0f}",
            f"{row['times']:.2f}",
            f"{row['peak_mb']:,.0f} MB",
        )
        for row in found["rows"]
    ]
    header = ("system", "documents/s", "tokens/s", "times", "peak memory")
    return table(header, rows) + caption(f"python benchmarks/encoding.py{options}", found)


LIVING = "NUMBA_NUM_THREADS=1 python benchmarks/living.py --data FOLDER --work WORK"


def segments() -> str:
    """Latency by number of segments."""
    found = result("living")
    rows = [(row["index"], f"{row['p50']:.3f}", f"{row['mean']:.3f}", f"{row['p99']:.2f}") for row in found["segments"]]
    return table(("index", "p50, ms", "mean", "p99"), rows) + caption(LIVING, found)


def additions() -> str:
    """Time until additions are visible."""
    found = result("living")
    rows = [
        (f"{row['documents']:,}", f"{row['visible_ms']:.0f}", f"{row['documents_per_second']:,.0f}")
        for row in found["adds"]
    ]
    header = ("documents added and committed", "ms until another reader sees them", "documents/s")
    return table(header, rows) + caption(LIVING, found)


def filters() -> str:
    """Latency with filters."""
    found = result("living")
    rows = [
        (
            f"{row['share']:.2%}",
            f"{row['lsr_ms']['p50']:.2f}",
            f"{row['lsr_ms']['p99']:.2f}",
            f"{row['scan_ms']['p50']:.1f}",
            f"{row['times']:.0f}x",
        )
        for row in found["filters"]
    ]
    header = ("a filter leaves", "p50, ms", "p99", "scipy's product, then the filter", "times")
    return table(header, rows) + caption(LIVING, found)


def _engine_rows(found: dict[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return {engine and variant: {k: search}} for exact search."""
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for row in found["searches"]:
        if row["exact"]:
            rows.setdefault(f"{row['engine']} {row['variant']}".strip(), {})[row["k"]] = row
    return rows


_EXACT = {
    "lsr": "lsr, exact",
    "lsr exhaustive": "lsr, every posting",
    "splade_index": "splade-index 0.2.0",
    "bmp safe": "BMP 0.2.8, safe, recall .97",
    "pisa_maxscore": "PISA 0.4.9, MaxScore",
    "qdrant_edge": "Qdrant Edge 0.9.0",
}


def _build_cells(found: dict[str, Any], key: str) -> tuple[str, str]:
    """Return the build time and the size of an engine's index; empty for another search of the same index."""
    if key == "lsr exhaustive":
        return "", ""
    build = next(row for row in found["builds"] if row["engine"] == key.split()[0])
    return f"{build['build_seconds']:.0f} s", f"{build['index_bytes'] / 1e9:.2f} GB"


def engines() -> str:
    """Exact search of all engines."""
    small, large = result("engines-100000-random"), result("engines-1000000-topic")
    both = [_engine_rows(small), _engine_rows(large)]
    rows = []
    for key, name in _EXACT.items():
        cells = []
        for engine in both:
            for k in (10, 100, 1000):
                ms = engine[key][k]["latency_ms"]
                cells.append(f"{_digits(ms['median'])} ({_digits(ms['mean'])})")
        rows.append((name, *cells, *_build_cells(large, key)))
    header = ("median (mean), ms", *(f"{n}, k = {k}" for n in ("100,000", "1 million") for k in (10, 100, 1000)))
    return table((*header, "build, 1 million", "size"), rows) + caption(
        "python benchmarks/engines.py --data FOLDER", large
    )


def engines_short() -> str:
    """Exact search of engines on a million documents, for the README."""
    large = result("engines-1000000-topic")
    rows = []
    for key, name in _EXACT.items():
        if key != "lsr exhaustive":
            found = _engine_rows(large)[key]
            ms = [_digits(found[k]["latency_ms"]["median"]) for k in (10, 100, 1000)]
            rows.append((name, *ms, *_build_cells(large, key)))
    header = ("ms per query, median", "k = 10", "k = 100", "k = 1000", "build", "size")
    return table(header, rows) + caption("python benchmarks/engines.py --data FOLDER", large)


def _digits(ms: float) -> str:
    return f"{ms:.3f}" if ms < 1 - 5e-4 else f"{ms:.2f}"


def engines_real() -> str:
    """Search of engines on real vectors: the exact ones, and approximate ones that reach a recall of .97 and .99."""
    found = result("engines-real")
    engines, rows = _engine_rows(found), []
    for key, name in _EXACT.items():
        if key in engines:
            ms = [engines[key][k]["latency_ms"] for k in (10, 100, 1000)]
            cells = (f"{_digits(one['median'])} ({_digits(one['mean'])})" for one in ms)
            rows.append((name.removesuffix(", recall .97"), *cells, *_build_cells(found, key)))
    best = {(row["engine"], row["k"], row["recall_at_least"]): row["fastest"] for row in found["best_at_recall"]}
    for engine, name in (("seismic", "Seismic 0.5.4"), ("lsr_clusters", "lsr, clusters")):
        for recall in (0.97, 0.99):
            ms = [best[engine, k, recall]["latency_ms"] for k in (10, 100, 1000)]
            cells = (f"{_digits(one['median'])} ({_digits(one['mean'])})" for one in ms)
            rows.append((f"{name}, recall {recall:.2f}", *cells, *_build_cells(found, engine)))
    header = ("median (mean), ms", "k = 10", "k = 100", "k = 1000", "build", "size")
    return table(header, rows) + caption("python benchmarks/engines.py --data VECTORS", found)


def planner() -> str:
    """The cost of choosing an algorithm."""
    found = result("planner")
    rows = []
    for row in found["rows"]:
        means = (f"{_digits(row['ms'][way]['mean'])}" for way in ("exhaustive", "blocks", "known", "auto"))
        what = (row["collection"], f"{row['documents']:,}", row["index"], str(row["k"]))
        rows.append((*what, *means, f"{row['regret']:.2f}", f"{row['beside_scan']:.2f}"))
    header = ("collection", "documents", "index", "k", "scan, ms", "blocks", "known", "auto", "regret", "auto / scan")
    return table(header, rows) + caption("NUMBA_NUM_THREADS=1 python benchmarks/planner.py --data FOLDER", found)


def engine_goals() -> str:
    """The engine's goals: the ratios before the second design, now, and with the k-th best score known beforehand."""
    large, real, big = result("engines-1000000-topic"), result("engines-real"), result("scale-8841823")
    chosen = {(row["collection"], row["index"], row["k"]): row["ms"] for row in result("planner")["rows"]}
    batches = [row["times"]["batch, 2 cores"] for row in result("batch")["rows"]]

    def beside_rivals(found: dict[str, Any], k: int) -> float:
        engines = {name: ks[k]["latency_ms"]["median"] for name, ks in _engine_rows(found).items()}
        return float(min(ms for name, ms in engines.items() if name.split()[0] != "lsr") / engines["lsr"])

    def beside_scan(way: str, k: int) -> str:
        kinds = (big[f"{kind}, k={k}"] for kind in ("SPLADE", "inference-free"))
        return ", ".join(f"{ways['exhaustive']['p50'] / ways[way]['p50']:.1f}x" for ways in kinds)

    def million(way: str, k: int, index: str = "1 segment", percentile: str = "p50") -> float:
        return float(chosen["synthetic-1M", index, k][way][percentile])

    ten = "10 segments, as commits leave them"
    stored = [_bytes_together(one) for one in _stored_bytes()]
    build = next(row["build_seconds"] for row in large["builds"] if row["engine"] == "lsr")
    approximate = {(row["engine"], row["recall_at_least"]): row for row in real["best_at_recall"] if row["k"] == 10}
    seismic = approximate["seismic", 0.99]["fastest"]["latency_ms"]["median"]
    exact = _engine_rows(real)["lsr"][10]["latency_ms"]["median"]
    rows = [
        ("a million, k = 10, the fastest exact rival's time", "3.4x", f"{beside_rivals(large, 10):.1f}x", "4x", ""),
        ("412,230 real documents, the same", "", f"{beside_rivals(real, 10):.1f}x", "4x", ""),
        *(
            (f"8.8 million, k = {k}, the scan's time", before, beside_scan("auto", k), goal, beside_scan("known", k))
            for k, before, goal in ((10, "5.0x, 5.6x", "10x"), (100, "1.6x, 1.3x", "3x"), (1000, "1.0x", "1.7x"))
        ),
        (
            "a million, k = 100, the scan's time",
            "1.0x",
            f"{million('exhaustive', 100) / million('auto', 100):.1f}x",
            "1.5x",
            f"{million('exhaustive', 100) / million('known', 100):.1f}x",
        ),
        (
            "a million, k = 10, p99 over p50",
            "3.9",
            f"{million('auto', 10, percentile='p99') / million('auto', 10):.1f}",
            "2.5",
            f"{million('known', 10, percentile='p99') / million('known', 10):.1f}",
        ),
        (
            "ten segments, as commits leave them, k = 10, one segment's time",
            "2.5x",
            f"{million('auto', 10, ten) / million('auto', 10):.1f}x",
            "1.6x",
            f"{million('known', 10, ten) / million('known', 10):.1f}x",
        ),
        ("bytes a posting, synthetic, real", "3.90", ", ".join(f"{size:.2f}" for size in reversed(stored)), "2.6", ""),
        ("real, k = 10, Seismic's time at a recall of .99 and lsr's, exact", "", f"{seismic / exact:.1f}x", "1x", ""),
        (
            "1,000 queries on two cores, one by one",
            "1.5x to 1.8x",
            f"{min(batches):.1f}x to {max(batches):.1f}x",
            "1.9x",
            "",
        ),
        ("building a million, ordered", "18 s", f"{build:.0f} s", "12 s", ""),
    ]
    header = ("", "2026-11-21", "now", "goal", "with the threshold known")
    return table(header, rows) + caption("python benchmarks/tables.py", result("planner"))


def batch() -> str:
    """A batch compared with single queries."""
    found = result("batch")
    ways = list(found["rows"][0]["ms"])
    rows = [
        (
            row["data"],
            f"{row['documents']:,}",
            str(row["k"]),
            *(f"{_digits(row['ms'][way])} ({row['times'][way]:.2f})" for way in ways),
        )
        for row in found["rows"]
    ]
    text = table(("ms a query (times as fast)", "documents", "k", *ways), rows)
    return text + caption("NUMBA_NUM_THREADS=1 python benchmarks/batch.py --data FOLDER", found)


def scale() -> str:
    """8.8 million documents."""
    found = result("scale-8841823")
    rows = []
    for queries in ("SPLADE", "inference-free"):
        for k in (10, 100, 1000):
            ways = found[f"{queries}, k={k}"]
            scan, exact, alpha, known = (ways[way] for way in ("exhaustive", "auto", "alpha 0.8", "known"))
            rows.append(
                (
                    queries,
                    str(k),
                    f"{scan['p50']:.2f}",
                    *(f"{exact[p]:.2f}" for p in ("p50", "mean", "p99")),
                    f"{scan['p50'] / exact['p50']:.1f}x",
                    f"{known['p50']:.2f}",
                    f"{alpha['p50']:.2f}",
                    f"{alpha['recall']:.3f}",
                )
            )
    header = ("queries", "k", "every posting, p50, ms", "lsr exact, p50", "mean", "p99", "times")
    return table((*header, "known, p50", "alpha 0.8, p50", "recall"), rows) + caption(
        "python benchmarks/scale.py --peers FOLDER", found
    )


def capacity() -> str:
    """Machines and latency for large collections, k = 10."""
    found = result("capacity-8841823")
    columns = [name for name in found["capacity"][0] if name != "k"]
    rows = [[str(row[name]) for name in columns] for row in found["capacity"] if int(row["k"]) == 10]
    command = "NUMBA_NUM_THREADS=1 python benchmarks/capacity.py --peers FOLDER"
    return table(columns, rows) + caption(command, found)


def report() -> str:
    """All systems of the report, with marks for significant differences from the baseline."""
    found = result("report/experiment")
    measure, sets = found["measures"][0], [one["name"] for one in found["datasets"]]
    marks = {
        (row["dataset"], row["system"]): "▲" if row["difference"] > 0 else "▼"
        for row in found["comparisons"]
        if row["measure"] == measure and row["p_corrected"] < 0.05
    }
    rows = []
    for system in found["systems"]:
        name = system["name"]
        own = {row["dataset"]: row for row in found["results"] if row["system"] == name}
        cells = [f"{own[one]['measures'][measure]:.3f}{marks.get((one, name), '')}" for one in sets]
        mean = _mean(row["measures"][measure] for row in own.values())
        times = [row["search_ms"]["p50"] for row in own.values() if row["search_ms"]]
        recalls = [row["recall"] for row in own.values() if row["recall"] is not None]
        rest = (f"{_mean(times):.3f}" if times else "", f"{_mean(recalls):.3f}" if recalls else "")
        rows.append((name, *cells, f"**{mean:.3f}**", *rest))
    command = "NUMBA_NUM_THREADS=1 python benchmarks/report.py --data FOLDER --work WORK"
    found = {**found, "date": found["date"].split("T")[0]}
    return table((measure, *map(_short, sets), "mean", "p50, ms", "recall"), rows) + caption(command, found)


def _short(name: str) -> str:
    return name.removesuffix("-evidence").removesuffix("-pool").removesuffix("-clapnq")


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


_APPROXIMATE = {"lsr_clusters": "lsr, clusters", "lsr": "lsr, alpha", "seismic": "Seismic 0.5.4"}


def approximate() -> str:
    """The fastest setting of each engine that reaches a recall, with a million documents."""
    found = result("engines-1000000-topic")
    rows = []
    for k in (10, 100):
        for recall in (0.97, 0.99):
            cells = []
            for engine in _APPROXIMATE:
                some = [
                    row
                    for row in found["searches"]
                    if row["engine"] == engine and row["k"] == k and not row["exact"] and row["recall"] >= recall
                ]
                best = min(some, key=lambda row: float(row["latency_ms"]["median"]))
                cells.append(f"{_digits(best['latency_ms']['median'])} at {best['recall']:.3f} ({best['variant']})")
            rows.append((str(k), f"{recall:.2f}", *cells))
    return table(("k", "recall", *_APPROXIMATE.values()), rows) + caption(
        "python benchmarks/engines.py --data FOLDER", found
    )


def reproduced() -> str:
    """Published figures and lsr's figures."""
    found = result("reproduced")
    rows = [
        (
            row["what"],
            row["measure"],
            f"{row['published']:.4f}",
            f"{row['here']:.4f}",
            "yes" if row["reproduced"] else f"no: {row['why'] or 'it differs'}",
        )
        for row in found["rows"]
    ]
    header = ("figure", "measure", "published", "here", f"within {found['within']}")
    return table(header, rows) + caption("python benchmarks/reproduced.py --data FOLDER", found)


def million() -> str:
    """A million random documents."""
    found = result("million-1000000")

    def search(k: str) -> str:
        own, scipy = found["latency_ms"][k]["lsr"], found["latency_ms"][k]["scipy"]
        return (
            f"p50 {own['p50']:.2f} ms, p99 {own['p99']:.2f} ms; scipy's CSC product p50 {scipy['p50']:.1f} ms, "
            f"{scipy['p50'] / own['p50']:.1f} times as long"
        )

    rows = [
        (
            "build",
            f"{found['build_seconds']} s, {found['documents_per_second']:,} documents/s, "
            f"{found['postings'] / 1e6:.0f} million postings",
        ),
        (
            "peak memory of the build",
            f"{found['build_peak_mb']:,} MB, of which {found['of_that_before_building_mb']} MB are Python, Numba and "
            "libraries; mapped files count",
        ),
        ("size", f"{found['bytes_per_posting']} bytes a posting, {found['bytes_per_posting_with_ids']} with ids"),
        ("open", f"{found['open_ms']['p50']:.1f} ms"),
        ("search, k = 10", search("k=10")),
        ("search, k = 1000", search("k=1000")),
        ("queries with the same scores as brute force", found["queries_equal_to_brute_force"]),
    ]
    return table(("", ""), rows) + caption("python benchmarks/million.py", found)


def killed_writers() -> str:
    """Killed writers, while readers checked every snapshot."""
    rows = [
        (
            *(f"{found[key]:,}" for key in ("kills", "survived", "generations", "snapshots_checked")),
            str(len(found["failures"])),
            f"{found['seconds'] / 60:.0f} minutes",
            str(found["readers"]),
        )
        for found in (result("soak"), result("kills"))
    ]
    header = ("kills (-9)", "survived", "commits", "snapshots checked", "errors", "time", "readers")
    command = "python benchmarks/soak.py --work WORK"
    return table(header, rows) + caption(command, result("soak"))


def served() -> str:
    """A server under load."""
    found = result("serve")
    rows = [
        ("requests a second", f"{found['requests_per_second']:.0f}"),
        ("p50, p99", f"{found['p50_ms']:.0f} ms, {found['p99_ms']:.0f} ms"),
        ("errors", str(found["errors"])),
        (
            "wrong answers",
            f"{len(found['failures'])} of {found['answers_checked']:,}, while {found['pairs_committed']} pairs were "
            "committed",
        ),
        (
            "memory",
            f"{found['megabytes_first_quarter']:.0f} MB in the first quarter, {found['megabytes_last_quarter']:.0f} MB "
            "in the last",
        ),
        (
            "the same queries from Python, one at a time",
            f"{found['python_p50_ms']:.2f} ms (p99 {found['python_p99_ms']:.2f}), "
            f"{found['python_queries_per_second']:.0f} a second",
        ),
    ]
    return table(("", ""), rows) + caption("python benchmarks/serve.py --work WORK", found)


def cluster() -> str:
    """A cluster whose nodes are killed."""
    found = result("cluster")
    builds, searches = found["built"], found["searched"]
    two = {row["while"]: row for row in searches if row["replicas"] == 2}
    total = {key: sum(row[key] for row in searches) for key in ("answers", "right", "named what is missing", "wrong")}
    well, killed = two["all is well"]["p50, ms"], two["nodes are killed"]["p50, ms"]
    rows = [
        (
            "builds that lost a node and gave the same bytes",
            f"{sum(row['same bytes'] for row in builds)} of {len(builds)}",
        ),
        (
            f"results, while {sum(row['nodes killed'] for row in searches)} nodes were killed and one shard was slow",
            f"{total['answers']:,}",
        ),
        (
            "right; right except for missing shards that they named; wrong",
            f"{total['right']:,}; {total['named what is missing']}; {total['wrong']}",
        ),
        ("p50 with two replicas, all well; while nodes were killed", f"{well:.0f} ms; {killed:.0f} ms"),
    ]
    command = "python benchmarks/cluster.py --work WORK --rounds 2 --seconds 15 --shards 4 --copies 20"
    return table(("", ""), rows) + caption(command, found)


def ablations() -> str:
    """nDCG@10 of each regularizer at equal document lengths, interpolated between its runs."""
    found, lengths = result("ablations"), (85, 120, 160)
    queries = {
        "IDF-aware FLOPS, queries of IDF": ("IDF-aware FLOPS", "IDF"),
        "FLOPS": ("FLOPS", "learned, starting from the IDF"),
        "FLOPS, queries of 1": ("FLOPS", "all 1"),
        "l0 mask, double log": ("l0 mask, double log", "learned"),
        "FLOPS, double log": ("FLOPS, double log", "learned"),
    }
    rows = []
    for variant, names in queries.items():
        runs = sorted((math.log(r["terms"]), r["nDCG@10"]) for r in found["rows"] if r["variant"] == variant)
        at = np.interp([math.log(length) for length in lengths], *zip(*runs, strict=True))
        rows.append((*names, *(f"{value:.3f}" for value in at)))
    header = ("", "queries", *(f"{length} terms" for length in lengths))
    command = "python benchmarks/ablations.py --data FOLDER --work WORK"
    return table(header, rows) + caption(command, found)


def order() -> str:
    """Blocks that could contain one of the best 10 documents, by the order of storage."""
    found, real = result("order-1000000"), result("order-176408")
    names = {
        "oracle": "the generator's own, an oracle",
        "ours": "clusters, then bisection (what lsr does from 262,144 documents on)",
        "bisection alone": "bisection alone (what lsr does with fewer)",
        "random": "random",
    }
    rows = [
        (name, *(f"{one[key]['k=10, 128 documents']['left_mean']:,.0f}" if key in one else "" for one in (found, real)))
        for key, name in names.items()
    ]
    header = ("order", "a million synthetic documents", "176,408 real ones")
    return table(header, rows) + caption("python benchmarks/order.py --data FOLDER", found)


_POSTING_FILES = {
    "gaps": "longer lists, as gaps",
    "postings": "short lists",
    "dense": "rows of frequent terms",
    "maxima": "block maxima",
    "skips": "where to enter a list",
    "lists": "positions of lists",
    "terms": "terms",
}


def _stored_bytes() -> tuple[dict[str, float], dict[str, float]]:
    """Return bytes per posting by file, for real and for synthetic documents, in the order that "auto" chooses."""
    real, synthetic = result("order-176408"), result("order-1000000")
    return real["bisection alone"]["bytes_per_posting"], synthetic["ours"]["bytes_per_posting"]


def _bytes_together(sizes: dict[str, float]) -> float:
    return sum(sizes[f"{name}.arrow"] for name in _POSTING_FILES)


def bytes_per_posting() -> str:
    """Bytes per posting of each file."""
    sizes = _stored_bytes()
    rows = [
        (f"`{name}`", what, *(f"{one[f'{name}.arrow']:.2f}" for one in sizes)) for name, what in _POSTING_FILES.items()
    ]
    rows.append(("", "together", *(f"{_bytes_together(one):.2f}" for one in sizes)))
    header = ("file", "", "176,408 real documents", "a million synthetic ones")
    return table(header, rows) + caption("python benchmarks/order.py --data FOLDER", result("order-1000000"))


def rivals() -> str:
    """The same task with several libraries."""
    found = result("rivals")
    names = {"LanceDB": "lancedb", "Chroma": "chromadb", "Qdrant": "qdrant-client", "bm25s": "bm25s"}
    rows = []
    for row in found["rows"]:
        library, _, rest = row["system"].partition(",")
        of = f" {found['rivals'][names[library]]}" if library in names else ""
        values = [f"{row['nDCG@10']:.3f}", f"{row['RR(rel=2)@10']:.3f}"]
        values += [f"{row[f'Success(rel=2)@{n}']:.0%}" for n in (1, 5)]
        p = "" if row["p"] is None else "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"
        build = f"{row['build_cpu_s']:.0f} s" if row["build_cpu_s"] >= 1.0 else "" if library == "lsr" else "< 1 s"
        system = f"{library}{of}" + f",{rest}" * bool(rest)
        size = f"{row['size_mb']:.0f} MB" if row["size_mb"] else ""
        rows.append((system, *values, p, str(row["lines"]), build, size))
    header = ("", "nDCG@10", "RR@10", "first answers", "one of five", "p", "lines of code", "build, CPU", "on disk")
    command = "python benchmarks/rivals.py --sdists SDISTS --dense MODEL --work WORK"
    return table(header, rows) + caption(command, found)


def first_index() -> str:
    """Time to build an index from files."""
    found = result("first-index")
    rows = [
        (row["encoder"], f"{row['passages']:,}", f"{row['seconds']:.0f} s", f"{row['passages'] / row['seconds']:.0f}")
        for row in found["rows"]
    ]
    header = ("", "passages", "time", "passages a second")
    return table(header, rows) + caption("python benchmarks/first_index.py --sdists SDISTS", found)


def rivals_install() -> str:
    """Time and space of installing the libraries."""
    found = result("rivals-install")
    rows = [
        (row["system"], f"`{row['install']}`", f"{row['cpu_s']} s", f"{row['mb']:,} MB", str(row["packages"]))
        for row in found["rows"]
    ]
    header = ("", "pip install", "CPU time", "on disk", "packages")
    return table(header, rows) + caption("python benchmarks/rivals.py --install", found)


def literature() -> str:
    """The systems of the literature: nDCG@10 and R@100 on two collections."""
    found = result("literature")
    rows = [(row["system"], *(f"{value:.3f}" for value in row["values"])) for row in found["rows"]]
    command = "NUMBA_NUM_THREADS=1 python benchmarks/literature.py --data FOLDER --work FOLDER"
    return table(found["header"], rows) + caption(command, found)


def imitated() -> str:
    """Dense vectors that imitate BM25, on questions."""
    found = result("imitated")
    rows = [(row["system"], *(f"{value:.3f}" for value in row["values"])) for row in found["rows"]]
    command = "NUMBA_NUM_THREADS=1 python benchmarks/literature.py --data FOLDER --work FOLDER --imitated"
    return table(found["header"], rows) + caption(command, found)


def soups() -> str:
    """Short runs with soups of checkpoints, and with group sparsity."""
    found = result("soups")
    header = ["run", "encoder", "squadshifts nDCG@10", "cranfield nDCG@10", "terms", "columns"]
    rows = []
    for row in found["rows"]:
        values = (f"{row['nDCG@10 squadshifts']:.3f}", f"{row['nDCG@10 cranfield']:.3f}")
        rows.append((row["run"], row["encoder"], *values, f"{row['terms']:.0f}", f"{row['columns']:,.0f}"))
    command = "python benchmarks/soups.py --data FOLDER --work FOLDER --sparse FOLDER"
    return table(header, rows) + caption(command, found)


def columns() -> str:
    """The columns of the vocabulary that lsr-mini uses."""
    found = result("columns")
    row = (f"{found['texts']:,}", f"{found['used']:,} of {found['terms']:,}", f"{found['share']:.1%}")
    header = ["texts", "columns with a weight", "postings of the 10,000 most used"]
    return table(header, [row]) + caption("python benchmarks/soups.py --vectors FOLDER", found)


def dimensions(name: str) -> str:
    """Recall at 10 of each system as a collection grows."""
    found = result("dimensions")
    one = found[name]
    rows = []
    for row in one["rows"]:
        middle, low, high = (value + 0.0 for value in row["R@10 slope"])  # no negative zeros
        noise = [f"{row['noise in the best ten']:.2%}"] if name == "random" else []
        slopes = [] if name == "pairs" else [f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"]
        rows.append([row["system"], *(f"{value:.3f}" for value in row["R@10"]), *slopes, *noise])
    more = {"growing": ["for each doubling"], "random": ["for each doubling", "noise in the best ten"], "pairs": []}
    header = ["R@10", *(f"{size:,} documents" for size in one["sizes"]), *more[name]]
    command = "NUMBA_NUM_THREADS=1 python benchmarks/dimensions.py --data FOLDER --work FOLDER --sparse FOLDER"
    return table(header, rows) + caption(command, found)


def review() -> str:
    """Reviews of judged collections."""
    found = result("review")
    rules = ("hypergeometric", "quantile", "knee")
    rows = [
        (
            f"{row['collection']}, {row['documents']:,} documents",
            row["vectors"],
            f"{row['relevant']:.0f}",
            f"{row['target']['read']:.0f}",
            *(f"{row[rule]['read']:.0f}, {row[rule]['recall']:.2f} ({row[rule]['reached']:.0%})" for rule in rules),
        )
        for row in found["rows"]
    ]
    header = ("", "vectors", "relevant", "read until 0.8", *(f"`{rule}`" for rule in rules))
    command = "NUMBA_NUM_THREADS=1 python benchmarks/review.py --data FOLDER --work FOLDER"
    return table(header, rows) + caption(command, found)


def pruned() -> str:
    """Speed and nDCG@10 of pruned encoders."""
    found = result("pruned")
    first = found["rows"][0]["documents_per_cpu_second"]
    rows = [
        (
            row["encoder"],
            f"{row['documents_per_cpu_second'] / first:.2f}",
            *(f"{row[name][0]:.3f}, {row[name][1]:.3f}" for name in found["sets"]),
        )
        for row in found["rows"]
    ]
    header = (found["model"], "times as fast", *(f"{name} nDCG@10" for name in found["sets"]))
    command = "NUMBA_NUM_THREADS=1 python benchmarks/pruned.py --data FOLDER --work FOLDER"
    return table(header, rows) + caption(command, found)


def dense_clusters() -> str:
    """Hybrid search that reads a part of the dense vectors."""
    found = result("dense_clusters")
    sets = list(dict.fromkeys(row["set"] for row in found["rows"]))
    keys = ("policy", "results", "share")
    own = {(row["set"], *(row[key] for key in keys)): row for row in found["rows"]}
    rows = [
        (
            policy,
            f"{share:.0%}",
            f"{results}",
            *(f"{own[one, policy, results, share][key]:.3f}" for one in sets for key in ("kept", "nDCG@10", "R@100")),
        )
        for policy, results, share in dict.fromkeys(tuple(row[key] for key in keys) for row in found["rows"])
    ]
    measures = ("best ten kept", "nDCG@10", "R@100")
    header = ("clusters by", "read", "of results", *(f"{one} {key}" for one in sets for key in measures))
    command = "NUMBA_NUM_THREADS=1 python benchmarks/dense_clusters.py --data FOLDER --work FOLDER --sparse FOLDER"
    return table(header, rows) + caption(command, found)


def multi_vectors() -> str:
    """Several dense vectors per document."""
    found = result("multi_vectors")
    sets = list(dict.fromkeys(row["set"] for row in found["rows"]))
    own = {(row["set"], row["kind"]): row for row in found["rows"]}
    rows = [
        (kind, *(f"{own[one, kind][key]:.3f}" for one in sets for key in ("nDCG@10", "R@100")))
        for kind in dict.fromkeys(row["kind"] for row in found["rows"])
    ]
    header = ("vectors of a document", *(f"{one} {key}" for one in sets for key in ("nDCG@10", "R@100")))
    command = "NUMBA_NUM_THREADS=1 python benchmarks/multi_vectors.py --data FOLDER --work FOLDER"
    return table(header, rows) + caption(command, found)


def phrases() -> str:
    """Answers within a passage."""
    found = result("phrases")
    rows = [
        (row["set"], str(row["questions"]), *(f"{row[key]:.3f}" for key in ("bm25", "reader", "exact", "f1")))
        for row in found["rows"]
    ]
    header = ("", "questions", "BM25's sentence is right", "the reader's is", "exact match", "F1")
    return table(header, rows) + caption("NUMBA_NUM_THREADS=1 python benchmarks/phrases.py --answers FOLDER", found)


def negatives() -> str:
    """Training with hidden judgments."""
    found = result("negatives")
    names = found["rows"][0]["values"]
    rows = [(name, *(f"{value:.3f}" for row in found["rows"] for value in row["values"][name])) for name in names]
    header = ("negatives", *(f"{row['set']} {key}" for row in found["rows"] for key in ("nDCG@10", "R@100")))
    command = "NUMBA_NUM_THREADS=1 python benchmarks/negatives.py --data FOLDER --work FOLDER"
    return table(header, rows) + caption(command, found)


TABLES: dict[str, Callable[[], str]] = {
    "rivals": rivals,
    "rivals-install": rivals_install,
    "first-index": first_index,
    "quality": quality,
    "bm25-held-out": bm25_held_out,
    "quality-means": quality_means,
    "quality-parts": lambda: quality_means(_PARTS),
    "card-lsr-mini": lambda: card({"lsr lsr-mini, hybrid": "hybrid", "lsr lsr-mini": "sparse"}),
    "card-splade-tiny": lambda: card({"lsr lsr-mini, query model": "with it", "lsr lsr-mini": "without"}),
    "query-model": lambda: quality_means(_QUERY_MODEL),
    "card-lsr-tiny": lambda: card({"lsr lsr-tiny": "sparse"}),
    "languages": languages,
    "encoders": encoders,
    "encoding": encoding,
    "encoding-splade-tiny": lambda: encoding("encoding-splade-tiny", " --checkpoint SPLADE-TINY"),
    "segments": segments,
    "additions": additions,
    "filters": filters,
    "engines": engines,
    "engines-short": engines_short,
    "engines-real": engines_real,
    "planner": planner,
    "batch": batch,
    "engine-goals": engine_goals,
    "scale": scale,
    "capacity": capacity,
    "report": report,
    "approximate": approximate,
    "million": million,
    "reproduced": reproduced,
    "killed-writers": killed_writers,
    "served": served,
    "cluster": cluster,
    "ablations": ablations,
    "order": order,
    "literature": literature,
    "imitated": imitated,
    "soups": soups,
    "columns": columns,
    "dimensions-growing": lambda: dimensions("growing"),
    "dimensions-random": lambda: dimensions("random"),
    "dimensions-pairs": lambda: dimensions("pairs"),
    "review": review,
    "pruned": pruned,
    "dense-clusters": dense_clusters,
    "multi-vectors": multi_vectors,
    "phrases": phrases,
    "negatives": negatives,
    "bytes": bytes_per_posting,
}


def filled(text: str) -> str:
    """Return a page with its tables updated from the results."""
    return _PLACE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main() -> None:
    """Update all pages, or report pages that are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = []
    cards = sorted((ROOT / "lsr" / "data").glob("*/README.md"))
    for path in (ROOT / "README.md", *cards, *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            old.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(filled(text), encoding="utf-8")
                print(f"written: {old[-1]}")
    if check and old:
        raise SystemExit(f"{', '.join(old)}: not what benchmarks/results/ has; run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
