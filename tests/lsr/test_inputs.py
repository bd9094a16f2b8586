"""Encoders accept documents and any iterable of texts, read each iterable once, and refuse other values."""

from __future__ import annotations

from collections import UserList

import numpy as np
import pyarrow as pa
import pytest

from lsr.encode import BM25Encoder, HybridEncoder, InferenceFreeEncoder, SpladeEncoder
from lsr.encode.base import as_texts
from lsr.errors import DataError
from lsr.io.document import Document

TEXTS = ["the cat sat", "dogs on the mat", ""]


class Once:
    """An iterable that can be read only once, although it isn't an iterator."""

    def __init__(self, items):
        self._items = iter(items)

    def __iter__(self):
        return self._items


SHAPES = [list, tuple, iter, UserList, np.array, Once, lambda texts: map(str, texts), lambda texts: (t for t in texts)]


@pytest.fixture(scope="module", params=["bm25", "splade", "inference-free", "hybrid"])
def encoder(request):
    bm25 = BM25Encoder()
    bm25.fit(TEXTS)
    if request.param == "bm25":
        return bm25
    pytest.importorskip("torch")
    splade = SpladeEncoder(request.getfixturevalue("checkpoint"), device="cpu")
    free = InferenceFreeEncoder(splade, np.ones(splade.n_terms))
    return {"splade": splade, "inference-free": free, "hybrid": HybridEncoder(free, bm25, 0.5)}[request.param]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_iterable_is_read_once(encoder, shape):
    assert encoder.encode_query(shape(TEXTS)) == encoder.encode_query(TEXTS)
    assert encoder.encode_document(shape(TEXTS)) == encoder.encode_document(TEXTS)
    assert encoder.encode_query(shape(TEXTS[:1])) == encoder.encode_query(TEXTS[0])


def test_documents_are_encoded_by_title_and_text(encoder):
    mapping = {"_id": "a", "title": "The cat", "text": "sat on a mat", "year": 1999, "tags": ["x"]}
    whole = encoder.encode_document("The cat sat on a mat")
    for document in (mapping, [mapping], iter([mapping]), Document("a", "sat on a mat", "The cat")):
        assert encoder.encode_document(document) == whole
    assert encoder.encode_document([mapping, "dogs"]) == encoder.encode_document(["The cat sat on a mat", "dogs"])
    assert encoder.encode_query({"_id": "q", "text": "cat"}) == encoder.encode_query("cat")


class Frame:
    """A fake data frame: iteration gives the column names, as in all data frame libraries."""

    columns = ("_id", "text")

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (Frame(), TypeError, r"texts are a table \(.*Frame\), .* table\[\"text\"\]"),
        (pa.table({"text": TEXTS}), TypeError, r"a table \(pyarrow.Table\)"),
        (
            {"_id": ["a", "b"], "text": ["x", "y"]},
            TypeError,
            r'a mapping of columns: pass one of them, texts\["text"\]',
        ),
        ({"cat": 1.5, "dog": 1.0}, DataError, r"has no text"),
        ({"_id": "a", "text": None, "title": 3}, DataError, '"title" must be a string, got 3'),
        ([{"_id": "a", "text": 7}], DataError, r'"text" must be a string, got 7'),
        ({"a", "b"}, TypeError, "ordered iterable of texts, not set"),
        (b"cats", TypeError, "ordered iterable of texts, not bytes"),
        (None, TypeError, "not NoneType"),
        (3, TypeError, "not int"),
        (["a", 1], TypeError, "text 1 is int, not str"),
        (pa.array(TEXTS), TypeError, "text 0 is StringScalar, not str"),
        ("caf\udce9", DataError, "the text holds a byte that isn't UTF-8, 0xe9, at character 3"),
        (["cat", "caf\udce9"], DataError, "text 1 holds a byte that isn't UTF-8, 0xe9, at character 3"),
    ],
)
def test_values_that_are_not_text_are_refused_with_their_type(encoder, wrong, error, message):
    for encode in (encoder.encode_query, encoder.encode_document):
        with pytest.raises(error, match=message):
            encode(wrong)


def test_the_function_as_texts_returns_texts_unchanged():
    texts = ["", " a\n", "naïve 日本 🙂", np.str_("x")]
    assert as_texts(texts) == texts
    assert as_texts("a") == ["a"]
