"""Compare the systems of `configs/eval/literature.yaml` on judged collections, in one table.

    NUMBA_NUM_THREADS=1 python benchmarks/literature.py --data FOLDER --work FOLDER

FOLDER holds the collections of SETS in BEIR layout, and wordnet-glosses/, whose synonyms become entities; --sets names
other collections. --work keeps the experiment's folder, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from machine import conditions, keep

from lsr.config import read_config
from lsr.console import table
from lsr.eval.datasets import open_dataset
from lsr.eval.experiment.experiment import named, run_experiment
from lsr.eval.experiment.settings import ExperimentSettings, LatencySettings, SystemSettings
from lsr.io.corpus import open_corpus
from lsr.io.runs import open_qrels
from lsr.presets import presets

SETS = ("cranfield", "cacm")
MEASURES = ("nDCG@10", "R@100")


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


def main() -> None:
    """Run the experiment, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME")
    args = parser.parse_args()
    settings = read_config(presets("eval")["literature"], ExperimentSettings)
    entities = args.work.with_name(args.work.name + "-entities.jsonl")
    write_synonyms(args.data / "wordnet-glosses", entities)
    linked = SystemSettings("BM25 and WordNet's entities", encoder="bm25", entities=str(entities))
    settings = replace(settings, systems=(*settings.systems, linked), latency=LatencySettings(queries=0))
    datasets = named([open_dataset(str(args.data / name)) for name in args.sets])
    record = run_experiment(settings, datasets, args.work)
    rows = []
    for system in settings.systems:
        of = {one["dataset"]: one["measures"] for one in record["results"] if one["system"] == system.name}
        values = [[of[name][measure] for name in datasets] for measure in MEASURES]
        values = [[*one, float(np.mean(one))] if len(one) > 1 else one for one in values]
        rows.append({"system": system.name, "values": [*values[0], *values[1]]})
    names = [*datasets, *(["mean"] if len(datasets) > 1 else [])]
    header = ["system", *(f"{name} {measure}" for measure in MEASURES for name in names)]
    for key, value in conditions().items():
        print(f"{key}: {value}")
    lines = [(row["system"], *(f"{value:.3f}" for value in row["values"])) for row in rows]
    print(table(lines, header, "<" + ">" * (len(header) - 1)))
    if args.sets == list(SETS):
        keep("literature", {"header": header, "rows": rows})


if __name__ == "__main__":
    main()
