"""Makes the pictures of README.md and docs/: the page at two widths, and the terminal.

    python docs/images/make.py INDEX

INDEX is one of the Cranfield collection (`lsr index lsr/data/cranfield --out INDEX`). Needs chromium, playwright, rich.
"""

import io
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import click
from playwright.sync_api import sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from lsr import Index

HERE = Path(__file__).parent
QUERY = "noise of jets near airports"
PORT = 8765


def pages(index):
    """Pictures of the page, at the width of a desk and of a phone."""
    server = subprocess.Popen([sys.executable, "-m", "lsr", "serve", f"cranfield={index}", "--port", str(PORT)])
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        with sync_playwright() as tools:
            browser = tools.chromium.launch(executable_path=shutil.which("chromium"))
            for name, width, height in (("page", 1000, 720), ("page-phone", 390, 760)):
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(f"http://127.0.0.1:{PORT}/#{urlencode({'q': QUERY, 'k': 3})}")
                page.wait_for_selector(".hit .bar i", timeout=120_000)
                page.wait_for_function("!document.querySelector('[aria-busy]')", timeout=120_000)
                page.wait_for_timeout(1000)
                page.screenshot(path=HERE / f"{name}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


def terminal(index):
    """A picture of what `lsr explain` prints."""
    hit = Index.open(index).search(QUERY, k=1)[0]
    lines = str(hit.explain()).splitlines()
    console = Console(record=True, width=84, file=io.StringIO())
    console.print(Text(f'$ lsr explain idx "{QUERY}" {hit.id}', style="bold"))
    for line in lines[:14]:
        style = "green" if " match " in line else "yellow" if " expansion " in line else ""
        console.print(Text(click.unstyle(line)[:84], style=style))
    console.save_svg(str(HERE / "terminal.svg"), title="lsr", code_format=_svg())


def _svg():
    """Rich's form of SVG without its web font: nothing is loaded from elsewhere."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


if __name__ == "__main__":
    pages(sys.argv[1])
    terminal(sys.argv[1])
