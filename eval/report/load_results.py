"""Read and check an experiment's result folder.

experiment.json      conditions, datasets, systems, means, comparisons, published values: `results.Experiment`
per-query.parquet    dataset, system, query, measure, value
latencies.parquet    dataset, system, query, search_ms; may be absent
queries.parquet      dataset, query, text; may be absent
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lsr.errors import DataError
from lsr.eval.latency import Latency
from lsr.eval.report.results import Experiment, Results
from lsr.io.text_files import open_parquet

FORMAT = 1
_SHOWN_PROBLEMS = 20
_AGAIN = "; lsr experiment with the same settings writes it again, from its cache"
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def read_results(folder: Path) -> Results:
    """Read a result folder.

    Raises:
        DataError: A file is missing, damaged or inconsistent; the message lists all problems of experiment.json.
    """
    experiment = _read_experiment(folder / "experiment.json")
    strings = ("dataset", "system", "query", "measure")
    per_query = read_table(folder / "per-query.parquet", strings, "value", experiment)
    times = folder / "latencies.parquet"
    latencies = read_table(times, strings[:3], "search_ms", experiment) if times.exists() else None
    queries = folder / "queries.parquet"
    columns = (
        read_table(queries, ("dataset", "query", "text"), None, experiment).to_pydict() if queries.exists() else {}
    )
    texts = {(d, q): text for d, q, text in zip(*columns.values(), strict=True)}
    return Results(experiment, per_query, latencies, texts)


def _read_experiment(path: Path) -> Experiment:
    try:
        values = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise DataError("no such file: is this the result folder of an experiment?", str(path)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8: {error}{_AGAIN}", str(path)) from None
    if isinstance(values, dict) and values.get("format") != FORMAT:
        raise DataError(f"format {values.get('format')!r}; this version of lsr reads format {FORMAT}", str(path))
    problems: list[str] = []
    experiment = _typed(values, Experiment, "", problems)
    problems = problems or list(_contradictions(experiment))
    if problems:
        more = [f"... and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise DataError("; ".join(problems[:_SHOWN_PROBLEMS] + more), str(path))
    assert isinstance(experiment, Experiment)
    return experiment


def _typed(value: Any, kind: Any, name: str, problems: list[str]) -> Any:
    """Convert a JSON value to a type; if the value doesn't fit, record a problem and return None."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _typed(value, arguments[0], name, problems)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            hints, prefix = typing.get_type_hints(kind), f"{name}." if name else ""
            defaults = {f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
            needed = {key for key, hint in hints.items() if type(None) not in typing.get_args(hint)} - defaults
            absent = [key for key in hints if key in needed and key not in value]
            problems += [f"{prefix}{key} is missing" for key in absent]
            fields = {key: value.get(key) for key in hints if key in value or key not in needed | defaults}
            fields = {key: _typed(field, hints[key], prefix + key, problems) for key, field in fields.items()}
            return None if absent else kind(**fields)
        expected = "an object"
    elif origin is dict:
        if isinstance(value, dict):
            return {key: _typed(item, arguments[1], f"{name}[{key!r}]", problems) for key, item in value.items()}
        expected = "an object"
    elif origin is tuple:
        pair = arguments[-1] is not Ellipsis
        if isinstance(value, list) and not (pair and len(value) != len(arguments)):
            return tuple(_typed(item, arguments[0], f"{name}[{i}]", problems) for i, item in enumerate(value))
        expected = f"a list of {len(arguments)}" if pair else "a list"
    else:
        if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return float(value)
        fits = isinstance(value, kind) and not (kind is not bool and isinstance(value, bool))
        if fits and (kind is not float or math.isfinite(value)):
            return value
        expected = _NAMES[kind]
    problems.append(f"{name or 'the file'} must be {expected}, got {str(value)[:40]!r}")
    return None


def _contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield problems of values that have the right type but are impossible."""
    systems = Counter(system.name for system in experiment.systems)
    datasets = Counter(dataset.name for dataset in experiment.datasets)
    known: dict[str, Any] = {"dataset": datasets, "system": systems, "measure": set(experiment.measures)}
    for what, names in (("measures", experiment.measures), ("datasets", datasets), ("systems", systems)):
        if not names:
            yield f"{what} is empty"
    for what, counted in (
        ("system", systems),
        ("dataset", datasets),
        ("measure", Counter(experiment.measures)),
        ("result of (dataset, system)", Counter((r.dataset, r.system) for r in experiment.results)),
    ):
        yield from (f"{what} {name!r} occurs {n} times" for name, n in counted.items() if n > 1)
    named = [("baseline", "system", experiment.baseline)]
    named += [
        (f"systems[{i}].exact_name", "system", s.exact_name) for i, s in enumerate(experiment.systems) if s.exact_name
    ]
    for i, result in enumerate(experiment.results):
        where = f"results[{i}]"
        named += [(f"{where}.dataset", "dataset", result.dataset), (f"{where}.system", "system", result.system)]
        named += [
            (f"{where}.measures", "measure", m) for m in (*result.measures, *result.intervals, *(result.seeds or ()))
        ]
        if result.recall is not None and not 0 <= result.recall <= 1:
            yield f"{where}.recall must be from 0 to 1, got {result.recall:g}"
        if (lengths := result.lengths) is not None:
            rising = all(a < b for a, b in zip(lengths.edges, lengths.edges[1:], strict=False))
            if len(lengths.edges) != len(lengths.counts) + 1 or not rising or min(lengths.counts, default=0) < 0:
                yield f"{where}.lengths must have rising edges, one edge more than counts, and no negative counts"
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            worst = min(dataclasses.astuple(value)) if isinstance(value, Latency) else value
            if isinstance(worst, (int, float)) and worst < 0:
                yield f"{where}.{field.name} must not be negative, got {worst:g}"
    for i, test in enumerate(experiment.comparisons):
        named += [(f"comparisons[{i}].{key}", key, getattr(test, key)) for key in ("dataset", "system", "measure")]
        named.append((f"comparisons[{i}].baseline", "system", test.baseline))
        if not (0 <= test.p <= 1 and 0 <= test.p_corrected <= 1):
            yield f"comparisons[{i}]: p and p_corrected must be from 0 to 1"
    named += _named_in_pairs(experiment)
    for i, reference in enumerate(experiment.references):
        named.append((f"references[{i}].dataset", "dataset", reference.dataset))
        named.append((f"references[{i}].measure", "measure", reference.measure))
    yield from (f"{where}: there is no {kind} {name!r}" for where, kind, name in named if name not in known[kind])


def _named_in_pairs(experiment: Experiment) -> Iterator[tuple[str, str, str]]:
    """Yield the names that pairs of systems refer to: where, what kind of thing, and the name."""
    for i, test in enumerate(experiment.pairs):
        yield from ((f"pairs[{i}].{key}", key, getattr(test, key)) for key in ("dataset", "system", "measure"))
        yield f"pairs[{i}].baseline", "system", test.baseline
    for i, two in enumerate(experiment.alike):
        yield from ((f"alike[{i}].{key}", key, getattr(two, key)) for key in ("dataset", "system"))
        yield f"alike[{i}].other", "system", two.other


def read_table(
    path: Path, strings: tuple[str, ...], number: str | None, experiment: Experiment | None = None
) -> pa.Table:
    """Read text columns, and optionally a number column, of a Parquet file.

    Args:
        path: The file.
        strings: The text columns.
        number: The number column; None if there is none.
        experiment: An experiment that must have every dataset, system and measure of the file; None to skip this check.

    Raises:
        DataError: The file is missing or damaged, lacks a column, has empty or infinite values, or doesn't fit the
            experiment.
    """
    if not path.is_file():
        raise DataError("no such file: is this the result folder of an experiment?", str(path))
    try:
        with open_parquet(path) as file:
            names = [*strings, *([number] if number else [])]
            if absent := [name for name in names if name not in file.schema_arrow.names]:
                raise DataError(f"no column {', '.join(absent)}", str(path))
            table = file.read(columns=names, use_threads=False)
        columns = {name: table[name].cast(pa.string()) for name in strings}
        if number:
            columns[number] = table[number].cast(pa.float64())
    except DataError as error:
        raise DataError(error.problem + _AGAIN, error.where) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file: {error}{_AGAIN}", str(path)) from None
    table = pa.table(columns)
    bad = [name for name in table.column_names if table[name].null_count]
    if bad or (number and len(table) and not pc.all(pc.is_finite(table[number])).as_py()):
        raise DataError(f"empty or infinite values in {', '.join(bad) or number}", str(path))
    if experiment is None:
        return table
    known = {
        "dataset": {dataset.name for dataset in experiment.datasets},
        "system": {system.name for system in experiment.systems},
        "measure": set(experiment.measures),
    }
    for name in known.keys() & set(strings):
        if strange := sorted(set(pc.unique(table[name]).to_pylist()) - known[name]):
            raise DataError(f"{name} {strange[0]!r} is not in experiment.json", str(path))
    return table
