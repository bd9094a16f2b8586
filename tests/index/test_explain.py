"""Highlights and origins: marks never nest, texts stay unchanged, and the part with the best matches is shown."""

from __future__ import annotations

import html
import json
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsr import Index, load_encoder
from lsr.encode.passages import Passages
from lsr.errors import EncoderError
from lsr.index.search.explain import Contribution, Explanation, readable, word_at
from lsr.index.search.highlight import highlight
from lsr.sparse import SparseMatrix

TEXT = "Flutter of a swept wing at supersonic speeds"


def term(number, share, *spans, origin=None):
    kind = "match" if spans else "expansion"
    return Contribution(number, f"t{number}", 1.0, share, share, share, kind, spans, origin)


def places(text, *words):
    return [(text.index(word), text.index(word) + len(word)) for word in words]


# --- marking ----------------------------------------------------------------------------------------------------------


def test_matches_and_origins_are_marked():
    flutter, wing, speeds = places(TEXT, "Flutter", "wing", "speeds")
    terms = [term(1, 0.5, flutter), term(2, 0.3, wing), term(3, 0.2, origin=speeds)]
    assert highlight(TEXT, terms) == "**Flutter** of a swept **wing** at supersonic _speeds_"
    assert highlight(TEXT, terms, ("<", ">"), ("(", ")")) == "<Flutter> of a swept <wing> at supersonic (speeds)"
    assert highlight(TEXT, []) == TEXT
    assert highlight("", []) == ""


@pytest.mark.parametrize(
    ("terms", "marked"),
    [
        ([term(1, 1, (0, 3), (3, 5))], "**abcde**fgh"),  # touching
        ([term(1, 1, (0, 4)), term(2, 1, (2, 6))], "**abcdef**gh"),  # overlapping
        ([term(1, 1, (0, 8)), term(2, 1, (2, 4))], "**abcdefgh**"),  # nested
        ([term(1, 1, (2, 4)), term(2, 1, origin=(0, 6))], "**abcdef**gh"),  # a match in an origin
        ([term(1, 1, (0, 6)), term(2, 1, origin=(2, 4))], "**abcdef**gh"),  # an origin in a match
        ([term(1, 1, (0, 2)), term(2, 1, origin=(2, 4))], "**ab**_cd_efgh"),  # adjacent
        ([term(1, 1, origin=(0, 4)), term(2, 1, origin=(0, 4))], "_abcd_efgh"),
    ],
)
def test_adjacent_highlights_are_merged(terms, marked):
    assert highlight("abcdefgh", terms) == marked
    assert highlight("abcdefgh", terms[::-1]) == marked


def test_a_combining_accent_stays_with_its_letter():
    text = unicodedata.normalize("NFD", "über Café")
    assert highlight(text, [term(1, 1, (0, 1)), term(2, 1, (6, 10))]) == "**u\u0308**ber **Cafe\u0301**"


def test_html_is_escaped_except_the_highlights():
    text = 'the <b> & "wing" flutter'
    wing, flutter = places(text, '"wing"', "flutter")
    why = Explanation("a", 1.0, (term(1, 0.6, wing), term(2, 0.4, origin=flutter)), text)
    marked = 'the &lt;b&gt; &amp; <mark>&quot;wing&quot;</mark> <mark class="expansion">flutter</mark>'
    assert why.highlight(html=True) == marked
    assert why.highlight(html=True, before="<em>", after="</em>", expansion=("", "")) == (
        "the &lt;b&gt; &amp; <em>&quot;wing&quot;</em> flutter"
    )
    assert why.highlight() == 'the <b> & **"wing"** _flutter_'
    assert why.highlight(before="[", after="]", expansion=("(", ")")) == 'the <b> & ["wing"] (flutter)'


# --- words ------------------------------------------------------------------------------------------------------------


def test_the_scores_of_all_terms_of_a_word_are_added_up():
    text = "Uploads of pictures"
    parts = [("bm25:upload", 0, 7), ("##load", 2, 6), ("up", 0, 2), ("bm25:pictur", 11, 19)]
    terms = [
        Contribution(n, token, 2.0, 1.5, 3.0, 0.25, "match", ((start, end),), word=word_at(text, start, end))
        for n, (token, start, end) in enumerate(parts)
    ]
    why = Explanation("a", 12.0, tuple(terms), text)
    first, second = why.by_word()
    assert (first.word, first.spans, first.query_weight, first.impact, first.score) == ("Uploads", ((0, 7),), 6, 1.5, 9)
    assert (second.word, second.share) == ("pictures", 0.25)
    assert why.words() == "Uploads 75%, pictures 25%"
    named = why.named(dict.fromkeys(range(3), "upload"))
    assert named.words() == "upload 75%, pictures 25%"
    for shown in (str(named), named._repr_html_()):
        assert "##" not in shown
        assert "bm25:" not in shown


