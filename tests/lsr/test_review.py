"""A high-recall review chooses the documents that are read next, stops in time, and resumes."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.review import Review, ReviewSettings, chance_of_less, has_knee, logistic_regression, recall_bound
from lsr.sparse import SparseMatrix

N, TERMS = 1500, 80


def collection(seed, share=0.05):
    """Documents of random words; relevant documents have more of the first ten words."""
    rng = np.random.default_rng(seed)
    relevant = rng.random(N) < share
    chances = np.full((N, TERMS), 0.08)
    chances[relevant, :10] = 0.4
    dense = np.where(rng.random((N, TERMS)) < chances, rng.random((N, TERMS)) + 0.5, 0)
    dense[:, 79] += 0.1  # no document is empty
    return SparseMatrix.from_dense(dense), relevant


def reviewed(vectors, relevant, settings, first=()):
    review = Review([str(i) for i in range(N)], vectors, settings, first)
    while not review.stops():
        for doc in review.batch():
            review.judge(doc, relevant[doc])
    return review


def test_the_regression_is_at_its_minimum():
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((40, 12))
    dense = np.abs(dense) / np.linalg.norm(dense, axis=1, keepdims=True)
    labels = (dense[:, 0] > dense[:, 1]).astype(float)
    weights, bias = logistic_regression(SparseMatrix.from_dense(dense), labels)
    wrong = 1 / (1 + np.exp(-(dense @ weights + bias))) - labels
    assert np.abs(dense.T @ wrong + weights / 10).max() < 5e-3
    assert abs(wrong.sum()) < 1e-3


def test_the_hypergeometric_rule_equals_a_hand_worked_example():
    stats = pytest.importorskip("scipy.stats")
    labels = np.array([1, 1, 1, 0, 1, *[0] * 20])
    # After the first five of 100 documents, 95 were unread. 20 of these were then read, and none is relevant. Four
    # relevant documents are known, so recall is below 0.8 if at least two relevant documents are unread.
    expected = stats.hypergeom.cdf(0, 95, 2, 20)
    assert chance_of_less(labels, 100, 0.8, [5]) == pytest.approx(expected, rel=1e-9)
    # After the first three documents, 97 were unread. 22 of these were then read, and one is relevant. If two more are
    # still unread, three of the 97 are relevant.
    later = stats.hypergeom.cdf(1, 97, 3, 22)
    assert chance_of_less(labels, 100, 0.8, [3, 5]) == pytest.approx(min(expected, later), rel=1e-9)
    assert chance_of_less(labels, 25, 0.8, [5]) == pytest.approx(0)  # all documents are read


def test_the_recall_bound_equals_a_hand_worked_example():
    p = np.array([0.9, 0.9, 0.5, 0.5, 0.0])
    # Two relevant documents were found. The probabilities predict one more, with a variance of one half.
    assert recall_bound(p, np.array([1, 1]), [0, 1]) == pytest.approx(2 / 3 - 2 * 0.5**0.5 * 2 / 9)
    assert recall_bound(p[:2], np.array([1, 1]), [0, 1]) == 1


def test_a_knee_is_found_where_relevant_documents_run_out():
    flat = np.array([1] * 100 + [0] * 900)
    assert has_knee(flat)
    assert not has_knee(flat[:150])
    assert not has_knee(np.array([1, 0] * 300))
    assert not has_knee(np.zeros(5, np.int64))


@pytest.mark.parametrize("rule", ["hypergeometric", "quantile"])
def test_the_target_is_reached_before_half_of_the_documents_are_read(rule):
    recalls, shares = [], []
    for seed in range(10):
        vectors, relevant = collection(seed)
        found = reviewed([vectors], relevant, ReviewSettings(rule=rule, batch=40), first=np.flatnonzero(relevant)[:1])
        recalls.append(found.found / relevant.sum())
        shares.append(len(found.judged) / N)
    assert np.mean(np.array(recalls) >= 0.8) >= 0.8
    assert np.mean(shares) < 0.5


def test_a_committee_finds_at_least_as_much_as_each_member():
    costs = []
    for seed in range(4):
        vectors, relevant = collection(seed)
        halves = vectors.within(5), vectors.beyond(5)
        settings = ReviewSettings(rule="budget", budget=200, batch=40)
        first = np.flatnonzero(relevant)[:1]
        costs.append([reviewed(kinds, relevant, settings, first).found for kinds in ([halves[0]], [halves[1]], halves)])
    both, alone = np.mean(costs, axis=0)[2], np.mean(costs, axis=0)[:2]
    assert both >= alone.max()


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_a_committee_reads_less_on_judged_collections(real_data, benchmark_module, monkeypatch, tmp_path):
    """Until a recall of 0.8, a committee reads no more than its better member. The rule stops too early in at most a
    fifth of the reviews.
    """
    pytest.importorskip("ir_measures", reason="needs the extra eval")
    module = benchmark_module("review")
    monkeypatch.setattr(module, "RULES", ("hypergeometric",))  # knee would read nearly all documents
    rows = [row for name in module.SETS for row in module.collection(real_data(name), "lsr-mini", tmp_path)]
    read = {kind: float(np.mean([row["of"][kind]["target"]["read"] for row in rows])) for kind in rows[0]["of"]}
    stopped = [own["hypergeometric"]["recall"] for row in rows for own in row["of"].values()]
    print(read, stopped)
    assert len(rows) == 10
    assert read["committee"] <= min(read["BM25"], read["lsr-mini"])
    assert read["committee"] <= 0.9 * read["BM25"]
    assert np.mean(np.array(stopped) >= 0.8) >= 0.8


def test_a_saved_review_continues_like_an_uninterrupted_review(tmp_path):
    vectors, relevant = collection(1)
    settings = ReviewSettings(batch=30, rule="budget", budget=150)
    whole = reviewed([vectors], relevant, settings)
    review = Review([str(i) for i in range(N)], [vectors], settings)
    while not review.stops():
        for doc in review.batch()[:7]:  # the review is saved and reloaded in the middle of each batch
            review.judge(doc, relevant[doc])
        review.save(tmp_path / "state.json")
        review = Review.load(tmp_path / "state.json", review.ids, [vectors])
    assert list(review.judged.items()) == list(whole.judged.items())
    assert review.rounds == whole.rounds


def test_batches_begin_with_given_documents_and_follow_the_strategy():
    vectors, relevant = collection(2)
    ids = [str(i) for i in range(N)]
    review = Review(ids, [vectors], ReviewSettings(batch=5), first=[7, 3])
    assert review.batch()[:2] == [7, 3]
    assert review.batch() == review.batch()
    judged = {int(i): bool(relevant[i]) for i in [*np.flatnonzero(relevant)[:9], *np.flatnonzero(~relevant)[:20]]}
    near = Review(ids, [vectors], ReviewSettings(batch=5), judged=dict(judged))
    unsure = Review(ids, [vectors], ReviewSettings(batch=5, strategy="uncertainty"), judged=dict(judged))
    p = near.probabilities()
    assert p[near.batch()].min() >= np.sort(np.delete(p, list(judged)))[-5]
    assert np.abs(p[unsure.batch()] - 0.5).max() <= np.sort(np.abs(np.delete(p, list(judged)) - 0.5))[4]


def test_invalid_states_and_settings_are_refused(tmp_path):
    vectors, _ = collection(3)
    ids, path = [str(i) for i in range(N)], tmp_path / "state.json"
    review = Review(ids, [vectors])
    review.judge(3, True)
    review.save(path)
    state = json.loads(path.read_text())
    for change in (
        {"format": 9},
        {"judged": [["other", True]]},
        {"rounds": [5]},
        {"settings": {"target": 2}},
        {"judged": 3},
    ):
        path.write_text(json.dumps(state | change))
        with pytest.raises(DataError, match="the review can't be continued"):
            Review.load(path, ids, [vectors])
    with pytest.raises(ValueError, match="no document 1500"):
        review.judge(N, True)
    with pytest.raises(ValueError, match="for 2 documents"):
        Review(["a", "b"], [vectors])
    for wrong in ({"target": 1.0}, {"batch": 0}, {"rule": "never"}, {"strategy": "x"}, {"rule": "budget"}):
        with pytest.raises(ValueError, match="needs a"):
            ReviewSettings(**wrong)
