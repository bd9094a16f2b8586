"""Filtered searches and deletions equal brute force over the matching documents, for any number of segments."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.index.index import Index
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import SparseMatrix

N, TERMS = 600, 30


def metadata(i):
    return {"n": i, "even": i % 2 == 0, "lang": "en" if i % 3 else "de", "tags": ["x"] * (i % 5 == 0)}


def vectors(matrix, first=0):
    """Vectors with metadata, as if they were read from a file."""

    def read(_):
        for start in range(0, len(matrix), 100):
            rows = range(first + start, first + min(start + 100, len(matrix)))
            documents = [Document(f"d{i}", "text", "", metadata(i)) for i in rows]
            yield VectorBatch(document_batch(documents), matrix[start : start + 100])

    return Vectors("made", read, n_terms=TERMS, count=len(matrix))


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    return SparseMatrix.from_dense(np.where(rng.random((N, TERMS)) < 0.3, rng.integers(1, 9, (N, TERMS)), 0))


@pytest.fixture(scope="module", params=["one segment", "many segments"])
def index(request, matrix, tmp_path_factory):
    path = tmp_path_factory.mktemp("where") / "idx"
    if request.param == "one segment":
        return Index.build(path, vectors(matrix), clusters=True)
    built = Index.build(path, vectors(matrix[:250]), clusters=True)
    built.add(vectors(matrix[250:400], 250))
    built.commit(merge=False)
    built.add(vectors(matrix[400:], 400))
    built.commit(merge=False)
    assert built.n_segments == 3
    return built


WHERE = [
    {},
    {"n": {"<": 3}},
    {"n": 599},
    {"even": True},
    {"lang": "de", "n": {">=": 300}},
    {"tags": "x"},
    {"or": [{"n": {"<": 10}}, {"n": {">": 590}}]},
    {"not": {"even": True}},
    {"n": -1},
]


def meets(where, i):
    checks = {
        0: True, 1: i < 3, 2: i == 599, 3: i % 2 == 0, 4: i % 3 == 0 and i >= 300, 5: i % 5 == 0,
        6: i < 10 or i > 590, 7: i % 2 == 1, 8: False,
    }  # fmt: skip
    return checks[WHERE.index(where)]


@pytest.mark.parametrize("where", WHERE, ids=str)
@pytest.mark.parametrize("algorithm", ["auto", "exhaustive", "blocks", "maxscore"])
@pytest.mark.parametrize("k", [1, 10, N])
def test_results_equal_brute_force_over_the_matching_documents(index, matrix, where, algorithm, k):
    query = matrix[7]
    scores = matrix.dot(query)[:, 0]
    allowed = [i for i in range(N) if meets(where, i) and scores[i] > 0]
    expected = sorted(allowed, key=lambda i: (-scores[i], i))[:k]
    hits = index.search(query, k, where=where, algorithm=algorithm)
    assert [hit.id for hit in hits] == [f"d{i}" for i in expected]
    assert [hit.score for hit in hits] == pytest.approx([scores[i] for i in expected])


@pytest.mark.parametrize("where", WHERE, ids=str)
def test_cluster_search_returns_only_matching_documents(index, matrix, where):
    found = index.search(matrix[7], 50, where=where, algorithm="clusters", cut=30, heap_factor=0)
    assert {hit.id for hit in found} <= {f"d{i}" for i in range(N) if meets(where, i)}


def test_batches_accept_filters(index, matrix):
    single = [[hit.id for hit in index.search(matrix[i], 5, where={"even": True})] for i in range(9)]
    batch = index.search_batch(matrix[:9], 5, where={"even": True})
    assert [[hit.id for hit in hits] for hits in batch] == single


def test_only_blocks_with_matching_documents_are_scored(tmp_path, matrix):
    big = SparseMatrix.vstack([matrix] * 10)
    index = Index.build(tmp_path / "idx", vectors(big), order="given")
    plan = index.explain_plan(matrix[7], 10, where={"n": {"<": 20}})
    assert (plan.algorithm, plan.blocks_scored <= 1, plan.windows_scanned) == ("blocks", True, 0)


def test_invalid_filters_are_refused(index, matrix):
    with pytest.raises(DataError, match=r"where: there is no column 'm'; there are even, lang, n, tags"):
        index.search(matrix[0], where={"m": 1})
    with pytest.raises(DataError, match="n is a number"):
        index.search_batch(matrix[:2], where={"n": "1"})


def test_delete_accepts_ids_and_a_filter(tmp_path, matrix):
    index = Index.build(tmp_path / "idx", vectors(matrix[:300]))
    index.add(vectors(matrix[300:400], 300))
    change = index.delete(["d1", "nobody"], where={"n": {">=": 250}})  # also deletes uncommitted documents
    assert (change.deleted, change.missing) == (151, ["nobody"])
    assert len(index) == 300
    index.commit()
    assert len(index) == 249
    assert [hit.id for hit in index.search(matrix[7], N)] == [
        hit.id for hit in Index.open(tmp_path / "idx").search(matrix[7], N, where={"n": {"<": 250}})
    ]
    with pytest.raises(DataError, match="no column 'm'"):
        index.delete(where={"m": 1})
    index.rollback()
    assert len(index) == 249


def test_merged_segments_keep_their_columns(tmp_path, matrix):
    index = Index.build(tmp_path / "idx", vectors(matrix[:300]))
    index.add(vectors(matrix[300:], 300))
    index.delete(where={"even": True})
    index.merge()
    assert index.n_segments == 1
    assert {hit.id for hit in index.search(matrix[7], N, where={"n": {">": 500}})} <= {
        f"d{i}" for i in range(501, N, 2)
    }


def test_commands_accept_filters(tmp_path, lsr_command):
    source = tmp_path / "docs.jsonl"
    docs = [{"_id": f"d{i}", "text": "wing flow", "year": 1950 + i, "lang": "en" if i % 2 else "de"} for i in range(20)]
    source.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    lsr_command("index", source, "--out", tmp_path / "idx", "--encoder", "bm25")
    ran = lsr_command("search", tmp_path / "idx", "wing", "--where", "year>=1965", "--where", "lang=en")
    assert [row["_id"] for row in ran.lines()] == ["d15", "d17", "d19"]
    ran = lsr_command("search", tmp_path / "idx", "wing", "--where", '{"year": [1950, 1951]}')
    assert [row["_id"] for row in ran.lines()] == ["d0", "d1"]
    ran = lsr_command("search", tmp_path / "idx", "wing", "--where", "yaer>1")
    assert (ran.code, "no column 'yaer'; there are lang, year" in ran.err) == (1, True)
    assert lsr_command("delete", tmp_path / "idx", "--where", "lang=de").code == 0
    assert len(Index.open(tmp_path / "idx")) == 10
