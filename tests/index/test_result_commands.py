"""`lsr search` with its options, `lsr similar`, `lsr get` and `lsr duplicates` print the results of the index."""

from __future__ import annotations

import json

import pytest

from lsr.index.index import Index

DOCS = [
    {
        "_id": f"d{i}",
        "text": f"wing {'flutter ' * (i % 3)}drag",
        "source": f"s{i % 4}",
        "n": i,
        "day": f"2024-01-{i + 1:02d}",
    }
    for i in range(20)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("commands") / "idx", DOCS, encoder="bm25").path


@pytest.mark.parametrize(
    ("given", "how"),
    [
        (["--offset", "3"], {"offset": 3}),
        (["--min-score", "0.1"], {"min_score": 0.1}),
        (["--group-by", "source", "--per-group", "2"], {"group_by": "source", "per_group": 2}),
        (["--sort", "source", "--sort", "-n"], {"sort": ["source", "-n"]}),
        (["--boost", "n=0.5", "--boost", "title=2", "--boost", "day=2,5,2024-01-10"],
         {"boost": {"n": 0.5, "title": 2, "day": {"weight": 2, "half_life": 5, "origin": "2024-01-10"}}}),
        (["--diversity", "0.5", "--depth", "9"], {"diversity": 0.5, "depth": 9}),
        (["--operators"], {"syntax": "operators"}),
        (["--fields", "n", "--fields", "text"], {"fields": ["n", "text"]}),
        (["--passages", "--group-by", "_id"], {"passages": True, "group_by": "_id"}),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_the_command_equal_arguments_of_the_method_search(path, lsr_command, given, how):
    query = '"flutter flutter" wing' if "syntax" in how else "wing flutter"
    lines = lsr_command("search", path, query, "-k", "4", "--json", *given).lines()
    hits = Index.open(path).search(query, 4, **how)
    assert [(line["_id"], line["score"]) for line in lines] == [(hit.id, hit.score) for hit in hits]
    assert lines[0]["rank"] == how.get("offset", 0) + 1
    assert [line.get("metadata", {}) for line in lines] == [hit.metadata for hit in hits]


def test_a_reranker_is_chosen_by_model_name(path, lsr_command, monkeypatch):
    def longest(query, texts):
        return [float(len(text)) for text in texts]

    monkeypatch.setattr("lsr.index.search.rerank.CrossEncoderReranker", {"a-model": longest}.__getitem__)
    given = ("--rerank", "a-model", "--depth", "5", "--rerank-unit", "sentence")
    lines = lsr_command("search", path, "wing flutter", "-k", "4", *given).lines()
    hits = Index.open(path).search("wing flutter", 4, rerank=longest, depth=5, rerank_unit="sentence")
    assert [(line["_id"], line["moved"]["first_rank"]) for line in lines] == [(h.id, h.moved.first_rank) for h in hits]
    assert lines[0]["moved"]["sentence"] == hits[0].moved.sentence != ""


def test_facets_and_the_total_are_printed_last(path, lsr_command):
    *hits, last = lsr_command("search", path, "flutter", "-k", "2", "--json", "--facet", "source").lines()
    assert len(hits) == 2
    found = Index.open(path).search("flutter", facets="source")
    assert last["total"] == found.total == 13
    assert {one["value"]: one["count"] for one in last["facets"]["source"]} == found.facets["source"]


def test_queries_of_a_file_accept_operators_and_an_offset(path, tmp_path, lsr_command):
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "1", "text": "wing -flutter"}\n{"_id": "2", "text": "+flutter"}\n')
    lines = lsr_command("search", path, "--queries", queries, "-k", "30", "--operators").lines()
    assert len([line for line in lines if line["query"] == "1"]) == 7
    assert len([line for line in lines if line["query"] == "2"]) == 13
    lines = lsr_command("search", path, "--queries", queries, "-k", "2", "--offset", "1").lines()
    assert [line["rank"] for line in lines] == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--boost", "n"], "--boost takes COLUMN=WEIGHT"),
        (["--boost", "n=x"], "--boost takes COLUMN=WEIGHT"),
        (["--diversity", "nan"], "'nan' isn't a finite number"),
        (["--depth", "5"], "--depth goes with --rerank or --diversity"),
        (["-o"], 'goes after "--"'),
        (["--per-group", "2"], "--per-group needs --group-by"),
        (["--plan", "--offset", "2"], "--plan can't be combined with --offset"),
        (["--group-by", "sauce"], "did you mean 'source'"),
        (["--fields", "sauce"], "did you mean 'source'"),
        (["--rerank-unit", "sentence"], "--rerank-unit needs --rerank"),
        (["--rerank", "x", "--rerank-unit", "word"], "--rerank-unit must be one of text, sentence"),
        (["--passages", "--run", "out.trec"], "--passages can't be combined with --run"),
    ],
)
def test_wrong_options_are_refused(path, lsr_command, given, told):
    ran = lsr_command("search", path, "wing", *given)
    assert ran.code in (1, 2)
    assert told in ran.err


