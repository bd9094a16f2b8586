"""Training with hidden judgments: all negatives, negatives filtered by a teacher, and weights that correct pooling
bias.

    NUMBA_NUM_THREADS=1 python benchmarks/negatives.py --data FOLDER --work FOLDER

FOLDER holds cranfield and msmarco-dl19-pool in BEIR layout. Only relevant documents among BM25's first 20 stay judged,
as if BM25 had made the pool; the other judgments are hidden. A linear map of lsr-mini's dense query vectors is
trained with BM25's first 100 as negatives; the teacher is lsr-tiny's learned half. Then all documents except the judged
ones are ranked for the same queries; a good ranking finds the relevant documents whose judgments are hidden. Documents
that are neither judged nor among BM25's first 100 for a query are left out. --work keeps the vectors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import conditions, keep
from numpy.typing import NDArray

from lsr import load_encoder, open_corpus
from lsr.console import note, table
from lsr.encode.bm25 import BM25Encoder
from lsr.eval.measures import parse_measures, score_run
from lsr.io.runs import Run, read_qrels
from lsr.train.losses import info_nce
from lsr.train.mining import MiningReport, MiningSettings, mine_negatives
from lsr.train.pooling import pooling_weights

SETS = {"cranfield": 1, "msmarco-dl19-pool": 2}  # lowest grade of a relevant document
_POOL, _DEPTH, _EPOCHS, _RATE, _TEMPERATURE = 20, 100, 10, 1e-4, 0.05


def run_of(ids: list[str], docs: list[str], scores: NDArray[np.float32], k: int) -> Run:
    """Return the k best documents of each query."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return {query: {docs[i]: float(row[i]) for i in own} for query, own, row in zip(ids, best, scores, strict=True)}


def vectors(folder: Path, work: Path) -> tuple[list[str], list[str], dict[str, Any]]:
    """Return ids of queries and documents, and arrays: dense vectors of both, and all scores of BM25 and the
    teacher.
    """
    wanted = read_qrels(folder / "qrels" / "test.tsv")
    documents = list(open_corpus(str(folder)))
    asked = [query for query in open_corpus(str(folder), queries=True) if query.id in wanted]
    lexical, questions = BM25Encoder(), [query.content for query in asked]
    lexical.fit([doc.content for doc in documents])
    every = lexical.encode_query(questions).dot(lexical.encode_document([doc.content for doc in documents]))
    used = {doc for grades in wanted.values() for doc in grades}
    used |= {documents[i].id for row in every for i in np.argsort(-row, kind="stable")[:_DEPTH]}
    chosen = [i for i, doc in enumerate(documents) if doc.id in used]
    documents = [documents[i] for i in chosen]
    kept = work / f"{folder.name}.npz"
    if not kept.exists():
        texts = [doc.content for doc in documents]
        teacher, dense = load_encoder("lsr-tiny", lexical=0), load_encoder("lsr-mini")
        found = {
            "bm25": every[:, chosen],
            "teacher": teacher.encode_query(questions).dot(teacher.encode_document(texts)),
            "queries": dense.encode_dense(questions, queries=True),
            "documents": dense.encode_dense(texts),
        }
        np.savez(kept, **found)
    with np.load(kept) as arrays:
        return [query.id for query in asked], [doc.id for doc in documents], dict(arrays)


