"""Dense vectors beside an index: search is exact, only changed documents are embedded, and damage is reported."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from lsr.encode.multi_vectors import multi_vectors
from lsr.errors import CorruptIndex, DataError, IndexFormatError
from lsr.index.hybrid import dense as module
from lsr.index.hybrid.dense import DenseVectors


class Embed:
    """Embeds each text as its letter counts, and records the texts."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        return [[text.count(letter) + 0.1 for letter in "abcdefgh"] for text in texts]


@pytest.fixture
def embed():
    return Embed()


def documents(n, seed=0):
    rng = np.random.default_rng(seed)
    return [(f"d{i}", "".join(rng.choice(list("abcdefgh"), 6))) for i in range(n)]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 7, 50, 1000])
def test_results_equal_brute_force_with_ties(tmp_path, embed, monkeypatch, similarity, k):
    monkeypatch.setattr(module, "_ROWS", 16)
    docs = documents(50)
    dense = DenseVectors.build(tmp_path / "dense", docs, embed, similarity=similarity)
    matrix, query = np.array(embed([text for _, text in docs])), np.array(embed(["abcabc"])[0])
    if similarity == "cosine":
        matrix, query = matrix / np.linalg.norm(matrix, axis=1)[:, None], query / np.linalg.norm(query)
    scores = (matrix.astype(np.float32) @ query.astype(np.float32)).astype(np.float64)
    hits = dense.search("abcabc", k)
    assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:k], rel=1e-5)
    assert [hit.score for hit in dense.search(query, k)] == pytest.approx([hit.score for hit in hits], rel=1e-5)
    for one, other in pairwise(hits):
        assert one.score > other.score or int(one.id[1:]) < int(other.id[1:])


def test_only_changed_documents_are_embedded(tmp_path, embed):
    docs = documents(20)
    DenseVectors.build(tmp_path / "dense", docs, embed)
    embed.texts.clear()
    changed = [("d3", "aaaaaa"), *docs[:3], *docs[5:], ("new", "bbbbbb")]
    dense = DenseVectors.build(tmp_path / "dense", changed, embed)
    assert sorted(embed.texts) == ["aaaaaa", "bbbbbb"]
    assert len(dense) == 20
    assert dense.search("bbb", 1)[0].id == "new"
    assert dense.search("aaa", 1)[0].id == "d3"
    assert "d4" not in {hit.id for hit in dense.search("abc", 100)}
    assert len(list((tmp_path / "dense").glob("*.arrow"))) == 1


def test_multi_vectors_may_have_one_vector_per_document(tmp_path, embed):
    def embed_documents(texts):
        return multi_vectors(embed, texts, 1)

    for docs in (documents(3), documents(5)):
        dense = DenseVectors.build(tmp_path / "dense", docs, embed, embed_documents=embed_documents, clusters=True)
    assert len(dense) == 5


def test_cosines_are_correct_for_vectors_with_a_huge_norm(tmp_path, embed):
    def huge(texts):
        return np.array(embed(texts)) * 1e25

    DenseVectors.build(tmp_path / "dense", documents(3), huge)
    dense = DenseVectors.build(tmp_path / "short", documents(3), embed)
    found = DenseVectors(tmp_path / "dense", embed).search("aab", 3)
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in dense.search("aab", 3)])


def test_vectors_of_a_killed_build_are_invisible(tmp_path, embed, monkeypatch):
    docs = documents(5)
    DenseVectors.build(tmp_path / "dense", docs, embed)
    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            DenseVectors.build(tmp_path / "dense", documents(9, seed=1), embed)
    assert len(DenseVectors(tmp_path / "dense", embed)) == 5
    DenseVectors.build(tmp_path / "dense", docs, embed)
    assert len(list((tmp_path / "dense").iterdir())) == 2


