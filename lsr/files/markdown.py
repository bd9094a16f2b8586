"""Markdown and its front matter."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from lsr.errors import DataError, MissingExtra
from lsr.files.parsed import Lines, Parsed, Slugs

_FENCES = {"---": "yaml", "+++": "toml"}
_LONGEST = 1 << 16  # characters of front matter
_WITHIN = ("list_item_open", "fence", "code_block")  # tokens that begin a block even if nested
_COLON = re.compile(r":\s")  # every mapping in YAML has a colon
_ID = re.compile(r"\s*\{[^}]*#([\w.:-]+)[^}]*\}\s*$")  # a heading's own anchor: ## Install {#install}


def read_markdown(text: str) -> Parsed:
    """Read CommonMark and GitHub's Markdown. The text is kept as it is, except that the front matter is removed.

    Raises:
        MissingExtra: markdown-it-py isn't installed.
        DataError: The front matter is invalid.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise MissingExtra("markdown-it-py", "files", "reading Markdown") from None
    metadata, text, first = front_matter(text)
    title = str(metadata.pop("title", "") or "")
    found, slugs = Lines(text, first), Slugs()
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    for number, token in enumerate(tokens):
        if token.map is None or token.type in ("inline", "list_item_close"):
            continue
        begin, level = token.map[0], token.level
        if token.type == "heading_open" and level == 0:
            heading = _plain(tokens[number + 1].children or ())
            own = _ID.search(heading)
            heading = _ID.sub("", heading)
            found.headings.enter(int(token.tag[1]), heading)
            found.anchor = own[1] if own else slugs.of(heading)
            found.begin(begin)
        elif (level == 0 and not token.type.endswith("list_open")) or token.type in _WITHIN:
            found.begin(begin)
    return found.parsed(title, metadata)


def _plain(tokens: Iterable[Any]) -> str:
    """Return the text of inline tokens of markdown-it, without the marks of links, emphasis, code and HTML."""
    parts = []
    for token in tokens:
        if token.type in ("text", "code_inline"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        else:
            parts.append(_plain(token.children or ()))  # an image's description
    return "".join(parts).strip()


def front_matter(text: str) -> tuple[dict[str, Any], str, int]:
    """Split a text into its front matter, the rest, and the line number at which the rest begins.

    Raises:
        MissingExtra: PyYAML isn't installed.
        DataError: The front matter isn't YAML or TOML.
    """
    mark = text[:3]
    if mark not in _FENCES or not re.match(r"[ \t]*\n", text[3:]):
        return {}, text, 1
    closing = re.compile(rf"^{re.escape(mark)}[ \t]*$" if mark == "+++" else r"^(---|\.\.\.)[ \t]*$", re.MULTILINE)
    end = closing.search(text, 4, _LONGEST)
    if end is None:
        return {}, text, 1
    inside = text[text.index("\n") + 1 : end.start()]
    try:
        values = _toml(inside) if mark == "+++" else _yaml(inside)
    except DataError:
        if mark == "+++" or _COLON.search(inside):
            raise
        values = None
    if not isinstance(values, dict):  # a text between two horizontal rules
        return {}, text, 1
    below = min(end.end() + 1, len(text))
    return {str(key): value for key, value in values.items()}, text[below:], 1 + text.count("\n", 0, below)


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"the front matter isn't TOML: {error}") from None


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingExtra("PyYAML", "files", "reading front matter") from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            """Refuse aliases, because a few lines of aliases can expand to billions of nodes."""
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) aren't read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader)  # Loader is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"the front matter isn't YAML: {' '.join(str(error).split())}") from None
