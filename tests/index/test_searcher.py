"""Masked searches of many segments equal brute force on one matrix, for every algorithm."""

from __future__ import annotations

import tempfile
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.index.search.searcher import Searcher
from lsr.index.search.settings import SearchSettings
from lsr.index.segment.cluster_writer import write_clusters
from lsr.index.segment.postings import Segment
from lsr.index.segment.postings_writer import SegmentWriter
from lsr.index.segment.quantize import LEVELS, Quantizer, query_integers
from lsr.sparse import SparseMatrix

ALGORITHMS = ("exhaustive", "blocks", "maxscore", "auto", "clusters")
EVERYTHING = {"cut": 10_000, "heap_factor": 0}
PALETTES = {"whole": [1.0, 2.0, 255.0], "uneven": [0.1, 1 / 3, 1.7, 2.9]}


def write(folder, matrix, name, *, scale=None, memory=1 << 30, order="given", impacts="uint8"):
    """Write a segment with a given scale; 8-bit segments have clusters."""
    folder = folder / f"segment-{name}"
    folder.mkdir()
    quantizer = partial(Quantizer.beside, scale) if scale else Quantizer.of
    with closing(SegmentWriter(folder, folder, impacts, memory, order, quantizer)) as writer:
        writer.write(matrix)
        chosen = writer.finish()
    scale = chosen.scale if chosen else 1.0
    if impacts == "uint8":
        write_clusters(Segment(folder, impacts, scale), folder, folder, 1.0)
    return Segment(folder, impacts, scale, clusters=impacts == "uint8")


def random_matrix(rng, n_docs, n_terms, longest, palette):
    rows = []
    for i in range(n_docs):
        terms = rng.choice(n_terms, rng.integers(0, min(longest, n_terms) + 1), replace=False)
        doubled = i > 0 and rng.random() < 0.3
        rows.append(rows[rng.integers(i)] if doubled else (terms, rng.choice(palette, len(terms))))
    return SparseMatrix.from_rows(rows, n_terms)


def ranking(matrix, scales, terms, weights, allowed):
    """Documents and scores by brute force, from impacts with a scale per document, or from weights without scales."""
    dense = matrix.to_dense()[:, terms].astype(np.float64)
    if scales is None:
        sums, factor = np.zeros(len(matrix)), 1.0
        for column, weight in zip(dense.T, weights.astype(np.float64), strict=True):
            sums += column * weight
    else:
        integers, factor = query_integers(weights)
        impacts = np.where(dense > 0, np.clip(np.rint(dense / scales[:, None]), 1, LEVELS), 0)
        sums = (impacts * integers).sum(axis=1)
    scores = sums * (1.0 if scales is None else scales / factor)
    docs = np.flatnonzero((scores > 0) & allowed)
    docs = docs[np.lexsort((docs, -scores[docs]))]
    return docs.tolist(), scores[docs].tolist()


