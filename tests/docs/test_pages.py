"""Every block of code in README.md and docs/ runs and prints what the page shows.

A page's blocks run top to bottom, in one folder and one Python namespace:

    ```python       runs; its names are visible to later blocks, and top-level `await` works
    ```shell        runs: `lsr ...` in this process, everything else in bash; a server runs until the next `lsr serve`
    ```text         the output of the block above; numbers may differ by 3 %
    ```yaml, json, toml   is parsed; settings of a training run or an experiment are validated, too

A block that can't run here has a comment above it that says why: `<!-- not run: needs a GPU -->`.
With LSR_UPDATE_DOCS=1 in the environment the text blocks are rewritten instead of compared.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+?) -->\n\n?)?^```(?P<language>[\w-]*)(?P<title>[^\n]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LANGUAGES = {"python", "shell", "text", "yaml", "json", "toml", "mermaid", "dockerfile"}
_INCLUDE = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is the line of its opening fence; `why` is the reason not to run the block, or None."""

    language: str
    code: str
    line: int
    span: tuple[int, int]
    why: str | None


def pages() -> list[Path]:
    """All pages whose blocks run."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(
            found["language"],
            found["code"],
            text.count("\n", 0, found.start("language")) + 1,
            found.span("code"),
            found["why"],
        )
        for found in _BLOCK.finditer(text)
    ]


class _Terminal(io.StringIO):
    """A stdout that looks like a terminal, so that commands print tables."""

    def isatty(self) -> bool:
        return True


class Page:
    """Runs one page's blocks.

    Args:
        path: The Markdown file.
        replace: {old: new} text to replace in every block, such as a port.
    """

    def __init__(self, path: Path, replace: dict[str, str] | None = None) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self._replace = replace or {}
        self._names: dict[str, Any] = {"__name__": "page", "__builtins__": builtins}
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.communicate(timeout=60)
            self._server = None

    def run(self) -> None:
        """Run all blocks; raise AssertionError with the page and the line if an output differs."""
        wrong, printed = [], None
        for block in blocks(self.text):
            where = f"{self.path.relative_to(ROOT)}:{block.line}"
            assert block.language in LANGUAGES, f"{where}: the language {block.language!r} is not one of {LANGUAGES}"
            if block.language == "text":
                if printed is not None and not same_output(block.code, printed):
                    wrong.append((block, printed))
                continue
            printed = None
            if block.why is None:
                try:
                    printed = self._run(block)
                except (Exception, SystemExit) as error:
                    raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        if wrong and os.environ.get("LSR_UPDATE_DOCS"):
            self._update(wrong)
            return
        for block, printed in wrong:
            raise AssertionError(
                f"{self.path.relative_to(ROOT)}:{block.line}: the block above prints\n{printed}\n"
                f"and not\n{block.code}\nLSR_UPDATE_DOCS=1 python -m pytest tests/docs rewrites it"
            )

    def _update(self, wrong: list[tuple[Block, str]]) -> None:
        text = self.text
        for block, printed in reversed(wrong):
            begin, end = block.span
            text = text[:begin] + printed.strip("\n") + "\n" + text[end:]
        self.path.write_text(text, encoding="utf-8")

    def _run(self, block: Block) -> str:
        code = _INCLUDE.sub(lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), block.code)
        for old, new in self._replace.items():
            code = code.replace(old, new)
        if block.language == "python":
            return self._python(code, block.line)
        if block.language == "shell":
            return self._shell(code)
        check_data(block.language, code)
        return ""

    def _python(self, code: str, line: int) -> str:
        tree = compile("\n" * line + code, str(self.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            made = FunctionType(tree, self._names)()
            if inspect.iscoroutine(made):
                asyncio.run(made)
        return out.getvalue()

    def _shell(self, code: str) -> str:
        if _needs_bash(code):
            return _bash(code)
        return "".join(self._line(line) for line in code.replace("\\\n", " ").splitlines())

    def _line(self, line: str) -> str:
        if line.startswith("lsr serve "):
            self._serve(shlex.split(line, comments=True))
            return ""
        return _line(line)

    def _serve(self, words: list[str]) -> None:
        self.__exit__()
        port = words[words.index("--port") + 1] if "--port" in words else self._replace.get("8000", "8000")
        words = [sys.executable, "-m", *words, *([] if "--port" in words else ["--port", port])]
        self._server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 180  # the server may have to compile the kernels
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10):
                return
            assert self._server.poll() is None, self._server.stderr.read()  # type: ignore[union-attr]
            assert time.monotonic() < deadline, f"{words}: the server isn't ready after three minutes"
            time.sleep(0.05)


def _needs_bash(code: str) -> bool:
    """Whether the code has variables, pipes, redirections or several commands on a line."""
    words = shlex.shlex(code, posix=True, punctuation_chars=True)
    return "$" in code or "`" in code or any(set(word) <= set("();<>|&") for word in words if word)


def _line(line: str) -> str:
    words = shlex.split(line, comments=True)
    if not words:
        return ""
    if words[0] != "lsr":
        return _bash(line)
    from lsr.cli import main

    with contextlib.redirect_stdout(_Terminal()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(words[1:])
        except SystemExit as ended:
            if ended.code:
                raise AssertionError(f"{line}\n{out.getvalue()}{err.getvalue()}") from None
    return click.unstyle(out.getvalue())


def _bash(code: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def same_output(wanted: str, printed: str) -> bool:
    """Whether words are equal and numbers differ by at most 3 %. Whitespace is ignored; "…" matches any text."""
    if "…" in wanted:
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in wanted.split("…"))
        return re.fullmatch(pattern, " ".join(printed.split()), re.DOTALL) is not None
    if _words(wanted) != _words(printed):
        return False
    pairs = zip(_NUMBER.findall(wanted), _NUMBER.findall(printed), strict=True)
    return all(abs(float(a) - float(b)) <= max(0.03 * abs(float(a)), 0.0011) for a, b in pairs)


def _words(text: str) -> list[str]:
    return re.sub(r"-{3,}", "---", _NUMBER.sub("0", text)).split()


def check_data(language: str, code: str) -> None:
    """Parse a block of YAML, JSON or TOML; also check the settings of a training run or an experiment."""
    if language == "json":
        json.loads(code)
    elif language == "toml":
        tomllib.loads(code)
    elif language == "yaml":
        import yaml

        from lsr.config import read_config
        from lsr.eval import ExperimentSettings
        from lsr.train import TrainSettings

        found = yaml.safe_load(code)
        kind = {"systems": ExperimentSettings, "model": TrainSettings}
        for key, settings in kind.items():
            if key in found:
                Path("block.yaml").write_text(code, encoding="utf-8")
                read_config(Path("block.yaml"), settings)


PAGES = pages()


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.fixture
def port():
    """A free port, which replaces 8000 in the blocks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_blocks_run(path, page_folder, port, request, monkeypatch):
    if "s3://" in path.read_text(encoding="utf-8"):
        from pyarrow.fs import S3FileSystem

        server = request.getfixturevalue("s3_server")
        monkeypatch.setenv("LSR_CACHE", str(page_folder / "cache"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "anybody")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        S3FileSystem(endpoint_override=server, scheme="http", allow_bucket_creation=True).create_dir("bucket")
    with Page(path, {"8000": port}) as page:
        page.run()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_has_a_language_and_no_indentation(path):
    """The parser would miss indented blocks, and wouldn't run blocks without a language."""
    text = path.read_text(encoding="utf-8")
    found = blocks(text)
    fences = re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)
    assert len(fences) == 2 * len(found), "a fence is indented or isn't closed"
    assert {block.language for block in found} <= LANGUAGES
    assert all(_INCLUDE.match(line) for line in text.splitlines() if line.startswith("--8"))
    assert text.count("<!-- not run: ") == sum(block.why is not None for block in found)


def test_the_readme_has_at_most_150_lines_and_no_broken_link():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)#]+)", text) + re.findall(r'src="([^"]+)"', text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize(
    ("wanted", "printed", "same"),
    [
        ("b 1.70 x", "b   1.72\nx", True),
        ("b 1.70 x", "b 1.90 x", False),
        ("b 1.70 x", "c 1.70 x", False),
        ("a … z", "a b c\nz", True),
        ("a … z", "a b c", False),
        ("---- 5", "------ 5", True),
    ],
)
def test_outputs_are_compared_by_words_and_numbers(wanted, printed, same):
    assert same_output(wanted, printed) is same


def test_an_error_names_the_line_of_the_failing_block(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.delenv("LSR_UPDATE_DOCS", raising=False)
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:7: AssertionError"):
        Page(page).run()
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:5: the block above prints\n1"):
        Page(page).run()
    monkeypatch.setenv("LSR_UPDATE_DOCS", "1")
    Page(page).run()
    assert page.read_text() == "```python\nprint(1)\n```\n\n```text\n1\n```\n"
