"""A segment stores all weights, window by window, in bounded memory."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from lsr.index.search.searcher import Searcher, Segment
from lsr.index.segment.postings_writer import DEFAULT_MEMORY, SegmentWriter
from lsr.sparse import SparseMatrix


def matrix_of(n_docs, n_terms, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.random((n_docs, n_terms)) * (rng.random((n_docs, n_terms)) < 0.2)
    dense[::5] = 0
    return SparseMatrix.from_dense(dense)


def write(folder, parts, impacts, memory=DEFAULT_MEMORY):
    with closing(SegmentWriter(folder, folder, impacts, memory)) as writer:
        for part in parts:
            writer.write(part)
        quantizer = writer.finish()
    return Searcher([Segment(folder, impacts, quantizer.scale if quantizer else 1.0)]), writer


@pytest.mark.parametrize("memory", [1, 24 * 40, 24 * 1000, DEFAULT_MEMORY])
@pytest.mark.parametrize("impacts", ["uint8", "float32"])
def test_stored_weights_equal_the_written_weights(tmp_path, impacts, memory):
    matrix = matrix_of(90, 25)
    segment, writer = write(tmp_path, [matrix[:1], matrix[1:1], matrix[1:50], matrix[50:]], impacts, memory)
    assert writer.n_docs == 90
    assert writer.n_postings == segment.segments[0].df.sum() == matrix.nnz
    stored = np.stack([segment.impacts_of(doc, np.arange(25, dtype=np.uint32)) for doc in range(90)])
    dense = matrix.to_dense()
    if impacts == "float32":
        assert (stored == dense).all()
    else:
        assert ((stored > 0) == (dense > 0)).all()
        assert np.abs(stored - dense).max() <= dense.max() / 255


def test_terms_are_stored_with_their_document_frequencies(tmp_path):
    matrix = SparseMatrix.from_dicts([{7: 1.0, 2: 1.0}, {}, {7: 3.0}, {2**31 - 1: 2.0}], 2**31)
    segment, _ = write(tmp_path, [matrix], "uint8", memory=24)
    assert segment.segments[0].terms.tolist() == [2, 7, 2**31 - 1]
    assert segment.segments[0].df.tolist() == [1, 2, 1]


@pytest.mark.parametrize("memory", [24, 24 * 7, 24 * 64, DEFAULT_MEMORY])
def test_the_number_of_windows_does_not_affect_results(tmp_path, memory):
    matrix = matrix_of(300, 20, seed=1)
    query = (np.array([1, 4, 9], np.uint32), np.array([1.0, 0.5, 2.0], np.float32))
    answers = []
    for name, size in (("a", memory), ("b", DEFAULT_MEMORY)):
        (tmp_path / name).mkdir()
        segment, _ = write(tmp_path / name, [matrix], "uint8", size)
        docs, scores = segment.search(*query, 50)
        answers.append((docs.tolist(), scores.tolist()))
    assert answers[0] == answers[1]


def test_less_memory_gives_more_windows(tmp_path):
    segment, _ = write(tmp_path, [matrix_of(300, 20)], "uint8", 24 * 100)
    assert segment.n_windows > 5


def test_terms_that_occur_in_no_document_have_weight_zero(tmp_path):
    segment, _ = write(tmp_path, [SparseMatrix.from_dicts([{3: 2.0}], 9)], "uint8")
    assert segment.impacts_of(0, np.array([0, 3, 8], np.uint32)).tolist() == [0.0, 2.0, 0.0]
