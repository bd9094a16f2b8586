"""Training data is read from all kinds of sources, joined by id, and streamed from any position."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.errors import DataError
from lsr.io.corpus import documents_corpus
from lsr.train import text_store as texts_module
from lsr.train.data import open_training
from lsr.train.sources import TrainingSource
from lsr.train.text_store import Looked, TextStore, open_texts, write_texts

DOCUMENTS = [{"_id": f"d{i}", "text": f"text {i}"} for i in range(6)] + [{"_id": "t", "title": "One", "text": "two"}]
QUERIES = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4)]


def jsonl(rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def put(tmp_path):
    """Returns a function that writes rows, or a text, to a file and returns the file's path as a string."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            content = (rows if isinstance(rows, str) else jsonl(rows)).encode()
            path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    return write


@pytest.fixture
def documents(put):
    return put("docs.jsonl", DOCUMENTS)


@pytest.fixture
def load(tmp_path):
    """Returns a function that lists all examples of a source, in the order of its file or folder."""

    def open_all(source, **options):
        data = open_training(TrainingSource(source, **options), cache=tmp_path / "cache")
        (only,) = data._sources
        return [only[i] for i in range(len(data))]

    return open_all


@pytest.fixture
def refusal(load):
    """Returns a function that checks that a source is refused, and returns the message."""

    def message(source, **options):
        with pytest.raises(DataError) as error:
            load(source, **options)
        return str(error.value)

    return message


def plain(example):
    scores = None if example.scores is None else example.scores.tolist()
    return example.query, list(example.documents), example.n_positives, scores


# --- files

TRIPLES = [{"query": f"q{i}", "positive": f"good {i}", "negative": f"bad {i}"} for i in range(3)]
LISTS = [
    {"query": "a", "positives": ["p", "p2"], "negatives": ["n"], "scores": [3, 2.5, 1]},
    {"query": "b", "positives": ["p3"], "negatives": [], "scores": [1]},
    {"query": "c", "positives": "p4", "negatives": ["n1", "n2"], "scores": [3, None, 1]},
]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.parquet"])
def test_triples_are_read(load, put, name):
    examples = load(put(name, TRIPLES))
    assert [plain(e) for e in examples] == [(f"q{i}", [f"good {i}", f"bad {i}"], 1, None) for i in range(3)]


def test_candidate_lists_with_scores_are_read(load, put):
    examples = load(put("t.jsonl", LISTS))
    assert [plain(e)[:3] for e in examples] == [
        ("a", ["p", "p2", "n"], 2),
        ("b", ["p3"], 1),
        ("c", ["p4", "n1", "n2"], 1),
    ]
    assert all(e.scores.dtype == np.float32 and e.scores.flags.writeable for e in examples)  # torch needs such arrays
    assert examples[0].scores.tolist() == [[3, 2.5, 1]]
    np.testing.assert_equal(examples[2].scores, np.array([[3, np.nan, 1]], np.float32))


def test_candidate_lists_in_parquet_may_have_several_teachers(load, put):
    rows = [row | {"positives": row["positives"] if isinstance(row["positives"], list) else [row["positives"]]}
            for row in LISTS]  # fmt: skip
    examples = load(put("t.parquet", [row | {"scores": [row["scores"], row["scores"]]} for row in rows]))
    assert examples[0].scores.tolist() == [[3, 2.5, 1], [3, 2.5, 1]]
    assert [e.n_positives for e in examples] == [2, 1, 1]


def test_texts_without_ids_are_identified_by_their_digest(load, put):
    first, second = load(put("t.jsonl", [TRIPLES[0], TRIPLES[0] | {"positive": "other"}]))
    assert first.query_id == second.query_id
    assert first.doc_ids[1] == second.doc_ids[1] != first.doc_ids[0]
    assert first.doc_ids[0] != second.doc_ids[0]


