"""Run an experiment again from the record in its result folder, and report differences."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsr.config import read_config
from lsr.errors import DataError, OutputExists
from lsr.eval.datasets import open_datasets
from lsr.eval.experiment.experiment import RECORD, named, run_experiment
from lsr.eval.experiment.settings import ExperimentSettings

_EQUAL = 1e-9  # smaller differences between measures are ignored: the order of a sum affects its rounding


@dataclass(frozen=True)
class Difference:
    """A difference between two runs of an experiment.

    Attributes:
        what: What differs, such as "machine" or "scifact, BM25, nDCG@10".
        then: The recorded value.
        now: The new value; "" if there is none.
        measured: Whether a measure differs. Other differences are possible causes.
    """

    what: str
    then: str
    now: str
    measured: bool = False


def reproduce(folder: Path, out: Path) -> list[Difference]:
    """Run an experiment again from its recorded settings, without its cache.

    Relative paths in the settings must still be valid, so call this in the folder in which the experiment was run.

    Args:
        folder: The experiment's result folder.
        out: Result folder of the new run; an interrupted run is resumed.

    Returns:
        Differences in versions, machine, checksums and measures. Times always differ, so they aren't compared.

    Raises:
        DataError: The record or its settings are missing, or an input of the experiment no longer exists.
        OutputExists: `out` already holds a finished experiment.
    """
    if (out / RECORD).exists():
        raise OutputExists(f"{out}: there is an experiment already; delete it or name another folder")
    then = _record(folder / RECORD)
    settings = _settings(then, folder / RECORD)
    datasets = named(open_datasets(settings.datasets))
    return list(differences(then, run_experiment(settings, datasets, out)))


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and isinstance(found.get("settings"), dict):
            return found
    except FileNotFoundError:
        raise DataError("no such file: is this the result folder of an experiment?", str(path)) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", str(path)) from None
    raise DataError("it has no settings to run again with", str(path))


def _settings(record: Mapping[str, Any], where: Path) -> ExperimentSettings:
    """Read the settings of a record; older records list the datasets outside of the settings."""
    given = dict(record["settings"])
    if not given.get("datasets"):
        given["datasets"] = [{"name": d["source"], "split": d["split"]} for d in record.get("datasets", ())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / where.name
        path.write_text(json.dumps(given), encoding="utf-8")  # JSON is valid YAML
        try:
            return read_config(path, ExperimentSettings)
        except DataError as error:
            raise DataError(f"this version of lsr can't read its settings: {error}", str(where)) from None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """Differences between two records of an experiment, except times."""
    for what in ("lsr", "machine"):
        yield from _changed(what, then.get(what), now.get(what))
    yield from _of_each("version of ", then.get("versions"), now.get("versions"))
    for name, old, new in _pairs(then, now, "datasets", "name"):
        yield from _of_each(f"{name}, checksum of ", old.get("checksums"), new.get("checksums"))
        for what in ("documents", "queries", "judgments"):
            yield from _changed(f"{name}, number of {what}", old.get(what), new.get(what))
    for name, old, new in _pairs(then, now, "results", "dataset", "system"):
        yield from _of_each(f"{name}, checksum of ", old.get("checksums"), new.get("checksums"))
        for measure in dict.fromkeys([*old["measures"], *new["measures"]]):
            pair = [one["measures"].get(measure) for one in (old, new)]
            if None in pair or abs(pair[0] - pair[1]) > _EQUAL:
                before, after = ("" if value is None else f"{value:.6f}" for value in pair)
                yield Difference(f"{name}, {measure}", before, after, measured=True)


def _pairs(then: Mapping[str, Any], now: Mapping[str, Any], part: str, *keys: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, old, new) for the entries that both records have."""
    new = {tuple(one[key] for key in keys): one for one in now[part]}
    for one in then[part]:
        name = tuple(one[key] for key in keys)
        if name in new:
            yield ", ".join(name), one, new[name]


def _of_each(prefix: str, then: Any, now: Any) -> Iterator[Difference]:
    for key, value in (then or {}).items():  # an older record may lack keys of the new one
        yield from _changed(f"{prefix}{key}", value, (now or {}).get(key))


def _changed(what: str, then: Any, now: Any) -> Iterator[Difference]:
    if then is not None and then != now:
        yield Difference(what, str(then), "" if now is None else str(now))
