"""An experiment: datasets x systems, encoded, indexed, searched, measured and timed, with a cache of all artifacts.

    OUT/experiment.json     settings, conditions, a result for each dataset and system, comparisons with the baseline
    OUT/per-query.parquet   dataset, system, query, measure, value; for systems with several seeds, means over the seeds
    OUT/per-seed.parquet    dataset, system, seed, query, measure, value; only systems with several seeds
    OUT/latencies.parquet   dataset, system, query, search_ms
    OUT/queries.parquet     dataset, query, text
    OUT/runs/               a TREC run for each dataset and system, with strictly decreasing scores
    OUT/cache/              vectors, indexes, queries, runs and latencies (`artifact_cache`)

`lsr.eval.report.report` writes the report.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from lsr._version import __version__
from lsr.console import note
from lsr.durable import take_name
from lsr.errors import DataError, DataErrors, OutputExists
from lsr.eval.checks import check_dataset
from lsr.eval.datasets import OF_SUITES, Dataset, DatasetSettings
from lsr.eval.experiment.artifact_cache import Artifacts
from lsr.eval.experiment.comparisons import alike, of_pairs, shared, with_baseline
from lsr.eval.experiment.seeds import Scores, mean_facts, mean_scores, mean_times, one_of_each_seed
from lsr.eval.experiment.settings import ExperimentSettings, SystemSettings, file_name
from lsr.eval.experiment.systems import System, Timed, check_inputs, identity_of, run_systems, time_systems
from lsr.eval.latency import Latency, machine
from lsr.eval.measures import cutoff_of, depth_of, is_mean, ordered_by_id, parse_measures, score_run, tied_queries
from lsr.eval.published_scores import reference, references
from lsr.eval.significance import bootstrap_interval, seeds_interval
from lsr.io.corpus import open_corpus
from lsr.io.open_vectors import holds_vectors
from lsr.io.runs import run_lines
from lsr.io.text_files import new_text

RECORD, PER_QUERY, LATENCIES = "experiment.json", "per-query.parquet", "latencies.parquet"
PER_SEED, TEXTS = "per-seed.parquet", "queries.parquet"
_DEPTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_PACKAGES = ("numpy", "numba", "pyarrow", "onnxruntime", "tokenizers", "torch", "ir-measures", "ir-datasets")


def run_experiment(settings: ExperimentSettings, datasets: Mapping[str, Dataset], out: Path) -> dict[str, Any]:
    """Run the parts of an experiment that aren't in the cache, and write the result folder.

    Args:
        settings: Systems, measures, and how to compare them; the datasets in the settings are ignored.
        datasets: Opened datasets.
        out: The result folder; may have the results of an earlier run.

    Returns:
        The content of experiment.json.

    Raises:
        DataError: A measure or reference is unknown; or vectors, runs or queries are missing or unsuitable.
        OutputExists: The folder has something other than an experiment, or another process is writing there.
    """
    problems, notes = DataErrors(), list[str]()
    parsed = check_settings(settings, problems)
    unjudged = _check_datasets(datasets, notes, problems)
    check_inputs(_of_each_seed(settings)[0], datasets, depth_of(parsed) if parsed else None, notes, problems, unjudged)
    problems.settle()
    if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in (".lock", "cache", RECORD)):
        raise OutputExists(f"{out}: this folder has something other than an experiment; choose a new one")
    for text in notes:
        note(f"note: {text}")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", timeout=0):
            return _run(settings, datasets, out, parsed, notes)
    except filelock.Timeout:
        raise OutputExists(f"{out}: another process is writing here; wait until it is done") from None


def _of_each_seed(settings: ExperimentSettings) -> tuple[ExperimentSettings, dict[str, list[str]]]:
    try:
        return one_of_each_seed(settings)
    except ValueError as error:  # two systems have the same name
        raise DataError(f"with a system for each seed: {error}") from None


def check_settings(settings: ExperimentSettings, problems: DataErrors) -> list[Any]:
    """Parse the measures; add unknown measures and references to `problems`."""
    parsed: list[Any] = []
    with problems:
        parsed = parse_measures(settings.measures)
    known = {one.system for one in references()}
    if unknown := [name for name in settings.references if name not in known]:
        problems.add(DataError(f"no published figures of {', '.join(unknown)}; there are {'; '.join(sorted(known))}"))
    return parsed


def _run(
    settings: ExperimentSettings, datasets: Mapping[str, Dataset], out: Path, parsed: list[Any], notes: list[str]
) -> dict[str, Any]:
    artifacts = Artifacts(out / "cache")
    each, members = _of_each_seed(settings)
    depth = max(settings.depth, depth_of(parsed), settings.latency.k)
    cutoffs = {cutoff for measure in parsed if (cutoff := cutoff_of(measure)) is not None}
    results: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {name: [] for name in ("dataset", "system", "query", "measure", "value")}
    times: dict[str, list[Any]] = {name: [] for name in ("dataset", "system", "query", "search_ms")}
    by_seed: dict[str, list[Any]] = {name: [] for name in ("dataset", "system", "seed", "query", "measure", "value")}
    texts: dict[str, list[Any]] = {name: [] for name in ("dataset", "query", "text")}
    everyone: dict[str, dict[str, list[Scores]]] = {}
    alikes: list[dict[str, Any]] = []
    described = []
    for name, dataset in datasets.items():
        found = {system.settings.name: system for system in run_systems(each, name, dataset, artifacts, depth, cutoffs)}
        timed = time_systems(each, list(found.values()), artifacts, depth)
        per_query: dict[str, list[Scores]] = {}
        for system, names in members.items():
            runs = [found[one] for one in names]
            sums = [
                _write_run(out / "runs" / file_name(name) / f"{file_name(run.settings.name)}.trec.gz", run)
                for run in runs
            ]
            scored = [_scored(run, dataset, parsed) for run in runs]
            per_query[system] = [by_query for _, by_query in scored]
            latency = mean_times([timed.get(one) for one in names])
            made = _result(name, system, runs, scored, latency, dataset, settings.latency.k)
            results.append({**made, "checksums": _checksums(runs, sums, settings.seeds)})
            for measure, by_query in mean_scores(per_query[system]).items():
                for query, value in by_query.items():
                    _append(values, name, system, query, measure, value)
            for seed, of_seed in zip(settings.seeds, per_query[system], strict=False) if len(names) > 1 else ():
                for measure, by_query in of_seed.items():
                    for query, value in by_query.items():
                        _append(by_seed, name, system, seed, query, measure, value)
            for query, milliseconds in zip(latency.queries, latency.times, strict=True) if latency else ():
                _append(times, name, system, query, float(milliseconds))
        comparisons += with_baseline(settings, name, per_query)
        everyone[name] = per_query
        alikes += alike(name, {system: [found[one].run for one in names] for system, names in members.items()})
        for query, text in _texts(dataset):
            _append(texts, name, query, text)
        described.append(_describe(name, dataset))
    record = {
        "format": 1,
        "title": settings.title,
        **conditions(),
        "threads": 1,
        "measures": [str(measure) for measure in parsed],
        "baseline": settings.baseline or settings.systems[0].name,
        "k": settings.latency.k,
        "seeds": list(settings.seeds),
        "test": settings.test,
        "correction": "holm",
        "settings": asdict(replace(settings, suite=None, datasets=tuple(map(_as_given, datasets.values())))),
        "datasets": described,
        "systems": [_describe_system(system, settings.systems) for system in settings.systems],
        "results": results,
        "comparisons": comparisons,
        "pairs": of_pairs(settings, everyone, str(parsed[0])),
        "alike": alikes,
        "references": _references(settings, datasets),
        "notes": notes,
    }
    _write_table(out / PER_QUERY, values)
    _write_table(out / LATENCIES, times)
    _write_table(out / TEXTS, texts)
    if settings.seeds:
        _write_table(out / PER_SEED, by_seed)
    else:
        (out / PER_SEED).unlink(missing_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    _write_whole(out / RECORD, text.encode())
    return dict(json.loads(text))


def short_name(dataset: Dataset) -> str:
    """Return a dataset's name in tables: a folder's name, or an ir-datasets name without "beir/" and the split."""
    path = Path(dataset.name)
    if path.exists() and dataset.name not in OF_SUITES:
        return path.resolve().stem if path.is_file() else path.resolve().name
    parts = dataset.name.removeprefix("irds:").split("/")
    if parts[0] == "beir" and len(parts) > 1:
        parts = parts[1:3] if parts[1] == "cqadupstack" else parts[1:2]
    return "/".join(parts)


def named(datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Return datasets by their short names.

    Raises:
        DataError: Two datasets have the same name, or there is no dataset.
    """
    found: dict[str, Dataset] = {}
    of_file: dict[str, Dataset] = {}
    for dataset in datasets:
        name = short_name(dataset)
        if name in found:
            raise DataError(f"{found[name].name} and {dataset.name} would both have the name {name!r} in the tables")
        found[name], file = dataset, file_name(name)
        if file.lower() in of_file:
            raise DataError(f"the runs of {of_file[file.lower()].name} and {dataset.name} would both be in {file!r}")
        of_file[file.lower()] = dataset
    if not found:
        raise DataError("there is no dataset: give --dataset, --suite, or datasets in the YAML file")
    return found


