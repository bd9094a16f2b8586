"""Fixtures that run code in a separate process, which may be killed at any file operation."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

# A prefix for tests of code that must survive a kill at any point. `die_everywhere` runs the code in one child process
# after another. The n-th child is killed at its n-th call that writes, renames or removes a file.
DYING = """
import json, os, shutil, signal, sys
from pathlib import Path
import pyarrow as pa

def in_child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def die_at(n):
    calls = [0]

    def dying(function):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call

    os.fsync = int  # a kill loses nothing in the page cache, so syncing only costs time
    for owner, name in (
        (os, "replace"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (Path, "write_bytes"),
        (pa.ipc, "new_file"), (pa.ipc.RecordBatchFileWriter, "close"), (shutil, "rmtree"),
    ):
        setattr(owner, name, dying(getattr(owner, name)))

def die_everywhere(path, kept, change, look, every=10, then=lambda: None):
    # Kills `change` at its first step, its second, and so on, until it completes; returns the results of `look` after
    # each run. After every `every`-th kill and at the end, the writer `then` must remove the killed process's files.
    outcomes, code, n = [], -9, 0
    while code != 0:
        n += 1
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(kept, path)

        def dying_change():
            die_at(n)
            change()

        def tell():
            outcome = look()
            (path.parent / "outcome.json").write_text(json.dumps(outcome))

        code = in_child(dying_change)
        assert code in (0, -9), code
        assert in_child(tell) == 0, n
        outcomes.append(json.loads((path.parent / "outcome.json").read_text()))
        if n % every == 0 or code == 0:
            assert in_child(then) == 0, n
            left = {p.name for p in path.iterdir() if p.name not in (".lock", ".merging", "manifest.json")}
            named = {name.split("/")[0] for name in json.loads((path / "manifest.json").read_bytes())["files"]}
            assert left == named, (left, named)
            assert sorted(name.split("-")[0] for name in left)[:1] == ["segment"], left
    return outcomes
"""


@pytest.fixture
def python():
    """Returns a function that runs code in a separate process and returns its exit code, stdout and stderr."""

    def run(code, *args, dying=False):
        code = (DYING if dying else "") + textwrap.dedent(code)
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            capture_output=True, text=True, timeout=500, check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def impatient(monkeypatch):
    """Let writers of this process wait only 50 ms for a lock, instead of a second."""
    monkeypatch.setattr("lsr.index.storage.transaction._PATIENCE", 0.05)
