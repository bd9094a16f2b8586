"""The page searches, highlights, filters, compares indexes, keeps settings in its address, and works by keyboard."""

from __future__ import annotations

import json
import random
import re

import pytest

from lsr import Index
from lsr.encode.passages import Passages
from lsr.index.search.explain import Contribution
from lsr.index.search.highlight import highlight

QUERY = "aircraft turbulence in the wind"


# --- searching --------------------------------------------------------------------------------------------------------


def test_hits_appear_while_the_user_types(visit, served):
    page = visit(served)
    assert page.locator("#hints").is_visible()
    page.get_by_role("searchbox").press_sequentially(QUERY)
    page.explained()
    assert page.ids()[0] == "gusts"
    assert page.locator("#hints").is_hidden()
    assert page.title() == f"{QUERY} · lsr"
    assert "hits, exact" in page.get_by_role("status").inner_text()
    assert re.fullmatch(r"[\d.]+ ms", page.locator(".time").inner_text())
    page.get_by_role("searchbox").fill("")
    page.locator("#hints").wait_for()
    assert page.ids() == []


def test_matches_and_expansions_look_different(visit, served):
    page = visit(served)
    page.search(QUERY)
    hit = page.locator(".hit").first
    assert hit.locator(".text mark.match").all_inner_texts() == ["wind"]  # the stop words aren't marked
    assert {"aeroplane", "shook"} & set(hit.locator(".text mark.expansion").all_inner_texts())
    lines = {
        kind: hit.locator(f"mark.{kind}").first.evaluate("mark => getComputedStyle(mark).textDecorationStyle")
        for kind in ("match", "expansion")
    }
    assert lines == {"match": "solid", "expansion": "dotted"}


def test_the_page_and_python_highlight_the_same_parts(visit, served):
    chance = random.Random(5)
    cases, expected = [], []
    for _ in range(300):
        title = "".join(chance.choices("ab 😀", k=chance.choice([0, 4])))
        text = "".join(chance.choices("abc 🐈e\u0301\u0308", k=chance.randint(0, 24)))
        content = f"{title} {text}" if title else text
        terms = []
        for number in range(chance.randint(0, 4)):
            spans = [sorted(chance.choices(range(len(content) + 1), k=2)) for _ in range(chance.randint(0, 2))]
            origin = sorted(chance.choices(range(len(content) + 1), k=2)) if not spans else None
            marked = chance.random() < 0.8
            terms.append({"term": number, "share": 0.2, "spans": spans, "origin": origin, "marked": marked})
        cases.append([title, text, terms])
        contributions = [
            Contribution(t["term"], "", 1, 1, 1, 0.2, "", t["spans"], t["origin"], t["marked"]) for t in terms
        ]
        expected.append(highlight(content, contributions, ("[", "]"), ("(", ")")))
    page = visit(served)
    marked = page.evaluate(
        """async cases => {
          const { Content } = await import("/page/marks.js");
          const around = { match: ["[", "]"], expansion: ["(", ")"] };
          const shown = node => node.className ? around[node.className].join(node.textContent) : node;
          return cases.map(([title, text, terms]) => {
            const content = new Content(title, text, terms);
            return content.nodes(0, content.characters.length).map(shown).join("");
          });
        }""",
        cases,
    )
    assert marked == expected


def test_the_query_is_shown_as_words(visit, served):
    page = visit(f"{served}#details=1")
    page.search(QUERY)
    shown = page.locator(".vector li bdi").all_inner_texts()
    assert sorted(shown) == sorted(QUERY.split())
    page.search("Zeppelins")
    assert page.locator(".vector li bdi").all_inner_texts() == ["Zeppelins"]  # a word, not a token such as "##lin"


def test_an_outdated_search_is_cancelled(visit, served):
    page = visit(served)
    held = []

    def hold(route):
        if "wind" in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/search", hold)
    with page.expect_event("requestfailed") as failed:
        page.get_by_role("searchbox").fill("wind")
        page.wait_for_timeout(300)
        page.get_by_role("searchbox").fill("cats")
    assert "wind" in failed.value.post_data
    page.explained()
    assert page.ids()[0] == "cats"
    assert len(held) == 1


