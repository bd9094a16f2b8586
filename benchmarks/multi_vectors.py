"""Compare one dense vector per document with several, of which the vector nearest to the query counts.

    NUMBA_NUM_THREADS=1 python benchmarks/multi_vectors.py --data FOLDER --work FOLDER

FOLDER holds cranfield and scifact in BEIR layout; of scifact, the judged documents and every fourth of the other
documents are used. The model is lsr-mini, which was trained for one vector. --work keeps the vectors, so an interrupted
run resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep
from numpy.typing import NDArray

from lsr import load_encoder, open_corpus
from lsr.console import table
from lsr.encode.base import Encoder
from lsr.encode.multi_vectors import multi_vectors
from lsr.encode.phrases import with_states
from lsr.eval.measures import parse_measures, score_run
from lsr.io.runs import read_qrels

SETS = {"cranfield": 1, "scifact": 4}
PARTS = (2, 4)  # numbers of parts, in addition to the whole text
FIRST = 8  # number of token states as in ME-BERT; lsr-mini wasn't trained for this


def _first(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the states of the first tokens; those of a short text are repeated."""
    return states[np.arange(FIRST) % len(states)]


def compared(folder: Path, encoder: Encoder, work: Path, every: int) -> list[dict[str, Any]]:
    """Measure nDCG@10 and R@100 of each kind of vectors on a collection."""
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    judged = {doc for grades in qrels.values() for doc in grades}
    documents = [doc for i, doc in enumerate(open_corpus(str(folder))) if doc.id in judged or i % every == 0]
    asked = [query for query in open_corpus(str(folder), queries=True) if query.id in qrels]
    texts = [doc.content for doc in documents]
    queries = encoder.encode_dense([query.content for query in asked], queries=True)
    kinds: dict[str, NDArray[np.float32]] = {}
    for parts in PARTS:
        kept = work / f"{folder.name}-{parts}.npy"
        if not kept.exists():
            np.save(kept, multi_vectors(encoder.encode_dense, texts, 1 + parts))
        kinds[f"1 and {parts} parts"] = np.load(kept)
    kept = work / f"{folder.name}-first.npy"
    if not kept.exists():
        model = with_states(encoder)
        np.save(kept, np.stack([_first(model.dense_states([text])[0]) for text in texts]))
    kinds = {"1": kinds["1 and 2 parts"][:, :1], **kinds, f"states of the first {FIRST} tokens": np.load(kept)}
    rows = []
    for kind, vectors in kinds.items():
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
        run = {}
        for query, vector in zip(asked, queries, strict=True):
            scores = (vectors @ vector).max(1)
            best = np.argsort(-scores, kind="stable")[:100]
            run[query.id] = {documents[doc].id: float(scores[doc]) for doc in best}
        means = score_run(qrels, run, parse_measures("nDCG@10 R@100"))[0]
        rows.append({"set": folder.name, "documents": len(documents), "kind": kind, **means})
    return rows


def main() -> None:
    """Compare all kinds, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder("lsr-mini")
    rows = [row for name, every in SETS.items() for row in compared(args.data / name, encoder, args.work, every)]
    for key, value in conditions().items():
        print(f"{key}: {value}")
    lines = [(r["set"], r["kind"], f"{r['nDCG@10']:.3f}", f"{r['R@100']:.3f}") for r in rows]
    print(table(lines, ["set", "vectors", "nDCG@10", "R@100"], "<<>>"))
    keep("multi_vectors", {"rows": rows})


if __name__ == "__main__":
    main()
