"""Replicas of shards as actors of a Ray cluster: where they run and how they are asked.

Each actor has a soft affinity to a machine. The replicas of a shard are spread over different machines as far as
possible, and when a machine is lost, its actors are restarted wherever there is room. Ray's own retries are off: a
failed request goes to another replica instead.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from lsr.distributed.ray_cluster import connect, require
from lsr.errors import ClusterError
from lsr.index.distributed.hedging import ReplicaSet
from lsr.index.distributed.shard_server import Shard
from lsr.index.sharding.manifest import Shards

_PROCESS = 1 << 28  # memory of an actor in bytes, besides its mapped index
CONCURRENT = 4  # requests that an actor handles at a time


class RayReplica:
    """An actor that answers for a shard.

    Args:
        ray: The ray module.
        actor: The actor's handle.
    """

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor, self._owner = ray, actor, os.getpid()

    def ask(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of the shard; returns immediately."""
        if os.getpid() != self._owner:  # Ray would wait forever
            future: Future[Any] = Future()
            future.set_exception(
                ClusterError("a forked child has no connection to Ray: call ShardedIndex.open after the fork")
            )
            return future
        future = getattr(self._actor, method).remote(*args).future()
        return future

    def close(self) -> None:
        """Kill the actor; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        with suppress(Exception):  # the cluster may already be gone
            self._ray.kill(self._actor)


def start(address: str, shards: Shards, replicas: int, cpus: float) -> list[ReplicaSet]:
    """Start actors for all shards.

    Args:
        address: Address of the cluster.
        shards: The shards.
        replicas: Number of actors for each shard.
        cpus: Cores of each actor.

    Raises:
        ClusterError: The cluster doesn't answer, or lacks resources for so many actors.
        MissingExtra: ray isn't installed.
    """
    ray = connect(address)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    memory = _PROCESS + max(entry.bytes for entry in shards.entries)
    what = f"replicas of shards ({len(shards.entries)} shards, {replicas} of each)"
    require(ray, replicas * len(shards.entries), cpus=cpus, memory=memory, what=what)
    actor = ray.remote(Shard)
    nodes = {node["NodeID"]: float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]}
    sets = []
    for number, taken in enumerate(place(len(shards.entries), replicas, nodes)):
        location = shards.location(shards.entries[number])
        location = location if "://" in location else os.path.abspath(location)
        options = {
            "num_cpus": cpus,
            "memory": memory,
            "max_concurrency": CONCURRENT,
            "max_restarts": -1,
            "max_task_retries": 0,
        }
        handles = [
            actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True), **options)
            for node in taken
        ]
        sets.append(ReplicaSet([RayReplica(ray, handle.remote(location, max(1, int(cpus)))) for handle in handles]))
    return sets


def place(shards: int, replicas: int, nodes: dict[str, float]) -> list[list[str]]:
    """Assign the replicas of each shard to machines.

    Args:
        shards: Number of shards.
        replicas: Number of replicas of each shard.
        nodes: {machine: its cores}.

    Returns:
        For each shard, the machines of its replicas. These are different machines as far as possible, and each machine
        gets replicas in proportion to its cores.
    """
    load = dict.fromkeys(nodes, 0)
    placed = []
    for _ in range(shards):
        mine: list[str] = []
        for _ in range(replicas):
            chosen = min(nodes, key=lambda node: (node in mine, (load[node] + 1) / max(nodes[node], 1e-9)))
            load[chosen] += 1
            mine.append(chosen)
        placed.append(mine)
    return placed
