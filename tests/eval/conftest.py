"""A synthetic result folder of an experiment, with realistic values, missing results, and names full of markup."""

from __future__ import annotations

import json
import math
import shutil
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MEASURES = ("nDCG@10", "RR@10", "R@100")
SHIFTS = {"nDCG@10": 0.0, "RR@10": -0.03, "R@100": 0.22}
# (name, documents, queries, mean quality of the baseline, mean quality of the best system)
DATASETS = (
    ("scifact", 5183, 300, 0.682, 0.699),
    ("cranfield", 1400, 225, 0.367, 0.402),
    ("climate-fever-evidence", 5243, 190, 0.364, 0.385),
)
# (name, kind, encoder, settings, exact counterpart, quality from 0 = baseline to 1 = best system, p50 in ms)
SYSTEMS = (
    ("BM25", "index", "bm25", {"k1": 0.9, "b": 0.4}, None, 0.0, 0.028),
    ("lsr-mini", "index", "lsr-mini", {"encoder": "lsr-mini"}, None, 0.7, 0.031),
    ("lsr-mini, clusters", "index", "lsr-mini", {"algorithm": "clusters", "cut": 8}, "lsr-mini", 0.66, 0.019),
    ("lsr-mini, alpha 0.8", "index", "lsr-mini", {"alpha": 0.8}, "lsr-mini", 0.69, 0.026),
    ("RRF of BM25 and lsr-mini", "fusion", None, {"of": ["BM25", "lsr-mini"], "k": 60}, None, 0.75, 0.094),
    ("interpolation of BM25 and lsr-mini", "fusion", None, {"of": ["BM25", "lsr-mini"]}, None, 1.0, 0.091),
)
HOSTILE = {
    "cranfield": "crän|field 航空 <b>",
    "BM25": "BM25 | “β” $k_1$",
    "lsr-mini": "<script>document.title='ran'</script>",
    "lsr-mini, alpha 0.8": "</style></title><img src=x onerror=\"document.title='ran'\"> & 'a' {{ 7 * 7 }} \\ `b`",
}