def trained(
    ids: list[str],
    seen: dict[str, set[str]],
    negatives: dict[str, list[str]],
    weights: dict[str, dict[str, float]],
    places: dict[str, int],
    given: dict[str, Any],
) -> NDArray[np.float32]:
    """Train a linear map of query vectors; return its difference from the identity."""
    torch.manual_seed(0)
    queries, documents = torch.from_numpy(given["queries"]), torch.from_numpy(given["documents"])
    change = torch.nn.Parameter(torch.zeros(queries.shape[1], queries.shape[1]))
    optimizer = torch.optim.Adam([change], lr=_RATE)
    for epoch in range(_EPOCHS):
        for i in np.random.default_rng(epoch).permutation(len(ids)):
            query = ids[i]
            if not seen.get(query) or not negatives.get(query):
                continue
            docs = [*sorted(seen[query]), *negatives[query]]
            row = queries[given["rows"][query]]
            scores = (row + row @ change) @ documents[[places[doc] for doc in docs]].T
            positives = torch.tensor([[doc in seen[query] for doc in docs]])
            weight = torch.tensor([[weights.get(query, {}).get(doc, 1.0) for doc in docs]])
            loss = info_nce(scores[None], positives, _TEMPERATURE, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return change.detach().numpy()


def auc(values: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the probability that a hidden positive has a larger value than another document."""
    ranks = np.argsort(np.argsort(values))
    n = int(labels.sum())
    return float((ranks[labels].mean() - (n - 1) / 2) / (len(labels) - n))


def compared(folder: Path, work: Path, least: int) -> dict[str, Any]:
    """Return the figures of a collection."""
    ids, docs, given = vectors(folder, work)
    judged = read_qrels(folder / "qrels" / "test.tsv")
    truth = {q: {doc for doc, grade in judged[q].items() if grade >= least} for q in ids}
    bm25, teacher = run_of(ids, docs, given["bm25"], _DEPTH), run_of(ids, docs, given["teacher"], len(docs))
    seen = {q: truth[q] & {*list(bm25[q])[:_POOL]} for q in ids}
    qrels = {q: dict.fromkeys(sorted(seen[q]), 1) for q in ids if seen[q]}
    found = pooling_weights([bm25], qrels, teacher, depth=_DEPTH)
    pairs = [(p, doc in truth[q]) for q, own in found.relevant.items() for doc, p in own.items()]
    hidden = 1 - sum(map(len, seen.values())) / sum(map(len, truth.values()))
    settings = {
        "all negatives": MiningSettings(count=_DEPTH, share=None),
        "filtered by the teacher": MiningSettings(count=_DEPTH, share=None, margin=0.0),
    }
    negatives = {
        name: {one.query_id: one.negatives for one in mine_negatives([bm25], qrels, how, MiningReport(), teacher)}
        for name, how in settings.items()
    }
    ways = {name: (own, {}) for name, own in negatives.items()} | {
        "weighted": (negatives["all negatives"], found.weights),
        "weighted, also the positives": (
            negatives["all negatives"],
            pooling_weights([bm25], qrels, teacher, depth=_DEPTH, positives=True).weights,
        ),
    }
    given["rows"] = {query: i for i, query in enumerate(ids)}
    places = {doc: i for i, doc in enumerate(docs)}
    values = {}
    hidden_ones = {q: dict.fromkeys(sorted(truth[q] - seen[q]), 1) for q in ids}
    hidden_ones = {q: own for q, own in hidden_ones.items() if own and seen[q]}
    known = np.array([[doc in seen[q] for doc in docs] for q in ids])
    measures = parse_measures("nDCG@10 R@100")
    for name in ("not trained", *ways):
        change = trained(ids, seen, *ways[name], places, given) if name in ways else np.zeros((1, 1), np.float32)
        scores = (given["queries"] + (given["queries"] @ change if name in ways else 0)) @ given["documents"].T
        run = run_of(ids, docs, np.where(known, -np.inf, scores), 100)
        values[name] = [*score_run(hidden_ones, {q: run[q] for q in hidden_ones}, measures)[0].values()]
        note(f"{folder.name}: {name} {values[name]}")
    return {
        "set": folder.name,
        "hidden": hidden,
        "auc": auc(np.array([p for p, _ in pairs]), np.array([h for _, h in pairs])),
        "values": values,
    }


def main() -> None:
    """Compare, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = [compared(args.data / name, args.work, least) for name, least in SETS.items()]
    for key, value in conditions().items():
        print(f"{key}: {value}")
    for row in rows:
        print(f"{row['set']}: {row['hidden']:.0%} of the relevant documents hidden, AUC {row['auc']:.3f}")
    lines = [(name, *(f"{value:.3f}" for row in rows for value in row["values"][name])) for name in rows[0]["values"]]
    header = ["negatives", *(f"{row['set']} {measure}" for row in rows for measure in ("nDCG@10", "R@100"))]
    print(table(lines, header, "<" + ">" * (len(header) - 1)))
    keep("negatives", {"rows": rows})


if __name__ == "__main__":
    main()
