"""Checks of runs and datasets report all problems at once, with line numbers."""

from __future__ import annotations

import json

import pytest

from lsr.errors import DataError
from lsr.eval.checks import check_dataset, check_run
from lsr.eval.datasets import open_dataset
from lsr.eval.evaluate import evaluate_run
from lsr.index.index import Index
from lsr.io.corpus import open_corpus

pytest.importorskip("ir_measures")


def jsonl(path, ids):
    path.write_text("".join(json.dumps({"_id": i, "text": f"text {i}"}) + "\n" for i in ids))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    jsonl(tmp_path / "corpus.jsonl", ["d1", "d2", "d3"])
    jsonl(tmp_path / "queries.jsonl", ["q1", "q2"])
    judge(tmp_path, "q1 d1 1", "q1 d3 0", "q2 d2 2")
    return tmp_path


def judge(folder, *lines):
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(line.split()) for line in lines)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")


def write_run(folder, *lines):
    path = folder / "run.trec"
    path.write_text("".join(f"{q} Q0 {d} {n} {100 - n} t\n" for n, (q, d) in enumerate(map(str.split, lines), 1)))
    return path


def test_a_good_run_has_no_findings(folder):
    found = check_run(write_run(folder, "q1 d1", "q2 d2"), open_dataset(str(folder)), 1)
    assert (found.errors, found.warnings) == ((), ())
    assert found.run == {"q1": {"d1": 99.0}, "q2": {"d2": 98.0}}
    assert found.counts["queries_without_judgments"] == 0
    assert (found.counts["judged_queries"], found.counts["judged_documents_missing"]) == (2, 0)
    found.raise_errors()


def test_all_problems_are_reported_at_once(folder):
    judge(folder, "q1 d1 1", "q2 gone 2", "q2 lost 0", "barren d1 0")
    path = write_run(folder, "q1 d1", "q1 d1", "stray d1", "q1 d1")
    path.write_text(path.read_text() + "q1 Q0 d2\n")
    found = check_run(str(path), open_dataset(str(folder)), measures="nDGC@10 R@1000")
    errors, warnings = "\n".join(found.errors), "\n".join(found.warnings)
    assert len(found.errors) == 4
    for text in ("'nDGC@10'", "run.trec:2: document 'd1' occurs twice", "run.trec:4: document", "run.trec:5: expected"):
        assert text in errors
    assert "2 judged documents (gone, lost), 1 of them relevant, are not among the documents" in warnings
    assert "test.tsv:3, " in warnings
    assert "1 judged query (barren) has no relevant document" in warnings
    assert "1 judged query (barren) is not among the queries" in warnings
    assert "test.tsv:5" in warnings
    assert "1 query (stray) is not judged" in warnings
    assert "run.trec:3" in warnings
    assert "2 judged queries (q2, barren) have no results; such a query counts as 0" in warnings
    with pytest.raises(DataError, match=r"4 problems:"):
        found.raise_errors()


def test_problems_are_also_counted(folder):
    judge(folder, "q1 d1 1", "q2 gone 2", "absent d2 1", "barren d1 0")
    found = check_run({"q1": {"d1": 1.0}, "stray": {"d1": 1.0}, "q2": {}}, open_dataset(str(folder)), 100)
    assert found.counts == {
        "judged_queries": 4,
        "judged_queries_without_relevant": 1,
        "queries_without_judgments": 0,
        "judged_queries_without_text": 2,
        "judged_documents": 3,
        "judged_documents_missing": 1,
        "run_queries": 3,
        "run_depth": 1,
        "run_queries_not_judged": 1,
        "judged_queries_without_results": 3,
        "own_documents": 0,
        "tied_queries": 0,
    }
    assert len(found.warnings) == 6
    assert found.errors == ()


@pytest.mark.parametrize(("k", "told"), [(2, False), (3, True)])
def test_a_measure_deeper_than_the_run_gives_a_warning(folder, k, told):
    run = write_run(folder, "q1 d1", "q1 d2", "q2 d2")
    found = check_run(run, open_dataset(str(folder)), measures=f"R@{k}")
    assert [("look at 3 hits, but no query has more than 2" in w) for w in found.warnings] == [True] * told


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["x d1", "y d2"],
            r"run.trec: none of its queries is judged in .*test.tsv; its queries are x, y; the judged .* are q1, q2",
        ),
        ([], r"run.trec: it has no hits"),
    ],
)
def test_a_run_of_another_collection_is_an_error(folder, lines, message):
    with pytest.raises(DataError, match=message):
        check_run(write_run(folder, *lines), open_dataset(str(folder))).raise_errors()