def require_equal(searcher, wanted, terms, weights, ks, mask=None, algorithms=ALGORITHMS):
    for k in ks:
        for name in algorithms:
            chosen = SearchSettings(name, **(EVERYTHING if name == "clusters" else {}))
            docs, scores = searcher.search(terms, weights, k, chosen, mask)
            assert (docs.tolist(), scores.tolist()) == (wanted[0][:k], wanted[1][:k]), (name, k)
            if name in ("exhaustive", "blocks") and wanted[1]:  # a search may omit documents with scores below a floor
                floor = wanted[1][min(k, len(wanted[1])) // 2]
                docs, scores = searcher.search(terms, weights, k, chosen, mask, floor)
                reached = [doc for doc, score in zip(wanted[0][:k], wanted[1][:k], strict=True) if score >= floor]
                assert docs[scores >= floor].tolist() == reached, (name, k)


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([1, 3, 40, 200, 300]), min_size=1, max_size=5),
    palette=st.sampled_from(sorted(PALETTES)),
    impacts=st.sampled_from(["uint8", "uint8", "float32"]),
    memory=st.sampled_from([24 * 200, 1 << 30]),
    share=st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]),
    alive=st.sampled_from([0.0, 0.7, 1.0]),
    louder=st.sampled_from([1.0, 1.0, 0.3, 3.0, 1000.0]),
)
@settings(max_examples=40)
def test_segments_and_masks_equal_brute_force(seed, sizes, palette, impacts, memory, share, alive, louder):
    rng = np.random.default_rng(seed)
    n_terms = int(rng.choice([1, 6, 60]))
    parts = [random_matrix(rng, n, n_terms, 10, PALETTES[palette]) for n in sizes]
    parts[-1].data *= np.float32(louder)  # may give this segment another scale
    with tempfile.TemporaryDirectory() as folder:
        segments = []
        for i, part in enumerate(parts):
            order = rng.choice(["given", "bisection"])
            scale = segments[0].scale if segments and impacts == "uint8" else None
            segments.append(write(Path(folder), part, str(i), scale=scale, memory=memory, order=order, impacts=impacts))
            if scale:
                assert np.log2(segments[-1].scale / scale).is_integer()
        matrix, n = SparseMatrix.vstack(parts), sum(sizes)
        living = [None if alive == 1 else rng.random(size) < alive for size in sizes]
        here = np.concatenate([np.ones(s, bool) if a is None else a for a, s in zip(living, sizes, strict=True)])
        searcher = Searcher(segments, living)
        scales = np.repeat([s.scale for s in segments], sizes) if impacts == "uint8" else None
        algorithms = ALGORITHMS if impacts == "uint8" else ALGORITHMS[:-1]
        for size in (0, 2, 9):
            terms = np.unique(rng.integers(0, n_terms, size)).astype(np.uint32)
            weights = rng.choice([1.0, 0.5, 1.3], len(terms)).astype(np.float32)
            allowed = rng.random(n) < share
            wanted = ranking(matrix, scales, terms, weights, here)
            require_equal(searcher, wanted, terms, weights, (1, 5, n + 3), algorithms=algorithms)
            wanted = ranking(matrix, scales, terms, weights, here & allowed)
            mask = searcher.mask(allowed)
            require_equal(searcher, wanted, terms, weights, (1, 5, n + 3), mask, algorithms)
        require_equal_batches(rng, searcher, n_terms, mask, algorithms)


def require_equal_batches(rng, searcher, n_terms, mask, algorithms):
    """Check that a batch equals single searches. Some queries are empty or have weights that don't fit in 32 bits."""
    batch = []
    for size in (9, 0, 3, 9, 1) * 4:
        terms = np.unique(rng.integers(0, n_terms, size)).astype(np.uint32)
        batch.append((terms, rng.choice([1.0, 0.5, 1.3], len(terms)).astype(np.float32)))
    batch[-1] = np.arange(2, dtype=np.uint32)[:n_terms], np.array([1e-9, 1.0], np.float32)[:n_terms]
    for name in algorithms:
        for beta in (1.0, 0.5):
            chosen = SearchSettings(name, beta=beta, **(EVERYTHING if name == "clusters" else {}))
            for threads in (1, 3):
                found = searcher.search_batch(batch, 5, chosen, mask, threads=threads)
                for (docs, scores), query in zip(found, batch, strict=True):
                    wanted = searcher.search(*query, 5, chosen, mask)
                    assert (docs.tolist(), scores.tolist()) == (wanted[0].tolist(), wanted[1].tolist()), name
    assert searcher.search_batch([], 5) == []


@pytest.fixture(scope="module")
def topical(tmp_path_factory):
    """A matrix of 30,000 documents sorted by topic, a searcher with one segment, and a searcher with seven segments."""
    rng = np.random.default_rng(4)
    rows = []
    for topic in np.sort(rng.integers(0, 100, 30_000)):
        terms = np.unique(np.concatenate((topic * 20 + rng.integers(0, 20, 12), 2000 + rng.integers(0, 200, 10))))
        rows.append((terms, np.where(terms < 2000, rng.integers(80, 255, len(terms)), rng.integers(1, 60, len(terms)))))
    matrix = SparseMatrix.from_rows(rows, 2200)
    folder = tmp_path_factory.mktemp("topical")
    bounds = [0, 9000, 9001, 9100, 15_000, 22_000, 22_500, 30_000]
    many = [
        write(folder, matrix[a:b], f"{a}", scale=1.0, order="bisection" if a % 2 == 0 else "given")
        for a, b in pairwise(bounds)
    ]
    return matrix, Searcher([write(folder, matrix, "one", order="bisection")]), Searcher(many)


