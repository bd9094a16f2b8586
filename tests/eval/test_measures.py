"""Measures equal those of ir-measures; ties keep the order of the search; queries without results count as 0."""

from __future__ import annotations

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.eval.measures import depth_of, ordered_by_id, parse_measures, score_run, tied_queries
from lsr.io.runs import read_run, run_lines

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
def test_values_equal_those_of_ir_measures(seed):
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


def test_measure_names_are_split_at_spaces_and_commas():
    assert [str(m) for m in parse_measures(" nDCG@10, RR@10\nAP ")] == ["nDCG@10", "RR@10", "AP"]


def test_all_invalid_measure_names_are_reported_at_once():
    with pytest.raises(DataError, match=r"'nDGC@10', 'RR@x', 'nDCG@0', 'P@1.5', 'AP@-1'"):
        parse_measures("nDGC@10 RR@10 RR@x nDCG@0 P@1.5 AP@-1")
    with pytest.raises(DataError):
        parse_measures("")


def test_measures_that_need_another_package_are_refused():
    if ir_measures.DefaultPipeline.supports(ir_measures.parse_measure("alpha_nDCG@10")):
        pytest.skip("pyndeval is installed")
    with pytest.raises(DataError, match="'alpha_nDCG@10'"):
        parse_measures("AP alpha_nDCG@10")


def test_the_error_names_a_measure_that_cannot_be_computed(monkeypatch):
    def broken(*_):
        raise ValueError("ids must be numbers")

    monkeypatch.setattr(ir_measures, "iter_calc", broken)
    with pytest.raises(DataError, match=r"AP: ValueError: ids must be numbers"):
        score_run({"q": {"d": 1}}, {}, parse_measures("AP"))


@pytest.mark.parametrize(
    ("names", "depth"), [("nDCG@10", 10), ("nDCG@10 R@500", 500), ("AP", 1000), ("AP nDCG@2000", 2000)]
)
def test_the_search_depth_follows_the_measures(names, depth):
    assert depth_of(parse_measures(names)) == depth


# --- input for which the tools behind ir-measures crash or compute wrong values --------------------------------------


EVERY = (
    "NumQ NumRel NumRet NumRelRet AP nDCG@10 nDCG RR RR@5 Bpref infAP R@5 P@5 P(judged_only=True)@5 SetF SetP SetAP "
    "Rprec IPrec@0.5 Success@3 Judged@5 Compat(p=0.9)"
)


@pytest.mark.parametrize("seed", range(3))
def test_measures_are_finite_for_random_grades_and_runs(seed):
    rng = np.random.default_rng(seed)
    measures = parse_measures(EVERY)
    for _ in range(40):
        qrels, run = {}, {}
        for q in range(3):
            low, high = [(-3, 4), (-10_000, 1), (0, 3), (-4, 0), (0, 10_001)][rng.integers(5)]
            qrels[f"q{q}"] = {f"d{rng.integers(30)}": int(rng.integers(low, high)) for _ in range(rng.integers(1, 20))}
            run[f"q{q}"] = {f"d{rng.integers(40)}": float(rng.random()) for _ in range(rng.integers(0, 20))}
        means, per_query = score_run(qrels, run, measures)
        assert all(values.keys() == qrels.keys() for values in per_query.values())
        assert all(np.isfinite(value) for value in means.values())


def test_a_query_with_only_negative_grades_counts_as_zero():
    means, _ = score_run(
        {"q1": {"d1": 1}, "q2": {"d2": -2}}, {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}}, parse_measures("AP")
    )
    assert means == {"AP": 0.5}


@pytest.mark.parametrize("grade", [2**31, -(2**31) - 1, 10**30, 10_001])
def test_unsupported_grades_are_refused(grade):
    with pytest.raises(DataError, match=r"query 'q', document 'd': the grade .* is out of range"):
        score_run({"q": {"d": grade}}, {"q": {"d": 1.0}}, parse_measures("AP"))


def test_counts_are_summed_and_not_averaged():
    qrels = {"a": {"x": 1, "y": 1}, "b": {"x": 1}, "c": {"z": 2}}
    run = {"a": {"x": 2.0, "u": 1.0}, "b": {"y": 1.0}}
    means, per_query = score_run(qrels, run, parse_measures("NumQ NumRel NumRet NumRelRet P@1"))
    assert means == {"NumQ": 3, "NumRel": 4, "NumRet": 3, "NumRet(rel=1)": 1, "P@1": pytest.approx(1 / 3)}
    assert per_query["NumRel"] == {"a": 2, "b": 1, "c": 1}


