"""do_jobs does all jobs, in this process or on a real Ray cluster, even if workers die meanwhile."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

from lsr.distributed import pool
from lsr.distributed.pool import Workers, do_jobs
from lsr.distributed.ray_cluster import connect
from lsr.encode import corpus as encoding
from lsr.encode import parts
from lsr.encode.write import encode_to
from lsr.errors import ClusterError, DataError, MissingExtra
from lsr.io.corpus import open_corpus
from lsr.io.open_vectors import read_vectors

WORDS = ["wing", "flow", "plate", "shock", "heat", "boundary", "layer", "speed"]


def run(open_worker, jobs, address=None, **how):
    return list(do_jobs(open_worker, jobs, Workers(address, **how), "workers of the test"))


# --- without a cluster


def test_jobs_run_in_this_process():
    opened = []

    def open_worker():
        opened.append(1)
        return lambda job: job * 2

    assert run(open_worker, iter(range(5))) == [0, 2, 4, 6, 8]
    assert opened == [1]


def test_the_error_without_ray_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"lsr-search\[ray\]"):
        run(lambda: len, [], "auto")


def test_a_cluster_that_does_not_answer_is_reported(lsr_command, tmp_path):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    source = write_corpus(tmp_path / "docs.jsonl", 3)
    for command, more in (("encode", []), ("index", ["--shards", "2"])):
        args = [source, "--encoder", "bm25", "--out", tmp_path / "out", *more, "--ray", f"127.0.0.1:{port}"]
        ran = lsr_command(command, *args)
        assert ran.code == 1
        assert ran.err.startswith(f"lsr: 127.0.0.1:{port}: no server listens there")


# --- with a cluster


@pytest.fixture(scope="module")
def ray_nodes():
    return 2


def test_results_arrive_and_no_process_is_left(ray_cluster):
    import ray

    done = run(lambda: lambda job: (job, os.getpid()), range(7), ray_cluster.address)
    assert sorted(job for job, _ in done) == list(range(7))
    assert len({pid for _, pid in done}) <= 4
    assert not ray.is_initialized()


def test_a_client_outside_the_cluster_can_encode(ray_cluster, tmp_path):
    """The client connects to an address that begins with ray://.

    The test starts Ray's client server without the usual proxy, which is unreliable on a busy machine: the proxy must
    start a server for each client within 30 s, on a port that another proxy may take at the same moment.
    """
    pytest.importorskip("grpc", reason="Ray's client isn't installed (the extra ray)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "ray.util.client.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--address", ray_cluster.address, "--mode", "legacy"]
    source = write_corpus(tmp_path / "docs.jsonl", 20)
    args = [sys.executable, "-m", "lsr", "encode", source, "--encoder", "bm25", "--out"]
    with (tmp_path / "log").open("w") as log:
        door = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(600):
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.1)
            outside = ["--ray", f"ray://127.0.0.1:{port}", "--workers", "2"]
            ran = subprocess.run([*args, tmp_path / "out", *outside], capture_output=True, text=True, check=False)
        finally:
            os.killpg(door.pid, signal.SIGKILL)
            door.wait()
    assert ran.returncode == 0, ran.stderr
    encode(source, tmp_path / "alone", name="bm25")
    assert files(tmp_path / "out") == files(tmp_path / "alone")


@pytest.fixture(scope="module")
def cluster(ray_cluster):
    """The cluster, with one connection for all of the following tests."""
    connect(ray_cluster.address)
    return ray_cluster


def test_a_worker_that_dies_is_replaced(cluster, tmp_path, capfd):
    marker = tmp_path / "died"

    def open_worker():
        def work(job):
            if job == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return job

        return work

    assert sorted(run(open_worker, range(6), cluster.address, count=2)) == list(range(6))
    assert marker.exists()
    assert "one of the workers of the test is lost" in capfd.readouterr().err


def test_a_job_that_kills_every_worker_fails(cluster, monkeypatch):
    monkeypatch.setattr(pool, "_LOSSES", 2)

    def open_worker():
        def work(job):
            if job == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return job

        return work

    with pytest.raises(ClusterError, match="2 workers of the test died while doing the same part"):
        run(open_worker, range(3), cluster.address, count=1)


def test_workers_that_die_while_starting_are_reported(cluster, monkeypatch):
    monkeypatch.setattr(pool, "_LOSSES", 2)
    with pytest.raises(ClusterError, match="die while they start"):
        run(lambda: os.kill(os.getpid(), signal.SIGKILL), range(3), cluster.address, count=1)


def test_errors_of_workers_are_reported(cluster):
    def open_worker():
        def work(job):
            raise DataError("bad", "file:1")

        return work

    def unopened():
        raise DataError("not here", "model")

    with pytest.raises(ClusterError, match=r"on .*: file:1: bad"):
        run(open_worker, range(3), cluster.address, count=1)
    with pytest.raises(ClusterError, match=r"on .*: model: not here"):
        run(unopened, range(3), cluster.address, count=1)


def test_errors_of_the_job_source_are_reported(cluster):
    def jobs():
        yield 1
        raise DataError("no JSON", "docs.jsonl:2")

    with pytest.raises(DataError, match=r"docs\.jsonl:2: no JSON"):
        run(lambda: lambda job: job, jobs(), cluster.address, count=1)


def test_at_most_one_job_per_worker_is_in_flight(cluster):
    read = []

    def jobs():
        for job in range(10):
            read.append(job)
            yield job

    results = do_jobs(lambda: lambda job: job, jobs(), Workers(cluster.address, 2), "workers")
    for number, _ in enumerate(results, start=1):
        assert len(read) <= number + 2
    assert len(read) == 10


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"memory": 1 << 40}, r"1 workers of the test of 1 CPU, 1099\.51 GB each don't fit: there is room for 0"),
        ({"gpus": 1}, r"of 1 CPU, 1 GPU, 1\.07 GB each don't fit"),
        ({"count": 9}, "9 workers of the test .* there is room for 4"),
    ],
)
def test_a_cluster_with_too_few_resources_is_reported(cluster, wanted, said):
    with pytest.raises(ClusterError, match=said):
        run(lambda: len, ["a"], cluster.address, **wanted)


def test_a_busy_cluster_is_reported(cluster, monkeypatch):
    # Other workers leave 1 GB on each of two machines, but the new worker needs 2 GB on one machine.
    taking = do_jobs(lambda: lambda job: job, range(99), Workers(cluster.address, 2, memory=3 << 30), "others")
    next(taking)
    monkeypatch.setattr(pool, "_PATIENCE", 1.0)
    try:
        with pytest.raises(ClusterError, match=r"could start within 1 s: others use the cluster"):
            run(lambda: len, ["a"], cluster.address, count=1, memory=2 << 30)
    finally:
        taking.close()


def test_all_free_cores_are_used_without_a_worker_count(cluster, monkeypatch):
    """Cores that others use aren't free, and neither are cores of lost machines, which Ray still counts."""
    monkeypatch.setattr("lsr.distributed.ray_cluster._FREE", 0.5)
    taking = do_jobs(lambda: lambda job: job, range(99), Workers(cluster.address, 3), "others")
    next(taking)
    try:
        assert sorted(run(lambda: lambda job: job, range(7), cluster.address)) == list(range(7))
        with pytest.raises(ClusterError, match=r"2 workers of the test .* don't fit beside what runs there"):
            run(lambda: len, ["a"], cluster.address, count=2)
    finally:
        taking.close()


