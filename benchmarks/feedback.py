"""Choose the defaults of `expand_query` and `expand_dense`: number and weight of the documents that give feedback.

    NUMBA_NUM_THREADS=1 python benchmarks/feedback.py --data FOLDER

FOLDER holds collections in BEIR layout. 400 training queries and 3,000 documents are sampled from each
collection; all judged documents are among them. From SciFact, all documents are used. The table shows mean differences
from searches without feedback. Most of these queries have one relevant document.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep

from lsr import Index
from lsr.console import table
from lsr.eval.datasets import Dataset, open_dataset
from lsr.eval.measures import parse_measures, score_run
from lsr.index.search.feedback import best_documents, mixed, rocchio, stored_dense
from lsr.io.corpus import open_corpus
from lsr.sparse import SparseMatrix

SETS = {
    "scifact": "train",
    "covid-qa": "train",
    "squadshifts": "dev",
    "docs-business-central": "train",
    "stackexchange-small": "train",
}
QUERIES, DOCUMENTS = 400, 3000
MEASURES = "nDCG@10 R@100"
NUMBERS, TERMS, WEIGHTS = (1, 3, 5, 10), (10, 30, 60), (0.1, 0.2, 0.3, 0.5)
DENSE_WEIGHTS = (0.2, 0.35, 0.5, 1.0, 3.0)
Setting = tuple[int, int, float]  # documents, terms, weight


def drawn(dataset: Dataset, name: str) -> tuple[list[dict[str, str]], dict[str, dict[str, int]]]:
    """Return documents, including all judged documents, and the judgments of sampled queries."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(sorted(dataset.qrels), min(QUERIES, len(dataset.qrels)), replace=False)
    qrels = {query: dataset.qrels[query] for query in chosen.tolist()}
    judged = {doc for documents in qrels.values() for doc in documents}
    docs = [{"_id": doc.id, "text": doc.content} for doc in dataset.corpus()]
    others = [doc for doc in docs if doc["_id"] not in judged]
    rng.shuffle(others)
    room = len(docs) if name == "scifact" else max(0, DOCUMENTS - len(judged))
    return [doc for doc in docs if doc["_id"] in judged] + others[:room], qrels


def sparse(index: Index, queries: SparseMatrix) -> dict[Setting, list[dict[str, float]]]:
    """Return {setting: for each query {document: score}}; (0, 0, 0) is without feedback."""
    found: dict[Setting, list[dict[str, float]]] = {}
    plain = index.search_batch(queries, 100)
    found[0, 0, 0.0] = [{hit.id: hit.score for hit in hits} for hits in plain]
    for number, terms, weight in product(NUMBERS, TERMS, WEIGHTS):
        rows = []
        for i, hits in enumerate(plain):
            docs = index.document_vectors(best_documents(index, queries[i], number, hits, {}))
            rows.append(rocchio(index, queries[i], docs, terms, weight))
        wider = index.search_batch(SparseMatrix.vstack(rows), 100)
        found[number, terms, weight] = [{hit.id: hit.score for hit in hits} for hits in wider]
    return found


def dense(index: Index, texts: list[str]) -> dict[Setting, list[dict[str, float]]]:
    """Like `sparse`, but with dense vectors, whose settings have no terms."""
    queries = index.encoder.encode_dense(texts, queries=True)
    documents = stored_dense(index, range(len(index)))
    ids = [index.documents.id(doc) for doc in range(len(index))]

    def ranked(vectors: Any) -> list[dict[str, float]]:
        scores = vectors @ documents.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        return [{ids[doc]: float(row[doc]) for doc in docs.tolist()} for docs, row in zip(best, scores, strict=True)]

    found: dict[Setting, list[dict[str, float]]] = {(0, 0, 0.0): ranked(queries)}
    first = np.argsort(-(queries @ documents.T), axis=1, kind="stable")
    for number, weight in product(NUMBERS, DENSE_WEIGHTS):
        rows = [mixed(query, documents[docs[:number]], weight) for query, docs in zip(queries, first, strict=True)]
        found[number, 0, weight] = ranked(np.array(rows))
    return found


def main() -> None:
    """Measure all settings, and print those with the largest sum of both measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    gains: dict[str, dict[Setting, list[tuple[float, float]]]] = {}
    for name, split in SETS.items():
        dataset = open_dataset(str(folder / name), split)
        docs, qrels = drawn(dataset, name)
        asked = {query.id: query.content for query in open_corpus(dataset.query_source, queries=True)}
        texts = [asked[query] for query in qrels]
        with tempfile.TemporaryDirectory() as work:
            bm25 = Index.build(Path(work) / "bm25", docs, encoder="bm25", passages=None)
            mini = Index.build(Path(work) / "mini", docs, encoder="lsr-mini", hybrid=True, passages=None)
            runs = {
                "bm25": sparse(bm25, bm25.query_vectors(texts)),
                "lsr-mini": sparse(mini, mini.query_vectors(texts)),
            }
            runs["dense vector"] = dense(mini, texts)
        for system, by_setting in runs.items():
            values = {}
            for setting, hits in by_setting.items():
                means, _ = score_run(qrels, dict(zip(qrels, hits, strict=True)), parse_measures(MEASURES))
                values[setting] = tuple(means.values())
            for setting, (ndcg, recall) in values.items():
                plain = values[0, 0, 0.0]
                of = gains.setdefault(system, {}).setdefault(setting, [])
                of.append((ndcg - plain[0], recall - plain[1]))
        print(f"{name}: {len(docs)} documents, {len(qrels)} queries", flush=True)
    rows = []
    for system, by_setting in gains.items():
        means = {setting: np.mean(values, axis=0) for setting, values in by_setting.items()}
        best = sorted(means, key=lambda setting: -means[setting].sum())[:5]
        for setting in best:
            ndcg, recall = means[setting]
            rows.append((system, *map(str, setting), f"{ndcg:+.4f}", f"{recall:+.4f}"))
    for key, value in conditions().items():
        print(f"{key}: {value}")
    header = ("system", "documents", "terms", "weight", "nDCG@10", "R@100")
    print(table(rows, header, "<>>>>>"))
    keep("feedback", {"header": header, "rows": rows})


if __name__ == "__main__":
    main()