@pytest.mark.parametrize("keys", [("positives", "negatives"), ("positive_ids", "negative_ids")])
def test_documents_and_queries_are_looked_up_by_id(load, put, documents, keys):
    rows = [{"query_id": "q1", keys[0]: ["t", "d0"], keys[1]: ["d5"]}, {"query_id": 7, "query": "own", keys[0]: "d1"}]
    examples = load(put("t.jsonl", rows), documents=documents, queries=put("queries.jsonl", QUERIES))
    assert [plain(e)[:3] for e in examples] == [
        ("query 1", ["One two", "text 0", "text 5"], 2),
        ("own", ["text 1"], 1),
    ]
    assert [e.query_id for e in examples] == ["q1", "7"]
    assert list(examples[0].doc_ids) == ["t", "d0", "d5"]


# --- folders and datasets


@pytest.fixture
def beir(put, tmp_path):
    put("beir/corpus.jsonl.gz", DOCUMENTS)
    put("beir/queries.jsonl", QUERIES)
    put("beir/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\t0\nq0\tt\t2\nq2\td5\t1\nq3\td1\t-1\n")
    return str(tmp_path / "beir")


def test_a_folder_with_judgments_gives_examples(load, beir):
    examples = load(beir)
    assert [plain(e) for e in examples] == [
        ("query 0", ["text 0", "One two"], 2, None),
        ("query 2", ["text 5"], 1, None),
    ]
    assert [e.query_id for e in examples] == ["q0", "q2"]


def test_a_split_can_be_chosen(load, beir, put, refusal):
    put("beir/qrels/dev.tsv", "q1\td1\t1\n")
    assert [e.query for e in load(beir, split="dev")] == ["query 1"]
    assert "there are: dev, train" in refusal(beir, split="test")
    put("beir/qrels/none.tsv", "q1\td1\t0\n")
    assert refusal(beir, split="none").endswith("there are no examples in it")


def ir_dataset(**parts):
    """A fake dataset of ir-datasets."""
    documents = [SimpleNamespace(_asdict=lambda d=d: {"doc_id": d["_id"], "text": d["text"]}) for d in DOCUMENTS]
    queries = [SimpleNamespace(_asdict=lambda q=q: {"query_id": q["_id"], "text": q["text"]}) for q in QUERIES]
    there = ("docs", "queries", *parts)
    return SimpleNamespace(
        **{f"has_{what}": lambda what=what: what in there for what in ("docs", "queries", "qrels", "docpairs")},
        docs_iter=lambda: iter(documents),
        queries_iter=lambda: iter(queries),
        **{f"{what}_iter": lambda items=items: iter(items) for what, items in parts.items()},
    )


@pytest.fixture
def datasets(monkeypatch):
    """{name: dataset} that ir-datasets loads in place of its own datasets."""
    known = {}
    ir_datasets = pytest.importorskip("ir_datasets")
    monkeypatch.setattr(ir_datasets, "load", known.__getitem__)
    return known


@pytest.mark.parametrize("name", ["tiny/pairs", "irds:tiny/pairs", "tiny"])
def test_pairs_of_ir_datasets_give_examples(load, datasets, name):
    pair = SimpleNamespace(query_id="q1", doc_id_a="d3", doc_id_b="d2")
    datasets |= {"tiny": ir_dataset(), "tiny/pairs": ir_dataset(docpairs=[pair, pair], qrels=[])}
    examples = load(name, split="pairs")
    assert [plain(e) for e in examples] == [("query 1", ["text 3", "text 2"], 1, None)] * 2


def test_judgments_of_ir_datasets_give_examples(load, datasets):
    judged = [SimpleNamespace(query_id="q1", doc_id=f"d{i}", relevance=i) for i in range(3)]
    datasets |= {"tiny": ir_dataset(), "tiny/train": ir_dataset(qrels=judged)}
    assert [plain(e)[:3] for e in load("tiny")] == [("query 1", ["text 1", "text 2"], 2)]


# --- candidates and teachers

RUN = "q0 Q0 d3 1 9.5 t\nq0 Q0 d0 2 9 t\nq0 Q0 t 3 8 t\nq0 Q0 d4 4 1 t\nq2 Q0 d1 1 3 t\nq2 Q0 d5 2 2 t\n"


