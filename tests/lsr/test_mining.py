"""Hard negatives are mined from runs. The filters agree with hand-worked examples."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.errors import DataError
from lsr.train.mining import MiningReport, MiningSettings, mine_negatives

RUN = {"q": {"p": 10.0, "a": 12.0, "b": 9.9, "c": 9.5, "d": 9.0, "e": 1.0}}
QRELS = {"q": {"p": 1}}


def mine(runs, qrels=QRELS, teacher=None, **options):
    """The mined queries, and the report with counts."""
    report = MiningReport()
    mined = list(mine_negatives(runs, qrels, MiningSettings(**options), report, teacher))
    return mined, report


def negatives(*args, **options):
    return [one.negatives for one in mine(*args, **options)[0]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["d", "e"]),  # scores below 9.5
        ({"share": 1.0}, ["b", "c", "d", "e"]),
        ({"share": 0.5}, ["e"]),
        ({"share": None, "margin": 0.5}, ["d", "e"]),
        ({"share": None, "margin": 0.0}, ["b", "c", "d", "e"]),
        ({"share": 0.95, "margin": 2.0}, ["e"]),
        ({"share": None}, ["a", "b", "c", "d", "e"]),
        ({"share": None, "count": 2}, ["a", "b"]),
        ({"share": None, "skip": 1, "depth": 4}, ["b", "c"]),  # the positive is one of the first four documents
    ],
)
def test_filters_keep_the_expected_negatives(options, expected):
    assert negatives([RUN], **options) == [expected]


def test_the_report_counts_queries_and_negatives():
    qrels = {"q": {"p": 1}, "none": {"x": 0}, "nowhere": {"x": 1}, "unscored": {"x": 1}, "alone": {"x": 1}}
    run = RUN | {"unscored": {"y": 1.0}, "alone": {"x": 2.0, "y": 1.99}}
    mined, report = mine([run], qrels)
    assert [one.query_id for one in mined] == ["q"]
    assert report == MiningReport(
        queries=1,
        negatives=2,
        not_found=1,
        no_positive=1,
        positive_unscored=1,
        without_negatives=1,
        filtered=4,
        unscored=0,
    )


def test_scores_of_the_run_are_kept():
    (mined,), _ = mine([RUN])
    assert mined.scores.dtype == np.float32
    assert mined.scores.tolist() == [[10, 9, 1]]


def test_scores_of_a_teacher_replace_the_scores_of_the_run():
    teacher = {"q": {"p": 1.0, "a": 0.1, "b": 0.99, "c": 0.3}}
    (mined,), report = mine([RUN], teacher=teacher)
    assert mined.negatives == ["a", "c"]
    np.testing.assert_allclose(mined.scores, [[1, 0.1, 0.3]])
    assert (report.filtered, report.unscored) == (1, 2)


def test_several_runs_are_merged_by_rank():
    other = {"q": {"p": 3.0, "e": 2.0, "f": 1.0}}
    (mined,), _ = mine([RUN, other])
    assert mined.negatives == ["e", "f", "d"]  # best ranks: 2, 3 and 5
    expected = [[10, 1, np.nan, 9], [3, 2, 1, np.nan]]
    np.testing.assert_equal(mined.scores, np.array(expected, np.float32))


def test_a_candidate_that_scores_too_high_in_one_run_is_dropped():
    assert negatives([RUN, {"q": {"p": 3.0, "e": 2.99}}]) == [["d"]]


def test_a_run_without_the_positive_filters_no_negatives():
    assert negatives([RUN, {"q": {"e": 5.0, "z": 4.0}}]) == [["e", "d"]]


def test_the_positive_with_the_lowest_score_sets_the_limit():
    qrels = {"q": {"p": 1, "d": 2, "unseen": 1}}
    (mined,), _ = mine([RUN], qrels)
    assert mined.positives == ["p", "d", "unseen"]
    assert mined.negatives == ["e"]
    np.testing.assert_equal(mined.scores, np.array([[10, 9, np.nan, 1]], np.float32))


def test_documents_that_are_judged_irrelevant_are_not_filtered():
    qrels = {"q": {"p": 1, "a": 0, "b": -1}}
    assert negatives([RUN], qrels) == [["a", "b", "d", "e"]]


def test_a_share_needs_positive_scores():
    with pytest.raises(DataError, match=r"a positive of query 'q' scores -2, .* need a margin instead"):
        mine([{"q": {"p": -2.0, "a": -3.0}}])
    assert negatives([{"q": {"p": -2.0, "a": -3.0}}], share=None, margin=0.5) == [["a"]]


IDS = st.sampled_from("abcdefghij")
SCORES = st.dictionaries(IDS, st.sampled_from([0.5, 1.0, 1.9, 1.95, 2.0, 3.0]))


@settings(max_examples=60)
@given(
    runs=st.lists(st.dictionaries(st.sampled_from("qrs"), SCORES), min_size=1, max_size=3),
    qrels=st.dictionaries(st.sampled_from("qrs"), st.dictionaries(IDS, st.integers(-1, 2))),
    options=st.fixed_dictionaries({"count": st.integers(1, 5), "sample": st.booleans(), "skip": st.integers(0, 2)}),
)
def test_mined_queries_agree_with_runs_judgments_and_settings(runs, qrels, options):
    mined, report = mine(runs, qrels, **options)
    assert report.queries == len(mined)
    assert report.negatives == sum(len(one.negatives) for one in mined)
    for one in mined:
        judged = qrels[one.query_id]
        assert one.positives == [doc_id for doc_id, grade in judged.items() if grade > 0]
        assert 1 <= len(set(one.negatives)) == len(one.negatives) <= options["count"]
        assert not set(one.negatives) & set(one.positives)
        assert one.scores.shape == (len(runs), len(one.positives) + len(one.negatives))
        for run in runs:
            scores = run.get(one.query_id, {})
            limit = min((scores[p] for p in one.positives if p in scores), default=np.inf) * 0.95
            assert all(scores.get(n, 0) < limit for n in one.negatives if n not in judged)


def test_sampled_negatives_depend_only_on_seed_and_query():
    run = {query: {"p": 100.0} | {f"d{i}": float(i) for i in range(50)} for query in "qrs"}
    qrels = {query: {"p": 1} for query in "qrs"}

    def drawn(qrels, seed=0):
        return {one.query_id: one.negatives for one in mine([run], qrels, sample=True, count=5, seed=seed)[0]}

    together = drawn(qrels)
    assert together == drawn(qrels)
    assert drawn({"r": {"p": 1}}) == {"r": together["r"]}
    assert together["q"] != together["r"]
    assert together != drawn(qrels, seed=1)
    ranks = [int(doc_id[1:]) for doc_id in together["q"]]
    assert ranks == sorted(ranks, reverse=True)  # sampled negatives are still in the order of the run


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"skip": -1}, {"skip": 5, "depth": 5}, {"share": 0.0}, {"share": 1.5}]
)
def test_invalid_settings_are_refused(options):
    with pytest.raises(ValueError, match=r"count must be at least 1|share must be"):
        MiningSettings(**options)


# --- the command


@pytest.fixture
def collection(tmp_path):
    """A BEIR folder that also holds a run."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": name, "text": f"text of {name}"} for name in "pabcde"]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "which?"}\n{"_id": "r", "text": "other"}\n')
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp\t1\n")
    lines = [f"q Q0 {name} 1 {score} tag\n" for name, score in RUN["q"].items()]
    (tmp_path / "run.trec").write_text("".join(lines))
    return tmp_path


