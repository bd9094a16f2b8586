"""An experiment: datasets x systems, encoded, indexed, searched, measured and timed; what was made is kept and reused.

    OUT/experiment.json     settings, conditions, a result for each dataset and system, comparisons with the baseline
    OUT/per-query.parquet   dataset, system, query, measure, value
    OUT/latencies.parquet   dataset, system, query, search_ms
    OUT/runs/               a TREC run for each dataset and system
    OUT/cache/              vectors, indexes, queries, runs and latencies, by what decides them (`lsr.eval.artifacts`)

`lsr.eval.report` makes pages of it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import lsr
from lsr.console import note
from lsr.corpus import beir_file, new_text
from lsr.encode.stream import Passages, encode_to
from lsr.errors import DataError, DataErrors, OutputExists
from lsr.index.fusion import interpolate, reciprocal_rank_fusion
from lsr.index.index import Index
from lsr.index.queries import read_queries
from lsr.index.storage import FORMAT
from lsr.runs import Run, read_run, run_lines
from lsr.sparse import SparseMatrix
from lsr.vectors import Vectors, read_vectors

from .artifacts import Artifacts, Facts, content_digest, remove
from .checks import check_dataset, check_run
from .datasets import Dataset, drop_own
from .latency import Latency, PeakMemory, encode_latency, machine, throughput, time_together
from .measures import depth_of, parse_measures, score_run
from .reference import reference, references
from .settings import ExperimentSettings, SystemSettings
from .significance import bootstrap_interval, compare, holm

RECORD, PER_QUERY, LATENCIES = "experiment.json", "per-query.parquet", "latencies.parquet"
_PACKAGES = ("numpy", "numba", "pyarrow", "onnxruntime", "tokenizers", "torch", "ir-measures", "ir-datasets")
_BINS = 40  # of the histogram of documents' lengths
_BATCH = 1024  # queries that are searched together


@dataclass(frozen=True)
class _Searched:
    """What it takes to search an index again, to time it."""

    key: str
    index: Index
    ids: list[str]
    vectors: SparseMatrix


@dataclass(frozen=True)
class _System:
    """A system on a dataset: its run, what was measured while it was made, and, if it is an index, that."""

    settings: SystemSettings
    run: Run
    facts: Facts
    searched: _Searched | None = None


def run_experiment(settings: ExperimentSettings, datasets: Mapping[str, Dataset], out: Path) -> dict[str, Any]:
    """Do what the settings say that wasn't done yet, and write the result folder.

    Args:
        settings: Systems, measures, and how to compare them; its datasets are those that are given.
        datasets: By name.
        out: The folder; made, or gone on with.

    Returns:
        What is in experiment.json.

    Raises:
        DataError: Unknown measures or references; vectors, runs or queries that are not there or don't fit.
        OutputExists: The folder holds something else, or another process is at work there.
    """
    parsed = parse_measures(settings.measures)
    known = {one.system for one in references()}
    if unknown := [name for name in settings.references if name not in known]:
        raise DataError(f"no published figures of {', '.join(unknown)}; there are {'; '.join(sorted(known))}")
    if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in (".lock", "cache", RECORD)):
        raise OutputExists(f"{out}: this folder holds something other than an experiment; name a new one")
    notes = _checked(datasets)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", timeout=0):
            return _run(settings, datasets, out, parsed, notes)
    except filelock.Timeout:
        raise OutputExists(f"{out}: another process is at work here; wait until it is done") from None


def _run(
    settings: ExperimentSettings, datasets: Mapping[str, Dataset], out: Path, parsed: list[Any], notes: list[str]
) -> dict[str, Any]:
    artifacts = Artifacts(out / "cache")
    depth = max(settings.depth, depth_of(parsed), settings.latency.k)
    results: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {name: [] for name in ("dataset", "system", "query", "measure", "value")}
    times: dict[str, list[Any]] = {name: [] for name in ("dataset", "system", "query", "search_ms")}
    described = []
    for name, dataset in datasets.items():
        systems = _run_systems(settings, name, dataset, artifacts, depth, notes)
        timed = _time_systems(settings, systems, artifacts)
        per_query: dict[str, dict[str, dict[str, float]]] = {}
        for system in systems:
            means, per_query[system.settings.name] = score_run(dataset.qrels, system.run, parsed)
            latency = timed.get(system.settings.name)
            results.append(_result(name, system, means, per_query[system.settings.name], latency))
            for measure, by_query in per_query[system.settings.name].items():
                for query, value in by_query.items():
                    _append(values, name, system.settings.name, query, measure, value)
            for query, milliseconds in zip(latency.queries, latency.times, strict=True) if latency else ():
                _append(times, name, system.settings.name, query, float(milliseconds))
            _write_run(out / "runs" / file_name(name) / f"{file_name(system.settings.name)}.trec.gz", system)
        comparisons += _comparisons(settings, name, per_query)
        described.append(_describe(name, dataset))
    record = {
        "format": 1,
        "title": settings.title,
        **conditions(),
        "threads": 1,
        "measures": [str(measure) for measure in parsed],
        "baseline": settings.baseline or settings.systems[0].name,
        "k": settings.latency.k,
        "test": settings.test,
        "correction": "holm",
        "settings": asdict(settings),
        "datasets": described,
        "systems": [_describe_system(system, settings.systems) for system in settings.systems],
        "results": results,
        "comparisons": comparisons,
        "references": _references(settings, datasets),
        "notes": notes,
    }
    _write_table(out / PER_QUERY, values)
    _write_table(out / LATENCIES, times)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    _write_whole(out / RECORD, text.encode())
    return dict(json.loads(text))


def short_name(dataset: Dataset) -> str:
    """What tables call a dataset: a folder's name, for ir-datasets the name without "beir/" and the split after it."""
    if Path(dataset.name).is_dir():
        return Path(dataset.name).resolve().name
    parts = dataset.name.removeprefix("irds:").split("/")
    return parts[1] if parts[0] == "beir" and len(parts) > 1 else "/".join(parts)