def test_a_run_gives_candidates(load, put, beir):
    examples = load(beir, candidates=put("run.trec", RUN))
    assert [(list(e.doc_ids), e.n_positives, e.scores) for e in examples] == [
        (["d0", "t", "d3", "d4"], 2, None),
        (["d5", "d1"], 1, None),
    ]


def test_a_candidate_of_several_lines_occurs_once(load, put, beir):
    rows = [{"query_id": "q0", "positives": name, "negatives": ["d4", "d3"]} for name in ("d0", "t")]
    examples = load(beir, candidates=put("mined.jsonl", rows), allow_missing=True)
    assert list(examples[0].doc_ids) == ["d0", "t", "d4", "d3"]


def test_mined_files_give_candidates_and_scores(load, put, beir):
    rows = [
        {"query_id": "q0", "positive_ids": ["d0", "t"], "negative_ids": ["d4"], "scores": [5, 4, 1]},
        {"query_id": "q2", "positive_ids": ["d5"], "negative_ids": ["d1"], "scores": [3, 2]},
    ]
    mined = put("mined.jsonl.gz", rows)
    examples = load(beir, candidates=mined, scores=(mined,))
    assert [(list(e.doc_ids), e.scores.tolist()) for e in examples] == [
        (["d0", "t", "d4"], [[5, 4, 1]]),
        (["d5", "d1"], [[3, 2]]),
    ]


def test_teachers_are_joined_by_id(load, put, beir):
    rows = [
        {"query_id": "q2", "scores": {"d1": 0.5, "d5": 7}},
        {"query_id": "q0", "scores": {"d0": 1, "t": 2, "d3": 3, "d4": 4, "d5": 5}},
    ]
    teachers = (put("a.trec", RUN), put("b.jsonl", rows))
    examples = load(beir, candidates=put("run.trec", RUN), scores=teachers)
    assert [e.scores.tolist() for e in examples] == [[[9, 8, 9.5, 1], [1, 2, 3, 4]], [[2, 3], [7, 0.5]]]
    assert examples[0].scores.dtype == np.float32


def test_teachers_and_scores_of_the_file_are_combined(load, put, documents):
    rows = [{"query_id": "q0", "query": "x", "positives": "d0", "negatives": ["t"], "scores": [2, 1]}]
    (example,) = load(put("t.jsonl", rows), documents=documents, scores=(put("run.trec", RUN),))
    assert example.scores.tolist() == [[2, 1], [9, 8]]


def test_missing_teacher_scores_are_an_error_unless_allowed(load, refusal, put, beir):
    teacher = put("some.trec", "q0 Q0 d0 1 9 t\nq2 Q0 d5 1 2 t\n")
    candidates = put("run.trec", RUN)
    message = refusal(beir, candidates=candidates, scores=(teacher,))
    assert message.startswith(
        f"{teacher}: 4 pairs of query and document that {beir} refers to are not in it: 'q0' 't', "
    )
    assert message.endswith("'q2' 'd1'; allow_missing permits that")
    first, second = load(beir, candidates=candidates, scores=(teacher,), allow_missing=True)
    np.testing.assert_equal(first.scores, np.array([[9, np.nan, np.nan, np.nan]], np.float32))
    assert second.scores[0, 0] == 2


def test_missing_candidates_are_an_error_unless_allowed(load, refusal, put, beir):
    candidates = put("run.trec", "q0 Q0 d3 1 9.5 t\n")
    assert f"{candidates}: 1 queries that {beir} refers to are not in it: 'q2'" in refusal(beir, candidates=candidates)
    examples = load(beir, candidates=candidates, allow_missing=True)
    assert [list(e.doc_ids) for e in examples] == [["d0", "t", "d3"], ["d5"]]


