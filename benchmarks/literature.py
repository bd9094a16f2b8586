"""Compare the systems of `configs/eval/literature.yaml` on judged collections, in one table.

    NUMBA_NUM_THREADS=1 python benchmarks/literature.py --data FOLDER --work FOLDER
    NUMBA_NUM_THREADS=1 python benchmarks/literature.py --data FOLDER --work FOLDER --imitated

FOLDER holds the collections of SETS in BEIR layout, and wordnet-glosses/, whose synonyms become entities; --sets names
other collections. --imitated instead tries a dense vector that imitates BM25, on the questions of squadshifts (split
dev), with several weights beside the dense vector. --work keeps the experiment's folder, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep

from lsr.config import read_config
from lsr.console import table
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.experiment.experiment import named, run_experiment
from lsr.eval.experiment.settings import ExperimentSettings, ImitateSettings, LatencySettings, SystemSettings
from lsr.io.corpus import open_corpus
from lsr.io.runs import open_qrels
from lsr.presets import presets

SETS = ("cranfield", "cacm")
MEASURES = ("nDCG@10", "R@100")
IMITATED = ("BM25", "dense vector", "BM25 and dense vector", "BM25, imitated")
WEIGHTS = (0.1, 0.3, 0.5, 1.0, 1.43)  # of the imitated vector beside the dense vector


def write_synonyms(glosses: Path, path: Path) -> None:
    """Write WordNet's nouns with several names as entities. Names that several nouns share are
    left out.
    """
    qrels, _ = open_qrels(str(glosses), "train")
    names: dict[str, list[str]] = defaultdict(list)
    for query in open_corpus(str(glosses), queries=True):
        meanings = list(qrels.get(query.id, {}))
        if len(meanings) == 1 and any(letter.isalnum() for letter in query.content):
            names[meanings[0]].append(query.content)
    lines = [
        json.dumps({"name": f"{several[0]} ({meaning})", "aliases": several})
        for meaning, several in names.items()
        if len(several) > 1
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def preset() -> ExperimentSettings:
    """The systems of the preset; searches aren't timed."""
    return replace(read_config(presets("eval")["literature"], ExperimentSettings), latency=LatencySettings(queries=0))


def imitated() -> ExperimentSettings:
    """BM25, the dense vector, the vector that imitates BM25, and both vectors with each of WEIGHTS."""
    known = [system for system in preset().systems if system.name in IMITATED]
    beside = [
        SystemSettings(f"dense vector and BM25, imitated, {w:g}", encoder="bm25", imitate=ImitateSettings(own=1 / w))
        for w in WEIGHTS
    ]
    return replace(preset(), systems=(*known, *beside))


def compared(
    settings: ExperimentSettings, datasets: dict[str, Dataset], work: Path
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the table's header and a row for each system: its measures on each collection, and their means."""
    record = run_experiment(settings, datasets, work)
    rows = []
    for system in settings.systems:
        of = {one["dataset"]: one["measures"] for one in record["results"] if one["system"] == system.name}
        values = [[of[name][measure] for name in datasets] for measure in MEASURES]
        values = [[*one, float(np.mean(one))] if len(one) > 1 else one for one in values]
        rows.append({"system": system.name, "values": [*values[0], *values[1]]})
    names = [*datasets, *(["mean"] if len(datasets) > 1 else [])]
    return ["system", *(f"{name} {measure}" for measure in MEASURES for name in names)], rows


def main() -> None:
    """Run the experiment, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME")
    parser.add_argument("--imitated", action="store_true")
    args = parser.parse_args()
    if args.imitated:
        settings, datasets = imitated(), named([open_dataset(str(args.data / "squadshifts"), "dev")])
    else:
        entities = args.work.with_name(args.work.name + "-entities.jsonl")
        write_synonyms(args.data / "wordnet-glosses", entities)
        linked = SystemSettings("BM25 and WordNet's entities", encoder="bm25", entities=str(entities))
        settings = replace(preset(), systems=(*preset().systems, linked))
        datasets = named([open_dataset(str(args.data / name)) for name in args.sets])
    header, rows = compared(settings, datasets, args.work)
    for key, value in conditions().items():
        print(f"{key}: {value}")
    lines = [(row["system"], *(f"{value:.3f}" for value in row["values"])) for row in rows]
    print(table(lines, header, "<" + ">" * (len(header) - 1)))
    if args.imitated or args.sets == list(SETS):
        keep("imitated" if args.imitated else "literature", {"header": header, "rows": rows})


if __name__ == "__main__":
    main()