def conditions() -> dict[str, Any]:
    """Machine, date, command and versions."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    date = datetime.now().isoformat(timespec="seconds")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"lsr": __version__, "date": date, "machine": machine(), "command": command, "versions": versions}


def _check_datasets(
    datasets: Mapping[str, Dataset], notes: list[str], problems: DataErrors
) -> dict[str, frozenset[str]]:
    """Check the judgments; add warnings to the notes and errors to `problems`.

    Returns:
        {dataset: queries without judgments}.
    """
    unjudged = {}
    for name, dataset in datasets.items():
        with problems:
            dataset.corpus()  # an experiment needs documents
        findings = check_dataset(dataset)
        findings.hand_on(notes, problems)
        unjudged[name] = findings.unjudged
    return unjudged


# --- output -----------------------------------------------------------------------------------------------------------


def _scored(
    system: System, dataset: Dataset, parsed: Sequence[Any], *, by_id: bool = False
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score a run as `score_run` does, but for approximate systems use a search with the depth of each measure.

    With `by_id`, equal scores are in trec_eval's order instead of the order of the search.
    """
    groups: dict[int | None, list[Any]] = {}
    for measure in parsed:
        cutoff = cutoff_of(measure)
        groups.setdefault(cutoff if cutoff in system.shallow else None, []).append(measure)
    means: dict[str, float] = {}
    per_query: dict[str, dict[str, float]] = {}
    for cutoff, measures in groups.items():
        run = system.run if cutoff is None else system.shallow[cutoff]
        its_means, its_values = score_run(dataset.qrels, ordered_by_id(run) if by_id else run, measures)
        means |= its_means
        per_query |= its_values
    names = [str(measure) for measure in parsed]
    return {name: means[name] for name in names}, {name: per_query[name] for name in names}


