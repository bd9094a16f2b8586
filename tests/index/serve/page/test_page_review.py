"""The review page works over its HTTP API, and by keys and buttons in headless Chromium."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lsr.errors import OutputError
from lsr.index.serve.review_app import ReviewApp
from lsr.index.serve.server import Listener
from lsr.index.serve.settings import ServeSettings
from lsr.io.document import Document
from lsr.review import Review, ReviewSettings
from lsr.sparse import SparseMatrix

MARKUP = '<img src=x onerror="window.broken=1">'
WINGS = {f"d{i}" for i in range(0, 12, 2)}
LOCAL = ServeSettings(port=0)


def review(**settings):
    """A review of twelve documents. Even-numbered documents share one term; odd-numbered documents share another."""
    vectors = SparseMatrix.from_dicts([{i % 2: 1.0, 2 + i: 0.5} for i in range(12)], 14)
    ids = [f"d{i}" for i in range(12)]
    return Review(ids, [vectors], ReviewSettings(**{"batch": 3, "rule": "budget", "budget": 8} | settings), [0, 1])


@pytest.fixture
def served(client_of, tmp_path):
    """A client of the review server, the review, and its state file."""
    going, state = review(), tmp_path / "state.json"
    texts = {"d0": Document("d0", MARKUP, "Wings"), "d1": Document("d1", "Hearts beat.")}
    app = ReviewApp(going, state, texts.get, lambda _: "enough was read", LOCAL)
    with Listener(app, LOCAL) as server:
        yield client_of(SimpleNamespace(url=server.url, app=app)), going, state


def test_answers_are_kept_until_the_review_is_complete(served):
    client, _, state = served
    shown = client.ask("GET", "/v1/review").json
    assert shown == {
        "document": {"id": "d0", "title": "Wings", "text": MARKUP},
        "answer": None,
        "back": False,
        "read": 0,
        "found": 0,
        "total": 12,
        "why": "",
    }
    read = []
    while shown["document"]:
        doc = shown["document"]["id"]
        read.append(doc)
        shown = client.ask("POST", "/v1/review", {"id": doc, "relevant": doc in WINGS}).json
        assert json.loads(state.read_text())["judged"] == [[one, one in WINGS] for one in read]
    assert len(read) == 8
    assert (shown["read"], shown["found"], shown["why"]) == (8, len(WINGS & set(read)), "enough was read")
    by_hand = review()
    while not by_hand.stops():
        for number in by_hand.batch()[: 8 - len(by_hand.judged)]:
            by_hand.judge(number, by_hand.ids[number] in WINGS)
    assert read == [by_hand.ids[number] for number in by_hand.judged]  # the order is the same as in a terminal


def test_going_back_allows_a_different_answer(served):
    client, _, state = served
    for doc in ("d0", "d1"):
        client.ask("POST", "/v1/review", {"id": doc, "relevant": True})
    third = client.ask("GET", "/v1/review").json["document"]["id"]
    before = client.ask("POST", "/v1/review/back", {"id": third}).json
    assert (before["document"]["id"], before["answer"], before["back"]) == ("d1", True, True)
    first = client.ask("POST", "/v1/review/back", {"id": "d1"}).json
    assert (first["document"]["id"], first["back"]) == ("d0", False)
    assert client.ask("POST", "/v1/review/back", {"id": "d0"}).status == 409
    after = client.ask("POST", "/v1/review", {"id": "d1", "relevant": False}).json
    assert after["document"]["id"] == third
    assert json.loads(state.read_text())["judged"] == [["d0", True], ["d1", False]]


def test_wrong_requests_are_refused(served, tmp_path):
    client, going, _ = served
    client.ask("GET", "/v1/review")
    answer = {"id": "d0", "relevant": True}
    assert client.ask("POST", "/v1/review", {"id": "d9", "relevant": True}).status == 409
    assert client.ask("POST", "/v1/review", {"id": "d0", "relevant": "yes"}).status == 422
    assert client.ask("POST", "/v1/review", answer, {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert client.ask("POST", "/v1/review", answer, {"Host": "example.org"}).status == 421
    assert client.ask("POST", "/v1/review", answer, {"Content-Type": "text/plain"}).status == 415
    assert client.ask("GET", "/page/..%2Freview_app.py").status == 404
    assert going.judged == {}
    with pytest.raises(ValueError, match="to this machine only"):
        ReviewApp(going, tmp_path / "s", {}.get, str, ServeSettings(host="0.0.0.0", without_keys=True))


def test_a_full_disk_is_reported(served, monkeypatch):
    client, _, _ = served
    client.ask("GET", "/v1/review")
    monkeypatch.setattr(Review, "save", lambda *_: (_ for _ in ()).throw(OutputError("no space left")))
    reply = client.ask("POST", "/v1/review", {"id": "d0", "relevant": True})
    assert (reply.status, reply.json["detail"]) == (507, "no space left")


@pytest.mark.parametrize("viewport", [(360, 740), (1280, 900)], ids=["phone", "desk"])
def test_a_review_works_by_keys_and_by_buttons(visit, served, viewport):
    client, going, _ = served
    page = visit(client.url, viewport)
    page.until(lambda: page.locator("#title").inner_text() == "Wings")
    assert page.locator("#text").inner_text() == MARKUP
    assert page.evaluate("typeof broken") == "undefined"
    assert page.evaluate("document.activeElement.id") == "title"
    assert page.get_by_role("button", name="Back").is_disabled()

    def answer(press, judged):
        press()
        page.until(lambda: going.judged == judged and not page.locator("[aria-busy]").count())

    answer(lambda: page.keyboard.press("y"), {0: True})
    assert page.locator("#title").inner_text() == "d1"
    answer(page.get_by_role("button", name="Not relevant").click, {0: True, 1: False})
    page.keyboard.press("b")
    page.until(lambda: "answered: not relevant" in page.locator("#about").inner_text())
    assert page.locator("#no").get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    answer(lambda: page.keyboard.press("y"), {0: True, 1: True})
    while len(going.judged) < 8:
        number = going.ids.index(page.locator("#title").inner_text())
        answer(lambda: page.keyboard.press("n"), going.judged | {number: False})
    page.until(lambda: "complete: enough was read" in page.locator("#done").inner_text())
    assert page.locator("#yes").is_disabled()
