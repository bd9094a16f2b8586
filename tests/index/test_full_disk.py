"""Whenever the disk becomes full, an OutputError is raised and the index stays intact."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lsr.errors import OutputError
from lsr.index.hybrid.dense import DenseVectors
from lsr.index.index import Index
from lsr.sparse import SparseMatrix


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    """An index of two segments whose postings lists are long enough to store block maxima."""
    path = tmp_path_factory.mktemp("living") / "idx"
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.choice(60, 25, replace=False)) for _ in range(3000)]
    matrix = SparseMatrix.from_rows([(terms, rng.random(25) + 0.1) for terms in rows], 60)
    index = Index.build(path, matrix[:2000], ids=[f"a{i}" for i in range(2000)])
    index.add(matrix[2000:], ids=[f"b{i}" for i in range(1000)])
    index.commit()
    return path


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system of limited size. Only root on Linux can mount it, so other users skip the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if sys.platform != "linux" or os.geteuid() != 0 or mount is None:
        pytest.skip("only root on Linux can mount a small disk")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


# Tries all disk sizes in one process, so that Python starts only once.
FULL = """
    import json, os, shutil, subprocess, sys
    from pathlib import Path
    from lsr.errors import OutputError
    from lsr.index.index import Index
    from lsr.index.distributed.reshard import reshard_index

    disk, action = Path(sys.argv[1]), sys.argv[2]
    path = disk / "idx"

    def resize(size):
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)

    def contents():
        files = (p for p in path.rglob("*") if p.is_file() and p.name not in (".lock", ".merging"))
        return {str(p.relative_to(path)): p.read_bytes() for p in files}

    def act():
        if action == "reshard":
            reshard_index(path, disk / "shards", 2)
            return
        with Index.open(path) as index:
            if action == "add":
                index.add(index.document_vectors(range(2000)), ids=[f"c{i}" for i in range(2000)])
                index.commit(merge=False)
            else:
                index.merge(background=action == "background")

    outcomes, before = [], contents()
    used = shutil.disk_usage(disk).used
    for room in [0, *(int(40_000 * 1.4**i) for i in range(16))]:
        resize(used + room)
        try:
            act()
            outcomes.append("done")
        except OutputError as error:
            assert str(disk) in str(error)
            outcomes.append("full")
        resize("64m")
        if outcomes[-1] == "done":
            break
        assert contents() == before, outcomes
        assert Index.open(path).verify() == []
        shutil.rmtree(disk / "shards", ignore_errors=True)
    print(json.dumps(outcomes))
"""


@pytest.mark.parametrize("action", ["merge", "background", "reshard", "add"])
def test_a_full_disk_is_reported_and_leaves_the_index_unchanged(living, small_disk, action, python):
    shutil.copytree(living, small_disk / "idx")
    code, out, error = python(FULL, small_disk, action)
    assert code == 0, (code, error)
    outcomes = json.loads(out.splitlines()[-1])
    assert outcomes[-1] == "done"
    assert outcomes.count("full") >= 5


def test_a_disk_that_is_full_while_a_graph_is_written_is_reported(small_disk):
    pytest.importorskip("usearch", reason="the extra ann is not installed")
    subprocess.run(["mount", "-o", "remount,size=400k", small_disk], check=True)
    texts = [(str(i), f"{i}") for i in range(600)]

    def embed(some):
        return np.random.default_rng(0).random((len(some), 64))

    DenseVectors.build(small_disk / "flat", texts, embed)
    with pytest.raises(OutputError, match="can't be written"):
        DenseVectors.build(small_disk / "graph", texts, embed, graph=True)
    assert not list((small_disk / "graph").iterdir())
