"""A ShardedIndex gives the results of one index, even with ties, and always reports a lost shard."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from lsr.encode.load import load_encoder
from lsr.errors import ClusterError, DataError, EncoderMismatch, IndexFormatError
from lsr.index.distributed import shard_search as sharding
from lsr.index.distributed.hedging import Patience, ReplicaSet
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.distributed.thread_replicas import ThreadReplica
from lsr.index.index import Index
from lsr.index.sharding.manifest import Shards, shard_name
from lsr.sparse import SparseMatrix

N_TERMS, N_DOCS = 40, 700
TEXTS = [{"_id": f"d{i}", "text": f"wing flow number{i % 5} word{i}", "n": i} for i in range(20)]
TEXTS[3]["only"] = "here"


@pytest.fixture(scope="module")
def ties(tmp_path_factory):
    """One index with clusters, and its shards. Weights are small integers, so many documents have equal scores."""
    rng = np.random.default_rng(0)
    dense = rng.integers(1, 3, (N_DOCS, N_TERMS)) * (rng.random((N_DOCS, N_TERMS)) < 0.1)
    folder = tmp_path_factory.mktemp("ties")
    one = Index.build(folder / "one", SparseMatrix.from_dense(dense), order="bisection", clusters=True, summary_mass=1)
    reshard_index(one.path, folder / "shards", 4)
    with ShardedIndex.open(folder / "shards") as index:
        yield one, index


@pytest.fixture
def texts(tmp_path):
    one = Index.build(tmp_path / "one", TEXTS, encoder="bm25")
    reshard_index(one.path, tmp_path / "shards", 3)
    with ShardedIndex.open(tmp_path / "shards") as index:
        yield one, index


def found(hits):
    return [(hit.doc, hit.id, hit.score) for hit in hits]


def queries(n=12, seed=1):
    rng = np.random.default_rng(seed)
    return SparseMatrix.from_dense(rng.integers(1, 3, (n, N_TERMS)) * (rng.random((n, N_TERMS)) < 0.2))


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
@pytest.mark.parametrize("algorithm", ["auto", "exhaustive", "blocks", "maxscore"])
def test_results_equal_those_of_one_index(ties, k, algorithm):
    one, index = ties
    batch = queries()
    expected = [found(hits) for hits in one.search_batch(batch, k, algorithm=algorithm)]
    assert [found(hits) for hits in index.search_batch(batch, k, algorithm=algorithm)] == expected
    assert found(index.search(batch[0], k, algorithm=algorithm)) == expected[0]
    scores = [score for _, _, score in expected[0]]
    assert k == 1 or len(set(scores)) < len(scores)  # there are ties


def test_full_cluster_search_is_exact(ties):
    one, index = ties
    for i in range(4):
        hits = index.search(queries()[i], 10, algorithm="clusters", cut=100, heap_factor=0)
        assert found(hits) == found(one.search(queries()[i], 10))


def test_batches_of_any_size_equal_those_of_one_index(ties, monkeypatch):
    one, index = ties
    monkeypatch.setattr(sharding, "_BATCH", 5)
    expected = [found(hits) for hits in one.search_batch(queries(), 7)]
    assert [found(hits) for hits in index.search_batch(queries(), 7, threads=1)] == expected
    assert index.search_batch(queries()[np.arange(0)]) == []
    assert index.search(SparseMatrix.from_dicts([{}], N_TERMS)) == []


def test_hits_have_texts_metadata_and_explanations(texts):
    one, index = texts
    assert (len(index), index.fingerprint, index.vocabulary) == (20, one.fingerprint, one.vocabulary)
    for mine, theirs in zip(index.search("wing number3 word7", 8), one.search("wing number3 word7", 8), strict=True):
        assert (mine.id, mine.passage, mine.score) == (theirs.id, theirs.passage, theirs.score)
        assert (mine.title, mine.text, mine.metadata) == (theirs.title, theirs.text, theirs.metadata)
        assert mine.explain() == theirs.explain()
        assert mine.highlight(20) == theirs.highlight(20)
    assert index.explain("wing number3", "d19") == one.explain("wing number3", "d19")
    assert found(index.search({"wing": 1.0, "unheard": 2.0}, 3)) == found(one.search({"wing": 1.0, "unheard": 2.0}, 3))
    with pytest.raises(DataError, match="no document has the id 'x'"):
        index.explain("wing", "x")


@pytest.mark.parametrize(
    "where",
    [{"n": {">=": 5, "<": 16}}, {"only": "here"}, {"not": {"only": "here"}}, {"or": [{"n": 19}, {"only": "here"}]}],
)
def test_filters_use_the_columns_of_all_shards(texts, where):
    one, index = texts
    assert found(index.search("wing number3", 20, where=where)) == found(one.search("wing number3", 20, where=where))
    batches = [found(hits) for hits in index.search_batch(["wing", "number3"], where=where)]
    assert batches == [found(hits) for hits in one.search_batch(["wing", "number3"], where=where)]


def test_invalid_queries_give_the_same_errors_as_one_index(texts):
    one, index = texts
    for each in (one, index):
        with pytest.raises(DataError, match="there is no column 'year'"):
            each.search("wing", where={"year": 1})
        with pytest.raises(DataError, match="n is a number"):
            each.search("wing", where={"n": "x"})
        with pytest.raises(ValueError, match="k must be"):
            each.search("wing", 0)
        with pytest.raises(ValueError, match="search takes one query, got 2"):
            each.search(SparseMatrix.from_dicts([{}, {}], 3))
        with pytest.raises(TypeError, match="settings of a search are"):
            each.search("wing", beam=1)
        with pytest.raises(IndexFormatError, match="has no clusters"):
            each.search("wing", algorithm="clusters")


def test_a_commit_is_visible_to_all_readers(texts, tmp_path):
    one, index = texts
    hits = index.search("word7")
    with ShardedIndex.open(tmp_path / "shards") as other:
        for each in (one, index):
            assert each.delete(["d1"]).deleted == 1
            assert each.update([{"_id": "d7", "text": "wing once more"}]).updated == 1
            assert each.add([{"_id": "new", "text": "wing number3"}]).added == 1
            each.commit()
        expected = found(one.search("wing number3", 30))
        assert found(index.search("wing number3", 30)) == expected
        assert (hits[0].text, hits[0].explain().id) == (
            "wing flow number2 word7",
            "d7",
        )  # from the snapshot that was searched
        assert len(other) == 20
        assert other.refresh()
        assert not other.refresh()
        assert found(other.search("wing number3", 30)) == expected
        index.delete(["d2"])
        index.rollback()
        assert len(index) == len(one) == 20


def test_a_replica_that_missed_commits_catches_up(texts):
    one, index = texts
    shard = index._group.sets[2].replicas[0]._shard
    for number in range(6):  # more commits than the number of snapshots that are kept
        other = Index.open(index.path)
        other.update([{"_id": "d19", "text": f"wing number{number}"}])
        other.commit()
        shard.state()
    one.update([{"_id": "d19", "text": "wing number5"}])
    one.commit()
    assert found(index.search("wing number5", 30)) == found(one.search("wing number5", 30))


def test_reading_texts_of_a_discarded_snapshot_is_refused(texts):
    _, index = texts
    hits = index.search("word19")
    for number in range(6):
        index.update([{"_id": "d19", "text": f"wing number{number}"}])
        index.commit()
    with pytest.raises(IndexFormatError, match="have changed since they were searched; search again"):
        _ = hits[0].text


# --- lost shards ------------------------------------------------------------------------------------------------------


class Broken:
    """A replica that fails if `broken` is true."""

    def __init__(self, replica):
        self._replica, self.broken = replica, False

    def ask(self, method, *args):
        if self.broken:
            raise ConnectionError("its machine is gone")
        return self._replica.ask(method, *args)

    def close(self):
        self._replica.close()


@pytest.fixture
def breaking(texts):
    """An index, and a function that opens its shards with replicas of the class `Broken`."""
    one, index = texts
    opened = []

    def open_with(replicas, **settings):
        shards = Shards.read(index.path)
        broken = [[Broken(ThreadReplica(shards.location(e))) for _ in range(replicas)] for e in shards.entries]
        opened.append(ShardedIndex(shards, [ReplicaSet(b) for b in broken], None, Patience(0.05, 5), **settings))
        return opened[-1], broken

    yield one, open_with
    for index in opened:
        index.close()


def test_a_lost_replica_is_replaced(breaking):
    one, open_with = breaking
    index, broken = open_with(2)
    expected = found(one.search("wing number3"))
    for shard in broken:
        shard[1].broken = True
        for _ in range(3):
            hits = index.search("wing number3")
            assert found(hits) == expected
            assert hits.missing == {}
            assert hits[0].text.startswith("wing")


def test_the_error_names_a_lost_shard(breaking):
    _, open_with = breaking
    index, broken = open_with(2)
    hits = index.search("wing number3", 20)
    for replica in broken[1]:
        replica.broken = True
    for call in (lambda: index.search("wing"), lambda: index.search_batch(["wing"]), lambda: index.explain("a", "b")):
        with pytest.raises(ClusterError, match="1 of 3 shards can't be asked") as caught:
            call()
        assert "shard-00001 (7 documents): all of its 2 replicas failed (ConnectionError: its" in str(caught.value)
        assert "allow_missing=True" in str(caught.value)
    with pytest.raises(ClusterError, match="shard-00001"):  # texts of other shards can still be read
        _ = next(hit for hit in hits if 6 <= hit.doc < 13).text
    assert next(hit for hit in hits if hit.doc < 6).text.startswith("wing")


def test_missing_shards_can_be_allowed_and_are_listed(breaking):
    one, open_with = breaking
    index, broken = open_with(1, allow_missing=True)
    assert index.search("wing number3").missing == {}  # caches the document frequencies of these words
    broken[1][0].broken = True
    there = [f"d{i}" for i in range(20) if not 6 <= i < 13]
    for hits in (index.search("wing number3", 20), index.search_batch(["wing number3"], 20)[0]):
        assert list(hits.missing) == ["shard-00001"]
        assert "its machine is gone" in hits.missing["shard-00001"]
        assert found(hits) == [hit for hit in found(one.search("wing number3", 20)) if hit[1] in there]
    # The document frequencies of other words count only the remaining shards.
    assert [hit.id for hit in index.search("flow number4")][:3] == ["d4", "d14", "d19"]
    assert index.search("word7") == []
    for shard in broken:
        shard[0].broken = True
    with pytest.raises(ClusterError, match="3 of 3 shards"):
        index.search("wing")


def test_a_shard_that_comes_back_is_searched_again(breaking):
    one, open_with = breaking
    index, broken = open_with(1, allow_missing=True)
    broken[0][0].broken = True
    other = Index.open(index.path)
    for each in (other, one):
        each.delete(["d0", "d1"])
        each.commit()
    assert index.refresh()
    assert list(index.search("wing").missing) == ["shard-00000"]
    hits = index.search("wing", where={"only": "here"})  # no other shard has this column
    assert (hits, list(hits.missing)) == ([], ["shard-00000"])
    assert len(index) == 14
    broken[0][0].broken = False
    assert found(index.search("wing number3", 20)) == found(one.search("wing number3", 20))


# --- errors on opening ------------------------------------------------------------------------------------------------


def test_opening_reports_all_problems_of_a_folder(texts, tmp_path):
    other = load_encoder("bm25", k1=1.5)
    folder = tmp_path / "shards"
    with pytest.raises(IndexFormatError, match="no such folder"):
        ShardedIndex.open(tmp_path / "nowhere")
    with pytest.raises(IndexFormatError, match=r"it has no shards\.json"):
        ShardedIndex.open(tmp_path / "one")
    with pytest.raises(ValueError, match="replicas must be a whole number of at least 1, got 0"):
        ShardedIndex.open(folder, replicas=0)
    with pytest.raises(EncoderMismatch, match="they differ in"):
        ShardedIndex.open(folder, encoder=other)
    shutil.rmtree(folder / shard_name(1))
    shutil.rmtree(folder / shard_name(2))
    for allow_missing in (False, True):
        with pytest.raises(IndexFormatError, match="2 shards can't be opened") as caught:
            ShardedIndex.open(folder, allow_missing=allow_missing)
        assert "shard-00001: no such index" in str(caught.value)
        assert "shard-00002: no such index" in str(caught.value)
    for n in (1, 2):
        Index.build(folder / shard_name(n), [{"_id": f"x{n}", "text": "quite other words"}], encoder="bm25")
    with pytest.raises(EncoderMismatch, match=r"shard-00001: .*\nshard-00002: "):
        ShardedIndex.open(folder)
