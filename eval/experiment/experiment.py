"""An experiment: datasets x systems, encoded, indexed, searched, measured and timed, with a cache of all artifacts.

    OUT/experiment.json     settings, conditions, a result for each dataset and system, comparisons with the baseline
    OUT/per-query.parquet   dataset, system, query, measure, value
    OUT/latencies.parquet   dataset, system, query, search_ms
    OUT/runs/               a TREC run for each dataset and system, whose scores decrease strictly
    OUT/cache/              vectors, indexes, queries, runs and latencies (`artifact_cache`)

`lsr.eval.report.report` writes the report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
from lsr.eval.datasets import Dataset
from lsr.eval.experiment.artifact_cache import Artifacts
from lsr.eval.experiment.settings import ExperimentSettings, SystemSettings, file_name
from lsr.eval.experiment.systems import System, Timed, check_inputs, run_systems, time_systems
from lsr.eval.latency import Latency, machine
from lsr.eval.measures import cutoff_of, depth_of, is_mean, ordered_by_id, parse_measures, score_run, tied_queries
from lsr.eval.published_scores import reference, references
from lsr.eval.significance import bootstrap_interval, compare, holm
from lsr.io.open_vectors import holds_vectors
from lsr.io.runs import run_lines
from lsr.io.text_files import new_text

RECORD, PER_QUERY, LATENCIES = "experiment.json", "per-query.parquet", "latencies.parquet"
_PACKAGES = ("numpy", "numba", "pyarrow", "onnxruntime", "tokenizers", "torch", "ir-measures", "ir-datasets")


def run_experiment(settings: ExperimentSettings, datasets: Mapping[str, Dataset], out: Path) -> dict[str, Any]:
    """Run the parts of an experiment that aren't in the cache, and write the result folder.

    Args:
        settings: Systems, measures, and how to compare them; their datasets are ignored.
        datasets: Opened datasets.
        out: The result folder; may be that of an earlier run.

    Returns:
        The content of experiment.json.

    Raises:
        DataError: Unknown measures or references; vectors, runs or queries that are missing or don't fit.
        OutputExists: The folder has something else, or another process is writing there.
    """
    problems, notes = DataErrors(), list[str]()
    parsed = check_settings(settings, problems)
    unjudged = _check_datasets(datasets, notes, problems)
    check_inputs(settings, datasets, depth_of(parsed) if parsed else None, notes, problems, unjudged)
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


def check_settings(settings: ExperimentSettings, problems: DataErrors) -> list[Any]:
    """Parse the measures; unknown measures and references are added to `problems`."""
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
    depth = max(settings.depth, depth_of(parsed), settings.latency.k)
    cutoffs = {cutoff for measure in parsed if (cutoff := cutoff_of(measure)) is not None}
    results: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {name: [] for name in ("dataset", "system", "query", "measure", "value")}
    times: dict[str, list[Any]] = {name: [] for name in ("dataset", "system", "query", "search_ms")}
    described = []
    for name, dataset in datasets.items():
        systems = run_systems(settings, name, dataset, artifacts, depth, cutoffs)
        timed = time_systems(settings, systems, artifacts)
        per_query: dict[str, dict[str, dict[str, float]]] = {}
        for system in systems:
            means, per_query[system.settings.name] = _scored(system, dataset, parsed)
            latency = timed.get(system.settings.name)
            ties = _ties(system, dataset, parsed, means, settings.latency.k)
            results.append(_result(name, system, means, per_query[system.settings.name], latency, ties))
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
    """A dataset's name in tables: a folder's name, or an ir-datasets name without "beir/" and the split."""
    path = Path(dataset.name)
    if path.exists():
        return path.resolve().stem if path.is_file() else path.resolve().name
    parts = dataset.name.removeprefix("irds:").split("/")
    return parts[1] if parts[0] == "beir" and len(parts) > 1 else "/".join(parts)


def named(datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Datasets by their short names.

    Raises:
        DataError: Two have the same name, or there are none.
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
    """Machine, date and versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    date = datetime.now().isoformat(timespec="seconds")
    return {"lsr": __version__, "date": date, "machine": machine(), "versions": versions}


