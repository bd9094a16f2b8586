"""The main commands work. Invalid input gives a one-line error and changes nothing."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import shutil
import sys

import numpy as np
import pytest

from lsr.errors import DataError
from lsr.index.index import Index
from lsr.io.runs import read_run

DOCUMENTS = [
    {"_id": "d1", "title": "Wings", "text": "flutter of swept wings", "year": 1955},
    {"_id": "d2", "title": "", "text": "heat transfer on a flat plate"},
    {"_id": "d3", "title": "Layers", "text": "boundary layer on a flat plate"},
]
QUERIES = [{"_id": "q1", "text": "wing flutter"}, {"_id": "q2", "text": "flat plate heat"}]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(jsonl(DOCUMENTS))
    (folder / "queries.jsonl").write_text(jsonl(QUERIES))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n")
    return folder


@pytest.fixture
def idx(tmp_path, beir, lsr_command):
    ran = lsr_command("index", beir, "--out", tmp_path / "idx", "--encoder", "bm25")
    assert (ran.code, ran.out) == (0, "")
    assert "3 documents" in ran.err
    return tmp_path / "idx"


@pytest.fixture
def index_words(lsr_command):
    """Returns a function that runs `lsr index ... --encoder bm25`, for tests that need no model."""
    return lambda *args: lsr_command("index", *args, "--encoder", "bm25")


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def require_refused(ran, *mentioned):
    """Check that a command exited with code 1 and printed one message that contains all of `mentioned`."""
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("lsr: ")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    for what in mentioned:
        assert str(what) in ran.err


# --- index and search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["v.parquet", "v"])
def test_the_commands_encode_index_search_explain_evaluate_and_verify_succeed(tmp_path, beir, lsr_command, form):
    pytest.importorskip("ir_measures")
    assert lsr_command("encode", beir, "--out", tmp_path / form, "--encoder", "bm25").code == 0
    assert lsr_command("index", tmp_path / form, "--out", tmp_path / "idx").code == 0
    ran = lsr_command("search", tmp_path / "idx", "wing flutter", "-k", 2)
    assert ran.lines() == [
        {"rank": 1, "_id": "d1", "score": pytest.approx(ran.lines()[0]["score"]), "title": "Wings",
         "text": "flutter of swept wings", "metadata": {"year": 1955}}
    ]  # fmt: skip
    explained = lsr_command("explain", tmp_path / "idx", "wing flutter", "d1").lines()[0]
    assert explained["score"] == pytest.approx(ran.lines()[0]["score"], rel=1e-6)
    assert {term["token"] for term in explained["terms"]} == {"wing", "flutter"}
    evaluated = lsr_command("evaluate", tmp_path / "idx", "--dataset", beir, "--json").lines()[0]
    assert (evaluated["queries"], evaluated["nDCG@10"], evaluated["RR@10"]) == (2, 1.0, 1.0)
    assert evaluated["search_ms"]["p50"] > 0
    verified = lsr_command("verify", tmp_path / "idx")
    assert verified.code == 0
    assert "all intact" in verified.out


def test_query_files_of_all_formats_give_the_same_run(tmp_path, beir, idx, lsr_command):
    runs = {}
    for name in ("q.jsonl", "q.jsonl.gz", "q.parquet"):
        ran = lsr_command("encode", beir, "--queries", "--encoder", idx, "--out", tmp_path / name)
        assert ran.code == 0, ran.err
        assert lsr_command("search", idx, "--queries", tmp_path / name, "--run", tmp_path / "out.trec").code == 0
        runs[name] = read_run(tmp_path / "out.trec")
    lsr_command("search", idx, "--queries", beir / "queries.jsonl", "--run", tmp_path / "texts.trec", "--tag", "mine")
    runs["texts"] = read_run(tmp_path / "texts.trec")
    assert set(runs["texts"]["q2"]) == {"d2", "d3"}
    assert all(run == runs["texts"] for run in runs.values())
    assert (tmp_path / "texts.trec").read_text().splitlines()[0].startswith("q1 Q0 d1 1 ")
    assert (tmp_path / "texts.trec").read_text().splitlines()[0].endswith(" mine")


def test_a_file_of_queries_prints_json_lines(beir, idx, lsr_command):
    ran = lsr_command("search", idx, "--queries", beir, "-k", 1)
    assert [(line["query"], line["rank"], line["_id"]) for line in ran.lines()] == [("q1", 1, "d1"), ("q2", 1, "d2")]


def test_a_filter_that_matches_nothing_is_reported(beir, idx, tmp_path, lsr_command):
    for query in (("flat",), ("--queries", beir), ("--queries", beir, "--run", tmp_path / "out.trec")):
        ran = lsr_command("search", idx, *query, "--where", "year=2001")
        assert (ran.code, ran.out, ran.err.count("documents matches --where")) == (0, "", 1)
        ran = lsr_command("search", idx, *query, "--where", "year=1955")
        assert (ran.code, ran.err.count("documents matches --where")) == (0, 0)


def test_results_are_tables_on_a_terminal(idx, lsr_command, monkeypatch):
    monkeypatch.setattr("lsr.console.is_terminal", lambda: True)
    table = lsr_command("search", idx, "flat plate heat").out
    assert table.splitlines()[0].split() == ["score", "id", "text", "because", "of"]
    assert "heat transfer" in table
    ran = lsr_command("search", idx, "flat", "--where", "year=2001")
    assert (ran.code, ran.out, "none of the 3 documents matches" in ran.err) == (0, "", True)
    assert "heat" in lsr_command("explain", idx, "heat", "d2").out


@pytest.mark.parametrize("terminal", [True, False])
def test_a_search_without_hits_says_why(idx, lsr_command, monkeypatch, terminal):
    monkeypatch.setattr("lsr.console.is_terminal", lambda: terminal)
    for args, told in {
        ("zebra",): "no document shares a term",
        ("flat", "--where", "year=1955"): "no document that matches --where shares a term",
        ("flat", "--offset", 7): "no document meets all conditions",
        (" ",): "the query is empty",
    }.items():
        ran = lsr_command("search", idx, *args)
        assert (ran.code, ran.out) == (0, "")
        assert ran.err.startswith(told)


def test_documents_are_read_from_standard_input(tmp_path, lsr_command, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(jsonl(DOCUMENTS).encode())))
    assert lsr_command("index", "-", "--out", tmp_path / "idx").code == 0
    assert lsr_command("search", tmp_path / "idx", "flutter").lines()[0]["_id"] == "d1"


def test_the_command_index_accepts_options_about_passages_texts_and_impacts(tmp_path, beir, lsr_command, index_words):
    ran = index_words(beir, "--out", tmp_path / "i", "--passages", 2, "--overlap", 1, "--impacts", "float32")
    assert ran.code == 0
    hit = lsr_command("search", tmp_path / "i", "heat").lines()[0]
    assert (hit["_id"], hit["passage"]) == ("d2", "d2#0")
    assert index_words(beir, "--out", tmp_path / "n", "--no-text").code == 0
    assert set(lsr_command("search", tmp_path / "n", "heat").lines()[0]) == {"rank", "_id", "score"}


# --- bad documents ----------------------------------------------------------------------------------------------------

GOOD = b'{"_id": "a", "text": "flat plate"}\n'
BAD_LINES = {
    "malformed": (b'{"_id": "b", "text": \n', "not JSON"),
    "no object": (b"[1, 2]\n", "expected a JSON object"),
    "no id": (b'{"text": "x"}\n', "no id"),
    "empty id": (b'{"_id": "", "text": "x"}\n', "not empty"),
    "no text": (b'{"_id": "b"}\n', "no text"),
    "doubled id": (GOOD, "'a' occurs twice"),
    "not UTF-8": (b'{"_id": "b", "text": "caf\xe9"}\n', "not UTF-8"),
    "half a character": (b'{"_id": "b", "text": "\\ud800"}\n', "surrogate"),
    "half a character of metadata": (b'{"_id": "b", "text": "x", "m": {"n": "\\udfff"}}\n', "unpaired surrogate"),
    "too deep": (b'{"_id": "b", "text": ' + b"[" * 100_000 + b"\n", "not JSON"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_reported_and_can_be_skipped(tmp_path, index_words, idx, kind):
    line, message = BAD_LINES[kind]
    source = tmp_path / "docs.jsonl"
    source.write_bytes(GOOD + line + b'{"_id": "c", "text": "flutter"}\n')
    before = files(idx)
    require_refused(index_words(source, "--out", idx, "--overwrite"), f"{source}:2: ", message, "--skip-bad")
    require_refused(index_words(source, "--out", tmp_path / "new"), f"{source}:2: ")
    assert files(idx) == before
    assert not (tmp_path / "new").exists()
    ran = index_words(source, "--out", tmp_path / "new", "--skip-bad")
    assert ran.code == 0
    assert "skipped 1 bad" in ran.err
    assert f"{source}:2: " in ran.err
    assert "2 documents" in ran.err


@pytest.mark.parametrize("kind", BAD_LINES)
@pytest.mark.parametrize("update", [[], ["--update"]])
def test_a_bad_line_of_added_documents_is_reported_and_can_be_skipped(tmp_path, lsr_command, idx, kind, update):
    if update and kind == "doubled id":
        return  # an update keeps the last document of an id
    line, message = BAD_LINES[kind]
    source = tmp_path / "docs.jsonl"
    source.write_bytes(GOOD + line + b'{"_id": "c", "text": "flutter"}\n')
    before = files(idx)
    require_refused(lsr_command("add", idx, source, *update), f"{source}:2: ", message, "--skip-bad")
    assert files(idx) == before
    ran = lsr_command("add", idx, source, "--skip-bad", *update)
    assert (ran.code, ran.err.count("left out")) == (0, 1)
    assert f"left out: {source}:2: " in ran.err
    assert "2 added; 5 documents" in ran.err


def test_all_bad_lines_can_be_listed(tmp_path, lsr_command, idx):
    source, listed = tmp_path / "docs.jsonl", tmp_path / "left-out.txt"
    source.write_bytes(GOOD + b"broken\n" * 12)
    for command in (("add", idx, source), ("index", source, "--out", tmp_path / "new", "--encoder", "bm25")):
        ran = lsr_command(*command, "--skip-bad", "--left-out", listed)
        assert "--left-out FILE lists all" in ran.err
        assert [line.split(": ")[0] for line in listed.read_text().splitlines()] == [
            f"{source}:{line}" for line in range(2, 14)
        ]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("yaer>1", "there is no column 'yaer'; there are year"),
        ("year=young", "year is a number, it can't be compared with 'young'"),
        ("year", "is not a condition such as"),
        ("{}", "would delete all documents"),
        ("{year", "not JSON"),
        ('{"not": ' * 5000 + "{}" + "}" * 5000, ""),
        ('{"not": ' * 200 + "{}" + "}" * 200, "more than 100 deep"),
        ('{"year": {"near": 5}}', "unknown operator 'near'"),
    ],
)
def test_an_invalid_filter_deletes_nothing(lsr_command, idx, where, message):
    before = files(idx)
    require_refused(lsr_command("delete", idx, "--where", where), "where: ", message)
    assert files(idx) == before
    if where != "{}":
        require_refused(lsr_command("search", idx, "flat", "--where", where), "where: ", message)


def test_a_truncated_gzip_file_is_refused(tmp_path, lsr_command):
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(GOOD * 1)[:-9])
    require_refused(lsr_command("index", tmp_path / "d.jsonl.gz", "--out", tmp_path / "idx"), tmp_path / "d.jsonl.gz")


def test_empty_and_huge_texts_are_accepted(tmp_path, lsr_command):
    huge = "flutter " * 100_000
    (tmp_path / "d.jsonl").write_text(jsonl([{"_id": "e", "text": ""}, {"_id": "h", "text": huge}]))
    ran = lsr_command("index", tmp_path / "d.jsonl", "--out", tmp_path / "idx", "--whole")
    assert ran.code == 0
    assert "1 of 2 documents has no text" in ran.err
    (hit,) = lsr_command("search", tmp_path / "idx", "flutter").lines()
    assert (hit["_id"], hit["text"]) == ("h", huge.strip() if hit["text"] != huge else huge)


# --- bad vectors and queries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-1", "1e39", '"x"', "null", "true"])
def test_invalid_weights_are_reported_with_their_line(tmp_path, lsr_command, idx, weight):
    source = tmp_path / "v.jsonl"
    source.write_text('{"_id": "a", "vector": {"x": 1}}\n{"_id": "b", "vector": {"x": ' + weight + "}}\n")
    require_refused(lsr_command("index", source, "--out", tmp_path / "new"), f"{source}:2: ", "'x'")
    require_refused(lsr_command("search", idx, "--queries", source), f"{source}:2: ")
    assert lsr_command("index", source, "--out", tmp_path / "new", "--skip-bad").code == 0


def test_a_term_outside_the_vocabulary_is_refused(tmp_path, lsr_command):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": ["a"], "terms": pa.array([[3, 9]], pa.list_(pa.uint32())), "weights": [[1.0, 1.0]]})
    pq.write_table(table.replace_schema_metadata({"lsr.fingerprint": '{"vocabulary_size": 5}'}), tmp_path / "v.parquet")
    require_refused(
        lsr_command("index", tmp_path / "v.parquet", "--out", tmp_path / "idx"), tmp_path / "v.parquet", "term 9"
    )


def test_duplicate_ids_of_vectors_are_refused(tmp_path, lsr_command):
    (tmp_path / "v.jsonl").write_text('{"_id": "a", "vector": {"x": 1}}\n' * 2)
    require_refused(lsr_command("index", tmp_path / "v.jsonl", "--out", tmp_path / "idx"), "'a' occurs twice")


def test_queries_of_another_encoder_are_refused(tmp_path, lsr_command, idx):
    (tmp_path / "other.jsonl").write_text(jsonl([{"_id": "o", "text": "other words"}]))
    lsr_command("encode", tmp_path / "other.jsonl", "--out", tmp_path / "o.parquet")
    ran = lsr_command("search", idx, "--queries", tmp_path / "o.parquet")
    require_refused(ran, idx, tmp_path / "o.parquet", "same encoder")


def test_unknown_tokens_of_queries_are_counted(tmp_path, lsr_command, idx):
    (tmp_path / "q.jsonl").write_text(jsonl([{"_id": "q", "vector": {"flutter": 1, "unheard": 2}}]))
    ran = lsr_command("search", idx, "--queries", tmp_path / "q.jsonl")
    assert (ran.code, [line["_id"] for line in ran.lines()]) == (0, ["d1"])
    assert "1 query weight left out: no document has the token" in ran.err


@pytest.mark.parametrize("name", ["absent.jsonl", "absent/folder", "file.xml"])
def test_the_error_names_a_missing_source(tmp_path, lsr_command, idx, name):
    (tmp_path / "file.xml").write_text("<x/>")
    require_refused(lsr_command("index", tmp_path / name, "--out", tmp_path / "new"), tmp_path / name)
    require_refused(lsr_command("search", idx, "--queries", tmp_path / name), tmp_path / name)
    assert not (tmp_path / "new").exists()


def test_the_error_names_a_missing_encoder(tmp_path, lsr_command, beir):
    name = tmp_path / "no" / "encoder"
    require_refused(lsr_command("index", beir, "--out", tmp_path / "new", "--encoder", name), name)
    assert not (tmp_path / "new").exists()


# --- bad indexes and outputs ------------------------------------------------------------------------------------------


def test_an_existing_output_is_kept(index_words, beir, idx):
    before = files(idx)
    require_refused(index_words(beir, "--out", idx), idx, "--overwrite")
    assert files(idx) == before
    assert index_words(beir, "--out", idx, "--overwrite").code == 0


def test_an_output_folder_that_cannot_be_made_is_refused(index_words, beir, idx, lsr_command):
    file = beir / "corpus.jsonl"
    require_refused(index_words(beir, "--out", file / "idx"), file / "idx", "can't be made", "name another folder")
    require_refused(index_words(beir, "--out", "/proc/nowhere/idx"), "can't be made", "name another folder")
    sharded = lsr_command("reshard", idx, "--shards", 2, "--out", "/proc/nowhere/shards")
    require_refused(sharded, "/proc/nowhere/shards", "name another folder")
    exported = lsr_command("export", idx, "--out", beir / "absent" / "v.parquet")
    require_refused(exported, f"v.parquet: there is no folder {beir / 'absent'}")


def test_an_empty_path_is_refused(index_words, beir, lsr_command, tmp_path):
    """An unset variable in a script gives an empty path."""
    require_refused(index_words("", "--out", tmp_path / "i"), "the source is an empty text")
    for ran in (index_words(beir, "--out", ""), lsr_command("search", "", "wing")):
        assert ran.code == 2
        assert "a path is needed, got an empty text" in ran.err


def test_a_source_without_documents_gives_a_note_and_an_empty_index(index_words, tmp_path, lsr_command, beir):
    (tmp_path / "empty.jsonl").write_text("")
    ran = index_words(tmp_path / "empty.jsonl", "--out", tmp_path / "i")
    assert ran.code == 0
    assert ran.err.startswith(f"{tmp_path / 'empty.jsonl'}: no documents")
    assert lsr_command("add", tmp_path / "i", beir).code == 0


def test_a_run_is_written_completely_or_not_at_all(tmp_path, lsr_command, idx):
    (tmp_path / "q.jsonl").write_text(jsonl([{"_id": "q1", "text": "flat"}, {"_id": "q 2", "text": "flat"}]))
    (tmp_path / "out.trec").write_text("old")
    ran = lsr_command("search", idx, "--queries", tmp_path / "q.jsonl", "--run", tmp_path / "out.trec")
    require_refused(ran, "'q 2'", "white space")
    assert (tmp_path / "out.trec").read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("*.unfinished"))
    ran = lsr_command("search", idx, "flat", "--run", tmp_path / "absent" / "out.trec")
    require_refused(ran, tmp_path / "absent")


@pytest.mark.parametrize("command", [["search", "flat"], ["explain", "flat", "d2"], ["verify"]])
def test_an_incomplete_or_damaged_index_is_refused(tmp_path, lsr_command, idx, command):
    verb, *rest = command
    require_refused(lsr_command(verb, tmp_path / "absent", *rest), tmp_path / "absent", "no such index")
    manifest = (idx / "manifest.json").read_bytes()
    (idx / "manifest.json").write_bytes(manifest.replace(b'"format": 4', b'"format": 5'))
    require_refused(lsr_command(verb, idx, *rest), idx, "format 5", "upgrade")
    (idx / "manifest.json").write_bytes(manifest[:-7])
    require_refused(lsr_command(verb, idx, *rest), idx / "manifest.json", "damaged")
    (idx / "manifest.json").write_bytes(manifest)
    postings = next(idx.rglob("postings.arrow"))
    whole = postings.read_bytes()
    postings.write_bytes(whole[:-1])
    require_refused(lsr_command(verb, idx, *rest), postings, "bytes")
    postings.write_bytes(whole[:50] + bytes([whole[50] ^ 4]) + whole[51:])
    require_refused(lsr_command(verb, idx, *rest), postings, "damaged")
    postings.unlink()
    require_refused(lsr_command(verb, idx, *rest), postings, "missing")


def test_damaged_segments_can_be_skipped(tmp_path, lsr_command, idx):
    (tmp_path / "new.jsonl").write_text(jsonl([{"_id": "new", "text": "flat wings"}]))
    assert lsr_command("add", idx, tmp_path / "new.jsonl").code == 0
    first = json.loads((idx / "manifest.json").read_bytes())["segments"][0]["name"]
    postings = idx / first / "postings.arrow"
    postings.write_bytes(postings.read_bytes()[:-1])
    require_refused(lsr_command("search", idx, "flat"), postings, "--skip-damaged")
    ran = lsr_command("search", idx, "flat", "--skip-damaged")
    assert (ran.code, [line["_id"] for line in ran.lines()]) == (0, ["new"])
    assert ran.err.splitlines()[0].startswith(f"left out: {postings}: ")
    assert ran.err.splitlines()[1:] == [f"{idx}: 1 document left"]
    (tmp_path / "q.jsonl").write_text(jsonl(QUERIES))
    ran = lsr_command("search", idx, "--queries", tmp_path / "q.jsonl", "--skip-damaged", "--where", "year>1")
    require_refused(ran._replace(err=ran.err.splitlines()[-1] + "\n"), "no column 'year'")
    ran = lsr_command("explain", idx, "flat", "new", "--skip-damaged")
    assert (ran.code, ran.lines()[0]["_id"], "left out" in ran.err) == (0, "new", True)
    assert lsr_command("explain", idx, "flat", "d2", "--skip-damaged").code == 1
    assert lsr_command("export", idx, "--out", tmp_path / "rescued.parquet").code == 1
    assert lsr_command("export", idx, "--out", tmp_path / "rescued.parquet", "--skip-damaged").code == 0
    assert lsr_command("index", tmp_path / "rescued.parquet", "--out", tmp_path / "again").code == 0
    assert [line["_id"] for line in lsr_command("search", tmp_path / "again", "flat").lines()] == ["new"]
    require_refused(lsr_command("delete", idx, "new"), postings)


def test_a_damaged_encoder_can_be_replaced_for_a_search(tmp_path, lsr_command, idx):
    (encoder,) = idx.glob("shared-*/encoder")
    shutil.copytree(encoder, tmp_path / "encoder")
    (encoder / "encoder.json").write_bytes(b"{}")
    ran = lsr_command("search", idx, "flat", "--skip-damaged")
    assert (ran.code, ran.err.count("left out")) == (1, 1)
    assert "the encoder that this index carries is damaged" in ran.err
    ran = lsr_command("search", idx, "flat", "--skip-damaged", "--encoder", tmp_path / "encoder")
    assert (ran.code, {line["_id"] for line in ran.lines()}) == (0, {"d2", "d3"})


def test_a_missing_document_cannot_be_explained(lsr_command, idx):
    require_refused(lsr_command("explain", idx, "flat", "d9"), idx, "'d9'")


@pytest.mark.parametrize(
    "line",
    [
        "", "search", "search IDX", "search IDX text --queries q", "search IDX x -k 0", "serch IDX x", "explain IDX x",
        "index SRC", "index SRC --out new --impacts int4", "index SRC --out new --overlap 3",
        "index SRC --out new --nope", "search IDX wing --lexical 2", "add IDX SRC --max-length 64",
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2(lsr_command, tmp_path, beir, idx, line):
    places = {"IDX": idx, "SRC": beir, "new": tmp_path / "new"}
    ran = lsr_command(*[places.get(arg, arg) for arg in line.split()])
    assert ran.code == 2
    assert ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "new").exists()


def test_a_search_accepts_settings_and_prints_its_plan(lsr_command, idx):
    ran = lsr_command("search", idx, "flat", "--algorithm", "blocks", "--plan")
    plan = ran.lines()[0]
    assert (plan["algorithm"], plan["reason"], plan["terms"]) == ("blocks", "asked for", 1)
    exact = lsr_command("search", idx, "flat wing", "--algorithm", "exhaustive").lines()
    assert lsr_command("search", idx, "flat wing", "--algorithm", "blocks", "--guaranteed", 3).lines() == exact
    assert lsr_command("search", idx, "flat wing", "--alpha", 0.9, "--beta", 1).lines() == exact


@pytest.mark.parametrize(
    ("option", "value"), [("--alpha", 0), ("--beta", 1.5), ("--guaranteed", -1), ("--algorithm", "x")]
)
def test_an_invalid_setting_exits_with_2(lsr_command, idx, option, value):
    ran = lsr_command("search", idx, "flat", option, value)
    assert ran.code == 2
    assert option.strip("-") in ran.err
    assert str(value) in ran.err


def test_a_plan_needs_a_single_text(tmp_path, lsr_command, idx):
    assert lsr_command("search", idx, "--queries", tmp_path / "q.jsonl", "--plan").code == 2


def test_warmup_caches_the_kernels(lsr_command):
    ran = lsr_command("warmup")
    assert ran.code == 0
    assert "kept in" in ran.out


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A small index whose ids and metadata have Python and numpy types: dates, times, integers."""
    documents = [
        {"_id": 1, "text": "cats purr", "day": datetime.date(2024, 5, 17), "author": "Smith, John"},
        {"_id": np.int64(2), "text": "dogs bark", "day": datetime.datetime(2024, 5, 18, 9), "author": "Smith"},
    ]
    return Index.build(tmp_path_factory.mktemp("pets") / "idx", documents, encoder="bm25")


