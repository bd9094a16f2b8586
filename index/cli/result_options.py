"""Command-line options of `lsr search` and `lsr similar` for the fields of `lsr.index.search.options.Options`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from lsr.console import Number

_NAMES = (
    "offset",
    "min_score",
    "group_by",
    "per_group",
    "sort",
    "boost",
    "facets",
    "total",
    "diversity",
    "rerank",
    "rerank_unit",
    "depth",
    "passages",
    "fields",
)


rerank_option = click.option("--rerank", metavar="MODEL", help="Re-rank with a CrossEncoder of sentence-transformers.")


def reranker_of(model: str | None) -> dict[str, Any]:
    """Return {"rerank": the re-ranker that --rerank names}, or {} if it isn't given."""
    from lsr.index.search.rerank import CrossEncoderReranker

    return {} if model is None else {"rerank": CrossEncoderReranker(model)}


def result_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; those that aren't given are None, False or empty."""
    for option in reversed(
        [
            click.option("--offset", type=click.IntRange(min=0), help="Number of best documents to skip. [default: 0]"),
            click.option("--min-score", type=Number(min=0), help="Leave out documents that score less."),
            click.option(
                "--group-by", metavar="COLUMN", help="Find K groups of documents, one for each value of the column."
            ),
            click.option("--per-group", type=click.IntRange(min=1), help="Documents per group. [default: 1]"),
            click.option(
                "--sort",
                multiple=True,
                metavar="COLUMN",
                help='Sort by a column; "-year" sorts descending. Repeat for further keys.',
            ),
            click.option(
                "--boost",
                multiple=True,
                metavar="COLUMN=WEIGHT[,HALF_LIFE[,ORIGIN]]",
                help="Multiply scores by 1 + WEIGHT * value; with a half-life, by 1 + WEIGHT * 0.5 ** (distance / "
                "HALF_LIFE), where distance is |value - ORIGIN|. For dates and times, the distance is in days, and "
                "ORIGIN is by default the current time. title=2 counts query words twice if they occur in the title.",
            ),
            click.option(
                "--facet",
                "facets",
                multiple=True,
                metavar="COLUMN",
                help="Count a column's values in all matching documents.",
            ),
            click.option("--total", is_flag=True, help="Count the matching documents."),
            click.option(
                "--diversity",
                type=Number(0, 1),
                help="Prefer documents that differ from those ranked above them. [default: 0]",
            ),
            rerank_option,
            click.option(
                "--rerank-unit",
                metavar="UNIT",
                help="What the re-ranker scores: text, or sentence (a document gets the score of its best sentence). "
                "[default: text]",
            ),
            click.option(
                "--depth", type=click.IntRange(min=1), help="Documents to re-rank or diversify. [default: 100]"
            ),
            click.option(
                "--passages",
                is_flag=True,
                help="Return passages instead of their documents; --group-by _id groups passages by document.",
            ),
            click.option(
                "--fields",
                multiple=True,
                metavar="FIELD",
                help="Field of hits to print: title, text, metadata or one metadata column. Repeat for more.",
            ),
        ]
    ):
        command = option(command)
    return command


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the result options from a command's options, and return the given ones as arguments of `Index.search`.

    Raises:
        UsageError: Invalid values.
    """
    from lsr.index.search.options import Options

    given = {name: value for name in _NAMES if (value := options.pop(name)) not in (None, (), False)}
    if "depth" in given and not {"rerank", "diversity"} & given.keys():
        raise click.UsageError("--depth goes with --rerank or --diversity")
    if "boost" in given:
        given["boost"] = dict(map(_boost, given["boost"]))
    try:
        # Report invalid values before the model is loaded.
        Options(**given | ({"rerank": len} if "rerank" in given else {}))
    except ValueError as error:
        raise click.UsageError(as_options(str(error), _NAMES)) from None
    return given | reranker_of(given.get("rerank"))


def as_options(message: str, names: Iterable[str]) -> str:
    """Replace the names of arguments in a message by the names of options, such as min_score by --min-score."""
    return re.sub(rf"\b({'|'.join(names)})\b", lambda name: "--" + name[0].replace("_", "-"), message)


def _boost(text: str) -> tuple[str, Any]:
    column, equals, values = text.partition("=")
    parts = values.split(",")
    try:
        weight = float(parts[0])
        how: Any = weight if len(parts) == 1 else {"weight": weight, "half_life": float(parts[1])}
        if len(parts) == 3:
            how["origin"] = _number_or_text(parts[2])
    except ValueError:
        equals = ""
    if not equals or not column or len(parts) > 3:
        raise click.UsageError(f"--boost takes COLUMN=WEIGHT[,HALF_LIFE[,ORIGIN]], as in stars=0.1, got {text!r}")
    return column, how


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def tell_facets(hits: Any, *, as_json: bool) -> None:
    """Print the facets of hits, if there are any: a line for each column, or one line of JSON."""
    from lsr.console import emit_json
    from lsr.index.search.hits import facet_rows

    if hits.total is None:
        return
    if as_json:
        emit_json({"total": hits.total, "facets": facet_rows(hits.facets)})
        return
    click.echo(f"\n{hits.total:,} documents match")
    for name, counts in hits.facets.items():
        click.echo(f"{name}: {_listed(counts)}")


def _listed(counts: Mapping[Any, int], most: int = 20) -> str:
    shown = ", ".join(f"{value} {count:,}" for value, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most:,} more" if len(counts) > most else "")