def test_added_candidates_need_scores_too(load, refusal, put, documents):
    source = put("t.jsonl", [{"query_id": "q0", "query": "x", "positives": "d0", "scores": [2]}])
    options = {"documents": documents, "candidates": put("run.trec", RUN)}
    assert "the added candidates have none" in refusal(source, **options)
    (example,) = load(source, **options, allow_missing=True)
    np.testing.assert_equal(example.scores, np.array([[2] + [np.nan] * 3], np.float32))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.trec", RUN + "q0 Q0 d3 9 1 t\n", "run.trec:7: document 'd3' occurs twice for query 'q0'"),
        ("run.trec", "q0 Q0 d3 1 high t\nq0 d3\n", "2 bad lines:\n  "),
        ("run.trec", "", "there are no scores in it"),
        ("s.jsonl", [{"query_id": "q0", "scores": {"d0": "1"}}], "s.jsonl:1: the score '1' is not a finite number"),
        ("s.jsonl", [{"scores": {"d0": 1}}], 's.jsonl:1: "query_id" must hold strings'),
        ("s.jsonl", [{"query_id": "q", "positives": "d0"}], "s.jsonl:1: scores of 0 teachers"),
        ("s.jsonl", [{"query_id": "q", "positives": "d0", "scores": [[1], [2]]}], "scores of 2 teachers"),
    ],
)
def test_bad_teachers_are_refused(refusal, put, beir, name, content, message):
    assert message in refusal(beir, scores=(put(name, content),))


def test_candidates_without_a_text_are_refused(refusal, put, beir):
    candidates = put("run.trec", RUN + "".join(f"q0 Q0 x{i} 9 1 t\n" for i in range(9)))
    message = refusal(beir, candidates=candidates)
    assert message.startswith(f"{beir}: 9 documents that {candidates} refers to are not in it: 'x0', 'x1', ")
    assert ", …; the texts must be those that were searched" in message


@pytest.mark.parametrize("joined", [["candidates"], ["scores"], ["candidates", "scores"]])
@pytest.mark.parametrize("own", [{}, {"scores": [3, 2, 1]}], ids=["no scores", "scores"])
def test_missing_documents_are_named_for_every_join(refusal, put, documents, joined, own):
    rows = [{"query_id": "q0", "query": "x", "positives": "d0", "negatives": ["gone", "t"], **own}]
    run = put("run.trec", RUN)
    options = {"candidates": run if "candidates" in joined else None, "scores": (run,) if "scores" in joined else ()}
    said = refusal(put("t.jsonl", rows), documents=documents, allow_missing=True, **options)
    assert said.startswith(f"{documents}: 1 documents that ")
    assert said.endswith("'gone'")


def test_a_join_needs_ids(refusal, put, documents):
    run = put("run.trec", RUN)
    triples = put("t.jsonl", TRIPLES)
    assert "give `documents`, the collection" in refusal(triples, candidates=run)
    by_id = put("ids.jsonl", [{"query": "x", "positives": "d0"}])
    assert 'ids.jsonl:1: no "query_id", which' in refusal(by_id, documents=documents, scores=(run,))


def test_the_error_names_a_missing_file(refusal, beir):
    assert refusal(beir, scores=("nowhere.trec",)) == "nowhere.trec: no such file"


# --- refused input


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("oops", "not JSON"),
        ([1], "expected a JSON object"),
        ({"positive": "p"}, "no query"),
        ({"query_id": "q", "positive": "p"}, '"query_id" and a file of queries'),
        ({"query": " ", "positive": "p"}, '"query" must hold strings that are not empty'),
        ({"query": ["q"], "positive": "p"}, '"query" must hold strings'),
        ({"query": "q", "query_id": [], "positive": "p"}, '"query_id" must hold strings'),
        ({"query": "q", "negative": "n"}, "no positive"),
        ({"query": "q", "positives": []}, "no positive"),
        ({"query": "q", "positives": ["p", None]}, '"positives" must hold strings that are not empty, got None'),
        ({"query": "q", "positives": ["p", True]}, "got True"),
        ({"query": "q", "positive": "\ud800"}, '"positive" holds an unpaired surrogate'),
        ({"query": "q", "positive_ids": ["p"]}, '"positive_ids" are ids: give `documents`, the collection'),
        ({"query": "q", "positive": "p", "negative": "p"}, "the document 'p' occurs twice"),
        ({"query": "q", "positive": "p", "scores": 1}, '"scores" must be a list'),
        ({"query": "q", "positive": "p", "scores": [1, 2]}, "2 scores for 1 documents"),
        ({"query": "q", "positive": "p", "scores": [[1], 2]}, "2 for 1 documents"),
        ({"query": "q", "positive": "p", "scores": ["1"]}, "the score '1' is not a finite number"),
        ('{"query": "q", "positive": "p", "scores": [NaN]}', "the score nan is not a finite number"),
        ({"query": "q", "positive": "p", "scores": [1e39]}, "the score 1e+39 is not a finite number"),
    ],
)
def test_the_error_names_a_bad_training_line(refusal, put, row, message):
    said = refusal(put("t.jsonl", [TRIPLES[0], row, TRIPLES[1]]))
    assert "t.jsonl:2: " in said
    assert message in said
    assert "\n" not in said


