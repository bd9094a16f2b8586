"""The analyzer finds words in any script, normalizes them, and gives their positions in the text."""

from __future__ import annotations

import pickle
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.encode.analyzer import Analyzer, aligned, normalized
from lsr.encode.languages import saved_analyzer
from lsr.errors import EncoderError

ANY_TEXT = st.text(
    st.sampled_from(
        "aIiİıſßΣς'’._+#-1 é\u0301\u0307\u00ad\u200b\u200dﬁＣ＋が\u3099ｶﾞ漢字ไทย한\u1112\u1161\u11abहिन्दीשָׁלוֹםكِتَابَ"
    ),
    max_size=30,
)


@pytest.fixture(scope="module")
def analyzer():
    return Analyzer()


def finds(query, text, analyzer):
    """Whether a document has all terms of a query."""
    wanted = [term for term, weight in analyzer.query(query).items() if weight]
    return bool(wanted) and set(wanted) <= set(analyzer.document(text)[0])


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("भाषा", "हिन्दी भाषा"),
        ("कि", "हम कि तुम"),
        ("caf\u00e9", "cafe\u0301"),
        ("software", "soft\u00adware"),
        ("zerowidth", "zero\u200bwidth"),
        ("fine", "ﬁne"),
        ("full", "ｆｕｌｌ"),
        ("istanbul", "İstanbul"),
        ("ISTANBUL", "i\u0307stanbul"),
        ("strasse", "Straße"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("كتاب", "كِتَابٌ"),
        ("שלום", "שָׁלוֹם"),
        ("می\u200cخواهم", "میخواهم"),
        ("依赖", "我们使用依赖注入。"),
        ("注", "我们使用依赖注入。"),
        ("日本", "東京は日本の首都です"),
        ("ガ", "ｶﾞ"),
        ("한국", "한국어를 배운다"),
        ("한", "\u1112\u1161\u11ab국"),
        ("ไทย", "ภาษาไทยง่าย"),
        ("ລາວ", "ພາສາລາວ"),
        ("ខ្មែរ", "ភាសាខ្មែរ"),
        ("မြန်မာ", "မြန်မာဘာသာ"),
        ("தமிழ்", "தமிழ் மொழி"),
        ("বাংলা", "বাংলা ভাষা"),
        ("C", "written in C"),
        ("R", "R or Python"),
        ("5", "version 5"),
        ("C++", "C++17? No: C++."),
        ("c#", "C# and F#"),
        ("F#", "C#,F#"),
        (".NET", "on .NET 8"),
        ("net", "on .NET 8"),
        ("node.js", "uses Node.js."),
        ("node js", "uses Node.js."),
        ("ORA-12541", "ORA-12541: no listener"),
        ("12541", "ORA-12541: no listener"),
        ("ipv6", "an IPv6 address"),
        ("get_openapi", "call get_openapi()"),
        ("get openapi", "call get_openapi()"),
        ("get open api", "call getOpenApi()"),
        ("getOpenApi", "call getOpenApi()"),
        ("urls", "parseURLs"),
        ("__init__", "def __init__(self)"),
        ("1.2.3", "v1 and 1.2.3"),
        ("e.g.", "fruit, e.g. apples"),
        ("wings", "the wing's edge"),
        ("O'Reilly", "O’Reilly"),
    ],
)
def test_queries_match_equivalent_spellings(query, text, analyzer):
    assert finds(query, text, analyzer)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("C", "C++ and C#"),
        ("C++", "C and C#"),
        ("s", "the wing's edge"),
        ("赖依", "依赖"),
        ("ur", "URLs"),
    ],
)
def test_queries_do_not_match_different_words(query, text, analyzer):
    assert not finds(query, text, analyzer)


@pytest.mark.parametrize("text", ["", "?", "…", "\u00ad", "\u200b", "🙂", "! ? - + #", "_____", "\ud800"])
def test_texts_without_words_have_no_terms(text, analyzer):
    assert analyzer.query(text) == {}
    assert analyzer.document(text) == ([], 0)


def test_document_length_counts_words(analyzer):
    assert analyzer.document("The wing of get_openapi in node.js, C++ and 依赖")[1] == 1 + 2 + 2 + 1 + 2


