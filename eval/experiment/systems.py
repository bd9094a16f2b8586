"""Encode, index, search and time the systems of an experiment on one dataset."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsr._version import __version__
from lsr.console import note
from lsr.encode.base import Encoder
from lsr.encode.passages import Passages
from lsr.encode.write import encode_to
from lsr.errors import DataError, DataErrors, EncoderError
from lsr.eval.checks import check_run
from lsr.eval.datasets import Dataset
from lsr.eval.experiment.artifact_cache import Artifacts, Facts, content_digest, remove
from lsr.eval.experiment.literature import (
    compared_run,
    densified_search,
    imitated_search,
    late_run,
    verified_search,
    visited_search,
    with_feedback,
)
from lsr.eval.experiment.settings import ExperimentSettings, SystemSettings
from lsr.eval.latency import Energy, PeakMemory, encode_latency, machine, throughput, time_together
from lsr.index.hybrid.fusion import interpolate, reciprocal_rank_fusion
from lsr.index.index import Index
from lsr.index.search.query_file import QuerySet, read_queries
from lsr.index.storage.manifest import FORMAT
from lsr.io.corpus import beir_file
from lsr.io.open_vectors import load_matrix, read_vectors
from lsr.io.runs import Run, read_run, run_lines
from lsr.io.text_files import new_text
from lsr.io.vectors import Vectors
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import SparseMatrix

_BINS = 40  # bins of the histogram of documents' lengths
_BATCH = 1024  # queries per batch


@dataclass(frozen=True)
class Searched:
    """An index with its queries, for timing."""

    key: str
    index: Index
    ids: list[str]
    vectors: SparseMatrix
    options: dict[str, Any]
    dense: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class System:
    """A system on a dataset.

    Attributes:
        settings: The system's settings.
        run: The system's results.
        facts: Measurements.
        searched: The index and the queries, if the system searches an index.
        shallow: {number of documents searched for: results} of approximate search. A search for fewer documents skips
            more, so a search for ten documents has worse results than the first ten of a search for a thousand.
        inputs: {name of an input: SHA-256}; inputs are the encoder, files of vectors, or a run.
    """

    settings: SystemSettings
    run: Run
    facts: Facts
    searched: Searched | None = None
    shallow: Mapping[int, Run] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


def check_inputs(
    settings: ExperimentSettings,
    datasets: Mapping[str, Dataset],
    depth: int | None,
    notes: list[str],
    problems: DataErrors,
    told: dict[str, frozenset[str]],
) -> None:
    """Check the systems' encoders, vectors and runs before any work.

    Args:
        settings: The systems.
        datasets: {name in tables: dataset}.
        depth: Depth of the measures.
        notes: A list to which warnings about given runs are appended.
        problems: A collection to which errors about missing, unreadable or unsuitable files are added.
        told: {dataset: unjudged queries that were reported}; unjudged queries of runs are added.
    """
    from lsr.index.cli.encode import open_encoder

    for system in settings.systems:
        if system.encoder:
            try:
                encoder = open_encoder(system.encoder, system.encoder_settings)
                if system.mode != "sparse" and not encoder.dense_width:
                    raise EncoderError(f"mode {system.mode}: {system.encoder} has no dense vectors; lsr-mini has them")
            except EncoderError as error:
                problems.add(DataError(f"the system {system.name!r}: {error}"))
        for name, dataset in datasets.items():
            with problems:
                if system.documents:
                    _their_vectors(system, name)
            if system.run:
                path = Path(_filled(system.run, name))
                findings = check_run(path, dataset, depth, alone=True, told=told.get(name, ()))
                findings.hand_on(notes, problems)
                told[name] = findings.unjudged


def run_systems(
    settings: ExperimentSettings,
    name: str,
    dataset: Dataset,
    artifacts: Artifacts,
    depth: int,
    cutoffs: Collection[int],
) -> list[System]:
    """Return the runs of all systems on a dataset.

    Args:
        settings: The systems.
        name: The dataset's name in tables.
        dataset: The dataset.
        artifacts: The cache.
        depth: Number of documents per query in a run.
        cutoffs: Depths of the measures; approximate systems are also searched at each of these depths.

    Raises:
        DataError: Vectors, runs or queries are missing or unsuitable.
    """
    identity = identity_of(dataset)
    done: dict[str, System] = {}
    for system in settings.systems:
        note(f"{name}: {system.name}")
        if system.fuse:
            run = _fused(system, [done[fused].run for fused in system.fuse], depth)
            sizes = _index_sizes(system, done)
            done[system.name] = System(system, run, {"index_bytes": None if sizes is None else sum(sizes.values())})
        elif system.run:
            path = Path(_filled(system.run, name))
            run = dataset.kept(read_run(path))
            done[system.name] = System(system, run, {}, inputs={"run that was given": content_digest(path)})
        elif system.compare:
            first, judge = done[system.compare.of].run, done[system.compare.judge].run
            done[system.name] = System(system, compared_run(system.compare, first, judge, depth), {})
        elif system.late:
            run = late_run(system.late, done[system.late.of].run, dataset, identity, artifacts, depth)
            done[system.name] = System(system, run, {})
        else:
            k = settings.latency.k
            source = done[system.feedback.source].run if system.feedback and system.feedback.source else None
            done[system.name] = _search_system(system, name, dataset, identity, artifacts, depth, cutoffs, k, source)
    return list(done.values())


def _their_vectors(system: SystemSettings, name: str) -> tuple[Path, Path]:
    """Return the paths of the given vectors of documents and of queries."""
    assert system.documents is not None
    assert system.queries is not None
    paths = Path(_filled(system.documents, name)), Path(_filled(system.queries, name))
    if absent := [str(path) for path in paths if not path.exists()]:
        raise DataError(f"no such vectors, for the system {system.name!r}", " and ".join(absent))
    read_vectors(paths[0])
    return paths


def identity_of(dataset: Dataset) -> dict[str, str]:
    """Identify a dataset's texts by a digest of the files or by the ir-datasets name."""
    found = {}
    for part, kind, source in (("documents", "corpus", dataset.source), ("queries", "queries", dataset.query_source)):
        path = Path(source)
        if path.is_dir():
            path = beir_file(path, kind)
        found[part] = content_digest(path) if path.is_file() else source.removeprefix("irds:")
    return found


