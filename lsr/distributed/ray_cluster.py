"""Connect to a Ray cluster with a timeout, and check its resources."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from lsr.errors import ClusterError, MissingExtra, install_hint

ADDRESSES = "auto, local, HOST:PORT or ray://HOST:PORT"
_KNOCK = 10.0  # seconds until a machine counts as unreachable
_FREE = 10.0  # seconds to wait for others' jobs to end


def connect(address: str, timeout: float = 120.0) -> Any:
    """Connect to a Ray cluster, unless this process is connected to one already.

    Args:
        address: "auto" for the cluster of this machine, "local" for a new cluster that ends with this process,
            "host:port" of a head node, or "ray://host:port".
        timeout: Seconds to wait for an answer; a busy machine may take long.

    Returns:
        The module ray.

    Raises:
        MissingExtra: ray isn't installed.
        ClusterError: The address doesn't exist or doesn't answer; the message says what to check.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray", "working on many machines") from None
    if ray.is_initialized():
        return ray
    if address not in ("auto", "local"):
        _knock(address, min(timeout, _KNOCK))
    failed: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (Exception, SystemExit) as error:
            failed.append(error)

    if address == "local":  # a local cluster ends with the thread that starts it
        init()
    else:  # Ray waits forever for a head that doesn't answer, so a thread does the waiting
        waiting = threading.Thread(target=init, daemon=True)
        waiting.start()
        waiting.join(timeout)
        if waiting.is_alive():
            raise ClusterError(f"{address}: no answer within {timeout:g} s, though the port is open; {_CHECK}")
    if failed and isinstance(failed[0], ImportError):
        raise ClusterError(f"{address}: this address needs Ray's client: {install_hint('ray')}")
    if failed:
        raise ClusterError(f"{address}: {' '.join(str(failed[0]).split())[:300]}; {_CHECK}")
    return ray


_CHECK = (
    'check that the cluster runs ("ray status" on its head), that the address names its head (port 6379, or 10001 '
    "with ray://), and that both sides have the same versions of Python and Ray, and the same RAY_AUTH_MODE and token"
)


def _knock(address: str, timeout: float) -> None:
    """Refuse an address at which no server listens."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise ClusterError(f"the address of a Ray cluster is {ADDRESSES}, got {address!r}")
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        raise ClusterError(f"{address}: no server listens there ({error}); {_CHECK}") from None


def require(ray: Any, workers: int, *, cpus: float, memory: int = 0, gpus: float = 0, what: str = "workers") -> None:
    """Refuse a cluster that has no room for the workers.

    Args:
        ray: The module, from `connect`.
        workers: Number of workers.
        cpus: CPUs per worker.
        memory: Bytes of memory per worker.
        gpus: GPUs per worker.
        what: What the workers are, for the message.

    Raises:
        ClusterError: There is no room; the message says what is needed and what there is.
    """
    needed = {name: amount for name, amount in (("CPU", cpus), ("memory", memory), ("GPU", gpus)) if amount}
    room, nodes = 0, [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for resources in nodes:
        room += int(min((resources.get(name, 0) / amount + 1e-9 for name, amount in needed.items()), default=workers))
    if room < workers:
        there = "; ".join(_told(resources) for resources in nodes) or "none"
        raise ClusterError(
            f"{workers} {what} of {_told(needed)} each don't fit: there is room for {room}. "
            f"The cluster's machines have: {there}. Add machines, or ask for less"
        )
    # Others' jobs may be about to end, so look more than once.
    until = time.monotonic() + _FREE
    while any(ray.available_resources().get(name, 0) < workers * amount for name, amount in needed.items()):
        if time.monotonic() > until:
            free = _told(ray.available_resources())
            raise ClusterError(
                f"{workers} {what} of {_told(needed)} each don't fit beside what runs there: {free} is free. "
                "Wait, add machines, or ask for less"
            )
        time.sleep(0.2)


def _told(resources: Any) -> str:
    """Resources for a message."""
    said = [f"{resources.get('CPU', 0):g} CPU"]
    said += [f"{resources['GPU']:g} GPU"] if resources.get("GPU") else []
    said += [f"{resources['memory'] / 1e9:.2f} GB"] if resources.get("memory") else []
    return ", ".join(said)
