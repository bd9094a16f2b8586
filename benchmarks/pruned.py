"""Compare pruned versions of an encoder: documents per second and nDCG@10.

    NUMBA_NUM_THREADS=1 python benchmarks/pruned.py --data FOLDER --work FOLDER

--data has cranfield, scifact and openstax in BEIR layout. The encoders are pruned with the first 200 documents of
openstax, and evaluated on cranfield and scifact; of scifact, the judged documents and a quarter of the other documents
are used. Speed is measured on 100 documents of cranfield, on one core; encoders take turns, and the best of three
rounds is reported. --work keeps encoders and figures, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep

from lsr import load_encoder, open_corpus
from lsr.console import note, table
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.hybrid import HybridEncoder
from lsr.encode.pruning import PruneSettings, prune
from lsr.eval.measures import parse_measures, score_run
from lsr.io.runs import read_qrels

SETS = ("cranfield", "scifact")
SHARES = ((0.25, 0.25), (0.5, 0.5))
_ROUNDS, _TIMED, _SEEN = 3, 100, 200
_EVERY = {"cranfield": 1, "scifact": 4}  # every n-th document without judgments is used


def variants(model: str, data: Path, work: Path) -> Iterator[tuple[str, str | Path]]:
    """Yield the name of each encoder, and its folder or the name to load it by."""
    yield "whole", model
    texts = [doc.content for doc in islice(open_corpus(str(data / "openstax")), _SEEN)]
    for heads, columns in SHARES:
        for fit in (False, True):
            name = f"{heads:.0%} of heads, {columns:.0%} of columns, {'fitted' if fit else 'bias alone'}"
            folder = work / f"{model}-{heads}-{columns}-{fit}"
            if not folder.exists():
                start = time.process_time()
                prune(model, folder, texts, PruneSettings(heads, columns, fit))
                note(f"{name}: {time.process_time() - start:.0f} s of CPU time")
            yield name, folder


def quality(place: str | Path, folder: Path) -> list[float]:
    """Measure nDCG@10 on a collection: the learned half alone, the learned half with BM25, and the dense vector."""
    encoder = load_encoder(place)
    assert isinstance(encoder, HybridEncoder)
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    judged = {doc for grades in qrels.values() for doc in grades}
    every = _EVERY[folder.name]
    documents = [doc for i, doc in enumerate(open_corpus(str(folder))) if doc.id in judged or i % every == 0]
    queries = [query for query in open_corpus(str(folder), queries=True) if query.id in qrels]
    texts, asked = [doc.content for doc in documents], [query.content for query in queries]
    vectors, near = encoder.learned.encode_both(texts)
    lexical = BM25Encoder()
    lexical.fit(texts)
    alone = encoder.learned.encode_query(asked).dot(vectors)
    words = lexical.encode_query(asked).dot(lexical.encode_document(texts))
    both = encoder.learned.encode_known(asked, lexical).dot(vectors) + encoder.weight * words  # type: ignore[union-attr]
    found = []
    for scores in (alone, both, encoder.encode_dense(asked, queries=True) @ near.T):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        run = {
            query.id: {documents[doc].id: float(row[doc]) for doc in docs}
            for query, docs, row in zip(queries, best, scores, strict=True)
        }
        found.append(score_run(qrels, run, parse_measures("nDCG@10"))[0]["nDCG@10"])
    return found


def speeds(places: dict[str, str | Path], texts: list[str]) -> dict[str, float]:
    """Return the documents that each encoder encodes per second of CPU time, without BM25."""
    encoders = {name: load_encoder(place, lexical=0) for name, place in places.items()}
    best = dict.fromkeys(encoders, 0.0)
    for encoder in encoders.values():
        encoder.encode_document(texts[:5])
    for _ in range(_ROUNDS):
        for name, encoder in encoders.items():
            start = time.process_time()
            encoder.encode_document(texts)
            best[name] = max(best[name], len(texts) / (time.process_time() - start))
    return best


def main() -> None:
    """Prune, measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="lsr-mini")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    places: dict[str, str | Path] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, place in variants(args.model, args.data, args.work):
        places[name], rows[name] = place, {"encoder": name}
        for one in SETS:
            kept = args.work / f"{Path(place).name}-{one}.json"
            if not kept.exists():
                kept.write_text(json.dumps(quality(place, args.data / one)))
            rows[name][one] = json.loads(kept.read_text())
    texts = [doc.content for doc in islice(open_corpus(str(args.data / "cranfield")), _TIMED)]
    for name, speed in speeds(places, texts).items():
        rows[name]["documents_per_cpu_second"] = speed
    for key, value in conditions().items():
        print(f"{key}: {value}")
    first = rows["whole"]["documents_per_cpu_second"]
    lines = [
        (
            name,
            f"{row['documents_per_cpu_second']:.0f}",
            f"{row['documents_per_cpu_second'] / first:.2f}",
            *(f"{value:.3f}" for one in SETS for value in row[one]),
        )
        for name, row in rows.items()
    ]
    header = ["encoder", "docs/s", "times", *(f"{one}{more}" for one in SETS for more in (", alone", "", ", dense"))]
    print(table(lines, header, "<" + ">" * (len(header) - 1)))
    keep("pruned", {"model": args.model, "sets": list(SETS), "rows": list(rows.values())})


if __name__ == "__main__":
    main()