def _filled(path: str, dataset: str) -> str:
    return path.replace("{dataset}", dataset)


def _fused(system: SystemSettings, runs: list[Run], depth: int) -> Run:
    if system.method == "rrf":
        fused = reciprocal_rank_fusion(runs, k=system.rrf_k, weights=system.weights)
    else:
        fused = interpolate(runs, weights=system.weights, normalization=system.normalization)
    return {query: dict(list(hits.items())[:depth]) for query, hits in fused.items()}


def _index_sizes(system: SystemSettings, done: Mapping[str, System]) -> dict[str, int] | None:
    """Return {folder of an index: bytes} for all indexes that a fusion searches; None if one of its systems has no
    index.
    """
    found: dict[str, int] = {}
    for name in system.fuse:
        part = done[name]
        if part.searched is not None:
            found[str(part.searched.index.path)] = part.facts["index_bytes"]
        elif part.settings.fuse and (inner := _index_sizes(part.settings, done)) is not None:
            found |= inner
        else:
            return None
    return found


def _search_system(
    system: SystemSettings,
    name: str,
    dataset: Dataset,
    identity: Mapping[str, str],
    artifacts: Artifacts,
    depth: int,
    cutoffs: Collection[int],
    k: int,
    source_run: Run | None,
) -> System:
    path, built, index_key, inputs = _index(system, name, dataset, identity, artifacts)
    index = Index.open(path)
    source = _filled(system.queries, name) if system.queries else ""
    key: dict[str, Any] = {
        "index": index_key,
        "queries": content_digest(Path(source)) if source else identity["queries"],
    }
    queries = read_queries(source or dataset.query_source, index).only(dataset.qrels)
    if not queries.ids:
        raise DataError("none of the queries is judged; are these the right ones?", source or dataset.name)
    key["judged"] = queries.ids

    def encode(path: Path) -> Facts:
        remove(path)
        save_matrix(path, queries.encoded(index), queries.ids)
        latency = encode_latency(index, queries.texts, system.mode) if queries.texts is not None else None
        return {"encode_ms": latency.to_json() if latency else None}

    path, facts, queries_key = artifacts.get("queries", key, encode, ".parquet")
    matrix = load_matrix(path)
    dense = _dense_queries(index, queries, key, artifacts) if system.mode != "sparse" else None
    second = {name: asdict(one) for name in ("densify", "verify", "visit", "imitate") if (one := getattr(system, name))}
    if second:
        key = {"index": index_key, "queries": queries_key, **second, "k": depth}
        run = _other_search(system, index, queries.ids, matrix, dense, dataset, identity, depth, key, artifacts)
        return System(system, run, facts | {"index_bytes": None}, inputs=inputs)
    if system.feedback:
        given = queries.ids, matrix, dense, queries_key
        matrix, dense, queries_key = _expanded(system, index, *given, source_run, artifacts)
    search = asdict(system.search) | ({"mode": system.mode} if system.mode != "sparse" else {})

    def find(deep: int) -> tuple[Run, Facts, str]:
        wanted = deep + dataset.most_dropped
        key = {"lsr": __version__, "index": index_key, "queries": queries_key, "search": search, "k": [wanted, k]}

        def write(path: Path) -> Facts:
            remove(path)
            with new_text(path) as file:
                for start in range(0, len(queries.ids), _BATCH):
                    some = slice(start, start + _BATCH)
                    beside = None if dense is None else dense[some]
                    found = index.search_batch(matrix[some], wanted, dense=beside, **search)
                    for query, hits in zip(queries.ids[some], found, strict=True):
                        scored = zip(hits.ids, hits.scores.tolist(), strict=True)
                        file.writelines(f"{line}\n" for line in run_lines(query, scored, "lsr", keep_ties=True))
            return {"recall": None if system.search.exact else index.recall(matrix, k, **search)}

        path, facts, digest = artifacts.get("run", key, write, ".trec.gz")
        run = dataset.kept(read_run(path))
        return {query: dict(list(hits.items())[:deep]) for query, hits in run.items()}, facts, digest

    run, searched, run_key = find(depth)
    shallow = {} if system.search.exact else {cutoff: find(cutoff)[0] for cutoff in cutoffs if cutoff < depth}
    facts = built | facts | searched | _term_facts(index, matrix)
    if source:
        inputs["vectors of queries"] = key["queries"]
    timed = Searched(run_key, index, queries.ids, matrix, search, dense)
    return System(system, run, facts, timed, shallow, inputs)


