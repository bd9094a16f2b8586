"""Search results equal those of brute force bit for bit, ties included, for all kinds of vectors."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.encode.passages import Passages
from lsr.index.index import Index
from lsr.index.search.searcher import Searcher, Segment, estimate_costs
from lsr.index.search.settings import Algorithm, Experience, SearchSettings
from lsr.index.segment.postings_writer import DEFAULT_MEMORY, SegmentWriter
from lsr.index.segment.quantize import Quantizer, query_numbers
from lsr.sparse import SparseMatrix

TIED = [1.0, 2.0, 3.0, 255.0]
UNEVEN = [0.1, 0.25, 1 / 3, 1.7, 2.9]
IMPACTS = ("uint8", "float32")


def random_matrix(rng, n_docs, n_terms, longest, weights=TIED):
    """A matrix with 0 to `longest` terms per row. Every fourth row repeats an earlier row."""
    rows = []
    for i in range(n_docs):
        if i and i % 4 == 0:
            rows.append(rows[rng.integers(i)])
            continue
        terms = rng.choice(n_terms, rng.integers(0, min(longest, n_terms) + 1), replace=False)
        rows.append((terms, rng.choice(weights, len(terms))))
    return SparseMatrix.from_rows(rows, n_terms)


def write_segment(folder, matrix, impacts, memory=DEFAULT_MEMORY, chunk=1000, order="given"):
    with closing(SegmentWriter(folder, folder, impacts, memory, order)) as writer:
        for start in range(0, len(matrix), chunk):
            writer.write(matrix[start : start + chunk])
        quantizer = writer.finish()
    return Searcher([Segment(folder, impacts, quantizer.scale if quantizer else 1.0)])


def brute_force(matrix, terms, weights, impacts):
    """(n_docs,) scores of all documents: integer sums for 8-bit impacts, SparseMatrix.dot for float32."""
    if impacts == "float32":
        return matrix.dot(SparseMatrix.from_rows([(terms, weights)], matrix.shape[1]))[:, 0]
    whole = bool((matrix.data == np.rint(matrix.data)).all())
    quantizer = Quantizer.of(float(matrix.data.max(initial=0)), whole)
    numbers, factor = query_numbers(weights)
    sums = np.zeros(len(matrix), np.int64)
    for term, weight in zip(terms, numbers.astype(np.int64), strict=True):
        at = matrix.indices == term
        sums[matrix.row_numbers()[at]] += weight * quantizer.impacts(matrix.data[at]).astype(np.int64)
    assert sums.max(initial=0) < (2**31 if numbers.dtype == np.int32 else 2**53)
    return sums * (quantizer.scale / factor)


def require_exact(segment, matrix, terms, weights, impacts, ks=(10,)):
    terms, weights = np.asarray(terms, np.uint32), np.asarray(weights, np.float32)
    scores = brute_force(matrix, terms, weights, impacts)
    found = np.flatnonzero(scores > 0)
    ranking = found[np.argsort(-scores[found], kind="stable")]
    for k in ks:
        for algorithm in (name for name in get_args(Algorithm) if name != "clusters"):
            docs, values = segment.search(terms, weights, k, SearchSettings(algorithm))
            assert docs.tolist() == ranking[:k].tolist(), algorithm
            assert values.tolist() == scores[ranking[:k]].tolist(), algorithm


@given(
    seed=st.integers(0, 2**32),
    n_docs=st.integers(1, 60),
    n_terms=st.integers(1, 40),
    longest=st.integers(0, 12),
    weights=st.sampled_from([TIED, UNEVEN, [255.0]]),
    impacts=st.sampled_from(IMPACTS),
    memory=st.sampled_from([24, 24 * 30, DEFAULT_MEMORY]),
    order=st.sampled_from(["given", "bisection"]),
)
@settings(max_examples=150)
def test_results_equal_brute_force_on_random_vectors(seed, n_docs, n_terms, longest, weights, impacts, memory, order):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, n_docs, n_terms, longest, weights)
    with tempfile.TemporaryDirectory() as folder:
        segment = write_segment(Path(folder), matrix, impacts, memory, order=order)
        for _ in range(4):
            terms = np.sort(rng.choice(n_terms, rng.integers(0, min(8, n_terms) + 1), replace=False))
            query = rng.choice([1.0, 0.5, 1.3], len(terms))
            require_exact(segment, matrix, terms, query, impacts, ks=(1, 3, n_docs, n_docs + 7))


@pytest.mark.parametrize("order", ["given", "bisection"])
@pytest.mark.parametrize("impacts", IMPACTS)
@pytest.mark.parametrize("memory", [24 * 2000, DEFAULT_MEMORY])
def test_results_for_every_k_are_a_prefix_of_the_same_ranking(tmp_path, impacts, memory, order):
    rng = np.random.default_rng(3)
    matrix = random_matrix(rng, 12_000, 30, 4, [1.0, 2.0])
    segment = write_segment(tmp_path, matrix, impacts, memory, order=order)
    require_exact(segment, matrix, range(0, 30, 2), [1.0] * 15, impacts, ks=(1, 2, 9, 10, 100, 999, 10_000))


@pytest.mark.parametrize("impacts", IMPACTS)
def test_results_are_exact_for_one_document(tmp_path, impacts):
    matrix = SparseMatrix.from_dicts([{3: 1.5}], 5)
    segment = write_segment(tmp_path, matrix, impacts)
    require_exact(segment, matrix, [3], [2.0], impacts, ks=(1, 1000))
    require_exact(segment, matrix, [1, 4], [2.0, 2.0], impacts)


@pytest.mark.parametrize("impacts", IMPACTS)
@pytest.mark.parametrize("rows", [[], [{}], [{}, {}, {}]])
def test_documents_without_terms_are_never_found(tmp_path, impacts, rows):
    segment = write_segment(tmp_path, SparseMatrix.from_dicts(rows, 5), impacts)
    for terms in ([], [0, 4]):
        docs, scores = segment.search(np.array(terms, np.uint32), np.ones(len(terms), np.float32), 10)
        assert len(docs) == len(scores) == 0


@pytest.mark.parametrize("impacts", IMPACTS)
def test_equal_documents_keep_their_order(tmp_path, impacts):
    matrix = SparseMatrix.from_dicts([{0: 255, 1: 255}] * 300, 2)
    segment = write_segment(tmp_path, matrix, impacts, memory=24 * 100)
    assert segment.n_windows > 1
    require_exact(segment, matrix, [0, 1], [0.1, 7.0], impacts, ks=(1, 64, 299, 300, 301))


@pytest.mark.parametrize("impacts", IMPACTS)
@pytest.mark.parametrize("n_terms", [300_000, 2**31])
def test_results_are_exact_with_large_vocabularies(tmp_path, impacts, n_terms):
    rng = np.random.default_rng(5)
    terms = np.unique(np.append(rng.integers(0, n_terms, 400), [0, n_terms - 1]))
    rows = [(np.sort(rng.choice(terms, 20, replace=False)), rng.choice(UNEVEN, 20)) for _ in range(500)]
    rows.append((np.array([0, n_terms - 1]), np.array([0.5, 0.5])))
    matrix = SparseMatrix.from_rows(rows, n_terms)
    segment = write_segment(tmp_path, matrix, impacts, memory=24 * 3000)
    require_exact(segment, matrix, [0, n_terms - 1], [1.0, 2.0], impacts)
    some = np.sort(rng.choice(terms, 30, replace=False))
    require_exact(segment, matrix, some, rng.choice(UNEVEN, 30), impacts, ks=(10, 600))


@pytest.mark.parametrize("impacts", IMPACTS)
def test_results_are_exact_over_several_windows(tmp_path, impacts):
    rng = np.random.default_rng(6)
    n_docs = 2 * 65_536 + 17
    indptr = np.arange(0, 2 * n_docs + 1, 2)
    first = rng.integers(0, 40, n_docs)
    indices = np.stack([first, first + rng.integers(1, 40, n_docs)], axis=1).reshape(-1)
    matrix = SparseMatrix(indptr, indices, rng.choice(TIED, 2 * n_docs), (n_docs, 80))
    segment = write_segment(tmp_path, matrix, impacts, chunk=50_000)
    assert segment.n_windows == 3
    require_exact(segment, matrix, [1, 5, 44], [1.0, 2.0, 0.3], impacts, ks=(10, 10_000))


@pytest.mark.parametrize("impacts", IMPACTS)
@pytest.mark.parametrize("weights", [1e-45, 1e-30, 1.0, 1e30, 3.4e38])
def test_results_are_exact_for_tiny_and_huge_weights(tmp_path, impacts, weights):
    matrix = SparseMatrix.from_dicts([{0: weights}, {1: weights}, {0: weights, 1: weights}], 2)
    segment = write_segment(tmp_path, matrix, impacts)
    require_exact(segment, matrix, [0, 1], [weights, weights], impacts, ks=(1, 3))
    require_exact(segment, matrix, [0, 1], [1e-45, 3.4e38], impacts, ks=(1, 3))


@pytest.mark.parametrize("impacts", IMPACTS)
def test_the_largest_sums_do_not_overflow(tmp_path, impacts):
    n_terms = 20_000
    full = dict.fromkeys(range(n_terms), 255.0)
    matrix = SparseMatrix.from_dicts([{0: 255.0}, full, dict.fromkeys(range(2000), 255.0)], n_terms)
    segment = write_segment(tmp_path, matrix, impacts)
    for n, weight in ((2000, 1.0), (2000, 3.4e38), (n_terms, 3.4e38), (n_terms, 1e-45)):
        require_exact(segment, matrix, np.arange(n), np.full(n, weight), impacts, ks=(3,))
    assert segment.search(np.arange(n_terms, dtype=np.uint32), np.ones(n_terms, np.float32), 1)[0] == [1]


@pytest.mark.parametrize("impacts", IMPACTS)
def test_threads_and_repetition_give_equal_results(tmp_path, impacts):
    rng = np.random.default_rng(7)
    n_docs = 60_000  # large enough for the searches of several threads to overlap
    indices = (rng.integers(0, 6, (n_docs, 10)) + np.arange(0, 60, 6)).reshape(-1)
    indptr = np.arange(0, len(indices) + 1, 10)
    matrix = SparseMatrix(indptr, indices, rng.choice(UNEVEN, len(indices)), (n_docs, 60))
    index = Index.build(tmp_path / "idx", matrix, impacts=impacts, memory=24 * 200_000)
    queries = random_matrix(rng, 64, 60, 20, UNEVEN)

    def answers(hits):
        return [(hit.id, hit.score) for hit in hits]

    alone = [answers(index.search(queries[i], 20)) for i in range(len(queries))]
    assert alone == [answers(index.search(queries[i], 20)) for i in range(len(queries))]
    for threads in (1, 3, 0):
        assert alone == [answers(hits) for hits in index.search_batch(queries, 20, threads=threads)]
    with ThreadPoolExecutor(8) as pool:
        many = pool.map(lambda i: answers(index.search(queries[i % len(queries)], 20)), range(256))
        assert list(many) == alone * 4


def test_terms_that_occur_in_no_document_are_ignored(tmp_path):
    matrix = SparseMatrix.from_dicts([{0: 0.7, 4: 0.2}, {4: 0.9}], 10)
    segment = write_segment(tmp_path, matrix, "uint8")
    known = segment.search(np.array([0, 4], np.uint32), np.array([1, 2], np.float32), 10)
    mixed = segment.search(np.array([0, 3, 4, 9], np.uint32), np.array([1, 500, 2, 40], np.float32), 10)
    assert known[0].tolist() == mixed[0].tolist()
    assert known[1].tolist() == mixed[1].tolist()


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_an_invalid_k_is_refused(tmp_path, k):
    index = Index.build(tmp_path / "idx", SparseMatrix.from_dicts([{0: 1}], 1))
    query = SparseMatrix.from_dicts([{0: 1}], 1)
    with pytest.raises(ValueError, match="k must be"):
        index.search(query, k)
    with pytest.raises(ValueError, match="k must be"):
        index.search_batch(query, k)


def test_a_query_outside_the_vocabulary_is_refused(tmp_path):
    index = Index.build(tmp_path / "idx", SparseMatrix.from_dicts([{0: 1}], 3))
    with pytest.raises(ValueError, match="term 7"):
        index.search(SparseMatrix.from_dicts([{7: 1}], 8))
    assert index.search(SparseMatrix.from_dicts([{0: 1}], 8))[0].doc == 0


@pytest.mark.parametrize("impacts", IMPACTS)
@pytest.mark.parametrize("k", [127, 128, 129, 300, 1000])
def test_results_are_exact_for_large_k_and_many_ties(tmp_path, k, impacts):
    # If k is at least 128, the search starts with an estimated threshold.
    rng = np.random.default_rng(k)
    matrix = random_matrix(rng, 9000, 12, 6)
    segment = write_segment(tmp_path, matrix, impacts)
    terms, weights = np.arange(0, 12, 2, dtype=np.uint32), np.array([1, 2, 1, 3, 1, 1], np.float32)
    scores = brute_force(matrix, terms, weights, impacts)
    order = np.lexsort((np.arange(len(scores)), -scores))[:k]
    docs, found = segment.search(terms, weights, k)
    np.testing.assert_array_equal(docs, order)
    np.testing.assert_array_equal(found, scores[order])


# --- skipping ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered():
    """20,000 shuffled documents in 200 clusters. Each has terms of its cluster, common terms and random terms."""
    rng = np.random.default_rng(7)
    cores = rng.choice(np.arange(20, 3000), (200, 15))
    rows = []
    for cluster in rng.integers(0, 200, 20_000):
        core = np.unique(rng.choice(cores[cluster], 8))
        rest = np.unique(np.concatenate((rng.integers(20, 3000, 5), np.flatnonzero(rng.random(20) < 0.4))))
        terms = np.concatenate((core, np.setdiff1d(rest, core)))
        rows.append(
            (terms, np.concatenate((rng.integers(100, 256, len(core)), rng.integers(1, 40, len(terms) - len(core)))))
        )
    return SparseMatrix.from_rows(rows, 3000), cores


def query_of(rng, cores):
    terms = np.unique(np.concatenate((rng.choice(cores[rng.integers(200)], 6), rng.integers(0, 3000, 4), np.arange(8))))
    return terms, np.where(terms < 20, 0.2, rng.choice([0.5, 1.0, 1.5], len(terms)))


@pytest.mark.parametrize("order", ["given", "bisection"])
@pytest.mark.parametrize("memory", [24 * 100_000, DEFAULT_MEMORY])
def test_skipping_loses_no_result(tmp_path, clustered, memory, order):
    matrix, cores = clustered
    segment = write_segment(tmp_path, matrix, "uint8", memory, order=order)
    rng = np.random.default_rng(1)
    skipped = 0
    for _ in range(25):
        terms, weights = query_of(rng, cores)
        require_exact(segment, matrix, terms, weights, "uint8", ks=(1, 10, 100, 1000))
        plan = segment.plan(terms.astype(np.uint32), weights.astype(np.float32), 10, SearchSettings("blocks"))
        skipped += plan.postings_scored < plan.postings / 2
    assert skipped > 20 or order == "given"


def test_results_are_exact_for_long_queries_with_a_large_vocabulary(tmp_path):
    rng = np.random.default_rng(5)
    matrix = random_matrix(rng, 3000, 300_000, 60, TIED)
    segment = write_segment(tmp_path, matrix, "uint8", order="bisection")
    used = np.unique(matrix.indices)
    terms = np.sort(rng.choice(used, 2000, replace=False))
    require_exact(segment, matrix, terms, rng.choice([1.0, 3.0], 2000), "uint8", ks=(1, 10, 1000))


def test_the_largest_query_sums_are_exact(tmp_path):
    matrix = SparseMatrix.from_dense(np.full((700, 40), 255.0))
    segment = write_segment(tmp_path, matrix, "uint8", order="bisection")
    require_exact(segment, matrix, range(40), [1e30] * 40, "uint8", ks=(1, 300, 700))
    require_exact(segment, matrix, range(40), np.linspace(1e-30, 1, 40), "uint8", ks=(10,))


def test_approximate_hits_have_exact_scores(tmp_path, clustered):
    matrix, cores = clustered
    segment = write_segment(tmp_path, matrix, "uint8", order="bisection")
    rng = np.random.default_rng(2)
    found = dict.fromkeys((1.0, 0.7, 0.3), 0)
    for _ in range(20):
        terms, weights = query_of(rng, cores)
        terms, weights = terms.astype(np.uint32), weights.astype(np.float32)
        exact = brute_force(matrix, terms, weights, "uint8")
        best = np.sort(exact)[::-1][9]
        for alpha in found:
            docs, scores = segment.search(terms, weights, 10, SearchSettings("blocks", alpha=alpha))
            assert scores.tolist() == exact[docs].tolist()
            found[alpha] += int((scores >= best).sum())
        every, _ = segment.search(terms, weights, 10, SearchSettings("blocks", alpha=0.01, guaranteed=segment.n_blocks))
        assert every.tolist() == segment.search(terms, weights, 10)[0].tolist()
    assert found[1.0] == 200
    assert found[1.0] >= found[0.7] >= found[0.3]
    assert found[0.7] > 150


def test_beta_keeps_only_the_heaviest_query_terms(tmp_path):
    matrix = SparseMatrix.from_dense(np.eye(4) * [1, 2, 3, 4])
    segment = write_segment(tmp_path, matrix, "uint8")
    terms, weights = np.arange(4, dtype=np.uint32), np.array([4, 3, 2, 1], np.float32)
    for beta, docs in ((1.0, [1, 2, 0, 3]), (0.5, [1, 0]), (0.01, [0])):
        assert segment.search(terms, weights, 10, SearchSettings(beta=beta))[0].tolist() == docs


def test_invalid_settings_are_refused(tmp_path):
    index = Index.build(tmp_path / "idx", SparseMatrix.from_dicts([{0: 1}], 1))
    query = SparseMatrix.from_dicts([{0: 1}], 1)
    with pytest.raises(ValueError, match=r"(?s)algorithm.*fast.*alpha.*7.*beta.*0.*guaranteed.*-1"):
        index.search(query, algorithm="fast", alpha=7, beta=0, guaranteed=-1)
    with pytest.raises(TypeError, match=r"alhpa.*algorithm, alpha, beta, guaranteed"):
        index.search_batch(query, alhpa=0.5)


def test_the_plan_counts_scored_blocks_and_postings(tmp_path, clustered):
    matrix, cores = clustered
    index = Index.build(tmp_path / "idx", matrix, order="bisection")
    terms, weights = query_of(np.random.default_rng(3), cores)
    query = SparseMatrix.from_rows([(terms, weights)], 3000)
    whole = index.explain_plan(query, 10, algorithm="exhaustive")
    some = index.explain_plan(query, 1, algorithm="blocks")
    assert (whole.algorithm, some.algorithm) == ("exhaustive", "blocks")
    assert whole.windows_scanned == whole.windows == 1
    assert some.postings_scored < whole.postings_scored
    assert 0 < some.blocks_scored < some.blocks == 157
    assert whole.documents == 20_000
    assert "blocks" in str(some)
    assert (
        whole.to_json()["postings"]
        == index.searcher.segments[0].df[np.isin(index.searcher.segments[0].terms, terms)].sum()
    )


def test_auto_uses_blocks_only_if_they_pay_off(tmp_path, clustered):
    matrix, _ = clustered
    query = matrix[0]
    ordered = Index.build(tmp_path / "a", matrix)
    given_ = Index.build(tmp_path / "b", matrix, order="given")
    floats = Index.build(tmp_path / "c", matrix, impacts="float32")
    assert ordered.explain_plan(query, 1).algorithm == "blocks"
    assert ordered.explain_plan(query, 1000).algorithm == "exhaustive"
    assert given_.explain_plan(query, 1).algorithm == "exhaustive"
    assert floats.explain_plan(query, 1, algorithm="blocks").algorithm == "exhaustive"


def test_auto_scans_exhaustively_if_no_block_can_be_skipped(tmp_path):
    # All documents have the same six terms, so no block can be skipped.
    rng = np.random.default_rng(0)
    matrix = SparseMatrix.from_dense(rng.integers(100, 256, (25_000, 6)))
    index = Index.build(tmp_path / "idx", matrix, order="bisection")
    query = SparseMatrix.from_dense(np.ones((1, 6)))
    ran = [index.explain_plan(query, 2) for _ in range(100)]
    assert ran[0].algorithm == "blocks"
    assert ran[8].algorithm == "exhaustive"
    assert "skip too little" in ran[8].reason
    assert sum(plan.algorithm == "blocks" for plan in ran[8:]) == 3  # blocks are tried again from time to time


def test_skipping_is_used_only_while_its_recorded_cost_is_low():
    experience = Experience()
    assert experience.pays(10)
    for cost in (30, 40, 900, 30):  # one outlier doesn't change the decision
        experience.learn(10, cost, 100)
        assert experience.pays(10)
    for _ in range(20):
        experience.learn(10, 130, 100)
    assert [experience.pays(10) for _ in range(128)].count(True) == 4
    assert experience.pays(100)  # costs are recorded per size of k
    for _ in range(20):
        experience.learn(10, 50, 100)
    assert experience.pays(10)
    for _ in range(20):  # long queries save more than short queries lose
        experience.learn(1000, 13, 10)
        experience.learn(1000, 50, 100)
    assert experience.pays(1000)


@pytest.mark.parametrize(
    ("counts", "n_docs", "n_windows", "measured"),
    [  # mean counts per query, and the time of a block search divided by the time of a scan
        ([98, 0, 95_231, 910_162, 313, 185_988], 1_000_000, 16, 0.43),  # SPLADE, k = 10
        ([416, 4, 485_262, 910_162, 969, 185_988], 1_000_000, 16, 1.23),  # k = 100
        ([515, 9, 640_204, 907_738, 1118, 186_155], 1_000_000, 25, 1.49),  # k = 100, ten segments
        ([140, 0, 66_319, 213_836, 469, 26_081], 176_408, 3, 1.40),  # real vectors, k = 10
        ([523, 0, 695_703, 7_961_537, 1460, 1_672_354], 8_841_823, 135, 0.33),  # k = 10
        ([934, 0, 74_557, 1_528_633, 3767, 481_466], 8_841_823, 135, 0.54),  # inference-free queries, k = 30
    ],
)
def test_the_estimated_cost_of_block_search_is_near_the_measured_cost(counts, n_docs, n_windows, measured):
    blocks, scan = estimate_costs(np.array(counts), n_docs, n_windows)
    assert blocks / scan == pytest.approx(measured, rel=0.2)


def test_the_order_of_storage_does_not_affect_results(tmp_path, clustered):
    matrix, _ = clustered
    ids = [f"d{i}" for i in range(len(matrix))]
    one = Index.build(tmp_path / "a", matrix, ids=ids, order="given")
    other = Index.build(tmp_path / "b", matrix, ids=ids, order="bisection")
    for i in (0, 77, 19_999):
        hits = [[(hit.id, hit.score) for hit in index.search(matrix[i], 50)] for index in (one, other)]
        assert hits[0] == hits[1]
        assert [str(index.explain(matrix[i], f"d{i}")) for index in (one, other)].count(
            str(one.explain(matrix[i], f"d{i}"))
        ) == 2
        terms = matrix.row(i)[0]
        assert other.searcher.impacts_of(i, terms).tolist() == matrix.row(i)[1].tolist()


def test_documents_are_ranked_by_the_mean_of_their_best_passages(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    docs = [{"_id": f"d{i}", "text": " ".join(rng.choice(words, rng.integers(1, 60)))} for i in range(80)]
    index = Index.build(tmp_path / "idx", docs, encoder="bm25", passages=Passages(8))
    searcher, documents = index.searcher, index.documents
    for n in (2, 3, 100):
        terms, weights = index.query_vectors(["w1 w2 w3"]).row(0)
        expected = []
        for doc in docs:
            scores = [float(searcher.impacts_of(p, terms) @ weights) for p in documents.passages(doc["_id"])]
            if any(scores):
                expected.append((-np.mean(sorted(scores, reverse=True)[:n]), doc["_id"]))
        for k in (1, 5, 80):
            hits = index.search("w1 w2 w3", k, best_passages=n)
            assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in sorted(expected)[:k]])
            assert len({hit.id for hit in hits}) == len(hits)
            means = {doc: -score for score, doc in expected}
            assert all(hit.score == pytest.approx(means[hit.id]) for hit in hits)
    with pytest.raises(ValueError, match="best_passages must be a whole number of at least 1"):
        index.search("w1", best_passages=0)
