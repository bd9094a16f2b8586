"""Playwright opens the report in headless Chromium. The tests are skipped without Playwright or Chromium."""

from __future__ import annotations

import re
import shutil

import pytest

from lsr.eval.report.report import write_report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium (apt-get install chromium)")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
PICTURES = 4 + 5 + 1 + 3  # frontiers, latencies and recall; systems except the baseline; queries; datasets


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def url(hostile_made, tmp_path_factory):
    return write_report(hostile_made[0], tmp_path_factory.mktemp("browser") / "report.html")[0].as_uri()


@pytest.fixture
def visit(browser, url):
    """Returns a function that opens the report. A console message, an error or a further request fails the test."""
    complaints, contexts = [], []

    def open_page(viewport, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url == url or complaints.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def table(page, caption):
    return page.locator("table", has=page.locator("caption", has_text=caption)).first


def column(table, name):
    """The texts of a column, without the rows of published scores."""
    at = table.locator("thead th", has_text=name).first.evaluate("header => header.cellIndex")
    return table.locator("tbody").first.evaluate("(body, at) => [...body.rows].map(row => row.cells[at].innerText)", at)


def test_hostile_names_are_shown_as_text(visit, hostile_made):
    page = visit(DESK)
    assert page.title() == hostile_made[1]["title"]
    shown = [name.strip() for name in column(table(page, "nDCG@10 by dataset"), "system")]
    assert shown == [system["name"] for system in hostile_made[1]["systems"]]
    assert (page.locator("script").count(), page.locator("img").count()) == (1, 0)


def test_a_header_sorts_numbers_as_numbers(visit):
    costs = table(visit(DESK), "Costs")
    header = costs.locator("thead th", has_text="index size")

    def sizes():
        pairs = [text.split() for text in column(costs, "index size")]
        return [float(number) * {"kB": 1e3, "MB": 1e6}[unit] for number, unit in pairs]

    unsorted = sizes()
    assert unsorted not in (sorted(unsorted), sorted(unsorted, reverse=True))
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert sizes() == sorted(unsorted, reverse=True)
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert sizes() == sorted(unsorted)


def test_a_header_sorts_text_as_text(visit):
    costs = table(visit(DESK), "Costs")
    costs.locator("thead th", has_text="index size").get_by_role("button").click()
    costs.locator("thead th", has_text="dataset").get_by_role("button").press("Space")
    assert costs.locator("th[aria-sort]").evaluate_all("all => all.map(h => h.ariaSort)") == ["ascending"]
    names = column(costs, "dataset")
    assert names == sorted(names)
    assert len(set(names)) == 3


def test_empty_cells_come_last_and_published_values_stay_below(visit):
    quality = table(visit(DESK), "nDCG@10 by dataset")
    mean = quality.locator("thead th", has_text="mean").get_by_role("button")
    for descending in (True, False):
        mean.click()
        values = [value.strip() for value in column(quality, "mean")]
        assert values[-1] == ""
        assert values[:-1] == sorted(values[:-1], reverse=descending)
    assert "published" in quality.locator("tbody").last.inner_text()


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_window_and_shows_every_picture(visit, viewport, scheme):
    page = visit(viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    pictures = page.locator("figure > svg:visible").all()
    assert len(pictures) == PICTURES
    for box in (picture.bounding_box() for picture in pictures):
        assert min(box["width"], box["height"]) > 60
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= viewport["width"]
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


# Returns the pairs of texts in a picture that visibly overlap.
OVERLAPS = """picture => {
  const all = [...picture.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  return all.flatMap(([a, p], i) => all.slice(i + 1).filter(([_, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 &&
    Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > p.height / 4).map(([b]) => a + " / " + b));
}"""


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_texts_in_pictures_do_not_overlap(visit, viewport):
    pictures = visit(viewport).locator("figure > svg:visible").all()
    assert [picture.evaluate(OVERLAPS) for picture in pictures] == [[]] * PICTURES


# Returns the names in a picture that are crossed by the line of the best systems or by a dashed line.
CROSSED = """picture => {
  const lines = [...picture.querySelectorAll("path")].filter(path => /stroke-width: 5|stroke-dasharray: [1-9]/.test(
    path.getAttribute("style") ?? ""));
  return lines.flatMap(line => [...Array(400).keys()].flatMap(i => {
    const at = line.getPointAtLength(line.getTotalLength() * i / 399).matrixTransform(line.getScreenCTM());
    return [...picture.querySelectorAll("text")].filter(text => {
      const { left, right, top, bottom } = text.getBoundingClientRect();
      return left < at.x && at.x < right && top + 2 < at.y && at.y < bottom - 2;
    }).map(text => text.textContent);
  }));
}"""


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_no_line_runs_through_a_name(visit, viewport):
    page = visit(viewport)
    pictures = page.locator("figure.broad > svg:visible").all()
    assert len(pictures) == 4
    lines = "picture => picture.querySelectorAll('path[style*=\"stroke-width: 5\"]').length"
    assert sum(picture.evaluate(lines) for picture in pictures) == 2
    assert [picture.evaluate(CROSSED) for picture in pictures] == [[]] * 4


def test_pictures_are_as_wide_as_the_page(visit):
    for viewport, least in ((PHONE, 0.85), (DESK, 0.75)):
        boxes = [one.bounding_box() for one in visit(viewport).locator("figure.broad > svg:visible").all()]
        assert min(box["width"] for box in boxes) >= least * viewport["width"]


def test_links_of_the_contents_lead_to_their_sections(visit):
    page = visit(DESK)
    links = page.get_by_role("navigation", name="Contents").get_by_role("link")
    assert links.all_inner_texts() == page.locator("h2").all_inner_texts()
    for link in links.all():
        section = page.locator(link.get_attribute("href"))
        assert section.locator("h2").inner_text() == link.inner_text()


def test_queries_are_shown_with_their_texts(visit, hostile_made):
    differ = table(visit(DESK), "Queries that differ most")
    queries = column(differ, "query")
    assert queries
    assert all(re.fullmatch(r"how .* question (\d+) <b> \w\w-\1", query) for query in queries)


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "dark"), (DESK, "light")], ids=["phone", "desk"])
def test_axe_finds_no_accessibility_problem(visit, viewport, scheme):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    page = visit(viewport, color_scheme=scheme, bypass_csp=True)
    page.evaluate(f"() => {{ {axe.AXE_FILE_PATH.read_text(encoding='utf-8')} }}")
    found = page.evaluate("axe.run().then(({ violations }) => violations)")
    assert [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


def test_wide_tables_scroll_in_their_box_on_a_phone(visit):
    page = visit(PHONE)
    boxes = page.locator(".scroll")
    scrolled = boxes.evaluate_all(
        "all => all.map(box => { box.scrollLeft = 50; return [box.scrollWidth > box.clientWidth, box.scrollLeft] })"
    )
    assert [by > 0 for _, by in scrolled] == [wide for wide, _ in scrolled]
    assert sum(wide for wide, _ in scrolled) >= 5
    # The first column, which names the rows, stays visible.
    name = page.locator("tbody th").first
    assert name.bounding_box()["x"] == pytest.approx(boxes.first.bounding_box()["x"])


# The WCAG 2 contrast of an element's text with the page and with the striped rows of a table.
CONTRAST = """element => {
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const band = getComputedStyle(document.querySelector("thead th")).backgroundColor;
  return [getComputedStyle(document.body).backgroundColor, band].map(under => {
    const [a, b] = [light(getComputedStyle(element).color), light(under)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(visit, scheme):
    page = visit(DESK, color_scheme=scheme)
    for where in ("p", "small", ".legend", "th button", "td", "dt", ".mark"):
        assert min(page.locator(where).first.evaluate(CONTRAST)) >= 4.5, where


def test_a_printed_page_shows_whole_tables_on_white(visit):
    page = visit(DESK, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    boxes = page.locator(".scroll")
    assert set(boxes.evaluate_all("all => all.map(box => getComputedStyle(box).overflow)")) == {"visible"}
    assert boxes.evaluate_all("all => all.filter(box => box.scrollHeight > box.clientHeight + 1).length") == 0
    paper = page.pdf(prefer_css_page_size=True)
    assert paper.startswith(b"%PDF-")
    assert len(paper) > 50_000


def test_without_javascript_everything_but_sorting_works(visit):
    page = visit(DESK, java_script_enabled=False)
    assert page.locator("button").count() == 0
    assert page.locator("table").count() >= 10
    assert page.locator("figure > svg:visible").count() == PICTURES
