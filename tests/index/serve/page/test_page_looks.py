"""How the page looks: widths, contrast, motion, on a desk and on a phone."""

from __future__ import annotations

import json

import pytest

PHONE, DESK = (360, 740), (1280, 900)
QUERY = "aircraft turbulence in the wind"

# --- how it looks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("index", ["mini", "hostile"])
def test_nothing_is_too_wide(visit, served, hostile, viewport, index):
    page = visit(f"{served}#index={index}&index2={index}&mode2=alpha", viewport)
    page.search(QUERY if index == "mini" else json.dumps(dict.fromkeys(hostile.documents.all_ids(), 1)))
    page.get_by_role("button", name="Filters").click()
    page.locator("summary").first.click()
    for heading in page.locator(".hit h3 button").all():
        heading.click()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    outside = page.evaluate(
        """[...document.querySelectorAll("body *")]
          .filter(one => one.checkVisibility() && !one.closest(".unseen, .vector ul"))
          .filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


# Of the elements that have text of their own: all of them, and those whose contrast with what lies behind, as WCAG 2
# reckons it, is below 4.5.
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
    page = visit(f'{served}#where={{"lang": ["en"]}}&index2=words', color_scheme=scheme)
    page.search(QUERY)
    page.get_by_role("button", name="Filters").click()
    page.locator("summary").first.click()
    page.locator(".hit h3 button").first.click()
    seen, faint = page.locator("body *").evaluate_all(CONTRAST)
    assert {"lsr", "Filters", "Searched as", "What makes the score", "wind", "aeroplane"} <= set(seen)
    assert faint == []
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def test_nothing_moves_where_that_is_not_wanted(visit, served):
    page = visit(served, reduced_motion="reduce")
    moving = (
        "[...document.querySelectorAll('*')].filter(one => getComputedStyle(one).transitionDuration !== '0s').length"
    )
    assert page.evaluate(moving) == 0
