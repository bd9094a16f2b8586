"""Playwright opens the page in headless Chromium. The tests are skipped without Playwright or Chromium."""

from __future__ import annotations

import re
import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from lsr import Index
from lsr.index.serve.server import Server
from lsr.index.serve.settings import ServeSettings
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import SparseMatrix

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DOCUMENTS = [
    {
        "_id": "gusts",
        "title": "Gusts",
        "text": "The aeroplane shook in strong gusts of wind.",
        "year": 1958,
        "lang": "en",
    },
    {"_id": "flutter", "title": "Flutter", "text": "Flutter broke the swept wing.", "year": 1961, "lang": "en"},
    {"_id": "tunnel", "text": "A wind tunnel blows air at a model.", "year": 1961, "lang": "de", "checked": True},
    {"_id": "cats", "title": "Cats", "text": "Cats sleep for most of the day.", "year": 2001, "lang": "fr"},
    {"_id": "long", "title": "A long one", "text": f"{'Nothing. ' * 150}Then the zeppelin landed. {'No more. ' * 150}"},
]
HOSTILE = [
    '<img src=x onerror="window.broken=1">',
    "<script>window.broken=1</script>",
    "</template></ol><svg onload=window.broken=1>",
    "javascript:window.broken=1",
    "\u202e${window.broken=1} &lt;b&gt; &amp;",
]
KEYS = ("__proto__", "constructor", *HOSTILE)  # metadata keys of the first hostile document


class Visit:
    """An open page, with all attributes of Playwright's page."""

    def __init__(self, page):
        self._page = page

    def __getattr__(self, name):
        return getattr(self._page, name)

    def until(self, condition):
        """Poll a condition in Python, because the page's security policy blocks injected code."""
        for _ in range(400):
            if condition():
                return
            self.wait_for_timeout(50)
        raise AssertionError(f"the condition never held: {self.locator('body').inner_text()}")

    def explained(self):
        """Wait until hits, explanations and the number of matches are shown."""
        self.until(lambda: self.calm() and self.locator(".hit").count())

    def calm(self):
        """Whether the page has received the responses to all its requests."""
        return not self.locator("[aria-busy]").count() and all(self.texts(".total"))

    def search(self, text):
        """Type a query, and wait for its hits."""
        self.get_by_role("searchbox").fill(text)
        self.explained()

    def texts(self, selector):
        """The texts of the selected elements."""
        return self.locator(selector).evaluate_all("all => all.map(one => one.textContent)")

    def ids(self, side=1):
        """Ids of the hits, in order."""
        return self.texts(f".side:nth-child({side}) .hit dl div:first-child dd")

    def fragment(self):
        """The settings of the search in the page's address."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).fragment).items()}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("needs chromium (apt-get install chromium)")
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Returns a function that opens a page.

    The test fails on an unexpected console message or error, and on a request to another host.
    """
    complaints, contexts = [], []

    def open_page(url, viewport=(1280, 900), expected="(?!)", **options):
        width, height = viewport
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()

        def complain(text):
            if not re.search(f"{expected}|Autofocus processing was blocked", text):  # a harmless message of the browser
                complaints.append(text)

        def elsewhere(request):
            if urlsplit(request.url).netloc != urlsplit(url).netloc:
                complain(request.url)

        page.on("console", lambda message: complain(message.text))
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("dialog", lambda dialog: (complain(dialog.message), dialog.dismiss()))
        page.on("request", elsewhere)
        page.goto(url)
        return Visit(page)

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def violations():
    """Returns a function that lists the problems that axe finds on a page. Open the page with bypass_csp=True."""
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    script = axe.AXE_FILE_PATH.read_text(encoding="utf-8")

    def found(page):
        page.evaluate(f"() => {{ {script} }}")
        wrong = page.evaluate("axe.run().then(({ violations }) => violations)")
        return [(one["id"], one["help"], [node["html"] for node in one["nodes"]]) for one in wrong]

    return found


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    return Index.build(
        tmp_path_factory.mktemp("page") / "mini", DOCUMENTS, encoder="lsr-mini", clusters=True, passages=None
    )


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """An index with hostile tokens, texts and metadata. Queries rank its documents in the order of HOSTILE."""
    metadata = {HOSTILE[0]: {key: f"{value} as a value" for key, value in zip(KEYS, HOSTILE * 2, strict=False)}}
    documents = [Document(text, f"{text} and its text", text, metadata.get(text)) for text in HOSTILE]
    rows = [{**dict.fromkeys(range(5), 1.0), 5: 5.0 - number} for number in range(5)]
    batch = VectorBatch(document_batch(documents), SparseMatrix.from_dicts(rows, 6))
    vectors = Vectors("hostile", lambda _: iter([batch]), vocabulary=[*HOSTILE, "plain"])
    return Index.build(tmp_path_factory.mktemp("page") / "hostile", vectors)


@pytest.fixture(scope="session")
def served(mini, hostile, tmp_path_factory):
    """The address of a server with three indexes: mini, words and hostile."""
    words = Index.build(tmp_path_factory.mktemp("page") / "words", DOCUMENTS, encoder="bm25")
    with Server({"mini": mini, "words": words, "hostile": hostile}, ServeSettings(port=0)) as server:
        yield server.url