def _ties(
    system: System, dataset: Dataset, parsed: Sequence[Any], means: Mapping[str, float], k: int
) -> dict[str, Any]:
    """Return the share of queries with equal scores among the first k + 1 hits, and the measures with ties ordered by
    id.
    """
    judged = {query: hits for query, hits in system.run.items() if query in dataset.qrels}
    tied = tied_queries(judged, k + 1)
    deeper = tied or tied_queries(judged, sys.maxsize)
    by_id = _scored(system, dataset, parsed, by_id=True)[0] if deeper else means
    return {"queries": len(tied) / len(dataset.qrels), "by_id": dict(by_id)}


def _result(
    name: str,
    system: str,
    runs: Sequence[System],
    scored: Sequence[tuple[dict[str, float], Scores]],
    timed: Timed | None,
    dataset: Dataset,
    k: int,
) -> dict[str, Any]:
    """Return the result of a system on a dataset; a mean if the system has several seeds."""
    names = (
        "encode_ms", "recall", "index_bytes", "index_parts", "build_seconds", "encode_seconds", "peak_bytes",
        "encode_joules", "build_joules", "document_terms", "query_terms", "flops", "lengths",
    )  # fmt: skip
    by_seed = [means for means, _ in scored]
    per_query = [values for _, values in scored]
    parsed = parse_measures(" ".join(by_seed[0]))
    facts = mean_facts([run.facts for run in runs])
    return {
        "dataset": name,
        "system": system,
        "measures": mean_facts(by_seed),
        "intervals": {
            str(measure): list(_interval([values[str(measure)] for values in per_query]))
            for measure in parsed
            if is_mean(measure)
        },
        "seeds": {measure: [means[measure] for means in by_seed] for measure in by_seed[0]} if len(runs) > 1 else None,
        "ties": mean_facts([_ties(run, dataset, parsed, means, k) for run, means in zip(runs, by_seed, strict=True)]),
        "recall_at": _recall_at(runs, dataset),
        "search_ms": Latency.of(timed.times.tolist()).to_json() if timed else None,
        "queries_per_second": timed.per_second if timed else None,
        "query_joules": timed.joules if timed else None,
        **{name: facts.get(name) for name in names},
    }