def _index(
    system: SystemSettings, name: str, dataset: Dataset, identity: Mapping[str, str], artifacts: Artifacts
) -> tuple[Path, Facts, str, dict[str, str]]:
    """Return a system's index, built from cached vectors, or from texts if dense vectors are also needed."""
    if system.mode == "sparse":
        vectors, encoded, vectors_key, inputs = _vectors(system, name, dataset, identity, artifacts)
        key = {"format": FORMAT, "vectors": vectors_key, "index": asdict(system.index)}
        path, built, digest = artifacts.get("index", key, lambda path: _build(path, vectors, system))
        return path, encoded | built, digest, inputs
    encoder, key, inputs = _encoder(system, identity)

    def build(path: Path) -> Facts:
        remove(path)
        how = asdict(system.index) | {"passages": _passages(system)}
        del how["overlap"]
        with PeakMemory() as memory:
            index = Index.build(path, dataset.corpus(), encoder=encoder, hybrid=True, store_text=False, **how)
        return {"peak_bytes": memory.peak, "document_terms": index.n_postings / max(len(index), 1), **_sizes(index)}

    key |= {"format": FORMAT, "index": asdict(system.index), "hybrid": True}
    path, built, digest = artifacts.get("index", key, build)
    return path, built, digest, inputs


def _dense_queries(index: Index, queries: QuerySet, key: Facts, artifacts: Artifacts) -> NDArray[np.float32]:
    """Return dense vectors of the queries, (n_queries, width) float32."""

    def encode(path: Path) -> Facts:
        remove(path)
        with path.open("wb") as file:
            np.save(file, index.encoder.encode_dense(queries.texts or [], queries=True))
        return {}

    path, _, _ = artifacts.get("dense-queries", key, encode, ".npy")
    return np.asarray(np.load(path), np.float32)