def write_folder(folder, datasets=DATASETS, systems=SYSTEMS, names=None, absent=(), latencies=True):
    """Write a result folder. `names` is {old name: new name}; (dataset, system) pairs in `absent` have no result."""
    name = lambda text: (names or {}).get(text, text)  # noqa: E731
    random = np.random.default_rng(7)
    results, comparisons, values, times = [], [], [], []
    baseline = systems[0][0]
    for dataset, documents, n_queries, low, high in datasets:
        ids = [f"{dataset[:2]}-{i}" for i in range(n_queries)]
        hardness = random.normal(0, 0.33, n_queries)
        of_baseline = {}
        for number, (system, kind, encoder, _, exact, part, p50) in enumerate(systems):
            if (dataset, system) in absent:
                continue
            noise = random.normal(0, 0.03 + 0.14 * part, n_queries)
            means, intervals = {}, {}
            for measure in MEASURES:
                level = low + part * (high - low) + SHIFTS[measure]
                found = np.round(np.clip(level + hardness + noise, 0, 1), 3)
                found = np.round(np.clip(found + level - found.mean(), 0, 1), 3)
                of_baseline.setdefault(measure, found)
                half = 1.96 * found.std() / math.sqrt(n_queries)
                means[measure] = float(found.mean())
                intervals[measure] = [means[measure] - half, means[measure] + half]
                values += [(name(dataset), name(system), q, measure, v) for q, v in zip(ids, found, strict=True)]
                if system != baseline:
                    gains = found - of_baseline[measure]
                    spread = max(gains.std() / math.sqrt(n_queries), 1e-9)
                    p = 2 * NormalDist().cdf(-abs(gains.mean()) / spread)
                    comparisons.append(
                        {
                            "dataset": name(dataset), "system": name(system), "baseline": name(baseline),
                            "measure": measure, "difference": gains.mean(), "low": gains.mean() - 1.96 * spread,
                            "high": gains.mean() + 1.96 * spread, "p": p, "p_corrected": min(1, 3 * p),
                            "wins": int((gains > 0).sum()), "ties": int((gains == 0).sum()),
                            "losses": int((gains < 0).sum()), "n": n_queries,
                        }
                    )  # fmt: skip
            ms = p50 * (1 + documents / 40000) * random.lognormal(0, 0.13, n_queries)
            times += [(name(dataset), name(system), q, t) for q, t in zip(ids, ms, strict=True)]
            terms = 0 if kind != "index" else 61 if encoder == "bm25" else 148
            counts = np.histogram(random.gamma(9, max(terms, 1) / 9, documents), np.arange(0, 401, 10))[0]
            size = None if kind != "index" else int(documents * terms * 4.1)
            results.append(
                {
                    "dataset": name(dataset), "system": name(system), "measures": means, "intervals": intervals,
                    "search_ms": percentiles(ms), "encode_ms": percentiles(ms / 3) if encoder else None,
                    "queries_per_second": 61000.0 / (number + 1) if size else None,
                    "recall": min(1.0, 0.985 + 0.004 * number) if exact else None,
                    "index_bytes": size,
                    "index_parts": size and {"postings.arrow": size * 3 // 4, "documents.arrow": size // 4},
                    "build_seconds": documents / 9000 if size else None,
                    "encode_seconds": documents / (50 if encoder == "lsr-mini" else 4000) if size else None,
                    "peak_bytes": 400_000_000 + 20_000 * documents if size else None,
                    "document_terms": float(terms) or None,
                    "query_terms": 9.2 if terms else None,
                    "flops": terms / 90 if encoder == "lsr-mini" else None,
                    "lengths": {"edges": list(range(0, 401, 10)), "counts": counts.tolist()} if size else None,
                }
            )  # fmt: skip
    experiment = {
        "format": 1, "title": name("Six systems, three collections"), "lsr": "0.1.0", "date": "2026-11-21T12:00:00",
        "machine": "AMD EPYC, 2 cores, Linux", "threads": 1,
        "versions": {"python": "3.11.7", "numpy": "2.4.6", "numba": "0.68.1", "ir_measures": "0.4.3"},
        "measures": list(MEASURES), "baseline": name(baseline), "k": 10, "test": "randomization", "correction": "holm",
        "datasets": [
            {
                "name": name(d), "split": "test", "documents": n, "queries": q, "judgments": 2 * q,
                "notes": ["title and text"],
            }
            for d, n, q, *_ in datasets
        ],
        "systems": [
            {
                "name": name(s), "kind": kind, "encoder": encoder, "settings": settings, "exact": exact is None,
                "exact_name": exact and name(exact),
            }
            for s, kind, encoder, settings, exact, *_ in systems
        ],
        "results": results, "comparisons": comparisons,
        "references": [
            {
                "dataset": name(datasets[0][0]), "system": system, "measure": "nDCG@10", "value": value,
                "source": source, "trust": "paper-text",
            }
            for system, value, source in (
                ("BM25, multifield", 0.665, "BEIR, arXiv 2104.08663, table 2"),
                ("SPLADE-v3", 0.710, "SPLADE-v3, arXiv 2403.06789, table 3"),
            )
        ],
        "notes": ["Times were taken with nothing else running."],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(experiment), encoding="utf-8")
    write_table(folder / "per-query.parquet", ("dataset", "system", "query", "measure", "value"), values)
    asked = [
        (name(d), f"{d[:2]}-{i}", f"how {d} answers question {i} <b>") for d, _, n, *_ in datasets for i in range(n)
    ]
    write_table(folder / "queries.parquet", ("dataset", "query", "text"), asked)
    if latencies:
        write_table(folder / "latencies.parquet", ("dataset", "system", "query", "search_ms"), times)
    return experiment


def percentiles(values):
    """The percentiles that an experiment records for latencies."""
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"p50": p50, "mean": values.mean(), "p95": p95, "p99": p99}


def write_table(path, columns, rows):
    """Write rows to a Parquet file."""
    pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), path)


@pytest.fixture(scope="session")
def hostile_made(tmp_path_factory):
    """A folder with hostile names and a missing result, and its parsed experiment.json. Tests must not change them."""
    folder = tmp_path_factory.mktemp("made") / "hostile"
    return folder, write_folder(folder, names=HOSTILE, absent={("cranfield", "lsr-mini, alpha 0.8")})


@pytest.fixture
def hostile(tmp_path, hostile_made):
    """A copy of `hostile_made` for tests that change the folder."""
    folder, experiment = hostile_made
    return shutil.copytree(folder, tmp_path / "hostile"), experiment
