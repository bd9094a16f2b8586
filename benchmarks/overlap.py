"""Check whether the training data of the shipped encoders has texts of the collections used for evaluation.

    python benchmarks/overlap.py --data FOLDER --work FOLDER

--data has the collections, and --work the output of examples/shipped_models.py: documents.jsonl.gz and train/. Texts
are compared as sequences of lower-case words without punctuation. A query overlaps if it is also a training query. A
query of four or more words also overlaps if its set of words has a Jaccard similarity of at least 0.8 to that of a
training query. A document overlaps if it shares a run of 20 words with a training document. Relevant documents are also
counted separately.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import keep
from quality import SETS

from lsr import open_corpus
from lsr.console import progress, table
from lsr.io.runs import read_qrels

_RUN, _SAME, _SHORT = 20, 0.8, 4


def words(text: str) -> tuple[str, ...]:
    """Return a text's words."""
    return tuple(re.findall(r"\w+", text.lower()))


def runs(text: str) -> Iterator[int]:
    """Yield hashes of all runs of 20 words of a text; of the whole text if it is shorter."""
    found = words(text)
    for i in range(max(1, len(found) - _RUN + 1)):
        if found:
            yield hash(found[i : i + _RUN])


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a compressed JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def training(work: Path) -> tuple[set[tuple[str, ...]], set[int]]:
    """Return the training queries, and hashes of the runs of words of the training documents."""
    queries = {words(row["query"]) for path in sorted((work / "train").glob("*.jsonl.gz")) for row in rows(path)}
    known: set[int] = set()
    with progress(None, "documents of training") as bar:
        for row in rows(work / "documents.jsonl.gz"):
            known.update(runs(row["text"]))
            bar.update(1)
    return queries, known


def nearly_same(query: tuple[str, ...], others: dict[str, list[frozenset[str]]]) -> bool:
    """Whether a query has nearly the same words as a training query; `others` lists training queries by word."""
    mine = frozenset(query)
    if len(mine) < _SHORT:
        return False
    rarest = sorted(mine, key=lambda word: len(others.get(word, ())))[: max(1, int(len(mine) * (1 - _SAME)) + 1)]
    return any(len(mine & them) / len(mine | them) >= _SAME for word in rarest for them in others.get(word, ()))


def main() -> None:
    """Compare all available sets and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    queries, known = training(args.work)
    by_word: dict[str, list[frozenset[str]]] = defaultdict(list)
    for query in queries:
        for word in frozenset(query):
            by_word[word].append(frozenset(query))
    found = []
    for name in SETS:
        if not (args.data / name).is_dir():
            continue
        qrels = read_qrels(args.data / name / "qrels" / "test.tsv")
        judged = {doc for row in qrels.values() for doc, grade in row.items() if grade > 0}
        asked = [words(q.text) for q in open_corpus(str(args.data / name), queries=True) if q.id in qrels]
        documents = [(d.id, any(run in known for run in runs(d.content))) for d in open_corpus(str(args.data / name))]
        found.append(
            {
                "collection": name,
                "queries": len(asked),
                "same_queries": sum(query in queries for query in asked),
                "near_queries": sum(nearly_same(query, by_word) for query in asked),
                "documents": len(documents),
                "overlapping_documents": sum(overlaps for _, overlaps in documents),
                "overlapping_relevant": sum(overlaps for doc, overlaps in documents if doc in judged),
            }
        )
    print(table([tuple(map(str, row.values())) for row in found], tuple(found[0]), "<" + ">" * (len(found[0]) - 1)))
    keep("overlap", {"training_queries": len(queries), "rows": found})


if __name__ == "__main__":
    main()
