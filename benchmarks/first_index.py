"""Measure the time of `lsr index FOLDER` for a folder of documentation, from files to a searchable index.

    pip download --no-deps --dest SDISTS --no-binary NAMES NAMES   # rivals.PAGES and MORE, with commas, then spaces
    python benchmarks/first_index.py --sdists SDISTS [--encoders lsr-mini lsr-tiny] [--hybrid]

Times are those of whole commands, including the start of Python; run nothing else at the same time. A small index is
built first, to compile the kernels, which happens once per installation.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import conditions, keep
from rivals import PAGES, unpack

from lsr import Index
from lsr.console import table

MORE = {"django": "docs"}  # more documentation: 14,728 passages in total


def built(folder: Path, out: Path, encoder: str, hybrid: bool) -> float:
    """Run the command, and return its seconds."""
    command = [sys.executable, "-m", "lsr", "index", str(folder), "--out", str(out), "--encoder", encoder]
    start = time.perf_counter()
    subprocess.run([*command, *["--hybrid"] * hybrid], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print and keep the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdists", type=Path, required=True, help="folder of source distributions")
    parser.add_argument("--encoders", nargs="+", default=["lsr-mini", "lsr-tiny"])
    parser.add_argument("--hybrid", action="store_true", help="keep dense vectors, too")
    args = parser.parse_args()
    for key, value in conditions().items():
        print(f"{key}: {value}")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        docs, small = Path(place) / "docs", Path(place) / "small"
        sources = unpack(args.sdists, docs, PAGES | MORE)
        small.mkdir()
        (small / "one.md").write_text("# One\n\nA page.\n")
        for encoder in args.encoders:
            built(small, Path(place) / f"{encoder}-small", encoder, args.hybrid)
            seconds = built(docs, Path(place) / encoder, encoder, args.hybrid)
            with Index.open(Path(place) / encoder) as index:
                rows.append({"encoder": encoder, "passages": len(index), "seconds": round(seconds, 1)})
            print(rows[-1], flush=True)
    print(table([tuple(map(str, row.values())) for row in rows], tuple(rows[0]), "<>>"))
    keep("first-index", {"sources": sources, "hybrid": args.hybrid, "rows": rows})


if __name__ == "__main__":
    main()
