"""Compare two hybrid searches: over clusters of dense vectors, selected by sparse results, and over all dense vectors.

    NUMBA_NUM_THREADS=1 python benchmarks/dense_clusters.py --data FOLDER --work FOLDER --sparse FOLDER

FOLDER holds scifact and squadshifts in BEIR layout; --sparse is a SPLADE encoder, whose results select the clusters.
The dense vectors are those of lsr-mini. Policies are trained without judgments on 809 and 1,000 training queries, and
compared on 300 and 500 test queries. --work keeps vectors and indexes, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep
from numpy.typing import NDArray

from lsr import Hybrid, Index, load_encoder, open_corpus
from lsr.console import note, table
from lsr.encode.base import Encoder
from lsr.eval.measures import parse_measures, score_run
from lsr.index import build_dense
from lsr.index.hybrid.dense import DenseVectors
from lsr.index.hybrid.visits import Visits
from lsr.io.runs import Run, read_qrels

SETS = {"scifact": ("test", "train"), "squadshifts": ("dev", "train")}
SHARES = (0.05, 0.1, 0.2)
POLICIES = ("centroid", "overlap", "logistic", "lstm")
RESULTS = (0, 50)  # numbers of sparse results whose vectors are always read
_QUERIES, _TESTED, _K = 1000, 500, 10


def cached(path: Path, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Load vectors from a file; make them if it doesn't exist."""
    if not path.exists():
        np.save(path, make())
    return np.asarray(np.load(path), np.float32)


def queries(folder: Path, split: str, dense: Encoder, work: Path) -> tuple[list[str], list[str], NDArray[np.float32]]:
    """Return ids, texts and dense vectors of a split's first queries."""
    wanted = {*islice(read_qrels(folder / "qrels" / f"{split}.tsv"), _QUERIES)}
    found = [query for query in open_corpus(str(folder), queries=True) if query.id in wanted]
    texts = [query.content for query in found]
    near = cached(work / f"{folder.name}-{split}.npy", lambda: dense.encode_dense(texts, queries=True))
    return [query.id for query in found], texts, near


def opened(folder: Path, sparse: str, dense: Encoder, work: Path) -> tuple[Index, DenseVectors]:
    """Open the index and the dense vectors of a collection; build them if needed."""
    path, docs = work / folder.name, list(open_corpus(str(folder)))
    index = Index.open(path) if path.exists() else Index.build(path, docs, encoder=sparse, passages=None)
    vectors = cached(work / f"{folder.name}-documents.npy", lambda: dense.encode_dense([doc.content for doc in docs]))
    known = {doc.content: vector for doc, vector in zip(docs, vectors, strict=True)}
    embed = lambda texts: [known[text] for text in texts]  # noqa: E731
    return index, build_dense(index, work / f"{folder.name}-vectors", embed, clusters=True)


def compared(folder: Path, sparse: str, dense: Encoder, work: Path) -> Iterator[dict[str, Any]]:
    """Yield the figures of a collection, a row for each policy and share."""
    index, vectors = opened(folder, sparse, dense, work)
    test, train = SETS[folder.name]
    ids, texts, near = (some[:_TESTED] for some in queries(folder, test, dense, work))
    _, learned, beside = queries(folder, train, dense, work)
    qrels = {query: grades for query, grades in read_qrels(folder / "qrels" / f"{test}.tsv").items() if query in ids}
    exact = Hybrid(index, vectors, method="interpolation")
    about = {"set": folder.name, "documents": len(index), "clusters": len(vectors.clusters or ())}

    def run(hybrid: Hybrid) -> Run:
        found = hybrid.search_batch(texts, 100, dense=list(near))
        return {
            query: dict(zip(hits.ids, hits.scores.tolist(), strict=True))
            for query, hits in zip(ids, found, strict=True)
        }

    def row(name: str, share: float, results: int, found: Run) -> dict[str, Any]:
        same = [len({*islice(found[query], _K)} & {*islice(best[query], _K)}) / _K for query in ids]
        means = score_run(qrels, found, parse_measures("nDCG@10 R@100"))[0]
        return {**about, "policy": name, "share": share, "results": results, "kept": float(np.mean(same)), **means}

    best = run(exact)
    yield row("all vectors", 1.0, 0, best)
    yield row("no vectors", 0.0, 0, run(exact.with_weights({"dense": 0})))
    for results in RESULTS:
        for policy in POLICIES:
            if policy in ("logistic", "lstm"):
                visit = exact.fit_visits(learned, policy, results=results, dense=list(beside))  # type: ignore[arg-type]
            else:
                visit = Visits(policy=policy, results=results)  # type: ignore[arg-type]
            for share in SHARES:
                note(f"{folder.name}: {policy}, {results} results, {share:.0%}")
                yield row(policy, share, results, run(exact.with_visit(replace(visit, share=share))))


def main() -> None:
    """Compare all policies, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sparse", required=True, help="a SPLADE encoder, such as splade-tiny")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    dense = load_encoder("lsr-mini")
    rows = [row for name in SETS for row in compared(args.data / name, args.sparse, dense, args.work)]
    for key, value in conditions().items():
        print(f"{key}: {value}")
    lines = [
        (
            r["set"],
            r["policy"],
            str(r["results"]),
            f"{r['share']:.0%}",
            f"{r['kept']:.3f}",
            f"{r['nDCG@10']:.3f}",
            f"{r['R@100']:.3f}",
        )
        for r in rows
    ]
    print(table(lines, ["set", "policy", "own", "read", "best ten kept", "nDCG@10", "R@100"], "<<>>>>>"))
    keep("dense_clusters", {"rows": rows})


if __name__ == "__main__":
    main()
