"""The page is safe from hostile texts and injected code, reports server errors, and protects API keys."""

from __future__ import annotations

import json

from lsr.index.serve.keys import Keys
from lsr.index.serve.server import Server
from lsr.index.serve.settings import ServeSettings

KEY = "a-reader's-key,-long-enough"

# --- hostile documents ------------------------------------------------------------------------------------------------


def test_hostile_documents_are_shown_as_text(visit, served, hostile):
    ids, metadata = list(hostile.documents.all_ids()), hostile.documents.fields(0)[2]
    page = visit(f"{served}#index=hostile&details=1")
    for token in ids:
        page.search(json.dumps({token: 10, "plain": 1}))
        assert page.texts(".vector bdi") == [token, "plain"]
        page.locator(".hit h2 button").first.click()
        assert page.texts(".hit tbody th bdi")[:2] == [token, "plain"]
        page.locator(".hit h2 button").first.click()
    assert page.ids() == page.texts(".hit h2") == ids
    assert page.texts(".hit .text") == [f"{text} and its text" for text in ids]
    first = ".hit:first-child dl"
    shown = dict(zip(page.texts(f"{first} dt"), page.texts(f"{first} dd"), strict=True))
    assert shown == {"id": ids[0], **metadata}
    page.get_by_role("button", name="Filters").click()
    for name in metadata:  # any name can be used in a filter
        page.locator("fieldset", has=page.get_by_text(name, exact=True)).get_by_role("checkbox").check()
    page.explained()
    assert json.loads(page.fragment()["where"]) == {name: [value] for name, value in metadata.items()}
    assert page.ids() == ids[:1]
    assert page.evaluate("[typeof broken, typeof Object.prototype.broken]") == ["undefined"] * 2
    assert [page.locator(name).count() for name in ("img", "svg", "script", "iframe")] == [0, 0, 1, 0]


def test_the_page_runs_only_its_own_scripts(visit, served):
    """As a second line of defence, the policy blocks inline scripts, injected markup and requests to other hosts."""
    page = visit(served, expected="Content Security Policy|Trusted")
    attempts = ["document.body.innerHTML = '<b>x</b>'", "document.body.setAttribute('onclick', 'window.broken=1')"]
    for attempt in attempts:
        assert page.evaluate(f"try {{ {attempt}; 'let' }} catch (error) {{ error.name }}") == "TypeError"
    tried = page.evaluate("fetch('https://example.com/').then(() => 'let', (error) => error.name)")
    assert tried == "TypeError"


# --- errors and keys --------------------------------------------------------------------------------------------------


def test_server_errors_are_shown(visit, served):
    page = visit(f"{served}#q=cats&where=" + json.dumps({"colour": ["red"]}), expected="status of 4")
    problem = page.get_by_role("alert").filter(has_text="colour")
    problem.wait_for()
    assert "year" in problem.inner_text()
    page.get_by_role("button", name="Remove the filter colour red").click()
    page.explained()
    assert problem.is_hidden()


def test_an_unreachable_server_is_reported(visit, served):
    page = visit(served, expected="ERR_")
    page.route("**/v1/search", lambda route: route.abort("connectionrefused"))
    page.get_by_role("searchbox").fill("cats")
    page.get_by_text("The server can't be reached").wait_for()
    page.unroute("**/v1/search")
    page.search("cats sleep")
    assert page.ids()[0] == "cats"


def test_requests_to_a_busy_server_are_retried(visit, served):
    page = visit(served, expected="status of (503|429)")
    busy = [503, 429]

    def wait(route):
        if busy:
            route.fulfill(status=busy.pop(), headers={"Retry-After": "1"}, json={"title": "busy"})
        else:
            route.continue_()

    page.route("**/v1/search", wait)
    page.search("cats")
    assert page.ids()[0] == "cats"
    assert not busy
    assert page.get_by_role("alert").filter(has_text="busy").count() == 0


def test_hits_are_shown_even_if_other_requests_fail(visit, served):
    page = visit(served, expected="ERR_")

    def refuse(route):
        if json.loads(route.request.post_data).get("total"):
            route.abort("connectionrefused")
        else:
            route.continue_()

    page.route("**/v1/search", refuse)
    page.get_by_role("searchbox").fill("cats")
    page.get_by_text("The server can't be reached").wait_for()
    assert page.ids()[0] == "cats"
    page.unroute("**/v1/search")
    page.get_by_role("button", name="Try again").click()
    page.explained()
    assert page.get_by_text("The server can't be reached").is_hidden()


def test_the_page_asks_for_a_key_and_keeps_it_only_in_the_tab(visit, mini):
    with Server({"mini": mini}, ServeSettings(port=0, keys=Keys({KEY: "reader"}))) as server:
        page = visit(server.url, expected="status of 401")
        page.get_by_label("API key").fill("a key that nobody gave")
        page.keyboard.press("Enter")
        page.get_by_role("dialog").get_by_role("alert").filter(has_text="key").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for(state="hidden")
        page.search("cats")
        page.reload()
        page.explained()
        assert page.ids()[0] == "cats"
        assert KEY not in page.url
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
