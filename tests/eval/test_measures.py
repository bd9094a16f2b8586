"""Measures are ir-measures' own; ties keep the order of the search; queries without results count as 0."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.eval.measures import depth_of, parse_measures, score_run

ir_measures = pytest.importorskip("ir_measures")

NAMES = "nDCG@10 nDCG@3 RR@10 R@5 P@5 AP AP@7 Success@1"


def random_judgments(rng, n_queries=20):
    qrels, run = {}, {}
    for q in range(n_queries):
        docs = rng.choice(100, 40, replace=False)
        qrels[f"q{q}"] = {f"d{d}": int(rng.integers(0, 4)) for d in docs[:20]}
        scores = rng.permutation(30) + rng.random()
        run[f"q{q}"] = {f"d{d}": float(s) for d, s in zip(docs[10:], scores, strict=True)}
    return qrels, run


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_ir_measures(seed):
    qrels, run = random_judgments(np.random.default_rng(seed))
    measures = parse_measures(NAMES)
    means, per_query = score_run(qrels, run, measures)
    expected = ir_measures.calc_aggregate(measures, qrels, run)
    assert means == pytest.approx({str(m): v for m, v in expected.items()})
    for value in ir_measures.iter_calc(measures, qrels, run):
        assert per_query[str(value.measure)][value.query_id] == pytest.approx(value.value)


def test_ndcg_has_linear_gain():
    means, _ = score_run({"q": {"a": 3, "b": 1}}, {"q": {"b": 2.0, "a": 1.0}}, parse_measures("nDCG@2"))
    discount = 1 / np.log2(3)
    assert means["nDCG@2"] == pytest.approx((1 + 3 * discount) / (3 + discount))


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_ties_keep_the_order_of_the_search(order):
    run = {"q": dict.fromkeys(order, 1.0)}
    for rank, doc in enumerate(order, start=1):
        assert score_run({"q": {doc: 1}}, run, parse_measures("RR@10"))[0]["RR@10"] == pytest.approx(1 / rank)


@pytest.mark.parametrize(
    "run", [{"a": {"d": 1.0}}, {"a": {"d": 1.0}, "b": {}}, {"a": {"d": 1.0}, "unjudged": {"d": 1.0}}]
)
def test_queries_without_results_count_as_zero(run):
    means, per_query = score_run({"a": {"d": 1}, "b": {"d": 1}}, run, parse_measures("RR@10 AP"))
    assert means == {"RR@10": 0.5, "AP": 0.5}
    assert per_query["AP"] == {"a": 1.0, "b": 0.0}


def test_names_are_split_at_spaces_and_commas():
    assert [str(m) for m in parse_measures(" nDCG@10, RR@10\nAP ")] == ["nDCG@10", "RR@10", "AP"]


def test_all_bad_names_are_listed_at_once():
    with pytest.raises(DataError, match=r"'nDGC@10', 'RR@x', 'nDCG@0', 'P@1.5', 'AP@-1'"):
        parse_measures("nDGC@10 RR@10 RR@x nDCG@0 P@1.5 AP@-1")
    with pytest.raises(DataError):
        parse_measures("")


def test_measures_that_need_another_package_are_refused():
    if ir_measures.DefaultPipeline.supports(ir_measures.parse_measure("alpha_nDCG@10")):
        pytest.skip("pyndeval is installed")
    with pytest.raises(DataError, match="'alpha_nDCG@10'"):
        parse_measures("AP alpha_nDCG@10")


def test_a_measure_that_cannot_be_computed_is_named(monkeypatch):
    def broken(*_):
        raise ValueError("ids must be numbers")

    monkeypatch.setattr(ir_measures, "iter_calc", broken)
    with pytest.raises(DataError, match=r"AP: ids must be numbers"):
        score_run({"q": {"d": 1}}, {}, parse_measures("AP"))


@pytest.mark.parametrize(
    ("names", "depth"), [("nDCG@10", 10), ("nDCG@10 R@500", 500), ("AP", 1000), ("AP nDCG@2000", 2000)]
)
def test_searches_are_as_deep_as_the_measures_look(names, depth):
    assert depth_of(parse_measures(names)) == depth
