"""MkDocs hook that builds the reference of the command line from the commands' own help."""

from __future__ import annotations

from typing import Any

import click

from lsr.cli import COMMANDS, cli

_PLACE = "<!-- commands -->"
_WIDTH = 80


def commands() -> str:
    """Return a section for each command, with the output of `lsr COMMAND --help`."""
    parent = click.Context(cli, info_name="lsr", **cli.context_settings)
    sections = []
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(parent, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=parent, terminal_width=_WIDTH) as context:
            sections.append(f"## lsr {name}\n\n{line}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(sections)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the placeholder with the commands."""
    return markdown.replace(_PLACE, commands()) if _PLACE in markdown else markdown