def test_all_bad_lines_are_listed(refusal, put):
    said = refusal(put("t.jsonl", ["oops", TRIPLES[0], {"query": "q"}, TRIPLES[1]])).splitlines()
    assert said[0].endswith("t.jsonl: 2 bad lines:")
    assert ["t.jsonl:1: not JSON" in said[1], "t.jsonl:3: no positive" in said[2], len(said)] == [True, True, 3]
    said = refusal(put("t.jsonl", ["oops"] * 1000)).splitlines()
    assert said[0].endswith("20 bad lines; the rest was not read:")
    assert len(said) == 21


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_an_empty_file_is_refused(refusal, put, name):
    assert refusal(put(name, "\n\n")).endswith(f"{name}: there are no examples in it")


def test_all_lines_must_have_the_same_teachers(refusal, put):
    said = refusal(put("t.jsonl", [LISTS[0], TRIPLES[0]]))
    assert "t.jsonl:2: scores of 0 teachers, but 1 in the lines before" in said


def test_ids_without_a_text_are_reported(refusal, put, documents):
    rows = [{"query_id": f"q{i}", "positives": [f"d{i}"], "negatives": ["t"]} for i in range(20)]
    source, queries = put("t.jsonl", rows), put("queries.jsonl", QUERIES)
    said = refusal(source, documents=documents, queries=queries)
    assert said.startswith(
        f"{queries}: 16 queries that {source} refers to are not in it: 'q4', 'q5', 'q6', 'q7', 'q8', …"
    )
    said = refusal(put("t.jsonl", [row | {"query": "x"} for row in rows]), documents=documents)
    assert said.startswith(f"{documents}: 14 documents that {source} refers to are not in it: 'd6', ")


def test_unsupported_sources_are_refused(refusal, put):
    assert ".jsonl, .jsonl.gz or .parquet" in refusal(put("t.tsv", "a\tb\n"))
    assert "must end in" in refusal(put("t.txt", "a\tb\n"))
    assert "no such file or folder" in refusal("nowhere.jsonl")
    broken = put("t.parquet", TRIPLES)
    with open(broken, "r+b") as file:
        file.truncate(100)
    assert "t.parquet: not a whole Parquet file" in refusal(broken)


def test_bad_texts_are_listed(refusal, put):
    texts = put("docs.jsonl", [*DOCUMENTS, {"_id": "x"}, DOCUMENTS[0]])
    said = refusal(put("t.jsonl", [{"query": "q", "positives": "d0"}]), documents=texts)
    assert "docs.jsonl: 2 bad lines:" in said
    assert "docs.jsonl:8: document 'x' has no text" in said
    assert "docs.jsonl:9: the id 'd0' occurs twice" in said
    said = refusal(put("t.jsonl", [{"query": "q", "positives": "d0"}]), documents=put("empty.jsonl", ""))
    assert said.endswith("empty.jsonl: there are no texts in it")


def test_weights_must_be_positive():
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be above 0"):
            TrainingSource("x", weight=weight)
    with pytest.raises(ValueError, match="at least one source"):
        open_training([])


# --- the cache


