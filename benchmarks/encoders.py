"""Measure the encoders' speed on the same texts in one run: documents per second, milliseconds per query.

    python benchmarks/encoders.py [--data FOLDER] [--encoder lsr-mini --encoder "lsr-mini, both vectors"] [--rounds 3]

FOLDER is a collection in BEIR layout; the default is the Cranfield collection of the package. "NAME, both vectors" also
computes the dense vectors; "NAME, query model" also encodes queries with splade-tiny. Each encoder is warmed up on a
few texts; rounds are interleaved, and the median is reported. Documents are encoded on all available cores, queries one
by one. BM25 scores are left out, because they take the same time with any model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.resources import as_file, files
from typing import Any

from machine import conditions, keep

from lsr import Encoder, load_encoder
from lsr.console import table
from lsr.io.corpus import open_corpus


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a collection in BEIR layout")
    parser.add_argument("--encoder", action="append", metavar="NAME|PATH")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with as_file(files("lsr.data") / "cranfield") as cranfield:
        texts = [document.content for document in open_corpus(args.data or cranfield)]
        queries = [query.text for query in open_corpus(args.data or cranfield, queries=True)]
    names = args.encoder or ["lsr-mini", "lsr-mini, both vectors", "lsr-mini, query model", "lsr-tiny"]
    encoders: dict[str, Encoder] = {}
    for name in names:
        model, _, how = name.partition(", ")
        encoders[name] = load_encoder(model, lexical=0, query_model="splade-tiny" if how == "query model" else None)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    queried: dict[str, list[float]] = {name: [] for name in names}
    for name, encoder in encoders.items():
        _documents(encoder, texts[:32], both="both" in name)
    for _ in range(args.rounds):
        for name, encoder in encoders.items():
            begin = time.perf_counter()
            terms = _documents(encoder, texts, both="both" in name)
            seconds[name].append(time.perf_counter() - begin)
            print(f"{name}: {len(texts) / seconds[name][-1]:.1f} texts/s, {terms:.0f} terms", flush=True)
            for query in queries:
                begin = time.perf_counter()
                encoder.encode_query(query)
                if "both" in name:
                    encoder.encode_dense(query, queries=True)
                queried[name].append((time.perf_counter() - begin) * 1e3)
    rows: list[dict[str, Any]] = [
        {
            "encoder": name,
            "texts_per_second": len(texts) / statistics.median(seconds[name]),
            "query_ms": statistics.median(queried[name]),
        }
        for name in names
    ]
    for key, value in conditions().items():
        print(f"{key}: {value}")
    first = rows[0]["texts_per_second"]
    shown = [
        (
            row["encoder"],
            f"{row['texts_per_second']:.1f}",
            f"{row['texts_per_second'] / first:.2f}",
            f"{row['query_ms']:.3f}",
        )
        for row in rows
    ]
    print(table(shown, ("encoder", "texts/s", "relative speed", "ms a query"), "<>>>"))
    keep("encoders", {"texts": len(texts), "queries": len(queries), "rows": rows})


def _documents(encoder: Encoder, texts: list[str], *, both: bool) -> float:
    """Encode documents, and return their mean number of terms."""
    vectors = encoder.encode_both(texts)[0] if both else encoder.encode_document(texts)
    return float(vectors.lengths().mean())


if __name__ == "__main__":
    main()
