"""The page of `lsr serve` in a real browser: chromium, headless, driven by Playwright; skipped where one is missing."""

from __future__ import annotations

import json
import random
import re
import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from lsr import Index
from lsr.corpus import Document, document_batch
from lsr.index.explain import Contribution, highlight
from lsr.index.serve.keys import Keys
from lsr.index.serve.server import Server
from lsr.index.serve.settings import ServeSettings
from lsr.sparse import SparseMatrix
from lsr.vectors import VectorBatch, Vectors

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium (apt-get install chromium)")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
QUERY = "aircraft turbulence in the wind"

DOCUMENTS = [
    {"_id": "gusts", "title": "Gusts", "text": "The aeroplane shook in strong gusts of wind.", "year": 1958, "lang": "en"},
    {"_id": "flutter", "title": "Flutter", "text": "Flutter broke the swept wing.", "year": 1961, "lang": "en"},
    {"_id": "tunnel", "text": "A wind tunnel blows air at a model.", "year": 1961, "lang": "de", "checked": True},
    {"_id": "cats", "title": "Cats", "text": "Cats sleep for most of the day.", "year": 2001, "lang": "fr"},
    {"_id": "signs", "title": "😀 signs", "text": "A 🐈 in the de\u0301tour.", "year": 2020},
    {"_id": "long", "title": "A long one", "text": "Nothing at all. " * 80 + "Then the zeppelin landed. " + "No more. " * 80},
]
HOSTILE = [
    '<img src=x onerror="window.broken=1">',
    "<script>window.broken=1</script>",
    "</template></ol><svg onload=window.broken=1>",
    "javascript:window.broken=1",
    "\u202e${window.broken=1} &lt;b&gt; &amp;",
]
METADATA = {key: f"{value} of metadata" for key, value in zip(["__proto__", "constructor", *HOSTILE], HOSTILE * 2, strict=False)}
TOKENS = [*HOSTILE, "plain"]
KEY = "a reader's key, long enough".replace(" ", "-")


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("page") / "mini", DOCUMENTS, encoder="lsr-mini", clusters=True)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An index of vectors, whose tokens are as hostile as the rest; in the order of HOSTILE for every query."""
    documents = [Document(text, f"{text} and its text", text, METADATA if text == HOSTILE[0] else {}) for text in HOSTILE]
    rows = [{**dict.fromkeys(range(5), 1.0), 5: 5.0 - number} for number in range(5)]
    batch = VectorBatch(document_batch(documents), SparseMatrix.from_dicts(rows, 6))
    vectors = Vectors("hostile", lambda _: iter([batch]), vocabulary=TOKENS)
    return Index.build(tmp_path_factory.mktemp("page") / "hostile", vectors)


@pytest.fixture(scope="module")
def served(mini, hostile, tmp_path_factory):
    words = Index.build(tmp_path_factory.mktemp("page") / "words", DOCUMENTS, encoder="bm25")
    with Server({"mini": mini, "words": words, "hostile": hostile}, ServeSettings(port=0)) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Opens the page; whatever the browser complains of, or asks for elsewhere, fails the test, but what is expected."""
    complaints, contexts = [], []

    def open_page(url, viewport=DESK, expected="(?!)", **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)

        def complain(text):
            if not re.search(expected, text):
                complaints.append(text)

        page.on("console", lambda message: complain(message.text))
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("dialog", lambda dialog: (complain(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: urlsplit(request.url).netloc == urlsplit(url).netloc or complain(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def until(page, condition):
    """Wait for something; the page's policy lets no code of ours wait inside."""
    for _ in range(400):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"in vain: {page.locator('body').inner_text()}")


def explained(page):
    """Wait until all hits are explained."""
    hits = "all => all.length > 0 && all.every(hit => hit.querySelector('.bar i'))"
    until(page, lambda: not page.locator("[aria-busy]").count() and page.locator(".hit").evaluate_all(hits))


def type_query(page, text):
    page.get_by_role("searchbox").fill(text)
    explained(page)


def texts(found):
    return found.evaluate_all("all => all.map(one => one.textContent)")


def ids(page, side=0):
    """The documents found, in order."""
    return texts(page.locator(".side").nth(side).locator(".hit dl div:first-child dd"))


def fragment(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


# --- searching --------------------------------------------------------------------------------------------------------


def test_hits_come_as_one_types(visit, served):
    page = visit(served)
    assert page.locator("#hints").is_visible()
    page.get_by_role("searchbox").press_sequentially(QUERY)
    explained(page)
    assert ids(page)[0] == "gusts"
    assert page.locator("#hints").is_hidden()
    assert page.title() == f"{QUERY} · lsr"
    assert "hits, exact" in page.get_by_role("status").inner_text()
    assert re.fullmatch(r"[\d.]+ ms", page.locator(".time").inner_text())
    page.get_by_role("searchbox").fill("")
    page.locator("#hints").wait_for()
    assert ids(page) == []


def test_matches_and_expansions_look_different(visit, served):
    page = visit(served)
    type_query(page, QUERY)
    hit = page.locator(".hit").first
    assert hit.locator(".text mark.match").all_inner_texts() == ["wind"]
    assert {"aeroplane", "shook"} & set(hit.locator(".text mark.expansion").all_inner_texts())
    lines = {
        kind: hit.locator(f"mark.{kind}").first.evaluate("mark => getComputedStyle(mark).textDecorationStyle")
        for kind in ("match", "expansion")
    }
    assert lines == {"match": "solid", "expansion": "dotted"}


def test_the_query_is_shown_as_words(visit, served, mini):
    page = visit(served)
    type_query(page, QUERY)
    shown = page.locator(".vector li bdi").all_inner_texts()
    terms, weights = mini.query_vectors([QUERY]).row(0)
    by_weight = sorted(zip(weights.tolist(), terms.tolist(), strict=True), reverse=True)
    assert shown == [mini.snapshot.shared.vocabulary[term] for _, term in by_weight][: len(shown)]
    assert len(shown) == min(len(by_weight), 14)


def test_a_search_that_is_outdated_is_given_up(visit, served):
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
    explained(page)
    assert ids(page)[0] == "cats"
    assert len(held) == 1


def test_a_hit_opens_to_what_makes_its_score(visit, served, mini):
    page = visit(served)
    type_query(page, QUERY)
    page.get_by_role("button", name="Gusts").click()
    hit = page.locator(".hit").first
    explanation = mini.explain(QUERY, "gusts")
    terms = [c for c in explanation if c.score]
    assert hit.locator("tbody th > bdi").all_inner_texts() == [c.token for c in terms]
    widths = hit.locator("tbody i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * c.score / terms[0].score for c in terms], abs=0.01)
    for row, c in zip(hit.locator("tbody tr").all(), terms, strict=True):
        words = row.inner_text()
        assert f"{c.query_weight:.2f} × {c.impact:.2f} = {c.score:.2f}" in words
        assert ("in the text" in words) == (c.kind == "match")
        if c.origin:
            assert f"learned, from “{explanation.content[slice(*c.origin)]}”" in words
        assert row.locator(f"i.{c.kind}").count() == 1
    page.get_by_role("button", name="Gusts").click()
    assert hit.locator("table").is_hidden()


def test_nothing_found_and_unknown_words(visit, served):
    page = visit(f"{served}#index=words")
    page.get_by_role("searchbox").fill("xylophone")
    page.get_by_text("This index knows none of these words.").wait_for()
    assert page.get_by_text("Nothing found.").is_visible()


def test_the_best_part_of_a_long_text_is_shown_and_all_of_an_opened_one(visit, served):
    page = visit(f"{served}#index=words")
    type_query(page, "zeppelin")
    text = page.locator(".hit .text")
    assert "Then the zeppelin landed." in text.inner_text()
    assert len(text.inner_text()) < 320
    page.locator(".hit h3 button").click()
    assert text.inner_text().strip() == DOCUMENTS[-1]["text"].strip()


# --- filters, settings, sides -----------------------------------------------------------------------------------------


def test_filters_narrow_and_are_kept_in_the_address(visit, served):
    page = visit(served)
    type_query(page, "a wing in the wind")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("en", exact=True).check()
    explained(page)
    assert set(ids(page)) == {"gusts", "flutter"}
    page.get_by_label("year at least").fill("1960")
    explained(page)
    assert json.loads(fragment(page)["where"]) == {"lang": ["en"], "year": {">=": 1960}}
    again = visit(page.url)
    explained(again)
    assert ids(again) == ["flutter"]
    again.get_by_role("button", name="Remove the filter lang en").click()
    explained(again)
    assert json.loads(fragment(again)["where"]) == {"year": {">=": 1960}}
    assert not again.get_by_label("en", exact=True).is_checked()


def test_exact_and_approximate(visit, served):
    page = visit(served)
    sent = []
    page.on("request", lambda request: request.post_data and sent.append(json.loads(request.post_data)))
    type_query(page, QUERY)
    assert sent[-1]["settings"] == {}
    page.get_by_text("Approximate", exact=True).click()
    explained(page)
    assert sent[-1]["settings"] == {"algorithm": "clusters", "cut": 8, "heap_factor": 1}
    page.locator(".plan summary").click()
    assert "clusters: asked for" in page.locator(".plan dl").inner_text()
    assert fragment(page)["mode"] == "clusters"
    page.locator("[name=by]").select_option("alpha")
    page.locator("[name=alpha]").fill("0.6")
    explained(page)
    assert fragment(page)["alpha"] == "0.6"
    assert sent[-1]["settings"] == {"alpha": 0.6}


def test_two_encoders_side_by_side(visit, served):
    page = visit(served)
    type_query(page, "wind animals")
    page.get_by_role("button", name="Side by side").click()
    explained(page)
    boxes = [side.bounding_box() for side in page.locator(".side").all()]
    assert boxes[1]["x"] > boxes[0]["x"] + boxes[0]["width"] - 1
    assert page.locator("select[name=index]").evaluate_all("all => all.map(one => one.value)") == ["mini", "words"]
    common = len(set(ids(page)) & set(ids(page, 1)))
    assert f"{common} of {len(ids(page))} in both" in page.locator(".both").first.inner_text()
    only = page.locator(".hit", has_text="only here").count()
    assert only == len(set(ids(page)) ^ set(ids(page, 1)))
    assert only
    again = visit(page.url, PHONE)
    explained(again)
    boxes = [side.bounding_box() for side in again.locator(".side").all()]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    again.get_by_role("button", name="Side by side").click()
    assert again.locator(".side").count() == 1


@pytest.mark.parametrize("written", ["k=-1&alpha=x&mode=y&index=z&where={", "where=[1]&k=1e9", "q=%ff&where=null", "&&=="])
def test_a_fragment_written_by_hand_breaks_nothing(visit, served, written):
    page = visit(f"{served}#{written}", expected="400|422")
    type_query(page, "cats")
    assert ids(page)[0] == "cats"


def test_back_goes_to_the_search_that_was_sent_off(visit, served):
    page = visit(served)
    type_query(page, "cats")
    page.get_by_role("searchbox").press("Enter")
    type_query(page, "wind")
    page.go_back()
    until(page, lambda: page.get_by_role("searchbox").input_value() == "cats")
    explained(page)
    assert ids(page)[0] == "cats"


def test_by_keyboard(visit, served):
    page = visit(served)
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type(QUERY)
    explained(page)
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
    page.keyboard.press("Tab")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.get_by_role("searchbox").input_value() == QUERY


# --- what documents may hold ------------------------------------------------------------------------------------------


def test_hostile_documents_are_text(visit, served):
    page = visit(f"{served}#index=hostile")
    for token in HOSTILE:
        type_query(page, json.dumps({token: 10, "plain": 1}))
        assert texts(page.locator(".vector bdi")) == [token, "plain"]
        page.locator(".hit h3 button").first.click()
        assert texts(page.locator(".hit tbody th bdi"))[:2] == [token, "plain"]
    assert ids(page) == HOSTILE
    assert texts(page.locator(".hit h3")) == HOSTILE
    assert texts(page.locator(".hit .text")) == [f"{text} and its text" for text in HOSTILE]
    opened = page.locator(".hit dl").first
    assert dict(zip(texts(opened.locator("dt")), texts(opened.locator("dd")), strict=True)) == {"id": HOSTILE[0], **METADATA}
    page.get_by_role("button", name="Filters").click()
    for name in METADATA:  # each can be filtered by, whatever its name
        page.locator("fieldset", has=page.get_by_text(name, exact=True)).get_by_role("checkbox").check()
    explained(page)
    assert json.loads(fragment(page)["where"]) == {name: [value] for name, value in METADATA.items()}
    assert ids(page) == [HOSTILE[0]]
    assert page.evaluate("[typeof broken, typeof Object.prototype.broken]") == ["undefined"] * 2
    assert [page.locator(name).count() for name in ("img", "svg", "script", "iframe")] == [0, 0, 1, 0]


def test_nothing_of_a_page_runs_what_it_doesnt_bring(visit, served):
    """What if something slipped through: neither markup nor inline scripts nor other hosts are let."""
    page = visit(served, expected="Content Security Policy|Trusted")
    attempts = ["document.body.innerHTML = '<b>x</b>'", "document.body.setAttribute('onclick', 'window.broken=1')"]
    for attempt in attempts:
        assert page.evaluate(f"try {{ {attempt}; 'let' }} catch (error) {{ error.name }}") == "TypeError"
    tried = page.evaluate("fetch('https://example.com/').then(() => 'let', (error) => error.name)")
    assert tried == "TypeError"


def test_marks_are_those_of_python(visit, served):
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
            terms.append({"term": number, "share": 0.2, "spans": spans, "origin": origin})
        cases.append([title, text, terms])
        contributions = [Contribution(t["term"], "", 1, 1, 1, 0.2, "", t["spans"], t["origin"]) for t in terms]
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


# --- errors and keys --------------------------------------------------------------------------------------------------


def test_a_problem_is_told_as_the_server_tells_it(visit, served):
    page = visit(f"{served}#q=cats&where=" + json.dumps({"colour": ["red"]}), expected="status of 4")
    problem = page.get_by_role("alert").filter(has_text="colour")
    problem.wait_for()
    assert "year" in problem.inner_text()
    page.get_by_role("button", name="Remove the filter colour red").click()
    explained(page)
    assert problem.is_hidden()


def test_a_server_that_is_gone(visit, served):
    page = visit(served, expected="ERR_")
    page.route("**/v1/search", lambda route: route.abort("connectionrefused"))
    page.get_by_role("searchbox").fill("cats")
    page.get_by_text("The server can't be reached").wait_for()
    page.unroute("**/v1/search")
    type_query(page, "cats sleep")
    assert ids(page)[0] == "cats"


def test_hits_that_cant_be_explained_are_shown(visit, served):
    page = visit(served, expected="ERR_")

    def refuse(route):
        if json.loads(route.request.post_data).get("explain"):
            route.abort("connectionrefused")
        else:
            route.continue_()

    page.route("**/v1/search", refuse)
    page.get_by_role("searchbox").fill("cats")
    page.get_by_text("The server can't be reached").wait_for()
    assert ids(page)[0] == "cats"


def test_a_key_is_asked_for_and_kept_for_the_tab(visit, mini):
    with Server({"mini": mini}, ServeSettings(port=0, keys=Keys({KEY: "reader"}))) as server:
        page = visit(server.url, expected="status of 401")
        page.get_by_label("API key").fill("a key that nobody gave")
        page.keyboard.press("Enter")
        page.get_by_role("dialog").get_by_role("alert").filter(has_text="key").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for(state="hidden")
        type_query(page, "cats")
        page.reload()
        explained(page)
        assert ids(page)[0] == "cats"
        assert KEY not in page.url
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


# --- how it looks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("index", ["mini", "hostile"])
def test_nothing_is_too_wide(visit, served, viewport, index):
    page = visit(f"{served}#index={index}&index2={index}&mode2=alpha", viewport)
    type_query(page, QUERY if index == "mini" else json.dumps({token: 1 for token in HOSTILE}))
    page.get_by_role("button", name="Filters").click()
    page.locator("summary").first.click()
    for heading in page.locator(".hit h3 button").all():
        heading.click()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    outside = page.evaluate(
        """[...document.querySelectorAll("body *")].filter(one => one.checkVisibility() && !one.closest(".unseen, .vector ul"))
          .filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


# The contrast, as WCAG 2 reckons it, of an element's text with what lies behind it.
CONTRAST = """element => {
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let under = element;
  while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)" && under.parentElement) under = under.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(under).backgroundColor].map(light)
    .sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(visit, served, scheme):
    where = '{"lang": ["en"]}'
    page = visit(f"{served}#where={where}&index2=words", color_scheme=scheme)
    type_query(page, QUERY)
    page.get_by_role("button", name="Filters").click()
    page.locator("summary").first.click()
    page.locator(".hit h3 button").first.click()
    texts = page.locator("h1, button, p, mark, li, bdi, small, dt, dd, legend, label, summary *, th, td, .mode span, .rank")
    visible = [text for text in texts.all() if text.is_visible() and text.inner_text().strip()]
    assert len(visible) > 60
    assert [text.inner_text() for text in visible if text.evaluate(CONTRAST) < 4.5] == []
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_nothing_moves_where_that_is_not_wanted(visit, served):
    page = visit(served, reduced_motion="reduce")
    moving = "[...document.querySelectorAll('*')].filter(one => getComputedStyle(one).transitionDuration !== '0s').length"
    assert page.evaluate(moving) == 0