def _expanded(
    system: SystemSettings,
    index: Index,
    ids: list[str],
    matrix: SparseMatrix,
    dense: NDArray[np.float32] | None,
    queries_key: str,
    source: Run | None,
    artifacts: Artifacts,
) -> tuple[SparseMatrix, NDArray[np.float32] | None, str]:
    """Return queries expanded by feedback, their dense vectors, and the digest of both."""
    feedback = system.feedback
    assert feedback is not None
    how, first = asdict(feedback), asdict(system.search) | ({"mode": system.mode} if dense is not None else {})
    best = None if source is None else [list(source.get(query, {}))[: how["documents"]] for query in ids]
    key = {"lsr": __version__, "queries": queries_key, "feedback": how, "search": first, "best": best}

    def expand(path: Path) -> Facts:
        remove(path)
        path.mkdir()
        sparse, near = with_feedback(index, matrix, dense, best, feedback, first)
        save_matrix(path / "queries.parquet", sparse, ids)
        if near is not None:
            np.save(path / "dense.npy", near)
        return {}

    path, _, digest = artifacts.get("feedback", key, expand)
    near = None if dense is None else np.asarray(np.load(path / "dense.npy"), np.float32)
    return load_matrix(path / "queries.parquet"), near, digest


def _other_search(
    system: SystemSettings,
    index: Index,
    ids: list[str],
    matrix: SparseMatrix,
    dense: NDArray[np.float32] | None,
    dataset: Dataset,
    identity: Mapping[str, str],
    depth: int,
    key: Facts,
    artifacts: Artifacts,
) -> Run:
    """Return the run of a search of densified vectors, a coarse index, clusters of dense vectors, or imitating
    vectors.
    """
    wanted = depth + dataset.most_dropped

    def search(path: Path) -> Facts:
        remove(path)
        if system.densify:
            found = densified_search(system.densify, index, matrix, dense, wanted)
        elif system.visit:
            assert dense is not None
            found = visited_search(system.visit, index, matrix, dense, wanted)
        elif system.imitate:
            teacher = _encoder(system, identity)[0]
            found = imitated_search(system.imitate, teacher, dataset, identity, ids, artifacts, wanted)
        else:
            assert system.verify is not None
            found = verified_search(system.verify, index, matrix, dense, wanted)
        with new_text(path) as file:
            for query, hits in zip(ids, found, strict=True):
                file.writelines(f"{line}\n" for line in run_lines(query, hits, "lsr", keep_ties=True))
        return {}

    path, _, _ = artifacts.get("run", {"lsr": __version__, **key}, search, ".trec.gz")
    run = dataset.kept(read_run(path))
    return {query: dict(list(hits.items())[:depth]) for query, hits in run.items()}


