"""`lsr compare`: compare systems query by query.

A system is a TREC run, which is measured here, or a system of an experiment, whose result folder has the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lsr.errors import DataError, DataErrors
from lsr.eval.checks import check_dataset, check_run
from lsr.eval.datasets import Dataset
from lsr.eval.experiment.experiment import PER_QUERY, short_name
from lsr.eval.measures import depth_of, parse_measures, score_run
from lsr.eval.report.load_results import read_table
from lsr.eval.significance import Comparison, compare, holm, most_different

# {system: {(dataset, measure): {query: value}}}
Values = dict[str, dict[tuple[str, str], dict[str, float]]]


@dataclass(frozen=True)
class Compared:
    """A system compared with the baseline on a dataset, by a measure.

    Attributes:
        dataset, measure, system: Their names.
        mean: The system's mean.
        comparison: The comparison with the baseline; None for the baseline itself.
        p_corrected: p corrected for the number of systems (Holm).
        most: The queries that differ most, with the system's value and the baseline's value.
    """

    dataset: str
    measure: str
    system: str
    mean: float
    comparison: Comparison | None
    p_corrected: float | None
    most: Sequence[tuple[str, float, float]]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def read_values(names: Sequence[str], dataset: Dataset | None, measures: str, notes: list[str] | None = None) -> Values:
    """Return the values of systems by query.

    Args:
        names: TREC runs, result folders (all of their systems), or "FOLDER:SYSTEM" (one system of a folder).
        dataset: Dataset with the judgments for runs.
        measures: Names of measures; a result folder may lack some of them.
        notes: A list to which warnings about runs and judgments are appended.

    Raises:
        DataError: A measure is unknown, a file is missing, a run has bad lines or no dataset, or a folder lacks a
            system; the message lists all problems.
    """
    problems, told = DataErrors(), [] if notes is None else notes
    parsed: list[Any] = []
    with problems:
        parsed = parse_measures(measures)
    wanted = {str(measure) for measure in parsed}
    unjudged: frozenset[str] = frozenset()
    if dataset is not None:
        findings = check_dataset(dataset)
        findings.hand_on(told, problems)
        unjudged = findings.unjudged
    found: Values = {}
    for name in names:
        with problems:
            folder, system = _folder_of(name)
            if folder is not None:
                read = {s: v for s, v in _read_folder(folder, wanted).items() if system in (None, s)}
                if not read and parsed:
                    what = "there are no values" if system is None else f"there is no system {system!r} with values"
                    raise DataError(f"{what} of any of {measures} (--measures)", str(folder / PER_QUERY))
            elif dataset is None:
                raise DataError("a run needs judgments: give --dataset", name)
            else:
                depth = depth_of(parsed) if parsed else None
                findings = check_run(name, dataset, depth, alone=True, told=unjudged)
                findings.hand_on(told, problems)
                unjudged = findings.unjudged
                if findings.errors or not parsed:
                    continue
                run = findings.run or {}
                _, values = score_run(dataset.qrels, dataset.kept(run), parsed)
                read = {name: {(short_name(dataset), measure): by_query for measure, by_query in values.items()}}
            for one, values_of_one in read.items():
                found[one if one not in found else f"{name}:{one}"] = values_of_one
    problems.settle()
    if len(found) < 2:
        raise DataError(f"a comparison needs two systems; there is only {', '.join(found)}")
    return found


def _folder_of(name: str) -> tuple[Path | None, str | None]:
    """Split a name into result folder and system; (None, None) for a run."""
    if (Path(name) / PER_QUERY).is_file():
        return Path(name), None
    folder, colon, system = name.rpartition(":")
    if colon and (Path(folder) / PER_QUERY).is_file():
        return Path(folder), system
    if Path(name).is_dir():
        raise DataError(f"this folder has no {PER_QUERY}: it is not a result of lsr experiment", name)
    return None, None


def _read_folder(folder: Path, measures: set[str]) -> Values:
    columns = read_table(folder / PER_QUERY, ("dataset", "system", "query", "measure"), "value").to_pydict()
    values: Values = {}
    for dataset, system, query, measure, value in zip(*columns.values(), strict=True):
        if measure in measures:
            values.setdefault(system, {}).setdefault((dataset, measure), {})[query] = value
    return values


def compare_values(
    values: Values,
    baseline: str | None = None,
    *,
    test: Literal["randomization", "t"] = "randomization",
    most: int = 5,
) -> list[Compared]:
    """Compare systems with one of them, on every dataset and measure that they share.

    Args:
        values: From `read_values`.
        baseline: Name of the baseline; by default the first system.
        test: As for `lsr.eval.significance.compare`.
        most: Number of most different queries to return.

    Raises:
        DataError: There is no such baseline, the systems share no dataset and measure, or their queries differ.
    """
    first = next(iter(values)) if baseline is None else baseline
    if first not in values:
        raise DataError(f"the baseline {first!r} is none of the systems {', '.join(values)}")
    shared = [key for key in values[first] if all(key in of_one for of_one in values.values())]
    if not shared:
        raise DataError(f"{', '.join(values)} have no dataset and measure in common")
    rows = []
    for dataset, measure in shared:
        mine = {name: of_one[dataset, measure] for name, of_one in values.items()}
        base = mine.pop(first)
        found = {name: compare(of_one, base, test=test) for name, of_one in mine.items()}
        corrected = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
        rows.append(Compared(dataset, measure, first, _mean(base), None, None, ()))
        for name, one in found.items():
            differing = most_different(mine[name], base, most) if most else ()
            rows.append(Compared(dataset, measure, name, _mean(mine[name]), one, corrected[name], differing))
    return rows


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)
