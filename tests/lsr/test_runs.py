"""Qrels and runs are read and written in the usual formats, and errors name every bad line."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lsr.errors import DataError, DataErrors
from lsr.io.runs import as_run, qrels_file, read_qrels, read_run, run_lines


def write(path, text):
    path.write_text(text)
    return path


JUDGED = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n",
        "q1\td1\t2\nq1\td2\t0\nq2\td1\t-1",
        "q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 -1\n",
        "q1\t0\td1\t2\nq1\t0\td2\t0\nq2\tQ0\td1\t-1\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td1\t2\r\n\r\nq1\td2\t0\r\nq2\td1\t-1\r\n",
        "q1 0 d1 2\nq1 0 d1 2\nq1 0 d2 0\nq2 0 d1 -1\n",
    ],
    ids=["beir", "no header", "trec", "trec with tabs", "windows", "same twice"],
)
def test_qrels_of_the_usual_formats_are_read(tmp_path, text):
    assert read_qrels(write(tmp_path / "qrels.tsv", text)) == JUDGED


def test_compressed_qrels_are_read(tmp_path):
    (tmp_path / "qrels.gz").write_bytes(gzip.compress(b"q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 -1\n"))
    assert read_qrels(tmp_path / "qrels.gz") == JUDGED


def test_ids_in_tab_separated_qrels_may_have_spaces(tmp_path):
    assert read_qrels(write(tmp_path / "q", "query one\tdoc one\t1\n")) == {"query one": {"doc one": 1}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", "expected query, document, grade"),
        ("q1 0 d1 2 tag", "expected query, document, grade"),
        ("q1\td1\tgood", "the grade 'good' is not a whole number"),
        ("q1\td1\t1.5", "the grade '1.5' is not a whole number"),
        ("q0\td1\t1", "query 'q0' and document 'd1' are judged twice, differently"),
    ],
)
def test_the_error_names_a_bad_line_of_qrels(tmp_path, line, message):
    path = write(tmp_path / "qrels.tsv", f"query-id\tcorpus-id\tscore\nq0\td1\t0\n{line}\n")
    with pytest.raises(DataError, match=f"qrels.tsv:3: {message}"):
        read_qrels(path)


def test_a_trec_run_is_read(tmp_path):
    path = write(tmp_path / "run", "q1 Q0 d1 1 3.5 tag\nq1\tQ0\td2\t2\t-1e-3\ttag\n\nq2 Q0 d1 1 7 tag\n")
    assert read_run(path) == {"q1": {"d1": 3.5, "d2": -0.001}, "q2": {"d1": 7.0}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 d2 1 3.5", "expected TREC's six columns"),
        ("q1 Q0 d2 1 3.5 my tag", "expected TREC's six columns"),
        ("q1 Q0 d2 1 high tag", "the score 'high' is not a number"),
        ("q1 Q0 d2 1 nan tag", "the score 'nan' is not a number"),
        ("q1 Q0 d2 1 inf tag", "the score 'inf' is not a number"),
        ("q1 Q0 d1 2 1.0 tag", "document 'd1' occurs twice for query 'q1'"),
    ],
)
def test_the_error_names_a_bad_line_of_a_run(tmp_path, line, message):
    with pytest.raises(DataError, match=f"run:2: {message}"):
        read_run(write(tmp_path / "run", f"q1 Q0 d1 1 3.5 tag\n{line}\n"))


def test_all_bad_lines_are_reported_at_once(tmp_path):
    path = write(tmp_path / "run", "q Q0 a 1 2 t\nq Q0 a 2 1 t\nq Q0 b\nq Q0 a 3 0 t\nq Q0 c 4 nan t\n")
    with pytest.raises(DataError, match=r"run: 4 bad lines:\n") as error:
        read_run(path)
    assert [f"run:{n}: " in str(error.value) for n in range(1, 6)] == [False, True, True, True, True]
    problems = DataErrors()
    assert read_run(path, problems) == {"q": {"a": 2.0}}
    assert problems.count == 4
    with pytest.raises(DataError, match=r"qrels: 2 bad lines:\n  .*qrels:1: .*\n  .*qrels:3: an id is empty"):
        read_qrels(write(tmp_path / "qrels", "q 0 d\nq 0 d 1\n\td\t1\n"))


def test_many_bad_lines_are_counted(tmp_path):
    with pytest.raises(DataError) as error:
        read_qrels(write(tmp_path / "qrels", "bad\n" * 1030))
    lines = str(error.value).splitlines()
    assert (len(lines), lines[0].endswith("1,030 bad lines:"), lines[-1].strip()) == (22, True, "and 1,010 more")


def test_data_errors_are_collected_and_raised_together():
    problems = DataErrors()
    problems.settle()
    with problems:
        raise DataError("one", "file:1")
    with pytest.raises(DataError, match=r"^file:1: one$"):
        problems.settle()
    with pytest.raises(KeyError), problems:
        raise KeyError("not a DataError")
    with problems:
        raise DataError("two")
    with pytest.raises(DataError, match=r"^2 problems:\n  file:1: one\n  two$"):
        problems.settle()


@pytest.mark.parametrize("read", [read_qrels, read_run])
def test_missing_files_and_bad_utf8_are_reported(tmp_path, read):
    (tmp_path / "latin").write_bytes(b"q1 0 caf\xe9 1\n")
    with pytest.raises(DataError, match="latin:1: not UTF-8: byte 0xe9 at column 9"):
        read(tmp_path / "latin")
    with pytest.raises(DataError, match=r"missing.*No such file"):
        read(tmp_path / "missing")


def test_written_run_lines_are_read_back(tmp_path):
    hits = [("d2", 12.3456789), ("d1", 1e-8), ("d3", 0.0)]
    lines = list(run_lines("q1", hits, "lsr"))
    assert lines[0] == "q1 Q0 d2 1 12.3456789 lsr"
    assert read_run(write(tmp_path / "run", "\n".join(lines))) == as_run({"q1": hits})


@pytest.mark.parametrize(("query", "doc"), [("q 1", "d"), ("q", "d\t1"), ("q", ""), ("q", " d"), ("", "d")])
def test_empty_ids_and_ids_with_whitespace_are_refused_in_run_lines(query, doc):
    with pytest.raises(DataError, match="has white space"):
        list(run_lines(query, [(doc, 1.0)], "lsr"))


# --- other formats of judgments and runs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.tsv", "query_id\tdoc_id\trelevance\titeration\nq1\td1\t2\t0\nq1\td2\t0\t0\nq2\td1\t-1\t0\n"),
        ("q.tsv", "qid\tcid\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n"),
        ("q.tsv", "score\tdocid\tquery-id\n2\td1\tq1\n0\td2\tq1\n-1\td1\tq2\n"),
        ("q.txt", "qid iter docno rel\nq1 0 d1 2\nq1 0 d2 0\nq2 0 d1 -1\n"),
        ("q.txt", "# judged by hand\n#by two people\n# q0 d1 2\nq1 0 d1 2\nq1 0 d2 0\nq2 0 d1 -1\n"),
        ("q.txt", "q1 0 d1 2.0\nq1 0 d2 0.0\nq2 0 d1 -1\n"),
        ("q.csv", "qid,docid,rel,remark\nq1,d1,2,yes\nq1,d2,0,\nq2,d1,-1,spam\n"),
        ("q.json", '{"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}'),
        ("q.json", '{\n "q1": {\n  "d1": 2,\n  "d2": 0\n },\n "q2": {\n  "d1": -1\n }\n}\n'),
        ("q.json", '[{"q_id": "q1", "doc_id": "d1", "rel": 2}, {"q_id": "q1", "doc_id": "d2", "rel": 0},'
                   '\n{"q_id": "q2", "doc_id": "d1", "rel": -1}]'),
        ("q.jsonl", '{"qid": "q1", "docid": "d1", "rel": 2}\n{"qid": "q1", "docid": "d2", "rel": 0}\n'
                    '{"qid": "q2", "docid": "d1", "rel": -1}\n'),
    ],
)  # fmt: skip
def test_qrels_of_other_formats_are_read(tmp_path, name, text):
    assert read_qrels(write(tmp_path / name, text)) == JUDGED


def test_ids_may_begin_with_a_hash(tmp_path):
    assert read_qrels(write(tmp_path / "q", "#q 0 #d 1\n")) == {"#q": {"#d": 1}}
    assert read_run(write(tmp_path / "r", "# by hand\n#q Q0 d 1 2.5 tag\n")) == {"#q": {"d": 2.5}}


@pytest.mark.parametrize("grade", [10**20, 2**31, -(2**40), "9" * 5000])
def test_unsupported_grades_are_refused(tmp_path, grade):
    with pytest.raises(DataError, match="qrels:2: the grade"):
        read_qrels(write(tmp_path / "qrels", f"q1 0 d1 1\nq1 0 d2 {grade}\n"))


@pytest.mark.parametrize("suffix", [".tsv.gz", ".TSV.GZ", ".txt.gz", ".csv", ".json"])
def test_qrels_of_a_folder_are_found_by_split(tmp_path, suffix):
    (tmp_path / "qrels").mkdir()
    text = {".csv": "qid,docid,rel\nq,d,1\n", ".json": '{"q": {"d": 1}}'}.get(suffix, "q 0 d 1\n").encode()
    packed = gzip.compress(text) if suffix.lower().endswith(".gz") else text
    (tmp_path / "qrels" / f"test{suffix}").write_bytes(packed)
    assert read_qrels(qrels_file(tmp_path, "test")) == {"q": {"d": 1}}
    with pytest.raises(DataError, match=r"there are: test$"):
        qrels_file(tmp_path, "dev")


RUN = {"q1": {"d1": 3.5, "d2": -0.001}, "q2": {"d1": 7.0}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.json", json.dumps(RUN)),
        ("r.json", json.dumps(RUN, indent=2)),
        ("r.jsonl", '{"query": "q1", "rank": 1, "_id": "d1", "score": 3.5}\n'
                    '{"query": "q1", "_id": "d2", "score": -0.001}\n'
                    '{"query": "q2", "_id": "d1", "score": 7}\n'),
        ("r.csv", "q_id,doc_id,score\nq1,d1,3.5\nq1,d2,-1e-3\nq2,d1,7\n"),
    ],
)  # fmt: skip
def test_runs_of_other_formats_are_read(tmp_path, name, text):
    assert read_run(write(tmp_path / name, text)) == RUN


def test_runs_in_parquet_are_read(tmp_path):
    rows = [(query, doc, score) for query, hits in RUN.items() for doc, score in hits.items()]
    columns = dict(zip(("q_id", "doc_id", "score"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    assert read_run(tmp_path / "r.parquet") == RUN
    pq.write_table(pa.table({"q_id": ["q"], "score": [1.0]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"r.parquet:1: expected the columns"):
        read_run(tmp_path / "r.parquet")


def test_the_error_names_bad_scores_in_json(tmp_path):
    path = write(tmp_path / "r.json", '{"q1": {"d1": "high"}, "q2": {"d1": null}}')
    with pytest.raises(DataError, match=r"query 'q1': the score 'high' .*\n.*query 'q2': the score None"):
        read_run(path)


def test_equal_scores_are_written_as_different_scores():
    lines = list(run_lines("q", [("b", 1.0), ("a", 1.0), ("c", 2.0), ("d", 0.5)], "t"))
    assert [line.split()[2] for line in lines] == ["c", "b", "a", "d"]
    scores = [float(line.split()[4]) for line in lines]
    assert (scores[0], scores[1], scores[3]) == (2, 1, 0.5)
    assert 0.9999999 < scores[2] < 1
    kept = list(run_lines("q", [("b", 1.0), ("a", 1.0)], "t", keep_ties=True))
    assert [line.split()[4] for line in kept] == ["1", "1"]


@pytest.mark.parametrize("tag", ["my run", "", "a\tb"])
def test_a_tag_must_be_one_word(tag):
    with pytest.raises(DataError, match=r"the tag .* has white space"):
        list(run_lines("q", [("d", 1.0)], tag))