def test_queries_of_a_file_are_searched_in_every_mode(tmp_path, lsr_command):
    docs = [
        {"_id": "a", "text": "ice on a wing"},
        {"_id": "b", "text": "frozen aircraft"},
        {"_id": "c", "text": "cats"},
    ]
    index = Index.build(tmp_path / "both", docs, encoder="lsr-mini", hybrid=True)
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"_id": "1", "text": "icing of aeroplanes"}\n')
    for mode in ("auto", "hybrid", "dense", "sparse"):
        lines = lsr_command("search", index.path, "--queries", queries, "--mode", mode).lines()
        expected = index.search("icing of aeroplanes", mode=mode)
        assert [line["_id"] for line in lines] == expected.ids
        assert [line["score"] for line in lines] == pytest.approx(expected.scores.tolist())


def test_the_command_similar_prints_similar_documents(path, lsr_command):
    lines = lsr_command("similar", path, "d3", "-k", "3", "--where", "n<9", "--json").lines()
    hits = Index.open(path).similar("d3", 3, where={"n": {"<": 9}})
    assert [line["_id"] for line in lines] == [hit.id for hit in hits]
    assert "no document has the id" in lsr_command("similar", path, "x").err


def test_the_command_get_prints_documents(path, lsr_command):
    assert lsr_command("get", path, "d2", "d0").lines() == [DOCS[2], DOCS[0]]
    assert lsr_command("get", path).lines() == DOCS
    assert [line["n"] for line in lsr_command("get", path, "--where", "n>17").lines()] == [18, 19]
    ran = lsr_command("get", path, "d1", "x")
    assert (ran.code, json.loads(ran.out)["_id"]) == (1, "d1")
    assert "1 id not found: x" in ran.err
    assert lsr_command("get", path, "d1", "--where", "n=1").code == 2


def test_the_command_duplicates_prints_pairs_of_similar_documents(path, lsr_command):
    ran = lsr_command("duplicates", path, "--threshold", "0.99", "--where", "n<6")
    found = Index.open(path).duplicates(0.99, where={"n": {"<": 6}})
    assert [(line["id"], line["of"]) for line in ran.lines()] == [(one.id, one.of) for one in found]
    assert ran.lines()[0] == {"id": "d3", "of": "d0", "similarity": 1.0}
    assert "7 pairs" in ran.err


def test_a_correction_of_unknown_words_is_suggested(path, lsr_command):
    ran = lsr_command("search", path, "fluter winf")
    assert (ran.code, ran.out) == (0, "")
    assert "did you mean: flutter wing" in ran.err
    assert "did you mean" not in lsr_command("search", path, "flutter wing").err


def test_a_correction_of_unknown_values_is_suggested(path, lsr_command):
    assert (
        "source has no value 'S1'; did you mean 's1'?"
        in lsr_command("search", path, "wing", "--where", "source=S1").err
    )