def named(datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Datasets by their short names.

    Raises:
        DataError: Two of the same name, or none at all.
    """
    found: dict[str, Dataset] = {}
    for dataset in datasets:
        name = short_name(dataset)
        if name in found:
            raise DataError(f"{found[name].name} and {dataset.name} would both be called {name!r} in the tables")
        found[name] = dataset
    if not found:
        raise DataError("no dataset is named: --dataset, --suite, or datasets in the YAML file")
    return found


def conditions() -> dict[str, Any]:
    """Machine, date and versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    date = datetime.now().isoformat(timespec="seconds")
    return {"lsr": lsr.__version__, "date": date, "machine": machine(), "versions": versions}


def file_name(name: str) -> str:
    """A name of a dataset or system as one of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


# --- runs -------------------------------------------------------------------------------------------------------------


def _run_systems(
    settings: ExperimentSettings, name: str, dataset: Dataset, artifacts: Artifacts, depth: int, notes: list[str]
) -> list[_System]:
    identity = _identity(dataset)
    done: dict[str, _System] = {}
    for system in settings.systems:
        note(f"{name}: {system.name}")
        if system.fuse:
            done[system.name] = _System(system, _fused(system, [done[fused].run for fused in system.fuse], depth), {})
        elif system.run:
            done[system.name] = _System(system, _given_run(system, name, dataset, settings.measures, notes), {})
        else:
            done[system.name] = _search_system(system, name, dataset, identity, artifacts, depth, settings.latency.k)
    return list(done.values())


def _checked(datasets: Mapping[str, Dataset]) -> list[str]:
    """What a reader should know of the judgments; what makes them useless is raised, of all datasets at once."""
    notes: list[str] = []
    problems = DataErrors()
    for dataset in datasets.values():
        findings = check_dataset(dataset)
        with problems:
            findings.raise_errors()
        notes += findings.warnings
    problems.settle()
    for text in notes:
        note(text)
    return notes


def _given_run(system: SystemSettings, name: str, dataset: Dataset, measures: str, notes: list[str]) -> Run:
    """A run that some engine made."""
    assert system.run is not None
    findings = check_run(Path(_filled(system.run, name)), dataset, measures=measures)
    findings.raise_errors()
    for text in findings.warnings:
        if text not in notes:
            notes.append(text)
            note(text)
    assert findings.run is not None
    return _own_dropped(findings.run, dataset)


def _identity(dataset: Dataset) -> dict[str, str]:
    """What the texts of a dataset are: the content of their files, or their name where a package brings them."""
    found = {}
    for part, kind, source in (("documents", "corpus", dataset.source), ("queries", "queries", dataset.query_source)):
        path = Path(source)
        if path.is_dir():
            path = beir_file(path, kind)
        found[part] = content_digest(path) if path.is_file() else source.removeprefix("irds:")
    return found


def _own_dropped(run: Run, dataset: Dataset) -> Run:
    return drop_own(run) if dataset.drop_own else run


def _filled(path: str, dataset: str) -> str:
    return path.replace("{dataset}", dataset)


def _fused(system: SystemSettings, runs: list[Run], depth: int) -> Run:
    if system.method == "rrf":
        fused = reciprocal_rank_fusion(runs, k=system.rrf_k, weights=system.weights)
    else:
        fused = interpolate(runs, weights=system.weights, normalization=system.normalization)
    return {query: dict(list(hits.items())[:depth]) for query, hits in fused.items()}


def _search_system(
    system: SystemSettings,
    name: str,
    dataset: Dataset,
    identity: Mapping[str, str],
    artifacts: Artifacts,
    depth: int,
    k: int,
) -> _System:
    vectors, encoded, vectors_key = _vectors(system, name, dataset, identity, artifacts)
    key: dict[str, Any] = {"format": FORMAT, "vectors": vectors_key, "index": asdict(system.index)}
    path, built, index_key = artifacts.get("index", key, lambda path: _build(path, vectors, system))
    index = Index.open(path)
    source = _filled(system.queries, name) if system.queries else ""
    key = {"index": index_key, "queries": content_digest(Path(source)) if source else identity["queries"]}
    queries = read_queries(source or dataset.query_source, index).only(dataset.qrels)
    if not queries.ids:
        raise DataError("none of the queries is judged; are these the right ones?", source or dataset.name)
    key["judged"] = queries.ids

    def encode(path: Path) -> Facts:
        remove(path)
        queries.encoded(index).save(path, queries.ids)
        latency = encode_latency(index, queries.texts) if queries.texts is not None else None
        return {"encode_ms": latency.to_json() if latency else None}

    path, facts, queries_key = artifacts.get("queries", key, encode, ".parquet")
    matrix = SparseMatrix.load(path)
    search = asdict(system.search)
    wanted = depth + dataset.drop_own
    key = {"lsr": lsr.__version__, "index": index_key, "queries": queries_key, "search": search, "k": [wanted, k]}

    def find(path: Path) -> Facts:
        remove(path)
        with new_text(path) as file:
            for start in range(0, len(queries.ids), _BATCH):
                found = index.search_batch(matrix[start : start + _BATCH], wanted, **search)
                for query, hits in zip(queries.ids[start : start + _BATCH], found, strict=True):
                    file.writelines(f"{line}\n" for line in run_lines(query, ((h.id, h.score) for h in hits), "lsr"))
        return {"recall": None if system.search.exact else index.recall(matrix, k, **search)}

    path, searched, run_key = artifacts.get("run", key, find, ".trec.gz")
    run = _own_dropped(read_run(path), dataset)
    run = {query: dict(list(hits.items())[:depth]) for query, hits in run.items()}
    facts = encoded | built | facts | searched | _term_facts(index, matrix)
    return _System(system, run, facts, _Searched(run_key, index, queries.ids, matrix))


def _vectors(
    system: SystemSettings, name: str, dataset: Dataset, identity: Mapping[str, str], artifacts: Artifacts
) -> tuple[Vectors, Facts, str]:
    """Of a system's documents: those of a file, or encoded here."""
    from lsr.encode.commands import open_encoder

    if system.documents:
        path = Path(_filled(system.documents, name))
        if not path.exists():
            raise DataError(f"no such vectors, for the system {system.name!r}", str(path))
        return read_vectors(path), {}, content_digest(path)
    encoder = open_encoder(system.encoder, system.encoder_settings)
    passages = Passages(system.index.passages, system.index.overlap) if system.index.passages else None
    key = {
        "documents": identity["documents"],
        "encoder": encoder.fingerprint.to_json(),  # of one that is still to be fitted: what it is before
        "settings": system.encoder_settings,
        "passages": asdict(passages) if passages else None,
    }

    def encode(path: Path) -> Facts:
        started, fresh = time.perf_counter(), not path.with_name(path.name + ".partial").exists()
        encode_to(
            dataset.corpus(),
            lambda: encoder,
            path,
            settings=json.dumps(key),
            passages=passages,
            with_text=False,
            overwrite=True,
        )
        # Of work that went on after a kill nobody knows how long the whole takes.
        return {"encode_seconds": time.perf_counter() - started if fresh else None}

    path, facts, digest = artifacts.get("vectors", key, encode)
    return read_vectors(path), facts, digest


def _build(path: Path, vectors: Vectors, system: SystemSettings) -> Facts:
    remove(path)
    how = system.index
    started = time.perf_counter()
    with PeakMemory() as memory:
        index = Index.build(
            path,
            vectors,
            impacts=how.impacts,
            order=how.order,
            clusters=how.clusters,
            summary_mass=how.summary_mass,
            store_text=False,
        )
    seconds = time.perf_counter() - started
    parts = [batch.vectors.lengths() for batch in vectors]
    lengths = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    counts, edges = np.histogram(lengths, bins=min(_BINS, int(lengths.max(initial=0)) + 1))
    return {
        "build_seconds": seconds,
        "peak_bytes": memory.peak,
        "index_bytes": sum(index.file_sizes().values()),
        "index_parts": index.file_sizes(),
        "document_terms": float(lengths.mean()) if len(lengths) else 0.0,
        "lengths": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _term_facts(index: Index, queries: SparseMatrix) -> Facts:
    """Mean length of a query, and the FLOPS of papers: how many terms a query and a document share on average."""
    shared = index.document_frequencies(queries.indices).sum(dtype=np.float64)
    pairs = len(queries) * len(index)
    return {"query_terms": float(queries.lengths().mean()), "flops": float(shared / pairs) if pairs else 0.0}


# --- latency ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timed:
    """Of a system: (n,) milliseconds of so many queries, and queries per second with all cores."""

    queries: list[str]
    times: NDArray[np.float64]
    per_second: float


def _time_systems(settings: ExperimentSettings, systems: Sequence[_System], artifacts: Artifacts) -> dict[str, _Timed]:
    """Time all indexes of a dataset together: whatever else the machine does then befalls all of them."""
    how = settings.latency
    found = {s.settings.name: (s.searched, asdict(s.settings.search)) for s in systems if s.searched is not None}
    if not found or not how.queries:
        return {}
    ids = [searched.ids for searched, _ in found.values()]
    shared = [query for query in ids[0] if all(query in set(others) for others in ids)]
    some = [shared[i] for i in np.unique(np.linspace(0, len(shared) - 1, how.queries).round().astype(int))]

    def call(searched: _Searched, search: dict[str, Any]) -> Callable[[int], Any]:
        at = {query: i for i, query in enumerate(searched.ids)}
        rows = [searched.vectors[at[query]] for query in some]
        return lambda i: searched.index.search(rows[i], how.k, **search)

    def measure(path: Path) -> Facts:
        times = time_together([call(*one) for one in found.values()], len(some), how.rounds)
        per_second = [throughput(one.index, one.vectors, how.k, **search) for one, search in found.values()]
        remove(path)
        with path.open("wb") as file:
            np.savez(file, times=times, per_second=np.array(per_second))
        return {}

    key = {"runs": [searched.key for searched, _ in found.values()], "how": asdict(how), "machine": machine()}
    path, _, _ = artifacts.get("latency", key, measure, ".npz")
    with np.load(path) as kept:
        times, per_second = kept["times"], kept["per_second"]
    return {name: _Timed(some, times[i], float(per_second[i])) for i, name in enumerate(found)}


# --- what is written --------------------------------------------------------------------------------------------------


def _result(
    name: str,
    system: _System,
    means: Mapping[str, float],
    per_query: Mapping[str, Mapping[str, float]],
    timed: _Timed | None,
) -> dict[str, Any]:
    names = (
        "encode_ms", "recall", "index_bytes", "index_parts", "build_seconds", "encode_seconds", "peak_bytes",
        "document_terms", "query_terms", "flops", "lengths",
    )  # fmt: skip
    return {
        "dataset": name,
        "system": system.settings.name,
        "measures": dict(means),
        "intervals": {measure: list(bootstrap_interval(values)) for measure, values in per_query.items()},
        "search_ms": Latency.of(timed.times.tolist()).to_json() if timed else None,
        "queries_per_second": timed.per_second if timed else None,
        **{name: system.facts.get(name) for name in names},
    }


def _comparisons(
    settings: ExperimentSettings, name: str, per_query: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """Every system against the baseline, corrected over the systems."""
    baseline = settings.baseline or settings.systems[0].name
    others = [system.name for system in settings.systems if system.name != baseline]
    rows = []
    for measure, values in per_query[baseline].items():
        found = [compare(per_query[other][measure], values, test=settings.test) for other in others]
        for other, comparison, corrected in zip(others, found, holm([c.p for c in found]), strict=True):
            about = {"dataset": name, "system": other, "baseline": baseline, "measure": measure}
            rows.append({**about, **asdict(comparison), "p_corrected": corrected})
    return rows


def _describe(name: str, dataset: Dataset) -> dict[str, Any]:
    notes = ["a document is its title and its text"]
    if dataset.drop_own:
        notes.append("a query's own document is removed from its results")
    return {
        "name": name,
        "source": dataset.name,
        "split": dataset.split,
        "documents": dataset.corpus().count(),
        "queries": len(dataset.qrels),
        "judgments": sum(len(judged) for judged in dataset.qrels.values()),
        "notes": notes,
    }


def _describe_system(system: SystemSettings, systems: tuple[SystemSettings, ...]) -> dict[str, Any]:
    def made(one: SystemSettings) -> tuple[Any, ...]:
        return one.encoder, one.encoder_settings, one.documents, one.index

    exact = system.kind != "index" or system.search.exact
    same = [s.name for s in systems if s.kind == "index" and s.search.exact and made(s) == made(system)]
    defaults = SystemSettings(system.name, encoder="any")
    changed = {name: value for name, value in asdict(system).items() if value and value != asdict(defaults)[name]}
    changed.pop("encoder", None)
    return {
        "name": system.name,
        "kind": system.kind,
        "encoder": system.encoder,
        "settings": changed,
        "exact": exact,
        "exact_name": None if exact or not same else same[0],
    }


def _references(settings: ExperimentSettings, datasets: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    found = []
    for name, dataset in datasets.items():
        for measure in map(str, parse_measures(settings.measures)):
            for one in reference(dataset.name, measure, dataset.split):
                if one.system in settings.references:
                    found.append({**asdict(one), "dataset": name})
    return found


def _append(columns: dict[str, list[Any]], *row: Any) -> None:
    for column, value in zip(columns.values(), row, strict=True):
        column.append(value)


def _write_run(path: Path, system: _System) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_text(path) as file:
        for query, hits in system.run.items():
            tag = file_name(system.settings.name)
            file.writelines(line + "\n" for line in run_lines(query, hits.items(), tag))


def _write_table(path: Path, columns: Mapping[str, list[Any]]) -> None:
    partial = path.with_name(path.name + ".tmp")
    pq.write_table(pa.table(dict(columns)), partial, compression="zstd")
    partial.replace(path)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(content)
    partial.replace(path)
