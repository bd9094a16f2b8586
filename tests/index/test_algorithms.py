"""Every algorithm gives the same documents, scores and order as brute force, for all kinds of vectors and settings.

Brute force sums integers in numpy and sorts all documents. The kernels share no code with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lsr.index.index import Index
from lsr.index.kernels import block_max
from lsr.index.kernels import queries as kernels
from lsr.index.kernels.layout import BLOCK, FIRST_DOC, N_DENSE, N_DOCS, N_GAPS
from lsr.index.search.searcher import Searcher, Segment
from lsr.index.search.settings import SearchSettings
from lsr.index.segment.postings_writer import DEFAULT_MEMORY, SegmentWriter
from lsr.index.segment.quantize import Quantizer, query_numbers
from lsr.io.open_vectors import read_vectors
from lsr.sparse import SparseMatrix

ALGORITHMS = ("exhaustive", "blocks", "maxscore", "auto")
ORDERS = ("given", "bisection")
LARGE = 2**31  # too large for bisection, which needs a table of all terms
PALETTES = {"few": [1.0, 2.0, 3.0], "full": [255.0], "wide": [1.0, 7.0, 100.0, 255.0], "uneven": [0.1, 1 / 3, 1.7, 2.9]}


@pytest.fixture(params=ORDERS)
def order(request):
    """The storage order, which must not affect any result."""
    return request.param


class Truth:
    """Brute force over the impacts of a matrix."""

    def __init__(self, matrix):
        quantizer = Quantizer.of(float(matrix.data.max(initial=0)), bool((matrix.data == np.rint(matrix.data)).all()))
        by_term = np.argsort(matrix.indices, kind="stable")
        self.scale = quantizer.scale
        self.terms = matrix.indices[by_term].astype(np.int64)
        self.docs = matrix.row_numbers()[by_term]
        self.impacts = quantizer.impacts(matrix.data)[by_term].astype(np.int64)
        self.n_docs = len(matrix)

    def lists(self, terms):
        """The start and end positions of each term's postings."""
        return np.searchsorted(self.terms, terms), np.searchsorted(self.terms, terms, side="right")

    def integers(self, terms, weights):
        """A query's known terms, their integer weights, and the factor that turns integer sums into scores."""
        begins, ends = self.lists(terms)
        numbers, factor = query_numbers(weights)
        self.most = 2**31 if numbers.dtype == np.int32 else 2**53
        return terms[begins < ends], numbers[begins < ends].astype(np.int64), self.scale / factor

    def sums(self, terms, weights):
        """(n_docs,) int64 sums, and the factor that turns sums into scores."""
        terms, integers, factor = self.integers(terms, weights)
        sums = np.zeros(self.n_docs, np.int64)
        for begin, end, weight in zip(*self.lists(terms), integers, strict=True):
            sums[self.docs[begin:end]] += weight * self.impacts[begin:end]
        assert sums.max(initial=0) < self.most
        return sums, factor

    def ranking(self, terms, weights):
        """The documents with scores above zero and their scores, sorted by descending score, then by number."""
        sums, factor = self.sums(terms, weights)
        docs = np.flatnonzero(sums)
        docs = docs[np.lexsort((docs, -sums[docs]))]
        return docs, sums[docs] * factor


def write(folder, matrix, *, memory=DEFAULT_MEMORY, order="given", impacts="uint8"):
    with closing(SegmentWriter(folder, folder, impacts, memory, order)) as writer:
        writer.write(matrix)
        quantizer = writer.finish()
    return Searcher([Segment(folder, impacts, quantizer.scale if quantizer else 1.0)])


def query(terms, weights):
    return np.asarray(terms, np.uint32), np.broadcast_to(np.asarray(weights, np.float32), np.shape(terms)).copy()


def require_equal(segment, truth, terms, weights, ks, algorithms=ALGORITHMS):
    terms, weights = query(terms, weights)
    docs, scores = truth.ranking(terms, weights)
    for k in ks:
        for algorithm in algorithms:
            found = segment.search(terms, weights, k, SearchSettings(algorithm))
            assert found[0].tolist() == docs[:k].tolist(), (algorithm, k)
            assert found[1].tolist() == scores[:k].tolist(), (algorithm, k)


# --- small collections of every kind ----------------------------------------------------------------------------------


