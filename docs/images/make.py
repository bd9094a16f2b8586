"""Make the pictures of README.md and docs/: the search page on a computer and on a phone, and the terminal.

    python docs/images/make.py

The searched documents are the pages of this documentation, each with its part of the documentation as metadata. The
script needs chromium, playwright, pillow, rich and the extras serve and files.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from lsr import Index
from lsr.files.documents import read_documents
from lsr.index.serve.server import Server
from lsr.index.serve.settings import ServeSettings
from lsr.io.document import Document

HERE = Path(__file__).parent
DESK, PHONE = (1100, 760), (390, 760)
QUERY = "add documents while others search"
# name, size, colour scheme, the search as in the page's address, the element to click
PICTURES: list[tuple[str, tuple[int, int], str, str, str]] = [
    ("page", DESK, "light", f"q={QUERY}", ""),
    ("page-details", DESK, "light", f"q={QUERY}&details=1", ""),
    ("page-phone", PHONE, "light", f"q={QUERY}", ""),
    ("page-filters", PHONE, "dark", f"q={QUERY}", "#filter"),
    ("page-start", PHONE, "light", "", ""),
    ("page-nothing", PHONE, "dark", 'q=weather&mode=sparse&where={"part":["models"]}', ""),
]


def documents() -> Iterator[Document]:
    """Yield the pages of the documentation."""
    for page in read_documents(HERE.parent, url="https://lsr.example/docs/{stem}/"):
        folder = Path(page.id).parent.name or "start"
        if page.id.endswith(".md"):
            yield replace(page, metadata={**(page.metadata or {}), "part": folder})


def pages(index: Index) -> None:
    """Save pictures of the search page."""
    with Server({"docs": index}, ServeSettings(port=0)) as server, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"))
        for name, (width, height), scheme, fragment, clicked in PICTURES:
            how: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
            page = browser.new_page(**how)
            page.goto(f"{server.url}/#{fragment.replace(' ', '+')}")
            _settle(page)
            if clicked:
                page.locator(clicked).click()
                _settle(page)
            _save(name, page.screenshot())
            page.close()
        browser.close()


def _settle(page: Page) -> None:
    """Wait until the page has settled."""
    page.wait_for_timeout(500)
    for _ in range(600):
        if not page.locator("[aria-busy]").count() and all(page.locator(".total").all_text_contents()):
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)


def _save(name: str, picture: bytes) -> None:
    """Save a picture with 128 colours: a page of text looks the same and takes a third of the size."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(HERE / f"{name}.png", optimize=True)


def terminal(index: Index) -> None:
    """Save a picture of the output of `lsr explain`."""
    hit = index.search(QUERY, k=1)[0]
    lines = str(hit.explain()).splitlines()
    console = Console(record=True, width=84, file=io.StringIO())
    console.print(Text(f'$ lsr explain idx "{QUERY}" {hit.passage}', style="bold"))
    for line in lines[:14]:
        style = "green" if " match " in line else "yellow" if " expansion " in line else ""
        console.print(Text(click.unstyle(line)[:84], style=style))
    console.save_svg(str(HERE / "terminal.svg"), title="lsr", code_format=_svg())


def _svg() -> str:
    """Rich's SVG template without its web font, so that nothing is loaded from other servers."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = Index.build(Path(folder) / "idx", documents(), encoder="lsr-mini", hybrid=True)
        pages(made)
        terminal(made)
