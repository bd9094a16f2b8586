"""Weights of BM25Encoder equal a hand-worked example and the formula. A saved encoder gives the same vectors."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr import Index
from lsr.encode.base import read_config
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.lexicon import Lexicon
from lsr.encode.load import load_encoder, load_encoder_files
from lsr.errors import EncoderError

WORDS = ["wing", "flow", "layer", "plate", "shock", "heat"]
CORPUS = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=8)

STATE = json.dumps({"analyzer": BM25Encoder().analyzer.settings()})[:-1] + ', "n_docs": %s}'


def fitted(texts, **settings):
    encoder = BM25Encoder(**settings)
    encoder.fit(texts)
    return encoder


def by_token(encoder, matrix, row=0):
    terms, weights = matrix.row(row)
    return {encoder.vocabulary[t]: float(w) for t, w in zip(terms, weights, strict=True)}


def bm25(text, k1, b, pivot):
    """Document weights, by the formula in the docstring of lsr.encode.bm25."""
    norm = 1 - b + b * len(text.split()) / pivot
    return {word: tf * (k1 + 1) / (tf + k1 * norm) for word, tf in Counter(text.split()).items()}


def idf(word, corpus):
    """The IDF of a query term, by the formula in the docstring of lsr.encode.bm25."""
    df = sum(word in t.split() for t in corpus)
    return math.log(1 + (len(corpus) - df + 0.5) / (df + 0.5))


# --- weights


def test_weights_equal_a_hand_worked_example():
    # "cat" is in two of three documents, so its idf is ln(1 + 1.5 / 2.5). "dog" is in one document, so its idf is
    # ln(1 + 2.5 / 1.5).
    # k1 = 1, b = 0.5, pivot 2. The first document has three words, so its length norm is 0.5 + 0.5 * 3 / 2 = 1.25.
    # Weights: cat 2 * 2 / (2 + 1.25) = 1.230769, dog 1 * 2 / (1 + 1.25) = 0.888889.
    encoder = fitted(["cat cat dog", "cat mouse", "bird"], k1=1, b=0.5, pivot=2)
    weights = by_token(encoder, encoder.encode_document("cat cat dog"))
    assert weights == pytest.approx({"cat": 1.230769, "dog": 0.888889}, abs=1e-6)
    query = by_token(encoder, encoder.encode_query("cats, dogs, dogs"))
    assert query == pytest.approx({"cat": 0.470004, "dog": 2 * 0.980829}, abs=1e-6)


@given(CORPUS, st.sampled_from([0.0, 0.9, 1.2]), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([1.0, 30.0]))
def test_weights_follow_the_formula(corpus, k1, b, pivot):
    encoder = fitted(corpus, k1=k1, b=b, pivot=pivot, language="none")
    matrix = encoder.encode_document(corpus)
    assert matrix.shape == (len(corpus), len({word for text in corpus for word in text.split()}))
    for i, text in enumerate(corpus):
        assert by_token(encoder, matrix, i) == pytest.approx(bm25(text, k1, b, pivot), rel=1e-6)
        assert matrix.data.max(initial=0) <= encoder.fingerprint.max_weight
    for word in WORDS:
        known = {word: idf(word, corpus)} if any(word in text.split() for text in corpus) else {}
        assert by_token(encoder, encoder.encode_query(word)) == pytest.approx(known, rel=1e-6)


@given(CORPUS)
def test_inner_products_are_bm25_scores(corpus):
    encoder = fitted(corpus, language="none")
    found = encoder.encode_document(corpus).dot(encoder.encode_query(["wing flow flow"]))[:, 0]
    for score, text in zip(found, corpus, strict=True):
        weights = bm25(text, encoder.k1, encoder.b, encoder.pivot)
        expected = sum(times * weights.get(w, 0) * idf(w, corpus) for w, times in (("wing", 1), ("flow", 2)))
        assert score == pytest.approx(expected, rel=1e-5)


def test_a_text_has_the_same_vector_alone_and_in_a_batch():
    texts = ["wing flow", "", "flow flow plate"]
    encoder = fitted(texts)
    together = encoder.encode_document(texts)
    for i, text in enumerate(texts):
        assert encoder.encode_document(text) == together[i]


def test_unknown_words_are_not_query_terms():
    encoder = fitted(["wings flow", "plates"])
    assert set(by_token(encoder, encoder.encode_query("Flow over WINGS and elephants"))) == {"flow", "wing"}


@pytest.mark.parametrize("corpus", [[], [""], ["! ?"]])
def test_a_corpus_without_words_gives_empty_vectors(corpus):
    encoder = fitted(corpus)
    assert not encoder.needs_fit
    assert encoder.encode_document(["wing", ""]).shape == (2, 0)
    assert encoder.encode_query("wing").nnz == 0
    assert load_encoder_files(encoder.query_files()).fingerprint == encoder.fingerprint


def test_an_empty_list_of_texts_gives_a_matrix_without_rows():
    encoder = fitted(["wing"])
    assert encoder.encode_document([]).shape == (0, 1)
    assert encoder.encode_query([]).shape == (0, 1)


# --- languages


@pytest.mark.parametrize(
    ("language", "text", "stems"),
    [
        ("english", "the running wings", {"the", "run", "wing"}),
        ("german", "die Häuser und die Flügel", {"die", "haus", "und", "flugel"}),
        ("french", "la maison et ses ailes", {"la", "maison", "et", "se", "ail"}),
        ("russian", "крылья самолёта", {"крыл", "самолет"}),
        ("none", "the running wings", {"the", "running", "wings"}),
    ],
)
def test_words_are_stemmed_in_their_language(language, text, stems):
    assert set(fitted([text], language=language).vocabulary) == stems


def test_the_error_for_an_unknown_language_lists_the_known_languages():
    with pytest.raises(EncoderError, match=r"no language 'klingon'; there are: none, .*english.*swedish"):
        BM25Encoder(language="klingon")


def test_the_pivot_can_be_the_mean_length(tmp_path):
    texts = ["the cat cat dog", "cat mouse", "bird"]
    encoder, same = fitted(texts, pivot="mean"), fitted(texts, pivot=2.0)  # stop words don't count
    assert encoder.pivot == 2.0
    assert encoder.fingerprint == same.fingerprint
    assert (encoder.encode_document(texts).to_dense() == same.encode_document(texts).to_dense()).all()
    encoder.save(tmp_path / "bm25")
    assert load_encoder(tmp_path / "bm25").pivot == 2.0
    Index.build(tmp_path / "idx", [{"_id": "a", "text": text} for text in texts[:1]], encoder=encoder)
    with pytest.raises(
        EncoderError, match=r'the pivot "mean" is the mean length of .* call fit\(texts\) first, or give a number'
    ):
        Index.build(tmp_path / "other", [{"_id": "a", "text": "cat"}], encoder=BM25Encoder(pivot="mean"))


@pytest.mark.parametrize(
    "settings",
    [
        *({"k1": -1}, {"b": -0.1}, {"b": 1.1}, {"k1": math.nan}, {"b": math.nan}, {"k1": math.inf}),
        *({"pivot": 0.0}, {"pivot": "avg"}),
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(EncoderError, match="k1 >= 0, 0 <= b <= 1 and pivot > 0"):
        BM25Encoder(**settings)


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
        encoder.vocabulary.index(term): count for term, count in Counter(encoder.analyzer.document(text)[0]).items()
    }


# --- state and files


def test_an_unfitted_encoder_is_refused():
    encoder = BM25Encoder()
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
    encoder = fitted(["the wing"], stop_words="drop")
    encoder.save(tmp_path)
    state = json.loads((tmp_path / "bm25.json").read_text())
    state["analyzer"]["words"] = ["wing"]
    (tmp_path / "bm25.json").write_text(json.dumps(state))
    assert load_encoder(tmp_path).encode_query("wing").nnz == 0


def test_refitting_forgets_the_first_corpus():
    encoder = fitted(["wing flow"])
    encoder.fit(["heat"])
    assert list(encoder.vocabulary) == ["heat"]
    assert set(by_token(encoder, encoder.encode_query("wing heat"))) == {"heat"}


def test_the_fingerprint_depends_on_the_settings():
    fingerprint = BM25Encoder().fingerprint
    assert fitted(["wing flow"]).fingerprint == fingerprint == fitted(["heat"]).fingerprint
    for settings in ({"k1": 1.0}, {"b": 0.5}, {"pivot": 50.0}, {"language": "none"}, {"stop_words": "lucene"}):
        assert fitted(["wing flow"], **settings).fingerprint.differences(fingerprint)


def test_an_encoder_can_use_the_terms_and_counts_of_an_index():
    known = fitted(["wing flow"])
    other = known.over(
        Lexicon(["x", "y:flow", "y:heat"], n_docs=9, counts=np.array([1, 2, 3]).__getitem__).part(1, "y:")
    )
    assert list(other.vocabulary) == ["flow", "heat"]
    assert by_token(other, other.encode_query("flow wing")) == pytest.approx({"flow": math.log(1 + 7.5 / 2.5)})
    assert list(known.vocabulary) == ["flow", "wing"]


def test_a_growing_vocabulary_keeps_its_term_numbers():
    growing = Lexicon(["wing"], grows=True)
    encoder = BM25Encoder().over(growing)
    assert encoder.encode_document(["flow wing", "heat"]).shape == (2, 3)
    assert list(encoder.vocabulary) == ["wing", "flow", "heat"]
    growing.cut(2)
    assert encoder.encode_document("plate heat").shape == (1, 4)
    assert list(encoder.vocabulary) == ["wing", "flow", "plate", "heat"]


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{}",
        "[]",
        STATE % '1, "vocabulary": ["a"], "df": [1, 2]',
        STATE % '1, "vocabulary": ["a"], "df": ["x"]',
        STATE % '1, "vocabulary": ["a"], "df": [-1]',
        STATE % '1, "vocabulary": [7], "df": [1]',
        STATE % '2, "vocabulary": ["a", "a"], "df": [1, 1]',
        STATE % '"x", "vocabulary": ["a"], "df": [1]',
        STATE.replace('"version": 1', '"version": 2') % "null",
    ],
)
def test_an_error_about_damaged_state_names_the_folder(tmp_path, state):
    fitted(["wing"]).save(tmp_path / "bm25")
    (tmp_path / "bm25" / "bm25.json").write_text(state)
    with pytest.raises(EncoderError, match=r"bm25: not a whole bm25 encoder|analyzer version 2"):
        load_encoder(tmp_path / "bm25")


@pytest.mark.parametrize(
    "config", ["", "[]", '{"type": "bm25"}', '{"format": 99, "type": "bm25"}', '{"format": 1, "type": 3}']
)
def test_an_error_about_damaged_config_names_the_file(tmp_path, config):
    (tmp_path / "encoder.json").write_text(config)
    with pytest.raises(EncoderError, match=r"encoder\.json: "):
        read_config(tmp_path)


def test_weights_of_a_long_text_are_finite():
    encoder = fitted(["wing " * 100_000, "flow"])
    terms, weights = encoder.encode_document("wing " * 100_000).row(0)
    assert terms.tolist() == [encoder.vocabulary.index("wing")]
    assert np.isfinite(weights).all()