def test_training_reads_the_output_of_the_command(collection, lsr_command):
    out = collection / "hard.jsonl"
    ran = lsr_command("mine", collection / "run.trec", "--dataset", collection / "beir", "--out", out)
    assert ran.code == 0, ran.err
    assert ran.err == "1 queries, 2 negatives, 3 candidates too close to a positive\n"
    assert json.loads(out.read_text()) == {
        "query_id": "q",
        "query": "which?",
        "positive_ids": ["p"],
        "negative_ids": ["d", "e"],
        "scores": [10, 9, 1],
    }
    from lsr.train.data import open_training
    from lsr.train.sources import TrainingSource

    data = open_training(TrainingSource(str(out), documents=str(collection / "beir")), cache=collection / "cache")
    example = next(data.stream(0))
    assert (example.query, list(example.documents)) == ("which?", ["text of p", "text of d", "text of e"])
    assert example.scores.tolist() == [[10, 9, 1]]


def test_the_command_accepts_files_and_all_options(collection, lsr_command):
    (collection / "teacher.trec").write_text("q Q0 p 1 5 t\nq Q0 a 2 1 t\nq Q0 e 3 2 t\n")
    out = collection / "hard.jsonl"
    out.write_text("old")
    ran = lsr_command(
        *("mine", collection / "run.trec", "--out", out, "--overwrite", "--teacher", collection / "teacher.trec"),
        *("--qrels", collection / "beir" / "qrels" / "train.tsv", "--queries", collection / "beir"),
        *("--margin", 1, "--count", 1, "--depth", 5, "--sample", "--seed", 3),
    )
    assert ran.code == 0, ran.err
    assert json.loads(out.read_text())["negative_ids"] == ["a"]


