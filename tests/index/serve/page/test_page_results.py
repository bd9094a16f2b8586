"""The page shows results: texts without markup, snippets, links, groups, sorted hits and dense vectors."""

from __future__ import annotations

import json

import pytest

from lsr import Index
from lsr.encode.passages import Passages

PLAIN = [
    {"_id": "gusts", "title": "Gusts", "text": "The aeroplane shook in strong gusts of wind."},
    {"_id": "flutter", "title": "Flutter", "text": "Flutter broke the swept wing."},
    {"_id": "tunnel", "text": "A wind tunnel blows air at a model."},
    {"_id": "cats", "title": "Cats", "text": "Cats sleep for most of the day."},
]
MARKDOWN = """---
# Uploads { #uploads }

Say **how** to `upload()` a [file](http://example.org/x) or <b>two</b>. Then `wait`.

```python
def upload(file):
    return file
```

- one *item*
- another
"""


def test_markdown_is_shown_without_markup(visit, serving, tmp_path):
    documents = [
        {"_id": "guide.md", "text": MARKDOWN},
        {"_id": "code.py", "text": "import os\n\ndef upload(path):\n    return os.open(path)\n"},
        {"_id": "plain", "text": "2 * 3 * 4 uploads, snake_case_names and <b>tags</b>.\nA second line."},
    ]
    page = visit(serving(Index.build(tmp_path / "idx", documents, encoder="bm25", passages=None)).url)
    page.search("upload")
    shown = dict(zip(page.ids(), page.locator(".hit .text").all_inner_texts(), strict=True))
    assert shown["guide.md"].startswith("Say how to upload() a file or two. Then wait.")
    assert "def upload(path):\n    return os.open(path)" in shown["code.py"]
    assert shown["plain"] == "2 * 3 * 4 uploads, snake_case_names and <b>tags</b>. A second line."
    for button in page.locator(".hit .open").all():
        button.click()
    guide = page.locator(".hit", has=page.get_by_text("another"))
    assert guide.locator(".text .heading").all_inner_texts() == ["Uploads"]
    assert guide.locator(".text pre").inner_text() == "def upload(file):\n    return file"
    assert guide.locator(".text li").all_inner_texts() == ["one item", "another"]
    assert guide.locator(".text strong").inner_text() == "how"
    assert guide.locator(".text code mark").all_inner_texts() == ["upload", "upload"]
    assert page.locator(".text b, .text a").count() == 0


def test_a_passage_may_begin_and_end_within_code(visit, served):
    texts = [
        "a = 1\n```\n\nAfter it.",
        "Before it:\n\n```python\nb = 2",
        "```\nwhole\n```\n\nText.",
        "x\n```\n\ny\n\n```py\nz",
    ]
    page = visit(served)
    found = page.evaluate(
        """async texts => {
          const { blocksOf } = await import("/page/text.js");
          return texts.map(text => blocksOf(text, "markdown").map(({ type, runs }) => [
            type, runs.map(({ start, end }) => text.slice(start, end)).join("")]));
        }""",
        texts,
    )
    assert found == [
        [["code", "a = 1"], ["prose", "After it."]],
        [["prose", "Before it:"], ["code", "b = 2"]],
        [["code", "whole"], ["prose", "Text."]],
        [["code", "x"], ["prose", "y"], ["code", "z"]],
    ]


def test_snippets_are_whole_sentences(visit, serving, tmp_path):
    sentence = "This is a sentence of {} that says nothing of interest to anybody at all, whatever it is about."
    text = " ".join(sentence.format(word) for word in ("one", "two", "zeppelins", "four", "five", "six"))
    long = (
        "It flew; " + "it was a quiet day and nobody saw it come or go, " * 8 + "and the balloon landed near the town."
    )
    documents = [{"_id": "a", "text": text}, {"_id": "b", "text": long}]
    page = visit(serving(Index.build(tmp_path / "idx", documents, encoder="bm25", passages=None)).url)
    page.search("zeppelins")
    assert page.texts(".hit .text") == [" ".join(sentence.format(word) for word in ("zeppelins", "four"))]
    page.search("balloon")
    (shown,) = page.texts(".hit .text")
    assert shown.startswith("… ")
    assert shown.endswith("and the balloon landed near the town.")


def test_hits_link_to_their_source(visit, serving, tmp_path):
    links = {
        "a": (
            {"url": "https://example.org/docs/a.html?x=1", "anchor": "#top"},
            "https://example.org/docs/a.html?x=1#top",
        ),
        "b": ({"url": "docs/b.html#own", "anchor": "#top"}, "{}/docs/b.html#own"),
        "c": ({"source": "http://example.org/c"}, "http://example.org/c"),
        "d": ({"source": "docs/d.md"}, None),
        "e": ({"url": "javascript:alert(1)"}, None),
        "f": ({"url": " java\tscript:alert(1)", "source": "data:text/html,x"}, None),
        "g": ({"url": "file:///etc/passwd", "source": "ftp://example.org"}, None),
        "h": ({"url": "http://[broken", "anchor": 5}, None),
        "i": ({"url": ["https://example.org"]}, None),
    }
    documents = [{"_id": key, "title": f"Title {key}", "text": "cats", **found} for key, (found, _) in links.items()]
    del documents[-1]["url"]
    address = serving(Index.build(tmp_path / "idx", documents, encoder="bm25")).url
    page = visit(address)
    page.search("cats")
    assert sorted(page.ids()) == list(links)
    for key, hit in zip(page.ids(), page.locator(".hit h2").all(), strict=True):
        link = hit.locator("a")
        expected = links[key][1]
        assert (link.evaluate("one => one.href") if link.count() else None) == (expected and expected.format(address))
    first = page.locator(".hit a").first
    assert (first.get_attribute("target"), first.get_attribute("rel")) == ("_blank", "noopener noreferrer")
    places = dict(zip(page.ids(), page.texts(".from"), strict=True))
    assert [places[key] for key in "abcd"] == ["example.org › docs › a.html", "b", "example.org › c", "docs/d.md"]


