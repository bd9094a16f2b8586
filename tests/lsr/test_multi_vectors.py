"""Several dense vectors per document: the vector nearest to the query gives the document's score."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lsr.encode.load import load_encoder
from lsr.encode.multi_vectors import multi_vectors
from lsr.errors import DataError, IndexFormatError
from lsr.index import DenseVectors, Hybrid, Index, build_dense

LONG = "The wing carries ice in cold air. " * 6 + "A violin sounds in the concert hall tonight. " * 6


def test_a_document_has_vectors_of_its_text_and_of_its_parts():
    seen = []

    def embed(texts):
        seen.extend(texts)
        return [[len(text), 1.0] for text in texts]

    found = multi_vectors(embed, ["one two three four five", "short", ""], 3)
    assert seen == ["one two three four five", "one two three", "four five", "short", ""]
    assert found.tolist() == [[[23, 1], [13, 1], [9, 1]], [[5, 1]] * 3, [[0, 1]] * 3]
    assert multi_vectors(embed, ["one two"], 2).tolist() == [[[7, 1]] * 2]
    assert multi_vectors(embed, ["one two"], 1).shape == (1, 1, 2)
    with pytest.raises(ValueError, match="m must be at least 1"):
        multi_vectors(embed, ["a"], 0)


def test_a_part_is_nearer_to_its_query_than_the_whole_text_is():
    encoder = load_encoder("lsr-mini")
    query = encoder.encode_dense(["violin concert"], queries=True)[0]
    cosines = multi_vectors(encoder.encode_dense, [LONG], 3)[0] @ query
    assert cosines[2] > cosines[0] > cosines[1]


def embed(texts):
    return [[text.count(letter) + 0.1 for letter in "abcdefgh"] for text in texts]


def embed_several(texts):
    """Three vectors per text, one for each word."""
    return np.array([embed(text.split()) for text in texts])


@pytest.fixture
def several():
    rng = np.random.default_rng(0)
    return [(f"d{i}", " ".join("".join(rng.choice(list("abcdefgh"), 4)) for _ in range(3))) for i in range(40)]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_nearest_vector_gives_the_score_of_a_document(tmp_path, several, similarity):
    dense = DenseVectors.build(tmp_path / "dense", several, embed, embed_documents=embed_several, similarity=similarity)
    assert dense.per_document == 3
    query, vectors = np.array(embed(["abca"])[0]), embed_several([text for _, text in several])
    if similarity == "cosine":
        query, vectors = query / np.linalg.norm(query), vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    expected = (vectors @ query).max(1)
    for found in (dense, DenseVectors(tmp_path / "dense", embed)):
        hits = found.search("abca", 10)
        assert [hit.score for hit in hits] == pytest.approx(np.sort(expected)[::-1][:10], rel=1e-5)
        assert hits[0].score == pytest.approx(expected[int(hits[0].id[1:])], rel=1e-5)


def test_unchanged_documents_are_not_embedded_again(tmp_path, several):
    seen = []

    def documents(texts):
        seen.extend(texts)
        return embed_several(texts)

    for docs in (several, [*several[:-1], ("d39", "aaaa bbbb cccc")]):
        seen.clear()
        dense = DenseVectors.build(tmp_path / "dense", docs, embed, embed_documents=documents)
    assert seen == ["aaaa bbbb cccc"]
    assert dense.search("bbbb", 1)[0].id == "d39"


def test_hybrid_search_works_with_several_vectors(tmp_path, several):
    index = Index.build(tmp_path / "idx", [{"_id": doc, "text": text} for doc, text in several], encoder="bm25")
    dense = build_dense(index, tmp_path / "dense", embed, embed_documents=embed_several)
    for feedback in ("none", "both"):
        hits = Hybrid(index, dense, feedback=feedback).search(several[3][1].split()[0], 5)
        assert "d3" in hits.ids


def test_graphs_clusters_and_later_formats_are_refused(tmp_path, several):
    for kind in ({"graph": True}, {"clusters": True}):
        with pytest.raises(DataError, match="take one vector of each document"):
            DenseVectors.build(tmp_path / "dense", several, embed, embed_documents=embed_several, **kind)
    DenseVectors.build(tmp_path / "dense", several, embed, embed_documents=embed_several)
    path = tmp_path / "dense" / "dense.json"
    record = json.loads(path.read_text())
    assert record["format"] == 2  # versions before multi-vectors refuse format 2
    path.write_text(json.dumps(record | {"format": 3}))
    with pytest.raises(IndexFormatError, match="format 3"):
        DenseVectors(tmp_path / "dense", embed)