def _check_datasets(
    datasets: Mapping[str, Dataset], notes: list[str], problems: DataErrors
) -> dict[str, frozenset[str]]:
    """Check the judgments; warnings are added to the notes, errors to `problems`.

    Returns:
        {dataset: queries without judgments}
    """
    unjudged = {}
    for name, dataset in datasets.items():
        with problems:
            dataset.corpus()  # an experiment needs documents
        findings = check_dataset(dataset)
        findings.hand_on(notes, problems)
        unjudged[name] = findings.unjudged
    return unjudged


# --- what is written --------------------------------------------------------------------------------------------------


def _scored(
    system: System, dataset: Dataset, parsed: Sequence[Any], *, by_id: bool = False
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Like `score_run`, but each measure of an approximate system uses a search as deep as the measure.

    With `by_id` equal scores are in trec_eval's order instead of the search's.
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
    """The share of queries with equal scores among the first k + 1 hits, and the measures with ties ordered by id."""
    judged = {query: hits for query, hits in system.run.items() if query in dataset.qrels}
    tied = tied_queries(judged, k + 1)
    deeper = tied or tied_queries(judged, sys.maxsize)
    by_id = _scored(system, dataset, parsed, by_id=True)[0] if deeper else means
    return {"queries": len(tied) / len(dataset.qrels), "by_id": dict(by_id)}


def _result(
    name: str,
    system: System,
    means: Mapping[str, float],
    per_query: Mapping[str, Mapping[str, float]],
    timed: Timed | None,
    ties: Mapping[str, Any],
) -> dict[str, Any]:
    names = (
        "encode_ms", "recall", "index_bytes", "index_parts", "build_seconds", "encode_seconds", "peak_bytes",
        "document_terms", "query_terms", "flops", "lengths",
    )  # fmt: skip
    return {
        "dataset": name,
        "system": system.settings.name,
        "measures": dict(means),
        "intervals": {
            str(measure): list(bootstrap_interval(per_query[str(measure)]))
            for measure in parse_measures(" ".join(means))
            if is_mean(measure)
        },
        "ties": ties,
        "search_ms": Latency.of(timed.times.tolist()).to_json() if timed else None,
        "queries_per_second": timed.per_second if timed else None,
        **{name: system.facts.get(name) for name in names},
    }


def _comparisons(
    settings: ExperimentSettings, name: str, per_query: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """Compare every system with the baseline; p is corrected for the number of systems."""
    baseline = settings.baseline or settings.systems[0].name
    others = [system.name for system in settings.systems if system.name != baseline]
    rows = []
    for measure, values in per_query[baseline].items():
        # A measure may be undefined for some queries: use those for which both systems have a value.
        pairs = [_shared(per_query[other][measure], values) for other in others]
        found = [compare(mine, base, test=settings.test) for mine, base in pairs if base]
        others_found = [other for other, (_, base) in zip(others, pairs, strict=True) if base]
        for other, comparison, corrected in zip(others_found, found, holm([c.p for c in found]), strict=True):
            about = {"dataset": name, "system": other, "baseline": baseline, "measure": measure}
            rows.append({**about, **asdict(comparison), "p_corrected": corrected})
    return rows


def _shared(values: Mapping[str, float], baseline: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    both = [query for query in values if query in baseline]
    return {query: values[query] for query in both}, {query: baseline[query] for query in both}


def _describe(name: str, dataset: Dataset) -> dict[str, Any]:
    vectors = holds_vectors(dataset.source)
    notes = ["its documents are vectors" if vectors else "a document is its title and its text"]
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


def _write_run(path: Path, system: System) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_text(path) as file:
        for query, hits in system.run.items():
            tag = file_name(system.settings.name)
            file.writelines(line + "\n" for line in run_lines(query, hits.items(), tag))


def _write_table(path: Path, columns: Mapping[str, list[Any]]) -> None:
    partial = path.with_name(path.name + ".tmp")
    pq.write_table(pa.table(dict(columns)), partial, compression="zstd")
    take_name(partial, path)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(content)
    take_name(partial, path)
