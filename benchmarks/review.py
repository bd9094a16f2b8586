"""Simulate reviews of judged collections: how much must be read for a recall of 0.8, and when the stopping rules stop.

    NUMBA_NUM_THREADS=1 python benchmarks/review.py --data FOLDER --work FOLDER

--data has cranfield and cacm in BEIR layout. A topic is a query with at least ten relevant documents; in each
collection, the five topics with the most relevant documents are reviewed. A review begins with BM25's ten best
documents and continues in rounds of the 20 documents that are most probably relevant. Documents without a judgment
count as irrelevant, as the collections' authors intended. --work keeps each topic's figures, so an interrupted run
resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep

from lsr import load_encoder, open_corpus
from lsr.console import note, table
from lsr.encode.bm25 import BM25Encoder
from lsr.io.runs import read_qrels
from lsr.review import Review, ReviewSettings, Rule
from lsr.sparse import SparseMatrix

SETS = ("cranfield", "cacm")
TOPICS, FEWEST = 5, 10
TARGET = 0.8
RULES: tuple[Rule, ...] = ("hypergeometric", "quantile", "knee")


def reviewed(vectors: Sequence[SparseMatrix], relevant: set[int], first: list[int]) -> dict[str, Any]:
    """Review until all rules have stopped and the target is reached; return documents read and recall at each point."""
    n = len(vectors[0])
    review = Review([str(i) for i in range(n)], vectors, ReviewSettings(rule="budget", budget=n), first)
    wanted = TARGET * len(relevant)
    found: dict[str, Any] = {}
    while len(review.judged) < n and len(found) < len(RULES) + 1:
        for doc in review.batch():
            review.judge(doc, doc in relevant)
            if "target" not in found and review.found >= wanted:
                found["target"] = {"read": len(review.judged), "recall": review.found / len(relevant)}
        own = review.settings
        for rule in RULES:
            if rule not in found:
                review.settings = replace(own, rule=rule, target=TARGET, budget=0)
                if review.stops():
                    found[rule] = {"read": len(review.judged), "recall": review.found / len(relevant)}
        review.settings = own
    whole = {"read": len(review.judged), "recall": review.found / len(relevant)}
    return {name: found.get(name, whole) for name in ("target", *RULES)} | {"rounds": len(review.rounds)}


def topics(folder: Path, ids: list[str]) -> list[tuple[str, str, set[int]]]:
    """Return the topics with the most relevant documents: id, text, numbers of the relevant documents."""
    places = {doc_id: number for number, doc_id in enumerate(ids)}
    texts = {query.id: query.content for query in open_corpus(str(folder), queries=True)}
    found = [
        (query, texts[query], {places[doc] for doc, grade in grades.items() if grade > 0 and doc in places})
        for query, grades in read_qrels(folder / "qrels" / "test.tsv").items()
    ]
    found.sort(key=lambda topic: (-len(topic[2]), topic[0]))
    return [topic for topic in found if len(topic[2]) >= FEWEST][:TOPICS]


def collection(folder: Path, encoder: str, work: Path) -> list[dict[str, Any]]:
    """Return the figures of each topic and kind of vectors."""
    documents = list(open_corpus(str(folder)))
    texts = [doc.content for doc in documents]
    lexical, learned = BM25Encoder(), load_encoder(encoder, lexical=0)
    lexical.fit(texts)
    words, terms = lexical.encode_document(texts), learned.encode_document(texts)
    rows = []
    for query, text, relevant in topics(folder, [doc.id for doc in documents]):
        kept = work / f"{folder.name}-{encoder}-{query}.json"
        if not kept.exists():
            scores = lexical.encode_query([text]).dot(words)[0]
            first = np.argsort(-scores, kind="stable")[:10].tolist()
            kinds = {"BM25": [words], encoder: [terms], "committee": [terms, words]}
            own = {name: reviewed(vectors, relevant, first) for name, vectors in kinds.items()}
            kept.write_text(json.dumps({"topic": query, "relevant": len(relevant), "of": own}))
        rows.append({"collection": folder.name, "documents": len(texts), **json.loads(kept.read_text())})
        note(f"{folder.name} {query}: {len(relevant)} relevant documents")
    return rows


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the means over topics, a line for each collection and kind of vectors."""
    found = []
    for name in dict.fromkeys(row["collection"] for row in rows):
        some = [row for row in rows if row["collection"] == name]
        for kind in some[0]["of"]:
            line: dict[str, Any] = {"collection": name, "vectors": kind, "topics": len(some)}
            line["relevant"] = float(np.mean([row["relevant"] for row in some]))
            line["documents"] = some[0]["documents"]
            for rule in ("target", *RULES):
                own = [row["of"][kind][rule] for row in some]
                line[rule] = {
                    "read": float(np.mean([one["read"] for one in own])),
                    "recall": float(np.mean([one["recall"] for one in own])),
                    "reached": float(np.mean([one["recall"] >= TARGET for one in own])),
                }
            found.append(line)
    return found


def main() -> None:
    """Review all topics, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", default="lsr-mini")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = [row for name in SETS for row in collection(args.data / name, args.encoder, args.work)]
    found = means(rows)
    for key, value in conditions().items():
        print(f"{key}: {value}")
    lines = [
        (
            line["collection"],
            line["vectors"],
            f"{line['target']['read']:.0f}",
            *(f"{line[r]['read']:.0f}, {line[r]['recall']:.2f}, {line[r]['reached']:.0%}" for r in RULES),
        )
        for line in found
    ]
    print("documents read until a recall of 0.8; for each rule: documents read, recall, share of topics that reach 0.8")
    print(table(lines, ["collection", "vectors", "read", *RULES], "<<>>>>"))
    keep("review", {"rows": found})


if __name__ == "__main__":
    main()