def _interval(seeds: list[dict[str, float]]) -> tuple[float, float]:
    return bootstrap_interval(seeds[0]) if len(seeds) == 1 else seeds_interval(shared(*seeds))


def _describe(name: str, dataset: Dataset) -> dict[str, Any]:
    vectors = holds_vectors(dataset.source)
    notes = ["its documents are vectors" if vectors else "a document is its title and its text"]
    if dataset.drop_own:
        notes.append("a query's own document is removed from its results")
    if dataset.most_dropped > dataset.drop_own:
        notes.append("documents that the judgments exclude are removed from the results")
    return {
        "name": name,
        "source": dataset.name,
        "split": dataset.split,
        "documents": dataset.corpus().count(),
        "queries": len(dataset.qrels),
        "judgments": sum(len(judged) for judged in dataset.qrels.values()),
        "notes": notes,
        "checksums": _checksums_of(dataset),
    }


def _texts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Yield ids and texts of the judged queries; nothing if the queries are vectors."""
    if not holds_vectors(dataset.query_source):
        for query in open_corpus(dataset.query_source, queries=True):
            if query.id in dataset.qrels:
                yield query.id, query.content


def _recall_at(runs: Sequence[System], dataset: Dataset) -> dict[str, float]:
    """Return recall at several depths, up to the depth of the runs; a mean if there are several seeds."""
    longest = max((len(hits) for run in runs for hits in run.run.values()), default=0)
    depths = [k for k in _DEPTHS if k <= longest]
    if not depths:
        return {}
    parsed = parse_measures(" ".join(f"R@{k}" for k in depths))
    means = mean_facts([score_run(dataset.qrels, run.run, parsed)[0] for run in runs])
    return {str(k): means[f"R@{k}"] for k in depths}


def _checksums_of(dataset: Dataset) -> dict[str, str]:
    """Return SHA-256 of a dataset's files and judgments; ir-datasets checks its downloads itself."""
    identity = identity_of(dataset)
    paths = {"documents": Path(dataset.source), "queries": Path(dataset.query_source)}
    judged = sorted((query, *pair) for query, docs in dataset.qrels.items() for pair in docs.items())
    found = {part: identity[part] for part, path in paths.items() if path.exists()}
    return found | {"judgments": hashlib.sha256(json.dumps(judged).encode()).hexdigest()}


def _as_given(dataset: Dataset) -> DatasetSettings:
    """Return the settings that open the dataset again, as in a YAML file."""
    folder = Path(dataset.name).is_dir()
    qrels = None if folder or dataset.qrels_path is None else str(dataset.qrels_path)
    parts = (dataset.source, dataset.query_source)
    documents, queries = (None if part == dataset.name and not qrels else part for part in parts)
    return DatasetSettings(dataset.name, dataset.split, documents, queries, qrels, dataset.drop_own)


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


def _write_run(path: Path, system: System) -> str:
    """Write a run, and return the SHA-256 of its lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tag, digest = file_name(system.settings.name), hashlib.sha256()
    with new_text(path) as file:
        for query, hits in system.run.items():
            lines = "".join(line + "\n" for line in run_lines(query, hits.items(), tag))
            digest.update(lines.encode())
            file.write(lines)
    return digest.hexdigest()


def _checksums(runs: Sequence[System], sums: Sequence[str], seeds: Sequence[int]) -> dict[str, str]:
    """Return SHA-256 of a system's runs and of their inputs, for each seed if there are several."""
    found: dict[str, str] = {}
    for i, (run, digest) in enumerate(zip(runs, sums, strict=True)):
        of_seed = f", seed {seeds[i]}" if len(runs) > 1 else ""
        found |= {f"{what}{of_seed}": value for what, value in {**run.inputs, "run": digest}.items()}
    return found


def _write_table(path: Path, columns: Mapping[str, list[Any]]) -> None:
    partial = path.with_name(path.name + ".tmp")
    pq.write_table(pa.table(dict(columns)), partial, compression="zstd")
    take_name(partial, path)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(content)
    take_name(partial, path)
