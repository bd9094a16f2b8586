"""Run a whole study with one command: three systems, three seeds, significance tests, and a paper in LaTeX.

    python examples/paper.py --train scifact --sets scifact cranfield cacm climate-fever --out paper

Sets are BEIR folders or ir-datasets names. A small SPLADE model is fine-tuned on the training queries of --train, once
for each seed. Then BM25, the original model and the fine-tuned models are compared on every set. The models are
converted to 8-bit graphs, which encode several times faster on a CPU. OUT keeps finished parts; if the command was
interrupted, run it again. OUT/paper.tex includes the report's tables; compile it with pdflatex.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lsr import load_encoder
from lsr.encode.onnx_export import compress
from lsr.eval import open_datasets, run_experiment, run_training, write_report
from lsr.eval.experiment.experiment import named
from lsr.eval.experiment.settings import ExperimentSettings, LatencySettings, SystemSettings, file_name
from lsr.eval.report.formatting import escape_latex
from lsr.eval.training.from_folder import bm25_negatives
from lsr.train.settings import (
    DataSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    QuerySettings,
    RegularizerSettings,
    TrainSettings,
)
from lsr.train.sources import TrainingSource

SYSTEMS = ("BM25", "before", "fine-tuned")


def training(checkpoint: str, folder: str, negatives: Path, steps: int, length: int) -> TrainSettings:
    """Settings of the fine-tuning: contrastive, with one hard negative per query."""
    source = TrainingSource(folder, candidates=str(negatives), allow_missing=True)
    return TrainSettings(
        model=ModelSettings(checkpoint, max_length=length, dropout=0.0),
        queries=QuerySettings(max_length=min(length, 64)),
        data=DataSettings((source,), queries=16, negatives=1),
        losses=LossSettings(info_nce=1.0),
        documents_regularizer=RegularizerSettings("flops", weight=3e-3),
        queries_regularizer=RegularizerSettings("flops", weight=3e-3),
        optimizer=OptimizerSettings(steps, lr=5e-5, warmup=min(10, steps - 1)),
        checkpoint_every=max(steps, 1),
        device="cpu",
    )


def study(
    out: Path, checkpoint: str, train: str, sets: Sequence[str], seeds: Sequence[int], steps: int, length: int = 128
) -> Path:
    """Train, compare, write the paper and return its path. The model reads `length` tokens of a text."""
    out.mkdir(parents=True, exist_ok=True)
    how = training(checkpoint, train, bm25_negatives(train, out / "negatives.jsonl"), steps, length)
    for seed in seeds:
        if not (out / f"seed-{seed}" / "last").is_dir():
            run_training(replace(how, seed=seed), out / f"seed-{seed}")
        if not (out / f"seed-{seed}" / "graph").is_dir():
            compress(load_encoder(out / f"seed-{seed}" / "last"), out / f"seed-{seed}" / "graph")
    if not (out / "before").is_dir():
        compress(load_encoder(checkpoint, max_length=length), out / "before")
    systems = (
        SystemSettings(SYSTEMS[0], encoder="bm25"),
        SystemSettings(SYSTEMS[1], encoder=f"{out}/before"),
        SystemSettings(SYSTEMS[2], encoder=f"{out}/seed-{{seed}}/graph"),
    )
    settings = ExperimentSettings(
        systems, title="Fine-tuning a small sparse encoder", seeds=tuple(seeds), latency=LatencySettings(queries=100)
    )
    record = run_experiment(settings, named(open_datasets(sets)), out / "results")
    write_report(out / "results")
    paper = out / "paper.tex"
    paper.write_text(text(record, steps), encoding="utf-8")
    return paper


def text(record: dict[str, Any], steps: int) -> str:
    """Return two pages of LaTeX with the report's tables and figures from the record."""
    measure = record["measures"][0]
    values = {(r["system"], r["dataset"]): r["measures"][measure] for r in record["results"]}
    sets = [dataset["name"] for dataset in record["datasets"]]
    means = {system: sum(values[system, name] for name in sets) / len(sets) for system in SYSTEMS}
    clear = [p for p in record["pairs"] if p["p_corrected"] < 0.05 and p["system"] == SYSTEMS[2]]
    seeds = ", ".join(map(str, record["seeds"]))
    sizes = "; ".join(f"{d['name']} ({d['documents']:,} documents, {d['queries']} queries)" for d in record["datasets"])
    over = [f"{SYSTEMS[2]} and {pair['baseline']} on {pair['dataset']} ({pair['difference']:+.3f})" for pair in clear]
    e = escape_latex

    def table(name: str, caption: str, kind: str = "table") -> str:
        """Include one of the report's tables; kind "table*" spans both columns."""
        resized = rf"\resizebox{{\linewidth}}{{!}}{{\input{{results/report-tables/{file_name(name)}.tex}}}}"
        return rf"\begin{{{kind}}}[t]\centering\caption{{{e(caption)}}}{resized}\end{{{kind}}}"

    return "\n".join(
        [
            r"\documentclass[10pt,twocolumn]{article}",
            r"\usepackage[margin=2cm]{geometry}\usepackage{booktabs,graphicx}",
            r"\setcounter{dbltopnumber}{3}\renewcommand{\dbltopfraction}{0.95}",  # the wide tables on one page
            rf"\title{{{e(record['title'])}}}\author{{}}\date{{{record['date'][:10]}}}",
            r"\begin{document}\maketitle",
            r"\section{Question}",
            f"Does fine-tuning a small SPLADE model for {steps} steps on one collection help on others, or is a gain "
            "due to the seed?",
            r"\section{Method}",
            e(
                f"Collections: {sizes}. BM25 and the model before fine-tuning have no seed; the fine-tuned model was "
                f"trained with the seeds {seeds}, and tables give mean and standard deviation over them. Differences "
                "are tested two-sided over queries and seeds, corrected by Holm over all pairs of systems and "
                "collections. "
                f"Measured with lsr {record['lsr']} on {record['machine']}."
            ),
            r"\section{Results}",
            e(
                f"Mean {measure}: "
                + ", ".join(f"{means[system]:.3f} ({system})" for system in SYSTEMS)
                + ". Significant differences of the fine-tuned model: "
                + ("; ".join(over) or "none")
                + "."
            ),
            table("Recall by depth", "Recall by depth, means over the collections."),
            table("Similarity of rankings", "Similarity of the rankings."),
            table(
                f"{measure} {'by dataset' if len(sets) > 1 else 'on ' + sets[0]}",
                f"{measure}; arrows mark significant differences to BM25, ± the standard deviation over seeds.",
                "table*",
            ),
            table(f"All pairs, {measure}", "All pairs of systems.", "table*"),
            table("Costs", "Costs.", "table*"),
            r"\end{document}",
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="A collection with `train` judgments.")
    parser.add_argument("--sets", nargs="+", required=True, help="Collections to compare on.")
    parser.add_argument("--checkpoint", default="rasyosef/splade-tiny")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("paper"))
    given = parser.parse_args()
    started = time.perf_counter()
    print(study(given.out, given.checkpoint, given.train, given.sets, given.seeds, given.steps))
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes")