def test_prepared_data_is_reused_until_the_file_changes(load, put, tmp_path, monkeypatch):
    source, documents = put("t.jsonl", [{"query": "q", "positives": "d0"}]), put("docs.jsonl", DOCUMENTS)
    assert len(load(source, documents=documents)) == 1
    made = sorted(p.name for p in (tmp_path / "cache").iterdir() if p.is_dir())
    assert len(made) == 2
    with monkeypatch.context() as patch:
        patch.setattr("lsr.train.sources.read_rows", None)
        assert len(load(source, documents=documents)) == 1
    put("t.jsonl", [{"query": "q", "positives": "d0"}, {"query": "q2", "positives": "d1"}])
    assert len(load(source, documents=documents)) == 2
    put("docs.jsonl", [{"_id": f"d{i}", "text": f"new {i}"} for i in range(2)])
    assert list(load(source, documents=documents)[0].documents) == ["new 0"]


def test_failed_preparation_leaves_no_files(refusal, load, put, tmp_path):
    source = put("t.jsonl", [TRIPLES[0], "oops"])
    refusal(source)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []
    put("t.jsonl", TRIPLES)
    assert len(load(source)) == 3


def test_the_default_cache_is_in_the_users_folder(put, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert len(open_training(put("t.jsonl", TRIPLES))) == 3
    assert (tmp_path / "home" / "lsr" / "train").is_dir()


# --- text store


@settings(max_examples=40)
@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, min_size=1, max_size=30)
)
def test_texts_are_found_by_id(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("store")
    write_texts(documents_corpus([{"_id": name, "text": name * 2} for name in ids]), folder)
    store = TextStore(folder)
    assert len(store) == len(ids)
    assert store.rows([*ids, "not there"]).tolist() == [*range(len(ids)), -1 if "not there" not in ids else 0]
    assert [store.id(row) for row in range(len(ids))] == ids
    assert [store.text(row) for row in range(len(ids))] == [name * 2 for name in ids]


def test_ids_that_share_a_digest_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(texts_module, "_digest", lambda name: len(name))
    write_texts(documents_corpus(DOCUMENTS), tmp_path)
    store = TextStore(tmp_path)
    assert store.rows(["d4", "t", "d0", "d9", "t2"]).tolist() == [4, 6, 0, -1, -1]


def test_texts_are_found_in_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(texts_module, "_BATCH_DOCS", 3)
    write_texts(documents_corpus([{"_id": str(i), "text": f"text {i}"} for i in range(10)]), tmp_path)
    store = TextStore(tmp_path)
    assert [store.text(row) for row in store.rows([str(i) for i in range(10)])] == [f"text {i}" for i in range(10)]
    for row in (-1, 10):
        with pytest.raises(IndexError):
            store.text(row)


def test_texts_are_memory_mapped(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text(jsonl({"_id": str(i), "text": "x" * 1000} for i in range(20_000)))
    store = open_texts(str(path), tmp_path / "cache")
    before = pa.total_allocated_bytes()
    again = TextStore(store.folder)
    assert again.text(12_345) == "x" * 1000
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_texts_that_are_looked_up_form_a_sequence():
    asked = []

    def get(row):
        asked.append(row)
        return f"text {row}"

    looked = Looked(get, np.array([5, 3, 1], np.uint32))
    assert (len(looked), asked) == (3, [])
    assert (looked[1], looked[-1], asked) == ("text 3", "text 1", [3, 1])
    assert looked[1:] == ["text 3", "text 1"]
    assert looked != ["text 5"]
    assert "text 5" in looked
    with pytest.raises(IndexError):
        looked[3]


# --- streams


@pytest.fixture
def numbered(put, tmp_path):
    """Returns a function that opens sources of the given sizes and weights; their queries are "source:number"."""

    def open_numbered(*sizes, weights=None):
        sources = [
            TrainingSource(
                put(f"s{which}.jsonl", [{"query": f"{which}:{i}", "positive": "p"} for i in range(size)]),
                weight=weights[which] if weights else 1.0,
            )
            for which, size in enumerate(sizes)
        ]
        return open_training(sources, cache=tmp_path / "cache")

    return open_numbered


def queries(stream, count):
    return [example.query for example in islice(stream, count)]


def test_every_epoch_has_all_examples_in_a_new_order(numbered):
    data = numbered(50)
    assert len(data) == 50
    seen = queries(data.stream(seed=1), 150)
    epochs = [seen[i : i + 50] for i in (0, 50, 100)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs[0])) == 50
    assert epochs[0] != epochs[1] != epochs[2]
    assert queries(data.stream(seed=1), 150) == seen
    assert queries(data.stream(seed=2), 50) != epochs[0]


@pytest.mark.parametrize("start", [0, 1, 49, 50, 137, 4095, 4096, 9000])
def test_a_stream_resumes_anywhere(numbered, start):
    data = numbered(7, 20, 3, weights=[5, 1, 0.1])
    whole = queries(data.stream(seed=3), start + 30)
    assert queries(data.stream(seed=3, start=start), 30) == whole[start:]


def test_sources_are_drawn_by_their_weights(numbered):
    data = numbered(100, 10, 1, weights=[1, 3, 0.5])
    count = Counter(query.split(":")[0] for query in queries(data.stream(0), 9000))
    assert count["0"] == pytest.approx(2000, rel=0.1)
    assert count["1"] == pytest.approx(6000, rel=0.1)
    assert count["2"] == pytest.approx(1000, rel=0.2)


def test_mixed_sources_have_their_own_epochs(numbered):
    seen = queries(numbered(100, 10).stream(0), 1000)
    small = [query for query in seen if query.startswith("1:")]
    assert all(len(set(small[i : i + 10])) == 10 for i in range(0, len(small) - 10, 10))


@pytest.mark.parametrize("start", [0, 5, 10, 20_478, 20_480, 41_000])
def test_successive_examples_can_come_from_one_source(numbered, start):
    """Each group comes from one source, which is drawn by weight. Groups are the same from any start."""
    data = numbered(100, 10, 1, weights=[1, 3, 0.5])
    whole = queries(data.stream(0, together=5), 42_000)
    groups = [{query.split(":")[0] for query in whole[i : i + 5]} for i in range(0, len(whole), 5)]
    assert {len(group) for group in groups} == {1}
    count = Counter(group.pop() for group in groups)
    assert count["1"] == pytest.approx(5600, rel=0.05)
    moved = -(-start // 5) * 5
    assert queries(data.stream(0, start, together=5), 30) == whole[moved : moved + 30]


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 0, "start": -1}])
def test_invalid_streams_are_refused(numbered, options):
    with pytest.raises(ValueError, match="seed and start must not be negative"):
        numbered(3).stream(**options)


