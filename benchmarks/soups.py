"""Compare soups of checkpoints, and group sparsity over the columns of the vocabulary, in short runs from splade-tiny.

    python benchmarks/soups.py --data FOLDER --work FOLDER --sparse FOLDER
    python benchmarks/soups.py --vectors FOLDER

--data has squadshifts and cranfield in BEIR layout; --sparse is splade-tiny. Every run trains on squadshifts' training
questions with BM25 as the teacher, and is evaluated on squadshifts' held-out questions and, as another domain, on
Cranfield. A soup is the mean of the last five of ten checkpoints. "group" has no penalty for the 10,000 most used
terms. Runs are kept in --work. The second command counts the vocabulary's columns that have a weight in files
written by `lsr encode`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep
from numpy.typing import NDArray

from lsr.config import read_config
from lsr.console import note, table
from lsr.encode.load import load_encoder
from lsr.eval.training.cli import run_training, validator
from lsr.io.corpus import open_corpus
from lsr.io.open_vectors import load_matrix
from lsr.sparse import SparseMatrix
from lsr.train.settings import TrainSettings, ValidationSettings

RECIPE = Path(__file__).parents[1] / "configs" / "train" / "lsr-tiny.yaml"
CHECKPOINTS, SOUP = 10, 5
KEPT_TERMS = 10_000
_DOCUMENTS = 3000
RUNS: dict[str, list[str]] = {
    "FLOPS, rate decays": [],
    "FLOPS, constant rate": ["optimizer.decay=constant"],
    "group, weight 0.001": ["documents_regularizer.kind=group", "documents_regularizer.weight=0.001"],
    "group, weight 0.003": ["documents_regularizer.kind=group", "documents_regularizer.weight=0.003"],
}


def train(name: str, how: list[str], args: argparse.Namespace) -> Path:
    """Train unless the run is complete, and return its folder."""
    folder: Path = args.work / name.replace(",", "").replace(" ", "-") / str(args.steps)
    if not (folder / "soup").is_dir():
        note(name)
        source = {"path": str(args.data / "squadshifts"), "split": "train"}
        settings = [
            f"model.checkpoint={args.sparse}",
            f"data.sources={json.dumps([source])}",
            "data.negatives=0",
            "data.queries=32",
            'teachers=[{"encoder": "bm25"}]',
            f"documents_regularizer.threshold={KEPT_TERMS if 'group' in name else 150}",
            f"documents_regularizer.ramp={args.steps // 3}",
            f"optimizer.steps={args.steps}",
            f"checkpoint_every={args.steps // CHECKPOINTS}",
            f"soup={SOUP}",
            "precision=float32",
        ]
        run_training(read_config(RECIPE, TrainSettings, [*settings, *how]), folder)
    return folder


def measured(encoder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Measure quality, terms per document, and columns with a weight; keep the figures in the encoder's folder."""
    path = encoder / "measured.json"
    if not path.is_file():
        sets = (f"{args.data / 'squadshifts'}:dev", str(args.data / "cranfield"))
        values = dict(validator(ValidationSettings(sets, documents=_DOCUMENTS))(encoder))
        texts = [doc.content for name in ("squadshifts", "cranfield") for doc in open_corpus(args.data / name)]
        documents = load_encoder(encoder).encode_document(texts)
        values |= {"columns": float((used(documents) > 0).sum()), "documents": float(len(texts))}
        path.write_text(json.dumps(values))
    found: dict[str, float] = json.loads(path.read_text())
    return found


def used(vectors: SparseMatrix) -> NDArray[np.int64]:
    """Return the number of documents with each term, (n_terms,) int64."""
    return np.bincount(vectors.indices, minlength=vectors.shape[1])


def columns(folder: Path) -> dict[str, Any]:
    """Count the vocabulary columns that files of vectors use, and the share of postings in the most used columns."""
    matrices = [load_matrix(path) for path in sorted(folder.glob("*.parquet"))]
    counts = np.sort(np.sum([used(matrix) for matrix in matrices], axis=0))[::-1]
    largest = counts[:KEPT_TERMS].sum() / counts.sum()
    return {
        "texts": sum(map(len, matrices)),
        "terms": len(counts),
        "used": int((counts > 0).sum()),
        "share": float(largest),
    }


def main() -> None:
    """Count columns, or train missing runs; print and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sparse", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    for key, value in conditions().items():
        print(f"{key}: {value}")
    if args.vectors:
        whole = columns(args.vectors)
        print(
            f"{whole['used']:,} of {whole['terms']:,} columns have a weight in {whole['texts']:,} texts; the "
            f"{KEPT_TERMS:,} most used have {whole['share']:.1%} of the postings"
        )
        keep("columns", whole)
        if not args.sparse:
            return
    if not (args.data and args.work and args.sparse):
        parser.error("give --data, --work and --sparse, or --vectors")
    rows = []
    for name, how in RUNS.items():
        folder = train(name, how, args)
        for encoder in ("last", "soup") if "FLOPS" in name else ("last",):
            rows.append({"run": name, "encoder": encoder, **measured(folder / encoder, args)})
    measures = ("nDCG@10 squadshifts", "nDCG@10 cranfield", "terms", "columns")
    lines = [
        (row["run"], row["encoder"], *(f"{row[name]:,.{3 if 'nDCG' in name else 0}f}" for name in measures))
        for row in rows
    ]
    print(table(lines, ("run", "encoder", *measures), "<<" + ">" * len(measures)))
    keep("soups", {"steps": args.steps, "rows": rows})


if __name__ == "__main__":
    main()