def test_a_run_whose_document_ids_are_all_unjudged_is_reported(folder):
    found = check_run(write_run(folder, "q1 D1", "q2 D2"), open_dataset(str(folder)))
    assert "none of its hits is judged" in found.warnings[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q1 d1 0", "q2 d2 -1"], "no query has a relevant document"),
        (
            ["x1 d1 1", "x2 d2 1"],
            "none of the queries is judged; .* The judged queries are x1, x2; the queries are q1, q2",
        ),
        (["q1 x1 1", "q2 x2 1"], "none of the judged documents exists; .* The judged documents are x1, x2"),
    ],
)
def test_judgments_without_relevant_documents_are_errors(folder, lines, message):
    judge(folder, *lines)
    with pytest.raises(DataError, match=message):
        check_dataset(open_dataset(str(folder))).raise_errors()


def test_bad_queries_are_errors_and_bad_documents_are_skipped(folder):
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "a"}\nno json\n{"_id": "q1", "text": "b"}\n')
    (folder / "corpus.jsonl").write_text('no json\n{"_id": "d2", "text": "a"}\n{"_id": "d1", "text": ""}\n')
    found = check_dataset(open_dataset(str(folder)))
    assert len(found.errors) == 2
    assert "queries.jsonl:2: not JSON" in found.errors[0]
    assert "queries.jsonl:3: the id 'q1' occurs twice" in found.errors[1]
    assert found.counts["judged_documents_missing"] == 1


def test_missing_parts_are_not_checked(folder):
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).unlink()
    found = check_dataset(open_dataset(str(folder)))
    assert [w.split(":")[0] for w in found.warnings] == [
        "the queries were not checked",
        "the documents were not checked",
    ]
    assert "judged_documents" not in found.counts
    given = check_dataset(open_dataset(str(folder)), document_ids=iter(["d1", "d2", "d3"]), query_ids=["q1", "q2"])
    assert given.warnings == ()


def test_unjudged_queries_are_reported_with_their_lines(folder):
    jsonl(folder / "queries.jsonl", ["q1", "stray", "q2", "other"])
    found = check_dataset(open_dataset(str(folder)))
    (told,) = found.warnings
    assert "2 queries (stray, other) have no judgment; left out; " in told
    assert "queries.jsonl:2, " in told
    assert told.endswith("queries.jsonl:4")
    (told,) = check_dataset(open_dataset(str(folder)), query_ids=["q1", "q2", "third"]).warnings
    assert told.endswith("1 query (third) has no judgment; left out")


@pytest.mark.parametrize(
    ("kind", "message"), [("queries", "there are no queries"), ("corpus", "none of the judged documents")]
)
def test_an_empty_file_is_an_error(folder, kind, message):
    (folder / f"{kind}.jsonl").write_text("")
    with pytest.raises(DataError, match=message):
        check_dataset(open_dataset(str(folder))).raise_errors()


def test_documents_may_be_vectors(folder):
    vectors = folder / "vectors.jsonl"
    vectors.write_text("".join(json.dumps({"_id": d, "vector": {"a": 1}}) + "\n" for d in ("d1", "d2")))
    found = check_dataset(open_dataset(str(folder), documents=str(vectors)))
    assert (found.errors, found.counts["judged_documents_missing"]) == ((), 1)


def test_a_querys_own_document_is_counted_and_left_out(folder):
    dataset = open_dataset(str(folder), drop_own=True)
    run = {"q1": {"q1": 2.0, "d1": 1.0}, "q2": {"d2": 1.0}}
    found = check_run(run, dataset)
    assert found.counts["own_documents"] == 1
    assert "1 hit left out: the query's own document" in found.warnings[0]
    result = evaluate_run(run, dataset, "RR@10")
    assert (result.measures["RR@10"], result.dropped, result.run["q1"]) == (1.0, 1, {"d1": 1.0})


# --- lsr evaluate -------------------------------------------------------------------------------------------------


