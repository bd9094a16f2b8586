"""HTML: the text that a browser shows, with headings, but without navigation and forms."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from lsr.files.parsed import Extracted, Parsed, one_line

_DROPPED = {
    *("script", "style", "template", "noscript", "svg", "math", "canvas", "iframe", "object", "audio", "video"),
    *("nav", "form", "button", "select", "dialog", "menu"),
}
_VOID = {
    *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"),
}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "center", "dd", "details", "div", "dl", "dt", "fieldset"),
    *("figcaption", "figure", "footer", "header", "hr", "html", "li", "main", "ol", "p", "pre", "section", "summary"),
    *("table", "tr", "ul", "caption", "h1", "h2", "h3", "h4", "h5", "h6", "thead", "tbody"),
}
_CELLS = {"td", "th"}
_CLOSED = {"a", "article", "aside", "div", "footer", "header", "i", "section", "span"}  # these have end tags
_META = {"description", "author", "keywords", "date"}
_HEADING = re.compile(r"h[1-6]")
_ENDS = {"<!--": "-->", "<![": "]>", "<": ">"}


def read_html(text: str) -> Parsed:
    """Read HTML, even if it isn't well formed."""
    out = Extracted()
    title, metadata = add_html(text, out)
    return out.parsed(title, metadata)


def add_html(text: str, out: Extracted) -> tuple[str, dict[str, Any]]:
    """Add the blocks of a page, and return its title and metadata."""
    page = _Page(out)
    page.feed(_without_open_ends(text))
    page.close()
    page.end_block()
    return page.title, page.metadata


def _without_open_ends(text: str) -> str:
    """Turn openings that are never closed, such as "<!--", into plain text. For each of them, the parser would search
    the whole rest of the page.
    """
    for opening, end in _ENDS.items():
        last = text.rfind(end) + 1
        text = text[:last] + text[last:].replace(opening, f"&lt;{opening[1:]}")
    return text


class _Page(HTMLParser):
    """Collects blocks."""

    def __init__(self, out: Extracted) -> None:
        super().__init__(convert_charrefs=True)
        self.out, self.title, self.metadata = out, "", dict[str, Any]()
        self._dropping: list[str] = []  # open elements whose content is dropped
        self._text: list[str] = []
        self._lines = (0, 0)
        self._in_title, self._pre = False, 0
        self._heading: tuple[int, str] | None = None
        self._ids: list[tuple[str, str]] = []  # open elements and their ids

    # --- what the parser calls ---

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if self._dropping:
            if tag == self._dropping[-1]:
                self._dropping.append(tag)
            return
        hidden = "hidden" in found or found.get("aria-hidden") == "true"
        if tag in _DROPPED or (hidden and tag in _CLOSED):
            self._dropping.append(tag)
            return
        self._about(tag, found)
        if tag == "br":
            self._text.append("\n")
        elif tag in _CELLS:
            self._text.append("\t")
        elif tag in _BLOCKS:
            self.end_block()
        self._pre += tag == "pre"
        if tag == "img" and found.get("alt"):
            self.handle_data(f" {found['alt']} ")
        self._open(tag, found.get("id") or (found.get("name") if tag == "a" else None) or "")

    def _about(self, tag: str, found: dict[str, str | None]) -> None:
        """Record a page's metadata."""
        if tag == "html" and found.get("lang"):
            self.metadata.setdefault("lang", found["lang"])
        elif tag == "link" and found.get("rel") == "canonical" and found.get("href"):
            self.metadata.setdefault("url", found["href"])
        elif tag == "meta" and (name := (found.get("name") or "").lower()) in _META and found.get("content"):
            self.metadata.setdefault(name, one_line(found["content"] or ""))
        elif tag == "title":
            self._in_title = True

    def _open(self, tag: str, anchor: str) -> None:
        """Record an open element with its id."""
        if tag not in _VOID:
            self._ids.append((tag, anchor))
            if len(self._ids) > 10_000:  # never closed
                del self._ids[:5_000]
        if _HEADING.fullmatch(tag):
            self._heading = int(tag[1]), anchor
        elif self._heading and anchor and not self._heading[1]:  # <h2><a id="install">
            self._heading = self._heading[0], anchor

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._dropping:
            if tag == self._dropping[-1]:
                self._dropping.pop()
            return
        if tag == "title":
            self._in_title = False
        elif _HEADING.fullmatch(tag) and self._heading:
            self._end_heading()
        elif tag in _BLOCKS:
            self.end_block()
        if tag == "pre":
            self._pre = max(0, self._pre - 1)
        for number in range(len(self._ids) - 1, max(-1, len(self._ids) - 100), -1):
            if self._ids[number][0] == tag:
                del self._ids[number:]
                break

    def handle_data(self, data: str) -> None:
        if self._dropping:
            return
        if self._in_title:
            self.title += data
            return
        line = self.getpos()[0]
        if data.strip():
            first = line + data[: len(data) - len(data.lstrip())].count("\n")
            last = line + data.rstrip().count("\n")
            self._lines = (self._lines[0] or first, last)
        self._text.append(data if self._pre else re.sub(r"\s+", " ", data))

    # --- blocks ---

    def end_block(self) -> None:
        """Add the collected text as a block."""
        if self._heading:
            return
        text, lines = self._take()
        self.out.add(text, line=lines[0], end_line=lines[1])

    def _end_heading(self) -> None:
        level, anchor = self._heading or (1, "")
        self._heading = None
        text, lines = self._take()
        if not anchor:  # Sphinx puts the anchor on the section, others on a link before the heading
            anchor = next((own for tag, own in reversed(self._ids) if own and tag in ("section", "div", "article")), "")
        text = one_line(text).removesuffix("¶").removesuffix("#").removesuffix("\uf0c1").rstrip()
        self.out.heading(level, text, anchor, line=lines[0], end_line=lines[1])

    def _take(self) -> tuple[str, tuple[int, int]]:
        text, lines = "".join(self._text), self._lines
        self._text, self._lines = [], (0, 0)
        if not self._pre:
            text = "\n".join(re.sub(r" +", " ", line).strip() for line in text.split("\n"))
        return text, lines