def test_terms_without_a_position_are_readable():
    tokens = ["##load", "bm25:wing", "Ġflap", "▁lift", "##", "bm25:##x", "Ġ"]
    assert list(map(readable, tokens)) == ["…load", "wing", "flap", "lift", "##", "…x", "Ġ"]


@pytest.mark.parametrize(
    ("text", "part", "word"),
    [
        ("the uploads", "load", "uploads"),
        ("naïve cafés.", "caf", "cafés"),
        ("snake_case_name", "case", "snake_case_name"),
        ("空力弾性の翼", "弾性", "弾性"),
        ("lsrの索引", "sr", "lsr"),
        ("x" * 500, "x", "x" * 500),
        ("a-b", "-", "a-b"),
    ],
)
def test_the_function_word_at_returns_the_whole_word(text, part, word):
    start = text.index(part)
    assert word_at(text, start, start + len(part)) == word


def test_explanations_use_the_words_of_the_query(tmp_path):
    documents = [{"_id": "a", "text": "Uploading pictures"}, {"_id": "b", "text": "A picture"}]
    index = Index.build(tmp_path / "idx", documents, encoder="lsr-tiny")
    for found in (index.search("upload pictures"), *index.search_batch(["upload pictures"])):
        words = [c.word for c in found[0].explain(origins=False).by_word()]
        assert sorted(words) == ["pictures", "upload"]
    assert {c.word for c in index.explain("upload pictures", "b", origins=False)} == {"pictures", "upload"}
    tokens = [c.token for c in index.explain("upload pictures", "b", origins=False)]
    assert "bm25:pictur" in tokens  # tokens keep their prefix, words don't


# --- the best part ----------------------------------------------------------------------------------------------------


def test_the_part_with_the_largest_share_is_shown():
    text = "wing " + "and so on " * 20 + "the flutter of a plate " + "and so forth " * 20 + "heat"
    wing, flutter, plate, heat = places(text, "wing", "flutter", "plate", "heat")
    terms = [term(1, 0.4, wing), term(2, 0.3, flutter), term(3, 0.2, origin=plate), term(4, 0.1, heat)]
    assert highlight(text, terms, length=30) == "… the **flutter** of a _plate_ and so …"
    assert highlight(text, terms[:1], length=10) == "**wing** and …"
    assert highlight(text, terms[3:], length=15) == "… so forth **heat**"
    assert highlight(text, [], length=12) == "wing and so …"


def test_a_repeated_term_counts_once():
    text = "wing wing wing wing " + "x " * 50 + "flutter plate"
    flutter, plate = places(text, "flutter", "plate")
    terms = [term(1, 0.4, (0, 4), (5, 9), (10, 14), (15, 19)), term(2, 0.3, flutter), term(3, 0.3, plate)]
    assert highlight(text, terms, length=20).endswith("x **flutter** **plate**")


def test_the_first_of_equal_parts_is_shown():
    text = "a wing " + "x " * 30 + "a wing"
    assert highlight(text, [term(1, 1, (2, 6), (69, 73))], length=8) == "a **wing** x …"


def test_a_word_longer_than_the_part_is_cut():
    text = "x" * 30
    assert highlight(text, [term(1, 1, (10, 20))], length=10) == f"… **{'x' * 10}** …"
    assert highlight(text, [term(1, 1, (0, 30))], length=4) == "**xxxx** …"


@pytest.mark.parametrize("length", [0, -3])
def test_a_length_below_one_is_refused(length):
    with pytest.raises(ValueError, match=f"length must be at least 1, got {length}"):
        highlight(TEXT, [], length=length)


@st.composite
def marked_texts(draw):
    text = draw(st.text("ab \u0301é<&\n東", max_size=60))
    spots = st.integers(0, len(text)).flatmap(lambda i: st.tuples(st.just(i), st.integers(i, len(text))))
    spots = spots.filter(lambda span: span[0] < span[1])
    if not text:
        return text, []
    shares = st.floats(0, 1)
    matches = st.builds(lambda n, share, spans: term(n, share, *spans), st.integers(), shares, st.lists(spots))
    origins = st.builds(lambda n, share, span: term(n, share, origin=span), st.integers(), shares, spots)
    return text, draw(st.lists(st.one_of(matches, origins), max_size=6))


