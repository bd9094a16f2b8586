"""Encode the documents and queries of all collections in a folder into one set of vectors, for comparing engines.

    lsr publish CHECKPOINT --onnx --out ENCODER
    python benchmarks/vectors.py --data FOLDER --out VECTORS --encoder ENCODER [--queries 200]
    python benchmarks/engines.py --data VECTORS

FOLDER holds collections in BEIR layout. Each collection is encoded into VECTORS/NAME.parquet, and at most --queries of
its queries into VECTORS/NAME-queries.parquet. Existing files are kept, so an interrupted run resumes. Then all vectors
are joined into the arrays that `engines.py`, `living.py` and `order.py` read, with documents ordered by collection and
queries shuffled.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from lsr import SparseMatrix, read_vectors
from lsr.console import note
from lsr.io.corpus import open_corpus


def encode(source: Path, out: Path, encoder: str, *options: str) -> None:
    """Encode a file unless its vectors exist."""
    if out.exists():
        return
    command = [sys.executable, "-m", "lsr", "encode", str(source), "--out", str(out), "--encoder", encoder, *options]
    started = time.perf_counter()
    if subprocess.run(command).returncode:
        raise SystemExit(f"{source}: encoding failed; its output is above")
    note(f"{source.name}: {time.perf_counter() - started:.0f} s")


def write_queries(folder: Path, path: Path, n: int) -> None:
    """Write a random sample of at most n queries of a collection."""
    texts = [query.content for query in open_corpus(folder, queries=True)]
    drawn = np.sort(np.random.default_rng(0).permutation(len(texts))[:n]).tolist()
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps({"_id": f"{folder.name}-{i}", "text": texts[i]}) + "\n" for i in drawn)


def read(paths: list[Path], n_terms: int | None = None) -> SparseMatrix:
    """Concatenate the vectors of files, with the given width or the width of the widest file."""
    parts = [batch.vectors for path in paths for batch in read_vectors(path)]
    width = n_terms or max(part.shape[1] for part in parts)
    return SparseMatrix.vstack([part.within(width) for part in parts])


def save(folder: Path, name: str, matrix: SparseMatrix) -> None:
    """Write a matrix as the arrays that the peer harness reads, also with 8-bit weights."""
    integers = np.clip(np.ceil(matrix.data * (255 / matrix.data.max())), 1, 255).astype(np.uint8)
    columns = {"indptr": matrix.indptr, "indices": matrix.indices.astype(np.int32), "data": matrix.data, "u8": integers}
    for column, values in columns.items():
        np.save(folder / f"{name}.{column}.npy", values)


def main() -> None:
    """Encode all collections, then write the arrays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="lsr-mini")
    parser.add_argument("--queries", type=int, default=200, help="largest number per collection")
    parser.add_argument("--sets", help="names of collections, separated by commas (default: all)")
    args = parser.parse_args()
    found = sorted(path.parent for path in args.data.glob("*/corpus.jsonl.gz"))
    names = args.sets.split(",") if args.sets else [path.name for path in found]
    args.out.mkdir(parents=True, exist_ok=True)
    documents, queries = [], []
    for folder in (args.data / name for name in names):
        documents.append(args.out / f"{folder.name}.parquet")
        encode(folder, documents[-1], args.encoder, "--no-text", "--whole")
        texts, vectors = args.out / f"{folder.name}-queries.jsonl.gz", args.out / f"{folder.name}-queries.parquet"
        if (folder / "queries.jsonl.gz").is_file():
            if not texts.exists():
                write_queries(folder, texts, args.queries)
            encode(texts, vectors, args.encoder, "--queries", "--no-text")
            queries.append(vectors)
    matrix = read(documents)
    asked = read(queries, matrix.shape[1])
    asked = asked[np.random.default_rng(0).permutation(len(asked))]
    asked = asked[np.flatnonzero(asked.lengths())]
    for path in args.out.glob("truth_*.npy"):  # the harness's cache, which is out of date
        path.unlink()
    for path in args.out.glob("order_*"):
        shutil.rmtree(path)
    save(args.out, "docs", matrix)
    save(args.out, "queries", asked)
    print(f"{len(matrix):,} documents of {matrix.nnz / len(matrix):.0f} terms, "
          f"{len(asked):,} queries of {asked.nnz / len(asked):.0f}, in {args.out}")  # fmt: skip


if __name__ == "__main__":
    main()
