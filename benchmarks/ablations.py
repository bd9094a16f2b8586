"""Ablation of the regularizers: FLOPS, IDF-aware FLOPS, and the l0 mask with the double logarithm.

    python examples/shipped_models.py --data FOLDER --work WORK --sparse TINY --dense ARCTIC  # makes the data
    python benchmarks/ablations.py --data FOLDER --work WORK --sparse TINY --dense ARCTIC [--steps 400]

Each is a short run of the recipe of lsr-tiny at several weights; data, order of
examples, steps and rates are the same. IDF-aware FLOPS is plain FLOPS where the queries bring the IDF, so what it buys
shows beside queries whose terms all weigh 1; the recipe's own queries learn their weights, from the IDF on. Document
lengths come out as they do, so weights are tried until the runs of a method enclose all lengths of the second table,
which has nDCG@10 at the same length: between the two runs that enclose it, linear in the logarithm of the length. Runs
are kept in WORK/ablations and not made twice.
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
_SLOPE = -0.4  # of the logarithm of the length over that of the weight, before two runs have shown it
_MOST_RUNS = 5  # of a method: the first weights are guesses
_DOUBLE = "model.saturation=log1p_log1p"
# Each method's own settings and its first weight: the weights of different methods are not of a size.
VARIANTS: dict[str, tuple[list[str], float]] = {
    "FLOPS": ([], 0.02),
    "FLOPS, double log": ([_DOUBLE], 0.05),
    "l0 mask, double log": (
        ["documents_regularizer.kind=l0_flops", "documents_regularizer.threshold=80", _DOUBLE],
        0.05,
    ),
    "FLOPS, queries of 1": (["queries.kind=tokens"], 0.008),
    # Documents weigh less beside an IDF with a mean of about 8 than beside a table with a mean of 1.
    "IDF-aware FLOPS, queries of IDF": (["queries.kind=idf", "documents_regularizer.kind=idf_flops"], 0.4),
}


def train(name: str, weight: float, how: list[str], places: list[str], steps: int, work: Path) -> Path:
    """The encoder of one run, in 8 bits."""
    folder = work / f"{_stem(name)}-{weight:g}-{steps}"
    made = folder / "8-bit"
    if not made.is_dir():
        note(f"{name}, weight {weight:g}")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "cache").exists():  # the backbone's states are the same for all
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
    """Runs of a method that are there already."""
    found = []
    for file in sorted(work.glob(f"{_stem(name)}-*-{steps}/quality.json")):
        weight = file.parent.name.removeprefix(f"{_stem(name)}-").removesuffix(f"-{steps}")
        with suppress(ValueError):  # of another method whose name begins alike
            found.append({"variant": name, "weight": float(weight), **json.loads(file.read_text())})
    return found


def _stem(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def next_weight(runs: list[dict[str, Any]]) -> float:
    """The weight to try next, rounded to two digits; 0 once the runs enclose all lengths."""
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
    """nDCG at a length between those of two runs; None beyond them."""
    points = sorted((math.log(run["terms"]), run["nDCG@10"]) for run in runs)
    x, y = zip(*points, strict=True)
    return float(np.interp(math.log(length), x, y)) if x[0] <= math.log(length) <= x[-1] else None


def main() -> None:
    """Train what isn't there yet, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="that of examples/shipped_models.py")
    parser.add_argument("--sparse", type=Path, required=True, help="as of examples/shipped_models.py")
    parser.add_argument("--dense", type=Path, required=True, help="likewise")
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
        open_dataset(str(args.data / name))  # complains now, not after hours
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
    print(f"\nnDCG@10, mean of {len(args.sets)} sets, at the same mean length of a document in terms\n")
    same = []
    for name in VARIANTS:
        found = [at_length([r for r in rows if r["variant"] == name], length) for length in LENGTHS]
        same.append((name, *("-" if value is None else f"{100 * value:.2f}" for value in found)))
    print(table(same, ("regularizer", *map(str, LENGTHS)), "<" + ">" * len(LENGTHS)))
    keep("ablations", {"steps": args.steps, "sets": args.sets, "rows": rows})


if __name__ == "__main__":
    main()