def _vectors(
    system: SystemSettings, name: str, dataset: Dataset, identity: Mapping[str, str], artifacts: Artifacts
) -> tuple[Vectors, Facts, str, dict[str, str]]:
    """Return a system's document vectors (given or encoded here), measurements, the digest of the vectors, and digests
    of the inputs.
    """
    if system.documents:
        path, _ = _their_vectors(system, name)
        digest = content_digest(path)
        return read_vectors(path), {}, digest, {"vectors of documents": digest}
    encoder, key, inputs = _encoder(system, identity)
    passages = _passages(system)

    def encode(path: Path) -> Facts:
        started, fresh = time.perf_counter(), not path.with_name(path.name + ".partial").exists()
        with Energy() as energy:
            encode_to(
                dataset.corpus(),
                lambda: encoder,
                path,
                settings=json.dumps(key),
                passages=passages,
                with_text=False,
                overwrite=True,
            )
        # The totals are unknown if the encoding was interrupted and resumed.
        seconds = time.perf_counter() - started
        return {"encode_seconds": seconds, "encode_joules": energy.joules} if fresh else {"encode_seconds": None}

    path, facts, digest = artifacts.get("vectors", key, encode)
    return read_vectors(path), facts, digest, inputs


def _passages(system: SystemSettings) -> Passages | None:
    return Passages(system.index.passages, system.index.overlap) if system.index.passages else None


def _encoder(system: SystemSettings, identity: Mapping[str, str]) -> tuple[Encoder, dict[str, Any], dict[str, str]]:
    """Return a system's encoder, the cache key of its document vectors, and the encoder's digest."""
    from lsr.index.cli.encode import open_encoder

    encoder = open_encoder(system.encoder, system.encoder_settings)
    passages = _passages(system)
    key = {
        "documents": identity["documents"],
        "encoder": encoder.fingerprint.to_json(),  # before fitting, for encoders that are fitted
        "settings": system.encoder_settings,
        "passages": asdict(passages) if passages else None,
    }
    # Files of vectors include the encoder of the queries, so its model is part of the key.
    if (queries := encoder.query_fingerprint) is not None:
        key["query model"] = queries.to_json()
    return encoder, key, {"encoder": encoder_digest(encoder, system.encoder_settings)}


def encoder_digest(encoder: Encoder, settings: Mapping[str, Any]) -> str:
    """SHA-256 of an encoder before fitting and of its given settings, without its name."""
    content = [replace(encoder.fingerprint, model=None).to_json(), dict(settings)]
    if (queries := encoder.query_fingerprint) is not None:
        content.append(replace(queries, model=None).to_json())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _build(path: Path, vectors: Vectors, system: SystemSettings) -> Facts:
    remove(path)
    how = system.index
    started = time.perf_counter()
    with PeakMemory() as memory, Energy() as energy:
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
    counts, edges = np.histogram(lengths, bins=_edges(lengths))
    return {
        "build_seconds": seconds,
        "build_joules": energy.joules,
        "peak_bytes": memory.peak,
        "document_terms": float(lengths.mean()) if len(lengths) else 0.0,
        "lengths": {"edges": edges.tolist(), "counts": counts.tolist()},
        **_sizes(index),
    }


def _sizes(index: Index) -> Facts:
    parts = index.file_sizes()
    return {"index_bytes": sum(parts.values()), "index_parts": parts}