def test_the_command_evaluates_a_run(folder, lsr_command):
    path = write_run(folder, "q1 d2", "q1 d1", "stray d1")
    values = folder / "values.jsonl"
    ran = lsr_command("evaluate", "--run", path, "--dataset", folder, "--measures", "RR@10", "--per-query", values)
    assert ran.lines() == [
        {"dataset": str(folder), "split": "test", "run": str(path), "queries": 2, "RR@10": 0.25, "missing_queries": 1}
    ]
    assert "note: " in ran.err
    assert "1 query (stray) is not judged" in ran.err
    per_query = [json.loads(line) for line in values.read_text().splitlines()]
    assert per_query == [{"query_id": "q1", "RR@10": 0.5}, {"query_id": "q2", "RR@10": 0.0}]


def test_the_command_reports_all_problems(folder, lsr_command):
    (folder / "qrels" / "test.tsv").write_text("q1\td1\tgood\nq1\td2\n")
    path = write_run(folder, "q1 d1", "q1 d1")
    ran = lsr_command("evaluate", "--run", path, "--dataset", folder, "--measures", "nDGC@10")
    assert ran.code == 1
    for text in ("test.tsv:1: ", "test.tsv:2: ", "run.trec:2: ", "'nDGC@10'"):
        assert text in ran.err
    judge(folder, "q1 d1 1")
    ran = lsr_command("evaluate", "--run", path, "--dataset", folder, "--measures", "nDGC@10")
    assert all(text in ran.err for text in ("run.trec:2: ", "'nDGC@10'"))


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["idx", "--run", "r"],
        ["--run", "r", "--queries", "q"],
        ["--run", "r", "--encoder", "bm25"],
        ["--run", "r", "--top-k", "3"],
        ["--run", "r", "--per-query", "no/such/folder/values.jsonl"],
    ],
)
def test_invalid_combinations_of_options_are_refused(folder, lsr_command, args):
    ran = lsr_command("evaluate", *args, "--dataset", folder)
    assert (ran.code, ran.out) == (2, "")


def test_a_file_of_judgments_is_enough_to_evaluate(folder, lsr_command):
    path, qrels = write_run(folder, "q1 d2", "q1 d1"), folder / "trec-qrels.txt"
    qrels.write_text("q1 0 d1 1\nq2 0 d2 2\n")
    ran = lsr_command("evaluate", "--run", path, "--dataset", qrels, "--measures", "RR@2")
    assert (ran.lines()[0]["RR@2"], ran.lines()[0]["missing_queries"]) == (0.25, 1)
    assert ran.err.splitlines() == [f"note: {path}: 1 judged query (q2) has no results; such a query counts as 0"]
    Index.build(folder / "idx", open_corpus(folder), encoder="bm25")
    ran = lsr_command("evaluate", folder / "idx", "--dataset", qrels)
    assert (ran.code, "--queries" in ran.err) == (2, True)
    queries = folder / "queries.jsonl"
    ran = lsr_command("evaluate", folder / "idx", "--dataset", qrels, "--queries", queries, "--measures", "R@3")
    assert ran.lines()[0]["R@3"] == 1


def test_equal_scores_give_a_warning(folder):
    run = {"q1": {"d1": 1.0, "d2": 1.0}, "q2": {"d1": 2.0, "d2": 1.0, "d3": 1.0}, "stray": {"d1": 1.0, "d2": 1.0}}
    found = check_run(run, open_dataset(str(folder)), 1)
    assert found.counts["tied_queries"] == 1
    assert any("1 query (q1) has equal scores among their first 2 hits" in text for text in found.warnings)


def test_an_unjudged_query_is_reported_once(folder):
    jsonl(folder / "queries.jsonl", ["q1", "q2", "extra"])
    dataset = open_dataset(str(folder))
    run = write_run(folder, "q1 d1", "q2 d2", "extra d1", "stray d1")
    found = check_run(run, dataset)
    assert [text.count("extra") for text in found.warnings if "extra" in text] == [1]
    assert any("1 query (stray) is not judged" in text for text in found.warnings)
    assert found.counts["run_queries_not_judged"] == 2
    again = check_run(run, dataset, alone=True, told=found.unjudged)
    assert not any("stray" in text or "extra" in text for text in again.warnings)
