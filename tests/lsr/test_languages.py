"""The language of a text is detected, and documents in several languages can be searched."""

from __future__ import annotations

import pickle

import pytest

from lsr.encode.analyzer import Analyzer, language_name
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.languages import MixedAnalyzer, analyzer_of, detect_language, saved_analyzer
from lsr.encode.load import load_encoder
from lsr.errors import EncoderError
from lsr.index.index import Index

TEXTS = {
    "english": "The houses on the hill were built before the war, and they are still standing.",
    "german": "Die Häuser auf dem Hügel wurden vor dem Krieg gebaut und stehen noch immer.",
    "french": "Les maisons sur la colline ont été construites avant la guerre et elles sont toujours debout.",
    "spanish": "Las casas de la colina fueron construidas antes de la guerra y todavía están en pie.",
    "italian": "Le case sulla collina sono state costruite prima della guerra e sono ancora in piedi.",
    "portuguese": "As casas na colina foram construídas antes da guerra e ainda estão de pé, não é?",
    "dutch": "De huizen op de heuvel werden voor de oorlog gebouwd en ze staan er nog steeds.",
    "swedish": "Husen på kullen byggdes före kriget och de står fortfarande kvar, men inte alla.",
    "finnish": "Talot mäellä rakennettiin ennen sotaa, ja ne ovat yhä pystyssä, mutta eivät kaikki.",
    "hungarian": "A dombon álló házak a háború előtt épültek, és még mindig állnak, de nem mind.",
    "turkish": "Tepedeki evler savaştan önce inşa edildi ve hâlâ ayakta, ama hepsi değil.",
    "russian": "Дома на холме были построены до войны и всё ещё стоят.",
    "greek": "Τα σπίτια στον λόφο χτίστηκαν πριν από τον πόλεμο.",
    "arabic": "بنيت البيوت على التل قبل الحرب وما زالت قائمة.",
    "hindi": "पहाड़ी पर घर युद्ध से पहले बनाए गए थे।",
}
UNSPACED = {
    "ja": "丘の上の家は戦争の前に建てられた。Python で書く。",
    "zh": "山上的房子是战前建造的。",
    "th": "บ้านบนเนินเขาสร้างก่อนสงคราม",
}
ALL = tuple(MixedAnalyzer().marks)


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_of_a_text_is_detected(language):
    assert detect_language(TEXTS[language], ALL) == language
    assert detect_language(TEXTS[language].upper(), ALL) == language


@pytest.mark.parametrize("text", UNSPACED.values(), ids=UNSPACED)
def test_texts_in_scripts_without_spaces_are_treated_as_english(text):
    assert detect_language(text, ALL) == "english"
    assert detect_language(text, ("german", "none")) == "none"


@pytest.mark.parametrize("text", ["", "12 34", "Zürich Reykjavík", "!?", "\ud800"])
def test_texts_of_unclear_language_get_the_first_language(text):
    assert detect_language(text, ALL) is None
    assert MixedAnalyzer().language_of(text) == "english"
    assert MixedAnalyzer("de,fr").language_of(text) == "german"


@pytest.mark.parametrize(
    "text", ["Будинки на пагорбі були збудовані до війни", "خانه‌های روی تپه پیش از جنگ ساخته شدند"]
)
def test_unsupported_languages_of_a_script_are_not_stemmed(text):
    assert detect_language(text, ALL) == "none"


@pytest.mark.parametrize(
    ("given", "name"), [("de", "german"), ("de-AT", "german"), ("EN_us", "english"), ("ja", "none"), ("Greek", "greek")]
)
def test_languages_have_names_and_codes(given, name):
    assert language_name(given) == name
    assert BM25Encoder(language=given).fingerprint == BM25Encoder(language=name).fingerprint


@pytest.mark.parametrize("language", ["xx", "de,xx", ",", "auto,de", ""])
def test_unknown_languages_are_refused(language):
    with pytest.raises(EncoderError, match=r"no language .* and auto"):
        load_encoder("bm25", language=language)


