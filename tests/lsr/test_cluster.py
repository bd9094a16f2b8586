"""Connections to Ray fail within a time limit, with advice; a cluster with too few resources is reported."""

from __future__ import annotations

import builtins
import socket
import sys

import pytest

from lsr.distributed.ray_cluster import connect, require
from lsr.errors import ClusterError, MissingExtra


@pytest.fixture
def silent():
    """The address of a socket that listens but never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class Ray:
    """A fake of the part of Ray that `connect` and `require` use."""

    def __init__(self, nodes=(), free=None, init=None):
        self._nodes, self._free, self._init = nodes, free, init
        self.asked = []

    def is_initialized(self):
        return False

    def init(self, address, **_):
        self.asked.append(address)
        if self._init:
            raise self._init

    def nodes(self):
        return [{"Alive": alive, "Resources": resources} for alive, resources in self._nodes]

    def available_resources(self):
        return self._free


@pytest.mark.parametrize("address", ["", "nonsense", "host", ":6379", "host:port", "http://host:1", "host:99999"])
def test_invalid_addresses_are_refused(address):
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    with pytest.raises(ClusterError, match="the address of a Ray cluster is auto, local, HOST:PORT or ray://HOST:PORT"):
        connect(address)


def test_a_refused_connection_is_reported(silent):
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1: no server listens there .* check that the cluster runs"):
        connect("127.0.0.1:1", 2)


def test_a_missing_answer_is_reported_within_the_time_limit(monkeypatch, silent):
    # Ray itself would retry for a minute and print messages.
    class Waiting(Ray):
        def init(self, address, **_):
            with socket.create_connection(address.split(":")) as talking:
                talking.settimeout(2)
                talking.recv(1)

    monkeypatch.setitem(sys.modules, "ray", Waiting())
    with pytest.raises(ClusterError, match=r"no answer within 0\.2 s, though the port is open; check that"):
        connect(silent, 0.2)


def test_ray_errors_are_passed_on(monkeypatch, silent):
    monkeypatch.setitem(sys.modules, "ray", Ray(init=ConnectionError("Could not find any\nrunning Ray instance")))
    with pytest.raises(ClusterError, match="auto: Could not find any running Ray instance; check that"):
        connect("auto")
    monkeypatch.setitem(sys.modules, "ray", Ray(init=ImportError("no client")))
    with pytest.raises(ClusterError, match=r'pip install "lsr-search\[ray\]"'):
        connect(f"ray://{silent}")
    there = Ray()
    monkeypatch.setitem(sys.modules, "ray", there)
    assert connect("local") is there
    assert there.asked == ["local"]


def test_the_error_without_ray_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r'pip install "lsr-search\[ray\]"'):
        connect("auto")


def test_needed_and_available_resources_are_reported(monkeypatch):
    nodes = [
        (True, {"CPU": 4.0, "memory": 8e9}),
        (True, {"CPU": 2.0, "memory": 1e9, "GPU": 1.0}),
        (False, {"CPU": 64.0}),
    ]
    ray = Ray(nodes, {"CPU": 6.0, "memory": 9e9, "GPU": 1.0})
    require(ray, 5, cpus=1, memory=10**9)
    require(ray, 1, cpus=1, gpus=1)
    require(ray, 60, cpus=0.1)
    with pytest.raises(ClusterError, match="2 workers of 1 CPU, 1 GPU each don't fit: there is room for 1"):
        require(ray, 2, cpus=1, gpus=1)
    with pytest.raises(
        ClusterError, match=r"6 shards of 1 CPU, 1\.00 GB each don't fit: there is room for 5"
    ) as caught:
        require(ray, 6, cpus=1, memory=10**9, what="shards")
    assert "The cluster's machines have: 4 CPU, 8.00 GB; 2 CPU, 1 GPU, 1.00 GB. Add machines" in str(caught.value)
    monkeypatch.setattr("lsr.distributed.ray_cluster._FREE", 0.0)
    busy = Ray(nodes, {"CPU": 1.5, "memory": 9e9})
    require(busy, 1, cpus=1)
    with pytest.raises(
        ClusterError, match=r"2 workers of 1 CPU each don't fit beside what runs there: 1\.5 CPU, 9\.00 GB"
    ):
        require(busy, 2, cpus=1)