@given(marked_texts(), st.one_of(st.none(), st.integers(1, 70)), st.booleans())
@example(("   ", []), 1, False)
def test_removing_the_marks_of_a_highlight_gives_the_text(marked, length, escape):
    text, terms = marked
    found = highlight(text, terms, ("\x01", "\x02"), ("\x03", "\x04"), length, escape)
    assert re.fullmatch("[^\x01-\x04]*((\x01[^\x01-\x04]+\x02|\x03[^\x01-\x04]+\x04)[^\x01-\x04]*)*", found)
    bare = re.sub("[\x01-\x04]", "", found)
    bare = html.unescape(bare) if escape else bare
    if length is None:
        assert bare == text
        return
    inner = bare.removeprefix("… ").removesuffix(" …")
    assert len(inner) <= length
    assert inner in text
    # An ellipsis appears only if text was cut.
    assert (bare.startswith("… "), bare.endswith(" …")) == (False, False) or len(text.strip()) > len(inner.strip())


@given(marked_texts(), st.integers(1, 30))
def test_no_other_part_has_a_larger_share(marked, length):
    text, terms = marked
    words = [m.span() for m in re.finditer(r"\S+", text)]
    spans = [span for c in terms for span in (*c.spans, c.origin or (0, 0))]
    across = any(re.search(r"\s", text[slice(*span)]) for span in spans)  # whether a term spans several words
    if across or any(end - start > length for start, end in words) or len(text) <= length:
        return

    def share(start, end):
        spans = {c.term: [*c.spans, *([c.origin] if c.origin else [])] for c in terms}
        shares = {c.term: c.share for c in terms}
        return sum(shares[t] for t, ss in spans.items() if any(s < end and e > start for s, e in ss))

    if len({c.term for c in terms}) < len(terms):
        return
    runs = [(a, b) for a, _ in words for _, b in words if 0 < b - a <= length]
    best = max((share(*run) for run in runs), default=0)
    found = highlight(text, terms, ("", ""), ("", ""), length)
    inner = found.removeprefix("… ").removesuffix(" …")
    starts = [m.start() for m in re.finditer(f"(?={re.escape(inner)})", text)]
    assert max(share(at, at + len(inner)) for at in starts) >= best - 1e-6


# --- with an index ----------------------------------------------------------------------------------------------------


@pytest.fixture
def encoder():
    """BM25 that adds the term "flutter" to every document. The origin of this expansion is the text's last word."""
    made = load_encoder("bm25")
    made.fit(["wing flutter", "car"])
    flutter, wing = (list(made.vocabulary).index(t) for t in ("flutter", "wing"))
    made.encode_document = lambda texts: SparseMatrix.from_dicts([{flutter: 2.0, wing: 1.0}] * len(texts), 3)
    asked = []

    def origins(text, terms):
        asked.append((text, list(terms)))
        start = len(text.rstrip()) - len(text.split()[-1])
        return {t: (start, len(text.rstrip())) for t in terms}

    made.origins, made.asked, made.flutter = origins, asked, flutter
    return made


def test_an_expansion_has_an_origin_in_the_text(tmp_path, encoder):
    index = Index.build(tmp_path / "idx", [{"_id": "a", "title": "Wing", "text": "it shakes"}], encoder=encoder)
    hit = index.search("wing flutter car")[0]
    why = hit.explain()
    origins = {c.token: (c.kind, c.origin and why.content[slice(*c.origin)]) for c in why}
    assert origins == {"flutter": ("expansion", "shakes"), "wing": ("match", None)}
    assert encoder.asked == [("Wing it shakes", [encoder.flutter])]
    assert why.words() == "flutter*(shakes) 67%, wing 33%"
    assert '← 8:14 "shakes"' in str(why)
    assert {t["token"]: t["origin"] for t in json.loads(json.dumps(why.to_json()))["terms"]} == {
        "flutter": [8, 14],
        "wing": None,
    }
    assert hit.highlight() == "**Wing**\nit _shakes_"
    assert hit.highlight(7, before="<", after=">", expansion=("(", ")")) == "… (shakes)"


