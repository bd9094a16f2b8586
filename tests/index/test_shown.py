"""Hits, explanations, indexes and matrices can be compared, printed, and shown as HTML in notebooks."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from lsr import Index, SparseMatrix
from lsr.errors import DataError

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
    assert hit != index.search("flutter of wings")[0]  # the same document, but another score


@pytest.fixture
def many(tmp_path):
    """Thirty documents in three segments. Every second document is a passage of a parent document."""
    documents = [
        {"_id": f"d{i}", "text": f"wing {'flutter ' * (i % 7)}", "n": i, **({"parent": f"p{i // 5}"} if i % 2 else {})}
        for i in range(30)
    ]
    index = Index.build(tmp_path / "idx", documents[:10], encoder="bm25", passages=None)
    for first in (10, 20):
        index.add(documents[first : first + 10])
        index.commit(merge=False)
    return index


def test_hits_behave_like_a_list(many):
    hits = many.search("wing flutter", 12, total=True, facets="n")
    made = list(hits)
    assert len(hits) == len(made) == 12
    assert hits == made
    assert made == hits
    assert hits != made[:-1]
    assert hits == many.search("wing flutter", 12)
    assert hits != many.search("wing", 12)
    assert [hits[i] for i in range(-12, 12)] == made * 2
    assert made[3] in hits
    assert list(reversed(hits)) == made[::-1]
    assert (hits[2:9:3], hits[2:9:3].total, hits[:0] == []) == (made[2:9:3], hits.total, True)
    assert repr(hits) == repr(made)
    with pytest.raises(IndexError):
        hits[12]
    with pytest.raises(TypeError):
        hash(hits)
    assert not many.search("nothing")


def test_the_columns_of_hits_equal_the_values_of_each_hit(many):
    hits = many.search("wing flutter", 20)
    assert hits.ids == [hit.id for hit in hits]
    assert hits.passages == [hit.passage for hit in hits]
    assert hits.ids != hits.passages
    assert (hits.docs.tolist(), hits.scores.tolist()) == ([hit.doc for hit in hits], [hit.score for hit in hits])
    assert hits.rows() == [{"rank": rank, **hit.to_dict()} for rank, hit in enumerate(hits, start=1)]


def test_pickled_hits_include_their_texts(many):
    hits = many.search("wing flutter", 20, facets="n")
    content = pickle.dumps((hits, hits[3]))
    for _ in range(2):  # the second round pickles the unpickled hits
        sent, one = pickle.loads(content)
        assert sent == hits
        assert (sent.to_json(), one) == (hits.to_json(), hits[3])
        assert (sent[5].text, sent.docs.tolist()) == (hits[5].text, hits.docs.tolist())
        assert sent[2:4]._repr_html_()
        with pytest.raises(DataError, match="explain them before"):
            one.explain()
        content = pickle.dumps((sent, one))


def test_hits_keep_the_snapshot_of_their_search(many):
    hits = many.search("wing flutter", 20)
    rows, why = hits.rows(), [hit.explain() for hit in hits]
    many.delete(hits.passages)
    many.add([{"_id": "new", "text": "wing wing wing"}])
    many.commit()
    many.merge()
    assert many.search("wing", 20) != hits
    many.close()
    assert (hits.rows(), [hit.explain() for hit in hits]) == (rows, why)
    assert pickle.loads(pickle.dumps(hits)).rows() == rows


def test_a_hit_has_a_json_dict_a_repr_and_escaped_html(index):
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


def test_the_html_of_a_hit_needs_no_encoder(tmp_path):
    documents = [{"_id": "a", "text": "x < y " * 100, "vector": {"wing": 1.0}}]
    (hit,) = Index.build(tmp_path / "idx", documents).search({"wing": 1.0})
    shown = hit._repr_html_()
    assert "<b>a</b>" in shown
    assert "x &lt; y" in shown
    assert len(shown) < 1000


def test_an_explanation_has_a_short_repr_a_json_dict_and_html(index):
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
    assert "<b>" not in shown  # the title is escaped


def test_an_index_has_a_repr_a_json_dict_and_html(index):
    told = index.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert (told["documents"], told["segments"], told["passages"]) == (2, 1, False)
    assert told["bytes"] == sum(index.file_sizes().values())
    assert "<td>documents</td><td>2</td>" in index._repr_html_()
    assert repr(index).startswith("Index('")


def test_a_matrix_has_json_dicts_and_html():
    matrix = SparseMatrix.from_dicts([{0: 1.0, 2: 0.5}, {}], 3)
    assert matrix.to_dicts() == [{0: 1.0, 2: 0.5}, {}]
    assert matrix.to_dicts(["x", "y", "z"]) == [{"x": 1.0, "z": 0.5}, {}]
    assert SparseMatrix.from_dicts(matrix.to_dicts(), 3) == matrix
    assert SparseMatrix(**json.loads(json.dumps(matrix.to_dict()))) == matrix
    shown = SparseMatrix.from_dense(np.ones((9, 20)))._repr_html_()
    assert shown.count("<tr>") == 6  # a header and five rows
    assert "0: 1.000" in shown
    assert "…" in shown