# --- encoding


@pytest.fixture
def small_parts(monkeypatch):
    """Encode three documents at a time, and write parts of six documents."""
    monkeypatch.setattr(encoding, "CHUNK", 3)
    monkeypatch.setattr(parts, "PART", 6)


def write_corpus(path, n):
    lines = [{"_id": f"d{i}", "text": " ".join(WORDS[(i * k) % 8] for k in range(i % 7)), "n": i} for i in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def encode(source, out, address=None, name="lsr-tiny", **how):
    from lsr.encode.load import load_encoder

    corpus, worked = open_corpus(source), Workers(address, **how)
    return encode_to(corpus, lambda: load_encoder(name), out, settings=name, workers=worked)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("part-*.parquet")}


def test_a_cluster_writes_the_same_bytes_as_one_process(cluster, small_parts, tmp_path):
    """The shipped encoder is first fitted to the corpus."""
    source = write_corpus(tmp_path / "docs.jsonl", 40)
    report = encode(source, tmp_path / "alone")
    assert encode(source, tmp_path / "one", cluster.address, count=1) == report
    assert files(tmp_path / "one") == files(tmp_path / "alone")
    assert len(files(tmp_path / "one")) == 7


def test_encoding_continues_after_the_loss_of_a_machine(cluster, small_parts, tmp_path, monkeypatch):
    source = write_corpus(tmp_path / "docs.jsonl", 200)
    encode(source, tmp_path / "alone", name="bm25")
    real, doomed, seen = parts.do_jobs, cluster.add_node(num_cpus=1, object_store_memory=80 << 20), []

    def do(*args):
        for number, part in enumerate(real(*args)):
            if number == 8:
                cluster.remove_node(doomed, allow_graceful=False)
            seen.append(part.number)
            yield part

    monkeypatch.setattr(parts, "do_jobs", do)
    encode(source, tmp_path / "many", cluster.address, "bm25")
    assert sorted(seen) == list(range(34))
    assert files(tmp_path / "many") == files(tmp_path / "alone")


