"""How hits, explanations, indexes and matrices compare, print, and look in a notebook."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lsr import Index, SparseMatrix

DOCUMENTS = [
    {"_id": "a", "title": "Wings & <b>", "text": "the flutter of wings", "year": 1958},
    {"_id": "b", "text": "flow over a plate"},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("shown") / "idx", DOCUMENTS, encoder="bm25")


def test_hits_of_the_same_document_and_score_are_equal(index):
    (hit,), (again,), (other,) = (index.search(text) for text in ("flutter", "flutter", "plate"))
    assert hit == again
    assert hash(hit) == hash(again)
    assert hit != other
    assert hit != "a"
    assert {hit, again, other} == {hit, other}
    assert hit != index.search("flutter of wings")[0]  # another score


def test_a_hit_as_a_dict_is_plain_json(index):
    (hit,) = index.search("flutter")
    assert json.loads(json.dumps(hit.to_dict())) == {
        "id": "a",
        "score": hit.score,
        "passage": "a",
        "title": "Wings & <b>",
        "text": "the flutter of wings",
        "metadata": {"year": 1958},
    }
    assert repr(hit) == f"Hit(id='a', score={hit.score:.4f})"
    shown = hit._repr_html_()
    assert "<b>Wings &amp; &lt;b&gt;</b>" in shown
    assert "<mark>flutter</mark>" in shown


def test_a_hit_is_shown_without_an_encoder(tmp_path):
    documents = [{"_id": "a", "text": "x < y " * 100, "vector": {"wing": 1.0}}]
    (hit,) = Index.build(tmp_path / "idx", documents).search({"wing": 1.0})
    shown = hit._repr_html_()
    assert "<b>a</b>" in shown
    assert "x &lt; y" in shown
    assert len(shown) < 1000


def test_repr_and_html_of_an_explanation(index):
    (hit,) = index.search("flutter of wings")
    explanation = hit.explain()
    assert explanation == index.explain("flutter of wings", "a")
    assert repr(explanation).startswith(f"Explanation(id='a', score={explanation.score:.4f}, ")
    assert len(repr(explanation)) < 120
    told = json.loads(json.dumps(explanation.to_dict()))
    assert (told["id"], told["score"]) == ("a", explanation.score)
    assert [term["token"] for term in told["terms"]] == [c.token for c in explanation]
    shown = explanation._repr_html_()
    assert "<mark>flutter</mark>" in shown
    assert "<th>word</th>" in shown
    assert "<b>" not in shown  # of the title, which is text


def test_repr_and_html_of_an_index(index):
    told = index.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["documents"], told["segments"], told["passages"]) == (2, 1, False)
    assert told["bytes"] == sum(index.file_sizes().values())
    assert "<td>documents</td><td>2</td>" in index._repr_html_()
    assert repr(index).startswith("Index('")


def test_dicts_and_html_of_a_matrix():
    matrix = SparseMatrix.from_dicts([{0: 1.0, 2: 0.5}, {}], 3)
    assert matrix.to_dicts() == [{0: 1.0, 2: 0.5}, {}]
    assert matrix.to_dicts(["x", "y", "z"]) == [{"x": 1.0, "z": 0.5}, {}]
    assert SparseMatrix.from_dicts(matrix.to_dicts(), 3) == matrix
    assert SparseMatrix(**json.loads(json.dumps(matrix.to_dict()))) == matrix
    shown = SparseMatrix.from_dense(np.ones((9, 20)))._repr_html_()
    assert shown.count("<tr>") == 6  # a header and five rows
    assert "0: 1.000" in shown
    assert "…" in shown
