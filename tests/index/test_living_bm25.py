"""BM25 in a changing index: after any sequence of changes, results equal those of a new index of the documents."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.bm25_fixed import FixedBM25Encoder
from lsr.encode.passages import Passages
from lsr.errors import CorruptIndex, DataError, EncoderError, EncoderMismatch
from lsr.index.cli.encode import open_encoder
from lsr.index.cli.export import index_vectors
from lsr.index.distributed.reshard import reshard_index
from lsr.index.distributed.sharded_index import ShardedIndex
from lsr.index.hybrid.hybrid import Hybrid
from lsr.index.index import Index
from lsr.index.search.feedback import expand_query
from lsr.index.search.query_file import read_queries
from lsr.index.storage.manifest import MANIFEST
from lsr.io.convert import convert
from lsr.io.open_vectors import read_vectors

WORDS = ["wing", "flow", "heat", "plate", "shock", "the", "before", "C++", "get_openapi", "依赖", "注入", "?", "भाषा"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
QUERIES = [
    "wing",
    "the wing before",
    "flow heat shock",
    "C++",
    "get openapi",
    "依赖注入",
    "注",
    "भाषा",
    "unknown",
    "the",
]
STEPS = ["add", "update", "delete", "commit", "rollback", "merge", "reopen"]


def found(index, queries=QUERIES):
    return [[(hit.id, hit.score) for hit in index.search(query, 50)] for query in queries]


def anew(documents, folder, **how):
    """Build a new index of {id: text}, in the order of the dict."""
    rows = [{"_id": doc_id, "text": text} for doc_id, text in documents.items()]
    return Index.build(folder, rows, encoder="bm25", **how)


def live(index, history, path):
    """Apply a sequence of changes to an index and to a dict {id: text}, and return both."""
    committed, now = {}, {}
    for step, names, text in history:
        there = [name for name in names if name in now]
        if step == "add":
            rows = [name for name in names if name not in now]
            index.add([{"_id": name, "text": f"{text} {name}"} for name in rows])
            now |= {name: f"{text} {name}" for name in rows}
        elif step == "update":
            index.update([{"_id": name, "text": f"{text} {text}"} for name in names])
            for name in names:
                now.pop(name, None)
                now[name] = f"{text} {text}"
        elif step == "delete":
            index.delete(there)
            for name in there:
                del now[name]
        elif step == "rollback":
            index.rollback()
            now = dict(committed)
        elif step == "reopen":
            index.close()
            index, now = Index.open(path), dict(committed)
        else:
            index.commit(merge=False) if step == "commit" else index.merge()
            committed = dict(now)
    index.commit(merge=False)
    return index, now


HISTORIES = st.lists(
    st.tuples(
        st.sampled_from(STEPS), st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True), TEXTS
    ),
    max_size=14,
)


@pytest.mark.parametrize("impacts", ["uint8", "float32"])
@given(history=HISTORIES)
@settings(max_examples=150 if os.environ.get("LSR_LONG_TESTS") else 6)
def test_any_sequence_of_changes_equals_a_new_index(impacts, history):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "idx"
        index, now = live(Index.build(path, [], encoder="bm25", impacts=impacts), history, path)
        whole = anew(now, Path(folder) / "whole", impacts=impacts)
        assert found(index) == found(whole) == found(Index.open(path))
        assert len(set(index.vocabulary)) == len(index.vocabulary)
        index.close()


@given(history=HISTORIES)
@settings(max_examples=50 if os.environ.get("LSR_LONG_TESTS") else 3)
def test_any_sequence_of_changes_to_shards_equals_a_new_index(history):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "idx"
        first = {"x": "wing flow", "y": "heat plate", "z": "flow wing flow"}
        anew(first, path)
        reshard_index(path, Path(folder) / "shards", 2)
        index, now = live(Index.open(Path(folder) / "shards"), history, Path(folder) / "shards")
        expected = found(anew(first | now, Path(folder) / "whole"))
        assert found(index) == expected
        index.close()
        with ShardedIndex.open(Path(folder) / "shards") as sharded:
            assert found(sharded) == expected


def test_scores_equal_those_of_a_fitted_bm25_encoder(tmp_path):
    texts = {"a": "wing flow", "b": "wing heat heat", "c": "plate"}
    index = anew({"a": "wing flow"}, tmp_path / "idx", impacts="float32")
    index.add([{"_id": name, "text": texts[name]} for name in "bc"])
    index.commit()
    encoder = BM25Encoder()
    encoder.fit(texts.values())
    expected = encoder.encode_document(list(texts.values())).dot(encoder.encode_query("heat on a wing"))[:, 0]
    scores = {hit.id: hit.score for hit in index.search("heat on a wing")}
    assert scores == pytest.approx(dict(zip("ab", expected[:2], strict=True)), rel=1e-5)


def test_words_that_are_added_later_are_explained_and_highlighted(tmp_path):
    index = anew({"a": "wing flow"}, tmp_path / "idx")
    index.add([{"_id": "b", "text": "call getOpenApi() on a wing"}])
    index.commit()
    hit = Index.open(tmp_path / "idx").search("open api")[0]
    assert {c.token: c.kind for c in hit.explain()} == {"open": "match", "api": "match"}
    assert hit.score == pytest.approx(hit.explain().score, rel=1e-6)
    assert hit.highlight() == "call get**OpenApi**() on a wing"


def test_a_pinned_snapshot_keeps_its_words_and_counts(tmp_path):
    index = anew({"a": "wing flow", "b": "heat"}, tmp_path / "idx")
    pinned = index.pinned()
    before = found(pinned)
    index.add([{"_id": "c", "text": "zebra wing"}])
    index.commit()
    assert found(pinned) == before
    assert pinned.search("zebra") == []
    assert [hit.id for hit in index.search("zebra")] == ["c"]


def test_a_failed_call_adds_no_words(tmp_path):
    index = anew({"a": "wing"}, tmp_path / "idx")
    index.add([{"_id": "b", "text": "flow"}])
    with pytest.raises(DataError, match="already"):
        index.add([{"_id": "c", "text": "zebra"}, {"_id": "a", "text": "gnu"}])
    index.add([{"_id": "d", "text": "plate"}])
    index.commit()
    assert index.vocabulary == ["wing", "flow", "plate"]
    assert [hit.id for hit in index.search("plate")] == ["d"]


def test_the_vocabulary_stays_in_few_pieces(tmp_path):
    index = anew({"a": "wing"}, tmp_path / "idx")
    for i in range(40):
        index.add([{"_id": str(i), "text": f"word{i}"}])
        index.commit(merge=False)
    pieces = json.loads((tmp_path / "idx" / MANIFEST).read_text())["grown"]
    assert sum(piece["n_terms"] for piece in pieces) == 40
    assert len(pieces) <= 6
    assert len([p for p in (tmp_path / "idx").iterdir() if p.name.startswith("shared-")]) == 1 + len(pieces)
    assert Index.open(tmp_path / "idx").vocabulary == index.vocabulary == ["wing", *(f"word{i}" for i in range(40))]


def test_the_error_names_a_damaged_piece_of_the_vocabulary(tmp_path):
    index = anew({"a": "wing"}, tmp_path / "idx")
    index.add([{"_id": "b", "text": "zebra"}])
    index.commit()
    piece = json.loads((tmp_path / "idx" / MANIFEST).read_text())["grown"][0]["name"]
    file = tmp_path / "idx" / piece / "vocabulary.arrow"
    file.write_bytes(file.read_bytes().replace(b"zebra", b"zebrb"))
    with pytest.raises(CorruptIndex, match=r"vocabulary\.arrow: damaged"):
        Index.open(tmp_path / "idx")
    left = Index.open(tmp_path / "idx", skip_damaged=True)
    with pytest.raises(EncoderError, match="encoder that this index carries is damaged"):
        left.search("wing")


def test_each_passage_counts_as_a_document(tmp_path):
    index = Index.build(tmp_path / "idx", [], encoder="bm25", passages=Passages(2))
    index.add([{"_id": "a", "text": "wing flow heat plate shock"}])
    index.commit()
    assert index.document_frequencies(np.arange(5)).tolist() == [1] * 5
    assert [hit.passage for hit in index.search("heat")] == ["a#1"]


# --- exported and imported vectors


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """An index that was changed after it was built, and its folder."""
    folder = tmp_path_factory.mktemp("lived")
    index = anew({"a": "wing flow", "b": "heat plate", "gone": "flow flow"}, folder / "idx")
    index.add([{"_id": "c", "text": "zebra wing"}, {"_id": "d", "text": "zebra zebra before the flow"}])
    index.delete("gone")
    index.commit()
    return index, folder


ASKED = ["zebra wing", "before the flow", "heat"]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "ciff", "ndjson"])
def test_exported_vectors_give_the_scores_of_the_index(lived, ending, tmp_path):
    index, _ = lived
    convert(index_vectors(index), tmp_path / f"out.{ending}")
    again = Index.build(tmp_path / "again", read_vectors(tmp_path / f"out.{ending}"))
    tokens = index.vocabulary
    for query in ASKED:
        terms, weights = index.query_vectors([query]).row(0)
        mapping = {tokens[term]: float(weight) for term, weight in zip(terms.tolist(), weights.tolist(), strict=True)}
        expected = {hit.id: hit.score for hit in index.search(query)}
        assert {hit.id: hit.score for hit in again.search(mapping)} == pytest.approx(expected, rel=1e-2)
    if ending == "parquet":
        assert found(again, ASKED) == found(index, ASKED)
        again.add([{"_id": "e", "text": "gnu"}])
        again.commit()
        assert [hit.id for hit in again.search("gnu")] == ["e"]


def test_the_encoder_of_an_index_knows_added_words(lived):
    index, folder = lived
    encoder = open_encoder(str(folder / "idx"), {})
    assert encoder.encode_query(ASKED) == index.encoder.encode_query(ASKED)
    assert encoder.encode_query("zebra").nnz == 1


def test_query_files_of_another_vocabulary_are_mapped_to_the_index(lived, tmp_path):
    index, _ = lived
    other = BM25Encoder()
    other.fit(["plate", "aardvark zebra", "heat"])
    vectors = Index.build(tmp_path / "other", other.encode_query(["heat", "zebra aardvark"]), encoder=other)
    convert(index_vectors(vectors), tmp_path / "queries.parquet")
    queries = read_queries(tmp_path / "queries.parquet", index)
    assert queries.unknown == 1
    names = [[index.vocabulary[t] for t in terms.tolist()] for terms, _ in queries.vectors.rows()]
    assert names == [["heat"], ["zebra"]]


def test_vectors_of_another_vocabulary_can_be_added(tmp_path):
    other = BM25Encoder()
    other.fit(["zebra wing", "aardvark zebra"])
    source = Index.build(tmp_path / "other", other.encode_document(["aardvark zebra"]), encoder=other, ids=["o"])
    convert(index_vectors(source), tmp_path / "more.parquet")
    index = anew({"a": "wing", "b": "flow"}, tmp_path / "idx")
    index.add(read_vectors(tmp_path / "more.parquet"))
    index.commit()
    assert [hit.id for hit in index.search("aardvark")] == ["o"]
    assert found(index) == found(anew({"a": "wing", "b": "flow", "o": "aardvark zebra"}, tmp_path / "whole"))


def test_any_encoder_with_the_same_settings_is_accepted(lived):
    index, folder = lived
    stranger = BM25Encoder()
    stranger.fit(["something else"])
    for encoder in (stranger, BM25Encoder()):
        assert found(Index.open(folder / "idx", encoder=encoder), ASKED) == found(index, ASKED)
    with pytest.raises(EncoderMismatch):
        Index.open(folder / "idx", encoder=BM25Encoder(k1=2))


def test_feedback_weighs_terms_by_their_rarity(tmp_path):
    common = {str(i): "the wing of a plane" for i in range(8)}
    index = anew(common | {"a": "flutter wing zebra", "b": "zebra stripes"}, tmp_path / "idx")
    query = expand_query(index, "flutter", documents=1)
    weights = dict(zip((index.vocabulary[t] for t in query.row(0)[0].tolist()), query.row(0)[1].tolist(), strict=True))
    assert weights["zebra"] > 2 * weights["wing"]
    assert [hit.id for hit in index.search(query, 2)] == ["a", "b"]


# --- with a model, and on the command line


def test_the_bm25_part_of_a_hybrid_encoder_learns_words(tmp_path):
    index = Index.build(tmp_path / "idx", [], encoder="lsr-mini")
    for doc_id, text in (("a", "?"), ("b", "cats purr"), ("c", "the zyzzogeton is a leafhopper")):
        index.add([{"_id": doc_id, "text": text}])
        index.commit(merge=False)
    again = Index.open(tmp_path / "idx")
    best = again.search("zyzzogeton")[0]
    assert best.id == "c"
    assert {c.token: c.kind for c in best.explain()}["bm25:zyzzogeton"] == "match"
    assert set(Hybrid(again).rankings({"q": "zyzzogeton"})["lexical"]["q"]) == {"c"}
    again.delete("c")
    again.commit()
    assert set(Hybrid(again).rankings({"q": "zyzzogeton cats"})["lexical"]["q"]) == {"b"}


def test_commands_accept_bm25_settings_and_texts_without_terms(tmp_path, lsr_command):
    source = tmp_path / "docs.jsonl"
    source.write_text('{"_id": "a", "text": "die Häuser"}\n')
    how = ("--encoder", "bm25", "--language", "german", "--k1", "1.5", "--b", "0.2", "--stop-words", "drop")
    assert lsr_command("index", source, "--out", tmp_path / "idx", *how).code == 0
    encoder = Index.open(tmp_path / "idx").encoder
    assert (encoder.k1, encoder.b, encoder.analyzer.language) == (1.5, 0.2, "german")
    assert list(encoder.vocabulary) == ["haus"]
    source.write_text('{"_id": "b", "text": "?"}\n{"_id": "c", "text": "Zebra"}\n{"_id": "d", "text": ""}\n')
    ran = lsr_command("add", tmp_path / "idx", source)
    assert ran.code == 0
    assert "texts without a term of the encoder, which match nothing: 1" in ran.err
    assert [hit.id for hit in Index.open(tmp_path / "idx").search("Zebra")] == ["c"]


# --- indexes of earlier versions


def test_an_index_with_idf_in_its_documents_keeps_its_words_and_scores(tmp_path):
    texts = {"a": "wing flow", "b": "wing heat"}
    old = FixedBM25Encoder()
    old.fit(texts.values())
    rows = [{"_id": name, "text": text} for name, text in texts.items()]
    index = Index.build(tmp_path / "idx", rows, encoder=old)
    before = found(index)
    index.add([{"_id": "c", "text": "zebra"}, {"_id": "d", "text": "flow"}])
    index.commit()
    again = Index.open(tmp_path / "idx")
    assert isinstance(again.encoder, FixedBM25Encoder)
    assert again.search("zebra") == []
    assert found(again, ["wing"]) == [before[0]]
    assert "d" in {hit.id for hit in again.search("flow")}
