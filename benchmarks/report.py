"""Make the report over the judged collections: BM25, lsr-mini, hybrids, exact and approximate search.

    NUMBA_NUM_THREADS=1 python benchmarks/report.py --data FOLDER --work WORK

FOLDER holds collections in BEIR layout. WORK caches the vectors, so another run takes minutes. The report and its
figures are copied to benchmarks/results/report/, with the time of the run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from machine import RESULTS
from quality import SETS

from lsr.config import read_config
from lsr.eval.datasets import open_datasets
from lsr.eval.experiment.experiment import RECORD, named, run_experiment
from lsr.eval.experiment.settings import ExperimentSettings
from lsr.eval.report.report import write_report

CONFIG = Path(__file__).parents[1] / "configs" / "eval" / "hybrid.yaml"


def main() -> None:
    """Run the experiment and copy its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME")
    args = parser.parse_args()
    started = time.monotonic()
    settings = read_config(CONFIG, ExperimentSettings)
    datasets = named(open_datasets(str(args.data / name) for name in args.sets))
    run_experiment(settings, datasets, args.work)
    page, text = write_report(args.work)
    print(text.read_text(encoding="utf-8"))
    seconds = round(time.monotonic() - started)
    print(f"{seconds} s")
    if args.sets == list(SETS):
        kept = RESULTS / "report"
        kept.mkdir(parents=True, exist_ok=True)
        for path in (page, text):
            shutil.copy(path, kept / path.name)
        record = {**json.loads((args.work / RECORD).read_bytes()), "seconds": seconds}
        (kept / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
