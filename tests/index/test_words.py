"""Corrections and suggestions are words of the documents, with the nearest word first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.encode.corpus import Passages
from lsr.index.index import Index
from lsr.index.kernels.edit_distance import edit_distances
from lsr.index.search.words import Suggestion

DOCS = [
    {"_id": "a", "title": "Boundary layers", "text": "Boundary layer transition and retrieval of documents"},
    {"_id": "b", "title": "The layer of heat", "text": "Retrieval of documents about boundary values"},
    {"_id": "c", "text": "Naïve transitions; Ωmega flutter, boundless"},
    {"_id": "gone", "text": "zebra"},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "idx"
    index = Index.build(path, DOCS[:2], encoder="bm25")
    index.add(DOCS[2:])
    index.commit(merge=False)
    index.delete("gone")
    index.commit(merge=False)
    return index


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retreival of documnets", {"retreival": ["retrieval"], "documnets": ["documents"]}),
        ("boundary layer", {}),
        ("Boundray", {"Boundray": ["boundary"]}),
        ("flutters", {}),  # a word of a document has the same stem
        ("naive", {"naive": ["naïve"]}),
        ("zebra", {"zebra": []}),  # only a deleted document has this word
        ("xq 12345 of", {}),  # too short, not a word, a stop word
        ("", {}),
    ],
)
def test_corrections_are_words_of_the_documents(index, text, expected):
    assert index.corrections(text) == expected


def test_the_call_did_you_mean_replaces_unknown_words(index):
    assert index.did_you_mean("retreival, of  Boundray zebra!") == "retrieval, of  boundary zebra!"
    assert index.did_you_mean("boundary zebra") is None
    assert index.search("retreival") == []
    assert {hit.id for hit in index.search(index.did_you_mean("retreival"))} == {"a", "b"}


def test_several_corrections_are_ranked(tmp_path):
    documents = [{"_id": str(i), "text": text} for i, text in enumerate(["cart", "card card", "card", "care core"])]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25")
    assert index.corrections("caru", limit=9) == {"caru": ["card", "care", "cart"]}
    assert index.corrections("caru", limit=1) == {"caru": ["card"]}


def test_suggestions_complete_words_and_titles(index):
    assert index.suggest("bound") == [
        Suggestion("boundary", "word", 2),
        Suggestion("boundless", "word", 1),
        Suggestion("Boundary layers", "title", 1, "a"),
    ]
    assert [one.text for one in index.suggest("heat transiti") if one.kind == "word"] == ["heat transition"]
    assert index.suggest("layer o")[-1] == Suggestion("The layer of heat", "title", 1, "b")
    assert [one.text for one in index.suggest("retrieva")] == ["retrieval"]
    assert index.suggest("zeb") == index.suggest("") == index.suggest("qqq") == []
    assert len(index.suggest("b", 1)) == 2
    with pytest.raises(ValueError, match="limit"):
        index.suggest("b", 0)


def test_corrections_are_stems_if_no_texts_are_stored(tmp_path):
    index = Index.build(tmp_path / "idx", DOCS[:2], encoder="bm25", store_text=False)
    assert index.corrections("boundray") == {"boundray": ["boundari"]}


def test_passages_suggest_the_title_of_their_document(tmp_path):
    index = Index.build(tmp_path / "idx", DOCS[:2], encoder="bm25", passages=Passages(3, 0))
    assert index.suggest("boundary l")[-1] == Suggestion("Boundary layers", "title", 1, "a")


def test_an_empty_index_suggests_nothing(tmp_path):
    index = Index.build(tmp_path / "idx", [], encoder="bm25")
    assert index.corrections("wing") == {"wing": []}
    assert index.suggest("wing") == []
    assert index.did_you_mean("wing") is None


@pytest.mark.parametrize("encoder", ["lsr-tiny"])
def test_corrections_with_a_hybrid_encoder_are_words_of_its_bm25_part(tmp_path, encoder):
    index = Index.build(tmp_path / "idx", DOCS[:3], encoder=encoder)
    assert index.corrections("retreival of documnets") == {"retreival": ["retrieval"], "documnets": ["documents"]}
    assert index.search("xqzzyvw") == []
    assert [one.text for one in index.suggest("bounda") if one.kind == "word"] == ["boundary"]


def reference(one, other):
    """Optimal string alignment distance by the textbook definition."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            cost = one[i - 1] != other[j - 1]
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + cost)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(one), len(other)]


LETTERS = st.text(st.sampled_from("abcé"), max_size=7)


@given(words=st.lists(LETTERS, min_size=1, max_size=6), word=LETTERS, most=st.integers(0, 4))
def test_distances_equal_the_textbook_definition(words, word, most):
    codes = np.array([ord(letter) for one in words for letter in one], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in words])]).astype(np.int64)
    found = np.empty(len(words), np.uint8)
    edit_distances(codes, offsets, np.array([ord(letter) for letter in word], np.int32), most, found)
    assert found.tolist() == [min(reference(one, word), most + 1) for one in words]


def test_words_of_the_model_are_not_corrected(tmp_path):
    """The model's vocabulary contains "makes" and "shaking", but no document does. "plaens" is a typing error."""
    docs = [{"_id": "a", "text": "Bakers bake bread in planes."}, {"_id": "b", "text": "The staking of claims"}]
    index = Index.build(tmp_path / "idx", docs, encoder="lsr-tiny")
    assert index.did_you_mean("what makes plaens shaking") == "what makes planes shaking"
    assert index.did_you_mean("what makes planes shaking") is None
    assert "makes" in index.corrections("what makes planes shaking")
