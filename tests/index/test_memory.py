"""Memory use depends on `memory=` and documented limits, never on sizes that a file declares."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsr.errors import DataError
from lsr.index.segment import reorder
from lsr.index.segment.reorder import document_order, reduce_documents
from lsr.io.open_vectors import read_vectors

# The process may take 512 MB of extra memory. An array over the vocabulary of 2**31 terms would take at least 2 GB.
LIMITED = """
    import resource, sys
    import numpy as np
    from lsr.index.index import Index
    from lsr.sparse import SparseMatrix

    rng = np.random.default_rng(0)
    rows = [np.unique(np.append(rng.integers(0, 40, 8), 2**31 - 1 - rng.integers(0, 3))) for _ in range(500)]
    matrix = SparseMatrix.from_rows([(terms, np.ones(len(terms))) for terms in rows], 2**31)

    def use(path):
        index = Index.build(path, matrix, order="bisection", memory=1 << 26)
        terms, weights = matrix.row(7)
        [(hit.id, hit.score) for hit in index.search(matrix[7:8])]
        index.add(matrix[:3], ids=["a", "b", "c"])
        index.commit(merge=False)
        index.merge()
        index.document_vectors([1, 2])
        index.explain(matrix[7:8], "7")

    use(sys.argv[1] + "/first")  # compiles the kernels before memory is limited
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29),) * 2)
    use(sys.argv[1] + "/second")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_large_term_ids_cost_no_extra_memory(tmp_path, python):
    code, _, error = python(LIMITED, tmp_path)
    assert code == 0, error


def test_the_order_does_not_depend_on_the_vocabulary_size(monkeypatch):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 600)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    terms = np.concatenate([np.sort(rng.choice(300, n, replace=False)) for n in lengths]).astype(np.uint32)
    weights = rng.random(len(terms)).astype(np.float32)
    used, df = np.unique(terms, return_counts=True)
    plain = document_order(reduce_documents(indptr, terms, weights, used.astype(np.int64), df))
    far = terms * np.uint32(7_000_000)
    assert (
        document_order(reduce_documents(indptr, far, weights, used.astype(np.int64) * 7_000_000, df)) == plain
    ).all()
    monkeypatch.setattr(reorder, "_DENSE_VOCABULARY", 1)
    assert (document_order(reduce_documents(indptr, terms, weights, used.astype(np.int64), df)) == plain).all()


def write(path, rows, **how):
    terms = pa.array(rows, pa.list_(pa.uint32()))
    ones = pa.ListArray.from_arrays(terms.offsets, pa.array(np.ones(len(terms.values), np.float32)))
    ids = pa.array([str(i) for i in range(len(rows))])
    pq.write_table(pa.table({"id": ids, "terms": terms, "weights": ones}), path, **how)


def test_a_decompression_bomb_of_equal_terms_is_refused(tmp_path):
    path = tmp_path / "bomb.parquet"
    terms = pa.ListArray.from_arrays(pa.array([0, 20_000_000], pa.int32()), pa.array(np.full(20_000_000, 7, np.uint32)))
    weights = pa.ListArray.from_arrays(terms.offsets, pa.array(np.ones(20_000_000, np.float32)))
    pq.write_table(pa.table({"id": ["a"], "terms": terms, "weights": weights}), path)
    del terms, weights
    assert path.stat().st_size < 10_000
    pool_peak = pa.default_memory_pool().max_memory()
    with pytest.raises(DataError, match=r"bomb\.parquet: 20,000,000 terms in 1 rows and [0-9,]+ bytes"):
        list(read_vectors(path))
    assert pa.default_memory_pool().max_memory() == pool_peak


def test_suspiciously_compressed_values_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "rows.parquet", [[1, 2, 3]] * 20_000)
    assert sum(len(batch.vectors) for batch in read_vectors(tmp_path / "rows.parquet")) == 20_000
    monkeypatch.setattr("lsr.io.vectors_parquet._LARGEST_GROUP", 50_000)
    monkeypatch.setattr("lsr.io.vectors_parquet._PACKED", 10)
    with pytest.raises(DataError, match=r"60,000 terms in 20,000 rows and [0-9,]+ bytes: .*smaller row groups"):
        list(read_vectors(tmp_path / "rows.parquet"))


def test_long_rows_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    write(tmp_path / "rows.parquet", [list(range(i % 50 + 1)) for i in range(100)])
    whole = [len(batch.vectors) for batch in read_vectors(tmp_path / "rows.parquet")]
    monkeypatch.setattr("lsr.io.vectors_parquet._LARGEST_ROW", 100)
    few = [len(batch.vectors) for batch in read_vectors(tmp_path / "rows.parquet")]
    assert (whole, sum(few), max(few)) == ([100], 100, 4)
    monkeypatch.setattr("lsr.io.vectors_parquet._LARGEST_ROW", 49)
    with pytest.raises(DataError, match="a row of 50 terms; at most 49 are supported"):
        list(read_vectors(tmp_path / "rows.parquet"))