def test_documents_of_all_sources_are_listed_once(put, documents, tmp_path):
    sources = [
        TrainingSource(put("a.jsonl", [{"query": "q", "positives": "d0"}]), documents=documents),
        TrainingSource(put("b.jsonl", [{"query": "q", "positives": "d1"}]), documents=documents),
        TrainingSource(put("c.jsonl", [TRIPLES[0], TRIPLES[0] | {"negative": "other"}])),
    ]
    data = open_training(sources, cache=tmp_path / "cache")
    expected = [*(f"text {i}" for i in range(6)), "One two", "good 0", "bad 0", "other"]
    assert list(data.documents()) == expected


def test_texts_are_looked_up_lazily(load, put, documents, monkeypatch):
    (example,) = load(put("t.jsonl", [{"query": "q", "positives": "d0", "negatives": ["d1"]}]), documents=documents)
    monkeypatch.setattr(TextStore, "text", None)
    assert len(example.documents) == 2


def test_training_data_and_mining_do_not_import_torch():
    code = "import sys, lsr.train.data, lsr.train.mining, lsr.train.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_real_collection_gives_one_example_per_judged_query(real_data, tmp_path):
    folder = real_data("scifact")
    data = open_training(str(folder), cache=tmp_path)
    assert len(data) == 809
    judged = {line.split("\t")[0] for line in (folder / "qrels" / "train.tsv").read_text().splitlines()[1:]}
    assert {example.query_id for example in islice(data.stream(0), 809)} == judged
