"""Compare encoders on a BEIR folder: quality, size and latency of each in one table.

python examples/compare_encoders.py scifact/ lsr-mini lsr-tiny bm25 [--out comparison]
"""

import argparse
from pathlib import Path

from lsr import Index
from lsr.eval import evaluate_index, open_dataset


def compare(folder, encoders, out, measures="nDCG@10 R@100"):
    """Yield a row for each encoder: name, measures, terms per document, ms per query."""
    dataset = open_dataset(str(folder))
    for name in encoders:
        index = Index.build(Path(out) / Path(name).name, str(folder), encoder=name, overwrite=True)
        found = evaluate_index(index, dataset, measures)
        yield (name, *found.measures.values(), index.n_postings / len(index), found.search.p50)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    options = parser.parse_args(args)
    print(f"{'encoder':20} {'nDCG@10':>8} {'R@100':>8} {'terms':>8} {'ms':>8}")
    for name, *values in compare(options.folder, options.encoders, options.out):
        print(f"{name:20} {values[0]:8.3f} {values[1]:8.3f} {values[2]:8.1f} {values[3]:8.3f}")


if __name__ == "__main__":
    main()
