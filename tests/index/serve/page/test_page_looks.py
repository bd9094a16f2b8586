"""On a desktop and on a phone, the page fits the window, has enough contrast and respects reduced motion."""

from __future__ import annotations

import json

import pytest

PHONE, DESK = (360, 740), (1280, 900)
QUERY = "aircraft turbulence in the wind"

# --- widths, contrast, motion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("index", ["mini", "hostile"])
def test_no_element_is_wider_than_the_window(visit, served, hostile, viewport, index):
    page = visit(f"{served}#index={index}&index2={index}&skip2=alpha&details=1", viewport)
    page.search(QUERY if index == "mini" else json.dumps(dict.fromkeys(hostile.documents.all_ids(), 1)))
    for heading in page.locator(".hit h2 button").all():
        heading.click()
    page.get_by_role("button", name="Filters").click()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    outside = page.evaluate(
        """[...document.querySelectorAll("body *")]
          .filter(one => one.checkVisibility() && !one.closest(".unseen, .vector ul"))
          .filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


# Returns the visible texts, and the texts whose WCAG 2 contrast with their background is below 4.5.
CONTRAST = """all => {
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = one => getComputedStyle(one).backgroundColor;
  const contrast = element => {
    let under = element;
    while (background(under) === "rgba(0, 0, 0, 0)" && under.parentElement) under = under.parentElement;
    const [a, b] = [getComputedStyle(element).color, background(under)].map(light).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const own = one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const seen = all.filter(one => one.checkVisibility() && own(one));
  return [seen, seen.filter(one => contrast(one) < 4.5)].map(some => some.map(one => one.textContent));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(visit, served, scheme):
    page = visit(f'{served}#where={{"lang": ["en"]}}&details=1', color_scheme=scheme)
    page.search(QUERY)
    page.locator(".hit h2 button").first.click()
    seen, faint = page.locator("body *").evaluate_all(CONTRAST)
    assert {"lsr", "Details", "lang", "Searched as", "What makes the score", "wind", "aeroplane"} <= set(seen)
    assert faint == []
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_reduced_motion_is_respected(visit, served):
    page = visit(served, reduced_motion="reduce")
    moving = (
        "[...document.querySelectorAll('*')].filter(one => getComputedStyle(one).transitionDuration !== '0s').length"
    )
    assert page.evaluate(moving) == 0


# --- axe --------------------------------------------------------------------------------------------------------------


def states(page):
    """Bring the page into each state in turn, and yield the state's name."""
    yield "empty"
    page.search(QUERY)
    yield "hits"
    page.get_by_role("button", name="Details").click()
    page.explained()
    for heading in page.locator(".hit h2 button").all():
        heading.click()
    yield "details, with all hits opened"
    page.get_by_role("button", name="Side by side").click()
    page.explained()
    page.get_by_role("button", name="Filters").click()
    yield "side by side, with the filters shown"
    page.get_by_role("button", name="Show the hits").click()
    page.get_by_role("button", name="Side by side").click()
    page.get_by_role("button", name="Details").click()
    page.goto(f'{page.url.partition("#")[0]}#index=words&q=wind&where={{"lang":["fr"]}}')
    page.get_by_text("No document matches the filter").wait_for()
    yield "filters that match nothing"
    page.goto(f'{page.url.partition("#")[0]}#q=wind&where={{"colour":["red"]}}')
    page.get_by_text("This search is invalid").wait_for()
    yield "an invalid search"
    page.goto(f"{page.url.partition('#')[0]}#index=words&q=xylophone")
    page.get_by_text("No document has").wait_for()
    yield "no hits"


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "dark"), (DESK, "light")], ids=["phone-dark", "desk-light"])
def test_axe_finds_no_accessibility_problem(visit, served, violations, viewport, scheme):
    page = visit(served, viewport, expected="status of 422", color_scheme=scheme, bypass_csp=True)
    for state in states(page):
        assert violations(page) == [], state


def test_five_hits_fit_on_a_screen(visit, served):
    page = visit(f"{served}#q=wind%20wing%20cats%20zeppelin", (1280, 800))
    page.explained()
    assert page.locator(".hit").count() == 5
    assert page.locator(".hit").last.bounding_box()["y"] + 100 < 800