def _edges(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return edges of a histogram, (n,) int64, evenly spaced up to the 99th percentile, so that a few very long
    documents don't compress the rest.
    """
    longest, most = int(lengths.max(initial=0)), int(np.quantile(lengths, 0.99, method="higher")) if len(lengths) else 0
    even = np.linspace(0, most + 1, min(_BINS, most + 1) + 1).round().astype(np.int64)
    return np.unique(np.append(even, longest + 1))


def _term_facts(index: Index, queries: SparseMatrix) -> Facts:
    """Return the mean length of a query, and FLOPS, the mean number of terms that a query and a document share."""
    shared = index.document_frequencies(queries.indices).sum(dtype=np.float64)
    pairs = len(queries) * len(index)
    return {"query_terms": float(queries.lengths().mean()), "flops": float(shared / pairs) if pairs else 0.0}


# --- latency ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """Times of a system.

    Attributes:
        queries: Ids of the n queries that were timed.
        times: (n,) float64, milliseconds per query.
        per_second: Queries per second of batch search on all cores; None for fusions.
        joules: Energy per query of this batch search; None if it wasn't measured.
    """

    queries: list[str]
    times: NDArray[np.float64]
    per_second: float | None
    joules: float | None = None


def time_systems(
    settings: ExperimentSettings, systems: Sequence[System], artifacts: Artifacts, depth: int
) -> dict[str, Timed]:
    """Time all indexes of a dataset and their fusions in turns, so that machine noise affects all equally.

    Args:
        settings: How to time.
        systems: The systems.
        artifacts: The cache.
        depth: Number of documents that a fusion takes from each of its systems.

    Returns:
        {system: its times}, without systems that have no index. The time of a fusion includes its searches, one after
        the other.
    """
    how = settings.latency
    found = {s.settings.name: s.searched for s in systems if s.searched is not None}
    if not found or not how.queries:
        return {}
    fusions: dict[str, SystemSettings] = {}
    for system in systems:
        if system.settings.fuse and {*system.settings.fuse} <= {*found, *fusions}:
            fusions[system.settings.name] = system.settings
    ids = [searched.ids for searched in found.values()]
    shared = [query for query in ids[0] if all(query in set(others) for others in ids)]
    some = [shared[i] for i in np.unique(np.linspace(0, len(shared) - 1, how.queries).round().astype(int))]

    def call(searched: Searched, k: int) -> Callable[[int], Any]:
        at = {query: i for i, query in enumerate(searched.ids)}
        rows = [searched.vectors[at[query]] for query in some]
        near = [None if searched.dense is None else searched.dense[at[query]] for query in some]
        return lambda i: searched.index.search(rows[i], k, dense=near[i], **searched.options)

    def fuse(system: SystemSettings, k: int) -> Callable[[int], dict[str, float]]:
        parts = [fuse(fusions[name], depth) if name in fusions else scores(found[name]) for name in system.fuse]
        return lambda i: _fused(system, [{"": part(i)} for part in parts], k).get("", {})

    def scores(searched: Searched) -> Callable[[int], dict[str, float]]:
        search = call(searched, depth)
        return lambda i: dict(zip((hits := search(i)).ids, hits.scores.tolist(), strict=True))

    names = [*found, *fusions]

    def measure(path: Path) -> Facts:
        calls = [call(one, how.k) for one in found.values()] + [fuse(one, how.k) for one in fusions.values()]
        times = time_together(calls, len(some), how.rounds)
        rates = [throughput(one.index, one.vectors, how.k, dense=one.dense, **one.options) for one in found.values()]
        per_second = [rate.per_second for rate in rates] + [np.nan] * len(fusions)
        joules = [np.nan if rate.joules is None else rate.joules for rate in rates] + [np.nan] * len(fusions)
        remove(path)
        with path.open("wb") as file:
            np.savez(file, times=times, per_second=np.array(per_second), joules=np.array(joules))
        return {}

    key: dict[str, Any] = {
        "runs": [searched.key for searched in found.values()],
        "how": asdict(how),
        "machine": machine(),
    }
    if fusions:
        key |= {"names": names, "fusions": [asdict(one) for one in fusions.values()], "depth": depth}
    path, _, _ = artifacts.get("latency", key, measure, ".npz")
    with np.load(path) as kept:
        times, per_second = kept["times"], kept["per_second"]
        joules = kept.get("joules", np.full(len(found), np.nan))  # earlier versions didn't measure joules

    def known(value: np.float64) -> float | None:
        return None if np.isnan(value) else float(value)

    return {name: Timed(some, times[i], known(per_second[i]), known(joules[i])) for i, name in enumerate(names)}