def test_a_killed_driver_resumes(cluster, small_parts, tmp_path, monkeypatch):
    source = write_corpus(tmp_path / "docs.jsonl", 40)
    encode(source, tmp_path / "alone", name="bm25")
    real = parts.do_jobs

    def do(*args):
        for number, part in enumerate(real(*args)):
            if number == 3:
                raise KeyboardInterrupt
            yield part

    with monkeypatch.context() as patch:
        patch.setattr(parts, "do_jobs", do)
        with pytest.raises(KeyboardInterrupt):
            encode(source, tmp_path / "v", cluster.address, "bm25", count=2)
    done, asked = list((tmp_path / "v.partial").glob("part-*.json")), []  # a part is complete if it has its .json file

    def watch(open_worker, jobs, *rest):
        return real(open_worker, (asked.append(job[0]) or job for job in jobs), *rest)

    monkeypatch.setattr(parts, "do_jobs", watch)
    encode(source, tmp_path / "v", cluster.address, "bm25", count=2)
    assert len(done) >= 3
    assert len(asked) <= 7 - len(done)  # a worker may have completed a part after the kill
    assert files(tmp_path / "v") == files(tmp_path / "alone")


def test_a_bad_line_is_reported_with_and_without_a_cluster(cluster, tmp_path, lsr_command):
    source = write_corpus(tmp_path / "docs.jsonl", 5)
    source.write_text(source.read_text() + "no JSON\n")
    args = ["encode", source, "--encoder", "bm25", "--out", tmp_path / "v"]
    alone, many = lsr_command(*args), lsr_command(*args, "--ray", cluster.address, "--workers", "1")
    assert (many.code, many.err) == (alone.code, alone.err)
    assert "docs.jsonl:6: not JSON" in many.err


def test_the_command_encodes_on_a_cluster(cluster, tmp_path, lsr_command, small_parts):
    source = write_corpus(tmp_path / "docs.jsonl", 20)
    args = [source, "--encoder", "bm25", "--out"]
    assert lsr_command("encode", *args, tmp_path / "v.parquet", "--ray", cluster.address, "--workers", 2).code == 0
    assert lsr_command("encode", *args, tmp_path / "alone").code == 0
    made = {name: [b.ids for b in read_vectors(tmp_path / name)] for name in ("v.parquet", "alone")}
    assert [*chain(*made["v.parquet"])] == [*chain(*made["alone"])] == [f"d{i}" for i in range(20)]
    args = ["encode", source, "--out", tmp_path / "x", "--ray", cluster.address, "--device", "cuda"]
    ran = lsr_command(*args)
    assert (ran.code, "runs on the CPU, not on 'cuda'" in ran.err) == (1, True)