def test_a_measure_that_is_undefined_for_a_query_has_no_value():
    qrels = {"found": {"x": 1, "y": 0}, "lost": {"x": 1}}
    run = {"found": {"y": 2.0, "x": 1.0, "z": 0.5}, "lost": {"y": 1.0}}
    means, per_query = score_run(qrels, run, parse_measures("Accuracy P@1"))
    assert per_query["Accuracy"] == {"found": 0.5}
    assert means["Accuracy"] == 0.5
    with pytest.raises(DataError, match="Accuracy is undefined for all queries"):
        score_run({"lost": {"x": 1}}, run, parse_measures("Accuracy"))


def test_ids_may_be_any_text():
    """gdeval.pl reads only the number at the end of an id, and would merge the topics 2-1 and 3-1."""
    qrels = {"2-1": {"d one": 1}, "3-1": {"d1": 4}, "what?": {"d1": 0}}
    run = {"2-1": {"d one": 1.0}, "3-1": {"d2": 2.0, "d1": 1.0}, "what?": {"d1": 1.0}}
    _, per_query = score_run(qrels, run, parse_measures("ERR@10"))
    assert per_query["ERR@10"] == {"2-1": pytest.approx(1 / 16), "3-1": pytest.approx(15 / 32, abs=1e-5), "what?": 0}
    with pytest.raises(DataError, match=r"query 'q', document 'd': ERR@10 supports grades up to 4, not 5"):
        score_run({"q": {"d": 5}}, run, parse_measures("AP ERR@10"))


def test_measure_names_may_have_parameters_in_brackets():
    measures = parse_measures("P(rel=2, judged_only=True)@10, nDCG(gains={1:3,2:7})@5 AP(rel=2)")
    assert [str(m) for m in measures] == ["P(rel=2,judged_only=True)@10", "nDCG(gains={1:3,2:7})@5", "AP(rel=2)"]


@pytest.mark.parametrize("name", ["AP(rel=0)", "AP(rel=-1)", "nDCG(gains={1:-5})@5", "nDCG(gains={1:1e9})@5", "P()@x"])
def test_parameters_that_crash_trec_eval_are_refused(name):
    with pytest.raises(DataError, match="unknown measures, or bad parameters"):
        parse_measures(name)


def test_a_division_by_zero_is_reported():
    with pytest.raises(DataError, match="can't compute Accuracy@2: ZeroDivisionError"):
        score_run({"q": {"a": 1, "b": 1}}, {"q": {"a": 2.0, "b": 1.0}}, parse_measures("Accuracy@2"))


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="query 'q' has a score that is not a finite number"):
        score_run({"q": {"a": 1}}, {"q": {"a": float("nan"), "b": 1.0}}, parse_measures("AP"))


# --- equal scores ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_trec_eval_computes_the_same_values_from_a_written_run(seed, tmp_path):
    """The scores may be equal, differ only in float64, exceed the range of float32, or be tiny."""
    rng = np.random.default_rng(seed)
    levels = [[1.0], [2.0, 1.0], [1 + 1e-9, 1.0, 1 - 1e-9], [0.0, -0.0, 1e-45, 5e-46], [1e300, 1e39, -1e300]][seed]
    qrels = {f"q{q}": {f"d{d}": int(rng.integers(3)) for d in range(0, 30, 2)} for q in range(10)}
    run = {q: {f"d{d}": float(rng.choice(levels)) for d in rng.permutation(30)} for q in qrels}
    measures = parse_measures("nDCG@10 AP RR")
    lines = [line for query, hits in run.items() for line in run_lines(query, hits.items(), "t")]
    (tmp_path / "run").write_text("\n".join(lines))
    written = read_run(tmp_path / "run")
    for hits in written.values():
        scores = np.clip(list(hits.values()), -3.4028235e38, 3.4028235e38).astype(np.float32)
        assert (np.diff(scores.astype(np.float64)) < 0).all()
    if seed < 4:  # trec_eval can't order the scores of seed 4, which exceed the range of float32
        direct = ir_measures.calc_aggregate(measures, qrels, written)
        assert {str(m): v for m, v in direct.items()} == pytest.approx(score_run(qrels, run, measures)[0])
    by_id = (
        {query: {doc: float(np.float32(s)) for doc, s in hits.items()} for query, hits in run.items()}
        if seed < 4
        else {}
    )
    if by_id:
        expected = ir_measures.calc_aggregate(measures, qrels, by_id)
        assert {str(m): v for m, v in expected.items()} == pytest.approx(
            score_run(qrels, ordered_by_id(run), measures)[0]
        )


def test_a_query_is_tied_if_it_has_equal_scores_within_the_depth():
    run = {"apart": {"a": 2.0, "b": 1.0}, "tied": {"a": 1.0, "b": 1.0}, "deep": {"a": 3.0, "b": 1.0, "c": 1.0}}
    assert tied_queries(run, 2) == ["tied"]
    assert tied_queries(run, 3) == ["tied", "deep"]