def test_hits_of_one_source_are_grouped(visit, serving, tmp_path):
    texts = {"one": ["cats cats", "cats and dogs", "a cat"], "two": ["a cat here", "dogs"], "three": ["cats"]}
    documents = [
        {"_id": f"{source}-{n}", "text": text, "source": source}
        for source, some in texts.items()
        for n, text in enumerate(some)
    ]
    page = visit(serving(Index.build(tmp_path / "idx", documents, encoder="bm25")).url)
    page.search("cats")
    groups = [
        (one.get_attribute("class"), one.locator("dd").first.text_content()) for one in page.locator(".hit").all()
    ]
    sources = [source.partition("-")[0] for kind, source in groups if "same" not in kind]
    assert sorted(sources) == ["one", "three", "two"]
    after = [source for i, (kind, source) in enumerate(groups) if "same" in kind]
    assert after
    assert {source.partition("-")[0] for source in after} == {"one"}
    assert page.texts(".total") == ["5 documents"]


def test_hits_can_be_sorted_by_a_column(visit, served):
    page = visit(f"{served}#index=words&q=wind%20wing%20cats")
    page.explained()
    page.get_by_label("Order").select_option("year, low to high")
    page.explained()
    years = [page.texts(f".hit:nth-child({n}) dl dd") for n in (1, 2, 3, 4)]
    assert [next(value for value in row if value.isdigit()) for row in years] == ["1958", "1961", "1961", "2001"]
    assert page.fragment()["sort"] == "year"
    assert page.texts(".total") == ["4 documents, sorted"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return Index.build(tmp_path_factory.mktemp("both") / "idx", PLAIN, encoder="lsr-mini", hybrid=True)


def test_an_index_with_dense_vectors_is_searched_in_auto_mode_by_default(visit, serving, both):
    index = both
    page = visit(serving(index).url)
    sent = []
    page.on("request", lambda request: request.post_data and sent.append(json.loads(request.post_data)))
    page.search("wind")
    assert next(one for one in sent if one.get("explain"))["settings"] == {"mode": "auto"}
    assert page.ids() == [hit.id for hit in index.search("wind", mode="hybrid")]
    assert page.texts(".total") == ["4 documents, best first"]
    page.get_by_label("Search by").select_option("by words")
    page.explained()
    assert {json.dumps(one["settings"]) for one in sent if "k" in one} == {'{"mode": "sparse"}', '{"mode": "auto"}'}
    assert [one for one in sent if one.get("explain")][-1]["settings"] == {"mode": "sparse"}
    assert page.fragment()["mode"] == "sparse"
    assert page.ids() == [hit.id for hit in index.search("wind", mode="sparse")]
    page.search("cats")
    assert page.ids() == ["cats"]
    assert page.texts(".total") == ["1 document"]


def test_unknown_words_find_documents_only_by_meaning(visit, serving, both):
    page = visit(serving(both).url)
    page.get_by_role("searchbox").fill("qwrtzx")
    page.get_by_text("This index knows none of these words.").wait_for()
    assert page.ids() == []
    page.get_by_label("Search by").select_option("by meaning")
    page.get_by_text("These hits are similar in meaning.").wait_for()
    assert len(page.ids()) == 4


@pytest.mark.parametrize(("mode", "scheme"), [("hybrid", "light"), ("dense", "dark")])
def test_details_include_dense_vectors(visit, serving, both, violations, mode, scheme):
    how = {"viewport": (390, 800), "color_scheme": scheme, "bypass_csp": True}
    page = visit(f"{serving(both).url}#q=strong%20wind&mode={mode}&details=1", **how)
    page.explained()
    facts = dict(zip(page.texts(".plan dt"), page.texts(".plan dd"), strict=True))
    assert facts["vectors compared"] == str(len(both))
    assert ("postings scored" in facts) == page.locator(".vector").is_visible() == (mode == "hybrid")
    panel, legend = (page.locator(part).first.bounding_box() for part in (".detail", ".legend"))
    assert legend["y"] + legend["height"] <= panel["y"] + panel["height"]
    page.locator(".hit h2 button").first.click()
    why = both.search("strong wind", mode=mode)[0].explain()
    parts = dict(zip(page.texts(".hit tbody th bdi"), page.texts(".hit tbody td.number"), strict=True))
    assert parts["dense vector"].startswith(f"{why.dense.share:.0%}")
    assert (len(parts) > 1) == (mode == "hybrid")
    assert violations(page) == []


def test_titles_show_shortened_paths_of_headings(visit, serving, tmp_path):
    titles = ["Manual", "Manual > Icing", "Manual > Wings > Ice > Removal"]
    documents = [{"_id": str(i), "title": title, "text": "ice " * (9 - 2 * i)} for i, title in enumerate(titles)]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25", passages=Passages(1))
    page = visit(f"{serving(index).url}#q=ice")
    page.explained()
    assert set(page.texts(".hit h2")) == {"Manual", "Manual › Icing", "Manual › … › Removal"}