def test_filters_accept_times_and_values_with_commas(pets, lsr_command):
    for where, expected in (
        ("day<2024-05-18", ["1"]),
        ('author="Smith, John"', ["1"]),
        ('author="Smith, John",Smith', ["1", "2"]),
        ("author=Smith, John", ["2"]),
    ):
        ran = lsr_command("search", pets.path, "cats dogs", "--where", where)
        assert sorted(hit["_id"] for hit in ran.lines()) == expected, where
    found = pets.search("cats dogs", where={"day": {">=": datetime.datetime(2024, 5, 18)}})
    assert [(hit.id, hit.metadata["day"]) for hit in found] == [("2", "2024-05-18T09:00:00")]


def test_the_message_about_a_filter_without_matches_names_the_unknown_value(pets, lsr_command, tmp_path):
    ran = lsr_command("search", pets.path, "cats", "--where", "author=nobody")
    told = "none of the 2 documents matches --where\nauthor has no value 'nobody'\n"
    assert (ran.code, ran.out, ran.err) == (0, "", told)
    ran = lsr_command("search", pets.path, "cats", "--where", "author=Smith")
    assert (ran.code, ran.out, ran.err.count("\n")) == (0, "", 1)
    (tmp_path / "q.tsv").write_text("qid\tquery\n1\tcats\n")
    ran = lsr_command("search", pets.path, "--queries", tmp_path / "q.tsv", "--where", "author=nobody")
    assert "none of the 2 documents matches --where" in ran.err


