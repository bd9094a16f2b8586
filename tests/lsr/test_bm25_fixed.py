"""Weights of FixedBM25Encoder equal a hand-worked example and the formula. Earlier versions used this encoder."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.encode.bm25_fixed import FixedBM25Encoder
from lsr.encode.load import load_encoder, load_encoder_files
from lsr.errors import EncoderError

WORDS = ["wing", "flow", "layer", "plate", "shock", "heat"]
CORPUS = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=8)


def fitted(texts, **settings):
    encoder = FixedBM25Encoder(**settings)
    encoder.fit(texts)
    return encoder


def by_token(encoder, matrix, row=0):
    terms, weights = matrix.row(row)
    return {encoder.vocabulary[t]: float(w) for t, w in zip(terms, weights, strict=True)}


def bm25(text, corpus, k1, b):
    """Document weights, by the formula in the docstring of lsr.encode.bm25_fixed."""
    average = sum(len(t.split()) for t in corpus) / len(corpus)
    weights = {}
    for word, tf in Counter(text.split()).items():
        df = sum(word in t.split() for t in corpus)
        idf = math.log(1 + (len(corpus) - df + 0.5) / (df + 0.5))
        norm = 1 - b + b * len(text.split()) / average
        weights[word] = idf * tf * (k1 + 1) / (tf + k1 * norm)
    return weights


# --- weights


def test_weights_equal_a_hand_worked_example():
    # Three documents of 3, 2 and 1 words, 2 on average. k1 = 1, b = 0.5.
    # "cat" is in two documents, so its idf is ln(1 + 1.5 / 2.5) = ln(1.6). In the first document, its tf is 2 and the
    # length norm is 0.5 + 0.5 * 3 / 2 = 1.25, so its weight is ln(1.6) * 2 * 2 / (2 + 1.25) = 0.578466.
    # "dog" is in one document, so its weight is ln(1 + 2.5 / 1.5) * 1 * 2 / (1 + 1.25) = 0.871848.
    encoder = fitted(["cat cat dog", "cat mouse", "bird"], k1=1, b=0.5)
    weights = by_token(encoder, encoder.encode_document("cat cat dog"))
    assert weights == pytest.approx({"cat": 0.578466, "dog": 0.871848}, abs=1e-6)


@given(CORPUS, st.sampled_from([0.0, 0.9, 1.2]), st.sampled_from([0.0, 0.4, 1.0]))
def test_weights_follow_the_formula(corpus, k1, b):
    encoder = fitted(corpus, k1=k1, b=b, language="none")
    matrix = encoder.encode_document(corpus)
    assert matrix.shape == (len(corpus), len({word for text in corpus for word in text.split()}))
    for i, text in enumerate(corpus):
        assert by_token(encoder, matrix, i) == pytest.approx(bm25(text, corpus, k1, b), rel=1e-6)


def test_a_text_has_the_same_vector_alone_and_in_a_batch():
    texts = ["wing flow", "", "flow flow plate"]
    encoder = fitted(texts)
    together = encoder.encode_document(texts)
    for i, text in enumerate(texts):
        assert encoder.encode_document(text) == together[i]


def test_query_weights_are_counts_of_known_words():
    encoder = fitted(["wings flow", "plates"])
    query = encoder.encode_query("Flow over WINGS, flow and elephants")
    assert by_token(encoder, query) == {"flow": 2.0, "wing": 1.0}


def test_stop_words_and_single_letters_are_dropped():
    encoder = fitted(["The wing of a plane is x"])
    assert list(encoder.vocabulary) == ["plane", "wing"]


@pytest.mark.parametrize("corpus", [[], [""], ["", "the of and"], ["! ?"]])
def test_a_corpus_without_words_leaves_the_encoder_unfitted(corpus):
    encoder = fitted(corpus)
    assert encoder.needs_fit
    again = load_encoder_files(encoder.query_files())
    assert again.fingerprint == encoder.fingerprint
    again.fit(["wing"])
    assert not again.needs_fit


def test_an_empty_list_of_texts_gives_a_matrix_without_rows():
    encoder = fitted(["wing"])
    assert encoder.encode_document([]).shape == (0, 1)
    assert encoder.encode_query([]).shape == (0, 1)


# --- languages


@pytest.mark.parametrize(
    ("language", "text", "stems"),
    [
        ("english", "the running wings", {"run", "wing"}),
        ("german", "die Häuser und die Flügel", {"haus", "flugel"}),
        ("french", "la maison et ses ailes", {"maison", "ail"}),
        ("none", "the running wings", {"the", "running", "wings"}),
    ],
)
def test_words_are_stemmed_in_their_language(language, text, stems):
    assert set(fitted([text], language=language).vocabulary) == stems


def test_the_error_for_an_unknown_language_lists_the_known_languages():
    with pytest.raises(EncoderError, match=r"no language 'klingon'; there are: none, .*english.*swedish"):
        FixedBM25Encoder(language="klingon")


@pytest.mark.parametrize("settings", [{"k1": -1}, {"b": -0.1}, {"b": 1.1}, {"k1": math.nan}, {"b": math.nan}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(EncoderError, match="k1 >= 0 and 0 <= b <= 1"):
        FixedBM25Encoder(**settings)


# --- spans


def test_spans_point_at_the_words():
    encoder = fitted(["wing flow"])
    text = "Wings: the FLOW over two wings"
    found = [(encoder.vocabulary[term], text[start:end]) for term, start, end in encoder.spans(text)]
    assert found == [("wing", "Wings"), ("flow", "FLOW"), ("wing", "wings")]


@given(st.text(alphabet="aIiİıſßΣσςäÄ \u0307'_-1", max_size=20))
def test_spans_and_encoding_have_the_same_words(text):
    encoder = fitted([text], language="none")
    assert Counter(term for term, _, _ in encoder.spans(text)) == {
        term: int(count) for row in encoder.encode_query(text).rows() for term, count in zip(*row, strict=True)
    }


# --- state and files


def test_an_unfitted_encoder_is_refused():
    encoder = FixedBM25Encoder()
    assert encoder.needs_fit
    for use in (encoder.encode_query, encoder.encode_document, encoder.spans):
        with pytest.raises(EncoderError, match="has seen no corpus yet: call fit"):
            use("wing")


def test_texts_must_be_strings():
    with pytest.raises(TypeError, match="text 1 is int, not str"):
        fitted(["wing"]).encode_document(["wing", 3])


def test_a_saved_encoder_gives_the_same_vectors(tmp_path):
    encoder = fitted(["wing flow", "flow flow plate", "Überschall"], k1=1.2, b=0.75, language="german")
    encoder.save(tmp_path / "bm25")
    texts = ["wing flow Überschall", "plate plate"]
    for copy in (load_encoder(tmp_path / "bm25"), load_encoder_files(encoder.query_files())):
        assert copy.fingerprint == encoder.fingerprint
        assert copy.vocabulary == encoder.vocabulary
        assert copy.encode_document(texts) == encoder.encode_document(texts)
        assert copy.encode_query(texts) == encoder.encode_query(texts)


def test_a_saved_encoder_keeps_its_stop_words(tmp_path):
    encoder = fitted(["the wing"])
    encoder.save(tmp_path)
    state = json.loads((tmp_path / "bm25.json").read_text())
    state["stop_words"] = ["wing"]
    (tmp_path / "bm25.json").write_text(json.dumps(state))
    assert load_encoder(tmp_path).encode_query("wing").nnz == 0


def test_refitting_forgets_the_first_corpus():
    encoder = fitted(["wing flow"])
    before = encoder.fingerprint
    encoder.encode_query("wing heat")
    encoder.fit(["heat"])
    assert list(encoder.vocabulary) == ["heat"]
    assert encoder.fingerprint != before
    assert by_token(encoder, encoder.encode_query("wing heat")) == {"heat": 1.0}


def test_equal_fits_have_equal_fingerprints():
    assert fitted(["wing flow", "flow"]).fingerprint == fitted(["flow", "flow wing"]).fingerprint


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (["wing flow", "flow heat"], {}),
        (["wing", "flow"], {}),
        (["wing flow", "flow flow"], {}),
        (["wing flow", "flow"], {"k1": 1.0}),
        (["wing flow", "flow"], {"b": 0.5}),
        (["wing flow", "flow"], {"language": "none"}),
    ],
)
def test_the_fingerprint_depends_on_corpus_and_settings(texts, settings):
    assert fitted(texts, **settings).fingerprint.differences(fitted(["wing flow", "flow"]).fingerprint)


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{}",
        "[]",
        '{"n_docs": 1, "average_length": 1, "stop_words": [], "idf": [1, 2], "vocabulary": ["a"]}',
        '{"n_docs": 1, "average_length": 1, "stop_words": [], "idf": ["x"], "vocabulary": ["a"]}',
        '{"n_docs": 1, "average_length": 1, "stop_words": [], "idf": [1], "vocabulary": [7]}',
    ],
)
def test_an_error_about_damaged_state_names_the_folder(tmp_path, state):
    fitted(["wing"]).save(tmp_path / "bm25")
    (tmp_path / "bm25" / "bm25.json").write_text(state)
    with pytest.raises(EncoderError, match="bm25: not a whole bm25 encoder"):
        load_encoder(tmp_path / "bm25")


def test_weights_of_a_long_text_are_finite():
    encoder = fitted(["wing " * 100_000, "flow"])
    terms, weights = encoder.encode_document("wing " * 100_000).row(0)
    assert terms.tolist() == [encoder.vocabulary.index("wing")]
    assert np.isfinite(weights).all()