@st.composite
def collections(draw):
    """A matrix with many ties and duplicate documents, and queries with some unknown terms."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_docs = draw(st.sampled_from([1, 2, 7, 60, 300]))
    n_terms = draw(st.sampled_from([1, 6, 40, 300_000, LARGE]))
    longest = draw(st.sampled_from([1, 3, 12]))
    palette = PALETTES[draw(st.sampled_from(sorted(PALETTES)))]
    pool = np.unique(np.concatenate((rng.integers(0, n_terms, min(n_terms, 30)), [0, n_terms - 1])))
    rows = []
    for i in range(n_docs):
        terms = rng.choice(pool, rng.integers(0, min(longest, len(pool)) + 1), replace=False)
        doubled = i > 0 and rng.random() < 0.3
        rows.append(rows[rng.integers(i)] if doubled else (terms, rng.choice(palette, len(terms))))
    queries = []
    for size in draw(st.lists(st.integers(0, 10), min_size=2, max_size=4)):
        terms = np.unique(np.concatenate((rng.choice(pool, size), rng.integers(0, n_terms, size // 4))))
        queries.append((terms, rng.choice(draw(st.sampled_from([[1.0], [1.0, 0.5], [1e-6, 0.3, 40.0]])), len(terms))))
    return SparseMatrix.from_rows(rows, n_terms), queries


@given(
    case=collections(),
    memory=st.sampled_from([1, 24 * 200, DEFAULT_MEMORY]),
    order=st.sampled_from(ORDERS),
)
@settings(max_examples=1000 if os.environ.get("LSR_LONG_TESTS") else 100)
def test_all_algorithms_equal_brute_force(case, memory, order):
    matrix, queries = case
    assume(order == "given" or matrix.shape[1] < LARGE)
    truth = Truth(matrix)
    with tempfile.TemporaryDirectory() as folder:
        segment = write(Path(folder), matrix, memory=memory, order=order)
        for terms, weights in queries:
            require_equal(segment, truth, terms, weights, ks=(1, 3, len(matrix), len(matrix) + 7))


@pytest.mark.parametrize("rows", [[], [{}], [{}, {}], [{3: 2.0}], [{}, {3: 2.0}, {}], [{0: 1.0}, {4: 1.0}]])
def test_results_are_exact_for_very_few_documents(tmp_path, order, rows):
    matrix = SparseMatrix.from_dicts(rows, 5)
    segment, truth = write(tmp_path, matrix, order=order), Truth(matrix)
    for terms in ([], [1], [3], [0, 4], range(5)):
        require_equal(segment, truth, terms, 1.5, ks=(1, 10, 1000))


def test_equal_documents_keep_their_order(tmp_path, order):
    matrix = SparseMatrix.from_dicts([{0: 255, 1: 255, 2: 9}] * 700, 3)
    for name, memory in (("one", DEFAULT_MEMORY), ("many", 24 * 600)):
        (tmp_path / name).mkdir()
        segment = write(tmp_path / name, matrix, memory=memory, order=order)
        assert (segment.n_windows > 3) == (name == "many")
        for terms in ([0], [0, 1], [0, 1, 2]):
            require_equal(segment, Truth(matrix), terms, 0.1, ks=(1, 64, 130, 699, 700, 701))


@pytest.mark.parametrize(("n_terms", "order"), [(300_000, "given"), (300_000, "bisection"), (LARGE, "given")])
def test_results_are_exact_for_queries_of_two_thousand_terms(tmp_path, order, n_terms):
    rng = np.random.default_rng(n_terms)
    used = np.unique(rng.integers(0, n_terms, 5000))
    rows = [(np.sort(rng.choice(used, 60, replace=False)), rng.choice(PALETTES["wide"], 60)) for _ in range(2000)]
    matrix = SparseMatrix.from_rows(rows, n_terms)
    terms = np.union1d(rng.choice(used, 1500, replace=False), rng.integers(0, n_terms, 500))
    segment = write(tmp_path, matrix, memory=24 * 60_000, order=order)
    require_equal(segment, Truth(matrix), terms, rng.choice([0.2, 1.0, 3.0], len(terms)), ks=(1, 10, 150, 2000))


@pytest.mark.parametrize("memory", [24 * 20_000, DEFAULT_MEMORY])
def test_results_are_exact_in_windows_with_and_without_dense_rows(tmp_path, order, memory):
    rng = np.random.default_rng(8)
    share = np.concatenate((np.full(6, 0.6), np.full(10, 0.15), np.full(40, 0.02), np.full(60, 0.003)))
    dense = rng.choice(PALETTES["wide"], (6000, len(share))) * (rng.random((6000, len(share))) < share)
    dense[3000:4500, :3] = 0  # terms 0 to 2 are dense rows in some windows, and short lists or absent in others
    dense[4500:, 3] = 0
    matrix = SparseMatrix.from_dense(dense)
    segment = write(tmp_path, matrix, memory=memory, order=order)
    assert (segment.n_windows > 2) == (memory != DEFAULT_MEMORY)
    assert segment.segments[0].windows[:, N_DENSE].max() >= 3
    for size in (1, 2, 5, 20, 60):
        for _ in range(3):
            terms = np.sort(rng.choice(len(share), size, replace=False))
            require_equal(segment, Truth(matrix), terms, rng.choice([0.3, 1.0, 1.1], size), ks=(1, 10, 200, 6000))
    require_equal(segment, Truth(matrix), range(6), 1.0, ks=(1, 10, 1000))  # terms that have only dense rows


def test_results_are_exact_for_lists_with_large_gaps(tmp_path, order):
    """The documents of each term lie in a few distant ranges, so postings lists have skips and gaps above 255."""
    rng = np.random.default_rng(9)
    n_docs, n_terms = 70_000, 16
    own = [
        np.unique(np.concatenate([first + rng.choice(3000, 700, replace=False) for first in firsts]) % n_docs)
        for firsts in rng.integers(0, n_docs, (n_terms - 1, 2))
    ]
    own.append(np.array([0, 255, 256, 511, 1023, 1024, 69_999, *range(40_000, 41_500)]))
    docs, terms = np.concatenate(own), np.repeat(np.arange(n_terms), list(map(len, own)))
    by_doc = np.argsort(docs, kind="stable")
    indptr = np.concatenate(([0], np.cumsum(np.bincount(docs, minlength=n_docs))))
    matrix = SparseMatrix(indptr, terms[by_doc], rng.integers(1, 256, len(docs)), (n_docs, n_terms))
    segment, truth = write(tmp_path, matrix, order=order), Truth(matrix)
    assert segment.segments[0].windows[:, N_GAPS].max() > 0
    for size in (1, 3, n_terms):
        for _ in range(4):
            terms = np.sort(rng.choice(n_terms, size, replace=False))
            require_equal(segment, truth, terms, rng.choice([0.3, 1.0, 1.1], size), ks=(1, 10, 300, 5000))
    every = np.arange(n_terms, dtype=np.uint32)
    for doc in (0, 255, 256, 511, 1023, 1024, 1025, 40_000, 69_999, *rng.choice(docs, 30)):
        terms, weights = matrix.row(int(doc))
        found = segment.segments[0].vector(int(doc))
        assert (found[0].tolist(), found[1].tolist()) == (terms.tolist(), weights.tolist())
        assert segment.impacts_of(int(doc), every).tolist() == matrix[int(doc)].to_dense()[0].tolist()
    alive = rng.random(n_docs) < 0.5
    assert segment.segments[0].count(every, alive).tolist() == [int(alive[one].sum()) for one in own]


# --- the largest sums -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 300, 2000])
def test_results_are_exact_for_sums_up_to_two_to_the_31st(tmp_path, order, n):
    rng = np.random.default_rng(n)
    dense = np.full((400, n), 255.0)
    dense[rng.random((400, n)) < 0.1] = 0
    dense[::7] = 255
    matrix = SparseMatrix.from_dense(dense)
    segment, truth = write(tmp_path, matrix, order=order), Truth(matrix)
    # The largest integer query weights: all equal, or one term with nearly the whole sum.
    largest = (2**31 - 1) // 255 - n
    for weights in (np.full(n, largest / n), np.append(np.ones(n - 1), largest - n + 1)):
        assert truth.sums(*query(range(n), weights))[0].max() > (2**31 if n <= 2 else 2**30) * 0.999
        require_equal(segment, truth, range(n), weights, ks=(1, 58, 400))


@pytest.mark.parametrize("weight", [1e-45, 1e-30, 1e30, 3.4e38])
def test_results_are_exact_for_tiny_and_huge_weights(tmp_path, order, weight):
    matrix = SparseMatrix.from_dicts([{0: weight}, {1: weight}, {0: weight, 1: weight}, {}] * 50, 2)
    segment, truth = write(tmp_path, matrix, order=order), Truth(matrix)
    for weights in ([weight, weight], [1e-45, 3.4e38]):
        require_equal(segment, truth, [0, 1], weights, ks=(1, 50, 200))


# --- skipping ---------------------------------------------------------------------------------------------------------

N_CLUSTERED = 20_000


@pytest.fixture(scope="module")
def clustered():
    """20,000 documents in 100 clusters, each with terms of its cluster, common terms (dense rows) and random terms."""
    rng = np.random.default_rng(11)
    cores = rng.permutation(np.arange(30, 2030))[: 100 * 15].reshape(100, 15)
    rows = []
    for cluster in np.sort(rng.integers(0, 100, N_CLUSTERED)):
        core = rng.choice(cores[cluster], 8, replace=False)
        chance = np.setdiff1d(rng.integers(30, 2030, 5), core)
        everybody = np.flatnonzero(rng.random(30) < np.where(np.arange(30) < 10, 0.5, 0.1))
        terms = np.concatenate((core, chance, everybody))
        rows.append((terms, np.concatenate((rng.integers(100, 256, 8), rng.integers(1, 60, len(terms) - 8)))))
    return SparseMatrix.from_rows(rows, 2030), cores


@pytest.fixture(scope="module")
def truth(clustered):
    return Truth(clustered[0])


@pytest.fixture(scope="module", params=ORDERS)
def segment(request, clustered, tmp_path_factory):
    return write(tmp_path_factory.mktemp("clustered"), clustered[0], order=request.param)


@pytest.fixture(scope="module")
def queries(clustered):
    rng = np.random.default_rng(12)
    made = []
    for cluster in rng.integers(0, 100, 30):
        terms = np.concatenate((rng.choice(clustered[1][cluster], 6, replace=False), rng.integers(30, 2030, 4)))
        terms = np.union1d(terms, rng.choice(30, 12, replace=False))
        made.append(query(terms, np.where(terms < 30, 0.2, rng.choice([0.5, 1.0, 1.5], len(terms)))))
    return made


def test_skipping_misses_nothing(segment, truth, queries):
    for terms, weights in queries:
        require_equal(segment, truth, terms, weights, ks=(1, 10, 100, 1000))


def test_blocks_and_postings_are_skipped(segment, queries):
    for terms, weights in queries:
        plans = {name: segment.plan(terms, weights, 10, SearchSettings(name)) for name in ALGORITHMS}
        whole, some, windowed = plans["exhaustive"], plans["blocks"], plans["maxscore"]
        assert [plan.algorithm for plan in plans.values()][:3] == list(ALGORITHMS[:3])
        assert whole.blocks_scored == windowed.blocks_scored == 0
        assert whole.windows_scanned == whole.windows == windowed.windows
        assert 0 < some.blocks_scored < some.blocks / 4
        assert some.windows_scanned == 0
        assert some.postings_scored < whole.postings_scored / 4


def test_maxscore_skips_nonessential_terms(tmp_path, clustered, truth, queries, order):
    # Terms can be skipped only from the second window on, because the first window has no threshold.
    segment = write(tmp_path, clustered[0], memory=24 * 2 * 60_000, order=order)
    assert segment.n_windows > 3
    for terms, weights in queries[:10]:
        require_equal(segment, truth, terms, weights, ks=(1, 10, 100))
        whole = segment.plan(terms, weights, 10, SearchSettings("exhaustive"))
        some = segment.plan(terms, weights, 10, SearchSettings("maxscore"))
        assert 0 < some.windows_scanned < some.windows
        assert 0 < some.postings_scored < whole.postings_scored


def test_every_scoring_kernel_is_used(tmp_path, monkeypatch, segment, truth, queries):
    """The outermost kernel runs as plain Python, so the test can count how often it calls each compiled kernel."""
    ran = dict.fromkeys(("score_blocks", "score_split", "score_window"), 0)

    def watched(name):
        compiled = getattr(block_max, name)

        def run(*args):
            ran[name] += 1
            return compiled(*args)

        return run

    for name in ran:
        monkeypatch.setattr(block_max, name, watched(name))
    monkeypatch.setattr(kernels, "search_blocks", block_max.search_blocks.py_func)
    monkeypatch.setattr("lsr.index.search.segment_group.run_blocks", kernels.run_blocks.py_func)
    for terms, weights in queries[:10]:
        require_equal(segment, truth, terms, weights, ks=(1,), algorithms=["blocks"])
    # For a small k, a search scores only blocks, 64 at a time.
    assert ran["score_blocks"] > 10
    assert ran["score_split"] == ran["score_window"] == 0
    # For a large k, a search starts with a whole window.
    require_equal(segment, truth, *queries[0], ks=(1000,), algorithms=["blocks"])
    assert ran["score_window"] == 1
    ran["score_window"] = 0
    # Each document has 12 random terms out of 600 and some of the 6 light terms, so no block can be skipped.
    rng = np.random.default_rng(13)
    rows = []
    for _ in range(N_CLUSTERED):
        light = np.flatnonzero(rng.random(6) < 0.15) + 600
        weights = np.concatenate((rng.integers(1, 256, 12), rng.integers(1, 20, len(light))))
        rows.append((np.concatenate((rng.choice(600, 12, replace=False), light)), weights))
    even = SparseMatrix.from_rows(rows, 606)
    segment, truth = write(tmp_path, even, memory=24 * 2 * 70_000), Truth(even)
    n = segment.n_windows
    assert n > 2
    # A document with only one of these terms can score high, so all postings lists are scanned.
    require_equal(segment, truth, range(8), 1.0, ks=(200,), algorithms=["blocks"])
    assert (ran["score_split"], ran["score_window"]) == (0, n)
    # Once there is a threshold, the light terms are only looked up.
    require_equal(segment, truth, [*range(8), *range(600, 606)], 1.0, ks=(200,), algorithms=["blocks"])
    assert (ran["score_split"], ran["score_window"]) == (n - 1, n + 1)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_lower_alpha_misses_documents_but_keeps_exact_scores(segment, truth, queries):
    found = {}
    for alpha in (1.0, 0.9, 0.6, 0.2, 1e-9, 5e-324):
        for terms, weights in queries:
            sums, factor = truth.sums(terms, weights)
            docs, scores = segment.search(terms, weights, 20, SearchSettings("blocks", alpha=alpha))
            assert len(docs) == 20
            assert scores.tolist() == (sums[docs] * factor).tolist()
            assert docs.tolist() == docs[np.lexsort((docs, -scores))].tolist()
            best = truth.ranking(terms, weights)
            if alpha == 1:
                assert docs.tolist() == best[0][:20].tolist()
            found[alpha] = found.get(alpha, 0) + int((scores >= best[1][19]).sum())
    counts = list(found.values())
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 20 * len(queries)
    assert counts[2] > 0.8 * counts[0]


def block_bounds(segment, matrix, terms, integers):
    """(n_blocks,) upper bounds of the blocks' scores, and the documents of each block."""
    (only,) = segment.segments
    places = only.places if len(only.places) else np.arange(len(matrix))
    by_place = np.argsort(places)
    dense = matrix[by_place].to_dense()[:, terms]
    bounds, docs = [], []
    for first, n in only.windows[:, [FIRST_DOC, N_DOCS]].tolist():
        for begin in range(first, first + n, BLOCK):
            end = min(begin + BLOCK, first + n)
            bounds.append(int((dense[begin:end].max(0).astype(np.int64) * integers).sum()))
            docs.append(by_place[begin:end])
    return np.array(bounds), docs


