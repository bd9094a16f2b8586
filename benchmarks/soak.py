"""Kill a writer repeatedly, while readers compare every result with the committed documents.

    python benchmarks/soak.py --work WORK [--seconds 3600] [--readers 8]
    python benchmarks/soak.py --work WORK --kills 1000 --readers 1

The writer is a separate process that adds, updates, deletes, commits and merges. Each commit is a generation, whose
number is stored in a document of the index and determines its changes, so readers know what the index must contain. The
writer is killed (SIGKILL) at random times and restarted. Each reader is a process with two threads that refresh, list
all documents, search and filter. No document may be lost, duplicated or from another generation, no commit may be
partly visible, and no call may fail.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import keep

from lsr import Index
from lsr.console import table

STATE = "generation"  # id of the document that stores the committed generation
ANCHOR = "anchor"  # a word that all documents have
WORDS = [f"w{i}" for i in range(50)]
BETWEEN = 0.1  # seconds between a reader's checks, which leave CPU time for the writer


def text_of(rng: random.Random) -> str:
    """Return random words, and the anchor, which finds every document."""
    return " ".join([ANCHOR, *rng.choices(WORDS, k=8)])


def changes(generation: int, there: dict[str, int]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the documents that a generation adds or replaces, and the ids that it deletes."""
    rng = random.Random(generation)
    known = sorted(there)
    gone = rng.sample(known, min(len(known), rng.randint(0, 12)))
    kept = [doc for doc in known if doc not in gone]
    ids = [f"d{generation}-{i}" for i in range(rng.randint(1, 15))] + rng.sample(
        kept, min(len(kept), rng.randint(0, 5))
    )
    docs = [{"_id": doc, "text": text_of(rng), "g": generation} for doc in ids]
    return docs, gone


class Replay:
    """The expected content of the index: {id: generation that wrote the document}."""

    def __init__(self) -> None:
        self.generation, self.there = 0, dict[str, int]()

    def to(self, generation: int) -> dict[str, int]:
        """Advance to a generation and return its documents."""
        while self.generation < generation:
            self.generation += 1
            docs, gone = changes(self.generation, self.there)
            for doc in gone:
                del self.there[doc]
            self.there.update((doc["_id"], self.generation) for doc in docs)
        return self.there


def generation_of(index: Index) -> int:
    """Return the last committed generation."""
    doc = index.documents.find(STATE)
    assert doc is not None, "the document that stores the generation is gone"
    return int(index.documents.fields(doc)[2]["g"])


def write(path: Path) -> None:
    """Write generations until killed; print a line for each."""
    index, replay = Index.open(path), Replay()
    print("writing", flush=True)
    while True:
        there = replay.to(generation_of(index))
        number = replay.generation + 1
        docs, gone = changes(number, there)
        index.delete(gone)
        index.update([*docs, {"_id": STATE, "text": "state", "g": number}])
        index.commit(merge=number % 3 != 0)
        print(number, flush=True)
        if number % 40 == 0:
            index.merge()


def read(path: Path) -> None:
    """Check snapshots until stdin ends; print their number and the failures."""
    index, checked, failures = Index.open(path), [0, 0], list[str]()
    over = threading.Event()

    def check(number: int) -> None:
        mine, replay = Index.open(path), Replay()
        while not over.is_set() and not failures:
            try:
                mine.refresh()
                found = {doc for doc in mine.documents.all_ids() if doc != STATE}
                generation = generation_of(mine)
                expected = replay.to(generation)
                hits = [hit for hit in mine.search(ANCHOR, len(expected) + 10) if hit.id != STATE]
                wrong = (
                    found != set(expected)
                    or [hit.id for hit in hits] != list(dict.fromkeys(hit.id for hit in hits))
                    or {hit.id: hit.metadata["g"] for hit in hits} != expected
                    or len(mine) != len(expected) + 1
                )
                if expected:
                    some = max(expected.values())
                    found_here = mine.search(ANCHOR, len(expected) + 10, where={"g": some})
                    here = {hit.id for hit in found_here if hit.id != STATE}
                    wrong = wrong or here != {doc for doc, g in expected.items() if g == some}
                if wrong:
                    failures.append(f"generation {generation}: {len(found)} documents, {len(expected)} expected")
                checked[number] += 1
                over.wait(BETWEEN)
            except Exception as error:  # any error is a finding
                failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=check, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"checked": sum(checked), "failures": failures, "documents": len(index)}))


def start(*args: str) -> subprocess.Popen[str]:
    """Start this script in another process."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
    command, pipe = [sys.executable, __file__, *args], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def kills(path: Path, until: float, most: int) -> Iterator[int]:
    """Kill the writer at random times; after each kill, yield the index's generation."""
    rng = random.Random(0)
    while time.time() < until and most:
        with start("--work", str(path), "--write") as writer:
            assert writer.stdout is not None
            for _ in range(1 + rng.randrange(20)):  # waits for lines, because the machine may be busy
                writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.2))
            if writer.poll() is not None:
                raise SystemExit(f"the writer ended before it was killed, with exit code {writer.returncode}")
            writer.send_signal(signal.SIGKILL)
        most -= 1
        yield generation_of(Index.open(path))


def soak(path: Path, seconds: float, readers: int, most_kills: int = -1) -> dict[str, Any]:
    """Run the soak test, and return its figures and failures.

    Args:
        path: The index to build.
        seconds: Duration.
        readers: Number of reading processes.
        most_kills: End after this many kills; -1 for no limit.
    """
    Index.build(path, [{"_id": STATE, "text": " ".join(["state", ANCHOR, *WORDS]), "g": 0}], encoder="bm25")
    until = time.time() + seconds
    running = [start("--work", str(path), "--read") for _ in range(readers)]
    generations = list(kills(path, until, most_kills))
    outputs = [reader.communicate()[0] for reader in running]  # closing stdin ends the readers
    reports = [json.loads(output) if output else {"checked": 0, "failures": ["a reader died"]} for output in outputs]
    failures = [failure for report in reports for failure in report["failures"]]
    if generations != sorted(generations):
        failures.append("a committed generation is gone")
    if damaged := Index.open(path).verify():
        failures += damaged
    left = {child.name for child in path.iterdir()}
    return {
        "seconds": seconds,
        "readers": readers,
        "kills": len(generations),
        "survived": len(generations) if not failures else 0,
        "generations": generations[-1] if generations else 0,
        "snapshots_checked": sum(report["checked"] for report in reports),
        "entries_in_the_folder": len(left),
        "failures": failures,
    }


def main() -> None:
    """Run, print and store the figures; or run as one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=-1)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.work)
    elif args.read:
        read(args.work)
    else:
        facts = soak(args.work, args.seconds, args.readers, args.kills)
        print(table([(key, str(value)) for key, value in facts.items()], ("", ""), "<<"))
        keep("soak" if args.kills < 0 else "kills", facts)
        sys.exit(bool(facts["failures"]))


if __name__ == "__main__":
    main()