def test_the_weight_of_stop_words_falls_with_the_number_of_other_words(analyzer):
    assert analyzer.query("before") == {"befor": 1.0}
    assert analyzer.query("before the wing") == {"wing": 1, "befor": 0.3, "the": 0.3}
    assert analyzer.query("the supersonic wing flutters in a wind tunnel of steel")["the"] == 0.25
    assert analyzer.query("wing wing")["wing"] == 2


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ("light", "onli befor the wing"),
        ("drop", "wing"),
        ("lucene", "onli befor wing"),
        ("keep", "onli befor the wing"),
    ],
)
def test_each_stop_word_setting_keeps_the_expected_words(choice, kept):
    analyzer = Analyzer(stop_words=choice)
    assert analyzer.document("only before the wing")[0] == kept.split()
    assert set(analyzer.query("only before the wing")) == set(kept.split())
    assert saved_analyzer(analyzer.settings()).settings() == analyzer.settings()
    assert pickle.loads(pickle.dumps(analyzer)).settings() == analyzer.settings()


def test_turkish_capitals_match_small_letters():
    analyzer = Analyzer("turkish")
    assert analyzer.query("IŞIK") == analyzer.query("ışık")
    assert analyzer.query("İSTANBUL") == analyzer.query("istanbul")


def test_unknown_settings_are_refused():
    with pytest.raises(EncoderError, match=r"no language 'klingon'; there are: none, .*english.*swedish"):
        Analyzer("klingon")
    with pytest.raises(EncoderError, match="stop_words='some': there are light, drop, lucene, keep"):
        Analyzer(stop_words="some")
    with pytest.raises(EncoderError, match="analyzer version 99"):
        saved_analyzer({**Analyzer().settings(), "version": 99})


def test_a_lone_combining_mark_does_not_crash_the_analyzer(analyzer):
    analyzer.spans("\u0301 \u0e31 \u3099")


# --- positions


def test_spans_point_into_the_original_text(analyzer):
    text = "ﬁne cafe\u0301 soft\u00adware İstanbul getOpenApi ｶﾞ"
    found = {(term, text[start:end]) for term, start, end in analyzer.spans(text)}
    assert found == {
        ("fine", "ﬁne"),
        ("café", "cafe\u0301"),
        ("softwar", "soft\u00adware"),
        ("istanbul", "İstanbul"),
        ("getopenapi", "getOpenApi"),
        ("get", "get"),
        ("open", "Open"),
        ("api", "Api"),
        ("ガ", "ｶﾞ"),
    }


@given(ANY_TEXT)
def test_normalized_characters_map_to_their_original_positions(text):
    clean, places = aligned(text)
    assert clean == normalized(text)
    for at in range(len(clean)):
        start, end = places(at, at + 1)
        assert 0 <= start < end <= len(text)
        assert clean[at] in normalized(text[start:end])


@given(ANY_TEXT)
def test_spans_and_documents_have_the_same_terms(text):
    for analyzer in (Analyzer(), Analyzer("none", "keep")):
        terms, length = analyzer.document(text)
        assert Counter(term for term, _, _ in analyzer.spans(text)) == Counter(terms)
        assert 0 <= length <= len(terms)


@given(ANY_TEXT)
def test_every_text_matches_itself(text):
    analyzer = Analyzer()
    assert set(analyzer.query(text)) <= set(analyzer.document(text)[0])


@given(ANY_TEXT, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_unicode_forms_are_equivalent(text, form):
    analyzer = Analyzer()
    assert analyzer.document(unicodedata.normalize(form, text)) == analyzer.document(text)


def test_the_lucene_analyzer_gives_the_tokens_of_lucene():
    analyzer = Analyzer("lucene")
    # Like Lucene's EnglishAnalyzer: no possessives, no stop words, Porter stems; "3.14" and "node.js" stay one token.
    assert analyzer.document("The wing's flows at 3.14 and U.S.A, e-mail of node.js in 1,000 ponies' flies")[0] == (
        ["wing", "flow", "3.14", "u.s.a", "e", "mail", "node.j", "1,000", "poni", "fli"]
    )
    assert analyzer.query("flows of the wings wings") == {"flow": 1, "wing": 2}
    assert [analyzer.document("word " * n)[1] for n in (39, 40, 41, 55, 56, 59, 161)] == [39, 40, 40, 54, 56, 56, 152]
    assert pickle.loads(pickle.dumps(analyzer)).document("flies")[0] == ["fli"]
    assert saved_analyzer(analyzer.settings()).document("flies")[0] == ["fli"]
    assert Analyzer("lucene", "light").query("the who") == {"who": 1}
    assert analyzer.spans("The wing's flow") == [("wing", 4, 8), ("flow", 11, 15)]