def test_guaranteed_blocks_are_scored_for_any_alpha(segment, clustered, truth, queries):
    for terms, weights in queries[:5]:
        sums, factor = truth.sums(terms, weights)
        known, integers, _ = truth.integers(terms, weights)
        bounds, docs = block_bounds(segment, clustered[0], known, integers)
        assert len(bounds) == segment.n_blocks
        highest = np.argsort(-bounds, kind="stable")
        for guaranteed in (1, 11, 20, 50, 100, 140, segment.n_blocks, 2**63, 10**30):
            inside = np.concatenate([docs[b] for b in highest[: min(guaranteed, len(bounds))]])
            for k in (1, 10):
                least = np.sort(sums[inside])[::-1][:k] * factor
                chosen = SearchSettings("blocks", alpha=1e-9, guaranteed=guaranteed)
                assert (segment.search(terms, weights, k, chosen)[1] >= least).all()
                if guaranteed >= segment.n_blocks:
                    assert segment.plan(terms, weights, k, chosen).blocks_scored == (bounds > 0).sum()


def test_the_best_block_is_scored_although_all_other_blocks_tie(tmp_path, order):
    # The last block must be scored, because its upper bound is the highest. All other blocks have equal bounds.
    dense = np.full((40 * BLOCK, 2), [100.0, 0.0])
    dense[-1] = 100
    matrix = SparseMatrix.from_dense(dense)
    segment = write(tmp_path, matrix, order=order)
    chosen = SearchSettings("blocks", alpha=1e-9, guaranteed=3)
    assert segment.search(*query([0, 1], 1.0), 1, chosen)[0].tolist() == [len(matrix) - 1]
    require_equal(segment, Truth(matrix), [0, 1], 1.0, ks=(1, 2, 500))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_with_beta_uses_only_the_heaviest_terms(segment, queries, algorithm):
    for terms, weights in queries[:10]:
        heaviest = np.argsort(-weights, kind="stable")
        for beta, size in ((1e-9, 1), (0.25, -(-len(terms) // 4)), (0.5, -(-len(terms) // 2)), (1, len(terms))):
            kept = np.sort(heaviest[:size])
            given_, cut = SearchSettings(algorithm, beta=beta), SearchSettings(algorithm)
            docs, scores = segment.search(terms, weights, 50, given_)
            wanted = segment.search(terms[kept], weights[kept], 50, cut)
            assert docs.tolist() == wanted[0].tolist()
            assert scores.tolist() == wanted[1].tolist()
            plan = segment.plan(terms, weights, 50, given_)
            assert plan.terms == size
            assert plan.postings == segment.plan(terms[kept], weights[kept], 50, cut).postings


def test_float_impacts_are_always_scanned_exhaustively(tmp_path, clustered, queries):
    matrix = clustered[0][:3000]
    segment = write(tmp_path, matrix, impacts="float32")
    for terms, weights in queries[:5]:
        wanted = segment.search(terms, weights, 50, SearchSettings("exhaustive"))
        for algorithm in ALGORITHMS:
            docs, scores = segment.search(terms, weights, 50, SearchSettings(algorithm))
            assert docs.tolist() == wanted[0].tolist()
            assert scores.tolist() == wanted[1].tolist()
            assert segment.plan(terms, weights, 50, SearchSettings(algorithm)).algorithm == "exhaustive"


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"algorithm": "wand"}, ["algorithm", "wand", *ALGORITHMS]),
        ({"algorithm": None}, ["algorithm", "None"]),
        ({"alpha": 0}, ["alpha", "above 0 and at most 1", "got 0"]),
        ({"alpha": 1.01}, ["alpha", "1.01"]),
        ({"alpha": float("nan")}, ["alpha", "nan"]),
        ({"alpha": "1"}, ["alpha", "'1'"]),
        ({"beta": -0.5}, ["beta", "-0.5"]),
        ({"beta": float("inf")}, ["beta", "inf"]),
        ({"guaranteed": -1}, ["guaranteed", "-1"]),
        ({"guaranteed": 2.5}, ["guaranteed", "2.5"]),
        ({"guaranteed": True}, ["guaranteed", "True"]),
        (
            {"algorithm": "fast", "alpha": 7, "beta": 0, "guaranteed": -3},
            ["algorithm", "fast", "alpha", "7", "beta", "0", "guaranteed", "-3"],
        ),
    ],
)
def test_all_invalid_settings_are_reported(given_, named):
    with pytest.raises(ValueError, match="must be") as raised:
        SearchSettings(**given_)
    for part in named:
        assert part in str(raised.value)