def test_a_graph_finds_the_results_of_exact_search(tmp_path, embed):
    pytest.importorskip("usearch")
    docs = documents(200)
    dense = DenseVectors.build(tmp_path / "dense", docs, embed, graph=True)
    exact, near = dense.search("abcabc", 5, exact=True), dense.search("abcabc", 5)
    assert [hit.score for hit in near] == pytest.approx([hit.score for hit in exact], abs=0.02)


def test_an_empty_collection_gives_no_hits(tmp_path, embed):
    dense = DenseVectors.build(tmp_path / "dense", [], embed)
    assert (len(dense), dense.search("abc")) == (0, [])
    assert dense.search_batch([]) == []


@pytest.mark.parametrize(
    ("docs", "function", "message"),
    [
        ([("a", "x"), ("a", "y")], Embed(), "'a' occurs twice"),
        ([("a", "x")], lambda texts: [[1.0], [2.0]], "shape \\(2, 1\\); the result needs one row for each"),
        ([("a", "x")], lambda texts: [[np.nan]], "not finite"),
        (
            [("a", "x"), ("b", "y")],
            lambda texts: [[1.0], [1.0, 2.0]],
            "no array of numbers; the result needs one row for each",
        ),
        ([("a", "x")], lambda texts: [["x"]], "no array of numbers"),
    ],
)
def test_invalid_vectors_are_refused(tmp_path, docs, function, message):
    with pytest.raises(DataError, match=message):
        DenseVectors.build(tmp_path / "dense", docs, function)


def test_invalid_queries_are_refused(tmp_path, embed):
    dense = DenseVectors.build(tmp_path / "dense", documents(3), embed)
    with pytest.raises(DataError, match="a query of 2 numbers, documents have 8"):
        dense.search([1.0, 2.0])
    for k in (0, True, 2.5):
        with pytest.raises(ValueError, match="k must be"):
            dense.search("abc", k)
    with pytest.raises(TypeError, match="queries are a list or a matrix, got a single query"):
        dense.search_batch("abc")
    with pytest.raises(TypeError, match="a query is a text or a vector of numbers, got dict"):
        dense.search({"abc": [1]})
    assert dense.search_batch(text for text in ["abc", "def"]) == dense.search_batch(["abc", "def"])
    assert dense.search({"_id": "q", "text": "abc"}) == dense.search("abc")
    with pytest.raises(ValueError, match="'l2'"):
        DenseVectors.build(tmp_path / "other", [], embed, similarity="l2")


def test_the_error_names_the_damaged_file(tmp_path, embed, lsr_command):
    with pytest.raises(IndexFormatError, match="no dense vectors here"):
        DenseVectors(tmp_path, embed)
    DenseVectors.build(tmp_path, documents(5), embed)
    assert lsr_command("verify", tmp_path).out == f"{tmp_path}: 1 file, all intact\n"
    (file,) = tmp_path.glob("*.arrow")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    refused = lsr_command("verify", tmp_path)
    assert refused.code == 1
    assert f"{file}: damaged: not as it was written" in refused.err
    for at in range(0, len(whole), 97):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptIndex, match=file.name):
            DenseVectors(tmp_path, embed)
    file.write_bytes(whole)
    assert DenseVectors(tmp_path, embed).verify() == []
    file.unlink()
    with pytest.raises(CorruptIndex, match="missing"):
        DenseVectors(tmp_path, embed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9"),
        ({"name": "../../etc/passwd"}, "missing or invalid"),
        ({"files": {"../x.arrow": {}}}, "missing or invalid"),
        ({"dimensions": 0}, "missing or invalid"),
        ({"dimensions": 7}, "damaged"),
    ],
)
def test_an_invalid_record_is_refused(tmp_path, embed, change, message):
    DenseVectors.build(tmp_path, documents(5), embed)
    record = json.loads((tmp_path / "dense.json").read_text())
    (tmp_path / "dense.json").write_text(json.dumps(record | change))
    with pytest.raises(IndexFormatError, match=message):
        DenseVectors(tmp_path, embed)