def queries(rng, n):
    for topic in rng.integers(0, 100, n):
        terms = np.unique(np.concatenate((topic * 20 + rng.integers(0, 20, 6), 2000 + rng.integers(0, 200, 8))))
        yield terms.astype(np.uint32), rng.choice([0.5, 1.0, 1.5], len(terms)).astype(np.float32)


def test_many_segments_are_searched_as_one(topical):
    matrix, one, many = topical
    for terms, weights in queries(np.random.default_rng(1), 4):
        wanted = ranking(matrix, np.ones(len(matrix)), terms, weights, np.ones(len(matrix), bool))
        for searcher in (one, many):
            require_equal(searcher, wanted, terms, weights, (1, 10, 300, 2000))
        plans = [searcher.plan(terms, weights, 10, SearchSettings("blocks")) for searcher in (one, many)]
        assert plans[0].postings == plans[1].postings
        assert plans[0].terms == plans[1].terms
        # Segments share the threshold, so segments without good documents are mostly skipped.
        assert plans[1].postings_scored < plans[1].postings / 3


@pytest.mark.parametrize("share", [0, 0.0003, 0.01, 0.5, 1])
def test_masks_of_any_selectivity_equal_brute_force(topical, share):
    matrix, one, many = topical
    rng = np.random.default_rng(2)
    by_chance, in_a_row = rng.random(len(matrix)) < share, np.arange(len(matrix)) < share * len(matrix)
    for allowed in (by_chance, in_a_row):
        for searcher in (one, many):
            mask = searcher.mask(allowed)
            for terms, weights in queries(rng, 2):
                wanted = ranking(matrix, np.ones(len(matrix)), terms, weights, allowed)
                require_equal(searcher, wanted, terms, weights, (1, 10, 500), mask)


def test_blocks_without_a_matching_document_are_skipped(topical):
    _, one, many = topical
    allowed = np.zeros(30_000, bool)
    allowed[[5, 9000, 29_999]] = True
    for searcher in (one, many):
        mask = searcher.mask(allowed)
        for terms, weights in queries(np.random.default_rng(3), 5):
            plan = searcher.plan(terms, weights, 10, SearchSettings(), mask)
            assert (plan.algorithm, plan.blocks_scored <= 3) == ("blocks", True)
            assert searcher.plan(terms, weights, 10, SearchSettings("exhaustive"), mask).windows_scanned <= 3


def test_a_mask_of_another_length_is_refused(topical):
    with pytest.raises(ValueError, match="30000 documents"):
        topical[1].mask(np.ones(5, bool))


def test_a_searcher_without_segments_finds_nothing():
    terms, weights = np.array([1], np.uint32), np.ones(1, np.float32)
    assert [len(found) for found in Searcher([]).search(terms, weights, 10)] == [0, 0]
    assert Searcher([]).plan(terms, weights, 10).postings == 0


def test_impacts_of_a_document_are_read_from_its_segment(topical):
    matrix, one, many = topical
    for doc in (0, 8999, 9000, 9001, 22_499, 29_999):
        terms, weights = matrix.row(doc)
        asked = np.append(terms, np.uint32(5_000_000))
        for searcher in (one, many):
            assert searcher.impacts_of(doc, asked).tolist() == [*weights.tolist(), 0.0]


def test_rows_are_read_back_without_deleted_documents(topical, tmp_path):
    matrix, one, many = topical
    kept = np.random.default_rng(5).random(len(matrix)) < 0.8
    for searcher in (one, many):
        for segment, base in zip(searcher.segments, searcher.bases.tolist(), strict=False):
            here = kept[base : base + segment.n_docs]
            with segment.rows(tmp_path, here, 2200) as rows:
                assert rows(0, segment.n_docs)[here] == matrix[base : base + segment.n_docs][here]
                assert len(rows(0, segment.n_docs)[~here].indices) == 0
    assert list(tmp_path.iterdir()) == []
