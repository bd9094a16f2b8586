"""Ablation of the regularizers: FLOPS, IDF-aware FLOPS, and the l0 mask with the double logarithm.

    python examples/shipped_models.py --data FOLDER --work WORK --sparse TINY --dense ARCTIC  # prepares the data
    python benchmarks/ablations.py --data FOLDER --work WORK --sparse TINY --dense ARCTIC [--steps 400]

Each method is trained with several weights of its regularizer, in short runs of lsr-tiny's recipe with the same data,
order of examples, steps and learning rates. If query weights are the IDF, IDF-aware FLOPS equals plain FLOPS, so
compare it with "queries of 1": plain FLOPS with query weights of 1. The other methods learn the query weights, starting
from the IDF. Methods are compared at equal document lengths: the script tries regularizer weights until a method has
runs below and above all lengths of the second table, and interpolates nDCG@10 linearly in the logarithm of the length.
Runs are kept in WORK/ablations and reused.
"""

from __future__ import annotations

import argparse
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep

from lsr.config import read_config
from lsr.console import note, table
from lsr.encode.load import load_encoder
from lsr.encode.onnx_export import compress
from lsr.eval.datasets import open_dataset
from lsr.eval.training.cli import run_training, validator
from lsr.train.settings import TrainSettings, ValidationSettings

PRESETS = Path(__file__).parents[1] / "configs" / "train"
SETS = ("cacm", "cranfield", "climate-fever-evidence")
LENGTHS = (85, 120, 160)
_SLOPE = -0.4  # d log(length) / d log(weight), until two runs give a better estimate
_MOST_RUNS = 5  # runs per method: the first weights are guesses
_DOUBLE = "model.saturation=log1p_log1p"
# Settings and first weight of each method. Weights of different methods aren't comparable.
VARIANTS: dict[str, tuple[list[str], float]] = {
    "FLOPS": ([], 0.02),
    "FLOPS, double log": ([_DOUBLE], 0.05),
    "l0 mask, double log": (
        ["documents_regularizer.kind=l0_flops", "documents_regularizer.threshold=80", _DOUBLE],
        0.05,
    ),
    "FLOPS, queries of 1": (["queries.kind=tokens"], 0.008),
    # The mean IDF is about 8 and the mean of learned query weights about 1, so documents get smaller weights here.
    "IDF-aware FLOPS, queries of IDF": (["queries.kind=idf", "documents_regularizer.kind=idf_flops"], 0.4),
}


def train(name: str, weight: float, how: list[str], places: list[str], steps: int, work: Path) -> Path:
    """Train unless the run exists, and return its encoder, quantized to 8 bits."""
    folder = work / f"{_stem(name)}-{weight:g}-{steps}"
    made = folder / "8-bit"
    if not made.is_dir():
        note(f"{name}, weight {weight:g}")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "cache").exists():  # all runs share one cache
            (folder / "cache").symlink_to((work.parent / "cache").resolve())
        short = [
            f"optimizer.steps={steps}",
            f"documents_regularizer.weight={weight}",
            f"documents_regularizer.ramp={steps // 3}",
            f"checkpoint_every={steps}",
            "validation=null",
        ]
        settings = read_config(PRESETS / "lsr-tiny.yaml", TrainSettings, [*places, *short, *how])
        compress(load_encoder(run_training(settings, folder)), made)
    return made


def kept(name: str, steps: int, work: Path) -> list[dict[str, Any]]:
    """Return the finished runs of a method."""
    found = []
    for file in sorted(work.glob(f"{_stem(name)}-*-{steps}/quality.json")):
        weight = file.parent.name.removeprefix(f"{_stem(name)}-").removesuffix(f"-{steps}")
        with suppress(ValueError):  # the pattern also matches methods whose names start with this name
            found.append({"variant": name, "weight": float(weight), **json.loads(file.read_text())})
    return found


def _stem(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def next_weight(runs: list[dict[str, Any]]) -> float:
    """Return the next weight to try, rounded to two digits; 0 if the runs bracket all lengths."""
    shortest, longest = (pick(runs, key=lambda run: run["terms"]) for pick in (min, max))
    if longest["terms"] < LENGTHS[-1]:
        run, aim = longest, LENGTHS[-1] * 1.1
    elif shortest["terms"] > LENGTHS[0]:
        run, aim = shortest, LENGTHS[0] / 1.1
    else:
        return 0.0
    slope = _SLOPE
    if shortest["terms"] < longest["terms"]:
        slope = math.log(shortest["terms"] / longest["terms"]) / math.log(shortest["weight"] / longest["weight"])
    return float(f"{run['weight'] * (aim / run['terms']) ** (1 / min(slope, _SLOPE / 4)):.1e}")


def at_length(runs: list[dict[str, Any]], length: float) -> float | None:
    """Interpolate nDCG@10 at a length; None outside of the runs' lengths."""
    points = sorted((math.log(run["terms"]), run["nDCG@10"]) for run in runs)
    x, y = zip(*points, strict=True)
    return float(np.interp(math.log(length), x, y)) if x[0] <= math.log(length) <= x[-1] else None


def main() -> None:
    """Train missing runs, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="work folder of examples/shipped_models.py")
    parser.add_argument("--sparse", type=Path, required=True, help="as for examples/shipped_models.py")
    parser.add_argument("--dense", type=Path, required=True, help="as for examples/shipped_models.py")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    args = parser.parse_args()
    dense = {"dense": str(args.dense)}
    teachers = [{"encoder": "bm25"}, dense, dense, {"encoder": str(args.work / "teacher")}]
    places = [
        f"model.checkpoint={args.sparse}",
        f"data.sources={(args.work / 'sources.json').read_text()}",
        f"teachers={json.dumps(teachers)}",
    ]
    work = args.work / "ablations"
    for name in args.sets:
        open_dataset(str(args.data / name))  # fail before training
    validate = validator(ValidationSettings(tuple(str(args.data / name) for name in args.sets)))
    rows = []
    for name, (how, weight) in VARIANTS.items():
        runs = kept(name, args.steps, work)
        weight = next_weight(runs) if runs else weight
        while weight and len(runs) < _MOST_RUNS:
            made = train(name, weight, how, places, args.steps, work)
            (made.parent / "quality.json").write_text(json.dumps(dict(validate(made))))
            runs = kept(name, args.steps, work)
            weight = next_weight(runs)
        rows += sorted(runs, key=lambda run: run["weight"])
    for key, value in conditions().items():
        print(f"{key}: {value}")
    measures = [key for key in rows[0] if key not in ("variant", "weight", "terms")]
    lines = [
        (r["variant"], f"{r['weight']:g}", f"{r['terms']:.0f}", *(f"{100 * r[key]:.2f}" for key in measures))
        for r in rows
    ]
    print(table(lines, ("regularizer", "weight", "terms", *measures), "<" + ">" * (2 + len(measures))))
    print(f"\nnDCG@10, mean of {len(args.sets)} sets, at equal mean document length in terms\n")
    same = []
    for name in VARIANTS:
        found = [at_length([r for r in rows if r["variant"] == name], length) for length in LENGTHS]
        same.append((name, *("-" if value is None else f"{100 * value:.2f}" for value in found)))
    print(table(same, ("regularizer", *map(str, LENGTHS)), "<" + ">" * len(LENGTHS)))
    keep("ablations", {"steps": args.steps, "sets": args.sets, "rows": rows})


if __name__ == "__main__":
    main()
