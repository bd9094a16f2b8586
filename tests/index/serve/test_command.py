"""`lsr serve` starts a server, and reports wrong arguments and missing packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest

from lsr.index.index import Index
from lsr.index.serve.keys import ENVIRONMENT


@pytest.fixture
def started(small):
    """Returns a function that starts `lsr serve`, waits until it listens, and returns its process, URL and messages."""
    running = []

    def start(*args, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "lsr", "serve", *args, "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        running.append(process)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if match := re.match(r"(http://\S+:\d+) ", line):
                return process, match[1], "".join(lines)
        raise AssertionError("".join(lines))

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_server_runs_until_it_is_stopped(started, small, how):
    process, url, told = started(f"wings={small.path}")
    assert "wings: 4 documents" in told
    assert "read-only, no keys" in told
    with urllib.request.urlopen(url + "/v1/indexes", timeout=20) as reply:
        assert json.load(reply)["indexes"][0]["name"] == "wings"
    process.send_signal(how)
    assert process.wait(20) == 0


def test_keys_come_from_the_environment(started, small):
    _, url, told = started(str(small.path), **{ENVIRONMENT: "reader a-key-of-some-length"})
    assert "a-key-of-some-length" not in told
    assert "(read-only, keys: 1)" in told
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url + "/v1/indexes", timeout=20)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["IDX", "--host", "0.0.0.0"], 2, "give keys"),
        (["IDX", "IDX"], 2, "two indexes have the name 'small'"),
        (["IDX", "--max-k", "0"], 2, "max_k must be a whole number of at least 1"),
        (["IDX", "--keys", "nowhere"], 1, "the keys can't be read"),
        (["nowhere"], 1, "no such index"),
        (["name=nowhere"], 1, "nowhere: no such index"),
        (["IDX", "--host", "192.0.2.1", "--without-keys"], 1, "can't listen at 192.0.2.1"),
        ([], 2, "Missing argument"),
    ],
)
def test_invalid_arguments_are_reported(lsr_command, small, args, code, message):
    ran = lsr_command("serve", *[str(small.path) if arg == "IDX" else arg for arg in args])
    assert ran.code == code
    assert message in ran.err


def test_a_port_in_use_is_reported(lsr_command, asking, small):
    ran = lsr_command("serve", small.path, "--port", asking.url.rpartition(":")[2])
    assert ran.code == 1
    assert "can't listen at 127.0.0.1" in ran.err
    assert "this port is taken; port 0 finds a free one" in ran.err


def test_undamaged_segments_of_an_index_are_served(started, lsr_command, small, tmp_path):
    path = tmp_path / "damaged"
    shutil.copytree(small.path, path)
    index = Index.open(path)
    index.add([{"_id": "new", "text": "wing"}])
    index.commit(merge=False)
    newest = max(path.glob("segment-*"), key=lambda folder: folder.stat().st_mtime_ns)
    (newest / "postings.arrow").unlink()
    ran = lsr_command("serve", path)
    assert ran.code == 1
    assert "--skip-damaged" in ran.err
    _, url, told = started(str(path), "--skip-damaged")
    assert "left out" in told
    with urllib.request.urlopen(url + "/v1/stats", timeout=20) as reply:
        assert json.load(reply)["documents"] == 4


def test_the_error_names_a_missing_package(lsr_command, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "lsr.index.serve.server", raising=False)
    ran = lsr_command("serve", small.path)
    assert ran.code == 1
    assert 'pip install "lsr-search[serve]", or in a checkout pip install -e ".[serve]"' in ran.err


@pytest.mark.parametrize("command", ["serve", "mcp"])
def test_a_reranker_needs_its_package(lsr_command, small, monkeypatch, command):
    if command == "mcp":
        pytest.importorskip("mcp")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    ran = lsr_command(command, small.path, "--rerank", "a-model")
    assert ran.code == 1
    assert "re-ranking with a-model needs the package sentence-transformers" in ran.err
