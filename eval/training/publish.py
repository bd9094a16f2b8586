"""lsr publish: write or push an encoder with a model card, which can have an experiment's figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lsr.encode.base import Encoder
    from lsr.eval.report.results import Results

_SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
_HEADING = "Evaluation"


@click.command()
@click.argument("encoder")
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--push", metavar="ORG/NAME", help="The repository on the Hugging Face hub.")
@click.option("--private", is_flag=True, help="If --push creates the repository, make it private.")
@click.option("--onnx", is_flag=True, help="Write the models as 8-bit graphs for CPUs; only lsr can open them.")
@click.option("--results", metavar="FOLDER[:SYSTEM]", help="An experiment's results, whose figures the card gets.")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it exists.")
def publish(
    encoder: str, out: Path | None, push: str | None, private: bool, onnx: bool, results: str | None, overwrite: bool
) -> None:
    """Write an encoder for others to use, with a model card.

    sentence-transformers can also open masked language models, with the same results. Inference-free models also get
    OpenSearch's idf.json. Encoders by `lsr train` already have this form. --results adds the measures of this encoder
    and of the experiment's baseline to the card. Before --push, log in to the hub with `hf auth login`.

    \b
    Examples:
      lsr publish runs/splade/best --out splade
      lsr publish runs/splade/best --push my-team/splade --private
      lsr publish runs/small/best --onnx --out small-8-bit
      lsr experiment --dataset scifact/ --encoder runs/splade/best --out results
      lsr publish runs/splade/best --results results --out splade
    """
    import shutil
    import tempfile

    from lsr.console import note
    from lsr.durable import replace_folder
    from lsr.encode import portable
    from lsr.encode.load import load_encoder
    from lsr.errors import OutputExists

    if out is None and push is None:
        raise click.UsageError("give --out FOLDER, or --push ORG/NAME")
    if private and push is None:
        raise click.UsageError("--private needs --push")
    if out is not None and out.exists() and not overwrite:
        raise OutputExists(f"{out} exists; --overwrite replaces it")
    opened = load_encoder(encoder)
    if out is not None:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out and out.absolute().parent) as temporary:
        folder, own = Path(temporary) / "encoder", Path(encoder) / portable.CARD
        if onnx:
            from lsr.encode.onnx_export import compress

            compress(opened, folder)
            if own.is_file():  # without the figures: they were measured before rounding
                _append(folder / portable.CARD, _section(own.read_text(encoding="utf-8"), "Training"))
        else:
            opened.save(folder)
            if own.is_file():  # the card by the model's author or by `lsr train`
                shutil.copyfile(own, folder / portable.CARD)
        if results is not None:
            tell_results(folder / portable.CARD, load_encoder(folder), results)
        if push is not None:
            note(f"pushed: {portable.push(folder, push, private)}")
        if out is not None:
            replace_folder(folder, out)
            known = (
                "lsr and sentence-transformers open it" if (out / _SENTENCE_TRANSFORMERS).is_file() else "lsr opens it"
            )
            note(f"{out}: {known}")


def tell_results(card: Path, encoder: Encoder, name: str) -> None:
    """Write the figures that an experiment has for an encoder on its model card. They replace earlier figures.

    Args:
        card: The card.
        encoder: The published encoder.
        name: "FOLDER", the experiment's result folder, or "FOLDER:SYSTEM" if several of its systems have this encoder.

    Raises:
        DataError: There are no results, or none of this encoder.
    """
    from lsr.eval.report.load_results import read_results

    folder, colon, wanted = name.rpartition(":")
    if Path(name).is_dir() or not colon:
        folder, wanted = name, ""
    results = read_results(Path(folder))
    system, seed = _find(results, encoder, wanted, folder)
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    card.write_text(text.replace(_section(text, _HEADING), ""), encoding="utf-8")
    _append(card, "\n".join([f"## {_HEADING}", "", *_figures(results, system, seed), ""]))


def _section(text: str, heading: str) -> str:
    """Return the section of a card with this heading; "" if the card has no such section."""
    found = re.search(rf"^## {heading}\n.*?(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return found[0] if found else ""


def _append(card: Path, section: str) -> None:
    """Append a section to a card."""
    text = card.read_text(encoding="utf-8").rstrip("\n")
    if section:
        card.write_text("\n".join([*([text, ""] if text else []), section.rstrip("\n"), ""]), encoding="utf-8")


def _find(results: Results, encoder: Encoder, wanted: str, folder: str) -> tuple[str, int | None]:
    """Return the name of the system that is this encoder, and its training seed."""
    from lsr.errors import DataError
    from lsr.eval.experiment.systems import encoder_digest

    digest = encoder_digest(encoder, {})
    found: dict[str, int | None] = {}
    for result in results.experiment.results:
        for what, value in (result.checksums or {}).items():
            if what.startswith("encoder") and value == digest:
                seed = what.partition(", seed ")[2]
                found[result.system] = int(seed) if seed else None
    if wanted and wanted not in results.systems:
        raise DataError(f"there is no system {wanted!r}; there are: {', '.join(results.systems)}", folder)
    if not found or (wanted and wanted not in found):
        raise DataError(
            f"{wanted or 'none of the systems'} is{' not' if wanted else ''} this encoder with its own settings; "
            "measure the encoder that you publish: lsr experiment --encoder FOLDER",
            folder,
        )
    if not wanted and len(found) > 1:
        raise DataError(f"several systems are this encoder, name one: {folder}:SYSTEM, {', '.join(found)}", folder)
    system = wanted or next(iter(found))
    return system, found[system]


def _figures(results: Results, system: str, seed: int | None) -> list[str]:
    """Return the lines below the heading: what was done, and a table of the measures, compared with the baseline."""
    from lsr.eval.report.formatting import Cell, difference, escape_markdown, p_value, score, table, to_markdown

    experiment = results.experiment
    baseline = experiment.baseline
    rows = []
    for dataset in experiment.datasets:
        mine, other = results.result(dataset.name, system), results.result(dataset.name, baseline)
        where = f"{dataset.name}, {dataset.split}: {dataset.documents:,} documents, {dataset.queries:,} queries"
        for measure in experiment.measures if mine else ():
            assert mine is not None
            row = [Cell(where), Cell(measure), score(mine.measures.get(measure))]
            if seed is not None and mine.seeds:
                row.insert(2, score(mine.seeds[measure][experiment.seeds.index(seed)]))
            low, high = mine.intervals.get(measure, (None, None))
            row.append(Cell("" if low is None or high is None else f"{low:.3f} to {high:.3f}"))
            if system != baseline:
                test = results.comparison(dataset.name, system, measure)
                row.append(score(other.measures.get(measure) if other else None))
                row += [difference(test.difference), p_value(test.p_corrected)] if test else [Cell(), Cell()]
            rows.append(row)
    columns = ["collection", "measure", "value", "95 % interval"]
    name = Path(system).name if Path(system).is_absolute() else system  # no local paths on a card
    how = f"The system {escape_markdown(name)}, measured by lsr experiment {experiment.lsr} on {experiment.date[:10]}"
    if seed is not None:
        columns[2:3] = [f"seed {seed}", "mean"]
        seeds = ", ".join(map(str, experiment.seeds))
        how += f"; this model was trained with seed {seed}, means and intervals are over the seeds {seeds}"
    if system != baseline:
        columns += [baseline, "difference", "p, corrected"]
    return [f"{how}.", "", *to_markdown(table("Measures", columns, rows)).splitlines()[2:]]