def test_two_runs_give_two_lists_of_scores(collection, lsr_command):
    (collection / "other.trec").write_text("q Q0 p 1 5 t\nq Q0 e 2 1.25 t\n")
    out = collection / "hard.jsonl"
    runs = (collection / "run.trec", collection / "other.trec")
    assert lsr_command("mine", *runs, "--dataset", collection / "beir", "--out", out).code == 0
    assert json.loads(out.read_text())["scores"] == [[10, 1, 9], [5, 1.25, None]]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--dataset", "beir", "--out", "old.jsonl"], 1, "old.jsonl exists; --overwrite replaces it"),
        (["--dataset", "beir", "--out", "new.tsv"], 2, "the name must end in .jsonl"),
        (["--out", "new.jsonl"], 2, "give --dataset, or both --qrels and --queries"),
        (["--qrels", "beir/qrels/train.tsv", "--out", "new.jsonl"], 2, "give --dataset, or both"),
        (
            ["--dataset", "beir", "--out", "new.jsonl", "--no-filter", "--share", "0.5"],
            2,
            "--no-filter can't be combined",
        ),
        (["--dataset", "beir", "--out", "new.jsonl", "--skip", "5", "--depth", "2"], 2, "depth above skip"),
        (["--dataset", "beir", "--out", "new.jsonl", "--split", "dev"], 1, "there are: train"),
        (["--dataset", "beir", "--out", "new.jsonl", "--share", "0.01"], 1, "no query got a negative: 0 queries"),
        (["--dataset", "beir", "--queries", "odd.jsonl", "--out", "new.jsonl"], 1, "none of the judged queries"),
    ],
)
def test_the_command_refuses_bad_input(collection, lsr_command, monkeypatch, options, code, message):
    monkeypatch.chdir(collection)
    (collection / "old.jsonl").write_text("")
    (collection / "odd.jsonl").write_text('{"_id": "other", "text": "x"}\n')
    ran = lsr_command("mine", "run.trec", *options)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert not (collection / "new.jsonl").exists()


def test_queries_without_a_text_are_reported(collection, lsr_command):
    (collection / "beir" / "qrels" / "train.tsv").write_text("q\tp\t1\nlost\tp\t1\n")
    with (collection / "run.trec").open("a") as file:
        file.write("lost Q0 p 1 9 t\nlost Q0 a 2 1 t\n")
    ran = lsr_command(
        "mine", collection / "run.trec", "--dataset", collection / "beir", "--out", collection / "o.jsonl"
    )
    assert ran.code == 0
    assert ran.err.startswith("1 queries have no text in ")
