"""Shards on a real Ray cluster give the same results as one index, even if a machine is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from lsr.distributed.ray_cluster import connect, require
from lsr.errors import ClusterError, DataError, IndexFormatError
from lsr.index.distributed.hedging import Patience
from lsr.index.distributed.ray_actors import place
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.index import Index
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import SparseMatrix

N_TERMS, N_DOCS = 40, 600
TEXTS = [{"_id": f"d{i}", "text": f"wing flow number{i % 5} word{i}", "n": i} for i in range(20)]


@pytest.fixture(scope="module")
def ties(tmp_path_factory):
    """One index and its shards. Weights are small integers, so many documents have equal scores."""
    rng = np.random.default_rng(0)
    dense = rng.integers(1, 3, (N_DOCS, N_TERMS)) * (rng.random((N_DOCS, N_TERMS)) < 0.1)
    folder = tmp_path_factory.mktemp("ties")
    one = Index.build(folder / "one", SparseMatrix.from_dense(dense))
    reshard_index(one.path, folder / "shards", 2)
    return one, folder / "shards"


@pytest.fixture(scope="module")
def twice(ray_cluster, ties):
    """An index, and a ShardedIndex of the same documents with two replicas per shard."""
    with ShardedIndex.open(ties[1], ray=ray_cluster.address, replicas=2, cpus=0.2, hedge_after=0.3) as index:
        yield ties[0], index


def found(hits):
    return [(hit.doc, hit.id, hit.score) for hit in hits]


def queries(n=12, seed=1):
    rng = np.random.default_rng(seed)
    return SparseMatrix.from_dense(rng.integers(1, 3, (n, N_TERMS)) * (rng.random((n, N_TERMS)) < 0.2))


def actors(index, shard):
    """The process id and the node id of each replica of a shard."""
    import ray

    def where(_):
        return os.getpid(), ray.get_runtime_context().get_node_id()

    return [ray.get(replica._actor.__ray_call__.remote(where)) for replica in index._group.sets[shard].replicas]


@contextmanager
def stopped(pid):
    """Stop a process with SIGSTOP, so that it exists but doesn't answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("algorithm", ["auto", "exhaustive", "blocks", "maxscore"])
def test_results_equal_those_of_one_index(twice, algorithm):
    one, index = twice
    for k in (1, 10, 700):
        expected = [found(hits) for hits in one.search_batch(queries(), k, algorithm=algorithm)]
        assert [found(hits) for hits in index.search_batch(queries(), k, algorithm=algorithm)] == expected
        assert found(index.search(queries()[0], k, algorithm=algorithm)) == expected[0]


def test_replicas_of_a_shard_are_on_different_machines(twice):
    _, index = twice
    nodes = [{node for _, node in actors(index, shard)} for shard in range(2)]
    assert [len(of_shard) for of_shard in nodes] == [2, 2]
    assert len(set.union(*nodes)) == 3


def test_replicas_are_spread_evenly_over_machines():
    nodes = {"a": 4.0, "b": 4.0, "c": 2.0}
    placed = place(5, 2, nodes)
    assert all(len(set(of_shard)) == 2 for of_shard in placed)
    taken = [node for of_shard in placed for node in of_shard]
    assert sorted(taken.count(node) for node in nodes) == [2, 4, 4]
    assert place(1, 3, {"a": 1.0, "b": 1.0}) in ([["a", "b", "a"]], [["a", "b", "b"]])


def test_texts_explanations_filters_and_changes_equal_those_of_one_index(ray_cluster, tmp_path):
    one = Index.build(tmp_path / "one", TEXTS, encoder="bm25")
    reshard_index(one.path, tmp_path / "shards", 2)
    with ShardedIndex.open(tmp_path / "shards", ray=ray_cluster.address, cpus=0.1) as index:
        where = {"n": {">=": 4, "<": 17}}
        for mine, theirs in zip(
            index.search("wing number3 word7", where=where), one.search("wing number3 word7", where=where), strict=True
        ):
            assert (mine.id, mine.score, mine.text, mine.metadata) == (
                theirs.id, theirs.score, theirs.text, theirs.metadata,
            )  # fmt: skip
            assert mine.explain() == theirs.explain()
        with pytest.raises(DataError, match="no column 'year'"):
            index.search("wing", where={"year": 1})
        with pytest.raises(IndexFormatError, match="has no clusters"):
            index.search("wing", algorithm="clusters")
        for each in (one, index):
            each.update([{"_id": "d2", "text": "wing number3"}, {"_id": "new", "text": "number3"}])
            each.delete(["d0"])
            each.commit()
        assert found(index.search("wing number3", 30)) == found(one.search("wing number3", 30))


def test_another_replica_answers_for_a_hung_replica(twice):
    one, index = twice
    expected = [found(hits) for hits in one.search_batch(queries(), 10)]
    for replica in range(2):
        with stopped(actors(index, 1)[replica][0]):
            for i in range(4):
                assert found(index.search(queries()[i])) == expected[i]
            assert [found(hits) for hits in index.search_batch(queries())] == expected


