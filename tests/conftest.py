"""Shared fixtures, which run `lsr` in this process, fork processes, start S3 and Ray, and find real collections."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import traceback
import uuid
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from lsr.cli import main

# No deadline: the first example of a kernel test compiles the kernel, which takes seconds.
settings.register_profile("lsr", deadline=None, max_examples=40)
settings.register_profile("long", deadline=None, max_examples=400)
settings.load_profile("long" if os.environ.get("LSR_LONG_TESTS") else "lsr")


LONGEST = ("test_writer", "test_workers", "test_storage", "test_ray", "test_shard_builder", "test_demo")


def pytest_collection_modifyitems(items):
    """Run the longest test files first: workers run whole files, and a long file that starts late delays the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish():
    """Exempt the collected modules and tests from garbage collection, which otherwise takes a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_progress_in_logs():
    """Disable progress lines: on a slow machine they would appear in the output of commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsr.console._LOG_SECONDS", math.inf)
        yield


class Ran(NamedTuple):
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    def lines(self):
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def pdflatex():
    """Returns a function that compiles a .tex file in its folder and returns the log."""
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed: install texlive-latex-base")

    def compile_tex(path):
        style = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).stdout
        if not style:  # booktabs.sty is part of texlive-latex-recommended
            rules = (rf"\def\{name}rule{{\hline}}" for name in ("top", "mid", "bottom"))
            (path.parent / "booktabs.sty").write_text("\n".join(rules))
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", path.name]
        ran = subprocess.run(command, cwd=path.parent, capture_output=True, check=False, timeout=60)
        log = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        assert ran.returncode == 0, "\n".join(re.findall(r"(?:^!.*\n|^l\.\d+.*\n)", log, re.M)) or log[-2000:]
        return log

    return compile_tex


@pytest.fixture
def lsr_command(capsys):
    """Returns a function that runs `lsr ...` in this process; an exception other than SystemExit fails the test."""

    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def forked():
    """Returns a function that calls `work` in a forked child, returns the result, and kills the child if it hangs."""

    def run(work, seconds=120):
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about forks with threads
            pid = os.fork()
        if not pid:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # so that the alarm kills the child
            signal.alarm(seconds)
            code = 1
            try:
                os.write(writing, json.dumps(work()).encode())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child failed, or hung (exit code -14)"
        return json.loads(answer)

    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    return run


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3 server that runs in this process. Skips the test if moto is not installed."""
    server = pytest.importorskip("moto.server", reason="needs the package moto[server], an S3 server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # werkzeug logs every request
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"{host}:{port}"
    running.stop()


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Replace fsync, which is slow, by a no-op: no test simulates a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder for one test."""
    monkeypatch.setenv("LSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(s3_server, own_cache, monkeypatch):
    """Returns a function that makes URIs in a new bucket."""
    from pyarrow.fs import S3FileSystem

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anybody")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    S3FileSystem(endpoint_override=s3_server, scheme="http", allow_bucket_creation=True).create_dir(name)
    return lambda key="", bucket=name: f"s3://{bucket}/{key}?endpoint_override={s3_server}&scheme=http"


@pytest.fixture
def real_data():
    """Returns a function that finds the folder of a real collection and skips the test if the folder is missing."""
    root = Path(os.environ.get("LSR_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")

    def folder(name):
        if not (root / name).is_dir():
            pytest.skip(f"collection {name} not found: set LSR_SHARED_DATA to the folder that contains the collections")
        return root / name

    return folder


@pytest.fixture
def benchmark_module(monkeypatch):
    """Returns a function that imports a module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    return importlib.import_module


@pytest.fixture(scope="module")
def training_environment(tmp_path_factory):
    """A separate cache and a single torch thread: small models run slower with several threads."""
    import torch

    threads, cache = torch.get_num_threads(), tmp_path_factory.mktemp("cache")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsr.train.data.default_cache", lambda: cache)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cluster_benchmark():
    """The module benchmarks/cluster.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
        return importlib.import_module("cluster")


@pytest.fixture(scope="module")
def ray_nodes():
    """The number of nodes that `ray_cluster` starts. Modules override this fixture to start fewer nodes."""
    return 3


@pytest.fixture(scope="module")
def ray_cluster(cluster_benchmark, ray_nodes):
    """A Ray cluster on this machine: a head node without cores, and `ray_nodes` nodes with two cores each.

    Skips the test if Ray is not installed. Checks at the end that no process of the cluster still runs.
    """
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    psutil = pytest.importorskip("psutil", reason="needs psutil, to find leftover processes")
    # By default Ray checks its nodes every 3 s, so a test that kills a node would wait half a minute.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_period_ms", "1000")
        with cluster_benchmark.several_nodes(ray_nodes) as cluster:
            yield cluster
    left = [child for child in psutil.Process().children(recursive=True) if "ray" in " ".join(child.cmdline())]
    _, left = psutil.wait_procs(left, timeout=20)
    assert not left
