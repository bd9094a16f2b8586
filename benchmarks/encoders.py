"""How fast encoders read documents: texts a second of any of them, on the same texts, in one run.

    python benchmarks/encoders.py [--data FOLDER] [--encoder lsr-mini --encoder lsr-tiny --encoder PATH] [--rounds 3]

FOLDER is a collection in BEIR layout; Cranfield as the package brings it where none is given. Each encoder has read a
few texts before; rounds are interleaved, the median counts. All cores that the process may run on are used. BM25's part
of an encoder is left out: it takes as long beside any model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.resources import as_file, files

from machine import conditions, keep

from lsr import load_encoder
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
    names = args.encoder or ["lsr-mini", "lsr-tiny"]
    encoders = {name: load_encoder(name, lexical=0) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for encoder in encoders.values():
        encoder.encode_document(texts[:32])
    for _ in range(args.rounds):
        for name, encoder in encoders.items():
            begin = time.perf_counter()
            vectors = encoder.encode_document(texts)
            seconds[name].append(time.perf_counter() - begin)
            terms = float(vectors.lengths().mean())
            print(f"{name}: {len(texts) / seconds[name][-1]:.1f} texts/s, {terms:.0f} terms", flush=True)
    rows = [(name, len(texts) / statistics.median(times)) for name, times in seconds.items()]
    for key, value in conditions().items():
        print(f"{key}: {value}")
    print(table([(name, f"{rate:.1f}", f"{rate / rows[0][1]:.2f}") for name, rate in rows],
                ("encoder", "texts/s", "beside the first"), "<>>"))  # fmt: skip
    keep(
        "encoders", {"texts": len(texts), "rows": [{"encoder": name, "texts_per_second": rate} for name, rate in rows]}
    )


if __name__ == "__main__":
    main()