def test_a_hit_opens_its_explanation(visit, served, mini):
    page = visit(served)
    page.search(QUERY)
    page.get_by_role("button", name="Gusts", exact=True).click()
    hit = page.locator(".hit").first
    explanation = mini.explain(QUERY, "gusts")
    terms = [c for c in explanation.by_word() if c.score]
    assert hit.locator("tbody th > bdi").all_inner_texts() == [c.word for c in terms]
    widths = hit.locator("tbody i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * c.score / terms[0].score for c in terms], abs=0.01)
    for row, c in zip(hit.locator("tbody tr").all(), terms, strict=True):
        words = row.inner_text()
        assert f"{c.query_weight:.2f} × {c.impact:.2f} = {c.score:.2f}" in words
        assert ("in the text" in words) == (c.kind == "match")
        if c.origin:
            assert f"learned, from “{explanation.content[slice(*c.origin)]}”" in words
        assert row.locator(f"i.{c.kind}").count() == 1
    page.get_by_role("button", name="Show less of Gusts").click()
    assert hit.locator("table").is_hidden()


def test_unknown_words_are_reported_and_corrected(visit, served):
    page = visit(f"{served}#index=words")
    page.get_by_role("searchbox").fill("xylophone")
    page.get_by_text("This index knows none of these words.").wait_for()
    page.get_by_text("No document has xylophone.").wait_for()
    page.search("wings of an aeroplne")
    page.get_by_text("No document has aeroplne. Did you mean").wait_for()
    page.get_by_role("button", name="wings of an aeroplane").click()
    page.until(lambda: page.calm() and page.get_by_text("No document has").is_hidden())
    assert page.get_by_role("searchbox").input_value() == page.fragment()["q"] == "wings of an aeroplane"


def test_filters_that_match_nothing_are_reported(visit, served):
    page = visit(f'{served}#index=words&q=wind&where={{"year":[1960],"lang":["fr"]}}')
    page.get_by_text("No document matches the filters. Without them, there are 2 documents.").wait_for()
    page.get_by_role("button", name="Drop the filters").click()
    page.explained()
    assert sorted(page.ids()) == ["gusts", "tunnel"]
    assert "where" not in page.fragment()
    page.get_by_label("en", exact=True).check()
    page.get_by_role("searchbox").fill("zeppelin")
    page.get_by_text("No document matches the filter. Without it, there is 1 document.").wait_for()


def test_example_queries_are_offered(visit, served, mini):
    page = visit(served)
    examples = page.locator("#examples button").all_inner_texts()
    assert "A wind tunnel blows air at a model" in examples
    page.get_by_role("button", name=examples[0]).click()
    page.explained()
    assert page.fragment()["q"] == examples[0]
    assert page.locator("#hints").is_hidden()
    other = visit(f"{served}#index=hostile")
    assert other.locator("#hints").is_visible()


def test_a_hit_shows_a_snippet_and_expands_to_the_whole_text(visit, served, mini):
    page = visit(f"{served}#index=words")
    page.search("zeppelin")
    text = page.locator(".hit .text")
    assert "Then the zeppelin landed." in text.inner_text()
    assert len(text.inner_text()) < 320
    page.get_by_role("button", name="Show all").click()
    whole = mini.documents.fields(mini.documents.find("long"))[1]
    assert text.inner_text().strip() == whole.strip()


def test_more_hits_can_be_loaded(visit, served):
    page = visit(f"{served}#k=1&index=words&q=wind")
    page.explained()
    assert len(page.ids()) == 1
    page.get_by_role("button", name="Show all").click()
    page.get_by_role("button", name="More results").click()
    page.until(lambda: len(page.ids()) == 2)
    assert page.fragment()["k"] == "11"
    assert page.texts(".hit .open") == ["Show less", "Show all"]  # opened hits stay open
    page.explained()
    assert page.texts(".total") == ["2 documents"]


def test_passages_are_highlighted_in_their_own_text(visit, serving, tmp_path):
    document = {"_id": "long", "title": "Air", "text": f"{'It is calm. ' * 40}Then the zeppelin landed."}
    index = Index.build(tmp_path / "idx", [document], encoder="bm25", passages=Passages(32, 0))
    page = visit(serving(index).url)
    page.search("zeppelin air")
    assert page.ids() == ["long"]
    assert page.texts(".text mark") == ["zeppelin"]
    assert page.texts("h2 mark") == ["Air"]
    assert re.fullmatch(r"long#\d+", page.texts(".hit dl div:nth-child(2) dd")[0])


# --- filters, settings, side by side ----------------------------------------------------------------------------------


def test_filters_narrow_the_hits_and_are_kept_in_the_address(visit, served):
    page = visit(served)
    page.search("a wing in the wind")
    values, counts = (page.texts(f"#filters > fieldset .value {one}") for one in ("bdi", "small"))
    assert dict(zip(values, counts, strict=True)) == {"en": "2", "de": "1", "fr": "1"}
    page.get_by_label("en", exact=True).check()
    page.explained()
    assert set(page.ids()) == {"gusts", "flutter"}
    page.get_by_label("year at least").fill("1960")
    page.explained()
    assert json.loads(page.fragment()["where"]) == {"lang": ["en"], "year": {">=": 1960}}
    again = visit(page.url)
    again.explained()
    assert again.ids() == ["flutter"]
    again.get_by_role("button", name="Remove the filter lang en").click()
    again.explained()
    assert json.loads(again.fragment()["where"]) == {"year": {">=": 1960}}
    assert not again.get_by_label("en", exact=True).is_checked()


def test_large_integers_keep_their_digits(visit, serving, tmp_path):
    least, deep = 2**53, {"ids": [2**60 + 1, 10**400]}
    documents = [{"_id": str(n), "text": "cats", "n": least + n, "deep": [deep]} for n in range(2)]
    page = visit(serving(Index.build(tmp_path / "idx", documents, encoder="bm25")).url)
    page.search("cats")
    assert page.ids() == ["0", "1"]
    shown = page.texts(".hit:nth-child(2) dl div dd")
    assert str(least + 1) in shown
    assert json.dumps(deep, separators=(",", ":")) in shown
    box = page.get_by_label("n at least")
    assert box.get_attribute("placeholder") == str(least)
    box.fill(str(least + 1))
    page.explained()
    assert page.ids() == ["1"]
    again = visit(page.url)
    again.explained()
    assert again.ids() == ["1"]
    assert again.get_by_role("button", name=f"Remove the filter n from {least + 1}").count() == 1


def test_settings_of_approximate_search_are_sent_and_kept_in_the_address(visit, served):
    page = visit(f"{served}#details=1")
    sent = []
    page.on("request", lambda request: request.post_data and sent.append(json.loads(request.post_data)))
    page.search(QUERY)
    searches = lambda: [one["settings"] for one in sent if one.get("explain")]  # noqa: E731
    assert searches()[-1] == {}
    page.get_by_text("Approximate", exact=True).click()
    page.explained()
    assert searches()[-1] == {"algorithm": "clusters", "cut": 8, "heap_factor": 1}
    assert "clusters: asked for" in page.locator(".plan dl").inner_text()
    assert page.fragment()["skip"] == "clusters"
    page.locator("[name=by]").select_option("alpha")
    page.locator("[name=alpha]").fill("0.6")
    page.explained()
    assert page.fragment()["alpha"] == "0.6"
    assert searches()[-1] == {"alpha": 0.6}


def test_two_indexes_are_compared_side_by_side(visit, served):
    page = visit(served)
    page.search("wind animals")
    page.get_by_role("button", name="Details").click()
    page.get_by_role("button", name="Side by side").click()
    page.explained()
    boxes = [side.bounding_box() for side in page.locator(".side").all()]
    assert boxes[1]["x"] > boxes[0]["x"] + boxes[0]["width"] - 1
    assert page.locator("select[name=index]").evaluate_all("all => all.map(one => one.value)") == ["mini", "words"]
    common = len(set(page.ids()) & set(page.ids(2)))
    assert f"{common} of {len(page.ids())} in both" in page.locator(".both").first.inner_text()
    only = page.locator(".hit", has_text="only here").count()
    assert only == len(set(page.ids()) ^ set(page.ids(2)))
    again = visit(page.url, (360, 740))
    again.explained()
    boxes = [side.bounding_box() for side in again.locator(".side").all()]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    again.get_by_role("button", name="Side by side").click()
    assert again.locator(".side").count() == 1


@pytest.mark.parametrize(
    "written",
    [
        "k=-1&alpha=x&mode=y&index=z&where={",
        "where=[1]&k=1e9",
        "q=%ff&where=null",
        "&&==",
        "sort=x&mode=hybrid&skip=no",
    ],
)
def test_the_page_works_after_an_invalid_fragment(visit, served, written):
    page = visit(f"{served}#{written}", expected="400|422")
    page.search("cats")
    assert page.ids()[0] == "cats"


def test_the_back_button_returns_to_the_last_submitted_search(visit, served):
    page = visit(served)
    page.search("cats")
    page.get_by_role("searchbox").press("Enter")
    page.search("wind")
    page.go_back()
    page.until(lambda: page.get_by_role("searchbox").input_value() == "cats")
    page.explained()
    assert page.ids()[0] == "cats"


def test_the_page_works_by_keyboard(visit, served):
    page = visit(served)
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type(QUERY)
    page.explained()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.textContent") == "Gusts"
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"
    page.keyboard.press("Enter")
    assert page.locator(".hit table").first.is_visible()
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "query"
    page.get_by_role("button", name="Details").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.get_by_role("searchbox").input_value() == QUERY