# --- with an index ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=ORDERS)
def index(request, clustered, tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "idx"
    return Index.build(path, clustered[0], order=request.param, memory=24 * 2 * 200_000)


def answers(hits):
    return [[hit.doc, hit.score] for hit in hits]


def test_unknown_settings_are_refused_with_a_list_of_valid_settings(index, clustered):
    for call in (index.search, index.search_batch, index.explain_plan):
        with pytest.raises(TypeError, match=r"alhpa.*algorithm, alpha, beta, guaranteed"):
            call(clustered[0][0], alhpa=0.5)
        with pytest.raises(ValueError, match=r"algorithm.*beta"):
            call(clustered[0][0], algorithm="wand", beta=2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_batches_and_threads_give_equal_results(index, truth, queries, algorithm):
    rows = SparseMatrix.from_rows(queries, 2030)
    alone = [answers(index.search(rows[i], 20, algorithm=algorithm)) for i in range(len(rows))]
    for (terms, weights), found in zip(queries, alone, strict=True):
        docs, scores = truth.ranking(terms, weights)
        assert found == [list(pair) for pair in zip(docs[:20].tolist(), scores[:20].tolist(), strict=True)]
    for threads in (1, 8):
        batch = index.search_batch(rows, 20, threads=threads, algorithm=algorithm)
        assert [answers(hits) for hits in batch] == alone
    with ThreadPoolExecutor(8) as pool:
        many = pool.map(lambda i: answers(index.search(rows[i % len(rows)], 20, algorithm=algorithm)), range(150))
        assert list(many) == alone * 5


def test_threads_may_use_different_algorithms_at_once(index, queries):
    rows = SparseMatrix.from_rows(queries, 2030)
    wanted = [answers(index.search(rows[i], 30, algorithm="exhaustive")) for i in range(len(rows))]
    jobs = [(i, ALGORITHMS[(i + turn) % len(ALGORITHMS)]) for turn in range(5) for i in range(len(rows))]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda job: answers(index.search(rows[job[0]], 30, algorithm=job[1])), jobs)
        assert list(found) == wanted * 5


_SEARCH = """
import json, sys
import lsr
from lsr.sparse import SparseMatrix
path, rows = json.loads(sys.stdin.read())
index, queries = lsr.Index.open(path), SparseMatrix.from_rows(rows, 2030)
found = {}
for algorithm in sys.argv[1:]:
    batch = index.search_batch(queries, 20, algorithm=algorithm)
    found[algorithm] = [[[hit.doc, hit.score] for hit in hits] for hits in batch]
print(json.dumps(found))
"""


def test_concurrent_processes_give_equal_results(index, queries):
    rows = [(terms.tolist(), weights.tolist()) for terms, weights in queries[:10]]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _SEARCH, *ALGORITHMS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    with ThreadPoolExecutor(3) as pool:
        printed = list(pool.map(lambda process: process.communicate(json.dumps([str(index.path), rows]))[0], running))
    assert [process.returncode for process in running] == [0, 0, 0]
    wanted = [answers(hits) for hits in index.search_batch(SparseMatrix.from_rows(rows, 2030), 20)]
    for found in map(json.loads, printed):
        assert found == dict.fromkeys(ALGORITHMS, wanted)


# --- real vectors -----------------------------------------------------------------------------------------------------


def test_results_are_exact_for_splade_vectors_of_nfcorpus(real_data, tmp_path, order):
    folder = real_data("nfcorpus-splade-v3")
    matrices, tokens = [], []
    for name in ("corpus", "queries"):
        vectors = read_vectors(folder / f"{name}.splade-v3.jsonl.gz")
        matrices.append(SparseMatrix.vstack([batch.vectors for batch in vectors]))
        tokens.append(list(vectors.vocabulary))
    matrix, encoded = matrices
    number = {token: term for term, token in enumerate(tokens[0])}
    truth = Truth(matrix)
    for memory in (DEFAULT_MEMORY, 24 * 2 * 60_000):
        (tmp_path / str(memory)).mkdir()
        segment = write(tmp_path / str(memory), matrix, memory=memory, order=order)
        for i in range(len(encoded)):
            terms, weights = encoded.row(i)
            known = {number[tokens[1][t]]: w for t, w in zip(terms, weights, strict=True) if tokens[1][t] in number}
            require_equal(segment, truth, sorted(known), [known[t] for t in sorted(known)], ks=(1, 10, 1000))