def test_origins_are_given_only_if_requested_and_known(tmp_path, encoder):
    documents = [{"_id": "a", "text": "The wing shakes"}]
    index = Index.build(tmp_path / "idx", documents, encoder=encoder)
    encoder.asked.clear()
    hit = index.search("wing flutter")[0]
    assert hit.explain(origins=False).words() == index.explain("wing flutter", "a", origins=False).words()
    assert hit.explain(origins=False).words() == "flutter* 67%, wing 33%"
    index.search("wing")[0].explain()  # this query matches no expansion
    assert encoder.asked == []

    def fails(text, terms):
        raise EncoderError("the model is elsewhere")

    index.encoder.origins = fails
    assert hit.explain().words() == "flutter* 67%, wing 33%"
    bare = Index.build(tmp_path / "bare", documents, encoder=encoder, store_text=False)
    why = bare.search("wing flutter")[0].explain()
    assert [(c.kind, c.origin) for c in why] == [("", None), ("", None)]
    assert why.highlight(5) == why.highlight(html=True) == ""


def test_a_passage_is_highlighted_in_its_own_text(tmp_path, encoder):
    documents = [{"_id": "a", "text": "wing car wing car flutter car"}]
    index = Index.build(tmp_path / "idx", documents, encoder=encoder, passages=Passages(2))
    why = index.explain("flutter wing", "a#1")
    assert why.content == "wing car"
    assert why.words() == "flutter*(car) 67%, wing 33%"
    assert why.highlight() == "**wing** _car_"


# --- on the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def idx(tmp_path, lsr_command):
    (tmp_path / "docs.jsonl").write_text(json.dumps({"_id": "a", "text": "so " * 60 + "heat\non a flat plate"}))
    assert lsr_command("index", tmp_path / "docs.jsonl", "--out", tmp_path / "idx", "--encoder", "bm25").code == 0
    return tmp_path / "idx"


def test_highlights_are_in_json_only_on_request(tmp_path, idx, lsr_command):
    assert "highlights" not in lsr_command("search", idx, "heat").lines()[0]
    assert lsr_command("search", idx, "plate", "--highlight", 12).lines()[0]["highlights"] == "… a flat **plate**"
    (tmp_path / "q.jsonl").write_text('{"_id": "q", "text": "heat"}\n')
    ran = lsr_command("search", idx, "--queries", tmp_path / "q.jsonl", "--highlight", 10)
    assert ran.lines()[0]["highlights"] == "… so **heat**\non …"
    assert lsr_command("search", idx, "heat", "--highlight", 0).code == 2


def test_the_table_shows_the_largest_contributions(idx, lsr_command, monkeypatch):
    monkeypatch.setattr("lsr.console.is_terminal", lambda: True)
    ran = lsr_command("search", idx, "flat plate", "--highlight", 20)
    assert "… heat on a flat plate" in ran.out
    assert "\x1b" not in ran.out  # no colours, because the real stdout isn't a terminal
    assert "so heat on a flat plate  flat 50%" in lsr_command("search", idx, "flat plate").out


def test_styles_do_not_change_the_width_of_cells():
    from lsr.console import table

    plain = table([("a wing", "1"), ("b", "22")], ("text", "n"), "<>")
    styled = table([("a \x1b[1mwing\x1b[0m", "1"), ("b", "22")], ("text", "n"), "<>")
    assert styled.replace("\x1b[1m", "").replace("\x1b[0m", "") == plain
    assert plain.splitlines()[2:] == ["a wing   1", "b       22"]


# --- words without weight, titles, and Markdown -------------------------------------------------------------------


def test_a_word_without_a_weight_is_shown_as_unweighted(tmp_path):
    """A word may lack a weight because it follows the last token that the encoder reads."""
    encoder = load_encoder("bm25", language="none")
    encoder.fit(["heat", "flat", "plate", "wing"])
    documents = [
        {"_id": "a", "text": "heat in a flat plate", "vector": {"heat": 2.0}},
        {"_id": "b", "text": "plate of a wing", "vector": {"plate": 1.0, "wing": 1.0}},
    ]
    why = Index.build(tmp_path / "idx", documents, encoder=encoder).explain("heat plate wing", "a")
    assert {c.token: c.kind for c in why} == {"heat": "match", "plate": "unweighted", "wing": "missing"}
    assert {c.token: c.spans for c in why}["plate"] == ((15, 20),)
    assert why.highlight() == "**heat** in a flat plate"
    assert 'unweighted  15:20 "plate"' in str(why)


