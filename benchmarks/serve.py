"""Load test of a server during writes: latency, throughput, and a check that no commit is lost or partly visible.

    python benchmarks/serve.py --work WORK [--seconds 60] [--connections 64] [--encoder lsr-mini]

`lsr serve` serves the Cranfield collection on loopback. `wrk` (apt install wrk) sends the collection's 225 queries;
without wrk, Python threads send them, and the figures are limited by the threads' speed. Meanwhile, a writer adds a
pair of documents with every commit and deletes the previous pair. Readers check that every result has both documents of
a pair or neither, and includes the last commit before the request. Memory is the server's, without pages of mapped
files. The baseline is the same queries from Python, without a server.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from machine import keep

from lsr import Index
from lsr.console import table
from lsr.index.serve.client import Client

K = 10
PAIR = "slipstream wing experiment"  # text of the pairs' documents, and query for them
LUA = """
local bodies, number = {}, 0
for line in io.lines(os.getenv("LSR_BODIES")) do bodies[#bodies + 1] = line end
local headers = {["Content-Type"] = "application/json"}
request = function()
  number = number % #bodies + 1
  return wrk.format("POST", "/v1/search", headers, bodies[number])
end
done = function(summary, latency)
  local e = summary.errors
  local form = '\\nLSR {"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "max_ms": %f, "errors": %d, ' ..
    '"first_error": "%d connecting, %d reading, %d writing, %d by status, %d timeouts"}\\n'
  io.write(string.format(form, summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, e.connect + e.read + e.write + e.status + e.timeout,
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


def cranfield(name: str) -> list[dict[str, Any]]:
    """Read a file of the collection that is part of the package."""
    packed = (files("lsr.data") / "cranfield" / f"{name}.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]


def queries() -> list[str]:
    """Return the collection's queries."""
    return [line["text"] for line in cranfield("queries")]


def build(path: Path, encoder: str) -> None:
    """Index the collection."""
    Index.build(path, [{**document, "pair": -1} for document in cranfield("corpus")], encoder=encoder)


def begin(path: Path) -> None:
    """Add the first pair; delete pairs of an earlier run."""
    index = Index.open(path)
    index.delete(where={"pair": {">=": 0}})
    index.add(pair(0))
    index.commit()


def pair(number: int) -> list[dict[str, Any]]:
    """Make the pair of documents of a commit."""
    return [{"_id": f"pair-{number}-{half}", "text": PAIR, "pair": number} for half in ("left", "right")]


class Served:
    """`lsr serve` in a separate process."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "lsr", "serve", f"cranfield={path}", "--port", "0", "--writable"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self.url, self.log = "", list[str]()
        for line in self._process.stderr:
            if match := re.match(r"(http://\S+:\d+) ", line):
                self.url = match[1]
                break
            self.log.append(line)
        if not self.url:
            raise SystemExit("the server didn't start:\n" + "".join(self.log))
        self._reading = threading.Thread(target=self.log.extend, args=(self._process.stderr,))
        self._reading.start()

    def memory(self) -> float:
        """Megabytes of private memory; 0 on systems other than Linux."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0.0
        return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) / 1024

    def stop(self) -> int:
        """Stop the server, and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._reading.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code


class Traffic:
    """Threads that write and check until `stop`.

    Attributes:
        failures: Descriptions of all failures.
        committed: Number of pairs added.
        checked: Number of results checked.
        memory: (seconds, megabytes of the server) samples.
    """

    def __init__(self, served: Served, readers: int) -> None:
        self.failures, self.committed, self.checked = list[str](), 0, 0
        self.memory: list[tuple[float, float]] = []
        self._served, self._stop, self._lock = served, threading.Event(), threading.Lock()
        works = [self._write, self._watch, *[self._check] * readers]
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def _guarded(self, work: Callable[[Client], None]) -> None:
        client = Client(self._served.url)
        try:
            while not (self._stop.is_set() or self.failures):
                work(client)
        except Exception as error:  # any error is a finding
            self.failures.append(f"{work.__name__}: {type(error).__name__}: {error}")

    def _write(self, client: Client) -> None:
        number = self.committed + 1
        client.add(pair(number), commit=True)
        self.committed = number
        gone = client.delete([document["_id"] for document in pair(number - 1)], commit=True)
        if gone.deleted != 2:
            self.failures.append(f"pair {number - 1} was no longer whole: {gone}")
        self._stop.wait(0.05)

    def _check(self, client: Client) -> None:
        least = self.committed  # commits before the request must be visible
        hits = client.search(PAIR, K, where={"pair": {">=": 0}})
        most = self.committed + 1  # the commit in progress may be visible
        seen: dict[int, set[str]] = {}
        for hit in hits:
            seen.setdefault(hit.metadata["pair"], set()).add(hit.id)
            if hit.text != PAIR or hit.score <= 0:
                self.failures.append(f"not what was written: {hit} {hit.text!r}")
        halves = {number: {document["_id"] for document in pair(number)} for number in seen}
        if seen != halves or not seen or max(seen) < least or max(seen) > most or len(seen) > 2:
            self.failures.append(f"half-visible, lost or too old: found {seen}, expected pairs {least} to {most}")
        with self._lock:
            self.checked += 1
        self._stop.wait(0.02)

    def _watch(self, _: Client) -> None:
        self.memory.append((time.monotonic(), self._served.memory()))
        self._stop.wait(0.5)

    def stop(self) -> None:
        """Stop all threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def wrk(url: str, asked: list[str], seconds: float, connections: int, work: Path) -> dict[str, Any]:
    """Send queries with wrk."""
    script, bodies = work / "wrk.lua", work / "wrk.bodies"
    script.write_text(LUA)
    bodies.write_text("".join(json.dumps({"query": text, "k": K}) + "\n" for text in asked))
    threads = min(2, connections)
    times = ["-d", f"{max(1, round(seconds))}s", "--timeout", "30s"]  # longer than the server's own limit
    command = ["wrk", "-t", str(threads), "-c", str(connections), *times, "-s", str(script), url]
    done = subprocess.run(
        command, env=os.environ | {"LSR_BODIES": str(bodies)}, capture_output=True, text=True, check=True
    )
    return dict(json.loads(re.findall(r"^LSR (.*)$", done.stdout, re.MULTILINE)[0]))


def threads(url: str, asked: list[str], seconds: float, connections: int) -> dict[str, Any]:
    """Send queries from threads of this process."""
    until, times, errors = time.perf_counter() + seconds, list[float](), list[str]()

    def ask(first: int) -> None:
        client, number = Client(url), first
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                client.search(asked[number % len(asked)], K)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
            times.append(time.perf_counter() - began)
            number += 1

    running = [threading.Thread(target=ask, args=(first,)) for first in range(connections)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    told = {"requests": len(times), "seconds": seconds, "p50_ms": p50, "p99_ms": p99, "max_ms": max(times) * 1e3}
    return told | {"errors": len(errors), "first_error": errors[0] if errors else ""}


def own(path: Path, asked: list[str], seconds: float) -> dict[str, float]:
    """Measure the baseline: the same queries from Python, one at a time, reading the hits' texts as a server does."""
    index, times = Index.open(path), list[float]()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not times:
        for text in asked:
            began = time.perf_counter()
            for hit in index.search(text, K):
                _ = hit.id, hit.title, hit.text, hit.metadata
            times.append(time.perf_counter() - began)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return {"python_queries_per_second": len(times) / sum(times), "python_p50_ms": p50, "python_p99_ms": p99}


def load(
    path: Path, seconds: float, connections: int, encoder: str = "lsr-mini", *, use_wrk: bool = False
) -> dict[str, Any]:
    """Run the load test, and return its figures and failures.

    Args:
        path: The index; it is built if it doesn't exist.
        seconds: Duration.
        connections: Number of connections.
        encoder: Encoder of a new index.
        use_wrk: Whether wrk sends the queries.
    """
    if not path.exists():
        build(path, encoder)
    begin(path)
    asked = queries()
    figures = own(path, asked, min(seconds, 5))
    served = Served(path)
    begun = threads(served.url, asked, min(seconds / 4, 5), connections)  # warm up caches and pools
    traffic = Traffic(served, readers=4)
    if use_wrk:
        told = wrk(served.url, asked, seconds, connections, path.parent)
    else:
        told = threads(served.url, asked, seconds, connections)
    traffic.stop()
    failures = [*traffic.failures]
    if begun["errors"] + told["errors"]:
        failures.append(f"{begun['errors'] + told['errors']} errors: {begun['first_error'] or told['first_error']}")
    if code := served.stop():
        failures.append(f"the server ended with {code}")
    failures += [line for line in served.log if "ERROR" in line or "WARNING" in line or "Traceback" in line]
    failures += Index.open(path).verify()
    megabytes = [m for _, m in traffic.memory] or [0.0]
    quarter = max(1, len(megabytes) // 4)
    return {
        "asked_with": "wrk" if use_wrk else "threads",
        "connections": connections,
        "k": K,
        "encoder": encoder,
        **told,
        "requests_per_second": told["requests"] / told["seconds"],
        **figures,
        "pairs_committed": traffic.committed,
        "answers_checked": traffic.checked,
        "megabytes_first_quarter": float(np.mean(megabytes[:quarter])),
        "megabytes_last_quarter": float(np.mean(megabytes[-quarter:])),
        "failures": failures,
    }


def main() -> None:
    """Run, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--encoder", default="lsr-mini")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    found = shutil.which("wrk") is not None
    facts = load(args.work / "served", args.seconds, args.connections, args.encoder, use_wrk=found)
    print(table([(key, str(value)) for key, value in facts.items()], ("", ""), "<<"))
    keep("serve", facts)
    sys.exit(bool(facts["failures"]))


if __name__ == "__main__":
    main()
