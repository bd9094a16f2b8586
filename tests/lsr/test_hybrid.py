"""HybridEncoder: scores are the sums of both parts' scores, and both parts are saved in one folder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lsr import Index
from lsr.encode import BM25Encoder, HybridEncoder, InferenceFreeEncoder, SpladeEncoder, load_encoder
from lsr.encode.base import CONFIG_FILE
from lsr.encode.load import load_encoder_files
from lsr.encode.passages import split_passages
from lsr.errors import EncoderError

pytest.importorskip("torch")
pytest.importorskip("transformers")

QUERIES = ["the cat on a mat", "", "dog dog"]


@pytest.fixture
def parts(checkpoint, query_weights, texts):
    lexical = BM25Encoder()
    lexical.fit(texts)
    return InferenceFreeEncoder(SpladeEncoder(checkpoint, device="cpu"), query_weights), lexical


@pytest.fixture
def encoder(parts):
    return HybridEncoder(*parts, 0.7)


def test_scores_are_sums_of_the_scores_of_both_encoders(encoder, parts, texts):
    learned, lexical = (part.encode_document(texts).dot(part.encode_query(QUERIES)) for part in parts)
    assert learned.any()
    assert lexical.any()
    found = encoder.encode_document(texts)
    assert found.shape == (len(texts), encoder.n_terms) == (len(texts), len(encoder.vocabulary))
    np.testing.assert_allclose(found.dot(encoder.encode_query(QUERIES)), learned + 0.7 * lexical, rtol=1e-5)


def test_the_vocabulary_joins_the_vocabularies_of_both_parts(encoder, parts):
    learned, lexical = parts
    assert list(encoder.vocabulary[: learned.n_terms]) == list(learned.vocabulary)
    assert list(encoder.vocabulary[learned.n_terms :]) == [f"bm25:{stem}" for stem in lexical.vocabulary]
    assert len(set(encoder.vocabulary)) == encoder.n_terms


def test_spans_come_from_both_parts(encoder, parts):
    found = {(encoder.vocabulary[term], start, end) for term, start, end in encoder.spans("the cats sat")}
    assert ("bm25:cat", 4, 8) in found or ("bm25:cats", 4, 8) in found
    assert ("sat", 9, 12) in found
    assert encoder.tokens("the cats sat") == parts[0].spans("the cats sat")


def test_passages_are_measured_in_the_models_tokens(encoder, parts):
    from lsr.io.document import Document

    document = Document(id="d", text="the cat sat on the mat " * 4)
    found, expected = ([passage.text for passage in split_passages([document], one, 6)] for one in (encoder, parts[0]))
    assert found == expected
    assert len(found) > 2


def test_an_unfitted_encoder_is_refused(parts, texts):
    encoder = HybridEncoder(parts[0], BM25Encoder(), 1)
    assert encoder.needs_fit
    with pytest.raises(EncoderError, match="has seen no corpus"):
        encoder.encode_document(texts)
    encoder.fit(texts)
    assert encoder.encode_query(QUERIES) == HybridEncoder(*parts, 1).encode_query(QUERIES)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_an_invalid_weight_is_refused(parts, weight):
    with pytest.raises(EncoderError, match="must be a number above 0"):
        HybridEncoder(*parts, weight)


def test_a_saved_encoder_gives_the_same_vectors(encoder, parts, texts, tmp_path):
    encoder.save(tmp_path / "saved")
    again = load_encoder(tmp_path / "saved", device="cpu")
    carried = load_encoder_files(encoder.query_files(), device="cpu")
    for other in (again, carried):
        assert other.fingerprint == encoder.fingerprint
        assert other.encode_query(QUERIES) == encoder.encode_query(QUERIES)
        assert other.encode_document(texts) == encoder.encode_document(texts)
    plain = load_encoder(tmp_path / "saved", lexical=0, device="cpu")
    assert plain.fingerprint == parts[0].fingerprint
    other = load_encoder(tmp_path / "saved", lexical=0.5, device="cpu")
    assert [d.split()[0] for d in encoder.fingerprint.differences(other.fingerprint)] == ["weights"]


def test_any_checkpoint_can_be_combined_with_bm25(checkpoint, texts):
    encoder = load_encoder(checkpoint, lexical=0.5, device="cpu")
    assert isinstance(encoder, HybridEncoder)
    assert isinstance(encoder.learned, SpladeEncoder)
    encoder.fit(texts)
    assert encoder.count_truncated(texts) == encoder.learned.count_truncated(texts) == 1


def test_a_damaged_folder_is_refused(encoder, tmp_path):
    encoder.save(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    for broken in ({**config, "weight": "x"}, {**config, "lexical": None}, {**config, "learned": {"type": "hybrid"}}):
        (tmp_path / CONFIG_FILE).write_text(json.dumps(broken))
        with pytest.raises(EncoderError):
            load_encoder(tmp_path)


def test_an_explanation_has_terms_of_both_parts(encoder, texts, tmp_path):
    documents = [{"_id": str(i), "text": text} for i, text in enumerate(texts) if len(text) < 100]
    index = Index.build(tmp_path / "index", documents, encoder=HybridEncoder(encoder.learned, BM25Encoder(), 0.7))
    hit = index.search("the cat sat on a mat", k=1)[0]
    tokens = {c.token: c.kind for c in hit.explain()}
    assert {"cat", "bm25:cat"} <= tokens.keys()
    assert tokens["bm25:cat"] == "match"
    again = Index.open(tmp_path / "index").search("the cat sat on a mat", k=1)[0]
    assert (again.id, again.score) == (hit.id, hit.score)


# --- unknown words ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini():
    """lsr-mini, fitted to a corpus with the words "endpoint" and "kubernetes"."""
    encoder = load_encoder("lsr-mini")
    encoder.fit(["the endpoint of a line", "point of glue", "kubernetes pods", "a q factor"])
    return encoder


@pytest.mark.parametrize(
    ("query", "learned"),
    [
        ("qwrtpsdf", {}),  # word pieces: q ##wr ##tp ##sd ##f
        ("qwrtpsdf, asdfghjkl!", {}),
        ("midpoint", {}),  # mid ##point; the corpus doesn't have "midpoint"
        ("midpoint glue", {"mid": 1, "glue": 1}),
        ("qwrtpsdf glue", {"glue": 1}),
        ("endpoint", {}),  # end ##point; the corpus has "endpoint", so BM25 finds it
        ("endpoints!", {}),  # BM25 finds the stem
        ("an endpoint of", {"an": 1, "of": 1}),  # the other words are stop words
        ("zebra endpoint", {"zebra": 1}),  # the other word is in no document
        ("endpoint kubernetes", {}),
        ("endpoint glue", {"end": 1, "##point": 0.5, "glue": 1}),
        ("point of an endpoint", {"point": 1, "of": 1, "an": 1, "end": 1, "##point": 0.5}),
        ("Qwrtpsdf, glue: end endpoint point!", {"glue": 1, "end": 1, "point": 1, "##point": 0.5}),
        ("q", {"q": 1}),
        ("", {}),
    ],
)
def test_word_pieces_do_not_match_other_words(mini, query, learned):
    terms, weights = mini.split_by_encoder(mini.encode_query(query))[0].row(0)
    found = {mini.vocabulary[term]: weight for term, weight in zip(terms.tolist(), weights.tolist(), strict=True)}
    table = dict(zip(mini.learned.vocabulary, mini.learned.table.tolist(), strict=True))
    wanted = {token: pytest.approx(part * table[token]) for token, part in learned.items() if table[token]}
    assert {token: weight for token, weight in found.items() if token.strip("#").isalnum()} == wanted


def test_whole_words_keep_their_weights(mini):
    query = "what is the strength of glue, and why?"
    found, expected = mini.split_by_encoder(mini.encode_query(query))[0].row(0), mini.learned.encode_query(query).row(0)
    assert [part.tolist() for part in found] == [part.tolist() for part in expected]
    assert mini.learned.encode_query("endpoint").nnz == 2  # without BM25's vocabulary, pieces keep their weights


def test_the_old_name_of_split_by_encoder_gives_a_warning(mini):
    vector = mini.encode_query("glue")
    with pytest.warns(DeprecationWarning, match=r"is now HybridEncoder\.split_by_encoder") as told:
        assert [half.nnz for half in mini.halves(vector)] == [half.nnz for half in mini.split_by_encoder(vector)]
    assert told[0].filename == __file__


@pytest.fixture(scope="module", params=["lsr-tiny", "lsr-mini"])
def pages(request, tmp_path_factory):
    """Pages of a handbook. Some pages were added later."""
    index = Index.build(
        tmp_path_factory.mktemp("pages") / "idx",
        [
            {"_id": "endpoint", "text": "The endpoint of the API answers with JSON."},
            {"_id": "glue", "text": "A glue melts at its melting point, and holds at the flash point."},
            {"_id": "q", "text": "The Q of a resonator at 100 %."},
            {"_id": "ora", "text": "The database says ORA-12541: no listener."},
        ],
        encoder=request.param,
    )
    index.add(
        [
            {"_id": "tns", "text": "The database says ORA-12599: bad checksum."},
            {"_id": "zyntrel", "text": "Zyntrel is taken twice a day."},
            {"_id": "openapi", "text": "app.get_openapi() makes the schema."},
        ]
    )
    index.commit()
    return index


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("endpoint", ["endpoint"]),  # the piece ##point doesn't match "melting point"
        ("endpoints", ["endpoint"]),
        ("what is an endpoint?", ["endpoint"]),
        ("qwrtpsdf", []),
        ("asdfghjkl qwrtpsdf", []),
        ("ORA-12541", ["ora", "tns"]),
        ("12599", ["tns"]),
        ("Zyntrel", ["zyntrel"]),
        ("get_openapi", ["openapi"]),
        ("get openapi", ["openapi"]),
    ],
)
def test_words_that_become_pieces_match_only_documents_that_contain_the_words(pages, query, found):
    hits = [hit.id for hit in pages.search(query)]
    assert hits[: len(found)] == found
    assert hits == found or query.startswith(("what", "get"))  # the other words of these queries match more documents


@pytest.mark.parametrize(
    ("query", "first"),
    [("database error ORA-12541", "ora"), ("database ORA-12599", "tns"), ("take Zyntrel in a day", "zyntrel")],
)
def test_words_that_become_pieces_count_in_longer_queries(pages, query, first):
    assert pages.search(query)[0].id == first