def test_highlights_separate_title_and_text(tmp_path):
    documents = [{"_id": "a", "title": "Flat plates", "text": "heat in a plate"}, {"_id": "b", "text": " x"}]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25")
    why = index.explain("plate heat", "a")
    assert why.highlight() == "Flat **plates**\n**heat** in a **plate**"
    assert why.highlight(before="[", after="]", between=": ") == "Flat [plates]: [heat] in a [plate]"
    assert why.highlight(12) == "… **plates**\n**heat** …"
    assert index.explain("x", "b").highlight() == " **x**"


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("Use **FastAPI** for it", "Use **FastAPI** for it"),
        ("**FastAPI framework** is", "**FastAPI** framework is"),
        ("**Bold** and FastAPI", "**Bold** and **FastAPI**"),
        ("*FastAPI* is", "***FastAPI*** is"),
        ("f(**FastAPI) and 2 ** 3", "f(****FastAPI**) and 2 ** 3"),  # unpaired asterisks aren't Markdown marks
        ("**not**\nFastAPI **so**", "**not**\n**FastAPI** **so**"),
    ],
)
def test_highlights_replace_markdown_marks(text, marked):
    at = text.index("FastAPI")
    assert highlight(text, [term(1, 1, (at, at + 7))]) == marked


def test_highlights_of_origins_replace_markdown_marks():
    assert highlight("a _fast_ car", [term(1, 1, origin=(3, 7))]) == "a _fast_ car"
    assert highlight("set max_fast_x", [term(1, 1, origin=(8, 12))]) == "set max__fast__x"
    assert highlight("a **fast** car", [term(1, 1, (4, 8))], escape=True) == "a ****fast**** car"
    assert highlight("a **fast** car", [term(1, 1, (4, 8))], ("<", ">")) == "a **<fast>** car"


@pytest.mark.parametrize("impacts", ["uint8", "float32"])
@pytest.mark.parametrize("parts", [1, 3])
def test_an_explanation_has_the_score_of_the_search(tmp_path, impacts, parts):
    random = np.random.default_rng(parts)
    documents = np.where(random.random((60, 40)) < 0.4, random.gamma(2, 1, (60, 40)), 0).astype(np.float32)
    index = Index.build(tmp_path / "idx", SparseMatrix.from_dense(documents[:20] / parts**3), impacts=impacts)
    for part in range(1, parts):
        index.add(
            SparseMatrix.from_dense(documents[20 * part : 20 * part + 20]), ids=[f"{part}/{i}" for i in range(20)]
        )
        index.commit(merge=False)
    queries = np.where(random.random((30, 40)) < 0.3, random.gamma(2, 1, (30, 40)), 0).astype(np.float32)
    for hits in index.search_batch(SparseMatrix.from_dense(queries), 5):
        for hit in hits:
            why = hit.explain()
            if impacts == "uint8":
                assert why.score == hit.score
            assert why.score == pytest.approx(hit.score, rel=1e-6)
            assert sum(c.score for c in why) == pytest.approx(why.score, rel=1e-12)
            assert all(c.score == pytest.approx(c.query_weight * c.impact, rel=1e-4) for c in why)


# --- which matches are marked -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    documents = [
        {"_id": "a", "title": "The wing", "text": "How the wing of an aeroplane flutters in the wind."},
        {"_id": "b", "text": "The Who, and vitamin A"},
        {"_id": "c", "text": "Cats sleep."},
    ]
    return Index.build(tmp_path_factory.mktemp("known") / "idx", documents, encoder="bm25")


@pytest.mark.parametrize(
    ("query", "doc", "marked"),
    [
        (
            "how do the wings flutter in a storm",
            "a",
            "The **wing**\nHow the **wing** of an aeroplane **flutters** in the wind.",
        ),
        ("the who", "b", "**The** **Who**, and vitamin A"),  # only stop words match
        ("vitamin a", "b", "The Who, and **vitamin** A"),
        ("who takes the vitamin", "b", "The Who, and **vitamin** A"),
        ("the storm", "a", "**The** wing\nHow **the** wing of an aeroplane flutters in **the** wind."),
        ("the storm", "c", "Cats sleep."),
    ],
)
def test_stop_words_are_highlighted_only_if_nothing_else_matches(known, query, doc, marked):
    why = known.explain(query, doc)
    assert why.highlight() == marked
    assert sum(c.score for c in why) == pytest.approx(why.score)  # unmarked stop words still count in the score
    assert why.highlight(5).count("**") in (0, 2)


def test_terms_of_little_weight_are_not_highlighted(tmp_path):
    index = Index.build(tmp_path / "idx", [{"_id": "x", "vector": {"a": 1, "b": 1, "c": 1, "d": 1}}])
    why = index.explain({"a": 2.0, "b": 0.2, "c": 0.09, "d": 0.1}, "x")
    assert {c.token: c.marked for c in why} == {"a": True, "b": True, "c": False, "d": True}
    assert {c.token: c.marked for c in index.explain({"b": 0.2, "c": 0.011}, "x")} == {"b": True, "c": True}
    assert [c["marked"] for c in why.to_json()["terms"]] == [True, True, True, False]
