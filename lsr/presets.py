"""Presets: the YAML files of configs/, which are part of the package and can be given by name on the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

Kind = Literal["train", "eval"]
F = TypeVar("F", bound=Callable[..., Any])


def presets(kind: Kind) -> dict[str, Path]:
    """{name: file} of the presets of `lsr train` ("train") or `lsr experiment` ("eval"), sorted by name."""
    found = (Path(str(file)) for file in files("lsr.configs").joinpath(kind).iterdir())
    return {file.stem: file for file in sorted(found, key=lambda file: file.stem) if file.suffix == ".yaml"}


def describe(preset: Path) -> str:
    """A preset's description: the comment at its top, up to a colon or a full stop."""
    lines = takewhile(lambda line: line.strip("# "), preset.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    return re.split(r"[:.](?: |$)", comment)[0]


class ConfigFile(click.ParamType[Path]):
    """A file of settings, or the name of a preset."""

    name = "config"

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Find the file of a value."""
        path = Path(value)
        if path.is_file():
            return path
        known = presets(self._kind)
        if value in known:
            return known[value]
        near = difflib.get_close_matches(path.stem, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        self.fail(f"{value!r} is neither a file nor a preset.{hint} Presets: {', '.join(known)}", param, ctx)


def list_option(kind: Kind) -> Callable[[F], F]:
    """The option --list, which prints the presets and exits."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if not wanted or ctx.resilient_parsing:
            return
        found = presets(kind)
        width = max(map(len, found))
        for name, file in found.items():
            click.echo(f"{name:{width}}  {describe(file)}")
        ctx.exit()

    return click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Print the presets and exit."
    )