def test_a_text_is_analyzed_by_the_analyzer_of_its_language():
    assert type(analyzer_of("german", "light")) is Analyzer
    mixed = MixedAnalyzer()
    for language, text in TEXTS.items():
        terms, length = Analyzer(language).document(text)
        assert mixed.document(text) == ([*terms, f"[{language}]"], length)
        assert mixed.spans(text) == Analyzer(language).spans(text)
        assert mixed.fillers(text) == Analyzer(language).fillers(text)
        assert mixed.query(text, [language]) == Analyzer(language).query(text)


def test_a_query_has_stems_of_all_languages_and_stop_words_of_its_own_language():
    mixed = MixedAnalyzer("en,de")
    weights = mixed.query("die Häuser der Stadt")
    assert {"haus": 1.0, "stadt": 1.0, "häuser": 0.5}.items() <= weights.items()
    assert weights["die"] < 0.5
    # The language of a single word is unclear, so both forms count.
    assert mixed.query("Häuser") == {"häuser": 1.0, "haus": 1.0}
    assert mixed.query("Häuser", ["german"]) == {"haus": 1.0}
    assert mixed.query("丘の上") == Analyzer("none").query("丘の上")


@pytest.fixture(scope="module", params=["auto", "en,de,fr,es,ru,ar,ja"])
def index(request, tmp_path_factory):
    """An index with one document per language."""
    path = tmp_path_factory.mktemp("languages") / "idx"
    encoder = load_encoder("bm25", language=request.param)
    documents = {
        **{name: TEXTS[name] for name in ("english", "german", "french", "spanish", "russian", "arabic")},
        **UNSPACED,
    }
    Index.build(path, [{"_id": name, "text": text} for name, text in documents.items()], encoder=encoder)
    return Index.open(path)


@pytest.mark.parametrize(
    ("query", "found", "marked"),
    [
        ("house", "english", "houses"),
        ("the house", "english", "houses"),
        ("Haus", "german", "Häuser"),
        ("das Haus", "german", "Häuser"),
        ("gebautes", "german", "gebaut"),
        ("la maison", "french", "maisons"),
        ("casa", "spanish", "casas"),
        ("construida", "spanish", "construidas"),
        ("дом", "russian", "Дома"),
        ("بيت", "arabic", None),
        ("戦争", "ja", "戦争"),
        ("房子", "zh", "房子"),
        ("pythons", "ja", "Python"),
    ],
)
def test_documents_are_found_by_the_stems_of_their_language(index, query, found, marked):
    hits = index.search(query, k=3)
    if marked is None:  # stemming doesn't handle Arabic broken plurals
        assert hits == [] or hits[0].id == found
        return
    assert hits[0].id == found
    assert f"**{marked}**" in hits[0].highlight()
    assert next(iter(hits[0].explain())).kind == "match"


def test_spelling_suggestions_know_the_words_of_all_languages(index):
    assert index.did_you_mean("Häusern Kriege maison") is None
    assert index.did_you_mean("Krieeg") == "krieg"
    assert all("[" not in one.text for one in index.suggest("ge", 20))


def test_the_languages_of_an_index_follow_its_documents(tmp_path):
    encoder = load_encoder("bm25", language="auto")
    with Index.build(tmp_path / "idx", [{"_id": "en", "text": TEXTS["english"]}], encoder=encoder) as index:
        assert index.query_vectors(["houses, Häuser"]).nnz == 1  # the query has only English stems
        index.add([{"_id": "de", "text": TEXTS["german"]}])
        index.commit()
        assert index.search("Krieg")[0].id == "de"
        index.delete(["de"])
        index.commit()
        assert index.search("Krieg") == []


def test_a_saved_encoder_keeps_languages_and_words(tmp_path):
    encoder = load_encoder("bm25", language="auto", stop_words="drop")
    texts = list(TEXTS.values())
    encoder.fit(texts)
    encoder.save(tmp_path / "saved")
    for one in (load_encoder(tmp_path / "saved"), pickle.loads(pickle.dumps(encoder))):
        assert one.fingerprint == encoder.fingerprint
        assert one.encode_query(texts).data.tolist() == encoder.encode_query(texts).data.tolist()
        assert one.analyzer.settings() == encoder.analyzer.settings()
    with pytest.raises(EncoderError, match="analyzer version 99"):
        saved_analyzer({**encoder.analyzer.settings(), "version": 99})