def test_a_shard_without_an_answer_raises_an_error_or_is_listed_as_missing(twice):
    one, index = twice
    expected = found(one.search(queries()[0], N_DOCS))
    kept = [hit for hit in expected if hit[0] < N_DOCS // 2]
    sets, patience = list(index._group.sets.values()), Patience(0.1, 1.5)
    strict = ShardedIndex(index.shards, sets, patience=patience)
    lenient = ShardedIndex(index.shards, sets, patience=patience, allow_missing=True)
    assert found(strict.search(queries()[0], N_DOCS)) == found(lenient.search(queries()[0], N_DOCS)) == expected
    (first, _), (second, _) = actors(index, 1)
    with stopped(first), stopped(second):
        with pytest.raises(ClusterError, match=r"shard-00001 \(300 documents\): no answer within 1.5 s"):
            strict.search(queries()[0])
        hits = lenient.search(queries()[0], N_DOCS)
        assert (found(hits), hits.missing) == (kept, {"shard-00001": "no answer within 1.5 s"})
    assert found(lenient.search(queries()[0], N_DOCS)) == expected


def test_the_command_starts_a_local_cluster(ties, cluster_benchmark):
    pytest.importorskip("ray")
    one, folder = ties
    command = [sys.executable, "-m", "lsr", "search", folder, "-k", "5", "--ray", "local", "--cpus", "0.1", "--queries"]
    save_matrix(folder.parent / "q.parquet", queries(3))
    environment = os.environ | cluster_benchmark.ENVIRONMENT
    ran = subprocess.run(
        [*command, folder.parent / "q.parquet"], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    hits = [hit.id for hits in one.search_batch(queries(3), 5) for hit in hits]
    assert [json.loads(line)["_id"] for line in ran.stdout.splitlines()] == hits


def test_the_cluster_benchmark_classifies_results(cluster_benchmark, ties, twice):
    one, index = twice
    lenient = ShardedIndex(
        index.shards, list(index._group.sets.values()), patience=Patience(0.1, 0.5), allow_missing=True
    )
    asked = [queries()[i] for i in range(12)]
    (first, _), (second, _) = actors(index, 1)
    with stopped(first), stopped(second), cluster_benchmark.Searches(lenient, one, asked) as searches:
        searches.wait_for(4)
    assert (searches.wrong, searches.right, searches.missing > 3) == ([], 0, True)
    other = Index.build(ties[1].parent / "other", SparseMatrix.from_dense(np.eye(N_DOCS, N_TERMS)))
    with cluster_benchmark.Searches(index, other, asked) as searches:
        searches.wait_for(4)
    assert (searches.right, searches.missing, len(searches.wrong)) == (0, 0, searches.answers)


def test_the_command_searches_on_a_cluster(ray_cluster, lsr_command, tmp_path):
    one = Index.build(tmp_path / "one", TEXTS, encoder="bm25")
    reshard_index(one.path, tmp_path / "shards", 2)
    ran = lsr_command("search", tmp_path / "shards", "wing number3", "-k", 3, "--ray", ray_cluster.address)
    assert (ran.code, [line["_id"] for line in ran.lines()]) == (0, [hit.id for hit in one.search("wing number3", 3)])
    plain = lsr_command("search", tmp_path / "one", "wing", "--ray", ray_cluster.address)
    assert (plain.code, plain.err.strip()) == (
        1,
        f"lsr: {tmp_path / 'one'}: not a sharded index: it has no shards.json",
    )
    assert lsr_command("search", tmp_path / "shards", "wing", "--plan", "--ray", "auto").code == 2
    assert lsr_command("search", tmp_path / "shards", "wing", "--cpus", "0.5").code == 2


def test_killing_a_machine_loses_no_result(ray_cluster, cluster_benchmark, twice):
    one, index = twice
    expected = [found(hits) for hits in one.search_batch(queries(), 10)]
    node_of = {node.node_id: node for node in ray_cluster.worker_nodes}
    before = actors(index, 0)
    with cluster_benchmark.Searches(index, one, [queries()[i] for i in range(12)], threads=3) as searches:
        searches.wait_for(100)
        ray_cluster.remove_node(node_of[before[0][1]], allow_graceful=False)
        searches.wait_for(300)
    assert (searches.wrong, searches.missing) == ([], 0)
    assert searches.right == searches.answers >= 400
    # Ray starts the lost replica on another machine. After that, the shard can also lose its other replica.
    for _ in range(600):
        with suppress(Exception):
            after = actors(index, 0)
            if before[0][1] not in {node for _, node in after}:
                break
        time.sleep(0.1)
    else:
        raise AssertionError("the replica wasn't started again on another machine")
    with stopped(next(pid for pid, _ in after if pid == before[1][0])):
        assert [found(hits) for hits in index.search_batch(queries())] == expected


def test_a_cluster_that_is_too_small_is_reported(ray_cluster, ties, twice, monkeypatch):
    monkeypatch.setattr("lsr.distributed.ray_cluster._FREE", 0.5)
    with pytest.raises(ClusterError, match="don't fit") as caught:
        ShardedIndex.open(ties[1], ray=ray_cluster.address, replicas=2, cpus=16)
    told = str(caught.value)
    assert "4 replicas of shards (2 shards, 2 of each) of 16 CPU" in told
    assert "there is room for 0. The cluster's machines have: " in told
    assert "2 CPU, 4.29 GB" in told
    ray = connect(ray_cluster.address)
    with pytest.raises(
        ClusterError, match=r"4 workers of 1 CPU each don't fit beside what runs there: .* CPU, .* GB (is|are) free"
    ):
        require(ray, 4, cpus=1, what="workers")