def test_integers_are_accepted_as_ids(pets, tmp_path):
    assert pets.explain("cats", 1).score == pets.explain("cats", "1").score > 0
    with pytest.raises(DataError, match="an id is a text or a whole number, got None"):
        pets.explain("cats", None)
    index = Index.build(tmp_path / "idx", [{"_id": i, "text": "t"} for i in (1, 2)], encoder="bm25")
    assert index.delete([np.int64(1), 3]).missing == ["3"]


@pytest.mark.parametrize("tag", ["my run", ""])
def test_a_run_tag_must_be_one_word(pets, lsr_command, tmp_path, tag):
    ran = lsr_command("search", pets.path, "cats", "--run", tmp_path / "r.trec", "--tag", tag)
    assert (ran.code, "one word" in ran.err) == (2, True)
    assert not (tmp_path / "r.trec").exists()


@pytest.mark.parametrize("shards", [(), ("--shards", 2)])
def test_options_change_the_settings_of_the_encoder_of_an_index(tmp_path, lsr_command, shards):
    texts = {"a": "physicians and patients", "b": "cats"}
    (tmp_path / "docs.jsonl").write_text(jsonl([{"_id": name, "text": text} for name, text in texts.items()]))
    (tmp_path / "queries.jsonl").write_text(jsonl([{"_id": "q", "text": "doctor"}]))
    docs, idx = tmp_path / "docs.jsonl", tmp_path / "idx"
    assert lsr_command("index", docs, "--out", idx, "--encoder", "lsr-tiny", *shards).code == 0
    assert lsr_command("encode", docs, "--out", tmp_path / "docs.parquet", "--encoder", idx).code == 0
    scores = []
    for name in (idx, "lsr-tiny"):
        ran = lsr_command("search", idx, "doctor", "--encoder", name, "--query-model", "splade-tiny")
        scores.append(json.loads(ran.out.splitlines()[0])["score"])
    assert scores[0] == scores[1]
    for i, given in enumerate((idx, tmp_path / "docs.parquet")):
        out = tmp_path / f"{i}.jsonl"
        how = ("--queries", "--encoder", given, "--query-model", "splade-tiny", "--out", out)
        assert lsr_command("encode", tmp_path / "queries.jsonl", *how).code == 0
        assert len(json.loads(out.read_text())["vector"]) > 1
